//! Prompts are counted before they are let in: exactly, by llama-server, and bounded where it does not answer. And
//! prompts of tenants with a private cache share none.

use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::chat;
use crate::harness::client::{Reply, post};
use crate::harness::engine::{Engine, Options, shared, wait_idle};
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Counting, PROMPT_TOKENS, Step, Stub};
use crate::harness::with;

/// Makes the counts appear in the log.
const TELLING: &str = "[log]\nformat = \"json\"\nlevel = \"gateway=debug\"";
const TEXT: &str = "Überall 🦊 und 漢字, \"quoted\" \\ and\n\ttabs. <|im_start|> is special, <|im_nothing|> is not.";

/// Tokens of the last prompt as they were counted before it was let in, and how.
fn last_count(gateway: &Gateway) -> (u64, String) {
    let log = gateway.log();
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.into_iter().find(|line| line["message"] == "prompt counted").unwrap();
    (line["tokens"].as_u64().unwrap(), line["by"].as_str().unwrap().to_owned())
}

/// Asks the gateway and checks that the count before admission is that of the ledger in the end.
fn ask_counted(gateway: &Gateway, path: &str, body: &Value) {
    let reply = gateway.post(path, body);
    assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    let row = gateway.settled_row(&reply.head.request_id());
    let (tokens, by) = last_count(gateway);
    assert_eq!(by, "exact", "{body}");
    assert_eq!(row["prompt_tokens"], tokens, "{path} {body}: {row}");
}

fn user(content: impl Into<Value>) -> Value {
    json!({"role": "user", "content": content.into()})
}

fn assistant(content: impl Into<Value>) -> Value {
    json!({"role": "assistant", "content": content.into()})
}

fn weather(description: &str) -> Value {
    json!({"type": "function", "function": {"name": "weather", "description": description,
           "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}})
}

fn chats() -> Vec<Value> {
    let called = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
                        "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}}]});
    let parts = json!([{"type": "text", "text": "one"}, {"type": "text", "text": TEXT}]);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    let (tool, answer) = (weather(TEXT), json!({"role": "tool", "tool_call_id": "1", "content": "rain"}));
    vec![
        json!({"messages": [user("hi")]}),
        json!({"messages": [user(TEXT)], "stream": false, "n": 2}),
        json!({"messages": [{"role": "system", "content": TEXT}, user("a"), assistant("b"), user(parts)]}),
        json!({"messages": [user("a")], "tools": [tool]}),
        json!({"messages": [user("a"), called, answer], "tools": [tool], "tool_choice": "none"}),
        json!({"messages": [user("a")], "response_format": {"type": "json_object"}}),
        json!({"messages": [user("a")],
               "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}),
        json!({"messages": [user("a"), assistant("Once upon")]}),
        json!({"messages": [user("a")], "chat_template_kwargs": {"enable_thinking": false}}),
    ]
}

fn completions() -> Vec<Value> {
    let prompts = [
        json!("Once upon a time"),
        json!(TEXT),
        json!(["one", TEXT, "  three"]),
        json!([5, 6, 7]),
        json!([[5, 6], [7]]),
        json!(["a", 5, "b"]),
        json!([5, "b"]),
        json!([["a", 5], "c", [6, "d"]]),
    ];
    prompts.into_iter().map(|prompt| json!({"prompt": prompt})).collect()
}

fn responses() -> Vec<Value> {
    let items = json!([user("a"), {"type": "message", "role": "assistant",
                       "content": [{"type": "output_text", "text": "b"}]},
                       user(json!([{"type": "input_text", "text": TEXT}]))]);
    let tool = json!({"type": "function", "name": "weather", "description": TEXT, "parameters": {"type": "object"}});
    vec![
        json!({"input": TEXT}),
        json!({"input": items, "instructions": TEXT}),
        json!({"input": "a", "tools": [tool], "reasoning": {"effort": "low"}}),
    ]
}

fn messages() -> Vec<Value> {
    let tool = json!({"name": "weather", "description": TEXT, "input_schema": {"type": "object"}});
    let call = json!([{"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Oslo"}}]);
    let answer = json!([{"type": "tool_result", "tool_use_id": "1", "content": "rain"}]);
    // An answer that begins with half a character has no `message_start` at llama-server, and so no count to compare
    // with: the last words ask for none.
    vec![
        json!({"messages": [user("a")]}),
        json!({"messages": [user(TEXT), assistant(TEXT), user("Tell me about rivers.")]}),
        json!({"messages": [user("a"), assistant(call), user(answer)], "system": TEXT, "tools": [tool]}),
        json!({"messages": [user("a"), assistant("b"), user("c")], "system": [{"type": "text", "text": TEXT}]}),
    ]
}

/// All surfaces that generate.
fn ask_all_counted(gateway: &Gateway) {
    let all = [
        ("/v1/chat/completions", chats()),
        ("/v1/completions", completions()),
        ("/v1/responses", responses()),
        ("/v1/messages", messages()),
    ];
    for (path, bodies) in all {
        for body in bodies {
            let cap = if path == "/v1/responses" { "max_output_tokens" } else { "max_tokens" };
            ask_counted(gateway, path, &with(body, json!({cap: 3, "temperature": 0})));
        }
    }
}

#[test]
fn prompts_are_counted_as_they_will_be_billed() {
    ask_all_counted(&Gateway::with_config(&shared().url(), TELLING));
}

#[test]
fn prompts_of_a_model_whose_texts_begin_with_a_token_and_whose_template_shows_tools_are_counted_as_well() {
    let begins = ["--override-kv", "tokenizer.ggml.add_bos_token=bool:true"];
    let engine = Engine::start(Options::tiny().tools().args(&begins));
    let opened = post(engine.address(), "/tokenize", None, &json!({"content": "", "add_special": true})).json();
    assert_eq!(opened["tokens"].as_array().unwrap().len(), 1, "the engine does what this test is about");
    ask_all_counted(&Gateway::with_config(&engine.url(), TELLING));
}

#[test]
fn prompts_of_a_model_that_speaks_are_counted_as_well() {
    let engine = Engine::start(Options::speaking().slots(4));
    ask_all_counted(&Gateway::with_config(&engine.url(), TELLING));
}

#[test]
fn a_message_whose_stream_does_not_tell_its_prompt_is_billed_for_the_one_that_was_counted() {
    let engine = Engine::start(Options::speaking());
    let gateway = Gateway::with_config(&engine.url(), "");
    // The model says it after its user: a character of three tokens comes first.
    let said =
        json!({"messages": [user("日本語"), assistant("ok"), user("日本語")], "max_tokens": 6, "temperature": 0});
    let prompt = engine.ask("/v1/messages/count_tokens", &said)["input_tokens"].as_u64().unwrap();
    let answer = gateway.open("/v1/messages", &with(said.clone(), json!({"stream": true})));
    let id = answer.head.request_id();
    let events = answer.events().concat();
    assert!(!events.contains("message_start") && events.contains("日"), "the engine does what this test is about");
    let reply = gateway.post("/v1/messages", &said);
    assert_eq!(reply.json()["usage"]["input_tokens"], prompt);
    for id in [id, reply.head.request_id()] {
        let row = gateway.settled_row(&id);
        assert_eq!((&row["prompt_tokens"], &row["counted_by"]), (&json!(prompt), &json!("admission")), "{row}");
        assert_eq!((&row["completion_tokens"], &row["ending"]), (&json!(6), &json!("complete")), "{row}");
    }
    // Where it was only estimated, nothing is made up.
    let stub = Stub::start(1);
    stub.set_counting(Counting::Missing);
    let end = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}"#;
    let delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}"#;
    let text = format!("event: content_block_delta\ndata: {delta}\n\nevent: message_delta\ndata: {end}\n\n")
        + "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    stub.plan(vec![Step::Head, Step::Bytes(text.into_bytes()), Step::End]);
    let gateway = Gateway::start(&stub.url());
    let reply = gateway.post("/v1/messages", &said);
    let row = gateway.settled_row(&reply.head.request_id());
    assert_eq!((&row["prompt_tokens"], &row["counted_by"]), (&json!(0), &json!("events")), "{row}");
}

#[test]
fn texts_to_embed_are_counted_and_documents_to_rank_estimated() {
    let engine = Engine::start(Options::tiny().args(&["--embeddings", "--pooling", "mean"]));
    let gateway = Gateway::with_config(&engine.url(), TELLING);
    for input in [json!(TEXT), json!(["one", TEXT]), json!([5, 6]), json!([[5], [6, 7]]), json!(["a", 5])] {
        ask_counted(&gateway, "/v1/embeddings", &json!({"input": input}));
    }
    let engine = Engine::start(Options::tiny().args(&["--rerank"]));
    let gateway = Gateway::with_config(&engine.url(), TELLING);
    let documents = ["a river runs through the town", "stones are grey", "the sea is wide"];
    let reply = gateway.post("/v1/rerank", &json!({"query": "a river in the town", "documents": documents}));
    let used = reply.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    let (tokens, by) = last_count(&gateway);
    assert_eq!(by, "estimate");
    assert!(tokens >= used && tokens < 3 * used, "{tokens} {used}");
}

#[test]
fn a_count_is_asked_for_once() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), TELLING);
    let other = gateway.create_key("other");
    for (key, asked, expected) in [(&gateway.key, 1, "exact"), (&gateway.key, 1, "cached"), (&other, 2, "exact")] {
        assert_eq!(post(gateway.address, "/v1/chat/completions", Some(key), &chat(3)).status, 200);
        assert_eq!((stub.counted(), last_count(&gateway)), (asked, (PROMPT_TOKENS, expected.to_owned())));
    }
    let counts = |by: &str| gateway.metrics()[&format!("llama_gateway_prompt_counts_total{{by=\"{by}\"}}")];
    assert_eq!((counts("exact"), counts("cached")), (2.0, 1.0));
    assert_eq!(gateway.metric("llama_gateway_prompt_count_seconds_count"), 2.0);
}

#[test]
fn a_prompt_that_just_does_not_fit_is_refused_before_it_queues_and_one_that_just_fits_is_not() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    stub.set_counting(Counting::Tokens(2047));
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    stub.set_counting(Counting::Tokens(2048));
    let surfaces = [
        ("/v1/chat/completions", "messages", chat(4)),
        ("/v1/responses", "input", json!({"input": "hi"})),
        ("/v1/messages", "messages", chat(5)),
    ];
    for (path, field, body) in surfaces {
        let reply = gateway.post(path, &body);
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, stub.count()), (400, 1), "{path}: {error}");
        assert!(error["message"].as_str().unwrap().contains("2048"), "{error}");
        if path == "/v1/messages" {
            assert_eq!(error["type"], "invalid_request_error");
        } else {
            assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!(field)));
        }
    }
    assert_eq!(gateway.usage_rows().len(), 1, "what never had a place has no row");
}

/// The same request, straight to llama-server and through the gateway.
fn ask_both(engine: &Engine, gateway: &Gateway, path: &str, body: &Value) -> (Reply, Reply) {
    (post(engine.address(), path, None, body), gateway.post(path, body))
}

#[test]
fn the_limit_of_the_context_is_llama_servers_own() {
    let engine = Engine::start(Options::tiny().slots(1).context(256));
    let gateway = Gateway::start(&engine.url());
    for (tokens, status) in [(255, 200), (256, 400), (257, 400)] {
        let body = json!({"prompt": vec![5; tokens], "max_tokens": 1});
        let (own, ours) = ask_both(&engine, &gateway, "/v1/completions", &body);
        assert_eq!((own.status, ours.status), (status, status), "{tokens}");
        if status == 400 {
            assert_eq!(own.json()["error"]["type"], "exceed_context_size_error");
            assert_eq!(
                (ours.code().as_str(), &ours.openai_error()["param"]),
                ("context_length_exceeded", &json!("prompt"))
            );
        }
    }
}

#[test]
fn what_llama_server_refuses_while_it_counts_is_refused_as_it_would_be_later() {
    let gateway = Gateway::with_config(&shared().url(), TELLING);
    let image = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]);
    let faults = [
        json!({"messages": "hi"}),
        json!({"messages": [{"role": "user"}]}),
        json!({"messages": [{"role": 5, "content": "a"}]}),
        json!({"messages": [user("a"), assistant("b"), assistant("c")]}),
        json!({"messages": [user(json!([{"type": "nothing"}]))]}),
        json!({"messages": [user(image)]}),
        json!({"messages": [user("a")], "tools": [{"type": "nothing"}]}),
        json!({"messages": [user("a")], "response_format": {"type": "xml"}}),
        json!({"messages": [user("a")], "top_logprobs": 3}),
        json!({"messages": [user("a")],
               "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}}),
    ];
    for body in faults {
        let (own, ours) = ask_both(shared(), &gateway, "/v1/chat/completions", &body);
        assert!(own.status >= 400 && ours.status == 400, "{body}: {}", own.text());
        let (own, ours) = (own.json()["error"]["message"].clone(), ours.openai_error()["message"].clone());
        let words = |text: &Value| text.as_str().unwrap().split_whitespace().take(4).collect::<Vec<_>>().join(" ");
        assert_eq!(words(&own), words(&ours), "{own} {ours}");
    }
    assert_eq!(gateway.usage_rows().len(), 0, "none of them queued");
}

#[test]
fn where_the_count_is_missing_the_size_must_do_and_refuses_nobody() {
    let stub = Stub::start(1);
    stub.set_counting(Counting::Missing);
    let gateway = Gateway::with_config(&stub.url(), TELLING);
    let long = json!({"messages": [user("river ".repeat(6000))], "max_tokens": 3});
    assert_eq!(gateway.post("/v1/chat/completions", &long).status, 200);
    assert_eq!(last_count(&gateway), (2048, "estimate".to_owned()), "no more than the context holds");
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    assert_eq!(stub.counted(), 1, "it is left alone for a while");
    assert_eq!(gateway.metric("llama_gateway_prompt_counts_total"), 2.0);
}

#[test]
fn an_endpoint_that_does_not_answer_delays_one_request_and_not_the_next_ones() {
    let stub = Stub::start(1);
    stub.set_counting(Counting::Silent);
    let gateway = Gateway::start(&stub.url());
    for delayed in [true, false, false] {
        let began = Instant::now();
        assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
        assert_eq!(began.elapsed().as_secs_f64() > 1.0, delayed);
    }
    assert_eq!(stub.counted(), 1);
    // Another endpoint is another matter.
    gateway.post("/v1/responses", &json!({"input": "hi"}));
    assert_eq!(stub.counted(), 2);
}

const PRIVATE: &str = "[policies.private]\nprivate_cache = true\n[tenants.alone]\npolicy = \"private\"";

/// Prompt tokens that a chat was spared by the cache.
fn cached(gateway: &Gateway, key: &str, path: &str, body: &Value, pointer: &str) -> u64 {
    let reply = post(gateway.address, path, Some(key), body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json().pointer(pointer).unwrap().as_u64().unwrap()
}

#[test]
fn a_tenant_with_a_private_cache_and_its_neighbours_never_meet_in_the_cache() {
    let surfaces = [
        ("/v1/chat/completions", "/usage/prompt_tokens_details/cached_tokens"),
        ("/v1/completions", "/usage/prompt_tokens_details/cached_tokens"),
        ("/v1/responses", "/usage/input_tokens_details/cached_tokens"),
    ];
    for (path, pointer) in surfaces {
        let text = "The river runs through the old town to the sea. ".repeat(40);
        let body = match path {
            "/v1/completions" => json!({"prompt": text, "max_tokens": 3}),
            "/v1/responses" => json!({"input": text, "max_output_tokens": 3}),
            _ => json!({"messages": [user(text)], "max_tokens": 3}),
        };
        let engine = Engine::start(Options::tiny());
        let gateway = Gateway::with_config(&engine.url(), PRIVATE);
        let (alone, neighbour) = (gateway.create_key("alone"), gateway.key.clone());
        let ask = |key: &str| {
            // llama-server picks among idle slots the one whose prompt is most like this one.
            wait_idle(&engine);
            cached(&gateway, key, path, &body, pointer)
        };
        assert_eq!(ask(&neighbour), 0, "{path}: nothing was there");
        assert!(ask(&neighbour) > 100, "{path}: the cache works");
        assert_eq!(ask(&alone), 0, "{path}: the private one sees what the neighbour left");
        assert_eq!(ask(&neighbour), 0, "{path}: the neighbour sees what the private one left");
        assert_eq!(ask(&alone), 0, "{path}");
        assert_eq!(ask(&neighbour), 0, "{path}");
    }
}

#[test]
fn messages_of_a_tenant_with_a_private_cache_are_refused_since_they_cannot_avoid_it() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), PRIVATE);
    let alone = gateway.create_key("alone");
    let reply = post(gateway.address, "/v1/messages", Some(&alone), &chat(3));
    assert_eq!((reply.status, stub.count()), (501, 0), "{}", reply.text());
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("/v1/chat/completions"));
}
