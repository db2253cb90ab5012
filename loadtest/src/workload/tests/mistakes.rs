//! What a user is told: mistakes that are likely, word for word.

use std::path::Path;

use super::super::load::{load, parse};

/// The message for a mistake in a file that is called `w.toml`.
fn told(text: &str) -> String {
    parse("w.toml", text, Path::new("")).expect_err(text).to_string()
}

#[test]
fn the_most_likely_mistakes_are_told_with_place_reason_and_hint() {
    for (text, expected) in [
        ("durration = '60s'\n[tenants.chat]\n", "w.toml:1: `durration`: unknown key\nhint: did you mean `duration`?"),
        (
            "[tenants.chat]\nprompt_token = 1\n",
            "w.toml:2: `tenants.chat.prompt_token`: unknown key\nhint: did you mean `prompt_tokens`?",
        ),
        (
            "[tenants.chat]\n\narrival = { kind = 'poisson', rat = 2 }\n",
            "w.toml:3: `tenants.chat.arrival.rat`: unknown key\nhint: did you mean `rate`?",
        ),
        (
            "[tenants.chat.arrival]\nkind = 'poison'\nrate = 2\n",
            "w.toml:2: `tenants.chat.arrival.kind`: `poison` is none of closed, constant, poisson, gamma, bursts, ramp, \
             steps, trace\nhint: did you mean `poisson`?",
        ),
        (
            "[tenants.chat]\narrival = { kind = 'poisson', rate = '2' }\n",
            "w.toml:2: `tenants.chat.arrival.rate`: invalid type: text \"2\", expected a number\n\
             hint: docs/workloads.md says what each key takes",
        ),
        (
            "[tenants.chat]\narrival = { kind = 'poisson', rate = 0 }\n",
            "w.toml:2: `tenants.chat.arrival.rate`: must be above 0\nhint: leave it out for the default",
        ),
        (
            "[tenants.chat]\narrival = { kind = 'poisson', users = 2 }\n",
            "w.toml:2: `tenants.chat.arrival`: this kind has no key `users`\n\
             hint: docs/workloads.md says what each key takes",
        ),
        (
            "[tenants.chat]\narrival = 'poisson'\n",
            "w.toml:2: `tenants.chat.arrival`: invalid type: text \"poisson\", expected a table with `kind`\n\
             hint: docs/workloads.md says what each key takes",
        ),
        (
            "duration = 60\n[tenants.chat]\n",
            "w.toml:1: `duration`: invalid type: integer `60`, expected a time with its unit, such as \"30s\"\n\
             hint: docs/workloads.md says what each key takes",
        ),
        (
            "[tenants.chat]\ntimeout = '60'\n",
            "w.toml:2: `tenants.chat.timeout`: \"60\" is no time: time unit needed, for example 60sec or 60ms\n\
             hint: docs/workloads.md says what each key takes",
        ),
        (
            "[tenants.chat]\nprompt_tokens = '128'\n",
            "w.toml:2: `tenants.chat.prompt_tokens`: invalid type: text \"128\", expected a number, or a table with \
             `kind`\nhint: docs/workloads.md says what each key takes",
        ),
        (
            "[tenants.chat]\nprompt_tokens = { kind = 'normal', mean = 100 }\n",
            "w.toml:2: `tenants.chat.prompt_tokens`: this kind needs `deviation`\n\
             hint: docs/workloads.md says what each key takes",
        ),
        (
            "[tenants.chat]\nstreamed = 50\n",
            "w.toml:2: `tenants.chat.streamed`: must be from 0 to 1\nhint: 0.05 is 5 %",
        ),
        ("[tenant.chat]\n", "w.toml:1: `tenant`: unknown key\nhint: did you mean `tenants`?"),
        (
            "[tenants.chat]\n[slo.run.at_most]\n'chatt:ttft.p95' = '2s'\n",
            "w.toml:3: `slo.run.at_most.\"chatt:ttft.p95\"`: there is no tenant `chatt`\nhint: did you mean `chat`?",
        ),
        (
            "name = 'a'\n\n[tenants.chat\n",
            "w.toml:3: unclosed table, expected `]`\n\
             hint: this is no TOML: texts stand in quotes, tables in [brackets]",
        ),
    ] {
        assert_eq!(told(text), expected);
    }
}

#[test]
fn every_value_that_cannot_be_used_is_refused_at_its_place() {
    let of_tenant = [
        ("weight = 0", "weight"),
        ("weight = inf", "weight"),
        ("class = ''", "class"),
        ("model = ''", "model"),
        ("key_variable = ''", "key_variable"),
        ("key_variable = 'sk-secret'", "key_variable"),
        ("key_file = 'a'\nkey_variable = 'A'", "key_file"),
        ("prompt_tokens = 0", "prompt_tokens"),
        ("prompt_tokens = 1.5", "prompt_tokens"),
        ("output_tokens = 2000000", "output_tokens"),
        ("turns = 0", "turns"),
        ("turn_pause = -1", "turn_pause"),
        ("prefix_tokens = 2000000", "prefix_tokens"),
        ("prefixes = 0", "prefixes"),
        ("streamed = -0.1", "streamed"),
        ("streamed = nan", "streamed"),
        ("timeout = '0s'", "timeout"),
        ("retries = 101", "retries"),
        ("surface = 'completions'\ntools = true", "tools"),
        ("surface = 'embeddings'\nprefix_tokens = 5", "prefix_tokens"),
        ("surface = 'rerank'\nturns = 2", "turns"),
        ("leavers = { share = 2 }", "leavers.share"),
        ("leavers = { share = 0.1 }", "leavers"),
        ("leavers = { share = 0.1, after_tokens = -1 }", "leavers.after_tokens"),
        ("slow_readers = { share = 0.1 }", "slow_readers.pause"),
        ("fields = { max_tokens = 5 }", "fields.max_tokens"),
        ("arrival = { kind = 'closed', users = 0 }", "arrival.users"),
        ("arrival = { kind = 'closed', think_time = -1 }", "arrival.think_time"),
        ("arrival = { kind = 'constant', rate = -1 }", "arrival.rate"),
        ("arrival = { kind = 'poisson', rate = inf }", "arrival.rate"),
        ("arrival = { kind = 'gamma', rate = 1, shape = 0 }", "arrival.shape"),
        ("arrival = { kind = 'bursts', rate = 1, on = '0s' }", "arrival.on"),
        ("arrival = { kind = 'bursts', rate = 1, off = '0s' }", "arrival.off"),
        ("arrival = { kind = 'ramp', from = 0, to = 0 }", "arrival"),
        ("arrival = { kind = 'ramp', from = -1, to = 0 }", "arrival.from"),
        ("arrival = { kind = 'steps', rates = [] }", "arrival.rates"),
        ("arrival = { kind = 'steps', rates = [1, nan] }", "arrival.rates"),
        ("arrival = { kind = 'steps', rates = [1], every = '0s' }", "arrival.every"),
        ("arrival = { kind = 'trace', file = '/nowhere.jsonl' }", "arrival.file"),
        ("arrival = { kind = 'trace', file = '/nowhere.jsonl', speed = 0 }", "arrival.speed"),
        ("prompt_tokens = { kind = 'uniform', min = 5, max = 4 }", "prompt_tokens.max"),
        ("prompt_tokens = { kind = 'normal', mean = 5, deviation = -1 }", "prompt_tokens.deviation"),
        ("prompt_tokens = { kind = 'lognormal', median = 0, sigma = 1 }", "prompt_tokens.median"),
        ("prompt_tokens = { kind = 'lognormal', median = 5, sigma = 11 }", "prompt_tokens.sigma"),
        ("prompt_tokens = { kind = 'empirical' }", "prompt_tokens"),
        ("prompt_tokens = { kind = 'empirical', values = [1], weights = [1, 2] }", "prompt_tokens.weights"),
        ("prompt_tokens = { kind = 'empirical', values = [1], weights = [0] }", "prompt_tokens.weights"),
        ("prompt_tokens = { kind = 'empirical', file = '/nowhere' }", "prompt_tokens.file"),
    ];
    for (line, key) in of_tenant {
        let told = told(&format!("[tenants.chat]\n{line}\n"));
        assert!(told.contains(&format!(" `tenants.chat.{key}`: ")), "{line}\n{told}");
        assert!(told.contains("\nhint: "), "{told}");
        assert!(!told.contains("secret"), "a key that was written in the wrong place is not shown");
    }
}

#[test]
fn what_the_whole_workload_cannot_be_is_refused_at_its_place() {
    let many: String = (0..1001).map(|at| format!("[tenants.t{at}]\n")).collect();
    for (text, key) in [
        ("[tenants]\n", "tenants"),
        (&*many, "tenants"),
        ("name = ''\n[tenants.a]\n", "name"),
        ("name = '../a'\n[tenants.a]\n", "name"),
        ("model = ''\n[tenants.a]\n", "model"),
        ("duration = '0s'\n[tenants.a]\n", "duration"),
        ("duration = '31days'\n[tenants.a]\n", "duration"),
        ("warm_up = '60s'\n[tenants.a]\n", "warm_up"),
        ("drain = '31days'\n[tenants.a]\n", "drain"),
        ("max_in_flight = 0\n[tenants.a]\n", "max_in_flight"),
        ("max_dispatch_lag = '0s'\n[tenants.a]\n", "max_dispatch_lag"),
        ("[tenants.'a/b']\n", "tenants.\"a/b\""),
        ("[tenants.'']\n", "tenants.\"\""),
        ("[tenants.all]\n", "tenants.all"),
        ("[tenants.a]\n[tenants.b]\n[fairness]\ncached_cost = 2\n", "fairness.cached_cost"),
        ("[tenants.a]\n[tenants.b]\n[fairness]\noutput_cost = -1\n", "fairness.output_cost"),
        ("[tenants.a]\n[fairness]\nvictim = 'a'\n", "fairness.victim"),
        ("[tenants.a]\n[tenants.b]\n[fairness]\nvictim = 'c'\n", "fairness.victim"),
        ("[tenants.a]\n[tenants.b]\n[fairness]\nvictim = 'a'\nbaseline = '0s'\n", "fairness.baseline"),
        ("[tenants.a]\n[slo.run]\nerror_rate = 5\n", "slo.run.error_rate"),
        ("[tenants.a]\n[slo.run]\nvictim_ratio = 2\n", "slo.run.victim_ratio"),
        ("[tenants.a]\n[slo.run.at_most]\nttft = '2s'\n", "slo.run.at_most.ttft"),
        ("[tenants.a]\n[slo.run.at_most]\n'ttft.p97' = '2s'\n", "slo.run.at_most.\"ttft.p97\""),
        ("[tenants.a]\n[slo.run.at_most]\n'ttfs.p95' = '2s'\n", "slo.run.at_most.\"ttfs.p95\""),
        ("[tenants.a]\n[slo.run.at_most]\n'ttft.p95' = '2'\n", "slo.run.at_most.\"ttft.p95\""),
    ] {
        let told = told(text);
        assert!(told.contains(&format!(" `{key}`: ")), "{text}\n{told}");
        assert!(told.contains("\nhint: "), "{told}");
    }
}

#[test]
fn a_workload_that_is_not_there_is_told_with_those_that_are() {
    let told = load("smok").unwrap_err().to_string();
    assert!(
        told.starts_with("smok: there is no shipped workload of this name, and no file that can be read"),
        "{told}"
    );
    assert!(told.contains("three-tenants; did you mean `smoke`?"), "{told}");
    let told = load("nowhere/w.toml").unwrap_err().to_string();
    assert!(told.ends_with("hint: give the path of a TOML file (docs/workloads.md)"), "{told}");
}
