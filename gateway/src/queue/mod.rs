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
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Order;
use crate::ledger::Count;
use crate::metrics::Metrics;
pub use prefix::{Prefix, PrefixReader};

mod prefix;

/// One llama-server. Numbers are given in the order in which replicas are found, and never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub usize);

/// A class of requests, by its place in the list of classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub usize);

/// A class of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its name: a metric label.
    pub name: Arc<str>,
    /// Its share while all classes have requests waiting.
    pub weight: u32,
    /// It goes before all that are not, and before all strict ones behind it in the list.
    pub strict: bool,
}

/// How the queue orders requests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The order.
    pub order: Order,
    /// The classes, strict ones first.
    pub classes: Vec<Class>,
    /// How far, in units of cost, a warm prompt may go before its turn.
    pub locality_slack: u32,
    /// How many times in a row the one whose turn it is may be passed over for that.
    pub locality_passes: u32,
}

/// The work of a request in tokens, as far as it is known before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Prompt tokens, cached or not.
    pub prompt: u64,
    /// Output tokens that are expected, of all choices.
    pub output: u64,
}

/// What one tenant may have in the queue. 0: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Waiting requests of the tenant.
    pub tenant_queued: u32,
    /// Waiting requests of the key.
    pub key_queued: u32,
    /// Slots in use by the tenant.
    pub tenant_slots: u32,
    /// Slots in use by the key.
    pub key_slots: u32,
}

/// What a request asks of the queue.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Whose request it is: the unit of fairness.
    pub tenant: Arc<str>,
    /// The public id of its key.
    pub key: Arc<str>,
    /// The surface's label: what is learned of output lengths is learned for each tenant and surface.
    pub surface: &'static str,
    /// Its class.
    pub class: ClassId,
    /// The tenant's share within the class.
    pub weight: u32,
    /// Sequences that llama-server decodes at once for it: all on one replica, one slot each. 0 counts as 1.
    pub slots: u32,
    /// Bounds on the tenant's requests and on those of its key.
    pub caps: Caps,
    /// What it will cost.
    pub work: Work,
    /// When it gives up waiting. Within a tenant, the earliest goes first.
    pub deadline: Instant,
    /// The beginning of its prompt, to find out where it is cached.
    pub prefix: Prefix,
    /// It shares no cached state with other tenants.
    pub private: bool,
}

/// Why a request gets no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many requests of the tenant or of the key wait as may wait.
    #[error("the queue is full")]
    Full {
        /// When one of them will probably have got its slot.
        retry_after: Duration,
    },
    /// It would wait longer than it can.
    #[error("the wait would be too long: about {wait:?}")]
    TooLong {
        /// The predicted wait.
        wait: Duration,
        /// When the wait will probably be short enough.
        retry_after: Duration,
    },
    /// Its deadline passed while it waited.
    #[error("its deadline passed")]
    Expired {
        /// When a new one would probably get its slot in time.
        retry_after: Duration,
    },
    /// It needs more slots at once than any replica has.
    #[error("it needs more slots at once than the {slots} of the largest replica")]
    TooWide {
        /// Slots of the largest replica.
        slots: u32,
    },
}

/// What a waiting request can expect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// How many go before it: 0 is next, or has been given its slot.
    pub position: usize,
    /// How long it will probably wait; `None` while nothing is known of how fast replicas work.
    pub wait: Option<Duration>,
}

/// How fast a replica worked on one request, as llama-server's timings tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    /// Prompt tokens that were computed, not taken from the cache.
    pub prompt_tokens: u64,
    /// Milliseconds that this took.
    pub prompt_ms: f64,
    /// Tokens that were generated.
    pub output_tokens: u64,
    /// Milliseconds that this took.
    pub output_ms: f64,
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
    /// An empty queue. It has no replica yet, so all requests wait.
    pub fn new(_settings: Settings, _metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared { state: Mutex::default() }))
    }

    /// Output tokens that a request of this tenant on this surface will probably have for each choice, if it may have
    /// any number: from earlier ones, or a guess.
    pub fn expected_output(&self, _tenant: &str, _surface: &'static str) -> u64 {
        256
    }

    /// How long the first token, and then the whole answer, of such a request will probably take once it has its slot.
    /// Zero while nothing is known of how fast replicas work.
    pub fn expected_service(&self, _work: Work) -> (Duration, Duration) {
        (Duration::ZERO, Duration::ZERO)
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
        let most = ticket.caps.tenant_queued as usize;
        let full = most > 0 && state.waiting.contains_key(&place) && state.waiting.len() > most;
        if full {
            state.waiting.remove(&place);
        }
        drop(state);
        wake(wakers);
        if full {
            Err(Refusal::Full { retry_after: Duration::from_secs(5) })
        } else {
            Ok(Waiting { shared: Arc::clone(&self.0), place, slots })
        }
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

    /// Forgets a replica that takes no requests and has none.
    pub fn remove_replica(&self, id: ReplicaId) {
        let mut state = self.0.lock();
        state.replicas.remove(&id);
        let wakers = state.refuse_too_wide();
        drop(state);
        wake(wakers);
    }

    /// A replica was started anew: nothing is cached there.
    pub fn replica_restarted(&self, _id: ReplicaId) {}

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
    /// What it can expect now.
    pub fn outlook(&self) -> Outlook {
        Outlook { position: self.shared.lock().waiting.range(..self.place).count(), wait: None }
    }

    /// Where to look for that while somebody else waits for the slot.
    pub fn view(&self) -> View {
        View { shared: Arc::clone(&self.shared), place: self.place }
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

/// Looks at a waiting request without holding its place.
#[derive(Clone)]
pub struct View {
    shared: Arc<Shared>,
    place: u64,
}

impl View {
    /// What the request can expect; `None` once it does not wait any more.
    pub fn outlook(&self) -> Option<Outlook> {
        let state = self.shared.lock();
        let waits = state.waiting.contains_key(&self.place);
        waits.then(|| Outlook { position: state.waiting.range(..self.place).count(), wait: None })
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

    /// Whether the prompt may be taken from, and left in, the cache that all tenants share on this replica. Settled
    /// when the slot is given.
    pub fn may_use_cache(&self) -> bool {
        true
    }

    /// What llama-server has done for the request so far. Takes no lock: may be called for every token.
    pub fn record(&self, _count: &Count) {}

    /// How fast it was done; to be told before the slot is dropped.
    pub fn learn(&self, _speed: Speed) {}

    /// Gives a slot back that was not used, and takes up the same place in the queue again: nothing was sent, because
    /// the replica refused the connection.
    pub fn unused(self) -> Waiting {
        let mut state = self.shared.lock();
        let place = state.arrivals;
        state.arrivals += 1;
        state.waiting.insert(place, Waiter { slots: self.slots, waker: None });
        drop(state);
        Waiting { shared: Arc::clone(&self.shared), place, slots: self.slots }
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

/// Tickets and queues for tests of any room.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    pub(crate) fn settings() -> Settings {
        let class = |name: &str, weight| Class { name: name.into(), weight, strict: false };
        let classes = vec![class("batch", 1), class("interactive", 8), class("standard", 4)];
        Settings { order: Order::Fair, classes, locality_slack: 0, locality_passes: 0 }
    }

    pub(crate) fn queue() -> Queue {
        Queue::new(settings(), Arc::new(Metrics::new().unwrap()))
    }

    pub(crate) fn ticket(tenant: &str, slots: u32) -> Ticket {
        Ticket {
            tenant: tenant.into(),
            key: tenant.into(),
            surface: "chat",
            class: ClassId(2),
            weight: 1,
            slots,
            caps: Caps::default(),
            work: Work { prompt: 100, output: 100 },
            deadline: Instant::now() + Duration::from_secs(600),
            prefix: Prefix::default(),
            private: false,
        }
    }
}
