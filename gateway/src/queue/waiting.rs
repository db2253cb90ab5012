//! What a request holds: its place while it waits, its slot while it runs.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::scheduler::{Served, TicketId};
use super::{ClassId, DISPATCHED, Grant, Outlook, Refusal, ReplicaId, Shared, Speed, refused, wake};
use crate::ledger::Count;

/// What is to be known of a request besides its place.
#[derive(Debug)]
pub(super) struct About {
    pub(super) tenant: Arc<str>,
    pub(super) class: ClassId,
    pub(super) deadline: Instant,
    pub(super) entered: Instant,
    pub(super) entry: Outlook,
    /// Whether its outcome has been counted.
    pub(super) counted: bool,
}

/// A place in the queue. Dropping it leaves the queue at once, and passes on a slot that it was just given.
///
/// Resolves to the slot, to [`Refusal::Expired`] if its turn came too late, or to [`Refusal::TooWide`] when the
/// replicas came back too small for it.
#[must_use = "dropping it leaves the queue"]
pub struct Waiting {
    pub(super) shared: Arc<Shared>,
    pub(super) id: TicketId,
    /// `None` once it is decided.
    pub(super) about: Option<About>,
}

impl Waiting {
    /// What it could expect when it entered the queue.
    pub fn entry(&self) -> Outlook {
        self.about.as_ref().map(|about| about.entry).unwrap_or_default()
    }

    /// What it can expect now.
    pub fn outlook(&self) -> Outlook {
        self.view().outlook().unwrap_or(Outlook { position: 0, wait: Some(Duration::ZERO) })
    }

    /// Leaves because its deadline has passed.
    pub fn expire(self) -> Refusal {
        Refusal::Expired { retry_after: self.shared.lock().scheduler.retry_after(self.id) }
    }

    /// Where to look for that while somebody else waits for the slot.
    pub fn view(&self) -> View {
        View { shared: Arc::clone(&self.shared), id: self.id }
    }
}

impl Future for Waiting {
    type Output = Result<Slot, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        let Some(decided) = state.decided.remove(&self.id) else {
            let stale = match state.wakers.get(&self.id) {
                Some(waker) if waker.will_wake(cx.waker()) => None,
                _ => state.wakers.insert(self.id, cx.waker().clone()),
            };
            drop(state);
            drop(stale);
            return Poll::Pending;
        };
        drop(state);
        let Some(mut about) = self.about.take() else { return Poll::Pending };
        let outcome = decided.outcome.as_ref().map_or_else(refused, |_| DISPATCHED);
        self.shared.waited(&mut about, decided.at, outcome);
        let slot = |Grant { replica, may_use_cache, served }| Slot {
            shared: Arc::clone(&self.shared),
            ticket: Some((self.id, about)),
            replica,
            may_use_cache,
            served,
        };
        Poll::Ready(decided.outcome.map(slot))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(mut about) = self.about.take() else { return };
        let (id, now) = (self.id, Instant::now());
        let mut state = self.shared.lock();
        let (stale, given) = (state.wakers.remove(&id), state.decided.remove(&id));
        let refusal = given.as_ref().and_then(|decided| decided.outcome.as_ref().err()).map(refused);
        if given.is_some_and(|decided| decided.outcome.is_ok()) {
            // Mostly it was given a moment ago.
            state.scheduler.forfeit(id, now);
        }
        state.scheduler.leave(id, now);
        // It may have been all that held up the others, also when it took nothing.
        let wakers = state.decide(now);
        drop(state);
        drop(stale);
        wake(wakers);
        let late = if now >= about.deadline { "expired" } else { "left" };
        self.shared.waited(&mut about, now, refusal.unwrap_or(late));
    }
}

/// Looks at a waiting request without holding its place.
#[derive(Clone)]
pub struct View {
    pub(super) shared: Arc<Shared>,
    pub(super) id: TicketId,
}

impl View {
    /// What the request can expect; `None` once it does not wait any more.
    pub fn outlook(&self) -> Option<Outlook> {
        self.shared.lock().scheduler.outlook(self.id, Instant::now())
    }
}

/// The right to have a request in flight on a replica. Dropping it gives the slots back and starts the next one.
#[must_use = "dropping it gives the slot back"]
pub struct Slot {
    pub(super) shared: Arc<Shared>,
    /// `None` once it has been given back.
    ticket: Option<(TicketId, About)>,
    pub(super) replica: ReplicaId,
    may_use_cache: bool,
    served: Arc<Served>,
}

impl Slot {
    /// Where the request is to be sent.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// Whether the prompt may be taken from, and left in, the cache that all tenants share on this replica. Settled
    /// when the slot is given.
    pub fn may_use_cache(&self) -> bool {
        self.may_use_cache
    }

    /// What llama-server has done for the request so far. Takes no lock: may be called for every token.
    pub fn record(&self, count: &Count) {
        self.served.record(count.prompt, count.cached, count.completion);
    }

    /// How fast it was done; to be told before the slot is dropped.
    pub fn learn(&self, speed: Speed) {
        self.shared.lock().scheduler.learn(speed);
    }

    /// Gives a slot back that was not used, and takes up the same place in the queue again: nothing was sent, because
    /// the replica refused the connection.
    pub fn unused(mut self) -> Waiting {
        let (id, about) = self.ticket.take().map_or((TicketId(u64::MAX), None), |(id, about)| (id, Some(about)));
        self.shared.change(|scheduler, now| scheduler.unused(id, now));
        Waiting { shared: Arc::clone(&self.shared), id, about }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some((id, _)) = self.ticket.take() else { return };
        self.shared.change(|scheduler, now| scheduler.finish(id, now));
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("replica", &self.replica).field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("id", &self.id).field("about", &self.about).finish_non_exhaustive()
    }
}
