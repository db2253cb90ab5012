//! As much of protobuf as OTLP needs: an `ExportTraceServiceRequest` is written, an `ExportTraceServiceResponse` read.
//!
//! The fields and their numbers are those of <https://github.com/open-telemetry/opentelemetry-proto> (version 1, which
//! does not change them any more). The wire format is told at <https://protobuf.dev/programming-guides/encoding/>.

use super::names;
use super::spans::{Kind, Span, Value};

/// Wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// `Status.code` of a span that failed.
const STATUS_ERROR: u64 = 2;
/// `Span.flags`: bit 8 says that bit 9 is known, and bit 9 that the parent is of another process. The lowest is the
/// sampled flag.
const FLAGS_LOCAL: u32 = 0x101;
const FLAGS_REMOTE: u32 = 0x301;

/// Bytes of a receiver's message that are kept.
const MAX_MESSAGE: usize = 200;

/// Attributes of the service that all spans are of.
pub(super) type Resource = [(&'static str, String)];

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    tag(out, field, VARINT);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u64, value: u64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    tag(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A message within a message; `write` writes it. Its length stands before it: in one byte, as of nearly all, or what was
/// written is moved up.
fn message(out: &mut Vec<u8>, field: u64, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, BYTES);
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
        return;
    }
    let mut written = Vec::with_capacity(4);
    varint(&mut written, length as u64);
    out.splice(at..=at, written);
}

/// Appends a span as the scope that it stands in has it.
pub(super) fn span(out: &mut Vec<u8>, trace_id: &[u8], tracestate: Option<&str>, span: &Span<'_>) {
    message(out, 2, |out| {
        bytes(out, 1, trace_id);
        bytes(out, 2, &span.id.0);
        if let Some(tracestate) = tracestate {
            bytes(out, 3, tracestate.as_bytes());
        }
        if let Some(parent) = span.parent {
            bytes(out, 4, &parent.0);
        }
        bytes(out, 5, span.name.as_bytes());
        let kind = match span.kind {
            Kind::Internal => 1,
            Kind::Server => 2,
            Kind::Client => 3,
        };
        number(out, 6, kind);
        fixed64(out, 7, span.from);
        fixed64(out, 8, span.to);
        for (name, value) in &span.attributes {
            attribute(out, 9, name, value);
        }
        if span.is_error {
            message(out, 15, |out| number(out, 3, STATUS_ERROR));
        }
        tag(out, 16, FIXED32);
        let remote = span.kind == Kind::Server && span.parent.is_some();
        out.extend_from_slice(&if remote { FLAGS_REMOTE } else { FLAGS_LOCAL }.to_le_bytes());
    });
}

fn attribute(out: &mut Vec<u8>, field: u64, name: &str, value: &Value<'_>) {
    message(out, field, |out| {
        bytes(out, 1, name.as_bytes());
        message(out, 2, |out| match value {
            Value::Text(text) => bytes(out, 1, text.as_bytes()),
            Value::OneText(text) => message(out, 5, |out| message(out, 1, |out| bytes(out, 1, text.as_bytes()))),
            Value::Flag(flag) => number(out, 2, u64::from(*flag)),
            Value::Integer(integer) => number(out, 3, *integer),
            Value::Real(real) => fixed64(out, 4, real.to_bits()),
        });
    });
}

/// The whole request: the spans, as [`span`] has written them, of one service.
pub(super) fn request(resource: &Resource, spans: &[u8]) -> Vec<u8> {
    let mut scope = Vec::with_capacity(64);
    message(&mut scope, 1, |out| bytes(out, 1, b"llama-gateway"));
    let mut head = Vec::with_capacity(256);
    message(&mut head, 1, |out| {
        for (name, value) in resource {
            attribute(out, 1, name, &Value::Text(value));
        }
    });
    let scope_spans = scope.len() + spans.len();
    tag(&mut head, 2, BYTES);
    varint(&mut head, scope_spans as u64);
    let mut request = Vec::with_capacity(head.len() + scope_spans + 16);
    tag(&mut request, 1, BYTES);
    varint(&mut request, (head.len() + scope_spans) as u64);
    for part in [&head, &scope, spans] {
        request.extend_from_slice(part);
    }
    request
}

/// What a receiver says of spans that it did not take.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PartialSuccess {
    pub(super) rejected: u64,
    /// Shortened, without control characters.
    pub(super) message: String,
}

/// Reads an `ExportTraceServiceResponse`; one that cannot be read says nothing.
pub(super) fn response(bytes: &[u8]) -> PartialSuccess {
    let mut found = PartialSuccess::default();
    fields(bytes, |field, value| {
        if let (1, Field::Bytes(partial)) = (field, value) {
            fields(partial, |field, value| match (field, value) {
                (1, Field::Number(rejected)) => found.rejected = rejected,
                (2, Field::Bytes(text)) => {
                    let text = String::from_utf8_lossy(text);
                    found.message = text.chars().filter(|char| !char.is_control()).take(MAX_MESSAGE).collect();
                }
                _ => {}
            });
        }
    });
    found
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Tells each field of a message, up to where it cannot be read.
fn fields<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u64, Field<'a>)) {
    while let Some(tag) = take_varint(&mut bytes) {
        let value = match tag & 7 {
            VARINT => take_varint(&mut bytes).map(Field::Number),
            FIXED64 => take(&mut bytes, 8).map(Field::Bytes),
            BYTES => take_varint(&mut bytes).and_then(|length| take(&mut bytes, length)).map(Field::Bytes),
            FIXED32 => take(&mut bytes, 4).map(Field::Bytes),
            _ => None,
        };
        let Some(value) = value else { return };
        each(tag >> 3, value);
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = *take(bytes, 1)? else { return None };
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// What the spans are of.
pub(super) fn resource(service_name: &str, instance: &str) -> Vec<(&'static str, String)> {
    vec![
        (names::SERVICE_NAME, service_name.to_owned()),
        (names::SERVICE_VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (names::SERVICE_INSTANCE_ID, instance.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::context::SpanId;
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
        let mut encoded = Vec::new();
        span(&mut encoded, &[1; 16], Some("k=v"), &of);
        let written = request(&[("n", "v".to_owned())], &encoded);
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
        let mut answer = Vec::new();
        message(&mut answer, 1, |out| {
            number(out, 1, 300);
            bytes(out, 2, format!("too old\n{}", "x".repeat(300)).as_bytes());
        });
        let read = response(&answer);
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
