//! The keys in memory: what a request is checked against.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::{PoisonError, RwLock};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use super::key::{self, KeyHash, KeyId};
use super::last_used::Use;
use super::{Caller, incorrect, invalid};
use crate::error::Rejection;

/// How long before its expiry a key is among those that expire, and how long after it.
const EXPIRING_WITHIN: SignedDuration = SignedDuration::from_hours(30 * 24);
const EXPIRED_SINCE: SignedDuration = SignedDuration::from_hours(24);
/// How many of them are told of: each is a series of a metric.
const MAX_EXPIRING: usize = 1000;

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
    /// When it is refused by itself, unless it is refused anyway.
    fn expiry(&self) -> Option<Timestamp> {
        self.expires.filter(|_| !self.revoked)
    }

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

/// The keys of `keys.sqlite`.
#[derive(Default)]
struct Stored {
    records: HashMap<KeyId, Record>,
    /// Those that expire and are not revoked, by when: of many thousands, few are asked for.
    expiring: BTreeSet<(Timestamp, KeyId)>,
}

impl Stored {
    fn put(&mut self, key_id: KeyId, record: Record) {
        let expiry = record.expiry();
        let before = self.records.insert(key_id, record).as_ref().and_then(Record::expiry);
        if let Some(before) = before {
            self.expiring.remove(&(before, key_id));
        }
        self.expiring.extend(expiry.map(|expiry| (expiry, key_id)));
    }

    fn of(records: Vec<Record>) -> Self {
        let mut stored = Self::default();
        by_id(records).for_each(|(key_id, record)| stored.put(key_id, record));
        stored
    }
}

/// All keys. Those of `keys.sqlite` are changed in place, one by one; those that are declared come from a file as a
/// whole.
#[derive(Default)]
pub(super) struct Roster {
    stored: RwLock<Stored>,
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
        if let Some(record) = stored.records.get(&key_id) {
            return Some(look(record));
        }
        drop(stored);
        self.declared.load().get(&key_id).map(look)
    }

    /// Whether a key of this id is stored.
    pub(super) fn is_stored(&self, key_id: &str) -> bool {
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        key::id(key_id).is_some_and(|key_id| stored.records.contains_key(&key_id))
    }

    /// Puts stored keys there, or in the place of what they were.
    pub(super) fn put(&self, records: Vec<Record>) {
        let mut stored = self.stored.write().unwrap_or_else(PoisonError::into_inner);
        by_id(records).for_each(|(key_id, record)| stored.put(key_id, record));
    }

    /// Puts stored keys in the place of all that were stored.
    pub(super) fn replace(&self, records: Vec<Record>) {
        let stored = Stored::of(records);
        *self.stored.write().unwrap_or_else(PoisonError::into_inner) = stored;
    }

    /// Puts declared keys in the place of those that were declared.
    pub(super) fn declare(&self, records: Vec<Record>) {
        self.declared.store(Arc::new(by_id(records).collect()));
    }

    /// The keys that expire soon or did so lately, and when: those whose time is the next, then those whose time was the
    /// last. Not those that are revoked, and [`MAX_EXPIRING`] at most.
    pub(super) fn expiring(&self, now: Timestamp) -> Vec<(Timestamp, Arc<Caller>)> {
        let first = now.checked_sub(EXPIRED_SINCE).unwrap_or(Timestamp::MIN);
        let last = now.checked_add(EXPIRING_WITHIN).unwrap_or(Timestamp::MAX);
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        let coming = stored.expiring.range((now, KeyId::default())..=(last, [u8::MAX; _])).take(MAX_EXPIRING);
        let gone = stored.expiring.range((first, KeyId::default())..(now, KeyId::default())).rev().take(MAX_EXPIRING);
        let caller = |(at, key_id): &(Timestamp, KeyId)| Some((*at, stored.records.get(key_id)?.caller.clone()));
        let mut expiring: Vec<_> = coming.chain(gone).filter_map(caller).collect();
        drop(stored);
        let declared = self.declared.load();
        let declared = declared.values().filter_map(|record| Some((record.expiry()?, record.caller.clone())));
        expiring.extend(declared.filter(|(at, _)| (first..=last).contains(at)));
        expiring.sort_by_key(|(at, _)| (*at < now, at.duration_since(now).unsigned_abs()));
        expiring.truncate(MAX_EXPIRING);
        expiring
    }
}

/// A key whose id has another form than ids are drawn with cannot be shown, and so is not there.
fn by_id(records: Vec<Record>) -> impl Iterator<Item = (KeyId, Record)> {
    records.into_iter().filter_map(|record| Some((key::id(&record.caller.key_id)?, record)))
}
