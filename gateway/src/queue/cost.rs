//! What requests cost, and what llama-server has done for them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Units of cost: one is the work of one prompt token that is computed.
const PROMPT: f64 = 1.0;
/// A prompt token that is taken from the cache still has to be looked up, kept and attended to.
const CACHED: f64 = 0.1;

/// What each kind of token costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weights {
    /// An output token, in prompt tokens.
    pub(super) output: f64,
}

impl Weights {
    /// Units of cost; `prompt` includes `cached`.
    pub(crate) fn cost(self, prompt: u64, cached: u64, output: u64) -> f64 {
        let cached = cached.min(prompt);
        PROMPT * (prompt - cached) as f64 + CACHED * cached as f64 + self.output * output as f64
    }
}

/// What llama-server has done for a started request so far: written without a lock while it runs, read at decisions.
#[derive(Debug, Default)]
pub(crate) struct Served {
    prompt: AtomicU64,
    cached: AtomicU64,
    output: AtomicU64,
}

impl Served {
    /// Tokens so far: of the prompt, cached ones included, of those the cached ones, and of the output.
    pub(crate) fn record(&self, prompt: u64, cached: u64, output: u64) {
        // Before the prompt, so that cached tokens are never seen as computed ones.
        self.cached.store(cached, Ordering::Relaxed);
        self.prompt.store(prompt, Ordering::Release);
        self.output.store(output, Ordering::Relaxed);
    }

    /// Units of cost so far.
    pub(super) fn cost(&self, weights: Weights) -> f64 {
        let prompt = self.prompt.load(Ordering::Acquire);
        weights.cost(prompt, self.cached.load(Ordering::Relaxed), self.output())
    }

    /// Whether nothing has been recorded of the prompt.
    pub(super) fn is_untold(&self) -> bool {
        self.prompt.load(Ordering::Acquire) == 0
    }

    pub(super) fn output(&self) -> u64 {
        self.output.load(Ordering::Relaxed)
    }
}
