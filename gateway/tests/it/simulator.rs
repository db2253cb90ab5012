//! The simulated llama-server answers as the real one: the same requests to both, compared field by field.
//!
//! Compared are status, headers, the kinds of events in their order, and the shape of each JSON value: its keys, its
//! types, and the words where a value is one of a few. What is said, ids, times and numbers differ, of course.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::client::{Answer, Reply, exchange, get, get_as, post, request_of};
use crate::harness::engine::{Engine, Options};
use crate::harness::gateway::Gateway;
use crate::harness::loadtest::Simulator;
use crate::harness::{chat, chat_stream, eventually_true, with};

/// Events that are left out of what is compared: llama-server begins the stream of several prompts with an empty one,
/// which no client can use.
const ALLOWED: [&str; 1] = ["data: null"];

/// The random model does not end after a call but goes on until its limit; the simulated one ends.
const ENDS: [(&str, &str); 2] = [
    ("\"finish_reason\":\"tool_calls\"", "\"finish_reason\":\"length\""),
    ("\"stop_reason\":\"tool_use\"", "\"stop_reason\":\"max_tokens\""),
];

/// Keys whose values are one of a few words.
const WORDS: [&str; 9] =
    ["object", "type", "role", "finish_reason", "stop_reason", "stop_sequence", "status", "owned_by", "code"];

/// Headers that a client or the gateway may act upon.
const HEADERS: [&str; 9] = [
    "content-type",
    "transfer-encoding",
    "x-accel-buffering",
    "connection",
    "keep-alive",
    "server",
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
];

/// One request to both.
struct Case {
    name: String,
    method: &'static str,
    path: &'static str,
    key: Option<&'static str>,
    body: String,
}

fn posted(name: &str, path: &'static str, body: Value) -> Case {
    Case { name: name.to_owned(), method: "POST", path, key: None, body: body.to_string() }
}

fn raw(method: &'static str, path: &'static str, body: &str) -> Case {
    Case { name: format!("{method} {path} {body}"), method, path, key: None, body: body.to_owned() }
}

/// A case in one piece and as a stream.
fn both(cases: &mut Vec<Case>, name: &str, path: &'static str, body: &Value) {
    cases.push(posted(&format!("{name}, in one piece"), path, body.clone()));
    cases.push(posted(&format!("{name}, streamed"), path, with(body.clone(), json!({"stream": true}))));
}

/// A value without what differs between two servers.
fn shape(key: &str, value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), shape(key, value))).collect(),
        Value::Array(items) => {
            let mut shapes: Vec<Value> = Vec::new();
            for item in items.iter().map(|item| shape(key, item)) {
                if !shapes.contains(&item) {
                    shapes.push(item);
                }
            }
            shapes.into()
        }
        _ if WORDS.contains(&key) => value.clone(),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("flag"),
        Value::Null => json!(null),
    }
}

/// What is compared of an answer.
fn seen(answer: Answer) -> Vec<String> {
    let head = answer.head.clone();
    let mut seen = vec![format!("status {}", head.status)];
    seen.extend(HEADERS.iter().filter_map(|name| Some(format!("{name}: {}", head.header(name)?))));
    if head.header("content-type") == Some("text/event-stream") {
        for event in answer.events() {
            let (name, data) = event.split_once("data: ").unwrap_or((&event, ""));
            let data = serde_json::from_str(data).map_or_else(|_| data.to_owned(), |data| shape("", &data).to_string());
            let event = format!("{name}data: {data}");
            if !ALLOWED.contains(&event.as_str()) && seen.last() != Some(&event) {
                seen.push(event);
            }
        }
    } else {
        let reply = answer.reply().unwrap();
        let text = reply.text();
        seen.push(serde_json::from_str(&text).map_or(text, |value| shape("", &value).to_string()));
    }
    seen
}

fn ask(address: SocketAddr, case: &Case) -> Vec<String> {
    let bytes = request_of(case.method, case.path, case.key, case.body.as_bytes());
    seen(exchange(address, &bytes).unwrap())
}

/// With the reason of the real model's end, for a simulated one that ends after its call.
fn ended_by_limit(seen: &[String]) -> Vec<String> {
    let [(called, limit), (used, most)] = ENDS;
    seen.iter().map(|line| line.replace(called, limit).replace(used, most)).collect()
}

/// Asks both the same things. Of several sequences in one stream the order is chance: those are compared as sets.
fn compare(real: &Engine, simulated: &Simulator, cases: &[Case]) {
    let mut differences = Vec::new();
    for case in cases {
        let (real, simulated) = (ask(real.address(), case), ended_by_limit(&ask(simulated.address(), case)));
        let set = |seen: &[String]| seen.iter().cloned().collect::<BTreeSet<_>>();
        let several = case.name.starts_with("several");
        if real != simulated && !(several && set(&real) == set(&simulated)) {
            let lines = |seen: &[String]| seen.join("\n    ");
            let (name, real, simulated) = (&case.name, lines(&real), lines(&simulated));
            differences.push(format!("{name}\n  llama-server:\n    {real}\n  simulator:\n    {simulated}"));
        }
    }
    assert!(differences.is_empty(), "{} of {} differ:\n{}", differences.len(), cases.len(), differences.join("\n"));
}

const SLOTS: u32 = 2;
const CONTEXT: u32 = 2048;

/// A simulator beside a real one of `Options::tiny`, whose model says whatever it may.
fn simulator(args: &[&str]) -> Simulator {
    let own = ["--alias", "test-model", "--slots", "2", "--context", "2048", "--reply-tokens", "0", "--decode-ms", "2"];
    Simulator::start(&[&own[..], args].concat())
}

fn engine() -> Options {
    Options::tiny().slots(SLOTS).context(CONTEXT)
}

fn said(tokens: u32) -> Vec<(&'static str, &'static str, Value)> {
    let messages = json!([{"role": "user", "content": "Tell me about rivers."}]);
    let chat = chat(tokens);
    let completion = json!({"prompt": "The river", "max_tokens": tokens, "temperature": 0});
    let response = json!({"input": "Tell me about rivers.", "max_output_tokens": tokens, "temperature": 0});
    let message = json!({"model": "x", "messages": messages, "max_tokens": tokens, "temperature": 0});
    vec![
        ("chat", "/v1/chat/completions", chat),
        ("completion", "/v1/completions", completion),
        ("response", "/v1/responses", response),
        ("message", "/v1/messages", message),
    ]
}

#[test]
fn replies_and_streams_have_the_same_shapes() {
    let mut cases = Vec::new();
    let timings = json!({"timings_per_token": true});
    let progress = json!({"return_progress": true});
    let usage = json!({"stream_options": {"include_usage": true}});
    for (name, path, body) in said(5) {
        both(&mut cases, name, path, &body);
        for (what, fields) in [
            ("timings", timings.clone()),
            ("progress", progress.clone()),
            ("usage", usage.clone()),
            ("all of these", with(with(timings.clone(), progress.clone()), usage.clone())),
            ("one token", json!({"max_tokens": 1})),
            ("no token", json!({"max_tokens": 0})),
            ("unknown fields", json!({"sim": 1, "user": "x", "metadata": {"a": 1}})),
            ("null fields", json!({"temperature": null, "stop": null, "stream_options": null})),
        ] {
            both(&mut cases, &format!("{name} with {what}"), path, &with(body.clone(), fields));
        }
    }
    let chat = chat(3);
    let two = with(chat.clone(), json!({"n": 2}));
    both(&mut cases, "several choices", "/v1/chat/completions", &two);
    both(&mut cases, "several choices with usage", "/v1/chat/completions", &with(two, usage));
    let prompts = json!({"prompt": ["The river", "A hill"], "max_tokens": 3});
    both(&mut cases, "several prompts", "/v1/completions", &prompts);
    both(&mut cases, "tokens as a prompt", "/v1/completions", &json!({"prompt": [7, 8, 9], "max_tokens": 3}));
    both(&mut cases, "an empty prompt", "/v1/completions", &json!({"prompt": "", "max_tokens": 3}));
    let parts = json!({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content":
        [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "x"}]});
    both(&mut cases, "a conversation in parts", "/v1/chat/completions", &with(chat, parts));
    let items = json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "instructions": "Be brief.", "max_output_tokens": 3});
    both(&mut cases, "a response to items", "/v1/responses", &items);
    let system = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "system": [{"type": "text", "text": "Be brief."}], "max_tokens": 3});
    both(&mut cases, "a message with a system prompt", "/v1/messages", &system);
    compare(&Engine::start(engine()), &simulator(&[]), &cases);
}

#[test]
fn thoughts_and_calls_have_the_same_shapes() {
    let real = Engine::start(engine().tools());
    let mut cases = Vec::new();
    for (name, path, body) in said(5) {
        if path != "/v1/completions" {
            both(&mut cases, &format!("thoughts in a {name}"), path, &body);
        }
    }
    compare(&real, &simulator(&["--reasoning-tokens", "1000"]), &cases);

    // The real model calls because its turn has been begun for it, and goes on calling.
    let parameters =
        json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]});
    let called = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<tool_call>\n"}]);
    let function = json!({"name": "weather", "description": "x", "parameters": parameters});
    let chat = with(
        chat(100),
        json!({"messages": called, "tools": [{"type": "function", "function": function}],
        "tool_choice": "required"}),
    );
    let items = json!([{"role": "user", "content": "hi"}, {"type": "message", "role": "assistant",
        "content": [{"type": "output_text", "text": "<tool_call>\n"}]}]);
    let tool = with(function, json!({"type": "function"}));
    let response = json!({"input": items, "tools": [tool], "tool_choice": "required", "max_output_tokens": 100,
        "temperature": 0});
    let message = json!({"messages": called, "tools": [{"name": "weather", "description": "x",
        "input_schema": parameters}], "tool_choice": {"type": "any"}, "max_tokens": 100, "temperature": 0});
    let mut cases = Vec::new();
    both(&mut cases, "several calls in a chat", "/v1/chat/completions", &chat);
    both(&mut cases, "several calls in a response", "/v1/responses", &response);
    both(&mut cases, "several calls in a message", "/v1/messages", &message);
    compare(&real, &simulator(&[]), &cases);
}

#[test]
fn what_is_wrong_is_refused_alike() {
    let mut cases = Vec::new();
    let long = "word ".repeat(6000);
    let messages = |content: &str| json!([{"role": "user", "content": content}]);
    for (name, path, body) in said(3) {
        for wrong in ["", "{", "nonsense"] {
            cases.push(raw("POST", path, wrong));
        }
        cases.push(raw("GET", path, ""));
        cases.push(raw("DELETE", path, ""));
        cases.push(posted("nothing in it", path, json!({})));
        for field in ["temperature", "max_tokens", "top_p", "n", "stream"] {
            let wrong = with(body.clone(), json!({field: "text"}));
            cases.push(posted(&format!("{name} with text as {field}"), path, wrong));
        }
        let longer = json!({"messages": messages(&long), "input": long, "prompt": long});
        both(&mut cases, &format!("{name} beyond the context"), path, &with(body, longer));
    }
    let wrong_chats = [
        json!({"messages": "text"}),
        json!({"messages": [{"content": "x"}]}),
        json!({"messages": [{"role": "user"}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url":
            {"url": "data:image/png;base64,AAAA"}}]}]}),
        json!({"messages": messages("x"), "n": 3}),
        json!({"messages": messages("x"), "n": 0}),
        json!({"messages": messages("x"), "tools": "text"}),
    ];
    cases.extend(wrong_chats.map(|body| posted(&body.to_string(), "/v1/chat/completions", body)));
    let wrong_prompts = [json!({"prompt": 5}), json!({"prompt": []}), json!({"prompt": "x", "n": 3})];
    cases.extend(wrong_prompts.map(|body| posted(&body.to_string(), "/v1/completions", body)));
    let wrong_inputs = [json!({"input": 5}), json!({"input": "x", "previous_response_id": "x"})];
    cases.extend(wrong_inputs.map(|body| posted(&body.to_string(), "/v1/responses", body)));
    for path in ["/nowhere", "/v1/models/x", "/v1/nowhere"] {
        cases.push(raw("GET", path, ""));
        cases.push(raw("POST", path, "{}"));
    }
    for path in ["/v1/embeddings", "/v1/rerank", "/props", "/slots/0?action=save", "/infill", "/v1/models"] {
        cases.push(raw("POST", path, "{}"));
    }
    cases.push(raw("OPTIONS", "/v1/chat/completions", ""));
    compare(&Engine::start(engine()), &simulator(&[]), &cases);
}

#[test]
fn what_it_tells_of_itself_has_the_same_shape() {
    let (real, simulated) = (Engine::start(engine()), simulator(&[]));
    let counting = [
        ("/tokenize", json!({"content": "Tell me about rivers."})),
        ("/tokenize", json!({"content": "Tell me", "add_special": true, "with_pieces": true})),
        ("/tokenize", json!({"content": ["Tell", 7, "me"]})),
        ("/tokenize", json!({"content": ""})),
        ("/tokenize", json!({})),
        ("/detokenize", json!({"tokens": [7, 8]})),
        ("/detokenize", json!({})),
        ("/apply-template", chat(3)),
        ("/apply-template", json!({})),
        ("/v1/chat/completions/input_tokens", chat(3)),
        ("/v1/chat/completions/input_tokens", json!({})),
        ("/v1/responses/input_tokens", json!({"input": "hi"})),
        ("/v1/responses/input_tokens", json!({})),
        ("/v1/messages/count_tokens", json!({"messages": [{"role": "user", "content": "hi"}]})),
        ("/v1/messages/count_tokens", json!({})),
    ];
    let mut cases: Vec<_> =
        counting.into_iter().map(|(path, body)| posted(&format!("{path} {body}"), path, body)).collect();
    let told = ["/health", "/v1/health", "/v1/models", "/models", "/props", "/slots", "/slots?fail_on_no_slot=1"];
    cases.extend(told.map(|path| raw("GET", path, "")));
    compare(&real, &simulated, &cases);
    // Once more, when slots have had a task.
    cases.clear();
    for _ in 0..SLOTS {
        cases.push(posted("something to do", "/v1/completions", json!({"prompt": ["A", "B"], "max_tokens": 3})));
    }
    cases.push(raw("GET", "/slots", ""));
    compare(&real, &simulated, &cases);
    let declared = |address| {
        let reply = get(address, "/metrics").unwrap();
        assert_eq!(reply.head.header("content-type"), Some("text/plain; version=0.0.4"));
        let lines = reply.text();
        lines.lines().filter(|line| line.starts_with("# TYPE")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(declared(real.address()), declared(simulated.address()));
}

#[test]
fn vectors_have_the_same_shapes() {
    let vectors = [
        json!({"input": "x"}),
        json!({"input": ["x", "hello world"], "model": "other"}),
        json!({"input": ["x"], "encoding_format": "base64"}),
        json!({"input": [7, 8, 9]}),
        json!({"input": ""}),
        json!({"input": "x", "encoding_format": "other"}),
        json!({}),
    ];
    let cases = vectors.map(|body| posted(&body.to_string(), "/v1/embeddings", body));
    let real = Engine::start(engine().args(&["--embeddings", "--pooling", "mean"]));
    compare(&real, &simulator(&["--embeddings"]), &cases);
    let ranks = [
        json!({"query": "x", "documents": ["a", "b c"]}),
        json!({"query": "x", "documents": ["a", "b"], "top_n": 1, "model": "other"}),
        json!({"query": "x", "texts": ["a", "b"], "return_text": true}),
        json!({"query": "x"}),
        json!({"query": "x", "documents": "a"}),
        json!({"documents": ["x"]}),
    ];
    let cases = ranks.map(|body| posted(&body.to_string(), "/v1/rerank", body));
    let real = Engine::start(engine().args(&["--reranking", "--pooling", "rank"]));
    compare(&real, &simulator(&["--reranking"]), &cases);
}

#[test]
fn keys_open_the_same_doors() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "the-key\n").unwrap();
    let path = file.path().to_str().unwrap();
    let real = Engine::start(engine().args(&["--api-key-file", path]));
    let simulated = simulator(&["--api-key-file", path]);
    let mut cases = Vec::new();
    for key in [None, Some("the-key"), Some("another-key")] {
        for path in ["/health", "/v1/models", "/props", "/slots", "/nowhere"] {
            cases.push(Case { key, name: format!("{path} with {key:?}"), ..raw("GET", path, "") });
        }
        cases.push(Case { key, name: format!("a chat with {key:?}"), ..posted("", "/v1/chat/completions", chat(2)) });
        cases.push(Case { key, ..raw("OPTIONS", "/v1/chat/completions", "") });
    }
    compare(&real, &simulated, &cases);
    assert_eq!(get_as(simulated.address(), "/metrics", Some("the-key")).unwrap().status, 200);
}

#[test]
fn both_say_that_the_model_loads() {
    let simulated = Simulator::start(&["--load-ms", "300"]);
    // It was started with patience: it has loaded by now. Nothing but /health has been asked so far.
    assert_eq!(get(simulated.address(), "/health").unwrap().status, 200);
    let slow = Simulator::launch(&["--load-ms", "60000"]);
    let reply = loop {
        if let Ok(reply) = get(slow.address(), "/props") {
            break reply;
        }
    };
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json(), json!({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}));
}

/// The counters of tokens: prompts computed, prompts from the cache, generated.
fn counted(simulator: &Simulator) -> [u64; 3] {
    let text = get(simulator.address(), "/metrics").unwrap().text();
    ["prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total"].map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("llamacpp:{name} ")));
        line.unwrap().parse::<f64>().unwrap() as u64
    })
}

#[test]
fn the_gateway_works_in_front_of_it() {
    let simulated = Simulator::start(&["--alias", "test-model", "--decode-ms", "2"]);
    let gateway = Gateway::start(&simulated.url());
    let usage = json!({"stream_options": {"include_usage": true}});
    let events = gateway.open("/v1/chat/completions", &with(chat_stream(7), usage)).events();
    let text = events.concat();
    assert!(text.ends_with("data: [DONE]"), "{text}");
    let usage: Vec<Value> =
        events.iter().filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok()).collect();
    let usage = usage.last().unwrap()["usage"].clone();
    assert_eq!((&usage["completion_tokens"], &usage["prompt_tokens"]), (&json!(7), &json!(13)));
    let bodies: [(&str, Value); 4] = [
        ("/v1/chat/completions", chat(5)),
        ("/v1/completions", json!({"model": "test-model", "prompt": "The river", "max_tokens": 5})),
        ("/v1/responses", json!({"model": "test-model", "input": "hi", "max_output_tokens": 5})),
        ("/v1/messages", json!({"model": "test-model", "messages": chat(5)["messages"], "max_tokens": 5})),
    ];
    for (path, body) in &bodies {
        for body in [body.clone(), with(body.clone(), json!({"stream": true}))] {
            let answer = gateway.open(path, &body);
            assert_eq!(answer.head.status, 200, "{path}");
            let row = gateway.settled_row(&answer.head.request_id());
            assert_eq!(answer.reply().unwrap().status, 200, "{path}");
            assert_eq!((&row["completion_tokens"], &row["ending"]), (&json!(5), &json!("complete")), "{path} {row}");
        }
    }
    let rows = gateway.usage_rows();
    let sum = |name: &str| rows.iter().map(|row| row[name].as_u64().unwrap()).sum::<u64>();
    let [computed, cached, generated] = counted(&simulated);
    assert_eq!(sum("completion_tokens"), generated);
    assert_eq!(sum("prompt_tokens"), computed + cached);
}

#[test]
fn faults_reach_the_gateways_clients_through_its_allow_list() {
    let simulated = Simulator::start(&["--alias", "test-model", "--decode-ms", "2"]);
    let gateway = Gateway::start(&simulated.url());
    let faulty = |fault: &str| with(chat(20), json!({"chat_template_kwargs": {"sim_fault": fault}}));
    let refused = post(gateway.address, "/v1/chat/completions", Some(&gateway.key), &faulty("status-500"));
    assert!(refused.status >= 500, "{refused:?}");
    let streamed = |fault: &str| gateway.open("/v1/chat/completions", &with(faulty(fault), json!({"stream": true})));
    let text = streamed("error-event").events().concat();
    assert!(text.contains("\"error\""), "{text}");
    assert!(streamed("cut").events().concat().contains("\"error\""));
    let hanging = streamed("hang-mid-stream");
    hanging.conn.close();
    let slots = || get(simulated.address(), "/slots").unwrap().json();
    let idle = || slots().as_array().unwrap().iter().all(|slot| slot["is_processing"] == false);
    eventually_true("the slot is free again", idle);
    let cancels: Reply = get(simulated.address(), "/sim/cancels").unwrap();
    let after = cancels.json()["cancels"][0]["free_after_ms"].as_f64().unwrap();
    assert!(after < 1000.0, "{cancels:?}");
}
