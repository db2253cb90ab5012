//! The tools tested without the gateway.

use std::time::Duration;

use super::chaos::{Mode, Proxy};
use super::client::{exchange, open, post, request};
use super::engine::{Engine, Options, shared, wait_idle};
use super::stub::{PROMPT_TOKENS, Step, Stub, stream_of};
use super::{chat, chat_stream, eventually_true};

#[test]
fn the_stub_holds_counts_and_sees_a_client_that_leaves() {
    let stub = Stub::start(1);
    stub.plan(vec![Step::Head, Step::Tokens(2), Step::Gate, Step::Tokens(1), Step::Finish, Step::End]);
    let mut answer = open(stub.address(), "/v1/chat/completions", None, &chat_stream(3));
    assert_eq!(answer.next_text(), " t1");
    stub.wait_held(0);
    stub.release(0);
    let events = answer.events();
    assert!(events[3].contains(&format!("\"prompt_tokens\":{PROMPT_TOKENS}")), "{events:?}");
    assert_eq!(events.last().unwrap(), "data: [DONE]");
    stub.wait(0, |recorded| recorded.finished && recorded.tokens == 3);

    let mut answer = open(stub.address(), "/v1/chat/completions", None, &chat_stream(3));
    answer.next_text();
    stub.wait_held(1);
    let left = std::time::Instant::now();
    answer.conn.reset();
    assert!(stub.wait_closed(1) - left < Duration::from_secs(1));
    // The close is seen before the request is taken off the list of those that are busy.
    eventually_true("nothing is busy", || stub.busy() == 0);
    assert_eq!((stub.count(), stub.most_busy()), (2, 1));
    assert_eq!(stub.requests()[1].json()["max_tokens"], 3);
}

#[test]
fn the_proxy_passes_splits_stalls_and_cuts() {
    let stub = Stub::start(1);
    stub.plan(stream_of(2));
    let proxy = Proxy::start(stub.address());
    let address = proxy.url().trim_start_matches("http://").parse().unwrap();
    proxy.set(Mode::OneByte);
    assert_eq!(open(address, "/v1/chat/completions", None, &chat_stream(3)).events().len(), 5);
    proxy.set(Mode::Pass);
    stub.plan(vec![Step::Head, Step::Tokens(1), Step::Silence]);
    let mut answer = open(address, "/v1/chat/completions", None, &chat_stream(3));
    answer.next_text();
    proxy.reset();
    assert!(answer.event().is_err());
    proxy.set(Mode::Refuse);
    let bytes = request("/v1/chat/completions", None, b"{}");
    assert!(exchange(address, &bytes).is_err());
}

#[test]
fn the_engine_answers_hangs_dies_and_comes_back() {
    assert_eq!(post(shared().address(), "/v1/chat/completions", None, &chat(3)).status, 200);
    let mut engine = Engine::start(Options::tiny().slots(2).context(8192));
    let mut answer = open(engine.address(), "/v1/chat/completions", None, &chat_stream(8000));
    answer.next_text();
    engine.hang();
    engine.resume();
    assert_eq!(engine.slots_busy(), 1);
    answer.conn.close();
    wait_idle(&engine);
    assert!(engine.counters()["llamacpp:tokens_predicted_total"] > 0.0);
    assert!(engine.peak_kib() > 1000);
    engine.restart(Options::tiny().slots(1));
    assert_eq!(engine.ask("/tokenize", &serde_json::json!({"content": "a"}))["tokens"].as_array().unwrap().len(), 1);
    engine.kill();
    assert!(!engine.is_alive());
}
