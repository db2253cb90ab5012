//! Who gets the next slot: tenants and classes by weight, within bounds of their own, and what the metrics tell of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::client::Conn;
use crate::harness::crowd::{CHAT, post, send};
use crate::harness::engine::{Engine, Options, wait_idle};
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Stub, held};
use crate::harness::{chat, chat_stream, eventually_true, with};

/// A retry that comes sooner is not taken for one of a request that is still here.
const GIVEN_UP: Duration = Duration::from_millis(2100);

/// A chat that the stub can tell from others.
fn numbered(number: u64) -> Value {
    with(chat_stream(9), json!({"seed": number}))
}

/// A stub with one slot, a gateway, and requests that wait for that slot behind one that holds it.
struct Line {
    stub: Stub,
    gateway: Gateway,
    conns: Vec<Conn>,
}

impl Line {
    fn new(config: &str) -> Self {
        let stub = Stub::start(1);
        stub.plan(held());
        let gateway = Gateway::with_config(&stub.url(), config);
        let holder = gateway.create_key("holder");
        let conns = vec![send(&gateway, &holder, &[], &numbered(0))];
        stub.wait_held(0);
        Self { stub, gateway, conns }
    }

    /// One more that waits.
    fn push(&mut self, key: &str, headers: &[(&str, &str)], number: u64) {
        self.conns.push(send(&self.gateway, key, headers, &numbered(number)));
        self.gateway.wait_depth(self.conns.len() - 1);
    }

    /// Ends one request after the other and gives the order in which the waiting ones were started.
    fn order(self) -> Vec<u64> {
        for index in 0..self.conns.len() {
            self.stub.wait_held(index);
            self.stub.release(index);
        }
        for conn in self.conns {
            assert_eq!(conn.answer().unwrap().events().last().unwrap(), "data: [DONE]");
        }
        assert_eq!(self.stub.most_busy(), 1);
        self.stub.seeds().split_off(1)
    }
}

/// How many of the first `most` are of the tenant whose numbers begin with `hundreds`.
fn share(order: &[u64], most: usize, hundreds: u64) -> usize {
    order.iter().take(most).filter(|number| **number / 100 == hundreds).count()
}

#[test]
fn a_tenant_with_one_request_waits_for_one_turn_not_for_a_flood() {
    let mut line = Line::new("");
    let (flood, trickle) = (line.gateway.create_key("flood"), line.gateway.create_key("trickle"));
    (100..110).for_each(|number| line.push(&flood, &[], number));
    line.push(&trickle, &[], 200);
    let order = line.order();
    let place = order.iter().position(|number| *number == 200).unwrap();
    assert!(place <= 1, "{order:?}");
}

#[test]
fn by_arrival_alone_is_still_there_to_compare_with() {
    let mut line = Line::new("[queue]\norder = \"first_come\"");
    let (flood, trickle) = (line.gateway.create_key("flood"), line.gateway.create_key("trickle"));
    (100..105).for_each(|number| line.push(&flood, &[], number));
    line.push(&trickle, &[], 200);
    assert_eq!(line.order(), [100, 101, 102, 103, 104, 200]);
}

#[test]
fn tenants_that_both_wait_are_served_by_their_weights() {
    let mut line =
        Line::new("[queue]\nlocality_slack = 0\n[policies.heavy]\nweight = 3\n[tenants.heavy]\npolicy = \"heavy\"");
    let (heavy, light) = (line.gateway.create_key("heavy"), line.gateway.create_key("light"));
    for number in 0..12 {
        line.push(&light, &[], 100 + number);
        line.push(&heavy, &[], 200 + number);
    }
    let order = line.order();
    for turns in [4, 8, 12, 16] {
        let served = share(&order, turns, 2);
        assert!(served.abs_diff(turns * 3 / 4) <= 1, "{served} of {turns} turns for three quarters: {order:?}");
    }
}

#[test]
fn classes_that_both_wait_have_their_shares_and_none_is_starved() {
    let config = "[queue]\nlocality_slack = 0\n[queue.classes]\ninteractive = 3\nbatch = 1\nstandard = 1\n\
                  [policies.now]\nclass = \"interactive\"\n[policies.later]\nclass = \"batch\"\n\
                  [tenants.now]\npolicy = \"now\"\n[tenants.also-now]\npolicy = \"now\"\n\
                  [tenants.later]\npolicy = \"later\"";
    let mut line = Line::new(config);
    let [now, also_now, later] = ["now", "also-now", "later"].map(|tenant| line.gateway.create_key(tenant));
    (100..106).for_each(|number| line.push(&later, &[], number));
    for number in 0..6 {
        line.push(&now, &[], 200 + number);
        line.push(&also_now, &[], 300 + number);
    }
    let order = line.order();
    for turns in [4, 8, 12] {
        let batch = share(&order, turns, 1);
        assert!(batch.abs_diff(turns / 4) <= 1, "{batch} of {turns} turns for a quarter: {order:?}");
        let [one, other] = [2, 3].map(|hundreds| share(&order, turns, hundreds));
        assert!(one.abs_diff(other) <= 1, "{order:?}");
    }
    assert!(share(&order, 8, 1) >= 1, "{order:?}");
}

#[test]
fn a_strict_class_goes_before_all_others() {
    let config = "[queue]\nstrict_classes = [\"interactive\"]\n[policies.now]\nclass = \"interactive\"\n\
                  [tenants.now]\npolicy = \"now\"";
    let mut line = Line::new(config);
    let [now, later] = ["now", "later"].map(|tenant| line.gateway.create_key(tenant));
    for number in 0..4 {
        line.push(&later, &[], 100 + number);
        line.push(&now, &[], 200 + number);
    }
    assert_eq!(line.order(), [200, 201, 202, 203, 100, 101, 102, 103]);
}

#[test]
fn within_a_tenant_the_earliest_deadline_goes_first_then_the_earliest_arrival() {
    let mut line = Line::new("[queue]\nlocality_slack = 0");
    let key = line.gateway.key.clone();
    line.push(&key, &[], 100);
    line.push(&key, &[("x-request-timeout", "400")], 101);
    line.push(&key, &[("x-request-timeout", "200")], 102);
    line.push(&key, &[], 103);
    line.push(&key, &[("x-request-timeout", "300")], 104);
    assert_eq!(line.order(), [102, 104, 101, 100, 103]);
}

#[test]
fn a_flood_fills_its_own_queue_and_nobody_elses() {
    let mut line = Line::new("[policies.default]\nqueued_requests = 4");
    let (flood, other) = (line.gateway.create_key("flood"), line.gateway.create_key("other"));
    (100..104).for_each(|number| line.push(&flood, &[], number));
    for _ in 0..3 {
        let refused = post(&line.gateway, &flood, &[], &chat(9));
        assert_eq!((refused.status, refused.code().as_str()), (429, "queue_full"));
    }
    (200..204).for_each(|number| line.push(&other, &[], number));
    assert_eq!(line.order().len(), 8);
}

#[test]
fn a_tenant_uses_no_more_slots_than_its_policy_says_and_the_others_use_the_rest() {
    let stub = Stub::start(2);
    stub.plan(held());
    let config = "[policies.narrow]\nslots = 1\n[tenants.narrow]\npolicy = \"narrow\"";
    let gateway = Gateway::with_config(&stub.url(), config);
    let narrow = gateway.create_key("narrow");
    let mut conns = vec![send(&gateway, &narrow, &[], &numbered(100))];
    stub.wait_held(0);
    conns.push(send(&gateway, &narrow, &[], &numbered(101)));
    gateway.wait_depth(1);
    assert_eq!(stub.count(), 1, "the second slot is free, but not for this tenant");
    conns.push(send(&gateway, &gateway.key, &[], &numbered(200)));
    stub.wait_held(1);
    assert_eq!(stub.seeds(), [100, 200]);
    stub.release(0);
    stub.wait_held(2);
    (1..3).for_each(|index| stub.release(index));
    conns.into_iter().for_each(|conn| drop(conn.answer().unwrap().events()));
    assert_eq!(gateway.metric("llama_gateway_slots_idle_with_backlog_seconds_total"), 0.0);
}

#[test]
fn a_retry_takes_the_place_of_the_first_try_that_still_waits() {
    let line = Line::new("");
    let Line { stub, gateway, conns } = line;
    let retry = [("x-stainless-retry-count", "1")];
    let body = with(chat(9), json!({"seed": 100}));
    let first = send(&gateway, &gateway.key, &[], &body);
    gateway.wait_depth(1);
    sleep(GIVEN_UP);
    let second = send(&gateway, &gateway.key, &retry, &body);
    let replaced = first.answer().unwrap().reply().unwrap();
    assert_eq!((replaced.status, replaced.code().as_str()), (409, "replaced"));
    assert_eq!(replaced.head.header("x-should-retry"), Some("false"), "nobody may take the retry's place in turn");
    gateway.wait_depth(1);
    // Another body, another key, or no retry at all: these are requests of their own.
    let other = gateway.create_key("acme");
    let others = [
        send(&gateway, &gateway.key, &retry, &with(chat(9), json!({"seed": 101}))),
        send(&gateway, &other, &retry, &body),
        send(&gateway, &gateway.key, &[], &body),
    ];
    gateway.wait_depth(4);
    for index in 0..5 {
        stub.wait_held(index);
        stub.release(index);
    }
    for conn in conns.into_iter().chain([second]).chain(others) {
        assert_eq!(conn.answer().unwrap().reply().unwrap().status, 200);
    }
    assert_eq!(stub.count(), 5);
}

#[test]
fn a_retry_ends_the_first_try_that_already_runs() {
    let stub = Stub::start(2);
    stub.plan_next(held());
    let gateway = Gateway::start(&stub.url());
    let body = with(chat(9), json!({"seed": 100}));
    let first = send(&gateway, &gateway.key, &[], &body);
    stub.wait_held(0);
    sleep(GIVEN_UP);
    assert_eq!(post(&gateway, &gateway.key, &[("x-stainless-retry-count", "1")], &body).status, 200);
    stub.wait_closed(0);
    assert_eq!(first.answer().unwrap().reply().unwrap().code(), "replaced");
}

#[test]
fn who_meets_a_replica_that_is_gone_goes_back_to_its_own_place() {
    let stub = Stub::start(1);
    stub.plan(held());
    let mut engine = Engine::start(Options::speaking().slots(1));
    let config = "[upstream]\nprobe_interval = \"60s\"";
    let gateway = Gateway::launch(&[&engine.url(), &stub.url()], config);
    eventually_true("both replicas are known", || gateway.metric("llama_gateway_slots_total") == 2.0);
    let endless = |number: u64| with(numbered(number), json!({"max_tokens": 1800, "ignore_eos": true}));
    let mut conns = vec![];
    for number in [1, 2] {
        conns.push(send(&gateway, &gateway.key, &[], &endless(number)));
        eventually_true("a slot is taken", || gateway.metric("llama_gateway_slots_busy") == number as f64);
    }
    stub.wait_held(0);
    for number in 100..103 {
        conns.push(send(&gateway, &gateway.key, &[], &endless(number)));
        gateway.wait_depth(number as usize - 99);
    }
    // Its own request ends with it, so that the next one is sent there, and comes back.
    engine.kill();
    eventually_true("it is known to be gone", || gateway.metric("llama_gateway_slots_total") == 1.0);
    gateway.wait_depth(3);
    for index in 0..4 {
        stub.wait_held(index);
        stub.release(index);
    }
    assert_eq!(stub.seeds()[1..], [100, 101, 102]);
    conns.into_iter().for_each(|conn| drop(conn.answer()));
}

#[test]
fn the_queues_metrics_are_there_and_name_only_what_is_configured() {
    let mut line =
        Line::new("[policies.gold]\nweight = 2\ntokens_per_minute = 100000\n[tenants.acme]\npolicy = \"gold\"");
    let acme = line.gateway.create_key("acme");
    (100..103).for_each(|number| line.push(&acme, &[], number));
    // Whoever has a key without being configured, or asks for nonsense, makes no series of its own.
    for number in 0..20 {
        let key = line.gateway.create_key(&format!("stray-{number}"));
        assert_eq!(
            post(&line.gateway, &key, &[], &json!({"model": format!("m{number}"), "max_tokens": "few"})).status,
            400
        );
    }
    let names = |gateway: &Gateway| {
        let metrics = gateway.metrics();
        metrics.into_keys().map(|key| key.trim_start_matches("llama_gateway_").to_owned()).collect::<BTreeSet<_>>()
    };
    let seen = names(&line.gateway);
    for name in [
        "queue_depth",
        "queue_wait_seconds_count",
        "queue_tickets_total",
        "queue_wait_ratio_count",
        "service_total",
        "virtual_time_spread",
        "fairness_jain_index",
        "slots_busy",
        "slots_idle_with_backlog_seconds_total",
        "token_reservations_open",
        "token_bucket_drift",
    ] {
        let there = seen.iter().any(|key| key.split('{').next() == Some(name));
        assert!(there, "no {name} among {seen:#?}");
    }
    assert!(!seen.iter().any(|key| key.contains("m7\"")), "a label from a client: {seen:#?}");
    line.order();
}

#[test]
fn no_real_slot_idles_while_a_request_could_run() {
    let engine = Engine::start(Options::tiny().slots(2));
    let config = "[policies.narrow]\nslots = 1\n[tenants.narrow]\npolicy = \"narrow\"";
    let gateway = Gateway::with_config(&engine.url(), config);
    let keys = ["one", "two", "narrow"].map(|tenant| gateway.create_key(tenant));
    let over = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let clients = (0..9_usize).map(|number| {
            let (gateway, over, key) = (&gateway, &over, &keys[number % 3]);
            scope.spawn(move || {
                let mut served = 0;
                while !over.load(Ordering::Relaxed) {
                    let tokens = 20 + number as u32 * 10;
                    let answer = send(gateway, key, &[], &chat_stream(tokens)).answer().unwrap();
                    // Some leave.
                    if number == 5 {
                        continue;
                    }
                    answer.events();
                    served += 1;
                }
                served
            })
        });
        let clients = clients.collect::<Vec<_>>();
        eventually_true("there was a real load", || gateway.metric("llama_gateway_requests_total") >= 100.0);
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<usize>>()
    });
    assert!(served.iter().enumerate().all(|(number, served)| number == 5 || *served > 0), "{served:?}");
    let idle = gateway.metrics()["llama_gateway_slots_idle_with_backlog_seconds_total"];
    assert!(idle == 0.0, "{idle} s");
    assert_eq!(gateway.open(CHAT, &chat_stream(3)).head.status, 200);
    wait_idle(&engine);
}
