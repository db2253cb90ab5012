//! Counts that are known: bounded, and without those that nobody has asked for in a while.

use std::collections::HashMap;
use std::sync::Arc;

use crate::surface::Fingerprint;

/// Counts in each of the two generations; an entry takes about 60 bytes.
const GENERATION: usize = 2048;

/// Whose count it is: by tenant, so that nobody learns from the time it takes what another one has asked.
pub type Key = (Arc<str>, Fingerprint);

/// The counts of the last few thousand prompts. When the young generation is full it becomes the old one, whose
/// entries are forgotten then; what is asked for again is young again.
#[derive(Debug, Default)]
pub(super) struct Cache {
    young: HashMap<Key, u64>,
    old: HashMap<Key, u64>,
}

impl Cache {
    pub(super) fn get(&mut self, key: &Key) -> Option<u64> {
        if let Some(tokens) = self.young.get(key) {
            return Some(*tokens);
        }
        let (key, tokens) = self.old.remove_entry(key)?;
        self.insert(key, tokens);
        Some(tokens)
    }

    pub(super) fn insert(&mut self, key: Key, tokens: u64) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surface::Ask;
    use crate::surface::fixture::chat;

    fn key(tenant: &str, text: &str) -> Key {
        (tenant.into(), chat(text).fingerprint())
    }

    #[test]
    fn a_count_is_known_again_but_not_to_another_tenant() {
        let mut cache = Cache::default();
        cache.insert(key("one", "hi"), 7);
        assert_eq!(cache.get(&key("one", "hi")), Some(7));
        assert_eq!(cache.get(&key("one", "ho")), None);
        assert_eq!(cache.get(&key("two", "hi")), None);
    }

    #[test]
    fn the_oldest_are_forgotten_and_what_is_asked_for_stays() {
        let mut cache = Cache::default();
        let ask = chat("hi");
        let key = |number: usize| -> Key {
            ("one".into(), Ask { upstream_body: number.to_string().into(), ..ask.clone() }.fingerprint())
        };
        for number in 0..3 * GENERATION {
            cache.insert(key(number), number as u64);
            assert_eq!(cache.get(&key(0)), Some(0));
            assert!(cache.young.len() + cache.old.len() <= 2 * GENERATION);
        }
        assert_eq!(cache.get(&key(1)), None);
    }
}
