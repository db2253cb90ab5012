//! What a client is told while its request waits, and that telling it changes nothing else.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::client::Answer;
use crate::harness::engine::variable;
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Step, Stub, held};
use crate::harness::{chat, chat_stream, with};

const PATH: &str = "/v1/chat/completions";
/// Everything that happens in time happens soon.
const SOON: &str = "[timeouts]\nearly_open = \"20ms\"\nqueue_update = \"20ms\"\nkeep_alive = \"50ms\"\n[ledger]\nprogress_interval = \"20ms\"";

/// A stub with one slot that is taken by a request at its gate, a gateway, and that request.
fn occupied(toml: &str) -> (Stub, Gateway, Answer) {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), toml);
    stub.plan(held());
    let first = gateway.stream_chat(&chat_stream(9));
    stub.wait_held(0);
    (stub, gateway, first)
}

fn white_space(further: &str) -> String {
    format!("[requests]\nwhite_space_keep_alive = true\n{SOON}{further}")
}

/// The position in a comment of the queue, which has an estimate in whole seconds if there is one.
fn position(comment: &str) -> usize {
    let told = comment.strip_prefix(": queued position=").unwrap_or_else(|| panic!("no place in `{comment}`"));
    let (position, eta) = told.split_once(' ').unwrap_or((told, "eta=0"));
    eta.strip_prefix("eta=").and_then(|eta| eta.parse::<u64>().ok()).unwrap_or_else(|| panic!("`{comment}`"));
    position.parse().unwrap()
}

fn number(answer: &Answer, header: &str) -> Option<u128> {
    answer.head.header(header).map(|value| value.parse().unwrap())
}

#[test]
fn a_waiting_stream_is_told_its_place_and_that_it_moves_when_somebody_leaves() {
    let (stub, gateway, first) = occupied(SOON);
    let second = gateway.send_chat(&chat_stream(9));
    gateway.wait_depth(1);
    let mut third = gateway.open(PATH, &chat_stream(9));
    assert_eq!((third.head.status, number(&third, "x-queue-position")), (200, Some(1)));
    assert_eq!(number(&third, "x-queue-wait-ms"), None, "nobody knows it yet");
    assert_eq!(position(&third.raw_event().unwrap().unwrap()), 1, "told at once");
    assert_eq!(position(&third.raw_event().unwrap().unwrap()), 1, "and again");
    second.close();
    while position(&third.raw_event().unwrap().unwrap()) == 1 {}
    stub.release(0);
    assert_eq!(first.events().last().unwrap(), "data: [DONE]");
    // It runs, and stands at its gate: from now on comments are plain.
    third.next_text();
    assert_eq!(third.raw_event().unwrap().unwrap(), ": keep-alive");
    stub.release(1);
    assert_eq!(third.events().last().unwrap(), "data: [DONE]");
    assert_eq!(stub.count(), 2, "who left was never asked for");
}

#[test]
fn answers_tell_the_position_at_entry_and_how_long_the_request_waited() {
    let (stub, gateway, first) = occupied("[timeouts]\nearly_open = \"60s\"");
    assert_eq!(number(&first, "x-queue-position"), Some(0));
    assert!(number(&first, "x-queue-wait-ms").is_some());
    let sent = Instant::now();
    let stream = gateway.send_chat(&chat_stream(9));
    gateway.wait_depth(1);
    let whole = gateway.send_chat(&chat(9));
    gateway.wait_depth(2);
    let seen = Instant::now();
    gateway.wait_depth(2);
    let least = seen.elapsed().as_millis();
    stub.release(0);
    first.events();
    for (place, conn) in [stream, whole].into_iter().enumerate() {
        stub.wait_held(place + 1);
        stub.release(place + 1);
        let answer = conn.answer().unwrap();
        let most = sent.elapsed().as_millis();
        assert_eq!(number(&answer, "x-queue-position"), Some(place as u128));
        let waited = number(&answer, "x-queue-wait-ms").unwrap();
        assert!((least..=most).contains(&waited), "{least} <= {waited} <= {most}");
        answer.reply().unwrap();
    }
}

#[test]
fn errors_after_waiting_have_a_real_status_and_tell_the_wait() {
    let (stub, gateway, first) = occupied("[policies.default]\nmax_queue_wait = \"300ms\"");
    for body in [chat(9), chat_stream(9)] {
        let sent = Instant::now();
        let reply = gateway.post(PATH, &body);
        let took = sent.elapsed();
        assert_eq!((reply.status, reply.code().as_str()), (503, "queue_timeout"));
        assert_eq!(reply.head.header("x-queue-position"), Some("0"));
        // The deadline counts from the arrival; what is told is the part of it in the queue.
        let waited = reply.head.header("x-queue-wait-ms").unwrap().parse::<u64>().unwrap();
        let told = Duration::from_millis(waited);
        assert!(took >= Duration::from_millis(300) && told > Duration::ZERO && told <= took, "{waited} of {took:?}");
    }
    stub.release(0);
    first.events();
    // What llama-server refuses is a real status too, for a stream as well.
    stub.plan(vec![Step::Whole(
        400,
        json!({"error": {"code": 400, "message": "no", "type": "invalid_request_error"}}),
    )]);
    let reply = gateway.post(PATH, &chat_stream(9));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.head.header("x-queue-position"), Some("0"));
    assert!(reply.head.header("x-queue-wait-ms").is_some());
}

#[test]
fn white_space_keeps_a_client_that_waits_for_one_piece() {
    let (stub, gateway, first) = occupied(&white_space(""));
    let mut answer = gateway.open(PATH, &chat(9));
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.head.header("content-type"), Some("application/json"));
    assert_eq!((number(&answer, "x-queue-position"), number(&answer, "x-queue-wait-ms")), (Some(0), None));
    for _ in 0..3 {
        assert_eq!(answer.piece().unwrap().unwrap(), b"\n");
    }
    stub.release(0);
    first.events();
    // It runs now, and is kept company all the same.
    stub.wait_held(1);
    for _ in 0..3 {
        assert_eq!(answer.piece().unwrap().unwrap(), b"\n");
    }
    stub.release(1);
    let id = answer.head.request_id();
    let reply = answer.reply().unwrap();
    assert_eq!(reply.json()["choices"][0]["message"]["content"], " t1 t2");
    let row = gateway.settled_row(&id);
    assert_eq!((&row["ending"], &row["status"]), (&json!("complete"), &json!(200)));
}

#[test]
fn without_it_nothing_is_sent_before_the_reply_and_a_quick_reply_is_a_plain_one() {
    let (stub, gateway, first) = occupied(SOON);
    let waiting = gateway.send_chat(&chat(9));
    gateway.wait_depth(1);
    stub.release(0);
    first.events();
    stub.wait_held(1);
    stub.release(1);
    assert!(waiting.answer().unwrap().head.header("content-length").is_some());

    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[requests]\nwhite_space_keep_alive = true");
    let reply = gateway.post(PATH, &chat(3));
    assert!(reply.head.header("content-length").is_some() && reply.body.starts_with(b"{"));
    assert!(reply.head.header("x-queue-wait-ms").is_some());
}

#[test]
fn what_fails_behind_white_space_is_the_error_object() {
    let (stub, gateway, first) = occupied(&white_space("\n[policies.default]\nmax_queue_wait = \"200ms\""));
    let answer = gateway.open(PATH, &chat(9));
    let id = answer.head.request_id();
    let reply = answer.reply().unwrap();
    assert!(reply.status == 200 && reply.body.starts_with(b"\n"));
    assert_eq!(reply.openai_error()["code"], "queue_timeout");
    let row = gateway.settled_row(&id);
    assert_eq!((&row["ending"], &row["status"]), (&json!("queue_timeout"), &json!(200)));
    stub.release(0);
    first.events();
    // What is refused before is a real status.
    assert_eq!(gateway.post(PATH, &json!({})).status, 400);
}

#[test]
fn a_client_that_leaves_while_it_is_kept_company_costs_nothing() {
    let (stub, gateway, first) = occupied(&white_space(""));
    for body in [chat_stream(9), chat(9)] {
        let mut answer = gateway.open(PATH, &body);
        answer.piece().unwrap();
        let id = answer.head.request_id();
        drop(answer);
        gateway.wait_depth(0);
        let row = gateway.settled_row(&id);
        assert_eq!((&row["ending"], &row["status"]), (&json!("client_left"), &json!(200)), "{row}");
    }
    stub.release(0);
    first.events();
    assert_eq!(stub.count(), 1, "they were never asked for");
    for (index, body) in [(1, chat_stream(9)), (2, chat(9))] {
        let mut answer = gateway.open(PATH, &body);
        stub.wait_held(index);
        answer.piece().unwrap();
        let id = answer.head.request_id();
        drop(answer);
        stub.wait_closed(index);
        let row = gateway.settled_row(&id);
        assert_eq!((&row["ending"], &row["completion_tokens"]), (&json!("client_left"), &json!(1)), "{row}");
    }
    stub.plan(vec![Step::Head, Step::Tokens(1), Step::Finish, Step::End]);
    assert_eq!(gateway.post(PATH, &chat(9)).status, 200, "the slot is free");
}

#[test]
fn the_end_of_the_drain_ends_who_is_kept_company() {
    let (stub, gateway, first) = occupied(&white_space("\n[server]\ndrain_grace = \"300ms\""));
    let stream = gateway.open(PATH, &chat_stream(9));
    let whole = gateway.open(PATH, &chat(9));
    gateway.term();
    assert!(stream.events().last().unwrap().contains("draining"));
    assert_eq!(whole.reply().unwrap().openai_error()["code"], "draining");
    assert!(first.events().last().unwrap().contains("draining"));
    assert_eq!(gateway.wait_exit().code(), Some(0));
    for row in gateway.usage_rows() {
        assert_eq!((&row["ending"], &row["status"]), (&json!("drained"), &json!(200)), "{row}");
    }
    drop(stub);
}

/// Runs a client program whose request waits until it was kept company for a while.
fn kept_company(mut command: Command, plan: Vec<Step>, path: &str) {
    let (stub, gateway, first) = occupied(&white_space(""));
    stub.plan_next(plan);
    let client = command
        .env("BASE_URL", format!("http://{}", gateway.address))
        .env("API_KEY", &gateway.key)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the client cannot be started; hint: scripts/test installs it");
    gateway.wait_depth(1);
    // Who came later is told its place a few times; so is the client.
    let mut later = gateway.open(PATH, &with(chat_stream(9), json!({"seed": 2})));
    for _ in 0..4 {
        later.raw_event().unwrap();
    }
    drop(later);
    stub.release(0);
    first.events();
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert_eq!(stub.requests()[1].path(), path);
}

fn script(program: String, name: &str, mode: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))).arg(mode);
    command
}

#[test]
fn official_clients_do_not_see_the_comments() {
    let three = crate::harness::stub::stream_of(3);
    kept_company(script(variable("CLIENT_PYTHON"), "waiting.py", "stream"), three.clone(), PATH);
    kept_company(script("node".to_owned(), "waiting.mjs", "stream"), three, PATH);
    let recorded = include_str!("../fixtures/streams/messages.asked.sse");
    let messages = vec![Step::Head, Step::Bytes(recorded.into()), Step::End];
    kept_company(script(variable("CLIENT_PYTHON"), "waiting.py", "messages"), messages, "/v1/messages");
}

#[test]
fn official_clients_read_json_behind_white_space() {
    let three = crate::harness::stub::stream_of(3);
    kept_company(script(variable("CLIENT_PYTHON"), "waiting.py", "whole"), three.clone(), PATH);
    kept_company(script("node".to_owned(), "waiting.mjs", "whole"), three, PATH);
}

#[test]
fn official_clients_do_not_raise_a_failure_behind_white_space() {
    let broken = vec![Step::Whole(500, json!({"error": {"code": 500, "message": "no", "type": "server_error"}}))];
    kept_company(script(variable("CLIENT_PYTHON"), "waiting.py", "failed"), broken.clone(), PATH);
    kept_company(script("node".to_owned(), "waiting.mjs", "failed"), broken, PATH);
}
