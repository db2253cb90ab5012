//! The main job: a chat, streamed or not, metered.

use serde_json::{Value, json};

use crate::harness::engine::{Engine, Options, shared};
use crate::harness::gateway::Gateway;
use crate::harness::{chat, chat_stream, with};

#[test]
fn a_streamed_chat_arrives_with_its_text_and_its_end_and_is_in_the_ledger() {
    let gateway = Gateway::start(&shared().url());
    let answer = gateway.open("/v1/chat/completions", &chat_stream(20));
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.head.header("content-type"), Some("text/event-stream"));
    let id = answer.head.request_id();
    let events = answer.events();
    assert_eq!(events.last().unwrap(), "data: [DONE]");
    assert!(events.len() > 5, "{events:?}");

    let row = gateway.settled_row(&id);
    assert_eq!(row["ending"], "complete");
    assert_eq!(row["counted_by"], "usage");
    assert_eq!(row["tenant"], "acme");
    assert_eq!(row["surface"], "chat");
    assert_eq!(row["completion_tokens"], 20);
    assert!(row["prompt_tokens"].as_u64().unwrap() > 5);
}

#[test]
fn a_chat_that_is_not_streamed_arrives_whole_and_its_row_equals_its_usage() {
    let gateway = Gateway::start(&shared().url());
    let reply = gateway.post("/v1/chat/completions", &chat(20));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.head.header("content-type"), Some("application/json"));
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    let row = gateway.settled_row(&reply.head.request_id());
    assert_eq!(row["prompt_tokens"], body["usage"]["prompt_tokens"]);
    assert_eq!(row["completion_tokens"], body["usage"]["completion_tokens"]);
    assert_eq!(row["cached_tokens"], body["usage"]["prompt_tokens_details"]["cached_tokens"]);
}

/// The events of a stream as JSON.
fn json_events(events: &[String]) -> Vec<Value> {
    let data = events.iter().filter_map(|event| event.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[test]
fn usage_and_timings_that_the_client_did_not_ask_for_are_not_in_its_stream() {
    let gateway = Gateway::start(&shared().url());
    for options in [json!({}), json!({"stream_options": {"include_usage": false}}), json!({"stream_options": null})] {
        let events = json_events(&gateway.open("/v1/chat/completions", &with(chat_stream(5), options)).events());
        assert!(events.iter().all(|event| event.get("usage").is_none()));
        assert!(events.iter().all(|event| event["choices"].as_array().is_some_and(|choices| !choices.is_empty())));
        let with_timings = events.iter().filter(|event| event.get("timings").is_some()).count();
        assert_eq!(with_timings, 1, "llama-server itself puts timings into the last chunk only");
        assert!(events.last().unwrap().get("timings").is_some());
    }
}

#[test]
fn a_client_that_asks_for_usage_gets_exactly_one_usage_chunk_without_choices() {
    let gateway = Gateway::start(&shared().url());
    let body = with(chat_stream(5), json!({"stream_options": {"include_usage": true}}));
    let answer = gateway.open("/v1/chat/completions", &body);
    let id = answer.head.request_id();
    let events = json_events(&answer.events());
    let usages = events.iter().filter(|event| event.get("usage").is_some()).collect::<Vec<_>>();
    assert_eq!(usages.len(), 1);
    assert_eq!(usages[0]["choices"], json!([]));
    let row = gateway.settled_row(&id);
    assert_eq!(row["completion_tokens"], usages[0]["usage"]["completion_tokens"]);
    assert_eq!(row["prompt_tokens"], usages[0]["usage"]["prompt_tokens"]);
}

#[test]
fn the_usage_of_several_choices_is_their_sum() {
    let gateway = Gateway::start(&shared().url());
    let reply = gateway.post("/v1/chat/completions", &with(chat(6), json!({"n": 2})));
    assert_eq!(reply.json()["choices"].as_array().unwrap().len(), 2);
    let row = gateway.settled_row(&reply.head.request_id());
    assert_eq!(row["completion_tokens"], 12, "llama-server's usage counts one choice only");
    let answer = gateway.open("/v1/chat/completions", &with(chat_stream(6), json!({"n": 2})));
    let id = answer.head.request_id();
    answer.events();
    let streamed = gateway.settled_row(&id);
    assert_eq!(streamed["completion_tokens"], 12);
    assert_eq!(streamed["prompt_tokens"], row["prompt_tokens"]);
}

#[test]
fn the_ledger_adds_up_to_what_llama_server_counted() {
    let engine = Engine::start(Options::tiny());
    let gateway = Gateway::start(&engine.url());
    let prompt = "The river runs down to the sea and nobody counts it. ".repeat(3);
    for round in 1..4 {
        gateway.open("/v1/chat/completions", &chat_stream(10 * round)).events();
        gateway.post("/v1/chat/completions", &with(chat(7), json!({"n": 2})));
        gateway.post("/v1/completions", &json!({"prompt": format!("{round} {prompt}"), "max_tokens": 9}));
        gateway.post("/v1/responses", &json!({"input": format!("{round} {prompt}"), "max_output_tokens": 8}));
        let messages = json!([{"role": "user", "content": format!("{round} {prompt}")}]);
        let reply = gateway.post("/v1/messages", &json!({"model": "x", "messages": messages, "max_tokens": 6}));
        gateway.settled_row(&reply.head.request_id());
    }
    let counters = engine.counters();
    let rows = gateway.usage_rows();
    assert_eq!(rows.len(), 15);
    let sum = |field: &str| rows.iter().map(|row| row[field].as_f64().unwrap()).sum::<f64>();
    assert_eq!(counters["llamacpp:tokens_predicted_total"], sum("completion_tokens"));
    // llama-server counts the prompt tokens that it worked through, for each choice; n=2 shares one prompt.
    assert!(counters["llamacpp:prompt_tokens_total"] >= sum("prompt_tokens") - sum("cached_tokens"));
}

#[test]
fn usage_is_printed_by_tenant_and_day() {
    let gateway = Gateway::start(&shared().url());
    let other = gateway.create_key("globex");
    for key in [&gateway.key, &gateway.key, &other] {
        let reply = crate::harness::client::post(gateway.address, "/v1/chat/completions", Some(key), &chat(4));
        gateway.settled_row(&reply.head.request_id());
    }
    let table = gateway.command(&["usage", "--since", "1d"]);
    assert!(table.contains("acme") && table.contains("globex"), "{table}");
    let json = gateway.command(&["usage", "--since", "1d", "--json"]);
    let csv = gateway.command(&["usage", "--csv"]);
    assert!(json.contains("acme") && csv.contains("acme,") | csv.contains(",acme"), "{json}\n{csv}");
}

#[test]
fn several_choices_are_counted_too_where_the_reply_is_passed_through() {
    // Log probabilities cannot be folded exactly, so llama-server's own reply passes, whose usage counts one choice.
    let gateway = Gateway::start(&shared().url());
    let body = with(chat(6), json!({"n": 2, "logprobs": true, "top_logprobs": 1, "temperature": 1.0}));
    let reply = gateway.post("/v1/chat/completions", &body);
    assert_eq!(reply.json()["choices"].as_array().unwrap().len(), 2);
    assert_eq!(gateway.settled_row(&reply.head.request_id())["completion_tokens"], 12);
}
