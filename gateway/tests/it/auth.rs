//! Keys: every way to send one, and every way in which one is refused.

use serde_json::json;

use crate::harness::client::{exchange, get_as, post};
use crate::harness::engine::{Engine, Options, shared};
use crate::harness::gateway::Gateway;
use crate::harness::stub::Stub;
use crate::harness::{chat, eventually_true};

const PATH: &str = "/v1/chat/completions";

fn status_with(gateway: &Gateway, header: &str) -> u16 {
    let body = chat(2).to_string();
    let bytes = format!("POST {PATH} HTTP/1.1\r\nHost: t\r\n{header}Content-Length: {}\r\n\r\n{body}", body.len());
    exchange(gateway.address, bytes.as_bytes()).unwrap().head.status
}

#[test]
fn a_key_is_taken_from_each_header_that_clients_use() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let key = &gateway.key;
    for header in ["Authorization: Bearer ", "Authorization: bearer ", "x-api-key: ", "api-key: "] {
        assert_eq!(status_with(&gateway, &format!("{header}{key}\r\n")), 200, "{header}");
    }
    let last = &key[..key.len() - 1];
    for header in [
        String::new(),
        "Authorization: Bearer \r\n".to_owned(),
        format!("Authorization: {key}\r\n"),
        format!("Authorization: Basic {key}\r\n"),
        format!("Authorization: Bearer {last}\r\n"),
        format!("Authorization: Bearer {key}x\r\n"),
        format!("Authorization: Bearer {}\r\n", key.to_uppercase()),
        format!("x-api-key: {last}\r\n"),
        format!("Cookie: api-key={key}\r\n"),
        format!("Authorization: Bearer {}\r\n", "k".repeat(8000)),
    ] {
        assert_eq!(status_with(&gateway, &header), 401, "{header}");
    }
    assert_eq!(stub.count(), 4);
}

#[test]
fn a_refused_key_is_answered_in_the_shape_of_the_surface_and_never_echoed() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    for key in [None, Some("sk-wrong-secret")] {
        let reply = post(gateway.address, PATH, key, &chat(2));
        assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_api_key"));
        assert!(reply.head.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
        assert!(!reply.text().contains("wrong-secret"));
        let reply = post(gateway.address, "/v1/messages", key, &chat(2));
        assert_eq!((reply.status, &reply.json()["error"]["type"]), (401, &json!("authentication_error")));
        assert_eq!(reply.json()["request_id"], reply.head.request_id());
    }
    assert!(!gateway.log().contains("wrong-secret"));
    assert_eq!(gateway.usage_rows().len(), 0);
}

#[test]
fn every_route_needs_a_key() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/messages/count_tokens",
        "/v1/rerank",
        "/tokenize",
        "/detokenize",
        "/apply-template",
    ] {
        assert_eq!(post(gateway.address, path, None, &json!({})).status, 401, "{path}");
    }
    for path in ["/v1/models", "/v1/models/stub"] {
        assert_eq!(get_as(gateway.address, path, None).unwrap().status, 401, "{path}");
    }
    assert_eq!(stub.count(), 0);
}

#[test]
fn keys_are_created_listed_and_revoked_while_the_gateway_runs() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let key = gateway.command(&["keys", "create", "--tenant", "globex", "--label", "laptop"]).trim().to_owned();
    assert_eq!(post(gateway.address, PATH, Some(&key), &chat(2)).status, 200, "a new key works");
    let list = gateway.command(&["keys", "list"]);
    assert!(list.contains("globex") && list.contains("laptop"), "{list}");
    assert!(!list.contains(&key), "a key is shown once");
    let rows = gateway.usage_rows();
    let id = rows.iter().find(|row| row["tenant"] == "globex").unwrap()["key_id"].as_str().unwrap().to_owned();
    assert!(list.contains(&id), "{id} in {list}");
    gateway.command(&["keys", "revoke", &id]);
    assert_eq!(post(gateway.address, PATH, Some(&key), &chat(2)).status, 401, "a revoked key is refused");
    assert_eq!(gateway.post(PATH, &chat(2)).status, 200, "other keys go on");
    assert!(!gateway.log().contains(&key) && !gateway.log().contains(&gateway.key), "a key in the log");
}

#[test]
fn a_key_expires() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let key = gateway.command(&["keys", "create", "--tenant", "globex", "--expires", "2s"]).trim().to_owned();
    let mut statuses = Vec::new();
    eventually_true("an expired key is refused", || {
        statuses.push(post(gateway.address, PATH, Some(&key), &chat(2)).status);
        statuses.last() == Some(&401) && statuses.contains(&200)
    });
}

#[test]
fn the_gateway_shows_llama_server_its_own_key_and_not_the_clients() {
    let engine = Engine::start(Options::tiny().args(&["--api-key", "upstream-secret"]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "upstream-secret\n").unwrap();
    let config = format!("[upstream]\napi_key_file = {:?}", file.path());
    let gateway = Gateway::with_config(&engine.url(), &config);
    assert_eq!(gateway.post(PATH, &chat(2)).status, 200);
    let refused = post(gateway.address, PATH, Some("upstream-secret"), &chat(2));
    assert_eq!(refused.status, 401);
    assert!(!gateway.log().contains("upstream-secret"));
}

#[test]
fn a_wrong_upstream_key_is_the_operators_fault_and_not_the_clients() {
    let engine = Engine::start(Options::tiny().args(&["--api-key", "upstream-secret"]));
    let gateway = Gateway::launch(&[&engine.url()], "");
    let reply = gateway.post(PATH, &chat(2));
    assert!(reply.status >= 500, "{reply:?}");
    assert!(!reply.text().to_lowercase().contains("key"), "{}", reply.text());
}

#[test]
fn tenants_are_kept_apart_in_the_ledger() {
    let gateway = Gateway::start(&shared().url());
    let other = gateway.create_key("globex");
    let mine = gateway.post(PATH, &chat(2)).head.request_id();
    let theirs = post(gateway.address, PATH, Some(&other), &chat(2)).head.request_id();
    assert_eq!(gateway.settled_row(&mine)["tenant"], "acme");
    assert_eq!(gateway.settled_row(&theirs)["tenant"], "globex");
}
