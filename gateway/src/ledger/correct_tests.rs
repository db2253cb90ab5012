//! Corrections of entries that a running server has settled.

use super::*;
use crate::ledger::Settings;
use crate::ledger::check::check;
use crate::ledger::tests::{LAZY, at, complete, dispatched, open_ledger, subject};

fn correction() -> Correction {
    Correction { request_id: "r1".to_owned(), reason: "counted twice".to_owned(), ..Correction::default() }
}

const BEFORE: Counts =
    Counts { prompt: 10, cached: 1, completion: 7, reasoning: 2, prefill_slot_ms: 25, decode_slot_ms: 60 };

fn query<T: rusqlite::types::FromSql>(dir: &Path, sql: &str) -> T {
    let connection = Connection::open(dir.join(schema::FILE)).unwrap();
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn is_right(dir: &Path) -> bool {
    check(dir).unwrap().iter().all(|one| one.wrong.is_empty())
}

#[tokio::test]
async fn corrections_follow_each_other_beside_a_running_server_and_leave_the_entry_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), Settings { export: true, ..LAZY });
    ledger.admit(subject("r1")).unwrap().close(complete(7)).await.unwrap();
    // It was delivered.
    ledger.work(|connection| connection.execute("DELETE FROM outbox", [])).await.unwrap();

    let first = Correction { prompt: Some(30), cached: Some(20), ..correction() };
    let corrected = first.apply(dir.path(), at(5000), true).unwrap();
    let now = Counts { prompt: 30, cached: 20, ..BEFORE };
    assert_eq!(corrected, Corrected { revision: 1, before: BEFORE, after: now });
    let second = Correction { completion: Some(1), ..correction() };
    // As by a command that was not given the server's configuration.
    let corrected = second.apply(dir.path(), at(6000), false).unwrap();
    let later = Counts { completion: 1, reasoning: 1, ..now };
    assert_eq!(corrected, Corrected { revision: 2, before: now, after: later });
    let void = Correction { void: true, ..correction() };
    let corrected = void.apply(dir.path(), at(7000), true).unwrap();
    assert_eq!(corrected, Corrected { revision: 3, before: later, after: Counts::default() });

    ledger.admit(subject("r2")).unwrap().close(complete(7)).await.unwrap();
    let dir = dir.path();
    assert_eq!(query::<i64>(dir, "SELECT prompt_tokens FROM entries WHERE request_id = 'r1'"), 10);
    assert_eq!(query::<i64>(dir, "SELECT prompt_tokens FROM daily"), 10, "of r2 alone");
    assert_eq!(query::<i64>(dir, "SELECT requests FROM daily"), 2, "a correction is no request");
    let outbox = "SELECT group_concat(revision) FROM outbox";
    assert_eq!(query::<String>(dir, outbox), "1,2,3,0");
    let reason = "SELECT reason || at_ms FROM corrections WHERE revision = 2";
    assert_eq!(query::<String>(dir, reason), format!("counted twice{}", at(6000).as_millisecond()));
    assert!(is_right(dir));
    handle.close().await.unwrap();
}

#[tokio::test]
async fn a_correction_of_what_was_never_exported_is_not_exported() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    ledger.admit(subject("r1")).unwrap().close(complete(7)).await.unwrap();
    Correction { void: true, ..correction() }.apply(dir.path(), at(5000), false).unwrap();
    assert_eq!(query::<i64>(dir.path(), "SELECT count(*) FROM outbox"), 0);
    handle.close().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = Correction { void: true, ..correction() }.apply(dir.path(), at(0), false);
    assert!(matches!(nowhere, Err(CorrectionError::NoLedger(_))));
    let (ledger, handle) = open_ledger(dir.path(), LAZY);
    ledger.admit(subject("r1")).unwrap().close(complete(7)).await.unwrap();
    let mut open = ledger.admit(subject("open")).unwrap();
    open.open(dispatched()).await.unwrap();

    let with = |prompt, cached, completion| Correction { prompt, cached, completion, ..correction() };
    for (wrong, told) in [
        (Correction { request_id: "r9".to_owned(), ..with(Some(1), None, None) }, "has no entry `r9`"),
        (Correction { request_id: "open".to_owned(), ..with(Some(1), None, None) }, "is still open"),
        (Correction { reason: " ".to_owned(), ..with(Some(1), None, None) }, "a reason is"),
        (Correction { reason: "a\nb".to_owned(), ..with(Some(1), None, None) }, "a reason is"),
        (Correction { reason: "x".repeat(201), ..with(Some(1), None, None) }, "a reason is"),
        (with(None, None, None), "what is it to be?"),
        (with(Some(10), Some(1), Some(7)), "says already"),
        (with(None, Some(11), None), "more would be cached"),
        (with(Some(0), None, None), "more would be cached"),
        (with(Some(1_000_000_001), None, None), "no request has more"),
        (Correction { void: true, ..with(Some(1), None, None) }, "give numbers or --void"),
    ] {
        let error = wrong.apply(dir.path(), at(0), true).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    assert_eq!(query::<i64>(dir.path(), "SELECT count(*) FROM corrections"), 0);
    assert_eq!(query::<i64>(dir.path(), "SELECT count(*) FROM outbox"), 0);
    assert!(is_right(dir.path()));
    drop(open);
    handle.close().await.unwrap();
}
