//! The run in blocks of time, by the scheduled moment of each request, for the block bootstrap: requests that are close
//! in time depend on each other, so whole blocks are resampled and not requests.

use super::formula::MEASURES;
use super::histogram::{Histogram, micros};
use super::series::{Merge, Series};
use crate::record::{Ending, Record};
use crate::report;

/// The most blocks; a run has half as many at least. Enough to resample, and in a run of a minute long enough for
/// requests of different blocks to be nearly independent.
const BLOCKS: usize = 64;
/// Microseconds of a block at first.
const WIDTH: u64 = 1000;

/// Blocks of the measured time.
pub struct Blocks {
    /// The end of the warm-up, in microseconds: the beginning of the first block.
    begin: u64,
    blocks: Series<Block>,
}

#[derive(Default)]
struct Block {
    scheduled: u64,
    good: u64,
    left: u64,
    failed: u64,
    completion_tokens: u64,
    /// In the order of `MEASURES`, made when there is a value.
    measures: [Option<Histogram>; MEASURES.len()],
}

impl Merge for Block {
    fn merge(&mut self, later: Self) {
        self.scheduled += later.scheduled;
        self.good += later.good;
        self.left += later.left;
        self.failed += later.failed;
        self.completion_tokens = self.completion_tokens.saturating_add(later.completion_tokens);
        for (own, later) in self.measures.iter_mut().zip(later.measures) {
            match (own.as_mut(), later) {
                (Some(own), Some(later)) => own.merge(&later),
                (None, later) => *own = later,
                (Some(_), None) => {}
            }
        }
    }
}

impl Blocks {
    /// Of requests scheduled from `warm_up` on.
    pub fn new(warm_up: std::time::Duration) -> Self {
        Self { begin: micros(warm_up), blocks: Series::new(WIDTH, BLOCKS) }
    }

    /// Adds a request that was scheduled after the warm-up.
    pub fn add(&mut self, record: &Record, good: bool) {
        let block = self.blocks.at(micros(record.scheduled).saturating_sub(self.begin));
        block.scheduled += 1;
        block.good += u64::from(good);
        match record.ending {
            Ending::Complete => {}
            Ending::Left => block.left += 1,
            _ => block.failed += 1,
        }
        block.completion_tokens = block.completion_tokens.saturating_add(record.tokens_seen);
        for (measure, histogram) in MEASURES.iter().zip(&mut block.measures) {
            measure.each_value(record, |value| histogram.get_or_insert_with(Histogram::coarse).record(value));
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let blocks = self.blocks.cells();
        let histograms = blocks.iter().flat_map(|block| block.measures.iter().flatten());
        size_of_val(blocks) + histograms.map(Histogram::bytes).sum::<usize>()
    }

    /// As they stand in the report.
    pub fn report(&self) -> Vec<report::Block> {
        let histograms = |block: &Block| {
            let named = MEASURES.iter().zip(&block.measures);
            named.filter_map(|(measure, own)| Some((measure.key.to_owned(), own.as_ref()?.pairs()))).collect()
        };
        let report = |block: &Block| report::Block {
            scheduled: block.scheduled,
            good: block.good,
            left: block.left,
            failed: block.failed,
            completion_tokens: block.completion_tokens,
            histograms: histograms(block),
        };
        self.blocks.cells().iter().map(report).collect()
    }
}
