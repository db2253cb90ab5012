//! The route table of the public listener. It is the allow-list of paths: what is not here reaches nothing.
//!
//! Every request passes the gate: it gets its id, and must show a key unless its path is listed as open.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::app::App;
use crate::auth::{self, Caller, Scope, address};
use crate::error::{Dialect, Reason, Rejection, new_request_id};
use crate::handle::{Arrival, handle};
use crate::panics;
use crate::patience::Patience;
use crate::policy::Terms;
use crate::server::Client;
use crate::surface::Surface;
use crate::traces::{Beginning, Step, Trace};
use crate::usage::own::own;

/// Paths that are answered without a key.
const OPEN: [&str; 1] = ["/health"];

/// The routes of the public listener.
pub fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(list_models))
        .route("/v1/models/{*id}", get(one_model))
        .route("/v1/usage", get(own_usage))
        .route("/v1/chat/completions", surface(Surface::Chat))
        .route("/v1/completions", surface(Surface::Completions))
        .route("/v1/responses", surface(Surface::Responses))
        .route("/v1/messages", surface(Surface::Messages))
        .route("/v1/messages/count_tokens", surface(Surface::CountTokens))
        .route("/v1/embeddings", surface(Surface::Embeddings))
        .route("/v1/rerank", surface(Surface::Rerank))
        .route("/tokenize", surface(Surface::Tokenize))
        .route("/detokenize", surface(Surface::Detokenize))
        .route("/apply-template", surface(Surface::ApplyTemplate))
        .fallback(unknown_url)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), gate))
        .with_state(app)
}

/// The `x-request-id` of the answer.
#[derive(Clone)]
struct RequestId(Arc<str>);

fn surface(surface: Surface) -> MethodRouter<Arc<App>> {
    post(move |State(app): State<Arc<App>>, request: Request| async move {
        let (mut head, body) = request.into_parts();
        let arrival = head.extensions.remove::<Arrival>();
        // A head pins the buffer that it was read into; the request may wait for minutes.
        drop(head);
        match arrival {
            Some(arrival) => handle(&app, surface, arrival, body).await,
            None => Rejection::internal().response(surface.dialect(), ""),
        }
    })
}

/// Gives the request its id, has it answered, and names its id in the answer. A fault of the gateway ends here: it
/// becomes a 500.
async fn gate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let request_id = RequestId(new_request_id().into());
    request.extensions_mut().insert(request_id.clone());
    let dialect = Dialect::of_request(request.uri().path(), request.headers());
    let answered = panics::caught(answer(&app, request, next, dialect, &request_id)).await;
    let mut response = answered.unwrap_or_else(|| {
        tracing::error!(request_id = &*request_id.0, "a request is answered with 500 because its handler panicked");
        Rejection::internal().response(dialect, &request_id.0)
    });
    dialect.name_request(&mut response, &request_id.0);
    response
}

/// Refuses a request without a key; to those who are known it tells what they may still use.
async fn answer(
    app: &App,
    request: Request,
    next: Next,
    dialect: Dialect,
    RequestId(request_id): &RequestId,
) -> Response {
    if is_open(&request) {
        return next.run(request).await;
    }
    let (mut head, body) = request.into_parts();
    let mut trace = Trace::default();
    let asking = match Asking::of(app, &head, request_id, &mut trace).await {
        Ok(asking) => asking,
        Err(rejection) => return app.refuse(dialect, request_id, &rejection, &trace),
    };
    let (caller, terms) = (asking.caller.clone(), asking.terms.clone());
    let mut response = match admit(app, &mut head, asking, request_id.clone(), &trace) {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(rejection) => app.refuse(dialect, request_id, &rejection, &trace),
    };
    trace.answered(response.status().as_u16());
    app.limits.tell(&caller, &terms, response.headers_mut());
    response
}

fn is_open(request: &Request) -> bool {
    request.extensions().get::<MatchedPath>().is_some_and(|path| OPEN.contains(&path.as_str()))
}

/// Who has shown a key, on which connection, when, and on which terms.
struct Asking {
    caller: Arc<Caller>,
    client: Arc<Client>,
    terms: Terms,
    at: Instant,
    timestamp: Timestamp,
}

impl Asking {
    /// Once it is known who asks, there is a `trace`: strangers cannot have any recorded.
    async fn of(app: &App, head: &Parts, id: &Arc<str>, trace: &mut Trace) -> Result<Self, Rejection> {
        let (at, timestamp, headers) = (Instant::now(), app.clock.now(), &head.headers);
        let client = head.extensions.get::<Arc<Client>>().cloned().ok_or_else(Rejection::internal)?;
        let caller = auth::caller(&app.authenticator, &app.tokens, headers, timestamp).await?;
        *trace = app.traces.begin(
            headers,
            &Beginning {
                method: &head.method,
                route: head.extensions.get::<MatchedPath>().map(MatchedPath::as_str),
                request_id: id,
                tenant: &caller.tenant,
                key_id: &caller.key_id,
                at,
                timestamp,
            },
        );
        trace.step_from_arrival(Step::Auth);
        address::check(&caller, client.peer(), headers, &app.config.server.trusted_proxies)?;
        let terms = app.policies.of(&caller)?;
        Ok(Self { caller, client, terms, at, timestamp })
    }
}

/// Decides whether a request of a known caller may go on, and leaves what the handlers need in its extensions.
fn admit(app: &App, head: &mut Parts, asking: Asking, request_id: Arc<str>, trace: &Trace) -> Result<(), Rejection> {
    if app.drain.is_started() {
        return Err(Rejection::draining());
    }
    refuse_encoding(&head.headers)?;
    let patience = Patience::of(&head.headers);
    let Asking { caller, client, terms, at, timestamp } = asking;
    let trace = trace.clone();
    head.extensions.insert(Arrival { caller, terms, patience, request_id, client, at, timestamp, trace });
    Ok(())
}

fn refuse_encoding(headers: &HeaderMap) -> Result<(), Rejection> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            Err(Rejection::new(Reason::UnsupportedEncoding, "Compressed request bodies are not read."))
        }
        _ => Ok(()),
    }
}

/// For clients and load balancers: whether requests can be answered.
async fn health(State(app): State<Arc<App>>) -> Response {
    match app.ready() {
        Ok(()) if !app.drain.is_started() => {
            (StatusCode::OK, axum::Json(serde_json::json!({"status": "ok"}))).into_response()
        }
        _ => {
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(serde_json::json!({"status": "unavailable"}))).into_response()
        }
    }
}

async fn list_models(State(app): State<Arc<App>>, request: Request) -> Response {
    match scope_of(&request) {
        Ok(scope) => axum::Json(app.models(scope)).into_response(),
        Err(rejection) => refuse(&app, &request, Dialect::OpenAi, &rejection),
    }
}

async fn one_model(State(app): State<Arc<App>>, id: Result<Path<String>, PathRejection>, request: Request) -> Response {
    // A name that is not UTF-8 once its escapes are read is no model's name.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let found = scope_of(&request)
        .and_then(|scope| app.one_model(&id).filter(|_| app.may_use(scope, &id)).ok_or_else(|| app.no_such_model(&id)));
    match found {
        Ok(model) => axum::Json(model).into_response(),
        Err(rejection) => refuse(&app, &request, Dialect::OpenAi, &rejection),
    }
}

async fn own_usage(State(app): State<Arc<App>>, request: Request) -> Response {
    let own = match request.extensions().get::<Arrival>() {
        Some(arrival) => own(&app, arrival, request.uri()).await,
        None => Err(Rejection::new(Reason::Internal, "The gateway is at fault.")),
    };
    let dialect = Dialect::of_request(request.uri().path(), request.headers());
    own.map_or_else(|rejection| refuse(&app, &request, dialect, &rejection), |own| axum::Json(own).into_response())
}

async fn unknown_url(State(app): State<Arc<App>>, request: Request) -> Response {
    let rejection = Rejection::new(Reason::UnknownUrl, "This path is not served.");
    refuse(&app, &request, Dialect::of_path(request.uri().path()), &rejection)
}

async fn method_not_allowed(State(app): State<Arc<App>>, request: Request) -> Response {
    let rejection = Rejection::new(Reason::MethodNotAllowed, "This path is not served by this method.");
    refuse(&app, &request, Dialect::of_request(request.uri().path(), request.headers()), &rejection)
}

/// What the caller of a request may use. Every request that has passed the gate has one.
fn scope_of(request: &Request<Body>) -> Result<&Scope, Rejection> {
    request.extensions().get::<Arrival>().map(|arrival| &*arrival.caller.scope).ok_or_else(Rejection::internal)
}

/// Answers a request that has passed the gate with its refusal.
fn refuse(app: &App, request: &Request<Body>, dialect: Dialect, rejection: &Rejection) -> Response {
    let id = request.extensions().get::<RequestId>().map_or("", |id| &id.0);
    let trace = request.extensions().get::<Arrival>().map(|arrival| arrival.trace.clone()).unwrap_or_default();
    app.refuse(dialect, id, rejection, &trace)
}
