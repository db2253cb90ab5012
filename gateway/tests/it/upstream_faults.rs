//! llama-server dies, hangs, loads, vanishes, comes back, or talks nonsense.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::chaos::{Mode, Proxy};
use crate::harness::client::Answer;
use crate::harness::engine::{Engine, Options, shared, wait_idle};
use crate::harness::gateway::Gateway;
use crate::harness::process::free_port;
use crate::harness::stub::{Step, Stub};
use crate::harness::{chat, chat_stream, eventually, eventually_true, with};

const FAST: &str = "[upstream]\nprobe_interval = \"100ms\"\nprobe_timeout = \"500ms\"\n";

/// A stream that would run for many seconds.
fn long_story() -> Value {
    with(chat_stream(1800), json!({"ignore_eos": true}))
}

/// Reads to the end of a stream that fails: gives the number of texts and the error; there must be no `[DONE]`.
fn read_to_error(mut answer: Answer) -> (u64, Value) {
    let mut texts = 0;
    let mut error = None;
    while let Some(event) = answer.event().expect("the stream ends properly") {
        assert_ne!(event, "data: [DONE]");
        let event: Value = serde_json::from_str(event.trim_start_matches("data: ")).unwrap();
        if event["choices"][0]["delta"]["content"].is_string() {
            assert!(error.is_none(), "nothing follows an error");
            texts += 1;
        } else if event.get("error").is_some() {
            error = Some(event["error"].clone());
        }
    }
    (texts, error.expect("an error event"))
}

/// A stream over a real llama-server, five texts read, to which then `fault` happens.
fn fault_in_mid_stream(config: &str, code: &str, fault: impl FnOnce(&mut Engine, &Proxy)) {
    let mut engine = Engine::start(Options::speaking().slots(1));
    let proxy = Proxy::start(engine.address());
    let gateway = Gateway::with_config(&proxy.url(), config);
    let mut answer = gateway.stream_chat(&long_story());
    let id = answer.head.request_id();
    (1..5).for_each(|_| drop(answer.next_text()));
    fault(&mut engine, &proxy);
    let (further, error) = read_to_error(answer);
    assert_eq!((&error["code"], &error["type"]), (&json!(code), &json!("server_error")), "{error}");
    let row = gateway.settled_row(&id);
    assert_eq!(row["ending"], code);
    assert_eq!(row["counted_by"], "timings");
    let (seen, counted) = (5 + further, row["completion_tokens"].as_u64().unwrap());
    assert!(counted >= seen && counted <= seen + 2, "{seen} seen, {counted} counted");
}

#[test]
fn llama_server_killed_in_mid_stream_is_an_error_event_and_its_tokens_are_counted() {
    fault_in_mid_stream("", "backend_error", |engine, _| engine.kill());
}

#[test]
fn a_connection_cut_in_mid_stream_is_an_error_event_and_its_tokens_are_counted() {
    fault_in_mid_stream("", "backend_error", |_, proxy| proxy.cut());
}

#[test]
fn a_connection_reset_in_mid_stream_is_an_error_event_and_its_tokens_are_counted() {
    fault_in_mid_stream("", "backend_error", |_, proxy| proxy.reset());
}

#[test]
fn llama_server_hung_in_mid_stream_ends_with_the_silence_clock() {
    let config = "[timeouts]\nsilence = \"500ms\"";
    fault_in_mid_stream(config, "stream_idle_timeout", |engine, _| engine.hang());
}

#[test]
fn a_network_that_stalls_ends_with_the_silence_clock() {
    let config = "[timeouts]\nsilence = \"500ms\"";
    fault_in_mid_stream(config, "stream_idle_timeout", |_, proxy| proxy.set(Mode::Stall));
}

#[test]
fn llama_server_that_hangs_before_the_first_token_ends_with_the_first_token_clock() {
    let stub = Stub::start(1);
    let config = "[timeouts]\nfirst_token = \"300ms\"\nfirst_token_per_1000 = \"0ms\"\nearly_open = \"10s\"";
    let gateway = Gateway::with_config(&stub.url(), config);
    for plan in [vec![Step::Silence], vec![Step::Head, Step::Silence]] {
        stub.plan_next(plan);
        let reply = gateway.post("/v1/chat/completions", &chat(3));
        assert_eq!((reply.status, reply.code().as_str()), (504, "first_token_timeout"));
    }
    stub.wait_closed(1);
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}

#[test]
fn a_request_as_a_whole_has_a_clock_too() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[timeouts]\ntotal = \"500ms\"");
    stub.plan_next(vec![Step::Head, Step::Tokens(4), Step::Silence]);
    let answer = gateway.open("/v1/chat/completions", &chat_stream(9));
    let id = answer.head.request_id();
    let (texts, error) = read_to_error(answer);
    assert_eq!((texts, &error["code"]), (4, &json!("total_timeout")));
    assert_eq!(gateway.settled_row(&id)["completion_tokens"], 4);
    stub.wait_closed(0);
}

#[test]
fn an_unstreamed_request_whose_llama_server_dies_is_a_plain_error() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    stub.plan_next(vec![Step::Head, Step::Tokens(4), Step::Cut]);
    let reply = gateway.post("/v1/chat/completions", &chat(9));
    assert_eq!((reply.status, reply.code().as_str()), (502, "backend_error"));
    assert!(!reply.text().contains("127.0.0.1"), "addresses are not for clients: {}", reply.text());
    let row = gateway.settled_row(&reply.head.request_id());
    assert_eq!((&row["ending"], &row["completion_tokens"]), (&json!("backend_error"), &json!(4)));
}

#[test]
fn an_error_of_llama_server_in_mid_stream_reaches_the_client_in_the_shape_it_knows() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let error = b"data: {\"error\":{\"code\":500,\"message\":\"Context size has been exceeded.\",\"type\":\"server_error\"}}\n\n";
    stub.plan(vec![Step::Head, Step::Tokens(2), Step::Bytes(error.to_vec()), Step::End]);
    let answer = gateway.open("/v1/chat/completions", &chat_stream(9));
    let id = answer.head.request_id();
    let (texts, error) = read_to_error(answer);
    assert_eq!(texts, 2);
    assert!(error["code"].is_string() && error.get("param").is_some(), "{error}");
    let row = gateway.settled_row(&id);
    assert_eq!((&row["ending"], &row["completion_tokens"]), (&json!("backend_error"), &json!(2)));
    let reply = gateway.post("/v1/chat/completions", &chat(9));
    assert!(reply.status >= 500, "{reply:?}");
    reply.openai_error();
}

#[test]
fn the_end_of_the_body_without_done_is_no_complete_answer() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    stub.plan(vec![Step::Head, Step::Tokens(2), Step::End]);
    let answer = gateway.open("/v1/chat/completions", &chat_stream(9));
    let id = answer.head.request_id();
    assert_eq!(read_to_error(answer).0, 2);
    assert_eq!(gateway.settled_row(&id)["ending"], "backend_error");
    assert_eq!(gateway.post("/v1/chat/completions", &chat(9)).status, 502);
}

#[test]
fn a_gateway_without_llama_server_starts_says_so_and_recovers() {
    let port = free_port();
    let gateway = Gateway::launch(&[&format!("http://127.0.0.1:{port}")], FAST);
    assert_eq!(gateway.ready_status(), 503);
    for body in [chat(3), chat_stream(3)] {
        let reply = gateway.post("/v1/chat/completions", &body);
        assert_eq!((reply.status, reply.code().as_str()), (503, "backend_unavailable"));
        assert!(reply.head.header("retry-after").is_some());
    }
    let _engine = Engine::launch(Options::tiny(), port);
    gateway.wait_ready();
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}

#[test]
fn llama_server_that_loads_is_told_apart_from_one_that_is_absent() {
    let stub = Stub::start(1);
    stub.set_loading(true);
    let gateway = Gateway::launch(&[&stub.url()], FAST);
    eventually_true("the gateway knows that the model is loading", || {
        let reply = gateway.post("/v1/chat/completions", &chat(3));
        assert_eq!(reply.status, 503);
        assert!(reply.head.header("retry-after").is_some());
        reply.code() == "model_loading"
    });
    assert_eq!(gateway.ready_status(), 503);
    assert_eq!(stub.count(), 0);
    stub.set_loading(false);
    gateway.wait_ready();
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}

#[test]
fn llama_server_restarted_with_another_number_of_slots_is_read_again() {
    let mut engine = Engine::start(Options::tiny().slots(1));
    let gateway = Gateway::with_config(&engine.url(), FAST);
    assert_eq!(gateway.post("/v1/chat/completions", &with(chat(3), json!({"n": 2}))).status, 400);
    let options = engine.options().slots(3);
    engine.restart(options);
    let reply = eventually("three choices fit", || {
        let reply = gateway.post("/v1/chat/completions", &with(chat(3), json!({"n": 3})));
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(reply.json()["choices"].as_array().unwrap().len(), 3);
    let options = engine.options().slots(1);
    engine.restart(options);
    eventually_true("two choices do not fit any more", || {
        gateway.post("/v1/chat/completions", &with(chat(3), json!({"n": 2}))).status == 400
    });
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}

#[test]
fn llama_server_that_was_killed_and_came_back_serves_again_without_a_restart_of_the_gateway() {
    let mut engine = Engine::start(Options::tiny().slots(1));
    let gateway = Gateway::with_config(&engine.url(), FAST);
    for _ in 0..2 {
        assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
        engine.kill();
        eventually_true("the gateway is not ready", || gateway.ready_status() == 503);
        let options = engine.options();
        engine.restart(options);
        gateway.wait_ready();
    }
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}

#[test]
fn connections_that_llama_server_closed_while_they_were_idle_are_not_used() {
    let proxy = Proxy::start(shared().address());
    let gateway = Gateway::start(&proxy.url());
    for _ in 0..5 {
        assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
        proxy.cut();
    }
}

#[test]
fn a_stream_that_arrives_byte_by_byte_is_the_same_stream() {
    let engine = Engine::start(Options::tiny().args(&["--no-cache-prompt"]));
    let proxy = Proxy::start(engine.address());
    let gateway = Gateway::start(&proxy.url());
    let whole = gateway.post("/v1/chat/completions", &chat(12)).json();
    proxy.set(Mode::OneByte);
    let split = gateway.post("/v1/chat/completions", &chat(12)).json();
    assert_eq!(whole["choices"], split["choices"]);
    assert_eq!(whole["usage"], split["usage"]);
    let answer = gateway.open("/v1/chat/completions", &chat_stream(12));
    let id = answer.head.request_id();
    assert_eq!(answer.events().last().unwrap(), "data: [DONE]");
    assert_eq!(gateway.settled_row(&id)["completion_tokens"], 12);
    wait_idle(&engine);
}

#[test]
fn garbage_and_half_events_pass_as_they_are_and_the_count_goes_on() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let pieces: [&[u8]; 7] = [
        b"data: this is not JSON\n\n",
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ha",
        b"lf\"}}]}\n\n",
        b"garbage without a colon\n\n",
        b"data: \xff\xfe not UTF-8\n\n",
        b"event: odd\r\ndata: {\"crlf\":true}\r\n\r\n",
        b"data: null\n\n",
    ];
    let mut plan = vec![Step::Head, Step::Tokens(1)];
    plan.extend(pieces.iter().map(|piece| Step::Bytes(piece.to_vec())));
    plan.extend([Step::Tokens(1), Step::Finish, Step::End]);
    stub.plan(plan);
    let answer = gateway.open("/v1/chat/completions", &chat_stream(9));
    let id = answer.head.request_id();
    let body = answer.reply().unwrap().body;
    let sent = pieces.concat();
    assert!(body.windows(sent.len()).any(|window| window == sent), "{}", String::from_utf8_lossy(&body));
    assert!(body.ends_with(b"data: [DONE]\n\n"));
    let row = gateway.settled_row(&id);
    assert_eq!((&row["ending"], &row["completion_tokens"]), (&json!("complete"), &json!(2)));
}

#[test]
fn a_huge_event_passes_and_does_not_stay_in_memory() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let mut plan = vec![Step::Head, Step::Bytes(b"data: {\"choices\":[{\"delta\":{\"content\":\"".to_vec())];
    plan.extend(std::iter::repeat_n(Step::Bytes(vec![b'x'; 1 << 20]), 48));
    plan.extend([Step::Bytes(b"\"}}]}\n\n".to_vec()), Step::Tokens(2), Step::Finish, Step::End]);
    stub.plan(plan);
    let before = gateway.memory_kib();
    let answer = gateway.open("/v1/chat/completions", &chat_stream(9));
    let id = answer.head.request_id();
    let body = answer.reply().unwrap().body;
    assert!(body.len() > 48 << 20 && body.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(gateway.settled_row(&id)["completion_tokens"], 2);
    assert!(gateway.memory_kib() < before + 24 * 1024, "{} KiB before, {} after", before, gateway.memory_kib());
}

#[test]
fn an_answer_that_is_no_stream_where_one_was_asked_for_does_no_harm() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let odd = json!({"error": {"code": 500, "message": "no", "type": "server_error"}});
    for (status, body) in [(500, odd.clone()), (404, json!({})), (302, json!({})), (418, json!("x")), (200, json!({}))]
    {
        stub.plan_next(vec![Step::Whole(status, body)]);
        let reply = gateway.post("/v1/chat/completions", &chat(3));
        assert_eq!((reply.status, reply.code().as_str()), (502, "backend_error"), "{status}");
    }
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}

#[test]
fn faults_at_random_moments_never_lose_a_slot_or_a_row() {
    let engine = Engine::start(Options::tiny().slots(2));
    let proxy = Proxy::start(engine.address());
    let gateway = Gateway::with_config(&proxy.url(), FAST);
    let ends = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (gateway, ends) = (&gateway, &ends);
            scope.spawn(move || {
                for round in 0..8 {
                    let body = if (client + round) % 2 == 0 { chat(150) } else { chat_stream(150) };
                    let answer = gateway.open("/v1/chat/completions", &body);
                    assert!([200, 502, 503].contains(&answer.head.status), "{:?}", answer.head);
                    answer.reply().expect("every answer ends properly");
                    ends.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..10 {
            // Whenever two have ended, the others are anywhere in a request.
            eventually_true("some requests have ended", || ends.load(Ordering::Relaxed) >= 2 * (round + 1));
            if round % 2 == 0 { proxy.cut() } else { proxy.reset() }
        }
    });
    wait_idle(&engine);
    gateway.wait_ready();
    assert_eq!(gateway.post("/v1/chat/completions", &with(chat(3), json!({"n": 2}))).status, 200);
    eventually_true("every row is settled", || gateway.usage_rows().iter().all(crate::harness::gateway::is_settled));
    assert_eq!(gateway.metric("llama_gateway_queue_depth"), 0.0);
    assert_eq!(gateway.metric("llama_gateway_slots_busy"), 0.0);
}

#[test]
fn of_two_replicas_each_gets_its_share_and_one_goes_on_without_the_other() {
    let stubs = [Stub::start(1), Stub::start(1)];
    let gateway = Gateway::launch(&[&stubs[0].url(), &stubs[1].url()], FAST);
    eventually_true("both replicas are known", || gateway.metric("llama_gateway_slots_total") == 2.0);
    for stub in &stubs {
        stub.plan_next(vec![Step::Head, Step::Tokens(1), Step::Gate, Step::Finish, Step::End]);
    }
    let both = [gateway.stream_chat(&chat_stream(3)), gateway.stream_chat(&chat_stream(3))];
    for stub in &stubs {
        assert_eq!((stub.count(), stub.most_busy()), (1, 1));
        stub.release(0);
    }
    both.into_iter().for_each(|answer| drop(answer.events()));
    stubs[0].set_loading(true);
    eventually_true("one replica is left", || gateway.metric("llama_gateway_slots_total") == 1.0);
    assert_eq!(gateway.ready_status(), 200);
    for _ in 0..3 {
        assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    }
    assert_eq!((stubs[0].count(), stubs[1].count()), (1, 4));
    // Two sequences fit no single replica.
    assert_eq!(gateway.post("/v1/chat/completions", &with(chat(3), json!({"n": 2}))).status, 400);
}

#[test]
fn requests_that_wait_while_llama_server_dies_are_told_so_or_served_when_it_is_back() {
    let mut engine = Engine::start(Options::speaking().slots(1));
    let gateway = Gateway::with_config(&engine.url(), FAST);
    let live = gateway.stream_chat(&long_story());
    let mut waiting = gateway.conn();
    waiting.send(&gateway.request("/v1/chat/completions", &chat(3))).unwrap();
    eventually_true("one request waits", || gateway.metric("llama_gateway_queue_depth") == 1.0);
    engine.kill();
    read_to_error(live);
    let options = engine.options();
    engine.restart(options);
    let reply = waiting.answer().unwrap().reply().unwrap();
    assert!([200, 502, 503].contains(&reply.status), "{reply:?}");
    gateway.wait_ready();
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}
