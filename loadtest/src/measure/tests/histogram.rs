use proptest::prelude::*;

use crate::measure::histogram::Histogram;
use crate::report::Distribution;
use std::time::Duration;

const PARTS: [f64; 5] = [0.5, 0.9, 0.95, 0.99, 0.999];

fn of(values: &[u64]) -> Histogram {
    let mut histogram = Histogram::fine();
    values.iter().for_each(|value| histogram.record(Duration::from_micros(*value)));
    histogram
}

/// The least of the values such that a part of all is at or below it, in milliseconds.
fn naive_quantile(values: &[u64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    let position = ((part * values.len() as f64).ceil() as usize).max(1);
    values[position - 1] as f64 / 1000.0
}

fn quantiles(distribution: &Distribution) -> [f64; 5] {
    [distribution.p50, distribution.p90, distribution.p95, distribution.p99, distribution.p999]
}

/// Of each order of magnitude, up to an hour and a half.
fn values() -> impl Strategy<Value = Vec<u64>> {
    let value = (0..33_u32, 0.0..1.0_f64).prop_map(|(bits, part)| ((1_u64 << bits) as f64 * (1.0 + part)) as u64 - 1);
    prop::collection::vec(value, 1..300)
}

proptest! {
    #[test]
    fn percentiles_are_those_of_the_sorted_list_within_three_digits(values in values()) {
        let distribution = of(&values).distribution();
        for (part, measured) in PARTS.into_iter().zip(quantiles(&distribution)) {
            let naive = naive_quantile(&values, part);
            prop_assert!(measured >= naive && measured <= naive * 1.001, "{part}: {measured} for {naive}");
        }
    }

    #[test]
    fn least_most_mean_and_count_are_exact(values in values()) {
        let distribution = of(&values).distribution();
        let sum: u64 = values.iter().sum();
        prop_assert_eq!(distribution.count, values.len() as u64);
        prop_assert_eq!(distribution.min, *values.iter().min().unwrap() as f64 / 1000.0);
        prop_assert_eq!(distribution.max, *values.iter().max().unwrap() as f64 / 1000.0);
        prop_assert_eq!(distribution.mean, sum as f64 / values.len() as f64 / 1000.0);
        prop_assert_eq!(distribution.histogram.iter().map(|(_, count)| count).sum::<u64>(), distribution.count);
    }

    #[test]
    fn merged_histograms_are_the_histogram_of_all_values(one in values(), other in values()) {
        let mut merged = of(&one);
        merged.merge(&of(&other));
        let all: Vec<_> = one.into_iter().chain(other).collect();
        prop_assert_eq!(format!("{:?}", merged.distribution()), format!("{:?}", of(&all).distribution()));
    }

    #[test]
    fn pairs_have_the_percentiles_of_their_histogram(values in values()) {
        let histogram = of(&values);
        for part in PARTS {
            let wanted = ((part * values.len() as f64).ceil() as u64).max(1);
            let reached = histogram.pairs().into_iter().scan(0, |passed, (value, count)| {
                *passed += count;
                Some((value, *passed))
            });
            let value = reached.filter(|(_, passed)| *passed >= wanted).map(|(value, _)| value).next();
            prop_assert_eq!(value, histogram.quantile(part));
        }
    }

    #[test]
    fn two_digits_are_within_a_hundredth(values in values()) {
        let mut coarse = Histogram::coarse();
        values.iter().for_each(|value| coarse.record(Duration::from_micros(*value)));
        for part in PARTS {
            let (measured, naive) = (coarse.quantile(part).unwrap(), naive_quantile(&values, part));
            prop_assert!(measured >= naive && measured <= naive * 1.01, "{part}: {measured} for {naive}");
        }
    }
}

#[test]
fn nothing_has_no_percentiles() {
    assert_eq!(Histogram::fine().quantile(0.5), None);
    assert_eq!(Histogram::fine().distribution().count, 0);
}

#[test]
fn more_than_a_day_counts_as_a_day() {
    let mut histogram = Histogram::fine();
    histogram.record(Duration::MAX);
    assert_eq!(histogram.distribution().max, 86_400_000.0);
    assert!(histogram.bytes() < 225 * 1024, "{}", histogram.bytes());
    let mut coarse = Histogram::coarse();
    coarse.record(Duration::MAX);
    assert!(coarse.bytes() < 32 * 1024, "{}", coarse.bytes());
}
