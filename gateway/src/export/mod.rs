//! Settled entries and corrections on their way to others.
//!
//! Takes what the ledger has put into its outbox, in the transaction that settled it; delivers it, at least once and in
//! order, to a file or by HTTP, and then takes it out. No request waits for that: an outbox that nobody empties grows.

mod event;
mod failure;
mod file;
mod http;
mod outbox;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config;
use crate::database::DatabaseError;
use crate::ledger::{self, Ledger};
use crate::metrics::Metrics;
use crate::outbound::OutboundError;

use failure::Failure;
use file::Lines;
use http::Receiver;
use outbox::Batch;

/// Events in one batch at most: some 400 KB, and many receivers take no more than 1 MB.
const BATCH: u32 = 500;
/// How often an outbox that was empty is looked at. Other processes, too, put corrections into it.
const POLL: Duration = Duration::from_millis(200);
/// How often the metrics are brought up to date while a failure is waited out.
const LOOK: Duration = Duration::from_secs(5);
/// Time for a last attempt when the gateway stops.
const LAST_ATTEMPT: Duration = Duration::from_secs(5);

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The receiver cannot be called as configured.
    #[error("`export.ca_file`: {0}")]
    Outbound(#[from] OutboundError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The outbox cannot be read.
    #[error("the outbox cannot be read")]
    Outbox(#[from] rusqlite::Error),
}

/// Where events go.
enum Sink {
    File(Arc<Mutex<Lines>>),
    Http(Receiver),
}

impl Sink {
    /// `None`: nothing is exported.
    fn new(config: &config::Export) -> Result<Option<Self>, OutboundError> {
        if !config.url.is_empty() {
            return Ok(Some(Self::Http(Receiver::new(config)?)));
        }
        Ok(config.is_on().then(|| Self::File(Arc::new(Mutex::new(Lines::new(config.file.clone()))))))
    }

    async fn deliver(&self, events: Vec<String>) -> Result<(), Failure> {
        match self {
            Self::Http(receiver) => receiver.post(&events).await,
            Self::File(lines) => {
                let lines = Arc::clone(lines);
                let text = events.into_iter().map(|event| event + "\n").collect::<String>();
                blocking(move || {
                    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                    Ok(lines.append(text.as_bytes())?)
                })
                .await
            }
        }
    }
}

/// Work on a disk, off the threads that serve requests.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Failure::Ledger(error.to_string())))
}

/// Failures in a row.
struct Outage {
    since: Instant,
    failures: u32,
    /// What was told of it last.
    label: &'static str,
}

/// Empties the outbox.
pub struct Exporter {
    outbox: Arc<Mutex<Connection>>,
    source: Arc<str>,
    sink: Sink,
    ledger: Ledger,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// The place in the outbox up to which all is delivered, which it may still hold.
    delivered: i64,
    removed: i64,
    outage: Option<Outage>,
}

impl Exporter {
    /// Checks what [`Exporter::open`] would refuse.
    ///
    /// # Errors
    /// When the file with root certificates cannot be used.
    pub fn check(config: &config::Export) -> Result<(), ExportError> {
        Ok(Sink::new(config).map(drop)?)
    }

    /// One for the ledger in `data_dir`. `None`: nothing is to be exported; what an earlier configuration left in the
    /// outbox stays there, and is spoken of.
    ///
    /// # Errors
    /// When the configuration or the ledger cannot be used.
    pub fn open(
        config: &config::Export,
        data_dir: &Path,
        ledger: &Ledger,
        metrics: &Arc<Metrics>,
        clock: &Clock,
    ) -> Result<Option<Self>, ExportError> {
        let outbox = ledger::open_to_read(data_dir)?;
        let pending = outbox::pending(&outbox, 0)?;
        metrics.export_pending.set(pending);
        let Some(sink) = Sink::new(config)? else {
            if pending > 0 {
                tracing::warn!(
                    pending,
                    "the export is switched off, and what was settled before waits for it to be switched on again"
                );
            }
            return Ok(None);
        };
        Ok(Some(Self {
            outbox: Arc::new(Mutex::new(outbox)),
            source: config.source.as_str().into(),
            sink,
            ledger: ledger.clone(),
            metrics: Arc::clone(metrics),
            clock: clock.clone(),
            delivered: 0,
            removed: 0,
            outage: None,
        }))
    }

    /// Delivers until `stop` is cancelled, and then, for a few seconds at most, what is left. To be ended before the
    /// ledger is closed and after its last charge was.
    pub async fn run(mut self, stop: CancellationToken) {
        let over = async {
            stop.cancelled().await;
            sleep(LAST_ATTEMPT).await;
        };
        tokio::select! {
            () = self.deliver_all(&stop) => {}
            () = over => {}
        }
        let pending = self.metrics.export_pending.get();
        if pending > 0 {
            tracing::warn!(pending, "not everything could be exported: the rest is exported after the next start");
        }
    }

    /// Ends when there was nothing more to be delivered, or it could not be, after `stop` was cancelled.
    async fn deliver_all(&mut self, stop: &CancellationToken) {
        loop {
            let is_last = stop.is_cancelled();
            if is_last {
                // The writer takes its messages in order: what was settled is in the file after this.
                drop(self.ledger.work(|_| Ok(())).await);
            }
            let pause = self.turn().await;
            if is_last && !pause.is_zero() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.pause(pause) => {}
            }
        }
    }

    /// Delivers a batch, and gives the pause until the next one.
    async fn turn(&mut self) -> Duration {
        match self.step().await {
            Ok(rows) => {
                self.recovered();
                if rows == BATCH as usize { Duration::ZERO } else { POLL }
            }
            Err(failure) => self.failed(&failure),
        }
    }

    /// Delivers a batch, and gives how many rows of the outbox it had.
    async fn step(&mut self) -> Result<usize, Failure> {
        self.remove().await?;
        let batch = self.read(BATCH).await?;
        let rows = batch.rows();
        if rows == 0 {
            return Ok(0);
        }
        let events = batch.events.len() as u64;
        if events > 0 {
            self.sink.deliver(batch.events).await?;
            self.metrics.export_delivered_total.inc_by(events);
        }
        // After the others: a batch that is tried again would tell it again.
        if batch.lost > 0 {
            self.metrics.export_failures_total.with_label_values(&["lost"]).inc_by(batch.lost);
            tracing::error!(entries = batch.lost, "entries were deleted from the ledger before they were exported");
        }
        self.delivered = batch.last;
        self.remove().await?;
        self.metrics.export_pending.set(batch.pending - rows as i64);
        Ok(rows)
    }

    /// Takes what was delivered out of the outbox. If that fails it is not delivered again, but taken out later.
    async fn remove(&mut self) -> Result<(), Failure> {
        let last = self.delivered;
        if last > self.removed {
            let removed = self.ledger.work(move |connection| outbox::remove(connection, last)).await;
            removed.map_err(|error| Failure::Ledger(format!("{:#}", anyhow::Error::from(error))))?;
            self.removed = last;
        }
        Ok(())
    }

    /// Reads at most `most` rows, and tells the metrics how much there is.
    async fn read(&self, most: u32) -> Result<Batch, Failure> {
        let (outbox, source, after) = (Arc::clone(&self.outbox), Arc::clone(&self.source), self.delivered);
        let batch = blocking(move || {
            let mut outbox = outbox.lock().unwrap_or_else(PoisonError::into_inner);
            outbox::read(&mut outbox, &source, after, most).map_err(|error| Failure::Ledger(error.to_string()))
        })
        .await?;
        let age = batch.oldest.map(|oldest| self.clock.now().duration_since(oldest).as_secs_f64().max(0.0));
        self.metrics.export_oldest_seconds.set(age.unwrap_or(0.0));
        self.metrics.export_pending.set(batch.pending);
        Ok(batch)
    }

    async fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            sleep(rest.min(LOOK)).await;
            if rest <= LOOK {
                return;
            }
            // What cannot be read now is told of at the next turn.
            drop(self.read(1).await);
        }
    }

    fn failed(&mut self, failure: &Failure) -> Duration {
        let label = failure.label();
        self.metrics.export_failures_total.with_label_values(&[label]).inc();
        let outage = self.outage.get_or_insert_with(|| Outage { since: Instant::now(), failures: 0, label: "" });
        outage.failures = outage.failures.saturating_add(1);
        if std::mem::replace(&mut outage.label, label) != label {
            let pending = self.metrics.export_pending.get();
            tracing::error!(kind = label, %failure, pending, "usage is not exported: it waits, and is tried again");
        }
        let random = getrandom::u32().unwrap_or_default();
        failure.pause(outage.failures, f64::from(random) / f64::from(u32::MAX))
    }

    fn recovered(&mut self) {
        if let Some(Outage { since, failures, .. }) = self.outage.take() {
            tracing::info!(failures, outage_seconds = since.elapsed().as_secs_f64(), "usage is exported again");
        }
    }
}
