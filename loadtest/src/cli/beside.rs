//! `loadtest beside`: one workload directly, through a plain nginx and through the gateway.

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
use crate::run::{Bench, KeyFrom, Settings, Watch};
use crate::target::Server;
use crate::workload::WorkloadFlags;

#[derive(Args)]
pub(super) struct BesideArguments {
    #[command(flatten)]
    workload: WorkloadFlags,
    /// Base URL of llama-server; nobody else may use it meanwhile
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    upstream: String,
    /// File with the key that llama-server wants [default: it wants none]
    #[arg(long, value_name = "FILE")]
    upstream_key_file: Option<PathBuf>,
    /// The gateway's program [default: the llama-gateway beside this program]
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,
    /// nginx's program [default: the one in PATH]
    #[arg(long, value_name = "FILE")]
    nginx: Option<PathBuf>,
    /// How often each way is measured, in turns
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
    /// Streams that are opened at once to see what memory one takes
    #[arg(long, value_name = "N", default_value_t = 64)]
    streams: u32,
    /// Clients who leave, to see how soon llama-server is idle, per round and way
    #[arg(long, value_name = "N", default_value_t = 10)]
    cancel_trials: u32,
    #[command(flatten)]
    output: OutputArguments,
}

/// Measures all ways and prints what each adds.
pub(super) fn beside(arguments: &BesideArguments) -> anyhow::Result<ExitCode> {
    let workload = arguments.workload.workload()?;
    let key = arguments.upstream_key_file.as_deref().map(super::target::key_in).transpose()?;
    let options = Options {
        upstream: Server::new(&arguments.upstream, key, &client::Options::default())?,
        gateway: arguments.gateway.clone().map_or_else(beside_this_program, Ok)?,
        nginx: arguments.nginx.clone(),
        rounds: arguments.rounds,
        streams: arguments.streams,
        cancel_trials: arguments.cancel_trials,
    };
    let results = arguments.output.open(&format!("beside-{}", workload.name))?;
    let quiet = arguments.output.quiet;
    let found = runtime()?.block_on(async {
        let mut tasks = JoinSet::new();
        let stop = interrupted(&mut tasks)?;
        let run = |Way { name, server, mut workload }: Way| {
            let (stop, upstream) = (stop.clone(), options.upstream.clone());
            workload.name = format!("{} ({name})", workload.name);
            async move {
                let settings = Settings {
                    target: server.url,
                    upstreams: vec![upstream.url],
                    upstream_key: upstream.key,
                    keys: server.key.map_or(KeyFrom::Nobody, KeyFrom::Given),
                    ..Settings::default()
                };
                let bench = Bench::prepare(&workload, settings).await?;
                bench.run(&workload, &mut Watch::new(quiet), &stop).await
            }
        };
        beside::measure(&options, &workload, &stop, run).await
    });
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            results.give_up();
            return Err(error);
        }
    };
    // Before anything is written: a full disk must not take away what was measured.
    let mut stdout = std::io::stdout().lock();
    beside::show(&mut stdout, &found)?;
    results.write_json("beside.json", &found)?;
    writeln!(stdout, "\nbeside.json is in {}", results.directory().display())?;
    Ok(ExitCode::from(found.exit_code()))
}

/// Both programs are built into the same directory, and installed into the same one.
fn beside_this_program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("llama-gateway");
    path.is_file().then_some(path.clone()).with_context(|| {
        format!("{} is not there\nhint: cargo build --release, or --gateway /path/to/llama-gateway", path.display())
    })
}
