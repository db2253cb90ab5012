//! What the load test's harness itself can send and read, and what that costs, beside `wrk` in the same run.
//!
//! A server of fixed replies runs in a process of its own; harness and server share whatever cores there are. Ends with
//! 1 if the harness reaches neither 20,000 requests/s nor 300,000 events/s.

mod cpu;
mod server;
mod wrk;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use loadtest::client::{Client, Options as ClientOptions};
use loadtest::clock::Clock;
use loadtest::drive::{Drive, Live, Load, Starts, drive};
use loadtest::plan::{Session, Turn};
use loadtest::record::{Ending, Record};
use loadtest::workload::{Tenant, Workload};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use server::Server;

/// At least one of these must be reached.
const REQUESTS_PER_SECOND: f64 = 20_000.0;
const EVENTS_PER_SECOND: f64 = 300_000.0;
/// Users of the closed loop, and connections of wrk.
pub(crate) const USERS: u32 = 64;
/// More than any machine of today sends by one program.
const TOO_MANY_PER_SECOND: u32 = 1_000_000;

/// Measures what the harness can send.
#[derive(Parser)]
struct Options {
    /// Only see that everything works: short, and the figures mean little
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
#[command(hide = true)]
enum Role {
    /// Be the server until standard input ends
    Serve,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    match options.role {
        Some(Role::Serve) => server::run().map(|()| ExitCode::SUCCESS),
        None => measure(&options),
    }
}

/// What a run of the harness has shown.
struct Measured {
    requests: u64,
    events: u64,
    seconds: f64,
    cpu_seconds: f64,
    /// The 99th percentile.
    lag: Duration,
}

fn measure(options: &Options) -> anyhow::Result<ExitCode> {
    let server = Server::start()?;
    let duration = Duration::from_millis(if options.quick { 300 } else { 5000 });
    let mut out = std::io::stdout().lock();

    let whole = run(&server, closed(), false, duration)?;
    let requests = whole.requests as f64 / whole.seconds;
    writeln!(
        out,
        "in one piece   {requests:>9.0} requests/s  {:>6.2} µs of CPU a request",
        each(&whole, whole.requests)
    )?;
    if let Some(wrk) = wrk::measure(&server.address, false, duration)? {
        let ratio = requests / wrk.per_second;
        writeln!(
            out,
            "  wrk          {:>9.0} requests/s  {:>6.2}     the harness sends {ratio:.2} of it",
            wrk.per_second, wrk.micros
        )?;
    }

    let streamed = run(&server, closed(), true, duration)?;
    let events = streamed.events as f64 / streamed.seconds;
    writeln!(
        out,
        "streamed       {events:>9.0} events/s    {:>6.2} µs of CPU an event",
        each(&streamed, streamed.events)
    )?;
    if let Some(wrk) = wrk::measure(&server.address, true, duration)? {
        let (per_second, micros) = (wrk.per_second * server::EVENTS as f64, wrk.micros / server::EVENTS as f64);
        let ratio = events / per_second;
        writeln!(
            out,
            "  wrk          {per_second:>9.0} events/s    {micros:>6.2}     the harness reads {ratio:.2} of it"
        )?;
    }

    let flood = run(&server, constant(TOO_MANY_PER_SECOND, duration / 5), false, duration / 5)?;
    writeln!(
        out,
        "{TOO_MANY_PER_SECOND} requests/s asked for: {:.0} sent; 99 % were sent up to {:.0} ms late, as it says itself",
        flood.requests as f64 / flood.seconds,
        flood.lag.as_secs_f64() * 1000.0
    )?;
    let late = flood.lag > Workload::default().max_dispatch_lag;
    let quick_enough = requests >= REQUESTS_PER_SECOND || events >= EVENTS_PER_SECOND;
    if !quick_enough {
        writeln!(out, "too slow: neither {REQUESTS_PER_SECOND:.0} requests/s nor {EVENTS_PER_SECOND:.0} events/s")?;
    }
    if !late {
        writeln!(out, "the harness has not said that it was the bottleneck")?;
    }
    Ok(if options.quick || (quick_enough && late) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn each(measured: &Measured, count: u64) -> f64 {
    measured.cpu_seconds * 1e6 / count as f64
}

fn closed() -> Starts {
    Starts::Users { users: USERS, think_time: Arc::new(|_| Duration::ZERO) }
}

fn constant(rate: u32, duration: Duration) -> Starts {
    let requests = (duration.as_secs_f64() * f64::from(rate)) as u32;
    Starts::At(Box::new((0..requests).map(move |number| Duration::from_secs(1) * number / rate)))
}

/// The prompt of all requests.
pub(crate) fn prompt() -> String {
    "What does it cost? ".repeat(8)
}

fn load(starts: Starts, streamed: bool) -> Load {
    let session = move |number| {
        let turn = Turn {
            prompt: prompt(),
            prompt_tokens: 32,
            output_tokens: server::EVENTS,
            pause: Duration::ZERO,
            streamed,
            leave: None,
            slow_reader: None,
        };
        Session { number, system: None, system_tokens: 0, turns: vec![turn] }
    };
    Load { starts, session: Arc::new(session) }
}

fn run(server: &Server, starts: Starts, streamed: bool, duration: Duration) -> anyhow::Result<Measured> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (sender, records) = mpsc::channel(1024);
        let client = Client::new(&format!("http://{}", server.address), &ClientOptions::default())?;
        let workload = Workload {
            tenants: [("bench".to_owned(), Tenant::default())].into(),
            duration,
            drain: Duration::from_secs(1),
            max_in_flight: 1000,
            ..Workload::default()
        };
        let before = cpu::of_this_process()?;
        let drive = drive(Drive {
            workload,
            loads: vec![load(starts, streamed)],
            keys: vec![Some("sk-bench".to_owned())],
            client,
            clock: Clock::begin(),
            records: sender,
            live: Arc::new(Live::default()),
            stop: CancellationToken::new(),
        });
        let (summary, mut measured) = tokio::join!(drive, fold(records));
        measured.seconds = summary?.ended.as_secs_f64();
        measured.cpu_seconds = cpu::of_this_process()? - before;
        Ok(measured)
    })
}

/// Looks at all records.
async fn fold(mut records: mpsc::Receiver<Record>) -> Measured {
    let (mut requests, mut events, mut lags) = (0, 0, Vec::new());
    while let Some(record) = records.recv().await {
        lags.push(record.dispatched - record.scheduled);
        if record.ending == Ending::Complete {
            requests += 1;
            events += record.chunks;
        }
    }
    lags.sort_unstable();
    let lag = lags.get(lags.len() * 99 / 100).copied().unwrap_or_default();
    Measured { requests, events, seconds: 0.0, cpu_seconds: 0.0, lag }
}
