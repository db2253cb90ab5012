//! How the run went: what happened in each slice of time, warm-up and drain included.

use std::time::Duration;

use super::formula;
use super::histogram::{Histogram, micros};
use super::series::{Merge, Series};
use super::service::each_output_token;
use crate::record::{Ending, Record};
use crate::report;

/// The most slices. A chart has no more points that can be told apart.
const SLICES: usize = 240;
/// Microseconds of a slice in a run of up to a minute.
const WIDTH: u64 = 250_000;

/// Slices of the run.
pub struct Timeline {
    slices: Series<Slice>,
    /// When the last request was over, in microseconds.
    end: u64,
}

#[derive(Default)]
struct Slice {
    scheduled: u64,
    completed: u64,
    failed: u64,
    /// Microseconds that requests were under way, all together.
    in_flight: u64,
    /// Microseconds that they had no token yet.
    waiting: u64,
    completion_tokens: u64,
    /// Made when there is a value: most slices of a slow run have none.
    ttft_scheduled: Option<Histogram>,
}

impl Merge for Slice {
    fn merge(&mut self, later: Self) {
        self.scheduled += later.scheduled;
        self.completed += later.completed;
        self.failed += later.failed;
        self.in_flight += later.in_flight;
        self.waiting += later.waiting;
        self.completion_tokens += later.completion_tokens;
        match (&mut self.ttft_scheduled, later.ttft_scheduled) {
            (Some(own), Some(later)) => own.merge(&later),
            (own, later) => *own = own.take().or(later),
        }
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self { slices: Series::new(WIDTH, SLICES), end: 0 }
    }
}

impl Timeline {
    /// Adds a request.
    pub fn add(&mut self, record: &Record) {
        let (sent, ended) = (micros(record.sent), micros(record.ended));
        self.end = self.end.max(ended);
        self.slices.at(micros(record.scheduled)).scheduled += 1;
        match record.ending {
            Ending::Complete => self.slices.at(ended).completed += 1,
            Ending::Left => {}
            _ => self.slices.at(ended).failed += 1,
        }
        self.slices.spread(sent, ended, |slice, micros| slice.in_flight += micros);
        let first_token = record.first_token.map_or(ended, micros);
        self.slices.spread(sent, first_token, |slice, micros| slice.waiting += micros);
        each_output_token(record, |moment, tokens| self.slices.at(moment).completion_tokens += tokens);
        if let Some(ttft) = formula::ttft_scheduled(record) {
            self.slices.at(first_token).ttft_scheduled.get_or_insert_with(Histogram::coarse).record(ttft);
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let slices = self.slices.cells();
        size_of_val(slices)
            + slices.iter().filter_map(|slice| Some(slice.ttft_scheduled.as_ref()?.bytes())).sum::<usize>()
    }

    /// As it stands in the report.
    pub fn report(&self) -> report::Timeline {
        let width = self.slices.width();
        let cells = self.slices.cells();
        let counts = |of: fn(&Slice) -> u64| cells.iter().map(of).collect();
        // The last slice is averaged over the part of it that there was.
        let lasted = |index: usize| width.min(self.end.saturating_sub(index as u64 * width)).max(1);
        let averages = |of: fn(&Slice) -> u64| {
            cells.iter().enumerate().map(|(index, slice)| of(slice) as f64 / lasted(index) as f64).collect()
        };
        let quantiles = |part: f64| {
            cells.iter().map(|slice| slice.ttft_scheduled.as_ref().and_then(|ttft| ttft.quantile(part))).collect()
        };
        report::Timeline {
            slice_seconds: Duration::from_micros(width).as_secs_f64(),
            scheduled: counts(|slice| slice.scheduled),
            completed: counts(|slice| slice.completed),
            failed: counts(|slice| slice.failed),
            in_flight: averages(|slice| slice.in_flight),
            waiting: averages(|slice| slice.waiting),
            completion_tokens: counts(|slice| slice.completion_tokens),
            ttft_scheduled_p50: quantiles(0.5),
            ttft_scheduled_p95: quantiles(0.95),
        }
    }
}
