//! Distributions: every value counted in an HDR histogram (Gil Tene's HdrHistogram), none sampled away.
//!
//! Takes times, keeps them in microseconds with a given number of significant digits; gives `report::Distribution` and
//! pairs of value and count, in milliseconds. Least, most and mean are exact. A percentile is the least value such that
//! so many of all values are at or below it, rounded up within the digits: with 3 digits at most 0.1 % too high.

use std::time::Duration;

use crate::report::Distribution;

/// Values above are counted as this. It bounds the memory of one histogram, see `bytes`.
const LARGEST: Duration = Duration::from_hours(24);

/// A histogram of times.
#[derive(Clone)]
pub struct Histogram {
    counts: hdrhistogram::Histogram<u64>,
    least: u64,
    most: u64,
    sum: u64,
}

impl Histogram {
    /// For what is reported: three significant digits.
    pub fn fine() -> Self {
        Self::with_digits(3)
    }

    /// For slices and blocks of time, of which there are many: two digits, an eighth of the memory.
    pub fn coarse() -> Self {
        Self::with_digits(2)
    }

    #[expect(clippy::expect_used, reason = "the library refuses more than 5 digits and nothing else")]
    fn with_digits(digits: u8) -> Self {
        let counts = hdrhistogram::Histogram::new(digits).expect("2 and 3 are numbers of digits that exist");
        Self { counts, least: u64::MAX, most: 0, sum: 0 }
    }

    /// Counts a value.
    pub fn record(&mut self, value: Duration) {
        let value = micros(value.min(LARGEST));
        // Grows by itself, and there is memory for a day: it cannot fail.
        if self.counts.record(value).is_ok() {
            self.least = self.least.min(value);
            self.most = self.most.max(value);
            self.sum = self.sum.saturating_add(value);
        }
    }

    /// Counts all that another one has counted.
    pub fn merge(&mut self, other: &Self) {
        // Grows by itself, as above.
        if self.counts.add(&other.counts).is_ok() {
            self.least = self.least.min(other.least);
            self.most = self.most.max(other.most);
            self.sum = self.sum.saturating_add(other.sum);
        }
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// The value in milliseconds that a part of all values, 0 to 1, does not exceed. None if nothing was counted.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        (self.count() > 0).then(|| self.millis(self.counts.value_at_quantile(part)))
    }

    /// Values in milliseconds and how often each came, ascending. A value stands for all that have the same digits, and
    /// is the highest of them.
    pub fn pairs(&self) -> Vec<(f64, u64)> {
        let recorded = self.counts.iter_recorded();
        recorded.map(|step| (self.millis(step.value_iterated_to()), step.count_at_value())).collect()
    }

    /// As it stands in a report.
    pub fn distribution(&self) -> Distribution {
        if self.count() == 0 {
            return Distribution::default();
        }
        let quantile = |part| self.quantile(part).unwrap_or_default();
        Distribution {
            count: self.count(),
            min: self.least as f64 / 1000.0,
            mean: self.sum as f64 / self.count() as f64 / 1000.0,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: self.most as f64 / 1000.0,
            histogram: self.pairs(),
        }
    }

    /// What a value of the library's is in milliseconds. It gives the highest value with the same digits, which may be
    /// above all that were counted.
    fn millis(&self, micros: u64) -> f64 {
        micros.clamp(self.least, self.most) as f64 / 1000.0
    }

    /// Its memory: 8 bytes for each value that can be told apart, up to the largest that came. At most 225 KiB with
    /// three digits, 32 KiB with two.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.counts.distinct_values() * size_of::<u64>() + size_of::<Self>()
    }
}

/// A time in microseconds, rounded.
pub(super) fn micros(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(time.subsec_nanos().saturating_add(500) / 1000))
}
