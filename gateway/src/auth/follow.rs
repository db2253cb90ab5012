//! Follows `keys.sqlite`: what another process creates or revokes counts from the very next request on.
//!
//! What makes that right, beside what is said in `database/changes.rs`:
//!
//! * **The header that goes with what was read is read within the same read transaction.**
//! * **Where the header has changed and a writer has the file locked, the writer is waited for**, which takes as long as
//!   its commit. The change may be its own, which does not count yet, but also an earlier commit that nobody has read
//!   here. One that does not let go for [`LONGEST_WAIT`] is not waited for again: requests go on with what is known, and
//!   each looks whether the file can be read. Nothing can be committed meanwhile.
//! * **What this process writes without changing a key** ([`Follower::write`]: the last uses) is known beforehand. While
//!   it holds the write lock nobody else can commit, so that all earlier commits can be read, and then both the header
//!   before and the one after its own commit stand for what is known. Nobody waits for that, and nobody reads.
//! * **Only rows with a version above the last one are read**, by an index: a change costs as much with 100,000 keys as
//!   with one.
//! * **A file that has a write-ahead log again** (an older program may do that before it says that it cannot read the
//!   schema) shows it in the header as well. Then SQLite is asked each time until the journal is changed back.
//! * **A backup that is restored into the file** (`.restore` of the sqlite3 shell) takes versions back, and later changes
//!   would have versions that were read before. So all is read again then.
//!
//! A file that is deleted or replaced, not changed, is not followed until the next start, and the log says so.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::record::{Record, Revocation, Roster};
use super::scope::Scope;
use super::store::{Stored, newest_version, read_above};
use super::{Caller, KeyError, schema};
use crate::database::{Changes, DatabaseError, Header};

/// How long a request waits for another process that is writing. A commit takes as long as the disk does.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Each row has a higher version than that.
const ALL: i64 = -1;

/// Why the keys cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error("the header of keys.sqlite cannot be read: {0}")]
    Header(#[from] io::Error),
    #[error("keys.sqlite cannot be read: {0}")]
    Sql(#[from] rusqlite::Error),
}

/// Keeps a [`Roster`] equal to the file. The fields are dropped in this order: the file is closed last.
pub(super) struct Follower {
    reader: Mutex<Reader>,
    /// The header that goes with what is known.
    seen: AtomicU64,
    /// The header after the last write of this process's own, which goes with the same.
    own: AtomicU64,
    changes: Changes,
}

impl Follower {
    /// Opens the file, creating what is missing, and reads all keys. Blocks on the disk.
    pub(super) fn open(data_dir: &Path, roster: &Roster) -> Result<Self, KeyError> {
        let connection = schema::open(data_dir)?;
        let path = schema::file(data_dir);
        let changes = Changes::open(&path)?;
        let mut reader =
            Reader { connection, version: ALL, patient: true, tenants: BTreeSet::new(), everything: Arc::default() };
        let header = reader.read(&changes, roster).map_err(|error| match error {
            FollowError::Sql(error) => KeyError::Sql(error),
            FollowError::Header(source) => DatabaseError::Read { path: path.clone(), source }.into(),
        })?;
        reader.connection.busy_timeout(LONGEST_WAIT)?;
        let (seen, own) = (AtomicU64::new(header.as_number()), AtomicU64::new(header.as_number()));
        Ok(Self { reader: Mutex::new(reader), seen, own, changes })
    }

    /// Reads what has changed, if something has.
    pub(super) fn follow(&self, roster: &Roster) -> Result<(), FollowError> {
        if self.is_known(self.changes.header()?) {
            return Ok(());
        }
        // Others wait meanwhile, since they must not go on with what was there before; it does not take long.
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_known(self.changes.header()?) {
            return Ok(());
        }
        match reader.read(&self.changes, roster) {
            Ok(header) => {
                self.seen.store(header.as_number(), Ordering::Release);
                reader.be_patient(true)?;
            }
            Err(FollowError::Sql(error)) if is_locked(&error) => reader.be_patient(false)?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Says whether what others write to the file can be seen at all.
    ///
    /// # Errors
    /// The file was deleted or replaced.
    pub(super) fn check_place(&self) -> Result<(), FollowError> {
        Ok(self.changes.check_place()?)
    }

    fn is_known(&self, header: Header) -> bool {
        let is = |known: &AtomicU64| known.load(Ordering::Acquire) == header.as_number();
        header.has_rollback_journal() && (is(&self.seen) || is(&self.own))
    }

    /// Writes to the file what is no key, on another connection. `write` gives the number of rows that it has changed: a
    /// commit without any raises no counter, and that of the next one must not be taken for its own. Blocks on the disk.
    pub(super) fn write(
        &self,
        roster: &Roster,
        connection: &mut Connection,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<usize>,
    ) -> Result<(), FollowError> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.follow(roster)?;
        let changed = write(&transaction)?;
        let header = self.changes.header()?;
        if changed > 0 && self.is_known(header) {
            self.seen.store(header.as_number(), Ordering::Release);
            self.own.store(header.next().as_number(), Ordering::Release);
        }
        // Not by `commit`: where that fails, the lock is gone, and the next commit has the number that was to be this one's.
        transaction
            .execute_batch("COMMIT")
            .inspect_err(|_| self.own.store(Header::NONE.as_number(), Ordering::Release))?;
        Ok(())
    }
}

fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

struct Reader {
    connection: Connection,
    /// All rows up to this one have been read.
    version: i64,
    /// A writer is waited for.
    patient: bool,
    /// All keys of a tenant share its name, and most of them their scope.
    tenants: BTreeSet<Arc<str>>,
    everything: Arc<Scope>,
}

impl Reader {
    fn be_patient(&mut self, patient: bool) -> rusqlite::Result<()> {
        if self.patient == patient {
            return Ok(());
        }
        self.patient = patient;
        self.connection.busy_timeout(if patient { LONGEST_WAIT } else { Duration::ZERO })
    }

    /// Brings the roster up to the file, and gives the header that goes with it.
    fn read(&mut self, changes: &Changes, roster: &Roster) -> Result<Header, FollowError> {
        if !changes.header()?.has_rollback_journal() {
            // Not while somebody else has it open. Then it is read as it is, and the next request tries again.
            match self.connection.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(())) {
                Err(error) if !is_locked(&error) => return Err(error.into()),
                _ => {}
            }
        }
        let transaction = self.connection.transaction()?;
        // Versions only grow, unless a backup was restored into the file: then nothing that was read before holds.
        let is_restored = newest_version(&transaction)? < self.version;
        let before = if is_restored { ALL } else { self.version };
        let rows = read_above(&transaction, before)?;
        // If no row was found, the query has taken the shared lock all the same.
        let header = changes.header()?;
        transaction.commit()?;
        self.version = rows.iter().map(|row| row.version).fold(before, i64::max);
        let records = rows.into_iter().map(|row| self.record(row, roster)).collect();
        if is_restored {
            roster.replace(records);
        } else {
            roster.put(records);
        }
        Ok(header)
    }

    /// The record of a row. What belongs to the key and not to its row stays: its running requests, its last use.
    fn record(&mut self, row: Stored, roster: &Roster) -> Record {
        let Stored { info, hash, previous, end_streams, .. } = row;
        let known =
            roster.find(&info.key_id, |Record { caller, .. }| (caller.key_id.clone(), caller.revocation.clone()));
        let (key_id, revocation) = known.unwrap_or_else(|| (info.key_id.into(), Revocation::default()));
        let revoked = info.revoked.is_some();
        if revoked && end_streams {
            revocation.announce();
        }
        let caller = Caller {
            tenant: self.tenant(&info.tenant),
            key_id,
            policy: info.policy.map(Arc::from),
            scope: if info.scope == Scope::default() { self.everything.clone() } else { Arc::new(info.scope) },
            revocation,
        };
        let (caller, previous) = (Arc::new(caller), previous.map(Box::new));
        Record { hash, previous, caller, expires: info.expires, revoked }
    }

    fn tenant(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.tenants.get(name) {
            return known.clone();
        }
        let tenant: Arc<str> = name.into();
        self.tenants.insert(tenant.clone());
        tenant
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
