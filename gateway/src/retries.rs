//! Retries of requests whose first try is still there.
//!
//! Official clients send a request again when they hear nothing, and count their tries in a header. Where something
//! between them and the gateway hides that they gave up, the first try is still being served: each retry would pile
//! more work on a server that is too slow already. So a retry takes the place of its first try, which is known by its
//! key and its body.
//!
//! Equal requests that were sent side by side on purpose must not end each other. Therefore
//! * a try that ended without an answer (refused, failed, its client gone) is owed one retry, which replaces nobody;
//! * what is replaced was tried less often than the retry, and is old enough for its client to have given it up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::surface::Fingerprint;

/// Requests whose retries are remembered. Beyond it, a retry may be taken for one that nobody owes.
const MOST_OWED: usize = 4096;
/// How long a retry is owed: clients wait 60 s for it at most.
const OWED_FOR: Duration = Duration::from_secs(90);
/// Who tries again sooner than this was never heard here: official clients retry a connection that failed after 0.5 s
/// and, the second time, 1 s.
const LEAST_AGE: Duration = Duration::from_secs(2);
/// How long a retry waits for what its first try holds. One whose client does not read is noticed later only.
const LONGEST_PARTING: Duration = Duration::from_secs(1);

/// The requests of one key that ask for the same. `None`: refused before its body was known.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Same {
    key_id: Arc<str>,
    fingerprint: Option<Fingerprint>,
}

/// One request that is being served.
struct Try {
    number: u64,
    retries: u32,
    arrived: Instant,
    replaced: CancellationToken,
    /// Whoever replaced it waits until this is dropped with it.
    parting: Option<oneshot::Sender<()>>,
}

/// What has been replaced: the token to cancel, and what tells that it is gone.
type Replacing = (CancellationToken, oneshot::Receiver<()>);

/// Retries that may still come without replacing anybody.
struct Owed {
    count: u32,
    until: Instant,
}

/// All requests that are being served, by what they ask for. Cheap to clone.
#[derive(Clone, Default)]
pub struct Retries(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By age, the oldest first. No entry is empty.
    live: HashMap<Same, Vec<Try>>,
    owed: HashMap<Same, Owed>,
    arrivals: u64,
}

impl Retries {
    /// A request is here, the `retries`-th retry of its client (0: the first try). A retry that nobody owes ends the
    /// oldest of the equal requests before it.
    pub fn arrive(&self, key_id: Arc<str>, fingerprint: Fingerprint, retries: u32) -> Live {
        let same = Same { key_id, fingerprint: Some(fingerprint) };
        let now = Instant::now();
        let replaced = CancellationToken::new();
        let mut state = self.lock();
        let replacing = if retries > 0 && !state.pay(&same, now) { state.replace(&same, retries, now) } else { None };
        let number = state.arrivals;
        state.arrivals += 1;
        let entry = Try { number, retries, arrived: now, replaced: replaced.clone(), parting: None };
        state.live.entry(same.clone()).or_default().push(entry);
        drop(state);
        let parting = replacing.map(|(first, parting)| {
            // This wakes whoever serves it, so not under the lock.
            first.cancel();
            parting
        });
        Live { retries: self.clone(), same, number, replaced, owed: AtomicBool::new(true), parting }
    }

    /// A request was refused before its body was known, and its client will probably try again.
    pub fn refused(&self, key_id: Arc<str>) {
        self.lock().owe(Same { key_id, fingerprint: None }, Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn owe(&mut self, same: Same, now: Instant) {
        if self.owed.len() >= MOST_OWED && !self.owed.contains_key(&same) {
            self.owed.retain(|_, owed| owed.until > now);
            if self.owed.len() >= MOST_OWED {
                return;
            }
        }
        let owed = self.owed.entry(same).or_insert(Owed { count: 0, until: now });
        owed.count = if owed.until > now { owed.count.saturating_add(1) } else { 1 };
        owed.until = now + OWED_FOR;
    }

    /// Whether this retry was owed; it is not any more.
    fn pay(&mut self, same: &Same, now: Instant) -> bool {
        let before_its_body = Same { key_id: same.key_id.clone(), fingerprint: None };
        [same, &before_its_body].into_iter().any(|same| {
            let Some(owed) = self.owed.get_mut(same) else { return false };
            owed.count -= 1;
            let in_time = owed.until > now;
            if owed.count == 0 || !in_time {
                self.owed.remove(same);
            }
            in_time
        })
    }

    /// Ends the oldest of those that were tried most often, but less often than this retry: its last try.
    fn replace(&mut self, same: &Same, retries: u32, now: Instant) -> Option<Replacing> {
        let given_up = |entry: &&mut Try| {
            entry.retries < retries && now.duration_since(entry.arrived) >= LEAST_AGE && entry.parting.is_none()
        };
        let equal = self.live.get_mut(same)?.iter_mut().filter(given_up);
        // Of several that are equal, `max_by_key` gives the last: seen from the young end, that is the oldest.
        let last = equal.rev().max_by_key(|entry| entry.retries)?;
        let (parting, parted) = oneshot::channel();
        last.parting = Some(parting);
        Some((last.replaced.clone(), parted))
    }
}

/// A request that is being served. Dropped without having [`ended`](Self::ended), its client has left.
pub struct Live {
    retries: Retries,
    same: Same,
    number: u64,
    replaced: CancellationToken,
    owed: AtomicBool,
    parting: Option<oneshot::Receiver<()>>,
}

impl Live {
    /// Cancelled when a retry takes the place of this request.
    pub fn replaced(&self) -> CancellationToken {
        self.replaced.clone()
    }

    /// The request is over. `retryable`: its client may try it once more.
    pub fn ended(&self, retryable: bool) {
        self.owed.store(retryable, Relaxed);
    }

    /// Waits until the request that this one replaced has given back what it held, or does not do so soon.
    pub async fn alone(&mut self) {
        if let Some(parting) = self.parting.take() {
            drop(timeout(LONGEST_PARTING, parting).await);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut state = self.retries.lock();
        let mut entry = None;
        if let Some(equal) = state.live.get_mut(&self.same) {
            let at = equal.iter().position(|entry| entry.number == self.number);
            entry = at.map(|at| equal.remove(at));
            if equal.is_empty() {
                state.live.remove(&self.same);
            }
        }
        // The retry of one that was replaced has come already.
        let replaced = entry.as_ref().is_some_and(|entry| entry.parting.is_some());
        if self.owed.load(Relaxed) && !replaced {
            state.owe(self.same.clone(), Instant::now());
        }
        drop(state);
        // This wakes whoever waits for its end, so not under the lock either.
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const BODY: Fingerprint = Fingerprint([1; 16]);

    fn arrive(retries: &Retries, tries: u32) -> Live {
        retries.arrive("key".into(), BODY, tries)
    }

    fn is_replaced(live: &Live) -> bool {
        live.replaced().is_cancelled()
    }

    async fn later() {
        advance(LEAST_AGE).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_takes_the_place_of_its_first_try() {
        let retries = Retries::default();
        let first = arrive(&retries, 0);
        later().await;
        let second = arrive(&retries, 1);
        assert!(is_replaced(&first) && !is_replaced(&second));
        later().await;
        let third = arrive(&retries, 2);
        assert!(is_replaced(&second) && !is_replaced(&third));
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_has_its_place_only_once_the_first_try_has_given_it_back() {
        let retries = Retries::default();
        let first = arrive(&retries, 0);
        later().await;
        let mut second = arrive(&retries, 1);
        let begun = Instant::now();
        tokio::join!(second.alone(), async {
            first.replaced().cancelled().await;
            advance(Duration::from_millis(300)).await;
            drop(first);
        });
        assert_eq!(begun.elapsed(), Duration::from_millis(300));
        // One that does not notice is not waited for any longer.
        later().await;
        let mut third = arrive(&retries, 2);
        third.alone().await;
        assert_eq!(begun.elapsed(), Duration::from_millis(300) + LEAST_AGE + LONGEST_PARTING);
        assert!(is_replaced(&second));
        // Who replaces nobody does not wait.
        arrive(&retries, 0).alone().await;
        assert_eq!(begun.elapsed(), Duration::from_millis(300) + LEAST_AGE + LONGEST_PARTING);
    }

    #[tokio::test(start_paused = true)]
    async fn others_are_left_alone() {
        let retries = Retries::default();
        let live = [
            retries.arrive("other".into(), BODY, 0),
            retries.arrive("key".into(), Fingerprint([2; 16]), 0),
            // It has been tried as often.
            arrive(&retries, 1),
        ];
        later().await;
        let retry = arrive(&retries, 1);
        assert!(!live.iter().any(is_replaced) && !is_replaced(&retry));
        assert!(!is_replaced(&arrive(&retries, 0)), "a first try replaces nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn equal_requests_side_by_side_do_not_end_each_other() {
        let retries = Retries::default();
        let other = arrive(&retries, 0);
        later().await;
        for end in [
            |live: Live| live.ended(true),
            // Its client left.
            |live: Live| drop(live),
        ] {
            end(arrive(&retries, 0));
            let retry = arrive(&retries, 1);
            assert!(!is_replaced(&other), "the retry was owed");
            retry.ended(false);
        }
        // Refused before anybody knew what it asks for.
        retries.refused("key".into());
        arrive(&retries, 1).ended(false);
        assert!(!is_replaced(&other));
        // Each of these owed one retry; the next is of one that is still there.
        arrive(&retries, 1).ended(false);
        assert!(is_replaced(&other));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_owes_nothing() {
        let retries = Retries::default();
        let other = arrive(&retries, 0);
        arrive(&retries, 0).ended(false);
        later().await;
        let _retry = arrive(&retries, 1);
        assert!(is_replaced(&other));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_just_come_is_not_the_one_that_was_given_up() {
        let retries = Retries::default();
        let other = arrive(&retries, 0);
        advance(LEAST_AGE - Duration::from_millis(1)).await;
        // The first try of this one never arrived.
        let _retry = arrive(&retries, 1);
        assert!(!is_replaced(&other));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_the_last_try_goes_and_of_those_the_oldest() {
        let retries = Retries::default();
        let firsts = [arrive(&retries, 0), arrive(&retries, 0)];
        retries.refused("key".into());
        let seconds = [arrive(&retries, 1), {
            retries.refused("key".into());
            arrive(&retries, 1)
        }];
        later().await;
        let _third = arrive(&retries, 2);
        assert!(!firsts.iter().any(is_replaced));
        assert_eq!(seconds.each_ref().map(is_replaced), [true, false]);
        let _another = arrive(&retries, 2);
        assert_eq!(seconds.each_ref().map(is_replaced), [true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_is_owed_for_a_while_only() {
        let retries = Retries::default();
        drop(arrive(&retries, 0));
        let other = arrive(&retries, 0);
        advance(OWED_FOR).await;
        let _retry = arrive(&retries, 1);
        assert!(is_replaced(&other));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_what_is_over_but_a_bounded_number_of_debts() {
        let retries = Retries::default();
        let many = u32::try_from(MOST_OWED).unwrap() + 10;
        for n in 0..many {
            let mut body = [0; 16];
            body[..4].copy_from_slice(&n.to_be_bytes());
            drop(retries.arrive("key".into(), Fingerprint(body), 0));
        }
        assert_eq!(retries.lock().live.len(), 0);
        assert_eq!(retries.lock().owed.len(), MOST_OWED);
        advance(OWED_FOR).await;
        drop(arrive(&retries, 0));
        assert_eq!(retries.lock().owed.len(), 1);
        arrive(&retries, 1).ended(false);
        assert_eq!(retries.lock().owed.len(), 0);
    }
}
