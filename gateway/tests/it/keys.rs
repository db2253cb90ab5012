//! Keys over their life: made, scoped, rotated, revoked, declared; by the command line and by the admin API.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::client::{self, Answer, Reply, exchange, get_as, post};
use crate::harness::engine::{Engine, Options, shared, wait_idle};
use crate::harness::gateway::{ADMIN_KEY, Gateway};
use crate::harness::stub::{Stub, held};
use crate::harness::{chat, chat_stream, eventually, eventually_true, with};

const PATH: &str = "/v1/chat/completions";

/// Makes a key by the admin API; gives its id and the key.
fn create(gateway: &Gateway, body: &Value) -> (String, String) {
    let reply = gateway.ask_admin("POST", "/v1/keys", body);
    assert_eq!(reply.status, 201, "{reply:?}");
    let json = reply.json();
    let text = |name: &str| json[name].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

fn change(gateway: &Gateway, id: &str, body: &Value) -> Reply {
    gateway.ask_admin("PATCH", &format!("/v1/keys/{id}"), body)
}

/// The id in a key.
fn id_of(key: &str) -> &str {
    key.split('-').nth(2).unwrap()
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    get_as(gateway.address, "/v1/models", Some(key)).unwrap().status
}

/// What a request with these further headers is answered.
fn reply_to(gateway: &Gateway, key: &str, headers: &str) -> Reply {
    let bytes = format!("GET /v1/models HTTP/1.1\r\nHost: t\r\nx-api-key: {key}\r\n{headers}\r\n");
    exchange(gateway.address, bytes.as_bytes()).unwrap().reply().unwrap()
}

fn last_event(mut answer: Answer) -> String {
    let mut last = String::new();
    while let Some(event) = answer.event().expect("the stream ends properly") {
        last = event;
    }
    last
}

#[test]
fn a_revocation_by_another_process_counts_at_the_very_next_request() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    for _ in 0..20 {
        let key = gateway.create_key("globex");
        assert_eq!(status(&gateway, &key), 200, "a new key counts at once");
        gateway.command(&["keys", "revoke", id_of(&key)]);
        assert_eq!(status(&gateway, &key), 401);
        assert_eq!(status(&gateway, &gateway.key), 200);
    }
}

#[test]
fn a_rotated_key_keeps_its_id_and_both_secrets_are_valid_for_the_overlap() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let old = gateway.create_key("globex");
    let id = id_of(&old);
    let new = gateway.command(&["keys", "rotate", id]).trim().to_owned();
    assert_eq!(id_of(&new), id);
    for key in [&old, &new] {
        let reply = post(gateway.address, PATH, Some(key), &chat(2));
        assert_eq!(gateway.settled_row(&reply.head.request_id())["key_id"], id);
    }
    let newest = gateway.command(&["keys", "rotate", id, "--overlap", "0s"]).trim().to_owned();
    assert_eq!([&old, &new, &newest].map(|key| status(&gateway, key)), [401, 401, 200]);
    let reply = post(gateway.address, PATH, Some(&new), &chat(2));
    assert!(reply.openai_error()["message"].as_str().unwrap().contains("rotated"), "{}", reply.text());

    // An overlap that ends while nothing else happens.
    let reply = gateway.ask_admin("POST", &format!("/v1/keys/{id}/rotate"), &json!({"overlap": "1s"}));
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(status(&gateway, reply.json()["key"].as_str().unwrap()), 200);
    eventually_true("the overlap is over", || status(&gateway, &newest) == 401);
}

#[test]
fn revoking_a_key_with_its_streams_ends_them_at_llama_server_and_frees_the_slot() {
    let engine = Engine::start(Options::speaking().slots(1));
    let gateway = Gateway::start(&engine.url());
    let (id, key) = create(&gateway, &json!({"tenant": "globex"}));
    let long = with(chat_stream(1500), json!({"ignore_eos": true}));
    let mut running = client::open(gateway.address, PATH, Some(&key), &long);
    running.next_text();
    let waiting = {
        let mut conn = gateway.conn();
        conn.send(&client::request(PATH, Some(&key), chat(5).to_string().as_bytes())).unwrap();
        conn
    };
    gateway.wait_depth(1);
    let request_id = running.head.request_id();
    let reply = gateway.ask_admin("POST", &format!("/v1/keys/{id}/revoke"), &json!({"end_streams": true}));
    assert_eq!((reply.status, &reply.json()["state"]), (200, &json!("revoked")), "{reply:?}");

    let event = last_event(running);
    assert!(event.contains("invalid_api_key") && event.contains("The API key has been revoked."), "{event}");
    let refused = waiting.answer().unwrap().reply().unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (401, "invalid_api_key"));
    wait_idle(&engine);
    let row = gateway.settled_row(&request_id);
    assert_eq!(row["ending"], "invalid_api_key");
    assert!(row["completion_tokens"].as_u64().unwrap() > 0, "{row}");
    assert_eq!(gateway.settled_row(&refused.head.request_id())["ending"], "invalid_api_key");
    assert_eq!(gateway.post(PATH, &chat(2)).status, 200, "the slot is free for others");
}

#[test]
fn a_key_that_is_revoked_alone_may_finish_what_it_runs() {
    let stub = Stub::start(2);
    let gateway = Gateway::start(&stub.url());
    let (id, key) = create(&gateway, &json!({"tenant": "globex"}));
    stub.plan(held());
    let answer = client::open(gateway.address, PATH, Some(&key), &chat_stream(5));
    let other = gateway.open(PATH, &chat_stream(5));
    stub.wait_held(0);
    stub.wait_held(1);
    gateway.command(&["keys", "revoke", &id]);
    assert_eq!(status(&gateway, &key), 401);
    stub.release(0);
    assert_eq!(last_event(answer), "data: [DONE]");
    // Revoking it again, with its streams, ends nobody else's.
    gateway.command(&["keys", "revoke", &id, "--end-streams"]);
    stub.release(1);
    assert_eq!(last_event(other), "data: [DONE]");
}

#[test]
fn the_command_line_ends_streams_in_a_server_that_nobody_asks_anything() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let key = gateway.create_key("globex");
    stub.plan(held());
    let messages = json!({"model": "stub", "max_tokens": 9, "stream": true,
        "messages": [{"role": "user", "content": "hi"}]});
    let anthropic = client::open(gateway.address, "/v1/messages", Some(&key), &messages);
    stub.wait_held(0);
    gateway.command(&["keys", "revoke", id_of(&key), "--end-streams"]);
    let event = last_event(anthropic);
    assert!(event.starts_with("event: error") && event.contains("authentication_error"), "{event}");
    stub.wait_closed(0);
}

#[test]
fn a_key_is_refused_what_is_not_in_its_scope_in_the_shape_of_the_surface() {
    let gateway = Gateway::with_config(&shared().url(), "[models]\naliases = [\"gpt-x\", \"gpt-y\"]");
    let refused = |key: &str, path: &str, body: &Value, code: &str, param: Option<&str>| {
        let reply = post(gateway.address, path, Some(key), body);
        assert_eq!((reply.status, reply.head.header("x-should-retry")), (403, Some("false")), "{path}: {reply:?}");
        if path.starts_with("/v1/messages") {
            let error = &reply.json()["error"];
            assert_eq!((&reply.json()["type"], &error["type"]), (&json!("error"), &json!("permission_error")));
            assert_eq!(reply.json()["request_id"], reply.head.request_id());
        } else {
            let error = reply.openai_error();
            assert_eq!((&error["type"], &error["code"]), (&json!("permission_error"), &json!(code)), "{path}");
            assert_eq!(error["param"].as_str(), param);
        }
    };
    let message = |model: &str| with(chat(3), json!({"model": model}));

    let (_, key) = create(&gateway, &json!({"tenant": "globex", "surfaces": ["completions"]}));
    let completion = json!({"model": "gpt-x", "prompt": "Once", "max_tokens": 2});
    assert_eq!(post(gateway.address, "/v1/completions", Some(&key), &completion).status, 200);
    for path in [PATH, "/v1/messages", "/v1/messages/count_tokens", "/v1/responses", "/v1/embeddings", "/tokenize"] {
        refused(&key, path, &message("gpt-x"), "endpoint_not_allowed", None);
    }

    let (id, key) = create(&gateway, &json!({"tenant": "globex", "models": ["gpt-x"]}));
    assert_eq!(post(gateway.address, PATH, Some(&key), &message("gpt-x")).status, 200);
    // By another alias, by llama-server's own name, or by none, which means its own.
    for model in [json!({"model": "gpt-y"}), json!({"model": "test-model"}), json!({"model": null})] {
        for path in [PATH, "/v1/messages"] {
            refused(&key, path, &with(chat(3), model.clone()), "model_not_allowed", Some("model"));
        }
    }
    refused(&key, "/tokenize", &json!({"content": "x"}), "model_not_allowed", Some("model"));
    let shown = |key: &str| -> Vec<String> {
        let list = get_as(gateway.address, "/v1/models", Some(key)).unwrap().json();
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(shown(&key), ["gpt-x"]);
    assert_eq!(shown(&gateway.key), ["test-model", "gpt-x", "gpt-y"]);
    let one = |model: &str| get_as(gateway.address, &format!("/v1/models/{model}"), Some(&key)).unwrap();
    assert_eq!(one("gpt-x").status, 200);
    for model in ["gpt-y", "test-model", "nothing"] {
        assert_eq!((one(model).status, one(model).code().as_str()), (404, "model_not_found"), "{model}");
    }

    // What is changed counts at once; taking a restriction away, too.
    assert_eq!(change(&gateway, &id, &json!({"models": ["test-model"]})).status, 200);
    assert_eq!(post(gateway.address, PATH, Some(&key), &message("test-model")).status, 200);
    refused(&key, PATH, &message("gpt-x"), "model_not_allowed", Some("model"));
    gateway.command(&["keys", "change", &id, "--models", ""]);
    assert_eq!(post(gateway.address, PATH, Some(&key), &message("gpt-y")).status, 200);
}

#[test]
fn while_no_model_is_known_a_key_for_some_models_is_told_to_come_back() {
    let gateway = Gateway::launch(&["http://127.0.0.1:9"], "");
    let (_, key) = create(&gateway, &json!({"tenant": "globex", "models": ["kimi"]}));
    let reply = post(gateway.address, PATH, Some(&key), &chat(2));
    assert_eq!((reply.status, reply.code().as_str()), (503, "backend_unavailable"));
}

#[test]
fn a_key_is_for_its_networks_as_the_connection_or_a_trusted_proxy_says() {
    let stub = Stub::start(1);
    let direct = Gateway::start(&stub.url());
    let elsewhere = |gateway: &Gateway| create(gateway, &json!({"tenant": "globex", "networks": ["192.0.2.0/24"]})).1;
    let here = |gateway: &Gateway| create(gateway, &json!({"tenant": "globex", "networks": ["127.0.0.0/8"]})).1;
    assert_eq!(status(&direct, &here(&direct)), 200);
    let key = elsewhere(&direct);
    for headers in ["", "X-Forwarded-For: 192.0.2.7\r\n"] {
        let reply = reply_to(&direct, &key, headers);
        assert_eq!((reply.status, reply.code().as_str()), (403, "ip_not_authorized"), "{headers}");
        assert_eq!(reply.openai_error()["type"], "permission_error");
        assert!(!reply.text().contains("127.0.0.1"));
    }
    let reply = post(direct.address, "/v1/messages", Some(&key), &chat(2));
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (403, &json!("permission_error")));
    assert_eq!(direct.usage_rows().len(), 0);

    let proxied = Gateway::with_config(&stub.url(), "[server]\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]");
    let (there, local, free) = (elsewhere(&proxied), here(&proxied), proxied.key.clone());
    for (key, headers, wanted) in [
        (&there, "X-Forwarded-For: 192.0.2.7\r\n", 200),
        (&there, "X-Forwarded-For: 198.51.100.1, 192.0.2.7, 10.1.1.1\r\n", 200),
        (&there, "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-For: 198.51.100.1\r\n", 403),
        (&there, "X-Forwarded-For: 192.0.2.7, nonsense\r\n", 403),
        (&there, "", 403),
        (&local, "", 200),
        (&local, "X-Forwarded-For: 192.0.2.7\r\n", 403),
        (&free, "X-Forwarded-For: nonsense\r\n", 200),
    ] {
        assert_eq!(reply_to(&proxied, key, headers).status, wanted, "{headers}");
    }
}

#[test]
fn the_admin_api_does_what_the_command_line_does() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[policies.gold]\nslots = 1");
    let body = json!({"tenant": "globex", "label": "laptop", "policy": "gold", "expires": "90d",
        "models": ["stub"], "surfaces": ["chat"], "networks": ["127.0.0.0/8"]});
    let reply = gateway.ask_admin("POST", "/v1/keys", &body);
    let created = reply.json();
    let (id, key) = (created["id"].as_str().unwrap().to_owned(), created["key"].as_str().unwrap().to_owned());
    for (name, value) in body.as_object().unwrap().iter().filter(|(name, _)| *name != "expires") {
        assert_eq!(created[name], *value, "{created}");
    }
    assert_eq!((&created["object"], &created["state"], id_of(&key)), (&json!("api_key"), &json!("valid"), &*id));
    assert!(created["expires"].as_str().unwrap() > created["created"].as_str().unwrap(), "{created}");
    assert_eq!(status(&gateway, &key), 200);

    let path = format!("/v1/keys/{id}");
    let get = || gateway.ask_admin("GET", &path, &Value::Null).json();
    let stored = get();
    assert!(stored.get("key").is_none(), "a key is shown once: {stored}");
    let listed = gateway.ask_admin("GET", "/v1/keys", &Value::Null).json();
    assert_eq!(listed["object"], "list");
    let by_command: Value = serde_json::from_str(&gateway.command(&["keys", "list", "--json"])).unwrap();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    assert!(by_command.as_array().unwrap().contains(&stored), "{by_command}");

    let changed = change(&gateway, &id, &json!({"label": "desk", "policy": null, "expires": null, "surfaces": []}));
    let changed = changed.json();
    assert_eq!(changed, with(stored, json!({"label": "desk", "policy": null, "expires": null, "surfaces": []})));
    assert_eq!(get(), changed);
    let rotated = gateway.ask_admin("POST", &format!("{path}/rotate"), &Value::Null).json();
    assert!(rotated["previous_until"].is_string() && rotated["rotated"].is_string(), "{rotated}");
    let newer = rotated["key"].as_str().unwrap();
    assert_eq!([&key, newer].map(|key| status(&gateway, key)), [200, 200]);
    let revoked = gateway.ask_admin("POST", &format!("{path}/revoke"), &Value::Null).json();
    assert_eq!(revoked["state"], "revoked");
    assert_eq!([&key, newer].map(|key| status(&gateway, key)), [401, 401]);
    let again = gateway.ask_admin("POST", &format!("{path}/revoke"), &json!({"end_streams": false})).json();
    assert_eq!(again["revoked"], revoked["revoked"]);

    // Each change is one line that says who, what and whose, and no secret.
    let log = gateway.log();
    for action in ["create", "change", "rotate", "revoke"] {
        let line = |line: &&str| line.contains(&format!("action=\"{action}\"")) && line.contains(&id);
        let lines: Vec<_> = log.lines().filter(line).collect();
        assert_eq!(lines.len(), if action == "revoke" { 2 } else { 1 }, "{log}");
        assert!(lines[0].contains("who=\"admin\"") && lines[0].contains("tenant=\"globex\""), "{lines:?}");
    }
    assert!(!log.contains(&key) && !log.contains(newer) && !log.contains(ADMIN_KEY), "a key in the log");
}

#[test]
fn the_command_line_takes_away_what_it_has_given() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let id = id_of(&gateway.key);
    let change = |args: &[&str]| {
        gateway.command(&[&["keys", "change", id], args].concat());
        gateway.ask_admin("GET", &format!("/v1/keys/{id}"), &Value::Null).json()
    };
    let before = change(&["--label", ""]);
    let all = ["--label", "x", "--policy", "default", "--expires", "1h", "--models", "a,b", "--surfaces", "chat"];
    let after = change(&[&all[..], &["--networks", "::1,10.0.0.0/8"]].concat());
    assert!(after["expires"].is_string(), "{after}");
    let lists = json!({"models": ["a", "b"], "surfaces": ["chat"], "networks": ["::1/128", "10.0.0.0/8"]});
    let further = json!({"label": "x", "policy": "default", "expires": after["expires"]});
    assert_eq!(after, with(with(before.clone(), lists), further));
    let nothing = ["--label", "--policy", "--expires", "--models", "--surfaces", "--networks"].map(|name| [name, ""]);
    assert_eq!(change(nothing.as_flattened()), before);
    let output = run(&["keys", "change", id], b"");
    assert!(!output.status.success(), "nothing to change");
}

#[test]
fn the_admin_api_names_the_field_at_fault() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let id = id_of(&gateway.key);
    let one = |rest: &str| format!("/v1/keys/{id}{rest}");
    let over = |field: Value| with(json!({"tenant": "globex"}), field);
    for (method, path, body, param) in [
        ("POST", "/v1/keys".to_owned(), json!({}), Some("tenant")),
        ("POST", "/v1/keys".to_owned(), json!({"tenant": "a b"}), Some("tenant")),
        ("POST", "/v1/keys".to_owned(), over(json!({"tenants": "x"})), Some("tenants")),
        ("POST", "/v1/keys".to_owned(), over(json!({"label": "a\nb"})), Some("label")),
        ("POST", "/v1/keys".to_owned(), over(json!({"policy": "gold"})), Some("policy")),
        ("POST", "/v1/keys".to_owned(), over(json!({"expires": "yesterday"})), Some("expires")),
        ("POST", "/v1/keys".to_owned(), over(json!({"expires": 5})), Some("expires")),
        ("POST", "/v1/keys".to_owned(), over(json!({"models": [""]})), Some("models")),
        ("POST", "/v1/keys".to_owned(), over(json!({"surfaces": ["chats"]})), Some("surfaces")),
        ("POST", "/v1/keys".to_owned(), over(json!({"networks": ["10.0.0.0/33"]})), Some("networks")),
        ("PATCH", one(""), json!({"tenant": "other"}), Some("tenant")),
        ("PATCH", one(""), json!({"policy": "gold"}), Some("policy")),
        ("PATCH", one(""), json!({"surfaces": [1]}), Some("surfaces")),
        ("POST", one("/rotate"), json!({"overlap": "soon"}), Some("overlap")),
        ("POST", one("/revoke"), json!({"end_streams": "yes"}), Some("end_streams")),
        ("POST", one("/revoke"), json!([]), None),
    ] {
        let reply = gateway.ask_admin(method, &path, &body);
        assert_eq!(reply.status, 400, "{method} {path} {body}: {reply:?}");
        assert_eq!(reply.openai_error()["param"].as_str(), param, "{method} {path} {body}: {}", reply.text());
        assert!(!reply.head.request_id().is_empty());
    }
    let raw = |body: &[u8]| {
        let bytes = client::request_of("POST", "/v1/keys", Some(ADMIN_KEY), body);
        exchange(gateway.admin, &bytes).unwrap().reply().unwrap().status
    };
    assert_eq!([raw(b"{"), raw(b"{\"tenant\":\"a\"} {}"), raw(&vec![b' '; 70_000])], [400, 400, 413]);
    for (method, path) in [("GET", ""), ("PATCH", ""), ("POST", "/rotate"), ("POST", "/revoke")] {
        let reply = gateway.ask_admin(method, &format!("/v1/keys/nobodys{path}"), &Value::Null);
        assert_eq!((reply.status, reply.code().as_str()), (404, "key_not_found"), "{method} {path}");
    }
    assert_eq!(gateway.ask_admin("DELETE", &one(""), &Value::Null).status, 405);
    // Nothing of all that has changed anything.
    assert_eq!(gateway.ask_admin("GET", "/v1/keys", &Value::Null).json()["data"].as_array().unwrap().len(), 1);
    assert_eq!(gateway.post(PATH, &chat(2)).status, 200);
}

#[test]
fn every_admin_route_needs_the_admin_key() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let one = format!("/v1/keys/{}", id_of(&gateway.key));
    for (method, path) in [
        ("GET", "/v1/keys".to_owned()),
        ("POST", "/v1/keys".to_owned()),
        ("GET", one.clone()),
        ("PATCH", one.clone()),
        ("POST", format!("{one}/rotate")),
        ("POST", format!("{one}/revoke")),
    ] {
        for key in [None, Some(gateway.key.as_str())] {
            let bytes = client::request_of(method, &path, key, b"{}");
            let reply = exchange(gateway.admin, &bytes).unwrap().reply().unwrap();
            assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_api_key"), "{method} {path}");
        }
    }
    assert_eq!(gateway.post(PATH, &chat(2)).status, 200, "nobody has revoked it");
}

#[test]
fn while_another_process_has_the_file_locked_requests_go_on_and_changes_are_refused() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let other = rusqlite::Connection::open(gateway.data().join("keys.sqlite")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert_eq!(gateway.post(PATH, &chat(2)).status, 200);
    let refused = gateway.ask_admin("POST", "/v1/keys", &json!({"tenant": "globex"}));
    assert_eq!((refused.status, refused.code().as_str()), (500, "internal_error"));
    assert!(!refused.text().contains("sqlite") && gateway.log().contains("database is locked"), "{}", gateway.log());
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(gateway.ask_admin("POST", "/v1/keys", &json!({"tenant": "globex"})).status, 201);
}

#[test]
fn the_last_use_survives_a_kill_up_to_a_few_seconds_and_a_shutdown_to_the_end() {
    let stub = Stub::start(1);
    let mut gateway = Gateway::start(&stub.url());
    let keys =
        |gateway: &Gateway| -> Value { serde_json::from_str(&gateway.command(&["keys", "list", "--json"])).unwrap() };
    assert!(keys(&gateway)[0]["last_used"].is_null());
    // The list of models leaves no row in the ledger.
    assert_eq!(status(&gateway, &gateway.key), 200);
    let first = eventually("the use is written down", || keys(&gateway)[0]["last_used"].as_str().map(str::to_owned));
    gateway.restart();
    assert_eq!(keys(&gateway)[0]["last_used"], first, "kill -9 has left it there");
    // It took seconds until it was written down, so this is later.
    assert_eq!(status(&gateway, &gateway.key), 200);
    gateway.term();
    gateway.wait_exit();
    assert!(keys(&gateway)[0]["last_used"].as_str().unwrap() > first.as_str());
}

/// A file of declared keys in a directory as Kubernetes mounts it: a symbolic link that is swapped.
fn swap(mount: &Path, version: &str, text: &str) {
    std::fs::create_dir(mount.join(version)).unwrap();
    std::fs::write(mount.join(version).join("keys.toml"), text).unwrap();
    std::os::unix::fs::symlink(version, mount.join("new")).unwrap();
    std::fs::rename(mount.join("new"), mount.join("..data")).unwrap();
}

/// Runs `keys declare`; gives the key and what declares it.
fn declare(args: &[&str]) -> (String, String) {
    let output = run(&[&["keys", "declare", "--tenant", "globex"], args].concat(), b"");
    assert!(output.status.success(), "{output:?}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stderr).trim().to_owned(), text(output.stdout))
}

fn run(args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-gateway"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn declared_keys_follow_their_file() {
    let stub = Stub::start(1);
    let mount = tempfile::tempdir().unwrap();
    let ((one, first), (other, second)) = (declare(&["--surfaces", "chat"]), declare(&["--label", "robot"]));
    swap(mount.path(), "..1", &first);
    let file = mount.path().join("..data/keys.toml");
    let gateway = Gateway::with_config(&stub.url(), &format!("[keys]\nfile = {file:?}"));
    assert_eq!([&one, &other].map(|key| status(&gateway, key)), [200, 401]);
    assert_eq!(post(gateway.address, "/v1/completions", Some(&one), &chat(2)).code(), "endpoint_not_allowed");
    let reply = post(gateway.address, PATH, Some(&one), &chat(2));
    assert_eq!(gateway.settled_row(&reply.head.request_id())["key_id"], id_of(&one));

    let listed = gateway.ask_admin("GET", &format!("/v1/keys/{}", id_of(&one)), &Value::Null).json();
    assert_eq!((&listed["declared"], &listed["tenant"]), (&json!(true), &json!("globex")), "{listed}");
    for path in ["rotate", "revoke"] {
        let reply = gateway.ask_admin("POST", &format!("/v1/keys/{}/{path}", id_of(&one)), &json!({}));
        assert!(reply.status == 400 && reply.text().contains("declared in a file"), "{reply:?}");
    }

    swap(mount.path(), "..2", &format!("{first}{second}"));
    eventually_true("the other key is there", || status(&gateway, &other) == 200);
    assert_eq!(status(&gateway, &one), 200);
    // A wrong file changes nothing, and is told.
    swap(mount.path(), "..3", &format!("{second}label = 5\n"));
    eventually_true("the error is told", || gateway.metric("llama_gateway_declared_keys_healthy") == 0.0);
    assert_eq!([&one, &other].map(|key| status(&gateway, key)), [200, 200]);
    let line = second.lines().count() + 1;
    assert!(gateway.log().contains(&format!("keys.toml:{line}: ")), "{}", gateway.log());
    assert_eq!(gateway.log().matches("the file of declared keys cannot be used").count(), 1);
    // What runs of a key that is declared no more goes on.
    stub.plan(held());
    let answer = client::open(gateway.address, PATH, Some(&one), &chat_stream(5));
    stub.wait_held(1);
    swap(mount.path(), "..4", &second);
    eventually_true("the first key is gone", || status(&gateway, &one) == 401);
    assert_eq!(gateway.metric("llama_gateway_declared_keys_healthy"), 1.0);
    stub.release(1);
    assert_eq!(last_event(answer), "data: [DONE]");
    assert_eq!(status(&gateway, &other), 200);
}

#[test]
fn a_wrong_file_of_declared_keys_keeps_the_gateway_from_starting_and_check_config_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (keys, config) = (directory.path().join("keys.toml"), directory.path().join("config.toml"));
    std::fs::write(&config, format!("[keys]\nfile = {keys:?}\n[server]\ndata_dir = {:?}", directory.path())).unwrap();
    let config = config.to_str().unwrap();
    let (key, stanza) = declare(&["--config", config]);
    for (text, place) in [(format!("{stanza}tenants = 1"), "keys.toml:"), (stanza.repeat(2), "declared twice")] {
        std::fs::write(&keys, text).unwrap();
        for args in [["check-config", config], ["serve", "--config"]] {
            let output = run(&[&args[..], &[config][..usize::from(args[0] == "serve")]].concat(), b"");
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && error.contains(place) && !error.contains(&key), "{args:?}: {error}");
        }
    }
    std::fs::write(&keys, &stanza).unwrap();
    assert!(run(&["check-config", config], b"").status.success());
    let list = run(&["keys", "list", "--config", config], b"");
    assert!(String::from_utf8(list.stdout).unwrap().contains("declared"), "the command line shows them, too");
}

#[test]
fn a_key_is_checked_offline() {
    let (key, _) = declare(&[]);
    let good = run(&["keys", "check"], format!("{key}\n").as_bytes());
    assert!(good.status.success() && String::from_utf8(good.stdout).unwrap().contains(id_of(&key)));
    let mistyped =
        if key.ends_with('a') { key[..key.len() - 1].to_owned() + "b" } else { key[..key.len() - 1].to_owned() + "a" };
    for text in ["", "sk-something", &mistyped, &key[1..]] {
        let bad = run(&["keys", "check"], text.as_bytes());
        let error = String::from_utf8(bad.stderr).unwrap();
        assert!(!bad.status.success() && error.contains("not a key") && !error.contains(&key[20..40]), "{error}");
    }
}
