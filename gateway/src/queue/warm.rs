//! Which beginnings of prompts a replica probably still has in its cache.

use std::collections::{HashMap, VecDeque};

use super::Prefix;

/// Prompts that are remembered of each replica: what fits its slots and its host cache, roughly.
const PROMPTS: usize = 64;

/// The beginnings of the last prompts that ran on a replica.
#[derive(Debug, Default)]
pub(super) struct Warm {
    prompts: VecDeque<Prefix>,
    /// The number of the last one that has this link. A link stands for all blocks before it, so one look-up tells of
    /// them all.
    links: HashMap<u32, u64>,
    /// Prompts so far.
    count: u64,
}

impl Warm {
    /// A prompt has run on the replica.
    pub(super) fn remember(&mut self, prefix: &Prefix) {
        if prefix.links().is_empty() {
            return;
        }
        self.count += 1;
        self.links.extend(prefix.links().iter().map(|&link| (link, self.count)));
        self.prompts.push_back(prefix.clone());
        if self.prompts.len() > PROMPTS
            && let Some(oldest) = self.prompts.pop_front()
        {
            let number = self.count - PROMPTS as u64;
            for link in oldest.links() {
                if self.links.get(link) == Some(&number) {
                    self.links.remove(link);
                }
            }
        }
    }

    /// Whether everything up to this link is there.
    pub(super) fn has(&self, link: u32) -> bool {
        self.links.contains_key(&link)
    }

    /// How many prompts ago everything up to this link was used: the fewer, the more probably it is still there.
    pub(super) fn age(&self, link: u32) -> Option<u64> {
        self.links.get(&link).map(|last| self.count - last)
    }

    /// Which share of a prompt is there: 0 to 1.
    pub(super) fn share(&self, prefix: &Prefix) -> f64 {
        let links = prefix.links();
        let depth = links.partition_point(|&link| self.has(link));
        if links.is_empty() { 0.0 } else { depth as f64 / links.len() as f64 }
    }
}

/// The link in the middle: where a replica has it, at least half of the prompt is warm there.
pub(super) fn halfway(prefix: &Prefix) -> Option<u32> {
    let links = prefix.links();
    links.get(links.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::PrefixReader;
    use crate::queue::prefix::BLOCK_BYTES;

    fn prefix(blocks: &[u8]) -> Prefix {
        let mut reader = PrefixReader::default();
        blocks.iter().for_each(|&block| reader.push(&[block; BLOCK_BYTES]));
        reader.finish()
    }

    #[test]
    fn the_share_of_a_prompt_is_what_it_has_in_common_with_a_remembered_one() {
        let mut warm = Warm::default();
        warm.remember(&prefix(&[1, 2, 3]));
        let share = |blocks: &[u8]| warm.share(&prefix(blocks));
        assert_eq!((share(&[1, 2, 3]), share(&[1, 2, 4, 5]), share(&[2, 3]), share(&[])), (1.0, 0.5, 0.0, 0.0));
        assert_eq!(halfway(&prefix(&[1, 2, 4])).and_then(|link| warm.age(link)), Some(0));
        let half = |blocks: &[u8]| halfway(&prefix(blocks)).is_some_and(|link| warm.has(link));
        assert!(half(&[1, 2, 4, 5]) && !half(&[1, 2, 4, 5, 6]) && !half(&[]));
    }

    #[test]
    fn only_the_last_prompts_are_remembered() {
        let mut warm = Warm::default();
        warm.remember(&prefix(&[1, 2]));
        for block in 0..PROMPTS as u8 {
            warm.remember(&prefix(&[1, block + 3]));
        }
        assert_eq!(warm.share(&prefix(&[1, 2])), 0.5);
        assert_eq!((warm.prompts.len(), warm.links.len()), (PROMPTS, PROMPTS + 1));
    }
}
