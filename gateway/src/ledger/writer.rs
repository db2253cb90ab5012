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
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::charge::{Progress, Sample};
use super::entry::{Dispatched, Outcome, SlotTime, Subject};
use super::job::Job;
use super::schema::Statements;
use super::{Gauges, LedgerError, Settings};

/// Messages in one transaction at most.
const MAX_BATCH: usize = 512;
/// How soon entries that could not be committed are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Progress without a new token is written as often as this, for the slot time that a long prompt takes.
const SLOT_TIME_STEP: Duration = Duration::from_secs(5);
/// The writer does not wake more often than this, however short the progress interval is.
const MIN_PAUSE: Duration = Duration::from_millis(1);

type Done = oneshot::Sender<Result<(), LedgerError>>;

/// What charges and the handle tell the writer. Boxed, because the channel's buffer is allocated as a whole.
pub(super) enum Message {
    Open(Box<Open>),
    Close(Box<Close>),
    Job(Job),
    Stop,
}

/// A request is about to be sent to llama-server.
pub(super) struct Open {
    pub(super) subject: Arc<Subject>,
    pub(super) progress: Arc<Progress>,
    pub(super) dispatched: Dispatched,
    pub(super) handed_over: Instant,
    pub(super) done: Done,
}

/// A request is over.
pub(super) struct Close {
    pub(super) subject: Arc<Subject>,
    pub(super) outcome: Outcome,
    pub(super) handed_over: Instant,
    pub(super) done: Option<Done>,
    /// It could not be committed before, and that was logged.
    pub(super) failed: bool,
    pub(super) place: OwnedSemaphorePermit,
}

impl Close {
    /// Writes all that the entry holds to the log: the last resort of the accounts.
    pub(super) fn log(&self, error: &str) {
        let Self { subject, outcome, .. } = self;
        tracing::error!(
            request_id = %subject.request_id,
            tenant = %subject.tenant,
            key_id = %subject.key_id,
            model = %subject.model,
            surface = subject.surface.label(),
            ending = outcome.ending.label(),
            status = outcome.status,
            counted_by = outcome.count.by.label(),
            prompt_tokens = outcome.count.prompt,
            cached_tokens = outcome.count.cached,
            completion_tokens = outcome.count.completion,
            reasoning_tokens = outcome.count.reasoning,
            arrived = %subject.arrived,
            upstream = outcome.dispatched.as_ref().map(|dispatched| &*dispatched.upstream),
            dispatched = outcome.dispatched.as_ref().map(|dispatched| tracing::field::display(dispatched.at)),
            first_token = outcome.first_token.map(tracing::field::display),
            prefill_slot_ms = outcome.slot_time().prefill.as_millis(),
            decode_slot_ms = outcome.slot_time().decode.as_millis(),
            ended = %outcome.ended,
            error,
            "an entry could not be written to the ledger"
        );
    }
}

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
    /// How long it has held its slots.
    fn held(&self, sample: &Sample, now: Instant) -> SlotTime {
        let until = self.dispatched.at.checked_add(now.duration_since(self.since)).unwrap_or(self.dispatched.at);
        self.dispatched.slot_time(sample.first_token, until)
    }
}

/// Progress that is to be written.
struct Due {
    request_id: Arc<str>,
    sample: Sample,
    held: SlotTime,
    at: Instant,
}

/// What one transaction holds.
#[derive(Default)]
pub(super) struct Batch {
    opens: Vec<Open>,
    closes: Vec<Close>,
    jobs: Vec<Job>,
    stop: bool,
}

impl Batch {
    /// An OPEN always arrives before its CLOSE, so writing all OPENs first keeps the order that matters.
    pub(super) fn add(&mut self, message: Message) {
        match message {
            Message::Open(open) => self.opens.push(*open),
            Message::Close(close) => self.closes.push(*close),
            Message::Job(job) => self.jobs.push(job),
            Message::Stop => self.stop = true,
        }
    }

    fn oldest(&self) -> Option<Instant> {
        let opens = self.opens.iter().map(|open| open.handed_over);
        opens.chain(self.closes.iter().map(|close| close.handed_over)).min()
    }
}

/// The state of the thread.
pub(super) struct Writer {
    pub(super) connection: Connection,
    gauges: Arc<Gauges>,
    settings: Settings,
    next_progress: Instant,
    /// Bounded by the places that charges hold, as is `unsettled`.
    live: HashMap<Arc<str>, Live>,
    /// Closed, and not committed yet because a commit failed.
    unsettled: Vec<Close>,
    /// What the connection's `synchronous` is set to.
    synced: Option<bool>,
    /// Held as long as the file may be written.
    _lock: File,
}

impl Writer {
    pub(super) fn new(connection: Connection, lock: File, gauges: Arc<Gauges>, settings: Settings) -> Self {
        Self {
            connection,
            gauges,
            settings,
            next_progress: Instant::now(),
            live: HashMap::new(),
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
        let retry = (!self.unsettled.is_empty()).then_some(RETRY_PAUSE);
        progress.into_iter().chain(retry).min().map(|pause| pause.max(MIN_PAUSE))
    }

    /// Commits a batch, what failed before and the progress that is due, and tells everybody concerned.
    pub(super) fn turn(&mut self, mut batch: Batch) {
        let mut closes = std::mem::take(&mut self.unsettled);
        closes.append(&mut batch.closes);
        batch.closes = closes;
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
            tracing::info!(entries = batch.closes.len(), "the ledger can be written again");
        }
        self.set_gauges(true);
        for due in progress {
            if let Some(live) = self.live.get_mut(&due.request_id) {
                (live.written, live.written_at) = (due.sample, due.at);
            }
        }
        for open in batch.opens {
            let Open { subject, progress, dispatched, handed_over: since, done } = open;
            let live = Live { progress, dispatched, since, written: Sample::default(), written_at: since };
            self.live.insert(Arc::clone(&subject.request_id), live);
            // Who left meanwhile needs no answer; its CLOSE is on its way.
            drop(done.send(Ok(())));
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

    /// OPENs are refused, so that nothing runs unmetered. CLOSEs are kept; each is logged once, in case the process
    /// ends before the ledger recovers. Progress is sampled anew.
    fn failed(&mut self, batch: Batch, error: rusqlite::Error) {
        let error = Arc::new(error);
        self.gauges.failures.fetch_add(1, Relaxed);
        if self.gauges.healthy.load(Relaxed) {
            tracing::error!(%error, "the ledger cannot be written: requests are refused until it can");
        }
        let mut waiting: Vec<Done> = batch.opens.into_iter().map(|open| open.done).collect();
        for mut close in batch.closes {
            self.live.remove(&close.subject.request_id);
            if !close.failed {
                close.failed = true;
                close.log(&error.to_string());
            }
            waiting.extend(close.done.take());
            self.unsettled.push(close);
        }
        self.set_gauges(false);
        for done in waiting {
            drop(done.send(Err(LedgerError::Write(Arc::clone(&error)))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::schema;
    use crate::ledger::tests::{EAGER, complete, subject, timings};
    use tokio::sync::Semaphore;
    use tokio::sync::oneshot::Receiver as Answer;

    /// A writer whose turns the test takes.
    struct Bench {
        writer: Writer,
        places: Arc<Semaphore>,
        _dir: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let connection = crate::database::open(&dir.path().join(schema::FILE), schema::MIGRATIONS).unwrap();
            connection.busy_timeout(Duration::ZERO).unwrap();
            let lock = crate::database::open_private_file(&dir.path().join("serve.lock")).unwrap();
            let writer = Writer::new(connection, lock, Arc::new(Gauges::new()), EAGER);
            Self { writer, places: Arc::new(Semaphore::new(2000)), _dir: dir }
        }

        fn open(&self, id: &str) -> (Message, Arc<Progress>, Answer<Result<(), LedgerError>>) {
            let (done, answer) = oneshot::channel();
            let progress = Arc::new(Progress::default());
            let open = Open {
                subject: Arc::new(subject(id)),
                progress: Arc::clone(&progress),
                dispatched: crate::ledger::tests::dispatched(),
                handed_over: Instant::now(),
                done,
            };
            (Message::Open(Box::new(open)), progress, answer)
        }

        fn close(&self, id: &str, tokens: u64) -> (Message, Answer<Result<(), LedgerError>>) {
            let (done, answer) = oneshot::channel();
            let close = Close {
                subject: Arc::new(subject(id)),
                outcome: complete(tokens),
                handed_over: Instant::now(),
                done: Some(done),
                failed: false,
                place: Arc::clone(&self.places).try_acquire_owned().unwrap(),
            };
            (Message::Close(Box::new(close)), answer)
        }

        fn turn(&mut self, messages: impl IntoIterator<Item = Message>) {
            let mut batch = Batch::default();
            messages.into_iter().for_each(|message| batch.add(message));
            self.writer.turn(batch);
        }

        fn tokens(&self, id: &str) -> (Option<String>, i64) {
            let sql = "SELECT ending, completion_tokens FROM entries WHERE request_id = ?1";
            self.writer.connection.query_row(sql, [id], |row| row.try_into()).unwrap()
        }

        fn pragma(&self, name: &str) -> i64 {
            self.writer.connection.pragma_query_value(None, name, |row| row.get(0)).unwrap()
        }
    }

    const NORMAL: i64 = 1;
    const FULL: i64 = 2;

    #[test]
    fn a_batch_is_one_transaction_and_each_is_told() {
        let mut bench = Bench::new();
        let (messages, mut answers): (Vec<_>, Vec<_>) = (0..300).map(|n| bench.close(&format!("r{n}"), 1)).unzip();
        let frames = |bench: &Bench| {
            let sql = "PRAGMA wal_checkpoint(PASSIVE)";
            bench.writer.connection.query_row(sql, [], |row| row.get::<_, i64>(1)).unwrap()
        };
        bench.turn(messages);
        assert!(answers.iter_mut().all(|answer| matches!(answer.try_recv(), Ok(Ok(())))));
        // 300 transactions would have written each page many times: at least one frame each.
        assert!(frames(&bench) < 300, "{}", frames(&bench));
        assert_eq!(bench.places.available_permits(), 2000);
    }

    #[test]
    fn the_disk_is_awaited_for_opens_and_closes_but_not_for_progress() {
        let mut bench = Bench::new();
        let (open, progress, _answer) = bench.open("r1");
        bench.turn([open]);
        assert_eq!(bench.pragma("synchronous"), FULL);

        progress.record(&timings(10, 3));
        bench.turn([]);
        assert_eq!(bench.pragma("synchronous"), NORMAL);
        assert_eq!(bench.tokens("r1"), (None, 3));

        bench.turn([bench.close("r1", 7).0]);
        assert_eq!(bench.pragma("synchronous"), FULL);
        assert_eq!(bench.tokens("r1"), (Some("complete".to_owned()), 7));
    }

    #[test]
    fn progress_that_did_not_change_is_not_written() {
        let mut bench = Bench::new();
        let (open, progress, _answer) = bench.open("r1");
        bench.turn([open]);
        progress.record(&timings(10, 3));
        bench.turn([]);
        let changes = bench.writer.connection.total_changes();
        bench.turn([]);
        assert_eq!(bench.writer.connection.total_changes(), changes);
    }

    #[test]
    fn an_open_and_its_close_may_share_a_batch() {
        let mut bench = Bench::new();
        let (open, _progress, _answer) = bench.open("r1");
        bench.turn([open, bench.close("r1", 7).0]);
        assert_eq!(bench.tokens("r1"), (Some("complete".to_owned()), 7));
        assert!(bench.writer.live.is_empty());
        assert_eq!(bench.writer.pause(), None);
    }

    #[test]
    fn writing_again_changes_nothing() {
        let mut bench = Bench::new();
        bench.turn([bench.close("r1", 7).0]);
        let (open, _progress, _answer) = bench.open("r1");
        bench.turn([open, bench.close("r1", 9).0]);
        assert_eq!(bench.tokens("r1"), (Some("complete".to_owned()), 7));
    }

    #[test]
    fn a_full_disk_refuses_opens_keeps_closes_and_recovers() {
        let mut bench = Bench::new();
        let (open, running, _answer) = bench.open("running");
        bench.turn([open]);
        // The file may not grow: what a full disk says, SQLite says now.
        let pages = bench.pragma("page_count");
        bench.writer.connection.pragma_update(None, "max_page_count", pages).unwrap();

        let (opens, mut opened): (Vec<_>, Vec<_>) = (0..300)
            .map(|n| {
                let (open, _progress, answer) = bench.open(&format!("refused{n}"));
                (open, answer)
            })
            .unzip();
        let (close, mut closed) = bench.close("running", 7);
        running.record(&timings(10, 3));
        bench.turn(opens.into_iter().chain([close]));
        assert!(opened.iter_mut().all(|answer| matches!(answer.try_recv(), Ok(Err(LedgerError::Write(_))))));
        let full = |error: &rusqlite::Error| error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        let error = closed.try_recv().unwrap().unwrap_err();
        assert!(matches!(&error, LedgerError::Write(error) if full(error)), "{error:?}");
        let health = bench.writer.gauges.read();
        assert_eq!((health.healthy, health.failures, health.unsettled), (false, 1, 1));
        assert!(health.lag > Duration::ZERO);
        assert_eq!(bench.places.available_permits(), 1999);
        assert_eq!(bench.tokens("running"), (None, 0));
        assert_eq!(bench.writer.pause(), Some(RETRY_PAUSE));

        bench.writer.connection.pragma_update(None, "max_page_count", 1_000_000).unwrap();
        bench.turn([]);
        assert_eq!(bench.tokens("running"), (Some("complete".to_owned()), 7));
        let health = bench.writer.gauges.read();
        assert_eq!((health.healthy, health.unsettled, health.lag), (true, 0, Duration::ZERO));
        assert_eq!(bench.places.available_permits(), 2000);
    }

    #[test]
    fn absurd_numbers_are_written_and_can_be_summed() {
        let mut bench = Bench::new();
        let closes: Vec<_> = (0..3).map(|n| bench.close(&format!("r{n}"), u64::MAX).0).collect();
        bench.turn(closes);
        let sql = "SELECT sum(completion_tokens) FROM entries";
        let sum: i64 = bench.writer.connection.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 3 << 40);
    }
}
