//! What Prometheus sees. Each metric's doc comment is its help text.
//!
//! Labels come only from fixed or configured sets: surfaces, endings, reasons, replicas, tenants that have a key or are
//! named by the token of a configured issuer, models that are served, the keys that expire next. Nothing that a client sends becomes a label.

#[cfg(test)]
mod document;

use std::ops::Sub;
use std::sync::{Mutex, PoisonError};

use prometheus::core::{Atomic, GenericCounter, MetricVec};
use prometheus::{
    Counter, CounterVec, Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// A large model on one T4 prefills for minutes: first tokens are told apart up to half an hour.
const FIRST_TOKEN_BUCKETS: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0];
/// From 1,000 tokens a second to one token in half a minute.
const GAP_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Waiting starts at nothing and ends at the queue deadline.
const WAIT_BUCKETS: &[f64] = &[0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0];
/// Counting a prompt takes llama-server about a millisecond, and with a body of megabytes seconds.
const COUNT_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Predictions are right within a factor of two, mostly.
const RATIO_BUCKETS: &[f64] = &[0.1, 0.25, 0.5, 0.75, 1.0, 1.33, 2.0, 4.0, 10.0];
/// Whole requests, up to the 30 minutes that a long answer of a slow model takes.
const DURATION_BUCKETS: &[f64] =
    &[0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0];

macro_rules! metrics {
    ($( $(#[doc = $help:literal])+ $name:ident: $type:ty = $build:expr; )+) => {
        /// All metrics of the gateway.
        pub struct Metrics {
            registry: Registry,
            scraping: Mutex<()>,
            $( $(#[doc = $help])+ pub $name: $type, )+
        }

        impl Metrics {
            /// Registers every metric under the prefix `llama_gateway_`.
            ///
            /// # Errors
            /// None in practice: only if two metrics had one name.
            pub fn new() -> Result<Self, Error> {
                let registry = Registry::new_custom(Some("llama_gateway".to_owned()), None)?;
                $(
                    let build: fn(Opts) -> Result<$type, Error> = $build;
                    let $name = build(Opts::new(stringify!($name), concat!($($help),+).trim()))?;
                    registry.register(Box::new($name.clone()))?;
                )+
                Ok(Self { registry, scraping: Mutex::new(()), $($name),+ })
            }

            /// What each metric says of itself, and its type.
            #[cfg(test)]
            fn described(&self) -> Vec<(prometheus::core::Desc, &'static str)> {
                use prometheus::core::Collector;
                vec![$( (self.$name.desc()[0].clone(), stringify!($type)) ),+]
            }
        }
    };
}

metrics! {
    /// Always 1: tells by its label which version runs.
    build_info: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["version"]);
    /// When the gateway was started, in seconds since 1970.
    start_time_seconds: Gauge = |opts| Gauge::with_opts(opts);
    /// Requests that are over, by API surface and by how they ended; not those that had no valid key.
    requests_total: IntCounterVec = |opts| IntCounterVec::new(opts, &["surface", "ending"]);
    /// Requests that were refused or failed, by reason, those without a surface included.
    refused_total: IntCounterVec = |opts| IntCounterVec::new(opts, &["reason"]);
    /// Tokens by tenant, model and kind: prompt (cached ones included), cached, completion (thoughts included), reasoning.
    tokens_total: IntCounterVec = |opts| IntCounterVec::new(opts, &["tenant", "model", "kind"]);
    /// Time that requests held slots, in seconds, by tenant, model and phase: prefill (to the first token), decode. A
    /// request with two slots counts twice.
    slot_seconds_total: CounterVec = |opts| CounterVec::new(opts, &["tenant", "model", "phase"]);
    /// Tokens that were refused, by issuer (empty: none that is configured) and reason.
    tokens_refused_total: IntCounterVec = |opts| IntCounterVec::new(opts, &["issuer", "reason"]);
    /// Fetches of an issuer's keys, by what came of them: ok, unreachable, timeout, status, too_long, malformed, file.
    token_key_fetches_total: IntCounterVec = |opts| IntCounterVec::new(opts, &["issuer", "outcome"]);
    /// When the keys of the issuer were fetched last, in seconds since 1970: their age is the time since then.
    token_keys_fetched_timestamp_seconds: GaugeVec = |opts| GaugeVec::new(opts, &["issuer"]);
    /// Requests that a limit of the tenant or of one of its keys refused, by limit.
    limit_refusals_total: IntCounterVec = |opts| IntCounterVec::new(opts, &["tenant", "limit"]);
    /// Tokens a minute of the tenant: the highest level of its bucket.
    token_bucket_capacity: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["tenant"]);
    /// Tokens that the tenant may use now: capacity + refilled - settled - open reservations. Below zero: a debt.
    token_bucket_level: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["tenant"]);
    /// Tokens that time has put into the tenant's bucket, less what it had put in for unused reservations.
    token_bucket_refilled: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["tenant"]);
    /// Tokens that the tenant's requests took out of the bucket for good.
    token_bucket_settled: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["tenant"]);
    /// Tokens that the tenant's running requests hold.
    token_reservations_open: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["tenant"]);
    /// Tokens settled in the tenant's bucket since the start, less those of its accounts (tokens_total). Anything but
    /// zero that stays is a fault of the gateway.
    token_bucket_drift: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["tenant"]);
    /// Tokens of the tenant's settled requests that arrived in this day or month (UTC), where it has a quota.
    quota_used_tokens: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["tenant", "period"]);
    /// Tokens that the tenant may use in this day or month (UTC), where it has a quota.
    quota_limit_tokens: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["tenant", "period"]);
    /// Prompts whose tokens were counted before admission, by how: exact (llama-server was asked), cached (it had been
    /// asked before), estimate (from the size, because it could not be asked or did not answer in time).
    prompt_counts_total: IntCounterVec = |opts| IntCounterVec::new(opts, &["by"]);
    /// Time that counting the tokens of a prompt took where the count was not cached, in seconds.
    prompt_count_seconds: Histogram =
        |opts| Histogram::with_opts(HistogramOpts::from(opts).buckets(COUNT_BUCKETS.into()));
    /// Requests that wait for a slot now, by tenant and class.
    queue_depth: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["tenant", "class"]);
    /// Time from entering the queue to getting a slot or giving up, in seconds, by tenant and class.
    queue_wait_seconds: HistogramVec =
        |opts| HistogramVec::new(HistogramOpts::from(opts).buckets(WAIT_BUCKETS.into()), &["tenant", "class"]);
    /// Requests that asked for a slot, by tenant, class and what came of it: dispatched, full, too_long, too_wide,
    /// expired, left.
    queue_tickets_total: IntCounterVec = |opts| IntCounterVec::new(opts, &["tenant", "class", "outcome"]);
    /// Work of the requests that wait, in units of cost; divided by service_rate, the seconds that it will take. Not of
    /// requests that need more slots than any ready replica has.
    queue_backlog: Gauge = |opts| Gauge::with_opts(opts);
    /// How long a request of a tenant with nothing waiting would probably wait if it came now, in seconds, by class. No
    /// series while nothing is known of how fast replicas work, or none is ready.
    queue_expected_wait_seconds: GaugeVec = |opts| GaugeVec::new(opts, &["class"]);
    /// How long a dispatched request waited, divided by what was predicted when it entered the queue.
    queue_wait_ratio: Histogram = |opts| Histogram::with_opts(HistogramOpts::from(opts).buckets(RATIO_BUCKETS.into()));
    /// Work that was done for each tenant, in units of cost: one prompt token that is not cached is one unit.
    service_total: CounterVec = |opts| CounterVec::new(opts, &["tenant"]);
    /// Largest distance in virtual time between two tenants of a class who have something to run, in units of cost by
    /// weight.
    virtual_time_spread: Gauge = |opts| Gauge::with_opts(opts);
    /// Jain's index of what waiting tenants got over what was due to them in the last 5 minutes: 1 is fair.
    fairness_jain_index: Gauge = |opts| Gauge::with_opts(opts);
    /// Time during which a slot was free although a request could have run there, in seconds: must stay 0.
    slots_idle_with_backlog_seconds_total: Counter = |opts| Counter::with_opts(opts);
    /// Work that all slots together do in a second while they are busy, in units of cost; 0: not known yet.
    service_rate: Gauge = |opts| Gauge::with_opts(opts);
    /// What an output token costs, in prompt tokens, by llama-server's timings.
    output_token_cost: Gauge = |opts| Gauge::with_opts(opts);
    /// Slots that the tenant's requests hold now, of all replicas; 0 for one that held some before.
    tenant_slots_busy: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["tenant"]);
    /// Slots in use by this gateway, by replica.
    slots_busy: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["upstream"]);
    /// Slots that the replica announced, 0 while it is not ready.
    slots_total: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["upstream"]);
    /// Whether the replica answers and has its model loaded: 1 or 0.
    upstream_ready: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["upstream"]);
    /// The state of the replica: 1 for one of ready, loading, down, wedged and leaving, 0 for the others.
    upstream_state: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["upstream", "state"]);
    /// Requests that the replica works on, or keeps waiting, and that did not come through this gateway.
    upstream_foreign_requests: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["upstream"]);
    /// How often the replica was started anew since it was first ready.
    upstream_restarts_total: IntCounterVec = |opts| IntCounterVec::new(opts, &["upstream"]);
    /// Look-ups of dns:// names that gave no address.
    upstream_lookup_failures_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Time to first token (TTFT) as the client sees it: from the request's arrival, in seconds.
    time_to_first_token_seconds: HistogramVec =
        |opts| HistogramVec::new(HistogramOpts::from(opts).buckets(FIRST_TOKEN_BUCKETS.into()), &["surface"]);
    /// Inter-token latency: the gap between two reads that held output, in seconds.
    inter_token_latency_seconds: Histogram =
        |opts| Histogram::with_opts(HistogramOpts::from(opts).buckets(GAP_BUCKETS.into()));
    /// Duration of whole requests from arrival to end, in seconds.
    request_duration_seconds: HistogramVec =
        |opts| HistogramVec::new(HistogramOpts::from(opts).buckets(DURATION_BUCKETS.into()), &["surface"]);
    /// Bytes of streamed replies that were handed to clients.
    stream_bytes_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Events of llama-server that the meter could not read and passed on as they were.
    stream_unreadable_events_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Requests that were refused because two readers could have read their framing in two ways.
    framing_refused_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Connections and HTTP/2 streams that were cut off because the client did not read.
    slow_readers_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Whether the file of declared keys could be used when it was looked at last: 1 or 0. Without such a file: 1.
    declared_keys_healthy: IntGauge = |opts| IntGauge::with_opts(opts);
    /// When an API key expires, in seconds since 1970: of keys that are not revoked and expire within 30 days, or have
    /// expired within one. At most 1,000 keys: those whose time is the next, then those whose time was the last.
    api_key_expiry_timestamp_seconds: GaugeVec = |opts| GaugeVec::new(opts, &["tenant", "key_id"]);
    /// When the certificate that clients are shown expires, in seconds since 1970, by its file. No series without TLS.
    tls_certificate_expiry_timestamp_seconds: GaugeVec = |opts| GaugeVec::new(opts, &["file"]);
    /// Size of the file system that holds the data directory. No series while it does not answer.
    data_volume_size_bytes: IntGaugeVec = |opts| IntGaugeVec::new(opts, &[]);
    /// What is free of it for who is not root. No series while it does not answer.
    data_volume_free_bytes: IntGaugeVec = |opts| IntGaugeVec::new(opts, &[]);
    /// Faults of the gateway (panics) that each ended a request or a task; the log says where they are.
    panics_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Open client connections on the public listener.
    open_connections: IntGauge = |opts| IntGauge::with_opts(opts);
    /// Age of the oldest ledger message that is not yet durable, in seconds.
    ledger_lag_seconds: Gauge = |opts| Gauge::with_opts(opts);
    /// Ledger transactions that were committed, each for all requests that waited for one.
    ledger_commits_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Ledger transactions that failed.
    ledger_failures_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Settled entries and corrections that wait to be exported.
    export_pending: IntGauge = |opts| IntGauge::with_opts(opts);
    /// Age of the oldest of them, in seconds; 0: there is none.
    export_oldest_seconds: Gauge = |opts| Gauge::with_opts(opts);
    /// Events that were exported, those included that had to be exported again.
    export_delivered_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Exports of a batch that failed, by kind: file, token, unreachable, refused (by a status that will not pass by
    /// itself), busy (by one that will), ledger; and entries that were gone before they could be exported: lost.
    export_failures_total: IntCounterVec = |opts| IntCounterVec::new(opts, &["kind"]);
    /// Spans that the collector of traces has taken.
    traces_exported_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Spans that were lost: there were more than could be exported in time, or the collector did not take them.
    traces_export_failures_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Tokens that the replica has counted in the last 24 hours less those that the ledger has, by kind: computed (prompt
    /// tokens that were not cached), cached, generated.
    accounting_drift_tokens: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["upstream", "kind"]);
    /// The same as a part of what the replica has counted.
    accounting_drift_ratio: GaugeVec = |opts| GaugeVec::new(opts, &["upstream", "kind"]);
    /// Tokens that the replica has counted in the last 24 hours and that were compared.
    accounting_audited_tokens: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["upstream", "kind"]);
    /// Whether the drift of the replica is no larger than what is known to be inexact: 1 or 0.
    accounting_agrees: IntGaugeVec = |opts| IntGaugeVec::new(opts, &["upstream"]);
    /// Requests that were let begin although the ledger could not record it (ledger.on_failure = "serve").
    ledger_unrecorded_requests_total: IntCounter = |opts| IntCounter::with_opts(opts);
    /// Entries that are over and kept in memory because the ledger cannot be written.
    ledger_unsettled_entries: IntGauge = |opts| IntGauge::with_opts(opts);
    /// Whether the last ledger transaction succeeded: 1 or 0. At 0, new requests are refused, or as configured.
    ledger_healthy: IntGauge = |opts| IntGauge::with_opts(opts);
}

impl Metrics {
    /// Lets `refresh` set what mirrors the state of other rooms, then renders, one scrape after the other. The series of
    /// what may go begin empty each time, so that none stays of a replica that is forgotten or a key that was revoked.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn scrape(&self, refresh: impl FnOnce(&Self)) -> Result<String, Error> {
        let _alone = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget();
        refresh(self);
        self.render()
    }

    fn forget(&self) {
        let of_replicas = [
            &self.slots_busy,
            &self.slots_total,
            &self.upstream_ready,
            &self.upstream_state,
            &self.upstream_foreign_requests,
        ];
        of_replicas.into_iter().for_each(MetricVec::reset);
        self.upstream_restarts_total.reset();
        self.queue_expected_wait_seconds.reset();
        self.api_key_expiry_timestamp_seconds.reset();
        self.tls_certificate_expiry_timestamp_seconds.reset();
        [&self.data_volume_size_bytes, &self.data_volume_free_bytes].into_iter().for_each(MetricVec::reset);
    }

    fn render(&self) -> Result<String, Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Brings a counter up to what a room has counted by itself. To be called within a [`Metrics::scrape`] only: two at once
/// would both add the difference.
pub fn raise<A: Atomic>(counter: &GenericCounter<A>, counted: A::T)
where
    A::T: PartialOrd + Sub<Output = A::T>,
{
    let shown = counter.get();
    if counted > shown {
        counter.inc_by(counted - shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_leaves_no_series() {
        let metrics = Metrics::new().unwrap();
        let shown = |refresh: fn(&Metrics)| {
            let text = metrics.scrape(refresh).unwrap();
            text.lines()
                .filter(|line| line.contains("{") && !line.contains("{le="))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let all = shown(|metrics| {
            metrics.upstream_state.with_label_values(&["r:1", "ready"]).set(1);
            metrics.upstream_restarts_total.with_label_values(&["r:1"]).inc_by(2);
            metrics.queue_expected_wait_seconds.with_label_values(&["batch"]).set(1.0);
            metrics.api_key_expiry_timestamp_seconds.with_label_values(&["acme", "k"]).set(1e9);
            metrics.tls_certificate_expiry_timestamp_seconds.with_label_values(&["f"]).set(1e9);
            metrics.data_volume_free_bytes.with_label_values::<&str>(&[]).set(1);
        });
        assert_eq!(all.len(), 5, "{all:?}");
        assert_eq!(shown(|_| ()), [""; 0]);
        assert!(!metrics.render().unwrap().contains("data_volume_free_bytes"));
    }

    #[test]
    fn doc_comments_are_the_help_texts() {
        let metrics = Metrics::new().unwrap();
        metrics.open_connections.set(3);
        let text = metrics.render().unwrap();
        assert!(
            text.contains("# HELP llama_gateway_open_connections Open client connections on the public listener."),
            "{text}"
        );
        assert!(text.contains("llama_gateway_open_connections 3"), "{text}");
    }
}
