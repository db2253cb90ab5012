//! Two reports of the same workload, A before and B after a change: what became better, what worse, and whether that is
//! more than chance.
//!
//! Takes two reports; gives a `Comparison`: a line for each quantity with the ratio B/A, its 95 % confidence interval and
//! a verdict. The interval is by the bootstrap over blocks of time (`bootstrap.rs`). It tells what other requests at
//! other moments of the same two runs would have given; it cannot know what differs between the runs as a whole, such as
//! a machine that was busy with something else. Whoever wants to be sure of that runs A and B in turns.
//!
//! Twelve lines are looked at together, so some would differ by chance. A line is called better or worse by Holm's
//! method (A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979): where
//! nothing differs at all, the chance of one such verdict or more is 5 %, however the lines depend on each other. The
//! intervals are those of each line alone.

mod bootstrap;
mod likeness;
#[cfg(test)]
mod tests;
mod text;

use serde::Serialize;
use thiserror::Error;

use crate::report::{FORMAT, Report};
use crate::verdict::Statistic;
use bootstrap::Estimate;

/// Rounds of the bootstrap.
const ROUNDS: usize = 2000;

/// The chance of a false verdict that is accepted, and 1 - the confidence of the intervals.
const SIGNIFICANCE: f64 = 0.05;

/// Fewer blocks of time than this say nothing of how they differ from each other.
const FEWEST_BLOCKS: usize = 10;

/// So many values must lie beyond a percentile, or so many requests be good or bad, before it is judged.
const FEWEST_VALUES: f64 = 10.0;

/// What is compared of a run.
#[derive(Clone, Copy, Debug)]
enum Quantity {
    /// The percentile of a measure: its name in reports, and which part of all values it covers.
    Percentile(&'static str, Statistic, f64),
    /// Good requests a second.
    Goodput,
    /// The good part of the requests.
    Attainment,
    /// Generated tokens a second.
    CompletionTokens,
    /// The part of the requests that failed.
    ErrorRate,
}

/// The lines of a comparison.
const LINES: [(&str, Quantity); 12] = [
    ("ttft_scheduled.p50", Quantity::Percentile("ttft_scheduled", Statistic::P50, 0.5)),
    ("ttft_scheduled.p95", Quantity::Percentile("ttft_scheduled", Statistic::P95, 0.95)),
    ("ttft_scheduled.p99", Quantity::Percentile("ttft_scheduled", Statistic::P99, 0.99)),
    ("itl.p50", Quantity::Percentile("itl", Statistic::P50, 0.5)),
    ("itl.p99", Quantity::Percentile("itl", Statistic::P99, 0.99)),
    ("tpot.p50", Quantity::Percentile("tpot", Statistic::P50, 0.5)),
    ("e2e_scheduled.p50", Quantity::Percentile("e2e_scheduled", Statistic::P50, 0.5)),
    ("e2e_scheduled.p95", Quantity::Percentile("e2e_scheduled", Statistic::P95, 0.95)),
    ("goodput", Quantity::Goodput),
    ("attainment", Quantity::Attainment),
    ("completion_tokens", Quantity::CompletionTokens),
    ("error_rate", Quantity::ErrorRate),
];

/// How B differs from A.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// When the runs began: A, B.
    pub started_at: (String, String),
    /// What differs between the runs beside the measures, and does not forbid to compare them.
    pub notes: Vec<String>,
    /// The part by which B may be worse.
    pub tolerance: f64,
    /// Each quantity.
    pub lines: Vec<Line>,
    /// All lines together.
    pub verdict: Overall,
}

/// One quantity in both runs.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its name, such as `ttft_scheduled.p95`.
    pub name: &'static str,
    /// Whether less of it is better.
    pub less_is_better: bool,
    /// In A: milliseconds, per second, or a part of 1. None if nothing had a value.
    pub a: Option<f64>,
    /// In B.
    pub b: Option<f64>,
    /// B/A. None if A is 0 or not known.
    pub ratio: Option<f64>,
    /// The 95 % confidence interval of the ratio, where there are data enough.
    pub interval: Option<(f64, f64)>,
    /// The p-value of no difference, two-sided.
    pub p: Option<f64>,
    /// Which of them is better.
    pub verdict: LineVerdict,
    /// Whether the whole interval is beyond the tolerance.
    pub beyond_tolerance: bool,
}

/// What is said of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineVerdict {
    /// B is better.
    Better,
    /// B is worse.
    Worse,
    /// What is seen may be chance.
    NoDifferenceSeen,
    /// There are too few values to say anything.
    TooFewData,
}

/// What is said of all lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Overall {
    /// No line is worse by more than the tolerance, as far as can be seen.
    NotWorse,
    /// A line is worse, with its whole interval beyond the tolerance.
    Worse,
    /// No line has data enough to be judged.
    TooFewData,
}

/// Why two reports are not compared.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// A report is of another version.
    #[error(
        "report {0} has format {1}, this program reads format {FORMAT}\nhint: compare with the program that wrote it"
    )]
    Format(char, u32),
    /// A report is no measurement.
    #[error("report {0} is no measurement: {1}")]
    Invalid(char, String),
    /// They are of different things.
    #[error("the workloads differ, so the numbers cannot be compared:\n  {}\nhint: run the same workload file for both", .0.join("\n  "))]
    Workloads(Vec<String>),
}

impl Comparison {
    /// The exit code: 1 if B is worse beyond the tolerance, 2 if nothing could be compared, else 0.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Overall::NotWorse => 0,
            Overall::Worse => 1,
            Overall::TooFewData => 2,
        }
    }
}

/// Compares B with A. `tolerance` is the part by which B may be worse: 0.05 for 5 %.
///
/// # Errors
/// A report is of another version or no measurement, or they are of different workloads.
pub fn compare(a: &Report, b: &Report, tolerance: f64) -> Result<Comparison, Refusal> {
    compare_in(ROUNDS, a, b, tolerance)
}

fn compare_in(rounds: usize, a: &Report, b: &Report, tolerance: f64) -> Result<Comparison, Refusal> {
    for (name, report) in [('A', a), ('B', b)] {
        if report.format != FORMAT {
            return Err(Refusal::Format(name, report.format));
        }
        if !report.verdict.invalid.is_empty() {
            return Err(Refusal::Invalid(name, report.verdict.invalid.join("; ")));
        }
    }
    let likeness = likeness::of(a, b);
    if !likeness.forbidding.is_empty() {
        return Err(Refusal::Workloads(likeness.forbidding));
    }
    let estimates = bootstrap::estimates(a, b, &LINES.map(|(_, quantity)| quantity), rounds);
    let lines = LINES.iter().zip(estimates);
    let mut lines: Vec<_> = lines.map(|((name, quantity), estimate)| line(name, *quantity, (a, b), estimate)).collect();
    judge(&mut lines, tolerance);
    let verdict = if lines.iter().any(|line| line.verdict == LineVerdict::Worse && line.beyond_tolerance) {
        Overall::Worse
    } else if lines.iter().all(|line| line.p.is_none()) {
        Overall::TooFewData
    } else {
        Overall::NotWorse
    };
    let started_at = (a.started_at.clone(), b.started_at.clone());
    Ok(Comparison { started_at, notes: likeness.notes, tolerance, lines, verdict })
}

/// A line, not judged yet: a line with an interval is one that has data enough.
fn line(name: &'static str, quantity: Quantity, (a, b): (&Report, &Report), estimate: Estimate) -> Line {
    let enough = enough(quantity, a, b);
    let (a, b) = (quantity.in_report(a), quantity.in_report(b));
    // Two runs without any failure have no ratio, and that is no lack of data.
    let no_failures = matches!(quantity, Quantity::ErrorRate) && a == Some(0.0) && b == Some(0.0);
    let verdict = if enough || no_failures { LineVerdict::NoDifferenceSeen } else { LineVerdict::TooFewData };
    let ratio = a.zip(b).filter(|(a, _)| *a > 0.0).map(|(a, b)| b / a);
    Line {
        name,
        less_is_better: quantity.less_is_better(),
        a,
        b,
        ratio,
        interval: enough.then_some(estimate.interval),
        p: enough.then_some(estimate.p),
        verdict,
        beyond_tolerance: false,
    }
}

fn enough(quantity: Quantity, a: &Report, b: &Report) -> bool {
    if a.blocks.len().min(b.blocks.len()) < FEWEST_BLOCKS {
        return false;
    }
    let together = |count: fn(&Report) -> u64| (count(a) + count(b)) as f64 >= FEWEST_VALUES;
    match quantity {
        Quantity::Percentile(measure, _, part) => [a, b].iter().all(|report| {
            let count = report.total.measures.get(measure).map_or(0, |values| values.count);
            count as f64 * part.min(1.0 - part) >= FEWEST_VALUES
        }),
        Quantity::Goodput | Quantity::Attainment => together(|report| report.total.good),
        Quantity::CompletionTokens => together(|report| report.total.tokens.completion),
        Quantity::ErrorRate => together(|report| report.total.failed()),
    }
}

/// Gives the lines with data enough their verdict, by Holm's method: of m lines the one with the least p is held to
/// 5 % / m, the next one to 5 % / (m - 1), and so on up to the first that does not reach its bound.
fn judge(lines: &mut [Line], tolerance: f64) {
    let mut judged: Vec<_> = lines.iter_mut().filter_map(|line| Some((line.p?, line.interval?, line))).collect();
    judged.sort_by(|(one, ..), (other, ..)| one.total_cmp(other));
    let mut left = judged.len() as f64;
    for (p, (low, high), line) in judged {
        if p > SIGNIFICANCE / left {
            return;
        }
        left -= 1.0;
        let higher = low > 1.0;
        line.verdict = if higher == line.less_is_better { LineVerdict::Worse } else { LineVerdict::Better };
        line.beyond_tolerance = low > 1.0 + tolerance || high < 1.0 - tolerance;
    }
}

impl Quantity {
    fn less_is_better(self) -> bool {
        matches!(self, Self::Percentile(..) | Self::ErrorRate)
    }

    /// As the report says it, with its three digits.
    fn in_report(self, report: &Report) -> Option<f64> {
        let total = &report.total;
        match self {
            Self::Percentile(measure, statistic, _) => total.measure(measure).map(|values| statistic.of(values)),
            Self::Goodput => Some(total.rates.goodput),
            Self::Attainment => (total.expected() > 0).then_some(total.attainment),
            Self::CompletionTokens => Some(total.rates.completion_tokens),
            Self::ErrorRate => (total.scheduled > 0).then(|| total.failed() as f64 / total.scheduled as f64),
        }
    }
}
