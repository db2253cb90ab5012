//! The admin port: health, metrics, and nothing for clients.

use serde_json::json;

use crate::harness::client::{get, get_as, post};
use crate::harness::engine::shared;
use crate::harness::gateway::{ADMIN_KEY, Gateway};
use crate::harness::stub::{Step, Stub};
use crate::harness::{chat, chat_stream, eventually_true, with};

#[test]
fn the_admin_port_tells_health_and_the_public_port_does_not() {
    let gateway = Gateway::start(&shared().url());
    assert_eq!(get(gateway.admin, "/livez").unwrap().status, 200);
    assert_eq!(get(gateway.admin, "/readyz").unwrap().status, 200);
    assert_eq!(get(gateway.admin, "/metrics").unwrap().status, 200);
    assert_eq!(get(gateway.admin, "/v1/models").unwrap().status, 404);
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_ne!(gateway.get(path).status, 200, "{path} on the public port");
    }
}

#[test]
fn the_admin_api_needs_its_own_key() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    assert_eq!(gateway.ask_admin("GET", "/v1/keys", &json!(null)).status, 200);
    for key in [None, Some(gateway.key.as_str()), Some("the-admin-key-of-the-test")] {
        let reply = get_as(gateway.admin, "/v1/keys", key).unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_api_key"), "{key:?}");
        assert_eq!(reply.head.header("www-authenticate"), Some("Bearer"));
        assert!(gateway.log().contains(&reply.head.request_id()), "{}", gateway.log());
    }
    assert_eq!(gateway.ask_admin("GET", "/v1/nothing", &json!(null)).code(), "unknown_url");
    assert_eq!(gateway.ask_admin("PUT", "/v1/keys", &json!(null)).code(), "method_not_allowed");
    // It is not served to clients, whatever they show.
    assert_eq!(get_as(gateway.address, "/v1/keys", Some(ADMIN_KEY)).unwrap().status, 401);
    assert_eq!(gateway.get("/v1/keys").status, 404);
    assert!(!gateway.log().contains("the-admin-key"), "a key in the log");
}

#[test]
fn a_rotated_admin_key_counts_at_once_and_without_one_the_admin_api_is_off() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let file = gateway.data().join("admin.key");
    std::fs::write(&file, "another-key-of-the-tests").unwrap();
    assert_eq!(gateway.ask_admin("GET", "/v1/keys", &json!(null)).status, 401);
    assert_eq!(get_as(gateway.admin, "/v1/keys", Some("another-key-of-the-tests")).unwrap().status, 200);
    std::fs::remove_file(&file).unwrap();
    let reply = get_as(gateway.admin, "/v1/keys", Some("another-key-of-the-tests")).unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (403, "admin_disabled"));
    assert!(reply.text().contains("`admin.key_file`") && !reply.text().contains("admin.key\""), "{}", reply.text());
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(gateway.admin, path).unwrap().status, 200, "{path} stays open");
    }
}

#[test]
fn requests_tokens_and_times_are_counted() {
    let gateway = Gateway::start(&shared().url());
    let stream = gateway.open("/v1/chat/completions", &chat_stream(8));
    let id = stream.head.request_id();
    stream.events();
    let reply = gateway.post("/v1/chat/completions", &chat(6));
    gateway.settled_row(&id);
    gateway.settled_row(&reply.head.request_id());
    assert_eq!(post(gateway.address, "/v1/chat/completions", None, &chat(2)).status, 401);
    eventually_true("both requests are counted", || gateway.metric("llama_gateway_requests_total") == 2.0);
    let metrics = gateway.metrics();
    let series = |start: &str, with: &[&str]| -> f64 {
        let found =
            metrics.iter().filter(|(key, _)| key.starts_with(start) && with.iter().all(|part| key.contains(part)));
        found.map(|(_, value)| value).sum()
    };
    assert_eq!(series("llama_gateway_requests_total", &["surface=\"chat\"", "ending=\"complete\""]), 2.0);
    assert_eq!(series("llama_gateway_tokens_total", &["tenant=\"acme\"", "kind=\"completion\""]), 14.0);
    assert!(series("llama_gateway_tokens_total", &["kind=\"prompt\""]) > 10.0);
    assert_eq!(series("llama_gateway_refused_total", &["reason=\"invalid_api_key\""]), 1.0);
    assert_eq!(series("llama_gateway_time_to_first_token_seconds_count", &["surface=\"chat\""]), 2.0);
    assert_eq!(series("llama_gateway_request_duration_seconds_count", &["surface=\"chat\""]), 2.0);
    assert!(series("llama_gateway_inter_token_latency_seconds_count", &[]) > 0.0);
    assert!(series("llama_gateway_stream_bytes_total", &[]) > 500.0);
    assert_eq!(series("llama_gateway_slots_total", &[]), 4.0);
    assert_eq!(series("llama_gateway_slots_busy", &[]), 0.0);
    assert_eq!(series("llama_gateway_upstream_ready", &[]), 1.0);
    assert_eq!(series("llama_gateway_ledger_healthy", &[]), 1.0);
}

#[test]
fn gauges_follow_a_request_and_come_back() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    stub.plan_next(vec![Step::Head, Step::Tokens(1), Step::Gate, Step::Finish, Step::End]);
    let answer = gateway.stream_chat(&chat_stream(3));
    assert_eq!(gateway.metric("llama_gateway_slots_busy"), 1.0);
    assert_eq!(gateway.metric("llama_gateway_open_connections"), 1.0);
    stub.release(0);
    answer.events();
    eventually_true("the gauges come back", || {
        gateway.metric("llama_gateway_slots_busy") == 0.0 && gateway.metric("llama_gateway_open_connections") == 0.0
    });
}

#[test]
fn nothing_that_a_client_sends_becomes_a_label() {
    let gateway = Gateway::start(&shared().url());
    gateway.post("/v1/chat/completions", &with(chat(2), json!({"model": "evil-model", "user": "evil-user"})));
    gateway.get("/evil-path");
    post(gateway.address, "/v1/chat/completions", Some("evil-key"), &chat(2));
    let text = get(gateway.admin, "/metrics").unwrap().text();
    assert!(!text.contains("evil"), "{text}");
    for row in gateway.usage_rows() {
        assert_eq!(row["model"], "test-model", "the ledger names the model that answered");
    }
}

#[test]
fn prompts_replies_and_keys_are_in_no_log() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[log]\nformat = \"json\"\nlevel = \"debug\"");
    let body = with(chat(3), json!({"messages": [{"role": "user", "content": "a-very-secret-prompt"}]}));
    let reply = gateway.post("/v1/chat/completions", &body);
    stub.plan(vec![Step::Whole(400, json!({"error": {"code": 400, "message": "a-very-secret-prompt", "type": "x"}}))]);
    gateway.post("/v1/chat/completions", &body);
    gateway.settled_row(&reply.head.request_id());
    let id = reply.head.request_id();
    eventually_true("the request has its line", || gateway.log().contains(&id));
    let log = gateway.log();
    assert!(!log.contains("a-very-secret-prompt") && !log.contains(" t1") && !log.contains(&gateway.key), "{log}");
    let line = log.lines().find(|line| line.contains(&id)).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not a JSON line: {line}"));
    assert!(line.to_string().contains("complete") && line.to_string().contains("acme"), "{line}");
    // One line a request.
    assert_eq!(log.lines().filter(|line| line.contains(&id) && line.contains("complete")).count(), 1);
}
