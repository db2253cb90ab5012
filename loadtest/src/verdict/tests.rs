//! Verdicts about the sample report, with one thing changed at a time.

use proptest::prelude::*;

use super::*;
use crate::report::sample;

fn verdict(change: impl FnOnce(&mut Report)) -> Verdict {
    let mut report = sample::report();
    change(&mut report);
    judge(&report, &Doubts::default())
}

fn objective(verdict: &Verdict, name: &str) -> Objective {
    verdict.objectives.iter().find(|objective| objective.name == name).unwrap().clone()
}

/// Whether the objective is met after the change, and what was measured.
fn measured(name: &str, change: impl FnOnce(&mut Report)) -> (bool, String) {
    let objective = objective(&verdict(change), name);
    (objective.met, objective.measured)
}

fn invalid(change: impl FnOnce(&mut Report)) -> String {
    let verdict = verdict(change);
    assert_eq!((verdict.invalid.len(), verdict.exit_code()), (1, 2), "{:?}", verdict.invalid);
    verdict.invalid[0].clone()
}

#[test]
fn all_objectives_of_the_sample_are_met_and_say_so_in_words() {
    let verdict = verdict(|_| ());
    assert_eq!(verdict.exit_code(), 0, "{verdict:?}");
    let lines: Vec<_> = verdict
        .objectives
        .iter()
        .map(|objective| format!("{}: {}; {}", objective.name, objective.wanted, objective.measured))
        .collect();
    assert_eq!(
        lines,
        [
            "attainment: at least 80 % of all scheduled requests good; 86.735 % (85 of 98)",
            "error_rate: at most 10 % of all scheduled requests failed; 8 % (8 of 100)",
            "ttft_scheduled.p95 of chat: at most 2 s; 186 ms",
            "jain_index: at least 0.9; 0.9800",
            "service_gap_within_bound: no gap of service above the scheduler's bound; between chat and flood 300, where \
             the bound is 900",
            "victim_ratio: at most 2 times the first-token time that it has alone; 1.500 times: chat waited 150 ms beside \
             the others, 100 ms alone",
            "audit: the books of clients, gateway and llama-server agree; 1 comparisons agree",
        ]
    );
}

#[test]
fn each_objective_can_be_missed_and_one_miss_is_exit_code_1() {
    type Change = fn(&mut Report);
    let changes: [(&str, Change); 7] = [
        ("attainment", |report| report.total.good = 78),
        ("error_rate", |report| report.workload.slo.run.error_rate = Some(0.079)),
        ("ttft_scheduled.p95 of chat", |report| {
            report.workload.slo.run.at_most = [("chat:ttft_scheduled.p95".to_owned(), "185ms".to_owned())].into();
        }),
        ("jain_index", |report| report.fairness.as_mut().unwrap().jain_index = Some(0.89)),
        ("service_gap_within_bound", |report| report.fairness.as_mut().unwrap().gaps[0].gap = 901.0),
        ("victim_ratio", |report| report.fairness.as_mut().unwrap().victim.as_mut().unwrap().ratio = 2.01),
        ("audit", |report| {
            let audit = report.audit.as_mut().unwrap();
            (audit.agrees, audit.lines[0].agrees) = (false, false);
        }),
    ];
    for (name, change) in changes {
        let verdict = verdict(change);
        let missed: Vec<_> = verdict.objectives.iter().filter(|objective| !objective.met).collect();
        assert_eq!((missed.len(), missed[0].name.as_str(), verdict.exit_code()), (1, name, 1));
    }
}

#[test]
fn what_was_not_measured_is_missed_and_says_why() {
    let (met, why) = measured("queue_wait.max", |report| {
        report.workload.slo.run.at_most = [("queue_wait.max".to_owned(), "1h".to_owned())].into();
    });
    assert_eq!((met, why.as_str()), (false, "no request had a value, so it cannot be said to be met"));
    for name in ["jain_index", "service_gap_within_bound", "victim_ratio"] {
        let (met, why) = measured(name, |report| report.fairness = None);
        assert!(!met && why.starts_with("not measured"), "{name}: {why}");
    }
    let (met, why) = measured("audit", |report| report.audit = None);
    assert_eq!((met, why.as_str()), (false, "the books were not read"));
    let (met, _) =
        measured("attainment", |report| report.total.endings.insert("left".to_owned(), 100).map_or((), drop));
    assert!(!met);
}

#[test]
fn books_that_were_read_must_agree_unless_the_workload_says_otherwise() {
    let disagree = |wanted: Option<bool>| {
        verdict(|report| {
            report.workload.slo.run.audit = wanted;
            report.audit.as_mut().unwrap().agrees = false;
        })
    };
    assert_eq!((disagree(None).exit_code(), disagree(Some(false)).exit_code()), (1, 0));
    let without = verdict(|report| (report.workload.slo.run.audit, report.audit) = (None, None));
    assert_eq!((without.exit_code(), without.objectives.len()), (0, 6));
}

#[test]
fn books_that_could_not_be_read_are_missed_only_where_they_were_asked_for() {
    let unread = |wanted: Option<bool>| {
        move |report: &mut Report| {
            report.workload.slo.run.audit = wanted;
            let notes = vec!["not compared: llama-server: its address is not known".to_owned()];
            report.audit = Some(Audit { lines: Vec::new(), agrees: false, notes });
        }
    };
    assert_eq!(verdict(unread(None)).exit_code(), 0);
    let (met, why) = measured("audit", unread(Some(true)));
    let wanted = "nothing could be compared: not compared: llama-server: its address is not known";
    assert_eq!((met, why.as_str()), (false, wanted));
}

#[test]
fn what_is_not_wanted_is_not_looked_at() {
    let verdict = verdict(|report| {
        report.workload.slo.run = Objectives { audit: Some(false), ..Objectives::default() };
    });
    assert_eq!((verdict.objectives.len(), verdict.exit_code()), (0, 0));
}

#[test]
fn a_harness_that_was_too_slow_makes_no_measurement_and_says_what_to_do() {
    let late = |report: &mut Report| report.harness_health.dispatch_lag.p99 = 10.01;
    let reason = invalid(late);
    assert!(reason.contains("10.01 ms late at the 99th percentile and 0.9 ms at most"), "{reason}");
    assert!(reason.contains("allows 10 ms; 7 requests were under way at most, of 10000 allowed"), "{reason}");
    assert!(reason.contains("hint: give the harness more CPU"), "{reason}");
    let reason = invalid(|report| {
        late(report);
        report.harness_health.most_in_flight = 10_000;
    });
    assert!(reason.ends_with("hint: max_in_flight was reached; raise it, or lower the load"), "{reason}");
    let reason = invalid(|report| report.harness_health.was_bottleneck = true);
    assert!(reason.contains("too slow"), "{reason}");
    assert!(verdict(|report| report.harness_health.dispatch_lag.p99 = 10.0).invalid.is_empty());
    let reason = invalid(|report| report.harness_health.pulse_lag.p99 = 12.0);
    assert!(reason.contains("a task that only wakes was 12 ms late"), "{reason}");
}

#[test]
fn a_server_that_lies_and_a_run_that_is_broken_off_are_no_measurement() {
    let doubts = Doubts {
        lies: [("fewer tokens counted than seen".to_owned(), 2), ("no usage".to_owned(), 1)].into(),
        broken_off: Some("interrupted after 12 s".to_owned()),
    };
    let verdict = judge(&sample::report(), &doubts);
    assert_eq!(verdict.exit_code(), 2);
    assert_eq!(verdict.invalid[0], "the run was broken off: interrupted after 12 s");
    let lies = &verdict.invalid[1];
    assert!(
        lies.contains("in 3 requests") && lies.ends_with("fewer tokens counted than seen (2); no usage (1)"),
        "{lies}"
    );
}

#[test]
fn a_run_without_a_complete_request_is_no_measurement() {
    let reason = invalid(|report| {
        report.total.endings = [("unreachable".to_owned(), 98), ("left".to_owned(), 2)].into();
    });
    assert_eq!(reason, "of 100 requests not one was complete: 2 left, 98 unreachable");
    let reason = invalid(|report| report.total = Summary::default());
    assert!(reason.starts_with("no request was scheduled"), "{reason}");
}

#[test]
fn an_objective_that_cannot_be_read_is_told_with_its_line() {
    for (name, bound, why) in [
        ("chat:ttft.p95", "soon", "objective at_most.\"chat:ttft.p95\" = \"soon\": "),
        ("ttft.p96", "1s", "there is no statistic `p96`\nhint: one of mean, p50, "),
        ("rag:ttft.p95", "1s", "there is no tenant rag in the report"),
    ] {
        let reason = invalid(|report| report.workload.slo.run.at_most = [(name.to_owned(), bound.to_owned())].into());
        assert!(reason.contains(why), "{reason}");
    }
}

#[test]
fn names_of_measures_are_read_and_faults_are_named() {
    let metric =
        |tenant: Option<&str>, measure, statistic| Metric { tenant: tenant.map(str::to_owned), measure, statistic };
    assert_eq!(Metric::parse("ttft.p50"), Ok(metric(None, "ttft", Statistic::P50)));
    assert_eq!(Metric::parse("a.b:c:itl.p999"), Ok(metric(Some("a.b:c"), "itl", Statistic::P999)));
    assert_eq!(Metric::parse("ttft"), Err(MetricError::NoStatistic("ttft".to_owned())));
    let unknown = MetricError::UnknownMeasure("tfft".to_owned());
    assert_eq!(unknown.hint(), "did you mean `ttft`?");
    assert_eq!(Metric::parse("tfft.p50"), Err(unknown));
    assert_eq!(Metric::parse("ttft.p50.p95"), Err(MetricError::UnknownStatistic("p50.p95".to_owned())));
}

#[test]
fn numbers_keep_the_digits_that_decide() {
    assert_eq!([2004.0, 2000.0, 999.4, 0.0].map(time), ["2.004 s", "2 s", "999.4 ms", "0 ms"]);
    assert_eq!([0.9495, 1.0].map(percent), ["94.95 %", "100 %"]);
}

#[test]
fn junit_has_a_case_for_each_objective_and_an_error_where_nothing_was_measured() {
    let mut report = sample::report();
    report.workload.name = "a \"quick\" <test> & more".to_owned();
    report.total.good = 1;
    report.harness_health.was_bottleneck = true;
    report.verdict = judge(&report, &Doubts::default());
    let text = junit::xml(&report);
    let document = roxmltree::Document::parse(&text).unwrap();
    let suite = document.root_element().first_element_child().unwrap();
    assert_eq!(suite.attribute("name"), Some("loadtest a \"quick\" <test> & more"));
    assert_eq!(suite.attribute("timestamp"), Some("2026-11-27T07:12:49Z"));
    assert_eq!(["tests", "failures", "errors"].map(|name| suite.attribute(name).unwrap()), ["8", "1", "1"]);
    let cases: Vec<_> = suite.children().filter(|node| node.has_tag_name("testcase")).collect();
    assert_eq!(cases.len(), 8);
    let error = cases[0].first_element_child().unwrap();
    assert!(error.has_tag_name("error") && error.text().unwrap().contains("\nhint: "));
    let failure = cases[1].first_element_child().unwrap();
    assert!(failure.has_tag_name("failure"));
    let message = "wanted at least 80 % of all scheduled requests good, measured 1.02 % (1 of 98)";
    assert_eq!(failure.attribute("message"), Some(message));
}

proptest! {
    /// Whatever a workload, a server or an error says.
    #[test]
    fn junit_is_well_formed_and_tells_any_text(texts in prop::collection::vec(any::<String>(), 6), met: bool) {
        let mut report = sample::report();
        let [name, wanted, measured, workload, invalid, other] = texts.try_into().unwrap();
        report.workload.name = workload;
        report.verdict = Verdict {
            objectives: vec![Objective { name: name.clone(), wanted, measured, met }],
            invalid: vec![invalid.clone(), other],
        };
        let text = junit::xml(&report);
        let document = roxmltree::Document::parse(&text).unwrap();
        let mut cases = document.descendants().filter(|node| node.has_tag_name("testcase"));
        let error = cases.next().unwrap().first_element_child().unwrap();
        prop_assert_eq!(error.attribute("message").unwrap(), sayable(&invalid));
        prop_assert_eq!(cases.next().unwrap().attribute("name").unwrap(), sayable(&name));
    }

    #[test]
    fn any_name_of_a_measure_is_read_or_refused(name: String) {
        if let Ok(metric) = Metric::parse(&name) {
            prop_assert!(name.ends_with(metric.to_string().split(' ').next().unwrap()));
        }
    }
}

/// What XML 1.0 can say of a text.
fn sayable(text: &str) -> String {
    let sayable = |character: char| matches!(character, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    text.chars().map(|character| if sayable(character) { character } else { '\u{fffd}' }).collect()
}

#[test]
fn tenants_who_never_waited_at_the_same_time_do_not_show_that_they_were_served_alike() {
    let (met, why) = measured("service_gap_within_bound", |report| {
        let gap = &mut report.fairness.as_mut().unwrap().gaps[0];
        (gap.gap, gap.seconds_both_waited) = (0.0, 0.0);
    });
    assert!(!met && why.starts_with("not measured"), "{why}");
}

#[test]
fn a_pair_that_was_not_served_at_all_does_not_hide_a_gap_of_others() {
    for place in [0, 1] {
        let (met, why) = measured("service_gap_within_bound", |report| {
            let gaps = &mut report.fairness.as_mut().unwrap().gaps;
            gaps[0].gap = gaps[0].bound + 1.0;
            let nothing = crate::report::Gap { gap: 0.0, bound: 0.0, ..gaps[0].clone() };
            gaps.insert(place, nothing);
        });
        assert!(!met && why.contains("901"), "{why}");
    }
}

#[test]
fn books_that_could_not_be_read_are_missed_only_where_they_are_wanted_and_say_why() {
    let unread = |wanted: Option<bool>| {
        verdict(|report| {
            report.workload.slo.run.audit = wanted;
            let notes = vec!["not compared: the ledger of a: /v1/usage answers 404".to_owned()];
            report.audit = Some(Audit { lines: Vec::new(), agrees: false, notes });
        })
    };
    assert_eq!((unread(None).exit_code(), unread(None).objectives.len()), (0, 6));
    let wanted = unread(Some(true));
    assert_eq!(wanted.exit_code(), 1);
    assert!(objective(&wanted, "audit").measured.contains("/v1/usage answers 404"), "{wanted:?}");
}
