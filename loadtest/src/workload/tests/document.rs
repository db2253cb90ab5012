//! `docs/workloads.md` says every key with its default, every kind, every shipped workload and every flag.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::arrival::ArrivalKeys;
use super::super::length::DistributionKeys;
use super::*;
use crate::measure::formula::MEASURES;
use crate::verdict::Metric;

const DOCUMENT: &str = include_str!("../../../../docs/workloads.md");

/// The text below a heading, up to the next one.
fn section(heading: &str) -> &'static str {
    let (_, below) = DOCUMENT.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    below.split_once("\n#").map_or(below, |(section, _)| section)
}

/// The rows of the section's table without its head, as cells.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let rows = section(heading).lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

fn unquoted(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).unwrap_or(cell)
}

/// A value as a workload file would write it; none where words say it better.
fn as_in_a_file(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("none".to_owned()),
        Value::Number(number) => number.as_f64().map(|number| number.to_string()),
        Value::Object(_) | Value::Array(_) => None,
        value => Some(value.to_string()),
    }
}

#[test]
fn the_document_has_every_key_with_its_default_and_no_other() {
    let of = |value: Result<Value, _>| value.unwrap();
    for (heading, defaults) in [
        ("### The workload", of(serde_json::to_value(Workload::default()))),
        ("### A tenant", of(serde_json::to_value(Tenant::default()))),
        ("### Leavers", of(serde_json::to_value(Leavers::default()))),
        ("### Slow readers", of(serde_json::to_value(SlowReaders::default()))),
        ("### Fairness", of(serde_json::to_value(Fairness::default()))),
        ("### Of a request", of(serde_json::to_value(RequestSlo::default()))),
        ("### Of the run", of(serde_json::to_value(Objectives::default()))),
    ] {
        let documented: BTreeMap<_, _> =
            table(heading).iter().map(|row| (unquoted(row[0]), unquoted(row[1]))).collect();
        let defaults = defaults.as_object().unwrap();
        let keys: BTreeSet<_> = defaults.keys().map(String::as_str).collect();
        assert_eq!(documented.keys().copied().collect::<BTreeSet<_>>(), keys, "{heading}");
        for (key, default) in defaults.iter().filter_map(|(key, value)| Some((key, as_in_a_file(value)?))) {
            assert_eq!(documented[&**key], default, "default of `{key}`");
        }
    }
}

/// The keys that a table of this type knows: serde lists them when it meets one that it does not know.
fn keys_of<T: DeserializeOwned>() -> BTreeSet<String> {
    let message = serde_json::from_str::<T>("{\"?\": 1}").err().unwrap().to_string();
    message.split('`').skip(3).step_by(2).filter(|key| *key != "kind").map(str::to_owned).collect()
}

/// The keys of a row with their defaults: "`rate` = `1`, `to`".
fn keys_in(cell: &'static str) -> Vec<(&'static str, Option<&'static str>)> {
    let key = |key: &'static str| match key.split_once(" = ") {
        Some((key, default)) => (unquoted(key), Some(unquoted(default))),
        None => (unquoted(key), None),
    };
    cell.split(", ").map(key).collect()
}

/// That a table of kinds has all keys, and that each default is what a file gets that leaves the key out.
fn assert_kinds<Keys: DeserializeOwned, T: DeserializeOwned + serde::Serialize>(
    heading: &str,
    needed: &[(&str, &str)],
) {
    let table = table(heading);
    let mut documented = BTreeSet::new();
    for row in &table {
        let keys = keys_in(row[1]);
        documented.extend(keys.iter().map(|(key, _)| (*key).to_owned()));
        let given = |with_defaults: bool| {
            let mut text = format!("kind = \"{}\"\n", unquoted(row[0]));
            for (key, default) in &keys {
                let sample = needed.iter().find(|(needed, _)| needed == key).map(|(_, sample)| *sample);
                match (default, sample) {
                    (Some(default), _) if with_defaults => text += &format!("{key} = {default}\n"),
                    (None, Some(sample)) => text += &format!("{key} = {sample}\n"),
                    _ => {}
                }
            }
            serde_json::to_value(toml::from_str::<T>(&text).unwrap_or_else(|error| panic!("{text}{error}"))).unwrap()
        };
        assert_eq!(given(true), given(false), "{}", row[0]);
    }
    assert_eq!(documented, keys_of::<Keys>(), "{heading}");
    let unknown = toml::from_str::<T>("kind = \"?\"").err().unwrap().to_string();
    let kinds: Vec<_> = table.iter().map(|row| row[0]).collect();
    assert!(unknown.contains(&format!("expected one of {}", kinds.join(", "))), "{unknown}");
}

#[test]
fn the_document_has_every_kind_of_arrival_and_length_with_its_keys_and_defaults() {
    let needed = [("to", "1.0"), ("rates", "[1.0]"), ("file", "\"f\"")];
    assert_kinds::<ArrivalKeys, Arrival>("## Arrivals", &needed);
    let needed = [("max", "9.0"), ("mean", "5.0"), ("deviation", "1.0"), ("median", "5.0"), ("sigma", "1.0")];
    assert_kinds::<DistributionKeys, Distribution>("## Lengths", &needed);
}

#[test]
fn the_document_has_every_shipped_workload_with_its_question() {
    let documented: BTreeSet<_> = table("## Those that come with the program")
        .iter()
        .map(|row| (unquoted(row[0]).to_owned(), row[1].to_owned()))
        .collect();
    let shipped: BTreeSet<_> = shipped().map(|(name, _)| (name.to_owned(), load(name).unwrap().question)).collect();
    assert_eq!(documented, shipped);
}

#[test]
fn the_document_has_every_measure_and_statistic_and_no_other() {
    let (_, list) = section("### Of the run").split_once("Measures: ").unwrap();
    let (measures, statistics) = list.split_once("distributions: ").unwrap();
    let quoted = |text: &'static str| text.split('`').skip(1).step_by(2).collect::<Vec<_>>();
    assert_eq!(BTreeSet::from_iter(quoted(measures)), BTreeSet::from_iter(MEASURES.iter().map(|measure| measure.key)));
    let all = Metric::parse("ttft.?").unwrap_err().hint();
    assert_eq!(all, format!("one of {}", quoted(statistics).join(", ")));
}

#[test]
fn the_document_has_every_surface_format_and_flag() {
    let surfaces = ["chat", "completions", "responses", "messages", "embeddings", "rerank"];
    let mut words: Vec<String> = surfaces.iter().map(|surface| format!("`{surface}`")).collect();
    words.extend(["jsonl", "mooncake", "azure", "burst_gpt"].map(|format| format!("| `{format}` |")));
    let flags = WorkloadFlags::augment_args(clap::Command::new("loadtest"));
    words.extend(flags.get_arguments().filter_map(|flag| flag.get_long()).map(|long| format!("`--{long}")));
    for word in words {
        assert!(DOCUMENT.contains(&word), "{word}");
    }
}

#[test]
fn the_documents_examples_are_workloads() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("AzureLLMInferenceTrace_conv.csv"), "").unwrap();
    let examples: Vec<_> = DOCUMENT.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() > 4);
    for example in examples {
        parse("example", example, folder.path()).unwrap();
    }
}

#[test]
fn the_documents_mistake_is_what_one_is_told() {
    let example = DOCUMENT.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let error = parse("two-teams.toml", &example.replace("rate = 0.5", "rat = 0.5"), Path::new("")).unwrap_err();
    assert!(DOCUMENT.contains(&error.to_string()), "{error}");
}
