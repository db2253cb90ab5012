//! Requests a minute: governor's GCRA (the generic cell rate algorithm), with a refund.
//!
//! Governor has none, so its one number, the theoretical arrival time, lies in a store of ours. All calls are made
//! under the lock of whom the limit belongs to.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use super::peaks::Peaks;

/// The theoretical arrival time, in nanoseconds: how far the requests so far reach. Zero: there were none. Atomic only
/// because governor keeps the store to itself, so that the two hold it together.
#[derive(Clone, Debug, Default)]
struct Reach(Arc<AtomicU64>);

impl StateStore for Reach {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let reach = self.0.load(Relaxed);
        let (outcome, next) = decide((reach != 0).then(|| Nanos::from(reach)))?;
        self.0.store(next.as_u64(), Relaxed);
        Ok(outcome)
    }
}

/// Shows the time that it was given: one reading for all limits of one decision.
#[derive(Debug, Default)]
struct Given(Cell<u64>);

impl Clock for Given {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.get())
    }
}

/// One limit on requests a minute: as many at once, and `limit / 60` more each second.
#[derive(Debug)]
pub(super) struct Requests {
    limit: NonZeroU32,
    limiter: RateLimiter<NotKeyed, Reach, Given, NoOpMiddleware<Nanos>>,
    reach: Reach,
    /// Of the level `-debt()`.
    peaks: Peaks,
}

impl Requests {
    pub(super) fn new(limit: NonZeroU32) -> Self {
        let reach = Reach::default();
        let limiter = RateLimiter::new(Quota::per_minute(limit), reach.clone(), Given::default());
        Self { limit, limiter, reach, peaks: Peaks::default() }
    }

    /// Takes one request. Its number is to be handed to [`Requests::keep`] or [`Requests::give_back`], once.
    ///
    /// # Errors
    /// There is none left; the time until there is one.
    pub(super) fn take(&mut self, now: Duration) -> Result<u64, Duration> {
        self.peaks.risen(-self.debt(now));
        self.limiter.clock().0.set(nanos(now));
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(Nanos::from(nanos(now))))?;
        Ok(self.peaks.begin())
    }

    /// The request counts.
    pub(super) fn keep(&mut self, taking: u64) {
        self.peaks.end(taking, 0, 0);
    }

    /// The request does not count: all is as if it had not been taken.
    pub(super) fn give_back(&mut self, taking: u64, now: Duration) {
        self.peaks.risen(-self.debt(now));
        let refund = self.peaks.end(taking, self.interval(), 0).max(0);
        let reach = self.reach.0.load(Relaxed);
        self.reach.0.store(reach.saturating_sub(u64::try_from(refund).unwrap_or(0)), Relaxed);
    }

    /// What is left at `now`, and the time until everything is.
    pub(super) fn left(&self, now: Duration) -> (u64, Duration) {
        let debt = self.debt(now);
        let burst = self.interval() * i128::from(self.limit.get());
        let left = (burst - debt).max(0) / self.interval();
        (u64::try_from(left).unwrap_or(0), Duration::from_nanos(u64::try_from(debt).unwrap_or(u64::MAX)))
    }

    pub(super) fn limit(&self) -> u64 {
        u64::from(self.limit.get())
    }

    /// Nanoseconds until nothing is used.
    fn debt(&self, now: Duration) -> i128 {
        i128::from(self.reach.0.load(Relaxed).saturating_sub(nanos(now)))
    }

    /// Nanoseconds that one request is worth.
    fn interval(&self) -> i128 {
        i128::from(nanos(Quota::per_minute(self.limit).replenish_interval()).max(1))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(limit: u32) -> Requests {
        Requests::new(NonZeroU32::new(limit).unwrap())
    }

    #[test]
    fn a_burst_as_large_as_the_limit_passes_and_then_one_each_interval() {
        let mut requests = of(60);
        let mut now = Duration::from_secs(3600);
        for _ in 0..60 {
            let taking = requests.take(now).unwrap();
            requests.keep(taking);
        }
        assert_eq!(requests.left(now), (0, 60 * SECOND));
        assert_eq!(requests.take(now), Err(SECOND));
        now += SECOND - Duration::from_nanos(1);
        assert_eq!(requests.take(now), Err(Duration::from_nanos(1)));
        now += Duration::from_nanos(1);
        assert!(requests.take(now).is_ok());
        assert!(requests.take(now).is_err());
    }

    #[test]
    fn a_request_that_is_given_back_was_never_taken() {
        let mut requests = of(2);
        let now = Duration::from_secs(1);
        let first = requests.take(now).unwrap();
        let second = requests.take(now).unwrap();
        requests.keep(second);
        assert!(requests.take(now).is_err());
        requests.give_back(first, now + SECOND);
        assert_eq!(requests.left(now + SECOND).0, 1);
        assert!(requests.take(now + SECOND).is_ok());
        assert!(requests.take(now + SECOND).is_err());
    }

    #[test]
    fn giving_back_late_banks_nothing() {
        let mut requests = of(2);
        let early = Duration::from_secs(1);
        let held = [requests.take(early).unwrap(), requests.take(early).unwrap()];
        // A minute later both have come back by themselves, and two more are used.
        let late = early + 60 * SECOND;
        for _ in 0..2 {
            let taking = requests.take(late).unwrap();
            requests.keep(taking);
        }
        for taking in held {
            requests.give_back(taking, late);
        }
        assert_eq!(requests.left(late), (0, 60 * SECOND));
    }
}
