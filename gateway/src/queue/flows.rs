//! Who waits, in the order in which they are to be served: classes, in each of them the flows of tenants, in each of
//! those the requests.
//!
//! Start-time fair queueing at both levels: the smallest tag goes first and is charged at once; the virtual time is the
//! start tag of the last one; who comes back is lifted to it.

use std::collections::HashMap;
use std::sync::Arc;

use super::flow::{Charge, Flow, FlowId, Lane, Place, Slab, Turn, Waiter};
use super::scheduler::TicketId;
use super::tag::{Standing, Tag};
use super::tenants::Tenants;
use super::{Class, ClassId, Ticket};
use crate::config::Order;

/// Everybody who waits or runs.
#[derive(Debug)]
pub(super) struct Flows {
    order: Order,
    pub(super) lanes: Vec<Lane>,
    /// The virtual time of the classes.
    pub(super) now: Tag,
    flows: Slab,
    pub(super) tenants: Tenants,
    waiting: HashMap<TicketId, (FlowId, Place)>,
    /// Nobody is lifted: for tests that show what the lift is for.
    #[cfg(test)]
    pub(super) no_lift: bool,
}

impl Flows {
    pub(super) fn new(order: Order, classes: Vec<Class>) -> Self {
        Self {
            order,
            lanes: classes.into_iter().map(Lane::new).collect(),
            now: Tag::ZERO,
            flows: Slab::default(),
            tenants: Tenants::default(),
            waiting: HashMap::new(),
            #[cfg(test)]
            no_lift: false,
        }
    }

    pub(super) fn get(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(id)
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (FlowId, &Flow)> {
        self.flows.iter()
    }

    /// How many requests wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn find(&self, ticket: TicketId) -> Option<(FlowId, Place)> {
        self.waiting.get(&ticket).copied()
    }

    pub(super) fn first_come(&self) -> bool {
        self.order == Order::FirstCome
    }

    /// The flow whose turn it is among those whose heads need no more slots than that.
    pub(super) fn first(&self, widest: u32) -> Option<Turn> {
        let firsts = self.lanes.iter().enumerate().filter_map(|(i, lane)| Some((i, lane, lane.first(widest)?)));
        if self.first_come() {
            return firsts.map(|(_, _, turn)| turn).min();
        }
        let rank = |(i, lane, turn): &(usize, &Lane, Turn)| {
            if lane.class.strict {
                (false, Tag::arrival(*i as u64), 0, turn.head)
            } else {
                (true, lane.standing.tag, lane.in_flight, turn.head)
            }
        };
        firsts.min_by_key(rank).map(|(_, _, turn)| turn)
    }

    /// The flow of a tenant in a class, as if it had just come if there is none yet.
    pub(super) fn flow_of(&self, tenant: &str, class: usize) -> Option<FlowId> {
        self.tenants.flows(tenant).find(|&id| self.flows.get(id).is_some_and(|flow| flow.class == class))
    }

    /// A request joins, or comes back to where it was.
    pub(super) fn join(&mut self, waiter: Box<Waiter>, stranded: bool) {
        let class = self.class_of(&waiter.ticket);
        let id = self.flow_of(&waiter.ticket.tenant, class).unwrap_or_else(|| self.create(&waiter.ticket, class));
        let deadline = (!self.first_come()).then_some(waiter.ticket.deadline);
        let place = Place { deadline, ticket: waiter.id };
        let (Some(flow), Some(lane)) = (self.flows.get_mut(id), self.lanes.get_mut(class)) else { return };
        lane.resting.remove(&(flow.standing.tag, id));
        self.waiting.insert(waiter.id, (id, place));
        self.tenants.waits(&waiter.ticket, 1);
        flow.weight = waiter.ticket.weight;
        let key = waiter.ticket.key.clone();
        if stranded {
            flow.stranded.insert(place, waiter);
        } else {
            lane.waiting = (lane.waiting.0 + 1, lane.waiting.1 + waiter.cost);
            flow.lines.entry(key.clone()).or_default().places.insert(place);
            flow.places.insert(place, waiter);
        }
        self.refresh_line(id, &key);
        self.refresh(id);
    }

    /// A request stops waiting. Its flow stays until it is told to [`rest`](Self::rest).
    pub(super) fn take(&mut self, ticket: TicketId) -> Option<Box<Waiter>> {
        let (id, _) = self.find(ticket)?;
        let waiter = self.remove(ticket);
        self.refresh(id);
        waiter
    }

    fn remove(&mut self, ticket: TicketId) -> Option<Box<Waiter>> {
        let (id, place) = self.waiting.remove(&ticket)?;
        let flow = self.flows.get_mut(id)?;
        let waiter = match flow.stranded.remove(place) {
            Some(waiter) => waiter,
            None => {
                let waiter = flow.places.remove(place)?;
                if let Some(line) = flow.lines.get_mut(&waiter.ticket.key) {
                    line.places.remove(&place);
                }
                let lane = self.lanes.get_mut(flow.class)?;
                let (count, cost) = (lane.waiting.0 - 1, lane.waiting.1 - waiter.cost);
                lane.waiting = if count == 0 { (0, 0.0) } else { (count, cost) };
                waiter
            }
        };
        self.tenants.waits(&waiter.ticket, -1);
        self.refresh_line(id, &waiter.ticket.key);
        Some(waiter)
    }

    /// A waiting request is dispatched in the turn of `first`: the virtual time moves on, what it will cost is charged,
    /// and its slots count.
    pub(super) fn dispatch(&mut self, ticket: TicketId, first: Tag, cost: f64) -> Option<(Box<Waiter>, Charge)> {
        let (id, _) = self.find(ticket)?;
        let waiter = self.remove(ticket)?;
        let fair = !self.first_come();
        let flow = self.flows.get(id)?;
        let lane = self.lanes.get_mut(flow.class)?;
        if fair {
            lane.now = lane.now.max(first);
            if !lane.class.strict {
                self.now = self.now.max(lane.standing.tag);
            }
        }
        let mut charge = Charge {
            flow: id,
            class: flow.class,
            weight: flow.weight,
            eras: (flow.standing.era(), lane.standing.era()),
            charged: (Tag::ZERO, Tag::ZERO),
        };
        self.forget_rested(charge.class);
        self.charge(&mut charge, cost);
        self.occupy(id, &waiter.ticket, i64::from(waiter.slots));
        Some((waiter, charge))
    }

    /// A request turns out to cost this much.
    pub(super) fn recharge(&mut self, charge: &mut Charge, cost: f64) {
        self.charge(charge, cost);
        self.refresh(charge.flow);
    }

    /// A dispatched request has cost this much; its slots do not count any more.
    pub(super) fn settle(&mut self, charge: &mut Charge, cost: f64, waiter: &Waiter) {
        self.charge(charge, cost);
        self.occupy(charge.flow, &waiter.ticket, -i64::from(waiter.slots));
    }

    fn charge(&mut self, charge: &mut Charge, cost: f64) {
        let (Some(flow), Some(lane)) = (self.flows.get_mut(charge.flow), self.lanes.get_mut(charge.class)) else {
            return;
        };
        let due = (Tag::of(cost, charge.weight), Tag::of(cost, lane.class.weight));
        flow.standing.charge(due.0 - charge.charged.0, charge.eras.0);
        lane.standing.charge(due.1 - charge.charged.1, charge.eras.1);
        charge.charged = due;
    }

    /// A request of the flow takes slots; with `slots` below zero, gives them back.
    fn occupy(&mut self, id: FlowId, ticket: &Ticket, slots: i64) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let add = |count: u32| u32::try_from(i64::from(count) + slots).unwrap_or_default();
        flow.in_flight = add(flow.in_flight);
        if let Some(lane) = self.lanes.get_mut(flow.class) {
            lane.in_flight = add(lane.in_flight);
        }
        self.tenants.occupies(ticket, slots);
        // The caps of the tenant and of the key hold in all classes.
        for id in self.tenants.flows(&ticket.tenant).collect::<Vec<_>>() {
            self.refresh_line(id, &ticket.key);
            self.refresh(id);
        }
    }
}

/// Keeping the order up to date.
impl Flows {
    pub(super) fn class_of(&self, ticket: &Ticket) -> usize {
        let ClassId(class) = ticket.class;
        class.min(self.lanes.len().saturating_sub(1))
    }

    fn create(&mut self, ticket: &Ticket, class: usize) -> FlowId {
        let id = self.flows.insert(Flow::new(ticket, class));
        self.tenants.add_flow(&ticket.tenant, id);
        id
    }

    /// The line of a key, or the use of its slots, has changed.
    fn refresh_line(&mut self, id: FlowId, key: &Arc<str>) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(line) = flow.lines.get_mut(key) else { return };
        if let Some(head) = line.head.take() {
            flow.heads.remove(&head);
        }
        let Some(&first) = line.places.first() else {
            flow.lines.remove(key);
            return;
        };
        let waiter = flow.places.get(&first);
        if waiter.is_some_and(|waiter| self.tenants.key_may_run(&waiter.ticket, waiter.slots)) {
            line.head = Some(first);
            flow.heads.insert(first);
        }
    }

    /// Something about a flow has changed: what it would run next, its tag or its slots.
    fn refresh(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(lane) = self.lanes.get_mut(flow.class) else { return };
        let head = flow.heads.first().and_then(|place| flow.places.get(place));
        let head = head.filter(|head| self.tenants.tenant_may_run(&head.ticket, head.slots));
        let before = flow.turn.take();
        if let Some((slots, turn)) = before
            && let Some(turns) = lane.turns.get_mut(&slots)
        {
            turns.remove(&turn);
            if turns.is_empty() {
                lane.turns.remove(&slots);
            }
        }
        let Some(head) = head else {
            flow.steady = false;
            return;
        };
        #[cfg(test)]
        let lift = !self.no_lift;
        #[cfg(not(test))]
        let lift = true;
        // Whoever had nothing that could run, for want of requests or because of a cap, has saved nothing up.
        if before.is_none() && lift {
            flow.standing.lift(lane.now);
            if lane.turns.is_empty() {
                lane.standing.lift(self.now);
            }
        }
        let tag = if self.order == Order::FirstCome { Tag::arrival(head.id.0) } else { flow.standing.tag };
        let turn = Turn { tag, in_flight: flow.in_flight, head: head.id, flow: id };
        flow.turn = Some((head.slots, turn));
        lane.turns.entry(head.slots).or_default().insert(turn);
    }

    /// To be told when a request of a flow is over or has left: a flow that has nothing left is forgotten as soon as
    /// the virtual time has caught up with it, since it would be lifted to that anyway.
    pub(super) fn rest(&mut self, id: FlowId) {
        #[cfg(test)]
        if self.no_lift {
            return;
        }
        if self.waiting.is_empty() && self.lanes.iter().all(|lane| lane.in_flight == 0) {
            self.start_over();
            return;
        }
        let Some(flow) = self.flows.get(id) else { return };
        if flow.in_flight > 0 || !flow.places.is_empty() || !flow.stranded.is_empty() {
            return;
        }
        let (tag, class) = (flow.standing.tag, flow.class);
        if let Some(lane) = self.lanes.get_mut(class) {
            lane.resting.insert((tag, id));
        }
        self.forget_rested(class);
    }

    fn forget_rested(&mut self, class: usize) {
        let Some(lane) = self.lanes.get_mut(class) else { return };
        while let Some(&(tag, id)) = lane.resting.first()
            && tag <= lane.now
        {
            lane.resting.pop_first();
            if let Some(flow) = self.flows.remove(id) {
                self.tenants.remove_flow(&flow.tenant, id);
            }
        }
    }

    /// What flows are given counts from now on.
    pub(super) fn start_look(&mut self) {
        for flow in self.flows.iter_mut() {
            (flow.got, flow.steady) = (0.0, flow.turn.is_some());
        }
    }

    /// Nobody waits and nothing runs: what was, counts no more.
    fn start_over(&mut self) {
        self.flows = Slab::default();
        self.tenants = Tenants::default();
        self.now = Tag::ZERO;
        for lane in &mut self.lanes {
            (lane.standing, lane.now) = (Standing::default(), Tag::ZERO);
            lane.resting.clear();
        }
    }
}
