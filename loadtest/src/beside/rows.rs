//! From the samples of all rounds to the rows of the report.

use std::collections::BTreeMap;

use super::{Sample, Through};
use crate::report::Report;
use crate::report::beside::{Figure, Row};

/// `/proc` counts CPU time in hundredths of a second: with less of it than this, one of them is more than 5 %.
const LEAST_CPU_SECONDS: f64 = 0.2;

/// Key and title of each row, in the order of the table.
const ROWS: [(&str, &str); 11] = [
    ("ttft_p50", "time to first token, p50, ms"),
    ("ttft_p95", "time to first token, p95, ms"),
    ("itl_p50", "gap between tokens, p50, ms"),
    ("itl_p99", "gap between tokens, p99, ms"),
    ("e2e_p50", "end to end, p50, ms"),
    ("cancel_p50", "leaving during the output frees the slot, p50, ms"),
    ("cancel_prompt_p50", "leaving during the prompt frees the slot, p50, ms"),
    ("cpu_per_1000_requests", "CPU seconds per 1,000 requests"),
    ("cpu_per_million_chunks", "CPU seconds per million chunks"),
    ("memory_idle", "memory before the first stream, MiB"),
    ("memory_per_stream", "memory per open stream, KiB"),
];

/// The latencies of a run, by row.
pub(super) fn latencies(report: &Report) -> Sample {
    let total = &report.total;
    let mut sample = Sample::new();
    if let Some(ttft) = total.measure("ttft") {
        sample.extend([("ttft_p50", ttft.p50), ("ttft_p95", ttft.p95)]);
    }
    if let Some(itl) = total.measure("itl") {
        sample.extend([("itl_p50", itl.p50), ("itl_p99", itl.p99)]);
    }
    sample.extend(total.measure("e2e").map(|e2e| ("e2e_p50", e2e.p50)));
    sample
}

/// What a proxy's CPU time comes to, by row: all of it divided by the requests, and all of it divided by the chunks.
pub(super) fn costs(report: &Report, cpu_seconds: f64) -> Sample {
    // Between n chunks there are n - 1 gaps, and each reply has a first one.
    let count = |name: &str| report.total.measure(name).map_or(0, |measure| measure.count);
    let (requests, chunks) = (report.total.scheduled, count("ttft") + count("itl"));
    let mut sample = Sample::new();
    if requests > 0 {
        sample.insert("cpu_per_1000_requests", cpu_seconds / requests as f64 * 1e3);
    }
    if chunks > 0 {
        sample.insert("cpu_per_million_chunks", cpu_seconds / chunks as f64 * 1e6);
    }
    sample
}

/// What makes the numbers of a run doubtful, for people.
pub(super) fn faults(way: &str, report: &Report, cpu_seconds: Option<f64>) -> Vec<String> {
    // What is counted from the sending and CPU time are right even if the harness sent late: so it is only told.
    let doubts = report.verdict.invalid.iter().filter_map(|why| why.lines().next());
    let mut notes: Vec<_> = doubts.map(|why| format!("{way}: {why}")).collect();
    let failed = report.total.failed();
    if failed > 0 {
        notes.push(format!("{way}: {failed} of {} requests failed", report.total.scheduled));
    }
    if let Some(seconds) = cpu_seconds.filter(|seconds| *seconds < LEAST_CPU_SECONDS) {
        notes.push(format!("{way}: {seconds:.2} CPU seconds in all, counted in hundredths: run it longer"));
    }
    notes
}

/// The rows that have numbers.
pub(super) fn of(rounds: &[BTreeMap<Through, Sample>]) -> Vec<Row> {
    let row = |&(name, title): &(&str, &str)| {
        let number = |round: &BTreeMap<Through, Sample>, path| round.get(&path)?.get(name).copied();
        let each = |path| figure(rounds.iter().filter_map(|round| number(round, path)));
        let pairs = |path, other, f: fn(f64, f64) -> f64| {
            figure(rounds.iter().filter_map(|round| Some(f(number(round, path)?, number(round, other)?))))
        };
        let (direct, nginx, gateway) = (each(Through::Direct), each(Through::Nginx), each(Through::Gateway));
        // What only a proxy has is added by it as a whole.
        let adds = |path, all| {
            if direct.is_none() { all } else { pairs(path, Through::Direct, |through, direct| through - direct) }
        };
        let ratio = || pairs(Through::Gateway, Through::Nginx, |gateway, nginx| gateway / nginx);
        let row = Row {
            name: name.to_owned(),
            title: title.to_owned(),
            direct,
            nginx,
            gateway,
            nginx_adds: adds(Through::Nginx, nginx),
            gateway_adds: adds(Through::Gateway, gateway),
            ratio: direct.is_none().then(ratio).flatten(),
        };
        (direct.is_some() || nginx.is_some() || gateway.is_some()).then_some(row)
    };
    ROWS.iter().filter_map(row).collect()
}

/// The median, of an even number the mean of the two in the middle; none of no numbers.
fn figure(numbers: impl Iterator<Item = f64>) -> Option<Figure> {
    let mut sorted: Vec<_> = numbers.filter(|number| number.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (least, most) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
    Some(Figure { median, least, most })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(direct: f64, nginx: f64, gateway: f64) -> BTreeMap<Through, Sample> {
        let sample = |ttft, cpu: Option<f64>| {
            Sample::from_iter([Some(("ttft_p50", ttft)), cpu.map(|cpu| ("memory_idle", cpu))].into_iter().flatten())
        };
        BTreeMap::from([
            (Through::Direct, sample(direct, None)),
            (Through::Nginx, sample(nginx, Some(nginx))),
            (Through::Gateway, sample(gateway, Some(gateway))),
        ])
    }

    fn figure(median: f64, least: f64, most: f64) -> Option<Figure> {
        Some(Figure { median, least, most })
    }

    #[test]
    fn what_is_added_and_the_ratio_are_taken_round_by_round() {
        // The machine was slow in the second round: the medians of what is added know nothing of it.
        let rows = of(&[round(10.0, 11.0, 12.0), round(100.0, 101.0, 102.0), round(20.0, 21.5, 22.0)]);
        let [ttft, memory] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((ttft.name.as_str(), ttft.direct), ("ttft_p50", figure(20.0, 10.0, 100.0)));
        assert_eq!((ttft.nginx_adds, ttft.gateway_adds), (figure(1.0, 1.0, 1.5), figure(2.0, 2.0, 2.0)));
        assert_eq!((ttft.ratio, memory.direct, memory.gateway_adds), (None, None, figure(22.0, 12.0, 102.0)));
        assert_eq!(memory.ratio, figure(22.0 / 21.5, 102.0 / 101.0, 12.0 / 11.0));
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(super::figure([4.0, 1.0, 3.0, 2.0].into_iter()), figure(2.5, 1.0, 4.0));
        assert_eq!(super::figure([f64::NAN].into_iter()), None);
    }

    #[test]
    fn every_row_has_a_key_of_its_own() {
        let keys: std::collections::BTreeSet<_> = ROWS.iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), ROWS.len());
    }
}
