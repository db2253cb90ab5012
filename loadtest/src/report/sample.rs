//! A report for tests, with something in every field.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::workload::{self, Arrival, Leavers, Length, Objectives, RequestSlo, Slo, Tenant, Workload};

/// A distribution of these values, in any order.
pub(crate) fn distribution(values: &[f64]) -> Distribution {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let Some((&min, &max)) = values.first().zip(values.last()) else {
        return Distribution::default();
    };
    let at = |part: f64| values[((values.len() as f64 * part).ceil() as usize).saturating_sub(1)];
    Distribution {
        count: values.len() as u64,
        min,
        mean: values.iter().sum::<f64>() / values.len() as f64,
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        max,
        histogram: histogram(&values),
    }
}

/// How often each value comes, of ascending values.
pub(crate) fn histogram(values: &[f64]) -> Vec<(f64, u64)> {
    values.chunk_by(|one, other| one == other).map(|alike| (alike[0], alike.len() as u64)).collect()
}

/// Two tenants, `chat` and `flood`; 100 requests, of which 90 were complete and 85 good, 2 left and 8 failed.
pub(crate) fn report() -> Report {
    let total = summary();
    let measures = total.measures.clone();
    Report {
        format: FORMAT,
        harness: "0.1.0".to_owned(),
        started_at: "2026-11-27T07:12:49Z".to_owned(),
        workload: workload(),
        target: Target {
            url: "http://127.0.0.1:8080".to_owned(),
            upstream: Some("http://127.0.0.1:8081".to_owned()),
            build: Some("b7000-abcdef".to_owned()),
            slots: Some(4),
            exact_prompts: true,
        },
        measured_seconds: 50.0,
        tenants: BTreeMap::from([("chat".to_owned(), total.clone()), ("flood".to_owned(), Summary::default())]),
        total,
        formulas: BTreeMap::from([(
            "ttft".to_owned(),
            Formula { title: "time to first token".to_owned(), formula: "first_token - sent".to_owned() },
        )]),
        timeline: Timeline {
            slice_seconds: 25.0,
            scheduled: vec![50, 50],
            completed: vec![45, 45],
            failed: vec![4, 4],
            in_flight: vec![1.5, 2.0],
            waiting: vec![0.5, 0.0],
            completion_tokens: vec![1440, 1440],
            ttft_scheduled_p50: vec![Some(110.0), None],
            ttft_scheduled_p95: vec![Some(190.0), None],
        },
        blocks: vec![Block {
            scheduled: 100,
            good: 85,
            left: 2,
            failed: 8,
            completion_tokens: 2880,
            histograms: measures.into_iter().map(|(name, values)| (name, values.histogram)).collect(),
        }],
        fairness: Some(fairness()),
        audit: Some(Audit {
            lines: vec![AuditLine {
                of: "chat".to_owned(),
                kind: "completion".to_owned(),
                clients: 2880,
                ledger: Some(2880),
                engine: Some(2900),
                allowed: 32,
                agrees: true,
            }],
            agrees: true,
            notes: vec!["flood: nothing was asked".to_owned()],
        }),
        cancel: Some(distribution(&[12.0, 20.0])),
        harness_health: Health {
            dispatch_lag: distribution(&[0.1, 0.2, 0.9]),
            pulse_lag: distribution(&[0.2, 0.5, 1.1]),
            cpu_seconds: 0.5,
            was_bottleneck: false,
            most_in_flight: 7,
        },
        verdict: Verdict::default(),
    }
}

fn summary() -> Summary {
    // 101, 102 ... 190 ms.
    let times: Vec<f64> = (0..90).map(|n| 101.0 + f64::from(n)).collect();
    Summary {
        scheduled: 100,
        endings: BTreeMap::from([
            ("complete".to_owned(), 90),
            ("left".to_owned(), 2),
            ("status 429 queue_full".to_owned(), 5),
            ("timed out".to_owned(), 3),
        ]),
        retried: BTreeMap::from([("status 429 queue_full".to_owned(), 1)]),
        tokens: Tokens { prompt: 12_800, cached: 6400, completion: 2880 },
        rates: Rates { offered: 2.0, completed: 1.8, goodput: 1.7, prompt_tokens: 256.0, completion_tokens: 57.6 },
        good: 85,
        attainment: 85.0 / 98.0,
        measures: BTreeMap::from([
            ("ttft_scheduled".to_owned(), distribution(&times)),
            ("e2e_scheduled".to_owned(), distribution(&times.iter().map(|time| time * 20.0).collect::<Vec<_>>())),
            ("queue_wait".to_owned(), Distribution::default()),
        ]),
    }
}

fn fairness() -> Fairness {
    let service = Service {
        weight: 1.0,
        class: "standard".to_owned(),
        cost: 1000.0,
        cost_while_all_waited: 400.0,
        largest_request: 90.0,
    };
    Fairness {
        output_cost: 40.0,
        slots: 4,
        service: BTreeMap::from([("chat".to_owned(), service.clone()), ("flood".to_owned(), service)]),
        jain_index: Some(0.98),
        gaps: vec![Gap {
            tenants: ("chat".to_owned(), "flood".to_owned()),
            gap: 300.0,
            bound: 900.0,
            seconds_both_waited: 12.5,
        }],
        victim: Some(Victim {
            tenant: "chat".to_owned(),
            alone: distribution(&[100.0]),
            beside: distribution(&[150.0]),
            ratio: 1.5,
        }),
    }
}

/// With every key set.
pub(crate) fn workload() -> Workload {
    let request = RequestSlo {
        ttft_scheduled: Some(Duration::from_secs(2)),
        ttft: Some(Duration::from_secs(1)),
        tpot: Some(Duration::from_millis(80)),
        largest_gap: Some(Duration::from_millis(500)),
        e2e_scheduled: Some(Duration::from_secs(30)),
    };
    let lognormal = workload::Distribution::Lognormal { median: 400.0, sigma: 0.8, min: 1.0, max: None };
    let chat = Tenant {
        key_file: Some("keys/chat".into()),
        key_variable: Some("CHAT_KEY".to_owned()),
        model: Some("smollm2".to_owned()),
        arrival: Arrival::Poisson { rate: 2.0 },
        prompt_tokens: Length::Drawn(lognormal),
        leavers: Leavers {
            share: 0.02,
            after_seconds: Some(Length::Fixed(1.0)),
            after_tokens: Some(Length::Fixed(9.0)),
        },
        slo: Some(request.clone()),
        fields: BTreeMap::from([("temperature".to_owned(), toml::Value::Float(0.7))]),
        ..Tenant::default()
    };
    Workload {
        name: "sample".to_owned(),
        tenants: BTreeMap::from([("chat".to_owned(), chat), ("flood".to_owned(), Tenant::default())]),
        slo: Slo {
            request,
            run: Objectives {
                attainment: Some(0.8),
                error_rate: Some(0.1),
                at_most: BTreeMap::from([("chat:ttft_scheduled.p95".to_owned(), "2s".to_owned())]),
                jain_index: Some(0.9),
                service_gap_within_bound: true,
                victim_ratio: Some(2.0),
                audit: Some(true),
            },
        },
        fairness: workload::Fairness { victim: Some("chat".to_owned()), ..workload::Fairness::default() },
        ..Workload::default()
    }
}
