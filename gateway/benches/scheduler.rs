//! What the queue costs: a decision, an arrival and a look at the outlook while many requests wait, and the memory of
//! one that waits. `docs/scheduling.md` tells how to read it.
//!
//! Drives the public `Queue` from one thread; each figure is the time of one call.

#![expect(clippy::disallowed_types, reason = "measures real time, and needs no runtime")]

use std::collections::VecDeque;
use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;

use gateway::config::Order;
use gateway::ledger::{Count, CountedBy};
use gateway::metrics::Metrics;
use gateway::queue::{Caps, Class, ClassId, PrefixReader, Queue, ReplicaId, Settings, Slot, Speed, Ticket};
use gateway::queue::{Waiting, Work};

/// Measures the queue.
#[derive(Parser)]
struct Options {
    /// Only see that everything works, with few calls
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Who waits while it is measured.
struct Crowd {
    name: &'static str,
    waiting: usize,
    tenants: usize,
    order: Order,
    /// Tokens that a warm prompt may go early for.
    slack: u32,
    prompt_bytes: usize,
}

const SLOTS: u32 = 8;
const PROMPT_BYTES: usize = 16 << 10;
const LONG_PROMPT_BYTES: usize = 128 << 10;

const CROWD: Crowd = Crowd {
    name: "10,000 of 1,000 tenants",
    waiting: 10_000,
    tenants: 1_000,
    order: Order::Fair,
    slack: 4096,
    prompt_bytes: PROMPT_BYTES,
};

const CROWDS: [Crowd; 7] = [
    Crowd { name: "10 of one tenant", waiting: 10, tenants: 1, ..CROWD },
    Crowd { name: "10,000 of one tenant", tenants: 1, ..CROWD },
    CROWD,
    Crowd { name: "the same, prompts of 128 KiB", prompt_bytes: LONG_PROMPT_BYTES, ..CROWD },
    Crowd { name: "the same, no locality", slack: 0, ..CROWD },
    Crowd { name: "the same, first come", order: Order::FirstCome, slack: 0, ..CROWD },
    Crowd { name: "10,000 of 10,000 tenants", tenants: 10_000, ..CROWD },
];

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let calls = if options.quick { 200 } else { 20_000 };
    let out = &mut std::io::stdout().lock();
    // First, while the process has no memory that it could use again.
    let memory = memory_of_waiting()?;
    writeln!(out, "\n| median / 99 of 100, µs | decision | arrival | outlook |\n|---|---:|---:|---:|")?;
    for crowd in &CROWDS {
        let [decision, arrival, outlook] = measure(crowd, calls)?.map(|times| cell(&times));
        writeln!(out, "| {} | {decision} | {arrival} | {outlook} |", crowd.name)?;
    }
    let mutex = Mutex::new(0_u64);
    let lock = (0..calls).map(|_| timed(|| mutex.lock().map(|mut count| *count += 1).is_ok()).1).collect::<Vec<_>>();
    let nothing = (0..calls).map(|_| timed(|| black_box(0)).1).collect::<Vec<_>>();
    writeln!(out, "\n- to compare: locking a mutex that nobody holds: {}", cell(&lock))?;
    writeln!(out, "- reading the clock, which is in each figure: {}", cell(&nothing))?;
    writeln!(out, "- memory of a waiting request: {memory:.0} bytes with a prompt of 16 KiB")?;
    if options.quick || cfg!(debug_assertions) {
        writeln!(out, "- Few calls or a build without optimisation: not figures, a sign that all works.")?;
    }
    Ok(())
}

/// Bytes of resident memory that a waiting request takes.
fn memory_of_waiting() -> anyhow::Result<f64> {
    let mut bench = Bench::new(&CROWD)?;
    // What is there once, however many wait.
    (0..100).try_for_each(|_| bench.enter().map(drop))?;
    let before = resident()?;
    let count = CROWD.waiting;
    (0..count).try_for_each(|_| bench.enter().map(drop))?;
    Ok((resident()? - before) as f64 / count as f64)
}

fn resident() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

/// Times of decisions, arrivals and looks at the outlook, in µs.
fn measure(crowd: &Crowd, calls: usize) -> anyhow::Result<[Vec<f64>; 3]> {
    let mut bench = Bench::new(crowd)?;
    (0..crowd.waiting + SLOTS as usize).try_for_each(|_| bench.enter().map(drop))?;
    bench.start_woken();
    let mut times = [const { Vec::new() }; 3];
    for call in 0..calls {
        let slot = bench.running.pop_front().context("no request runs")?;
        // It has run: longer than expected, so that it is charged for that, and its speed is learned.
        slot.record(&Count { prompt: 4000, cached: 1000, completion: 150, by: CountedBy::Timings, ..Count::default() });
        slot.learn(Speed { prompt_tokens: 3000, prompt_ms: 6000.0, output_tokens: 150, output_ms: 3000.0 });
        times[0].push(timed(|| drop(slot)).1);
        bench.start_woken();
        anyhow::ensure!(bench.running.len() == SLOTS as usize, "a decision started nothing, or too much");
        times[1].push(bench.enter()?);
        let somebody = bench.waiting.iter().flatten().nth(call * 7 % crowd.waiting).context("nobody waits")?;
        times[2].push(timed(|| black_box(somebody.outlook())).1);
    }
    Ok(times)
}

/// A queue, those in it, and who was called.
struct Bench {
    queue: Queue,
    tenants: Vec<Arc<str>>,
    prompts: Vec<String>,
    entered: usize,
    /// By number; `None` once it runs.
    waiting: Vec<Option<Waiting>>,
    free: Vec<usize>,
    running: VecDeque<Slot>,
    called: Arc<Mutex<Vec<usize>>>,
    deadline: tokio::time::Instant,
}

/// Notes who is called.
struct Call {
    number: usize,
    called: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        if let Ok(mut called) = self.called.lock() {
            called.push(self.number);
        }
    }
}

impl Bench {
    fn new(crowd: &Crowd) -> anyhow::Result<Self> {
        let class = |(name, weight): (&str, u32)| Class { name: name.into(), weight, strict: false };
        let classes = [("batch", 1), ("interactive", 8), ("standard", 4)].map(class).to_vec();
        let settings = Settings { order: crowd.order, classes, locality_slack: crowd.slack, locality_passes: 4 };
        let queue = Queue::new(settings, Arc::new(Metrics::new()?));
        queue.set_replica(ReplicaId(0), SLOTS, true);
        let prompt = |i: usize| format!("{i} ").repeat(crowd.prompt_bytes)[..crowd.prompt_bytes].to_owned();
        Ok(Self {
            queue,
            tenants: (0..crowd.tenants).map(|i| format!("tenant-{i}").into()).collect(),
            prompts: (0..64).map(prompt).collect(),
            entered: 0,
            waiting: Vec::with_capacity(crowd.waiting + 2 * SLOTS as usize),
            free: Vec::new(),
            running: VecDeque::new(),
            called: Arc::default(),
            deadline: tokio::time::Instant::now() + Duration::from_secs(1_000_000_000),
        })
    }

    /// Lets the next one in and polls it once, as its task would. Gives the time of entering.
    fn enter(&mut self) -> anyhow::Result<f64> {
        let i = self.entered;
        self.entered += 1;
        // As they come from the surface: each its own.
        let mut prefix = PrefixReader::default();
        prefix.push(self.prompts[i * 31 % self.prompts.len()].as_bytes());
        let ticket = Ticket {
            tenant: self.tenants[i % self.tenants.len()].clone(),
            key: self.tenants[i % self.tenants.len()].clone(),
            surface: "chat",
            class: ClassId(i % self.tenants.len() % 3),
            weight: 1 + (i % self.tenants.len() % 4) as u32,
            slots: 1,
            caps: Caps { tenant_queued: 100_000, ..Caps::default() },
            work: Work { prompt: 1000 + (i * 37 % 4000) as u64, output: 100 },
            untold_output: 0,
            deadline: self.deadline,
            prefix: prefix.finish(),
            private: false,
        };
        let (waiting, time) = timed(|| self.queue.enter(ticket));
        let number = self.free.pop().unwrap_or(self.waiting.len());
        if number == self.waiting.len() {
            self.waiting.push(None);
        }
        self.waiting[number] = Some(waiting.context("refused")?);
        self.poll(number);
        Ok(time)
    }

    fn poll(&mut self, number: usize) {
        let Some(mut waiting) = self.waiting[number].take() else { return };
        let waker = Waker::from(Arc::new(Call { number, called: self.called.clone() }));
        match Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(Ok(slot)) => {
                self.running.push_back(slot);
                self.free.push(number);
            }
            Poll::Ready(Err(_)) => self.free.push(number),
            Poll::Pending => self.waiting[number] = Some(waiting),
        }
    }

    fn start_woken(&mut self) {
        let called = self.called.lock().map(|mut called| std::mem::take(&mut *called)).unwrap_or_default();
        called.into_iter().for_each(|number| self.poll(number));
    }
}

/// The time of a call, in µs.
fn timed<T>(call: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let value = call();
    (value, begin.elapsed().as_secs_f64() * 1e6)
}

fn cell(times: &[f64]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    format!("{:.2} / {:.2}", at(0.5), at(0.99))
}
