//! Wall-clock time as a parameter.
//!
//! Durations come from `tokio::time`, which tests pause and advance. Timestamps that are stored or compared
//! with stored ones (ledger rows, key expiry) come from a [`Clock`], which tests set.

use std::sync::Arc;

use jiff::Timestamp;

/// Tells the wall-clock time. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's own clock.
    #[expect(clippy::disallowed_methods, reason = "the one place where the time comes from")]
    pub fn system() -> Self {
        Self(Arc::new(Timestamp::now))
    }

    /// A clock that says what `now` says: for tests.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}
