//! Whatever is deleted, the sums stay; and who settles an entry hardly notices.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rusqlite::TransactionBehavior;

use super::*;
use crate::database;
use crate::ledger::correct::Correction;
use crate::ledger::schema::{self, Statements};
use crate::ledger::tests::{LAZY, at, complete, dispatched, open_ledger, subject};
use crate::ledger::{Dispatched, Outcome, Settings, Subject, check};

const DAY_MS: i64 = 86_400_000;
const DAY: Duration = Duration::from_secs(86_400);

fn on_day(id: usize, day: i64) -> Subject {
    let of = |what: &str| Arc::<str>::from(format!("{what}{}", id % 2));
    Subject {
        arrived: at(day * DAY_MS + id as i64),
        tenant: of("tenant"),
        key_id: of("key"),
        ..subject(&format!("r{id}"))
    }
}

/// The request got one slot at once, and ended with so many tokens.
fn outcome(subject: &Subject, tokens: u64) -> Outcome {
    let (arrived, outcome) = (subject.arrived, complete(tokens));
    let after = |ms| arrived + Duration::from_millis(ms);
    let dispatched = outcome.dispatched.map(|dispatched| Dispatched { at: after(5), ..dispatched });
    Outcome { dispatched, first_token: Some(after(30)), ended: after(90), ..outcome }
}

fn opened(subject: &Subject) -> Dispatched {
    Dispatched { at: subject.arrived, ..dispatched() }
}

fn wrong(dir: &Path) -> Vec<String> {
    check::check(dir).unwrap().into_iter().flat_map(|one| one.wrong).collect()
}

/// What may happen to a ledger.
#[derive(Clone, Debug)]
enum Event {
    /// A request arrives on a day, is opened, and settled with so many tokens.
    Settle { day: i64, tokens: u64 },
    /// A request arrives on a day and is opened.
    Open { day: i64 },
    /// The gateway dies and is started again.
    Interrupt,
    /// An entry that is still there is settled once more, with another number.
    Replay { which: usize },
    /// An entry is corrected, if it is still there.
    Correct { which: usize, prompt: u64, completion: u64 },
    /// What waits for the exporter is delivered, up to so many.
    Deliver { most: i64 },
    /// What arrived before a day is deleted.
    Retain { day: i64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..6i64, 0..50u64).prop_map(|(day, tokens)| Event::Settle { day, tokens }),
        2 => (0..6i64).prop_map(|day| Event::Open { day }),
        1 => Just(Event::Interrupt),
        2 => any::<usize>().prop_map(|which| Event::Replay { which }),
        3 => (any::<usize>(), 1..90u64, 0..90u64)
            .prop_map(|(which, prompt, completion)| Event::Correct { which, prompt, completion }),
        2 => (0..9i64).prop_map(|most| Event::Deliver { most }),
        2 => (0..7i64).prop_map(|day| Event::Retain { day }),
    ]
}

/// Requests, prompt, completion and slot time that should stand for a day, tenant and key.
type Sums = BTreeMap<(i64, String, String), [i64; 4]>;

/// The ledger's file and what it should say.
struct World {
    connection: Connection,
    /// Of each request: who asked on which day, whether it is open, and its prompt, completion and slot time.
    requests: Vec<(Subject, bool, [i64; 3])>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let connection = database::open(&dir.path().join(schema::FILE), schema::MIGRATIONS).unwrap();
        connection.pragma_update(None, "synchronous", "off").unwrap();
        Self { connection, requests: Vec::new(), _dir: dir }
    }

    fn write(&mut self, write: impl FnOnce(&mut Statements<'_>)) {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let mut statements = Statements::prepare(&transaction, true).unwrap();
        write(&mut statements);
        statements.finish().unwrap();
        transaction.commit().unwrap();
    }

    fn open(&mut self, day: i64) -> Subject {
        let subject = on_day(self.requests.len(), day);
        self.write(|statements| assert_eq!(statements.open(&subject, &opened(&subject)).unwrap(), 1));
        self.requests.push((subject.clone(), true, [0, 0, 0]));
        subject
    }

    fn exists(&self, subject: &Subject) -> bool {
        let sql = "SELECT count(*) FROM entries WHERE request_id = ?1";
        self.connection.query_row(sql, [&subject.request_id], |row| row.get::<_, i64>(0)).unwrap() == 1
    }

    fn settle(&mut self, subject: &Subject, tokens: u64) {
        self.write(|statements| statements.close(subject, &outcome(subject, tokens)).unwrap());
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Settle { day, tokens } => {
                let subject = self.open(day);
                self.settle(&subject, tokens);
                let slot_ms = outcome(&subject, tokens).slot_time();
                let slot_ms = (slot_ms.prefill + slot_ms.decode).as_millis() as i64;
                let last = self.requests.last_mut().unwrap();
                (last.1, last.2) = (false, [10, tokens as i64, slot_ms]);
            }
            Event::Open { day } => drop(self.open(day)),
            Event::Interrupt => {
                schema::close_interrupted(&mut self.connection, true).unwrap();
                self.requests.iter_mut().for_each(|request| request.1 = false);
            }
            Event::Replay { which } => {
                let Some((subject, open, _)) = self.pick(which) else { return };
                if !open && self.exists(&subject) {
                    self.settle(&subject, 99);
                }
            }
            Event::Correct { which, prompt, completion } => {
                let Some((subject, open, before)) = self.pick(which) else { return };
                let correction = Correction {
                    request_id: subject.request_id.to_string(),
                    reason: "a test".to_owned(),
                    prompt: Some(prompt),
                    completion: Some(completion),
                    cached: Some(0),
                    void: false,
                };
                let may_be = !open && self.exists(&subject);
                let done = correction.write(&self.connection, at(0), true);
                if done.is_ok() {
                    assert!(may_be);
                    let index = which % self.requests.len();
                    self.requests[index].2 = [prompt as i64, completion as i64, before[2]];
                }
            }
            Event::Deliver { most } => {
                let sql =
                    "DELETE FROM outbox WHERE sequence IN (SELECT sequence FROM outbox ORDER BY sequence LIMIT ?1)";
                self.connection.execute(sql, [most]).unwrap();
            }
            Event::Retain { day } => {
                let before = at(day * DAY_MS);
                delete_slice(&self.connection, before, &Position::MIN).unwrap();
            }
        }
    }

    fn pick(&self, which: usize) -> Option<(Subject, bool, [i64; 3])> {
        (!self.requests.is_empty()).then(|| self.requests[which % self.requests.len()].clone())
    }

    fn expected(&self) -> Sums {
        let mut sums = Sums::new();
        for (subject, open, [prompt, completion, slot_ms]) in &self.requests {
            if !open {
                let whose = (day_of(subject.arrived), subject.tenant.to_string(), subject.key_id.to_string());
                let sum = sums.entry(whose).or_default();
                for (sum, add) in sum.iter_mut().zip([1, *prompt, *completion, *slot_ms]) {
                    *sum += add;
                }
            }
        }
        sums
    }

    fn found(&self) -> Sums {
        let sql = "SELECT day, tenant, key_id, requests, prompt_tokens, completion_tokens,
                prefill_slot_ms + decode_slot_ms FROM daily";
        let mut statement = self.connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| {
            let sums = [row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
            Ok(((row.get(0)?, row.get(1)?, row.get(2)?), sums))
        });
        rows.unwrap().map(Result::unwrap).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_sums_of_a_day_stay_whatever_is_deleted_corrected_replayed_or_interrupted(
        events in prop::collection::vec(event(), 1..40)
    ) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
            prop_assert_eq!(world.found(), world.expected());
            for one in check::compare(&world.connection).unwrap() {
                prop_assert!(one.wrong.is_empty(), "{:?}", one);
            }
        }
        // Nothing open and nothing that waits for the exporter was deleted.
        for (subject, open, _) in &world.requests {
            prop_assert!(!open || world.exists(subject));
        }
    }
}

/// A ledger with so many settled entries on each of the days 0, 1, 2 and so on.
async fn ledger_of(dir: &Path, days: i64, entries: usize, settings: Settings) -> (Ledger, crate::ledger::LedgerHandle) {
    let (ledger, handle) = open_ledger(dir, settings);
    for day in 0..days {
        for n in 0..entries {
            let subject = on_day(day as usize * entries + n, day);
            let outcome = outcome(&subject, 7);
            ledger.admit(subject).unwrap().close(outcome).await.unwrap();
        }
    }
    (ledger, handle)
}

async fn count(ledger: &Ledger, table: &'static str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    ledger.work(move |connection| connection.query_row(&sql, [], |row| row.get(0))).await.unwrap()
}

fn retention(ledger: &Ledger, keep: Keep) -> Retention {
    Retention::new(ledger.clone(), Clock::from_fn(|| at(10 * DAY_MS)), keep)
}

#[tokio::test]
async fn what_is_old_is_deleted_but_not_what_is_open_or_waits_to_be_exported() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = ledger_of(dir.path(), 3, 250, Settings { export: true, max_live: 64, ..LAZY }).await;
    let running = on_day(5000, 0);
    let mut open = ledger.admit(running.clone()).unwrap();
    open.open(opened(&running)).await.unwrap();
    let keep = Keep { entries: 9 * DAY, days: Duration::ZERO };
    assert_eq!(retention(&ledger, keep).delete(at(10 * DAY_MS)).await.unwrap(), 0, "all of it waits for the exporter");
    ledger.work(|connection| connection.execute("DELETE FROM outbox WHERE request_id != 'r3'", [])).await.unwrap();

    assert_eq!(retention(&ledger, keep).delete(at(10 * DAY_MS)).await.unwrap(), 249);
    assert_eq!(count(&ledger, "entries").await, 500 + 2);
    assert_eq!(count(&ledger, "daily").await, 6);
    assert_eq!(wrong(dir.path()), [""; 0]);

    // The sums of day 0 stay as long as an entry of it does.
    let days = Keep { entries: Duration::ZERO, days: 8 * DAY };
    assert_eq!(retention(&ledger, days).delete(at(10 * DAY_MS)).await.unwrap(), 0);
    assert_eq!(count(&ledger, "daily").await, 6);
    open.close(outcome(&running, 7)).await.unwrap();
    let late = on_day(5001, 9);
    ledger.admit(late.clone()).unwrap().close(outcome(&late, 1)).await.unwrap();
    ledger.work(|connection| connection.execute("DELETE FROM outbox", [])).await.unwrap();
    let both = Keep { entries: 8 * DAY, days: 8 * DAY };
    assert_eq!(retention(&ledger, both).delete(at(10 * DAY_MS)).await.unwrap(), 252);
    assert_eq!(count(&ledger, "daily").await, 2 + 1);
    assert_eq!(count(&ledger, "retired").await, 0);
    let for_ever = Keep { entries: Duration::ZERO, days: Duration::ZERO };
    assert_eq!(retention(&ledger, for_ever).delete(at(10 * DAY_MS)).await.unwrap(), 0);
    assert_eq!(wrong(dir.path()), [""; 0]);
    handle.close().await.unwrap();
}

/// What was used of the quotas of the month is known from them after a restart.
#[tokio::test]
async fn sums_that_are_kept_as_short_as_may_be_are_still_those_of_the_whole_month() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = ledger_of(dir.path(), 31, 1, LAZY).await;
    let keep = Keep { entries: DAY, days: 31 * DAY };
    let end_of_month = 31 * DAY_MS - 1;
    assert_eq!(retention(&ledger, keep).delete(at(end_of_month)).await.unwrap(), 30);
    let used = crate::ledger::usage::Reader::open(dir.path()).unwrap().tokens(at(0), at(31 * DAY_MS)).unwrap();
    assert_eq!(used.iter().map(|used| used.tokens).sum::<u64>(), 31 * (10 + 7));
    handle.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_looks_a_minute_after_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let (start, looks) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let told = looks.clone();
    let clock = Clock::from_fn(move || {
        told.lock().unwrap().push(start.elapsed());
        at(0)
    });
    let keep = Keep { entries: DAY, days: Duration::ZERO };
    tokio::time::timeout(2 * FIRST_LOOK, Retention::new(ledger, clock, keep).run()).await.unwrap_err();
    let whole_seconds = |looks: &[Duration]| looks.iter().map(Duration::as_secs).collect::<Vec<_>>();
    assert_eq!(whole_seconds(&looks.lock().unwrap()), [0, FIRST_LOOK.as_secs()]);
    handle.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_deletes_nothing_until_it_is_right_again() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = ledger_of(dir.path(), 2, 3, LAZY).await;
    // Wall-clock time goes with tokio's, and can be set besides.
    let (start, set) = (Instant::now(), Arc::new(Mutex::new(SignedDuration::ZERO)));
    let ahead = set.clone();
    let clock = Clock::from_fn(move || at(DAY_MS + 60_000) + start.elapsed() + *ahead.lock().unwrap());
    let keep = Keep { entries: DAY, days: Duration::ZERO };
    let retention = Retention::new(ledger.clone(), clock, keep);
    for hours in [24 * 365, 2, -2, -24 * 365] {
        *set.lock().unwrap() = SignedDuration::from_hours(hours);
        retention.look().await;
        assert_eq!(count(&ledger, "entries").await, 6);
    }
    // As if it was put right by a few seconds.
    *set.lock().unwrap() = SignedDuration::from_secs(5);
    retention.look().await;
    assert_eq!(count(&ledger, "entries").await, 3, "those of day 0 are a day old");
    tokio::time::advance(DAY).await;
    retention.look().await;
    assert_eq!(count(&ledger, "entries").await, 0);
    handle.close().await.unwrap();
}

#[tokio::test]
async fn the_file_shrinks_while_entries_are_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(schema::FILE);
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    // Many at once: this test is about what is deleted.
    let fill = |connection: &Connection| {
        let sql = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
            INSERT INTO entries (request_id, tenant, key_id, model, surface, ending, counted_by, prompt_tokens,
                cached_tokens, completion_tokens, arrived_ms)
            SELECT hex(randomblob(16)), 'acme', 'abcdefgh', 'smollm2', 'chat', 'complete', 'usage', 1, 0, 1, n FROM n";
        connection.execute(sql, [])?;
        connection.execute(
            "INSERT INTO daily SELECT 0, tenant, key_id, model, surface, count(*), count(*), 0, count(*), 0, 0, 0, 0
             FROM entries GROUP BY 1, 2, 3, 4, 5",
            [],
        )
    };
    ledger.work(fill).await.unwrap();
    let length = |path: &Path| std::fs::metadata(path).unwrap().len();
    let log = || length(&path.with_extension("sqlite-wal"));
    let size = || length(&path) + log();
    let checkpoint = || Connection::open(&path).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    checkpoint().unwrap();
    let before = size();
    assert!(before > 2 << 20, "{before}");

    let deleting = retention(&ledger, Keep { entries: DAY, days: Duration::ZERO });
    let deleting = async { deleting.delete(at(10 * DAY_MS)).await.unwrap() };
    let (stop, mut written) = (tokio_util::sync::CancellationToken::new(), 0);
    let writing = async {
        while !stop.is_cancelled() {
            let subject = on_day(written, 10);
            let outcome = outcome(&subject, 7);
            ledger.admit(subject).unwrap().close(outcome).await.unwrap();
            crate::ledger::usage::Reader::open(dir.path()).unwrap().tokens(at(0), at(31 * DAY_MS)).unwrap();
            written += 1;
        }
    };
    let deleting = async {
        let deleted = deleting.await;
        stop.cancel();
        deleted
    };
    let (deleted, ()) = tokio::join!(deleting, writing);
    assert_eq!(deleted, 20_000);
    assert!(written > 10, "entries are written meanwhile: {written}");
    assert!(log() < 8 << 20, "the log does not grow with what was deleted: {}", log());
    checkpoint().unwrap();
    let after = size();
    // What was written meanwhile is there, too: how much that is depends on the machine.
    let new = 512 * written as u64;
    assert!(after < before / 4 + new, "{before} bytes before, {after} after, {written} new entries");
    assert_eq!(wrong(dir.path()), [""; 0]);
    handle.close().await.unwrap();
}

#[tokio::test]
async fn a_file_of_an_older_version_is_rewritten_once_so_that_it_can_shrink() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(schema::FILE);
    let old = Connection::open(&path).unwrap();
    old.pragma_update(None, "journal_mode", "wal").unwrap();
    old.execute_batch(schema::MIGRATIONS[0]).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute_batch(
        "INSERT INTO entries (request_id, tenant, key_id, model, surface, ending, counted_by, prompt_tokens,
            cached_tokens, completion_tokens, arrived_ms) VALUES ('old', 't', 'k', 'm', 'chat', 'complete', 'usage', 5, 1, 2, 0)",
    )
    .unwrap();
    drop(old);
    let mode = |path: &Path| -> i64 {
        Connection::open(path).unwrap().pragma_query_value(None, "auto_vacuum", |row| row.get(0)).unwrap()
    };
    assert_eq!(mode(&path), 0);
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    assert_eq!(mode(&path), 2);
    assert!(!ledger.work(crate::ledger::vacuum::convert).await.unwrap(), "once is enough");
    assert_eq!(retention(&ledger, Keep { entries: DAY, days: Duration::ZERO }).delete(at(0)).await.unwrap(), 1);
    assert_eq!(wrong(dir.path()), [""; 0]);
    handle.close().await.unwrap();
}
