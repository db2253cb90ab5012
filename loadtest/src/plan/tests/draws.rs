//! Numbers: against what the formulas say, with fixed seeds.

use super::super::PlanError;
use super::super::draw::Draw;
use super::super::seeds::{Purpose, Seeds};
use crate::workload::Length;

fn length(text: &str) -> Length {
    toml::from_str::<toml::Table>(&format!("length = {text}")).unwrap()["length"].clone().try_into().unwrap()
}

fn numbers(text: &str) -> Vec<f64> {
    let draw = Draw::new(&length(text)).unwrap();
    let mut rng = Seeds::new(1, "chat").generator(Purpose::Session, 0);
    (0..20_000).map(|_| draw.number(&mut rng)).collect()
}

fn mean_and_deviation(numbers: &[f64]) -> (f64, f64) {
    let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
    (mean, (numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / numbers.len() as f64).sqrt())
}

/// Within 3 % of the analytic values: of 20,000 draws the standard error is below 1 % of each.
#[track_caller]
fn assert_moments(text: &str, expected_mean: f64, expected_deviation: f64) {
    let (mean, deviation) = mean_and_deviation(&numbers(text));
    assert!((mean / expected_mean - 1.0).abs() < 0.03, "mean {mean}, not {expected_mean}");
    assert!((deviation / expected_deviation - 1.0).abs() < 0.03, "deviation {deviation}, not {expected_deviation}");
}

#[test]
fn each_distribution_has_its_analytic_mean_and_deviation() {
    assert_moments("{ kind = 'uniform', min = 10, max = 70 }", 40.0, 60.0 / 12f64.sqrt());
    assert_moments("{ kind = 'normal', mean = 500, deviation = 50 }", 500.0, 50.0);
    // Mean: median · exp(σ²/2); deviation: mean · √(exp(σ²) − 1).
    let (median, sigma) = (100.0f64, 0.5f64);
    let mean = median * (sigma * sigma / 2.0).exp();
    let deviation = mean * ((sigma * sigma).exp() - 1.0).sqrt();
    assert_moments("{ kind = 'lognormal', median = 100, sigma = 0.5 }", mean, deviation);
    assert_moments("{ kind = 'empirical', values = [10, 20] }", 15.0, 5.0);
    assert_moments("{ kind = 'empirical', values = [10, 20], weights = [3, 1] }", 12.5, 10.0 * 0.1875f64.sqrt());
}

#[test]
fn what_is_beyond_the_bounds_becomes_the_bound() {
    let cut = numbers("{ kind = 'normal', mean = 100, deviation = 50, min = 50, max = 150 }");
    let at = |bound: f64| cut.iter().filter(|number| **number == bound).count() as f64 / cut.len() as f64;
    assert!(cut.iter().all(|number| (50.0..=150.0).contains(number)));
    // One deviation off the mean: 15.9 % on each side.
    assert!((at(50.0) - 0.159).abs() < 0.01 && (at(150.0) - 0.159).abs() < 0.01);
}

#[test]
fn what_counts_something_is_whole_and_at_least_one() {
    let mut rng = Seeds::new(1, "chat").generator(Purpose::Session, 0);
    let draw = Draw::new(&length("{ kind = 'uniform', max = 3 }")).unwrap();
    let counts: std::collections::BTreeSet<_> = (0..100).map(|_| draw.count(&mut rng, 2.0)).collect();
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn what_no_checked_workload_has_is_refused_and_breaks_nothing() {
    for text in [
        "{ kind = 'uniform', min = 5, max = 4 }",
        "{ kind = 'normal', mean = 5, deviation = inf }",
        "{ kind = 'lognormal', median = 5, sigma = inf }",
        "{ kind = 'empirical' }",
        "{ kind = 'empirical', values = [1], weights = [0] }",
    ] {
        assert!(matches!(Draw::new(&length(text)).unwrap_err(), PlanError::Distribution(_)), "{text}");
    }
}

#[test]
fn numbers_of_a_file_are_drawn_and_a_bad_line_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lengths.txt");
    let of_file = || Draw::new(&length(&format!("{{ kind = 'empirical', file = '{}' }}", file.display())));
    std::fs::write(&file, "5\n\n7.5\n").unwrap();
    let mut rng = Seeds::new(1, "chat").generator(Purpose::Session, 0);
    let draw = of_file().unwrap();
    assert!((0..20).map(|_| draw.number(&mut rng)).all(|number| number == 5.0 || number == 7.5));
    let five = "5\n".repeat(1_000_001);
    for (text, line) in [("5\nfive\n", 2), ("5\n-5\n", 2), ("5\ninf\n", 2), ("", 1), (&five, 1_000_001)] {
        std::fs::write(&file, text).unwrap();
        assert!(matches!(of_file().unwrap_err(), PlanError::Line { line: told, .. } if told == line), "line {line}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(of_file().unwrap_err(), PlanError::Unreadable { .. }));
}
