//! The summary for the terminal: what ran where, what came of it, and the verdict as the last thing on the screen.
//!
//! Plain text without colours, so that it reads the same in a log, a pipe and a ticket.

mod columns;
mod sweep;
#[cfg(test)]
mod tests;

use columns::{Columns, wrapped};
pub(super) use sweep::{by_load, limit, no_limit, outcome, sweep};

use super::measures;
use super::number::{count, counted, milliseconds, none, percent, printable, quantity, round, seconds, share};
use crate::report::{Audit, Distribution, Fairness, Gap, Health, Report, Service, Summary, Target, Verdict};

/// Columns of the whole summary.
const WIDTH: usize = 100;
/// Characters of a name of a tenant or an ending.
const NAME: usize = 34;
/// Characters of what an objective wanted, and of what was measured, on one line.
const OBJECTIVE: usize = 30;

/// A run.
pub(super) fn report(report: &Report) -> String {
    let workload = &report.workload;
    let mut lines = head(&workload.name, &workload.question, &report.harness, &report.started_at);
    lines.extend(target(&report.target));
    let warm_up = match workload.warm_up.as_secs_f64() {
        0.0 => String::new(),
        warm_up => format!(" after {} of warm-up", seconds(warm_up)),
    };
    lines.extend(field("measured", &format!("{}{warm_up}", seconds(report.measured_seconds))));
    lines.extend(field("seed", &workload.seed.to_string()));
    lines.extend(endings(&report.total));
    lines.extend(rates(&report.total));
    lines.extend(latencies(report));
    if report.tenants.len() > 1 {
        lines.extend(tenants(report));
    }
    lines.extend(report.fairness.iter().flat_map(fairness));
    lines.extend(report.audit.iter().flat_map(audit));
    lines.extend(report.cancel.iter().flat_map(cancel));
    lines.extend(health(&report.harness_health));
    lines.extend(verdict(&report.verdict));
    lines.join("\n") + "\n"
}

fn head(name: &str, question: &str, harness: &str, started_at: &str) -> Vec<String> {
    let name = printable(name, NAME);
    let mut lines = vec![format!("{name} · loadtest {} · {}", printable(harness, NAME), printable(started_at, NAME))];
    if !question.is_empty() {
        lines.extend(wrapped(&printable(question, 4 * WIDTH), WIDTH));
    }
    lines.push(String::new());
    lines
}

fn target(target: &Target) -> Vec<String> {
    let mut lines = field("target", &printable(&target.url, WIDTH));
    if let Some(upstream) = &target.upstream {
        lines.extend(field("llama-server", &printable(upstream, WIDTH)));
    }
    if let Some(build) = &target.build {
        lines.extend(field("build", &printable(build, WIDTH)));
    }
    if let Some(slots) = target.slots {
        lines.extend(field("slots", &slots.to_string()));
    }
    let exact = if target.exact_prompts { "exact: the server's own tokenizer" } else { "estimated" };
    lines.extend(field("prompt lengths", exact));
    lines
}

/// A name and what it is, over as many lines as that takes.
fn field(name: &str, value: &str) -> Vec<String> {
    let broken = wrapped(value, WIDTH - 18).into_iter().enumerate();
    broken.map(|(index, line)| format!("  {:<16}{line}", if index == 0 { name } else { "" })).collect()
}

/// The beginning of a part.
fn part(title: &str) -> Vec<String> {
    vec![String::new(), title.to_owned()]
}

fn endings(total: &Summary) -> Vec<String> {
    let mut lines = part(&format!("How {} ended", counted(total.scheduled, "scheduled request")));
    let mut columns = Columns::new(1, &["ending", "requests", "share"]);
    let mut listed: Vec<_> = total.endings.iter().collect();
    listed.sort_by_key(|(_, requests)| std::cmp::Reverse(**requests));
    for (ending, &requests) in listed {
        columns.row([printable(ending, NAME), count(requests), share(requests, total.scheduled)]);
    }
    lines.extend(columns.lines());
    for (refusal, &times) in &total.retried {
        lines.push(format!("  refused and tried again: {}, {}", printable(refusal, NAME), counted(times, "time")));
    }
    lines
}

fn rates(total: &Summary) -> Vec<String> {
    let rates = &total.rates;
    let mut lines = part("Rates");
    let requests = [("offered", rates.offered), ("completed", rates.completed), ("goodput", rates.goodput)];
    let requests = requests.map(|(name, rate)| format!("{name} {}/s", quantity(rate)));
    lines.extend(field("requests", &requests.join(", ")));
    let tokens = format!(
        "generated {}/s ({}), prompt {}/s ({}, of which {} from the cache)",
        quantity(rates.completion_tokens),
        count(total.tokens.completion),
        quantity(rates.prompt_tokens),
        count(total.tokens.prompt),
        share(total.tokens.cached, total.tokens.prompt),
    );
    lines.extend(field("tokens", &tokens));
    let attainment = format!(
        "{} = {} good / ({} scheduled - {} left): refusals, errors and timeouts are misses",
        percent(total.attainment),
        count(total.good),
        count(total.scheduled),
        count(total.left()),
    );
    lines.extend(field("attainment", &attainment));
    lines
}

fn latencies(report: &Report) -> Vec<String> {
    let mut lines = part("Times");
    let mut columns = Columns::new(1, &["measure", "p50", "p90", "p95", "p99", "max"]);
    let listed = measures::in_order(&report.total.measures);
    for (name, distribution) in &listed {
        columns.row(std::iter::once((*name).to_owned()).chain(percentiles(distribution)));
    }
    let mut table = columns.lines().into_iter();
    lines.extend(table.next().map(|head| format!("{head}    formula")));
    for (line, (name, _)) in table.zip(&listed) {
        let formula = report.formulas.get(*name).map_or("", |formula| formula.formula.as_str());
        let formula = wrapped(&printable(formula, 4 * WIDTH), WIDTH.saturating_sub(line.chars().count() + 4));
        let indent = " ".repeat(line.chars().count());
        for (index, text) in formula.into_iter().enumerate() {
            let before = if index == 0 { &line } else { &indent };
            lines.push(format!("{before}    {text}").trim_end().to_owned());
        }
    }
    lines
}

fn percentiles(distribution: &Distribution) -> [String; 5] {
    let Distribution { p50, p90, p95, p99, max, .. } = *distribution;
    [p50, p90, p95, p99, max].map(milliseconds)
}

fn tenants(report: &Report) -> Vec<String> {
    let mut lines = part("By tenant (TTFT from the scheduled moment)");
    let head = ["tenant", "scheduled", "failed", "good", "goodput/s", "tokens/s", "TTFT p50", "p95", "TPOT p50"];
    let mut columns = Columns::new(1, &head);
    for (name, summary) in &report.tenants {
        let of = |measure: &str, value: fn(&Distribution) -> f64| {
            summary.measure(measure).map_or_else(none, |d| milliseconds(value(d)))
        };
        columns.row([
            printable(name, NAME - 12),
            count(summary.scheduled),
            count(summary.failed()),
            percent(summary.attainment),
            quantity(summary.rates.goodput),
            quantity(summary.rates.completion_tokens),
            of("ttft_scheduled", |d| d.p50),
            of("ttft_scheduled", |d| d.p95),
            of("tpot", |d| d.p50),
        ]);
    }
    lines.extend(columns.lines());
    lines
}

fn fairness(fairness: &Fairness) -> Vec<String> {
    let mut lines = part("Fairness");
    let mut columns = Columns::new(2, &["tenant", "class", "weight", "service", "service / weight while all waited"]);
    for (name, service) in &fairness.service {
        columns.row([
            printable(name, NAME),
            printable(&service.class, 16),
            round(service.weight),
            quantity(service.cost),
            weighted(service).map_or("–".to_owned(), quantity),
        ]);
    }
    lines.extend(columns.lines());
    let unit = format!(
        "computed prompt tokens; an output token costs {} of them, {}",
        quantity(fairness.output_cost),
        counted(fairness.slots.into(), "slot"),
    );
    lines.extend(field("unit of service", &unit));
    let jain = match fairness.jain_index {
        Some(jain) => format!("{jain:.3} (1 is even, 1/n is all to one)"),
        None => "none: there was no time in which all tenants had requests waiting".to_owned(),
    };
    lines.extend(field("Jain index", &jain));
    if gaps(fairness).next().is_none() {
        lines.extend(field("largest gap", "none: no two tenants had requests waiting at the same time"));
    }
    for gap in gaps(fairness) {
        let pair = format!("{} and {}", printable(&gap.tenants.0, NAME), printable(&gap.tenants.1, NAME));
        let within = if gap.gap <= gap.bound { "within" } else { "ABOVE" };
        let waited = seconds(gap.seconds_both_waited);
        let (gap, bound) = (quantity(gap.gap), quantity(gap.bound));
        lines.extend(field(
            "largest gap",
            &format!("{pair}: {gap}, {within} the bound of {bound}; both waited for {waited}"),
        ));
    }
    if let Some(victim) = &fairness.victim {
        let [alone, beside] = [&victim.alone, &victim.beside].map(|d| milliseconds(d.p50));
        let name = printable(&victim.tenant, NAME);
        let ratio = quantity(victim.ratio);
        let text = format!("{name}: TTFT p50 {alone} alone, {beside} beside the others, {ratio} times as long");
        lines.extend(field("victim", &text));
    }
    lines
}

/// Service by weight while all tenants of the class waited; none if they never did.
pub(in crate::show) fn weighted(service: &Service) -> Option<f64> {
    Some(service.cost_while_all_waited / service.weight).filter(|weighted| *weighted > 0.0)
}

/// The gaps of tenants who waited at the same time. Of others there is nothing to say.
pub(in crate::show) fn gaps(fairness: &Fairness) -> impl Iterator<Item = &Gap> {
    fairness.gaps.iter().filter(|gap| gap.seconds_both_waited > 0.0)
}

fn audit(audit: &Audit) -> Vec<String> {
    let agrees = match audit.agrees {
        _ if audit.lines.is_empty() => "nothing could be compared",
        true => "the books agree",
        false => "THE BOOKS DO NOT AGREE",
    };
    let mut lines = part(&format!("Audit: {agrees}"));
    let mut columns = Columns::new(2, &["of", "what", "clients", "ledger", "llama-server", "may differ by", ""]);
    let book = |value: Option<u64>| value.map_or_else(none, count);
    for line in &audit.lines {
        columns.row([
            printable(&line.of, NAME),
            printable(&line.kind, 16),
            count(line.clients),
            book(line.ledger),
            book(line.engine),
            count(line.allowed),
            if line.agrees { "ok" } else { "DIFFER" }.to_owned(),
        ]);
    }
    if !audit.lines.is_empty() {
        lines.extend(columns.lines());
    }
    lines.extend(audit.notes.iter().flat_map(|note| field("note", &printable(note, 4 * WIDTH))));
    lines
}

fn cancel(cancel: &Distribution) -> Vec<String> {
    let mut lines = part("Cancel");
    let [p50, _, _, p99, max] = percentiles(cancel);
    let text = format!("p50 {p50}, p99 {p99}, max {max} in {}", counted(cancel.count, "trial"));
    lines.extend(field("leaving to idle", &text));
    lines
}

fn health(health: &Health) -> Vec<String> {
    let mut lines = part("The harness itself");
    let late = |lag: &Distribution| {
        format!("p50 {}, p99 {}, max {}", milliseconds(lag.p50), milliseconds(lag.p99), milliseconds(lag.max))
    };
    lines.extend(field("dispatch lag", &late(&health.dispatch_lag)));
    lines.extend(field("pulse lag", &late(&health.pulse_lag)));
    lines.extend(field("CPU", &seconds(health.cpu_seconds)));
    lines.extend(field("at once", &format!("at most {}", counted(health.most_in_flight, "request"))));
    if health.was_bottleneck {
        lines.extend(field("BOTTLENECK", "the harness could not keep up: the numbers above say nothing of the server"));
    }
    lines
}

fn verdict(verdict: &Verdict) -> Vec<String> {
    let mut lines = part(&format!("Verdict: {}", verdict_line(verdict)));
    let mut columns = Columns::new(4, &["", "objective", "wanted", "measured"]);
    for objective in &verdict.objectives {
        columns.row([
            if objective.met { "met" } else { "MISSED" }.to_owned(),
            printable(&objective.name, WIDTH),
            printable(&objective.wanted, 4 * WIDTH),
            printable(&objective.measured, 4 * WIDTH),
        ]);
    }
    if !verdict.objectives.is_empty() {
        lines.extend(columns.broken(OBJECTIVE));
    }
    lines.extend(verdict.invalid.iter().flat_map(|why| field("INVALID", &printable(why, 8 * WIDTH))));
    lines
}

/// The verdict in a line, here and on top of the page.
pub(in crate::show) fn verdict_line(verdict: &Verdict) -> String {
    let all = verdict.objectives.len();
    let missed = verdict.objectives.iter().filter(|objective| !objective.met).count();
    match (verdict.invalid.is_empty(), all, missed) {
        (false, _, _) => "not a valid measurement".to_owned(),
        (true, 0, _) => "measured; no objectives were set".to_owned(),
        (true, 1, 0) => "passed: the objective was met".to_owned(),
        (true, all, 0) => format!("passed: all {all} objectives were met"),
        (true, all, missed) => format!("failed: {missed} of {} missed", counted(all as u64, "objective")),
    }
}
