//! Which trace a request belongs to: W3C Trace Context, <https://www.w3.org/TR/trace-context-1/>.
//!
//! Takes the headers `traceparent` and `tracestate` of a client, who may write anything there; gives the ids of the
//! request, whether it is recorded, and the headers for llama-server.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use http::HeaderMap;

/// Bytes of a version 00 `traceparent`, which later versions begin with.
const TRACEPARENT_BYTES: usize = 55;
/// Bytes of `tracestate` that are passed on; a longer one is dropped. The specification asks for no more.
const MAX_TRACESTATE_BYTES: usize = 512;
/// Members that a `tracestate` may have.
const MAX_TRACESTATE_MEMBERS: usize = 32;
/// Bytes of a key or a value in it.
const MAX_TRACESTATE_PART: usize = 256;
/// The flag that says that the caller has recorded the trace.
const SAMPLED: u8 = 1;

/// The id of a trace: never all zeros. Shown in lower-case hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub(super) [u8; 16]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// The id of a span: never all zeros. Shown in lower-case hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpanId(pub(super) [u8; 8]);

impl SpanId {
    /// The id of the span number `at` below this one. One draw of random bits has to do for a whole trace: the ids are
    /// what splitmix64 (Steele, Lea and Flood, 2014) makes of this one as its seed, which are all different.
    pub(super) fn of_child(self, at: usize) -> Self {
        let steps = (at as u64).wrapping_add(1);
        let mut id = u64::from_be_bytes(self.0).wrapping_add(steps.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((id ^ (id >> 31)).max(1).to_be_bytes())
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).try_for_each(|half| f.write_char(digit(half)))
}

/// What a client says of the trace that its request belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    pub(super) sampled: bool,
    /// As it goes on: empty members are left out.
    pub(super) tracestate: Option<Arc<str>>,
}

impl Parent {
    /// `None`: the client says nothing, or nothing that the specification allows.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let (trace_id, span_id, sampled) = traceparent(values.next()?.as_bytes())?;
        if values.next().is_some() {
            return None;
        }
        Some(Self { trace_id, span_id, sampled, tracestate: tracestate(headers) })
    }
}

/// The parts of `version "-" trace-id "-" parent-id "-" trace-flags`. Later versions may have more behind that.
fn traceparent(text: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let (head, more) = text.split_at_checked(TRACEPARENT_BYTES)?;
    if [head[2], head[35], head[52]] != [b'-'; 3] {
        return None;
    }
    let [version] = unhex(&head[..2])?;
    let is_known = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => matches!(more.first(), None | Some(b'-')),
    };
    let (trace_id, span_id, [flags]) = (unhex(&head[3..35])?, unhex(&head[36..52])?, unhex(&head[53..])?);
    let is_valid = is_known && trace_id != [0; 16] && span_id != [0; 8];
    is_valid.then_some((TraceId(trace_id), SpanId(span_id), flags & SAMPLED != 0))
}

/// Bytes from hex digits, which must be lower-case.
fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// All `tracestate` headers as one, if all of it is as it must be: then it can be written into a head.
fn tracestate(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut joined = String::new();
    let mut members = 0;
    for value in headers.get_all("tracestate") {
        // `to_str` is for visible characters, spaces and tabs only.
        for member in value.to_str().ok()?.split(',') {
            let member = member.trim_matches([' ', '\t']);
            if member.is_empty() {
                continue;
            }
            members += 1;
            if members > MAX_TRACESTATE_MEMBERS || !is_member(member) {
                return None;
            }
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(member);
            if joined.len() > MAX_TRACESTATE_BYTES {
                return None;
            }
        }
    }
    (!joined.is_empty()).then(|| joined.into())
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let lower_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let in_key = |byte| lower_or_digit(byte) || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@');
    let in_value = |byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    let bounds = 1..=MAX_TRACESTATE_PART;
    bounds.contains(&key.len())
        && bounds.contains(&value.len())
        && key.bytes().next().is_some_and(lower_or_digit)
        && key.bytes().all(in_key)
        && value.bytes().all(in_value)
}

/// Which requests are recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    /// Of trace ids, those whose lower half is below this.
    bound: u64,
    follow_client: bool,
}

impl Sampling {
    /// `ratio`, from 0 to 1, of requests; with `follow_client`, only of those whose client does not say itself.
    pub(super) fn new(ratio: f64, follow_client: bool) -> Self {
        // As OpenTelemetry's SDKs do it, so that services with one ratio choose the same traces.
        Self { bound: (ratio * (1_u64 << 63) as f64) as u64, follow_client }
    }

    fn records(self, trace_id: TraceId, client: Option<bool>) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace_id.0;
        let by_ratio = (u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1) < self.bound;
        client.filter(|_| self.follow_client).unwrap_or(by_ratio)
    }
}

/// The place of one request in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) trace_id: TraceId,
    /// The span of the whole request.
    pub(super) span_id: SpanId,
    /// The span of the client, if it named one.
    pub(super) parent: Option<SpanId>,
    pub(super) recorded: bool,
    pub(super) tracestate: Option<Arc<str>>,
}

impl Context {
    /// Goes on with the client's trace, or begins one. `random` is not used twice.
    pub(super) fn new(parent: Option<Parent>, sampling: Sampling, random: [u8; 24]) -> Self {
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        trace_id.copy_from_slice(&random[..16]);
        span_id.copy_from_slice(&random[16..]);
        // All zeros would be no id.
        trace_id[0] |= u8::from(trace_id == [0; 16]);
        span_id[0] |= u8::from(span_id == [0; 8]);
        let span_id = SpanId(span_id);
        let Some(parent) = parent else {
            let trace_id = TraceId(trace_id);
            let recorded = sampling.records(trace_id, None);
            return Self { trace_id, span_id, parent: None, recorded, tracestate: None };
        };
        let Parent { trace_id, span_id: parent_id, sampled, tracestate } = parent;
        let recorded = sampling.records(trace_id, Some(sampled));
        Self { trace_id, span_id, parent: Some(parent_id), recorded, tracestate }
    }

    /// The headers of a request of which `span` is the caller's.
    pub(super) fn propagation(&self, span: SpanId) -> Propagation {
        let (trace_id, flags) = (self.trace_id, u8::from(self.recorded));
        let mut lines = format!("traceparent: 00-{trace_id}-{span}-{flags:02x}\r\n");
        if let Some(tracestate) = &self.tracestate {
            for part in ["tracestate: ", tracestate, "\r\n"] {
                lines.push_str(part);
            }
        }
        Propagation(lines)
    }
}

/// What llama-server is told of the trace: lines of a head, or nothing. Only a `Context` makes them, so that nothing
/// else of a client's headers can get there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Propagation(String);

impl Propagation {
    /// The lines, each with its end.
    pub fn lines(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
