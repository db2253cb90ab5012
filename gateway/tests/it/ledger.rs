//! What the ledger promises when the gateway dies.

use serde_json::{Value, json};

use crate::harness::engine::shared;
use crate::harness::gateway::{Gateway, is_settled};
use crate::harness::stub::{PROMPT_TOKENS, Step, Stub};
use crate::harness::{chat, chat_stream, eventually_true};

const FAST: &str = "[ledger]\nprogress_interval = \"100ms\"\n[upstream]\nprobe_interval = \"100ms\"\n";

fn tokens(row: &Value) -> u64 {
    row["completion_tokens"].as_u64().unwrap_or_default()
}

#[test]
fn after_kill_9_live_streams_are_interrupted_with_the_tokens_of_the_last_step() {
    let stub = Stub::start(3);
    let mut gateway = Gateway::with_config(&stub.url(), FAST);
    let finished = gateway.open("/v1/chat/completions", &chat_stream(9));
    let finished_id = finished.head.request_id();
    assert_eq!(finished.events().last().unwrap(), "data: [DONE]");
    stub.plan(vec![Step::Head, Step::Tokens(5), Step::Gate, Step::Finish, Step::End]);
    let live = (0..2).map(|_| gateway.stream_chat(&chat_stream(9))).collect::<Vec<_>>();
    let mut unstreamed = gateway.conn();
    unstreamed.send(&gateway.request("/v1/chat/completions", &chat(9))).unwrap();
    stub.wait_held(3);
    eventually_true("progress of all live requests is written ahead", || {
        let rows = gateway.usage_rows();
        rows.len() == 4 && rows.iter().filter(|row| !is_settled(row) && tokens(row) == 5).count() == 3
    });
    gateway.restart();

    let row = gateway.row(&finished_id);
    assert_eq!((&row["ending"], tokens(&row)), (&json!("complete"), 3));
    for answer in &live {
        let row = gateway.row(&answer.head.request_id());
        assert_eq!((&row["ending"], tokens(&row)), (&json!("interrupted"), 5), "{row}");
        assert_eq!(row["prompt_tokens"], PROMPT_TOKENS);
    }
    let rows = gateway.usage_rows();
    assert_eq!(rows.iter().filter(|row| row["ending"] == "interrupted").count(), 3, "{rows:?}");
    stub.wait_closed(1);
}

#[test]
fn a_request_that_had_no_token_yet_has_a_row_after_kill_9_too() {
    let stub = Stub::start(1);
    let mut gateway = Gateway::with_config(&stub.url(), FAST);
    stub.plan_next(vec![Step::Gate]);
    let mut conn = gateway.conn();
    conn.send(&gateway.request("/v1/chat/completions", &chat_stream(9))).unwrap();
    // llama-server has it: so its row is durable.
    stub.wait_held(0);
    gateway.restart();
    let rows = gateway.usage_rows();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&rows[0]["ending"], tokens(&rows[0])), (&json!("interrupted"), 0));
}

#[test]
fn usage_can_be_asked_while_the_gateway_runs_and_after_it_has_ended() {
    let gateway = Gateway::start(&shared().url());
    let reply = gateway.post("/v1/chat/completions", &chat(4));
    let running = gateway.settled_row(&reply.head.request_id());
    gateway.term();
    gateway.wait_exit();
    assert_eq!(gateway.usage_rows(), [running]);
}
