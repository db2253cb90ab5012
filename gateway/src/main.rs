//! The binary `llama-gateway`.

use std::process::ExitCode;

use clap::Parser;
use gateway::cli::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("llama-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
