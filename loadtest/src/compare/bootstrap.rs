//! How far the ratio B/A of a quantity may be off by chance: the bootstrap (B. Efron, Bootstrap methods: another look at
//! the jackknife, Annals of Statistics 7, 1979).
//!
//! Requests of one moment meet the same queue, so they are not drawn one by one. Runs of consecutive blocks of time are
//! (H. R. Kuensch, The jackknife and the bootstrap for general stationary observations, Annals of Statistics 17, 1989),
//! round the end to the beginning, so that all blocks are drawn alike (D. N. Politis and J. P. Romano, A circular
//! block-resampling procedure for stationary data, 1992). A run is as long as the square root of the number of blocks:
//! longer than the cube root that is best for large numbers, as reports have some dozen blocks and what is not in a run
//! is taken for chance. In each round both reports are drawn anew and every quantity is taken from the same draw. Few
//! runs vary too little among themselves, so what a round is off by is stretched as T. C. Hesterberg advises (What
//! teachers should know about the bootstrap, The American Statistician 69, 2015).
//!
//! How well this holds is in `tests.rs`: well where a block shares half of its load with the next one, less well where
//! it shares four fifths.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Quantity, SIGNIFICANCE};
use crate::report::{Block, Report};

/// Histograms of blocks have two digits, so a ratio of percentiles may be off by this part without any chance.
const ROUNDING: f64 = 0.01;

/// Milliseconds that a value counts at least: times are kept in microseconds, and 0 has no ratio. Gaps of events that
/// come in one read are 0.
const LEAST: f64 = 0.001;

/// What is known of a ratio.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    /// Its 95 % confidence interval.
    pub(super) interval: (f64, f64),
    /// The two-sided p-value of a ratio of 1.
    pub(super) p: f64,
}

/// The blocks of one report, ready to be drawn from again and again.
struct Side<'a> {
    blocks: &'a [Block],
    seconds: f64,
    measures: Vec<Measure>,
}

/// One measure's histograms over common values.
struct Measure {
    name: &'static str,
    values: Vec<f64>,
    /// For each block: indices of values, and how often each came.
    blocks: Vec<Vec<(usize, u64)>>,
}

/// The ratio B/A of each quantity, from so many rounds. The same every time: the draws are seeded.
pub(super) fn estimates(a: &Report, b: &Report, quantities: &[Quantity], rounds: usize) -> Vec<Estimate> {
    let (a, b) = (Side::new(a, quantities), Side::new(b, quantities));
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let logarithms = |a: Vec<f64>, b: Vec<f64>| b.iter().zip(&a).map(|(b, a)| (b / a).ln()).collect::<Vec<_>>();
    let seen = logarithms(a.quantities(quantities, &a.all()), b.quantities(quantities, &b.all()));
    let drawn: Vec<_> = (0..rounds)
        .map(|_| {
            let (times_a, times_b) = (a.draw(&mut random), b.draw(&mut random));
            logarithms(a.quantities(quantities, &times_a), b.quantities(quantities, &times_b))
        })
        .collect();
    let stretch = stretch(a.runs().min(b.runs()));
    let estimate = |(index, quantity): (usize, &Quantity)| {
        let seen = seen[index];
        let rounding = if matches!(quantity, Quantity::Percentile(..)) { ROUNDING } else { 0.0 };
        let logarithms = drawn.iter().map(|round| seen + stretch * (round[index] - seen)).collect();
        Estimate::new(logarithms, rounding.ln_1p())
    };
    quantities.iter().enumerate().map(estimate).collect()
}

impl Estimate {
    /// From the logarithms of the ratio in each round; the interval is wider by `rounding` at both ends.
    fn new(mut logarithms: Vec<f64>, rounding: f64) -> Self {
        logarithms.sort_by(f64::total_cmp);
        let rounds = logarithms.len();
        let at = |part: f64| logarithms[((rounds as f64 * part) as usize).min(rounds.saturating_sub(1))];
        let (low, high) = (at(SIGNIFICANCE / 2.0) - rounding, at(1.0 - SIGNIFICANCE / 2.0) + rounding);
        // One is added, so that no finite number of rounds claims that something cannot be.
        let not_above = logarithms.partition_point(|logarithm| *logarithm <= rounding) + 1;
        let not_below = rounds - logarithms.partition_point(|logarithm| *logarithm < -rounding) + 1;
        let p = 2.0 * not_above.min(not_below) as f64 / (rounds + 1) as f64;
        Self { interval: (low.exp(), high.exp()), p: p.min(1.0) }
    }
}

impl<'a> Side<'a> {
    fn new(report: &'a Report, quantities: &[Quantity]) -> Self {
        let mut measures: Vec<Measure> = Vec::new();
        for quantity in quantities {
            if let Quantity::Percentile(name, ..) = *quantity
                && measures.iter().all(|measure| measure.name != name)
            {
                measures.push(Measure::new(name, &report.blocks));
            }
        }
        Self { blocks: &report.blocks, seconds: report.measured_seconds, measures }
    }

    /// Each block once.
    fn all(&self) -> Vec<u64> {
        vec![1; self.blocks.len()]
    }

    /// How many blocks a run has.
    fn run(&self) -> usize {
        (self.blocks.len() as f64).sqrt().round() as usize
    }

    /// How many runs make a draw.
    fn runs(&self) -> f64 {
        self.blocks.len() as f64 / self.run().max(1) as f64
    }

    /// How often each block is in a new draw of as many blocks.
    fn draw(&self, random: &mut ChaCha8Rng) -> Vec<u64> {
        let mut times = vec![0; self.blocks.len()];
        let mut drawn = 0;
        while drawn < times.len() {
            let start = random.random_range(0..times.len());
            for step in 0..self.run().min(times.len() - drawn) {
                let block = (start + step) % times.len();
                times[block] += 1;
                drawn += 1;
            }
        }
        times
    }

    /// The quantities where each block comes so many times. Half a one is added to what is counted (J. B. S. Haldane
    /// 1956, F. J. Anscombe 1956), so that there is a ratio where nothing was counted.
    fn quantities(&self, quantities: &[Quantity], times: &[u64]) -> Vec<f64> {
        let sum = |count: fn(&Block) -> u64| {
            self.blocks.iter().zip(times).map(|(block, times)| count(block) * times).sum::<u64>() as f64
        };
        let merged: Vec<_> = self.measures.iter().map(|measure| (measure, measure.merged(times))).collect();
        let percentile = |name: &str, part: f64| {
            let (measure, counts) = merged.iter().find(|(measure, _)| measure.name == name)?;
            measure.percentile(counts, part)
        };
        let quantity = |quantity: &Quantity| match *quantity {
            // What has no values at all is never judged.
            Quantity::Percentile(name, _, part) => percentile(name, part).map_or(1.0, |value| value.max(LEAST)),
            Quantity::Goodput => (sum(|block| block.good) + 0.5) / self.seconds,
            Quantity::Attainment => {
                (sum(|block| block.good) + 0.5) / (sum(|block| block.scheduled - block.left.min(block.scheduled)) + 1.0)
            }
            Quantity::CompletionTokens => (sum(|block| block.completion_tokens) + 0.5) / self.seconds,
            Quantity::ErrorRate => (sum(|block| block.failed) + 0.5) / (sum(|block| block.scheduled) + 1.0),
        };
        quantities.iter().map(quantity).collect()
    }
}

impl Measure {
    fn new(name: &'static str, blocks: &[Block]) -> Self {
        let histogram = |block: &'_ Block| block.histograms.get(name).cloned().unwrap_or_default();
        let mut values: Vec<f64> = blocks.iter().flat_map(histogram).map(|(value, _)| value).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let index = |value: f64| values.partition_point(|other| *other < value);
        let indexed = |block| histogram(block).into_iter().map(|(value, count)| (index(value), count)).collect();
        let blocks = blocks.iter().map(indexed).collect();
        Self { name, values, blocks }
    }

    /// How often each value comes where each block comes so many times.
    fn merged(&self, times: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; self.values.len()];
        for (block, times) in self.blocks.iter().zip(times).filter(|(_, times)| **times > 0) {
            for (index, count) in block {
                counts[*index] += count * times;
            }
        }
        counts
    }

    /// The least value that a part of all does not exceed.
    fn percentile(&self, counts: &[u64], part: f64) -> Option<f64> {
        let wanted = counts.iter().sum::<u64>() as f64 * part;
        let mut passed = 0;
        let reached = counts.iter().position(|count| {
            passed += count;
            passed > 0 && passed as f64 >= wanted
        });
        reached.map(|index| self.values[index])
    }
}

/// By how much the deviations of a draw of n runs are too small: the root of n / (n - 1) for the variance, and Student's
/// t for not knowing it, here by the expansion of its quantile in 1 / (n - 1) (Abramowitz and Stegun 26.7.5).
fn stretch(runs: f64) -> f64 {
    const Z: f64 = 1.959_964;
    let freedom = (runs - 1.0).max(1.0);
    let t = Z
        + (Z.powi(3) + Z) / (4.0 * freedom)
        + (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / (96.0 * freedom.powi(2));
    (runs / freedom).sqrt() * t / Z
}
