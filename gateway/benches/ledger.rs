//! What the ledger keeps up with: requests a second, each with an OPEN and a CLOSE that are on the disk before it goes
//! on, beside what the disk does by itself in the same run. `docs/accounting.md` tells how to read it.
//!
//! Drives the public `Ledger` from as many tasks as requests are in flight. Ends with an error below 2,000 a second.

#![expect(clippy::disallowed_types, reason = "measures real time")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use jiff::Timestamp;
use rusqlite::Connection;
use uuid::Uuid;

use gateway::clock::Clock;
use gateway::config::OnFailure;
use gateway::ledger::{Count, CountedBy, Dispatched, Ending, Health, Ledger, Outcome, Settings, Subject};
use gateway::surface::Surface;

/// What must be kept up with.
const LEAST: f64 = 2000.0;

/// Measures the ledger.
#[derive(Parser)]
struct Options {
    /// Only see that everything works, in a moment
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let span = if options.quick { Duration::from_millis(100) } else { Duration::from_secs(6) };
    let is_measured = !options.quick && !cfg!(debug_assertions);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let out = &mut std::io::stdout().lock();
    let entry = measure(&directory.path().join("warm-up"), 64, span / 4)?.bytes;
    let (appends, append_cpu) = appends(&directory.path().join("appends"), span / 2, entry as usize)?;
    let (rows, row_cpu) = rows(&directory.path().join("rows.sqlite"), span / 2)?;
    writeln!(
        out,
        "\n| in flight | requests/s | commits/s | messages a commit | OPEN p50 / p99, ms | CLOSE p50 / p99, ms | CPU µs a request |"
    )?;
    writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|")?;
    let mut slowest = f64::INFINITY;
    for in_flight in [1, 8, 64, 256] {
        let figures = measure(&directory.path().join(in_flight.to_string()), in_flight, span)?;
        writeln!(out, "| {in_flight} {}", figures.row())?;
        if in_flight >= 64 {
            slowest = slowest.min(figures.rate());
        }
    }
    writeln!(
        out,
        "\n- to compare: {appends:.0} appends/s of {entry:.0} bytes, each with fdatasync, {append_cpu:.0} µs of CPU each"
    )?;
    writeln!(
        out,
        "- to compare: {rows:.0} transactions/s of one row each, synchronous=full, {row_cpu:.0} µs of CPU each"
    )?;
    writeln!(out, "- on the disk: {entry:.0} bytes an entry, its indexes included")?;
    if is_measured {
        ensure!(slowest >= LEAST, "{slowest:.0} requests/s are less than {LEAST:.0}");
    } else {
        writeln!(out, "- A short run or a build without optimisation: not figures, a sign that all works.")?;
    }
    Ok(())
}

/// What a run came to.
struct Figures {
    took: Duration,
    cpu: Duration,
    health: Health,
    opens: Vec<Duration>,
    closes: Vec<Duration>,
    bytes: f64,
}

impl Figures {
    fn requests(&self) -> f64 {
        self.closes.len() as f64
    }

    fn rate(&self) -> f64 {
        self.requests() / self.took.as_secs_f64()
    }

    fn row(&self) -> String {
        let commits = self.health.commits as f64;
        format!(
            "| {:.0} | {:.0} | {:.1} | {} | {} | {:.0} |",
            self.rate(),
            commits / self.took.as_secs_f64(),
            2.0 * self.requests() / commits,
            percentiles(&self.opens),
            percentiles(&self.closes),
            self.cpu.as_secs_f64() * 1e6 / self.requests(),
        )
    }
}

/// The median and the 99th of 100.
fn percentiles(sorted: &[Duration]) -> String {
    let at = |part: f64| sorted.get((sorted.len() as f64 * part) as usize).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    format!("{:.2} / {:.2}", at(0.5), at(0.99))
}

/// As many requests as that, one after the other in each of `in_flight` tasks, until the time is over.
fn measure(directory: &Path, in_flight: usize, span: Duration) -> anyhow::Result<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let settings = Settings {
        progress_interval: Duration::from_millis(200),
        max_live: 1024,
        on_failure: OnFailure::Refuse,
        export: false,
    };
    let (ledger, handle) = Ledger::open(directory, Clock::system(), settings)?;
    let (began, cpu) = (Instant::now(), cpu_time()?);
    let mut running = tokio::task::JoinSet::new();
    for n in 0..in_flight {
        running.spawn_on(requests(ledger.clone(), n % 20, began + span), runtime.handle());
    }
    let (mut opens, mut closes) = (Vec::new(), Vec::new());
    for times in runtime.block_on(running.join_all()) {
        let (opened, closed) = times?;
        opens.extend(opened);
        closes.extend(closed);
    }
    let (took, cpu, health) = (began.elapsed(), cpu_time()?.saturating_sub(cpu), ledger.health());
    runtime.block_on(handle.close())?;
    ensure!(health.failures == 0 && !closes.is_empty(), "the ledger failed: {health:?}");
    opens.sort_unstable();
    closes.sort_unstable();
    let bytes = fs::metadata(directory.join("ledger.sqlite"))?.len() as f64 / closes.len() as f64;
    Ok(Figures { took, cpu, health, opens, closes, bytes })
}

/// How long each OPEN and each CLOSE took.
type Times = anyhow::Result<(Vec<Duration>, Vec<Duration>)>;

async fn requests(ledger: Ledger, tenant: usize, until: Instant) -> Times {
    let (tenant, key_id): (Arc<str>, Arc<str>) = (format!("tenant-{tenant}").into(), format!("key{tenant:05}").into());
    let (mut opens, mut closes) = (Vec::new(), Vec::new());
    while Instant::now() < until {
        let now = Clock::system().now();
        let subject = Subject {
            request_id: Uuid::now_v7().to_string().into(),
            tenant: tenant.clone(),
            key_id: key_id.clone(),
            model: "smollm2-135m-instruct".into(),
            surface: Surface::Chat,
            arrived: now,
        };
        let mut charge = ledger.admit(subject)?;
        let dispatched =
            Dispatched { at: now, queue_wait: Duration::from_millis(3), upstream: "10.0.0.7:8001".into(), slots: 1 };
        let began = Instant::now();
        charge.open(dispatched.clone()).await?;
        opens.push(began.elapsed());
        let began = Instant::now();
        charge.close(outcome(dispatched, now)).await?;
        closes.push(began.elapsed());
    }
    Ok((opens, closes))
}

fn outcome(dispatched: Dispatched, now: Timestamp) -> Outcome {
    let count = Count { prompt: 812, cached: 640, completion: 207, reasoning: Some(33), by: CountedBy::Usage };
    Outcome {
        ending: Ending::Complete,
        status: 200,
        count,
        queue_wait: dispatched.queue_wait,
        dispatched: Some(dispatched),
        first_token: Some(now),
        ended: now,
    }
}

/// Appends a second to a file, each of them awaited on the disk, and the CPU time of one in µs.
fn appends(path: &Path, span: Duration, bytes: usize) -> anyhow::Result<(f64, f64)> {
    let (mut file, entry) = (File::create(path)?, vec![b'x'; bytes.max(1)]);
    rate(span, || {
        file.write_all(&entry)?;
        Ok(file.sync_data()?)
    })
}

/// Transactions a second of one small row each.
fn rows(path: &Path, span: Duration) -> anyhow::Result<(f64, f64)> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute_batch("CREATE TABLE t (id TEXT PRIMARY KEY, a, b, c, d, e, f, g, h) WITHOUT ROWID")?;
    let mut insert = connection.prepare("INSERT INTO t VALUES (?1, 1, 2, 3, 4, 5, 'acme', 'complete', 'usage')")?;
    rate(span, || {
        insert.execute([Uuid::now_v7().to_string()])?;
        Ok(())
    })
}

fn rate(span: Duration, mut once: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<(f64, f64)> {
    let (began, cpu, mut times) = (Instant::now(), cpu_time()?, 0_u32);
    while began.elapsed() < span {
        once()?;
        times += 1;
    }
    let cpu = cpu_time()?.saturating_sub(cpu);
    Ok((f64::from(times) / began.elapsed().as_secs_f64(), cpu.as_secs_f64() * 1e6 / f64::from(times)))
}

/// What all threads of this process have computed so far.
fn cpu_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("not the format of proc(5)")?;
    let fields = fields.split_whitespace().collect::<Vec<_>>();
    // User and system time, in hundredths of a second.
    let field = |n: usize| fields.get(n).and_then(|text| text.parse::<u64>().ok()).context("not the format of proc(5)");
    Ok(Duration::from_millis(10 * (field(11)? + field(12)?)))
}
