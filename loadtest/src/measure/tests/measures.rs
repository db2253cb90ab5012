//! A whole run.

use proptest::prelude::*;

use super::{any_records, complete, ms, refused, without_token, workload};
use crate::measure::{Measured, Measures};
use crate::record::{Ending, Record, Refusal, Usage};
use crate::report::Tokens;
use crate::workload::{RequestSlo, Slo, Workload};
use std::time::Duration;

const END: Duration = Duration::from_secs(8);

fn measured(workload: &Workload, records: &[Record]) -> Measured {
    let mut measures = Measures::new(workload, 2);
    for record in records {
        measures.add(record);
    }
    measures.finish(END)
}

/// All that was measured, as text.
fn text(measured: &Measured) -> String {
    let parts = (&measured.tenants, &measured.total, &measured.timeline, &measured.blocks, &measured.fairness);
    format!("{} {:?} {:?}", serde_json::to_string(&parts).unwrap(), measured.measured_seconds, measured.lies)
}

proptest! {
    // A case is a run, with all of its histograms.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_order_of_records_does_not_matter(records in any_records().prop_shuffle(), seed in any::<u64>()) {
        let workload = workload(3);
        let mut shuffled = records.clone();
        let length = shuffled.len();
        shuffled.rotate_left(seed as usize % length);
        shuffled[length / 2..].reverse();
        prop_assert_eq!(text(&measured(&workload, &records)), text(&measured(&workload, &shuffled)));
    }

    #[test]
    fn the_total_is_the_sum_of_the_tenants(records in any_records()) {
        let measured = measured(&workload(3), &records);
        let sum = |of: fn(&crate::report::Summary) -> u64| measured.tenants.values().map(of).sum::<u64>();
        let total = &measured.total;
        prop_assert_eq!(total.scheduled, records.len() as u64);
        prop_assert_eq!(sum(|tenant| tenant.scheduled), total.scheduled);
        prop_assert_eq!(sum(|tenant| tenant.good), total.good);
        prop_assert_eq!(sum(|tenant| tenant.tokens.completion), total.tokens.completion);
        prop_assert_eq!(total.endings.values().sum::<u64>(), total.scheduled);
        prop_assert_eq!(measured.blocks.iter().map(|block| block.good).sum::<u64>(), total.good);
        let mut first_tokens: Vec<_> =
            records.iter().filter(|r| r.streamed).filter_map(|r| Some(r.first_token? - r.scheduled)).collect();
        first_tokens.sort_unstable();
        if let Some(ttft) = total.measures.get("ttft_scheduled") {
            let median = first_tokens[first_tokens.len().div_ceil(2) - 1].as_secs_f64() * 1000.0;
            prop_assert!(ttft.p50 >= median - 0.001 && ttft.p50 <= median * 1.001 + 0.001);
        }
    }
}

#[test]
fn refusals_errors_and_timeouts_are_misses_and_who_left_on_purpose_is_not() {
    let slo = Slo { request: RequestSlo { ttft: Some(ms(100)), ..RequestSlo::default() }, ..Slo::default() };
    let workload = Workload { slo, ..workload(1) };
    let records = [
        complete(0),
        Record { first_token: Some(ms(1101)), ..complete(1000) },
        without_token(0, 1, refused("queue_full")),
        without_token(0, 1, Ending::TimedOut),
        without_token(0, 1, Ending::Abandoned),
        without_token(0, 1, Ending::Left),
    ];
    let total = measured(&workload, &records).total;
    assert_eq!((total.scheduled, total.good), (6, 1));
    assert_eq!(total.attainment, 0.2);
    let endings: Vec<_> = total.endings.iter().map(|(label, times)| (label.as_str(), *times)).collect();
    let expected = [("abandoned", 1), ("complete", 2), ("left", 1), ("status 429 queue_full", 1), ("timed out", 1)];
    assert_eq!(endings, expected);
}

#[test]
fn a_tenants_own_objective_goes_before_the_workloads() {
    let mut workload = workload(2);
    workload.tenants.get_mut("b").unwrap().slo = Some(RequestSlo { ttft: Some(ms(99)), ..RequestSlo::default() });
    let measured = measured(&workload, &[complete(0), Record { tenant: 1, ..complete(0) }]);
    assert_eq!((measured.tenants["a"].attainment, measured.tenants["b"].attainment), (1.0, 0.0));
}

#[test]
fn the_warm_up_is_sent_and_not_measured() {
    let workload = Workload { warm_up: ms(1000), ..workload(2) };
    let measured = measured(&workload, &[complete(999), complete(1000), complete(1200)]);
    assert_eq!(measured.total.scheduled, 2);
    assert_eq!(measured.total.tokens, Tokens { prompt: 20, cached: 8, completion: 10 });
    assert_eq!(measured.total.measures["ttft"].count, 2);
    assert_eq!(measured.blocks.iter().map(|block| block.scheduled).sum::<u64>(), 2);
    assert_eq!(measured.measured_seconds, 7.0);
    assert_eq!(measured.timeline.scheduled.iter().sum::<u64>(), 3, "the timeline shows it");
}

#[test]
fn rates_are_over_the_time_until_the_last_request_was_over() {
    let late = Record { ended: ms(10_000), ..complete(7000) };
    let measured = measured(&workload(1), &[complete(0), complete(100), late, without_token(0, 5, Ending::Cut)]);
    assert_eq!(measured.measured_seconds, 10.0);
    let rates = measured.total.rates;
    assert_eq!(rates.offered, 4.0 / 8.0, "over the time in which requests were scheduled");
    assert_eq!((rates.completed, rates.goodput), (0.3, 0.3));
    assert_eq!((rates.prompt_tokens, rates.completion_tokens), (3.0, 1.5));
}

#[test]
fn codes_that_a_server_makes_up_do_not_fill_the_memory() {
    let mut measures = Measures::new(&workload(1), 1);
    for number in 0..1000 {
        let refusal = Refusal { status: 500, code: format!("trace {number}") };
        let retried = vec![refusal.clone()];
        let lie = Some(format!("usage of {number}"));
        measures.add(&Record { retried, lie, ..without_token(0, 1, Ending::Refused(refusal)) });
    }
    measures.add(&without_token(0, 1, Ending::Unreachable));
    let measured = measures.finish(END);
    let snapshot = measures.snapshot();
    let endings = &measured.total.endings;
    assert_eq!((endings.len(), endings["other"], endings["unreachable"]), (66, 936, 1), "our own names stay");
    for labels in [&measured.total.retried, &measured.lies] {
        assert_eq!((labels.len(), labels["other"]), (65, 936));
    }
    assert_eq!((snapshot.errors.len(), snapshot.errors["other"]), (65, 937));
}

#[test]
fn a_server_that_claims_absurd_numbers_breaks_nothing() {
    let usage = Some(Usage { prompt: u64::MAX, cached: u64::MAX, completion: u64::MAX });
    let told = Some(Duration::from_millis(u64::MAX));
    let absurd = Record { usage, tokens_seen: u64::MAX, queue_wait: told, prefill: told, decode: told, ..complete(0) };
    let in_one_piece = Record { streamed: false, tenant: 1, gaps: Vec::new(), ..absurd.clone() };
    let contradiction = Record { usage: Some(Usage { prompt: 1, cached: 9, completion: 0 }), ..absurd.clone() };
    let measured = measured(&workload(2), &[absurd.clone(), absurd, in_one_piece, contradiction]);
    assert_eq!(measured.total.tokens.completion, u64::MAX);
    assert_eq!(measured.total.measures["queue_wait"].max, 86_400_000.0);
    assert!(!text(&measured).contains("NaN"));
}

#[test]
fn lag_of_the_harness_is_told() {
    let record = Record { dispatched: ms(30), sent: ms(30), ..complete(0) };
    let measured = measured(&workload(1), &[record]);
    assert_eq!(measured.dispatch_lag.max, 30.0);
}

#[test]
fn a_snapshot_tells_first_tokens_and_failures_so_far() {
    let mut measures = Measures::new(&Workload { warm_up: ms(1000), ..workload(1) }, 1);
    measures.add(&complete(0));
    measures.add(&without_token(0, 1, refused("queue_full")));
    measures.add(&without_token(0, 1, Ending::Left));
    let snapshot = measures.snapshot();
    assert_eq!((snapshot.ttft_scheduled_p50, snapshot.ttft_scheduled_p95), (Some(100.0), Some(100.0)));
    assert_eq!(snapshot.errors, [("status 429 queue_full".to_owned(), 1)].into());
}

#[test]
fn nothing_measured_is_no_division_by_zero() {
    let measured = measured(&workload(2), &[]);
    assert_eq!((measured.total.attainment, measured.total.rates.completed), (0.0, 0.0));
    assert!(!text(&measured).contains("NaN"));
    let empty = Workload { warm_up: END, ..workload(1) };
    assert_eq!(Measures::new(&empty, 1).finish(END).total.rates.offered, 0.0);
}

#[test]
fn a_million_records_keep_within_the_bound() {
    let mut measures = Measures::new(&Workload { duration: Duration::from_secs(86_400), ..workload(3) }, 2);
    let mut record = Record { queue_wait: Some(ms(1)), gaps: vec![ms(1)], ..complete(0) };
    for number in 0..1_000_000_u64 {
        // Times of all orders of magnitude up to a day, at moments all over the day.
        let length = Duration::from_micros(86_400_000_000 >> (number % 37));
        record.tenant = (number % 3) as usize;
        record.scheduled = ms(number * 86);
        record.dispatched = record.scheduled + length;
        record.sent = record.dispatched + length;
        record.first_token = Some(record.sent + length);
        record.gaps[0] = length;
        record.last_token = Some(record.sent + length * 2);
        record.ended = record.sent + length * 2;
        record.tokens_seen = number % 1000;
        measures.add(&record);
    }
    let bytes = measures.bytes();
    assert!(bytes > 10 << 20, "{bytes}: the times are not those that need memory");
    assert!(bytes <= (40 << 20) + 3 * (4 << 20), "{bytes}");
    assert_eq!(measures.finish(END).total.scheduled, 1_000_000);
}
