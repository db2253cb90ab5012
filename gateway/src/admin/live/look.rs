//! Takes a [`Snapshot`] of the gateway.
//!
//! Costs no request anything but the moments in which a lock is held, which is never for all requests at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::snapshot::{Bucket, Gateway, Queue, Quota, Running, Snapshot, Tenant, Upstream, Waiting};
use crate::app::App;
use crate::limit::Level;
use crate::queue::Load;
use crate::roster::{Request, Run};
use crate::upstream::{Readiness, ReplicaStatus, State};

/// Requests of each kind, and tenants, that are shown.
const SHOWN: usize = 200;
/// Waiting requests whose place is looked up; those that came after them are in the total only.
const LOOKED_UP: usize = 1000;

/// The gateway now.
pub(super) fn look(app: &App) -> Snapshot {
    let (now, at) = (Instant::now(), app.clock.now());
    let requests: Vec<_> = app.roster.requests().into_iter().map(|request| (request.run(), request)).collect();
    let waiting: Vec<_> = requests.iter().filter(|(run, _)| run.is_none()).map(|(_, request)| request).collect();
    let running = requests.iter().filter_map(|(run, request)| Some((run.as_ref()?, request)));
    Snapshot {
        object: "live".to_owned(),
        at: seconds_since_1970(at),
        gateway: gateway(app),
        upstreams: upstreams(app),
        running_total: requests.len() - waiting.len(),
        running: running.clone().take(SHOWN).map(|(run, request)| runs(run, request, (now, at))).collect(),
        waiting_total: waiting.len(),
        queue: queue(app),
        waiting: in_line(&waiting, now),
        tenants: tenants(app, &requests, at),
    }
}

fn seconds_since_1970(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

fn gateway(app: &App) -> Gateway {
    let readiness = match app.upstream.readiness() {
        Readiness::Ready => "ready",
        Readiness::Loading => "loading",
        Readiness::Wedged => "wedged",
        Readiness::Unreachable => "unreachable",
    };
    Gateway {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: seconds_since_1970(app.started),
        readiness: readiness.to_owned(),
        draining: app.drain.is_started(),
        ledger_healthy: app.ledger.health().healthy,
        open_connections: app.counts.open.load(Ordering::Relaxed),
    }
}

fn upstreams(app: &App) -> Vec<Upstream> {
    let load = app.queue.load();
    let upstream = |replica: ReplicaStatus| {
        let busy = load.iter().find(|load: &&Load| load.replica == replica.id).map_or(0, |load| load.in_flight);
        let facts = replica.facts.as_deref();
        Upstream {
            address: replica.address.to_string(),
            state: replica.state.label().to_owned(),
            problem: replica.problem.as_deref().map(str::to_owned),
            model: facts.map(|facts| facts.model.clone()),
            build: facts.map(|facts| facts.build.clone()),
            context_tokens: facts.map(|facts| facts.n_ctx).filter(|tokens| *tokens > 0),
            slots: facts.filter(|_| replica.state == State::Ready).map_or(0, |facts| facts.total_slots),
            slots_busy: busy,
            foreign_requests: replica.foreign,
            restarts: replica.restarts,
        }
    };
    app.upstream.snapshot().into_iter().map(upstream).collect()
}

/// A request that has its slots.
fn runs(run: &Run, request: &Request, (now, at): (Instant, Timestamp)) -> Running {
    let (about, subject) = (&request.about, &request.about.subject);
    let (count, first_token) = (run.progress.count(), run.progress.first_token_at());
    let since = |earlier: Instant| now.saturating_duration_since(earlier).as_secs_f64();
    // The first token of a sequence marks the time from which the others are counted.
    let decoding = first_token.map(|first| at.duration_since(first).as_secs_f64()).filter(|seconds| *seconds > 0.0);
    let further = count.completion.saturating_sub(u64::from(about.slots)) as f64;
    Running {
        request_id: subject.request_id.to_string(),
        tenant: subject.tenant.to_string(),
        key_id: subject.key_id.to_string(),
        model: subject.model.to_string(),
        surface: subject.surface.label().to_owned(),
        upstream: run.upstream.to_string(),
        slots: about.slots,
        phase: if first_token.is_some() { "decode" } else { "prefill" }.to_owned(),
        prompt_tokens: about.prompt.max(count.prompt),
        cached_tokens: count.cached,
        completion_tokens: count.completion,
        tokens_per_second: decoding.map(|seconds| further / seconds),
        queue_wait_seconds: run.since.saturating_duration_since(about.entered).as_secs_f64(),
        ttft_seconds: first_token.map(|first| first.duration_since(subject.arrived).as_secs_f64()),
        running_seconds: since(run.since),
        age_seconds: since(about.arrived),
    }
}

fn queue(app: &App) -> Queue {
    let forecast = app.queue.forecast();
    let seconds = |wait: Option<Duration>| wait.map(|wait| wait.as_secs_f64());
    Queue {
        expected_wait_seconds: forecast.waits.iter().map(|(class, wait)| (class.to_string(), seconds(*wait))).collect(),
        drain_seconds: seconds(forecast.drain),
    }
}

/// The waiting requests that are first in line.
fn in_line(waiting: &[&Arc<Request>], now: Instant) -> Vec<Waiting> {
    let looked_up = waiting.iter().take(LOOKED_UP).filter_map(|request| {
        let (about, subject) = (&request.about, &request.about.subject);
        // One that does not wait any more will be among those that run, in the next snapshot.
        let outlook = about.view.outlook()?;
        Some(Waiting {
            request_id: subject.request_id.to_string(),
            tenant: subject.tenant.to_string(),
            key_id: subject.key_id.to_string(),
            surface: subject.surface.label().to_owned(),
            class: about.class.to_string(),
            slots: about.slots,
            position: outlook.position,
            prompt_tokens: about.prompt,
            waited_seconds: now.saturating_duration_since(about.entered).as_secs_f64(),
            expected_wait_seconds: outlook.wait.map(|wait| wait.as_secs_f64()),
        })
    });
    let mut line: Vec<_> = looked_up.collect();
    line.sort_by_key(|waiting| waiting.position);
    line.truncate(SHOWN);
    line
}

/// Tenants with requests under way, those with the most first; then those with limits.
fn tenants(app: &App, requests: &[(Option<Run>, Arc<Request>)], at: Timestamp) -> Vec<Tenant> {
    let mut tenants: HashMap<Arc<str>, Tenant> = HashMap::new();
    let known = |tenants: &mut HashMap<Arc<str>, Tenant>, name: &Arc<str>, change: &dyn Fn(&mut Tenant)| {
        change(tenants.entry(name.clone()).or_insert_with(|| nothing_of(name)));
    };
    for (run, request) in requests {
        let about = &request.about;
        known(&mut tenants, &about.subject.tenant, &|tenant| match run {
            Some(_) => (tenant.running, tenant.slots_busy) = (tenant.running + 1, tenant.slots_busy + about.slots),
            None => tenant.waiting += 1,
        });
    }
    for (name, levels) in app.limits.tenants(at) {
        known(&mut tenants, &name, &|tenant| levels.iter().for_each(|level| limit(tenant, level)));
    }
    let mut tenants: Vec<_> = tenants.into_values().collect();
    tenants.sort_by(|a, b| (b.running + b.waiting).cmp(&(a.running + a.waiting)).then_with(|| a.tenant.cmp(&b.tenant)));
    tenants.truncate(SHOWN);
    tenants
}

fn nothing_of(name: &str) -> Tenant {
    let tenant = name.to_owned();
    Tenant { tenant, running: 0, waiting: 0, slots_busy: 0, tokens_per_minute: None, day: None, month: None }
}

fn limit(tenant: &mut Tenant, level: &Level) {
    let quota = Some(Quota { limit: level.limit, used: level.used });
    match level.name {
        "tokens_per_minute" => tenant.tokens_per_minute = Some(Bucket { capacity: level.limit, left: level.remaining }),
        "tokens_per_day" => tenant.day = quota,
        "tokens_per_month" => tenant.month = quota,
        _ => {}
    }
}
