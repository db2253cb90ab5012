//! Who gets a slot of a llama-server replica next: fairly, by classes and tenants, in units of work; bounded; in time.
//!
//! Takes a [`Ticket`] and gives a [`Waiting`] that becomes a [`Slot`]. llama-server queues without a bound and does
//! not notice that a queued client left, so no more requests are in flight on a replica than it has slots. This file
//! is the lock and the wakers; what goes first is the `scheduler`'s business.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{Metrics, raise};
pub use prefix::{Prefix, PrefixReader};
use scheduler::{Decision, Scheduler, Served, TicketId};
pub use ticket::{Caps, Class, ClassId, Forecast, Load, Outlook, Refusal, ReplicaId, Settings, Speed, Ticket, Work};
use waiting::About;
pub use waiting::{Slot, View, Waiting};

#[cfg(test)]
mod check;
mod choice;
mod cost;
mod flow;
mod flows;
mod lengths;
mod places;
mod predict;
mod prefix;
mod replicas;
mod running;
mod scheduler;
#[cfg(test)]
mod scheduler_tests;
#[cfg(test)]
mod sim;
mod speed;
mod stats;
mod tag;
mod tenants;
#[cfg(test)]
mod tests;
mod ticket;
mod waiting;
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
    shown: Mutex<BTreeMap<(Arc<str>, ClassId), usize>>,
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
    pub fn expected_output(&self, tenant: &Arc<str>, surface: &'static str) -> u64 {
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
    #[cfg(test)]
    pub(crate) fn depth(&self) -> usize {
        self.0.lock().scheduler.depth()
    }

    /// How busy each replica is.
    pub fn load(&self) -> Vec<Load> {
        self.0.lock().scheduler.load()
    }

    /// What requests that come now, and those that wait, can expect.
    pub fn forecast(&self) -> Forecast {
        self.0.lock().scheduler.forecast(Instant::now())
    }

    /// Brings the metrics of the queue up to date: within a [`Metrics::scrape`], one at a time.
    pub fn observe(&self) {
        let stats = self.0.lock().scheduler.stats(Instant::now());
        let metrics = &self.0.metrics;
        let mut shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.values_mut().for_each(|depth| *depth = 0);
        shown.extend(stats.depth.iter().cloned());
        for ((tenant, class), depth) in &*shown {
            metrics.queue_depth.with_label_values(&[tenant, self.0.class(*class)]).set(*depth as i64);
        }
        for (tenant, service) in &stats.service {
            raise(&metrics.service_total.with_label_values(&[tenant]), *service);
            let slots = stats.busy.get(tenant).copied().unwrap_or(0);
            metrics.tenant_slots_busy.with_label_values(&[tenant]).set(i64::from(slots));
        }
        metrics.queue_backlog.set(stats.forecast.backlog);
        for (class, wait) in &stats.forecast.waits {
            if let Some(wait) = wait {
                metrics.queue_expected_wait_seconds.with_label_values(&[class]).set(wait.as_secs_f64());
            }
        }
        raise(&metrics.slots_idle_with_backlog_seconds_total, stats.idle_with_backlog.as_secs_f64());
        metrics.virtual_time_spread.set(stats.spread);
        metrics.fairness_jain_index.set(stats.jain());
        metrics.service_rate.set(stats.rate);
        metrics.output_token_cost.set(stats.output_cost);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; and if it did, the counts would still be the best there are.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Scheduler, Instant)) {
        let now = Instant::now();
        let mut state = self.lock();
        // The time until now belongs to how things were: a slot that comes was not idle before.
        state.scheduler.tick(now);
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
            untold_output: 0,
            deadline: Instant::now() + Duration::from_secs(600),
            prefix: Prefix::default(),
            private: false,
        }
    }
}
