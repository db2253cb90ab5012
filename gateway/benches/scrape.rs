//! What a scrape of `/metrics` costs, and how much of it the queue's lock is held. `docs/performance.md` shows what it
//! prints.
//!
//! Fills the public `Queue`, `Limits` and `Metrics` with tenants who all have run something, have limits and quotas and a
//! key that expires, and wait; each figure is the CPU time of this thread for one scrape.

use std::fmt::Write as _;
use std::future::Future;
use std::hint::black_box;
use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};

use gateway::auth::Caller;
use gateway::clock::Clock;
use gateway::config::{Config, Overrides, load};
use gateway::ledger::{Count, CountedBy};
use gateway::limit::{Limits, Need};
use gateway::metrics::Metrics;
use gateway::policy::{Policies, Terms};
use gateway::queue::{Caps, Prefix, Queue, ReplicaId, Settings, Slot, Ticket, Waiting, Work};

/// Measures scrapes.
#[derive(Parser)]
struct Options {
    /// Only see that everything works, with few calls
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

const TENANTS: [usize; 4] = [10, 100, 1_000, 10_000];
const SLOTS: u32 = 8;

const CONFIG: &str = "[policies.default]
requests_per_minute = 1000000
concurrent_requests = 100
tokens_per_minute = 1000000
tokens_per_day = 10000000
tokens_per_month = 100000000
";

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let out = &mut std::io::stdout().lock();
    writeln!(out, "\n| tenants | series | KiB | scrape, ms | of it the queue | by hand, ms | scrape ÷ by hand |")?;
    writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|")?;
    let tenants = if options.quick { &TENANTS[..2] } else { &TENANTS };
    for &tenants in tenants {
        let world = World::new(tenants)?;
        let text = world.scrape()?;
        let lines = text.lines().map(Line::read).collect::<anyhow::Result<Vec<_>>>()?;
        let series = lines.iter().filter(|line| line.value.is_some()).count();
        ensure!(series > 40 * tenants, "only {series} series of {tenants} tenants: something is missing");
        ensure!(by_hand(&lines) == text, "what is written by hand is not the same text");
        let calls = if options.quick { 3 } else { 200_000 / tenants.max(100) };
        let times = (0..calls).map(|_| world.measure(&lines)).collect::<anyhow::Result<Vec<_>>>()?;
        let [scrape, queue, hand] = [0, 1, 2].map(|i| middle(times.iter().map(|times| times[i]).collect()));
        let ratio = middle(times.iter().map(|times| times[0] / times[2]).collect());
        let kib = text.len() / 1024;
        writeln!(out, "| {tenants} | {series} | {kib} | {scrape:.2} | {queue:.2} | {hand:.2} | {ratio:.1} |")?;
    }
    if options.quick || cfg!(debug_assertions) {
        writeln!(out, "\nFew calls or a build without optimisation: not figures, a sign that all works.")?;
    }
    Ok(())
}

/// Everything that has series of its own for each tenant.
struct World {
    metrics: Arc<Metrics>,
    queue: Queue,
    limits: Limits,
    tenants: Vec<Arc<str>>,
    /// Held for as long as it is measured.
    _waiting: Vec<Waiting>,
    _running: Vec<Slot>,
}

impl World {
    fn new(tenants: usize) -> anyhow::Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), CONFIG)?;
        let config = load(Some(file.path()), std::iter::empty(), &Overrides::default())?;
        let policies = Policies::new(&config)?;
        let metrics = Arc::new(Metrics::new()?);
        let mut world = Self {
            queue: queue(&config, &policies, &metrics),
            limits: Limits::new(Clock::system()),
            metrics,
            tenants: (0..tenants).map(|i| format!("tenant-{i}").into()).collect(),
            _waiting: Vec::new(),
            _running: Vec::new(),
        };
        for tenant in world.tenants.clone() {
            let caller = Caller::new(&tenant, &tenant);
            world.run(&caller, &policies.of(&caller).ok().context("no policy")?)?;
        }
        for i in 0..tenants.max(SLOTS as usize + 1) {
            let mut waiting = world.queue.enter(ticket(&world.tenants[i % tenants]))?;
            match poll(&mut waiting) {
                Some(slot) => world._running.push(slot?),
                None => world._waiting.push(waiting),
            }
        }
        Ok(world)
    }

    /// A request of a tenant from its beginning to its end, as far as metrics know of it.
    fn run(&self, caller: &Caller, terms: &Terms) -> anyhow::Result<()> {
        let refused = |_| anyhow::anyhow!("a limit refused it");
        let pass = self.limits.enter(caller, terms, false, Clock::system().now()).map_err(refused)?;
        let mut tokens = pass.reserve(Need { prompt: 100, output: 50 }).map_err(refused)?;
        let slot = poll(&mut self.queue.enter(ticket(&caller.tenant))?).context("no slot is free")??;
        slot.record(&Count { prompt: 100, cached: 20, completion: 30, by: CountedBy::Timings, ..Count::default() });
        drop(slot);
        tokens.settle(130);
        for (kind, tokens) in [("prompt", 100), ("cached", 20), ("completion", 30), ("reasoning", 0)] {
            self.metrics.tokens_total.with_label_values(&[&*caller.tenant, "model", kind]).inc_by(tokens);
        }
        for phase in ["prefill", "decode"] {
            self.metrics.slot_seconds_total.with_label_values(&[&*caller.tenant, "model", phase]).inc_by(0.123);
        }
        Ok(())
    }

    /// As the admin port does it.
    fn scrape(&self) -> anyhow::Result<String> {
        Ok(self.metrics.scrape(|metrics| {
            self.queue.observe();
            self.limits.observe(metrics);
            for tenant in self.tenants.iter().take(1000) {
                let labels = [&**tenant, "abcdefgh"];
                metrics.api_key_expiry_timestamp_seconds.with_label_values(&labels).set(1.8e9);
            }
        })?)
    }

    /// CPU time, in ms, of a scrape, of the part of the queue in it, and of writing the same text by hand.
    fn measure(&self, lines: &[Line]) -> anyhow::Result<[f64; 3]> {
        let (text, scrape) = timed(|| self.scrape());
        black_box(text?);
        let (_, queue) = timed(|| self.queue.observe());
        Ok([scrape, queue, timed(|| black_box(by_hand(lines))).1])
    }
}

fn queue(config: &Config, policies: &Policies, metrics: &Arc<Metrics>) -> Queue {
    let settings = Settings {
        order: config.queue.order,
        classes: policies.classes().to_vec(),
        locality_slack: config.queue.locality_slack,
        locality_passes: config.queue.locality_passes,
    };
    let queue = Queue::new(settings, metrics.clone());
    queue.set_replica(ReplicaId(0), SLOTS, true);
    queue
}

fn ticket(tenant: &Arc<str>) -> Ticket {
    Ticket {
        tenant: tenant.clone(),
        key: tenant.clone(),
        surface: "chat",
        class: gateway::queue::ClassId(0),
        weight: 1,
        slots: 1,
        caps: Caps::default(),
        work: Work { prompt: 100, output: 50 },
        untold_output: 0,
        deadline: tokio::time::Instant::now() + Duration::from_secs(1_000_000),
        prefix: Prefix::default(),
        private: false,
    }
}

fn poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// A line of the text: all of it, or what stands before its value.
struct Line {
    begin: String,
    value: Option<f64>,
}

impl Line {
    fn read(line: &str) -> anyhow::Result<Self> {
        if line.starts_with('#') {
            return Ok(Self { begin: line.to_owned(), value: None });
        }
        let (begin, value) = line.rsplit_once(' ').context("a line without a value")?;
        Ok(Self { begin: begin.to_owned(), value: Some(value.parse()?) })
    }
}

/// The least that any way of writing that text has to do: names and labels are there, numbers are formatted.
fn by_hand(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.begin);
        if let Some(value) = line.value {
            // Writing to a string does not fail.
            write!(text, " {value}").ok();
        }
        text.push('\n');
    }
    text
}

/// The CPU time of a call, in ms.
fn timed<T>(call: impl FnOnce() -> T) -> (T, f64) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
    };
    let begin = now();
    let value = call();
    (value, now() - begin)
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
