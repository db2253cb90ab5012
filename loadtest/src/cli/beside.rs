//! `loadtest beside`: the same workload directly, through nginx and through the gateway.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;

use super::output::OutputArguments;
use super::{interrupted, runtime};
use crate::beside::{self, Options, Way};
use crate::client;
use crate::run::{Bench, Settings, Watch};
use crate::target::Server;
use crate::workload::WorkloadFlags;

#[derive(Args)]
pub(super) struct BesideArguments {
    #[command(flatten)]
    workload: WorkloadFlags,
    #[command(flatten)]
    output: OutputArguments,
    /// Base URL of the llama-server, which nobody else may use meanwhile
    #[arg(long, value_name = "URL")]
    upstream: String,
    /// File with the key that llama-server wants
    #[arg(long, value_name = "FILE")]
    upstream_key_file: Option<PathBuf>,
    /// The gateway's program
    #[arg(long, value_name = "PATH")]
    gateway: PathBuf,
    /// nginx, if not the one that is installed
    #[arg(long, value_name = "PATH")]
    nginx: Option<PathBuf>,
    /// How often each way is measured
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Streams that are opened at each proxy to measure its memory
    #[arg(long, value_name = "N", default_value_t = 100)]
    streams: u32,
    /// Trials of how soon a client who leaves frees its slot, in each round of each way
    #[arg(long, value_name = "N", default_value_t = 5)]
    cancel_trials: u32,
}

/// Measures all ways, writes and prints what the proxies add.
pub(super) fn beside(arguments: &BesideArguments) -> anyhow::Result<ExitCode> {
    let BesideArguments { upstream_key_file, gateway, nginx, rounds, streams, cancel_trials, .. } = arguments;
    let workload = arguments.workload.workload()?;
    let read = |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let key = upstream_key_file.as_ref().map(read).transpose()?.map(|key| key.trim().to_owned());
    let upstream = Server::new(&arguments.upstream, key, &client::Options::default())?;
    let (gateway, nginx) = (gateway.clone(), nginx.clone());
    let options =
        Options { upstream, gateway, nginx, rounds: *rounds, streams: *streams, cancel_trials: *cancel_trials };
    runtime()?.block_on(async {
        let mut tasks = JoinSet::new();
        let stop = interrupted(&mut tasks)?;
        let mut watch = Watch::new(arguments.output.quiet);
        let run = async |way: Way| {
            if !arguments.output.quiet {
                write!(std::io::stderr(), "{}: ", way.name).ok();
            }
            let bench = Bench::prepare(&way.workload, settings(&way, &options.upstream)).await?;
            bench.run(&way.workload, &mut watch, &stop).await
        };
        let beside = beside::measure(&options, &workload, &stop, run).await?;
        let results = arguments.output.open(&workload.name)?;
        results.write_json("beside.json", &beside)?;
        let mut stdout = std::io::stdout().lock();
        beside::show(&mut stdout, &beside)?;
        writeln!(stdout, "\nbeside.json is in {}", results.directory().display())?;
        Ok(ExitCode::from(beside.exit_code()))
    })
}

/// The load and nothing else: what looks at the books or lets clients leave would be in the CPU time of the proxy.
fn settings(way: &Way, upstream: &Server) -> Settings {
    Settings {
        target: way.server.url.clone(),
        upstreams: vec![upstream.url.clone()],
        upstream_key: upstream.key.clone(),
        client: client::Options::default(),
        no_key: way.server.key.is_none(),
        one_key: way.server.key.clone(),
        cancel_trials: 0,
        audit: false,
    }
}
