//! How fast replicas work, learned from llama-server's timings and from what gets done while all slots are busy.

use std::time::Duration;

use super::cost::Weights;
use super::{Speed, Work};

/// What an output token costs until both speeds are known.
const OUTPUT_COST: f64 = 2.0;
/// Outside of these, the timings are wrong or of a machine that is not worth scheduling.
const OUTPUT_COST_BOUNDS: (f64, f64) = (0.5, 200.0);
/// Timings of fewer tokens say more about the start of a batch than about speed.
const MIN_PROMPT: u64 = 16;
const MIN_OUTPUT: u64 = 8;
/// Milliseconds that a unit of cost takes in one slot while nothing is known.
const UNIT_MS: f64 = 1.0;
/// Weight of a new sample.
const ALPHA: f64 = 0.1;
/// Busy time, in seconds, over which work is measured at least: prompts are reported in one piece.
const WINDOW: f64 = 10.0;
/// Weight of a window.
const WINDOW_ALPHA: f64 = 0.2;

/// How fast replicas work.
#[derive(Debug, Default)]
pub(super) struct Speeds {
    /// Milliseconds for each prompt token, in one slot.
    prompt_ms: Option<f64>,
    /// Milliseconds for each output token, in one slot.
    output_ms: Option<f64>,
    /// Units of cost a second for each slot while all are busy.
    slot_rate: Option<f64>,
    busy_seconds: f64,
    busy_work: f64,
}

impl Speeds {
    /// Takes what llama-server says of one request.
    pub(super) fn learn(&mut self, speed: Speed) {
        if speed.prompt_tokens >= MIN_PROMPT {
            average(&mut self.prompt_ms, speed.prompt_ms / speed.prompt_tokens as f64, ALPHA);
        }
        if speed.output_tokens >= MIN_OUTPUT {
            average(&mut self.output_ms, speed.output_ms / speed.output_tokens as f64, ALPHA);
        }
    }

    /// All `slots` were busy for this long, and this much work was done meanwhile.
    pub(super) fn busy(&mut self, elapsed: Duration, work: f64, slots: u32) {
        self.busy_seconds += elapsed.as_secs_f64();
        self.busy_work += work;
        // A long prompt takes longer than that: the time before it is reported is not to be forgotten.
        if self.busy_seconds >= WINDOW && self.busy_work > 0.0 {
            let rate = self.busy_work / self.busy_seconds / f64::from(slots.max(1));
            average(&mut self.slot_rate, rate, WINDOW_ALPHA);
            (self.busy_seconds, self.busy_work) = (0.0, 0.0);
        }
    }

    /// What tokens cost now.
    pub(super) fn weights(&self) -> Weights {
        let (least, most) = OUTPUT_COST_BOUNDS;
        let output = self.prompt_ms.zip(self.output_ms).map_or(OUTPUT_COST, |(prompt, output)| output / prompt);
        Weights { output: output.clamp(least, most) }
    }

    /// Units of cost a second for each slot; `None` while nothing is known. Before all slots have been busy for a
    /// while, it is taken from the timings: a unit is a prompt token.
    pub(super) fn slot_rate(&self) -> Option<f64> {
        self.slot_rate.or_else(|| Some(1000.0 / self.prompt_ms?))
    }

    /// The work that one slot probably does in this time: units of cost. A guess while nothing is known.
    pub(super) fn done_in(&self, time: Duration) -> f64 {
        let unit_ms = self.prompt_ms.or_else(|| Some(1000.0 / self.slot_rate?)).unwrap_or(UNIT_MS);
        time.as_secs_f64() * 1000.0 / unit_ms
    }

    /// How long the first token, and the whole answer, will take.
    pub(super) fn service(&self, work: Work) -> (Duration, Duration) {
        let time = |ms: Option<f64>, tokens: u64| {
            Duration::try_from_secs_f64(ms.unwrap_or_default() * tokens as f64 / 1000.0).unwrap_or(Duration::MAX)
        };
        let first_token = time(self.prompt_ms, work.prompt);
        (first_token, first_token.saturating_add(time(self.output_ms, work.output)))
    }
}

fn average(value: &mut Option<f64>, sample: f64, alpha: f64) {
    if sample.is_finite() && sample > 0.0 {
        *value = Some(value.map_or(sample, |value| value + alpha * (sample - value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(prompt_tokens: u64, prompt_ms: f64, output_tokens: u64, output_ms: f64) -> Speed {
        Speed { prompt_tokens, prompt_ms, output_tokens, output_ms }
    }

    #[test]
    fn an_output_token_costs_as_many_prompt_tokens_as_take_the_same_time() {
        let mut speeds = Speeds::default();
        assert_eq!(speeds.weights().output, OUTPUT_COST);
        speeds.learn(speed(100, 500.0, 100, 1500.0));
        assert_eq!(speeds.weights().output, 3.0);
        assert_eq!(speeds.weights().cost(100, 40, 10), 60.0 + 4.0 + 30.0);
        for _ in 0..100 {
            speeds.learn(speed(100, 500.0, 100, 5_000_000.0));
        }
        assert_eq!(speeds.weights().output, 200.0);
    }

    #[test]
    fn a_handful_of_tokens_or_nonsense_teaches_nothing() {
        let mut speeds = Speeds::default();
        for sample in [speed(3, 900.0, 2, 900.0), speed(100, f64::NAN, 100, 0.0), speed(100, -1.0, 0, 0.0)] {
            speeds.learn(sample);
        }
        assert_eq!((speeds.weights().output, speeds.slot_rate()), (OUTPUT_COST, None));
        assert_eq!(speeds.service(Work { prompt: 100, output: 100 }), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn service_times_follow_the_timings() {
        let mut speeds = Speeds::default();
        speeds.learn(speed(100, 500.0, 100, 1500.0));
        let expected = (Duration::from_secs(1), Duration::from_secs(4));
        assert_eq!(speeds.service(Work { prompt: 200, output: 200 }), expected);
        assert!(speeds.service(Work { prompt: u64::MAX, output: u64::MAX }).1 > Duration::from_secs(1 << 40));
    }

    #[test]
    fn the_rate_starts_from_the_timings_and_becomes_what_gets_done_while_all_slots_are_busy() {
        let mut speeds = Speeds::default();
        speeds.learn(speed(100, 500.0, 0, 0.0));
        assert_eq!(speeds.slot_rate(), Some(200.0));
        speeds.busy(Duration::from_secs(9), 900.0, 2);
        assert_eq!(speeds.slot_rate(), Some(200.0), "too short to tell");
        speeds.busy(Duration::from_secs(1), 100.0, 2);
        assert_eq!(speeds.slot_rate(), Some(50.0));
        speeds.busy(Duration::from_secs(10), 2000.0, 2);
        assert_eq!(speeds.slot_rate(), Some(60.0));
        // A prompt of a minute and a half, reported at its end.
        (0..9).for_each(|_| speeds.busy(Duration::from_secs(10), 0.0, 2));
        speeds.busy(Duration::from_secs(10), 10_000.0, 2);
        assert_eq!(speeds.slot_rate(), Some(58.0));
    }
}
