//! The ledger against llama-server's own counters.
//!
//! Reads the counters of each replica now and then and remembers them in the ledger; compares what they have grown by
//! with the entries that ended meanwhile. The two are counted by different programs, so what one of them has lost, counted
//! twice or never seen shows in the other.

mod compare;
mod counters;
mod sample;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use jiff::SignedDuration;
use rusqlite::Connection;
use tokio::time::{Instant, sleep};

use crate::clock::Clock;
use crate::database::DatabaseError;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::queue::{Queue, ReplicaId};
use crate::upstream::{ReplicaStatus, State, Upstream};

pub use compare::{Comparison, Kind, Line, TOKENS_OF_A_CUT, TOKENS_OF_AN_INTERRUPTION, compare, open};

use counters::Counters;
use sample::Sample;
use watch::{Look, Watch};

/// How often it is seen whether the replicas are quiet.
const TICK: Duration = Duration::from_secs(1);
/// How far back the metrics look.
const WINDOW: SignedDuration = SignedDuration::from_hours(24);
/// How long counters are kept, if the entries are kept as long.
const KEEP: Duration = Duration::from_secs(35 * 86_400);

/// Reads counters and compares them.
pub struct Auditor {
    upstream: Arc<Upstream>,
    queue: Queue,
    ledger: Ledger,
    reader: Arc<Mutex<Connection>>,
    metrics: Arc<Metrics>,
    clock: Clock,
    interval: Duration,
    keep: Duration,
    watches: HashMap<ReplicaId, Watch>,
    compared: Option<Instant>,
    /// Replicas that disagreed when they were compared last.
    disagreed: BTreeSet<String>,
    /// Replicas that the metrics tell of.
    shown: BTreeSet<String>,
}

/// What the auditor works with.
pub struct Parts<'a> {
    /// The replicas.
    pub upstream: &'a Arc<Upstream>,
    /// Knows what is in flight.
    pub queue: &'a Queue,
    /// Keeps the counters.
    pub ledger: &'a Ledger,
    /// Shows the drift.
    pub metrics: &'a Arc<Metrics>,
    /// Wall-clock time.
    pub clock: &'a Clock,
}

impl Auditor {
    /// One for the ledger in `data_dir`, which keeps entries for so long (zero: for ever). It reads the counters of a
    /// replica without a pause at least every `interval`.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn open(
        parts: &Parts<'_>,
        data_dir: &Path,
        interval: Duration,
        keep_entries: Duration,
    ) -> Result<Self, DatabaseError> {
        Ok(Self {
            upstream: Arc::clone(parts.upstream),
            queue: parts.queue.clone(),
            ledger: parts.ledger.clone(),
            reader: Arc::new(Mutex::new(open(data_dir)?)),
            metrics: Arc::clone(parts.metrics),
            clock: parts.clock.clone(),
            interval,
            keep: if keep_entries.is_zero() { KEEP } else { KEEP.min(keep_entries) },
            watches: HashMap::new(),
            compared: None,
            disagreed: BTreeSet::new(),
            shown: BTreeSet::new(),
        })
    }

    /// Audits until it is dropped.
    pub async fn run(mut self) {
        loop {
            let replicas = self.upstream.snapshot();
            self.watches.retain(|id, _| replicas.iter().any(|replica| replica.id == *id));
            let mut sampled = false;
            for replica in replicas.iter().filter(|replica| replica.state == State::Ready) {
                sampled |= self.look(replica).await;
            }
            if sampled && self.compared.is_none_or(|at| at.elapsed() >= self.interval) {
                self.compared = Some(Instant::now());
                self.compare().await;
            }
            sleep(TICK).await;
        }
    }

    /// Reads the counters of a replica if it is time to, and says whether they were remembered.
    async fn look(&mut self, replica: &ReplicaStatus) -> bool {
        let before = self.seen(replica);
        let watch = self.watches.entry(replica.id).or_default();
        let Some(due) = watch.due(&before, self.interval, Instant::now()) else { return false };
        let reply = self.upstream.counters(replica.id).await;
        let after = self.seen(replica);
        let Some(watch) = self.watches.get_mut(&replica.id) else { return false };
        let counters = match &reply {
            Ok((StatusCode::OK, body)) => Counters::read(body),
            Ok(_) => None,
            // It may be just about to go down; the prober will see.
            Err(_) => return watch.failed(Instant::now()),
        };
        let Some(counters) = counters else {
            if watch.is_mute(Instant::now()) {
                let upstream = &*replica.address;
                tracing::info!(
                    upstream,
                    "llama-server does not tell its counters: its usage cannot be audited\n  hint: start it with --metrics"
                );
            }
            return false;
        };
        if !watch.read(due, (&before, &after), counters.busy, Instant::now()) {
            return false;
        }
        let (foreign, restarted) = (watch.take_foreign(), watch.take_restarted());
        let upstream = replica.address.to_string();
        let sample = Sample { upstream, at: self.clock.now(), counters, foreign, restarted };
        let stored = self.ledger.work(move |connection| sample::store(connection, &sample)).await;
        if let Err(error) = &stored {
            // The ledger says itself what is wrong with it.
            tracing::debug!(%error, "counters are not remembered");
            watch.put_back(foreign, restarted);
        }
        stored.is_ok()
    }

    /// What is known of a replica without asking it.
    fn seen(&self, replica: &ReplicaStatus) -> Look {
        let load = self.queue.load().into_iter().find(|load| load.replica == replica.id);
        let (in_flight, started) = load.map_or((0, 0), |load| (load.in_flight, load.started));
        Look { in_flight, started, foreign: replica.foreign, restarts: replica.restarts }
    }

    /// Compares the last day, and shows and tells what has come of it.
    async fn compare(&mut self) {
        let now = self.clock.now();
        let (since, oldest) = (now.checked_sub(WINDOW), now.checked_sub(self.keep));
        let (Ok(since), Ok(oldest)) = (since, oldest) else { return };
        drop(self.ledger.work(move |connection| sample::forget(connection, oldest)).await);
        let reader = Arc::clone(&self.reader);
        let compared = tokio::task::spawn_blocking(move || {
            let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            compare(&reader, since)
        });
        match compared.await {
            Ok(Ok(comparisons)) => {
                self.show(&comparisons);
                self.tell(&comparisons);
            }
            Ok(Err(error)) => tracing::warn!(%error, "usage cannot be audited"),
            Err(error) => tracing::warn!(%error, "usage cannot be audited"),
        }
    }

    fn show(&mut self, comparisons: &[Comparison]) {
        let metrics = &self.metrics;
        for comparison in comparisons {
            let upstream = comparison.upstream.as_str();
            metrics.accounting_agrees.with_label_values(&[upstream]).set(i64::from(comparison.agrees));
            for line in &comparison.tokens {
                let labels = [upstream, line.kind.label()];
                metrics.accounting_drift_tokens.with_label_values(&labels).set(line.drift);
                metrics.accounting_audited_tokens.with_label_values(&labels).set(line.engine);
                let ratio = line.drift as f64 / line.engine.max(1) as f64;
                metrics.accounting_drift_ratio.with_label_values(&labels).set(ratio);
            }
        }
        let now: BTreeSet<_> = comparisons.iter().map(|comparison| comparison.upstream.clone()).collect();
        for upstream in self.shown.difference(&now) {
            // A series that is not there is gone as well.
            drop(metrics.accounting_agrees.remove_label_values(&[upstream]));
            for kind in [Kind::Computed, Kind::Cached, Kind::Generated] {
                let labels = [upstream.as_str(), kind.label()];
                drop(metrics.accounting_drift_tokens.remove_label_values(&labels));
                drop(metrics.accounting_audited_tokens.remove_label_values(&labels));
                drop(metrics.accounting_drift_ratio.remove_label_values(&labels));
            }
        }
        self.shown = now;
    }

    /// Logs who begins and who ceases to disagree.
    fn tell(&mut self, comparisons: &[Comparison]) {
        for comparison in comparisons {
            let upstream = comparison.upstream.as_str();
            let before = self.disagreed.contains(upstream);
            if comparison.agrees && before {
                self.disagreed.remove(upstream);
                tracing::info!(upstream, "the ledger agrees with llama-server's counters again");
            } else if !comparison.agrees && !before {
                self.disagreed.insert(upstream.to_owned());
                let foreign_requests = comparison.foreign_requests;
                tracing::warn!(
                    upstream,
                    foreign_requests,
                    "the ledger does not agree with llama-server's counters\n  hint: `llama-gateway usage audit` shows how"
                );
            }
        }
    }
}
