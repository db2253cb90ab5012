//! The messages of OTLP: an `ExportTraceServiceRequest` is written, an `ExportTraceServiceResponse` read.
//!
//! Fields and numbers are those of <https://github.com/open-telemetry/opentelemetry-proto> (version 1, which does not change
//! them any more), as far as they are used. The crate that is generated from all of them brings a gRPC stack with it.

use prost::{Message, Oneof};

use super::context::SpanId;
use super::names;
use super::spans::{Kind, Span, Value};

/// `Status.code` of a span that failed.
const STATUS_ERROR: i32 = 2;
/// `Span.flags`: bit 8 says that bit 9 is known, and bit 9 that the parent is of another process. The lowest is the
/// sampled flag.
const FLAGS_LOCAL: u32 = 0x101;
const FLAGS_REMOTE: u32 = 0x301;

/// Bytes of a receiver's message that are kept.
const MAX_MESSAGE: usize = 200;

/// `ExportTraceServiceRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(message, optional, tag = "1")]
    spans: Option<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, optional, tag = "2")]
    spans: Option<ScopeSpans>,
}

/// Attributes of the service that all spans are of.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
}

/// `Span`
#[derive(Clone, PartialEq, Message)]
pub(super) struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 2, 3, 4, 5")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Real(f64),
    #[prost(message, tag = "5")]
    Array(Array),
}

#[derive(Clone, PartialEq, Message)]
struct Array {
    #[prost(message, repeated, tag = "1")]
    values: Vec<AnyValue>,
}

/// `ExportTraceServiceResponse`
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<Partial>,
}

#[derive(Clone, PartialEq, Message)]
struct Partial {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// A span of this trace.
pub(super) fn span(trace_id: &[u8], tracestate: Option<&str>, span: &Span<'_>) -> SpanMessage {
    let remote = span.kind == Kind::Server && span.parent.is_some();
    SpanMessage {
        trace_id: trace_id.to_vec(),
        span_id: span.id.0.to_vec(),
        trace_state: tracestate.unwrap_or_default().to_owned(),
        parent_span_id: span.parent.map_or_else(Vec::new, |SpanId(parent)| parent.to_vec()),
        name: span.name.to_string(),
        kind: match span.kind {
            Kind::Internal => 1,
            Kind::Server => 2,
            Kind::Client => 3,
        },
        start_time_unix_nano: span.from,
        end_time_unix_nano: span.to,
        attributes: span.attributes.iter().map(|(name, value)| attribute(name, any(value))).collect(),
        status: span.is_error.then_some(Status { code: STATUS_ERROR }),
        flags: if remote { FLAGS_REMOTE } else { FLAGS_LOCAL },
    }
}

fn attribute(name: &str, value: Any) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn any(value: &Value<'_>) -> Any {
    match *value {
        Value::Text(text) => Any::Text(text.to_owned()),
        Value::OneText(text) => {
            Any::Array(Array { values: vec![AnyValue { value: Some(Any::Text(text.to_owned())) }] })
        }
        Value::Flag(flag) => Any::Flag(flag),
        Value::Integer(integer) => Any::Integer(i64::try_from(integer).unwrap_or(i64::MAX)),
        Value::Real(real) => Any::Real(real),
    }
}

/// What the spans are of.
pub(super) fn resource(service_name: &str, instance: &str) -> Resource {
    let attributes = [
        (names::SERVICE_NAME, service_name),
        (names::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
        (names::SERVICE_INSTANCE_ID, instance),
    ];
    Resource { attributes: attributes.map(|(name, text)| attribute(name, Any::Text(text.to_owned()))).into() }
}

/// The whole request: spans of one service.
pub(super) fn request(resource: &Resource, spans: Vec<SpanMessage>) -> Vec<u8> {
    let scope = Some(Scope { name: "llama-gateway".to_owned() });
    let spans = Some(ScopeSpans { scope, spans });
    Request { spans: Some(ResourceSpans { resource: Some(resource.clone()), spans }) }.encode_to_vec()
}

/// What a receiver says of spans that it did not take.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PartialSuccess {
    pub(super) rejected: u64,
    /// Shortened, without control characters.
    pub(super) message: String,
}

/// Reads the answer to a request; one that cannot be read says nothing.
pub(super) fn response(bytes: &[u8]) -> PartialSuccess {
    let partial = Response::decode(bytes).ok().and_then(|response| response.partial_success).unwrap_or_default();
    PartialSuccess {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or_default(),
        message: partial.error_message.chars().filter(|char| !char.is_control()).take(MAX_MESSAGE).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_bytes_that_the_official_classes_write() {
        let attributes = vec![
            ("t", Value::Text("x")),
            ("f", Value::Flag(true)),
            ("i", Value::Integer(300)),
            ("r", Value::Real(0.5)),
            ("a", Value::OneText("y")),
        ];
        let (id, parent) = (SpanId([2; 8]), Some(SpanId([3; 8])));
        let of = Span { id, parent, name: "s".into(), kind: Kind::Server, from: 1, to: 2, attributes, is_error: true };
        let resource = Resource { attributes: vec![attribute("n", Any::Text("v".to_owned()))] };
        let written = request(&resource, vec![span(&[1; 16], Some("k=v"), &of)]);
        let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN.replace([' ', '\n'], ""));
    }

    /// ExportTraceServiceRequest.SerializeToString() of the Python package opentelemetry-proto 1.45.2, for the same values.
    const GOLDEN: &str =
        "0aaa010a0a0a080a016e12030a0176129b010a0f0a0d6c6c616d612d676174657761791287010a100101010101010101
        0101010101010101120802020202020202021a036b3d76220803030303030303032a0173300239010000000000000041
        02000000000000004a080a017412030a01784a070a0166120210014a080a0169120318ac024a0e0a0172120921000000
        000000e03f4a0c0a016112072a050a030a01797a021802850101030000";

    #[test]
    fn what_a_collector_did_not_take_is_read_and_shortened() {
        let error_message = format!("too old\n{}", "x".repeat(300));
        let partial_success = Some(Partial { rejected_spans: 300, error_message });
        let read = response(&Response { partial_success }.encode_to_vec());
        assert_eq!((read.rejected, read.message.len()), (300, MAX_MESSAGE));
        assert!(read.message.starts_with("too oldxx"));
    }

    #[test]
    fn an_answer_that_cannot_be_read_says_nothing() {
        for answer in [&b""[..], b"\xff", b"<html>", &[0xff; 20], &[0x0a, 0x7f, 1], &[0x0b], &[0x0a, 2, 0x08, 0x80]] {
            assert_eq!(response(answer), PartialSuccess::default(), "{answer:?}");
        }
        // Fields of later versions are passed over.
        assert_eq!(response(&[0x1d, 0, 0, 0, 0, 0x0a, 4, 0x18, 1, 0x08, 9]).rejected, 9);
    }
}
