//! What the ledger promises when the gateway dies.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::engine::{Engine, Options, shared, wait_idle};
use crate::harness::gateway::{Gateway, is_settled};
use crate::harness::stub::{PROMPT_TOKENS, Step, Stub};
use crate::harness::{chat, chat_stream, eventually, eventually_true, with};

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
fn after_kill_9_a_real_stream_is_counted_up_to_the_progress_interval() {
    let engine = Engine::start(Options::speaking());
    let mut gateway = Gateway::with_config(&engine.url(), FAST);
    let long = with(chat_stream(1800), json!({"ignore_eos": true}));
    let mut answer = gateway.stream_chat(&long);
    let id = answer.head.request_id();
    let mut seen = 1;
    // Reads on until the ledger has caught up with what was read some time before.
    let written = eventually("progress is written ahead", || {
        answer.next_text();
        seen += 1;
        let written = tokens(&gateway.row(&id));
        (written >= 20).then_some(written)
    });
    gateway.restart();
    let row = gateway.row(&id);
    assert_eq!(row["ending"], "interrupted");
    assert!(tokens(&row) >= written, "{row}");
    wait_idle(&engine);
    let generated = engine.counters()["llamacpp:tokens_predicted_total"] as u64;
    assert!(tokens(&row) <= generated + 1, "{row}, {generated} generated");
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}

#[test]
fn kill_9_at_random_moments_never_loses_a_started_request_or_an_end_that_was_seen() {
    let mut gateway = Gateway::with_config(&shared().url(), FAST);
    let mut complete = Vec::new();
    let mut started = Vec::new();
    for _ in 0..6 {
        let ends = AtomicUsize::new(0);
        let ids = std::thread::scope(|scope| {
            let clients = (0..3).map(|_| {
                let (gateway, ends) = (&gateway, &ends);
                scope.spawn(move || {
                    let mut ids = Vec::new();
                    // Until the gateway is gone: a request, and whether its end was seen.
                    while let Ok(answer) = crate::harness::client::exchange(
                        gateway.address,
                        &gateway.request("/v1/chat/completions", &chat_stream(40)),
                    ) {
                        let id = answer.head.request_id();
                        let body = answer.reply();
                        let ended = body.is_ok_and(|reply| reply.body.ends_with(b"data: [DONE]\n\n"));
                        ends.fetch_add(usize::from(ended), Ordering::Relaxed);
                        ids.push((id, ended));
                    }
                    ids
                })
            });
            let clients = clients.collect::<Vec<_>>();
            // The other two are then anywhere in a request.
            eventually_true("some requests have ended", || ends.load(Ordering::Relaxed) >= 2);
            gateway.kill9();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        for (id, ended) in ids {
            if ended { complete.push(id) } else { started.push(id) }
        }
        gateway.restart();
    }
    let rows = gateway.usage_rows();
    let row = |id: &String| rows.iter().find(|row| row["request_id"] == **id).unwrap_or_else(|| panic!("{id} is lost"));
    assert!(complete.len() > 6, "too few requests to tell: {}", complete.len());
    for id in &complete {
        let row = row(id);
        assert_eq!((&row["ending"], tokens(row)), (&json!("complete"), 40), "{row}");
    }
    for id in &started {
        assert!(["interrupted", "complete"].contains(&row(id)["ending"].as_str().unwrap()), "{}", row(id));
    }
    assert!(rows.iter().all(is_settled));
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
