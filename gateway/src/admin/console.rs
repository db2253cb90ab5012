//! The console: a page in the browser, which asks the admin API as any other program does.
//!
//! Gives the page's files, which are within the binary and hold no data; so they are open. Takes the chats of its
//! "Try it", which go through the public routes like everybody's. `docs/console.md` tells of its security.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use tower::ServiceExt;

use crate::app::App;
use crate::routes;
use crate::server::Client;

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// Path, content type and text of each file.
const FILES: [(&str, &str, &str); 19] = [
    ("/console", HTML, include_str!("console/index.html")),
    ("/console/style.css", STYLE, include_str!("console/style.css")),
    ("/console/icon.svg", IMAGE, include_str!("console/icon.svg")),
    ("/console/api.js", SCRIPT, include_str!("console/api.js")),
    ("/console/app.js", SCRIPT, include_str!("console/app.js")),
    ("/console/chat.js", SCRIPT, include_str!("console/chat.js")),
    ("/console/dom.js", SCRIPT, include_str!("console/dom.js")),
    ("/console/format.js", SCRIPT, include_str!("console/format.js")),
    ("/console/keys.js", SCRIPT, include_str!("console/keys.js")),
    ("/console/live.js", SCRIPT, include_str!("console/live.js")),
    ("/console/now.js", SCRIPT, include_str!("console/now.js")),
    ("/console/plot.js", SCRIPT, include_str!("console/plot.js")),
    ("/console/sse.js", SCRIPT, include_str!("console/sse.js")),
    ("/console/table.js", SCRIPT, include_str!("console/table.js")),
    ("/console/tenants.js", SCRIPT, include_str!("console/tenants.js")),
    ("/console/theme.js", SCRIPT, include_str!("console/theme.js")),
    ("/console/try.js", SCRIPT, include_str!("console/try.js")),
    ("/console/upstreams.js", SCRIPT, include_str!("console/upstreams.js")),
    ("/console/usage.js", SCRIPT, include_str!("console/usage.js")),
];

/// What a browser is to keep from whatever finds its way into the page. With trusted types, the page cannot make HTML
/// of text even by mistake.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// The API key of a chat that is tried: `authorization` has the admin key.
const TRY_KEY: &str = "x-try-key";
const TRY_PATH: &str = "/v1/chat/completions";

/// The page and what it loads.
pub(super) fn files() -> Router<Arc<App>> {
    let to_console = || async { (StatusCode::SEE_OTHER, [(header::LOCATION, "/console")]) };
    FILES.into_iter().fold(Router::new().route("/", get(to_console)), |router, (path, content_type, text)| {
        router.route(path, get(move || async move { file(content_type, text) }))
    })
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        // Files of two versions of the gateway would not fit together.
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, text).into_response()
}

/// `POST /v1/console/try`: a chat completion with the API key in `x-try-key`. It passes the public routes, so that
/// limits, queue and ledger count for it as for any other, and the answer is the one of a client.
pub(super) fn try_it(app: Arc<App>) -> MethodRouter<Arc<App>> {
    let public = routes::routes(app);
    post(move |request: Request| {
        let router = public.clone();
        async move { router.oneshot(as_client(request)).await }
    })
}

/// The request as the holder of the API key would send it: nothing else of its headers goes on.
fn as_client(request: Request) -> Request {
    let (head, body) = request.into_parts();
    let mut chat = Request::new(body);
    *chat.method_mut() = head.method;
    *chat.uri_mut() = Uri::from_static(TRY_PATH);
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LENGTH] {
        chat.headers_mut().extend(head.headers.get(&name).map(|value| (name, value.clone())));
    }
    chat.headers_mut().extend(bearer(&head.headers).map(|value| (header::AUTHORIZATION, value)));
    if let Some(client) = head.extensions.get::<Arc<Client>>() {
        chat.extensions_mut().insert(client.clone());
    }
    chat
}

fn bearer(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", headers.get(TRY_KEY)?.as_bytes()].concat()).ok()?;
    value.set_sensitive(true);
    Some(value)
}
