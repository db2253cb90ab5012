//! `loadtest sweep` and `loadtest find-limit`: the same workload at several loads.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::output::{OutputArguments, Results};
use super::target::TargetArguments;
use super::{interrupted, runtime, warn};
use crate::report::Report;
use crate::report::sweep::Sweep;
use crate::run::{Bench, Watch};
use crate::search::{self, Search};
use crate::show;
use crate::workload::{Workload, WorkloadFlags};

#[derive(Args)]
pub(super) struct SweepArguments {
    #[command(flatten)]
    common: Common,
    /// The loads: what rates and numbers of users are multiplied by, such as 0.5,1,2,4 [default: as --from, --to and
    /// --factor say]
    #[arg(long, value_name = "LOADS", value_delimiter = ',', conflicts_with_all = ["from", "to", "factor"])]
    loads: Vec<f64>,
    /// The lowest load
    #[arg(long, value_name = "LOAD", default_value_t = 0.25)]
    from: f64,
    /// The highest load
    #[arg(long, value_name = "LOAD", default_value_t = 4.0)]
    to: f64,
    /// What each load is multiplied by to give the next one
    #[arg(long, value_name = "X", default_value_t = 2.0)]
    factor: f64,
    /// How often all loads are run, in turns
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeats: u32,
}

#[derive(Args)]
pub(super) struct FindLimitArguments {
    #[command(flatten)]
    common: Common,
    /// The lowest load: what rates and numbers of users are multiplied by
    #[arg(long, value_name = "LOAD", default_value_t = 1.0)]
    from: f64,
    /// The highest load
    #[arg(long, value_name = "LOAD", default_value_t = 64.0)]
    to: f64,
    /// How closely, as a part of the load
    #[arg(long, value_name = "PART", default_value_t = 0.1)]
    resolution: f64,
    /// How many runs are made at most at a load that is not clear
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u32,
}

#[derive(Args)]
struct Common {
    #[command(flatten)]
    workload: WorkloadFlags,
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Runs the workload at each load and shows the curve.
pub(super) fn sweep(arguments: &SweepArguments) -> anyhow::Result<ExitCode> {
    let loads = match arguments.loads.as_slice() {
        [] => search::loads(arguments.from, arguments.to, arguments.factor)?,
        given => given.to_vec(),
    };
    let workload = arguments.common.workload.workload()?;
    runtime()?.block_on(async {
        let mut runner = Runner::prepare(&arguments.common, &workload).await?;
        let sweep = search::sweep(&workload, &loads, arguments.repeats, async |load| runner.run(load).await).await?;
        runner.show(&sweep)
    })
}

/// Looks for the highest load that meets the objectives.
pub(super) fn find_limit(arguments: &FindLimitArguments) -> anyhow::Result<ExitCode> {
    let FindLimitArguments { common, from, to, resolution, runs } = arguments;
    let search = Search { from: *from, to: *to, resolution: *resolution, runs: *runs };
    let workload = common.workload.workload()?;
    runtime()?.block_on(async {
        let mut runner = Runner::prepare(common, &workload).await?;
        let sweep = search::find_limit(&workload, search, async |load| runner.run(load).await).await?;
        runner.show(&sweep)
    })
}

/// Runs a workload at the loads that it is told.
struct Runner<'a> {
    bench: Bench,
    workload: &'a Workload,
    watch: Watch,
    results: Results,
    stop: CancellationToken,
    /// Owns what waits for Ctrl-C.
    _tasks: JoinSet<()>,
    runs: u32,
}

impl<'a> Runner<'a> {
    async fn prepare(common: &Common, workload: &'a Workload) -> anyhow::Result<Self> {
        let bench = Bench::prepare(workload, common.target.settings()?).await?;
        warn(&bench.warnings);
        let results = common.output.open(&workload.name)?;
        let watch = Watch::new(common.output.quiet);
        let mut tasks = JoinSet::new();
        let stop = interrupted(&mut tasks)?;
        Ok(Self { bench, workload, watch, results, stop, _tasks: tasks, runs: 0 })
    }

    async fn run(&mut self, load: f64) -> anyhow::Result<Report> {
        let workload = at(load, self.workload, self.runs);
        self.runs += 1;
        let report = self.bench.run(&workload, &mut self.watch, &self.stop).await?;
        self.results.write_json(&format!("run-{:02}.json", self.runs), &report)?;
        Ok(report)
    }

    fn show(&self, sweep: &Sweep) -> anyhow::Result<ExitCode> {
        let mut stdout = std::io::stdout().lock();
        // Before anything is written: a full disk must not take away what was measured.
        stdout.write_all(show::text_sweep(sweep).as_bytes())?;
        self.results.write_json("sweep.json", sweep)?;
        self.results.write("sweep.html", &show::html_sweep(sweep))?;
        let directory = self.results.directory().display();
        writeln!(stdout, "\nsweep.json, sweep.html and a report of each run are in {directory}")?;
        Ok(ExitCode::from(sweep.exit_code()))
    }
}

/// The workload of one run. Each has a seed of its own: the same prompts again would be in the prompt cache. The books
/// are not read between runs, so they cannot be an objective.
fn at(load: f64, workload: &Workload, run: u32) -> Workload {
    let mut workload = workload.scaled(load);
    workload.name = format!("{} at load {load}", workload.name);
    workload.seed = workload.seed.wrapping_add(u64::from(run));
    workload.slo.run.audit = None;
    workload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::load;

    #[test]
    fn books_that_a_workload_asks_for_do_not_fail_a_search_that_reads_none() {
        let workload = load("three-tenants").unwrap();
        assert_eq!(workload.slo.run.audit, Some(true));
        let first = at(2.0, &workload, 0);
        assert_eq!((first.slo.run.audit, first.seed), (None, workload.seed));
        assert_ne!(at(2.0, &workload, 1).seed, first.seed);
    }
}
