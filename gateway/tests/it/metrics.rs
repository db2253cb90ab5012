//! What Prometheus reads of the queue, of quotas, of what expires, and of the machine.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::json;

use crate::harness::gateway::Gateway;
use crate::harness::stub::{Step, Stub, held, stream_of};
use crate::harness::{chat, chat_stream, eventually_true};

/// One series, if it is there.
fn series(gateway: &Gateway, series: &str) -> Option<f64> {
    gateway.metrics().get(&format!("llama_gateway_{series}")).copied()
}

/// How many series a metric has.
fn count(gateway: &Gateway, name: &str) -> usize {
    let begin = format!("llama_gateway_{name}{{");
    gateway.metrics().keys().filter(|series| series.starts_with(&begin)).count()
}

/// A stream from whose timings the gateway learns that a slot does 100 units of cost a second.
fn telling_its_speed() -> Vec<Step> {
    let event = r#"data: {"choices":[],"created":1,"id":"chatcmpl-stub","model":"stub","object":"chat.completion.chunk","usage":{"completion_tokens":1,"prompt_tokens":100,"total_tokens":101},"timings":{"cache_n":0,"prompt_n":100,"prompt_ms":1000,"predicted_n":1,"predicted_ms":1}}"#;
    let end = format!("{event}\n\ndata: [DONE]\n\n");
    vec![Step::Head, Step::Tokens(1), Step::Bytes(end.into_bytes()), Step::End]
}

#[test]
fn the_backlog_the_expected_wait_and_the_slots_of_a_tenant_go_up_and_come_back() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let waits = || {
        ["batch", "interactive", "standard"]
            .map(|class| series(&gateway, &format!("queue_expected_wait_seconds{{class=\"{class}\"}}")))
    };
    let busy = || series(&gateway, "tenant_slots_busy{tenant=\"acme\"}");
    let backlog = || series(&gateway, "queue_backlog").unwrap();
    assert_eq!((waits(), backlog(), busy()), ([Some(0.0); 3], 0.0, None), "a slot is free");
    stub.plan(held());
    let first = gateway.send_chat(&chat_stream(9));
    stub.wait_held(0);
    assert_eq!((waits(), busy()), ([None; 3], Some(1.0)), "no slot is free, and the speed is not known");
    stub.plan_next(telling_its_speed());
    let second = gateway.send_chat(&chat_stream(9));
    gateway.wait_depth(1);
    let one = backlog();
    stub.release(0);
    eventually_true("the speed is known", || series(&gateway, "service_rate") == Some(100.0));
    eventually_true("nobody has a slot", || busy() == Some(0.0));
    assert_eq!((waits(), backlog()), ([Some(0.0); 3], 0.0));

    let mut conns = vec![first, second, gateway.send_chat(&chat_stream(9))];
    stub.wait_held(2);
    for waiting in 1..4 {
        conns.push(gateway.send_chat(&chat_stream(9)));
        gateway.wait_depth(waiting);
    }
    assert!(one > 0.0 && backlog() >= 3.0, "{one} {}", backlog());
    assert_eq!(busy(), Some(1.0));
    // Of another tenant it would go first, once the one that runs is over.
    assert!(waits().iter().all(|wait| wait.is_some_and(|wait| wait > 0.0 && wait < 1.0)), "{:?}", waits());
    for index in 2..6 {
        stub.wait_held(index);
        stub.release(index);
    }
    conns.into_iter().for_each(|conn| drop(conn.answer().unwrap().events()));
    eventually_true("all is over", || busy() == Some(0.0));
    assert_eq!((waits(), backlog()), ([Some(0.0); 3], 0.0));
}

#[test]
fn a_quota_has_its_limit_beside_what_is_used() {
    let stub = Stub::start(1);
    let config = "[policies.default]\ntokens_per_day = 1000\ntokens_per_month = 20000";
    let gateway = Gateway::with_config(&stub.url(), config);
    stub.plan(stream_of(3));
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
    let quota = |what: &str, period: &str| {
        series(&gateway, &format!("quota_{what}_tokens{{period=\"{period}\",tenant=\"acme\"}}"))
    };
    eventually_true("it is settled", || quota("used", "day") == Some(10.0));
    let limits = [quota("limit", "day"), quota("used", "month"), quota("limit", "month")];
    assert_eq!(limits, [Some(1000.0), Some(10.0), Some(20000.0)]);
}

/// A certificate until the end of 5 May 2031, and its key.
fn certificate(directory: &Path) -> f64 {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2031, 5, 6);
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(directory.join("certificate.pem"), certificate.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    1_935_792_000.0
}

#[test]
fn what_expires_is_shown_and_what_does_not_is_not() {
    let stub = Stub::start(1);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let config =
        format!("[server]\ntls_certificate = \"{}\"\ntls_key = \"{}\"", path("certificate.pem"), path("key.pem"));
    let not_after = certificate(directory.path());
    let gateway = Gateway::with_config(&stub.url(), &config);
    let certificate = format!("tls_certificate_expiry_timestamp_seconds{{file=\"{}\"}}", path("certificate.pem"));
    assert_eq!(series(&gateway, &certificate), Some(not_after));

    let create = |expires: &str| {
        let reply = gateway.ask_admin("POST", "/v1/keys", &json!({"tenant": "globex", "expires": expires})).json();
        let expires: jiff::Timestamp = reply["expires"].as_str().unwrap().parse().unwrap();
        (reply["id"].as_str().unwrap().to_owned(), expires.as_second() as f64)
    };
    let (soon, at) = create("2d");
    let (later, _) = create("60d");
    let shown =
        |id: &str| series(&gateway, &format!("api_key_expiry_timestamp_seconds{{key_id=\"{id}\",tenant=\"globex\"}}"));
    // The list of keys tells whole seconds.
    eventually_true("the key is shown", || shown(&soon).is_some_and(|shown| (shown - at).abs() <= 1.0));
    assert_eq!((shown(&later), count(&gateway, "api_key_expiry_timestamp_seconds")), (None, 1));
    gateway.ask_admin("POST", &format!("/v1/keys/{soon}/revoke"), &json!({}));
    eventually_true("it is gone", || count(&gateway, "api_key_expiry_timestamp_seconds") == 0);
}

#[test]
fn the_version_the_start_and_the_volume_are_told() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let version = format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(series(&gateway, &version), Some(1.0));
    let age = jiff::Timestamp::now().as_millisecond() as f64 / 1e3 - series(&gateway, "start_time_seconds").unwrap();
    assert!((0.0..600.0).contains(&age), "started {age} s ago");
    let told = rustix::fs::statvfs(gateway.data()).unwrap();
    let size = (told.f_blocks * told.f_frsize) as f64;
    assert_eq!(series(&gateway, "data_volume_size_bytes"), Some(size));
    assert!(series(&gateway, "data_volume_free_bytes").is_some_and(|free| free > 0.0 && free < size));
    assert_eq!(count(&gateway, "tls_certificate_expiry_timestamp_seconds"), 0, "without TLS there is none");
}
