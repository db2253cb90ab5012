//! The command line: arguments in, an exit code out.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::sim;

/// A load test for LLM servers with tenants, and a simulated llama-server.
#[derive(Parser)]
#[command(name = "loadtest", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Sim(sim::Args),
}

/// Does what the command line asks for, and says how it went: 0 if all objectives were met, 1 if one was missed.
///
/// # Errors
/// What kept it from measuring, in words for whoever runs it; the program then ends with 2.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    match cli.command {
        Command::Sim(args) => runtime.block_on(sim::run(args, &mut std::io::stdout().lock()))?,
    }
    Ok(ExitCode::SUCCESS)
}
