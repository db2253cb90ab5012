use super::*;
use crate::stub::Stub;
use crate::target::tests::somebody;

async fn options(nginx: &str) -> (Options, Stub) {
    let (stub, upstream) = somebody().await;
    let options = Options {
        upstream,
        gateway: PathBuf::from("/no/such/gateway"),
        nginx: Some(PathBuf::from(nginx)),
        rounds: 1,
        streams: 1,
        cancel_trials: 1,
    };
    (options, stub)
}

#[test]
fn every_way_is_first_second_and_last_in_three_rounds() {
    for place in 0..3 {
        let at_place: std::collections::BTreeSet<_> = (0..3).map(|round| order(round)[place]).collect();
        assert_eq!(at_place.len(), 3, "place {place}");
    }
    assert_eq!(order(3), order(0));
}

#[tokio::test]
async fn nothing_is_run_when_a_program_is_missing() {
    let (options, _stub) = options("/no/such/nginx").await;
    let run = async |_| panic!("it ran");
    let error = measure(&options, &Workload::default(), &CancellationToken::new(), run).await.unwrap_err();
    assert!(error.to_string().contains("\nhint: "), "{error:#}");
}

#[tokio::test]
async fn a_run_that_fails_names_its_round_and_its_way() {
    let (mut options, _stub) = options("/bin/true").await;
    options.gateway = PathBuf::from("/bin/true");
    let run = async |way: Way| {
        assert_eq!((way.workload.warm_up, way.workload.seed), (Duration::ZERO, 7));
        anyhow::bail!("the server is gone")
    };
    let workload = Workload { seed: 7, warm_up: Duration::from_secs(1), ..Workload::default() };
    let error = measure(&options, &workload, &CancellationToken::new(), run).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "round 1, direct: the server is gone");
}

#[tokio::test]
async fn what_was_measured_before_a_failure_is_kept_and_called_no_measurement() {
    let (mut options, _stub) = options("/bin/true").await;
    (options.gateway, options.cancel_trials) = (PathBuf::from("/bin/true"), 0);
    let run = async |_| {
        let mut report = crate::report::sample::report();
        let ttft = report.total.measures["ttft_scheduled"].clone();
        report.total.measures.insert("ttft".to_owned(), ttft);
        Ok(report)
    };
    // Directly all is well; /bin/true is no nginx.
    let found = measure(&options, &Workload::default(), &CancellationToken::new(), run).await.unwrap();
    assert!(found.rows.iter().any(|row| row.name == "ttft_p50" && row.direct.is_some()), "{:?}", found.rows);
    let why = found.broken_off.clone().unwrap();
    assert!(why.starts_with("round 1, nginx: "), "{why}");
    assert_eq!(found.exit_code(), 2);
}

#[tokio::test]
async fn a_run_can_be_broken_off() {
    let (mut options, _stub) = options("/bin/true").await;
    options.gateway = PathBuf::from("/bin/true");
    let stop = CancellationToken::new();
    let run = async |_| {
        stop.cancel();
        std::future::pending().await
    };
    let error = measure(&options, &Workload::default(), &stop, run).await.unwrap_err();
    assert_eq!(error.to_string(), "broken off");
}
