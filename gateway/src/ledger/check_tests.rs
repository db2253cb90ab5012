//! A check finds what somebody has changed, and nothing else.

use super::*;
use crate::ledger::tests::{LAZY, complete, dispatched, open_ledger, subject};

/// A ledger with a settled entry `r1` and an open one.
async fn ledger_of(dir: &Path) {
    let (ledger, handle) = open_ledger(dir, LAZY);
    ledger.admit(subject("r1")).unwrap().close(complete(7)).await.unwrap();
    let mut open = ledger.admit(subject("r2")).unwrap();
    open.open(dispatched()).await.unwrap();
    assert_eq!(wrong(dir), [""; 0]);
    drop(open);
    handle.close().await.unwrap();
    assert_eq!(wrong(dir), [""; 0]);
}

fn wrong(dir: &Path) -> Vec<String> {
    check(dir).unwrap().into_iter().flat_map(|one| one.wrong).collect()
}

#[tokio::test]
async fn what_somebody_changed_behind_the_ledgers_back_is_found() {
    for (change, told) in [
        ("UPDATE entries SET prompt_tokens = 11 WHERE request_id = 'r1'", "differs from its entries by 0 requests, -1"),
        ("UPDATE daily SET decode_slot_ms = decode_slot_ms + 5", "0 and 5 ms in slots"),
        ("DELETE FROM entries WHERE request_id = 'r2'", "1 requests more than entries"),
        ("DELETE FROM daily", "-2 requests more"),
        ("INSERT INTO outbox (request_id, revision) VALUES ('r1', 0), ('r1', 1)", "r1, revision 1"),
        ("INSERT INTO outbox (request_id, revision) VALUES ('r9', 0)", "r9, revision 0"),
        (
            "INSERT INTO corrections SELECT 'r1', 2, 0, 'x', tenant, key_id, model, surface, arrived_ms, 0, 0, 0, 0, 0, 0
             FROM entries WHERE request_id = 'r1'",
            "r1, revision 2",
        ),
        ("UPDATE entries SET cached_tokens = 20 WHERE request_id = 'r1'", "r1: prompt 10, cached 20"),
        ("UPDATE entries SET ended_ms = arrived_ms - 1 WHERE request_id = 'r1'", "r1: arrived"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        ledger_of(dir.path()).await;
        let connection = Connection::open(dir.path().join(schema::FILE)).unwrap();
        connection.execute_batch(change).unwrap();
        let wrong = wrong(dir.path());
        assert!(wrong.iter().any(|line| line.contains(told)), "{change}: {wrong:?}");
    }
}

#[tokio::test]
async fn a_damaged_page_is_found() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    ledger_of(dir.path()).await;
    let path = dir.path().join(schema::FILE);
    let connection = Connection::open(&path).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'entries_by_arrival'";
    let page: u32 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(connection);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xa5; 4096], u64::from(page - 1) * 4096).unwrap();
    let checked = check(dir.path()).unwrap();
    assert_eq!(checked.len(), 1, "nothing else is asked of it: {checked:?}");
    assert!(!checked[0].wrong.is_empty(), "{checked:?}");
}

#[test]
fn without_a_ledger_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(check(dir.path()), Err(UsageError::NoLedger { .. })));
}
