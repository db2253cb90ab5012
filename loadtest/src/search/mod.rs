//! Several runs of one workload at different loads: the curve (`sweep`), and the highest load that meets the objectives
//! (`find_limit` in `limit.rs`).
//!
//! Takes a function that makes a run at a load (what rates and numbers of users are multiplied by) and gives its report;
//! gives a `Sweep`. A run that cannot be made or is no measurement ends it, and the points before are kept.

mod attainment;
mod limit;
#[cfg(test)]
mod tests;

use anyhow::Context;

pub use limit::{Search, find_limit};

use crate::report::Report;
use crate::report::sweep::{Finding, Limit, Point, Sweep};
use crate::workload::Workload;
use attainment::Seen;

/// The most loads of a sweep.
const MOST_LOADS: usize = 100;

/// Runs the workload at each load, and all of them again `repeats - 1` times: in turns, so that what changes on the
/// machine in the meantime does not pass for an effect of the load.
///
/// # Errors
/// A load is no number above 0, or the first run could not be made.
pub async fn sweep(
    workload: &Workload,
    loads: &[f64],
    repeats: u32,
    run: impl AsyncFnMut(f64) -> anyhow::Result<Report>,
) -> anyhow::Result<Sweep> {
    let sound = loads.iter().all(|load| *load > 0.0 && load.is_finite());
    anyhow::ensure!(sound, "not all loads are numbers above 0\nhint: 0.5,1,2,4, say");
    let mut runs = Runs::new(workload, run);
    for _ in 0..repeats {
        for load in loads {
            if let Err(reason) = runs.at(*load).await {
                return runs.broken_off(reason);
            }
        }
    }
    runs.sweep(Finding::Curve, None)
}

/// Loads from `from` to `to`, each `factor` times the one before; the last one is `to`.
///
/// # Errors
/// There is no such list, or it is longer than 100.
pub fn loads(from: f64, to: f64, factor: f64) -> anyhow::Result<Vec<f64>> {
    let sound = from > 0.0 && to >= from && to.is_finite() && factor > 1.0;
    anyhow::ensure!(
        sound,
        "no loads lead from {from} to {to} by a factor of {factor}\nhint: 0 < from <= to, factor > 1"
    );
    let mut loads = Vec::new();
    let mut load = from;
    // A last step that is nearly none, from rounding, is none.
    while load * 1.000_001 < to {
        anyhow::ensure!(loads.len() + 1 < MOST_LOADS, "more than {MOST_LOADS} loads\nhint: a larger factor");
        loads.push(load);
        load *= factor;
    }
    loads.push(to);
    Ok(loads)
}

/// The runs made so far.
struct Runs<'a, R> {
    workload: &'a Workload,
    run: R,
    /// The first report, for the head of the sweep.
    first: Option<Report>,
    points: Vec<Point>,
    notes: Vec<String>,
}

impl<'a, R: AsyncFnMut(f64) -> anyhow::Result<Report>> Runs<'a, R> {
    fn new(workload: &'a Workload, run: R) -> Self {
        Self { workload, run, first: None, points: Vec::new(), notes: Vec::new() }
    }

    /// Makes a run and keeps its point.
    ///
    /// # Errors
    /// The run could not be made, or is no measurement.
    async fn at(&mut self, load: f64) -> anyhow::Result<Report> {
        let report = (self.run)(load).await.with_context(|| format!("the run at load {load}"))?;
        // Where everything comes too late, nothing is complete. That is an answer if less load went well before.
        let overloaded = report.total.complete() == 0
            && report.verdict.invalid.len() == 1
            && self.points.iter().any(|point| point.met && point.load < load);
        self.points.push(Point::of(load, &report));
        self.first.get_or_insert_with(|| report.clone());
        if overloaded || report.verdict.invalid.is_empty() {
            return Ok(report);
        }
        // Its point says why.
        anyhow::bail!("the run at load {load} is no measurement")
    }

    /// What there is, although the last run failed.
    fn broken_off(mut self, reason: anyhow::Error) -> anyhow::Result<Sweep> {
        if self.first.is_none() {
            return Err(reason);
        }
        self.notes.push(format!("broken off: {reason:#}"));
        self.sweep(Finding::BrokenOff, None)
    }

    fn sweep(self, finding: Finding, limit: Option<Limit>) -> anyhow::Result<Sweep> {
        let first = self.first.context("no run was asked for")?;
        Ok(Sweep {
            format: first.format,
            harness: first.harness,
            started_at: first.started_at,
            workload: self.workload.clone(),
            target: first.target,
            points: self.points,
            finding,
            limit,
            notes: self.notes,
        })
    }
}

impl Point {
    /// What a sweep keeps of a run.
    fn of(load: f64, report: &Report) -> Self {
        let (total, seen) = (&report.total, Seen::of(report));
        Self {
            load,
            scheduled: total.scheduled,
            offered: total.rates.offered,
            completed: total.rates.completed,
            goodput: total.rates.goodput,
            completion_tokens: total.rates.completion_tokens,
            attainment: seen.part(),
            attainment_interval: seen.interval(),
            ttft_scheduled_p50: total.measure("ttft_scheduled").map(|values| values.p50),
            ttft_scheduled_p95: total.measure("ttft_scheduled").map(|values| values.p95),
            tpot_p50: total.measure("tpot").map(|values| values.p50),
            met: report.verdict.exit_code() == 0,
            invalid: report.verdict.invalid.clone(),
        }
    }
}
