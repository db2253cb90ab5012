//! Single requests that would stop or bloat llama-server, or hide what they cost.

use serde_json::{Value, json};

use crate::harness::client::{Answer, Conn, request};
use crate::harness::engine::{Engine, Options, wait_idle};
use crate::harness::gateway::Gateway;
use crate::harness::stub::Stub;
use crate::harness::{chat, chat_stream, with};

/// The paths that generate, each with a body that is answered.
fn surfaces() -> [(&'static str, Value); 4] {
    let messages = json!([{"role": "user", "content": "hi"}]);
    [
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 2})),
        ("/v1/completions", json!({"prompt": "hi", "max_tokens": 2})),
        ("/v1/responses", json!({"input": "hi", "max_output_tokens": 2})),
        ("/v1/messages", json!({"model": "x", "messages": messages, "max_tokens": 2})),
    ]
}

fn dangerous_fields() -> Vec<Value> {
    let deep = (0..200).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}));
    let biases = (0..100_000).map(|token| json!([token, -1])).collect::<Vec<_>>();
    let words = (0..50_000).map(|n| format!("w{n}")).collect::<Vec<_>>();
    vec![
        json!({"grammar": "root ::= \"a\"", "grammar_lazy": true, "grammar_triggers": [{"type": 99, "value": "a"}]}),
        json!({"grammar_lazy": true}),
        json!({"grammar_triggers": [{"type": 99}]}),
        json!({"preserved_tokens": ["a"], "chat_format": 99, "chat_parser": "x", "generation_prompt": "x"}),
        json!({"dry_penalty_last_n": 2_147_483_647, "dry_multiplier": 1.0}),
        json!({"repeat_last_n": 2_147_483_647, "repeat_penalty": 1.1}),
        json!({"dry_penalty_last_n": 1 << 27}),
        json!({"repeat_last_n": -1, "dry_penalty_last_n": -1}),
        json!({"dry_sequence_breakers": words, "dry_multiplier": 1.0}),
        json!({"n_probs": 1_000_000}),
        json!({"logprobs": true, "top_logprobs": 100_000}),
        json!({"logprobs": 100_000}),
        json!({"id_slot": 0}),
        json!({"id_slot": -7}),
        json!({"lora": [{"id": 0, "scale": 9.0}]}),
        json!({"verbose": true}),
        json!({"response_fields": ["content"]}),
        json!({"sse_ping_interval": 1}),
        json!({"n": 1_000_000}),
        json!({"n": -1}),
        json!({"n_cmpl": 1000}),
        json!({"logit_bias": biases}),
        json!({"stop": words}),
        json!({"stop": ["x".repeat(1 << 20)]}),
        json!({"samplers": words}),
        json!({"min_keep": 2_147_483_647, "n_keep": -5, "n_discard": 2_147_483_647}),
        json!({"grammar": "root ::= ".to_owned() + &"(\"a\" | ".repeat(20_000)}),
        json!({"grammar": "root ::= \"a\"{1,1000000000}"}),
        json!({"json_schema": deep.clone()}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"schema": deep}}}),
        json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"pattern": "(((a+)+)+)+$"}}}]}),
        json!({"temperature": -1e300, "top_k": i64::MIN, "seed": u64::MAX}),
        json!({"mirostat": 99, "mirostat_tau": 1e300, "typical_p": -1, "xtc_probability": 1e300}),
        json!({"top_k": "many", "stream": "yes"}),
        json!({"speculative.n_max": 2_147_483_647, "t_max_predict_ms": -9}),
        json!({"chat_template_kwargs": {"x": "y".repeat(1 << 20)}}),
        json!({"max_tokens": "all", "max_output_tokens": -5, "n_predict": 1.5}),
    ]
}

#[test]
fn no_dangerous_field_stops_llama_server_or_moves_its_memory() {
    let mut engine = Engine::start(Options::tiny().slots(2));
    let gateway = Gateway::start(&engine.url());
    // Its working set first: every surface, a full context, and logprobs as wide as they are allowed to be.
    for (path, body) in surfaces() {
        assert_eq!(gateway.post(path, &body).status, 200);
    }
    gateway.post("/v1/chat/completions", &with(chat(3000), json!({"n": 2, "logprobs": true, "top_logprobs": 20})));
    let before = engine.peak_kib();
    for fields in dangerous_fields() {
        for (path, body) in surfaces() {
            let shown = fields.to_string().chars().take(120).collect::<String>();
            let reply = gateway.post(path, &with(body, fields.clone()));
            assert!(engine.is_alive(), "{path} {shown} killed llama-server");
            assert!(reply.status < 500, "{path} {shown}: {} {}", reply.status, reply.text());
            assert!(!reply.text().contains("__verbose"));
            let grown = engine.peak_kib().saturating_sub(before);
            assert!(grown < 16 * 1024, "{path} {shown}: llama-server grew by {grown} KiB");
        }
    }
    for (path, body) in surfaces() {
        assert_eq!(gateway.post(path, &body).status, 200, "{path} is still answered");
    }
    let grown = engine.peak_kib().saturating_sub(before);
    eprintln!("llama-server grew by {grown} KiB");
}

#[test]
fn all_names_of_the_output_cap_are_one() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[requests]\nmax_output_tokens = 50");
    let without =
        |fields: Value| with(json!({"messages": [{"role": "user", "content": "hi"}], "stream": true}), fields);
    let asked = [
        (without(json!({})), 50),
        (without(json!({"max_tokens": 2, "n_predict": 7})), 2),
        (without(json!({"max_tokens": 9, "max_completion_tokens": 3})), 3),
        (without(json!({"n_predict": -1})), 50),
        (without(json!({"max_tokens": null})), 50),
        (without(json!({"max_tokens": 99_999_999_999_u64})), 50),
    ];
    for (index, (body, cap)) in asked.into_iter().enumerate() {
        let reply = gateway.post("/v1/chat/completions", &body);
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        let sent = stub.requests()[index].json();
        let caps = ["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"];
        let caps = caps.iter().filter_map(|name| sent.get(*name)?.as_u64()).collect::<Vec<_>>();
        assert_eq!(caps, [cap], "{body} became {sent}");
    }
}

#[test]
fn what_llama_server_gets_is_what_the_list_allows_and_accounting_is_always_on() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let asked = with(
        chat(5),
        json!({"stream_options": {"include_usage": false}, "timings_per_token": false, "user": "me", "store": true,
               "sse_ping_interval": 1, "no_such_field": {"a": 1}, "top_p": 0.5, "stop": ["\n\n"]}),
    );
    gateway.post("/v1/chat/completions", &asked);
    let sent = stub.requests()[0].json();
    assert_eq!(sent["stream"], true);
    assert_eq!(sent["stream_options"]["include_usage"], true);
    assert_eq!(sent["timings_per_token"], true);
    assert_eq!((&sent["top_p"], &sent["stop"], &sent["messages"]), (&json!(0.5), &json!(["\n\n"]), &asked["messages"]));
    for dropped in ["user", "store", "sse_ping_interval", "no_such_field"] {
        assert!(sent.get(dropped).is_none(), "{sent}");
    }
}

#[test]
fn configuration_adds_to_the_list_of_fields() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[requests.extra_fields]\nchat = [\"my_field\"]");
    gateway.post("/v1/chat/completions", &with(chat(5), json!({"my_field": [1, 2]})));
    assert_eq!(stub.requests()[0].json()["my_field"], json!([1, 2]));
}

/// Sends a body as it is.
fn send_raw(gateway: &Gateway, body: &str) -> Answer {
    let mut conn = Conn::open(gateway.address).unwrap();
    conn.send(&request("/v1/chat/completions", Some(&gateway.key), body.as_bytes())).unwrap();
    conn.answer().unwrap()
}

#[test]
fn a_field_given_twice_cannot_say_two_things() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":3,"max_tokens":9999999,"stream":true}"#;
    let status = send_raw(&gateway, body).reply().unwrap().status;
    // Refused, or passed on once with one meaning.
    if status == 200 {
        let sent = String::from_utf8(stub.requests()[0].body.clone()).unwrap();
        assert_eq!(sent.matches("max_tokens").count(), 1, "{sent}");
    } else {
        assert_eq!(status, 400);
    }
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"verb\u006fse":true,"n\u005fpredict":999999}"#;
    let reply = send_raw(&gateway, body).reply().unwrap();
    assert!(reply.status == 400 || !String::from_utf8_lossy(&stub.requests().last().unwrap().body).contains("verb"));
}

#[test]
fn the_header_that_turns_off_cancelling_never_reaches_llama_server() {
    let engine = Engine::start(Options::speaking().slots(1));
    let gateway = Gateway::start(&engine.url());
    let body = with(chat_stream(1800), json!({"ignore_eos": true})).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nX-Conversation-Id: mine\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        gateway.key,
        body.len()
    );
    let mut conn = gateway.conn();
    conn.send(head.as_bytes()).unwrap();
    let mut answer = conn.answer().unwrap();
    answer.next_text();
    let left = std::time::Instant::now();
    answer.conn.close();
    wait_idle(&engine);
    assert!(left.elapsed().as_secs() < 3, "the stream went on for {:?}", left.elapsed());
}
