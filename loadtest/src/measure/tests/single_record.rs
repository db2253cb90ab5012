//! What is measured on one record.

use std::time::Duration;

use super::{complete, ms, refused, without_token};
use crate::measure::formula::{MEASURES, formulas};
use crate::measure::service::{each_output_token, each_prompt_token, prompt_done, waited};
use crate::measure::summary::is_good;
use crate::record::{Ending, Record};
use crate::workload::RequestSlo;

const NONE: [f64; 0] = [];

/// The values of a measure in milliseconds.
fn values(record: &Record, key: &str) -> Vec<f64> {
    let measure = MEASURES.iter().find(|measure| measure.key == key).unwrap();
    let mut values = Vec::new();
    measure.each_value(record, |value| values.push(value.as_secs_f64() * 1000.0));
    values
}

fn tokens(record: &Record) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    each_output_token(record, |moment, tokens| all.push((moment / 1000, tokens)));
    all
}

#[test]
fn each_measure_is_what_its_formula_says() {
    let record = Record {
        scheduled: ms(1000),
        dispatched: ms(1003),
        sent: ms(1010),
        head: Some(ms(1030)),
        first_token: Some(ms(1110)),
        first_output_token: Some(ms(1130)),
        last_token: Some(ms(1210)),
        ended: ms(1220),
        gaps: vec![ms(20), ms(50), ms(30)],
        queue_wait: Some(ms(60)),
        tokens_seen: 5,
        ..complete(0)
    };
    let expected: [(&str, &[f64]); 14] = [
        ("ttft_scheduled", &[110.0]),
        ("ttft", &[100.0]),
        ("ttfot_scheduled", &[130.0]),
        ("ttfot", &[120.0]),
        ("itl", &[20.0, 50.0, 30.0]),
        ("tpot", &[25.0]),
        ("ntpot", &[42.0]),
        ("largest_gap", &[50.0]),
        ("e2e_scheduled", &[220.0]),
        ("e2e", &[210.0]),
        ("queue_wait", &[60.0]),
        ("head", &[20.0]),
        ("pool_wait", &[7.0]),
        ("dispatch_lag", &[3.0]),
    ];
    assert_eq!(expected.map(|(key, _)| key), MEASURES.map(|measure| measure.key));
    for (key, expected) in expected {
        assert_eq!(values(&record, key), expected, "{key}");
    }
}

#[test]
fn every_measure_has_its_formula_in_the_report() {
    let formulas = formulas();
    assert!(MEASURES.iter().all(|measure| formulas[measure.key].formula == measure.formula));
    assert!(formulas.values().all(|formula| !formula.formula.is_empty() && !formula.title.is_empty()));
}

#[test]
fn the_page_on_measures_has_every_formula() {
    let page = include_str!("../../../../docs/measures.md");
    for measure in &MEASURES {
        let row = format!("| `{}` | {} |", measure.key, measure.formula);
        assert!(page.contains(&row), "{row}");
    }
}

#[test]
fn a_reply_in_one_piece_has_no_time_to_first_token() {
    let record = Record { streamed: false, gaps: Vec::new(), ..complete(0) };
    for key in ["ttft", "ttft_scheduled", "ttfot", "ttfot_scheduled", "itl", "tpot", "largest_gap"] {
        assert_eq!(values(&record, key), NONE, "{key}");
    }
    assert_eq!(values(&record, "e2e"), [145.0]);
    assert_eq!(values(&record, "ntpot"), [29.0]);
}

#[test]
fn how_long_a_failure_took_is_no_latency() {
    let cut = Record { ending: Ending::Cut, ..complete(0) };
    for key in ["e2e", "e2e_scheduled", "tpot", "ntpot"] {
        assert_eq!(values(&cut, key), NONE, "{key}");
    }
    assert_eq!(values(&cut, "ttft"), [100.0], "its first token came all the same");
    assert_eq!(values(&without_token(0, 5, refused("")), "ttft"), NONE);
}

#[test]
fn one_token_has_no_time_per_output_token() {
    let record = Record { tokens_seen: 1, gaps: Vec::new(), last_token: Some(ms(100)), ..complete(0) };
    assert_eq!(values(&record, "tpot"), NONE);
    assert_eq!(values(&record, "ntpot"), [145.0]);
    assert_eq!(values(&Record { tokens_seen: 0, ..record }, "ntpot"), NONE);
}

#[test]
fn good_is_complete_and_within_every_bound() {
    let bound = Some(ms(100));
    let slo = RequestSlo { ttft: bound, tpot: Some(ms(10)), e2e_scheduled: Some(ms(145)), ..RequestSlo::default() };
    assert!(is_good(&complete(0), &slo), "a bound may be reached");
    let late = |record: Record| !is_good(&record, &slo);
    assert!(late(Record { first_token: Some(ms(101)), ..complete(0) }));
    assert!(late(Record { last_token: Some(ms(141)), ..complete(0) }));
    assert!(late(Record { ended: ms(146), ..complete(0) }));
    let from_schedule = RequestSlo { ttft_scheduled: bound, ..RequestSlo::default() };
    assert!(!is_good(&Record { scheduled: ms(0), ..complete(1) }, &from_schedule));
    let even = RequestSlo { largest_gap: Some(ms(10)), ..RequestSlo::default() };
    assert!(is_good(&complete(0), &even));
    assert!(!is_good(&Record { gaps: vec![ms(10), ms(11)], ..complete(0) }, &even));
}

#[test]
fn what_is_not_complete_is_never_good() {
    let anything = RequestSlo::default();
    assert!(is_good(&complete(0), &anything));
    for ending in [Ending::Left, Ending::TimedOut, refused("x"), Ending::Cut, Ending::Unreachable, Ending::Abandoned] {
        assert!(!is_good(&Record { ending, ..complete(0) }, &anything));
    }
}

#[test]
fn a_bound_that_cannot_be_measured_does_not_count() {
    let slo = RequestSlo { ttft: Some(ms(1)), e2e_scheduled: Some(ms(145)), ..RequestSlo::default() };
    let in_one_piece = Record { streamed: false, gaps: Vec::new(), ..complete(0) };
    assert!(is_good(&in_one_piece, &slo));
    assert!(!is_good(&Record { ended: ms(146), ..in_one_piece }, &slo));
}

#[test]
fn the_wait_ends_as_the_gateway_tells() {
    assert_eq!(waited(&Record { queue_wait: Some(ms(40)), ..complete(1000) }), Some((ms(1000), ms(1040))));
    assert_eq!(waited(&Record { queue_wait: Some(ms(0)), ..complete(1000) }), None);
    assert_eq!(waited(&Record { queue_wait: Some(ms(999)), ..complete(1000) }), Some((ms(1000), ms(1145))));
}

#[test]
fn without_the_gateways_word_the_wait_ends_when_the_prompt_is_begun_or_with_the_first_token() {
    assert_eq!(waited(&complete(1000)), Some((ms(1000), ms(1100))));
    assert_eq!(waited(&Record { prefill: Some(ms(30)), ..complete(1000) }), Some((ms(1000), ms(1070))));
    assert_eq!(waited(&without_token(1000, 500, Ending::TimedOut)), Some((ms(1000), ms(1500))));
}

#[test]
fn refusals_and_repeated_tries_do_not_count_as_waiting() {
    assert_eq!(waited(&without_token(0, 500, refused("queue_full"))), None);
    assert_eq!(waited(&without_token(0, 500, Ending::Unreachable)), None);
    assert_eq!(waited(&Record { tries: 2, ..complete(0) }), None);
    let gave_up = Record { queue_wait: Some(ms(500)), ..without_token(0, 500, refused("queue_timeout")) };
    assert_eq!(waited(&gave_up), Some((ms(0), ms(500))));
}

#[test]
fn tokens_come_with_their_events() {
    assert_eq!(tokens(&complete(0)), [(100, 1), (110, 1), (120, 1), (130, 1), (140, 1)]);
    assert_eq!(
        tokens(&Record { tokens_seen: 7, gaps: vec![ms(10); 2], ..complete(0) }),
        [(100, 2), (110, 2), (120, 3)]
    );
    assert_eq!(prompt_done(&complete(0)), Some(ms(100)));
}

#[test]
fn a_prompt_is_computed_as_long_as_the_server_says_before_the_first_token() {
    let prompt = |record: &Record| {
        let mut all = Vec::new();
        each_prompt_token(record, 6, |moment, tokens| all.push((moment / 1000, tokens)));
        all
    };
    assert_eq!(prompt(&complete(0)), [(100, 6)]);
    let told = Record { prefill: Some(ms(60)), ..complete(0) };
    assert_eq!(prompt(&told), [(50, 1), (60, 1), (70, 1), (80, 1), (90, 1), (100, 1)]);
    assert_eq!(prompt(&without_token(0, 500, Ending::Left)), []);
}

#[test]
fn tokens_of_a_reply_in_one_piece_came_while_the_server_generated() {
    let in_one_piece = Record { streamed: false, gaps: Vec::new(), ..complete(0) };
    assert_eq!(tokens(&in_one_piece), [(100, 5)]);
    let told = Record { decode: Some(ms(50)), prefill: Some(ms(20)), ..in_one_piece };
    assert_eq!(tokens(&told), [(60, 1), (70, 1), (80, 1), (90, 1), (100, 1)]);
    assert_eq!(prompt_done(&told), Some(ms(50)));
    assert_eq!(waited(&told), Some((ms(0), ms(30))));
    let impossible = Record { decode: Some(Duration::from_secs(9)), ..told };
    assert_eq!(prompt_done(&impossible), Some(ms(0)), "not before it was sent");
}

#[test]
fn a_stream_without_any_content_meets_no_bound_on_its_first_token() {
    let empty = Record { usage: None, ..without_token(0, 1, Ending::Complete) };
    for slo in [
        RequestSlo { ttft: Some(ms(100)), ..RequestSlo::default() },
        RequestSlo { ttft_scheduled: Some(ms(100)), ..RequestSlo::default() },
    ] {
        assert!(!is_good(&empty, &slo));
        assert!(is_good(&Record { streamed: false, ..empty.clone() }, &slo), "there is none to be seen");
    }
    assert!(is_good(&empty, &RequestSlo { e2e_scheduled: Some(ms(100)), ..RequestSlo::default() }));
}
