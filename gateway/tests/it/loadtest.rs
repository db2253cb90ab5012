//! The load test as its users run it: its binary, a real llama-server, the real gateway between them, nginx beside it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::engine::{Engine, Options};
use crate::harness::gateway::Gateway;
use crate::harness::loadtest::{self, Simulator};
use crate::harness::process::{signal, spawn};
use crate::harness::{eventually, eventually_true};

/// The weights that the shipped workload of three tenants expects.
const WEIGHTS: &str = r#"
[policies.four]
weight = 4
[policies.two]
weight = 2
[tenants.gold]
policy = "four"
[tenants.silver]
policy = "two"
"#;

/// The tests share two cores with all others: the harness may be late here.
const LATE: [&str; 2] = ["--max-dispatch-lag", "5s"];

/// Runs `loadtest run` with further arguments; its results are in the directory.
fn run(target: &str, results: &TempDir, args: &[&str], keys: &[(&str, &str)]) -> Output {
    let out = results.path().join("out");
    let common = ["run", "--target", target, "--out", out.to_str().unwrap(), "--quiet"];
    loadtest::run(&[&common, &LATE[..], args].concat(), keys)
}

fn report(results: &TempDir) -> Value {
    json(&results.path().join("out/report.json"))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asserts the exit code and gives all that was printed.
fn exited(output: &Output, code: i32) -> String {
    let words = words(output);
    assert_eq!(output.status.code(), Some(code), "{words}");
    words
}

#[test]
fn three_tenants_at_a_real_llama_server_end_with_report_audit_and_verdict() {
    let engine = Engine::start(Options::tiny());
    let gateway = Gateway::with_config(&engine.url(), WEIGHTS);
    let [gold, silver, bronze] = ["gold", "silver", "bronze"].map(|tenant| gateway.create_key(tenant));
    let keys = [("LOADTEST_KEY_GOLD", &*gold), ("LOADTEST_KEY_SILVER", &*silver), ("LOADTEST_KEY_BRONZE", &*bronze)];
    let results = tempfile::tempdir().unwrap();
    let slo = results.path().join("slo.toml");
    // Equal shares for all three would be an index of 0.78.
    std::fs::write(&slo, "[run]\nerror_rate = 0.0\njain_index = 0.95\naudit = true\n").unwrap();
    let args = ["three-tenants", "--duration", "8s", "--warm-up", "1s", "--model", "test-model", "--upstream"];
    let (upstream, target) = (engine.url(), format!("http://{}", gateway.address));
    let args = [&args[..], &[&upstream, "--slo", slo.to_str().unwrap(), "--cancel-trials", "3"]].concat();
    let printed = exited(&run(&target, &results, &args, &keys), 0);
    println!("{printed}");

    let report = report(&results);
    assert_eq!(report["target"]["slots"], 4);
    assert_eq!(report["target"]["exact_prompts"], true);
    let scheduled = report["total"]["scheduled"].as_u64().unwrap();
    assert!(scheduled > 50 && report["total"]["tokens"]["completion"].as_u64().unwrap() > 1000, "{printed}");
    assert!(report["total"]["measures"]["queue_wait"]["count"].as_u64().unwrap() > 50, "as the gateway tells");
    assert!(report["total"]["endings"]["left"].as_u64().unwrap() > 0, "some of bronze leave");
    let audit = report["audit"]["lines"].as_array().unwrap();
    let of = |name: &str| audit.iter().filter(|line| line["of"] == name && line["ledger"].is_u64()).count();
    assert!(["gold", "silver", "bronze", "all"].into_iter().all(|name| of(name) >= 3), "{audit:?}");
    assert!(audit.iter().any(|line| line["of"] == "all" && line["engine"].is_u64()), "{audit:?}");
    assert_eq!(report["audit"]["agrees"], true, "{audit:?}");
    let service = &report["fairness"]["service"];
    let weighted = |tenant: &str| {
        service[tenant]["cost_while_all_waited"].as_f64().unwrap() / service[tenant]["weight"].as_f64().unwrap()
    };
    assert!(weighted("gold") > 0.0 && weighted("bronze") > 0.0, "{service}");
    assert_eq!(report["cancel"]["count"], 3);

    let text = |name: &str| std::fs::read_to_string(results.path().join("out").join(name)).unwrap();
    let rows = text("requests.csv").lines().count() as u64;
    assert!(rows > scheduled, "a row for each request, warm-up included: {rows} for {scheduled}");
    assert!(text("junit.xml").contains("<testcase") && !text("junit.xml").contains("<failure"));
    assert!(text("report.html").contains("<svg") && text("report.html").contains("bronze"));
    for key in keys.map(|(_, key)| key) {
        let secret = key.split('-').next_back().unwrap();
        for name in ["report.json", "requests.csv", "report.html", "junit.xml"] {
            assert!(!text(name).contains(secret) && !printed.contains(secret), "a key is in {name}");
        }
    }
}

#[test]
fn a_key_that_is_refused_ends_the_test_before_it_began() {
    let engine = Engine::start(Options::tiny());
    let gateway = Gateway::start(&engine.url());
    let results = tempfile::tempdir().unwrap();
    let wrong = [("LOADTEST_KEY", "sk-wrong-key")];
    let target = format!("http://{}", gateway.address);
    let printed = exited(&run(&target, &results, &["smoke"], &wrong), 2);
    assert!(printed.contains("is refused") && printed.contains("hint:") && !printed.contains("sk-wrong"), "{printed}");
    let without = exited(&run(&target, &results, &["smoke"], &[]), 2);
    assert!(without.contains("LOADTEST_KEY"), "{without}");
    assert!(!results.path().join("out").exists(), "nothing was measured, and nothing is left");
}

#[test]
fn a_key_that_is_revoked_in_the_middle_ends_the_run_and_keeps_what_was_measured() {
    let engine = Engine::start(Options::tiny());
    let gateway = Gateway::start(&engine.url());
    let key = gateway.create_key("acme");
    let results = tempfile::tempdir().unwrap();
    let target = format!("http://{}", gateway.address);
    let out = results.path().join("out");
    let mut command = Command::new(loadtest::binary());
    command.args(["run", "--users", "2", "--duration", "60s", "--model", "test-model", "--target", &target, "--quiet"]);
    command.arg("--out").arg(&out).env("LOADTEST_KEY", &key).stdout(Stdio::null());
    let mut child = spawn(command);
    eventually_true("requests are answered", || gateway.metric("llama_gateway_requests_total") > 10.0);
    let listed: Value = serde_json::from_str(&gateway.command(&["keys", "list", "--json"])).unwrap();
    let ids = listed.as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned());
    for id in ids {
        gateway.command(&["keys", "revoke", &id]);
    }
    let status = eventually("the run ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(2));
    let report = report(&results);
    let reasons = report["verdict"]["invalid"].to_string();
    assert!(reasons.contains("refused 20 times"), "{reasons}");
    assert!(report["total"]["endings"]["complete"].as_u64().unwrap() > 0, "what was measured is kept");
}

#[test]
fn ctrl_c_ends_a_run_and_keeps_what_was_measured() {
    let simulator = Simulator::start(&["--profile", "fast"]);
    let results = tempfile::tempdir().unwrap();
    let out = results.path().join("out");
    let mut command = Command::new(loadtest::binary());
    let target = simulator.url();
    command.args([
        "run",
        "--users",
        "2",
        "--duration",
        "60s",
        "--no-key",
        "--target",
        &target,
        "--quiet",
        "--no-audit",
    ]);
    command.arg("--out").arg(&out).stdout(Stdio::null());
    let mut child = spawn(command);
    let rows = || std::fs::read_to_string(out.join("requests.csv")).map_or(0, |text| text.lines().count());
    eventually_true("rows are written", || rows() > 5);
    signal(child.id(), "INT");
    let status = eventually("the run ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(2));
    let reasons = report(&results)["verdict"]["invalid"].to_string();
    assert!(reasons.contains("it was stopped"), "{reasons}");
}

#[test]
fn an_objective_that_is_missed_gives_exit_code_1_and_a_failure_in_junit() {
    let simulator = Simulator::start(&["--profile", "fast", "--fault", "status-500@3"]);
    let results = tempfile::tempdir().unwrap();
    let printed = exited(&run(&simulator.url(), &results, &["smoke", "--no-key", "--no-audit"], &[]), 1);
    assert!(printed.contains("MISSED") || printed.contains("missed"), "{printed}");
    let junit = std::fs::read_to_string(results.path().join("out/junit.xml")).unwrap();
    assert!(junit.contains("<failure"), "{junit}");
    let endings = &report(&results)["total"]["endings"];
    assert_eq!(endings["complete"].as_u64().unwrap(), 20, "{endings}");
}

#[test]
fn the_limit_of_a_simulated_server_is_found_where_it_is() {
    // Two slots, a request takes 20 steps of 10 ms and next to nothing for its prompt: 9.9 requests a second.
    let simulator = Simulator::start(&["--profile", "fast", "--slots", "2"]);
    let results = tempfile::tempdir().unwrap();
    let workload = results.path().join("limit.toml");
    let toml = r#"
        duration = "5s"
        [tenants.only]
        arrival = { kind = "constant", rate = 8.0 }
        prompt_tokens = 10
        output_tokens = 20
        [slo.request]
        ttft_scheduled = "300ms"
        [slo.run]
        attainment = 0.9
    "#;
    std::fs::write(&workload, toml).unwrap();
    let out = results.path().join("out");
    let (out, target) = (out.to_str().unwrap(), simulator.url());
    let args = ["find-limit", workload.to_str().unwrap(), "--no-key", "--target", &target, "--from", "1", "--to", "4"];
    let more = ["--out", out, "--quiet", "--resolution", "0.6", "--runs", "2"];
    let printed = exited(&loadtest::run(&[&args[..], &more, &LATE].concat(), &[]), 0);
    let sweep = json(&results.path().join("out/sweep.json"));
    let limit = sweep["limit"]["load"].as_f64().unwrap();
    // Up to 9.9 a second nobody waits, so 8 are met. At 16 the queue grows by 6 a second, at 12 by 2, and most miss 300 ms.
    assert!((1.0..1.75).contains(&limit), "{limit}: {printed}");
    assert!(results.path().join("out/run-01.json").is_file() && results.path().join("out/sweep.html").is_file());
}

#[test]
fn a_slower_server_is_found_to_be_worse_and_the_faster_one_is_not() {
    // Twice as slow: more than what a busy machine adds to one run and not to the other.
    let results = ["10", "20"].map(|decode| (decode, tempfile::tempdir().unwrap()));
    for (decode, results) in &results {
        let simulator = Simulator::start(&["--profile", "fast", "--decode-ms", decode]);
        let args = ["--users", "4", "--duration", "5s", "--output-tokens", "10", "--prompt-tokens", "20", "--no-key"];
        exited(&run(&simulator.url(), results, &[&args[..], &["--no-audit"]].concat(), &[]), 0);
    }
    let [faster, slower] = results.each_ref().map(|(_, results)| results.path().join("out/report.json"));
    let compare = |a: &Path, b: &Path| loadtest::run(&["compare", a.to_str().unwrap(), b.to_str().unwrap()], &[]);
    let line = |text: &str, name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let said = exited(&compare(&faster, &slower), 1);
    assert!(line(&said, "tpot.p50").contains("worse"), "{said}");
    // Of the 99th percentiles chance decides on a busy machine, so of this one the exit code does not matter.
    let said = words(&compare(&slower, &faster));
    assert!(line(&said, "tpot.p50").contains("better"), "{said}");
    exited(&compare(&faster, &faster), 0);
}

#[test]
fn what_nginx_and_the_gateway_add_is_measured_in_one_command() {
    let engine = Engine::start(Options::tiny());
    let results = tempfile::tempdir().unwrap();
    let (out, upstream) = (results.path().join("out"), engine.url());
    let args = ["beside", "--users", "4", "--duration", "2s", "--output-tokens", "50", "--model", "test-model"];
    let more = ["--rounds", "1", "--streams", "8", "--cancel-trials", "2", "--quiet", "--gateway"];
    let places = [env!("CARGO_BIN_EXE_llama-gateway"), "--upstream", &upstream, "--out", out.to_str().unwrap()];
    let printed = exited(&loadtest::run(&[&args[..], &more, &places, &LATE].concat(), &[]), 0);
    println!("{printed}");
    let rows = json(&out.join("beside.json"))["rows"].clone();
    let row = |name: &str| rows.as_array().unwrap().iter().find(|row| row["name"] == name).cloned().unwrap_or_default();
    for name in ["ttft_p50", "itl_p50", "cpu_per_1000_requests", "memory_per_stream", "cancel_p50"] {
        let row = row(name);
        assert!(row["gateway"]["median"].is_f64() && row["nginx"]["median"].is_f64(), "{name}: {row} of {rows}");
    }
}
