//! The table of a sweep, and its limit.

use super::super::number::{count, milliseconds, none, percent, printable, quantity, round};
use super::columns::{Columns, wrapped};
use super::{WIDTH, field, head, part, target};
use crate::report::sweep::{Finding, Limit, Point, Sweep};

/// A sweep: a row for each load, then the limit.
pub(in crate::show) fn sweep(sweep: &Sweep) -> String {
    let mut lines = head(&sweep.workload.name, &sweep.workload.question, &sweep.harness, &sweep.started_at);
    lines.extend(target(&sweep.target));
    lines.extend(part("Runs (TTFT from the scheduled moment)"));
    let head =
        ["load", "requests", "offered/s", "goodput/s", "tokens/s", "TTFT p50", "p95", "good", "95 % interval", ""];
    let mut columns = Columns::new(0, &head);
    let mut notes = Vec::new();
    for point in by_load(sweep) {
        columns.row([
            quantity(point.load),
            count(point.scheduled),
            quantity(point.offered),
            quantity(point.goodput),
            quantity(point.completion_tokens),
            point.ttft_scheduled_p50.map_or_else(none, milliseconds),
            point.ttft_scheduled_p95.map_or_else(none, milliseconds),
            percent(point.attainment),
            format!("{} to {}", percent(point.attainment_interval.0), percent(point.attainment_interval.1)),
            outcome(point.met, &point.invalid).to_owned(),
        ]);
        let load = round(point.load);
        notes.extend(point.invalid.iter().map(|why| format!("load {load}: {}", printable(why, 8 * WIDTH))));
    }
    lines.extend(columns.lines());
    lines.extend(notes.iter().flat_map(|note| field("INVALID", note)));
    lines.extend(part(&format!("Limit: {}", sweep.limit.as_ref().map_or(no_limit(sweep), limit))));
    if let Some(limit) = &sweep.limit {
        lines.extend(
            wrapped(&printable(&limit.basis, 8 * WIDTH), WIDTH - 2).into_iter().map(|line| format!("  {line}")),
        );
    }
    lines.extend(sweep.notes.iter().flat_map(|note| field("note", &printable(note, 8 * WIDTH))));
    lines.join("\n") + "\n"
}

/// The runs in the order of their loads; a search makes them in another.
pub(in crate::show) fn by_load(sweep: &Sweep) -> Vec<&Point> {
    let mut points: Vec<_> = sweep.points.iter().collect();
    points.sort_by(|a, b| a.load.total_cmp(&b.load));
    points
}

/// How a run of the sweep came out, in a word.
pub(in crate::show) fn outcome(met: bool, invalid: &[String]) -> &'static str {
    match (invalid.is_empty(), met) {
        (false, _) => "invalid",
        (true, true) => "met",
        (true, false) => "missed",
    }
}

/// The limit in a line, here and on top of the page.
pub(in crate::show) fn limit(limit: &Limit) -> String {
    let confidence = limit.confidence.map_or_else(String::new, |confidence| format!("{:.0} % ", confidence * 100.0));
    format!(
        "load {}, {} requests/s ({confidence}interval: {} to {})",
        round(limit.load),
        quantity(limit.offered),
        round(limit.interval.0),
        round(limit.interval.1),
    )
}

/// What is said in its place.
pub(in crate::show) fn no_limit(sweep: &Sweep) -> String {
    match sweep.finding {
        Finding::Curve | Finding::Limit => "not looked for",
        Finding::NeverMet => "no load clearly met the objectives",
        Finding::AlwaysMet => "above all loads that were run",
        Finding::BrokenOff => "not known, it was broken off",
    }
    .to_owned()
}
