use super::super::sample;
use super::*;
use crate::report::sweep::Finding;

/// Compares with a committed file; where they differ, the text is beside it in the failure.
fn golden(text: &str, expected: &str) {
    assert!(text == expected, "the text has changed; if that is wanted, put this into the golden file:\n{text}");
}

#[test]
fn a_summary_reads_as_in_the_golden_file() {
    golden(&report(&sample::report()), include_str!("../golden/report.txt"));
}

#[test]
fn a_sweep_reads_as_in_the_golden_file() {
    golden(&sweep(&sample::sweep()), include_str!("../golden/sweep.txt"));
}

#[test]
fn no_line_is_wider_than_a_hundred_columns_and_none_ends_in_blanks() {
    for line in report(&sample::report()).lines().chain(sweep(&sample::sweep()).lines()) {
        assert!(line.chars().count() <= WIDTH, "{line}");
        assert_eq!(line, line.trim_end());
    }
}

#[test]
fn what_failed_stands_out() {
    let mut sample = sample::report();
    sample.harness_health.was_bottleneck = true;
    sample.verdict.invalid = vec!["the dispatch lag's 99th percentile was 80 ms".to_owned()];
    if let Some(audit) = &mut sample.audit {
        audit.agrees = false;
        audit.lines[0].agrees = false;
    }
    let text = report(&sample);
    for part in [
        "BOTTLENECK",
        "Verdict: not a valid measurement",
        "INVALID         the dispatch lag's 99th percentile was 80 ms",
        "THE BOOKS DO NOT AGREE",
        "DIFFER",
        "MISSED",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn where_nobody_waited_nothing_is_said_of_shares() {
    let mut sample = sample::report();
    let fairness = sample.fairness.as_mut().unwrap();
    sample::nobody_waited(fairness);
    let text = report(&sample);
    assert!(text.contains("Jain index      none: there was no time in which all tenants"), "{text}");
    assert!(text.contains("largest gap     none: no two tenants had"), "{text}");
    assert!(!text.contains("both waited for"), "{text}");
}

#[test]
fn what_an_objective_says_is_never_cut_off() {
    let mut sample = sample::report();
    let measured = "between gold and silver 5172, where the bound is 5927, and so on for much longer";
    sample.verdict.objectives[0].measured = measured.to_owned();
    let text = report(&sample);
    assert!(text.contains("where the bound is") && text.contains("much longer") && !text.contains('…'), "{text}");
}

#[test]
fn books_that_could_not_be_read_are_not_called_apart() {
    let mut sample = sample::report();
    if let Some(audit) = &mut sample.audit {
        (audit.agrees, audit.lines) = (false, Vec::new());
    }
    let text = report(&sample);
    assert!(text.contains("Audit: nothing could be compared\n"), "{text}");
}

#[test]
fn a_run_without_a_single_request_has_a_summary_too() {
    let mut empty = sample::report();
    empty.total = Summary::default();
    empty.tenants.clear();
    empty.timeline = Default::default();
    (empty.fairness, empty.audit, empty.cancel) = (None, None, None);
    empty.verdict = Verdict::default();
    let text = report(&empty);
    assert!(text.contains("How 0 scheduled requests ended"), "{text}");
    assert!(text.ends_with("Verdict: measured; no objectives were set\n"), "{text}");
}

#[test]
fn why_there_is_no_limit_is_said() {
    let mut sample = sample::sweep();
    sample.limit = None;
    for (finding, said) in [
        (Finding::Curve, "Limit: not looked for"),
        (Finding::AlwaysMet, "Limit: above all loads that were run"),
        (Finding::NeverMet, "Limit: no load clearly met the objectives"),
        (Finding::BrokenOff, "Limit: not known, it was broken off"),
    ] {
        sample.finding = finding;
        assert!(sweep(&sample).contains(said), "{said}");
    }
    sample.points[0].invalid = vec!["a server lied".to_owned()];
    sample.notes = vec!["broken off: interrupted".to_owned()];
    let text = sweep(&sample);
    assert!(text.contains("INVALID         load 0.5: a server lied"), "{text}");
    assert!(text.ends_with("note            broken off: interrupted\n"), "{text}");
}

#[test]
fn prose_is_broken_between_words() {
    assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
    assert_eq!(wrapped("unbreakable", 3), ["unbreakable"]);
    assert_eq!(wrapped("", 3), [""]);
}
