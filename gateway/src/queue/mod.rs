//! Who gets a slot of a llama-server replica next: first come, first served, bounded.
//!
//! Takes a [`Ticket`] and gives a [`Waiting`] that becomes a [`Slot`]. llama-server queues without a bound and does
//! not notice that a queued client left, so no more requests are in flight on a replica than it has slots.
//!
//! What always holds:
//! * the order of dispatch is the order of arrival; who needs several slots is not overtaken while they gather;
//! * no slot is idle while the head of the queue could run on it;
//! * a waiter that no ready replica could hold, even an empty one, keeps its place but holds nobody up.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[cfg(test)]
mod tests;

/// One llama-server, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub usize);

/// What a request asks of the queue.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Sequences that llama-server decodes at once for it: all on one replica, one slot each. 0 counts as 1.
    pub slots: u32,
    /// Whose request it is. First come, first served does not look at it; a fair order will.
    pub tenant: Arc<str>,
}

/// Why a request gets no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many requests wait as may wait.
    #[error("the queue is full")]
    Full,
    /// It needs more slots at once than any replica has.
    #[error("it needs more slots at once than the {slots} of the largest replica")]
    TooWide {
        /// Slots of the largest replica.
        slots: u32,
    },
}

/// How busy a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Which replica.
    pub replica: ReplicaId,
    /// Its slots.
    pub total: u32,
    /// Slots that are taken: above `total` only after the replica came back with fewer.
    pub in_flight: u32,
    /// Whether it takes requests.
    pub ready: bool,
}

/// The queue for the slots of all replicas. Cheap to clone.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    max_waiting: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    replicas: BTreeMap<ReplicaId, Replica>,
    /// By order of arrival.
    waiting: BTreeMap<u64, Waiter>,
    /// Outcomes that their waiters have not picked up yet; slots in here are in flight already.
    decided: BTreeMap<u64, Result<ReplicaId, Refusal>>,
    arrivals: u64,
}

#[derive(Default)]
struct Replica {
    total: u32,
    in_flight: u32,
    ready: bool,
}

struct Waiter {
    slots: u32,
    waker: Option<Waker>,
}

impl Queue {
    /// A queue in which at most `max_waiting` requests wait. It has no replica yet, so all of them wait.
    pub fn new(max_waiting: usize) -> Self {
        Self(Arc::new(Shared { max_waiting, state: Mutex::default() }))
    }

    /// Joins the queue.
    ///
    /// # Errors
    /// [`Refusal::Full`] if it would have to wait and too many do; [`Refusal::TooWide`] if it could never run.
    pub fn enter(&self, ticket: Ticket) -> Result<Waiting, Refusal> {
        let slots = ticket.slots.max(1);
        let mut state = self.0.lock();
        state.check_width(slots)?;
        let place = state.arrivals;
        state.arrivals += 1;
        state.waiting.insert(place, Waiter { slots, waker: None });
        let wakers = state.dispatch();
        let full = state.waiting.contains_key(&place) && state.waiting.len() > self.0.max_waiting;
        if full {
            state.waiting.remove(&place);
        }
        drop(state);
        wake(wakers);
        if full { Err(Refusal::Full) } else { Ok(Waiting { shared: Arc::clone(&self.0), place, slots }) }
    }

    /// Says how many slots a replica has and whether it takes requests. Slots that are taken stay taken: when there
    /// are fewer than before, nothing is started on it until enough have come back.
    ///
    /// Of a replica that is not ready, tell the slots it had last (0 if never known): who fits there may wait for it.
    pub fn set_replica(&self, id: ReplicaId, total_slots: u32, ready: bool) {
        let mut state = self.0.lock();
        let replica = state.replicas.entry(id).or_default();
        (replica.total, replica.ready) = (total_slots, ready);
        let mut wakers = state.refuse_too_wide();
        wakers.extend(state.dispatch());
        drop(state);
        wake(wakers);
    }

    /// How many requests wait.
    pub fn depth(&self) -> usize {
        self.0.lock().waiting.len()
    }

    /// How busy each replica is.
    pub fn load(&self) -> Vec<Load> {
        let state = self.0.lock();
        let load = |(&id, r): (&ReplicaId, &Replica)| Load {
            replica: id,
            total: r.total,
            in_flight: r.in_flight,
            ready: r.ready,
        };
        state.replicas.iter().map(load).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; and if it did, the counts would still be the best there are.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, replica: ReplicaId, slots: u32) {
        let mut state = self.lock();
        state.free(replica, slots);
        let wakers = state.dispatch();
        drop(state);
        wake(wakers);
    }
}

impl State {
    /// Starts whoever can start; their wakers are to be called when the lock is gone.
    fn dispatch(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some((place, id)) = self.next() {
            let (Some(waiter), Some(replica)) = (self.waiting.remove(&place), self.replicas.get_mut(&id)) else {
                break;
            };
            replica.in_flight += waiter.slots;
            self.decided.insert(place, Ok(id));
            wakers.extend(waiter.waker);
        }
        wakers
    }

    /// The head of the queue and the replica with the most free slots, if the head fits there.
    fn next(&self) -> Option<(u64, ReplicaId)> {
        let ready = || self.replicas.iter().filter(|(_, replica)| replica.ready);
        let widest = ready().map(|(_, replica)| replica.total).max()?;
        let (&place, head) = self.waiting.iter().find(|(_, waiter)| waiter.slots <= widest)?;
        let (&id, replica) = ready().min_by_key(|(_, replica)| Reverse(replica.free()))?;
        (replica.free() >= head.slots).then_some((place, id))
    }

    /// Refuses what is wider than every replica that is known, ready or not.
    fn check_width(&self, slots: u32) -> Result<(), Refusal> {
        let widest = self.replicas.values().map(|replica| replica.total).max().unwrap_or(0);
        if widest > 0 && slots > widest { Err(Refusal::TooWide { slots: widest }) } else { Ok(()) }
    }

    /// Refuses waiters that no replica can hold any more.
    fn refuse_too_wide(&mut self) -> Vec<Waker> {
        let refused: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|(&place, waiter)| Some((place, self.check_width(waiter.slots).err()?)))
            .collect();
        let mut wakers = Vec::new();
        for (place, refusal) in refused {
            self.decided.insert(place, Err(refusal));
            wakers.extend(self.waiting.remove(&place).and_then(|waiter| waiter.waker));
        }
        wakers
    }

    fn free(&mut self, id: ReplicaId, slots: u32) {
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.in_flight = replica.in_flight.saturating_sub(slots);
        }
    }
}

impl Replica {
    fn free(&self) -> u32 {
        self.total.saturating_sub(self.in_flight)
    }
}

/// Wakers run foreign code, so they are called without the lock.
fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// A place in the queue. Dropping it leaves the queue at once, and passes on a slot that it was just given.
///
/// Resolves to the slot, or to [`Refusal::TooWide`] when the replicas came back too small for it.
#[must_use = "dropping it leaves the queue"]
pub struct Waiting {
    shared: Arc<Shared>,
    place: u64,
    slots: u32,
}

impl Waiting {
    /// How many wait before this one: 0 is next, or has been given its slot.
    pub fn position(&self) -> usize {
        self.shared.lock().waiting.range(..self.place).count()
    }
}

impl Future for Waiting {
    type Output = Result<Slot, Refusal>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        if let Some(outcome) = state.decided.remove(&self.place) {
            drop(state);
            let slot = |replica| Slot { shared: Arc::clone(&self.shared), replica, slots: self.slots };
            return Poll::Ready(outcome.map(slot));
        }
        let mut stale = None;
        if let Some(waiter) = state.waiting.get_mut(&self.place)
            && !waiter.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            stale = waiter.waker.replace(cx.waker().clone());
        }
        drop(state);
        drop(stale);
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let left = state.waiting.remove(&self.place);
        if let Some(Ok(replica)) = state.decided.remove(&self.place) {
            state.free(replica, self.slots);
        }
        // The head may have been all that held up the others, also when it took nothing.
        let wakers = state.dispatch();
        drop(state);
        drop(left);
        wake(wakers);
    }
}

/// The right to have a request in flight on a replica. Dropping it gives the slots back and starts the next one.
#[must_use = "dropping it gives the slot back"]
pub struct Slot {
    shared: Arc<Shared>,
    replica: ReplicaId,
    slots: u32,
}

impl Slot {
    /// Where the request is to be sent.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.give_back(self.replica, self.slots);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("replica", &self.replica).field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("place", &self.place).field("slots", &self.slots).finish_non_exhaustive()
    }
}
