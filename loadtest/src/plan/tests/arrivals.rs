//! Moments: against what the formulas say, with fixed seeds.

use std::time::Duration;

use proptest::prelude::*;

use super::{chat, plan};

fn seconds(arrival: &str, count: usize) -> Vec<f64> {
    let moments: Vec<_> = chat(arrival).arrivals().take(count).map(|moment| moment.as_secs_f64()).collect();
    assert_eq!(moments.len(), count);
    moments
}

/// Mean and variance of the gaps, the first one from 0.
fn of_gaps(moments: &[f64]) -> (f64, f64) {
    let gaps: Vec<_> =
        std::iter::once(&0.0).chain(moments).zip(moments).map(|(before, after)| after - before).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    (mean, gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64)
}

#[track_caller]
fn assert_near(measured: f64, expected: f64, tolerance: f64) {
    assert!((measured / expected - 1.0).abs() < tolerance, "{measured} is not {expected} within {tolerance}");
}

#[test]
fn constant_arrivals_are_multiples_of_one_gap_without_drift() {
    let moments = seconds("arrival = { kind = 'constant', rate = 3 }", 20_000);
    assert_eq!(moments[0], 0.0);
    for (number, moment) in moments.iter().enumerate() {
        assert!((moment - number as f64 / 3.0).abs() < 1e-9);
    }
}

#[test]
fn poisson_gaps_have_the_mean_and_variance_of_the_exponential_distribution() {
    let (mean, variance) = of_gaps(&seconds("arrival = { kind = 'poisson', rate = 4 }", 30_000));
    // Standard errors of 30,000 gaps: 0.6 % of the mean, 1.6 % of the variance.
    assert_near(mean, 1.0 / 4.0, 0.02);
    assert_near(variance, 1.0 / 16.0, 0.05);
}

#[test]
fn gamma_gaps_have_the_rates_mean_and_a_variance_by_shape() {
    for shape in [0.25, 4.0] {
        let line = format!("arrival = {{ kind = 'gamma', rate = 4, shape = {shape} }}");
        let (mean, variance) = of_gaps(&seconds(&line, 30_000));
        assert_near(mean, 1.0 / 4.0, 0.04);
        assert_near(variance, 1.0 / (shape * 16.0), 0.1);
    }
}

#[test]
fn bursts_are_silent_while_they_are_off_and_have_their_rate_while_they_are_on() {
    let line = "arrival = { kind = 'bursts', rate = 10, on = '2s', off = '3s' }";
    let moments: Vec<_> = chat(line).arrivals().collect();
    assert!(moments.iter().all(|moment| moment.as_secs_f64() % 5.0 < 2.0));
    // 10,000 s, two fifths of them on. Counts of a Poisson process: the standard error is the root of 40,000.
    assert_near(moments.len() as f64, 40_000.0, 0.02);
}

#[test]
fn a_ramp_has_its_rate_at_every_moment() {
    for (from, to) in [(0.0, 8.0), (8.0, 0.0), (2.0, 6.0)] {
        let moments: Vec<_> =
            chat(&format!("arrival = {{ kind = 'ramp', from = {from}, to = {to} }}")).arrivals().collect();
        // In each tenth of 10,000 s: the rate in its middle times 1,000 s, within four standard errors.
        for tenth in 0..10 {
            let counted = moments.iter().filter(|moment| moment.as_secs() / 1000 == tenth).count() as f64;
            let expected = (from + (to - from) * (tenth as f64 + 0.5) / 10.0) * 1000.0;
            assert!((counted - expected).abs() < 4.0 * expected.sqrt(), "{counted} of {expected}");
        }
    }
}

#[test]
fn steps_have_one_rate_after_the_other_and_the_last_to_the_end() {
    let line = "arrival = { kind = 'steps', rates = [2, 0, 5, 1], every = '1000s' }";
    let moments: Vec<_> = chat(line).arrivals().collect();
    let counted = |from: u64, to: u64| moments.iter().filter(|at| (from..to).contains(&at.as_secs())).count() as f64;
    assert_near(counted(0, 1000), 2000.0, 0.08);
    assert_eq!(counted(1000, 2000), 0.0);
    assert_near(counted(2000, 3000), 5000.0, 0.05);
    assert_near(counted(3000, 10_000), 7000.0, 0.05);
}

#[test]
fn arrivals_that_end_with_a_rate_of_zero_end() {
    let line = "arrival = { kind = 'steps', rates = [2, 0], every = '10s' }";
    let last = chat(line).arrivals().last().unwrap();
    assert!(last < Duration::from_secs(10));
}

#[test]
fn a_closed_loop_has_no_moments_of_its_own() {
    assert_eq!(chat("arrival = { kind = 'closed', users = 2 }").arrivals().next(), None);
}

#[test]
fn another_rate_moves_the_same_arrivals() {
    let slow = seconds("arrival = { kind = 'poisson', rate = 1 }", 100);
    let fast = seconds("arrival = { kind = 'poisson', rate = 4 }", 100);
    for (slow, fast) in slow.iter().zip(&fast) {
        assert!((slow / 4.0 - fast).abs() < 1e-6);
    }
}

fn arrival() -> impl Strategy<Value = String> {
    let rate = 0.01..1000.0f64;
    prop_oneof![
        rate.clone().prop_map(|rate| format!("{{ kind = 'constant', rate = {rate} }}")),
        rate.clone().prop_map(|rate| format!("{{ kind = 'poisson', rate = {rate} }}")),
        (rate.clone(), 0.05..20.0)
            .prop_map(|(rate, shape)| format!("{{ kind = 'gamma', rate = {rate}, shape = {shape} }}")),
        (rate.clone(), 1..5000u32, 1..5000u32).prop_map(|(rate, on, off)| format!(
            "{{ kind = 'bursts', rate = {rate}, on = '{on}ms', off = '{off}ms' }}"
        )),
        (0.0..100.0, 0.01..100.0).prop_map(|(from, to)| format!("{{ kind = 'ramp', from = {from}, to = {to} }}")),
        (0.01..100.0).prop_map(|from| format!("{{ kind = 'ramp', from = {from}, to = 0 }}")),
        (proptest::collection::vec(0..50u32, 1..6), 1..5000u32)
            .prop_map(|(rates, every)| format!("{{ kind = 'steps', rates = {rates:?}, every = '{every}ms' }}")),
    ]
}

proptest! {
    #[test]
    fn moments_ascend_are_within_the_duration_and_are_the_same_each_time(
        arrival in arrival(), seed in 0..1000u64, milliseconds in 1..20_000u64,
    ) {
        let head = format!("seed = {seed}\nduration = '{milliseconds}ms'");
        let plan = plan(&head, &format!("arrival = {arrival}"));
        let moments: Vec<_> = plan.arrivals().take(5000).collect();
        prop_assert!(moments.is_sorted());
        prop_assert!(moments.iter().all(|moment| *moment < Duration::from_millis(milliseconds)));
        prop_assert_eq!(moments, plan.arrivals().take(5000).collect::<Vec<_>>());
    }
}
