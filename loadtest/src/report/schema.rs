//! Holds reports and sweeps against `docs/loadtest-report.schema.json`, as far as that file uses JSON Schema: validators
//! for all of it bring three dozen crates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::sweep::{Finding, Limit, Point, Sweep};
use super::*;
use crate::workload::{self, Arrival, Length, TraceFormat};

const SCHEMA: &str = include_str!("../../../docs/loadtest-report.schema.json");

/// What a report says that the schema does not, or the other way round.
pub(crate) fn problems_of_report(report: &Value) -> Vec<String> {
    Checker::new().check("", report)
}

/// The same of a sweep.
pub(crate) fn problems_of_sweep(sweep: &Value) -> Vec<String> {
    Checker::new().check("/$defs/Sweep", sweep)
}

struct Checker {
    schema: Value,
    /// Every property that was seen in a value: the place of its object in the schema, and its name.
    seen: BTreeSet<(String, String)>,
}

impl Checker {
    fn new() -> Self {
        Self { schema: serde_json::from_str(SCHEMA).unwrap(), seen: BTreeSet::new() }
    }

    /// Holds a value against the schema at a place, such as `/$defs/Sweep`.
    fn check(&mut self, place: &str, value: &Value) -> Vec<String> {
        self.problems(place, value, "")
    }

    /// Knows these words, and no others. `at` is where the value is.
    fn problems(&mut self, place: &str, value: &Value, at: &str) -> Vec<String> {
        let schema = self.schema.pointer(place).unwrap().clone();
        let mut found = Vec::new();
        for (word, wanted) in schema.as_object().unwrap() {
            let inner = format!("{place}/{word}");
            let fits = match word.as_str() {
                "$schema" | "$defs" | "title" | "description" | "format" => true,
                "$ref" => {
                    let place = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                    found.extend(self.problems(place, value, at));
                    true
                }
                "anyOf" | "oneOf" => self.fits_one(&inner, wanted, value, at),
                "type" => match wanted {
                    Value::Array(types) => types.iter().any(|wanted| is_of(wanted, value)),
                    wanted => is_of(wanted, value),
                },
                "const" => wanted == value,
                "enum" => wanted.as_array().unwrap().contains(value),
                "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
                "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap()),
                "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= wanted.as_u64().unwrap()),
                "required" => wanted.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
                "properties" | "additionalProperties" | "items" | "prefixItems" => {
                    found.extend(self.members(word, place, value, at));
                    true
                }
                word => panic!("{word}: not known here"),
            };
            if !fits {
                found.push(format!("{at}: {value} does not fit {word}: {wanted}"));
            }
        }
        found
    }

    /// Whether exactly one of the schemas fits: here they exclude each other.
    fn fits_one(&mut self, place: &str, schemas: &Value, value: &Value, at: &str) -> bool {
        let before = self.seen.clone();
        let mut fitting = Vec::new();
        for index in 0..schemas.as_array().unwrap().len() {
            self.seen.clone_from(&before);
            if self.problems(&format!("{place}/{index}"), value, at).is_empty() {
                fitting.push(self.seen.clone());
            }
        }
        let fits = fitting.len() == 1;
        self.seen = fitting.pop().unwrap_or(before);
        fits
    }

    fn members(&mut self, word: &str, place: &str, value: &Value, at: &str) -> Vec<String> {
        let mut found = Vec::new();
        let inner = format!("{place}/{word}");
        match (word, value) {
            ("properties", Value::Object(members)) => {
                for (key, member) in members {
                    let at = format!("{at}/{key}");
                    if self.schema.pointer(&inner).unwrap().get(key).is_some() {
                        self.seen.insert((place.to_owned(), key.clone()));
                        found.extend(self.problems(&format!("{inner}/{key}"), member, &at));
                    } else {
                        found.push(format!("{at}: not in the schema; add it to docs/loadtest-report.schema.json"));
                    }
                }
            }
            ("additionalProperties", Value::Object(members)) => {
                for (key, member) in members {
                    found.extend(self.problems(&inner, member, &format!("{at}/{key}")));
                }
            }
            ("items", Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    found.extend(self.problems(&inner, item, &format!("{at}/{index}")));
                }
            }
            ("prefixItems", Value::Array(items)) => {
                let described = self.schema.pointer(&inner).and_then(Value::as_array).map_or(0, Vec::len);
                for (index, item) in items.iter().enumerate().take(described) {
                    found.extend(self.problems(&format!("{inner}/{index}"), item, &format!("{at}/{index}")));
                }
            }
            _ => {}
        }
        found
    }

    /// All properties that the schema describes, as in `seen`.
    fn described(&self) -> BTreeSet<(String, String)> {
        fn walk(place: &str, schema: &Value, found: &mut BTreeSet<(String, String)>) {
            let Some(members) = schema.as_object() else {
                let items = schema.as_array().into_iter().flatten().enumerate();
                items.for_each(|(index, item)| walk(&format!("{place}/{index}"), item, found));
                return;
            };
            for (word, inner) in members {
                if word == "properties" {
                    let keys = inner.as_object().unwrap();
                    found.extend(keys.keys().map(|key| (place.to_owned(), key.clone())));
                    keys.iter().for_each(|(key, inner)| walk(&format!("{place}/properties/{key}"), inner, found));
                } else {
                    walk(&format!("{place}/{word}"), inner, found);
                }
            }
        }
        let mut found = BTreeSet::new();
        walk("", &self.schema, &mut found);
        found
    }
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        kind => panic!("{kind}: not known here"),
    }
}

/// The sample report, with a tenant for each kind of arrival and of length.
fn report_of_all_kinds() -> Report {
    let mut report = sample::report();
    let second = std::time::Duration::from_secs(1);
    let rate = 1.0;
    let arrivals = [
        Arrival::Closed { users: 3, think_time: Length::zero() },
        Arrival::Constant { rate },
        Arrival::Poisson { rate },
        Arrival::Gamma { rate, shape: 0.5 },
        Arrival::Bursts { rate, on: second, off: second },
        Arrival::Ramp { from: 0.1, to: 2.0 },
        Arrival::Steps { rates: vec![1.0, 2.0], every: second },
        Arrival::Trace { file: "trace.csv".into(), format: TraceFormat::BurstGpt, speed: 2.0 },
    ];
    let lengths = [
        workload::Distribution::Uniform { min: 1.0, max: 9.0 },
        workload::Distribution::Normal { mean: 5.0, deviation: 1.0, min: 1.0, max: Some(9.0) },
        workload::Distribution::Lognormal { median: 5.0, sigma: 1.0, min: 1.0, max: Some(9.0) },
        workload::Distribution::Empirical {
            values: vec![1.0, 2.0],
            weights: vec![3.0, 4.0],
            file: Some("lengths".into()),
        },
    ];
    for (index, arrival) in arrivals.into_iter().enumerate() {
        let prompt_tokens = Length::Drawn(lengths[index % lengths.len()].clone());
        let tenant = crate::workload::Tenant { arrival, prompt_tokens, ..Default::default() };
        report.workload.tenants.insert(format!("tenant-{index}"), tenant);
    }
    report.verdict = crate::verdict::judge(&report, &crate::verdict::Doubts::default());
    report
}

fn sweep_with_a_limit() -> Sweep {
    let report = sample::report();
    let point = Point {
        load: 2.0,
        scheduled: 100,
        offered: 2.0,
        completed: 1.8,
        goodput: 1.7,
        completion_tokens: 57.6,
        attainment: 0.867,
        attainment_interval: (0.786, 0.921),
        ttft_scheduled_p50: Some(145.0),
        ttft_scheduled_p95: Some(186.0),
        tpot_p50: None,
        met: true,
        invalid: vec!["the harness itself was too slow".to_owned()],
    };
    Sweep {
        format: FORMAT,
        harness: report.harness,
        started_at: report.started_at,
        workload: report.workload,
        target: report.target,
        points: vec![point],
        finding: Finding::Limit,
        limit: Some(Limit {
            load: 2.0,
            offered: 4.0,
            interval: (2.0, 2.5),
            confidence: Some(0.95),
            basis: "two runs".to_owned(),
        }),
        notes: vec!["load 2.5 counts as missed".to_owned()],
    }
}

#[test]
fn reports_and_sweeps_are_as_the_schema_says() {
    let report = serde_json::to_value(report_of_all_kinds()).unwrap();
    assert_eq!(problems_of_report(&report), [""; 0]);
    assert_eq!(problems_of_report(&serde_json::to_value(sample::report()).unwrap()), [""; 0]);
    let mut bare = sample::report();
    (bare.fairness, bare.audit, bare.cancel, bare.blocks) = (None, None, None, Vec::new());
    (bare.workload, bare.target) = (crate::workload::Workload::default(), Target::default());
    assert_eq!(problems_of_report(&serde_json::to_value(bare).unwrap()), [""; 0]);

    let sweep = sweep_with_a_limit();
    assert_eq!(problems_of_sweep(&serde_json::to_value(&sweep).unwrap()), [""; 0]);
    let without = Sweep { limit: None, finding: Finding::NeverMet, ..sweep };
    assert_eq!(problems_of_sweep(&serde_json::to_value(&without).unwrap()), [""; 0]);
}

#[test]
fn all_that_the_schema_describes_is_written() {
    let mut checker = Checker::new();
    checker.check("", &serde_json::to_value(report_of_all_kinds()).unwrap());
    checker.check("/$defs/Sweep", &serde_json::to_value(sweep_with_a_limit()).unwrap());
    let described = checker.described();
    let never: Vec<_> = described.difference(&checker.seen).collect();
    assert!(never.is_empty(), "{never:#?}");
    assert!(described.len() > 150, "{}", described.len());
}

#[test]
fn what_is_not_as_described_is_found() {
    let right = serde_json::to_value(report_of_all_kinds()).unwrap();
    for (place, wrong) in [
        ("/format", json!(2)),
        ("/total/scheduled", json!(-1)),
        ("/total/scheduled", json!(1.5)),
        ("/total/attainment", Value::Null),
        ("/total/measures/ttft_scheduled/histogram/0", json!([1.0])),
        ("/total/measures/ttft_scheduled/histogram/0", json!([1.0, 2, 3])),
        ("/tenants/chat", json!("fast")),
        ("/workload/tenants/chat/arrival/kind", json!("sometimes")),
        ("/workload/tenants/chat/surface", json!("telnet")),
        ("/cancel", json!([])),
        ("/verdict", json!({"objectives": []})),
        ("/verdict", json!({"objectives": [], "invalid": [], "surprise": true})),
    ] {
        let mut report = right.clone();
        *report.pointer_mut(place).unwrap() = wrong.clone();
        assert!(!problems_of_report(&report).is_empty(), "{place}: {wrong}");
    }
}

#[test]
fn what_was_written_can_be_read_again() {
    let report = serde_json::to_value(report_of_all_kinds()).unwrap();
    let again: Report = serde_json::from_value(report.clone()).unwrap();
    assert_eq!(serde_json::to_value(again).unwrap(), report);
    let sweep = serde_json::to_value(sweep_with_a_limit()).unwrap();
    let again: Sweep = serde_json::from_value(sweep.clone()).unwrap();
    assert_eq!(serde_json::to_value(again).unwrap(), sweep);
}
