//! Bars: how requests ended, what each tenant had, and how evenly they shared the slots.

use maud::{Markup, html};

use super::super::number::{count, counted, milliseconds, none, percent, quantity, round, seconds, share};
use super::super::text::{gaps as waiting, weighted};
use super::chart::{Bars, Group};
use super::latency;
use super::page::{cell, grid, sign, table};
use crate::report::{Distribution, Fairness, Gap, Report, Service, Summary};

/// Groups of bars in a chart; what is beyond is in the table.
const MOST: usize = 24;

/// Endings as bars and as a table.
pub(super) fn endings(total: &Summary) -> Markup {
    let mut listed: Vec<_> = total.endings.iter().collect();
    listed.sort_by_key(|(_, requests)| std::cmp::Reverse(**requests));
    let written = |requests: u64| format!("{} ({})", count(requests), share(requests, total.scheduled));
    let group = |(name, requests): &(&String, &u64)| Group {
        name: (*name).clone(),
        bars: vec![(**requests as f64, written(**requests))],
        mark: None,
    };
    let bars = Bars {
        title: "Endings".to_owned(),
        note: format!("of {}", counted(total.scheduled, "scheduled request")),
        series: vec!["requests".to_owned()],
        groups: listed.iter().take(MOST).map(group).collect(),
        mark: None,
        full: None,
    };
    let rows: Vec<Vec<Markup>> = listed
        .iter()
        .map(|(name, requests)| vec![cell(*name), cell(count(**requests)), cell(share(**requests, total.scheduled))])
        .collect();
    let retried: Vec<Vec<Markup>> =
        total.retried.iter().map(|(name, times)| vec![cell(name), cell(count(*times))]).collect();
    let tables = html! {
        div {
            (table("Endings", "tnn", &["ending", "requests", "share"], &rows))
            @if !retried.is_empty() { (table("Refused and tried again", "tn", &["refusal", "tries"], &retried)) }
        }
    };
    grid(&[bars.figure(), tables])
}

/// Tenants as bars and as a table.
pub(super) fn tenants(report: &Report) -> Markup {
    let groups = |bars: &dyn Fn(&Summary) -> Vec<(f64, String)>| {
        let group =
            |(name, summary): (&String, &Summary)| Group { name: name.clone(), bars: bars(summary), mark: None };
        report.tenants.iter().take(MOST).map(group).collect::<Vec<_>>()
    };
    let rate = |rate: f64, what: &str| (rate, format!("{}/s {what}", quantity(rate)));
    let rates = Bars {
        title: "Requests a second".to_owned(),
        note: "offered, and good ones: the goodput".to_owned(),
        series: vec!["offered".to_owned(), "goodput".to_owned()],
        groups: groups(&|summary| vec![rate(summary.rates.offered, "offered"), rate(summary.rates.goodput, "good")]),
        mark: None,
        full: None,
    };
    let attainment = Bars {
        title: "Attainment".to_owned(),
        note: "good part of all scheduled requests but those that left".to_owned(),
        series: vec!["attainment".to_owned()],
        groups: groups(&|summary| vec![(summary.attainment, percent(summary.attainment))]),
        mark: None,
        full: Some(1.0),
    };
    html! { (grid(&[rates.figure(), attainment.figure()])) (tenants_table(report)) }
}

fn tenants_table(report: &Report) -> Markup {
    let rows: Vec<Vec<Markup>> = report
        .tenants
        .iter()
        .map(|(name, summary)| {
            let of = |measure: &str, value: fn(&Distribution) -> f64| {
                cell(summary.measure(measure).map_or_else(none, |distribution| milliseconds(value(distribution))))
            };
            vec![
                cell(name),
                cell(count(summary.scheduled)),
                cell(count(summary.complete())),
                cell(count(summary.failed())),
                cell(count(summary.left())),
                cell(percent(summary.attainment)),
                cell(quantity(summary.rates.completion_tokens)),
                of("ttft_scheduled", |d| d.p50),
                of("ttft_scheduled", |d| d.p95),
                of("tpot", |d| d.p50),
                of("e2e_scheduled", |d| d.p95),
            ]
        })
        .collect();
    let head = [
        "tenant",
        "scheduled",
        "complete",
        "failed",
        "left",
        "attainment",
        "tokens/s",
        "TTFT p50",
        "TTFT p95",
        "TPOT p50",
        "end to end p95",
    ];
    table("Tenants; TTFT and end to end as scheduled", "tnnnnnnnnnn", &head, &rows)
}

/// Weighted service, gaps and the victim.
pub(super) fn fairness(fairness: &Fairness) -> Markup {
    let waited = waiting(fairness).next().is_some();
    let mut figures = Vec::new();
    if fairness.service.values().any(|service| weighted(service).is_some()) {
        figures.push(service(fairness));
    }
    if waited {
        figures.push(gaps(fairness));
    }
    if let Some(victim) = &fairness.victim {
        let curves = [("alone".to_owned(), &victim.alone), ("beside the others".to_owned(), &victim.beside)];
        figures.push(latency::curve(&format!("Time to first token of {}", victim.tenant), "as scheduled", &curves));
    }
    html! {
        p { (sentence(fairness)) }
        @if !figures.is_empty() { (grid(&figures)) }
        (service_table(fairness))
        @if waited { (gaps_table(fairness)) }
    }
}

fn service(fairness: &Fairness) -> Markup {
    let group = |(name, service): (&String, &Service)| {
        let weighted = weighted(service).unwrap_or_default();
        let name = format!("{name}, {}, weight {}", service.class, round(service.weight));
        Group { name, bars: vec![(weighted, quantity(weighted))], mark: None }
    };
    Bars {
        title: "Weighted service".to_owned(),
        note: "service / weight while all tenants waited; within a class, even is fair".to_owned(),
        series: vec!["service".to_owned()],
        groups: fairness.service.iter().take(MOST).map(group).collect(),
        mark: None,
        full: None,
    }
    .figure()
}

/// The gaps that come closest to their bounds first.
fn gaps(fairness: &Fairness) -> Markup {
    let mut gaps: Vec<_> = waiting(fairness).collect();
    gaps.sort_by(|a, b| (b.gap / b.bound).total_cmp(&(a.gap / a.bound)));
    let group = |gap: &&Gap| Group {
        name: format!("{} and {}", gap.tenants.0, gap.tenants.1),
        bars: vec![(gap.gap, format!("{} of {}", quantity(gap.gap), quantity(gap.bound)))],
        mark: Some(gap.bound),
    };
    Bars {
        title: "Largest gap of weighted service".to_owned(),
        note: "of two tenants while both waited, against the scheduler's bound".to_owned(),
        series: vec!["gap".to_owned()],
        groups: gaps.iter().take(MOST).map(group).collect(),
        mark: Some("bound".to_owned()),
        full: None,
    }
    .figure()
}

/// What the charts do not show, in words.
fn sentence(fairness: &Fairness) -> String {
    let mut text = match fairness.jain_index {
        Some(jain) => format!("Jain's index of weighted service is {jain:.3}, where 1 is even. "),
        None => "There was no time in which all tenants had requests waiting, so there is no Jain index. ".to_owned(),
    };
    text.push_str(&format!(
        "Service is counted in computed prompt tokens; an output token costs {} of them; there are {}.",
        quantity(fairness.output_cost),
        counted(fairness.slots.into(), "slot"),
    ));
    if let Some(victim) = &fairness.victim {
        let [alone, beside] = [&victim.alone, &victim.beside].map(|distribution| milliseconds(distribution.p50));
        let (name, ratio) = (&victim.tenant, quantity(victim.ratio));
        text.push_str(&format!(
            " The median first token of {name} took {beside} beside the others and {alone} alone: {ratio} times as long."
        ));
    }
    text
}

fn service_table(fairness: &Fairness) -> Markup {
    let rows: Vec<Vec<Markup>> = fairness
        .service
        .iter()
        .map(|(name, service)| {
            let mut row = vec![cell(name), cell(&service.class)];
            let numbers = [service.weight, service.cost, service.cost_while_all_waited, service.largest_request];
            row.extend(numbers.map(|number| cell(quantity(number))));
            row
        })
        .collect();
    let head = ["tenant", "class", "weight", "service", "while all waited", "largest request"];
    table("Service in cost units", "ttnnnn", &head, &rows)
}

fn gaps_table(fairness: &Fairness) -> Markup {
    let rows: Vec<Vec<Markup>> = waiting(fairness)
        .map(|gap| {
            let within = gap.gap <= gap.bound;
            vec![
                cell(format!("{} and {}", gap.tenants.0, gap.tenants.1)),
                sign(within, if within { "within" } else { "above" }),
                cell(quantity(gap.gap)),
                cell(quantity(gap.bound)),
                cell(seconds(gap.seconds_both_waited)),
            ]
        })
        .collect();
    table(
        "Gaps of weighted service",
        "ttnnn",
        &["tenants", "outcome", "largest gap", "bound", "both waited for"],
        &rows,
    )
}
