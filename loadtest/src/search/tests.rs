//! Sweeps and searches on made-up servers whose limit is known. All draws are seeded.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::attainment::{Answer, fewest_requests};
use super::*;
use crate::report::{Block, sample};
use crate::verdict::{Doubts, judge};
use crate::workload::Objectives;

const WANTED: f64 = 0.95;

fn workload() -> Workload {
    let mut workload = sample::workload();
    workload.slo.run = Objectives { attainment: Some(WANTED), audit: Some(false), ..Objectives::default() };
    workload
}

/// A report with these blocks: good and scheduled requests.
fn report(blocks: &[(u64, u64)]) -> Report {
    let mut report = sample::report();
    report.workload = workload();
    let (good, scheduled) = blocks.iter().fold((0, 0), |sum, block| (sum.0 + block.0, sum.1 + block.1));
    (report.total.good, report.total.scheduled) = (good, scheduled);
    report.total.endings = [("complete".to_owned(), good), ("timed out".to_owned(), scheduled - good)].into();
    report.blocks = blocks
        .iter()
        .map(|(good, scheduled)| Block { good: *good, scheduled: *scheduled, ..Block::default() })
        .collect();
    report.verdict = judge(&report, &Doubts::default());
    report
}

/// A server whose attainment is 95 % at its limit and falls with the cube of the load.
#[derive(Clone, Copy)]
struct Server {
    limit: f64,
    requests: u64,
    /// Misses of a block come together: the standard deviation of a block's attainment as a part of its misses.
    clusters: f64,
}

impl Server {
    fn misses(self, load: f64) -> f64 {
        (0.05 * (load / self.limit).powi(3)).min(1.0)
    }

    fn run(self, load: f64, random: &mut ChaCha8Rng) -> Report {
        let blocks: Vec<_> = (0..20)
            .map(|_| {
                // Two kinds of blocks, alike in number: some miss more, some less.
                let sign = if random.random_bool(0.5) { 1.0 } else { -1.0 };
                let misses = (self.misses(load) * (1.0 + sign * self.clusters)).clamp(0.0, 1.0);
                let scheduled = self.requests / 20;
                ((0..scheduled).filter(|_| !random.random_bool(misses)).count() as u64, scheduled)
            })
            .collect();
        report(&blocks)
    }

    /// Without chance.
    fn exact(self, load: f64) -> Report {
        let good = (self.requests as f64 * (1.0 - self.misses(load))).round() as u64;
        report(&[(good, self.requests)])
    }
}

const SEARCH: Search = Search { from: 1.0, to: 64.0, resolution: 0.1, runs: 3 };

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn find(search: Search, mut run: impl FnMut(f64) -> anyhow::Result<Report>) -> anyhow::Result<Sweep> {
    wait(find_limit(&workload(), search, async |load| run(load)))
}

/// The loads of a sweep's points.
fn loads_of(sweep: &Sweep) -> Vec<f64> {
    sweep.points.iter().map(|point| point.load).collect()
}

fn exact(limit: f64) -> Server {
    Server { limit, requests: 1_000_000, clusters: 0.0 }
}

#[test]
fn the_load_is_doubled_then_the_gap_is_halved_and_the_limit_is_run_once_more() {
    let sweep = find(SEARCH, |load| Ok(exact(11.0).exact(load))).unwrap();
    assert_eq!(loads_of(&sweep), [1.0, 2.0, 4.0, 8.0, 16.0, 12.0, 10.0, 11.0, 11.0, 11.0, 10.0]);
    let limit = sweep.limit.clone().unwrap();
    assert_eq!((limit.load, limit.interval, limit.confidence), (10.0, (10.0, 12.0), Some(0.95)));
    assert_eq!((limit.offered, sweep.finding, sweep.exit_code()), (2.0, Finding::Limit, 0));
    let basis = "at load 10 the attainment is at least 95 %, at load 12 less, by Wilson's intervals of 95 %; confirmed by a \
                 run more, with 96.243 % good";
    assert_eq!(limit.basis, basis);
    let note = "load 11 counts as missed: 95 % good in 3 runs, 94.975 % to 95.025 %, is not clear\nhint: longer runs; at 95 \
                % it takes 73 requests, all good, to be clear";
    assert_eq!(sweep.notes, [note]);
}

/// 95 % are stated. Of 300 searches at least 285 hold the limit, on servers of few and many requests a run, whose misses
/// come one by one or in clusters.
#[test]
fn the_interval_of_the_limit_holds_it_at_least_as_often_as_it_says() {
    for (requests, clusters) in [(200, 0.0), (1000, 0.8), (2000, 0.0)] {
        let mut held = 0;
        for seed in 0..300 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let server = Server { limit: random.random_range(1.5..50.0), requests, clusters };
            let sweep = find(SEARCH, |load| Ok(server.run(load, &mut random))).unwrap();
            let Some(limit) = sweep.limit else { panic!("{:?}", sweep.notes) };
            assert!(limit.interval.0 == limit.load && limit.load < limit.interval.1);
            held += u32::from(limit.interval.0 <= server.limit && server.limit <= limit.interval.1);
        }
        assert!(held >= 285, "{requests} requests, clusters {clusters}: {held}");
    }
}

proptest! {
    /// Where there is no chance, the limit is found as closely as asked, but for what no number of requests can decide.
    #[test]
    fn the_limit_of_a_server_without_chance_is_found_within_the_resolution(
        limit in 1.2..60.0f64, from in 0.1..1.0f64, resolution in 0.02..0.5f64,
    ) {
        let search = Search { from, resolution, ..SEARCH };
        let sweep = find(search, |load| Ok(exact(limit).exact(load))).unwrap();
        let found = sweep.limit.unwrap();
        prop_assert!(found.interval.0 <= limit && limit <= found.interval.1);
        prop_assert!(limit <= found.load * (1.0 + resolution) * 1.005, "{} for {limit}", found.load);
        let most = 2 + SEARCH.runs as usize * ((64.0 / from).log2() + (2.0 / resolution).log2()).ceil() as usize;
        prop_assert!(sweep.points.len() <= most, "{} runs", sweep.points.len());
    }
}

#[test]
fn objectives_that_are_missed_at_the_lowest_load_have_no_limit() {
    let sweep = find(SEARCH, |load| Ok(exact(0.5).exact(load))).unwrap();
    assert_eq!((loads_of(&sweep), sweep.limit.is_none()), (vec![1.0], true));
    assert_eq!((sweep.finding, sweep.exit_code()), (Finding::NeverMet, 1));
    assert!(sweep.notes[0].starts_with("not met at load 1, the lowest that was allowed"), "{:?}", sweep.notes);
}

#[test]
fn objectives_that_are_met_at_the_highest_load_have_a_limit_above_and_say_so() {
    let sweep = find(Search { to: 3.0, ..SEARCH }, |load| Ok(exact(50.0).exact(load))).unwrap();
    assert_eq!((loads_of(&sweep), sweep.limit.is_none()), (vec![1.0, 2.0, 3.0], true));
    assert_eq!((sweep.finding, sweep.exit_code()), (Finding::AlwaysMet, 0));
    assert_eq!(sweep.notes, ["met at load 3, the highest that was allowed: the limit is above"]);
}

#[test]
fn too_few_requests_to_be_clear_count_as_missed_and_say_how_many_it_takes() {
    let sweep = find(Search { to: 2.0, ..SEARCH }, |_| Ok(report(&[(20, 20)]))).unwrap();
    assert_eq!(loads_of(&sweep), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
    assert_eq!(sweep.finding, Finding::NeverMet);
    let note = "load 1 counts as missed: 100 % good in 3 runs, 93.983 % to 100 %, is not clear\nhint: longer runs; at 95 % it \
                takes 73 requests, all good, to be clear";
    assert_eq!(sweep.notes[0], note);
}

#[test]
fn a_limit_that_fails_when_run_once_more_is_not_believed() {
    let mut runs_at_8 = 0;
    let run = |load: f64| {
        runs_at_8 += u32::from(load == 8.0);
        // Lucky once.
        Ok(exact(if load == 8.0 && runs_at_8 == 1 { 9.0 } else { 7.0 }).exact(load))
    };
    let sweep = find(Search { resolution: 0.5, ..SEARCH }, run).unwrap();
    assert_eq!(loads_of(&sweep), [1.0, 2.0, 4.0, 8.0, 16.0, 12.0, 8.0, 4.0]);
    assert_eq!(sweep.limit.map(|limit| limit.interval), Some((4.0, 12.0)));
    assert_eq!(sweep.notes, ["load 8 met the objectives and, when run once more, did not"]);
}

#[test]
fn other_objectives_must_be_met_in_every_run_and_can_be_the_only_ones() {
    let mut wanted = workload();
    wanted.slo.run.attainment = None;
    wanted.slo.run.error_rate = Some(0.04);
    let run = async |load: f64| {
        let mut report = exact(10.0).exact(load);
        report.workload = wanted.clone();
        report.verdict = judge(&report, &Doubts::default());
        Ok(report)
    };
    let sweep = wait(find_limit(&wanted, SEARCH, run)).unwrap();
    assert_eq!(loads_of(&sweep), [1.0, 2.0, 4.0, 8.0, 16.0, 12.0, 10.0, 9.0, 9.5, 9.0]);
    let limit = sweep.limit.unwrap();
    assert_eq!((limit.load, limit.interval, limit.confidence), (9.0, (9.0, 9.5), None));
    assert_eq!(limit.basis, "at load 9 the objectives were met in two runs, at load 9.5 missed in one");
}

#[test]
fn a_harness_that_is_the_bottleneck_ends_the_search_with_that_said_and_the_points_are_kept() {
    let run = |load: f64| {
        let mut report = exact(50.0).exact(load);
        report.harness_health.was_bottleneck = load > 3.0;
        report.verdict = judge(&report, &Doubts::default());
        Ok(report)
    };
    let sweep = find(SEARCH, run).unwrap();
    assert_eq!((loads_of(&sweep), sweep.limit.is_none()), (vec![1.0, 2.0, 4.0], true));
    assert_eq!((sweep.finding, sweep.exit_code()), (Finding::BrokenOff, 2));
    assert_eq!(sweep.notes[0], "broken off: the run at load 4 is no measurement");
    assert!(!sweep.points[2].met && sweep.points[2].invalid[0].contains("too slow"));
}

#[test]
fn a_load_at_which_nothing_is_complete_is_missed_if_less_went_well_and_no_measurement_otherwise() {
    let dead = || report(&[(0, 1000)]);
    let sweep =
        find(Search { to: 4.0, ..SEARCH }, |load| Ok(if load > 1.0 { dead() } else { exact(50.0).exact(load) }));
    assert_eq!(sweep.unwrap().limit.map(|limit| limit.load), Some(1.0));
    let sweep = find(SEARCH, |_| Ok(dead())).unwrap();
    assert_eq!((sweep.finding, loads_of(&sweep)), (Finding::BrokenOff, vec![1.0]));
}

#[test]
fn a_run_that_cannot_be_made_keeps_those_before_it_and_the_first_one_is_an_error() {
    let run = |load: f64| {
        anyhow::ensure!(load < 4.0, "connection refused");
        Ok(exact(50.0).exact(load))
    };
    let sweep = find(SEARCH, run).unwrap();
    assert_eq!((sweep.finding, loads_of(&sweep)), (Finding::BrokenOff, vec![1.0, 2.0]));
    assert_eq!(sweep.notes[0], "broken off: the run at load 4: connection refused");
    let error = find(Search { from: 4.0, ..SEARCH }, run).unwrap_err();
    assert_eq!(format!("{error:#}"), "the run at load 4: connection refused");
}

#[test]
fn a_search_that_cannot_end_well_is_refused_before_the_first_run() {
    let refused = |search: Search, change: fn(&mut Workload)| {
        let mut workload = workload();
        change(&mut workload);
        let never = async |_| panic!("a run was made");
        wait(find_limit(&workload, search, never)).unwrap_err().to_string()
    };
    for wrong in [
        Search { from: 0.0, ..SEARCH },
        Search { to: 0.5, ..SEARCH },
        Search { to: f64::INFINITY, ..SEARCH },
        Search { resolution: 0.0, ..SEARCH },
        Search { runs: 0, ..SEARCH },
    ] {
        assert!(refused(wrong, |_| ()).contains("hint: 0 < from <= to"));
    }
    let why = refused(SEARCH, |workload| workload.slo.run.attainment = Some(1.0));
    assert!(why.starts_with("no number of requests shows an attainment of 100 %"), "{why}");
    let why = refused(SEARCH, |workload| workload.slo.run = Objectives::default());
    assert!(why.starts_with("the workload has no objectives"), "{why}");
}

#[test]
fn a_sweep_takes_its_loads_in_turns_and_keeps_what_it_has() {
    let sweep = wait(sweep(&workload(), &[1.0, 2.0, 4.0], 2, async |load| Ok(exact(3.0).exact(load)))).unwrap();
    assert_eq!(loads_of(&sweep), [1.0, 2.0, 4.0, 1.0, 2.0, 4.0]);
    assert_eq!(sweep.points.iter().map(|point| point.met).collect::<Vec<_>>(), [true, true, false, true, true, false]);
    assert_eq!((sweep.finding, sweep.exit_code()), (Finding::Curve, 0));
    let point = &sweep.points[2];
    assert_eq!((point.scheduled, point.attainment), (1_000_000, 1.0 - 0.118_519));
    assert_eq!((point.ttft_scheduled_p50, point.tpot_p50), (Some(145.0), None));
    assert_eq!(sweep.target.build.as_deref(), Some("b7000-abcdef"));

    let mut left = 4;
    let run = async |load| {
        left -= 1;
        anyhow::ensure!(left > 0, "interrupted");
        Ok(exact(3.0).exact(load))
    };
    let sweep = wait(super::sweep(&workload(), &[1.0, 2.0], 2, run)).unwrap();
    assert_eq!((loads_of(&sweep), sweep.finding), (vec![1.0, 2.0, 1.0], Finding::BrokenOff));
    for wrong in [&[][..], &[0.0], &[-1.0], &[1.0, f64::NAN], &[f64::INFINITY]] {
        assert!(wait(super::sweep(&workload(), wrong, 2, async |_| panic!("a run was made"))).is_err());
    }
}

#[test]
fn loads_lead_from_the_first_to_the_last_by_a_factor() {
    assert_eq!(loads(1.0, 8.0, 2.0).unwrap(), [1.0, 2.0, 4.0, 8.0]);
    assert_eq!(loads(1.0, 5.0, 2.0).unwrap(), [1.0, 2.0, 4.0, 5.0]);
    assert_eq!(loads(0.1, 0.1 * 1.1 * 1.1, 1.1).unwrap().len(), 3);
    assert_eq!(loads(3.0, 3.0, 2.0).unwrap(), [3.0]);
    for (from, to, factor) in
        [(0.0, 1.0, 2.0), (2.0, 1.0, 2.0), (1.0, 2.0, 1.0), (1.0, 1e9, 1.01), (1.0, f64::NAN, 2.0)]
    {
        assert!(loads(from, to, factor).is_err());
    }
}

/// Its ends are the parts for which what was seen is just so many standard deviations away.
#[test]
fn intervals_are_wilsons() {
    for (good, all) in [(95, 100), (1, 3), (499, 500)] {
        let (low, high) = Seen::of(&report(&[(good, all)])).interval();
        for (end, sign) in [(low, 1.0), (high, -1.0)] {
            let away = (good as f64 / all as f64 - end) / (end * (1.0 - end) / all as f64).sqrt();
            assert!((away - sign * 1.959_964).abs() < 1e-9, "{away}");
        }
    }
    assert!(
        Seen::of(&report(&[(10, 10)])).interval().1 > 0.999_999 && Seen::of(&report(&[(0, 10)])).interval().0 < 1e-6
    );
    assert_eq!(Seen::default().interval(), (0.0, 1.0));
    let fewest = fewest_requests(WANTED) as u64;
    assert_eq!(Seen::of(&report(&[(fewest, fewest)])).decide(WANTED), Answer::Met);
    assert_eq!(Seen::of(&report(&[(fewest - 1, fewest - 1)])).decide(WANTED), Answer::Unclear);
}

#[test]
fn misses_that_come_in_clusters_count_for_fewer_requests() {
    let width = |blocks: &[(u64, u64)]| {
        let (low, high) = Seen::of(&report(blocks)).interval();
        high - low
    };
    // 1,000 requests and 50 misses each.
    let even = width(&[(95, 100); 10]);
    let clustered = width(&[[(100, 100); 9].as_slice(), &[(50, 100)]].concat());
    assert!((even - width(&[(950, 1000)])).abs() < 1e-12, "never more certain than independent ones");
    assert!(clustered > 6.0 * even, "{clustered} {even}");
}
