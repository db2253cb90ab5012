//! Who waits how long for a real llama-server with two slots: a tenant that asks for little beside one that floods,
//! under the order by arrival and under the fair one; and what serving warm conversations first saves and costs.
//!
//! Each measured phase has a gateway process of its own in front of the same llama-server, one phase after the other.
//! The gateway, llama-server and the client are those of the integration tests.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "no server: it may block, and where it cannot go on it ends"
)]

mod asked;
mod flood;
#[expect(dead_code, unused_imports, reason = "the tests use what is not used here")]
#[path = "../../tests/it/harness/mod.rs"]
mod harness;
mod locality;
mod phase;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

/// Measures what a tenant waits beside another one, on the llama-server of $LLAMA_SERVER with the model of $MODEL.
#[derive(Parser)]
struct Options {
    /// What to measure
    #[arg(value_enum, default_value_t = What::Flood)]
    what: What,
    /// How often each order is measured; 0: three times (flood: about four minutes) or once (locality)
    #[arg(long, default_value_t = 0)]
    rounds: u32,
    /// Requests that the flooding tenant keeps outstanding: with n of them, two slots and no order but arrival, all wait
    /// for about (n - 1) / 2 of its answers
    #[arg(long, default_value_t = 24)]
    outstanding: usize,
    /// Only see that everything works: one short round, whose figures mean little
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// A tenant that asks for little beside one that floods
    Flood,
    /// Warm conversations first, or not
    Locality,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let held = match options.what {
        What::Flood => flood::measure(&flood::Plan::new(options.outstanding, options.rounds, options.quick)),
        What::Locality => locality::measure(&locality::Plan::new(options.rounds, options.quick)),
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A line of the report.
fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}

/// Progress, beside the report.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").ok();
}
