//! How a request ended, where that is easily mistaken for something else.

use serde_json::json;

use crate::harness::client::exchange;
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Step, Stub, stream_of};
use crate::harness::{chat, chat_stream, eventually_true};

const PATH: &str = "/v1/chat/completions";

fn held() -> Vec<Step> {
    vec![Step::Head, Step::Tokens(2), Step::Gate, Step::Tokens(1), Step::Finish, Step::End]
}

#[test]
fn streams_that_a_second_signal_cuts_off_are_drained_not_left() {
    let stub = Stub::start(2);
    let gateway = Gateway::start(&stub.url());
    stub.plan(held());
    let reading = gateway.stream_chat(&chat_stream(9));
    let mut whole = gateway.conn();
    whole.send(&gateway.request(PATH, &chat(9))).unwrap();
    stub.wait_held(1);
    gateway.term();
    eventually_true("readiness goes off", || gateway.ready_status() == 503);
    gateway.term();
    assert_eq!(gateway.wait_exit().code(), Some(0));
    let rows = gateway.usage_rows();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!((&row["ending"], &row["completion_tokens"]), (&json!("drained"), &json!(2)), "{row}");
    }
    drop((reading, whole));
}

#[test]
fn a_request_that_the_end_of_the_drain_meets_before_its_answer_is_told_to_come_back() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[server]\ndrain_grace = \"300ms\"");
    stub.plan(vec![Step::Gate]);
    let mut asked = gateway.conn();
    asked.send(&gateway.request(PATH, &chat(9))).unwrap();
    stub.wait_held(0);
    let mut waiting = gateway.conn();
    waiting.send(&gateway.request(PATH, &chat_stream(9))).unwrap();
    eventually_true("one request waits", || gateway.metric("llama_gateway_queue_depth") == 1.0);
    gateway.term();
    for client in [asked, waiting] {
        let reply = client.answer().unwrap().reply().unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (503, "draining"));
        // Five seconds, or up to a quarter more.
        assert!(matches!(reply.head.header("retry-after"), Some("5" | "6" | "7")));
    }
    assert_eq!(gateway.wait_exit().code(), Some(0));
    let rows = gateway.usage_rows();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!((&row["ending"], &row["status"]), (&json!("drained"), &json!(503)), "{row}");
    }
}

#[test]
fn what_fails_after_an_early_200_is_recorded_with_what_its_client_was_given() {
    let stub = Stub::start(1);
    let toml = "[timeouts]\nearly_open = \"20ms\"\nfirst_token = \"400ms\"\nfirst_token_per_1000 = \"0s\"";
    let gateway = Gateway::with_config(&stub.url(), toml);
    stub.plan(vec![Step::Gate]);
    let answer = gateway.open(PATH, &chat_stream(9));
    assert_eq!(answer.head.status, 200);
    let id = answer.head.request_id();
    assert!(answer.events().last().unwrap().contains("first_token_timeout"));
    let row = gateway.settled_row(&id);
    assert_eq!((&row["ending"], &row["status"]), (&json!("first_token_timeout"), &json!(200)));
    // The same without a stream: then the client is given the failure.
    let reply = gateway.post(PATH, &chat(9));
    assert_eq!(reply.status, 504);
    assert_eq!(gateway.settled_row(&reply.head.request_id())["status"], 504);
}

#[test]
fn a_stream_that_never_pauses_ends_with_the_total_clock_too() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[timeouts]\ntotal = \"300ms\"");
    stub.plan(stream_of(5_000_000));
    let mut answer = gateway.open(PATH, &chat_stream(9));
    let id = answer.head.request_id();
    let mut last = String::new();
    while let Some(event) = answer.event().unwrap() {
        last = event;
    }
    assert!(last.contains("\"total_timeout\""), "{last}");
    let row = gateway.settled_row(&id);
    assert_eq!((&row["ending"], &row["status"]), (&json!("total_timeout"), &json!(200)));
}

#[test]
fn a_client_that_leaves_before_the_first_token_has_its_prompt_counted() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let opening = "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\
                   \"content\":null}}],\"object\":\"chat.completion.chunk\",\"timings\":{\"cache_n\":2,\"prompt_n\":5,\
                   \"prompt_ms\":1.5,\"predicted_n\":0,\"predicted_ms\":1.5}}\n\n";
    stub.plan(vec![Step::Head, Step::Bytes(opening.into()), Step::Gate]);
    let mut answer = gateway.open(PATH, &chat_stream(9));
    let id = answer.head.request_id();
    answer.event().unwrap();
    drop(answer);
    let row = gateway.settled_row(&id);
    assert_eq!((&row["ending"], &row["status"]), (&json!("client_left"), &json!(200)));
    assert_eq!((&row["prompt_tokens"], &row["completion_tokens"]), (&json!(7), &json!(0)), "{row}");
}

#[test]
fn refusals_are_counted_once_and_name_the_request() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let reply = gateway.post(PATH, &json!({}));
    assert_eq!(reply.status, 400);
    assert_eq!(gateway.metric("llama_gateway_requests_total"), 1.0);
    assert_eq!(gateway.metric("llama_gateway_refused_total"), 1.0);

    let unread = gateway.get("/v1/models/%ff");
    assert_eq!((unread.status, unread.code().as_str()), (404, "model_not_found"));

    let smuggled = "POST /v1/messages HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n";
    let refused = exchange(gateway.address, smuggled.as_bytes()).unwrap().reply().unwrap();
    assert_eq!(refused.status, 400);
    assert!(refused.head.request_id().starts_with("req_"));
    assert_eq!(refused.json()["request_id"], refused.head.request_id());
    assert_eq!(gateway.metric("llama_gateway_framing_refused_total"), 1.0);
}
