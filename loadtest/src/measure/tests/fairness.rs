use proptest::prelude::*;

use super::{any_records, complete, ms, without_token, workload};
use crate::measure::fairness::{Fairness, History, Largest, jain, largest_gap, victim};
use crate::measure::histogram::Histogram;
use crate::record::{Ending, Record, Usage};
use crate::report;
use crate::workload::Workload;
use std::time::Duration;

fn fairness(workload: &Workload, slots: u32, records: &[Record]) -> Fairness {
    let mut fairness = Fairness::new(workload, slots);
    records.iter().for_each(|record| fairness.add(record));
    fairness
}

fn report(workload: &Workload, slots: u32, records: &[Record]) -> report::Fairness {
    fairness(workload, slots, records).report().unwrap()
}

/// Waits from 0 for a slot, and has `prompt` tokens computed at `at`. No output.
fn served(tenant: usize, at: u64, prompt: u64) -> Record {
    Record {
        tenant,
        first_token: Some(ms(at)),
        ended: ms(at),
        queue_wait: Some(ms(at)),
        gaps: Vec::new(),
        tokens_seen: 0,
        usage: Some(Usage { prompt, cached: 0, completion: 0 }),
        ..complete(0)
    }
}

/// Keeps its tenant waiting from one moment to another.
fn waiting(tenant: usize, from: u64, until: u64) -> Record {
    Record { tenant, ..without_token(from, until - from, Ending::TimedOut) }
}

fn brute_force_gap(one: &History, other: &History, weights: (f64, f64)) -> f64 {
    let mut largest = 0.0_f64;
    for begin in 0..one.service.len() {
        for end in begin..one.service.len() {
            let all = begin..=end;
            if all.clone().all(|bucket| one.waited[bucket] && other.waited[bucket]) {
                let service = |of: &History| of.service[all.clone()].iter().sum::<f64>();
                largest = largest.max((service(one) / weights.0 - service(other) / weights.1).abs());
            }
        }
    }
    largest
}

fn history() -> impl Strategy<Value = History> {
    prop::collection::vec((0..100_u32, prop::bool::weighted(0.9)), 40).prop_map(|buckets| History {
        service: buckets.iter().map(|(service, _)| f64::from(*service)).collect(),
        waited: buckets.iter().map(|(_, waited)| *waited).collect(),
    })
}

proptest! {
    #[test]
    fn the_largest_gap_is_that_of_all_sub_intervals(
        one in history(),
        other in history(),
        weights in (1..8_u32, 1..8_u32),
    ) {
        let weights = (f64::from(weights.0), f64::from(weights.1));
        let (gap, buckets) = largest_gap(&one, &other, weights);
        prop_assert!((gap - brute_force_gap(&one, &other, weights)).abs() < 1e-9);
        let both = one.waited.iter().zip(&other.waited).filter(|(one, other)| **one && **other).count();
        prop_assert_eq!(buckets, both as u64);
    }

    #[test]
    fn the_largest_request_is_that_of_all_at_any_price(
        requests in prop::collection::vec((0..50_u32, 0..50_u32), 1..200),
        price in 0.5..200.0,
    ) {
        let mut largest = Largest::default();
        for (prompt, output) in &requests {
            largest.add(f64::from(*prompt), f64::from(*output));
        }
        let naive = requests.iter().map(|(prompt, output)| f64::from(*prompt) + price * f64::from(*output));
        prop_assert_eq!(largest.at(price), naive.fold(0.0, f64::max));
        prop_assert!(largest.0.len() < 30);
    }

    #[test]
    fn jain_is_between_one_share_and_all_equal(shares in prop::collection::vec(0.0..1e6_f64, 1..20)) {
        if let Some(index) = jain(&shares) {
            let n = shares.len() as f64;
            prop_assert!(index >= 1.0 / n - 1e-9 && index <= 1.0 + 1e-9);
            // By its definition: 1 / (1 + squared coefficient of variation).
            let mean = shares.iter().sum::<f64>() / n;
            let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / n;
            prop_assert!((index - 1.0 / (1.0 + variance / (mean * mean))).abs() < 1e-9);
        }
    }

    #[test]
    fn both_wait_in_the_buckets_that_a_request_of_each_waits_throughout(
        waits in prop::collection::vec((0..2_usize, 0..100_000_u64, 0..60_000_u64), 1..12),
    ) {
        let micros = Duration::from_micros;
        let record = |(tenant, begin, length): &(usize, u64, u64)| Record {
            tenant: *tenant,
            sent: micros(*begin),
            ended: micros(begin + length),
            ..without_token(0, 0, Ending::TimedOut)
        };
        let records: Vec<_> = waits.iter().map(record).collect();
        let covers = |tenant: usize, bucket: u64| {
            let (from, until) = (bucket * 1000, (bucket + 1) * 1000);
            waits.iter().any(|(of, begin, length)| *of == tenant && *begin <= from && begin + length >= until)
        };
        let both = (0..200).filter(|bucket| covers(0, *bucket) && covers(1, *bucket)).count();
        prop_assert_eq!(report(&workload(2), 1, &records).gaps[0].seconds_both_waited, both as f64 / 1000.0);
    }

    #[test]
    fn service_is_the_cost_of_all_requests(records in any_records()) {
        let workload = Workload { fairness: given_price(3.0), ..workload(3) };
        let report = report(&workload, 2, &records);
        for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
            let cost = |record: &&Record| {
                let planned = Usage { prompt: record.planned_prompt_tokens, cached: 0, completion: 0 };
                let usage = record.usage.unwrap_or(planned);
                let prompt = (usage.prompt - usage.cached) as f64 + 0.1 * usage.cached as f64;
                if record.first_token.is_some() { prompt + 3.0 * record.tokens_seen as f64 } else { 0.0 }
            };
            let costs: Vec<_> = records.iter().filter(|record| record.tenant == index).map(|r| cost(&r)).collect();
            let service = &report.service[name];
            prop_assert!((service.cost - costs.iter().sum::<f64>()).abs() < 1e-6 * (1.0 + service.cost));
            prop_assert!((service.largest_request - costs.iter().copied().fold(0.0, f64::max)).abs() < 1e-9);
            prop_assert!(service.cost_while_all_waited <= service.cost);
        }
    }
}

fn given_price(output_cost: f64) -> crate::workload::Fairness {
    crate::workload::Fairness { output_cost, ..Default::default() }
}

#[test]
fn the_gap_of_two_tenants_is_beside_its_bound() {
    // Both wait for 4 s. a (weight 2) is served 600 at 1 s and b 100 at 2 s, then b 500 at 3 s.
    let mut workload = workload(2);
    workload.tenants.get_mut("a").unwrap().weight = 2.0;
    let waiting = [waiting(0, 0, 4000), waiting(1, 0, 4000)];
    let served = [served(0, 1000, 600), served(1, 2000, 100), served(1, 3000, 500)];
    let report = report(&workload, 1, &[&waiting[..], &served[..]].concat());
    let gap = &report.gaps[0];
    assert_eq!(gap.tenants, ("a".to_owned(), "b".to_owned()));
    assert_eq!(gap.gap, 600.0, "the lead goes 300, 200, -300: from 1 s to 3 s it changes by 600");
    assert_eq!(gap.bound, 2.0 * (600.0 / 2.0 + 500.0));
    assert_eq!(gap.seconds_both_waited, 4.0);
    assert_eq!(report.service["a"].cost_while_all_waited, 600.0);
    assert_eq!(report.jain_index, jain(&[300.0, 600.0]));
}

#[test]
fn service_counts_only_while_both_wait() {
    // b waits from 2 s on: what a had before was nobody's loss.
    let records =
        [waiting(0, 0, 4000), waiting(1, 2000, 4000), served(0, 1000, 600), served(0, 3000, 50), served(1, 3500, 40)];
    let mut records = records;
    records[4].sent = ms(3000);
    let report = report(&workload(2), 1, &records);
    assert_eq!(report.gaps[0].gap, 50.0);
    assert_eq!(report.service["a"].cost, 650.0);
    assert_eq!(report.service["a"].cost_while_all_waited, 50.0);
    assert_eq!(report.jain_index, jain(&[50.0, 40.0]));
}

#[test]
fn tenants_of_different_classes_are_not_compared() {
    let mut workload = workload(3);
    workload.tenants.get_mut("c").unwrap().class = "batch".to_owned();
    let records = [
        waiting(0, 0, 4000),
        waiting(1, 0, 4000),
        served(0, 1000, 100),
        served(1, 2000, 100),
        waiting(2, 0, 10),
        served(2, 5, 9000),
    ];
    let report = report(&workload, 1, &records);
    assert_eq!(report.gaps.len(), 1);
    assert_eq!(report.jain_index, Some(1.0));
}

#[test]
fn the_warm_up_is_no_part_of_it() {
    let workload = Workload { warm_up: ms(2000), ..workload(2) };
    let records =
        [waiting(0, 0, 4000), waiting(1, 0, 4000), served(0, 1000, 600), served(0, 3000, 50), served(1, 3000, 40)];
    let report = report(&workload, 1, &records);
    assert_eq!(report.gaps[0].gap, 10.0);
    assert_eq!(report.gaps[0].seconds_both_waited, 2.0);
    assert_eq!(report.service["a"].cost, 50.0);
}

#[test]
fn who_never_waited_at_the_same_time_has_no_index() {
    let report = report(&workload(2), 1, &[complete(0), Record { tenant: 1, ..complete(1000) }]);
    assert_eq!(report.jain_index, None);
    assert_eq!((report.gaps[0].gap, report.gaps[0].seconds_both_waited), (0.0, 0.0));
}

#[test]
fn one_tenant_has_nobody_to_share_with() {
    assert!(fairness(&workload(1), 1, &[complete(0)]).report().is_none());
}

#[test]
fn the_price_of_an_output_token_is_learned_given_or_assumed() {
    // 6 computed prompt tokens in 12 ms, 5 output tokens in 200 ms: 2 ms and 40 ms.
    let told = Record { prefill: Some(ms(12)), decode: Some(ms(200)), ..complete(0) };
    let told_nothing = fairness(&workload(2), 1, &[complete(0)]);
    assert_eq!(told_nothing.output_cost().0, 2.0);
    assert!(told_nothing.cost_formula().contains("2.00 * output tokens; the price of an output token is assumed"));
    assert_eq!(fairness(&workload(2), 1, std::slice::from_ref(&told)).output_cost().0, 20.0);
    let given = Workload { fairness: given_price(7.0), ..workload(2) };
    assert_eq!(fairness(&given, 1, &[told]).output_cost().0, 7.0);
    let slow = Record { prefill: Some(ms(1)), decode: Some(Duration::from_secs(99)), ..complete(0) };
    assert_eq!(fairness(&workload(2), 1, &[slow]).output_cost().0, 200.0, "no more than the scheduler's bound");
}

#[test]
fn what_comes_after_the_end_of_the_run_is_not_lost() {
    let late = Record { tenant: 1, ..complete(3_600_000) };
    let report = report(&workload(2), 1, &[late]);
    assert_eq!(report.service["b"].cost, 6.0 + 0.4 + 2.0 * 5.0);
}

#[test]
fn a_victim_is_compared_with_itself_alone() {
    let of = |values: &[u64]| {
        let mut histogram = Histogram::fine();
        values.iter().for_each(|value| histogram.record(ms(*value)));
        histogram.distribution()
    };
    let beside = victim("b", of(&[100, 100, 100]), of(&[250, 250, 400])).unwrap();
    assert!((beside.ratio - 2.5).abs() < 0.01);
    assert!(victim("b", of(&[]), of(&[250])).is_none());
    assert!(victim("b", of(&[100]), of(&[])).is_none());
}

/// One slot, and two tenants who have sent all of their requests at the beginning: a's cost 10 each, b's 100. A unit of
/// cost takes a millisecond. `next` says whose request is next, by what both have been served.
fn one_slot(next: fn(usize, [u64; 2]) -> usize) -> report::Fairness {
    let (mut now, mut served) = (0, [0, 0]);
    let mut records = Vec::new();
    for turn in 0.. {
        let tenant = next(turn, served);
        let cost = [10, 100][tenant];
        if now + cost > 8000 {
            break;
        }
        // Half of it for the prompt, the rest for as many tokens, one a millisecond.
        let tokens = cost / 2;
        records.push(Record {
            tenant,
            first_token: Some(ms(now + tokens)),
            last_token: Some(ms(now + cost - 1)),
            ended: ms(now + cost),
            gaps: vec![ms(1); tokens as usize - 1],
            queue_wait: Some(ms(now)),
            usage: Some(Usage { prompt: tokens, cached: 0, completion: tokens }),
            tokens_seen: tokens,
            ..complete(0)
        });
        now += cost;
        served[tenant] += cost;
    }
    // More of both wait until the end.
    records.extend([waiting(0, 0, 8000), waiting(1, 0, 8000)]);
    report(&Workload { fairness: given_price(1.0), ..workload(2) }, 1, &records)
}

#[test]
fn an_order_by_work_is_told_from_one_by_turns() {
    let by_work = one_slot(|_, served| usize::from(served[1] < served[0]));
    assert!(by_work.jain_index.unwrap() > 0.999);
    assert!(by_work.gaps[0].gap <= by_work.gaps[0].bound);
    assert_eq!(by_work.gaps[0].bound, 2.0 * 110.0);
    let by_turns = one_slot(|turn, _| turn % 2);
    assert!(by_turns.jain_index.unwrap() < 0.7, "one has a tenth of what the other one has");
    assert!(by_turns.gaps[0].gap > 20.0 * by_turns.gaps[0].bound);
}
