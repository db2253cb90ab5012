//! Traces of requests, as a collector reads them that uses OpenTelemetry's own message classes.

use serde_json::{Value, json};

use crate::harness::client::{self, Conn};
use crate::harness::collector::{Collector, Span};
use crate::harness::engine::shared;
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Recorded, Step, Stub, held};
use crate::harness::{chat, chat_stream, eventually, eventually_true, with};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const CHAT: &str = "/v1/chat/completions";

/// Sends a chat with further lines in its head.
fn send(gateway: &Gateway, body: &Value, lines: &str) -> Conn {
    let request = String::from_utf8(gateway.request(CHAT, body)).unwrap();
    let mut conn = gateway.conn();
    conn.send(request.replacen("\r\n", &format!("\r\n{lines}"), 1).as_bytes()).unwrap();
    conn
}

fn traceparent(flags: &str) -> String {
    format!("Traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n")
}

fn header<'a>(recorded: &'a [(String, String)], name: &str) -> Option<&'a str> {
    recorded.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}

/// The trace headers that llama-server got.
fn told(recorded: &Recorded) -> (Option<String>, Option<String>) {
    let headers = recorded.headers();
    let header = |name| header(&headers, name).map(str::to_owned);
    (header("traceparent"), header("tracestate"))
}

/// The log line of a request.
fn log_line(gateway: &Gateway, request_id: &str) -> String {
    eventually("the request is in the log", || {
        let log = gateway.log();
        log.lines().find(|line| line.contains(&format!("request_id=\"{request_id}\""))).map(str::to_owned)
    })
}

fn find<'a>(trace: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = trace.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {trace:#?}");
    found[0]
}

fn names(trace: &[Span]) -> Vec<&str> {
    trace.iter().map(|span| span.name.as_str()).collect()
}

/// Every span lies within its parent, which is there.
fn assert_is_tree(trace: &[Span]) {
    for span in &trace[1..] {
        let parent = trace.iter().find(|parent| parent.id == span.parent).unwrap_or_else(|| panic!("{span:#?}"));
        assert!(parent.from <= span.from && span.from <= span.to && span.to <= parent.to, "{parent:#?} {span:#?}");
    }
}

#[test]
fn a_streamed_chat_is_a_trace_that_goes_from_its_client_through_the_gateway_to_llama_server() {
    let (collector, stub) = (Collector::start(), Stub::start(1));
    let gateway = Gateway::with_config(&stub.url(), &collector.config());
    let secret = "what-nobody-else-is-to-know";
    let body = with(chat_stream(9), json!({"messages": [{"role": "user", "content": secret}], "temperature": 0.25}));
    let lines = traceparent("01") + "Tracestate: vendor=1\r\n";
    let answer = send(&gateway, &body, &lines).answer().unwrap();
    let id = answer.head.request_id();
    answer.events();
    let trace = collector.trace(&id);
    assert_is_tree(&trace);
    let root = &trace[0];
    assert_eq!([&root.trace_id, &root.parent, &root.name], [TRACE, PARENT, "chat stub"]);
    assert_eq!([&root.kind, &root.state], ["SPAN_KIND_SERVER", "vendor=1"]);
    for (attribute, value) in [
        ("http.request.method", "POST"),
        ("http.route", CHAT),
        ("http.response.status_code", "200"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "llama.cpp"),
        ("gen_ai.request.model", "stub"),
        ("gen_ai.request.max_tokens", "9"),
        ("gen_ai.response.model", "stub"),
        ("gen_ai.usage.input_tokens", "7"),
        ("gen_ai.usage.output_tokens", "3"),
        ("gen_ai.usage.cache_read.input_tokens", "2"),
        ("llama_gateway.tenant", "acme"),
        ("llama_gateway.surface", "chat"),
        ("llama_gateway.ending", "complete"),
        ("llama_gateway.slots", "1"),
        ("error.type", ""),
    ] {
        assert_eq!(root.text(attribute), value, "{attribute}: {root:#?}");
    }
    assert_eq!(root.attributes["gen_ai.request.stream"], json!(true));
    assert_eq!(root.attributes["gen_ai.request.temperature"], json!(0.25));
    assert_eq!(root.attributes["gen_ai.response.finish_reasons"]["values"], json!([{"stringValue": "stop"}]));
    assert_eq!(root.text("llama_gateway.key_id"), gateway.only_settled_row()["key_id"]);
    let upstream = find(&trace, "POST /v1/chat/completions");
    assert_eq!(upstream.kind, "SPAN_KIND_CLIENT");
    let address = format!("{}:{}", upstream.text("server.address"), upstream.text("server.port"));
    assert_eq!(address, stub.address().to_string());
    let mut steps = names(&trace);
    steps.sort_unstable();
    let wanted =
        ["POST /v1/chat/completions", "auth", "body", "chat stub", "count", "first token", "ledger", "ledger", "limit"];
    assert_eq!(steps, [&wanted[..], &["limit", "queue", "stream"]].concat());
    assert_eq!([&find(&trace, "first token").parent, &find(&trace, "stream").parent], [&upstream.id; 2]);
    // llama-server is told the span that asks it, and nothing else of the client's head.
    let (parent, state) = told(&stub.requests()[0]);
    assert_eq!(parent.unwrap(), format!("00-{TRACE}-{}-01", upstream.id));
    assert_eq!(state.unwrap(), "vendor=1");
    assert!(log_line(&gateway, &id).contains(&format!("trace_id={TRACE} ")));
    // No prompt, no reply, no key.
    let told = collector.text();
    let hidden = [secret, " t1", gateway.key.as_str(), gateway.key.rsplit('-').next().unwrap()];
    assert!(hidden.iter().all(|hidden| !told.contains(hidden)), "{told}");
    eventually_true("its spans are counted", || {
        gateway.metric("llama_gateway_traces_exported_total") == trace.len() as f64
    });
    assert_eq!(gateway.metric("llama_gateway_traces_export_failures_total"), 0.0);
}

#[test]
fn a_reply_of_a_real_llama_server_in_one_piece_is_a_trace_of_its_own() {
    let collector = Collector::start();
    let gateway = Gateway::with_config(&shared().url(), &collector.config());
    // What is no traceparent begins no trace, and ends none.
    let reply = send(&gateway, &chat(4), "Traceparent: 00-nonsense\r\n").answer().unwrap().reply().unwrap();
    let trace = collector.trace(&reply.head.request_id());
    assert_is_tree(&trace);
    let root = &trace[0];
    assert_eq!((root.parent.as_str(), root.trace_id.len()), ("", 32));
    assert_eq!(root.text("gen_ai.usage.output_tokens"), "4");
    assert_eq!(root.attributes["gen_ai.response.finish_reasons"]["values"], json!([{"stringValue": "length"}]));
    assert!(trace.iter().all(|span| !span.is_error));
    find(&trace, "first token");
    assert!(log_line(&gateway, &reply.head.request_id()).contains(&format!("trace_id={} ", root.trace_id)));
}

/// A trace that ends with an error, which its log line tells, too.
fn failed(gateway: &Gateway, collector: &Collector, id: &str, kind: &str, is_error: bool) -> Vec<Span> {
    let trace = collector.trace(id);
    assert_is_tree(&trace);
    assert_eq!((trace[0].text("error.type"), trace[0].is_error), (kind, is_error), "{:#?}", trace[0]);
    let line = log_line(gateway, id);
    assert!(line.contains(&format!("trace_id={} ", trace[0].trace_id)) && line.contains(kind), "{line}");
    trace
}

#[test]
fn whatever_becomes_of_a_request_of_a_known_caller_it_has_a_trace() {
    let (collector, stub) = (Collector::start(), Stub::start(1));
    let policy = "[policies.default]\nqueued_requests = 1\n[policies.one]\nrequests_per_minute = 1\n\
                  [tenants]\nslow = { policy = \"one\" }\n";
    let gateway = Gateway::with_config(&stub.url(), &format!("{}{policy}", collector.config()));
    stub.plan_next(held());
    let running = gateway.stream_chat(&chat_stream(3));
    // One may wait; the next one finds the queue full.
    let waiting = send(&gateway, &chat(3), &traceparent("01"));
    gateway.wait_depth(1);
    let full = gateway.post(CHAT, &chat(3));
    assert_eq!((full.status, full.code().as_str()), (429, "queue_full"));
    let trace = failed(&gateway, &collector, &full.head.request_id(), "queue_full", false);
    assert_eq!(trace[0].text("http.response.status_code"), "429");
    assert!(names(&trace).iter().all(|name| !name.starts_with("POST")));
    // The one that waits leaves.
    waiting.close();
    let left = eventually("who left the queue has a trace", || {
        collector.spans().into_iter().find(|span| span.trace_id == TRACE && span.parent == PARENT)
    });
    let trace = failed(&gateway, &collector, left.text("llama_gateway.request_id"), "client_left", false);
    assert_eq!(names(&trace).last(), Some(&"queue"));
    // The one that runs leaves.
    let id = running.head.request_id();
    running.conn.reset();
    let trace = failed(&gateway, &collector, &id, "client_left", false);
    assert_eq!(trace[0].text("gen_ai.usage.output_tokens"), "1");
    assert!(!find(&trace, "POST /v1/chat/completions").is_error);
    // llama-server breaks off.
    stub.plan_next(vec![Step::Head, Step::Tokens(2), Step::Cut]);
    let answer = gateway.stream_chat(&chat_stream(3));
    let id = answer.head.request_id();
    answer.events();
    let trace = failed(&gateway, &collector, &id, "backend_error", true);
    assert_eq!(find(&trace, "POST /v1/chat/completions").text("error.type"), "backend_error");
    assert_eq!(trace[0].text("gen_ai.usage.output_tokens"), "2");
    // The body is nonsense, and then the path.
    let invalid = gateway.post(CHAT, &json!({"messages": 1, "temperature": "hot"}));
    let trace = failed(&gateway, &collector, &invalid.head.request_id(), "invalid_request", false);
    assert_eq!(trace[0].name, "chat");
    let unknown = gateway.get("/v1/nothing");
    let trace = failed(&gateway, &collector, &unknown.head.request_id(), "unknown_url", false);
    assert_eq!((trace[0].name.as_str(), trace[0].text("http.response.status_code")), ("GET", "404"));
    // Too many requests a minute.
    let key = gateway.create_key("slow");
    let again = || client::post(gateway.address, CHAT, Some(&key), &chat(3));
    assert_eq!(again().status, 200);
    let refused = again();
    let trace = failed(&gateway, &collector, &refused.head.request_id(), "request_rate", false);
    assert_eq!((refused.status, trace[0].text("llama_gateway.tenant")), (429, "slow"));
    // Nobody who is not known can have anything recorded.
    let stranger = client::post(gateway.address, CHAT, Some("sk-lgw-nobody"), &chat(3));
    assert_eq!(stranger.status, 401);
    assert!(!log_line(&gateway, &stranger.head.request_id()).contains("trace_id"));
    let last = gateway.get("/v1/models").head.request_id();
    assert_eq!(collector.trace(&last)[0].name, "GET /v1/models");
    assert!(!collector.text().contains(&stranger.head.request_id()));
}

#[test]
fn what_is_not_recorded_is_still_told_to_llama_server_as_such() {
    let (collector, stub) = (Collector::start(), Stub::start(1));
    let config = |further: &str| format!("{}sample_ratio = 0.0\n{further}", collector.config());
    let gateway = Gateway::with_config(&stub.url(), &config(""));
    let ask = |gateway: &Gateway, lines: &str| {
        let reply = send(gateway, &chat(3), lines).answer().unwrap().reply().unwrap();
        (reply.head.request_id(), told(stub.requests().last().unwrap()))
    };
    // The client's trace goes on; one of which nobody knows is named by no log line.
    let (id, (parent, _)) = ask(&gateway, &traceparent("00"));
    let parent = parent.unwrap();
    assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00") && !parent.contains(PARENT));
    assert!(log_line(&gateway, &id).contains(&format!("trace_id={TRACE} ")));
    let (id, (parent, _)) = ask(&gateway, "");
    assert!(parent.unwrap().ends_with("-00"));
    assert!(!log_line(&gateway, &id).contains("trace_id"));
    // A client may ask to be recorded, where that is allowed.
    let (id, (parent, _)) = ask(&gateway, &traceparent("01"));
    assert!(parent.unwrap().ends_with("-01"));
    assert_eq!(collector.trace(&id)[0].trace_id, TRACE);
    let strict = Gateway::with_config(&stub.url(), &config("follow_client = false\n"));
    let (_, (parent, _)) = ask(&strict, &traceparent("01"));
    assert!(parent.unwrap().ends_with("-00"));
    strict.term();
    assert!(strict.wait_exit().success());
    let spans = collector.spans();
    assert!(spans.iter().filter(|span| span.kind == "SPAN_KIND_SERVER").count() == 1, "{spans:#?}");
}

#[test]
fn with_traces_off_nothing_of_them_is_there() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let reply = send(&gateway, &chat(3), &traceparent("01")).answer().unwrap().reply().unwrap();
    assert_eq!(told(&stub.requests()[0]), (None, None));
    assert!(!log_line(&gateway, &reply.head.request_id()).contains("trace_id"));
    assert_eq!(gateway.metric("llama_gateway_traces_exported_total"), 0.0);
}

#[test]
fn a_collector_that_fails_holds_up_no_request_and_is_told_of_once() {
    let (mut collector, stub) = (Collector::start(), Stub::start(1));
    let gateway = Gateway::with_config(&stub.url(), &collector.config());
    collector.set("503");
    let first = gateway.post(CHAT, &chat(3)).head.request_id();
    eventually_true("the collector was asked twice", || collector.asked() >= 2);
    // While it fails, requests are served, and nothing is lost yet.
    assert!((0..5).all(|_| gateway.post(CHAT, &chat(3)).status == 200));
    assert_eq!(gateway.metric("llama_gateway_traces_export_failures_total"), 0.0);
    collector.set("take");
    collector.trace(&first);
    eventually_true("the end is in the log", || gateway.log().contains("traces are exported again"));
    let complaints = gateway.log().matches("traces are not exported").count();
    assert_eq!(complaints, 1, "{}", gateway.log());
    // What it refuses for good is lost, and counted.
    collector.set("400");
    gateway.post(CHAT, &chat(3));
    eventually_true("spans are lost", || gateway.metric("llama_gateway_traces_export_failures_total") > 0.0);
    collector.set("reject 1");
    let before = gateway.metric("llama_gateway_traces_export_failures_total");
    gateway.post(CHAT, &chat(3));
    eventually_true("a part is lost", || gateway.metric("llama_gateway_traces_export_failures_total") == before + 1.0);
    assert!(gateway.log().contains("too old"), "{}", gateway.log());
}

#[test]
fn what_was_recorded_last_is_exported_when_the_gateway_stops() {
    let (collector, stub) = (Collector::start(), Stub::start(1));
    let gateway = Gateway::with_config(&stub.url(), &collector.config());
    stub.plan_next(held());
    let answer = gateway.stream_chat(&chat_stream(3));
    let id = answer.head.request_id();
    gateway.term();
    eventually_true("it drains", || gateway.ready_status() == 503);
    // Who is refused because of that has a trace as well.
    let refused = gateway.post(CHAT, &chat(3));
    assert_eq!(refused.status, 503);
    stub.release(0);
    answer.events();
    assert!(gateway.wait_exit().success());
    assert_eq!(collector.trace(&id)[0].text("llama_gateway.ending"), "complete");
    assert_eq!(collector.trace(&refused.head.request_id())[0].text("error.type"), "draining");
    assert!(!gateway.log().contains("traces could"), "{}", gateway.log());
}
