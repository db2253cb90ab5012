//! The order in which waiting requests get slots.
//!
//! A state machine without locks, wakers or a clock of its own: [`Queue`](super::Queue) drives it, and so do tests.
//! Start-time fair queuing for several servers (SFQ(D); Jin, Chase, Kaur 2004), by classes and then by tenants, in units
//! of work instead of requests; estimates are charged at dispatch and corrected while a request runs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use super::cost::Served;
use super::cost::Weights;
use super::flows::{Charge, FlowId, Flows, Turn, Waiter};
use super::lengths::Lengths;
use super::replicas::{Replicas, Spot};
use super::speed::Speeds;
use super::stats::Record;
use super::tag::Tag;
use super::{Load, Outlook, Refusal, ReplicaId, Settings, Speed, Ticket, Work, warm};

/// When to come back at the earliest.
pub(super) const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
/// How many flows, and how many requests of each, are looked at for a warm prompt: a decision must stay cheap.
const MAX_FLOWS_TRIED: usize = 32;
const MAX_HEADS_TRIED: usize = 4;

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

/// A request that has been charged: it runs, or slots gather for it.
#[derive(Debug)]
struct Running {
    waiter: Box<Waiter>,
    charge: Charge,
    /// Those at dispatch.
    weights: Weights,
    served: Arc<Served>,
    /// `None` while its slots gather.
    replica: Option<ReplicaId>,
    /// Units of cost that it has been charged, that it has been seen to have, and that its tenant has on record.
    charged: f64,
    seen: f64,
    recorded: f64,
}

/// The scheduler's state.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(super) settings: Settings,
    pub(super) replicas: Replicas,
    pub(super) flows: Flows,
    running: BTreeMap<TicketId, Running>,
    /// Those for which slots gather, in the order in which it was their turn.
    gathering: Vec<TicketId>,
    refused: VecDeque<(TicketId, Refusal)>,
    arrivals: u64,
    pub(super) speeds: Speeds,
    lengths: Lengths,
    last: Option<Instant>,
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
            let aside = flow.places.values().filter(|waiter| stranded(waiter) || too_wide(waiter));
            let back = flow.stranded.values().filter(|waiter| !stranded(waiter) || too_wide(waiter));
            moved.extend(aside.chain(back).map(|waiter| (waiter.id, id)));
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
                Err(Refusal::TooLong { wait, retry_after: (wait - left).max(MIN_RETRY_AFTER) })
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
                    self.begin(id, first.tag, replica)?;
                    return self.start(id, replica);
                }
                Spot::Gather(replica) => {
                    self.begin(id, first.tag, replica)?;
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
                return self.start(id, replica);
            }
            if !self.replicas.gathers(id, slots) {
                // The replica is gone, or too small now.
                let waiter = self.withdraw(id)?;
                self.rejoin(waiter, flow);
            }
        }
        None
    }

    /// Which request goes: the one whose turn it is, or one that does not jump far and is warm.
    fn choose(&mut self, first: Turn) -> TicketId {
        let chosen = self.warm_one(first).unwrap_or(first.head);
        if chosen != first.head
            && let Some(flow) = self.flows.get_mut(first.flow)
        {
            flow.passes += 1;
        }
        let served = self.flows.find(chosen).and_then(|(flow, _)| self.flows.get_mut(flow));
        if let Some(flow) = served
            && flow.turn.is_some_and(|(_, turn)| turn.head == chosen)
        {
            flow.passes = 0;
        }
        chosen
    }

    fn warm_one(&self, first: Turn) -> Option<TicketId> {
        let slack = f64::from(self.settings.locality_slack);
        let passed = self.flows.get(first.flow)?;
        if slack == 0.0 || self.flows.first_come() || passed.passes >= self.settings.locality_passes {
            return None;
        }
        let near = self.flows.lanes.get(passed.class)?.until(first.tag + Tag::of(slack, 1));
        let others = near.filter(|turn| turn.flow != first.flow);
        for turn in std::iter::once(&first).chain(others).take(MAX_FLOWS_TRIED) {
            let Some(flow) = self.flows.get(turn.flow) else { continue };
            let warm = |waiter: &&Box<Waiter>| {
                waiter.halfway.is_some_and(|link| self.replicas.is_warm(link, waiter.slots))
                    && self.flows.tenants.key_may_run(&waiter.ticket, waiter.slots)
                    && self.flows.tenants.tenant_may_run(&waiter.ticket, waiter.slots)
            };
            if turn.tag <= first.tag + Tag::of(slack, flow.weight)
                && let Some(waiter) = flow.places.values().take(MAX_HEADS_TRIED).find(warm)
            {
                return Some(waiter.id);
            }
        }
        None
    }

    /// A waiting request is to run: it leaves its place and is charged what it will probably cost there.
    fn begin(&mut self, id: TicketId, first: Tag, replica: ReplicaId) -> Option<()> {
        let (flow, _) = self.flows.find(id)?;
        let waiter = self.flows.take(id)?;
        let weights = self.speeds.weights();
        let Work { prompt, output } = waiter.ticket.work;
        let cached = (self.replicas.share(replica, &waiter.ticket) * prompt as f64) as u64;
        let charged = weights.cost(prompt, cached, output);
        self.flows.occupy(flow, &waiter.ticket, i64::from(waiter.slots));
        let charge = self.flows.charge(flow, first, charged)?;
        let served = Arc::new(Served::default());
        let running = Running { waiter, charge, weights, served, replica: None, charged, seen: 0.0, recorded: 0.0 };
        self.running.insert(id, running);
        Some(())
    }

    fn start(&mut self, id: TicketId, replica: ReplicaId) -> Option<Decision> {
        let running = self.running.get_mut(&id)?;
        running.replica = Some(replica);
        let Waiter { ticket, slots, .. } = &*running.waiter;
        let may_use_cache = self.replicas.occupy(replica, ticket, *slots);
        self.replicas.scatter(id);
        self.gathering.retain(|&gathering| gathering != id);
        Some(Decision::Start { ticket: id, replica, may_use_cache, served: running.served.clone() })
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
        self.tick(now);
        let Some(Running { replica: Some(replica), .. }) = self.running.get(&ticket) else { return };
        let replica = *replica;
        let Some(mut running) = self.running.remove(&ticket) else { return };
        self.record.given(&mut self.flows, &mut running);
        self.reconcile(&mut running);
        let Waiter { ticket, slots, .. } = &*running.waiter;
        let output = running.served.output();
        if output > 0 {
            self.lengths.learn(&ticket.tenant, ticket.surface, output as f64 / f64::from(*slots));
        }
        let flow = running.charge.flow;
        self.flows.occupy(flow, ticket, -i64::from(*slots));
        self.replicas.free(replica, *slots);
        self.flows.rest(flow);
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

    /// Undoes what was done for a request that is charged.
    fn withdraw(&mut self, id: TicketId) -> Option<Box<Waiter>> {
        let Running { mut charge, waiter, .. } = self.running.remove(&id)?;
        self.flows.recharge(&mut charge, 0.0);
        self.flows.occupy(charge.flow, &waiter.ticket, -i64::from(waiter.slots));
        self.replicas.scatter(id);
        self.gathering.retain(|&gathering| gathering != id);
        Some(waiter)
    }
}

/// What is known of requests that run.
impl Scheduler {
    /// Takes what llama-server says of the speed of one request.
    pub(crate) fn learn(&mut self, speed: Speed) {
        self.speeds.learn(speed);
    }

    /// Output tokens that each choice of a request will probably have, if it may have any number.
    pub(crate) fn expected_output(&self, tenant: &str, surface: &'static str) -> u64 {
        self.lengths.expected(tenant, surface)
    }

    /// How long the first token, and the whole answer, will probably take.
    pub(crate) fn expected_service(&self, work: Work) -> (Duration, Duration) {
        self.speeds.service(work)
    }

    /// Time has passed: what has been done meanwhile is looked at, and charged as far as it is more than was expected.
    pub(super) fn tick(&mut self, now: Instant) {
        let elapsed = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last = Some(now);
        if !elapsed.is_zero() && self.idle_with_backlog() {
            self.record.idle += elapsed;
        }
        #[cfg(test)]
        let overrun = !self.ablate.no_overrun;
        #[cfg(not(test))]
        let overrun = true;
        let mut work = 0.0;
        for running in self.running.values_mut() {
            let cost = running.served.cost(running.weights);
            work += (cost - running.seen).max(0.0);
            running.seen = cost;
            if cost > running.charged && overrun {
                running.charged = cost;
                self.flows.recharge(&mut running.charge, cost);
            }
        }
        if self.replicas.all_busy() {
            self.speeds.busy(elapsed, work, self.replicas.slots());
        }
        if self.record.is_due(now) {
            self.record_service();
            self.record.look(&mut self.flows, now);
        }
        #[cfg(test)]
        {
            self.flows.no_lift = self.ablate.no_lift;
        }
    }

    /// Measured, not assumed: a slot is free although somebody could run there.
    fn idle_with_backlog(&self) -> bool {
        let free = self.replicas.most_free();
        free > 0 && self.flows.first(free).is_some()
    }

    /// Brings the record of all tenants up to date.
    pub(super) fn record_service(&mut self) {
        for running in self.running.values_mut() {
            self.record.given(&mut self.flows, running);
        }
    }

    /// The truth, also when it is less than what was expected.
    fn reconcile(&mut self, running: &mut Running) {
        #[cfg(test)]
        if self.ablate.no_reconcile {
            return;
        }
        self.flows.recharge(&mut running.charge, running.seen);
    }

    /// Whether slots gather for it.
    pub(super) fn gathers(&self, ticket: TicketId) -> bool {
        self.gathering.contains(&ticket)
    }

    /// Units of cost that are left, for each of its slots, of the request that will probably be over first.
    pub(super) fn shortest_rest(&self) -> f64 {
        let started = self.running.values().filter(|running| running.replica.is_some());
        let rest = started.map(|running| (running.charged - running.seen).max(0.0) / f64::from(running.waiter.slots));
        rest.min_by(f64::total_cmp).unwrap_or(0.0)
    }
}

impl Record {
    /// Puts what a request has been given since the last time on the record of its tenant.
    fn given(&mut self, flows: &mut Flows, running: &mut Running) {
        let given = running.seen - running.recorded;
        if given == 0.0 {
            return;
        }
        running.recorded = running.seen;
        *self.service.entry(running.waiter.ticket.tenant.clone()).or_default() += given;
        if let Some(flow) = flows.get_mut(running.charge.flow) {
            flow.got += given;
        }
    }
}

#[cfg(test)]
impl Scheduler {
    /// Panics if what runs and what is counted as running differ, or if a cap is exceeded.
    pub(super) fn check_capacity(&self) {
        let mut tenants: BTreeMap<&str, u32> = BTreeMap::new();
        let mut keys: BTreeMap<&str, u32> = BTreeMap::new();
        for running in self.running.values() {
            let Waiter { ticket, slots, .. } = &*running.waiter;
            *tenants.entry(&ticket.tenant).or_default() += slots;
            *keys.entry(&ticket.key).or_default() += slots;
        }
        for running in self.running.values() {
            let Ticket { tenant, key, caps, .. } = &running.waiter.ticket;
            let ((of_tenant, of_key), uncapped) = ((tenants[&**tenant], keys[&**key]), caps.tenant_slots == 0);
            // Others of the tenant may have had no caps.
            let all_capped = self.running.values().all(|other| other.waiter.ticket.caps == *caps);
            assert!(uncapped || !all_capped || of_tenant <= caps.tenant_slots && of_key <= caps.key_slots);
        }
        let in_flight: u32 = self.load().iter().map(|load| load.in_flight).sum();
        let started = self.running.values().filter(|running| running.replica.is_some());
        assert!(in_flight <= started.map(|running| running.waiter.slots).sum());
        assert_eq!(self.gathering.len(), self.running.values().filter(|running| running.replica.is_none()).count());
        assert_eq!(tenants.values().sum::<u32>(), self.flows.lanes.iter().map(|lane| lane.in_flight).sum::<u32>());
    }
}
