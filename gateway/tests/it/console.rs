//! The browser console in a real headless Chromium, driven by the scripts `console_*.mjs`: as an operator uses it, with
//! requests that stand still so that everything can be looked at, with hostile words in it, and from foreign pages.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::chat_stream;
use crate::harness::client::{Conn, request};
use crate::harness::engine::{Engine, Options};
use crate::harness::gateway::{ADMIN_KEY, Gateway};
use crate::harness::process::{free_port, mortal, spawn};
use crate::harness::stub::{Step, Stub};

/// Runs a script on the console of `gateway`. What the script cannot do itself it asks for in lines; `obey` does it.
fn run(script: &str, gateway: &mut Gateway, mut obey: impl FnMut(&mut Gateway, &[&str]) -> String) {
    let pages = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/pages");
    std::fs::create_dir_all(pages).unwrap();
    // What the browser leaves goes with this folder, even when the test fails and it is killed.
    let profile = tempfile::tempdir().unwrap();
    let mut command = mortal("node");
    command.arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR")));
    command.env("ADMIN_URL", format!("http://{}", gateway.admin)).env("ADMIN_KEY", ADMIN_KEY);
    command.env("PUBLIC_URL", format!("http://{}", gateway.address)).env("API_KEY", &gateway.key);
    command.env("PAGES", pages).env("TMPDIR", profile.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = spawn(command);
    let mut answers = child.stdin.take().unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.strip_prefix("> ") {
            Some(order) => {
                let answer = obey(gateway, &order.split(' ').collect::<Vec<_>>());
                writeln!(answers, "{answer}").unwrap();
            }
            None => println!("{line}"),
        }
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "{script}: {status}; what it found stands above");
}

fn nothing(_: &mut Gateway, order: &[&str]) -> String {
    panic!("the script asks for what nobody does: {order:?}");
}

#[test]
fn an_operator_watches_makes_keys_tries_them_and_survives_a_restart() {
    // It never ends an answer by itself.
    let engine = Engine::start(Options::speaking().args(&["--ignore-eos"]));
    let mut gateway = Gateway::at_fixed_ports(&engine.url(), "");
    run("console_work.mjs", &mut gateway, |gateway, order| {
        match *order {
            ["admin-key", key] => std::fs::write(gateway.data().join("admin.key"), key).unwrap(),
            ["stop"] => gateway.kill9(),
            ["start"] => gateway.restart(),
            _ => return nothing(gateway, order),
        }
        String::new()
    });
}

/// Tenants whose requests wait in different classes, one with limits.
const TENANTS: &str = r#"
[policies.acme]
tokens_per_minute = 60000
tokens_per_day = 100000
[policies.quick]
class = "interactive"
[policies.slow]
class = "batch"
[policies.small]
queued_requests = 1
[tenants.acme]
policy = "acme"
[tenants.beta]
policy = "quick"
[tenants.gamma]
policy = "slow"
[tenants.small]
policy = "small"
"#;

/// A stub with two slots and a gateway that also knows a replica which is not there.
fn busy() -> (Stub, Gateway) {
    let stub = Stub::start(2);
    let gateway = Gateway::launch(&[&stub.url(), &format!("http://127.0.0.1:{}", free_port())], TENANTS);
    gateway.wait_ready();
    // From its timings the gateway knows how fast it is, and so how long others will wait.
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120});
    let timings = json!({"cache_n": 0, "prompt_n": 100, "prompt_ms": 400.0, "predicted_n": 20, "predicted_ms": 1000.0});
    let end = format!("data: {{\"choices\":[],\"usage\":{usage},\"timings\":{timings}}}\n\ndata: [DONE]\n\n");
    for _ in 0..4 {
        stub.plan_next(vec![Step::Head, Step::Tokens(20), Step::Bytes(end.clone().into()), Step::End]);
        gateway.open("/v1/chat/completions", &chat_stream(20)).events();
    }
    (stub, gateway)
}

/// Two requests that stop after five tokens, later after twelve, and three that wait behind them.
fn hold(stub: &Stub, gateway: &Gateway) -> Vec<Conn> {
    let first = stub.count();
    stub.plan(vec![Step::Head, Step::Tokens(5), Step::Gate, Step::Tokens(7), Step::Gate, Step::Finish, Step::End]);
    let mut held = Vec::new();
    let mut send = |key: &str| {
        let mut conn = gateway.conn();
        conn.send(&request("/v1/chat/completions", Some(key), chat_stream(500).to_string().as_bytes())).unwrap();
        held.push(conn);
    };
    for place in 0..2 {
        send(&gateway.key);
        stub.wait_held(first + place);
    }
    for (place, tenant) in ["beta", "gamma", "small"].into_iter().enumerate() {
        send(&gateway.create_key(tenant));
        gateway.wait_depth(place + 1);
    }
    held
}

/// Runs a script that may have requests held, and released again one gate at a time.
fn run_busy(script: &str) {
    let (stub, mut gateway) = busy();
    let first = stub.count();
    let mut held = Vec::new();
    run(script, &mut gateway, |gateway, order| {
        match *order {
            ["hold"] => held = hold(&stub, gateway),
            ["release", index] => stub.release(first + index.parse::<usize>().unwrap()),
            ["key", tenant] => return gateway.create_key(tenant),
            _ => return nothing(gateway, order),
        }
        String::new()
    });
}

#[test]
fn who_runs_and_who_waits_is_shown_to_the_number() {
    run_busy("console_held.mjs");
}

#[test]
fn every_tab_is_accessible_in_both_themes_on_a_desk_and_on_a_phone() {
    run_busy("console_access.mjs");
}

#[test]
fn hostile_words_stay_text() {
    // llama-server takes any name for its model.
    let engine =
        Engine::start(Options::speaking().slots(1).args(&["--ignore-eos", "--alias", "<img src=x onerror=alert(1)>"]));
    let mut gateway = Gateway::start(&engine.url());
    run("console_hostile.mjs", &mut gateway, nothing);
}

#[test]
fn foreign_pages_learn_nothing_and_change_nothing() {
    let stub = Stub::start(1);
    let mut gateway = Gateway::start(&stub.url());
    let keys = gateway.ask_admin("GET", "/v1/keys", &Value::Null).json();
    run("console_foreign.mjs", &mut gateway, nothing);
    assert_eq!(gateway.ask_admin("GET", "/v1/keys", &Value::Null).json(), keys);
    assert_eq!(stub.count(), 0, "nothing was tried");
    assert!(gateway.log().contains("foreign_origin"), "{}", gateway.log());
}
