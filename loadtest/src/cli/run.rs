//! `loadtest run`: one workload, once, with everything that is said of it.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use tokio::task::JoinSet;

use super::output::{OutputArguments, Results};
use super::target::TargetArguments;
use super::{interrupted, runtime, warn};
use crate::report::Report;
use crate::run::{Bench, Settings, Watch};
use crate::show;
use crate::verdict::junit;
use crate::workload::WorkloadFlags;

#[derive(Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    workload: WorkloadFlags,
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    output: OutputArguments,
    /// Do not compare the tokens that clients saw with the gateway's ledger and llama-server's counters
    #[arg(long)]
    no_audit: bool,
    /// How often it is tried how soon a client who leaves frees its slot; needs --upstream
    #[arg(long, value_name = "N", default_value_t = 10)]
    cancel_trials: u32,
}

/// Runs the workload, writes and prints the report, and tells by the exit code whether the objectives were met.
pub(super) fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let workload = arguments.workload.workload()?;
    let settings =
        Settings { cancel_trials: arguments.cancel_trials, audit: !arguments.no_audit, ..arguments.target.settings()? };
    let report = runtime()?.block_on(async {
        let bench = Bench::prepare(&workload, settings).await?;
        // After the look at the target: what cannot be measured leaves no empty directory.
        let results = arguments.output.open(&workload.name)?;
        warn(&bench.warnings);
        let mut watch = Watch::new(arguments.output.quiet).with_rows(results.create("requests.csv")?)?;
        let mut tasks = JoinSet::new();
        let report = bench.run(&workload, &mut watch, &interrupted(&mut tasks)?).await?;
        anyhow::Ok((report, results, watch))
    });
    let (report, results, watch) = report?;
    let mut stdout = std::io::stdout().lock();
    // Before anything is written: a full disk must not take away what was measured.
    stdout.write_all(show::text(&report).as_bytes())?;
    write(&results, &report)?;
    watch.finish()?;
    writeln!(
        stdout,
        "\nreport.json, report.html, requests.csv and junit.xml are in {}",
        results.directory().display()
    )?;
    Ok(ExitCode::from(report.verdict.exit_code()))
}

fn write(results: &Results, report: &Report) -> anyhow::Result<()> {
    results.write_json("report.json", report)?;
    results.write("report.html", &show::html(report))?;
    results.write("junit.xml", &junit::xml(report))
}
