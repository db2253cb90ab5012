//! Requests that have been charged: what they do, what they cost, and how that is undone or settled.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ReplicaId;
use super::cost::{Served, Weights};
use super::flow::{Charge, Waiter};
use super::flows::Flows;
use super::scheduler::{Decision, Scheduler, TicketId};
use super::stats::Record;
use super::tag::Tag;

/// A request that has been charged: it runs, or slots gather for it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) waiter: Box<Waiter>,
    pub(super) charge: Charge,
    /// Those at dispatch.
    pub(super) weights: Weights,
    pub(super) served: Arc<Served>,
    /// `None` while its slots gather.
    pub(super) replica: Option<ReplicaId>,
    /// When it got its slots; before that, when they began to gather.
    pub(super) since: Instant,
    /// Units of cost that it has been charged, that it has been seen to have, and that its tenant has on record.
    pub(super) charged: f64,
    pub(super) seen: f64,
    pub(super) recorded: f64,
}

impl Scheduler {
    /// A waiting request is to run: it leaves its place and is charged what it will probably cost there.
    pub(super) fn begin(&mut self, id: TicketId, first: Tag, replica: ReplicaId, now: Instant) -> Option<()> {
        let (flow, place) = self.flows.find(id)?;
        let ticket = &self.flows.get(flow)?.places.get(&place)?.ticket;
        let weights = self.speeds.weights();
        let cached = (self.replicas.share(replica, ticket) * ticket.work.prompt as f64) as u64;
        let charged = weights.cost(ticket.work.prompt, cached, ticket.work.output);
        let (waiter, charge) = self.flows.dispatch(id, first, charged)?;
        let served = Arc::new(Served::default());
        let (replica, since, seen, recorded) = (None, now, 0.0, 0.0);
        let running = Running { waiter, charge, weights, served, replica, since, charged, seen, recorded };
        self.running.insert(id, running);
        Some(())
    }

    pub(super) fn start(&mut self, id: TicketId, replica: ReplicaId, now: Instant) -> Option<Decision> {
        let running = self.running.get_mut(&id)?;
        (running.replica, running.since) = (Some(replica), now);
        let Waiter { ticket, slots, .. } = &*running.waiter;
        let may_use_cache = self.replicas.occupy(replica, ticket, *slots);
        self.replicas.scatter(id);
        self.gathering.retain(|&gathering| gathering != id);
        // From now on there is a record of its tenant, also if nothing comes of this request.
        self.record.service.entry(ticket.tenant.clone()).or_default();
        Some(Decision::Start { ticket: id, replica, may_use_cache, served: running.served.clone() })
    }

    /// Undoes what was done for a request that is charged.
    pub(super) fn withdraw(&mut self, id: TicketId) -> Option<Box<Waiter>> {
        let Running { mut charge, waiter, .. } = self.running.remove(&id)?;
        self.flows.settle(&mut charge, 0.0, &waiter);
        self.replicas.scatter(id);
        self.gathering.retain(|&gathering| gathering != id);
        Some(waiter)
    }

    /// Time has passed: what has been done meanwhile is looked at, and charged as far as it is more than was expected.
    pub(super) fn tick(&mut self, now: Instant) {
        let elapsed = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last = self.last.max(Some(now));
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

    /// llama-server was cut off, or fell silent, before it told how long the prompt was: with any output it had all of
    /// it; without, the time says how far it came.
    pub(super) fn presume(&self, running: &Running, now: Instant) {
        let Waiter { ticket, slots, .. } = &*running.waiter;
        let (prompt, told) = (ticket.work.prompt, running.served.output());
        if told > 0 {
            return running.served.record(prompt, 0, told);
        }
        let done = self.speeds.done_in(now.saturating_duration_since(running.since));
        let rest = (done - prompt as f64).max(0.0) * f64::from(*slots) / running.weights.output;
        running.served.record((done as u64).min(prompt), 0, (rest as u64).min(ticket.untold_output));
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

    /// The truth at the end, also when it is less than what was expected.
    pub(super) fn truth(&self, running: &Running) -> f64 {
        #[cfg(test)]
        if self.ablate.no_reconcile {
            return running.charged;
        }
        running.seen
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
    pub(super) fn given(&mut self, flows: &mut Flows, running: &mut Running) {
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
