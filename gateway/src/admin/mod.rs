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
mod usage;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::{Method, StatusCode, header};

use crate::app::App;
use crate::error::{Reason, Rejection};
use crate::metrics::{Metrics, raise};
use crate::upstream::State as ReplicaState;

/// The routes of the admin listener.
pub fn routes(app: Arc<App>) -> Router {
    let open = console::files()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
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

async fn metrics(State(app): State<Arc<App>>) -> Response {
    match app.metrics.scrape(|metrics| refresh(&app, metrics)) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Gauges that mirror the state of a room are read when somebody asks.
fn refresh(app: &App, metrics: &Metrics) {
    app.queue.observe();
    for replica in app.upstream.snapshot() {
        let ready = replica.state == ReplicaState::Ready;
        for state in ReplicaState::ALL {
            let is = metrics.upstream_state.with_label_values(&[&*replica.address, state.label()]);
            is.set(i64::from(state == replica.state));
        }
        metrics.upstream_foreign_requests.with_label_values(&[&*replica.address]).set(i64::from(replica.foreign));
        metrics.upstream_ready.with_label_values(&[&*replica.address]).set(i64::from(ready));
        let total = replica.facts.filter(|_| ready).map_or(0, |facts| facts.total_slots);
        metrics.slots_total.with_label_values(&[&*replica.address]).set(i64::from(total));
        let load = app.queue.load().into_iter().find(|load| load.replica == replica.id);
        let busy = load.map_or(0, |load| load.in_flight);
        metrics.slots_busy.with_label_values(&[&*replica.address]).set(i64::from(busy));
    }
    app.limits.observe(metrics);
    raise(&metrics.upstream_lookup_failures_total, app.upstream.failed_lookups());
    metrics.declared_keys_healthy.set(i64::from(app.authenticator.declared_is_healthy()));
    let health = app.ledger.health();
    metrics.ledger_lag_seconds.set(health.lag.as_secs_f64());
    metrics.ledger_healthy.set(i64::from(health.healthy));
    metrics.open_connections.set(app.counts.open.load(Ordering::Relaxed) as i64);
    raise(&metrics.ledger_commits_total, health.commits);
    raise(&metrics.ledger_failures_total, health.failures);
    raise(&metrics.ledger_unrecorded_requests_total, health.unrecorded);
    metrics.ledger_unsettled_entries.set(health.unsettled as i64);
    raise(&metrics.framing_refused_total, app.counts.refused.load(Ordering::Relaxed));
    raise(&metrics.slow_readers_total, app.counts.stalled.load(Ordering::Relaxed));
}
