//! The workload by flags.

use clap::Parser;

use super::*;

#[derive(Parser, Debug)]
struct Line {
    #[command(flatten)]
    workload: WorkloadFlags,
}

fn line(words: &str) -> Result<Line, clap::Error> {
    Line::try_parse_from(std::iter::once("loadtest").chain(words.split_whitespace()))
}

fn by_flags(words: &str) -> Workload {
    line(words).unwrap().workload.workload().unwrap()
}

#[test]
fn the_simple_case_is_one_tenant_whose_requests_are_all_alike() {
    let workload = by_flags(
        "--rate 2.5 --prompt-tokens 300 --output-tokens 20 --surface messages --streamed 0 --timeout 5s --retries 2 \
         --duration 10s --requests 7 --warm-up 1s --model m --seed 9",
    );
    let tenant = &workload.tenants["simple"];
    assert_eq!(tenant.arrival, Arrival::Poisson { rate: 2.5 });
    assert_eq!((&tenant.prompt_tokens, &tenant.output_tokens), (&Length::Fixed(300.0), &Length::Fixed(20.0)));
    assert_eq!((tenant.surface, tenant.streamed, tenant.retries), (Surface::Messages, 0.0, 2));
    assert_eq!(tenant.timeout, Duration::from_secs(5));
    assert_eq!((workload.duration, workload.warm_up), (Duration::from_secs(10), Duration::from_secs(1)));
    assert_eq!((workload.requests, &*workload.model, workload.seed), (7, "m", 9));
    let users = &by_flags("--users 4").tenants["simple"].arrival;
    assert_eq!(*users, Arrival::Closed { users: 4, think_time: Length::zero() });
}

#[test]
fn flags_take_the_place_of_a_workloads_values() {
    let own = load("chat").unwrap();
    let workload =
        by_flags("chat --duration 20s --warm-up 2s --requests 3 --seed 5 --model other --max-dispatch-lag 1s");
    assert_eq!((workload.duration, workload.warm_up), (Duration::from_secs(20), Duration::from_secs(2)));
    assert_eq!((workload.requests, workload.seed, &*workload.model), (3, 5, "other"));
    assert_eq!(workload.max_dispatch_lag, Duration::from_secs(1));
    assert_eq!(workload.tenants["people"].arrival, own.tenants["people"].arrival);
    assert_eq!(workload.slo, own.slo);
}

#[test]
fn objectives_by_flag_take_the_place_of_the_workloads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slo.toml");
    std::fs::write(&file, "[run]\nerror_rate = 0.5\n").unwrap();
    let slo = by_flags(&format!("smoke --slo {}", file.display())).slo;
    assert_eq!((slo.run.error_rate, slo.run.audit), (Some(0.5), None));
}

#[test]
fn an_objective_by_flag_is_added_to_the_others() {
    let workload = by_flags(
        "chat --objective request.tpot=80ms --objective ttft_scheduled.p95=2s --objective people:itl.p99=1s \
         --objective run.error_rate=0.5 --objective run.service_gap_within_bound=true --objective run.attainment=1",
    );
    let (slo, own) = (workload.slo, load("chat").unwrap().slo);
    assert_eq!(slo.request.tpot, Some(Duration::from_millis(80)));
    assert_eq!(slo.request.ttft_scheduled, own.request.ttft_scheduled, "the workload's own stay");
    assert_eq!(
        (slo.run.error_rate, slo.run.attainment, slo.run.service_gap_within_bound),
        (Some(0.5), Some(1.0), true)
    );
    let at_most = [("people:itl.p99", "1s"), ("ttft_scheduled.p95", "2s")];
    assert!(slo.run.at_most.iter().map(|(name, most)| (&**name, &**most)).eq(at_most));
}

#[test]
fn an_objective_by_flag_that_makes_no_sense_is_refused() {
    for (words, said) in [
        ("run.error_rate", "no `=`"),
        ("run.eror_rate=1", "did you mean `error_rate`?"),
        ("run.error_rate=2", "must be from 0 to 1"),
        ("request.ttft=soon", "request.ttft"),
        ("tftt.p95=2s", "run.at_most"),
        ("ttft.p95=2", "run.at_most"),
        ("nobody:ttft.p95=2s", "there is no tenant `nobody`"),
        ("run.at_most=5", "run.at_most"),
        ("run.victim_ratio=5", "there is no victim"),
    ] {
        let told = line(&format!("chat --objective {words}")).unwrap().workload.workload().unwrap_err().to_string();
        assert!(told.starts_with("command line: ") && told.contains(said), "{words}: {told}");
        assert!(told.contains("\nhint: "), "{told}");
    }
}

#[test]
fn what_is_sent_is_said_once() {
    for words in ["", "smoke --users 2", "--users 2 --rate 1", "smoke --prompt-tokens 5", "smoke --timeout 5s"] {
        assert!(line(words).is_err(), "{words}");
    }
    assert!(line("--users 1 --surface chats").unwrap_err().to_string().contains("expected one of `chat`"));
}

#[test]
fn a_flags_value_that_cannot_be_used_is_refused() {
    let error = line("--rate 0").unwrap().workload.workload().unwrap_err().to_string();
    assert!(error.starts_with("command line: `tenants.simple.arrival.rate`: must be above 0"), "{error}");
    // The warm-up is the file's, the duration the flag's.
    let error = line("chat --duration 10s").unwrap().workload.workload().unwrap_err().to_string();
    assert!(error.starts_with("command line: `warm_up`: must be shorter than `duration`"), "{error}");
}
