//! Tokens that were verified before: bounded, and without those that nobody has shown in a while.
//!
//! An entry is not the last word: whether its token is still valid, its key still the issuer's and its subject not
//! revoked is asked each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::claims::Times;
use super::jwks::Key;
use crate::auth::Caller;

/// Tokens in each of the two generations; an entry takes about 400 bytes.
const GENERATION: usize = 5_000;

/// SHA-256 of a whole token. The token itself is not kept.
pub(super) type Fingerprint = [u8; 32];

/// What is known of a token whose signature and claims were right.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    pub(super) caller: Arc<Caller>,
    pub(super) times: Times,
    /// What it is signed with.
    pub(super) key: Arc<Key>,
}

/// The fingerprint of a token.
pub(super) fn fingerprint(token: &[u8]) -> Fingerprint {
    Sha256::digest(token).into()
}

/// The last few thousand tokens. When the young generation is full it becomes the old one, whose entries are forgotten
/// then; what is shown again is young again.
#[derive(Default)]
pub(super) struct Cache(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Fingerprint, Arc<Verified>>,
    old: HashMap<Fingerprint, Arc<Verified>>,
}

impl Cache {
    pub(super) fn get(&self, fingerprint: &Fingerprint) -> Option<Arc<Verified>> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verified) = generations.young.get(fingerprint) {
            return Some(verified.clone());
        }
        let verified = generations.old.remove(fingerprint)?;
        generations.insert(*fingerprint, verified.clone());
        Some(verified)
    }

    pub(super) fn insert(&self, fingerprint: Fingerprint, verified: Arc<Verified>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(fingerprint, verified);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.len() + generations.old.len()
    }

    /// Forgets a token that is not valid any more.
    pub(super) fn remove(&self, fingerprint: &Fingerprint) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.remove(fingerprint);
        generations.old.remove(fingerprint);
    }
}

impl Generations {
    fn insert(&mut self, fingerprint: Fingerprint, verified: Arc<Verified>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(fingerprint, verified);
    }
}
