//! A comparison as text.

use std::fmt;

use super::{Comparison, Line, LineVerdict, Overall};
use crate::verdict::{percent, time};

/// What the reader must know to believe it.
const METHOD: &str = "\
Intervals: bootstrap over blocks of time, each line by itself. Verdicts: Holm's method over all lines, so that by chance
one comparison in twenty has a false one. What differs between the runs as a whole, such as a busy machine, is not in it.";

impl fmt::Display for Comparison {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "A  {}\nB  {}\n", self.started_at.0, self.started_at.1)?;
        writeln!(out, "{:<20}{:>12}{:>12}{:>8}  {:<18}verdict on B", "", "A", "B", "B/A", "95 % interval")?;
        for line in &self.lines {
            let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| number(line, value));
            let ratio = line.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            let interval = line.interval.map_or_else(|| "-".to_owned(), |(low, high)| format!("{low:.3} to {high:.3}"));
            let (a, b, verdict) = (number(line.a), number(line.b), self.words(line));
            writeln!(out, "{:<20}{a:>12}{b:>12}{ratio:>8}  {interval:<18}{verdict}", line.name)?;
        }
        writeln!(out)?;
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        writeln!(out, "{METHOD}")?;
        let tolerance = percent(self.tolerance);
        match self.verdict {
            Overall::Worse => writeln!(out, "B is worse than A by more than {tolerance}."),
            Overall::NotWorse => writeln!(out, "B is not seen to be worse than A by more than {tolerance}."),
            Overall::TooFewData => writeln!(out, "Too few data to compare.\nhint: longer runs, or more requests"),
        }
    }
}

impl Comparison {
    fn words(&self, line: &Line) -> String {
        let beyond =
            if line.beyond_tolerance { format!(", by more than {}", percent(self.tolerance)) } else { String::new() };
        match line.verdict {
            LineVerdict::Better => format!("better{beyond}"),
            LineVerdict::Worse => format!("worse{beyond}"),
            LineVerdict::NoDifferenceSeen => "no difference seen".to_owned(),
            LineVerdict::TooFewData => "too few data".to_owned(),
        }
    }
}

fn number(line: &Line, value: f64) -> String {
    match line.name {
        "goodput" | "completion_tokens" => format!("{value:.2}/s"),
        "attainment" | "error_rate" => percent(value),
        _ => time(value),
    }
}
