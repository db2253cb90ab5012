//! Whether the harness itself gets to run: a task that wants to wake every 10 ms, and how late it is.
//!
//! In a closed loop no request is due at a fixed moment, so dispatch lag says nothing of a harness that is starved of CPU:
//! it would send less, read late, and call that the server's doing. This tells.

use std::time::Duration;

use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::measure::histogram::Histogram;

/// Between two moments at which it wants to wake.
const EVERY: Duration = Duration::from_millis(10);

/// Takes the pulse until `stop`; gives how late each beat was. A harness that sleeps through many beats was late for each.
pub(super) async fn pulse(clock: Clock, stop: CancellationToken) -> Histogram {
    let mut lateness = Histogram::fine();
    let mut due = clock.now() + EVERY;
    while stop.run_until_cancelled(sleep_until(clock.at(due))).await.is_some() {
        let now = clock.now();
        while due <= now {
            lateness.record(now - due);
            due += EVERY;
        }
    }
    lateness
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, sleep};
    use tokio_util::task::TaskTracker;

    #[tokio::test(start_paused = true)]
    async fn a_harness_that_stands_still_is_late_for_every_beat() {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let beating = tasks.spawn(pulse(Clock::begin(), stop.clone()));
        sleep(Duration::from_millis(1005)).await;
        // Nobody else runs while the clock goes on.
        advance(Duration::from_millis(995)).await;
        sleep(Duration::from_millis(5)).await;
        stop.cancel();
        let lateness = beating.await.unwrap().distribution();
        assert_eq!(lateness.count, 200);
        assert!(lateness.p50 < 2.0, "half of the time it was in time: {}", lateness.p50);
        assert!((980.0..=1000.0).contains(&lateness.max), "{}", lateness.max);
        assert!(lateness.p99 > 900.0, "{}", lateness.p99);
    }
}
