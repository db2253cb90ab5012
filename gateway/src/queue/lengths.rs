//! How long the outputs of a tenant usually are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Output tokens of a request of whose kind nothing is known.
const GUESS: f64 = 256.0;
/// Weight of a new output.
const ALPHA: f64 = 0.2;
/// Kinds of requests that are remembered; of more, the one that was not seen for the longest time is forgotten.
const MAX_KINDS: usize = 4096;

type Kind = (Arc<str>, &'static str);

/// Output lengths by tenant and surface.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    kinds: HashMap<Kind, Length>,
    /// The kinds by when they were last seen.
    ages: BTreeMap<u64, Kind>,
    learned: u64,
}

#[derive(Debug)]
struct Length {
    tokens: f64,
    last: u64,
}

impl Lengths {
    /// Output tokens of one choice.
    pub(super) fn expected(&self, tenant: &Arc<str>, surface: &'static str) -> u64 {
        let length = self.kinds.get(&(tenant.clone(), surface));
        length.map_or(GUESS, |length| length.tokens).ceil() as u64
    }

    /// A choice had this many output tokens.
    pub(super) fn learn(&mut self, tenant: &Arc<str>, surface: &'static str, tokens: f64) {
        self.learned += 1;
        let kind = (tenant.clone(), surface);
        let length = self.kinds.entry(kind.clone()).or_insert(Length { tokens, last: self.learned });
        length.tokens += ALPHA * (tokens - length.tokens);
        self.ages.remove(&std::mem::replace(&mut length.last, self.learned));
        self.ages.insert(self.learned, kind);
        if self.kinds.len() > MAX_KINDS
            && let Some((_, oldest)) = self.ages.pop_first()
        {
            self.kinds.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_learned_for_each_tenant_and_surface() {
        let mut lengths = Lengths::default();
        assert_eq!(lengths.expected(&"a".into(), "chat"), 256);
        lengths.learn(&"a".into(), "chat", 100.0);
        assert_eq!(lengths.expected(&"a".into(), "chat"), 100);
        lengths.learn(&"a".into(), "chat", 200.0);
        assert_eq!(lengths.expected(&"a".into(), "chat"), 120);
        assert_eq!((lengths.expected(&"b".into(), "chat"), lengths.expected(&"a".into(), "completions")), (256, 256));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_is_forgotten() {
        let mut lengths = Lengths::default();
        for i in 0..=MAX_KINDS {
            lengths.learn(&"first".into(), "chat", 10.0);
            lengths.learn(&i.to_string().into(), "chat", 10.0);
        }
        assert_eq!((lengths.kinds.len(), lengths.ages.len()), (MAX_KINDS, MAX_KINDS));
        assert_eq!((lengths.expected(&"first".into(), "chat"), lengths.expected(&"0".into(), "chat")), (10, 256));
    }
}
