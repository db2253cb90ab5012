//! How the run went over time: load and what came of it, what was under way, how long first tokens took, tokens.

use maud::Markup;

use super::super::number::{milliseconds, quantity, round};
use super::axis::{Axis, seconds};
use super::chart::{Line, Lines};
use crate::report::Timeline;

/// The charts; none if nothing ran.
pub(super) fn figures(timeline: &Timeline) -> Vec<Markup> {
    if timeline.scheduled.is_empty() || timeline.slice_seconds <= 0.0 {
        return Vec::new();
    }
    let rate = |counts: &[u64]| counts.iter().map(|&n| Some(n as f64 / timeline.slice_seconds)).collect::<Vec<_>>();
    let level = |values: &[f64]| values.iter().map(|&value| Some(value)).collect::<Vec<_>>();
    vec![
        chart(
            timeline,
            "Requests a second",
            "when they were due, and when they ended",
            vec![
                Line::new("offered", rate(&timeline.scheduled)),
                Line::new("completed", rate(&timeline.completed)),
                Line::new("failed", rate(&timeline.failed)),
            ],
        ),
        chart(
            timeline,
            "Requests under way",
            "waiting: sent, and without a first token",
            vec![Line::new("in flight", level(&timeline.in_flight)), Line::new("waiting", level(&timeline.waiting))],
        ),
        first_token(timeline),
        chart(
            timeline,
            "Generated tokens a second",
            "all requests together",
            vec![Line::new("tokens", rate(&timeline.completion_tokens))],
        ),
    ]
}

fn points(timeline: &Timeline) -> Vec<(f64, String)> {
    let middle = |index: usize| (index as f64 + 0.5) * timeline.slice_seconds;
    let name = |index: usize| {
        let [from, to] = [index, index + 1].map(|edge| round(edge as f64 * timeline.slice_seconds));
        format!("{from} to {to} s")
    };
    (0..timeline.scheduled.len()).map(|index| (middle(index), name(index))).collect()
}

fn most(lines: &[Line]) -> f64 {
    lines.iter().flat_map(|line| line.values.iter().flatten()).copied().fold(0.0, f64::max)
}

fn whole(timeline: &Timeline) -> Axis {
    Axis::up_to(timeline.scheduled.len() as f64 * timeline.slice_seconds, seconds)
}

fn chart(timeline: &Timeline, title: &str, note: &str, lines: Vec<Line>) -> Markup {
    Lines {
        title: title.to_owned(),
        note: note.to_owned(),
        x: whole(timeline),
        y: Axis::linear(most(&lines), round),
        points: points(timeline),
        lines,
        unit: quantity,
        marks: Vec::new(),
    }
    .figure()
}

fn first_token(timeline: &Timeline) -> Markup {
    let lines = vec![
        Line::new("p50", timeline.ttft_scheduled_p50.clone()),
        Line::new("p95", timeline.ttft_scheduled_p95.clone()),
    ];
    let least = lines.iter().flat_map(|line| line.values.iter().flatten()).copied().fold(f64::INFINITY, f64::min);
    Lines {
        title: "Time to first token".to_owned(),
        note: "as scheduled; a gap is time without a first token; logarithmic".to_owned(),
        x: whole(timeline),
        y: Axis::times(if least.is_finite() { least } else { 1.0 }, most(&lines)),
        points: points(timeline),
        lines,
        unit: milliseconds,
        marks: Vec::new(),
    }
    .figure()
}
