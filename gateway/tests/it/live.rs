//! What operators see of the requests under way.

use serde_json::{Value, json};

use crate::harness::client::{Conn, get_as, request_of};
use crate::harness::engine::{Engine, Options};
use crate::harness::gateway::{ADMIN_KEY, Gateway};
use crate::harness::stub::{PROMPT_TOKENS, Step, Stub};
use crate::harness::{chat, chat_stream, crowd, eventually};

/// A snapshot that is as fresh as `condition` needs it: one may be half a second old.
fn live(gateway: &Gateway, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || Some(gateway.ask_admin("GET", "/v1/live", &Value::Null).json()).filter(&condition))
}

fn total(live: &Value, name: &str) -> u64 {
    live[name].as_u64().unwrap()
}

#[test]
fn who_runs_and_who_waits_is_seen_and_nobody_is_left_on_the_list() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(
        &stub.url(),
        "[policies.metered]\ntokens_per_minute = 1000000\ntokens_per_day = 5000000\nclass = \"batch\"\n\
         default_output_tokens = 100\n[tenants.globex]\npolicy = \"metered\"",
    );
    let globex = gateway.create_key("globex");
    stub.plan(vec![Step::Head, Step::Tokens(3), Step::Gate, Step::Tokens(2), Step::Finish, Step::End]);
    let first = gateway.send_chat(&chat_stream(9));
    stub.wait_held(0);
    let second = crowd::send(&gateway, &globex, &[], &chat(9));
    gateway.wait_depth(1);
    let third = gateway.send_chat(&chat(9));
    gateway.wait_depth(2);

    let seen = live(&gateway, "one runs and two wait", |live| {
        total(live, "waiting_total") == 2 && live["running"][0]["completion_tokens"] == 3
    });
    assert_eq!((seen["object"].as_str(), total(&seen, "running_total")), (Some("live"), 1), "{seen}");
    let running = &seen["running"][0];
    assert_eq!((&running["tenant"], &running["surface"]), (&json!("acme"), &json!("chat")), "{running}");
    assert_eq!((&running["phase"], &running["prompt_tokens"]), (&json!("decode"), &json!(PROMPT_TOKENS)), "{running}");
    assert_eq!(running["upstream"], json!(stub.address().to_string()), "{running}");
    assert!(running["request_id"].as_str().unwrap().starts_with("req_") && running["key_id"].is_string(), "{running}");
    let seconds = |name: &str| running[name].as_f64().unwrap();
    assert!(seconds("tokens_per_second") > 0.0, "{running}");
    assert!(0.0 <= seconds("ttft_seconds") && seconds("ttft_seconds") <= seconds("age_seconds"), "{running}");
    assert!(seconds("queue_wait_seconds") + seconds("running_seconds") <= seconds("age_seconds"), "{running}");

    let mut waiting = seen["waiting"].as_array().unwrap().iter();
    let (next, last) = (waiting.next().unwrap(), waiting.next().unwrap());
    assert_eq!((&next["position"], &last["position"]), (&json!(0), &json!(1)), "{seen}");
    let classes = [&next["class"], &last["class"]].map(|class| class.as_str().unwrap());
    assert!(classes.contains(&"standard") && classes.contains(&"batch"), "{seen}");
    assert!(next["waited_seconds"].as_f64().unwrap() >= 0.0 && next["slots"] == 1, "{next}");

    let expected = &seen["queue"]["expected_wait_seconds"];
    assert_eq!(expected.as_object().unwrap().keys().collect::<Vec<_>>(), ["batch", "interactive", "standard"]);

    let tenants = &seen["tenants"];
    assert_eq!((&tenants[0]["tenant"], &tenants[1]["tenant"]), (&json!("acme"), &json!("globex")), "{tenants}");
    assert_eq!([&tenants[0]["running"], &tenants[0]["waiting"], &tenants[0]["slots_busy"]], [1, 1, 1], "{tenants}");
    assert!(tenants[0]["tokens_per_minute"].is_null() && tenants[0]["day"].is_null(), "{tenants}");
    assert_eq!(
        (&tenants[1]["tokens_per_minute"]["capacity"], &tenants[1]["day"]["limit"]),
        (&json!(1_000_000), &json!(5_000_000))
    );
    // It holds what it will need, although it only waits.
    assert!(tenants[1]["day"]["used"].as_u64().unwrap() > PROMPT_TOKENS && tenants[1]["month"].is_null(), "{tenants}");

    let upstream = &seen["upstreams"][0];
    assert_eq!([&upstream["slots"], &upstream["slots_busy"], &upstream["restarts"]], [1, 1, 0], "{upstream}");
    assert_eq!((&upstream["state"], &upstream["problem"]), (&json!("ready"), &Value::Null), "{upstream}");
    assert_eq!(seen["gateway"]["readiness"], "ready");
    assert_eq!((&seen["gateway"]["draining"], &seen["gateway"]["ledger_healthy"]), (&json!(false), &json!(true)));

    // One leaves while it waits, the others come to their end.
    drop(third);
    gateway.wait_depth(1);
    for index in 0..2 {
        stub.wait_held(index);
        stub.release(index);
    }
    first.answer().unwrap().events();
    assert_eq!(second.answer().unwrap().reply().unwrap().status, 200);
    let over = live(&gateway, "nothing is under way", |live| {
        total(live, "running_total") + total(live, "waiting_total") == 0 && live["upstreams"][0]["slots_busy"] == 0
    });
    assert_eq!((&over["running"], &over["waiting"]), (&json!([]), &json!([])), "{over}");
}

#[test]
fn the_stream_of_snapshots_follows_a_real_answer_and_then_sees_llama_server_go() {
    let mut engine = Engine::start(Options::tiny().slots(2));
    let gateway = Gateway::start(&engine.url());
    let mut conn = Conn::open(gateway.admin).unwrap();
    conn.send(&request_of("GET", "/v1/live/events", Some(ADMIN_KEY), b"")).unwrap();
    let mut events = conn.answer().unwrap();
    assert_eq!((events.head.status, events.head.header("content-type")), (200, Some("text/event-stream")));
    let mut next = || -> Value {
        let event = events.raw_event().unwrap().unwrap();
        let data = event.trim_end().strip_prefix("event: live\ndata: ").unwrap();
        serde_json::from_str(data).unwrap()
    };
    let idle = next();
    assert_eq!((total(&idle, "running_total"), idle["upstreams"][0]["slots"].as_u64()), (0, Some(2)), "{idle}");
    // As long as nobody reads it, it comes to a stand before it is over.
    let mut answer = gateway.stream_chat(&chat_stream(4000));
    let tokens = |live: &Value| live["running"][0]["completion_tokens"].as_u64().unwrap_or(0);
    let early = std::iter::repeat_with(&mut next).find(|live| tokens(live) > 0).unwrap();
    for _ in 0..tokens(&early) {
        answer.next_text();
    }
    let later = std::iter::repeat_with(&mut next).find(|live| tokens(live) > tokens(&early)).unwrap();
    assert!(later["at"].as_f64() > early["at"].as_f64(), "{early}\n{later}");
    drop(answer);
    engine.kill();
    std::iter::repeat_with(&mut next).find(|live| live["upstreams"][0]["state"] == "down").unwrap();
    let after = std::iter::repeat_with(&mut next).find(|live| live["gateway"]["readiness"] == "unreachable").unwrap();
    assert_eq!((total(&after, "running_total"), after["upstreams"][0]["slots"].as_u64()), (0, Some(0)), "{after}");
    assert!(after["upstreams"][0]["problem"].is_string(), "{after}");
}

#[test]
fn only_the_admin_key_opens_the_live_view() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    for path in ["/v1/live", "/v1/live/events"] {
        for key in [None, Some(gateway.key.as_str())] {
            let reply = get_as(gateway.admin, path, key).unwrap();
            assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_api_key"), "{path} {key:?}");
        }
        assert_eq!(gateway.get(path).status, 404, "{path} on the public port");
    }
}
