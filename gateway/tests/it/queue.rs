//! More clients than slots: the queue is the gateway's, never llama-server's.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::harness::engine::{Engine, Options};
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Stub, held, stream_of};
use crate::harness::{chat, chat_stream, eventually_true, with};

#[test]
fn five_clients_more_than_slots_are_all_served_and_no_more_slots_than_there_are_get_busy() {
    let engine = Engine::start(Options::tiny().slots(2));
    let gateway = Gateway::start(&engine.url());
    let over = AtomicBool::new(false);
    let most_busy = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0.0_f64;
            while !over.load(Ordering::Relaxed) {
                let counters = engine.counters();
                most = most.max(counters["llamacpp:requests_processing"] + counters["llamacpp:requests_deferred"]);
            }
            most
        });
        let clients = (0..7).map(|n| {
            let gateway = &gateway;
            scope.spawn(move || {
                let body = if n % 2 == 0 { chat(600) } else { chat_stream(600) };
                let answer = gateway.open("/v1/chat/completions", &body);
                assert_eq!(answer.head.status, 200);
                let id = answer.head.request_id();
                answer.reply().unwrap();
                id
            })
        });
        let ids = clients.collect::<Vec<_>>().into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>();
        over.store(true, Ordering::Relaxed);
        for id in ids {
            let row = gateway.settled_row(&id);
            assert_eq!((&row["ending"], &row["completion_tokens"]), (&json!("complete"), &json!(600)), "{row}");
        }
        sampler.join().unwrap()
    });
    assert!(most_busy <= 2.0, "{most_busy} requests at once on two slots");
    assert!(most_busy >= 1.0, "the sampler saw nothing");
}

#[test]
fn waiting_clients_are_served_in_the_order_of_their_arrival() {
    let stub = Stub::start(2);
    let gateway = Gateway::start(&stub.url());
    stub.plan(held());
    let mut conns = Vec::new();
    for seed in 0..7_usize {
        conns.push(gateway.send_chat(&with(chat_stream(9), json!({"seed": seed}))));
        stub.wait_count((seed + 1).min(2));
        gateway.wait_depth((seed + 1).saturating_sub(2));
    }
    for index in 0..7 {
        stub.wait_held(index);
        stub.release(index);
        stub.wait(index, |recorded| recorded.finished);
        stub.wait_count((index + 3).min(7));
    }
    let mut order = stub.seeds();
    // The first two found a free slot each and may have arrived at the stub in either order.
    order[..2].sort_unstable();
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(stub.most_busy(), 2);
    for conn in conns {
        assert_eq!(conn.answer().unwrap().events().last().unwrap(), "data: [DONE]");
    }
}

#[test]
fn no_slot_idles_while_somebody_waits() {
    let stub = Stub::start(3);
    let gateway = Gateway::start(&stub.url());
    stub.plan(held());
    let conns = (0..6).map(|seed| gateway.send_chat(&with(chat_stream(9), json!({"seed": seed})))).collect::<Vec<_>>();
    stub.wait_count(3);
    gateway.wait_depth(3);
    stub.release(1);
    stub.wait_count(4);
    assert_eq!(stub.busy(), 3);
    (0..6).filter(|index| *index != 1).for_each(|index| {
        stub.wait_held(index);
        stub.release(index);
    });
    conns.into_iter().for_each(|conn| drop(conn.answer().unwrap().events()));
    assert_eq!(stub.most_busy(), 3);
}

#[test]
fn a_request_for_two_choices_takes_two_slots() {
    let stub = Stub::start(2);
    let gateway = Gateway::start(&stub.url());
    stub.plan_next(held());
    let both = gateway.send_chat(&with(chat_stream(9), json!({"n": 2})));
    stub.wait_held(0);
    let single = gateway.send_chat(&chat_stream(9));
    gateway.wait_depth(1);
    assert_eq!(stub.count(), 1);
    stub.release(0);
    both.answer().unwrap().events();
    single.answer().unwrap().events();
    assert_eq!((stub.count(), stub.most_busy()), (2, 1));
}

#[test]
fn a_request_for_two_choices_gets_its_turn_although_single_ones_keep_coming() {
    let stub = Stub::start(2);
    let gateway = Gateway::start(&stub.url());
    stub.plan(held());
    let early = (0..2).map(|seed| gateway.send_chat(&with(chat_stream(9), json!({"seed": seed})))).collect::<Vec<_>>();
    stub.wait_count(2);
    let pair = gateway.send_chat(&with(chat_stream(9), json!({"n": 2, "seed": 22})));
    gateway.wait_depth(1);
    let late = gateway.send_chat(&with(chat_stream(9), json!({"seed": 33})));
    gateway.wait_depth(2);
    for index in 0..4 {
        stub.wait_held(index);
        stub.release(index);
    }
    early.into_iter().chain([pair, late]).for_each(|conn| drop(conn.answer().unwrap().events()));
    assert_eq!(stub.seeds()[2..], [22, 33]);
}

#[test]
fn more_choices_than_slots_are_refused() {
    let stub = Stub::start(2);
    let gateway = Gateway::start(&stub.url());
    let reply = gateway.post("/v1/chat/completions", &with(chat(3), json!({"n": 3})));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.openai_error()["param"], "n");
    assert_eq!(stub.count(), 0);
}

#[test]
fn a_full_queue_refuses_with_a_time_to_come_back() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[policies.default]\nqueued_requests = 1");
    stub.plan_next(held());
    let first = gateway.send_chat(&chat_stream(9));
    stub.wait_held(0);
    let waiting = gateway.send_chat(&chat_stream(9));
    gateway.wait_depth(1);
    for body in [chat(9), chat_stream(9)] {
        let refused = gateway.post("/v1/chat/completions", &body);
        assert_eq!((refused.status, refused.code().as_str()), (429, "queue_full"), "a real status for a stream, too");
        let after = refused.head.header("retry-after").expect("Retry-After").parse::<u64>().unwrap();
        assert!((1..=60).contains(&after), "{after}");
    }
    stub.release(0);
    first.answer().unwrap().events();
    waiting.answer().unwrap().events();
    assert_eq!(stub.count(), 2);
}

#[test]
fn waiting_has_a_deadline_that_is_told_before_or_inside_the_stream() {
    let stub = Stub::start(1);
    let config =
        "[policies.default]\nmax_queue_wait = \"500ms\"\n[timeouts]\nearly_open = \"50ms\"\nkeep_alive = \"50ms\"";
    let gateway = Gateway::with_config(&stub.url(), config);
    stub.plan_next(held());
    let first = gateway.send_chat(&chat_stream(9));
    stub.wait_held(0);

    let refused = gateway.post("/v1/chat/completions", &chat(9));
    assert_eq!((refused.status, refused.code().as_str()), (503, "queue_timeout"));
    assert!(refused.head.header("retry-after").is_some());

    let mut early = gateway.open("/v1/chat/completions", &chat_stream(9));
    assert_eq!(early.head.status, 200, "a waiting stream is opened early to keep it alive");
    let first_bytes = early.raw_event().unwrap().unwrap();
    assert!(first_bytes.starts_with(':'), "{first_bytes}");
    let error = early.event().unwrap().unwrap();
    assert!(error.contains("queue_timeout"), "{error}");
    assert_eq!(early.event().unwrap(), None, "no [DONE] after an error");
    stub.release(0);
    first.answer().unwrap().events();
    assert_eq!(stub.count(), 1);
}

#[test]
fn a_silent_stream_is_kept_alive_by_comments_of_the_gateway() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[timeouts]\nkeep_alive = \"50ms\"");
    stub.plan(held());
    let mut answer = gateway.stream_chat(&chat_stream(9));
    for _ in 0..3 {
        let event = answer.raw_event().unwrap().unwrap();
        assert!(event.starts_with(':'), "{event}");
    }
    stub.release(0);
    assert_eq!(answer.events().last().unwrap(), "data: [DONE]");
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off_and_its_slot_given_to_the_next() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[server]\nslow_reader_timeout = \"300ms\"");
    let before = gateway.memory_kib();
    stub.plan_next(stream_of(400_000));
    let mut slow = gateway.conn();
    slow.small_receive_buffer();
    slow.send(&gateway.request("/v1/chat/completions", &chat_stream(9))).unwrap();
    stub.wait_closed(0);
    let row = gateway.only_settled_row();
    assert_eq!(row["ending"], "slow_reader");
    assert!(row["completion_tokens"].as_u64().unwrap() <= stub.requests()[0].tokens);
    assert!(gateway.memory_kib() < before + 16 * 1024, "back-pressure keeps the memory small");
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    drop(slow);
}

#[test]
fn a_replica_with_other_slots_after_a_restart_is_used_as_it_is_now() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[upstream]\nprobe_interval = \"50ms\"");
    stub.plan(held());
    stub.set_slots(3);
    eventually_true("the gateway knows of three slots", || gateway.metric("llama_gateway_slots_total") == 3.0);
    let conns = (0..4).map(|_| gateway.send_chat(&chat_stream(9))).collect::<Vec<_>>();
    stub.wait_count(3);
    gateway.wait_depth(1);
    (0..4).for_each(|index| {
        stub.wait_held(index);
        stub.release(index);
    });
    conns.into_iter().for_each(|conn| drop(conn.answer().unwrap().events()));
    assert_eq!(stub.most_busy(), 3);
}
