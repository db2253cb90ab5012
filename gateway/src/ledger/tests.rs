//! The ledger as the handler sees it: acknowledgements are awaited, nothing sleeps.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use rusqlite::Connection;

use super::query::Filter;
use super::usage::{Reader, RequestRow, UsageError};
use super::*;
use crate::surface::Surface;

/// A time in milliseconds after the start of 2026.
pub(super) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_767_225_600_000 + millis).unwrap()
}

pub(super) fn subject(request_id: &str) -> Subject {
    Subject {
        request_id: request_id.into(),
        tenant: "acme".into(),
        key_id: "abcdefgh".into(),
        model: "smollm2".into(),
        surface: Surface::Chat,
        arrived: at(0),
    }
}

pub(super) fn timings(prompt: u64, completion: u64) -> Count {
    Count { prompt, cached: 1, completion, by: CountedBy::Timings, ..Count::default() }
}

/// A request that got one slot after 5 ms.
pub(super) fn dispatched() -> Dispatched {
    Dispatched {
        at: at(5),
        queue_wait: Duration::from_millis(4),
        upstream: "127.0.0.1:8001".into(),
        slots: 1,
        prompt: 10,
    }
}

pub(super) fn complete(completion: u64) -> Outcome {
    Outcome {
        ending: Ending::Complete,
        status: 200,
        count: Count { prompt: 10, cached: 1, completion, by: CountedBy::Usage, reasoning: Some(2) },
        dispatched: Some(dispatched()),
        queue_wait: Duration::from_millis(4),
        first_token: Some(at(30)),
        ended: at(90),
    }
}

/// Progress is written ahead with every commit.
pub(super) const EAGER: Settings = Settings { progress_interval: Duration::ZERO, ..LAZY };
/// Progress is never written ahead.
pub(super) const LAZY: Settings = Settings {
    progress_interval: Duration::from_secs(3600),
    max_live: 64,
    on_failure: OnFailure::Refuse,
    export: false,
};

pub(super) fn open_ledger(dir: &Path, settings: Settings) -> (Ledger, LedgerHandle) {
    Ledger::open(dir, Clock::from_fn(|| at(1000)), settings).unwrap()
}

fn rows(dir: &Path) -> Vec<RequestRow> {
    let mut rows = Vec::new();
    let push = |row| {
        rows.push(row);
        Ok(())
    };
    Reader::open(dir).unwrap().requests((Timestamp::MIN, Timestamp::MAX), &Filter::default(), push).unwrap();
    rows
}

fn row(dir: &Path, request_id: &str) -> RequestRow {
    let mut found: Vec<_> = rows(dir).into_iter().filter(|row| row.request_id == request_id).collect();
    assert_eq!(found.len(), 1, "{request_id}");
    found.remove(0)
}

#[tokio::test]
async fn an_entry_is_open_before_it_is_sent_and_settled_before_the_client_sees_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let mut charge = ledger.admit(subject("r1")).unwrap();
    assert_eq!(rows(dir.path()), []);

    charge.open(dispatched()).await.unwrap();
    let open = row(dir.path(), "r1");
    assert_eq!((open.ending.as_str(), open.dispatched, open.ended, open.status), ("open", Some(at(5)), None, None));

    charge.close(complete(7)).await.unwrap();
    let closed = row(dir.path(), "r1");
    assert_eq!((closed.ending.as_str(), closed.counted_by.as_str(), closed.status), ("complete", "usage", Some(200)));
    assert_eq!((closed.prompt_tokens, closed.cached_tokens, closed.completion_tokens), (10, 1, 7));
    assert_eq!((closed.arrived, closed.first_token, closed.ended), (Some(at(0)), Some(at(30)), Some(at(90))));
    assert_eq!((closed.tenant.as_str(), closed.model.as_str(), closed.surface.as_str()), ("acme", "smollm2", "chat"));
    handle.close().await.unwrap();
}

#[tokio::test]
async fn a_charge_that_was_never_opened_is_one_whole_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let outcome = Outcome {
        ending: Ending::Failed(Reason::QueueFull),
        status: 429,
        count: Count::default(),
        dispatched: None,
        queue_wait: Duration::from_millis(1),
        first_token: None,
        ended: at(1),
    };
    ledger.admit(subject("r1")).unwrap().close(outcome).await.unwrap();
    let row = row(dir.path(), "r1");
    assert_eq!((row.ending.as_str(), row.counted_by.as_str(), row.status), ("queue_full", "nothing", Some(429)));
    assert_eq!((row.dispatched, row.first_token, row.ended), (None, None, Some(at(1))));
    handle.close().await.unwrap();
}

#[tokio::test]
async fn a_dropped_charge_is_a_client_that_left_with_the_last_progress() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let mut charge = ledger.admit(subject("r1")).unwrap();
    charge.open(dispatched()).await.unwrap();
    let progress = charge.progress();
    progress.first_token(at(30));
    progress.record(&timings(10, 3));
    progress.record(&timings(10, 4));
    drop(charge);
    handle.close().await.unwrap();

    let row = row(dir.path(), "r1");
    assert_eq!((row.ending.as_str(), row.counted_by.as_str(), row.status), ("client_left", "timings", Some(499)));
    assert_eq!((row.prompt_tokens, row.cached_tokens, row.completion_tokens), (10, 1, 4));
    assert_eq!((row.dispatched, row.first_token, row.ended), (Some(at(5)), Some(at(30)), Some(at(1000))));
}

#[tokio::test]
async fn a_dropped_closing_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let mut charge = ledger.admit(subject("r1")).unwrap();
    charge.open(dispatched()).await.unwrap();
    drop(charge.close(complete(7)));
    handle.close().await.unwrap();
    assert_eq!(row(dir.path(), "r1").ending, "complete");
}

#[tokio::test]
async fn a_client_that_leaves_while_the_entry_is_opened_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let mut charge = ledger.admit(subject("r1")).unwrap();
    {
        let mut opening = Box::pin(charge.open(dispatched()));
        // Polled once: the message is sent, the answer is not waited for.
        let waker = std::task::Waker::noop();
        drop(opening.as_mut().poll(&mut std::task::Context::from_waker(waker)));
    }
    drop(charge);
    handle.close().await.unwrap();
    assert_eq!(row(dir.path(), "r1").ending, "client_left");
}

#[tokio::test]
async fn a_charge_can_be_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let mut charge = ledger.admit(subject("r1")).unwrap();
    charge.open(dispatched()).await.unwrap();
    assert!(matches!(charge.open(dispatched()).await, Err(LedgerError::OpenedBefore)));
    charge.close(complete(7)).await.unwrap();
    handle.close().await.unwrap();
}

#[tokio::test]
async fn progress_is_written_ahead_without_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), EAGER);
    let mut charge = ledger.admit(subject("r1")).unwrap();
    charge.open(dispatched()).await.unwrap();
    charge.progress().record(&timings(10, 3));
    // Progress is due at every turn of the writer, so it is written with or before this entry.
    ledger.admit(subject("r2")).unwrap().close(complete(0)).await.unwrap();

    let open = row(dir.path(), "r1");
    assert_eq!((open.ending.as_str(), open.counted_by.as_str(), open.completion_tokens), ("open", "timings", 3));
    charge.close(complete(7)).await.unwrap();
    handle.close().await.unwrap();
}

#[test]
fn a_count_that_is_read_while_it_is_recorded_never_has_more_cached_tokens_than_its_prompt() {
    let progress = Progress::default();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                progress.record(&Count::default());
                progress.record(&Count { prompt: 100, cached: 90, ..Count::default() });
            }
        });
        let torn = (0..200_000).map(|_| progress.sample().count).find(|count| count.cached > count.prompt);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(torn, None);
    });
}

#[tokio::test]
async fn what_a_dead_process_left_open_becomes_interrupted_with_its_progress() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), EAGER);
    let mut live = ledger.admit(subject("live")).unwrap();
    live.open(dispatched()).await.unwrap();
    live.progress().first_token(at(30));
    live.progress().record(&timings(10, 3));
    let mut silent = ledger.admit(subject("silent")).unwrap();
    silent.open(dispatched()).await.unwrap();
    ledger.admit(subject("done")).unwrap().close(complete(7)).await.unwrap();
    // What is on the disk now is what a kill -9 would leave.
    for name in ["ledger.sqlite", "ledger.sqlite-wal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    drop((live, silent));
    handle.close().await.unwrap();

    let (_ledger, handle) = open_ledger(copy.path(), LAZY);
    assert_eq!(handle.interrupted(), 2);
    let live = row(copy.path(), "live");
    assert_eq!((live.ending.as_str(), live.counted_by.as_str()), ("interrupted", "timings"));
    assert_eq!((live.prompt_tokens, live.completion_tokens, live.first_token), (10, 3, Some(at(30))));
    assert_eq!((live.ended, live.status), (None, None));
    let silent = row(copy.path(), "silent");
    assert_eq!((silent.ending.as_str(), silent.counted_by.as_str()), ("interrupted", "nothing"));
    assert_eq!(row(copy.path(), "done").ending, "complete");
    handle.close().await.unwrap();

    let (_ledger, handle) = open_ledger(copy.path(), LAZY);
    assert_eq!(handle.interrupted(), 0);
    handle.close().await.unwrap();
}

#[tokio::test]
async fn a_second_server_is_refused_and_told_which_file_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let second = Ledger::open(dir.path(), Clock::system(), LAZY).err().unwrap();
    assert!(matches!(second, LedgerError::InUse { .. }), "{second:?}");
    assert!(second.to_string().contains("serve.lock"), "{second}");

    handle.close().await.unwrap();
    let (_again, handle) = open_ledger(dir.path(), LAZY);
    handle.close().await.unwrap();
    drop(ledger);
}

#[tokio::test]
async fn more_live_charges_than_may_be_are_refused_until_one_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), Settings { max_live: 1, ..LAZY });
    let charge = ledger.admit(subject("r1")).unwrap();
    let refused = ledger.admit(subject("r2")).err().unwrap();
    assert!(matches!(refused, LedgerError::Full));
    assert_eq!(Rejection::from(refused).reason, Reason::LedgerUnavailable);
    charge.close(complete(7)).await.unwrap();
    ledger.admit(subject("r3")).unwrap().close(complete(7)).await.unwrap();
    handle.close().await.unwrap();
}

#[tokio::test]
async fn every_live_charge_may_speak_at_once_and_be_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let mut charges: Vec<_> = (0..64).map(|n| ledger.admit(subject(&format!("r{n}"))).unwrap()).collect();
    let tasks: Vec<_> = charges
        .drain(..)
        .map(|mut charge| async move {
            charge.open(dispatched()).await.unwrap();
            drop(charge);
        })
        .collect();
    let mut running = tokio::task::JoinSet::new();
    tasks.into_iter().for_each(|task| drop(running.spawn(task)));
    running.join_all().await;
    handle.close().await.unwrap();
    let rows = rows(dir.path());
    assert_eq!(rows.len(), 64);
    assert!(rows.iter().all(|row| row.ending == "client_left"));
}

#[tokio::test]
async fn a_closed_ledger_refuses_requests_and_a_late_charge_does_not_panic() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let mut late = ledger.admit(subject("late")).unwrap();
    handle.close().await.unwrap();
    assert!(matches!(ledger.admit(subject("r2")), Err(LedgerError::Stopped)));
    assert!(matches!(late.open(dispatched()).await, Err(LedgerError::Stopped)));
    assert!(matches!(late.close(complete(7)).await, Err(LedgerError::Stopped)));
    assert!(!ledger.health().healthy);
}

#[tokio::test]
async fn a_locked_database_refuses_requests_and_recovers_without_losing_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let mut running = ledger.admit(subject("running")).unwrap();
    running.open(dispatched()).await.unwrap();

    let other = Connection::open(dir.path().join("ledger.sqlite")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut refused = ledger.admit(subject("refused")).unwrap();
    let (opened, closed) = tokio::join!(refused.open(dispatched()), running.close(complete(7)));
    assert!(matches!(opened, Err(LedgerError::Write(_))), "{opened:?}");
    assert!(matches!(closed, Err(LedgerError::Write(_))), "{closed:?}");
    let health = ledger.health();
    assert!(!health.healthy && health.failures > 0 && health.unsettled == 1, "{health:?}");
    assert!(health.lag > Duration::ZERO, "{health:?}");
    drop(refused);
    other.execute_batch("ROLLBACK").unwrap();

    // Whatever is committed next takes along what failed.
    ledger.admit(subject("next")).unwrap().close(complete(1)).await.unwrap();
    assert_eq!(row(dir.path(), "running").ending, "complete");
    assert_eq!(row(dir.path(), "refused").ending, "client_left");
    assert_eq!(row(dir.path(), "refused").dispatched, None);
    handle.close().await.unwrap();
    assert!(ledger.health().healthy);
    assert_eq!(ledger.health().lag, Duration::ZERO);
}

#[tokio::test]
async fn where_requests_go_on_without_the_ledger_memory_still_bounds_them() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), Settings { on_failure: OnFailure::Serve, max_live: 1, ..LAZY });
    let other = Connection::open(dir.path().join("ledger.sqlite")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut charge = ledger.admit(subject("r1")).unwrap();
    charge.open(dispatched()).await.unwrap();
    let health = ledger.health();
    assert!(!health.healthy && ledger.takes_requests(), "{health:?}");
    assert_eq!(health.unrecorded, 1);
    assert!(matches!(charge.close(complete(7)).await, Err(LedgerError::Write(_))));
    assert!(matches!(ledger.admit(subject("r2")), Err(LedgerError::Full)));

    other.execute_batch("ROLLBACK").unwrap();
    handle.close().await.unwrap();
    assert_eq!((row(dir.path(), "r1").ending.as_str(), row(dir.path(), "r1").completion_tokens), ("complete", 7));
}

#[tokio::test]
async fn a_reader_works_beside_a_server_without_one_and_says_when_there_is_no_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Reader::open(dir.path()).err().unwrap();
    assert!(matches!(missing, UsageError::NoLedger { .. }));
    assert!(missing.to_string().contains("there is no ledger at"), "{missing}");

    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    let reader = Reader::open(dir.path()).unwrap();
    ledger.admit(subject("r1")).unwrap().close(complete(7)).await.unwrap();
    assert_eq!(reader.tokens(Timestamp::MIN, Timestamp::MAX).unwrap()[0].tokens, 17);
    drop(reader);
    handle.close().await.unwrap();
    assert!(!dir.path().join("ledger.sqlite-wal").exists());

    assert_eq!(row(dir.path(), "r1").completion_tokens, 7);
    let (_ledger, handle) = open_ledger(dir.path(), LAZY);
    handle.close().await.unwrap();
}

/// What may happen to one charge, in any order that the types allow.
#[derive(Clone, Copy, Debug)]
enum Step {
    Open,
    OpenAndLeave,
    Progress(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        prop_oneof![Just(Step::Open), Just(Step::OpenAndLeave), (1u64..100).prop_map(Step::Progress)],
        0..6,
    )
}

async fn live_through(mut charge: Charge, steps: Vec<Step>, close: Option<u64>, wait: bool) {
    for step in steps {
        match step {
            Step::Open => drop(charge.open(dispatched()).await),
            Step::OpenAndLeave => tokio::select! { biased;
                _ = std::future::ready(()) => {}
                _ = charge.open(dispatched()) => {}
            },
            Step::Progress(tokens) => charge.progress().record(&timings(10, tokens)),
        }
    }
    match close {
        Some(tokens) if wait => charge.close(complete(tokens)).await.unwrap(),
        Some(tokens) => drop(charge.close(complete(tokens))),
        None => drop(charge),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_charge_is_settled_exactly_once(
        lives in prop::collection::vec((steps(), prop::option::of(1u64..100), any::<bool>()), 1..12)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (ledger, handle) = open_ledger(dir.path(), EAGER);
            let mut running = tokio::task::JoinSet::new();
            for (n, (steps, close, wait)) in lives.clone().into_iter().enumerate() {
                let charge = ledger.admit(subject(&format!("r{n}"))).unwrap();
                running.spawn(live_through(charge, steps, close, wait));
            }
            running.join_all().await;
            handle.close().await.unwrap();
        });
        prop_assert_eq!(rows(dir.path()).len(), lives.len());
        for (n, (steps, close, _)) in lives.iter().enumerate() {
            let row = row(dir.path(), &format!("r{n}"));
            let last = steps.iter().rev().find_map(|step| match step { Step::Progress(n) => Some(*n), _ => None });
            let expected = match close {
                Some(tokens) => ("complete", "usage", *tokens),
                None => ("client_left", if last.is_some() { "timings" } else { "nothing" }, last.unwrap_or(0)),
            };
            prop_assert_eq!((row.ending.as_str(), row.counted_by.as_str(), row.completion_tokens), expected);
        }
    }
}
