//! The page of a sweep: load against goodput, first-token times and attainment, with the limit marked.

use maud::{Markup, html};

use super::super::number::{count, milliseconds, none, one_line, percent as part_percent, quantity, round};
use super::super::text::{by_load, limit, no_limit, outcome};
use super::axis::{Axis, percent};
use super::chart::{Line, Lines, Mark};
use super::page::{Head, Outcome, cell, facts, grid, page, section, sign, table};
use crate::report::sweep::{Limit, Point, Sweep};

/// The page.
pub(in crate::show) fn sweep(sweep: &Sweep) -> String {
    let points = by_load(sweep);
    let valid: Vec<&Point> = points.iter().copied().filter(|point| point.invalid.is_empty()).collect();
    let head = Head {
        kind: "Load test at several loads",
        name: &sweep.workload.name,
        question: &sweep.workload.question,
        outcome: if valid.is_empty() { Outcome::Invalid } else { Outcome::Measured },
        verdict: format!("limit: {}", sweep.limit.as_ref().map_or(no_limit(sweep), limit)),
    };
    let facts = facts(&sweep.target, &sweep.started_at, &sweep.harness);
    let body = html! {
        @if let Some(limit) = &sweep.limit { section.objectives { p { (limit.basis) } } }
        @if !valid.is_empty() { (section("The curve", &grid(&figures(sweep, &valid)))) }
        (section("Runs", &runs(&points)))
        @if !sweep.notes.is_empty() { ul.notes { @for note in &sweep.notes { li { (one_line(note)) } } } }
    };
    page(&head, &facts, &body)
}

/// A chart over the load.
fn chart(sweep: &Sweep, points: &[&Point], (title, note): (&str, &str), y: Axis, lines: Vec<Line>) -> Lines {
    let named =
        |point: &&Point| (point.load, format!("load {}×: {}/s offered", round(point.load), quantity(point.offered)));
    Lines {
        title: title.to_owned(),
        note: note.to_owned(),
        x: Axis::linear(points.iter().map(|point| point.load).fold(0.0, f64::max), |load| format!("{}×", round(load))),
        y,
        points: points.iter().map(named).collect(),
        lines: lines.into_iter().map(|line| Line { dots: true, ..line }).collect(),
        unit: quantity,
        marks: sweep.limit.iter().map(mark).collect(),
    }
}

fn mark(limit: &Limit) -> Mark {
    Mark { at: limit.load, interval: limit.interval, name: format!("limit {}×", round(limit.load)) }
}

fn figures(sweep: &Sweep, points: &[&Point]) -> Vec<Markup> {
    let line = |name: &str, value: fn(&Point) -> Option<f64>| {
        Line::new(name, points.iter().map(|point| value(point)).collect())
    };
    let most = |value: fn(&Point) -> f64| points.iter().map(|point| value(point)).fold(0.0, f64::max);
    let rates = vec![
        line("offered", |p| Some(p.offered)),
        line("completed", |p| Some(p.completed)),
        line("goodput", |p| Some(p.goodput)),
    ];
    let ttft = vec![line("p50", |p| p.ttft_scheduled_p50), line("p95", |p| p.ttft_scheduled_p95)];
    let least = points.iter().filter_map(|point| point.ttft_scheduled_p50).fold(f64::INFINITY, f64::min);
    let intervals = points.iter().map(|point| point.attainment_interval).collect();
    let attainment = vec![Line { intervals, ..line("attainment", |p| Some(p.attainment)) }];
    let times = Axis::times(least, most(|p| p.ttft_scheduled_p95.unwrap_or_default()));
    vec![
        chart(sweep, points, ("Requests a second", "by load"), Axis::linear(most(|p| p.offered), round), rates)
            .figure(),
        Lines {
            unit: milliseconds,
            ..chart(sweep, points, ("Time to first token", "by load, as scheduled; logarithmic"), times, ttft)
        }
        .figure(),
        Lines {
            unit: part_percent,
            ..chart(
                sweep,
                points,
                ("Attainment", "by load, with Wilson's 95 % interval"),
                Axis::up_to(1.0, percent),
                attainment,
            )
        }
        .figure(),
        chart(
            sweep,
            points,
            ("Generated tokens a second", "by load"),
            Axis::linear(most(|p| p.completion_tokens), round),
            vec![line("tokens", |p| Some(p.completion_tokens))],
        )
        .figure(),
    ]
}

fn runs(points: &[&Point]) -> Markup {
    let rows: Vec<Vec<Markup>> = points
        .iter()
        .map(|point| {
            let (least, most) = point.attainment_interval;
            let met = sign(point.met && point.invalid.is_empty(), outcome(point.met, &point.invalid));
            let mut row = vec![cell(format!("{}×", round(point.load))), met, cell(count(point.scheduled))];
            let rates = [point.offered, point.completed, point.goodput, point.completion_tokens];
            row.extend(rates.map(|rate| cell(quantity(rate))));
            let times = [point.ttft_scheduled_p50, point.ttft_scheduled_p95, point.tpot_p50];
            row.extend(times.map(|time| cell(time.map_or_else(none, milliseconds))));
            let interval = format!("{} to {}", part_percent(least), part_percent(most));
            row.push(html! { (part_percent(point.attainment)) span.under { (interval) } });
            row
        })
        .collect();
    let head = [
        "load",
        "objectives",
        "requests",
        "offered/s",
        "completed/s",
        "goodput/s",
        "tokens/s",
        "TTFT p50",
        "TTFT p95",
        "TPOT p50",
        "attainment, 95 %",
    ];
    let invalid = || points.iter().flat_map(|point| point.invalid.iter().map(|why| (point.load, why)));
    html! {
        (table("By load; TTFT as scheduled", "ttnnnnnnnnn", &head, &rows))
        @if invalid().next().is_some() {
            ul.notes { @for (load, why) in invalid() { li { "Load " (round(load)) "× is no measurement: " (one_line(why)) } } }
        }
    }
}
