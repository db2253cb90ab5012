//! What the gateway costs: CPU time per request and per streamed chunk, and memory per open stream, beside plain
//! nginx and Envoy in the same run. `docs/performance.md` tells how to read it.
//!
//! Starts a stub llama-server, then, round by round, each proxy in front of it and a load generator before it. Stub
//! and load generator are this binary again, in processes of their own: what is counted is the proxy's work alone.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "no server: its parent process may block")]

mod load;
mod process;
mod proxies;
mod report;
mod scenarios;
mod stub;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use anyhow::Context;
use clap::{Parser, Subcommand};

use process::Cores;
use proxies::{Kind, Proxy};
use report::Report;
use scenarios::Scenario;

/// Measures CPU time and memory of the gateway beside nginx and Envoy.
#[derive(Parser)]
struct Options {
    /// How often each proxy is measured; the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only see that everything works: one short round, whose figures mean little
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What the binary does when it starts itself.
#[derive(Subcommand)]
#[command(hide = true)]
enum Role {
    /// Be llama-server until standard input ends
    Stub,
    /// Send requests and say what they cost
    Load { job: String },
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match options.role {
        Some(Role::Stub) => stub::run(),
        Some(Role::Load { job }) => load::run(&serde_json::from_str(&job)?),
        None => measure(&options),
    }
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let cores = Cores::find()?;
    let kinds = proxies::available()?;
    let scenarios = scenarios::all(options.quick);
    let stub = Stub::start(&cores)?;
    let mut report = Report::begin(&kinds, &cores, options.quick)?;
    let rounds = if options.quick { 1 } else { options.rounds.max(1) };
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            // Each round begins with another proxy, so that none has always the same neighbour.
            let kind = &kinds[(turn + round as usize) % kinds.len()];
            measure_one(kind, stub.address, &cores, &scenarios, &mut report)
                .with_context(|| format!("round {}: {}", round + 1, kind.name()))?;
        }
        say(&format!("round {} of {rounds} is done", round + 1));
    }
    report.print(&mut std::io::stdout().lock())
}

fn measure_one(
    kind: &Kind,
    upstream: SocketAddr,
    cores: &Cores,
    scenarios: &[Scenario],
    report: &mut Report,
) -> anyhow::Result<()> {
    let proxy = Proxy::start(kind, upstream, cores)?;
    let idle = process::resident_kib(&proxy.pids())?;
    report.add(kind, report::IDLE, idle as f64 / 1024.0);
    for scenario in scenarios {
        let cost = load::measure(&proxy, scenario, cores).with_context(|| scenario.name.clone())?;
        report.add(kind, &scenario.name, cost.micros_per_unit());
        if scenario.tells_memory {
            let grown = cost.resident_kib.saturating_sub(idle);
            report.add(kind, report::PER_STREAM, grown as f64 / scenario.connections as f64);
        }
    }
    Ok(())
}

/// The stub in its own process.
struct Stub {
    child: Child,
    address: SocketAddr,
}

impl Stub {
    fn start(cores: &Cores) -> anyhow::Result<Self> {
        let mut command = cores.for_load(&std::env::current_exe()?);
        let mut child = command.arg("stub").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut line)?;
        let address = line.trim().parse().context("the stub llama-server did not start")?;
        Ok(Self { child, address })
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

/// Progress, beside the table on standard output.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
