//! Whether a run met its objectives, and whether it was a measurement at all.
//!
//! Takes a report whose verdict is still empty, and what the report does not tell (`Doubts`); gives the `Verdict`, in
//! words. `metric.rs` reads the names of `at_most`; `junit.rs` writes a verdict for CI.

pub mod junit;
mod metric;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

pub use metric::{Metric, MetricError, Statistic};

use crate::report::{Audit, Distribution, Fairness, Objective, Report, Summary, Verdict};
use crate::workload::{Objectives, Workload};

/// The name of the objective of attainment. `find-limit` decides about it in its own way.
pub const ATTAINMENT: &str = "attainment";

/// How many kinds of lies are told.
const EXAMPLES: usize = 5;

/// What makes a run no measurement and is not in the other parts of its report.
#[derive(Clone, Debug, Default)]
pub struct Doubts {
    /// What was wrong with the server's own numbers, and in how many requests.
    pub lies: BTreeMap<String, u64>,
    /// Why the run ended before its time, if it did.
    pub broken_off: Option<String>,
}

/// Holds a report against the objectives of its workload. Its own `verdict` is not read.
pub fn judge(report: &Report, doubts: &Doubts) -> Verdict {
    let mut verdict = Verdict { objectives: Vec::new(), invalid: doubts.reasons() };
    verdict.invalid.extend(too_slow(report));
    verdict.invalid.extend(nothing_complete(&report.total));
    let wanted = &report.workload.slo.run;
    verdict.objectives.extend(of_requests(wanted, &report.total));
    for (name, bound) in &wanted.at_most {
        match at_most(report, name, bound) {
            Ok(objective) => verdict.objectives.push(objective),
            Err(reason) => verdict.invalid.push(reason),
        }
    }
    verdict.objectives.extend(of_fairness(wanted, report.fairness.as_ref()));
    verdict.objectives.extend(of_books(wanted, report.audit.as_ref()));
    verdict
}

impl Doubts {
    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(reason) = &self.broken_off {
            reasons.push(format!("the run was broken off: {reason}"));
        }
        if !self.lies.is_empty() {
            let examples: Vec<_> =
                self.lies.iter().take(EXAMPLES).map(|(lie, count)| format!("{lie} ({count})")).collect();
            reasons.push(format!(
                "the server's own numbers contradict each other in {} requests, so none of its counts can be believed: {}",
                self.lies.values().sum::<u64>(),
                examples.join("; "),
            ));
        }
        reasons
    }
}

/// Whether the harness was later than the workload allows, in turning to requests or at all: then it was the bottleneck.
pub fn is_too_late(lag: &Distribution, workload: &Workload) -> bool {
    lag.p99 > in_milliseconds(workload.max_dispatch_lag)
}

/// The harness was the bottleneck if it turned to requests later than the workload allows (docs of `max_dispatch_lag`).
fn too_slow(report: &Report) -> Option<String> {
    let (health, workload) = (&report.harness_health, &report.workload);
    let late = is_too_late(&health.dispatch_lag, workload) || is_too_late(&health.pulse_lag, workload);
    if !health.was_bottleneck && !late {
        return None;
    }
    let hint = if health.most_in_flight >= workload.max_in_flight as u64 {
        "hint: max_in_flight was reached; raise it, or lower the load"
    } else {
        "hint: give the harness more CPU, lower the load, or raise max_dispatch_lag if so late is early enough"
    };
    Some(format!(
        "the harness itself was too slow: it turned to requests {} late at the 99th percentile and {} at most, and a task \
         that only wakes was {} late, where max_dispatch_lag allows {}; {} requests were under way at most, of {} \
         allowed\n{hint}",
        time(health.dispatch_lag.p99),
        time(health.dispatch_lag.max),
        time(health.pulse_lag.p99),
        time(in_milliseconds(workload.max_dispatch_lag)),
        health.most_in_flight,
        workload.max_in_flight,
    ))
}

fn nothing_complete(total: &Summary) -> Option<String> {
    if total.complete() > 0 {
        return None;
    }
    if total.scheduled == 0 {
        return Some("no request was scheduled\nhint: is the duration longer than the warm-up?".to_owned());
    }
    let endings: Vec<_> = total.endings.iter().map(|(ending, count)| format!("{count} {ending}")).collect();
    Some(format!("of {} requests not one was complete: {}", total.scheduled, endings.join(", ")))
}

fn of_requests(wanted: &Objectives, total: &Summary) -> Vec<Objective> {
    let mut objectives = Vec::new();
    if let Some(least) = wanted.attainment {
        let part = part(total.good, total.expected());
        objectives.push(Objective {
            name: ATTAINMENT.to_owned(),
            wanted: format!("at least {} of all scheduled requests good", percent(least)),
            measured: match part {
                Some(part) => format!("{} ({} of {})", percent(part), total.good, total.expected()),
                None => "no request was expected to be good".to_owned(),
            },
            met: part.is_some_and(|part| part >= least),
        });
    }
    if let Some(most) = wanted.error_rate {
        let part = part(total.failed(), total.scheduled);
        objectives.push(Objective {
            name: "error_rate".to_owned(),
            wanted: format!("at most {} of all scheduled requests failed", percent(most)),
            measured: match part {
                Some(part) => format!("{} ({} of {})", percent(part), total.failed(), total.scheduled),
                None => "no request was scheduled".to_owned(),
            },
            met: part.is_some_and(|part| part <= most),
        });
    }
    objectives
}

/// The objective of one line of `at_most`, or why the line cannot be read.
fn at_most(report: &Report, name: &str, bound: &str) -> Result<Objective, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("objective at_most.\"{name}\" = \"{bound}\": {error}");
    let metric = Metric::parse(name).map_err(|error| unreadable(&format!("{error}\nhint: {}", error.hint())))?;
    let most = in_milliseconds(humantime::parse_duration(bound).map_err(|error| unreadable(&error))?);
    let group = match &metric.tenant {
        None => &report.total,
        Some(tenant) => report
            .tenants
            .get(tenant)
            .ok_or_else(|| unreadable(&format!("there is no tenant {tenant} in the report")))?,
    };
    let distribution = if metric.measure == "dispatch_lag" && metric.tenant.is_none() {
        Some(&report.harness_health.dispatch_lag)
    } else {
        group.measure(metric.measure)
    };
    let value = distribution.filter(|values| values.count > 0).map(|values| metric.statistic.of(values));
    Ok(Objective {
        name: metric.to_string(),
        wanted: format!("at most {}", time(most)),
        measured: value.map_or_else(|| "no request had a value, so it cannot be said to be met".to_owned(), time),
        met: value.is_some_and(|value| value <= most),
    })
}

fn of_fairness(wanted: &Objectives, fairness: Option<&Fairness>) -> Vec<Objective> {
    let mut objectives = Vec::new();
    if let Some(least) = wanted.jain_index {
        let index = fairness.and_then(|fairness| fairness.jain_index);
        objectives.push(Objective {
            name: "jain_index".to_owned(),
            wanted: format!("at least {least}"),
            measured: index.map_or_else(
                || "not measured: there was no time in which all tenants had requests waiting".to_owned(),
                |index| format!("{index:.4}"),
            ),
            met: index.is_some_and(|index| index >= least),
        });
    }
    if wanted.service_gap_within_bound {
        // Who never waited beside the other shows nothing.
        let gaps = fairness.iter().flat_map(|fairness| &fairness.gaps).filter(|gap| gap.seconds_both_waited > 0.0);
        // By the difference: a pair that was not served at all has a bound of 0.
        let worst = gaps.max_by(|one, other| (one.gap - one.bound).total_cmp(&(other.gap - other.bound)));
        objectives.push(Objective {
            name: "service_gap_within_bound".to_owned(),
            wanted: "no gap of service above the scheduler's bound".to_owned(),
            measured: worst.map_or_else(
                || "not measured: no two tenants of one class had requests waiting at the same time".to_owned(),
                |gap| {
                    let (one, other) = &gap.tenants;
                    format!("between {one} and {other} {:.0}, where the bound is {:.0}", gap.gap, gap.bound)
                },
            ),
            met: worst.is_some_and(|gap| gap.gap <= gap.bound),
        });
    }
    if let Some(most) = wanted.victim_ratio {
        let victim = fairness.and_then(|fairness| fairness.victim.as_ref());
        objectives.push(Objective {
            name: "victim_ratio".to_owned(),
            wanted: format!("at most {most} times the first-token time that it has alone"),
            measured: victim.map_or_else(
                || "not measured: the workload names no victim, or it had no first token".to_owned(),
                |victim| {
                    let (beside, alone) = (time(victim.beside.p50), time(victim.alone.p50));
                    format!(
                        "{:.3} times: {} waited {beside} beside the others, {alone} alone",
                        victim.ratio, victim.tenant
                    )
                },
            ),
            met: victim.is_some_and(|victim| victim.ratio <= most),
        });
    }
    objectives
}

/// Books that were read must agree, unless the workload says that it does not matter.
fn of_books(wanted: &Objectives, audit: Option<&Audit>) -> Option<Objective> {
    let measured = match (wanted.audit, audit) {
        (Some(false), _) | (None, None) => return None,
        (Some(true), None) => "the books were not read".to_owned(),
        // Nothing is known against books that could not be read, and nothing for them.
        (None, Some(audit)) if audit.lines.is_empty() => return None,
        (_, Some(audit)) if audit.lines.is_empty() => format!("nothing could be compared: {}", audit.notes.join("; ")),
        (_, Some(audit)) if audit.agrees => format!("{} comparisons agree", audit.lines.len()),
        (_, Some(audit)) => {
            let apart = audit.lines.iter().filter(|line| !line.agrees);
            let apart: Vec<_> = apart.map(|line| format!("{} of {}", line.kind, line.of)).collect();
            format!("they are apart in {}", apart.join(", "))
        }
    };
    Some(Objective {
        name: "audit".to_owned(),
        wanted: "the books of clients, gateway and llama-server agree".to_owned(),
        measured,
        met: audit.is_some_and(|audit| audit.agrees),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn part(of: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| of as f64 / all as f64)
}

fn in_milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Milliseconds for people, with the four digits that decide at a bound.
pub(crate) fn time(milliseconds: f64) -> String {
    if milliseconds >= 1e3 {
        format!("{} s", trimmed(format!("{:.3}", milliseconds / 1e3)))
    } else {
        format!("{} ms", trimmed(format!("{milliseconds:.2}")))
    }
}

/// A part of 1 as per cent.
pub(crate) fn percent(part: f64) -> String {
    format!("{} %", trimmed(format!("{:.3}", part * 100.0)))
}

fn trimmed(decimal: String) -> String {
    decimal.trim_end_matches('0').trim_end_matches('.').to_owned()
}
