//! What runs say of the attainment at a load: an interval, and whether an objective is met.
//!
//! The interval is Wilson's (E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal
//! of the American Statistical Association 22, 1927), which holds for small numbers and near 100 %. It takes requests to
//! be independent; misses come in clusters, when a queue is long. So requests count for as many independent ones as the
//! blocks of the run say: the variance between blocks over that of independent requests is the design effect (J. N. K.
//! Rao and A. J. Scott, A simple method for the analysis of clustered binary data, Biometrics 48, 1992).

use crate::report::Report;

/// 95 % two-sided, in standard deviations.
const DEVIATIONS: f64 = 1.959_964;

/// Fewer blocks than this say nothing of clusters.
const FEWEST_BLOCKS: usize = 8;

/// Requests, in independent ones.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Seen {
    good: f64,
    all: f64,
}

/// What is said of an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The attainment is at least what is wanted.
    Met,
    /// It is less.
    Missed,
    /// It may be either.
    Unclear,
}

impl Seen {
    /// What a run says.
    pub(super) fn of(report: &Report) -> Self {
        let (good, all) = (report.total.good as f64, report.total.expected() as f64);
        let effect = design_effect(report);
        Self { good: good / effect, all: all / effect }
    }

    /// What several runs say together.
    pub(super) fn and(self, other: Self) -> Self {
        Self { good: self.good + other.good, all: self.all + other.all }
    }

    /// The good part.
    pub(super) fn part(self) -> f64 {
        if self.all > 0.0 { self.good / self.all } else { 0.0 }
    }

    /// Between which parts the true one lies, with 95 % confidence.
    pub(super) fn interval(self) -> (f64, f64) {
        if self.all <= 0.0 {
            return (0.0, 1.0);
        }
        let (part, square) = (self.part(), DEVIATIONS.powi(2) / self.all);
        let middle = (part + square / 2.0) / (1.0 + square);
        let half = (part * (1.0 - part) * square + square.powi(2) / 4.0).sqrt() / (1.0 + square);
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }

    /// Whether the attainment is at least `wanted`.
    pub(super) fn decide(self, wanted: f64) -> Answer {
        let (low, high) = self.interval();
        if low >= wanted {
            Answer::Met
        } else if high < wanted {
            Answer::Missed
        } else {
            Answer::Unclear
        }
    }
}

/// How many requests must all be good before it is clear that `wanted` is met.
pub(super) fn fewest_requests(wanted: f64) -> f64 {
    (DEVIATIONS.powi(2) * wanted / (1.0 - wanted)).ceil()
}

/// How many requests say no more than one independent request would; at least 1.
fn design_effect(report: &Report) -> f64 {
    let blocks: Vec<_> = report
        .blocks
        .iter()
        .map(|block| (block.good as f64, block.scheduled.saturating_sub(block.left) as f64))
        .filter(|(_, all)| *all > 0.0)
        .collect();
    let (good, all) = blocks.iter().fold((0.0, 0.0), |sum, block| (sum.0 + block.0, sum.1 + block.1));
    let part = good / all;
    let independent = part * (1.0 - part) * all;
    if blocks.len() < FEWEST_BLOCKS || independent <= 0.0 {
        return 1.0;
    }
    let squares: f64 = blocks.iter().map(|(good, all)| (good - part * all).powi(2)).sum();
    let count = blocks.len() as f64;
    (squares * count / (count - 1.0) / independent).max(1.0)
}
