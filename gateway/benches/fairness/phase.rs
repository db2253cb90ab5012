//! One measured phase: a gateway of its own, tenants that ask, and what llama-server took meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::asked::{Asked, ask, chat};
use crate::harness::engine::{Engine, wait_idle};
use crate::harness::gateway::Gateway;

/// Clock ticks per second in `/proc/<pid>/stat`: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the flooding tenant asks for: prompts of about 90 tokens, and answers of differing lengths, so that the slots do
/// not become free in step.
const FLOOD_TOKENS: [u32; 4] = [48, 64, 56, 40];
/// What the other tenant asks for.
const TRICKLE_TOKENS: u32 = 8;

/// How a phase goes.
pub(crate) struct Phase<'a> {
    pub(crate) engine: &'a Engine,
    /// The gateway's configuration.
    pub(crate) config: &'a str,
    /// Requests that the flooding tenant keeps outstanding.
    pub(crate) outstanding: usize,
    /// From the first request of the trickling tenant, which comes when all of the flood is there, to the window.
    pub(crate) before: Duration,
    /// In which tokens are counted, and at whose end the trickling tenant stops.
    pub(crate) window: Duration,
    /// Pause between two requests of the trickling tenant, on average.
    pub(crate) pause: Duration,
}

/// What came of it.
pub(crate) struct Seen {
    /// Of all requests of the trickling tenant.
    pub(crate) first_tokens: Vec<Duration>,
    /// Tokens of the flooding tenant in the window.
    pub(crate) flood_tokens: usize,
    /// Seconds of the window.
    pub(crate) seconds: f64,
    /// CPU time of llama-server in the window, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Seconds in which the gateway left a slot idle although a request waited.
    pub(crate) idle_seconds: f64,
}

impl Phase<'_> {
    pub(crate) fn run(&self) -> Seen {
        let gateway = Gateway::with_config(&self.engine.url(), self.config);
        let (flood, trickle) = (gateway.create_key("flood"), gateway.create_key("trickle"));
        let over = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let floods = (0..self.outstanding).map(|_| scope.spawn(|| keep_asking(&gateway, &flood, &over)));
            let floods = floods.collect::<Vec<_>>();
            wait_until_all_are_there(&gateway, self.outstanding);
            let start = Instant::now();
            let (begin, end) = (start + self.before, start + self.before + self.window);
            let cpu = scope.spawn(move || {
                sleep(begin.saturating_duration_since(Instant::now()));
                let before = cpu_seconds(self.engine);
                sleep(end.saturating_duration_since(Instant::now()));
                cpu_seconds(self.engine) - before
            });
            let mut asked = Vec::new();
            for moment in self.moments(start, end) {
                sleep(moment.saturating_duration_since(Instant::now()));
                let (gateway, key) = (&gateway, &trickle);
                // It does not wait for the answer before it: a request that waits long delays none.
                asked.push(scope.spawn(move || ask(gateway.address, key, &small())));
            }
            sleep(end.saturating_duration_since(Instant::now()));
            over.store(true, Relaxed);
            let asked = asked.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<_>>();
            let idle_seconds = gateway.metric("llama_gateway_slots_idle_with_backlog_seconds_total");
            // Whoever still waits has served its purpose.
            gateway.kill9();
            let texts = floods.into_iter().flat_map(|flood| flood.join().unwrap()).flat_map(|asked| asked.texts);
            Seen {
                first_tokens: asked.iter().map(|asked| asked.first_token().expect("an answer")).collect(),
                flood_tokens: texts.filter(|moment| (begin..end).contains(moment)).count(),
                seconds: self.window.as_secs_f64(),
                cpu_seconds: cpu.join().unwrap(),
                idle_seconds,
            }
        });
        wait_idle(self.engine);
        seen
    }

    /// When the trickling tenant asks: off the beat, so that it does not keep meeting the flood at the same point.
    fn moments(&self, start: Instant, end: Instant) -> Vec<Instant> {
        let mut moments = Vec::new();
        let mut moment = start;
        for shift in (0..).map(|count| f64::from(count * 5 % 8) / 7.0 + 0.5) {
            moment += self.pause.mul_f64(shift);
            if moment >= end {
                break;
            }
            moments.push(moment);
        }
        moments
    }
}

/// One outstanding request after the other, until the phase is over.
fn keep_asking(gateway: &Gateway, key: &str, over: &AtomicBool) -> Vec<Asked> {
    let mut asked = Vec::new();
    while !over.load(Relaxed) {
        asked.push(ask(gateway.address, key, &large()));
    }
    asked
}

/// The number of a request. It goes on from phase to phase and stands first in the prompt: what llama-server has in its
/// cache would make the later phases faster than the earlier ones.
fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Relaxed)
}

fn large() -> serde_json::Value {
    let number = number();
    let text = format!("{number}. ") + &"Tell me what you know of rivers, lakes and the sea, and of ships. ".repeat(5);
    chat(&json!([{"role": "user", "content": text}]), FLOOD_TOKENS[(number % 4) as usize])
}

fn small() -> serde_json::Value {
    chat(&json!([{"role": "user", "content": format!("{}. Why is the sky blue?", number())}]), TRICKLE_TOKENS)
}

fn wait_until_all_are_there(gateway: &Gateway, outstanding: usize) {
    let there = || gateway.metric("llama_gateway_queue_depth") + gateway.metric("llama_gateway_slots_busy");
    crate::harness::eventually_true("the flood is there", || there() as usize >= outstanding);
}

/// User and system time of all threads of llama-server so far.
fn cpu_seconds(engine: &Engine) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", engine.pid())).unwrap();
    // The name before it may hold anything. Behind it, utime and stime are the 12th and 13th fields.
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_SECOND
}
