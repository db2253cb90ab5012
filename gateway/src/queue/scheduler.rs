//! The order in which waiting requests get slots.
//!
//! A state machine without locks, wakers or a clock of its own: [`Queue`](super::Queue) drives it, and so do tests.
//! Start-time fair queueing for several servers (SFQ(D); Jin, Chase, Kaur 2004), by classes and then by tenants, in units
//! of work instead of requests; estimates are charged at dispatch and corrected while a request runs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use super::cost::Served;
use super::flow::{FlowId, Waiter};
use super::flows::Flows;
use super::lengths::Lengths;
use super::replicas::{Replicas, Spot};
use super::running::Running;
use super::speed::Speeds;
use super::stats::Record;
use super::{Load, Outlook, Prefix, Refusal, ReplicaId, Settings, Speed, Ticket, Work, predict, warm};

/// A request in the queue; they are numbered in the order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct TicketId(pub(crate) u64);

/// What is to be done with a request that waits.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It gets its slots.
    Start {
        /// The request.
        ticket: TicketId,
        /// Where.
        replica: ReplicaId,
        /// Whether it may use the cache that all tenants share there.
        may_use_cache: bool,
        /// To be told what llama-server has done for it.
        served: Arc<Served>,
    },
    /// It gets none: its deadline passed, or no replica is wide enough any more.
    Refuse {
        /// The request.
        ticket: TicketId,
        /// Why.
        refusal: Refusal,
    },
}

/// Parts that tests can take out, to show what they are for.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ablation {
    /// Whoever comes back keeps the tag it had.
    pub(crate) no_lift: bool,
    /// Estimates are not corrected while a request runs.
    pub(crate) no_overrun: bool,
    /// Estimates are not corrected at the end.
    pub(crate) no_reconcile: bool,
}

/// The scheduler's state.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(super) settings: Settings,
    pub(super) replicas: Replicas,
    pub(super) flows: Flows,
    pub(super) running: BTreeMap<TicketId, Running>,
    /// Those for which slots gather, in the order in which it was their turn.
    pub(super) gathering: Vec<TicketId>,
    refused: VecDeque<(TicketId, Refusal)>,
    arrivals: u64,
    pub(super) speeds: Speeds,
    lengths: Lengths,
    pub(super) last: Option<Instant>,
    pub(super) record: Record,
    #[cfg(test)]
    pub(crate) ablate: Ablation,
}

impl Scheduler {
    /// Nobody waits, and no replica is known.
    pub(crate) fn new(mut settings: Settings) -> Self {
        if settings.classes.is_empty() {
            settings.classes.push(super::Class { name: "".into(), weight: 1, strict: false });
        }
        Self {
            replicas: Replicas::default(),
            flows: Flows::new(settings.order, settings.classes.clone()),
            settings,
            running: BTreeMap::new(),
            gathering: Vec::new(),
            refused: VecDeque::new(),
            arrivals: 0,
            speeds: Speeds::default(),
            lengths: Lengths::default(),
            last: None,
            record: Record::default(),
            #[cfg(test)]
            ablate: Ablation::default(),
        }
    }
}

/// The replicas.
impl Scheduler {
    /// Says how many slots a replica has and whether it takes requests. Slots that are taken stay taken.
    pub(crate) fn set_replica(&mut self, id: ReplicaId, total_slots: u32, ready: bool) {
        let before = self.widths();
        self.replicas.set(id, total_slots, ready);
        self.widths_changed(before);
    }

    /// The replica will not come back. What runs on it is over in its own time.
    pub(crate) fn remove_replica(&mut self, id: ReplicaId) {
        let before = self.widths();
        self.replicas.remove(id);
        self.widths_changed(before);
    }

    /// The replica was started again: its cache is empty.
    pub(crate) fn replica_restarted(&mut self, id: ReplicaId) {
        self.replicas.restarted(id);
    }

    /// How busy each replica is.
    pub(crate) fn load(&self) -> Vec<Load> {
        self.replicas.load()
    }

    fn widths(&self) -> (u32, u32) {
        (self.replicas.widest_known(), self.replicas.widest_ready())
    }

    /// Refuses waiters that no replica can hold any more, sets those aside that only one which is not ready could hold,
    /// and brings those back that a ready one can.
    fn widths_changed(&mut self, before: (u32, u32)) {
        let (known, ready) = self.widths();
        if (known, ready) == before {
            return;
        }
        let too_wide = |waiter: &Waiter| known > 0 && waiter.slots > known;
        let stranded = |waiter: &Waiter| ready > 0 && waiter.slots > ready;
        let mut moved = Vec::new();
        for (id, flow) in self.flows.all() {
            let aside = flow.places.iter().filter(|(_, waiter)| stranded(waiter) || too_wide(waiter));
            let back = flow.stranded.iter().filter(|(_, waiter)| !stranded(waiter) || too_wide(waiter));
            moved.extend(aside.chain(back).map(|(_, waiter)| (waiter.id, id)));
        }
        for (id, flow) in moved {
            let Some(waiter) = self.flows.take(id) else { continue };
            if too_wide(&waiter) {
                self.refused.push_back((id, Refusal::TooWide { slots: known }));
                self.flows.rest(flow);
            } else {
                let stranded = stranded(&waiter);
                self.flows.join(waiter, stranded);
            }
        }
    }
}

/// The way of a request.
impl Scheduler {
    /// Joins the queue. Gives what it can expect.
    ///
    /// # Errors
    /// [`Refusal::Full`], [`Refusal::TooLong`] or [`Refusal::TooWide`]: it is not in the queue then.
    pub(crate) fn enter(&mut self, mut ticket: Ticket, now: Instant) -> Result<(TicketId, Outlook), Refusal> {
        self.tick(now);
        let slots = ticket.slots.max(1);
        ticket.weight = ticket.weight.max(1);
        let bound = |cap: u32| if cap == 0 { u32::MAX } else { cap };
        let caps = bound(ticket.caps.tenant_slots).min(bound(ticket.caps.key_slots));
        let widest = bound(self.replicas.widest_known()).min(caps);
        if slots > widest {
            return Err(Refusal::TooWide { slots: widest });
        }
        let starts_now = self.starts_now(&ticket, slots);
        if !starts_now && self.flows.tenants.is_full(&ticket) {
            return Err(Refusal::Full { retry_after: self.own_turn(&ticket) });
        }
        let id = TicketId(self.arrivals);
        self.arrivals += 1;
        let waiter = self.waiter(id, ticket, slots, now);
        let deadline = waiter.ticket.deadline;
        self.join(waiter);
        if starts_now {
            return Ok((id, Outlook { position: 0, wait: Some(Duration::ZERO) }));
        }
        let outlook = self.outlook(id, now).unwrap_or_default();
        let left = deadline.saturating_duration_since(now);
        match outlook.wait.filter(|wait| *wait > left && self.replicas.most_free() < slots) {
            Some(wait) => {
                self.drop_waiter(id);
                Err(Refusal::TooLong { wait, retry_after: predict::sane(wait - left) })
            }
            None => Ok((id, outlook)),
        }
    }

    fn waiter(&self, id: TicketId, ticket: Ticket, slots: u32, now: Instant) -> Box<Waiter> {
        let cost = self.speeds.weights().cost(ticket.work.prompt, 0, ticket.work.output);
        let halfway = if ticket.private { None } else { warm::halfway(&ticket.prefix) };
        Box::new(Waiter { id, ticket, slots, entered: now, cost, halfway })
    }

    /// Whether a request that comes now would get its slots at once.
    fn starts_now(&self, ticket: &Ticket, slots: u32) -> bool {
        let free = self.replicas.most_free();
        let first =
            || self.flows.flow_of(&ticket.tenant, self.flows.class_of(ticket)).and_then(|id| self.flows.get(id));
        free >= slots
            && self.flows.first(free).is_none()
            && self.flows.tenants.tenant_may_run(ticket, slots)
            && self.flows.tenants.key_may_run(ticket, slots)
            && first().is_none_or(|flow| flow.nobody_before(&ticket.key))
    }

    fn join(&mut self, waiter: Box<Waiter>) {
        let ready = self.replicas.widest_ready();
        let stranded = ready > 0 && waiter.slots > ready;
        self.flows.join(waiter, stranded);
    }

    /// One that was withdrawn is back in its old place, unless the replicas have become too small for it.
    fn rejoin(&mut self, waiter: Box<Waiter>, flow: FlowId) {
        let known = self.replicas.widest_known();
        if known > 0 && waiter.slots > known {
            self.refused.push_back((waiter.id, Refusal::TooWide { slots: known }));
            self.flows.rest(flow);
        } else {
            self.join(waiter);
        }
    }

    /// The next decision, until there is none.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Decision> {
        self.tick(now);
        if let Some(decision) = self.next_gathered(now) {
            return Some(decision);
        }
        if let Some((ticket, refusal)) = self.refused.pop_front() {
            return Some(Decision::Refuse { ticket, refusal });
        }
        loop {
            let first = self.flows.first(self.replicas.widest_open()?)?;
            let id = self.choose(first);
            let (flow, place) = self.flows.find(id)?;
            let waiter = self.flows.get(flow)?.places.get(&place)?;
            if waiter.ticket.deadline <= now {
                let refusal = Refusal::Expired { retry_after: self.again(flow, waiter) };
                self.drop_waiter(id);
                return Some(Decision::Refuse { ticket: id, refusal });
            }
            match self.replicas.place(&waiter.ticket, waiter.slots)? {
                Spot::Start(replica) => {
                    self.begin(id, first.tag, replica, now)?;
                    return self.start(id, replica, now);
                }
                Spot::Gather(replica) => {
                    self.begin(id, first.tag, replica, now)?;
                    self.replicas.gather(replica, id);
                    self.gathering.push(id);
                }
            }
        }
    }

    /// Starts one for which enough slots have gathered.
    fn next_gathered(&mut self, now: Instant) -> Option<Decision> {
        for id in self.gathering.clone() {
            let Some(running) = self.running.get(&id) else { continue };
            let (slots, flow) = (running.waiter.slots, running.charge.flow);
            if running.waiter.ticket.deadline <= now {
                let refusal = Refusal::Expired { retry_after: self.again(flow, &running.waiter) };
                self.withdraw(id);
                self.flows.rest(flow);
                return Some(Decision::Refuse { ticket: id, refusal });
            }
            if let Some(replica) = self.replicas.gathered(id, slots) {
                return self.start(id, replica, now);
            }
            if !self.replicas.gathers(id, slots) {
                // The replica is gone, or too small now.
                let waiter = self.withdraw(id)?;
                self.rejoin(waiter, flow);
            }
        }
        None
    }

    /// A waiting request gives up. Nothing happens if it does not wait.
    pub(crate) fn leave(&mut self, ticket: TicketId, now: Instant) {
        self.tick(now);
        self.refused.retain(|(refused, _)| *refused != ticket);
        if self.flows.find(ticket).is_some() {
            self.drop_waiter(ticket);
        } else if let Some(Running { replica: None, charge, .. }) = self.running.get(&ticket) {
            let flow = charge.flow;
            self.withdraw(ticket);
            self.flows.rest(flow);
        }
    }

    fn drop_waiter(&mut self, ticket: TicketId) {
        if let Some((flow, _)) = self.flows.find(ticket) {
            self.flows.take(ticket);
            self.flows.rest(flow);
        }
    }

    /// A started request is over: what it cost is settled by its [`Served`]. Nothing happens if it does not run.
    pub(crate) fn finish(&mut self, ticket: TicketId, now: Instant) {
        let Some(running @ Running { replica: Some(replica), .. }) = self.running.get(&ticket) else { return };
        let (replica, told, output) = (*replica, !running.served.is_untold(), running.served.output());
        if !told {
            self.presume(running, now);
        }
        self.tick(now);
        let Some(mut running) = self.running.remove(&ticket) else { return };
        self.record.given(&mut self.flows, &mut running);
        let truth = self.truth(&running);
        self.flows.settle(&mut running.charge, truth, &running.waiter);
        let Waiter { ticket, slots, .. } = &*running.waiter;
        if output > 0 {
            self.lengths.learn(&ticket.tenant, ticket.surface, output as f64 / f64::from(*slots));
        }
        if told {
            self.replicas.remember(replica, ticket);
        }
        self.replicas.free(replica, *slots);
        self.flows.rest(running.charge.flow);
    }

    /// A started request never came for its slots: it pays for the time in which nobody could use them.
    pub(crate) fn forfeit(&mut self, ticket: TicketId, now: Instant) {
        if let Some(running) = self.running.get_mut(&ticket) {
            let idle = self.speeds.done_in(now.saturating_duration_since(running.since));
            running.served.record((idle * f64::from(running.waiter.slots)) as u64, 0, 0);
            // Nothing of its prompt is in a cache.
            running.waiter.ticket.prefix = Prefix::default();
        }
        self.finish(ticket, now);
    }

    /// A started request was not sent: its charge is undone, and it is back in its old place.
    pub(crate) fn unused(&mut self, ticket: TicketId, now: Instant) {
        self.tick(now);
        let Some(Running { replica: Some(replica), charge, .. }) = self.running.get(&ticket) else { return };
        let (replica, flow) = (*replica, charge.flow);
        if let Some(waiter) = self.withdraw(ticket) {
            self.replicas.free(replica, waiter.slots);
            self.rejoin(waiter, flow);
        }
    }
}

/// What is known of requests that run.
impl Scheduler {
    /// Takes what llama-server says of the speed of one request.
    pub(crate) fn learn(&mut self, speed: Speed) {
        self.speeds.learn(speed);
    }

    /// Output tokens that each choice of a request will probably have, if it may have any number.
    pub(crate) fn expected_output(&self, tenant: &Arc<str>, surface: &'static str) -> u64 {
        self.lengths.expected(tenant, surface)
    }

    /// How long the first token, and the whole answer, will probably take.
    pub(crate) fn expected_service(&self, work: Work) -> (Duration, Duration) {
        self.speeds.service(work)
    }
}
