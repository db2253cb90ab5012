//! `tokens.sqlite`: whose tokens were revoked, and which of them. The command line writes it, also while a server reads it.
//!
//! Tokens are not known one by one: a revocation refuses all of a subject that were issued up to a time.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, params};

use crate::database::{self, Changes, DatabaseError, Header, read_time};

/// The file in the data directory.
const FILE: &str = "tokens.sqlite";

/// One SQL text a version; what has been released is never edited.
const MIGRATIONS: &[&str] = &[
    // 1. Tokens of `key_id` that were issued at this time (milliseconds since 1970) or before are refused.
    "CREATE TABLE revoked (
        key_id    TEXT    NOT NULL PRIMARY KEY,
        before_ms INTEGER NOT NULL
    ) STRICT;",
];

/// How long a request waits for another process that is writing. A commit takes as long as the disk does.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Why tokens cannot be revoked, or whether they were cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// The file cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// SQLite cannot read or write it.
    #[error("cannot read or write the revoked tokens: {0}")]
    Sql(#[from] rusqlite::Error),
    /// Its header cannot be read.
    #[error("cannot read {FILE}: {0}")]
    File(#[from] std::io::Error),
}

/// Refuses the tokens of a subject, named by its key id, that were issued at the time `before` or earlier, and those that
/// do not say when they were issued. A running server does so at the next request.
///
/// # Errors
/// When it cannot be stored.
pub fn revoke(data_dir: &Path, key_id: &str, before: Timestamp) -> Result<(), RevocationError> {
    let sql = "INSERT INTO revoked (key_id, before_ms) VALUES (?1, ?2)
               ON CONFLICT (key_id) DO UPDATE SET before_ms = max(before_ms, excluded.before_ms)";
    open(data_dir)?.execute(sql, params![key_id, before.as_millisecond()])?;
    Ok(())
}

fn open(data_dir: &Path) -> Result<Connection, DatabaseError> {
    database::create_dir(data_dir)?;
    database::open_with_rollback(&data_dir.join(FILE), MIGRATIONS)
}

type Times = HashMap<String, Timestamp>;

/// What is revoked, in memory. It follows the file: what another process revokes counts from the very next request on.
pub(super) struct Revocations {
    times: ArcSwap<Times>,
    /// The header of the file that goes with them.
    seen: AtomicU64,
    // Closed before the other one, see there.
    reader: Mutex<Reader>,
    changes: Changes,
}

struct Reader {
    connection: Connection,
    /// A writer is waited for.
    patient: bool,
}

impl Reader {
    fn be_patient(&mut self, patient: bool) -> rusqlite::Result<()> {
        if self.patient == patient {
            return Ok(());
        }
        self.patient = patient;
        self.connection.busy_timeout(if patient { LONGEST_WAIT } else { Duration::ZERO })
    }
}

impl Revocations {
    /// Opens the file in the data directory, creates what is missing, and reads it. Blocks on the disk.
    pub(super) fn open(data_dir: &Path) -> Result<Self, RevocationError> {
        let connection = open(data_dir)?;
        connection.busy_timeout(LONGEST_WAIT)?;
        let changes = Changes::open(&data_dir.join(FILE))?;
        let (times, seen) = read(&connection, &changes)?;
        let (times, seen) = (ArcSwap::from_pointee(times), AtomicU64::new(seen.as_number()));
        Ok(Self { times, seen, reader: Mutex::new(Reader { connection, patient: true }), changes })
    }

    /// Says whether the tokens of `key_id` that were issued at this time are revoked.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn has(&self, key_id: &str, issued: Option<Timestamp>) -> Result<bool, RevocationError> {
        if !self.is_known(self.changes.header()?) {
            self.follow()?;
        }
        Ok(self.times.load().get(key_id).is_some_and(|before| issued.is_none_or(|issued| issued <= *before)))
    }

    fn is_known(&self, header: Header) -> bool {
        header.has_rollback_journal() && header.as_number() == self.seen.load(Ordering::Acquire)
    }

    fn follow(&self) -> Result<(), RevocationError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_known(self.changes.header()?) {
            return Ok(());
        }
        match read(&reader.connection, &self.changes) {
            Ok((times, seen)) => {
                self.times.store(Arc::new(times));
                self.seen.store(seen.as_number(), Ordering::Release);
                Ok(reader.be_patient(true)?)
            }
            // Nothing can be committed while somebody holds the lock. What was committed just before it is missed for as
            // long as that: whoever holds it for longer than a commit takes is at fault, and is not waited for again.
            Err(RevocationError::Sql(error)) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                Ok(reader.be_patient(false)?)
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads all, with the header that goes with it.
fn read(connection: &Connection, changes: &Changes) -> Result<(Times, Header), RevocationError> {
    let transaction = connection.unchecked_transaction()?;
    let mut statement = transaction.prepare_cached("SELECT key_id, before_ms FROM revoked")?;
    let rows = statement.query_map([], |row| Ok((row.get("key_id")?, read_time(row, "before_ms")?)))?;
    let rows: Vec<(String, Option<Timestamp>)> = rows.collect::<rusqlite::Result<_>>()?;
    // Nobody can commit while the transaction reads.
    let seen = changes.header()?;
    Ok((rows.into_iter().filter_map(|(key_id, before)| Some((key_id, before?))).collect(), seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    #[test]
    fn tokens_issued_up_to_the_revocation_are_refused_and_later_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let revocations = Revocations::open(dir.path()).unwrap();
        assert!(!revocations.has("idp/ann", None).unwrap());
        revoke(dir.path(), "idp/ann", at(10)).unwrap();
        for (key_id, issued, revoked) in [
            ("idp/ann", Some(at(9)), true),
            ("idp/ann", Some(at(10)), true),
            ("idp/ann", Some(at(11)), false),
            ("idp/ann", None, true),
            ("idp/bob", Some(at(9)), false),
        ] {
            assert_eq!(revocations.has(key_id, issued).unwrap(), revoked, "{key_id} {issued:?}");
        }
    }

    #[test]
    fn what_is_revoked_stays_so_after_a_restart_and_after_an_earlier_revocation() {
        let dir = tempfile::tempdir().unwrap();
        revoke(dir.path(), "idp/ann", at(10)).unwrap();
        revoke(dir.path(), "idp/ann", at(5)).unwrap();
        assert!(Revocations::open(dir.path()).unwrap().has("idp/ann", Some(at(10))).unwrap());
    }

    #[test]
    fn what_is_known_stays_known_while_the_file_is_locked_and_is_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let revocations = Revocations::open(dir.path()).unwrap();
        revoke(dir.path(), "idp/ann", at(10)).unwrap();
        let writer = open(dir.path()).unwrap();
        writer.execute_batch("BEGIN EXCLUSIVE; DELETE FROM revoked;").unwrap();
        assert!(!revocations.has("idp/ann", Some(at(9))).unwrap());
        writer.execute_batch("ROLLBACK").unwrap();
        assert!(revocations.has("idp/ann", Some(at(9))).unwrap());
        // Without a change nothing is read.
        assert!(revocations.has("idp/ann", Some(at(9))).unwrap());
    }

    #[test]
    fn a_writer_that_does_not_let_go_is_waited_for_once() {
        let dir = tempfile::tempdir().unwrap();
        let revocations = Revocations::open(dir.path()).unwrap();
        revoke(dir.path(), "idp/ann", at(10)).unwrap();
        let writer = open(dir.path()).unwrap();
        writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let patient = || revocations.reader.lock().unwrap().patient;
        assert!(patient());
        assert!(!revocations.has("idp/ann", None).unwrap());
        assert!(!patient());
        writer.execute_batch("ROLLBACK").unwrap();
        assert!(revocations.has("idp/ann", None).unwrap());
        assert!(patient());
    }

    #[test]
    fn a_broken_file_is_an_error_and_not_a_token_that_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let revocations = Revocations::open(dir.path()).unwrap();
        std::fs::write(dir.path().join(FILE), vec![0xff; 8192]).unwrap();
        assert!(matches!(revocations.has("idp/ann", None), Err(RevocationError::Sql(_))));
        std::fs::write(dir.path().join(FILE), "").unwrap();
        assert!(matches!(revocations.has("idp/ann", None), Err(RevocationError::File(_))));
    }
}
