//! The timeline and the blocks.

use proptest::prelude::*;

use super::{any_records, complete, ms, refused, without_token};
use crate::measure::blocks::Blocks;
use crate::measure::series::{Merge, Series};
use crate::measure::timeline::Timeline;
use crate::record::{Ending, Record};
use std::time::Duration;

#[derive(Debug, Default, PartialEq)]
struct Sum(u64);

impl Merge for Sum {
    fn merge(&mut self, later: Self) {
        self.0 += later.0;
    }
}

fn timeline(records: &[Record]) -> crate::report::Timeline {
    let mut timeline = Timeline::default();
    records.iter().for_each(|record| timeline.add(record));
    timeline.report()
}

proptest! {
    #[test]
    fn cells_are_sums_of_their_moments_however_often_they_were_doubled(
        moments in prop::collection::vec(0..3000_u64, 1..50),
    ) {
        let mut series: Series<Sum> = Series::new(7, 8);
        moments.iter().for_each(|moment| series.at(*moment).0 += 1);
        let width = series.width();
        prop_assert!(series.cells().len() <= 8 && width.is_multiple_of(7));
        for (index, cell) in series.cells().iter().enumerate() {
            prop_assert_eq!(cell.0, moments.iter().filter(|moment| *moment / width == index as u64).count() as u64);
        }
    }

    #[test]
    fn a_spread_time_is_found_in_the_cells_that_it_touches(
        spans in prop::collection::vec((0..3000_u64, 0..3000_u64), 1..20),
    ) {
        let mut series: Series<Sum> = Series::new(7, 8);
        for (begin, length) in &spans {
            series.spread(*begin, begin + length, |cell, micros| cell.0 += micros);
        }
        let width = series.width();
        for (index, cell) in series.cells().iter().enumerate() {
            let (from, until) = (index as u64 * width, (index as u64 + 1) * width);
            let overlap = |(begin, length): &(u64, u64)| (begin + length).min(until).saturating_sub(from.max(*begin));
            prop_assert_eq!(cell.0, spans.iter().map(overlap).sum::<u64>());
        }
    }

    #[test]
    fn sums_over_the_slices_are_totals(records in any_records()) {
        let timeline = timeline(&records);
        let count = |is: fn(&Record) -> bool| records.iter().filter(|record| is(record)).count() as u64;
        prop_assert_eq!(timeline.scheduled.iter().sum::<u64>(), records.len() as u64);
        prop_assert_eq!(timeline.completed.iter().sum::<u64>(), count(|record| record.ending == Ending::Complete));
        let failed = count(|record| !matches!(record.ending, Ending::Complete | Ending::Left));
        prop_assert_eq!(timeline.failed.iter().sum::<u64>(), failed);
        let tokens: u64 = records.iter().map(|record| record.tokens_seen).sum();
        prop_assert_eq!(timeline.completion_tokens.iter().sum::<u64>(), tokens);
    }

    #[test]
    fn requests_under_way_are_the_times_under_way_by_time(records in any_records()) {
        let timeline = timeline(&records);
        let end = records.iter().map(|record| record.ended).max().unwrap().as_secs_f64();
        let lasted = |index: usize| (end - index as f64 * timeline.slice_seconds).clamp(0.0, timeline.slice_seconds);
        let sum = |averages: &[f64]| -> f64 {
            averages.iter().enumerate().map(|(index, value)| value * lasted(index)).sum()
        };
        let under_way: f64 = records.iter().map(|record| (record.ended - record.sent).as_secs_f64()).sum();
        prop_assert!((sum(&timeline.in_flight) - under_way).abs() < 0.001 * under_way.max(1.0));
        let without = |record: &Record| record.first_token.unwrap_or(record.ended) - record.sent;
        let waiting: f64 = records.iter().map(|record| without(record).as_secs_f64()).sum();
        prop_assert!((sum(&timeline.waiting) - waiting).abs() < 0.001 * waiting.max(1.0));
    }

    #[test]
    fn sums_over_the_blocks_are_totals(records in any_records()) {
        let mut blocks = Blocks::new(Duration::ZERO);
        records.iter().for_each(|record| blocks.add(record, record.ending == Ending::Complete));
        let blocks = blocks.report();
        prop_assert!(blocks.len() <= 64);
        prop_assert_eq!(blocks.iter().map(|block| block.scheduled).sum::<u64>(), records.len() as u64);
        let complete = records.iter().filter(|record| record.ending == Ending::Complete).count() as u64;
        prop_assert_eq!(blocks.iter().map(|block| block.good).sum::<u64>(), complete);
        let incomplete: u64 = blocks.iter().map(|block| block.failed + block.left).sum();
        prop_assert_eq!(incomplete, records.len() as u64 - complete);
        let gaps: usize = records.iter().map(|record| record.gaps.len()).sum();
        let counted = blocks.iter().flat_map(|block| block.histograms.get("itl")).flatten().map(|(_, count)| count);
        prop_assert_eq!(counted.sum::<u64>(), gaps as u64);
    }
}

#[test]
fn a_slice_shows_what_happened_in_it() {
    let records = [complete(0), complete(0), complete(1000), without_token(1000, 50, refused("")), complete(1900)];
    let timeline = timeline(&records);
    assert_eq!(timeline.slice_seconds, 0.25);
    assert_eq!(timeline.scheduled, [2, 0, 0, 0, 2, 0, 0, 1, 0]);
    assert_eq!(timeline.completed, [2, 0, 0, 0, 1, 0, 0, 0, 1]);
    assert_eq!(timeline.failed[4], 1);
    assert_eq!(timeline.completion_tokens, [10, 0, 0, 0, 5, 0, 0, 0, 5]);
    assert_eq!(timeline.ttft_scheduled_p50[0].map(f64::round), Some(100.0));
    assert_eq!(timeline.ttft_scheduled_p95[1], None);
    assert_eq!(timeline.in_flight[0], 2.0 * 145.0 / 250.0);
    assert_eq!(timeline.waiting[0], 2.0 * 100.0 / 250.0);
    assert_eq!(timeline.in_flight[8], 1.0, "the last slice lasted 45 ms, and it was under way all the time");
}

#[test]
fn a_long_run_has_wider_slices_and_no_more_of_them() {
    let mut timeline = Timeline::default();
    for hour in 0..24 {
        timeline.add(&complete(hour * 3_600_000));
    }
    let timeline = timeline.report();
    assert!(timeline.scheduled.len() > 120 && timeline.scheduled.len() <= 240);
    assert_eq!(timeline.slice_seconds, 512.0);
    let medians: Vec<_> = timeline.ttft_scheduled_p50.iter().flatten().collect();
    assert_eq!(medians, [&100.0; 24], "what was merged is kept");
    assert_eq!(timeline.scheduled.iter().sum::<u64>(), 24);
}

#[test]
fn there_are_thirty_two_to_sixty_four_blocks_after_the_warm_up() {
    for seconds in [1, 7, 60, 3600] {
        let mut blocks = Blocks::new(ms(500));
        let steps = 1000;
        (0..steps).for_each(|step| blocks.add(&complete(500 + seconds * 1000 * step / steps), true));
        let blocks = blocks.report();
        assert!((32..=64).contains(&blocks.len()), "{seconds} s: {}", blocks.len());
        assert!(blocks[0].scheduled > 10);
    }
}
