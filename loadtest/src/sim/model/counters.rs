//! What `/metrics` counts, at the moments at which llama-server counts it: prompt tokens batch by batch,
//! generated ones, and all times, only when their request is over.

use std::time::Duration;

use super::Timings;

/// The counters since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Prompt tokens computed.
    pub prompt: u64,
    /// Prompt tokens from the cache.
    pub cached: u64,
    /// How long the computed ones took.
    pub prompt_time: Duration,
    /// Tokens generated, of requests that are over.
    pub predicted: u64,
    /// How long they took.
    pub predicted_time: Duration,
    /// Passes.
    pub passes: u64,
    /// Slots in all passes together.
    pub slots_in_passes: u64,
    /// The longest sequence.
    pub longest: u64,
    /// Of the counters, what the last reader of the averages had seen.
    seen: Option<Box<Counters>>,
}

impl Counters {
    pub(super) fn note_pass(&mut self, slots: usize) {
        self.passes += 1;
        self.slots_in_passes += slots as u64;
    }

    pub(super) fn note_end(&mut self, timings: &Timings, length: u64) {
        self.prompt_time += timings.prompt;
        self.predicted += timings.predicted;
        self.predicted_time += timings.predicting;
        self.longest = self.longest.max(length);
    }

    /// Prompt tokens and generated tokens a second since this was last asked, by anybody.
    pub fn averages(&mut self) -> (f64, f64) {
        let before = self.seen.take().unwrap_or_default();
        let rate = |tokens: u64, time: Duration| if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() };
        let averages = (
            rate(self.prompt - before.prompt, self.prompt_time - before.prompt_time),
            rate(self.predicted - before.predicted, self.predicted_time - before.predicted_time),
        );
        self.seen = Some(Box::new(self.clone()));
        averages
    }
}
