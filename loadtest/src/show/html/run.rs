//! The page of a run: the verdict, the figures that matter most, then each part with its charts and tables.

use maud::{Markup, html};

use super::super::number::{count, counted, milliseconds, none, one_line, percent, quantity, seconds, share};
use super::super::text::verdict_line;
use super::page::{Head, Outcome, cell, facts, grid, page, section, sign, table, tile};
use super::{latency, shares, timeline};
use crate::report::{Audit, Distribution, Health, Report, Summary, Verdict};

/// The page.
pub(in crate::show) fn report(report: &Report) -> String {
    let workload = &report.workload;
    let head = Head {
        kind: "Load test",
        name: &workload.name,
        question: &workload.question,
        outcome: outcome(&report.verdict),
        verdict: verdict_line(&report.verdict),
    };
    let mut facts = facts(&report.target, &report.started_at, &report.harness);
    facts.push(("Measured", seconds(report.measured_seconds)));
    facts.push(("Seed", workload.seed.to_string()));
    let body = html! {
        (verdict(&report.verdict))
        (section("At a glance", &glance(&report.total)))
        (section("Times", &latency::times(report)))
        (section("Over time", &grid(&timeline::figures(&report.timeline))))
        (section("How requests ended", &shares::endings(&report.total)))
        @if report.tenants.len() > 1 { (section("By tenant", &shares::tenants(report))) }
        @if let Some(fairness) = &report.fairness { (section("Fairness", &shares::fairness(fairness))) }
        @if let Some(audit_) = &report.audit { (section("Audit", &audit(audit_))) }
        (section("Cancel and the harness itself", &harness(&report.harness_health, report.cancel.as_ref())))
    };
    page(&head, &facts, &body)
}

fn outcome(verdict: &Verdict) -> Outcome {
    match (verdict.exit_code(), verdict.objectives.is_empty()) {
        (2, _) => Outcome::Invalid,
        (1, _) => Outcome::Failed,
        (_, true) => Outcome::Measured,
        (_, false) => Outcome::Passed,
    }
}

fn verdict(verdict: &Verdict) -> Markup {
    let rows: Vec<Vec<Markup>> = verdict
        .objectives
        .iter()
        .map(|objective| {
            vec![
                cell(&objective.name),
                sign(objective.met, if objective.met { "met" } else { "missed" }),
                cell(&objective.wanted),
                cell(&objective.measured),
            ]
        })
        .collect();
    html! {
        section.objectives {
            @if !verdict.invalid.is_empty() { ul.reasons { @for why in &verdict.invalid { li { (one_line(why)) } } } }
            @if !rows.is_empty() { (table("Objectives", "tttt", &["objective", "outcome", "wanted", "measured"], &rows)) }
        }
    }
}

fn glance(total: &Summary) -> Markup {
    let rates = &total.rates;
    let ttft = total.measure("ttft_scheduled");
    let good = format!("{} good of {} that stayed", count(total.good), count(total.expected()));
    let tokens = format!("{} generated", count(total.tokens.completion));
    let prompt = format!("{} from the cache", share(total.tokens.cached, total.tokens.prompt));
    html! {
        div.tiles {
            (tile("Attainment", &percent(total.attainment), &good))
            (tile("Goodput", &format!("{}/s", quantity(rates.goodput)), "good requests"))
            (tile("Completed", &format!("{}/s", quantity(rates.completed)), &format!("of {}/s offered", quantity(rates.offered))))
            @if let Some(ttft) = ttft {
                (tile("TTFT p95", &milliseconds(ttft.p95), &format!("as scheduled; p50 {}", milliseconds(ttft.p50))))
            }
            (tile("Tokens", &format!("{}/s", quantity(rates.completion_tokens)), &tokens))
            (tile("Prompt tokens", &format!("{}/s", quantity(rates.prompt_tokens)), &prompt))
        }
    }
}

fn audit(audit: &Audit) -> Markup {
    let book = |value: Option<u64>| cell(value.map_or_else(none, count));
    let rows: Vec<Vec<Markup>> = audit
        .lines
        .iter()
        .map(|line| {
            vec![
                cell(&line.of),
                cell(&line.kind),
                sign(line.agrees, if line.agrees { "agree" } else { "differ" }),
                cell(count(line.clients)),
                book(line.ledger),
                book(line.engine),
                cell(count(line.allowed)),
            ]
        })
        .collect();
    let caption = if audit.agrees { "The books agree." } else { "The books do not agree." };
    let head = ["of", "what", "outcome", "clients saw", "gateway's ledger", "llama-server", "may differ by"];
    html! {
        p { "Tokens as the clients saw them, as the gateway wrote them down, and as llama-server's own counters grew." }
        @if rows.is_empty() { p { "Nothing could be compared." } }
        @else { (table(caption, "tttnnnn", &head, &rows)) }
        @if !audit.notes.is_empty() { ul.notes { @for note in &audit.notes { li { (note) } } } }
    }
}

fn harness(health: &Health, cancel: Option<&Distribution>) -> Markup {
    let (lag, pulse) = (&health.dispatch_lag, &health.pulse_lag);
    html! {
        @if health.was_bottleneck {
            p { (sign(false, "The harness could not keep up: the numbers on this page say nothing of the server.")) }
        }
        div.tiles {
            @if let Some(cancel) = cancel {
                (tile("Leaving to idle, p50", &milliseconds(cancel.p50),
                    &format!("max {} in {}", milliseconds(cancel.max), counted(cancel.count, "trial"))))
            }
            (tile("Dispatch lag p99", &milliseconds(lag.p99), &format!("max {}", milliseconds(lag.max))))
            (tile("Pulse lag p99", &milliseconds(pulse.p99), &format!("max {}", milliseconds(pulse.max))))
            (tile("CPU of the harness", &seconds(health.cpu_seconds), "in all"))
            (tile("At once", &count(health.most_in_flight), "requests at most"))
        }
    }
}
