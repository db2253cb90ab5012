//! The highest load that meets the objectives. It is taken to be one: what meets them at a load meets them at less.
//!
//! The load is doubled until it is clearly too high, then the gap between the highest load that met the objectives and
//! the lowest that did not is halved until it is as small as asked. About a load decides the interval of its attainment
//! (`attainment.rs`): met if all of it is at or above the objective, missed if all of it is below. If neither, the run is
//! repeated and the runs are taken together, and after the last repetition the load counts as missed. The other
//! objectives must be met in every run. At the end the load found is run once more: the highest of several that went
//! well may have been lucky. The interval that is stated for the limit lies between loads that were clear.

use super::Runs;
use super::attainment::{Answer, Seen, fewest_requests};
use crate::report::Report;
use crate::report::sweep::{Finding, Limit, Sweep};
use crate::verdict::{self, percent};
use crate::workload::{Objectives, Workload};

/// The confidence of the interval, where an attainment is wanted. It is that of a single decision; several loads are near
/// the limit, but a wrong decision only spoils the interval if it is the last one on its side. `tests.rs` sees that it is
/// kept.
const CONFIDENCE: f64 = 0.95;

/// Where to look, and how closely.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The lowest load.
    pub from: f64,
    /// The highest load.
    pub to: f64,
    /// How far the lowest load that is too high may be above the highest that is not, as a part of it.
    pub resolution: f64,
    /// How many runs are made at a load that is not clear.
    pub runs: u32,
}

/// What is known of the loads.
#[derive(Default)]
struct Bounds {
    /// Those that met the objectives, ascending.
    met: Vec<f64>,
    /// The lowest that did not, or not clearly.
    not_met: Option<f64>,
    /// The lowest that clearly missed them.
    missed: Option<f64>,
}

/// Looks for the highest load that meets the workload's objectives.
///
/// # Errors
/// The workload has no objectives, or one that no number of requests can show; the search is over no loads; the first run
/// could not be made.
pub async fn find_limit(
    workload: &Workload,
    search: Search,
    run: impl AsyncFnMut(f64) -> anyhow::Result<Report>,
) -> anyhow::Result<Sweep> {
    let Search { from, to, resolution, runs } = search;
    let sound = from > 0.0 && to >= from && to.is_finite() && resolution > 0.0 && runs > 0;
    anyhow::ensure!(sound, "no search leads from load {from} to {to} in steps of {resolution}\nhint: 0 < from <= to");
    let none = workload.slo.run == Objectives::default();
    anyhow::ensure!(
        !none,
        "the workload has no objectives\nhint: an attainment, with bounds of what a good request is"
    );
    let certain = workload.slo.run.attainment.is_some_and(|wanted| wanted >= 1.0);
    anyhow::ensure!(!certain, "no number of requests shows an attainment of 100 %\nhint: 0.99, say");
    let mut limits = Limits { runs: Runs::new(workload, run), search, bounds: Bounds::default() };
    match limits.find().await {
        Ok((finding, limit)) => limits.runs.sweep(finding, limit),
        Err(reason) => {
            let mut sweep = limits.runs.broken_off(reason)?;
            let met = limits.bounds.met.last();
            sweep.notes.extend(met.map(|load| format!("until then the objectives were met up to load {load}")));
            Ok(sweep)
        }
    }
}

struct Limits<'a, R> {
    runs: Runs<'a, R>,
    search: Search,
    bounds: Bounds,
}

impl<R: AsyncFnMut(f64) -> anyhow::Result<Report>> Limits<'_, R> {
    async fn find(&mut self) -> anyhow::Result<(Finding, Option<Limit>)> {
        self.double().await?;
        let Some(too_high) = self.bounds.not_met else {
            let to = self.search.to;
            self.note(format!("met at load {to}, the highest that was allowed: the limit is above"));
            return Ok((Finding::AlwaysMet, None));
        };
        self.halve(too_high).await?;
        match self.confirm().await? {
            Some(limit) => Ok((Finding::Limit, Some(limit))),
            None => Ok((Finding::NeverMet, None)),
        }
    }

    /// Doubles the load until one clearly misses, or to the end.
    async fn double(&mut self) -> anyhow::Result<()> {
        let mut load = self.search.from;
        loop {
            let answer = self.probe(load).await?;
            if answer == Answer::Missed || load >= self.search.to {
                return Ok(());
            }
            load = (load * 2.0).min(self.search.to);
        }
    }

    /// Halves the gap between the highest load that met the objectives and the lowest that did not.
    async fn halve(&mut self, mut high: f64) -> anyhow::Result<()> {
        while let Some(low) = self.bounds.met.last().copied().filter(|low| high > low * (1.0 + self.search.resolution))
        {
            let middle = f64::midpoint(low, high);
            if self.probe(middle).await? != Answer::Met {
                high = middle;
            }
        }
        Ok(())
    }

    /// Runs the highest load that met the objectives once more, and the next one below if that fails.
    async fn confirm(&mut self) -> anyhow::Result<Option<Limit>> {
        while let Some(load) = self.bounds.met.last().copied() {
            let report = self.runs.at(load).await?;
            if self.answer(&report, Seen::of(&report)) != Answer::Missed {
                return Ok(Some(self.limit(load, &report)));
            }
            self.note(format!("load {load} met the objectives and, when run once more, did not"));
            self.bounds.met.pop();
        }
        let from = self.search.from;
        self.note(format!(
            "not met at load {from}, the lowest that was allowed\nhint: a lower load, or a lower objective"
        ));
        Ok(None)
    }

    fn limit(&mut self, load: f64, report: &Report) -> Limit {
        let high = self.bounds.missed.unwrap_or(self.search.to);
        if self.bounds.missed.is_none() {
            self.note(format!("no load up to {high} clearly missed the objectives: the limit may be above"));
        }
        let basis = match self.wanted() {
            Some(wanted) => format!(
                "at load {load} the attainment is at least {wanted}, at load {high} less, by Wilson's intervals of 95 %; \
                 confirmed by a run more, with {} good",
                percent(Seen::of(report).part()),
                wanted = percent(wanted),
            ),
            None => format!("at load {load} the objectives were met in two runs, at load {high} missed in one"),
        };
        Limit {
            load,
            offered: report.total.rates.offered,
            interval: (load, high),
            confidence: self.wanted().map(|_| CONFIDENCE),
            basis,
        }
    }

    /// Runs a load as often as it takes to know whether it meets the objectives, and remembers the answer.
    async fn probe(&mut self, load: f64) -> anyhow::Result<Answer> {
        let mut seen = Seen::default();
        let mut answer = Answer::Unclear;
        for _ in 0..self.search.runs {
            let report = self.runs.at(load).await?;
            seen = seen.and(Seen::of(&report));
            answer = self.answer(&report, seen);
            if answer != Answer::Unclear {
                break;
            }
        }
        self.bounds.add(load, answer);
        if answer == Answer::Unclear {
            self.tell_unclear(load, seen);
        }
        Ok(answer)
    }

    /// What the last run says for the other objectives, and all runs of this load for the attainment.
    fn answer(&self, report: &Report, seen: Seen) -> Answer {
        let mut others = report.verdict.objectives.iter().filter(|objective| objective.name != verdict::ATTAINMENT);
        if others.any(|objective| !objective.met) {
            return Answer::Missed;
        }
        self.wanted().map_or(Answer::Met, |wanted| seen.decide(wanted))
    }

    fn wanted(&self) -> Option<f64> {
        self.runs.workload.slo.run.attainment
    }

    fn tell_unclear(&mut self, load: f64, seen: Seen) {
        let Some(wanted) = self.wanted() else { return };
        let (low, high) = seen.interval();
        let (part, low, high) = (percent(seen.part()), percent(low), percent(high));
        let runs = self.search.runs;
        let mut note =
            format!("load {load} counts as missed: {part} good in {runs} runs, {low} to {high}, is not clear");
        if seen.part() >= wanted {
            let fewest = fewest_requests(wanted);
            note += &format!(
                "\nhint: longer runs; at {} it takes {fewest} requests, all good, to be clear",
                percent(wanted)
            );
        }
        self.note(note);
    }

    fn note(&mut self, note: String) {
        self.runs.notes.push(note);
    }
}

impl Bounds {
    fn add(&mut self, load: f64, answer: Answer) {
        let lower = |bound: Option<f64>| Some(bound.map_or(load, |bound| bound.min(load)));
        match answer {
            Answer::Met => {
                self.met.push(load);
                // What was not clear below is clear now.
                self.not_met = self.not_met.filter(|bound| *bound > load);
            }
            Answer::Unclear => self.not_met = lower(self.not_met),
            Answer::Missed => (self.not_met, self.missed) = (lower(self.not_met), lower(self.missed)),
        }
    }
}
