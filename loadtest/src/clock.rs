//! Time of a run: one instant at which it began, and what has passed since.
//!
//! Every moment in records and reports is a `Duration` since the beginning of the run, taken from the monotonic clock.
//! The wall clock is read once, for the report's head.

use std::time::Duration;

use tokio::time::Instant;

/// The beginning of a run, shared by all of its tasks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn begin() -> Self {
        Self { began: Instant::now() }
    }

    /// What has passed since the beginning.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The instant of a moment of the run, to sleep until.
    pub fn at(&self, moment: Duration) -> Instant {
        self.began + moment
    }
}

/// The wall clock, in RFC 3339 with seconds.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall_clock() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The wall clock, in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn unix_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}
