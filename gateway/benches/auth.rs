//! What it costs to check an API key while 100,000 keys are known. `docs/keys.md` shows what it prints.
//!
//! Drives the public `Authenticator` on a real `keys.sqlite`. Times are of whole batches, divided by their size; it fails
//! if a valid key takes 2 µs or more.

#![expect(clippy::disallowed_types, reason = "measures real time, and needs no runtime")]

use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Parser;
use gateway::auth::{Authenticator, Keys, NewKey, tend};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Measures the check of API keys.
#[derive(Parser)]
struct Options {
    /// Only see that everything works, with few calls
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Checks in a batch.
const BATCH: usize = 100;
/// What a valid key may cost, in nanoseconds.
const BOUND: f64 = 2000.0;

struct Size {
    keys: usize,
    batches: usize,
    changes: usize,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let size = if options.quick {
        Size { keys: 1000, batches: 5, changes: 3 }
    } else {
        Size { keys: 100_000, batches: 5000, changes: 100 }
    };
    let directory = tempfile::tempdir()?;
    let known = fill(directory.path(), size.keys)?;
    let began = Instant::now();
    let authenticator = Arc::new(Authenticator::open(directory.path())?);
    let read = began.elapsed();

    let out = &mut std::io::stdout().lock();
    writeln!(out, "{} keys, read in {} ms at the start\n", size.keys, read.as_millis())?;
    writeln!(out, "| ns for one check | median | 99 of 100 |\n|---|---:|---:|")?;
    let valid = Times::of(&authenticator, &known, size.batches, true)?;
    writeln!(out, "| valid, another key each time | {valid} |")?;
    let one = &known[..1];
    writeln!(out, "| valid, the same key each time | {} |", Times::of(&authenticator, one, size.batches, true)?)?;
    let strangers = (0..BATCH).map(|_| headers(&NewKey::draw()?)).collect::<anyhow::Result<Vec<_>>>()?;
    writeln!(out, "| unknown | {} |", Times::of(&authenticator, &strangers, size.batches, false)?)?;
    let writing = while_writing(&authenticator, &known, size.batches)?;
    writeln!(out, "| valid, while last uses are written all the time | {writing} |")?;
    let (changed, revoked) = after_changes(directory.path(), &authenticator, size.changes)?;
    let revoked = Times::of(&authenticator, &revoked, size.batches, false)?;
    writeln!(out, "| revoked | {revoked} |")?;
    writeln!(out, "| the first one after another connection has revoked a key | {changed} |")?;
    let text = known[0].get("x-api-key").context("a header")?.as_bytes();
    let hash = Times::measured(size.batches, || {
        black_box(Sha256::digest(black_box(text)));
    });
    writeln!(out, "| to compare: the hash of a key alone | {hash} |")?;

    if options.quick || cfg!(debug_assertions) {
        writeln!(out, "\nFew calls or a build without optimisation: not figures, a sign that all works.")?;
        return Ok(());
    }
    ensure!(valid.median() < BOUND, "a valid key takes {:.0} ns, and may take {BOUND:.0}", valid.median());
    Ok(())
}

/// Stores keys in one transaction: one by one, each would wait for the disk.
fn fill(directory: &Path, count: usize) -> anyhow::Result<Vec<HeaderMap>> {
    drop(Keys::open(directory)?);
    let mut connection = rusqlite::Connection::open(directory.join("keys.sqlite"))?;
    let transaction = connection.transaction()?;
    let mut all = Vec::with_capacity(count);
    {
        let mut insert = transaction
            .prepare("INSERT INTO keys (key_id, hash, tenant, label, created_ms) VALUES (?1, ?2, ?3, '', ?4)")?;
        for number in 0..count {
            let key = NewKey::draw()?;
            let hash: [u8; 32] = Sha256::digest(key.expose()).into();
            insert.execute((key.key_id(), hash, format!("tenant-{}", number % 1000), number as i64))?;
            all.push(headers(&key)?);
        }
    }
    transaction.commit()?;
    Ok(all)
}

fn headers(key: &NewKey) -> anyhow::Result<HeaderMap> {
    Ok(HeaderMap::from_iter([(http::HeaderName::from_static("x-api-key"), HeaderValue::from_str(key.expose())?)]))
}

/// Nanoseconds of a call, one figure a batch, in order.
struct Times(Vec<f64>);

impl Times {
    /// Checks these keys, one after the other and again from the beginning.
    fn of(authenticator: &Authenticator, keys: &[HeaderMap], batches: usize, valid: bool) -> anyhow::Result<Self> {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse()?;
        // Far apart in memory, as those of strangers to each other are.
        let mut next = (0..keys.len()).cycle().step_by(7919 % keys.len().max(2) + usize::from(keys.len() == 1));
        let mut wrong = 0;
        let batch = |_| {
            // As they have just arrived: in the processor's cache, unlike what is known of their keys.
            let asked: Vec<_> = next.by_ref().take(BATCH).filter_map(|at| keys.get(at)).cloned().collect();
            let began = Instant::now();
            for headers in &asked {
                wrong += usize::from(black_box(authenticator.authenticate(headers, now)).is_ok() != valid);
            }
            began.elapsed().as_nanos() as f64 / BATCH as f64
        };
        let times = Self::sorted((0..batches).map(batch).collect());
        ensure!(wrong == 0, "{wrong} keys were taken for what they are not");
        Ok(times)
    }

    fn measured(batches: usize, mut call: impl FnMut()) -> Self {
        let batch = |_| {
            let began = Instant::now();
            (0..BATCH).for_each(|_| call());
            began.elapsed().as_nanos() as f64 / BATCH as f64
        };
        Self::sorted((0..batches).map(batch).collect())
    }

    fn sorted(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    fn median(&self) -> f64 {
        self.at(50)
    }

    fn at(&self, percent: usize) -> f64 {
        self.0.get(self.0.len() * percent / 100).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} | {:.0}", self.median(), self.at(99))
    }
}

/// The same while the task that writes last uses does so without a pause.
fn while_writing(authenticator: &Arc<Authenticator>, keys: &[HeaderMap], batches: usize) -> anyhow::Result<Times> {
    let done = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Told to stop, it writes what is left.
            let stopped = CancellationToken::new();
            stopped.cancel();
            while !done.load(Ordering::Relaxed) {
                runtime.block_on(tend(authenticator.clone(), stopped.clone()));
            }
        });
        let times = Times::of(authenticator, keys, batches, true);
        done.store(true, Ordering::Relaxed);
        times
    })
}

/// The time of the first check after a key was revoked by another connection, which is to a file what another process is;
/// and the keys that were revoked.
fn after_changes(
    directory: &Path,
    authenticator: &Authenticator,
    changes: usize,
) -> anyhow::Result<(Times, Vec<HeaderMap>)> {
    let (keys, now) = (Keys::open(directory)?, "2026-01-01T00:00:00Z".parse()?);
    let (mut times, mut revoked) = (Vec::new(), Vec::new());
    for number in 0..changes {
        let tenant = format!("tenant-{number}");
        let key = keys.create(&gateway::auth::Wanted::of(&tenant), now)?;
        let headers = headers(&key)?;
        ensure!(authenticator.authenticate(&headers, now).is_ok(), "a new key is not known");
        keys.revoke(key.key_id(), false, now)?;
        let began = Instant::now();
        let refused = authenticator.authenticate(&headers, now).is_err();
        times.push(began.elapsed().as_nanos() as f64);
        ensure!(refused, "a revoked key was let in");
        revoked.push(headers);
    }
    Ok((Times::sorted(times), revoked))
}
