//! Tokens a minute: a token bucket with a signed level, in whole tokens.
//!
//! A request takes what it will probably use, and settles once with what it used. That may leave the level below
//! zero: a debt, which the refill pays off before anything is admitted again.

use std::time::Duration;

use super::peaks::Peaks;

const NANOS_PER_MINUTE: u128 = 60_000_000_000;

/// Tokens that a request has taken from a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    tokens: i128,
    taking: u64,
}

/// All that went in and out. `level == capacity + refilled - settled - open` at any time, to the token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Tokens a minute, which is also the highest level.
    pub(super) capacity: i128,
    /// Tokens that may be taken now; below zero: a debt.
    pub(super) level: i128,
    /// What time has put in, less what it had put in for tokens that were taken and came back unused.
    pub(super) refilled: i128,
    /// Tokens that requests have used.
    pub(super) settled: i128,
    /// Tokens that running requests have taken.
    pub(super) open: i128,
}

/// A bucket that holds the tokens of one minute.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    sums: Audit,
    /// What of a token has been refilled, in tokens / [`NANOS_PER_MINUTE`].
    fraction: u128,
    refilled_at: Duration,
    peaks: Peaks,
}

impl Bucket {
    /// A bucket that is full since the beginning of time and takes in `capacity` tokens a minute.
    pub(super) fn new(capacity: u64) -> Self {
        let capacity = i128::from(capacity);
        let sums = Audit { capacity, level: capacity, ..Audit::default() };
        Self { sums, fraction: 0, refilled_at: Duration::ZERO, peaks: Peaks::default() }
    }

    /// All sums, as of `now`.
    pub(super) fn audit(&mut self, now: Duration) -> Audit {
        self.refill(now);
        self.sums
    }

    /// The time until `tokens` can be taken; zero: now. More than fit are let in when the bucket is full, since no
    /// waiting would help them more.
    pub(super) fn wait(&mut self, tokens: u64, now: Duration) -> Duration {
        self.refill(now);
        self.time_until(i128::from(tokens).min(self.sums.capacity))
    }

    /// The time until it is full.
    pub(super) fn reset(&mut self, now: Duration) -> Duration {
        self.refill(now);
        self.time_until(self.sums.capacity)
    }

    /// Takes tokens, whatever the level is.
    pub(super) fn take(&mut self, tokens: u64, now: Duration) -> Taken {
        self.refill(now);
        let tokens = i128::from(tokens);
        self.sums.level -= tokens;
        self.sums.open += tokens;
        Taken { tokens, taking: self.peaks.begin() }
    }

    /// Ends a taking: so many tokens were used.
    pub(super) fn settle(&mut self, taken: Taken, used: u64, now: Duration) {
        self.refill(now);
        let used = i128::from(used);
        let unused = taken.tokens - used;
        let refund = self.peaks.end(taken.taking, unused, self.sums.capacity);
        self.sums.open -= taken.tokens;
        self.sums.settled += used;
        self.sums.level += refund;
        self.sums.refilled += refund - unused;
        self.peaks.risen(self.sums.level);
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.refilled_at).as_nanos();
        self.refilled_at = self.refilled_at.max(now);
        let Audit { capacity, level, .. } = self.sums;
        let earned = elapsed.saturating_mul(capacity.unsigned_abs()).saturating_add(self.fraction);
        let whole = i128::try_from(earned / NANOS_PER_MINUTE).unwrap_or(i128::MAX);
        let room = capacity - level;
        // A full bucket does not save up the beginning of a token either.
        self.fraction = if whole >= room { 0 } else { earned % NANOS_PER_MINUTE };
        self.sums.level += whole.min(room);
        self.sums.refilled += whole.min(room);
        self.peaks.risen(self.sums.level);
    }

    /// The time that the refill takes to bring the level to `goal`, to the nanosecond.
    fn time_until(&self, goal: i128) -> Duration {
        let missing = (goal - self.sums.level).max(0).unsigned_abs();
        let parts = missing.saturating_mul(NANOS_PER_MINUTE).saturating_sub(self.fraction);
        let nanos = parts.div_ceil(self.sums.capacity.unsigned_abs().max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
