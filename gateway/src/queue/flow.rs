//! The parts of the order: a request that waits, the flow that it belongs to, the class of that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use super::places::Places;
use super::scheduler::TicketId;
use super::tag::{Standing, Tag};
use super::{Class, Ticket};

/// A tenant within a class: where its flow is kept. It may be used again once that is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FlowId(usize);

/// A request's place within its flow: the earliest deadline first, then the order of arrival. There is no deadline
/// where arrival alone counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) deadline: Option<Instant>,
    pub(super) ticket: TicketId,
}

/// A flow's place within its class: by tag, then fewer slots in flight, then the request that has waited the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) tag: Tag,
    pub(super) in_flight: u32,
    pub(super) head: TicketId,
    pub(super) flow: FlowId,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: TicketId,
    pub(super) ticket: Ticket,
    /// One at least.
    pub(super) slots: u32,
    pub(super) entered: Instant,
    /// What it was expected to cost when it came.
    pub(super) cost: f64,
    /// Where a replica has this link, at least half of the prompt is in its cache.
    pub(super) halfway: Option<u32>,
}

/// What a request has been charged.
#[derive(Debug)]
pub(super) struct Charge {
    pub(super) flow: FlowId,
    pub(super) class: usize,
    pub(super) weight: u32,
    pub(super) eras: (u64, u64),
    pub(super) charged: (Tag, Tag),
}

/// The requests of one tenant in one class.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) tenant: Arc<str>,
    pub(super) class: usize,
    pub(super) weight: u32,
    pub(super) standing: Standing,
    pub(super) in_flight: u32,
    pub(super) places: Places,
    /// Those that are too wide for every ready replica: they hold nobody up.
    pub(super) stranded: Places,
    /// The places by key, since each key has its own cap.
    pub(super) lines: HashMap<Arc<str>, Line>,
    /// The first place of each key that is below its cap.
    pub(super) heads: BTreeSet<Place>,
    /// Its place in the class, and how many slots its head needs. `None`: it has nothing that may run.
    pub(super) turn: Option<(u32, Turn)>,
    /// How many times in a row it was passed over although it was its turn.
    pub(super) passes: u32,
    /// Units of cost that it has been given since the last look at the shares.
    pub(super) got: f64,
    /// It has had something to run ever since the last look.
    pub(super) steady: bool,
}

impl Flow {
    /// Whether a request of this key would be the first that may run, as far as caps allow.
    pub(super) fn nobody_before(&self, key: &str) -> bool {
        self.heads.is_empty() && !self.lines.contains_key(key)
    }
}

/// The requests of one key.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) places: BTreeSet<Place>,
    /// The first place, while it is among the heads.
    pub(super) head: Option<Place>,
}

/// A class of flows.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) class: Class,
    pub(super) standing: Standing,
    pub(super) in_flight: u32,
    /// The virtual time of its flows.
    pub(super) now: Tag,
    /// The flows that have something to run, by the slots that their heads need.
    pub(super) turns: BTreeMap<u32, BTreeSet<Turn>>,
    /// Flows that have nothing to run or running, with a tag that is still ahead of the virtual time.
    pub(super) resting: BTreeSet<(Tag, FlowId)>,
    /// How many requests wait, and what they cost.
    pub(super) waiting: (usize, f64),
}

impl Lane {
    /// The first flow whose head needs no more slots than that.
    pub(super) fn first(&self, widest: u32) -> Option<Turn> {
        self.turns.range(..=widest).filter_map(|(_, turns)| turns.first()).min().copied()
    }

    /// Flows up to a tag, in order for each number of slots.
    pub(super) fn until(&self, tag: Tag) -> impl Iterator<Item = &Turn> {
        self.turns.values().flat_map(move |turns| turns.iter().take_while(move |turn| turn.tag <= tag))
    }

    /// All flows that have something to run.
    pub(super) fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.turns.values().flatten()
    }
}

impl Flow {
    /// A flow with nothing to run, which starts at the beginning of time.
    pub(super) fn new(ticket: &Ticket, class: usize) -> Self {
        Self {
            tenant: ticket.tenant.clone(),
            class,
            weight: ticket.weight,
            standing: Standing::default(),
            in_flight: 0,
            places: Places::default(),
            stranded: Places::default(),
            lines: HashMap::new(),
            heads: BTreeSet::new(),
            turn: None,
            passes: 0,
            got: 0.0,
            steady: false,
        }
    }
}

impl Lane {
    /// A class without flows.
    pub(super) fn new(class: Class) -> Self {
        Self {
            class,
            standing: Standing::default(),
            in_flight: 0,
            now: Tag::ZERO,
            turns: BTreeMap::new(),
            resting: BTreeSet::new(),
            waiting: (0, 0.0),
        }
    }
}

/// The flows, by their ids.
#[derive(Debug, Default)]
pub(super) struct Slab {
    flows: Vec<Option<Flow>>,
    vacant: Vec<FlowId>,
}

impl Slab {
    pub(super) fn get(&self, FlowId(id): FlowId) -> Option<&Flow> {
        self.flows.get(id)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, FlowId(id): FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id)?.as_mut()
    }

    pub(super) fn insert(&mut self, flow: Flow) -> FlowId {
        let id = self.vacant.pop().unwrap_or(FlowId(self.flows.len()));
        match self.flows.get_mut(id.0) {
            Some(place) => *place = Some(flow),
            None => self.flows.push(Some(flow)),
        }
        id
    }

    pub(super) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        let flow = self.flows.get_mut(id.0)?.take()?;
        self.vacant.push(id);
        Some(flow)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowId, &Flow)> {
        self.flows.iter().enumerate().filter_map(|(id, flow)| Some((FlowId(id), flow.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flow> {
        self.flows.iter_mut().flatten()
    }
}
