//! Follows `keys.sqlite`: what another process creates or revokes counts from the very next request on.
//!
//! What makes that right, beside what is said in `database/changes.rs`:
//!
//! * **The header that goes with what was read is read within the same read transaction.**
//! * **While a writer has the file locked, what was read before is still the truth**: nothing is committed until it lets
//!   go. So `SQLITE_BUSY` is no error; the counter that was seen stays, and the next request looks again.
//! * **Only rows with a version above the last one are read**, by an index: a change costs as much with 100,000 keys as
//!   with one. A commit that changed no key, as that of the last uses, costs an empty query.
//! * **A file that has a write-ahead log again** (an older program may do that before it says that it cannot read the
//!   schema) shows it in the header as well. Then SQLite is asked each time until the journal is changed back.
//!
//! A file that is deleted or replaced, not changed, is noticed at the next start only.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::last_used::Use;
use super::record::{Record, Revocation, Roster};
use super::scope::Scope;
use super::store::{Stored, read_above};
use super::{Caller, KeyError, schema};
use crate::database::{Changes, DatabaseError, Header};

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
    seen: AtomicU64,
    changes: Changes,
}

impl Follower {
    /// Opens the file, creating what is missing, and reads all keys. Blocks on the disk.
    pub(super) fn open(data_dir: &Path, roster: &Roster) -> Result<Self, KeyError> {
        let connection = schema::open(data_dir)?;
        let path = schema::file(data_dir);
        let changes = Changes::open(&path)?;
        let mut reader = Reader { connection, version: -1, tenants: BTreeSet::new(), everything: Arc::default() };
        let header = reader.read(&changes, roster).map_err(|error| match error {
            FollowError::Sql(error) => KeyError::Sql(error),
            FollowError::Header(source) => DatabaseError::Read { path: path.clone(), source }.into(),
        })?;
        // From now on it is asked on the way of requests: a lock that is held is no reason to wait.
        reader.connection.busy_timeout(Duration::ZERO)?;
        Ok(Self { reader: Mutex::new(reader), seen: AtomicU64::new(header.as_number()), changes })
    }

    /// Reads what has changed, if something has.
    pub(super) fn follow(&self, roster: &Roster) -> Result<(), FollowError> {
        let header = self.changes.header()?;
        if header.has_rollback_journal() && header.as_number() == self.seen.load(Ordering::Acquire) {
            return Ok(());
        }
        // Others wait meanwhile, since they must not go on with what was there before; it does not take long.
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        match reader.read(&self.changes, roster) {
            Ok(header) => self.seen.store(header.as_number(), Ordering::Release),
            Err(FollowError::Sql(error)) if is_locked(&error) => {}
            Err(error) => return Err(error),
        }
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
    /// All keys of a tenant share its name, and most of them their scope.
    tenants: BTreeSet<Arc<str>>,
    everything: Arc<Scope>,
}

impl Reader {
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
        let rows = read_above(&transaction, self.version)?;
        // If no row was found, the query has taken the shared lock all the same.
        let header = changes.header()?;
        transaction.commit()?;
        self.version = rows.iter().map(|row| row.version).fold(self.version, i64::max);
        let records = rows.into_iter().map(|row| self.record(row, roster)).collect();
        roster.put(records);
        Ok(header)
    }

    /// The record of a row. What belongs to the key and not to its row stays: its running requests, its last use.
    fn record(&mut self, row: Stored, roster: &Roster) -> Record {
        let Stored { info, hash, previous, end_streams, .. } = row;
        let known = roster.find(&info.key_id, |record| {
            (record.caller.key_id.clone(), record.caller.revocation.clone(), record.used.clone())
        });
        let (key_id, revocation, used) = known.unwrap_or_else(|| {
            let key_id: Arc<str> = info.key_id.as_str().into();
            (key_id.clone(), Revocation::default(), Use::new(key_id))
        });
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
        Record { hash, previous, caller, expires: info.expires, revoked, used }
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
