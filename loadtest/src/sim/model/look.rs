//! What `/slots` shows.

use super::Model;

/// A slot as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotLook {
    /// Whether it works.
    pub busy: bool,
    /// Its task, or the last one it had.
    pub task: Option<u64>,
    /// Tokens of the prompt and of the reply so far.
    pub tokens: usize,
    /// Prompt tokens computed.
    pub computed: usize,
    /// Prompt tokens from the cache.
    pub cached: usize,
    /// Tokens generated.
    pub generated: u64,
    /// Tokens it may yet generate, if there is a limit.
    pub remain: Option<u64>,
    /// The limit.
    pub limit: Option<u64>,
    /// Whether its reply is streamed.
    pub streamed: bool,
}

impl Model {
    /// The slots, in order.
    pub fn look(&self) -> Vec<SlotLook> {
        let look = |slot: &super::work::Slot| {
            let Some(work) = &slot.work else {
                let (task, tokens) = slot.had.unzip();
                let tokens = tokens.unwrap_or_default();
                let (busy, streamed) = (false, false);
                let (computed, cached, generated, remain, limit) = (0, 0, 0, None, None);
                return SlotLook { busy, task, tokens, computed, cached, generated, remain, limit, streamed };
            };
            let limit = work.sequence.limit;
            SlotLook {
                busy: true,
                task: Some(work.task),
                tokens: work.sequence.prompt.len() + work.generated as usize,
                computed: work.processed - work.cached,
                cached: work.cached,
                generated: work.generated,
                remain: limit.map(|limit| limit.saturating_sub(work.generated)),
                limit,
                streamed: work.streamed,
            }
        };
        self.slots.iter().map(look).collect()
    }
}
