//! A tenant that asks for little, alone and beside one that floods, under both orders.

use std::time::Duration;

use crate::asked::percentile;
use crate::harness::engine::{Engine, Options};
use crate::phase::{Phase, Seen};
use crate::{print, say};

/// What must hold: so many times sooner than by arrival ...
const SOONER: f64 = 10.0;
/// ... at this share of the flooding tenant's throughput at least.
const THROUGHPUT: f64 = 0.95;
/// If other work took more of llama-server's core in one order than in the other, tokens are counted per second of CPU time.
const DISTURBED: f64 = 0.02;

const ORDERS: [&str; 2] = ["first_come", "fair"];

/// How long everything takes.
pub(crate) struct Plan {
    outstanding: usize,
    rounds: u32,
    before: Duration,
    window: Duration,
    pause: Duration,
}

impl Plan {
    pub(crate) fn new(outstanding: usize, rounds: u32, quick: bool) -> Self {
        let seconds = Duration::from_secs;
        if quick {
            return Self { outstanding, rounds: 1, before: seconds(1), window: seconds(5), pause: seconds(1) };
        }
        let rounds = if rounds == 0 { 3 } else { rounds };
        Self { outstanding, rounds, before: seconds(10), window: seconds(20), pause: Duration::from_millis(1500) }
    }
}

/// All phases of one order.
#[derive(Default)]
struct Sum {
    first_tokens: Vec<Duration>,
    tokens: usize,
    seconds: f64,
    cpu_seconds: f64,
    idle_seconds: f64,
    /// Tokens a second, round by round.
    rounds: Vec<f64>,
}

impl Sum {
    fn add(&mut self, seen: Seen) {
        self.rounds.push(seen.flood_tokens as f64 / seen.seconds);
        self.first_tokens.extend(seen.first_tokens);
        self.tokens += seen.flood_tokens;
        self.seconds += seen.seconds;
        self.cpu_seconds += seen.cpu_seconds;
        self.idle_seconds += seen.idle_seconds;
    }

    /// How far its fastest and its slowest round are apart, as a share of the fastest.
    fn spread(&self) -> f64 {
        let fastest = self.rounds.iter().copied().fold(0.0, f64::max);
        1.0 - self.rounds.iter().copied().fold(fastest, f64::min) / fastest
    }

    fn throughput(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }

    /// Of a core, in the windows.
    fn cpu_share(&self) -> f64 {
        self.cpu_seconds / self.seconds
    }
}

/// Measures and reports; tells whether everything held that must.
pub(crate) fn measure(plan: &Plan) -> bool {
    let engine = Engine::start(Options::speaking().slots(2));
    say(&format!(
        "2 slots; flood keeps {} requests outstanding; trickle asks every {:?}",
        plan.outstanding, plan.pause
    ));
    let alone = Phase {
        engine: &engine,
        config: "",
        outstanding: 0,
        before: Duration::ZERO,
        window: plan.pause * 8,
        pause: plan.pause,
    };
    let alone = alone.run().first_tokens;
    let mut sums = [Sum::default(), Sum::default()];
    for round in 0..plan.rounds {
        for turn in 0..2 {
            // Each round begins with the other order: what drifts meanwhile does so for both.
            let which = ((turn + round) % 2) as usize;
            say(&format!("round {} of {}: {}", round + 1, plan.rounds, ORDERS[which]));
            let config = format!("[queue]\norder = \"{}\"", ORDERS[which]);
            let Plan { outstanding, before, window, pause, .. } = *plan;
            sums[which].add(Phase { engine: &engine, config: &config, outstanding, before, window, pause }.run());
        }
    }
    report(&alone, &sums)
}

fn report(alone: &[Duration], sums: &[Sum; 2]) -> bool {
    print("            | trickle: time to first token      | flood: output");
    print("            |   p50 s    p95 s    max s       n | tokens/s  tokens/s by round");
    let row = |name: &str, times: &[Duration], flood: String| {
        let [p50, p95, max] = [0.5, 0.95, 1.0].map(|share| percentile(times, share));
        print(&format!("{name:<11} | {p50:>7.2}  {p95:>7.2}  {max:>7.2}  {:>6} | {flood}", times.len()));
    };
    row("alone", alone, String::new());
    for (name, sum) in ORDERS.iter().zip(sums) {
        let rounds = sum.rounds.iter().map(|tokens| format!("{tokens:.1}")).collect::<Vec<_>>().join(" ");
        row(name, &sum.first_tokens, format!("{:>8.1}  {rounds}", sum.throughput()));
    }
    print("");
    let [first_come, fair] = sums;
    let mut held = true;
    for (name, share) in [("p50", 0.5), ("p95", 0.95)] {
        let ratio = percentile(&first_come.first_tokens, share) / percentile(&fair.first_tokens, share);
        held &= verdict(&format!("{name}: {ratio:.1} times sooner when fair (at least {SOONER})"), ratio >= SOONER);
    }
    held &= throughput(first_come, fair);
    let idle = fair.idle_seconds;
    held &= verdict(&format!("seconds with an idle slot and a request that waited: {idle:.3} (0)"), idle == 0.0);
    held
}

/// llama-server computes without a pause while it has work, on one core. What is missing from a whole core was taken by
/// other work on the machine, or is a slot that was left idle, which has a verdict of its own.
fn throughput(first_come: &Sum, fair: &Sum) -> bool {
    let ratio = fair.throughput() / first_come.throughput();
    let shares = [first_come.cpu_share(), fair.cpu_share()];
    print(&format!("llama-server had {:.3} of a core under first_come, {:.3} under fair", shares[0], shares[1]));
    let per_cpu = ratio * shares[0] / shares[1];
    print(&format!("flood's tokens per second of CPU time of llama-server, fair / first_come: {per_cpu:.3}"));
    let spread = first_come.spread().max(fair.spread());
    if spread > 1.0 - THROUGHPUT {
        let percent = 100.0 * spread;
        print(&format!("rounds of one and the same order differ by up to {percent:.0} %: the machine is not quiet"));
    }
    let text = format!("flood's throughput, fair / first_come: {ratio:.3} (at least {THROUGHPUT})");
    if (shares[0] - shares[1]).abs() < DISTURBED || ratio >= THROUGHPUT {
        return verdict(&text, ratio >= THROUGHPUT);
    }
    print(&format!("{text}: other work disturbed this, so CPU time decides"));
    verdict(
        &format!("flood's tokens per second of CPU time: {per_cpu:.3} (at least {THROUGHPUT})"),
        per_cpu >= THROUGHPUT,
    )
}

fn verdict(text: &str, held: bool) -> bool {
    print(&format!("{} {text}", if held { "ok    " } else { "FAILED" }));
    held
}
