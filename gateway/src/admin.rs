//! The admin port: health for Kubernetes and metrics for Prometheus.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

use crate::app::App;
use crate::upstream::State as ReplicaState;

/// The routes of the admin listener.
pub fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app)
}

/// Ready: a model is loaded, the ledger records, and the gateway is not shutting down.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let state = if app.drain.is_started() {
        Err("draining".to_owned())
    } else if !app.ledger.health().healthy {
        Err("the ledger cannot be written".to_owned())
    } else {
        app.ready().map_err(|rejection| rejection.reason.label().to_owned())
    };
    match state {
        Ok(()) => (StatusCode::OK, "ready\n").into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    refresh(&app);
    match app.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Gauges that mirror the state of a room are read when somebody asks.
fn refresh(app: &App) {
    let metrics = &app.metrics;
    app.queue.observe();
    for replica in app.upstream.snapshot() {
        let ready = replica.state == ReplicaState::Ready;
        metrics.upstream_ready.with_label_values(&[&*replica.address]).set(i64::from(ready));
        let total = replica.facts.filter(|_| ready).map_or(0, |facts| facts.total_slots);
        metrics.slots_total.with_label_values(&[&*replica.address]).set(i64::from(total));
        let load = app.queue.load().into_iter().find(|load| load.replica == replica.id);
        let busy = load.map_or(0, |load| load.in_flight);
        metrics.slots_busy.with_label_values(&[&*replica.address]).set(i64::from(busy));
    }
    app.limits.observe(metrics);
    let health = app.ledger.health();
    metrics.ledger_lag_seconds.set(health.lag.as_secs_f64());
    metrics.ledger_healthy.set(i64::from(health.healthy));
    metrics.open_connections.set(app.counts.open.load(Ordering::Relaxed) as i64);
    metrics.raise(&metrics.ledger_failures_total, health.failures);
    metrics.raise(&metrics.framing_refused_total, app.counts.refused.load(Ordering::Relaxed));
    metrics.raise(&metrics.slow_readers_total, app.counts.stalled.load(Ordering::Relaxed));
}
