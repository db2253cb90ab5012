//! How long a request will probably wait, and how many go before it.

use std::time::Duration;

use tokio::time::Instant;

use super::flow::{Flow, FlowId, Lane, Place, Waiter};
use super::scheduler::{Scheduler, TicketId};
use super::tag::Tag;
use super::{Forecast, Outlook, Ticket};

/// When to come back while nothing is known of how fast replicas work.
const UNKNOWN_RETRY_AFTER: Duration = Duration::from_secs(5);

/// When to come back at the earliest, and at the latest: of what will be in many hours, nothing is known now.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// When to come back, within reason.
pub(super) fn sane(after: Duration) -> Duration {
    let (least, most) = RETRY_AFTER;
    after.clamp(least, most)
}

/// What goes before a request.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    requests: f64,
    /// Units of cost.
    work: f64,
    /// Those of its own tenant alone, which a cap of that tenant slows down.
    own: f64,
}

impl Scheduler {
    /// What a waiting request can expect; `None` if it does not wait. It is as good as the assumption that whoever has
    /// requests waiting now goes on having some.
    pub(crate) fn outlook(&mut self, ticket: TicketId, now: Instant) -> Option<Outlook> {
        if self.gathers(ticket) {
            return Some(Outlook { position: 0, wait: self.wait(&Ahead::default(), 0) });
        }
        let (id, place) = self.flows.find(ticket)?;
        self.tick(now);
        let flow = self.flows.get(id)?;
        if flow.stranded.get(&place).is_some() {
            return Some(Outlook { position: flow.stranded.before(place).0, wait: None });
        }
        let waiter = flow.places.get(&place)?;
        let ahead = self.ahead(flow, Some(place));
        let wait = self.wait(&ahead, waiter.ticket.caps.tenant_slots);
        Some(Outlook { position: ahead.requests.round() as usize, wait })
    }

    /// What a request that comes now can expect, and those that wait.
    pub(crate) fn forecast(&mut self, now: Instant) -> Forecast {
        self.tick(now);
        let free = self.replicas.most_free();
        let starts_now = free > 0 && self.flows.first(free).is_none();
        let wait = |(class, lane): (usize, &Lane)| {
            let ahead = || self.wait(&self.ahead_of_newcomer(class, lane), 0);
            (lane.class.name.clone(), if starts_now { Some(Duration::ZERO) } else { ahead() })
        };
        let backlog = self.flows.lanes.iter().map(|lane| lane.waiting.1).sum();
        let rate = self.rate();
        let drain = if backlog > 0.0 { Duration::try_from_secs_f64(backlog / rate).ok() } else { Some(Duration::ZERO) };
        Forecast { waits: self.flows.lanes.iter().enumerate().map(wait).collect(), backlog, drain }
    }

    /// Units of cost a second, of all slots together; 0 while unknown.
    pub(super) fn rate(&self) -> f64 {
        self.speeds.slot_rate().unwrap_or(0.0) * f64::from(self.replicas.slots())
    }

    /// When the first request of a tenant that has as many waiting as it may will probably have got its slot.
    pub(super) fn own_turn(&self, ticket: &Ticket) -> Duration {
        let flow = self.flows.flow_of(&ticket.tenant, self.flows.class_of(ticket)).and_then(|id| self.flows.get(id));
        let wait = flow.and_then(|flow| {
            let (&place, _) = flow.places.iter().next()?;
            self.wait(&self.ahead(flow, Some(place)), 0)
        });
        wait.map_or(UNKNOWN_RETRY_AFTER, sane)
    }

    /// When another request like this one would probably get its slot in time.
    pub(crate) fn retry_after(&self, ticket: TicketId) -> Duration {
        let found = self.flows.find(ticket).and_then(|(id, place)| Some((id, self.flows.get(id)?.places.get(&place)?)));
        found.map_or(UNKNOWN_RETRY_AFTER, |(id, waiter)| self.again(id, waiter))
    }

    /// When another request like this one, which has waited as long as it could, would probably get its slot in time.
    pub(super) fn again(&self, flow: FlowId, waiter: &Waiter) -> Duration {
        let patience = waiter.ticket.deadline.saturating_duration_since(waiter.entered);
        let wait = self.flows.get(flow).and_then(|flow| self.wait(&self.ahead(flow, None), 0));
        wait.map_or(UNKNOWN_RETRY_AFTER, |wait| sane(wait.saturating_sub(patience)))
    }

    /// What goes before this place of a flow, or before one that comes now.
    fn ahead(&self, flow: &Flow, place: Option<Place>) -> Ahead {
        let mut ahead = own(flow, place);
        ahead.own = ahead.work;
        if self.flows.first_come() {
            return self.earlier(ahead, flow, place);
        }
        let Some(lane) = self.flows.lanes.get(flow.class) else { return ahead };
        let start = flow.standing.tag.max(lane.now) + Tag::of(ahead.work, flow.weight);
        let ahead = self.own_class(ahead, start, lane, Some(flow));
        self.other_classes(ahead, flow.class, lane)
    }

    /// What goes before a request that comes now, of a tenant that has nothing waiting: it starts at the virtual time.
    fn ahead_of_newcomer(&self, class: usize, lane: &Lane) -> Ahead {
        if self.flows.first_come() {
            let waiting = self.flows.lanes.iter().map(|lane| lane.waiting);
            let (count, work) = waiting.fold((0, 0.0), |(count, work), (n, cost)| (count + n, work + cost));
            return Ahead { requests: count as f64, work, own: 0.0 };
        }
        self.other_classes(self.own_class(Ahead::default(), lane.now, lane, None), class, lane)
    }

    /// Adds what other flows of its class have to go before it.
    fn own_class(&self, mut ahead: Ahead, start: Tag, lane: &Lane, own: Option<&Flow>) -> Ahead {
        let is_own = |flow: &Flow| own.is_some_and(|own| std::ptr::eq(own, flow));
        for turn in lane.until(start) {
            let Some(other) = self.flows.get(turn.flow).filter(|other| !is_own(other)) else { continue };
            let lead = (start - turn.tag).cost(other.weight);
            ahead.add(lead, other.places.len(), other.places.cost());
        }
        ahead
    }

    /// Adds what goes before it in other classes.
    fn other_classes(&self, mut ahead: Ahead, class: usize, lane: &Lane) -> Ahead {
        let start = lane.standing.tag.max(self.flows.now) + Tag::of(ahead.work, lane.class.weight);
        for (i, other) in self.flows.lanes.iter().enumerate().filter(|(i, _)| *i != class) {
            let (count, cost) = other.waiting;
            if other.class.strict && (!lane.class.strict || i < class) {
                ahead.requests += count as f64;
                ahead.work += cost;
            } else if !lane.class.strict && other.turns().next().is_some() && other.standing.tag <= start {
                let lead = (start - other.standing.tag).cost(other.class.weight);
                ahead.add(lead, count, cost);
            }
        }
        ahead
    }

    /// Adds what came before it, where the order of arrival is all that counts.
    fn earlier(&self, mut ahead: Ahead, flow: &Flow, place: Option<Place>) -> Ahead {
        for (_, other) in self.flows.all().filter(|(_, other)| !std::ptr::eq(*other, flow)) {
            let earlier = own(other, place);
            ahead.requests += earlier.requests;
            ahead.work += earlier.work;
        }
        ahead
    }

    /// How long this takes, with all slots, or with those that the tenant may have; `None` while the speed is unknown.
    fn wait(&self, ahead: &Ahead, tenant_slots: u32) -> Option<Duration> {
        let slots = self.replicas.slots();
        let slot_rate = self.speeds.slot_rate().filter(|_| slots > 0)?;
        let residual = if self.replicas.most_free() > 0 { 0.0 } else { self.shortest_rest() / slot_rate };
        let all = ahead.work / (slot_rate * f64::from(slots));
        let own = if tenant_slots == 0 { 0.0 } else { ahead.own / (slot_rate * f64::from(tenant_slots.min(slots))) };
        Duration::try_from_secs_f64(residual + all.max(own)).ok()
    }
}

impl Ahead {
    /// Adds a flow or a class that has `lead` units of cost to go before it is level, of this many that wait.
    fn add(&mut self, lead: f64, waiting: usize, cost: f64) {
        if waiting == 0 {
            return;
        }
        let each = cost / waiting as f64;
        // It goes first when it is level, too, half of the times.
        self.work += lead + each / 2.0;
        self.requests += if each > 0.0 { (lead / each).ceil().min(waiting as f64) } else { waiting as f64 };
    }
}

/// What a flow has before this place, or at all.
fn own(flow: &Flow, place: Option<Place>) -> Ahead {
    let all = || (flow.places.len(), flow.places.cost());
    let (requests, work) = place.map_or_else(all, |place| flow.places.before(place));
    Ahead { requests: requests as f64, work, own: 0.0 }
}
