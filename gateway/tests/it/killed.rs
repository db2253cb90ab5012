//! What the ledger promises after kill -9, with live streams through a real llama-server.
//!
//! Clients ask one request after the other and note when they have each token; the gateway is killed at random moments
//! and started again. Afterwards every row is compared with what its client saw, and with what llama-server was sent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::client::exchange;
use crate::harness::dice::Dice;
use crate::harness::engine::{Engine, Options, wait_idle};
use crate::harness::gateway::{Gateway, is_settled};
use crate::harness::tap::Tap;
use crate::harness::told::{Told, Until, read};
use crate::harness::{eventually_true, with};

const INTERVAL: Duration = Duration::from_millis(100);
const FAST: &str = "[ledger]\nprogress_interval = \"100ms\"\n[upstream]\nprobe_interval = \"100ms\"\n";

/// What a kill may lose of a stream that it cuts: the tokens that were delivered since the last time that progress was
/// written ahead, which is the interval, and one commit, which on a machine that runs other tests beside this one can
/// take as long as this.
const WINDOW: Duration = INTERVAL.saturating_add(Duration::from_millis(400));

/// The requests of the clients, one client each. All but the last are streamed.
fn asks(tokens: u32) -> [(&'static str, Value); 4] {
    let messages = json!([{"role": "user", "content": "Tell me about rivers."}]);
    let common = json!({"temperature": 0, "ignore_eos": true, "max_tokens": tokens, "timings_per_token": true,
                        "stream": true, "stream_options": {"include_usage": true}});
    [
        ("/v1/chat/completions", with(common.clone(), json!({"messages": messages}))),
        ("/v1/completions", with(common, json!({"prompt": "Once upon a time"}))),
        (
            "/v1/messages",
            json!({"model": "x", "messages": messages, "max_tokens": tokens, "ignore_eos": true, "stream": true}),
        ),
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": tokens, "ignore_eos": true})),
    ]
}

/// One request as its client saw it.
struct Seen {
    path: &'static str,
    told: Told,
    /// The kill that ended the round.
    killed: Instant,
}

/// How the gateway is killed.
struct Plan {
    kills: usize,
    clients: usize,
    /// Output tokens of each request.
    tokens: u32,
    /// A round ends when its clients have received a random number of tokens below this.
    most_received: usize,
    seed: u64,
}

/// What came of it.
struct Killed {
    engine: Engine,
    gateway: Gateway,
    /// Requests that were sent, heads of whose answers may never have come.
    sent: usize,
    seen: Vec<Seen>,
    /// Requests that llama-server was sent.
    dispatched: usize,
}

fn kill(options: Options, plan: &Plan) -> Killed {
    let engine = Engine::start(options);
    let tap = Tap::start(engine.address());
    let mut gateway = Gateway::with_config(&tap.url(), FAST);
    let (mut dice, asks) = (Dice::new(plan.seed), asks(plan.tokens));
    let (mut sent, mut seen) = (0, Vec::new());
    for _ in 0..plan.kills {
        let (attempts, received) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let enough = dice.below(plan.most_received);
        std::thread::scope(|scope| {
            let clients = asks.iter().take(plan.clients).map(|(path, body)| {
                let client = || ask_until_killed(&gateway, (path, body), &attempts, &received);
                scope.spawn(client)
            });
            let clients = clients.collect::<Vec<_>>();
            eventually_true("so many tokens are received", || received.load(Ordering::Relaxed) >= enough);
            gateway.kill9();
            let killed = Instant::now();
            for (client, (path, _)) in clients.into_iter().zip(&asks) {
                seen.extend(client.join().unwrap().into_iter().map(|told| Seen { path, told, killed }));
            }
        });
        sent += attempts.into_inner();
        gateway.restart();
    }
    wait_idle(&engine);
    let passed = tap.passed();
    let takes_slot = |head: &str| asks.iter().any(|(path, _)| head.starts_with(&format!("POST {path} ")));
    let dispatched = passed.iter().filter(|passed| takes_slot(&passed.head)).count();
    Killed { engine, gateway, sent, seen, dispatched }
}

/// One request after the other, until there is no gateway any more.
fn ask_until_killed(
    gateway: &Gateway,
    (path, body): (&str, &Value),
    attempts: &AtomicUsize,
    received: &AtomicUsize,
) -> Vec<Told> {
    let mut seen = Vec::new();
    loop {
        attempts.fetch_add(1, Ordering::Relaxed);
        let Ok(answer) = exchange(gateway.address, &gateway.request(path, body)) else { return seen };
        assert_eq!(answer.head.status, 200);
        let told = read(answer, 1, Until::End, || {
            received.fetch_add(1, Ordering::Relaxed);
        });
        let goes_on = told.tokens.is_some();
        seen.push(told);
        if !goes_on {
            return seen;
        }
    }
}

/// The rows of the ledger by request id.
fn ledger(gateway: &Gateway) -> BTreeMap<String, Value> {
    let rows = gateway.usage_rows();
    let count = rows.len();
    let rows = rows.into_iter().map(|row| (row["request_id"].as_str().unwrap().to_owned(), row));
    let rows = rows.collect::<BTreeMap<_, _>>();
    assert_eq!(rows.len(), count, "a request has two rows");
    rows
}

fn tokens(row: &Value) -> usize {
    row["completion_tokens"].as_u64().unwrap() as usize
}

impl Killed {
    /// Who saw the end has a settled row with the same numbers; who did not has one that is not behind by more than
    /// the window. Prints what was found.
    fn compare(&self) {
        let rows = ledger(&self.gateway);
        assert!(rows.values().all(is_settled));
        let (mut whole, mut cut, mut furthest) = (0, 0, Duration::ZERO);
        for Seen { path, told, killed } in &self.seen {
            let row = rows.get(&told.id).unwrap_or_else(|| panic!("{path}: {} is lost", told.id));
            let (ending, counted) = (row["ending"].as_str().unwrap(), tokens(row));
            match told.tokens {
                Some(told) => {
                    whole += 1;
                    let expected = (&json!(told.prompt), told.completion as usize);
                    assert_eq!((ending, (&row["prompt_tokens"], counted)), ("complete", expected), "{path}: {row}");
                }
                None => {
                    cut += 1;
                    // Its end may have been on its way.
                    assert!(["interrupted", "complete"].contains(&ending), "{path}: {row}");
                    let behind = told.received.get(counted).map(|at| killed.saturating_duration_since(*at));
                    furthest = furthest.max(behind.unwrap_or_default());
                }
            }
        }
        println!(
            "{} requests sent, {} at llama-server, {} rows; {whole} clients saw the end, {cut} were cut off; the ledger \
             was behind a stream by {} ms at most",
            self.sent,
            self.dispatched,
            rows.len(),
            furthest.as_millis()
        );
        assert!(furthest <= WINDOW, "behind by {furthest:?}");
        assert!(self.dispatched <= rows.len() && rows.len() <= self.sent, "a request is lost, or is there twice");
        // llama-server sees that a client is gone only after the token at hand: it has never generated less.
        let generated = self.engine.counters()["llamacpp:tokens_predicted_total"] as usize;
        let counted = rows.values().map(tokens).sum::<usize>();
        let settled = |row: &&Value| row["ending"] == "complete";
        let sure = rows.values().filter(settled).map(tokens).sum::<usize>();
        assert!(sure <= generated && counted <= generated + cut, "{sure} of {counted} counted, {generated} generated");
        assert!(whole > 0 && cut > 0, "too little happened to tell");
    }
}

#[test]
fn fifty_times_kill_9_loses_no_end_that_was_seen_and_no_request_that_was_sent() {
    let plan = Plan { kills: 50, clients: 4, tokens: 150, most_received: 700, seed: 4 };
    let mut killed = kill(Options::tiny(), &plan);
    killed.compare();
    replays_change_nothing(&mut killed);
}

#[test]
fn a_stream_that_is_cut_in_the_act_is_counted_up_to_the_progress_interval() {
    let plan = Plan { kills: 8, clients: 3, tokens: 60, most_received: 250, seed: 5 };
    kill(Options::speaking().slots(3), &plan).compare();
}

/// A ledger that is opened again, or copied as it lies there and opened elsewhere, says the same.
fn replays_change_nothing(killed: &mut Killed) {
    let gateway = &mut killed.gateway;
    let (path, body) = &asks(4000)[0];
    let live = gateway.stream_chat(body);
    assert_eq!(*path, "/v1/chat/completions");
    let id = live.head.request_id();
    eventually_true("the stream is written ahead", || tokens(&gateway.row(&id)) > 0);
    gateway.kill9();
    let copy = gateway.copy_data();
    gateway.restart();
    let rows = ledger(gateway);
    assert_eq!(rows[&id]["ending"], "interrupted");
    for _ in 0..2 {
        gateway.restart();
        assert_eq!(ledger(gateway), rows);
    }
    let mut elsewhere = Gateway::on(copy, &killed.engine.url());
    assert_eq!(ledger(&elsewhere), rows, "a copy");
    elsewhere.restart();
    assert_eq!(ledger(&elsewhere), rows, "a copy that was opened twice");
}
