//! Limits from outside: what a client is told, what a restart remembers, what the metrics add up to.

use crate::harness::gateway::Gateway;
use crate::harness::stub::{PROMPT_TOKENS, Step, Stub};
use crate::harness::{chat, chat_stream, eventually_true};

/// Probes often, so that the gateway is ready at once.
fn config(policy: &str) -> String {
    format!(
        "[upstream]\nprobe_interval = \"100ms\"\n[ledger]\nprogress_interval = \"50ms\"\n[policies.default]\n{policy}"
    )
}

#[test]
fn every_answer_tells_what_is_left_and_a_refusal_says_whose_limit_it_is() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), &config("requests_per_minute = 2\ntokens_per_minute = 30000"));
    let header = |reply: &crate::harness::client::Reply, name: &str| {
        reply.head.header(&format!("x-ratelimit-{name}")).map(str::to_owned)
    };
    let first = gateway.post("/v1/chat/completions", &chat(9));
    assert_eq!(first.status, 200);
    assert_eq!(header(&first, "limit-requests").as_deref(), Some("2"));
    assert_eq!(header(&first, "remaining-requests").as_deref(), Some("1"));
    assert_eq!(header(&first, "limit-tokens").as_deref(), Some("30000"));
    let models = gateway.get("/v1/models");
    assert_eq!(header(&models, "remaining-requests").as_deref(), Some("1"));
    assert_eq!(gateway.post("/v1/chat/completions", &chat(9)).status, 200);

    let refused = gateway.post("/v1/chat/completions", &chat(9));
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"));
    let message = refused.openai_error()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("The tenant's limit of 2 requests a minute is reached. Try again in 2"), "{message}");
    assert_eq!(header(&refused, "remaining-requests").as_deref(), Some("0"));
    let seconds: u64 = refused.head.header("retry-after").unwrap().parse().unwrap();
    assert!((20..=60).contains(&seconds), "{seconds}");
    assert_eq!(gateway.metric("llama_gateway_limit_refusals_total"), 1.0);
}

#[test]
fn after_every_kind_of_ending_the_bucket_agrees_with_the_ledger() {
    let stub = Stub::start(4);
    let gateway = Gateway::with_config(&stub.url(), &config("tokens_per_minute = 60000"));
    gateway.open("/v1/chat/completions", &chat_stream(9)).events();
    assert_eq!(gateway.post("/v1/chat/completions", &chat(9)).status, 200);
    // llama-server breaks off, or fails before any token.
    stub.plan_next(vec![Step::Head, Step::Tokens(2), Step::Cut]);
    gateway.open("/v1/chat/completions", &chat_stream(9)).events();
    stub.plan_next(vec![Step::Whole(500, serde_json::json!({"error": {"code": 500, "message": "no"}}))]);
    assert_eq!(gateway.post("/v1/chat/completions", &chat(9)).status, 502);
    // The client leaves in the middle.
    stub.plan_next(vec![Step::Head, Step::Tokens(5), Step::Gate]);
    let left = gateway.stream_chat(&chat_stream(9));
    let held = gateway.metric("llama_gateway_token_reservations_open");
    assert!(held > 0.0);
    let left_id = left.head.request_id();
    drop(left);
    gateway.settled_row(&left_id);
    eventually_true("nothing is reserved any more", || gateway.metric("llama_gateway_token_reservations_open") == 0.0);

    let rows = gateway.usage_rows();
    let of = |name: &str| rows.iter().map(|row| row[name].as_u64().unwrap()).sum::<u64>() as f64;
    let ledger = of("prompt_tokens") + of("completion_tokens");
    assert!(ledger >= (4 * PROMPT_TOKENS + 3 + 3 + 2 + 1) as f64, "{rows:?}");
    let metrics = gateway.metrics();
    let bucket = |name: &str| metrics[&format!("llama_gateway_token_bucket_{name}{{tenant=\"acme\"}}")];
    assert_eq!(bucket("settled"), ledger);
    assert_eq!(bucket("drift"), 0.0);
    assert_eq!(bucket("level"), bucket("capacity") + bucket("refilled") - bucket("settled"));
}

#[test]
fn quotas_and_debts_survive_kill_9_with_what_was_running() {
    let stub = Stub::start(4);
    let policy = "tokens_per_day = 140\ntokens_per_minute = 10";
    let mut gateway = Gateway::with_config(&stub.url(), &config(policy));
    stub.plan_next(vec![Step::Head, Step::Tokens(150), Step::Gate]);
    let running = gateway.stream_chat(&chat_stream(2000));
    eventually_true("its progress is in the ledger", || {
        gateway.row(&running.head.request_id())["completion_tokens"] == 150
    });
    gateway.restart();
    let used = 150.0 + PROMPT_TOKENS as f64;
    assert_eq!(gateway.metric("llama_gateway_quota_used_tokens"), used);
    let level = gateway.metric("llama_gateway_token_bucket_level");
    assert!((10.0 - used..0.0).contains(&level), "{level}");
    assert_eq!(gateway.metric("llama_gateway_token_bucket_drift"), 0.0);
    let refused = gateway.post("/v1/chat/completions", &chat(9));
    assert_eq!((refused.status, refused.code().as_str()), (429, "insufficient_quota"));
    assert_eq!(refused.head.header("retry-after"), None);
}
