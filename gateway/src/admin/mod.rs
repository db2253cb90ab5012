//! The admin port: health for Kubernetes, metrics for Prometheus, the admin API and the console for operators.
//!
//! Health, metrics and the console's files are open; who may use the rest is decided in `gate`. Errors have the shape of
//! OpenAI's, and every answer has its `x-request-id`.

mod body;
mod console;
mod costs;
mod gate;
mod keys;
pub mod live;
mod pages;
mod scrape;
mod usage;

use std::sync::Arc;

use axum::extract::State;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::{Method, StatusCode};

use crate::app::App;
use crate::error::{Reason, Rejection};

/// The routes of the admin listener.
pub fn routes(app: Arc<App>) -> Router {
    let open = console::files()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape::metrics));
    let guarded = Router::new()
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/{id}", get(keys::get).patch(keys::change))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/keys/{id}/revoke", post(keys::revoke))
        .route("/v1/organization/usage/completions", get(usage::completions))
        .route("/v1/organization/usage/embeddings", get(usage::embeddings))
        .route("/v1/organization/costs", get(costs::costs))
        .route("/v1/live", get(live::once))
        .route("/v1/live/events", get(live::events))
        .route("/v1/console/try", console::try_it(app.clone()))
        .layer(Extension(Arc::new(live::Latest::default())))
        .route_layer(from_fn_with_state(app.clone(), gate::gate));
    open.merge(guarded)
        .fallback(unknown_url)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(gate::name))
        .with_state(app)
}

async fn unknown_url() -> gate::Refused {
    Rejection::new(Reason::UnknownUrl, "The admin port does not serve this path.").into()
}

async fn method_not_allowed(method: Method) -> gate::Refused {
    Rejection::new(Reason::MethodNotAllowed, format!("{method} is not served on this path.")).into()
}

/// Ready: a model is loaded, the ledger records (or need not), and the gateway is not shutting down.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let state = if app.drain.is_started() {
        Err("draining".to_owned())
    } else if !app.ledger.takes_requests() {
        Err("the ledger cannot be written".to_owned())
    } else {
        app.ready().map_err(|rejection| match rejection.operator {
            Some(why) => format!("{}: {why}", rejection.reason.label()),
            None => rejection.reason.label().to_owned(),
        })
    };
    match state {
        Ok(()) => (StatusCode::OK, "ready\n").into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}
