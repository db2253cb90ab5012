//! When each key was used last.
//!
//! A request notes its time in memory, which costs it no lock. What was noted is written to a table of `keys.sqlite`
//! every few seconds, and at the end: a kill -9 loses what was noted since.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, Transaction, params};

use super::follow::{FollowError, Follower};
use super::record::Roster;
use super::{Caller, schema};
use crate::database::DatabaseError;

/// When one key was used last.
#[derive(Debug, Default)]
pub(super) struct Use {
    at_ms: AtomicI64,
    /// It stands in the list of what is to be written.
    listed: AtomicBool,
}

/// What was noted and is not written yet, and where it is written.
pub(super) struct LastUsed {
    /// Each key stands here at most once.
    noted: Mutex<Vec<Arc<Caller>>>,
    connection: Mutex<Connection>,
}

impl LastUsed {
    pub(super) fn open(data_dir: &Path) -> Result<Self, DatabaseError> {
        Ok(Self { noted: Mutex::default(), connection: Mutex::new(schema::open(data_dir)?) })
    }

    /// Notes that the key of a caller was used.
    pub(super) fn note(&self, caller: &Arc<Caller>, now: Timestamp) {
        let used = caller.revocation.used();
        // The time is written, then the list looked at; the writer takes the key off the list, then looks at the time. So
        // either the writer sees this time, or this sees that the key is to be listed anew: both are `SeqCst` for that.
        used.at_ms.fetch_max(now.as_millisecond(), SeqCst);
        if !used.listed.load(SeqCst) && !used.listed.swap(true, SeqCst) {
            self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(caller.clone());
        }
    }

    /// Writes what was noted. Blocks on the disk.
    pub(super) fn write(&self, follower: &Follower, roster: &Roster) -> Result<(), FollowError> {
        let noted = std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        if noted.is_empty() {
            return Ok(());
        }
        for caller in &noted {
            caller.revocation.used().listed.store(false, SeqCst);
        }
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        follower.write(roster, &mut connection, |transaction| store(transaction, &noted)).inspect_err(|_| {
            // For the next time.
            let mut kept = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(noted.iter().filter(|caller| !caller.revocation.used().listed.swap(true, SeqCst)).cloned());
        })
    }
}

fn store(transaction: &Transaction<'_>, noted: &[Arc<Caller>]) -> rusqlite::Result<usize> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO last_used (key_id, used_ms) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET used_ms = excluded.used_ms WHERE excluded.used_ms > used_ms",
    )?;
    let write = |caller: &Arc<Caller>| {
        let used_ms = caller.revocation.used().at_ms.load(SeqCst);
        statement.execute(params![&*caller.key_id, used_ms])
    };
    noted.iter().map(write).sum()
}
