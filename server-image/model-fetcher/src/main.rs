//! The binary `model-fetcher`.

use std::process::ExitCode;

use clap::Parser;
use model_fetcher::cli::{Cli, run};

fn main() -> ExitCode {
    run(&Cli::parse(), |name| std::env::var(name).ok())
}
