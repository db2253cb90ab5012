//! The command line: arguments in, an exit code out.

mod beside;
mod output;
mod read;
mod run;
mod search;
mod target;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::sim;

/// A signal so soon after another is the same one: `timeout` sends its own to the program and to its process group.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// A load test for LLM servers with tenants, and a simulated llama-server.
///
/// Exit codes: 0, all objectives were met; 1, one was missed; 2, nothing valid was measured.
#[derive(Parser)]
#[command(name = "loadtest", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send a workload and say what it showed
    Run(Box<run::RunArguments>),
    /// Send a workload at several loads
    Sweep(Box<search::SweepArguments>),
    /// Find the highest load that meets the objectives
    FindLimit(Box<search::FindLimitArguments>),
    /// Say how the second of two reports differs from the first
    Compare(read::CompareArguments),
    /// Measure what nginx and the gateway add to a llama-server: latencies, CPU time, memory, time to cancel
    Beside(Box<beside::BesideArguments>),
    /// Show the report of a run or a sweep again, as text or as a page
    Show(read::ShowArguments),
    /// List the workloads that come with the program, or print one
    Workloads {
        /// The one to print [default: list all]
        name: Option<String>,
    },
    /// Run a simulated llama-server
    Sim(Box<sim::Args>),
}

/// Does what the command line asks for, and says how it went: 0 if all objectives were met, 1 if one was missed, 2 if
/// what was measured says nothing.
///
/// # Errors
/// What kept it from measuring, in words for whoever runs it; the program then ends with 2.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Sweep(arguments) => search::sweep(&arguments),
        Command::FindLimit(arguments) => search::find_limit(&arguments),
        Command::Compare(arguments) => read::compare(&arguments),
        Command::Beside(arguments) => beside::beside(&arguments),
        Command::Show(arguments) => read::show(&arguments),
        Command::Workloads { name } => read::workloads(name.as_deref()),
        Command::Sim(arguments) => {
            runtime()?.block_on(sim::run(*arguments, &mut std::io::stdout()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")
}

/// Is cancelled by Ctrl-C or SIGTERM: the run ends, and what was measured is kept. A later one ends the program.
fn interrupted(tasks: &mut JoinSet<()>) -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let stop = token.clone();
    tasks.spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if first.is_some_and(|first| first.elapsed() > SAME_SIGNAL) {
                std::process::exit(130);
            }
            first.get_or_insert_with(Instant::now);
            stop.cancel();
        }
    });
    Ok(token)
}

/// Says on stderr what makes the numbers less exact.
fn warn(warnings: &[String]) {
    let mut stderr = std::io::stderr().lock();
    for warning in warnings {
        writeln!(stderr, "loadtest: warning: {warning}").ok();
    }
}
