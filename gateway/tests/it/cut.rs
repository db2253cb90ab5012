//! A running answer ends where the quota of the day ends: cleanly for its client, with the reason.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::client::{self, Reply};
use crate::harness::engine::{Engine, Options, shared, variable, wait_idle};
use crate::harness::gateway::Gateway;
use crate::harness::{chat, chat_stream, with};

const QUOTA: u64 = 1000;
/// More than any read from llama-server holds: what was generated before the quota was seen to be over.
const OVERSHOOT: u64 = 200;

fn limited(url: &str) -> Gateway {
    Gateway::with_config(url, &format!("[policies.default]\ntokens_per_day = {QUOTA}\ncut_at_quota = true"))
}

/// Asks as a tenant of its own, whose quota nobody has used.
fn ask(gateway: &Gateway, tenant: &str, path: &str, body: &Value) -> Reply {
    client::post(gateway.address, path, Some(&gateway.create_key(tenant)), body)
}

/// What the ledger says of a request that was cut.
fn check_row(gateway: &Gateway, reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let row = gateway.settled_row(&reply.head.request_id());
    assert_eq!((&row["ending"], &row["status"]), (&json!("cut_at_quota"), &json!(200)), "{row}");
    let used = row["prompt_tokens"].as_u64().unwrap() + row["completion_tokens"].as_u64().unwrap();
    assert!((QUOTA..QUOTA + OVERSHOOT).contains(&used), "{row}");
    row
}

fn objects(reply: &Reply) -> Vec<Value> {
    let text = reply.text();
    text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect()
}

/// The four surfaces: path and a request for more than the quota.
fn surfaces() -> [(&'static str, Value); 4] {
    [
        ("/v1/chat/completions", chat(3000)),
        ("/v1/completions", json!({"prompt": "Once upon", "max_tokens": 3000})),
        ("/v1/responses", json!({"input": "Once upon", "max_output_tokens": 3000})),
        ("/v1/messages", json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3000})),
    ]
}

#[test]
fn streams_of_every_surface_end_cleanly_with_the_reason_and_free_their_slot() {
    let engine = Engine::start(Options::tiny().slots(1));
    let gateway = limited(&engine.url());
    for (path, body) in surfaces() {
        let reply = ask(&gateway, &path[1..].replace('/', "-"), path, &with(body, json!({"stream": true})));
        let row = check_row(&gateway, &reply);
        let events = objects(&reply);
        let told = events.iter().filter(|event| event["cut_reason"] == "insufficient_quota").collect::<Vec<_>>();
        assert_eq!(told.len(), 1, "{path}: {}", reply.text());
        match path {
            "/v1/chat/completions" | "/v1/completions" => {
                assert_eq!(told[0]["choices"][0]["finish_reason"], "length");
                assert!(reply.text().ends_with("\n\ndata: [DONE]\n\n"));
            }
            "/v1/responses" => {
                assert_eq!(told[0]["type"], "response.incomplete");
                assert_eq!(told[0]["response"]["usage"]["output_tokens"], row["completion_tokens"]);
            }
            _ => {
                assert_eq!(told[0]["delta"]["stop_reason"], "max_tokens");
                assert_eq!(events.last().unwrap()["type"], "message_stop");
            }
        }
        wait_idle(&engine);
    }
}

#[test]
fn replies_of_one_piece_are_what_there_was_until_then() {
    let gateway = limited(&shared().url());
    for (path, body) in surfaces() {
        let reply = ask(&gateway, &path[1..].replace('/', "-"), path, &body);
        let row = check_row(&gateway, &reply);
        let answer = reply.json();
        assert_eq!(answer["cut_reason"], "insufficient_quota", "{path}: {answer}");
        let ends = ["/choices/0/finish_reason", "/stop_reason", "/incomplete_details/reason"];
        let end = ends.iter().find_map(|end| answer.pointer(end)).and_then(Value::as_str).unwrap();
        assert!(["length", "max_tokens", "max_output_tokens"].contains(&end), "{path}: {answer}");
        let output = ["completion_tokens", "output_tokens"].iter().find_map(|name| answer["usage"].get(name)).unwrap();
        assert_eq!(*output, row["completion_tokens"], "{path}");
    }
}

#[test]
fn all_choices_end_together() {
    let gateway = limited(&shared().url());
    let reply = ask(&gateway, "two", "/v1/chat/completions", &with(chat_stream(3000), json!({"n": 2})));
    check_row(&gateway, &reply);
    let finishes = objects(&reply);
    let finishes = finishes.iter().filter(|chunk| chunk["choices"][0]["finish_reason"] == "length").count();
    assert_eq!(finishes, 2);
}

#[test]
fn what_comes_after_a_cut_is_refused_for_good() {
    let gateway = limited(&shared().url());
    let key = gateway.create_key("spent");
    let cut = client::post(gateway.address, "/v1/chat/completions", Some(&key), &chat(3000));
    check_row(&gateway, &cut);
    let refused = client::post(gateway.address, "/v1/chat/completions", Some(&key), &chat(3));
    assert_eq!((refused.status, refused.code().as_str()), (429, "insufficient_quota"));
}

#[test]
fn official_clients_accept_such_an_end() {
    let engine = Engine::start(Options::tiny().slots(2));
    let gateway = limited(&engine.url());
    let run = |program: String, script: &str| {
        let keys = (0..8).map(|n| gateway.create_key(&format!("{script}-{n}"))).collect::<Vec<_>>().join(" ");
        let output = Command::new(program)
            .arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR")))
            .env("BASE_URL", format!("http://{}", gateway.address))
            .env("API_KEYS", keys)
            .output()
            .expect("the client cannot be started; hint: scripts/test installs it");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    };
    run(variable("CLIENT_PYTHON"), "cut.py");
    run("node".to_owned(), "cut.mjs");
}
