//! The writer, turn by turn.

use super::*;
use crate::ledger::schema;
use crate::ledger::tests::{EAGER, complete, subject, timings};
use rusqlite::ErrorCode;
use tokio::sync::oneshot::Receiver as Answer;
use tokio::sync::{Semaphore, oneshot};

/// A writer whose turns the test takes.
struct Bench {
    writer: Writer,
    places: Arc<Semaphore>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(EAGER)
    }

    fn with(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(schema::FILE);
        let connection = crate::database::open(&path, schema::MIGRATIONS).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        let lock = crate::database::open_private_file(&dir.path().join("serve.lock")).unwrap();
        let opened = Opened { connection, file: Identity::of(&path).unwrap(), lock };
        let writer = Writer::new(opened, Arc::new(Gauges::new()), settings);
        Self { writer, places: Arc::new(Semaphore::new(2000)), dir }
    }

    fn open(&self, id: &str) -> (Message, Arc<Progress>, Answer<Result<(), LedgerError>>) {
        let (done, answer) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let open = Open {
            subject: Arc::new(subject(id)),
            progress: Arc::clone(&progress),
            dispatched: crate::ledger::tests::dispatched(),
            handed_over: Instant::now(),
            done: Some(done),
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

/// Why SQLite did not write it.
fn code(answer: &mut Answer<Result<(), LedgerError>>) -> Option<ErrorCode> {
    match answer.try_recv().unwrap() {
        Err(LedgerError::Write(error)) => error.sqlite_error_code(),
        other => panic!("written, or not for SQLite's reasons: {other:?}"),
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
    assert_eq!(code(&mut closed), Some(ErrorCode::DiskFull));
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

#[test]
fn where_requests_go_on_without_a_ledger_each_is_counted_and_written_when_it_recovers() {
    let mut bench = Bench::with(Settings { on_failure: OnFailure::Serve, ..EAGER });
    let pages = bench.pragma("page_count");
    bench.writer.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let (opens, mut opened): (Vec<_>, Vec<_>) = (0..300)
        .map(|n| {
            let (open, progress, answer) = bench.open(&format!("r{n}"));
            progress.record(&timings(10, 3));
            (open, answer)
        })
        .unzip();
    bench.turn(opens);
    assert!(opened.iter_mut().all(|answer| matches!(answer.try_recv(), Ok(Ok(())))));
    let health = bench.writer.gauges.read();
    assert_eq!((health.healthy, health.unrecorded, health.unsettled), (false, 300, 0));
    // One of them ends meanwhile. What runs without a row is not counted again.
    let (close, mut closed) = bench.close("r0", 7);
    bench.turn([close]);
    assert_eq!(code(&mut closed), Some(ErrorCode::DiskFull));
    assert_eq!(bench.writer.gauges.read().unrecorded, 300);
    assert_eq!(bench.writer.pause(), Some(MIN_PAUSE), "progress is due, and what failed");

    bench.writer.connection.pragma_update(None, "max_page_count", 1_000_000).unwrap();
    bench.turn([]);
    assert_eq!(bench.tokens("r0"), (Some("complete".to_owned()), 7));
    bench.turn([]);
    assert_eq!(bench.tokens("r299"), (None, 3), "the others are open, with their progress");
    let health = bench.writer.gauges.read();
    assert_eq!((health.healthy, health.unrecorded, health.unsettled), (true, 300, 0));
    bench.turn((0..300).map(|n| bench.close(&format!("r{n}"), 9).0).collect::<Vec<_>>());
    assert_eq!(bench.tokens("r0"), (Some("complete".to_owned()), 7));
    assert_eq!(bench.tokens("r299"), (Some("complete".to_owned()), 9));
    assert!(bench.writer.live.is_empty());
    assert_eq!(bench.places.available_permits(), 2000);
}

#[test]
fn a_file_that_was_deleted_or_replaced_is_not_written_on() {
    let mut bench = Bench::new();
    let path = bench.dir.path().join(schema::FILE);
    let aside = bench.dir.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    let (close, mut closed) = bench.close("r1", 7);
    bench.turn([close]);
    assert_eq!(code(&mut closed), Some(ErrorCode::ReadOnly));
    std::fs::write(&path, "something else").unwrap();
    let (open, _progress, mut opened) = bench.open("r2");
    bench.turn([open]);
    assert_eq!(code(&mut opened), Some(ErrorCode::ReadOnly));
    let health = bench.writer.gauges.read();
    assert_eq!((health.healthy, health.unsettled), (false, 1));

    std::fs::rename(&aside, &path).unwrap();
    bench.turn([]);
    assert_eq!(bench.tokens("r1"), (Some("complete".to_owned()), 7));
    assert!(bench.writer.gauges.read().healthy);
}

#[test]
fn a_damaged_page_keeps_entries_from_being_written_over_it() {
    use std::os::unix::fs::FileExt;
    let mut bench = Bench::new();
    bench.turn([bench.close("r0", 7).0]);
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'entries'";
    let page: u32 = bench.writer.connection.query_row(sql, [], |row| row.get(0)).unwrap();
    let path = bench.dir.path().join(schema::FILE);
    // As when the server is started again: everything is in the file, and nothing in memory.
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    bench.writer.connection.query_row(checkpoint, [], |_| Ok(())).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xa5; 4096], u64::from(page - 1) * 4096).unwrap();
    bench.writer.connection = Connection::open(&path).unwrap();

    let (open, _progress, mut opened) = bench.open("r1");
    let (close, mut closed) = bench.close("r2", 7);
    bench.turn([open, close]);
    assert_eq!(code(&mut opened), Some(ErrorCode::DatabaseCorrupt));
    assert_eq!(code(&mut closed), Some(ErrorCode::DatabaseCorrupt));
    assert!(!bench.writer.gauges.read().healthy);
}

#[test]
fn slot_time_is_written_ahead_every_few_seconds_also_without_a_token() {
    let mut bench = Bench::new();
    let (open, _progress, _answer) = bench.open("r1");
    bench.turn([open]);
    let slot_time = |bench: &Bench| -> (i64, i64) {
        let sql = "SELECT prefill_slot_ms, decode_slot_ms FROM entries WHERE request_id = 'r1'";
        bench.writer.connection.query_row(sql, [], |row| row.try_into()).unwrap()
    };
    bench.turn([]);
    assert_eq!(slot_time(&bench), (0, 0), "not with every commit");
    for live in bench.writer.live.values_mut() {
        live.since -= SLOT_TIME_STEP;
        live.written_at -= SLOT_TIME_STEP;
    }
    bench.turn([]);
    let (prefill, decode) = slot_time(&bench);
    assert!(prefill >= SLOT_TIME_STEP.as_millis() as i64 && decode == 0, "{prefill}, {decode}");
    // What a kill -9 would leave is what was written ahead.
    schema::close_interrupted(&mut bench.writer.connection, false).unwrap();
    assert_eq!(bench.tokens("r1"), (Some("interrupted".to_owned()), 0));
    assert_eq!(slot_time(&bench), (prefill, 0));
    let sql = "SELECT prefill_slot_ms FROM daily";
    assert_eq!(bench.writer.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(), prefill);
}

#[test]
fn no_slot_time_is_written_ahead_while_a_request_waits_again() {
    const STEP: i64 = SLOT_TIME_STEP.as_millis() as i64;
    let mut bench = Bench::new();
    let (open, progress, _answer) = bench.open("r1");
    bench.turn([open]);
    let later = |bench: &mut Bench| -> i64 {
        for live in bench.writer.live.values_mut() {
            live.since -= SLOT_TIME_STEP;
            live.written_at -= SLOT_TIME_STEP;
        }
        bench.turn([]);
        let sql = "SELECT prefill_slot_ms FROM entries WHERE request_id = 'r1'";
        bench.writer.connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert!((STEP..2 * STEP).contains(&later(&mut bench)));
    progress.waits_again();
    assert_eq!(later(&mut bench), 0, "its slots were of no use");
    let dispatched = crate::ledger::tests::dispatched().at;
    progress.dispatched_again(dispatched + 3 * SLOT_TIME_STEP);
    assert!((0..STEP).contains(&later(&mut bench)));
    assert!((STEP..2 * STEP).contains(&later(&mut bench)));
}
