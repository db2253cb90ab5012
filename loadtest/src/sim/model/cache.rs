//! The prompt cache: what slots hold, and what was saved beside them when another prompt took a slot.
//!
//! As in llama-server (`get_available_slot`, `--cache-ram`): a prompt goes to the idle slot that holds most of it, else
//! to the one that was used longest ago; what is lost there is saved, and the best saved prefix is taken instead.

use std::collections::VecDeque;

use super::super::words::Token;

/// The part of a prompt that a slot must hold to be chosen for it (`--slot-prompt-similarity`).
pub(super) const SIMILARITY: f64 = 0.1;

/// Prompts beside the slots, the oldest first.
#[derive(Debug)]
pub(super) struct HostCache {
    /// Tokens at most.
    room: usize,
    saved: VecDeque<Vec<Token>>,
}

impl HostCache {
    pub(super) fn new(room: usize) -> Self {
        Self { room, saved: VecDeque::new() }
    }

    /// Keeps `tokens`, at the cost of the oldest.
    pub(super) fn save(&mut self, tokens: Vec<Token>) {
        self.saved.push_back(tokens);
        while self.saved.iter().map(Vec::len).sum::<usize>() > self.room {
            self.saved.pop_front();
        }
    }

    /// Takes out what begins with more of `prompt` than `held` tokens, if anything does.
    pub(super) fn take(&mut self, prompt: &[Token], held: usize) -> Option<Vec<Token>> {
        let lengths = self.saved.iter().map(|saved| common(saved, prompt));
        let (at, length) = lengths.enumerate().max_by_key(|(_, length)| *length)?;
        if length <= held {
            return None;
        }
        self.saved.remove(at)
    }
}

/// How many tokens both begin with.
pub(super) fn common(one: &[Token], other: &[Token]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_is_taken_and_the_oldest_is_dropped() {
        let mut cache = HostCache::new(10);
        cache.save(vec![1, 2, 3]);
        cache.save(vec![1, 2, 9, 9]);
        assert_eq!(cache.take(&[1, 2, 9, 4], 2), Some(vec![1, 2, 9, 9]));
        assert_eq!(cache.take(&[1, 2, 9, 4], 2), None, "no better than what is held");
        cache.save(vec![5; 8]);
        assert_eq!(cache.take(&[1, 2, 3], 0), None, "made room for what came later");
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let mut cache = HostCache::new(3);
        cache.save(vec![1; 4]);
        assert_eq!(cache.take(&[1; 4], 0), None);
    }
}
