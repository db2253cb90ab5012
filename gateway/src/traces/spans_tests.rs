use super::super::names::Step;
use super::super::record::fixture::{answered, arrived, at};
use super::super::record::{Failure, Noted};
use super::*;
use crate::error::Reason;
use crate::ledger::Ending;

/// A span's name, its parent's, and from when to when it was, in milliseconds after the arrival.
fn shape(record: &Record) -> Vec<(String, Option<String>, u64, u64)> {
    let spans = of(record);
    let name_of = |id: SpanId| spans.iter().find(|span| span.id == id).map(|span| span.name.to_string());
    let milliseconds = |at: u64| (at - 1_000_000_000) / 1_000_000;
    let shape = |span: &Span<'_>| {
        (span.name.to_string(), span.parent.and_then(name_of), milliseconds(span.from), milliseconds(span.to))
    };
    spans.iter().map(shape).collect()
}

fn attribute<'a>(span: &'a Span<'a>, name: &str) -> Option<Value<'a>> {
    span.attributes.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
}

#[test]
fn a_request_is_one_tree_of_spans_at_the_times_that_were_noted() {
    let root = "chat smollm2".to_owned();
    let post = "POST /v1/chat/completions".to_owned();
    let record = answered();
    assert_eq!(
        shape(&record),
        [
            (root.clone(), None, 0, 100),
            ("auth".to_owned(), Some(root.clone()), 0, 1),
            ("queue".to_owned(), Some(root.clone()), 2, 10),
            (post.clone(), Some(root), 20, 90),
            ("first token".to_owned(), Some(post.clone()), 20, 50),
            ("stream".to_owned(), Some(post), 50, 90),
        ]
    );
    let spans = of(&record);
    let kinds: Vec<_> = spans.iter().map(|span| span.kind).collect();
    let internal = Kind::Internal;
    assert_eq!(kinds, [Kind::Server, internal, internal, Kind::Client, internal, internal]);
    assert!(spans.iter().all(|span| !span.is_error));
}

#[test]
fn the_span_of_the_request_says_what_was_asked_and_what_came_of_it() {
    let record = answered();
    let spans = of(&record);
    let wanted = [
        ("http.request.method", Value::Text("POST")),
        ("llama_gateway.request_id", Value::Text("req_1")),
        ("llama_gateway.tenant", Value::Text("acme")),
        ("llama_gateway.key_id", Value::Text("k1")),
        ("http.route", Value::Text("/v1/chat/completions")),
        ("http.response.status_code", Value::Integer(200)),
        ("llama_gateway.surface", Value::Text("chat")),
        ("gen_ai.operation.name", Value::Text("chat")),
        ("gen_ai.provider.name", Value::Text("llama.cpp")),
        ("gen_ai.request.model", Value::Text("smollm2")),
        ("gen_ai.request.max_tokens", Value::Integer(16)),
        ("gen_ai.request.temperature", Value::Real(0.5)),
        ("gen_ai.request.stream", Value::Flag(true)),
        ("llama_gateway.ending", Value::Text("complete")),
        ("gen_ai.response.model", Value::Text("smollm2")),
        ("gen_ai.response.finish_reasons", Value::OneText("stop")),
        ("llama_gateway.slots", Value::Integer(1)),
        ("gen_ai.usage.input_tokens", Value::Integer(10)),
        ("gen_ai.usage.output_tokens", Value::Integer(3)),
        ("gen_ai.usage.cache_read.input_tokens", Value::Integer(4)),
    ];
    assert_eq!(spans[0].attributes, wanted);
    assert_eq!(attribute(&spans[3], "server.address"), Some(Value::Text("[::1]")));
    assert_eq!(attribute(&spans[3], "server.port"), Some(Value::Integer(8001)));
    assert_eq!(attribute(&spans[3], "llama_gateway.attempt"), None);
}

#[test]
fn a_refusal_is_no_error_of_the_gateway_and_a_fault_is_one() {
    let mut record = arrived();
    for (reason, is_error) in
        [(Reason::QueueFull, false), (Reason::QueueTimeout, true), (Reason::InvalidRequest, false)]
    {
        record.error = Failure::of(Ending::Failed(reason));
        let spans = of(&record);
        assert_eq!((spans.len(), spans[0].name.as_ref(), spans[0].is_error), (1, "chat", is_error));
        assert_eq!(attribute(&spans[0], "error.type"), Some(Value::Text(reason.label())));
    }
    record.error = Failure::of(Ending::ClientLeft);
    assert!(!of(&record)[0].is_error);
    assert_eq!([Ending::Complete, Ending::Cut].map(Failure::of), [None, None]);
}

#[test]
fn a_request_for_no_model_is_named_by_its_route() {
    let mut record = arrived();
    (record.method, record.route, record.surface) = ("GET", Some("/v1/models".into()), None);
    assert_eq!(of(&record)[0].name, "GET /v1/models");
    record.route = None;
    assert_eq!(of(&record)[0].name, "GET");
}

#[test]
fn each_attempt_is_a_span_and_what_came_back_belongs_to_the_last_one() {
    let mut record = answered();
    let last = record.attempts.pop().unwrap();
    let (from, to) = (at(&record, 12), Some(at(&record, 14)));
    let first =
        Attempt { address: "10.0.0.1:8001".into(), path: last.path, from, to, status: None, error: Some("not_read") };
    let ids = [record.begin_attempt(first), record.begin_attempt(last)];
    let spans = of(&record);
    let attempts: Vec<_> = spans.iter().filter(|span| span.kind == Kind::Client).collect();
    assert_eq!([attempts[0].id, attempts[1].id], ids);
    assert_eq!([attempts[0].is_error, attempts[1].is_error], [true, false]);
    assert_eq!(attribute(attempts[0], "error.type"), Some(Value::Text("not_read")));
    assert_eq!([1, 2].map(Value::Integer), [0, 1].map(|at| attribute(attempts[at], "llama_gateway.attempt").unwrap()));
    assert_eq!(spans.last().unwrap().parent, Some(ids[1]));
}

#[test]
fn a_reply_that_breaks_off_is_an_error_of_its_attempt_and_a_client_that_leaves_is_not() {
    let mut record = answered();
    for (ending, kind) in [(Ending::Failed(Reason::BackendError), Some("backend_error")), (Ending::ClientLeft, None)] {
        record.error = Failure::of(ending);
        let spans = of(&record);
        assert_eq!(attribute(&spans[3], "error.type"), kind.map(Value::Text));
        assert_eq!(spans[3].is_error, kind.is_some());
    }
}

#[test]
fn no_request_has_more_spans_than_are_noted() {
    let mut record = answered();
    for _ in 0..100 {
        let (from, to) = (at(&record, 1), at(&record, 2));
        record.note(Noted { step: Step::Queue, from, to });
        let address = "10.0.0.1:8001".into();
        record.begin_attempt(Attempt { address, path: "/", from, to: None, status: None, error: None });
    }
    let spans = of(&record);
    assert_eq!(spans.len(), 1 + 32 + MAX_ATTEMPTS + 2);
    let mut ids: Vec<_> = spans.iter().map(|span| span.id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), spans.len());
}
