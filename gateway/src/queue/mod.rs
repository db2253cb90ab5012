//! Who gets a slot of a llama-server replica next: fairly, by classes and tenants, in units of work; bounded; in time.
//!
//! Takes a [`Ticket`] and gives a [`Waiting`] that becomes a [`Slot`]. llama-server queues without a bound and does
//! not notice that a queued client left, so no more requests are in flight on a replica than it has slots. This file
//! is the lock and the wakers; what goes first is the [`scheduler`]'s business.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::Count;
use crate::metrics::Metrics;
pub use prefix::{Prefix, PrefixReader};
use scheduler::{Decision, Scheduler, Served, TicketId};
pub use ticket::{Caps, Class, ClassId, Load, Outlook, Refusal, ReplicaId, Settings, Speed, Ticket, Work};

#[cfg(test)]
mod check;
mod cost;
mod flows;
mod lengths;
mod predict;
mod prefix;
mod replicas;
pub(crate) mod scheduler;
#[cfg(test)]
mod scheduler_tests;
mod speed;
mod stats;
mod tag;
mod tenants;
#[cfg(test)]
mod tests;
mod ticket;
mod warm;

/// A prediction below this is as good as none: what comes of it says nothing about predictions.
const MIN_PREDICTION: Duration = Duration::from_millis(100);

/// The queue for the slots of all replicas. Cheap to clone.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
    classes: Vec<Arc<str>>,
    /// The series that show how many wait: one that has nobody any more must say so.
    shown: Mutex<BTreeSet<(Arc<str>, ClassId)>>,
}

struct State {
    scheduler: Scheduler,
    /// Who is to be told of a decision.
    wakers: HashMap<TicketId, Waker>,
    /// Decisions that their waiters have not picked up yet; slots in here are in flight already.
    decided: HashMap<TicketId, Decided>,
}

struct Decided {
    at: Instant,
    outcome: Result<Grant, Refusal>,
}

struct Grant {
    replica: ReplicaId,
    may_use_cache: bool,
    served: Arc<Served>,
}

impl Queue {
    /// An empty queue. It has no replica yet, so all requests wait.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let classes = settings.classes.iter().map(|class| class.name.clone()).collect();
        let scheduler = Scheduler::new(settings);
        let state = Mutex::new(State { scheduler, wakers: HashMap::new(), decided: HashMap::new() });
        Self(Arc::new(Shared { state, metrics, classes, shown: Mutex::default() }))
    }

    /// Output tokens that a request of this tenant on this surface will probably have for each choice, if it may have
    /// any number: from earlier ones, or a guess.
    pub fn expected_output(&self, tenant: &str, surface: &'static str) -> u64 {
        self.0.lock().scheduler.expected_output(tenant, surface)
    }

    /// How long the first token, and then the whole answer, of such a request will probably take once it has its slot.
    /// Zero while nothing is known of how fast replicas work.
    pub fn expected_service(&self, work: Work) -> (Duration, Duration) {
        self.0.lock().scheduler.expected_service(work)
    }

    /// Joins the queue.
    ///
    /// # Errors
    /// [`Refusal::Full`] if it would have to wait and too many do; [`Refusal::TooLong`] if it would probably wait longer
    /// than it can; [`Refusal::TooWide`] if it could never run.
    pub fn enter(&self, ticket: Ticket) -> Result<Waiting, Refusal> {
        let now = Instant::now();
        let about = About {
            tenant: ticket.tenant.clone(),
            class: ticket.class,
            prompt: ticket.work.prompt,
            deadline: ticket.deadline,
            entered: now,
            entry: Outlook::default(),
            counted: false,
        };
        let mut state = self.0.lock();
        let entered = state.scheduler.enter(ticket, now);
        let wakers = state.decide(now);
        drop(state);
        wake(wakers);
        match entered {
            Ok((id, entry)) => Ok(Waiting { shared: self.0.clone(), id, about: Some(About { entry, ..about }) }),
            Err(refusal) => {
                self.0.count(&about, refused(&refusal));
                Err(refusal)
            }
        }
    }

    /// Says how many slots a replica has and whether it takes requests. Slots that are taken stay taken: when there
    /// are fewer than before, nothing is started on it until enough have come back.
    ///
    /// Of a replica that is not ready, tell the slots it had last (0 if never known): who fits there may wait for it.
    pub fn set_replica(&self, id: ReplicaId, total_slots: u32, ready: bool) {
        self.0.change(|scheduler, _| scheduler.set_replica(id, total_slots, ready));
    }

    /// Says that a replica will not come back. What runs on it is over in its own time.
    pub fn remove_replica(&self, id: ReplicaId) {
        self.0.change(|scheduler, _| scheduler.remove_replica(id));
    }

    /// Says that a replica was started again, so that its cache is empty. To be told only if that is certain: one that
    /// could not be reached for a while still has what private prompts left there.
    pub fn replica_restarted(&self, id: ReplicaId) {
        self.0.change(|scheduler, _| scheduler.replica_restarted(id));
    }

    /// How many requests wait.
    pub fn depth(&self) -> usize {
        self.0.lock().scheduler.depth()
    }

    /// How busy each replica is.
    pub fn load(&self) -> Vec<Load> {
        self.0.lock().scheduler.load()
    }

    /// Brings the metrics of the queue up to date.
    pub fn observe(&self) {
        let stats = self.0.lock().scheduler.stats(Instant::now());
        let metrics = &self.0.metrics;
        let mut shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.extend(stats.depth.keys().cloned());
        for series in &*shown {
            let depth = stats.depth.get(series).copied().unwrap_or(0);
            let (tenant, class) = series;
            metrics.queue_depth.with_label_values(&[tenant, self.0.class(*class)]).set(depth as i64);
        }
        for (tenant, service) in &stats.service {
            raise(&metrics.service_total.with_label_values(&[tenant]), *service);
        }
        raise(&metrics.slots_idle_with_backlog_seconds_total, stats.idle_with_backlog.as_secs_f64());
        metrics.virtual_time_spread.set(stats.spread);
        metrics.fairness_jain_index.set(stats.jain);
        metrics.service_rate.set(stats.rate);
        metrics.output_token_cost.set(stats.output_cost);
    }
}

/// Brings a counter up to what has been counted. To be called by one at a time.
fn raise(counter: &prometheus::Counter, counted: f64) {
    counter.inc_by((counted - counter.get()).max(0.0));
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; and if it did, the counts would still be the best there are.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Scheduler, Instant)) {
        let now = Instant::now();
        let mut state = self.lock();
        change(&mut state.scheduler, now);
        let wakers = state.decide(now);
        drop(state);
        wake(wakers);
    }

    fn class(&self, ClassId(class): ClassId) -> &str {
        self.classes.get(class).map_or("", |name| name)
    }

    /// The one outcome of a ticket.
    fn count(&self, about: &About, outcome: &str) {
        let labels = [&*about.tenant, self.class(about.class), outcome];
        self.metrics.queue_tickets_total.with_label_values(&labels).inc();
    }

    /// What came of a ticket that waited until `at`.
    fn waited(&self, about: &mut About, at: Instant, outcome: &str) {
        if std::mem::replace(&mut about.counted, true) {
            return;
        }
        let wait = at.saturating_duration_since(about.entered);
        let labels = [&*about.tenant, self.class(about.class)];
        self.metrics.queue_wait_seconds.with_label_values(&labels).observe(wait.as_secs_f64());
        self.count(about, outcome);
        let predicted = about.entry.wait.filter(|predicted| outcome == DISPATCHED && *predicted >= MIN_PREDICTION);
        if let Some(predicted) = predicted {
            self.metrics.queue_wait_ratio.observe(wait.as_secs_f64() / predicted.as_secs_f64());
        }
    }
}

const DISPATCHED: &str = "dispatched";

fn refused(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Full { .. } => "full",
        Refusal::TooLong { .. } => "too_long",
        Refusal::Expired { .. } => "expired",
        Refusal::TooWide { .. } => "too_wide",
    }
}

impl State {
    /// Starts and refuses whoever it is time for; their wakers are to be called when the lock is gone.
    fn decide(&mut self, now: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(decision) = self.scheduler.next(now) {
            let (ticket, outcome) = match decision {
                Decision::Start { ticket, replica, may_use_cache, served } => {
                    (ticket, Ok(Grant { replica, may_use_cache, served }))
                }
                Decision::Refuse { ticket, refusal } => (ticket, Err(refusal)),
            };
            self.decided.insert(ticket, Decided { at: now, outcome });
            wakers.extend(self.wakers.remove(&ticket));
        }
        wakers
    }
}

/// Wakers run foreign code, so they are called without the lock.
fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// What is to be known of a request besides its place.
#[derive(Debug)]
struct About {
    tenant: Arc<str>,
    class: ClassId,
    prompt: u64,
    deadline: Instant,
    entered: Instant,
    entry: Outlook,
    /// Whether its outcome has been counted.
    counted: bool,
}

/// A place in the queue. Dropping it leaves the queue at once, and passes on a slot that it was just given.
///
/// Resolves to the slot, to [`Refusal::Expired`] if its turn came too late, or to [`Refusal::TooWide`] when the
/// replicas came back too small for it.
#[must_use = "dropping it leaves the queue"]
pub struct Waiting {
    shared: Arc<Shared>,
    id: TicketId,
    /// `None` once it is decided.
    about: Option<About>,
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
        let slot = |Grant { replica, may_use_cache, served }| {
            let (shared, ticket) = (Arc::clone(&self.shared), Some((self.id, about)));
            Slot { shared, ticket, replica, may_use_cache, served, given: decided.at }
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
            state.scheduler.unused(id, now);
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
    shared: Arc<Shared>,
    id: TicketId,
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
    shared: Arc<Shared>,
    /// `None` once it has been given back.
    ticket: Option<(TicketId, About)>,
    replica: ReplicaId,
    may_use_cache: bool,
    served: Arc<Served>,
    given: Instant,
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
        let Some((id, about)) = self.ticket.take() else { return };
        let elapsed = self.given.elapsed();
        self.shared.change(|scheduler, now| {
            if self.served.is_untold() {
                // llama-server was cut off, or fell silent, before it told anything: the time says how far it came.
                let (whole, _) = scheduler.expected_service(Work { prompt: about.prompt, output: 0 });
                let share = elapsed.as_secs_f64() / whole.as_secs_f64();
                let share = if share.is_finite() { share.min(1.0) } else { 0.0 };
                self.served.record((about.prompt as f64 * share) as u64, 0, 0);
            }
            scheduler.finish(id, now);
        });
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

/// Tickets and queues for tests of any room.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use crate::config::Order;

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
