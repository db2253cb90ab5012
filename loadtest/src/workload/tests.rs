//! Reading, checking and changing workloads.

mod document;
mod flags;
mod mistakes;

use std::path::Path;

use super::load::parse;
use super::*;

fn workload(text: &str) -> Workload {
    parse("w.toml", text, Path::new("")).unwrap()
}

#[test]
fn every_shipped_workload_loads_under_its_own_name_and_says_what_it_answers() {
    for (name, _) in shipped() {
        let workload = load(name).unwrap();
        assert_eq!(workload.name, name);
        assert!(workload.question.ends_with('?') && !workload.question.contains('\n'), "{name}: {}", workload.question);
        assert_ne!(workload.slo, Slo::default(), "{name} has objectives");
    }
}

#[test]
fn the_smoke_workload_is_over_after_ten_seconds() {
    let smoke = load("smoke").unwrap();
    assert!(smoke.duration + smoke.drain <= Duration::from_secs(10));
}

/// The most that a length of a shipped workload can be; each says so.
fn most(length: &Length) -> f64 {
    match length {
        Length::Fixed(number) => *number,
        Length::Drawn(Distribution::Uniform { max, .. }) => *max,
        Length::Drawn(Distribution::Normal { max, .. } | Distribution::Lognormal { max, .. }) => max.unwrap(),
        Length::Drawn(Distribution::Empirical { values, .. }) => values.iter().copied().fold(0.0, f64::max),
    }
}

#[test]
fn the_longest_conversation_of_a_shipped_workload_fits_into_the_context_that_it_says() {
    for (name, text) in shipped() {
        let context = if text.contains("4,096 tokens of context") { 4096.0 } else { 2048.0 };
        for tenant in load(name).unwrap().tenants.values() {
            // A chat template adds some tokens to each of two messages a turn.
            let turn = most(&tenant.prompt_tokens) + most(&tenant.output_tokens) + 16.0;
            let conversation = f64::from(tenant.prefix_tokens) + most(&tenant.turns) * turn;
            assert!(conversation <= context, "{name}: {conversation} tokens");
        }
    }
}

#[test]
fn a_workload_of_one_tenant_and_nothing_else_has_the_defaults() {
    let workload = workload("[tenants.chat]\n");
    let usual = Workload { tenants: BTreeMap::from([("chat".to_owned(), Tenant::default())]), ..Workload::default() };
    assert_eq!(serde_json::to_value(workload).unwrap(), serde_json::to_value(usual).unwrap());
}

#[test]
fn a_workload_in_a_report_is_read_back_as_it_was() {
    let everything = "
        [tenants.a]
        arrival = { kind = 'closed', users = 3, think_time = { kind = 'empirical', values = [1, 2], weights = [1, 3] } }
        prompt_tokens = { kind = 'lognormal', median = 100, sigma = 1 }
        output_tokens = { kind = 'normal', mean = 100, deviation = 10, min = 5, max = 400 }
        leavers = { share = 0.5, after_seconds = { kind = 'uniform', max = 2 }, after_tokens = 3 }
        slow_readers = { share = 0.5, pause = '250ms' }
        fields = { temperature = 0.5, stop = ['x'] }
        slo = { ttft = '1s' }
        [tenants.b]
        arrival = { kind = 'steps', rates = [1, 2], every = '1m 30s' }
        [slo.run.at_most]
        'a:ttft.p95' = '2s'";
    let before = workload(everything);
    let json = serde_json::to_string(&before).unwrap();
    let after: Workload = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&after).unwrap(), json);
    assert_eq!(after.tenants["a"].arrival, before.tenants["a"].arrival);
    assert_eq!(after.tenants["a"].prompt_tokens, before.tenants["a"].prompt_tokens);
}

#[test]
fn relative_paths_begin_where_the_workload_file_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("trace.jsonl"), "").unwrap();
    std::fs::write(folder.path().join("lengths.txt"), "5\n").unwrap();
    let file = folder.path().join("w.toml");
    let text = "
        [tenants.chat]
        key_file = 'chat.key'
        arrival = { kind = 'trace', file = 'trace.jsonl' }
        prompt_tokens = { kind = 'empirical', file = 'lengths.txt' }";
    std::fs::write(&file, text).unwrap();
    let chat = &load(file.to_str().unwrap()).unwrap().tenants["chat"];
    assert_eq!(chat.key_file, Some(folder.path().join("chat.key")));
    assert!(matches!(&chat.arrival, Arrival::Trace { file, .. } if *file == folder.path().join("trace.jsonl")));
    let lengths = Distribution::Empirical {
        values: Vec::new(),
        weights: Vec::new(),
        file: Some(folder.path().join("lengths.txt")),
    };
    assert_eq!(chat.prompt_tokens, Length::Drawn(lengths));
}

#[test]
fn at_another_load_rates_users_and_speeds_are_multiplied() {
    let text = "
        [tenants]
        closed.arrival = { kind = 'closed', users = 3 }
        poisson.arrival = { kind = 'poisson', rate = 2 }
        bursts.arrival = { kind = 'bursts', rate = 2 }
        ramp.arrival = { kind = 'ramp', from = 1, to = 3 }
        steps.arrival = { kind = 'steps', rates = [1, 4] }";
    let scaled = workload(text).scaled(0.5);
    let arrival = |name: &str| scaled.tenants[name].arrival.clone();
    let ten = Duration::from_secs(10);
    assert_eq!(arrival("closed"), Arrival::Closed { users: 2, think_time: Length::zero() });
    assert_eq!(arrival("poisson"), Arrival::Poisson { rate: 1.0 });
    assert_eq!(arrival("bursts"), Arrival::Bursts { rate: 1.0, on: ten, off: ten });
    assert_eq!(arrival("ramp"), Arrival::Ramp { from: 0.5, to: 1.5 });
    assert_eq!(arrival("steps"), Arrival::Steps { rates: vec![0.5, 2.0], every: Duration::from_secs(30) });
    let closed = &scaled.scaled(0.01).tenants["closed"].arrival;
    assert_eq!(*closed, Arrival::Closed { users: 1, think_time: Length::zero() }, "somebody remains");
}

#[test]
fn a_tenant_alone_is_held_to_its_own_objectives_and_those_of_all() {
    let text = "
        [tenants.a]
        [tenants.b]
        [fairness]
        victim = 'a'
        [slo.run]
        attainment = 0.9
        jain_index = 0.9
        victim_ratio = 2
        [slo.run.at_most]
        'a:ttft.p95' = '1s'
        'b:ttft.p95' = '1s'
        'tpot.p95' = '1s'";
    let only = workload(text).only("a");
    assert_eq!(only.tenants.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(only.slo.run.at_most.keys().collect::<Vec<_>>(), ["a:ttft.p95", "tpot.p95"]);
    assert_eq!(only.slo.run.attainment, Some(0.9));
    assert_eq!((only.slo.run.jain_index, only.slo.run.victim_ratio, only.fairness.victim), (None, None, None));
}

#[test]
fn a_file_of_objectives_takes_the_place_of_the_workloads_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slo.toml");
    std::fs::write(&file, "[request]\nttft = '1s'\n[run]\nattainment = 0.9\n").unwrap();
    let workload = workload("[tenants.chat]\n");
    let slo = load_slo(&file, &workload).unwrap();
    assert_eq!((slo.request.ttft, slo.run.attainment), (Some(Duration::from_secs(1)), Some(0.9)));

    std::fs::write(&file, "[run]\nattainment = 90\n").unwrap();
    let error = load_slo(&file, &workload).unwrap_err().to_string();
    assert_eq!(error, format!("{}:2: `run.attainment`: must be from 0 to 1\nhint: 0.05 is 5 %", file.display()));
    let error = load_slo(&folder.path().join("none.toml"), &workload).unwrap_err().to_string();
    assert!(error.contains("cannot be read") && error.contains("hint: "), "{error}");
}

#[test]
fn a_key_comes_from_the_tenants_file_then_its_variable_then_the_shared_one() {
    let variables = |name: &str| match name {
        "LOADTEST_KEY_BIG_CORP" => Some("own".to_owned()),
        "LOADTEST_KEY" => Some("shared".to_owned()),
        "ELSEWHERE" => Some(" other\n".to_owned()),
        _ => None,
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.key");
    std::fs::write(&file, "filed\n").unwrap();
    let of_file = Tenant { key_file: Some(file), ..Tenant::default() };
    let of_variable = Tenant { key_variable: Some("ELSEWHERE".to_owned()), ..Tenant::default() };
    assert_eq!(of_file.key("big-corp", variables).unwrap(), "filed");
    assert_eq!(of_variable.key("big-corp", variables).unwrap(), "other");
    assert_eq!(Tenant::default().key("big-corp", variables).unwrap(), "own");
    assert_eq!(Tenant::default().key("chat", variables).unwrap(), "shared");
}

#[test]
fn a_missing_or_unusable_key_is_told_without_showing_it() {
    let error = Tenant::default().key("big-corp", |_| None).unwrap_err().to_string();
    let hint = "hint: set LOADTEST_KEY_BIG_CORP or LOADTEST_KEY, or `key_file` in the workload";
    assert_eq!(error, format!("tenants.big-corp: no API key\n{hint}"));
    let error = Tenant::default().key("chat", |_| Some("two words".to_owned())).unwrap_err().to_string();
    assert!(error.contains("the API key from LOADTEST_KEY_CHAT is empty or has characters"), "{error}");
    assert!(!error.contains("two words"), "{error}");
    let nowhere = Tenant { key_file: Some("/nowhere/chat.key".into()), ..Tenant::default() };
    let error = nowhere.key("chat", |_| None).unwrap_err().to_string();
    assert!(error.starts_with("tenants.chat: the key file /nowhere/chat.key cannot be read"), "{error}");
}
