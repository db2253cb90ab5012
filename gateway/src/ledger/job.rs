//! Work on the ledger's file besides that of charges: deleting what is old, marking what was delivered, remembering
//! what llama-servers have counted.
//!
//! The writer's thread does it between two batches, in a transaction of its own: SQLite has one writer, and whoever
//! settles an entry must not wait for a lock. So each job is to be short: much work is cut into many jobs.

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::message::Message;
use super::{Ledger, LedgerError};

/// Jobs that may wait at once. Who asks for another one waits until one is done.
pub(super) const MOST: usize = 8;

/// Something to be done on the file, and whom to tell.
pub(super) struct Job {
    run: Box<dyn FnOnce(&mut Connection) + Send>,
}

impl Job {
    /// Does it and tells the result.
    pub(super) fn run(self, connection: &mut Connection) {
        (self.run)(connection);
    }
}

impl Ledger {
    /// Has `work` done in one transaction, and gives what it gives. It is in the file then, but a power cut may still
    /// undo it.
    ///
    /// # Errors
    /// When the ledger is closed, or SQLite cannot do it: nothing of it is done then.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let _place = self.0.jobs.acquire().await.map_err(|_| LedgerError::Stopped)?;
        let (done, answer) = oneshot::channel();
        let run = Box::new(move |connection: &mut Connection| {
            let result = transact(connection, work).map_err(|error| LedgerError::Write(error.into()));
            // Who does not wait any more needs no answer.
            drop(done.send(result));
        });
        self.send(Message::Job(Job { run })).map_err(|_| LedgerError::Stopped)?;
        answer.await.unwrap_or(Err(LedgerError::Stopped))
    }
}

fn transact<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let given = work(&transaction)?;
    transaction.commit()?;
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LAZY, open_ledger};
    use super::*;

    fn count(connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0))
    }

    fn insert(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute("INSERT INTO outbox (request_id, revision) VALUES ('r1', 0)", []).map(drop)
    }

    #[tokio::test]
    async fn work_is_done_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, handle) = open_ledger(dir.path(), LAZY);
        ledger.work(insert).await.unwrap();
        let failed = ledger.work(|connection| {
            insert(connection)?;
            connection.execute("nonsense", []).map(drop)
        });
        assert!(matches!(failed.await, Err(LedgerError::Write(_))));
        assert_eq!(ledger.work(count).await.unwrap(), 1);
        handle.close().await.unwrap();
        assert!(matches!(ledger.work(count).await, Err(LedgerError::Stopped)));
    }

    #[tokio::test]
    async fn more_jobs_than_places_are_all_done() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, handle) = open_ledger(dir.path(), LAZY);
        let mut jobs = tokio::task::JoinSet::new();
        for _ in 0..10 * MOST {
            let ledger = ledger.clone();
            jobs.spawn(async move { ledger.work(insert).await.unwrap() });
        }
        jobs.join_all().await;
        assert_eq!(ledger.work(count).await.unwrap(), 10 * MOST as i64);
        handle.close().await.unwrap();
    }
}
