//! The slots of all replicas: how many are free where, and which of them a request gets.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::scheduler::TicketId;
use super::warm::Warm;
use super::{Load, ReplicaId, Ticket};

/// One replica.
#[derive(Debug, Default)]
pub(super) struct Replica {
    total: u32,
    in_flight: u32,
    started: u64,
    ready: bool,
    /// Slots are gathered on it for this one; it starts nothing else meanwhile.
    gathers: Option<TicketId>,
    /// It has had a prompt that shares no cached state with others, so nobody uses its cache.
    tainted: bool,
    warm: Warm,
    /// It is gone for good as soon as nothing runs on it any more.
    removed: bool,
}

impl Replica {
    fn free(&self) -> u32 {
        self.total.saturating_sub(self.in_flight)
    }

    fn open(&self) -> bool {
        self.ready && self.gathers.is_none()
    }

    /// Which share of the prompt this request would find in the cache.
    fn share(&self, ticket: &Ticket) -> f64 {
        if self.tainted || ticket.private { 0.0 } else { self.warm.share(&ticket.prefix) }
    }

    /// Among equally free ones, the larger is the better place.
    fn affinity(&self, ticket: &Ticket) -> f64 {
        match (ticket.private, self.tainted) {
            (true, true) => 1.0,
            (true, false) => 0.0,
            // What will be cached there is of use to nobody.
            (false, true) => -1.0,
            (false, false) => self.share(ticket),
        }
    }
}

/// Where a request goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// It can start there.
    Start(ReplicaId),
    /// Not enough slots are free anywhere: they are to gather there.
    Gather(ReplicaId),
}

/// All replicas.
#[derive(Debug, Default)]
pub(super) struct Replicas(BTreeMap<ReplicaId, Replica>);

impl Replicas {
    pub(super) fn set(&mut self, id: ReplicaId, total: u32, ready: bool) {
        let replica = self.0.entry(id).or_default();
        (replica.total, replica.ready, replica.removed) = (total, ready, false);
    }

    /// It will not come back. What runs on it is over in its own time.
    pub(super) fn remove(&mut self, id: ReplicaId) {
        if let Some(replica) = self.0.get_mut(&id) {
            *replica = Replica { in_flight: replica.in_flight, gathers: replica.gathers, ..Replica::default() };
            replica.removed = true;
            self.sweep(id);
        }
    }

    /// It was started again, so its cache is empty.
    pub(super) fn restarted(&mut self, id: ReplicaId) {
        if let Some(replica) = self.0.get_mut(&id) {
            (replica.tainted, replica.warm) = (false, Warm::default());
        }
    }

    fn sweep(&mut self, id: ReplicaId) {
        if self.0.get(&id).is_some_and(|replica| replica.removed && replica.in_flight == 0) {
            self.0.remove(&id);
        }
    }

    pub(super) fn load(&self) -> Vec<Load> {
        let load = |(&replica, r): (&ReplicaId, &Replica)| Load {
            replica,
            total: r.total,
            in_flight: r.in_flight,
            started: r.started,
            ready: r.ready,
        };
        self.0.iter().filter(|(_, replica)| !replica.removed).map(load).collect()
    }

    fn ready(&self) -> impl Iterator<Item = &Replica> {
        self.0.values().filter(|replica| replica.ready)
    }

    /// Slots of all ready replicas.
    pub(super) fn slots(&self) -> u32 {
        self.ready().map(|replica| replica.total).sum()
    }

    /// Whether there are slots and all of them are in use.
    pub(super) fn all_busy(&self) -> bool {
        self.slots() > 0 && self.ready().all(|replica| replica.free() == 0)
    }

    /// Slots of the largest replica that is known, ready or not; 0: none is.
    pub(super) fn widest_known(&self) -> u32 {
        self.0.values().map(|replica| replica.total).max().unwrap_or(0)
    }

    /// Slots of the largest ready replica; 0: none is.
    pub(super) fn widest_ready(&self) -> u32 {
        self.ready().map(|replica| replica.total).max().unwrap_or(0)
    }

    /// How many slots what is started now, or begins to gather them, may need; `None` if no slot is free.
    pub(super) fn widest_open(&self) -> Option<u32> {
        let open = || self.0.values().filter(|replica| replica.open());
        open().any(|replica| replica.free() > 0).then(|| open().map(|replica| replica.total).max())?
    }

    /// The most slots that are free on one replica which may start something.
    pub(super) fn most_free(&self) -> u32 {
        self.0.values().filter(|replica| replica.open()).map(Replica::free).max().unwrap_or(0)
    }

    /// The least loaded replica, and among those the one that suits the prompt.
    pub(super) fn place(&self, ticket: &Ticket, slots: u32) -> Option<Spot> {
        let wide = self.0.iter().filter(|(_, replica)| replica.open() && replica.total >= slots);
        let best = wide.max_by(|(a_id, a), (b_id, b)| {
            let free = a.free().cmp(&b.free());
            free.then_with(|| a.affinity(ticket).total_cmp(&b.affinity(ticket))).then(Reverse(a_id).cmp(&Reverse(b_id)))
        });
        best.map(|(&id, replica)| if replica.free() >= slots { Spot::Start(id) } else { Spot::Gather(id) })
    }

    /// How many prompts ago a replica with this many free slots used everything up to this link; `None` if none is known
    /// to have it. With the most that are free on any, it is one on which a request would be placed.
    pub(super) fn age(&self, link: u32, free: u32) -> Option<u64> {
        let open = self.0.values().filter(|replica| replica.open() && replica.free() == free && !replica.tainted);
        open.filter_map(|replica| replica.warm.age(link)).min()
    }

    /// Which share of its prompt a request would find in the cache of a replica.
    pub(super) fn share(&self, id: ReplicaId, ticket: &Ticket) -> f64 {
        self.0.get(&id).map_or(0.0, |replica| replica.share(ticket))
    }

    /// From now on, slots gather there for this request alone.
    pub(super) fn gather(&mut self, id: ReplicaId, ticket: TicketId) {
        if let Some(replica) = self.0.get_mut(&id) {
            replica.gathers = Some(ticket);
        }
    }

    /// Whether slots can still gather for this request, wherever they do.
    pub(super) fn gathers(&self, ticket: TicketId, slots: u32) -> bool {
        self.ready().any(|replica| replica.gathers == Some(ticket) && replica.total >= slots)
    }

    /// Where a request for which slots gather can start now.
    pub(super) fn gathered(&self, ticket: TicketId, slots: u32) -> Option<ReplicaId> {
        let may = |replica: &Replica| replica.gathers.is_none_or(|other| other == ticket);
        let spot = self.0.iter().filter(|(_, replica)| replica.ready && replica.free() >= slots && may(replica));
        spot.max_by_key(|(id, replica)| (replica.gathers.is_some(), Reverse(**id))).map(|(&id, _)| id)
    }

    /// No slots are to gather for this request any more.
    pub(super) fn scatter(&mut self, ticket: TicketId) {
        for replica in self.0.values_mut().filter(|replica| replica.gathers == Some(ticket)) {
            replica.gathers = None;
        }
    }

    /// Takes slots; says whether the request may use the cache.
    pub(super) fn occupy(&mut self, id: ReplicaId, ticket: &Ticket, slots: u32) -> bool {
        let Some(replica) = self.0.get_mut(&id) else { return false };
        replica.in_flight += slots;
        replica.started += 1;
        if ticket.private && !replica.tainted {
            (replica.tainted, replica.warm) = (true, Warm::default());
        }
        !replica.tainted
    }

    /// A prompt has run: from now on others find it in the cache, not while its slot was busy.
    pub(super) fn remember(&mut self, id: ReplicaId, ticket: &Ticket) {
        if let Some(replica) = self.0.get_mut(&id).filter(|replica| !replica.tainted) {
            replica.warm.remember(&ticket.prefix);
        }
    }

    /// Gives slots back.
    pub(super) fn free(&mut self, id: ReplicaId, slots: u32) {
        if let Some(replica) = self.0.get_mut(&id) {
            replica.in_flight = replica.in_flight.saturating_sub(slots);
            self.sweep(id);
        }
    }
}
