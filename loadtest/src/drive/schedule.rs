//! What ends a run: its duration, its number of requests, whoever stops it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::workload::Workload;

pub(super) struct Schedule {
    clock: Clock,
    duration: Duration,
    /// How many requests are left, if they are limited.
    left: Option<AtomicU64>,
    /// Cancelled when none is left.
    spent: CancellationToken,
    /// Cancelled when what is still under way is given up.
    pub(super) cut: CancellationToken,
}

impl Schedule {
    pub(super) fn new(clock: Clock, workload: &Workload) -> Self {
        Self {
            clock,
            duration: workload.duration,
            left: (workload.requests > 0).then(|| AtomicU64::new(workload.requests)),
            spent: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Waits for the moment of a request, and takes it off what is left. `false`: the schedule ends before.
    ///
    /// Does not wait for a moment that has passed, so that all that is due within one tick of the timer (1 ms) goes out
    /// at once.
    pub(super) async fn reach(&self, moment: Duration) -> bool {
        if moment >= self.duration || self.spent.is_cancelled() {
            return false;
        }
        if moment > self.clock.now() {
            tokio::select! {
                () = sleep_until(self.clock.at(moment)) => {}
                () = self.spent.cancelled() => return false,
                () = self.cut.cancelled() => return false,
            }
        }
        self.claim()
    }

    fn claim(&self) -> bool {
        let Some(left) = &self.left else { return true };
        let before = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if before == Ok(1) {
            self.spent.cancel();
        }
        before.is_ok()
    }

    /// Waits until nothing is scheduled any more.
    pub(super) async fn over(&self) {
        tokio::select! {
            () = sleep_until(self.clock.at(self.duration)) => {}
            () = self.spent.cancelled() => {}
        }
    }
}
