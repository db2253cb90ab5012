//! What a proxy adds: the same workload directly to a llama-server, through a plain nginx and through the gateway.
//!
//! Takes a llama-server, the programs, and a function that runs a workload against an address; gives rows of numbers.
//! Every round measures every way, each round beginning with another one, and each proxy is started anew for it. What
//! a proxy adds is its number less the direct one of the same round, since what else the machine does weighs on both.

mod proxies;
mod rows;
mod streams;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio_util::sync::CancellationToken;

pub use table::show;

use crate::cancel::{self, Leaving, Probe};
use crate::clock::wall_clock;
use crate::process;
use crate::report::{self, Report, beside::Beside};
use crate::target::Server;
use crate::workload::Workload;
use proxies::{Kind, Program, Proxy};

/// Until llama-server is idle between two runs: what a run has left behind may still be computed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured.
#[derive(Clone)]
pub struct Options {
    /// The llama-server. Nobody else may use it.
    pub upstream: Server,
    /// The gateway's program.
    pub gateway: PathBuf,
    /// nginx, if not the one in PATH.
    pub nginx: Option<PathBuf>,
    /// How often each way is measured.
    pub rounds: u32,
    /// Streams that are opened to measure memory.
    pub streams: u32,
    /// How often a client leaves, per round and way.
    pub cancel_trials: u32,
}

/// One run that is wanted: a workload, whom to ask and with which key.
#[derive(Clone)]
pub struct Way {
    /// "direct", "nginx" or "gateway".
    pub name: &'static str,
    /// Whom to ask. Its key is that of every tenant.
    pub server: Server,
    /// What to run: without warm-up, since CPU time is divided by all requests, and with a seed of its own, so that no
    /// run finds its prompts in the cache.
    pub workload: Workload,
}

/// The ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Through {
    Direct,
    Nginx,
    Gateway,
}

const WAYS: [Through; 3] = [Through::Direct, Through::Nginx, Through::Gateway];

impl Through {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Gateway => "gateway",
        }
    }
}

/// What one way gave in one round, by the name of its row.
type Sample = BTreeMap<&'static str, f64>;

/// The order of a round.
fn order(round: u32) -> [Through; 3] {
    let mut paths = WAYS;
    paths.rotate_left(round as usize % WAYS.len());
    paths
}

/// Measures all ways with `run`, which runs a workload. Proxies are ended when this is over, dropped, or stopped. If a
/// program or a run fails, or `stop` was called, what was measured before is given, and called no measurement.
///
/// # Errors
/// A program is missing; or something failed before anything was measured.
pub async fn measure(
    options: &Options,
    workload: &Workload,
    stop: &CancellationToken,
    run: impl AsyncFnMut(Way) -> anyhow::Result<Report>,
) -> anyhow::Result<Beside> {
    let nginx = Program::nginx(options.nginx.as_deref()).await?;
    let gateway = Program::gateway(&options.gateway).await?;
    let mut bench =
        Bench { options, workload, nginx, gateway, run, rounds: Vec::new(), notes: Vec::new(), resolution: 0.0 };
    let started_at = wall_clock();
    let measured = stop.run_until_cancelled(bench.measure_rounds()).await;
    let broken_off = match measured.unwrap_or_else(|| Err(anyhow!("broken off"))) {
        Ok(()) => None,
        Err(error) if bench.rounds.iter().all(BTreeMap::is_empty) => return Err(error),
        Err(error) => Some(format!("{error:#}")),
    };
    bench.notes.push(format!("a slot that has become free is seen up to {:.1} ms late", bench.resolution));
    Ok(Beside {
        format: report::FORMAT,
        harness: env!("CARGO_PKG_VERSION").to_owned(),
        started_at,
        workload: workload.clone(),
        upstream: options.upstream.url.clone(),
        nginx: bench.nginx.version,
        gateway: bench.gateway.version,
        rounds: options.rounds,
        rows: rows::of(&bench.rounds),
        notes: bench.notes,
        broken_off,
    })
}

struct Bench<'a, F> {
    options: &'a Options,
    workload: &'a Workload,
    nginx: Program,
    gateway: Program,
    run: F,
    /// What was measured so far.
    rounds: Vec<BTreeMap<Through, Sample>>,
    notes: Vec<String>,
    /// How coarsely llama-server was watched while clients left, in milliseconds.
    resolution: f64,
}

impl<F: AsyncFnMut(Way) -> anyhow::Result<Report>> Bench<'_, F> {
    async fn measure_rounds(&mut self) -> anyhow::Result<()> {
        for round in 0..self.options.rounds.max(1) {
            self.rounds.push(BTreeMap::new());
            for (turn, path) in (0..).zip(order(round)) {
                let what = || format!("round {}, {}", round + 1, path.name());
                let seed = self.workload.seed.wrapping_add(u64::from(round * 3 + turn));
                let sample = self.one(path, seed).await.with_context(what)?;
                self.rounds[round as usize].insert(path, sample);
            }
        }
        Ok(())
    }

    async fn one(&mut self, path: Through, seed: u64) -> anyhow::Result<Sample> {
        let upstream = &self.options.upstream;
        let mut proxy = match path {
            Through::Direct => return self.sample(path, None, seed).await,
            Through::Nginx => Proxy::start(Kind::Nginx, &self.nginx, upstream).await?,
            Through::Gateway => Proxy::start(Kind::Gateway, &self.gateway, upstream).await?,
        };
        let sample = self.sample(path, Some(&mut proxy), seed).await;
        let sample = sample.map_err(|error| anyhow!("{error:#}{}", proxy.last_words()))?;
        proxy.end().await?;
        Ok(sample)
    }

    /// Measures the memory of a proxy, runs the workload, and lets some clients leave.
    async fn sample(&mut self, path: Through, mut proxy: Option<&mut Proxy>, seed: u64) -> anyhow::Result<Sample> {
        let Options { upstream, streams, cancel_trials, .. } = self.options;
        let upstreams = std::slice::from_ref(upstream);
        let model = &self.workload.model;
        let mut sample = Sample::new();
        cancel::until_idle(upstreams, PATIENCE).await?;
        if let Some(proxy) = proxy.as_deref_mut() {
            sample.insert("memory_idle", process::resident_kib(&proxy.pids()?)? as f64 / 1024.0);
            let each = streams::kib_each(proxy, upstream, model, *streams).await;
            sample.insert("memory_per_stream", each.with_context(|| format!("memory of {streams} open streams"))?);
        }
        let server = proxy.as_ref().map_or(upstream, |proxy| &proxy.server).clone();
        let mut workload = self.workload.clone();
        (workload.seed, workload.warm_up, workload.fairness.victim) = (seed, Duration::ZERO, None);
        let before = cpu(&mut proxy)?;
        let report = (self.run)(Way { name: path.name(), server: server.clone(), workload }).await?;
        let taken = cpu(&mut proxy)?.zip(before).map(|(after, before)| after - before);
        self.notes.extend(rows::faults(path.name(), &report, taken));
        sample.extend(rows::latencies(&report));
        sample.extend(taken.into_iter().flat_map(|seconds| rows::costs(&report, seconds)));
        let probe = Probe { target: &server, upstreams, model, trials: *cancel_trials };
        for (leaving, row) in [(Leaving::DuringOutput, "cancel_p50"), (Leaving::BeforeFirstToken, "cancel_prompt_p50")]
        {
            let freed = probe.run(leaving).await.context("clients who leave")?;
            self.resolution = self.resolution.max(freed.resolution);
            if freed.times.count > 0 {
                sample.insert(row, freed.times.p50);
            }
        }
        Ok(sample)
    }
}

/// CPU seconds that the proxy has taken so far, if there is one.
fn cpu(proxy: &mut Option<&mut Proxy>) -> anyhow::Result<Option<f64>> {
    proxy.as_mut().map(|proxy| process::cpu_seconds(&proxy.pids()?)).transpose()
}

#[cfg(test)]
mod tests;
