//! The one thread that writes the ledger.
//!
//! Takes messages from all charges; gives each its acknowledgement after the commit that holds it. One transaction
//! holds everything that waits at its start (group commit), so a slow disk makes larger batches, not a longer queue.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use super::charge::{Progress, Sample, SlotsSince};
use super::entry::{Dispatched, SlotTime};
use super::message::{Batch, Close, Done, Message, Open};
use super::schema::Statements;
use super::{Gauges, LedgerError, Settings};
use crate::config::OnFailure;
use crate::database::Identity;

/// Messages in one transaction at most.
const MAX_BATCH: usize = 512;
/// How soon entries that could not be committed are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Progress without a new token is written as often as this, for the slot time that a long prompt takes.
const SLOT_TIME_STEP: Duration = Duration::from_secs(5);
/// The writer does not wake more often than this, however short the progress interval is.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// An opened charge.
struct Live {
    progress: Arc<Progress>,
    dispatched: Dispatched,
    since: Instant,
    /// What the last commit said of it.
    written: Sample,
    /// When that was.
    written_at: Instant,
}

impl Live {
    fn new(open: &Open) -> Self {
        let (progress, dispatched) = (Arc::clone(&open.progress), open.dispatched.clone());
        let since = open.handed_over;
        Self { progress, dispatched, since, written: Sample::default(), written_at: since }
    }

    /// How long it has held its slots.
    fn held(&self, sample: &Sample, now: Instant) -> SlotTime {
        let opened = self.dispatched.at;
        let until = opened.checked_add(now.duration_since(self.since)).unwrap_or(opened);
        let at = match sample.slots_since {
            SlotsSince::Opened => opened,
            SlotsSince::At(at) => at,
            SlotsSince::Never => return SlotTime::default(),
        };
        Dispatched { at, ..self.dispatched.clone() }.slot_time(sample.first_token, until)
    }
}

/// Progress that is to be written.
struct Due {
    request_id: Arc<str>,
    sample: Sample,
    held: SlotTime,
    at: Instant,
}

/// The file that is written, open.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) file: Identity,
    /// Held as long as the file may be written.
    pub(super) lock: File,
}

/// The state of the thread.
pub(super) struct Writer {
    pub(super) connection: Connection,
    file: Identity,
    gauges: Arc<Gauges>,
    settings: Settings,
    next_progress: Instant,
    /// Bounded by the places that charges hold, as are `unopened` and `unsettled`.
    live: HashMap<Arc<str>, Live>,
    /// Let run without being committed, because a commit failed.
    unopened: Vec<Open>,
    /// Closed, and not committed yet because a commit failed.
    unsettled: Vec<Close>,
    /// What the connection's `synchronous` is set to.
    synced: Option<bool>,
    _lock: File,
}

impl Writer {
    pub(super) fn new(opened: Opened, gauges: Arc<Gauges>, settings: Settings) -> Self {
        let Opened { connection, file, lock } = opened;
        Self {
            connection,
            file,
            gauges,
            settings,
            next_progress: Instant::now(),
            live: HashMap::new(),
            unopened: Vec::new(),
            unsettled: Vec::new(),
            synced: None,
            _lock: lock,
        }
    }

    /// Until the ledger is closed or nobody can send any more.
    pub(super) fn run(mut self, inbox: &Receiver<Message>) -> Result<(), LedgerError> {
        loop {
            let batch = self.receive(inbox);
            let stop = batch.stop;
            self.turn(batch);
            if stop {
                break;
            }
        }
        // What was sent behind the STOP, and a last attempt for what failed before.
        let mut rest = Batch::default();
        inbox.try_iter().for_each(|message| rest.add(message));
        self.next_progress = Instant::now();
        self.turn(rest);
        match self.unsettled.len() {
            0 => Ok(()),
            unsettled => Err(LedgerError::Unsettled(unsettled)),
        }
    }

    /// Waits for a message, or for the time at which there is something to do without one; takes what else waits.
    fn receive(&self, inbox: &Receiver<Message>) -> Batch {
        let mut batch = Batch::default();
        let first = match self.pause() {
            Some(pause) => inbox.recv_timeout(pause),
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(message) => batch.add(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => batch.stop = true,
        }
        inbox.try_iter().take(MAX_BATCH - 1).for_each(|message| batch.add(message));
        batch
    }

    /// `None`: nothing is to be done until a message comes.
    fn pause(&self) -> Option<Duration> {
        let progress = (!self.live.is_empty()).then(|| self.next_progress.saturating_duration_since(Instant::now()));
        let fails = !(self.unsettled.is_empty() && self.unopened.is_empty());
        let retry = fails.then_some(RETRY_PAUSE);
        progress.into_iter().chain(retry).min().map(|pause| pause.max(MIN_PAUSE))
    }

    /// Commits a batch, what failed before and the progress that is due, and tells everybody concerned.
    pub(super) fn turn(&mut self, mut batch: Batch) {
        batch.opens.splice(..0, self.unopened.drain(..));
        batch.closes.splice(..0, self.unsettled.drain(..));
        let jobs = std::mem::take(&mut batch.jobs);
        let progress = self.due_progress();
        if !(batch.opens.is_empty() && batch.closes.is_empty() && progress.is_empty()) {
            self.gauges.set_oldest(batch.oldest());
            match self.commit(&batch, &progress) {
                Ok(()) => self.committed(batch, progress),
                Err(error) => self.failed(batch, error),
            }
        }
        jobs.into_iter().for_each(|job| job.run(&mut self.connection));
    }

    /// To be called before anybody is answered: who was told sees the health that goes with it.
    fn set_gauges(&self, healthy: bool) {
        self.gauges.set_oldest(self.unsettled.iter().map(|close| close.handed_over).min());
        self.gauges.unsettled.store(self.unsettled.len() as u64, Relaxed);
        self.gauges.healthy.store(healthy, Relaxed);
    }

    fn due_progress(&mut self) -> Vec<Due> {
        let now = Instant::now();
        if now < self.next_progress {
            return Vec::new();
        }
        self.next_progress = now + self.settings.progress_interval;
        let due = |(request_id, live): (&Arc<str>, &Live)| {
            let sample = live.progress.sample();
            let is_due = sample != live.written || now.duration_since(live.written_at) >= SLOT_TIME_STEP;
            is_due.then(|| Due { request_id: Arc::clone(request_id), sample, held: live.held(&sample, now), at: now })
        };
        self.live.iter().filter_map(due).collect()
    }

    fn commit(&mut self, batch: &Batch, progress: &[Due]) -> rusqlite::Result<()> {
        self.file.check()?;
        self.sync(!batch.opens.is_empty() || !batch.closes.is_empty())?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut statements = Statements::prepare(&transaction, self.settings.export)?;
        for open in &batch.opens {
            statements.open(&open.subject, &open.dispatched)?;
        }
        for due in progress {
            statements.progress(&due.request_id, &due.sample, due.held)?;
        }
        for close in &batch.closes {
            statements.close(&close.subject, &close.outcome)?;
        }
        statements.finish()?;
        transaction.commit()
    }

    /// OPEN and CLOSE are to survive a power cut, so they wait for the disk. Progress need survive only the end of
    /// this process, so it does not; the next OPEN or CLOSE takes it to the disk along.
    fn sync(&mut self, full: bool) -> rusqlite::Result<()> {
        if self.synced != Some(full) {
            self.synced = None;
            self.connection.pragma_update(None, "synchronous", if full { "full" } else { "normal" })?;
            self.synced = Some(full);
        }
        Ok(())
    }

    fn committed(&mut self, batch: Batch, progress: Vec<Due>) {
        if !self.gauges.healthy.load(Relaxed) {
            let (opens, closes) = (batch.opens.len(), batch.closes.len());
            tracing::info!(opens, closes, "the ledger can be written again");
        }
        self.gauges.commits.fetch_add(1, Relaxed);
        self.set_gauges(true);
        for due in progress {
            if let Some(live) = self.live.get_mut(&due.request_id) {
                (live.written, live.written_at) = (due.sample, due.at);
            }
        }
        for mut open in batch.opens {
            if let Some(done) = open.done.take() {
                self.live.insert(Arc::clone(&open.subject.request_id), Live::new(&open));
                // Who left meanwhile needs no answer; its CLOSE is on its way.
                drop(done.send(Ok(())));
            }
        }
        for close in batch.closes {
            let Close { subject, done, place, .. } = close;
            self.live.remove(&subject.request_id);
            drop(place);
            if let Some(done) = done {
                drop(done.send(Ok(())));
            }
        }
    }

    /// OPENs are refused, or let run and kept, as it is configured. CLOSEs are kept. Of what is kept, each is logged
    /// once, in case the process ends before the ledger recovers. Progress is sampled anew.
    fn failed(&mut self, batch: Batch, error: rusqlite::Error) {
        let (error, on_failure) = (Arc::new(error), self.settings.on_failure);
        self.gauges.failures.fetch_add(1, Relaxed);
        if self.gauges.healthy.load(Relaxed) {
            let requests = match on_failure {
                OnFailure::Refuse => "are refused until it can",
                OnFailure::Serve => "go on, and their entries are kept in memory until it can",
            };
            tracing::error!(%error, "the ledger cannot be written: requests {requests}");
        }
        let (mut refused, mut begun): (Vec<Done>, Vec<Done>) = Default::default();
        for mut open in batch.opens {
            match (on_failure, open.done.take()) {
                (OnFailure::Refuse, done) => refused.extend(done),
                (OnFailure::Serve, done) => {
                    begun.extend(self.begin_unrecorded(&open, done, &error));
                    self.unopened.push(open);
                }
            }
        }
        for mut close in batch.closes {
            self.live.remove(&close.subject.request_id);
            if !close.failed {
                close.failed = true;
                close.log(&error.to_string());
            }
            refused.extend(close.done.take());
            self.unsettled.push(close);
        }
        self.set_gauges(false);
        begun.into_iter().for_each(|done| drop(done.send(Ok(()))));
        for done in refused {
            drop(done.send(Err(LedgerError::Write(Arc::clone(&error)))));
        }
    }

    /// Lets a request run whose OPEN failed, unless that was done before: then there is nobody to tell.
    fn begin_unrecorded(&mut self, open: &Open, done: Option<Done>, error: &rusqlite::Error) -> Option<Done> {
        let done = done?;
        open.log(&error.to_string());
        self.gauges.unrecorded.fetch_add(1, Relaxed);
        self.live.insert(Arc::clone(&open.subject.request_id), Live::new(open));
        Some(done)
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
