//! The spans of one request, made of what was noted.

use std::borrow::Cow;

use tokio::time::Instant;

use super::context::SpanId;
use super::names::{self, operation};
use super::record::{Attempt, MAX_ATTEMPTS, Record};

/// Whose side a span tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of the gateway's own work.
    Internal,
    /// Of the request that came in.
    Server,
    /// Of one that went to llama-server.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Flag(bool),
    Integer(u64),
    Real(f64),
    /// An array of one text.
    OneText(&'a str),
}

/// One span.
#[derive(Debug, PartialEq)]
pub(super) struct Span<'a> {
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) name: Cow<'a, str>,
    pub(super) kind: Kind,
    /// Nanoseconds since 1970.
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) attributes: Vec<(&'static str, Value<'a>)>,
    pub(super) is_error: bool,
}

/// All spans of a request, that of the whole first.
pub(super) fn of(record: &Record) -> Vec<Span<'_>> {
    let mut spans = vec![root(record)];
    // The first numbers are those of attempts, whose ids llama-server was told.
    let mut next = MAX_ATTEMPTS;
    let mut internal = |name: &'static str, parent: SpanId, from: Instant, to: Instant| {
        let id = record.context.span_id.of_child(next);
        next += 1;
        let (from, to, parent) = (record.nanoseconds(from), record.nanoseconds(to), Some(parent));
        let (kind, attributes, is_error) = (Kind::Internal, Vec::new(), false);
        Span { id, parent, name: name.into(), kind, from, to, attributes, is_error }
    };
    for noted in &record.steps {
        spans.push(internal(noted.step.name(), record.context.span_id, noted.from, noted.to));
    }
    spans.extend((0..).zip(&record.attempts).map(|(at, attempt)| upstream(record, at, attempt)));
    // What came of the reply belongs to the attempt that brought it.
    if let (Some(last), Some(attempt)) = (record.attempts.len().checked_sub(1), record.attempts.last())
        && let Some(settled) = &record.settled
        && let Some(first_token) = settled.first_token
    {
        let parent = record.context.span_id.of_child(last);
        spans.push(internal(names::FIRST_TOKEN, parent, attempt.from, first_token));
        spans.push(internal(names::STREAM, parent, first_token, settled.at));
    }
    spans
}

fn root<'r>(record: &'r Record) -> Span<'r> {
    let name = match (record.surface.map(operation), &record.asked) {
        (Some(operation), Some(asked)) => format!("{operation} {}", asked.model).into(),
        (Some(operation), None) => operation.into(),
        (None, _) => http_name(record.method, record.route.as_deref()),
    };
    let mut attributes = vec![
        (names::HTTP_REQUEST_METHOD, Value::Text(record.method)),
        (names::REQUEST_ID, Value::Text(&record.request_id)),
        (names::TENANT, Value::Text(&record.tenant)),
        (names::KEY_ID, Value::Text(&record.key_id)),
    ];
    let mut add = |name, value: Option<Value<'r>>| attributes.extend(value.map(|value| (name, value)));
    add(names::HTTP_ROUTE, record.route.as_deref().map(Value::Text));
    add(names::HTTP_RESPONSE_STATUS_CODE, record.status.map(|status| Value::Integer(status.into())));
    add(names::ERROR_TYPE, record.error.map(|failure| Value::Text(failure.kind)));
    if let Some(surface) = record.surface {
        add(names::SURFACE, Some(Value::Text(surface)));
        add(names::OPERATION, Some(Value::Text(operation(surface))));
        add(names::PROVIDER, Some(Value::Text(names::LLAMA_CPP)));
    }
    if let Some(asked) = &record.asked {
        add(names::REQUEST_MODEL, Some(Value::Text(&asked.model)));
        add(names::REQUEST_MAX_TOKENS, asked.max_tokens.map(|tokens| Value::Integer(tokens.into())));
        add(names::REQUEST_TEMPERATURE, asked.temperature.map(Value::Real));
        add(names::REQUEST_TOP_P, asked.top_p.map(Value::Real));
        add(names::REQUEST_STREAM, asked.stream.map(Value::Flag));
        add(names::REQUEST_CHOICES, (asked.choices > 1).then_some(Value::Integer(asked.choices.into())));
    }
    if let Some(settled) = &record.settled {
        let count = settled.count;
        add(names::ENDING, Some(Value::Text(settled.ending.label())));
        add(names::RESPONSE_MODEL, record.asked.as_ref().map(|asked| Value::Text(&asked.model)));
        add(names::RESPONSE_FINISH_REASONS, record.finish_reason.map(Value::OneText));
        add(names::SLOTS, Some(Value::Integer(settled.slots.into())));
        add(names::INPUT_TOKENS, Some(Value::Integer(count.prompt)));
        add(names::OUTPUT_TOKENS, Some(Value::Integer(count.completion)));
        add(names::CACHED_TOKENS, Some(Value::Integer(count.cached)));
    }
    Span {
        id: record.context.span_id,
        parent: record.context.parent,
        name,
        kind: Kind::Server,
        from: record.nanoseconds(record.arrived),
        to: record.nanoseconds(record.ended),
        attributes,
        is_error: record.error.is_some_and(|failure| failure.is_fault),
    }
}

fn http_name<'a>(method: &'a str, route: Option<&str>) -> Cow<'a, str> {
    route.map_or(method.into(), |route| format!("{method} {route}").into())
}

fn upstream<'a>(record: &'a Record, at: usize, attempt: &'a Attempt) -> Span<'a> {
    let ended = record.settled.map_or(record.ended, |settled| settled.at);
    // A reply that broke off is a failure of the attempt that was not over by then.
    let broke_off =
        || record.error.filter(|failure| failure.is_fault && attempt.to.is_none()).map(|failure| failure.kind);
    let error = attempt.error.or_else(broke_off);
    let mut attributes = vec![(names::HTTP_REQUEST_METHOD, Value::Text("POST"))];
    let mut add = |name, value: Option<Value<'a>>| attributes.extend(value.map(|value| (name, value)));
    let (host, port) = attempt.address.rsplit_once(':').unwrap_or((&attempt.address, ""));
    add(names::SERVER_ADDRESS, Some(host).filter(|host| !host.is_empty()).map(Value::Text));
    add(names::SERVER_PORT, port.parse().ok().map(Value::Integer));
    add(names::HTTP_RESPONSE_STATUS_CODE, attempt.status.map(|status| Value::Integer(status.into())));
    add(names::ERROR_TYPE, error.map(Value::Text));
    add(names::ATTEMPT, (record.attempts.len() > 1).then_some(Value::Integer(at as u64 + 1)));
    Span {
        id: record.context.span_id.of_child(at),
        parent: Some(record.context.span_id),
        name: http_name("POST", Some(attempt.path)),
        kind: Kind::Client,
        from: record.nanoseconds(attempt.from),
        to: record.nanoseconds(attempt.to.unwrap_or(ended)),
        attributes,
        is_error: error.is_some(),
    }
}

impl Record {
    /// A moment by the wall clock: all lie as far apart as they did by the clock that nobody can set.
    fn nanoseconds(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.arrived).as_nanos();
        let arrived = u128::try_from(self.timestamp.as_nanosecond()).unwrap_or_default();
        u64::try_from(arrived + since).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[path = "spans_tests.rs"]
mod tests;
