//! Distributions of times: percentile curves as scheduled and as sent, and a table of all measures with their formulas.

use maud::{Markup, html};

use super::super::measures;
use super::super::number::{count, milliseconds};
use super::axis::Axis;
use super::chart::{Line, Lines};
use super::colour::SERIES;
use super::page::{cell, grid, table};
use crate::report::{Distribution, Report};

/// Points of a curve.
const POINTS: u32 = 120;

/// Charts and table.
pub(super) fn times(report: &Report) -> Markup {
    let total = |name: &str| report.total.measure(name);
    let both = |name: &str| {
        let curves = [("as scheduled", total(&format!("{name}_scheduled"))), ("as sent", total(name))];
        curves.into_iter().filter_map(|(name, distribution)| Some((name.to_owned(), distribution?))).collect::<Vec<_>>()
    };
    let plain = |names: &[(&str, &str)]| {
        let curves = names.iter().filter_map(|(name, title)| Some(((*title).to_owned(), total(name)?)));
        curves.collect::<Vec<_>>()
    };
    let charts = [
        ("Time to first token", "from when a request was due, and from when it was sent", both("ttft")),
        ("Time to first token by tenant", "as scheduled", by_tenant(report)),
        ("End to end", "from when a request was due, and from when it was sent", both("e2e")),
        (
            "Between tokens",
            "gaps between events, and the mean time a token of each request",
            plain(&[
                ("itl", "inter-token gap"),
                ("tpot", "TPOT, without the first token"),
                ("ntpot", "NTPOT, with all"),
            ]),
        ),
    ];
    let figures: Vec<Markup> = charts
        .iter()
        .filter(|(_, _, curves)| !curves.is_empty())
        .map(|(title, note, curves)| curve(title, note, curves))
        .collect();
    html! {
        p {
            "A curve says which part of the requests took at most that long; the time axis is logarithmic. Where the two "
            "curves of a chart part, requests waited before they were sent."
        }
        (grid(&figures))
        (measures_table(report))
    }
}

/// The tenants with the most requests, if there are several.
fn by_tenant(report: &Report) -> Vec<(String, &Distribution)> {
    let mut tenants: Vec<_> = report.tenants.iter().collect();
    tenants.sort_by_key(|(_, summary)| std::cmp::Reverse(summary.scheduled));
    let ttft = tenants.iter().filter_map(|(name, summary)| Some(((*name).clone(), summary.measure("ttft_scheduled")?)));
    let curves: Vec<_> = ttft.take(SERIES).collect();
    if report.tenants.len() > 1 { curves } else { Vec::new() }
}

/// Percentile curves in one chart.
pub(super) fn curve(title: &str, note: &str, curves: &[(String, &Distribution)]) -> Markup {
    let most = curves.iter().map(|(_, d)| d.count).max().unwrap_or(0).max(10);
    let steps = (0..=POINTS).map(|step| 1.0 - (most as f64).powf(-f64::from(step) / f64::from(POINTS)));
    let parts: Vec<f64> = steps.collect();
    let lines: Vec<Line> = curves.iter().map(|(name, d)| Line::new(name, quantiles(d, &parts))).collect();
    let least = lines.iter().flat_map(|line| line.values.iter().flatten()).copied().fold(f64::INFINITY, f64::min);
    let largest = curves.iter().map(|(_, d)| d.max).fold(0.0, f64::max);
    let name = |part: f64| if part == 0.0 { "least".to_owned() } else { format!("p{}", (part * 1e4).round() / 1e2) };
    Lines {
        title: title.to_owned(),
        note: note.to_owned(),
        x: Axis::percentiles(most),
        y: Axis::times(if least.is_finite() { least } else { 1.0 }, largest),
        points: parts.iter().map(|&part| (part, name(part))).collect(),
        lines,
        unit: milliseconds,
        marks: Vec::new(),
    }
    .figure()
}

/// The values below which those parts of all values lie, by the histogram; none beyond the last value that there is.
fn quantiles(distribution: &Distribution, parts: &[f64]) -> Vec<Option<f64>> {
    let mut buckets = distribution.histogram.iter();
    let (mut value, mut below) = (None, 0);
    let of_part = |part: &f64| {
        let last = 1.0 - 1.0 / distribution.count.max(1) as f64;
        if *part > last + 1e-9 {
            return None;
        }
        let rank = (part * distribution.count as f64).floor() as u64;
        while below <= rank {
            let Some((next, times)) = buckets.next() else { break };
            (value, below) = (Some(*next), below + times);
        }
        value
    };
    parts.iter().map(of_part).collect()
}

fn measures_table(report: &Report) -> Markup {
    let head = ["measure", "values", "p50", "p90", "p95", "p99", "p99.9", "max", "formula"];
    let rows: Vec<Vec<Markup>> = measures::in_order(&report.total.measures)
        .into_iter()
        .map(|(name, distribution)| {
            let formula = report.formulas.get(name);
            let title = formula.map_or("", |formula| formula.title.as_str());
            let Distribution { p50, p90, p95, p99, p999, max, .. } = *distribution;
            let mut row = vec![html! { code { (name) } span.under { (title) } }, cell(count(distribution.count))];
            row.extend([p50, p90, p95, p99, p999, max].map(|value| cell(milliseconds(value))));
            row.push(html! { span.prose { (formula.map_or("", |formula| formula.formula.as_str())) } });
            row
        })
        .collect();
    table("Measures, all tenants together", "tnnnnnnnt", &head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_values_of_the_histogram_up_to_the_largest() {
        let distribution = Distribution {
            count: 10,
            max: 40.0,
            histogram: vec![(10.0, 5), (20.0, 4), (40.0, 1)],
            ..Distribution::default()
        };
        let parts = [0.0, 0.4, 0.5, 0.89, 0.9, 0.95];
        assert_eq!(
            quantiles(&distribution, &parts),
            [Some(10.0), Some(10.0), Some(20.0), Some(20.0), Some(40.0), None]
        );
    }
}
