//! A plausible report and sweep for tests, from a seeded generator: three tenants, a flood in the middle of the run.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, LogNormal};

use super::number::{milliseconds, percent};
use crate::report::sweep::{Finding, Limit, Point, Sweep};
use crate::report::*;
use crate::workload::{Tenant, Workload};

/// Seconds of the run, and of a slice of its timeline.
const SECONDS: usize = 180;
const SLICE: usize = 3;
/// Name, weight, requests a second, median prompt wait in milliseconds, output tokens.
const TENANTS: [(&str, f64, f64, f64, f64); 3] =
    [("agents", 1.0, 1.2, 640.0, 90.0), ("chat", 2.0, 3.1, 380.0, 120.0), ("summaries", 1.0, 0.4, 2100.0, 260.0)];

#[derive(Default)]
struct Seen {
    summary: Summary,
    values: BTreeMap<&'static str, Vec<f64>>,
}

impl Seen {
    fn finish(mut self) -> Summary {
        let summary = &mut self.summary;
        let per_second = |n: u64| n as f64 / SECONDS as f64;
        summary.attainment = summary.good as f64 / summary.expected() as f64;
        summary.rates = Rates {
            offered: per_second(summary.scheduled),
            completed: per_second(summary.complete()),
            goodput: per_second(summary.good),
            prompt_tokens: per_second(summary.tokens.prompt),
            completion_tokens: per_second(summary.tokens.completion),
        };
        summary.measures =
            self.values.into_iter().map(|(name, values)| (name.to_owned(), distribution(values))).collect();
        self.summary
    }
}

/// What `measure` makes of the values: its histogram has three digits.
pub(super) fn distribution(values: Vec<f64>) -> Distribution {
    let three_digits = |value: f64| {
        let unit = 10f64.powf(value.max(0.001).log10().floor() - 2.0);
        (value / unit).round() * unit
    };
    let mut rounded: Vec<f64> = values.iter().copied().map(three_digits).collect();
    rounded.sort_by(f64::total_cmp);
    Distribution { histogram: sample::histogram(&rounded), ..sample::distribution(&values) }
}

/// A run under way: what came of its requests so far.
struct Run {
    random: ChaCha8Rng,
    tenants: BTreeMap<String, Seen>,
    total: Seen,
    timeline: Timeline,
}

impl Run {
    /// Three seconds in which the agents send `flood` times what they usually do.
    fn slice(&mut self, flood: f64) {
        let before = (self.total.summary.scheduled, self.total.summary.tokens.completion);
        let (mut failed, mut waits) = (0, Vec::new());
        for (name, _, rate, wait, output) in TENANTS {
            let flood = if name == "agents" { (flood, flood) } else { (1.0, flood) };
            let requests = (rate * flood.0 * SLICE as f64 * self.random.random_range(0.6..1.4)).round() as u64;
            for _ in 0..requests {
                let ending = self.ending(flood.0);
                self.end(name, ending);
                match ending {
                    "complete" => waits.push(self.complete(name, wait * flood.1, output, flood.0 > 1.0)),
                    "left" => {}
                    _ => failed += 1,
                }
            }
        }
        let first = self.timeline.scheduled.is_empty();
        self.timeline.scheduled.push(self.total.summary.scheduled - before.0);
        self.timeline.completed.push(waits.len() as u64);
        self.timeline.failed.push(failed);
        self.timeline.in_flight.push(3.1 * flood + self.random.random_range(0.0..1.5));
        self.timeline.waiting.push((flood - 1.0) * 4.0 + self.random.random_range(0.0..0.8));
        self.timeline.completion_tokens.push(self.total.summary.tokens.completion - before.1);
        waits.sort_by(f64::total_cmp);
        // No first token in the first slice, as in many runs: the line must have a gap there, not fall to zero.
        let at = |part: usize| waits.get(waits.len() * part / 100).copied().filter(|_| !first);
        self.timeline.ttft_scheduled_p50.push(at(50));
        self.timeline.ttft_scheduled_p95.push(at(95));
    }

    fn ending(&mut self, flood: f64) -> &'static str {
        match self.random.random_range(0..1000) {
            0..15 => "left",
            15..19 => "cut",
            19..24 => "timed out",
            dice if flood > 1.0 && dice < 320 => "status 429 rate_limit_exceeded",
            _ => "complete",
        }
    }

    fn end(&mut self, tenant: &str, ending: &str) {
        for seen in [self.tenants.entry(tenant.to_owned()).or_default(), &mut self.total] {
            seen.summary.scheduled += 1;
            *seen.summary.endings.entry(ending.to_owned()).or_default() += 1;
        }
    }

    /// Gives the time to first token from the scheduled moment.
    fn complete(&mut self, tenant: &str, wait: f64, output: f64, pool_is_full: bool) -> f64 {
        let random = &mut self.random;
        let ttft = LogNormal::new(wait.ln(), 0.45).unwrap().sample(random);
        let pool = if pool_is_full { random.random_range(100.0..2600.0) } else { random.random_range(0.01..0.06) };
        let tpot = random.random_range(38.0..61.0);
        let generated = (output * random.random_range(0.4..1.6)) as u64;
        let e2e = ttft + tpot * generated as f64;
        for seen in [self.tenants.entry(tenant.to_owned()).or_default(), &mut self.total] {
            seen.summary.good += u64::from(ttft + pool < 2000.0);
            seen.summary.tokens.prompt += wait as u64;
            seen.summary.tokens.cached += wait as u64 / 3;
            seen.summary.tokens.completion += generated;
            for (measure, value) in [
                ("ttft", ttft),
                ("ttft_scheduled", ttft + pool),
                ("tpot", tpot),
                ("ntpot", e2e / generated.max(1) as f64),
                ("itl", tpot * 0.97),
                ("e2e", e2e),
                ("e2e_scheduled", e2e + pool),
                ("queue_wait", ttft * 0.6),
                ("pool_wait", pool),
            ] {
                seen.values.entry(measure).or_default().push(value);
            }
        }
        ttft + pool
    }
}

/// The run.
pub(super) fn report() -> Report {
    let mut run = Run {
        random: ChaCha8Rng::seed_from_u64(7),
        tenants: BTreeMap::new(),
        total: Seen::default(),
        timeline: Timeline { slice_seconds: SLICE as f64, ..Timeline::default() },
    };
    for slice in 0..SECONDS / SLICE {
        run.slice(if (22..34).contains(&slice) { 3.2 } else { 1.0 });
    }
    run.total.summary.retried = BTreeMap::from([("status 429 rate_limit_exceeded".to_owned(), 41)]);
    let tenants: BTreeMap<String, Summary> =
        run.tenants.into_iter().map(|(name, seen)| (name, seen.finish())).collect();
    let total = run.total.finish();
    Report {
        format: FORMAT,
        harness: "0.1.0".to_owned(),
        started_at: "2026-11-27T08:00:00Z".to_owned(),
        workload: workload(),
        target: target(),
        measured_seconds: SECONDS as f64,
        fairness: Some(fairness(&tenants)),
        audit: Some(audit(&tenants, &total)),
        verdict: verdict(&tenants, &total),
        tenants,
        total,
        formulas: formulas(),
        timeline: run.timeline,
        blocks: Vec::new(),
        cancel: Some(distribution((0..20).map(|n| 62.0 + f64::from(n * n) * 0.4).collect())),
        harness_health: Health {
            dispatch_lag: distribution((0..900).map(|n| 0.02 + f64::from(n % 90) * 0.004).collect()),
            pulse_lag: distribution((0..900).map(|n| 0.1 + f64::from(n % 90) * 0.01).collect()),
            cpu_seconds: 4.21,
            was_bottleneck: false,
            most_in_flight: 19,
        },
    }
}

fn workload() -> Workload {
    Workload {
        name: "flood-and-trickle".to_owned(),
        question: "Does one tenant's flood of agents change what a chat user feels?".to_owned(),
        seed: 7,
        duration: Duration::from_secs(SECONDS as u64),
        warm_up: Duration::from_secs(10),
        tenants: TENANTS
            .iter()
            .map(|(name, weight, ..)| ((*name).to_owned(), Tenant { weight: *weight, ..Tenant::default() }))
            .collect(),
        ..Workload::default()
    }
}

fn target() -> Target {
    Target {
        url: "http://127.0.0.1:8080".to_owned(),
        upstream: Some("http://127.0.0.1:8081".to_owned()),
        build: Some("b6000-1a2b3c4d".to_owned()),
        slots: Some(4),
        exact_prompts: true,
    }
}

fn formulas() -> BTreeMap<String, Formula> {
    [
        ("ttft", "Time to first token", "first token - sent"),
        ("ttft_scheduled", "Time to first token, as scheduled", "first token - scheduled"),
        ("tpot", "Time per output token", "(last token - first token) / (completion tokens - 1)"),
        ("ntpot", "Normalized time per output token", "(ended - sent) / completion tokens"),
        ("itl", "Inter-token latency", "every gap between two events with content"),
        ("e2e", "End to end", "ended - sent"),
        ("e2e_scheduled", "End to end, as scheduled", "ended - scheduled"),
        ("queue_wait", "Queue wait", "as the gateway tells (x-queue-wait-ms)"),
        ("pool_wait", "Wait for a connection", "sent - dispatched"),
    ]
    .map(|(name, title, formula)| (name.to_owned(), Formula { title: title.to_owned(), formula: formula.to_owned() }))
    .into()
}

/// Makes it that of a run in which nobody had to wait.
pub(super) fn nobody_waited(fairness: &mut Fairness) {
    fairness.jain_index = None;
    fairness.service.values_mut().for_each(|service| service.cost_while_all_waited = 0.0);
    fairness.gaps.iter_mut().for_each(|gap| (gap.gap, gap.seconds_both_waited) = (0.0, 0.0));
}

fn fairness(tenants: &BTreeMap<String, Summary>) -> Fairness {
    let alone = distribution((0..60).map(|n| 190.0 + f64::from(n) * 6.0).collect());
    let beside = tenants["chat"].measures["ttft_scheduled"].clone();
    let victim = Victim { tenant: "chat".to_owned(), ratio: beside.p50 / alone.p50, alone, beside };
    let service = TENANTS.iter().map(|(name, weight, ..)| {
        let tokens = tenants[*name].tokens;
        let cost = tokens.prompt as f64 + 4.0 * tokens.completion as f64;
        let while_all = 61_000.0 * weight * (1.0 + name.len() as f64 / 90.0);
        let class = "standard".to_owned();
        let service =
            Service { weight: *weight, class, cost, cost_while_all_waited: while_all, largest_request: 2_900.0 };
        ((*name).to_owned(), service)
    });
    let gap = |a: &str, b: &str, gap| Gap {
        tenants: (a.to_owned(), b.to_owned()),
        gap,
        bound: 29_000.0,
        seconds_both_waited: 36.4,
    };
    Fairness {
        output_cost: 4.0,
        slots: 4,
        service: service.collect(),
        jain_index: Some(0.9987),
        gaps: vec![
            gap("agents", "chat", 6_210.0),
            gap("agents", "summaries", 11_480.0),
            gap("chat", "summaries", 9_130.0),
        ],
        victim: Some(victim),
    }
}

fn audit(tenants: &BTreeMap<String, Summary>, total: &Summary) -> Audit {
    let line = |of: &str, kind: &str, clients, allowed| AuditLine {
        of: of.to_owned(),
        kind: kind.to_owned(),
        clients,
        ledger: Some(clients + allowed / 3),
        engine: (of == "all").then_some(clients + allowed / 2),
        allowed,
        agrees: true,
    };
    let mut lines: Vec<_> =
        tenants.iter().map(|(name, summary)| line(name, "completion", summary.tokens.completion, 0)).collect();
    lines.push(line("all", "prompt", total.tokens.prompt, 4_200));
    lines.push(line("all", "cached", total.tokens.cached, 4_200));
    lines.push(line("all", "completion", total.tokens.completion, 540));
    let notes = vec!["3 requests were cut: their last tokens may be missing on the side of the clients.".to_owned()];
    Audit { lines, agrees: true, notes }
}

fn verdict(tenants: &BTreeMap<String, Summary>, total: &Summary) -> Verdict {
    let objective = |name: &str, wanted: &str, measured: String, met| Objective {
        name: name.to_owned(),
        wanted: wanted.to_owned(),
        measured,
        met,
    };
    let ttft = tenants["chat"].measures["ttft_scheduled"].p95;
    Verdict {
        objectives: vec![
            objective("attainment", "at least 95 %", percent(total.attainment), total.attainment >= 0.95),
            objective("chat:ttft_scheduled.p95", "at most 2 s", milliseconds(ttft), ttft <= 2000.0),
            objective("largest service gap", "within the bound", "11,480 of 29,000".to_owned(), true),
            objective("the books", "agree", "agree".to_owned(), true),
        ],
        invalid: Vec::new(),
    }
}

/// Runs at seven loads, as a search makes them.
pub(super) fn sweep() -> Sweep {
    let point = |load: f64| {
        let over = (load - 2.0).max(0.0);
        let attainment = (0.995 - over * 0.42_f64).max(0.02);
        let offered = 2.4 * load;
        Point {
            load,
            scheduled: (offered * 120.0) as u64,
            offered,
            completed: offered.min(5.6),
            goodput: offered * attainment,
            completion_tokens: offered.min(5.6) * 110.0,
            attainment,
            attainment_interval: ((attainment - 0.04).max(0.0), (attainment + 0.03).min(1.0)),
            ttft_scheduled_p50: Some(320.0 * (1.0 + load * 0.2) * (1.0 + over * 9.0)),
            ttft_scheduled_p95: Some(810.0 * (1.0 + load * 0.3) * (1.0 + over * 16.0)),
            tpot_p50: Some(30.0 + 6.0 * load.min(2.4)),
            met: attainment >= 0.95,
            invalid: Vec::new(),
        }
    };
    Sweep {
        format: FORMAT,
        harness: "0.1.0".to_owned(),
        started_at: "2026-11-27T08:10:00Z".to_owned(),
        workload: workload(),
        target: target(),
        points: [0.5, 1.0, 2.0, 4.0, 3.0, 2.5, 2.2].map(point).to_vec(),
        finding: Finding::Limit,
        notes: Vec::new(),
        limit: Some(Limit {
            load: 2.0,
            offered: 4.8,
            interval: (2.0, 2.2),
            confidence: Some(0.95),
            basis: "Wilson's interval of the attainment at each load; bisected until the bracket was narrower than a tenth."
                .to_owned(),
        }),
    }
}
