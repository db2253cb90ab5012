//! A client that leaves costs nothing more, in whatever phase it leaves and however rudely.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::client::{Answer, Conn};
use crate::harness::engine::{Engine, Options, wait_idle};
use crate::harness::gateway::Gateway;
use crate::harness::stub::{PROMPT_TOKENS, Step, Stub};
use crate::harness::told::Leaving;
use crate::harness::{chat, chat_stream, eventually_true, median, with};

const BOTH: [Leaving; 2] = [Leaving::ByFin, Leaving::ByRst];

/// The target is 50 ms from the close to the close upstream. A busy machine may delay one; not the middle one.
const TARGET: Duration = Duration::from_millis(50);

/// Runs a request that is in some phase when it is left, five times for each way to leave; `phase` gives the
/// connection once it is there. Checks the upstream close, the row, and that the next request runs.
fn leaves_in(plan: Vec<Step>, tokens: u64, phase: impl Fn(&Gateway, &Stub, usize) -> Conn) {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[ledger]\nprogress_interval = \"20ms\"");
    let mut index = 0;
    for leaves in BOTH {
        let mut times = Vec::new();
        for _ in 0..5 {
            stub.plan_next(plan.clone());
            let conn = phase(&gateway, &stub, index);
            let left = leaves.go(conn);
            times.push(stub.wait_closed(index).saturating_duration_since(left));
            let next = gateway.post("/v1/chat/completions", &chat(3));
            assert_eq!(next.status, 200, "the slot is not free again: {}", next.text());
            index += 2;
        }
        eprintln!("{leaves:?}: upstream closed after {times:?}");
        assert!(median(times) < TARGET);
    }
    let rows = eventually_settled(&gateway, index);
    let left = rows.iter().filter(|row| row["ending"] == "client_left").collect::<Vec<_>>();
    assert_eq!(left.len(), index / 2, "{rows:?}");
    for row in left {
        assert_eq!(row["completion_tokens"], tokens, "{row}");
        if tokens > 0 {
            assert_eq!(row["counted_by"], "timings");
            assert_eq!(row["prompt_tokens"], PROMPT_TOKENS);
        }
    }
}

fn eventually_settled(gateway: &Gateway, count: usize) -> Vec<serde_json::Value> {
    crate::harness::eventually("all requests are settled", || {
        let rows = gateway.usage_rows();
        (rows.len() == count && rows.iter().all(crate::harness::gateway::is_settled)).then_some(rows)
    })
}

/// Sends without reading anything.
fn send(gateway: &Gateway, body: &serde_json::Value, behind: &[u8]) -> Conn {
    let mut conn = gateway.conn();
    let mut bytes = gateway.request("/v1/chat/completions", body);
    bytes.extend_from_slice(behind);
    conn.send(&bytes).unwrap();
    conn
}

fn held_after(tokens: u64) -> Vec<Step> {
    vec![Step::Head, Step::Tokens(tokens), Step::Gate, Step::Finish, Step::End]
}

#[test]
fn a_client_that_leaves_before_llama_server_answers_frees_the_slot() {
    leaves_in(vec![Step::Gate, Step::Head], 0, |gateway, stub, index| {
        let conn = send(gateway, &chat_stream(9), b"");
        stub.wait_held(index);
        conn
    });
}

#[test]
fn a_client_that_leaves_before_the_first_token_frees_the_slot() {
    leaves_in(held_after(0), 0, |gateway, stub, index| {
        let conn = send(gateway, &chat_stream(9), b"");
        stub.wait_held(index);
        conn
    });
}

#[test]
fn a_client_that_leaves_while_it_streams_frees_the_slot_and_is_counted_exactly() {
    leaves_in(held_after(5), 5, |gateway, stub, index| {
        let mut answer = gateway.stream_chat(&chat_stream(9));
        (1..5).for_each(|_| drop(answer.next_text()));
        stub.wait_held(index);
        answer.conn
    });
}

#[test]
fn a_client_that_leaves_without_streaming_frees_the_slot_and_is_counted_exactly() {
    leaves_in(held_after(5), 5, |gateway, stub, index| {
        let conn = send(gateway, &chat(9), b"");
        stub.wait_held(index);
        eventually_true("five tokens have been counted", || {
            gateway.usage_rows().last().is_some_and(|row| row["completion_tokens"] == 5)
        });
        conn
    });
}

#[test]
fn bytes_behind_the_request_do_not_hide_that_the_client_left() {
    let behind = b"GET /v1/models HTTP/1.1\r\nHost: test\r\n\r\n";
    leaves_in(held_after(5), 5, |gateway, stub, index| {
        let mut answer: Answer = send(gateway, &chat_stream(9), behind).answer().unwrap();
        (0..5).for_each(|_| drop(answer.next_text()));
        stub.wait_held(index);
        answer.conn
    });
}

#[test]
fn bytes_behind_an_unstreamed_request_do_not_hide_that_the_client_left() {
    let behind = b"GET /v1/models HTTP/1.1\r\nHost: test\r\n\r\n";
    leaves_in(vec![Step::Gate, Step::Head], 0, |gateway, stub, index| {
        let conn = send(gateway, &chat(9), behind);
        stub.wait_held(index);
        conn
    });
}

#[test]
fn a_client_that_leaves_the_queue_costs_nothing() {
    for (leaves, behind) in
        [(Leaving::ByFin, ""), (Leaving::ByRst, ""), (Leaving::ByFin, "GET / HTTP/1.1\r\n"), (Leaving::ByRst, "G")]
    {
        let stub = Stub::start(1);
        let gateway = Gateway::start(&stub.url());
        stub.plan_next(held_after(1));
        let first = gateway.stream_chat(&chat_stream(9));
        stub.wait_held(0);

        let leaver = send(&gateway, &with(chat_stream(9), json!({"seed": 111})), behind.as_bytes());
        eventually_true("one request waits", || gateway.metric("llama_gateway_queue_depth") == 1.0);
        leaves.go(leaver);
        eventually_true("nobody waits", || gateway.metric("llama_gateway_queue_depth") == 0.0);

        stub.release(0);
        first.events();
        gateway.post("/v1/chat/completions", &with(chat(9), json!({"seed": 222})));
        let seeds = stub.requests().iter().map(|recorded| recorded.json()["seed"].clone()).collect::<Vec<_>>();
        assert_eq!(seeds, [json!(1), json!(222)], "{leaves:?}: the request that was left reached llama-server");
        // A request that never reached llama-server may have a row; tokens it has none.
        let tokens = |row: &serde_json::Value| row["completion_tokens"].as_u64().unwrap();
        let rows = gateway.usage_rows();
        assert!(rows.iter().filter(|row| row["ending"] == "client_left").all(|row| tokens(row) == 0), "{rows:?}");
    }
}

#[test]
fn a_client_that_leaves_behind_it_a_connection_for_the_next_request_is_no_leaver() {
    // The official clients close right after [DONE]: what arrived is complete, not left.
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let mut answer = gateway.open("/v1/chat/completions", &chat_stream(9));
    let id = answer.head.request_id();
    while answer.json_event().unwrap().is_some() {}
    answer.conn.close();
    let row = gateway.settled_row(&id);
    assert_eq!((&row["ending"], &row["completion_tokens"]), (&json!("complete"), &json!(3)));
}

/// A stream that would run for ten seconds is left after some tokens; the real server's slots are asked.
fn leaves_a_real_server(leaves: Leaving, stream: bool, behind: &[u8]) {
    let engine = Engine::start(Options::speaking().slots(1));
    let gateway = Gateway::start(&engine.url());
    let body = with(
        chat(1800),
        json!({"stream": stream, "messages": [{"role": "user", "content":
        "Write a very long story about a river, with many chapters."}], "ignore_eos": true}),
    );
    let conn = send(&gateway, &body, behind);
    let mut seen = 0;
    let conn = if stream {
        let mut answer = conn.answer().unwrap();
        while seen < 20 {
            answer.next_text();
            seen += 1;
        }
        answer.conn
    } else {
        eventually_true("the slot is busy", || engine.slots_busy() == 1);
        conn
    };
    let left = leaves.go(conn);
    wait_idle(&engine);
    let freed = left.elapsed();
    eprintln!("{leaves:?}, stream {stream}: the slot was free after {freed:?}");
    assert!(freed < Duration::from_secs(2), "the slot was free only after {freed:?}");
    let row = gateway.only_settled_row();
    assert_eq!(row["ending"], "client_left");
    let counted = row["completion_tokens"].as_u64().unwrap();
    assert!(counted >= seen && counted <= seen + 60, "{seen} seen, {counted} counted");
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    // By the server's own counters nothing was generated for nobody, but what was on its way when it noticed.
    let generated = engine.counters()["llamacpp:tokens_predicted_total"] as u64;
    assert!(generated <= counted + 3 + 60, "{generated} generated, {counted} counted");
}

#[test]
fn a_real_slot_is_idle_at_once_when_a_streaming_client_closes() {
    leaves_a_real_server(Leaving::ByFin, true, b"");
}

#[test]
fn a_real_slot_is_idle_at_once_when_a_streaming_client_resets() {
    leaves_a_real_server(Leaving::ByRst, true, b"");
}

#[test]
fn a_real_slot_is_idle_at_once_when_an_unstreamed_client_closes() {
    leaves_a_real_server(Leaving::ByFin, false, b"");
}

#[test]
fn a_real_slot_is_idle_at_once_when_an_unstreamed_client_resets_behind_pipelined_bytes() {
    leaves_a_real_server(Leaving::ByRst, false, b"GET /v1/models HTTP/1.1\r\nHost: test\r\n\r\n");
}

#[test]
fn clients_of_every_surface_that_leave_are_counted_and_free_the_slot() {
    let engine = Engine::start(Options::speaking().slots(1));
    let gateway = Gateway::start(&engine.url());
    let story = "Write a very long story about a river.";
    let messages = json!([{"role": "user", "content": story}]);
    for (path, body, least) in [
        ("/v1/completions", json!({"prompt": story, "max_tokens": 1500, "ignore_eos": true}), 8),
        ("/v1/responses", json!({"input": story, "max_output_tokens": 1500, "ignore_eos": true}), 4),
        ("/v1/messages", json!({"model": "x", "messages": messages, "max_tokens": 1500, "ignore_eos": true}), 4),
    ] {
        let mut answer = gateway.open(path, &with(body, json!({"stream": true})));
        let id = answer.head.request_id();
        (0..10).for_each(|_| drop(answer.event().unwrap().unwrap()));
        let before = engine.counters()["llamacpp:tokens_predicted_total"];
        let left = Instant::now();
        answer.conn.close();
        wait_idle(&engine);
        assert!(left.elapsed() < Duration::from_secs(2), "{path}: free after {:?}", left.elapsed());
        let row = gateway.settled_row(&id);
        let generated = (engine.counters()["llamacpp:tokens_predicted_total"] - before) as u64;
        let counted = row["completion_tokens"].as_u64().unwrap();
        eprintln!("{path}: {counted} counted by {}, {generated} generated", row["counted_by"]);
        assert_eq!(row["ending"], "client_left", "{path}");
        assert!(counted >= least && counted <= generated + 1, "{path}: {row}, {generated} generated");
    }
}
