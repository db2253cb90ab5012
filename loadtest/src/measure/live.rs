//! What can be said while the run goes on, of all requests that are over, warm-up included.

use std::collections::BTreeMap;
use std::time::Duration;

use super::formula;
use super::histogram::Histogram;
use super::summary::Labels;
use crate::record::{Ending, Record};

/// Sums for the live progress.
pub struct Live {
    counts: Counts,
    errors: Labels,
    ttft: Histogram,
    /// The counts at the last snapshot, and when it was taken.
    before: (Duration, Counts),
}

#[derive(Clone, Copy, Default)]
struct Counts {
    completed: u64,
    left: u64,
    failed: u64,
    completion_tokens: u64,
}

/// How it goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Complete requests.
    pub completed: u64,
    /// Requests whose client left on purpose.
    pub left: u64,
    /// Requests that ended otherwise.
    pub failed: u64,
    /// Tokens generated for all of them.
    pub completion_tokens: u64,
    /// Complete requests a second since the last snapshot.
    pub completed_per_second: f64,
    /// Generated tokens a second of the requests that ended since the last snapshot.
    pub completion_tokens_per_second: f64,
    /// Time to first token from the scheduled moment so far, in milliseconds: median; none if there was none.
    pub ttft_scheduled_p50: Option<f64>,
    /// The 95th percentile.
    pub ttft_scheduled_p95: Option<f64>,
    /// How often each kind of failure came.
    pub errors: BTreeMap<String, u64>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            counts: Counts::default(),
            errors: Labels::default(),
            ttft: Histogram::fine(),
            before: (Duration::ZERO, Counts::default()),
        }
    }
}

impl Live {
    /// Adds a request.
    pub fn add(&mut self, record: &Record) {
        match &record.ending {
            Ending::Complete => self.counts.completed += 1,
            Ending::Left => self.counts.left += 1,
            failure => {
                self.counts.failed += 1;
                self.errors.count(failure.label(), 1);
            }
        }
        self.counts.completion_tokens = self.counts.completion_tokens.saturating_add(record.tokens_seen);
        if let Some(ttft) = formula::ttft_scheduled(record) {
            self.ttft.record(ttft);
        }
    }

    /// How it goes at a moment; rates are those since the moment of the call before.
    pub fn snapshot(&mut self, now: Duration) -> Snapshot {
        let (then, before) = std::mem::replace(&mut self.before, (now, self.counts));
        let seconds = now.saturating_sub(then).as_secs_f64();
        let rate = |now: u64, before: u64| if seconds > 0.0 { (now - before) as f64 / seconds } else { 0.0 };
        Snapshot {
            completed: self.counts.completed,
            left: self.counts.left,
            failed: self.counts.failed,
            completion_tokens: self.counts.completion_tokens,
            completed_per_second: rate(self.counts.completed, before.completed),
            completion_tokens_per_second: rate(self.counts.completion_tokens, before.completion_tokens),
            ttft_scheduled_p50: self.ttft.quantile(0.5),
            ttft_scheduled_p95: self.ttft.quantile(0.95),
            errors: self.errors.0.clone(),
        }
    }
}
