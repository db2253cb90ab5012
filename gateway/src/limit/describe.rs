//! What is used and what is left of a caller's limits, for the caller itself.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::quota::{Periods, endings};
use super::refusal::Limit;
use super::state::State;
use super::{Limits, Owner, lock, lock_one};
use crate::auth::Caller;
use crate::policy::Terms;

/// One limit, as far as it is used. What running requests hold counts as used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Whose limit it is: `tenant`, for all its keys together, or `key`.
    pub of: &'static str,
    /// The key in a policy that sets it.
    pub name: &'static str,
    /// Requests or tokens at most.
    pub limit: u64,
    /// How many are used; an answer may have gone over the limit.
    pub used: u64,
    /// How many are left.
    pub remaining: u64,
    /// When all of the limit is left again, if nothing more is used; `None`: as soon as the requests are over.
    pub resets_in: Option<Duration>,
}

impl Limits {
    /// All limits that bind a caller at `wall_clock`, those of its tenant first.
    pub fn describe(&self, caller: &Caller, terms: &Terms, wall_clock: Timestamp) -> Vec<Level> {
        let owners = self.owners(caller, terms);
        let mut states = lock(&owners);
        let now = self.now();
        let mut levels = Vec::new();
        for (state, of) in states.iter_mut().zip(["tenant", "key"]) {
            if let Some(state) = state {
                describe(state, of, (now, wall_clock), &mut levels);
            }
        }
        levels
    }

    /// The limits of every tenant that has some and has asked for something, at `wall_clock`.
    pub fn tenants(&self, wall_clock: Timestamp) -> Vec<(Arc<str>, Vec<Level>)> {
        let tenants: Vec<_> = self.kept().tenants.iter().map(|(name, owner)| (name.clone(), owner.clone())).collect();
        let levels = |(name, owner): (Arc<str>, Owner)| {
            let mut levels = Vec::new();
            describe(&mut lock_one(&owner), "tenant", (self.now(), wall_clock), &mut levels);
            (name, levels)
        };
        tenants.into_iter().map(levels).collect()
    }
}

fn describe(state: &mut State, of: &'static str, (now, wall_clock): (Duration, Timestamp), levels: &mut Vec<Level>) {
    let level = |limit: Limit, most: u64, used: u64, resets_in| Level {
        of,
        name: limit.label(),
        limit: most,
        used,
        remaining: most.saturating_sub(used),
        resets_in,
    };
    if let Some((most, left, reset)) = state.requests_left(now) {
        levels.push(level(Limit::Requests, most, most.saturating_sub(left), Some(reset)));
    }
    if let Some((_, _, reset)) = state.tokens_left(now)
        && let Some(audit) = state.audit(now)
    {
        let whole = |tokens: i128| u64::try_from(tokens).unwrap_or(0);
        let (most, used) = (whole(audit.capacity), whole(audit.capacity - audit.level));
        levels.push(level(Limit::Tokens, most, used, Some(reset)));
    }
    if let Some((most, running)) = state.concurrent() {
        levels.push(level(Limit::Concurrent, most, running, None));
    }
    for (limit, most, used) in state.quotas_taken(Periods::of(wall_clock)) {
        let until = endings(wall_clock).ok().map(|(day, month)| if limit == Limit::Day { day } else { month });
        let resets_in = until.and_then(|until| until.duration_since(wall_clock).try_into().ok());
        levels.push(level(limit, most, used, resets_in));
    }
}
