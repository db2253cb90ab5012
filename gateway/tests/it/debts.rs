//! What a restart remembers of the limits.

use crate::harness::gateway::Gateway;
use crate::harness::stub::{PROMPT_TOKENS, Step, Stub};
use crate::harness::{chat, chat_stream, eventually_true};

const CONFIG: &str = "[upstream]\nprobe_interval = \"100ms\"\n[ledger]\nprogress_interval = \"50ms\"\n\
    [policies.default]\ntokens_per_day = 140\ntokens_per_minute = 10";

#[test]
fn quotas_and_debts_survive_kill_9_with_what_was_running() {
    let stub = Stub::start(4);
    let mut gateway = Gateway::with_config(&stub.url(), CONFIG);
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
