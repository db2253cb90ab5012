//! The ledger against llama-server's own counters.

use serde_json::{Value, json};

use crate::harness::engine::{Engine, Options, wait_idle};
use crate::harness::gateway::{Gateway, is_settled};
use crate::harness::stub::Stub;
use crate::harness::{chat, chat_stream, eventually, eventually_true, with};

const OFTEN: &str = "[audit]\ninterval = \"5s\"\n";

/// The comparisons that `usage audit` shows, and whether it is content.
fn audit(gateway: &Gateway) -> (bool, Vec<Value>) {
    let output = gateway.try_command(&["usage", "audit", "--json"]);
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap())
}

/// Starts a gateway and waits until it has read the counters of all llama-servers once.
fn start(engines: &[&Engine]) -> Gateway {
    let urls: Vec<_> = engines.iter().map(|engine| engine.url()).collect();
    let gateway = Gateway::launch(&urls.iter().map(String::as_str).collect::<Vec<_>>(), OFTEN);
    eventually_true("all counters are known", || audit(&gateway).1.len() == engines.len());
    gateway
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap()
}

/// Waits until all that was sent to llama-servers is settled and compared.
fn audited(gateway: &Gateway) -> (bool, Vec<Value>) {
    eventually("all requests are compared", || {
        let rows = gateway.usage_rows();
        let sent = rows.iter().filter(|row| !row["dispatched"].is_null()).count() as i64;
        let (content, comparisons) = audit(gateway);
        let compared: i64 = comparisons.iter().map(|one| number(&one["requests"])).sum();
        (rows.iter().all(is_settled) && compared == sent).then_some((content, comparisons))
    })
}

/// The drift is within what is allowed. Of the tiny model, which makes thousands of tokens a second, a cut stream has more
/// of them under way where the machine is busy with something else.
fn assert_allowed(content: bool, comparisons: &[Value]) {
    const MORE_OF_A_CUT: i64 = 24;
    for one in comparisons {
        for line in one["tokens"].as_array().unwrap() {
            let more = if line["kind"] == "generated" { MORE_OF_A_CUT * number(&one["cut"]) } else { 0 };
            let (drift, allowed) = (number(&line["drift"]), number(&line["allowed"]));
            assert!((-allowed..=allowed + more).contains(&drift), "{one:#?}");
        }
    }
    assert_eq!(content, comparisons.iter().all(|one| one["agrees"] == true), "{comparisons:#?}");
}

fn embedding() -> Options {
    Options::tiny().args(&["--embeddings", "--pooling", "mean"])
}

/// One request of many kinds; some clients leave.
fn ask(gateway: &Gateway, n: usize) {
    let words = format!("{n} ").repeat(1 + n % 23);
    let text = format!("Tell me about {words}rivers.");
    let messages = json!([{"role": "user", "content": text}]);
    let body = |tokens: u32| json!({"messages": messages, "max_tokens": tokens, "temperature": 0, "seed": n});
    let stream = json!({"stream": true});
    let whole = |path: &str, body: &Value| assert_eq!(gateway.post(path, body).status, 200, "{path}: {body}");
    match n % 12 {
        0 => whole("/v1/chat/completions", &body(9)),
        1 => drop(gateway.open("/v1/chat/completions", &with(body(20), stream)).events()),
        2 => whole("/v1/chat/completions", &with(body(7), json!({"n": 2}))),
        3 => whole("/v1/completions", &json!({"prompt": [text, "Short."], "max_tokens": 6, "n": 2})),
        4 => drop(
            gateway.open("/v1/responses", &json!({"input": text, "max_output_tokens": 8, "stream": true})).events(),
        ),
        5 => whole("/v1/messages", &body(8)),
        6 => drop(gateway.open("/v1/messages", &with(body(11), stream)).events()),
        7 => whole("/v1/embeddings", &json!({"input": [text, "Another one."]})),
        // The prompt is in the cache.
        8 => whole("/v1/chat/completions", &chat(5)),
        9 => assert_eq!(
            gateway.post("/v1/chat/completions", &with(body(5), json!({"grammar": "nonsense ::"}))).status,
            400
        ),
        10 => {
            let mut answer = gateway.stream_chat(&with(body(400), stream));
            (0..n % 31).for_each(|_| drop(answer.next_text()));
        }
        _ => gateway.send_chat(&with(body(300), stream)).close(),
    }
}

fn ask_many(gateway: &Gateway, range: std::ops::Range<usize>) {
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let range = range.clone();
            scope.spawn(move || range.filter(|n| n % 4 == worker).for_each(|n| ask(gateway, n)));
        }
    });
}

#[test]
fn the_ledger_agrees_with_two_llama_servers_over_hundreds_of_mixed_requests_and_a_restart() {
    let (one, mut other) = (Engine::start(embedding()), Engine::start(embedding()));
    let gateway = start(&[&one, &other]);
    ask_many(&gateway, 0..180);
    let (_, before) = audited(&gateway);
    let options = other.options();
    other.restart(options);
    eventually_true("the counters of the new process are known", || {
        audit(&gateway).1.iter().any(|one| number(&one["restarts"]) == 1)
    });
    ask_many(&gateway, 180..360);
    let (content, after) = audited(&gateway);
    println!("before the restart: {before:#?}\nafter it: {after:#?}");
    assert_allowed(content, &after);
    assert_eq!(after.len(), 2);
    let restarts =
        |address: String| after.iter().find(|one| one["upstream"] == address).map(|one| number(&one["restarts"]));
    assert_eq!(restarts(one.address().to_string()), Some(0));
    assert_eq!(restarts(other.address().to_string()), Some(1));
    for line in after.iter().flat_map(|one| one["tokens"].as_array().unwrap()) {
        // Something was there to be compared, and what is allowed for is not all there is.
        assert!(number(&line["engine"]) > 500 && number(&line["allowed"]) < number(&line["engine"]), "{line}");
    }
    let agree = after.iter().filter(|one| one["agrees"] == true).count() as f64;
    eventually_true("the metrics say so", || gateway.metric("llama_gateway_accounting_agrees") == agree);

    // One that is gone stays in the comparison, as far as it came.
    other.kill();
    for n in 0..12 {
        gateway.post("/v1/chat/completions", &chat(n + 1));
    }
    let (content, comparisons) = audited(&gateway);
    assert_allowed(content, &comparisons);
    assert_eq!(comparisons.len(), 2, "{comparisons:#?}");
}

#[test]
fn without_cut_streams_the_numbers_are_equal_to_the_token() {
    let engine = Engine::start(embedding());
    let gateway = start(&[&engine]);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let gateway = &gateway;
            scope.spawn(move || (0..120).filter(|n| n % 3 == worker && n % 12 < 10).for_each(|n| ask(gateway, n)));
        }
    });
    let (content, comparisons) = audited(&gateway);
    assert!(content);
    for line in comparisons[0]["tokens"].as_array().unwrap() {
        assert_eq!(number(&line["drift"]), 0, "{comparisons:#?}");
        assert!(number(&line["engine"]) > 100, "{line}");
    }
    assert_eq!(number(&comparisons[0]["cut"]), 0);
}

#[test]
fn a_request_that_bypasses_the_gateway_is_found() {
    let engine = Engine::start(Options::tiny());
    let gateway = start(&[&engine]);
    gateway.post("/v1/chat/completions", &chat(20));
    assert!(audited(&gateway).0);
    engine.ask("/v1/chat/completions", &chat(40));
    eventually_true("the audit finds it", || !audit(&gateway).0);
    let (_, comparisons) = audit(&gateway);
    let generated = &comparisons[0]["tokens"][2];
    assert_eq!((&generated["kind"], number(&generated["drift"])), (&"generated".into(), 40), "{comparisons:#?}");
    assert_eq!(comparisons[0]["agrees"], false);

    let output = gateway.try_command(&["usage", "audit"]);
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(out.contains("DIFFERS") && error.contains("does not agree"), "{out}{error}");
    eventually_true("the log tells it", || gateway.log().contains("does not agree with llama-server's counters"));
    let metrics = gateway.metrics();
    let drift = metrics
        .iter()
        .find(|(key, _)| key.starts_with("llama_gateway_accounting_drift_tokens") && key.contains("generated"));
    assert_eq!((drift.unwrap().1, gateway.metric("llama_gateway_accounting_agrees")), (&40.0, 0.0));
}

#[test]
fn streams_that_are_cut_and_a_gateway_that_is_killed_stay_within_what_is_allowed() {
    let engine = Engine::start(Options::speaking());
    let mut gateway = start(&[&engine]);
    let long = with(chat_stream(400), json!({"ignore_eos": true}));
    for n in 0..6 {
        let mut answer = gateway.stream_chat(&long);
        (0..5 * n).for_each(|_| drop(answer.next_text()));
        drop(answer);
        wait_idle(&engine);
    }
    let mut answer = gateway.stream_chat(&long);
    (0..20).for_each(|_| drop(answer.next_text()));
    gateway.restart();
    wait_idle(&engine);
    gateway.post("/v1/chat/completions", &chat(3));
    let (content, comparisons) = audited(&gateway);
    println!("{comparisons:#?}");
    assert!(content, "{comparisons:#?}");
    assert_eq!(number(&comparisons[0]["cut"]), 7);
}

#[test]
fn a_llama_server_that_tells_no_counters_is_spoken_of_once_and_nothing_is_claimed() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), OFTEN);
    eventually_true("it is said", || gateway.log().contains("its usage cannot be audited"));
    gateway.post("/v1/chat/completions", &chat(3));
    eventually_true("it is asked again", || {
        stub.other_heads().iter().filter(|head| head.starts_with("GET /metrics")).count() >= 3
    });
    assert_eq!(gateway.log().matches("its usage cannot be audited").count(), 1);
    assert_eq!(audit(&gateway), (true, Vec::new()));
    assert!(gateway.command(&["usage", "audit"]).contains("--metrics"));
    assert_eq!(gateway.metric("llama_gateway_accounting_agrees"), 0.0);
}
