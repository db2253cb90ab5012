//! Gathers the records of finished requests, and brings them to the collector.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Outbox;
use super::collector::{Collector, Failure};
use super::protobuf::{self, PartialSuccess, Resource};
use super::record::Record;
use super::spans;

/// Requests in one batch at most: of some 2 KB each.
const BATCH: usize = 256;
/// How long the first request of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How often a batch is sent before it is given up. Those behind it wait meanwhile, and new ones find no place at last.
const MAX_TRIES: u32 = 5;
/// Time for what is left when the gateway stops.
const LAST_ATTEMPT: Duration = Duration::from_secs(5);

/// Encoded traces on their way.
struct Batch {
    body: Bytes,
    spans: u64,
    tries: u32,
}

/// Failures in a row.
struct Outage {
    since: Instant,
    failures: u32,
    /// What was told of it last.
    label: &'static str,
}

/// Brings traces to the collector.
pub struct Exporter {
    collector: Collector,
    resource: Resource,
    receiver: mpsc::Receiver<Record>,
    outbox: Arc<Outbox>,
    gathered: Vec<Record>,
    /// The batch that is on its way: kept here, so that one that was interrupted by the end is tried once more.
    batch: Option<Batch>,
    outage: Option<Outage>,
    /// Whether the log says that spans find no place.
    full: bool,
}

impl Exporter {
    pub(super) fn new(collector: Collector, receiver: mpsc::Receiver<Record>, outbox: &Arc<Outbox>) -> Self {
        // Tells the gateways of one name apart.
        let instance = uuid::Uuid::now_v7().to_string();
        let resource = protobuf::resource(&collector.service_name, &instance);
        let outbox = Arc::clone(outbox);
        Self { collector, resource, receiver, outbox, gathered: Vec::new(), batch: None, outage: None, full: false }
    }

    /// Exports until `stop` is cancelled, and then, for a few seconds at most, what is left. To be ended after the last
    /// request.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.export() => {}
            () = stop.cancelled() => {}
        }
        self.receiver.close();
        // In time or not: what could not be sent is counted below.
        drop(timeout(LAST_ATTEMPT, self.finish()).await);
        let mut lost = self.batch.take().map_or(0, |batch| batch.spans);
        while let Ok(record) = self.receiver.try_recv() {
            self.gathered.push(record);
        }
        lost += self.gathered.iter().map(|record| spans::of(record).len() as u64).sum::<u64>();
        if lost > 0 {
            self.outbox.metrics.traces_export_failures_total.inc_by(lost);
            tracing::warn!(spans = lost, "not all traces could be exported before the end");
        }
    }

    async fn export(&mut self) {
        while self.gather().await {
            self.deliver().await;
        }
    }

    /// Waits for requests that are over, and a moment for more of them. `false`: there will be none.
    async fn gather(&mut self) -> bool {
        if self.gathered.is_empty() && self.receiver.recv_many(&mut self.gathered, BATCH).await == 0 {
            return false;
        }
        let until = Instant::now() + GATHER;
        while self.gathered.len() < BATCH {
            let room = BATCH - self.gathered.len();
            tokio::select! {
                // At the end of the channel there is nothing to wait for.
                received = self.receiver.recv_many(&mut self.gathered, room) => if received == 0 { break },
                () = sleep_until(until) => break,
            }
        }
        self.encode();
        true
    }

    fn encode(&mut self) {
        let mut messages = Vec::new();
        for record in self.gathered.drain(..) {
            let (trace_id, tracestate) = (&record.context.trace_id.0, record.context.tracestate.as_deref());
            messages.extend(spans::of(&record).iter().map(|span| protobuf::span(trace_id, tracestate, span)));
        }
        let spans = messages.len() as u64;
        let body = protobuf::request(&self.resource, messages).into();
        self.batch = Some(Batch { body, spans, tries: 0 });
    }

    /// Sends the batch until it is taken or given up.
    async fn deliver(&mut self) {
        while let Some(pause) = self.attempt().await {
            sleep(pause).await;
        }
        self.tell_of_overflow();
    }

    /// Sends the batch once; gives the pause after which it is to be sent again.
    async fn attempt(&mut self) -> Option<Duration> {
        let Some(batch) = &mut self.batch else { return None };
        batch.tries += 1;
        let (spans, is_last, body) = (batch.spans, batch.tries >= MAX_TRIES, batch.body.clone());
        match self.collector.post(body).await {
            Ok(partial) => {
                self.batch = None;
                self.delivered(spans, &partial);
                None
            }
            Err(failure) => {
                let pause = self.failed(&failure);
                if failure.may_pass() && !is_last {
                    return Some(pause);
                }
                self.batch = None;
                self.outbox.metrics.traces_export_failures_total.inc_by(spans);
                None
            }
        }
    }

    /// What is left when the gateway stops: each batch is sent once.
    async fn finish(&mut self) {
        loop {
            if self.batch.is_some() {
                if self.attempt().await.is_some() {
                    return;
                }
            } else if !self.gather().await {
                return;
            }
        }
    }

    fn delivered(&mut self, spans: u64, partial: &PartialSuccess) {
        let rejected = partial.rejected.min(spans);
        self.outbox.metrics.traces_exported_total.inc_by(spans - rejected);
        self.outbox.metrics.traces_export_failures_total.inc_by(rejected);
        if rejected > 0 {
            return self.tell("rejected", &partial.message);
        }
        if let Some(Outage { since, failures, .. }) = self.outage.take() {
            tracing::info!(failures, outage_seconds = since.elapsed().as_secs_f64(), "traces are exported again");
        }
    }

    fn failed(&mut self, failure: &Failure) -> Duration {
        self.tell(failure.label(), &failure.to_string());
        let failures = self.outage.as_ref().map_or(1, |outage| outage.failures);
        let random = getrandom::u32().unwrap_or_default();
        failure.pause(failures, f64::from(random) / f64::from(u32::MAX))
    }

    /// One line for each kind of failure that an outage has, not for each failure.
    fn tell(&mut self, label: &'static str, failure: &str) {
        let outage = self.outage.get_or_insert_with(|| Outage { since: Instant::now(), failures: 0, label: "" });
        outage.failures = outage.failures.saturating_add(1);
        if std::mem::replace(&mut outage.label, label) != label {
            tracing::error!(kind = label, failure, "traces are not exported, and are lost if this lasts");
        }
    }

    /// Whoever lost spans could not say so for each.
    fn tell_of_overflow(&mut self) {
        let spans = self.outbox.overflowed.swap(0, Ordering::Relaxed);
        if spans > 0 && !self.full {
            tracing::warn!(spans, "traces are lost: there are more than the collector takes in time");
        }
        self.full = spans > 0;
    }
}

#[cfg(test)]
#[path = "exporter_tests.rs"]
mod tests;
