//! `GET /metrics`: what Prometheus reads.
//!
//! Takes what the rooms say of themselves at that moment; gives the text of all metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use jiff::Timestamp;

use crate::app::App;
use crate::metrics::{Metrics, raise};
use crate::server::Tls;
use crate::upstream::State as ReplicaState;
use crate::volume::Space;

/// Answers a scrape.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let space = app.volume.space().await;
    // With thousands of tenants it takes milliseconds, in which streams on this thread would stand still.
    let scraped = tokio::task::spawn_blocking(move || app.metrics.scrape(|metrics| refresh(&app, space, metrics)));
    match scraped.await.map_err(|error| error.to_string()) {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Ok(Err(error)) => failed(&error.to_string()),
        Err(error) => failed(&error),
    }
}

fn failed(error: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

/// Gauges that mirror the state of a room are read when somebody asks.
fn refresh(app: &App, space: Option<Space>, metrics: &Metrics) {
    metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    metrics.start_time_seconds.set(seconds(app.started));
    app.queue.observe();
    replicas(app, metrics);
    app.limits.observe(metrics);
    keys_and_certificate(app, metrics);
    ledger(app, metrics);
    if let Some(Space { size, free }) = space {
        metrics.data_volume_size_bytes.with_label_values::<&str>(&[]).set(bytes(size));
        metrics.data_volume_free_bytes.with_label_values::<&str>(&[]).set(bytes(free));
    }
    metrics.open_connections.set(app.counts.open.load(Ordering::Relaxed) as i64);
    raise(&metrics.framing_refused_total, app.counts.refused.load(Ordering::Relaxed));
    raise(&metrics.slow_readers_total, app.counts.stalled.load(Ordering::Relaxed));
}

fn replicas(app: &App, metrics: &Metrics) {
    let loads = app.queue.load();
    for replica in app.upstream.snapshot() {
        let address = [&*replica.address];
        let ready = replica.state == ReplicaState::Ready;
        for state in ReplicaState::ALL {
            let is = metrics.upstream_state.with_label_values(&[&*replica.address, state.label()]);
            is.set(i64::from(state == replica.state));
        }
        metrics.upstream_foreign_requests.with_label_values(&address).set(i64::from(replica.foreign));
        metrics.upstream_ready.with_label_values(&address).set(i64::from(ready));
        metrics.upstream_restarts_total.with_label_values(&address).inc_by(u64::from(replica.restarts));
        let total = replica.facts.filter(|_| ready).map_or(0, |facts| facts.total_slots);
        metrics.slots_total.with_label_values(&address).set(i64::from(total));
        let load = loads.iter().find(|load| load.replica == replica.id);
        metrics.slots_busy.with_label_values(&address).set(load.map_or(0, |load| i64::from(load.in_flight)));
    }
    raise(&metrics.upstream_lookup_failures_total, app.upstream.failed_lookups());
}

fn keys_and_certificate(app: &App, metrics: &Metrics) {
    metrics.declared_keys_healthy.set(i64::from(app.authenticator.declared_is_healthy()));
    for (expires, caller) in app.authenticator.expiring(app.clock.now()) {
        let labels = [&*caller.tenant, &*caller.key_id];
        metrics.api_key_expiry_timestamp_seconds.with_label_values(&labels).set(seconds(expires));
    }
    if let Some((file, Some(expires))) = app.tls.as_ref().map(Tls::expiry) {
        let file = file.to_string_lossy();
        metrics.tls_certificate_expiry_timestamp_seconds.with_label_values(&[file]).set(expires.as_secs_f64());
    }
}

fn ledger(app: &App, metrics: &Metrics) {
    let health = app.ledger.health();
    metrics.ledger_lag_seconds.set(health.lag.as_secs_f64());
    metrics.ledger_healthy.set(i64::from(health.healthy));
    raise(&metrics.ledger_commits_total, health.commits);
    raise(&metrics.ledger_failures_total, health.failures);
    raise(&metrics.ledger_unrecorded_requests_total, health.unrecorded);
    metrics.ledger_unsettled_entries.set(health.unsettled as i64);
}

/// Since 1970.
fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
