//! The keys in memory: what a request is checked against.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::{PoisonError, RwLock};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use super::key::{self, KeyHash, KeyId};
use super::last_used::Use;
use super::{Caller, incorrect, invalid};
use crate::error::Rejection;

/// Tells the requests of a key that the key was revoked and that they are to end. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Revocation(Arc<Life>);

/// What belongs to a key and not to its row. In one place: each place is a wait for memory at every request.
#[derive(Debug, Default)]
struct Life {
    revoked: CancellationToken,
    used: Use,
}

impl Revocation {
    /// Ends what the key runs.
    pub(super) fn announce(&self) {
        self.0.revoked.cancel();
    }

    /// Waits until it is announced; mostly for ever.
    pub async fn announced(&self) {
        self.0.revoked.cancelled().await;
    }

    /// When the key was used last.
    pub(super) fn used(&self) -> &Use {
        &self.0.used
    }
}

/// What a client is told whose key was revoked.
pub fn revoked() -> Rejection {
    invalid("The API key has been revoked.")
}

/// A key as the server knows it. Small, and with as few ways to other memory as can be: of a key that was not asked for in a
/// while, each is a wait.
pub(super) struct Record {
    pub(super) hash: KeyHash,
    /// The secret before the last rotation, and until when it is valid.
    pub(super) previous: Option<Box<(KeyHash, Timestamp)>>,
    pub(super) caller: Arc<Caller>,
    pub(super) expires: Option<Timestamp>,
    pub(super) revoked: bool,
}

impl Record {
    /// The caller, if `hash` is that of the key and the key is valid.
    fn check(&self, hash: &KeyHash, now: Timestamp) -> Result<Arc<Caller>, Rejection> {
        let is_current = bool::from(hash.ct_eq(&self.hash));
        let is_previous = self.previous.as_ref().is_some_and(|previous| bool::from(hash.ct_eq(&previous.0)));
        if !is_current && !is_previous {
            return Err(incorrect());
        }
        // Only to those who know the secret.
        if self.revoked {
            return Err(revoked());
        }
        if self.expires.is_some_and(|expires| expires <= now) {
            return Err(invalid("The API key has expired."));
        }
        if !is_current && self.previous.as_ref().is_none_or(|previous| previous.1 <= now) {
            return Err(invalid("The API key has been rotated, and this is its old secret."));
        }
        Ok(self.caller.clone())
    }
}

/// All keys. Those of `keys.sqlite` are changed in place, one by one; those that are declared come from a file as a
/// whole.
#[derive(Default)]
pub(super) struct Roster {
    stored: RwLock<HashMap<KeyId, Record>>,
    declared: ArcSwap<HashMap<KeyId, Record>>,
}

impl Roster {
    /// The caller behind a key.
    pub(super) fn check(&self, key_id: &str, hash: &KeyHash, now: Timestamp) -> Result<Arc<Caller>, Rejection> {
        self.find(key_id, |record| record.check(hash, now)).unwrap_or_else(|| {
            // As long as a wrong secret takes.
            std::hint::black_box(hash.ct_eq(&[0; 32]));
            Err(incorrect())
        })
    }

    /// Looks at one key. Where one is both stored and declared, which neither `Keys` nor the reader of the file lets
    /// happen, the stored one counts: a revocation is stored.
    pub(super) fn find<T>(&self, key_id: &str, look: impl FnOnce(&Record) -> T) -> Option<T> {
        let key_id = key::id(key_id)?;
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = stored.get(&key_id) {
            return Some(look(record));
        }
        drop(stored);
        self.declared.load().get(&key_id).map(look)
    }

    /// Whether a key of this id is stored.
    pub(super) fn is_stored(&self, key_id: &str) -> bool {
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        key::id(key_id).is_some_and(|key_id| stored.contains_key(&key_id))
    }

    /// Puts stored keys there, or in the place of what they were.
    pub(super) fn put(&self, records: Vec<Record>) {
        let mut stored = self.stored.write().unwrap_or_else(PoisonError::into_inner);
        stored.extend(by_id(records));
    }

    /// Puts stored keys in the place of all that were stored.
    pub(super) fn replace(&self, records: Vec<Record>) {
        let records = by_id(records).collect();
        *self.stored.write().unwrap_or_else(PoisonError::into_inner) = records;
    }

    /// Puts declared keys in the place of those that were declared.
    pub(super) fn declare(&self, records: Vec<Record>) {
        self.declared.store(Arc::new(by_id(records).collect()));
    }
}

/// A key whose id has another form than ids are drawn with cannot be shown, and so is not there.
fn by_id(records: Vec<Record>) -> impl Iterator<Item = (KeyId, Record)> {
    records.into_iter().filter_map(|record| Some((key::id(&record.caller.key_id)?, record)))
}
