//! What is in a page; how it looks in a browser is in `tests/browser.rs`.

mod browser;
mod chromium;

use super::super::sample;
use super::*;
use crate::report::Verdict;

#[test]
fn a_page_names_nothing_that_a_browser_would_fetch_or_run() {
    for page in [report(&sample::report()), sweep(&sample::sweep())] {
        for fetched in
            ["<script", "<link", "<img", "<iframe", "<object", "src=", "href=", "@import", "url(http", "data:"]
        {
            assert!(!page.contains(fetched), "{fetched}");
        }
        assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
    }
}

#[test]
fn a_page_has_all_charts_and_tables_of_a_run() {
    let page = report(&sample::report());
    for part in [
        "failed: 1 of 4 objectives missed",
        "aria-label=\"Time to first token: from when a request was due, and from when it was sent\"",
        "aria-label=\"Requests a second: when they were due, and when they ended\"",
        "aria-label=\"Requests under way: waiting: sent, and without a first token\"",
        "aria-label=\"Endings: of 949 scheduled requests\"",
        "aria-label=\"Attainment: good part of all scheduled requests but those that left\"",
        "aria-label=\"Largest gap of weighted service: of two tenants while both waited, against the scheduler's bound\"",
        "(last token - first token) / (completion tokens - 1)",
        "The books agree.",
        "Leaving to idle, p50",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn where_nobody_waited_there_is_no_chart_of_shares() {
    let mut sample = sample::report();
    sample::nobody_waited(sample.fairness.as_mut().unwrap());
    let page = report(&sample);
    assert!(page.contains("so there is no Jain index"));
    assert!(!page.contains("Weighted service: ") && !page.contains("Largest gap of weighted service: "));
}

#[test]
fn a_page_fits_into_a_ticket() {
    assert!(report(&sample::report()).len() < 256 * 1024);
    assert!(sweep(&sample::sweep()).len() < 64 * 1024);
}

#[test]
fn a_tenant_named_like_a_script_stays_text() {
    let page = report(&hostile());
    assert!(!page.contains("<script"), "a name has become an element");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(!page.contains("\"><b>"), "a name has left its attribute");
}

/// A report whose every text tries to become more than text.
fn hostile() -> crate::report::Report {
    let mut hostile = sample::report();
    let evil = "<script>alert(1)</script>\"><b>".to_owned();
    let summary = hostile.tenants["chat"].clone();
    hostile.tenants.insert(evil.clone(), summary);
    hostile.workload.name.clone_from(&evil);
    hostile.workload.question.clone_from(&evil);
    hostile.target.build = Some(evil.clone());
    hostile.total.endings.insert(evil.clone(), 3);
    hostile.verdict.invalid = vec![evil.clone()];
    for objective in &mut hostile.verdict.objectives {
        objective.name.clone_from(&evil);
    }
    if let Some(fairness) = &mut hostile.fairness {
        fairness.gaps[0].tenants.0.clone_from(&evil);
    }
    hostile
}

#[test]
fn a_run_without_a_single_request_has_a_page_too() {
    let mut empty = sample::report();
    empty.total = Default::default();
    empty.tenants.clear();
    empty.timeline = Default::default();
    (empty.fairness, empty.audit, empty.cancel) = (None, None, None);
    empty.verdict = Verdict { invalid: vec!["no request was sent".to_owned()], ..Verdict::default() };
    let page = report(&empty);
    assert!(page.contains("not a valid measurement") && page.contains("no request was sent"));
    assert!(!page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn what_the_reader_of_a_sweep_should_know_is_on_its_page() {
    let mut sample = sample::sweep();
    sample.notes = vec!["load 2 counts as missed\nhint: longer runs".to_owned()];
    assert!(sweep(&sample).contains("<li>load 2 counts as missed; hint: longer runs</li>"));
}

#[test]
fn invalid_runs_of_a_sweep_are_no_points_of_its_curve() {
    let mut sample = sample::sweep();
    sample.points[3].invalid = vec!["the harness was too slow".to_owned()];
    let page = sweep(&sample);
    assert_eq!(page.matches("class=\"interval s0\"").count(), sample.points.len() - 1);
    assert!(page.contains("Load 4× is no measurement: the harness was too slow"));
}
