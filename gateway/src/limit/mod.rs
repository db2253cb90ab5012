//! What a caller may still use: requests and tokens a minute, requests at once, tokens a day and a month; each for the
//! tenant as a whole and, on top of that, for the key alone.
//!
//! `Caller -> Pass -> Reservation`: a [`Pass`] holds a place among the concurrent requests, a [`Reservation`] also the
//! tokens that the request will probably use. Both give everything back by being dropped, and each token is settled
//! exactly once, whatever way a request ends.

mod bucket;
mod describe;
mod observe;
mod peaks;
mod quota;
mod refusal;
mod requests;
mod restore;
mod state;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::auth::Caller;
use crate::clock::Clock;
use crate::config::Policy;
use crate::error::Rejection;
use crate::policy::Terms;

pub use describe::Level;
pub use quota::{beginnings, endings};

use quota::Periods;
use refusal::{Refusal, longest};
use state::{Held, State, Taking};

/// How far back the ledger is read to restore the level of token buckets, in real time; in the time of the limits it
/// is the hour before the gateway was started.
const HISTORY: Duration = Duration::from_secs(3600);
/// Keys that are kept before it is looked for those that can be forgotten.
const KEYS_BEFORE_SWEEP: usize = 1024;

/// The tokens that a request will use, as far as is known before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Prompt tokens, counted by llama-server.
    pub prompt: u64,
    /// Output tokens that are expected, of all choices: never above the output cap.
    pub output: u64,
}

impl Need {
    fn total(self) -> u64 {
        self.prompt.saturating_add(self.output)
    }
}

/// To whom a limit applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Tenant,
    Key,
}

/// One whose limits are kept.
type Owner = Arc<Mutex<State>>;
/// Of one request: its tenant, and its key if that has limits of its own. Neither, if nothing is limited.
type Owners = [Option<Owner>; 2];
type Locked<'a> = [Option<MutexGuard<'a, State>>; 2];

/// Locks the tenant first, everywhere: two threads cannot wait for each other.
fn lock(owners: &Owners) -> Locked<'_> {
    owners.each_ref().map(|owner| owner.as_deref().map(lock_one))
}

fn lock_one(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refusals are counted with the tenant.
fn count(states: &mut Locked<'_>, refusal: &Refusal) {
    if let Some(tenant) = &mut states[0] {
        tenant.refusals[refusal.limit as usize] += 1;
    }
}

/// Everybody's limits. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Shared>);

struct Shared {
    clock: Clock,
    /// When [`HISTORY`] was over.
    started: Instant,
    kept: Mutex<Kept>,
}

/// Only callers with a valid key get here, so there are never more than there are keys.
struct Kept {
    /// Never forgotten: the metrics show them.
    tenants: HashMap<Arc<str>, Owner>,
    keys: HashMap<Arc<str>, Owner>,
    sweep_at: usize,
}

impl Limits {
    /// Limits of which nothing is used up.
    pub fn new(clock: Clock) -> Self {
        let kept = Kept { tenants: HashMap::new(), keys: HashMap::new(), sweep_at: KEYS_BEFORE_SWEEP };
        Self(Arc::new(Shared { clock, started: Instant::now(), kept: Mutex::new(kept) }))
    }

    /// Takes one of the requests a minute and a place among the concurrent requests. The tokens will count on the day
    /// on which the request arrived. A retry is let in without a place, as long as there are not more such guests than
    /// places: before it has been read, nobody knows whether it ends the request whose place it is to have.
    ///
    /// # Errors
    /// There is none left; nothing was taken then.
    pub fn enter(&self, caller: &Caller, terms: &Terms, is_retry: bool, arrived: Timestamp) -> Result<Pass, Rejection> {
        let owners = self.owners(caller, terms);
        let mut takings = [Taking::default(); 2];
        let refusal = self.take(&owners, is_retry, &mut takings).err();
        match refusal {
            Some(refusal) => Err(refusal.into()),
            None => Ok(Pass { limits: self.clone(), owners, takings, periods: Periods::of(arrived), over: false }),
        }
    }

    /// Takes a request and a place of each owner, or of none.
    fn take(&self, owners: &Owners, is_retry: bool, takings: &mut [Taking; 2]) -> Result<(), Refusal> {
        let mut states = lock(owners);
        let now = self.now();
        let entered = states.each_mut().map(|state| state.as_mut().map(|state| state.enter(is_retry, now)));
        let refusals = entered.iter().flatten().filter_map(|entered| entered.err());
        let Some(refusal) = longest(refusals) else {
            *takings = entered.map(|entered| entered.and_then(Result::ok).unwrap_or_default());
            return Ok(());
        };
        for (state, entered) in states.iter_mut().zip(entered) {
            if let (Some(state), Some(Ok(taking))) = (state, entered) {
                state.take_back(taking, now);
            }
        }
        count(&mut states, &refusal);
        Err(refusal)
    }

    /// What is left, as the `x-ratelimit-*` headers of an answer: of the tenant's and the key's limits the tighter one.
    pub fn tell(&self, caller: &Caller, terms: &Terms, headers: &mut HeaderMap) {
        let owners = self.owners(caller, terms);
        let mut states = lock(&owners);
        let now = self.now();
        let requests = states.each_ref().map(|state| state.as_ref()?.requests_left(now));
        let tokens = states.each_mut().map(|state| state.as_mut()?.tokens_left(now));
        drop(states);
        tell::write(tell::REQUESTS, requests, headers);
        tell::write(tell::TOKENS, tokens, headers);
    }

    /// The sums of a tenant's token bucket, if it has one and has been heard of.
    #[cfg(test)]
    fn audit(&self, tenant: &str) -> Option<bucket::Audit> {
        let owner = self.kept().tenants.get(tenant).cloned()?;
        lock_one(&owner).audit(self.now())
    }

    /// Those whose limits apply to a caller.
    fn owners(&self, caller: &Caller, terms: &Terms) -> Owners {
        let key = terms.key.as_deref().filter(|policy| limits(policy));
        if key.is_none() && !limits(&terms.tenant) {
            return [None, None];
        }
        let make = |whose, policy| move || Arc::new(Mutex::new(State::new(whose, policy)));
        let mut kept = self.kept();
        if kept.keys.len() >= kept.sweep_at {
            kept.sweep(Periods::of(self.0.clock.now()), self.now());
        }
        let tenant = find(&mut kept.tenants, &caller.tenant, make(Whose::Tenant, &terms.tenant));
        let key = key.map(|policy| find(&mut kept.keys, &caller.key_id, make(Whose::Key, policy)));
        [Some(tenant), key]
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of the limits. To be asked for under the lock under which it is used: it does not go back there.
    fn now(&self) -> Duration {
        HISTORY + self.0.started.elapsed()
    }
}

impl Kept {
    /// Forgets keys that have no request and have everything left.
    fn sweep(&mut self, periods: Periods, now: Duration) {
        // Nobody else has it, so nobody holds its lock, and nobody gets it while this map is locked.
        let unused = |owner: &Owner| Arc::strong_count(owner) == 1 && lock_one(owner).is_unused(periods, now);
        self.keys.retain(|_, owner| !unused(owner));
        self.sweep_at = KEYS_BEFORE_SWEEP.max(2 * self.keys.len());
    }
}

fn find(known: &mut HashMap<Arc<str>, Owner>, name: &Arc<str>, make: impl FnOnce() -> Owner) -> Owner {
    match known.get(name) {
        Some(owner) => owner.clone(),
        None => known.entry(name.clone()).or_insert_with(make).clone(),
    }
}

/// Whether a policy limits anything that is kept here.
fn limits(policy: &Policy) -> bool {
    policy.requests_per_minute > 0
        || policy.concurrent_requests > 0
        || policy.tokens_per_minute > 0
        || policy.tokens_per_day > 0
        || policy.tokens_per_month > 0
}

/// A request that is let in. Dropping it gives its place among the concurrent requests back.
#[must_use = "dropping it gives its place back"]
pub struct Pass {
    limits: Limits,
    owners: Owners,
    takings: [Taking; 2],
    periods: Periods,
    over: bool,
}

impl Pass {
    /// Takes a place for a retry that was let in without one.
    ///
    /// # Errors
    /// There is none; everything that was taken is given back.
    pub fn take_place(&mut self) -> Result<(), Rejection> {
        let owners = self.owners.clone();
        let mut states = lock(&owners);
        let refuses =
            |(state, taking): (&Option<MutexGuard<'_, State>>, &Taking)| state.as_ref()?.refuses_place(*taking);
        if let Some(refusal) = longest(states.iter().zip(&self.takings).filter_map(refuses)) {
            count(&mut states, &refusal);
            let now = self.limits.now();
            self.end(&mut states, false, now);
            return Err(refusal.into());
        }
        for (state, taking) in states.iter_mut().zip(&mut self.takings) {
            state.iter_mut().for_each(|state| state.give_place(taking));
        }
        Ok(())
    }

    /// The request was refused before it could be asked of llama-server: gives everything back.
    pub fn give_back(mut self) {
        let owners = self.owners.clone();
        let mut states = lock(&owners);
        let now = self.limits.now();
        self.end(&mut states, false, now);
    }

    /// Takes the tokens that the request will need.
    ///
    /// # Errors
    /// The bucket or the quota does not have them; everything that was taken is given back, the request too.
    pub fn reserve(mut self, need: Need) -> Result<Reservation, Rejection> {
        let held = self.take(need)?;
        let until = held.iter().flatten().map(Held::until).min().unwrap_or(u64::MAX);
        Ok(Reservation { pass: self, held, until, used: 0, cut: false })
    }

    /// Takes the tokens of each owner, or of none.
    fn take(&mut self, need: Need) -> Result<[Option<Held>; 2], Refusal> {
        let owners = self.owners.clone();
        let mut states = lock(&owners);
        let now = self.limits.now();
        let refusals = states.iter_mut().flatten().filter_map(|state| state.refuses(need, self.periods, now));
        let Some(refusal) = longest(refusals) else {
            return Ok(states.each_mut().map(|state| Some(state.as_mut()?.reserve(need, self.periods, now))));
        };
        count(&mut states, &refusal);
        self.end(&mut states, false, now);
        Err(refusal)
    }

    /// Gives the place back, once; and the request, if it does not count.
    fn end(&mut self, states: &mut Locked<'_>, counts: bool, now: Duration) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        for (state, taking) in states.iter_mut().zip(self.takings) {
            match state {
                Some(state) if counts => state.leave(taking),
                Some(state) => state.take_back(taking, now),
                None => {}
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.over {
            let owners = std::mem::take(&mut self.owners);
            let mut states = lock(&owners);
            let now = self.limits.now();
            self.end(&mut states, true, now);
        }
    }
}

/// The tokens that a request holds. Dropping it settles with what it was last told.
#[must_use = "dropping it settles"]
pub struct Reservation {
    pass: Pass,
    held: [Option<Held>; 2],
    /// Below so many tokens no quota has to be asked.
    until: u64,
    used: u64,
    cut: bool,
}

impl Reservation {
    /// The request has used so many tokens, prompt and output, by now. `false`: its quota is used up, and its policy
    /// wants it to end here.
    pub fn used(&mut self, tokens: u64) -> bool {
        self.used = tokens;
        if tokens < self.until {
            return true;
        }
        if !self.cut && !self.pass.over {
            self.extend(tokens);
        }
        !self.cut
    }

    /// Asks the quotas for more.
    fn extend(&mut self, tokens: u64) {
        let mut until = u64::MAX;
        for (owner, held) in self.pass.owners.iter().zip(&mut self.held) {
            if let (Some(owner), Some(held)) = (owner, held) {
                self.cut |= !lock_one(owner).extend(held, tokens, self.pass.periods);
                until = until.min(held.until());
            }
        }
        self.until = until;
    }

    /// The request is over and has used so many tokens. Only the first call counts.
    pub fn settle(&mut self, tokens: u64) {
        self.end(tokens, true);
    }

    /// The request was refused before it ran: gives back all, also the one request a minute.
    pub fn give_back(&mut self) {
        self.end(0, false);
    }

    /// Its place is free at once: a client that has read its answer may ask again before this is dropped.
    fn end(&mut self, tokens: u64, counts: bool) {
        if self.pass.over {
            return;
        }
        let owners = std::mem::take(&mut self.pass.owners);
        let mut states = lock(&owners);
        let now = self.pass.limits.now();
        for (state, held) in states.iter_mut().zip(&self.held) {
            if let (Some(state), Some(held)) = (state, held) {
                state.settle(held, tokens, self.pass.periods, now);
            }
        }
        self.pass.end(&mut states, counts, now);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.settle(self.used);
    }
}
