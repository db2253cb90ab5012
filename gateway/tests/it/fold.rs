//! Through the gateway a client sees what llama-server itself would have sent for the same request.
//!
//! Ids and times aside: each answer is compared with the answer of the same server to the same body, asked directly.

use std::sync::{LazyLock, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::harness::client::{Answer, open};
use crate::harness::engine::{Engine, Options};
use crate::harness::gateway::Gateway;
use crate::harness::with;

/// A grammar makes the random model say what a comparison needs; clients may send none unless the operator says so.
const GRAMMAR: &str = "[requests.extra_fields]\nchat = [\"grammar\"]";

/// One server for all comparisons, one comparison at a time: a batch of another size rounds differently.
fn engine() -> MutexGuard<'static, Engine> {
    static ENGINE: LazyLock<Mutex<Engine>> = LazyLock::new(|| {
        Mutex::new(Engine::start(Options::tiny().slots(2).tools().args(&["--no-cache-prompt", "--cache-ram", "0"])))
    });
    ENGINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

const VARYING: [&str; 6] = ["id", "created", "created_at", "completed_at", "item_id", "call_id"];

/// `value` without what differs between two runs: ids and times.
fn settled(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let members = map.iter().map(|(key, value)| {
                let time = key.ends_with("_ms") || key.ends_with("_per_second");
                let varies = time || VARYING.contains(&key.as_str());
                (key.clone(), if varies { json!("varies") } else { settled(value) })
            });
            Value::Object(members.collect())
        }
        Value::Array(values) => values.iter().map(settled).collect(),
        other => other.clone(),
    }
}

/// An event with its JSON, if it has some, without ids and times.
fn settled_event(event: &str) -> (String, Value) {
    let (before, data) = event.split_once("data: ").unwrap_or((event, ""));
    (before.to_owned(), serde_json::from_str(data).map_or_else(|_| json!(data), |data| settled(&data)))
}

fn tool() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "description": "The weather of a city", "parameters":
        {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}}}])
}

fn chat_bodies() -> Vec<(&'static str, Value)> {
    let chat = |fields: Value| {
        let messages = json!([{"role": "user", "content": "Tell me about rivers."}]);
        with(json!({"messages": messages, "max_tokens": 24, "temperature": 0, "seed": 7}), fields)
    };
    let called = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<tool_call>\n"}]);
    let spoken = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "</think>\nWell"}]);
    let calm = json!({"enable_thinking": false});
    let schema = json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"],
        "additionalProperties": false});
    vec![
        ("plain text after thoughts", chat(json!({"messages": spoken}))),
        ("reasoning content", chat(json!({}))),
        ("reasoning left in the text", chat(json!({"reasoning_format": "none"}))),
        ("sampled with a seed", chat(json!({"temperature": 1.5, "seed": 42}))),
        ("two choices", chat(json!({"n": 2, "temperature": 1.0}))),
        ("logprobs", chat(json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 6}))),
        ("two choices with logprobs", chat(json!({"n": 2, "temperature": 1.0, "logprobs": true, "max_tokens": 4}))),
        (
            "one function call",
            chat(json!({"messages": called, "tools": tool(), "tool_choice": "required",
            "parallel_tool_calls": false, "max_tokens": 60})),
        ),
        (
            "several function calls",
            chat(json!({"messages": called, "tools": tool(), "tool_choice": "required",
            "parallel_tool_calls": true, "max_tokens": 100})),
        ),
        ("functions that are not called", chat(json!({"tools": tool()}))),
        (
            "a JSON schema",
            chat(json!({"max_tokens": 60, "chat_template_kwargs": calm, "response_format":
            {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}})),
        ),
        (
            "JSON of any shape",
            chat(json!({"response_format": {"type": "json_object"}, "max_tokens": 60, "chat_template_kwargs": calm})),
        ),
        ("a grammar", chat(json!({"grammar": "root ::= \"yes\" | \"no\"", "chat_template_kwargs": calm}))),
        ("thoughts, then text", chat(json!({"grammar": "root ::= \"a thought</think>\\nan answer\""}))),
        (
            "text that needs escapes",
            chat(json!({"chat_template_kwargs": calm,
            "grammar": "root ::= \"大🦙é\\n\\t\\\"quoted\\\" \\\\ </script>\""})),
        ),
        ("a stop sequence", chat(json!({"stop": ["e"], "max_tokens": 100, "chat_template_kwargs": calm}))),
        (
            "a stop sequence that is long",
            chat(json!({"stop": ["answer here"], "chat_template_kwargs": calm,
            "grammar": "root ::= \"an answer, an answer here and more\""})),
        ),
        (
            "logprobs of text",
            chat(json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 5,
            "chat_template_kwargs": calm})),
        ),
        ("one token", chat(json!({"max_tokens": 1}))),
        ("usage asked for", chat(json!({"stream_options": {"include_usage": true}}))),
        ("timings asked for", chat(json!({"timings_per_token": true}))),
        (
            "usage and timings asked for",
            chat(json!({"timings_per_token": true,
            "stream_options": {"include_usage": true}})),
        ),
        ("text that is no ASCII", chat(json!({"messages": [{"role": "user", "content": "Größe – 大 🦙"}]}))),
    ]
}

fn other_bodies() -> Vec<(&'static str, &'static str, Value)> {
    let messages = json!([{"role": "user", "content": "Tell me about rivers."}]);
    let called = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<tool_call>\n"}]);
    let called_response = json!([{"role": "user", "content": "hi"}, {"type": "message", "role": "assistant",
        "content": [{"type": "output_text", "text": "<tool_call>\n"}]}]);
    let tool_of_messages = json!([{"name": "weather", "description": "x", "input_schema":
        {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}}]);
    let tool_of_responses = json!([{"type": "function", "name": "weather", "description": "x", "parameters":
        {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}}]);
    let completion = |fields: Value| with(json!({"prompt": "The river", "max_tokens": 20, "temperature": 0}), fields);
    let response = |fields: Value| with(json!({"input": "hi", "max_output_tokens": 20, "temperature": 0}), fields);
    let message =
        |fields: Value| with(json!({"model": "x", "messages": messages, "max_tokens": 20, "temperature": 0}), fields);
    vec![
        ("/v1/completions", "plain", completion(json!({}))),
        ("/v1/completions", "logprobs", completion(json!({"logprobs": 3, "max_tokens": 5}))),
        ("/v1/completions", "stopped", completion(json!({"stop": ["e"], "max_tokens": 100}))),
        ("/v1/completions", "two choices", completion(json!({"n": 2, "temperature": 1.0, "seed": 3}))),
        ("/v1/completions", "two prompts", completion(json!({"prompt": ["The river", "The sea and"]}))),
        ("/v1/completions", "usage asked for", completion(json!({"stream_options": {"include_usage": true}}))),
        ("/v1/completions", "timings asked for", completion(json!({"timings_per_token": true}))),
        ("/v1/completions", "tokens as a prompt", completion(json!({"prompt": [5, 6, 7]}))),
        ("/v1/responses", "reasoning", response(json!({}))),
        (
            "/v1/responses",
            "text",
            response(json!({"input": [{"role": "user", "content": "hi"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "</think>\nWell"}]}]})),
        ),
        ("/v1/responses", "instructions", response(json!({"instructions": "Be brief."}))),
        (
            "/v1/responses",
            "a function call",
            response(json!({"input": called_response, "tools": tool_of_responses,
            "tool_choice": "required", "max_output_tokens": 80})),
        ),
        ("/v1/responses", "timings asked for", response(json!({"timings_per_token": true}))),
        ("/v1/messages", "thinking", message(json!({}))),
        (
            "/v1/messages",
            "text",
            message(json!({"messages": [{"role": "user", "content": "hi"},
            {"role": "assistant", "content": "</think>\nWell"}]})),
        ),
        ("/v1/messages", "system and stop", message(json!({"system": "Be brief.", "stop_sequences": ["e"]}))),
        (
            "/v1/messages",
            "a function call",
            message(json!({"messages": called, "tools": tool_of_messages,
            "tool_choice": {"type": "any"}, "max_tokens": 80})),
        ),
    ]
}

fn all_bodies() -> Vec<(&'static str, &'static str, Value)> {
    let chats = chat_bodies().into_iter().map(|(name, body)| ("/v1/chat/completions", name, body));
    chats.chain(other_bodies()).collect()
}

fn directly(engine: &Engine, path: &str, body: &Value) -> Answer {
    open(engine.address(), path, None, body)
}

#[test]
fn folded_replies_equal_llama_servers_own_field_by_field() {
    let engine = engine();
    let gateway = Gateway::with_config(&engine.url(), GRAMMAR);
    let mut wrong = Vec::new();
    for (path, name, body) in all_bodies() {
        let direct = directly(&engine, path, &body).reply().unwrap();
        let ours = gateway.post(path, &body);
        assert_eq!(direct.status, 200, "{path} {name}: llama-server says {}", direct.text());
        let expected = settled(&with_whole_usage(&body, direct.json()));
        if ours.status != 200 || settled(&ours.json()) != expected {
            wrong.push(format!("{path}, {name}:\n  llama-server {}\n  gateway      {}", direct.text(), ours.text()));
        }
    }
    assert!(wrong.is_empty(), "{} replies differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// llama-server's usage counts the first of several sequences only, the gateway's all of them. Where two were asked
/// for, each ran to the same limit.
fn with_whole_usage(body: &Value, mut reply: Value) -> Value {
    let prompts = body["prompt"].as_array().filter(|prompts| prompts[0].is_string());
    if body["n"] == 2 || prompts.is_some() {
        let usage = &mut reply["usage"];
        let (prompt, completion) = (&usage["prompt_tokens"], &usage["completion_tokens"]);
        // The second prompt has a token more.
        let prompt = prompt.as_u64().unwrap() * if prompts.is_some() { 2 } else { 1 } + u64::from(prompts.is_some());
        let completion = completion.as_u64().unwrap() * 2;
        usage["prompt_tokens"] = json!(prompt);
        usage["completion_tokens"] = json!(completion);
        usage["total_tokens"] = json!(prompt + completion);
    }
    reply
}

#[test]
fn streams_equal_llama_servers_own_event_by_event() {
    let engine = engine();
    let gateway = Gateway::with_config(&engine.url(), GRAMMAR);
    let mut wrong = Vec::new();
    for (path, name, body) in all_bodies() {
        let body = with(body, json!({"stream": true}));
        let direct = directly(&engine, path, &body);
        let refused = direct.head.status != 200;
        if refused {
            // llama-server refuses some features in streams; then the gateway does, too.
            assert_eq!(gateway.post(path, &body).status, direct.head.status, "{path} {name}");
            continue;
        }
        let direct = direct.events();
        let ours = gateway.open(path, &body);
        let ours = if ours.head.status == 200 { ours.events() } else { vec![ours.reply().unwrap().text()] };
        let (mut left, mut right) = (settle(&direct, &body), settle(&ours, &body));
        if body.get("n").is_some() || body["prompt"].is_array() {
            // Several sequences are interleaved as they come.
            left.sort();
            right.sort();
        }
        if left != right {
            let at =
                left.iter().zip(&right).position(|(left, right)| left != right).unwrap_or(left.len().min(right.len()));
            wrong.push(format!(
                "{path}, {name}: {} and {} events, the first that differs is {at}:\n  llama-server {:?}\n  gateway      {:?}",
                left.len(), right.len(), left.get(at), right.get(at)
            ));
        }
    }
    assert!(wrong.is_empty(), "{} streams differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Events without ids and times. Of the last piece of text before a stop sequence, llama-server tells the timings
/// unasked; to do the same, the gateway would have to know the future or hold the piece back.
fn settle(events: &[String], body: &Value) -> Vec<String> {
    let stops = body.get("stop").is_some();
    let settled = events.iter().map(|event| settled_event(event)).map(|(before, mut data)| {
        if stops && data["choices"][0]["finish_reason"].is_null() {
            data.as_object_mut().map(|data| data.remove("timings"));
        }
        format!("{before}{data}")
    });
    settled.collect()
}

#[test]
fn errors_of_llama_server_keep_their_meaning_streamed_or_not() {
    let engine = engine();
    let gateway = Gateway::start(&engine.url());
    let messages = json!([{"role": "user", "content": "hi"}]);
    for (path, body) in [
        ("/v1/chat/completions", json!({"messages": messages, "json_schema": {"type": "nonsense"}, "max_tokens": 3})),
        ("/v1/completions", json!({"prompt": "a", "json_schema": {"type": "nonsense"}, "max_tokens": 3})),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url":
            {"url": "data:image/png;base64,AAAA"}}]}], "max_tokens": 3}),
        ),
    ] {
        for stream in [false, true] {
            let reply = gateway.post(path, &with(body.clone(), json!({"stream": stream})));
            assert_eq!(reply.status, 400, "{body}: {}", reply.text());
            assert_eq!(reply.openai_error()["type"], "invalid_request_error");
        }
    }
}
