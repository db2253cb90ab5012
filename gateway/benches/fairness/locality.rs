//! Conversations of several tenants, whose next turn begins with all turns before it: what is taken from the cache when
//! warm ones may be served early, and when not.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};

use crate::asked::{Asked, ask, chat, percentile};
use crate::harness::engine::{Engine, Options, wait_idle};
use crate::harness::gateway::Gateway;
use crate::{print, say};

const TENANTS: usize = 4;
const CONVERSATIONS: usize = 2;
const TURN_TOKENS: u32 = 16;

/// How long everything takes.
pub(crate) struct Plan {
    rounds: u32,
    window: Duration,
}

impl Plan {
    pub(crate) fn new(rounds: u32, quick: bool) -> Self {
        if quick {
            return Self { rounds: 1, window: Duration::from_secs(5) };
        }
        Self { rounds: rounds.max(1), window: Duration::from_secs(45) }
    }
}

/// All turns of one setting.
#[derive(Default)]
struct Sum {
    turns: Vec<Asked>,
}

/// Measures and reports. Nothing must hold: it shows what there is to choose from.
pub(crate) fn measure(plan: &Plan) -> bool {
    // None, about one cold prompt of these, and the default.
    let settings = [("0", "[queue]\nlocality_slack = 0"), ("default", ""), ("4096", "[queue]\nlocality_slack = 4096")];
    print("llama-server's | locality |        | cached prompt | time to first token");
    print("host cache     | slack    |  turns | tokens        |   p50 s    p95 s    p99 s    max s");
    // A conversation takes an estimated 10 to 15 MiB: about half of them fit, or all. (With no host cache 1 % was cached
    // with any slack; probably because a slot goes to the next one before the turn that it is warm for has come.)
    for (cache, args) in [("64 MiB", &["--cache-ram", "64"][..]), ("default", &[])] {
        let engine = Engine::start(Options::speaking().slots(2).args(args));
        let mut sums = [Sum::default(), Sum::default(), Sum::default()];
        for round in 0..plan.rounds {
            for turn in 0..3 {
                let which = ((turn + round) % 3) as usize;
                say(&format!("host cache {cache}, slack {}", settings[which].0));
                // Prompts differ between phases, so that none finds what another one has left.
                let phase = format!("{cache}-{round}-{which}");
                sums[which].turns.extend(converse(&engine, settings[which].1, &phase, plan.window));
            }
        }
        for ((slack, _), sum) in settings.iter().zip(&sums) {
            row(cache, slack, sum);
        }
    }
    true
}

fn row(cache: &str, slack: &str, sum: &Sum) {
    // The first turn of a conversation is cold in any order, but it is part of what its tenant waits for.
    let prompt = sum.turns.iter().map(|turn| turn.prompt_tokens).sum::<u64>();
    let cached = sum.turns.iter().map(|turn| turn.cached_tokens).sum::<u64>();
    let times = sum.turns.iter().filter_map(Asked::first_token).collect::<Vec<_>>();
    let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0].map(|share| percentile(&times, share));
    let share = 100.0 * cached as f64 / prompt.max(1) as f64;
    let turns = sum.turns.len();
    print(&format!(
        "{cache:<14} | {slack:<8} | {turns:>6} | {cached:>7} ({share:>2.0} %) | {p50:>7.2}  {p95:>7.2}  {p99:>7.2}  {max:>7.2}"
    ));
}

/// Conversations of several tenants for a while, each with its next turn as soon as it has its answer.
fn converse(engine: &Engine, config: &str, phase: &str, window: Duration) -> Vec<Asked> {
    let gateway = Gateway::with_config(&engine.url(), config);
    let keys = (0..TENANTS).map(|tenant| gateway.create_key(&format!("tenant-{tenant}"))).collect::<Vec<_>>();
    let over = AtomicBool::new(false);
    let turns = std::thread::scope(|scope| {
        let (gateway, over) = (&gateway, &over);
        let one = |(key, number): (String, usize)| scope.spawn(move || talk(gateway, &key, phase, number, over));
        let each = keys.iter().flat_map(|key| (0..CONVERSATIONS).map(|_| key.clone()));
        let conversations = each.enumerate().map(|(number, key)| one((key, number))).collect::<Vec<_>>();
        std::thread::sleep(window);
        over.store(true, Relaxed);
        conversations.into_iter().flat_map(|conversation| conversation.join().unwrap()).collect()
    });
    drop(gateway);
    wait_idle(engine);
    turns
}

fn talk(gateway: &Gateway, key: &str, phase: &str, number: usize, over: &AtomicBool) -> Vec<Asked> {
    let mut messages = vec![json!({"role": "system", "content": background(phase, number)})];
    let mut turns = Vec::new();
    while !over.load(Relaxed) {
        messages.push(json!({"role": "user", "content": format!("Question {}: what follows?", turns.len() + 1)}));
        let asked = ask(gateway.address, key, &chat(&Value::Array(messages.clone()), TURN_TOKENS));
        messages.push(json!({"role": "assistant", "content": asked.answer}));
        turns.push(asked);
    }
    turns
}

/// About 450 tokens that no other conversation begins with.
fn background(phase: &str, number: usize) -> String {
    (0..24)
        .map(|line| format!("Note {line} of talk {number} ({phase}): the river was calm and the boat was small. "))
        .collect()
}
