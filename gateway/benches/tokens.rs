//! What a token costs: one that was verified before, and one that was not. `docs/tokens.md` shows the figures.
//!
//! Drives the public `Tokens`; each figure is the time of one request's authentication, the hash of the token included.

#![expect(clippy::disallowed_types, reason = "measures real time")]
#![expect(clippy::unwrap_used, reason = "the keys of the tests are good ones, or there is nothing to measure")]

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use gateway::auth::Tokens;
use gateway::clock::Clock;
use gateway::config::{Overrides, load};
use gateway::metrics::Metrics;
use signer::{Signer, key_set};

#[expect(dead_code, reason = "attacks are for the tests")]
#[path = "../tests/it/harness/signer.rs"]
mod signer;

/// Bytes of a token, as those of Keycloak and Kubernetes have them.
const TOKEN_BYTES: usize = 800;
/// What a token that was verified before may cost.
const MOST: Duration = Duration::from_micros(2);
/// Tokens in the cache while it is measured.
const KNOWN: usize = 5_000;
/// Calls of which one time is taken: a look at the clock costs a part of what is measured.
const BATCH: usize = 100;

/// Measures tokens.
#[derive(Parser)]
struct Options {
    /// Only see that everything works, with few calls
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let (known, batches) = if options.quick { (100, 10) } else { (KNOWN, 5_000) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let out = &mut std::io::stdout().lock();
    writeln!(out, "| median / 99 of 100, µs | first time | again |\n|---|---:|---:|")?;
    let signers = [("RS256", Signer::rsa("r")), ("ES256", Signer::p256("e")), ("EdDSA", Signer::ed25519("d"))];
    for (algorithm, signer) in &signers {
        let (first, again) = runtime.block_on(measure(algorithm, signer, known, batches))?;
        writeln!(out, "| {algorithm} | {} | {} |", cell(&first), cell(&again))?;
        ensure!(options.quick || middle(&again) < MOST, "a token that was verified before costs more than {MOST:?}");
    }
    Ok(())
}

/// The times of tokens that come for the first time, and of those that come again.
async fn measure(
    algorithm: &str,
    signer: &Signer,
    known: usize,
    batches: usize,
) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let directory = tempfile::tempdir()?;
    let (keys, file) = (directory.path().join("keys.json"), directory.path().join("gateway.toml"));
    std::fs::write(&keys, key_set(&[signer]))?;
    std::fs::write(
        &file,
        format!(
            "[issuers.idp]\nissuer = \"https://idp\"\naudience = [\"llm\"]\njwks_file = {keys:?}\n\
             algorithms = [\"RS256\", \"ES256\", \"EdDSA\"]\ntenant_claim = \"/kubernetes.io/namespace\"\n"
        ),
    )?;
    let config = load(Some(&file), std::iter::empty(), &Overrides::default())?;
    let tokens = Tokens::open(&config.issuers, directory.path(), Arc::new(Metrics::new()?))?;
    let (tasks, stop, now) = (TaskTracker::new(), CancellationToken::new(), Clock::system().now());
    tokens.start(&Clock::system(), &tasks, &stop);
    let texts: Vec<_> = (0..known).map(|number| token(algorithm, signer, number, now)).collect();
    // The first of all waits for the keys.
    tokens.authenticate(token(algorithm, signer, known, now).as_bytes(), now).await?;

    let mut first = Vec::with_capacity(known);
    for text in &texts {
        let start = Instant::now();
        tokens.authenticate(text.as_bytes(), now).await?;
        first.push(start.elapsed());
    }
    let mut again = Vec::with_capacity(batches);
    let mut turn = texts.iter().cycle();
    for _ in 0..batches {
        let start = Instant::now();
        for text in turn.by_ref().take(BATCH) {
            tokens.authenticate(text.as_bytes(), now).await?;
        }
        again.push(start.elapsed() / BATCH as u32);
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok((first, again))
}

/// A token of 800 bytes for one of many subjects.
fn token(algorithm: &str, signer: &Signer, number: usize, now: Timestamp) -> String {
    let claims = |padding: usize| {
        json!({
            "iss": "https://idp", "aud": ["llm"], "sub": format!("system:serviceaccount:team-a:bot-{number:05}"),
            "iat": now.as_second(), "exp": now.as_second() + 3600, "kubernetes.io": {"namespace": "team-a"},
            "padding": "x".repeat(padding),
        })
    };
    let short = TOKEN_BYTES.saturating_sub(signer.token(algorithm, &claims(0)).len());
    signer.token(algorithm, &claims(short * 3 / 4))
}

fn middle(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
}

fn cell(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort();
    let micros = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e6;
    format!("{:.2} / {:.2}", micros(50), micros(99))
}
