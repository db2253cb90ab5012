//! Simulated tenants and their requests, how fast they are served, and chance.

use std::ops::Range;

use tokio::time::Instant;

use super::NEVER;
use crate::queue::{Caps, ClassId, PrefixReader, Ticket, Work};

/// Random numbers that are the same whatever version of which crate is used (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0, below 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn among(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start).max(1)
    }

    /// Of each order of magnitude equally often.
    pub(super) fn factor(&mut self, range: &Range<f64>) -> f64 {
        range.start * (range.end / range.start).powf(self.unit())
    }

    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

/// How fast a replica works.
#[derive(Clone, Copy)]
pub(super) struct Engine {
    /// Prompt tokens that are computed in a second.
    pub(super) prompt_per_second: f64,
    /// Seconds for each output token of a request that is alone ...
    pub(super) token: f64,
    /// ... and what each further busy slot adds to it.
    pub(super) token_more: f64,
}

impl Engine {
    pub(super) fn token(&self, busy: usize) -> f64 {
        self.token + self.token_more * busy.saturating_sub(1) as f64
    }

    /// Seconds of a request with nothing cached.
    pub(super) fn service(&self, work: Work, busy: usize) -> f64 {
        work.prompt as f64 / self.prompt_per_second + work.output as f64 * self.token(busy)
    }
}

/// When the requests of a tenant come. Times in seconds.
#[derive(Clone, Copy)]
pub(super) enum Arrivals {
    /// One each so many seconds.
    Every(f64),
    /// At random, so many seconds apart on average.
    Random(f64),
    /// So many are outstanding all the time.
    Outstanding(usize),
    /// So many at once, each so many seconds.
    Bursts(usize, f64),
}

/// A tenant.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) class: usize,
    pub(super) weight: u32,
    pub(super) caps: Caps,
    pub(super) arrivals: Arrivals,
    /// From when to when requests come.
    pub(super) active: Range<f64>,
    pub(super) prompt: Range<u64>,
    pub(super) output: Range<u64>,
    /// Expected output by true output.
    pub(super) misjudged: Range<f64>,
    /// Clients leave so long after they came, wherever their request is; the gateway knows.
    pub(super) patience: f64,
    /// The share of clients who leave whenever they like.
    pub(super) moody: f64,
    /// How often a client tries again.
    pub(super) retries: u32,
    pub(super) slots: u32,
    /// Its prompts belong to so many conversations; each begins like the one before of the same. 0: none does.
    pub(super) conversations: u64,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            class: 0,
            weight: 1,
            caps: Caps::default(),
            arrivals: Arrivals::Outstanding(1),
            active: 0.0..NEVER,
            prompt: 100..101,
            output: 100..101,
            misjudged: 1.0..1.0,
            patience: NEVER,
            moody: 0.0,
            retries: 0,
            slots: 1,
            conversations: 0,
        }
    }
}

/// The request of a source, as the gateway would put it.
pub(super) fn ticket(index: usize, source: &Source, work: Work, conversation: u64, deadline: Instant) -> Ticket {
    let mut prefix = PrefixReader::default();
    if source.conversations > 0 {
        // About four bytes a token; what follows the conversation so far is shorter than a block.
        prefix.push(format!("{index} {conversation} ").repeat(work.prompt as usize).as_bytes());
    }
    Ticket {
        tenant: format!("t{index}").into(),
        key: format!("k{index}").into(),
        surface: "chat",
        class: ClassId(source.class),
        weight: source.weight,
        slots: source.slots,
        caps: source.caps,
        work,
        untold_output: 0,
        deadline,
        prefix: prefix.finish(),
        private: false,
    }
}
