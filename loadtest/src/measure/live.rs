//! What can be said while the run goes on, of all requests that are over, warm-up included, beyond what `drive` counts.

use std::collections::BTreeMap;

use super::formula;
use super::histogram::Histogram;
use super::summary::Labels;
use crate::record::{Ending, Record};

/// Sums for the live progress.
pub struct Live {
    errors: Labels,
    ttft: Histogram,
}

/// How it goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Time to first token from the scheduled moment so far, in milliseconds: median; none if there was none.
    pub ttft_scheduled_p50: Option<f64>,
    /// The 95th percentile.
    pub ttft_scheduled_p95: Option<f64>,
    /// How often each kind of failure came.
    pub errors: BTreeMap<String, u64>,
}

impl Default for Live {
    fn default() -> Self {
        Self { errors: Labels::default(), ttft: Histogram::fine() }
    }
}

impl Live {
    /// Adds a request.
    pub fn add(&mut self, record: &Record) {
        if !matches!(record.ending, Ending::Complete | Ending::Left) {
            self.errors.count(record.ending.label(), 1);
        }
        if let Some(ttft) = formula::ttft_scheduled(record) {
            self.ttft.record(ttft);
        }
    }

    /// How it goes now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            ttft_scheduled_p50: self.ttft.quantile(0.5),
            ttft_scheduled_p95: self.ttft.quantile(0.95),
            errors: self.errors.0.clone(),
        }
    }
}
