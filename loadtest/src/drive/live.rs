//! Counters of a run that is going on, for whoever shows its progress.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::record::Ending;

/// What has happened so far. All are counts since the beginning, but for `in_flight`.
#[derive(Debug, Default)]
pub struct Live {
    /// Requests that were due.
    pub scheduled: AtomicU64,
    /// Requests under way now, those that wait for a connection or before a further try included.
    pub in_flight: AtomicU64,
    /// The most of them at once.
    pub most_in_flight: AtomicU64,
    /// Requests whose whole reply came.
    pub completed: AtomicU64,
    /// Requests whose client left as the workload wanted.
    pub left: AtomicU64,
    /// Requests that ended in any other way.
    pub failed: AtomicU64,
    /// Events with generated content.
    pub chunks: AtomicU64,
}

impl Live {
    pub(super) fn begin(&self) {
        let now = self.in_flight.fetch_add(1, Relaxed) + 1;
        self.most_in_flight.fetch_max(now, Relaxed);
    }

    pub(super) fn end(&self, ending: &Ending) {
        self.in_flight.fetch_sub(1, Relaxed);
        let counter = match ending {
            Ending::Complete => &self.completed,
            Ending::Left => &self.left,
            _ => &self.failed,
        };
        counter.fetch_add(1, Relaxed);
    }
}
