//! Limits: exact under any number of clients at once, and to the token after any mix of endings.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::client::{Answer, Head, Reply};
use crate::harness::crowd::{CHAT, Storm, post, send, storm};
use crate::harness::engine::{Engine, Options, shared, wait_idle};
use crate::harness::gateway::{Gateway, is_settled};
use crate::harness::stub::{PROMPT_TOKENS, Step, Stub, stream_of};
use crate::harness::{chat, chat_stream, eventually, eventually_true, with};

/// A 200 goes out soon although the request waits or is held.
const EARLY: &str = "[timeouts]\nearly_open = \"20ms\"\n";

fn held() -> Vec<Step> {
    vec![Step::Head, Step::Gate, Step::Tokens(3), Step::Finish, Step::End]
}

fn started(policy: &str) -> (Stub, Gateway) {
    let stub = Stub::start(64);
    let gateway = Gateway::with_config(&stub.url(), &format!("[policies.default]\n{policy}\n{EARLY}"));
    stub.plan(held());
    (stub, gateway)
}

fn number(head: &Head, name: &str) -> u64 {
    let value = head.header(name).unwrap_or_else(|| panic!("no {name} in {head:?}"));
    value.parse().unwrap_or_else(|_| panic!("{name}: {value}"))
}

fn remaining_tokens(head: &Head) -> u64 {
    number(head, "x-ratelimit-remaining-tokens")
}

fn remaining_requests(head: &Head) -> u64 {
    number(head, "x-ratelimit-remaining-requests")
}

/// Every refusal says when to come back, within what clients wait for, or that there is no use in it.
fn assert_says_when(reply: &Reply) {
    let hopeless = reply.head.header("x-should-retry") == Some("false");
    let after = reply.head.header("retry-after").map(|after| after.parse::<f64>().unwrap());
    assert!(hopeless || after.is_some_and(|after| (0.0..=60.0).contains(&after)), "{reply:?}");
}

/// Of 200 requests at once, ten pass a limit of ten. `per_second`: how many of them come back meanwhile.
fn ten_of_200(gateway: &Gateway, body: &Value, code: &str, per_second: f64) -> Storm {
    let mut storm = storm(gateway, &gateway.key, body, 200);
    let come_back = (storm.took.as_secs_f64() * per_second) as usize;
    let passed = storm.passed.len();
    assert!(passed >= 10 && passed <= 10 + come_back, "{passed} of 200 in {:?}", storm.took);
    for reply in &storm.refused {
        assert_eq!((reply.status, reply.code().as_str()), (429, code), "{reply:?}");
        assert_says_when(reply);
    }
    // The limit is this tenant's alone.
    let other = gateway.create_key("other");
    let other = send(gateway, &other, &[], body).answer().unwrap();
    assert_eq!(other.head.status, 200);
    storm.passed.push(other);
    storm
}

/// Opens every gate, those that are still to be reached as well, and reads all answers to their ends.
fn finish(stub: &Stub, answers: Vec<Answer>) {
    let readers = answers.into_iter().map(|answer| std::thread::spawn(move || answer.events())).collect::<Vec<_>>();
    eventually_true("all answers end", || {
        (0..stub.count()).for_each(|index| stub.release(index));
        readers.iter().all(std::thread::JoinHandle::is_finished)
    });
    for reader in readers {
        assert_eq!(reader.join().unwrap().last().unwrap(), "data: [DONE]");
    }
    stub.plan(stream_of(3));
}

#[test]
fn of_200_requests_at_once_ten_pass_a_limit_of_ten_requests_a_minute() {
    let (stub, gateway) = started("requests_per_minute = 10");
    let storm = ten_of_200(&gateway, &chat_stream(3), "rate_limit_exceeded", 10.0 / 60.0);
    finish(&stub, storm.passed);
    // What has ended does not come back before its time.
    assert!(storm.took > Duration::from_secs(4) || gateway.post(CHAT, &chat(3)).status == 429);
}

#[test]
fn of_200_requests_at_once_ten_pass_a_limit_of_the_tokens_of_ten_a_minute() {
    let (stub, gateway) = started("tokens_per_minute = 2000");
    let probe = gateway.create_key("probe");
    let answer = send(&gateway, &probe, &[], &chat_stream(100)).answer().unwrap();
    let prompt = 2000 - 100 - remaining_tokens(&answer.head);
    // Each needs a tenth of the limit.
    let output = u32::try_from(200 - prompt).unwrap();
    let mut storm = ten_of_200(&gateway, &chat_stream(output), "rate_limit_exceeded", 10.0 / 60.0);
    storm.passed.push(answer);
    finish(&stub, storm.passed);
    assert!(storm.refused.iter().all(|reply| reply.openai_error()["type"] == "tokens"));
    // They used less than was reserved for them, and the rest is back at once.
    eventually_true("what was not used is back", || gateway.post(CHAT, &chat(output)).status == 200);
}

#[test]
fn of_200_requests_at_once_ten_pass_a_limit_of_ten_concurrent_requests() {
    let (stub, gateway) = started("concurrent_requests = 10");
    let storm = ten_of_200(&gateway, &chat_stream(3), "rate_limit_exceeded", 0.0);
    finish(&stub, storm.passed);
    eventually_true("the places are free again", || gateway.post(CHAT, &chat(3)).status == 200);
}

#[test]
fn of_200_requests_at_once_ten_wait_where_ten_may_wait() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), &format!("[policies.default]\nqueued_requests = 10\n{EARLY}"));
    stub.plan_next(held());
    let first = gateway.open(CHAT, &chat_stream(3));
    stub.wait_held(0);
    let mut storm = ten_of_200(&gateway, &chat_stream(3), "queue_full", 0.0);
    storm.passed.push(first);
    finish(&stub, storm.passed);
}

#[test]
fn a_key_has_its_own_limits_below_those_of_its_tenant() {
    let stub = Stub::start(4);
    let config = "[policies.tight]\nrequests_per_minute = 2\n[policies.wide]\nrequests_per_minute = 5\n\
                  [tenants.acme]\npolicy = \"wide\"\nkey_policy = \"tight\"";
    let gateway = Gateway::with_config(&stub.url(), config);
    let keys = [gateway.key.clone(), gateway.create_key("acme"), gateway.create_key("acme")];
    let ask = |key: &str| post(&gateway, key, &[], &chat(3)).status;
    assert_eq!([ask(&keys[0]), ask(&keys[0]), ask(&keys[0]), ask(&keys[0])], [200, 200, 429, 429]);
    // What the key's limit refused took nothing from the tenant.
    assert_eq!([ask(&keys[1]), ask(&keys[1]), ask(&keys[1])], [200, 200, 429]);
    assert_eq!([ask(&keys[2]), ask(&keys[2])], [200, 429]);
}

#[test]
fn a_small_cap_under_one_name_is_no_way_around_with_a_large_one_under_another() {
    let stub = Stub::start(4);
    let gateway = Gateway::with_config(&stub.url(), "[policies.default]\ntokens_per_minute = 1000");
    let engine = Gateway::start(&shared().url());
    for caps in [
        json!({"max_tokens": 2, "max_completion_tokens": 900}),
        json!({"max_tokens": 900, "max_completion_tokens": 2}),
        json!({"max_tokens": 900, "max_completion_tokens": 2, "n_predict": 700}),
    ] {
        let body = with(chat(2), caps);
        assert_eq!(gateway.post(CHAT, &body).status, 200, "{body}");
        let recorded = stub.requests().pop().unwrap().json();
        let names = ["max_tokens", "max_completion_tokens", "n_predict"];
        let asked = names.into_iter().filter_map(|name| recorded[name].as_u64()).collect::<Vec<_>>();
        assert_eq!(asked, [2], "{recorded}");
        assert_eq!(engine.post(CHAT, &body).json()["usage"]["completion_tokens"], 2, "{body}");
    }
}

#[test]
fn to_call_itself_a_retry_is_no_way_around_a_limit() {
    let (stub, gateway) = started("requests_per_minute = 30\nconcurrent_requests = 1");
    let retry = [("x-stainless-retry-count", "1")];
    let first = send(&gateway, &gateway.key, &[], &chat(3));
    stub.wait_held(0);
    // One may be read, since it might be to replace the first; no second one.
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", gateway.key);
    let mut half = gateway.conn();
    half.send(format!("{head}x-stainless-retry-count: 1\r\ncontent-length: 9\r\n\r\n{{").as_bytes()).unwrap();
    // It is in before others ask: one of them would have the only guest's place otherwise.
    eventually_true("the half request is let in", || remaining_requests(&gateway.get("/v1/models").head) == 28);
    let refused_by = |what: &str| {
        eventually(what, || {
            let reply = post(&gateway, &gateway.key, &retry, &json!({}));
            assert!(matches!(reply.status, 400 | 429), "{reply:?}");
            reply.text().contains(what).then_some(reply)
        })
    };
    assert_says_when(&refused_by("1 requests at once"));
    half.close();
    // Those that are invalid count.
    assert_says_when(&refused_by("30 requests a minute"));
    finish(&stub, vec![]);
    assert_eq!(first.answer().unwrap().reply().unwrap().status, 200);
}

#[test]
fn what_one_limit_refuses_gives_back_what_the_others_had_taken() {
    let (stub, gateway) =
        started("requests_per_minute = 2\nconcurrent_requests = 2\ntokens_per_minute = 500\nqueued_requests = 2");
    let first = gateway.open(CHAT, &chat_stream(250));
    assert_eq!((first.head.status, remaining_requests(&first.head)), (200, 1));
    let left = remaining_tokens(&first.head);
    assert!(left < 250, "{left}");
    for _ in 0..5 {
        let refused = gateway.post(CHAT, &chat(250));
        assert_eq!((refused.status, refused.openai_error()["type"].as_str()), (429, Some("tokens")));
        assert_eq!(remaining_requests(&refused.head), 1, "{refused:?}");
        assert_says_when(&refused);
    }
    // Neither a request nor a place is gone.
    let second = gateway.open(CHAT, &chat_stream(3));
    assert_eq!((second.head.status, remaining_requests(&second.head)), (200, 0));
    finish(&stub, vec![first, second]);
}

#[test]
fn a_refusal_by_the_queue_gives_back_everything() {
    let stub = Stub::start(1);
    let policy = "requests_per_minute = 10\nconcurrent_requests = 3\ntokens_per_minute = 5000\nqueued_requests = 1";
    let gateway = Gateway::with_config(&stub.url(), &format!("[policies.default]\n{policy}\n{EARLY}"));
    stub.plan(held());
    let first = gateway.open(CHAT, &chat_stream(50));
    let second = gateway.open(CHAT, &chat_stream(50));
    assert_eq!((first.head.status, second.head.status), (200, 200));
    let before = (remaining_requests(&second.head), remaining_tokens(&second.head));
    for _ in 0..5 {
        let refused = gateway.post(CHAT, &chat(50));
        assert_eq!(refused.code(), "queue_full");
        let after = (remaining_requests(&refused.head), remaining_tokens(&refused.head));
        assert!(after.0 >= before.0 && after.1 >= before.1, "{before:?}, {after:?}");
    }
    finish(&stub, vec![first, second]);
}

#[test]
fn the_quota_of_a_day_survives_kill_9() {
    let stub = Stub::start(4);
    let mut gateway = Gateway::with_config(
        &stub.url(),
        "[policies.default]\ntokens_per_day = 42\n[ledger]\nprogress_interval = \"20ms\"\n\
         [upstream]\nprobe_interval = \"100ms\"",
    );
    for _ in 0..2 {
        assert_eq!(gateway.post(CHAT, &chat(3)).status, 200);
    }
    stub.plan_next(vec![Step::Head, Step::Tokens(5), Step::Gate]);
    let live = gateway.stream_chat(&chat_stream(9));
    let interrupted = live.head.request_id();
    eventually_true("its progress is written ahead", || gateway.row(&interrupted)["completion_tokens"] == 5);
    gateway.restart();
    assert_eq!(gateway.row(&interrupted)["ending"], "interrupted");
    // Two times 10 before, and 12 of the one that was interrupted: 10 are left.
    assert_eq!(42 - 2 * (PROMPT_TOKENS + 3) - (PROMPT_TOKENS + 5), PROMPT_TOKENS + 3);
    assert_eq!(gateway.post(CHAT, &chat(3)).status, 200);
    for _ in 0..2 {
        let refused = gateway.post(CHAT, &chat(3));
        assert_eq!((refused.status, refused.code().as_str()), (429, "insufficient_quota"), "{refused:?}");
        assert_eq!(refused.openai_error()["type"], "insufficient_quota");
        assert_eq!(refused.head.header("x-should-retry"), Some("false"), "{refused:?}");
        gateway.restart();
    }
    assert_eq!(stub.count(), 4);
    let other = gateway.create_key("other");
    assert_eq!(post(&gateway, &other, &[], &chat(3)).status, 200);
}

#[test]
fn a_debt_survives_kill_9_with_what_was_running() {
    let stub = Stub::start(4);
    let mut gateway = Gateway::with_config(
        &stub.url(),
        "[policies.default]\ntokens_per_day = 140\ntokens_per_minute = 10\n[ledger]\nprogress_interval = \"50ms\"\n\
         [upstream]\nprobe_interval = \"100ms\"",
    );
    stub.plan_next(vec![Step::Head, Step::Tokens(150), Step::Gate]);
    let running = gateway.stream_chat(&chat_stream(2000));
    eventually_true("its progress is in the ledger", || {
        gateway.row(&running.head.request_id())["completion_tokens"] == 150
    });
    gateway.restart();
    let used = 150.0 + PROMPT_TOKENS as f64;
    assert_eq!(gateway.metric("llama_gateway_quota_used_tokens"), used);
    let level = gateway.metric("llama_gateway_token_bucket_level");
    assert!((10.0 - used..0.0).contains(&level), "{level}");
    assert_eq!(gateway.metric("llama_gateway_token_bucket_drift"), 0.0);
    let refused = gateway.post(CHAT, &chat(9));
    assert_eq!((refused.status, refused.code().as_str()), (429, "insufficient_quota"));
    assert_eq!(refused.head.header("retry-after"), None);
}

#[test]
fn an_answer_longer_than_expected_leaves_a_debt_that_delays_the_next_request() {
    let stub = Stub::start(4);
    let gateway = Gateway::with_config(&stub.url(), "[policies.default]\ntokens_per_minute = 6000");
    // 100 tokens a second come back. The answer uses all there are and 100 more.
    stub.plan_next(stream_of(6100 - PROMPT_TOKENS));
    let start = Instant::now();
    gateway.open(CHAT, &chat_stream(20_000)).events();
    let ended = Instant::now();
    let refused = gateway.post(CHAT, &chat(50));
    assert_eq!((refused.status, refused.openai_error()["type"].as_str()), (429, Some("tokens")), "{refused:?}");
    assert_says_when(&refused);
    let after: f64 = refused.head.header("retry-after").unwrap().parse().unwrap();
    let reply = eventually("the debt is paid", || {
        let reply = gateway.post(CHAT, &chat(50));
        (reply.status == 200).then_some(reply)
    });
    // 50 output tokens and the prompt are needed, and the debt was 100 but for what came back while the answer ran.
    let debt = 100.0 - 100.0 * (ended - start).as_secs_f64();
    let least = (debt + 50.0) / 100.0;
    let waited = ended.elapsed().as_secs_f64();
    assert!(waited >= least && waited < least + 5.0, "{waited} s for {least} s; {reply:?}");
    assert!(after >= least.floor(), "told {after} s for {least} s");
}

/// One series of a tenant.
fn series(metrics: &BTreeMap<String, f64>, name: &str, tenant: &str) -> f64 {
    let label = format!("tenant=\"{tenant}\"");
    let found =
        metrics.iter().find(|(key, _)| key.starts_with(&format!("llama_gateway_{name}{{")) && key.contains(&label));
    *found.unwrap_or_else(|| panic!("no {name} of {tenant} in {metrics:#?}")).1
}

/// A tenant's bucket, by the metrics, is what its capacity, its time and its ledger make of it: to the token.
fn assert_bucket_is_its_ledger(gateway: &Gateway, tenant: &str, capacity: f64) {
    let (level, due) = eventually("the bucket agrees with the ledger", || {
        let rows = gateway.usage_rows();
        let metrics = gateway.metrics();
        let tokens = |row: &Value| row["prompt_tokens"].as_f64().unwrap() + row["completion_tokens"].as_f64().unwrap();
        let ledger = rows.iter().filter(|row| row["tenant"] == tenant).map(tokens).sum::<f64>();
        let [level, refilled, settled, open] =
            ["token_bucket_level", "token_bucket_refilled", "token_bucket_settled", "token_reservations_open"]
                .map(|name| series(&metrics, name, tenant));
        (rows.iter().all(is_settled) && settled == ledger && open == 0.0)
            .then_some((level, capacity + refilled - ledger))
    });
    assert!((level - due).abs() < 1e-6, "{tenant}: level {level}, by its ledger {due}");
}

#[test]
fn after_any_mix_of_endings_a_bucket_is_capacity_and_refill_less_its_ledger() {
    let mut engine = Engine::start(Options::tiny().slots(2));
    let config = "[policies.default]\ntokens_per_minute = 100000\nmax_queue_wait = \"400ms\"\nqueued_requests = 6\n\
                  [timeouts]\nearly_open = \"50ms\"\n[upstream]\nprobe_interval = \"100ms\"\n\
                  [requests.extra_fields]\nchat = []";
    let gateway = Gateway::with_config(&engine.url(), config);
    let keys = ["acme", "beta"].map(|tenant| gateway.create_key(tenant));
    for round in 0..3_usize {
        std::thread::scope(|scope| {
            for number in 0..24_usize {
                let (gateway, key) = (&gateway, &keys[number % 2]);
                scope.spawn(move || one_ending(gateway, key, number));
            }
            if round == 1 {
                eventually_true("requests run", || gateway.metric("llama_gateway_slots_busy") > 0.0);
                let options = engine.options();
                engine.kill();
                engine.restart(options);
            }
        });
        gateway.wait_ready();
        for tenant in ["acme", "beta"] {
            assert_bucket_is_its_ledger(&gateway, tenant, 100_000.0);
        }
    }
    let endings =
        gateway.usage_rows().iter().map(|row| row["ending"].to_string()).collect::<std::collections::BTreeSet<_>>();
    assert!(endings.len() >= 3, "too few kinds of ending to tell: {endings:?}");
    wait_idle(&engine);
}

/// A request that ends in one way or another.
fn one_ending(gateway: &Gateway, key: &str, number: usize) {
    let nothing: &[(&str, &str)] = &[];
    match number % 6 {
        // It is read to its end, whatever that is.
        0 => drop(send(gateway, key, nothing, &chat_stream(60)).answer().map(Answer::reply)),
        1 => drop(send(gateway, key, nothing, &chat(60)).answer().map(Answer::reply)),
        // It is longer than its reservation.
        2 => drop(
            send(gateway, key, nothing, &with(chat_stream(600), json!({"ignore_eos": true})))
                .answer()
                .map(Answer::reply),
        ),
        // It is left after its head, or before.
        3 => drop(send(gateway, key, nothing, &chat_stream(2000)).answer()),
        4 => send(gateway, key, nothing, &chat_stream(2000)).reset(),
        // It is refused by llama-server.
        _ => {
            let broken = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}});
            drop(
                send(gateway, key, nothing, &with(chat(20), json!({"response_format": broken})))
                    .answer()
                    .map(Answer::reply),
            );
        }
    }
}

#[test]
fn after_every_timeout_a_bucket_is_capacity_and_refill_less_its_ledger() {
    let started = |config: &str, tokens: u64| {
        let stub = Stub::start(1);
        let gateway =
            Gateway::with_config(&stub.url(), &format!("[policies.default]\ntokens_per_minute = 1000\n{config}"));
        stub.plan(vec![Step::Head, Step::Tokens(tokens), Step::Gate, Step::Finish, Step::End]);
        (stub, gateway)
    };
    let first_token = "first_token = \"300ms\"\nfirst_token_per_1000 = \"0s\"";
    for (clock, tokens, code) in [
        (first_token, 0, "first_token_timeout"),
        ("silence = \"300ms\"", 5, "stream_idle_timeout"),
        ("total = \"300ms\"", 5, "total_timeout"),
    ] {
        let (_stub, gateway) = started(&format!("[timeouts]\n{clock}"), tokens);
        let ended = gateway.post(CHAT, &chat(9));
        assert_eq!((ended.status, ended.code().as_str()), (504, code), "{ended:?}");
        assert_eq!(gateway.settled_row(&ended.head.request_id())["completion_tokens"], tokens);
        assert_bucket_is_its_ledger(&gateway, "acme", 1000.0);
    }
    let (stub, gateway) = started("max_queue_wait = \"100ms\"", 5);
    let held = send(&gateway, &gateway.key, &[], &chat(9));
    stub.wait_held(0);
    let waited = gateway.post(CHAT, &chat(9));
    assert_eq!((waited.status, waited.code().as_str()), (503, "queue_timeout"), "{waited:?}");
    stub.release(0);
    assert_eq!(held.answer().unwrap().reply().unwrap().status, 200);
    assert_bucket_is_its_ledger(&gateway, "acme", 1000.0);
}

#[test]
fn rate_limit_headers_are_on_every_answer() {
    let stub = Stub::start(1);
    let policy = "[policies.default]\nrequests_per_minute = 6\ntokens_per_minute = 6000";
    let gateway = Gateway::with_config(&stub.url(), policy);
    let check = |head: &Head, status: u16| {
        assert_eq!(head.status, status);
        assert_eq!(number(head, "x-ratelimit-limit-requests"), 6);
        assert_eq!(number(head, "x-ratelimit-limit-tokens"), 6000);
        for name in ["x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"] {
            let value = head.header(name).unwrap_or_else(|| panic!("no {name}"));
            assert!(value.ends_with('s') && value.starts_with(|first: char| first.is_ascii_digit()), "{name}: {value}");
        }
        (remaining_requests(head), remaining_tokens(head))
    };
    let whole = gateway.post(CHAT, &chat(3));
    let (requests, tokens) = check(&whole.head, 200);
    assert_eq!(requests, 5);
    assert!((5000..6000).contains(&tokens), "{tokens}");
    let stream = gateway.open(CHAT, &chat_stream(3));
    assert_eq!(check(&stream.head, 200).0, 4);
    stream.events();
    check(&gateway.post(CHAT, &with(chat(3), json!({"max_tokens": "few"}))).head, 400);
    check(&gateway.post("/v1/nothing", &json!({})).head, 404);
    check(&gateway.get("/v1/models").head, 200);
    let refused = eventually("the limit is reached", || {
        let reply = gateway.post(CHAT, &chat(3));
        (reply.status != 200).then_some(reply)
    });
    assert_eq!(check(&refused.head, 429).0, 0);
    assert_says_when(&refused);
    // Whoever has no key has no limits that could be told.
    let stranger = crate::harness::client::post(gateway.address, CHAT, None, &chat(3));
    assert_eq!((stranger.status, stranger.head.header("x-ratelimit-limit-requests")), (401, None));
}

#[test]
fn a_wait_that_would_be_too_long_is_refused_at_once_with_the_time_to_come_back() {
    let engine = Engine::start(Options::speaking().slots(1));
    let gateway = Gateway::start(&engine.url());
    let long = with(chat_stream(60), json!({"ignore_eos": true}));
    // The gateway learns how fast this server is.
    (0..2).for_each(|_| drop(gateway.open(CHAT, &long).reply().unwrap()));
    // One request each of five tenants: one runs, and four wait before any other tenant.
    let keys = (0..7).map(|number| gateway.create_key(&format!("tenant-{number}"))).collect::<Vec<_>>();
    let ahead = keys[..5].iter().map(|key| send(&gateway, key, &[], &long)).collect::<Vec<_>>();
    gateway.wait_depth(4);
    let asked = Instant::now();
    let refused = post(&gateway, &keys[5], &[("x-request-timeout", "0.5")], &long);
    assert!(asked.elapsed() < Duration::from_millis(400), "refused only after {:?}", asked.elapsed());
    assert_eq!((refused.status, refused.code().as_str()), (429, "wait_too_long"), "{refused:?}");
    assert_says_when(&refused);
    let after: f64 = refused.head.header("retry-after").expect("Retry-After").parse().unwrap();
    // A patient one waits as long as it takes.
    let mut patient = send(&gateway, &keys[6], &[], &long).answer().unwrap();
    patient.next_text();
    let waited = asked.elapsed().as_secs_f64();
    eprintln!("to come back after {after} s; the wait was {waited:.1} s");
    assert!(after >= waited / 4.0 && after <= waited * 2.0 + 1.0, "{after} s told, {waited} s waited");
    drop((ahead, patient));
    wait_idle(&engine);
}
