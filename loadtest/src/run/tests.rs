//! Runs against the simulated llama-server, whose times are known: what is measured is what was simulated, within 2 %.
//! Over real connections and in stepped time, since a busy machine is late by more.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::report::Summary;
use crate::sim::{self, Profile};
use crate::stepped_time::in_steps;
use crate::workload::{Arrival, Length, RequestSlo, Surface, Tenant};

const PROMPT_TOKENS: u32 = 200;
const OUTPUT_TOKENS: u32 = 20;

/// One slot. A request of ours takes 200 / 1000 + 20 x 0.02 = 0.6 s, its first token 0.22 s of them.
fn profile() -> Profile {
    Profile {
        slots: 1,
        prefill_rate: 1000.0,
        decode: Duration::from_millis(20),
        host_cache: 0,
        ..Profile::shipped("fast").unwrap()
    }
}

fn workload(arrival: Arrival, requests: u64) -> Workload {
    let tenant = Tenant {
        surface: Surface::Completions,
        arrival,
        prompt_tokens: Length::Fixed(f64::from(PROMPT_TOKENS)),
        output_tokens: Length::Fixed(f64::from(OUTPUT_TOKENS)),
        ..Tenant::default()
    };
    let tenants = BTreeMap::from([("only".to_owned(), tenant)]);
    Workload { requests, tenants, model: "fast".to_owned(), ..Workload::default() }
}

/// Runs a workload against a simulator.
async fn run(profile: Profile, fault: Option<&str>, workload: &Workload) -> Report {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let mut serving = JoinSet::new();
    let fault = fault.map(|fault| fault.parse().unwrap());
    serving.spawn(sim::serve(listener, sim::Options { fault, ..sim::Options::new(profile) }, stop.clone()));
    let upstreams = vec![url.clone()];
    let settings = Settings { target: url, upstreams, keys: KeyFrom::Nobody, audit: true, ..Settings::default() };
    let bench = Bench::prepare(workload, settings).await.unwrap();
    let report = in_steps(bench.run(workload, &mut Watch::new(true), &stop)).await.unwrap();
    stop.cancel();
    report
}

fn assert_near(what: &str, measured: f64, expected: f64) {
    let off = (measured / expected - 1.0).abs();
    assert!(off < 0.02, "{what}: {measured:.2} measured, {expected:.2} expected, {:.1} % off", off * 100.0);
}

fn median(summary: &Summary, measure: &str) -> f64 {
    summary.measures.get(measure).unwrap_or_else(|| panic!("{measure} was not measured")).p50
}

#[tokio::test]
async fn every_measure_of_a_user_alone_is_within_two_per_cent_of_what_was_simulated() {
    let workload = workload(Arrival::Closed { users: 1, think_time: Length::zero() }, 12);
    let report = run(profile(), None, &workload).await;
    let expected = profile().expected(Duration::ZERO, PROMPT_TOKENS as usize, OUTPUT_TOKENS, 1);
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let (first, gap, end) = (ms(expected.first_token), ms(expected.gap), ms(expected.end));
    for (measure, expected) in [
        ("ttft", first),
        ("ttft_scheduled", first),
        ("ttfot", first),
        ("ttfot_scheduled", first),
        ("tpot", gap),
        ("ntpot", end / f64::from(OUTPUT_TOKENS)),
        ("e2e", end),
        ("e2e_scheduled", end),
    ] {
        assert_near(measure, median(&report.total, measure), expected);
    }
    assert_near("itl", report.total.measures["itl"].mean, gap);
    let rates = &report.total.rates;
    assert_near("completed", rates.completed, 1e3 / end);
    assert_near("completion tokens a second", rates.completion_tokens, f64::from(OUTPUT_TOKENS) * 1e3 / end);
    assert_near("prompt tokens a second", rates.prompt_tokens, f64::from(PROMPT_TOKENS) * 1e3 / end);
    assert!(report.audit.unwrap().agrees);
}

#[tokio::test]
async fn waiting_for_the_slot_and_missing_the_objective_are_within_two_per_cent_of_what_was_simulated() {
    // One comes every 0.5 s and takes 0.6 s: the n-th, from 0, waits n x 0.1 s and has its first token 0.22 s later.
    let mut workload = workload(Arrival::Constant { rate: 2.0 }, 0);
    workload.duration = Duration::from_secs(10);
    let bound = Duration::from_millis(1170);
    workload.slo.request = RequestSlo { ttft_scheduled: Some(bound), ..RequestSlo::default() };
    let report = run(profile(), None, &workload).await;
    let total = &report.total;
    assert_eq!(total.scheduled, 20);
    let first: Vec<f64> = (0..20).map(|number| f64::from(number) * 100.0 + 220.0).collect();
    for measure in ["ttft", "ttft_scheduled"] {
        let measured = &total.measures[measure];
        assert_near(measure, measured.mean, first.iter().sum::<f64>() / 20.0);
        assert_near(measure, measured.p50, first[9]);
        assert_near(measure, measured.p90, first[17]);
        assert_near(measure, measured.max, first[19]);
    }
    assert_eq!(total.good, 10, "those with a first token after 0.22, 0.32 ... 1.12 s");
    assert_near("attainment", total.attainment, 0.5);
    // All are over 20 x 0.6 s after the first one came.
    assert_near("goodput", total.rates.goodput, 10.0 / (20.0 * 0.6));
    assert_near("offered", total.rates.offered, 2.0);
}

#[tokio::test]
async fn a_server_that_lies_about_its_tokens_makes_the_run_no_measurement_and_the_report_is_kept() {
    let workload = workload(Arrival::Closed { users: 1, think_time: Length::zero() }, 3);
    let report = run(Profile::shipped("fast").unwrap(), Some("usage-too-few"), &workload).await;
    assert_eq!(report.verdict.exit_code(), 2);
    assert!(report.verdict.invalid[0].contains("contradict"), "{:?}", report.verdict.invalid);
    assert_eq!(report.total.scheduled, 3);
}
