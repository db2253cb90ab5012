//! What the load test's harness itself can send and read, and what that costs, beside `wrk` in the same run. Run by
//! `cargo bench -p loadtest --bench drive`.
//!
//! A server of fixed replies runs in a process of its own; harness and server share whatever cores there are. Ends with
//! 1 if the harness reaches neither 20,000 requests/s nor 300,000 events/s, or does not say when it is too slow.

mod server;
mod wrk;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use loadtest::client::{Client, Options as ClientOptions};
use loadtest::clock::Clock;
use loadtest::drive::{Drive, Live, drive, loads};
use loadtest::measure::Measures;
use loadtest::plan::Vocabulary;
use loadtest::process::cpu_seconds;
use loadtest::record::Ending;
use loadtest::workload::{Arrival, Length, Tenant, Workload};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use server::{EVENTS, Server};

/// At least one of these must be reached.
const REQUESTS_PER_SECOND: f64 = 20_000.0;
const EVENTS_PER_SECOND: f64 = 300_000.0;
/// Users of the closed loop, and connections of wrk.
const USERS: u32 = 64;
const PROMPT_WORDS: u16 = 32;
/// More than one program sends on a machine of today.
const TOO_MANY_PER_SECOND: f64 = 1_000_000.0;

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
        None => measure(options.quick),
    }
}

/// What a run of the harness has shown.
struct Run {
    requests: u64,
    events: u64,
    seconds: f64,
    cpu_seconds: f64,
    /// The 99th percentile of the dispatch lag, in ms.
    lag: f64,
}

fn measure(quick: bool) -> anyhow::Result<ExitCode> {
    let server = Server::start()?;
    let duration = Duration::from_millis(if quick { 300 } else { 5000 });
    let closed = || Arrival::Closed { users: USERS, think_time: Length::Fixed(0.0) };
    let mut out = std::io::stdout().lock();

    let whole = run(&server, workload(closed(), false, duration))?;
    let requests = whole.requests as f64 / whole.seconds;
    let micros = whole.cpu_seconds * 1e6 / whole.requests as f64;
    writeln!(out, "in one piece {requests:>10.0} requests/s {micros:>7.2} µs of CPU a request")?;
    let wrk = wrk::measure(&server.address, false, duration)?;
    let (rate, micros, ratio) = (wrk.per_second, wrk.micros, requests / wrk.per_second);
    writeln!(out, "  wrk        {rate:>10.0} requests/s {micros:>7.2}; the harness sends {ratio:.2} of that")?;

    let streamed = run(&server, workload(closed(), true, duration))?;
    let events = streamed.events as f64 / streamed.seconds;
    let micros = streamed.cpu_seconds * 1e6 / streamed.events as f64;
    writeln!(out, "streamed     {events:>10.0} events/s   {micros:>7.2} µs of CPU an event")?;
    let wrk = wrk::measure(&server.address, true, duration)?;
    let (rate, micros) = (wrk.per_second * EVENTS as f64, wrk.micros / EVENTS as f64);
    let ratio = events / rate;
    writeln!(out, "  wrk        {rate:>10.0} events/s   {micros:>7.2}; the harness reads {ratio:.2} of that")?;

    let flood = Arrival::Constant { rate: TOO_MANY_PER_SECOND };
    let flood = run(&server, workload(flood, false, duration / 5))?;
    let rate = flood.requests as f64 / flood.seconds;
    writeln!(
        out,
        "asked for {TOO_MANY_PER_SECOND:.0} requests/s, it sends {rate:.0}, and its lag says {:.0} ms",
        flood.lag
    )?;

    let fast = requests >= REQUESTS_PER_SECOND || events >= EVENTS_PER_SECOND;
    if !fast {
        writeln!(out, "too slow: neither {REQUESTS_PER_SECOND:.0} requests/s nor {EVENTS_PER_SECOND:.0} events/s")?;
    }
    let honest = flood.lag > Workload::default().max_dispatch_lag.as_secs_f64() * 1000.0;
    if !honest {
        writeln!(out, "the harness was the bottleneck and its lag did not say so")?;
    }
    Ok(if quick || (fast && honest) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A workload of one tenant.
fn workload(arrival: Arrival, streamed: bool, duration: Duration) -> Workload {
    let tenant = Tenant {
        arrival,
        prompt_tokens: Length::Fixed(PROMPT_WORDS.into()),
        output_tokens: Length::Fixed(EVENTS as f64),
        streamed: if streamed { 1.0 } else { 0.0 },
        ..Tenant::default()
    };
    Workload {
        tenants: [("bench".to_owned(), tenant)].into(),
        duration,
        drain: Duration::from_secs(1),
        max_in_flight: 1000,
        ..Workload::default()
    }
}

/// The whole harness: sessions are planned and sent, replies read, records folded into measures.
fn run(server: &Server, workload: Workload) -> anyhow::Result<Run> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (sender, mut records) = mpsc::channel(1024);
        let mut measures = Measures::new(&workload, 1);
        let before = cpu_seconds(&[std::process::id()])?;
        let drive = drive(Drive {
            loads: loads(&workload, &Vocabulary::estimated())?,
            workload,
            keys: vec![Some("sk-bench".to_owned())],
            client: Client::new(&format!("http://{}", server.address), &ClientOptions::default())?,
            clock: Clock::begin(),
            records: sender,
            live: Arc::new(Live::default()),
            stop: CancellationToken::new(),
        });
        let fold = async {
            let (mut requests, mut events) = (0, 0);
            while let Some(record) = records.recv().await {
                measures.add(&record);
                if record.ending == Ending::Complete {
                    (requests, events) = (requests + 1, events + record.chunks);
                }
            }
            (requests, events)
        };
        let (summary, (requests, events)) = tokio::join!(drive, fold);
        let (summary, cpu_seconds) = (summary?, cpu_seconds(&[std::process::id()])? - before);
        let lag = measures.finish(summary.scheduled_until).dispatch_lag.p99;
        Ok(Run { requests, events, seconds: summary.ended.as_secs_f64(), cpu_seconds, lag })
    })
}
