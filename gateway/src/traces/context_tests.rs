use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const RANDOM: [u8; 24] = [7; 24];

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn parent(traceparent: &str) -> Option<Parent> {
    Parent::of(&headers(&[("traceparent", traceparent)]))
}

fn state(values: &[&str]) -> Option<String> {
    let mut pairs = vec![("traceparent", GIVEN)];
    pairs.extend(values.iter().map(|value| ("tracestate", *value)));
    Parent::of(&headers(&pairs)).unwrap().tracestate.map(|state| state.to_string())
}

fn all() -> Sampling {
    Sampling::new(1.0, true)
}

#[test]
fn the_example_of_the_specification_is_read() {
    let read = parent(GIVEN).unwrap();
    assert_eq!(read.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((read.span_id.to_string().as_str(), read.sampled), ("00f067aa0ba902b7", true));
    for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("fe", false), ("ff", true)] {
        assert_eq!(parent(&format!("{}{flags}", &GIVEN[..53])).unwrap().sampled, sampled, "{flags}");
    }
}

#[test]
fn what_the_specification_does_not_allow_is_as_good_as_nothing() {
    for wrong in [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what-the-future-brings",
        "+0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        assert_eq!(parent(wrong), None, "{wrong}");
    }
    assert_eq!(Parent::of(&HeaderMap::new()), None);
    let twice = headers(&[("traceparent", GIVEN), ("traceparent", GIVEN)]);
    assert_eq!(Parent::of(&twice), None);
    let mut unreadable = HeaderMap::new();
    unreadable.insert("traceparent", HeaderValue::from_bytes(&[0xff; 55]).unwrap());
    assert_eq!(Parent::of(&unreadable), None);
}

#[test]
fn later_versions_are_read_as_far_as_they_are_known() {
    for version in ["01", "cc", "fe"] {
        for more in ["", "-", "-what-the-future-brings"] {
            let later = format!("{version}{}{more}", &GIVEN[2..]);
            assert_eq!(parent(&later), parent(GIVEN), "{later}");
        }
    }
}

#[test]
fn a_tracestate_goes_on_as_it_is_but_for_what_is_empty() {
    assert_eq!(state(&["rojo=00f067aa0ba902b7"]).unwrap(), "rojo=00f067aa0ba902b7");
    assert_eq!(state(&["a=1,b=2", " c=3\t,, d= 4"]).unwrap(), "a=1,b=2,c=3,d= 4");
    assert_eq!(state(&["0tenant@system=a:b;c/d", "x_-*/y=~!"]).unwrap(), "0tenant@system=a:b;c/d,x_-*/y=~!");
    assert_eq!(state(&[]), None);
    assert_eq!(state(&["", " , "]), None);
}

#[test]
fn a_tracestate_that_is_wrong_or_too_long_is_dropped_and_the_trace_goes_on() {
    let many = (0..33).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
    let (long_key, long_value) = (format!("{}=v", "k".repeat(257)), format!("k={}", "v".repeat(257)));
    let long = ["a", "b", "c"].map(|key| format!("{key}={}", "v".repeat(200))).join(",");
    for wrong in
        ["a", "=1", "a=", "A=1", "a=1=2", "a b=1", "@a=1", "a=\u{e9}", &many, &long_key, &long_value, &long, "a=1,b"]
    {
        assert_eq!(state(&[wrong]), None, "{wrong}");
    }
    // The longest that goes on.
    let longest = format!("a={},b={}", "v".repeat(254), "v".repeat(253));
    assert_eq!((longest.len(), state(&[&longest])), (512, Some(longest)));
    // Without a parent it says nothing.
    assert_eq!(Parent::of(&headers(&[("tracestate", "a=1")])), None);
}

#[test]
fn a_request_goes_on_with_the_trace_of_its_client_or_begins_one() {
    let context = Context::new(parent(GIVEN), all(), RANDOM);
    assert_eq!(context.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(context.parent.unwrap().to_string(), "00f067aa0ba902b7");
    assert_eq!(context.span_id, SpanId([7; 8]));
    let context = Context::new(None, all(), RANDOM);
    assert_eq!((context.trace_id, context.span_id, context.parent), (TraceId([7; 16]), SpanId([7; 8]), None));
    // All zeros would be no ids.
    let context = Context::new(None, all(), [0; 24]);
    assert!(context.trace_id.0 != [0; 16] && context.span_id.0 != [0; 8]);
}

#[test]
fn llama_server_is_told_the_trace_the_callers_span_and_whether_it_is_recorded() {
    let told = |traceparent: &str, sampling| {
        let mut parent = parent(traceparent).unwrap();
        parent.tracestate = Some("a=1".into());
        Context::new(Some(parent), sampling, RANDOM).propagation(SpanId([0xab; 8])).lines().to_owned()
    };
    let lines = |flags| {
        format!("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-abababababababab-{flags}\r\ntracestate: a=1\r\n")
    };
    assert_eq!(told(GIVEN, all()), lines("01"));
    // Flags that are not known to us do not go on.
    assert_eq!(told(&format!("{}ff", &GIVEN[..53]), all()), lines("01"));
    assert_eq!(told(&format!("{}fe", &GIVEN[..53]), all()), lines("00"));
    assert_eq!(told(GIVEN, Sampling::new(0.0, false)), lines("00"));
}

#[test]
fn a_client_says_whether_it_is_recorded_where_it_may() {
    let [sampled, unsampled] = ["01", "00"].map(|flags| parent(&format!("{}{flags}", &GIVEN[..53])));
    for (ratio, follow_client, parent, recorded) in [
        (0.0, true, &sampled, true),
        (0.0, false, &sampled, false),
        (1.0, true, &unsampled, false),
        (1.0, false, &unsampled, true),
        (0.0, true, &None, false),
        (1.0, true, &None, true),
    ] {
        let context = Context::new(parent.clone(), Sampling::new(ratio, follow_client), RANDOM);
        assert_eq!(context.recorded, recorded, "{ratio} {follow_client} {parent:?}");
    }
}

#[test]
fn the_ratio_is_kept_and_chooses_by_the_trace_alone() {
    let ids = |seed: u64| {
        let seed = SpanId(seed.to_be_bytes());
        let mut id = [0; 16];
        id[..8].copy_from_slice(&seed.of_child(0).0);
        id[8..].copy_from_slice(&seed.of_child(1).0);
        TraceId(id)
    };
    for ratio in [0.01, 0.25, 0.5] {
        let (small, large) = (Sampling::new(ratio, true), Sampling::new(ratio * 2.0, true));
        let chosen = (0..20_000).filter(|seed| small.records(ids(*seed), None)).count() as f64 / 20_000.0;
        assert!((chosen - ratio).abs() < 0.2 * ratio, "{ratio}: {chosen}");
        // Who records more records what others do, too.
        assert!((0..20_000).all(|seed| !small.records(ids(seed), None) || large.records(ids(seed), None)));
    }
}

#[test]
fn spans_of_one_trace_have_ids_of_their_own() {
    let root = SpanId(RANDOM[..8].try_into().unwrap());
    let mut ids: Vec<_> = (0..100).map(|at| root.of_child(at).0).chain([root.0, [0; 8]]).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 102);
}

/// What the specification says, said in another way.
fn is_allowed(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let [version, trace_id, span_id, flags, more @ ..] = &parts[..] else { return false };
    let is_hex = |part: &str, digits: usize| {
        part.len() == digits && part.chars().all(|char| char.is_ascii_digit() || ('a'..='f').contains(&char))
    };
    let nonzero = |part: &str| part.chars().any(|char| char != '0');
    is_hex(version, 2)
        && *version != "ff"
        && (*version != "00" || more.is_empty())
        && is_hex(trace_id, 32)
        && nonzero(trace_id)
        && is_hex(span_id, 16)
        && nonzero(span_id)
        && is_hex(flags, 2)
}

proptest! {
    #[test]
    fn exactly_what_is_allowed_is_read(
        text in "(00|01|ff|[0-9a-gA-F]{2})[-_]?(0{32}|[0-9a-f]{31,33}|[0-9a-fA-Fg]{32})-(0{16}|[0-9a-f]{15,17})-[0-9a-f]{1,3}(-[a-z]{0,3})?"
    ) {
        prop_assert_eq!(parent(&text).is_some(), is_allowed(&text), "{}", text);
    }

    #[test]
    fn what_is_read_is_written_the_same_way(
        trace_id in "[0-9a-f]{31}[1-9]", span_id in "[0-9a-f]{15}[1-9]", flags in "0[01]"
    ) {
        let text = format!("00-{trace_id}-{span_id}-{flags}");
        let read = parent(&text).unwrap();
        let context = Context::new(Some(read.clone()), all(), RANDOM);
        let told = context.propagation(read.span_id);
        prop_assert_eq!(told.lines(), format!("traceparent: {text}\r\n"));
    }

    #[test]
    fn a_tracestate_writes_no_line_of_its_own(states in proptest::collection::vec("([a-z@]{1,3}=[ -~\t]{0,9},?){0,40}|[ -~]{0,600}", 1..3)) {
        let mut pairs = vec![("traceparent", GIVEN)];
        pairs.extend(states.iter().map(|state| ("tracestate", state.as_str())));
        let context = Context::new(Parent::of(&headers(&pairs)), all(), RANDOM);
        let told = context.propagation(context.span_id);
        let lines: Vec<_> = told.lines().split_terminator("\r\n").collect();
        prop_assert!(lines.len() <= 2 && lines[0].starts_with("traceparent: 00-4bf9"));
        prop_assert!(lines.iter().all(|line| line.len() <= 524 && line.bytes().all(|byte| matches!(byte, b' '..=b'~'))));
    }
}
