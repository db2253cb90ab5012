//! The limits of one tenant or one key: what of them is used. Who calls holds the lock, of the tenant first where two
//! are held, so that a decision is one for both: nothing is taken that has to be given back a moment later, and no
//! third request is refused meanwhile because of it.

use std::num::NonZeroU32;
use std::time::Duration;

use super::bucket::{Audit, Bucket, Taken};
use super::quota::{Periods, Quota};
use super::refusal::{Limit, Refusal, Why};
use super::requests::Requests;
use super::{Need, Whose};
use crate::config::Policy;

/// By how many tokens the hold on a quota grows while a request generates: so few that hardly anything stays unused
/// at the end of a quota, so many that one lock pays for them.
const QUOTA_STEP: u64 = 64;

/// What a request holds of one side's requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taking {
    /// Its number among the requests a minute.
    request: u64,
    /// It has no place of its own yet.
    guest: bool,
}

/// What a request holds of one side's tokens.
#[derive(Debug, Default)]
pub(super) struct Held {
    bucket: Option<Taken>,
    /// Of each quota.
    quota: u64,
}

impl Held {
    /// Below so many tokens no quota has to be asked.
    pub(super) fn until(&self) -> u64 {
        self.quota
    }
}

/// What is used of one side's limits.
#[derive(Debug)]
pub(super) struct State {
    whose: Whose,
    requests: Option<Requests>,
    concurrent: Option<u32>,
    running: u32,
    /// Retries that are being read while all places are taken, probably by their first tries: as many as places.
    guests: u32,
    bucket: Option<Bucket>,
    day: Option<Quota>,
    month: Option<Quota>,
    /// Tokens that were used before the gateway was started.
    replayed: i128,
    /// Of a tenant: refusals of its requests, also those by a limit of their key.
    pub(super) refusals: [u64; Limit::ALL.len()],
}

impl State {
    pub(super) fn new(whose: Whose, policy: &Policy) -> Self {
        let quota = |limit: u64| (limit > 0).then(|| Quota::new(limit, policy.cut_at_quota));
        let tokens = policy.tokens_per_minute;
        Self {
            whose,
            requests: NonZeroU32::new(policy.requests_per_minute).map(Requests::new),
            concurrent: (policy.concurrent_requests > 0).then_some(policy.concurrent_requests),
            running: 0,
            guests: 0,
            bucket: (tokens > 0).then(|| Bucket::new(tokens)),
            day: quota(policy.tokens_per_day),
            month: quota(policy.tokens_per_month),
            replayed: 0,
            refusals: [0; Limit::ALL.len()],
        }
    }

    /// Takes a request and a place; a retry that finds none may be a guest. What is taken is for [`State::leave`] or
    /// [`State::take_back`].
    pub(super) fn enter(&mut self, is_retry: bool, now: Duration) -> Result<Taking, Refusal> {
        let full = self.full();
        let guest = full.is_some() && is_retry && self.concurrent.is_some_and(|most| self.guests < most);
        if let Some(full) = full.filter(|_| !guest) {
            return Err(full);
        }
        let taken = self.requests.as_mut().map_or(Ok(0), |requests| requests.take(now));
        let request = taken.map_err(|wait| {
            let most = self.requests.as_ref().map_or(0, Requests::limit);
            self.refusal(Limit::Requests, most, Why::Requests { wait })
        })?;
        *(if guest { &mut self.guests } else { &mut self.running }) += 1;
        Ok(Taking { request, guest })
    }

    /// Why there is no place.
    fn full(&self) -> Option<Refusal> {
        let most = self.concurrent.filter(|most| self.running >= *most)?;
        Some(self.refusal(Limit::Concurrent, u64::from(most), Why::Concurrent))
    }

    /// Why a guest cannot have a place of its own.
    pub(super) fn refuses_place(&self, taking: Taking) -> Option<Refusal> {
        self.full().filter(|_| taking.guest)
    }

    /// Gives a guest the place that [`State::refuses_place`] has found.
    pub(super) fn give_place(&mut self, taking: &mut Taking) {
        if std::mem::take(&mut taking.guest) {
            self.guests = self.guests.saturating_sub(1);
            self.running += 1;
        }
    }

    /// The request is over, and counts.
    pub(super) fn leave(&mut self, taking: Taking) {
        self.give_place_back(taking);
        if let Some(requests) = &mut self.requests {
            requests.keep(taking.request);
        }
    }

    /// The request is over, and does not count.
    pub(super) fn take_back(&mut self, taking: Taking, now: Duration) {
        self.give_place_back(taking);
        if let Some(requests) = &mut self.requests {
            requests.give_back(taking.request, now);
        }
    }

    fn give_place_back(&mut self, taking: Taking) {
        let places = if taking.guest { &mut self.guests } else { &mut self.running };
        *places = places.saturating_sub(1);
    }

    /// Why these tokens cannot be had.
    pub(super) fn refuses(&mut self, need: Need, periods: Periods, now: Duration) -> Option<Refusal> {
        // An answer that is cut off before its first token is of no use to anybody.
        let least = need.prompt.saturating_add(need.output.min(1));
        let short = self.quotas(periods).find_map(|(limit, quota, period)| {
            quota.turn_to(period);
            let left = quota.left(period);
            (least > left).then_some((limit, quota.limit, left))
        });
        if let Some((limit, most, left)) = short {
            return Some(self.refusal(limit, most, Why::Quota { prompt: need.prompt, left }));
        }
        let total = need.total();
        let bucket = self.bucket.as_mut()?;
        let wait = bucket.wait(total, now);
        let Audit { capacity, level, .. } = bucket.audit(now);
        (!wait.is_zero()).then(|| {
            let left = level.clamp(0, capacity);
            self.refusal(Limit::Tokens, whole(capacity), Why::Tokens { needed: total, left: whole(left), wait })
        })
    }

    /// Takes tokens that [`State::refuses`] has let pass.
    pub(super) fn reserve(&mut self, need: Need, periods: Periods, now: Duration) -> Held {
        let bucket = self.bucket.as_mut().map(|bucket| bucket.take(need.total(), now));
        let left = self.quotas(periods).map(|(_, quota, period)| quota.left(period)).min();
        let Some(left) = left else { return Held { bucket, quota: u64::MAX } };
        let held = need.total().min(left);
        self.quotas(periods).for_each(|(_, quota, period)| quota.hold(period, held));
        Held { bucket, quota: held }
    }

    /// A request has used all that it holds of the quotas, or more: holds what it has used, and a bit beyond it if
    /// that is left. `false`: it is not, and the request is to end.
    pub(super) fn extend(&mut self, held: &mut Held, tokens: u64, periods: Periods) -> bool {
        if held.quota > tokens {
            return true;
        }
        let used = tokens - held.quota;
        let cutting = self.quotas(periods).filter(|(_, quota, _)| quota.cuts);
        let left = cutting.map(|(_, quota, period)| quota.left(period)).min();
        let more = used.saturating_add(QUOTA_STEP).min(left.unwrap_or(u64::MAX)).max(used);
        self.quotas(periods).for_each(|(_, quota, period)| quota.hold(period, more));
        held.quota = held.quota.saturating_add(more);
        held.quota > tokens
    }

    /// A request is over and has used so many tokens.
    pub(super) fn settle(&mut self, held: &Held, tokens: u64, periods: Periods, now: Duration) {
        if let (Some(bucket), Some(taken)) = (&mut self.bucket, held.bucket) {
            bucket.settle(taken, tokens, now);
        }
        self.quotas(periods).for_each(|(_, quota, period)| quota.settle(period, held.quota, tokens));
    }

    /// Requests that an earlier process served: their sums, since the day and the month began.
    pub(super) fn restore(&mut self, (day, month): (u64, u64), periods: Periods) {
        for (limit, quota, period) in self.quotas(periods) {
            let used = if limit == Limit::Day { day } else { month };
            let used = quota.used(period).saturating_add(used);
            quota.restore(period, used);
        }
    }

    /// A request that an earlier process served at `at`, before now. To be called in the order of `at`.
    pub(super) fn replay(&mut self, tokens: u64, at: Duration) {
        if let Some(bucket) = &mut self.bucket {
            let taken = bucket.take(tokens, at);
            bucket.settle(taken, tokens, at);
            self.replayed += i128::from(tokens);
        }
    }

    /// The bucket's sums.
    pub(super) fn audit(&mut self, now: Duration) -> Option<Audit> {
        self.bucket.as_mut().map(|bucket| bucket.audit(now))
    }

    /// Tokens that the bucket has seen used since the gateway was started.
    pub(super) fn settled_since_start(&self, audit: &Audit) -> i128 {
        audit.settled - self.replayed
    }

    /// Of each quota its limit, and what is used.
    pub(super) fn quotas_used(&mut self, periods: Periods) -> impl Iterator<Item = (Limit, u64, u64)> {
        self.quotas(periods).map(|(limit, quota, period)| (limit, quota.limit, quota.used(period)))
    }

    /// The same with what running requests hold.
    pub(super) fn quotas_taken(&mut self, periods: Periods) -> impl Iterator<Item = (Limit, u64, u64)> {
        self.quotas(periods).map(|(limit, quota, period)| (limit, quota.limit, quota.taken(period)))
    }

    /// Requests at once: the limit, and how many there are.
    pub(super) fn concurrent(&self) -> Option<(u64, u64)> {
        self.concurrent.map(|most| (u64::from(most), u64::from(self.running)))
    }

    /// Requests a minute: the limit, what is left, the time until all is left.
    pub(super) fn requests_left(&self, now: Duration) -> Option<(u64, u64, Duration)> {
        let requests = self.requests.as_ref()?;
        let (left, reset) = requests.left(now);
        Some((requests.limit(), left, reset))
    }

    /// The same of tokens.
    pub(super) fn tokens_left(&mut self, now: Duration) -> Option<(u64, u64, Duration)> {
        let bucket = self.bucket.as_mut()?;
        let Audit { capacity, level, .. } = bucket.audit(now);
        Some((whole(capacity), whole(level.max(0)), bucket.reset(now)))
    }

    /// Whether it could be made anew without anybody noticing.
    pub(super) fn is_unused(&mut self, periods: Periods, now: Duration) -> bool {
        self.running + self.guests == 0
            && self.requests_left(now).is_none_or(|(limit, left, _)| left == limit)
            && self.audit(now).is_none_or(|audit| audit.level == audit.capacity && audit.open == 0)
            && self.quotas_used(periods).all(|(_, _, used)| used == 0)
    }

    fn quotas(&mut self, periods: Periods) -> impl Iterator<Item = (Limit, &mut Quota, i64)> {
        let day = self.day.as_mut().map(|quota| (Limit::Day, quota, periods.day));
        let month = self.month.as_mut().map(|quota| (Limit::Month, quota, periods.month));
        day.into_iter().chain(month)
    }

    fn refusal(&self, limit: Limit, most: u64, why: Why) -> Refusal {
        Refusal { limit, whose: self.whose, most, why }
    }
}

fn whole(tokens: i128) -> u64 {
    u64::try_from(tokens).unwrap_or(0)
}
