//! SIGTERM: what runs finishes, nothing new begins, and the ledger is whole.

use serde_json::json;

use crate::harness::client::{self, exchange};
use crate::harness::engine::{Engine, Options};
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Step, Stub};
use crate::harness::{chat, chat_stream, eventually_true, with};

fn held() -> Vec<Step> {
    vec![Step::Head, Step::Tokens(2), Step::Gate, Step::Tokens(1), Step::Finish, Step::End]
}

#[test]
fn streams_that_run_at_sigterm_finish_and_new_work_is_refused() {
    let stub = Stub::start(2);
    let gateway = Gateway::start(&stub.url());
    stub.plan(held());
    let answer = gateway.stream_chat(&chat_stream(9));
    let id = answer.head.request_id();
    stub.wait_held(0);
    gateway.term();
    eventually_true("readiness goes off", || gateway.ready_status() == 503);

    // Until the last balancer knows, requests still arrive: they are told to come back, not hung up on.
    let answer_of_new = exchange(gateway.address, &gateway.request("/v1/chat/completions", &chat(3)));
    let refused = answer_of_new.expect("a fresh connection is taken").reply().unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "draining"));
    assert!(refused.head.header("retry-after").is_some());
    assert!(!gateway.has_exited());
    stub.release(0);
    assert_eq!(answer.events().last().unwrap(), "data: [DONE]");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert_eq!(stub.count(), 1);
    let row = gateway.row(&id);
    assert_eq!((&row["ending"], &row["completion_tokens"]), (&json!("complete"), &json!(3)));
}

#[test]
fn an_idle_gateway_ends_at_once_although_clients_keep_connections() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let mut idle = gateway.conn();
    idle.send(format!("GET /v1/models HTTP/1.1\r\nHost: t\r\nx-api-key: {}\r\n\r\n", gateway.key).as_bytes()).unwrap();
    assert_eq!(idle.read_head().unwrap().status, 200);
    let silent = gateway.conn();
    let start = std::time::Instant::now();
    gateway.term();
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!(start.elapsed().as_secs() < 10, "took {:?}", start.elapsed());
    drop((idle, silent));
}

#[test]
fn a_stream_that_outlasts_the_grace_period_ends_with_an_error_event_and_a_row() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[server]\ndrain_grace = \"300ms\"");
    stub.plan(held());
    let mut answer = gateway.stream_chat(&chat_stream(9));
    let id = answer.head.request_id();
    stub.wait_held(0);
    gateway.term();
    let mut last = String::new();
    while let Some(event) = answer.event().expect("the stream ends properly") {
        last = event;
    }
    assert!(last.contains("\"draining\""), "{last}");
    stub.wait_closed(0);
    assert_eq!(gateway.wait_exit().code(), Some(0));
    let row = gateway.row(&id);
    assert_eq!((&row["ending"], &row["completion_tokens"]), (&json!("drained"), &json!(2)));
}

#[test]
fn requests_that_wait_at_sigterm_are_refused_or_served_but_not_forgotten() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[server]\ndrain_grace = \"20s\"");
    stub.plan_next(held());
    let first = gateway.stream_chat(&chat_stream(9));
    let mut waiting = gateway.conn();
    waiting.send(&gateway.request("/v1/chat/completions", &chat(3))).unwrap();
    eventually_true("one request waits", || gateway.metric("llama_gateway_queue_depth") == 1.0);
    gateway.term();
    eventually_true("readiness goes off", || gateway.ready_status() == 503);
    stub.wait_held(0);
    stub.release(0);
    first.events();
    let reply = waiting.answer().unwrap().reply().unwrap();
    assert!([200, 503].contains(&reply.status), "{reply:?}");
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    stub.plan(held());
    let answer = gateway.stream_chat(&chat_stream(9));
    gateway.term();
    eventually_true("readiness goes off", || gateway.ready_status() == 503);
    gateway.term();
    let start = std::time::Instant::now();
    gateway.wait_exit();
    assert!(start.elapsed().as_secs() < 5);
    drop(answer);
}

#[test]
fn streams_of_a_real_llama_server_finish_after_sigterm() {
    let engine = Engine::start(Options::speaking());
    let gateway = Gateway::start(&engine.url());
    let answers = std::thread::scope(|scope| {
        let streams = (0..2).map(|_| {
            scope.spawn(|| {
                let answer = gateway.stream_chat(&with(chat_stream(100), json!({"ignore_eos": true})));
                (answer.head.request_id(), answer)
            })
        });
        let streams = streams.collect::<Vec<_>>();
        streams.into_iter().map(|stream| stream.join().unwrap()).collect::<Vec<_>>()
    });
    gateway.term();
    for (id, answer) in answers {
        assert_eq!(answer.events().last().unwrap(), "data: [DONE]");
        assert_eq!(gateway.settled_row(&id)["completion_tokens"], 100);
    }
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!(client::get(gateway.admin, "/livez").is_err());
}
