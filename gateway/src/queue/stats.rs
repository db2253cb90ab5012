//! What the scheduler says of itself: depths, service, and how fair and busy it was.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::flows::Flows;
use super::scheduler::Scheduler;
use super::{ClassId, Forecast};

/// Pause between two looks at who has been given what.
const LOOK: Duration = Duration::from_secs(10);
/// Looks that count: five minutes.
const LOOKS: usize = 30;
/// Flows that one look remembers.
const MAX_FLOWS: usize = 1024;

/// The scheduler as it is now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    /// How many requests wait, by tenant and class.
    pub(crate) depth: Vec<((Arc<str>, ClassId), usize)>,
    /// Units of cost that each tenant has been given so far; of all that have held a slot.
    pub(crate) service: Vec<(Arc<str>, f64)>,
    /// Slots that each tenant's requests hold now, of those that hold any.
    pub(crate) busy: HashMap<Arc<str>, u32>,
    /// What is ahead.
    pub(crate) forecast: Forecast,
    /// The largest distance, within a class, between the tags of two flows that have something to run: units of cost
    /// for each unit of weight.
    pub(crate) spread: f64,
    /// What flows were given in the last five minutes.
    looks: Vec<Arc<[Share]>>,
    /// How long a slot was free although a request could have run there.
    pub(crate) idle_with_backlog: Duration,
    /// Units of cost a second, of all slots together; 0 while unknown.
    pub(crate) rate: f64,
    /// What an output token costs.
    pub(crate) output_cost: f64,
}

impl Stats {
    /// Jain's index of what flows were given over what was due to them in the last five minutes, while they had
    /// something to run: 1 is fair, 1/n if one of n had everything. Takes milliseconds where there are many flows.
    pub(crate) fn jain(&self) -> f64 {
        let mut flows: BTreeMap<(&str, usize), (f64, f64)> = BTreeMap::new();
        for share in self.looks.iter().flat_map(|look| look.iter()) {
            let sum = flows.entry((&share.tenant, share.class)).or_default();
            *sum = (sum.0 + share.got, sum.1 + share.due);
        }
        let ratios: Vec<_> = flows.values().filter(|(_, due)| *due > 0.0).map(|(got, due)| got / due).collect();
        let (sum, squares) = ratios.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        if squares > 0.0 { sum * sum / (squares * ratios.len() as f64) } else { 1.0 }
    }
}

/// What a flow was given between two looks, and what was due to it.
#[derive(Debug)]
struct Share {
    tenant: Arc<str>,
    class: usize,
    got: f64,
    due: f64,
}

/// What is kept to tell how fair and busy the scheduler was.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) service: BTreeMap<Arc<str>, f64>,
    pub(super) idle: Duration,
    looks: VecDeque<Arc<[Share]>>,
    looked: Option<Instant>,
}

impl Record {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK)
    }

    /// Looks at what each flow was given since the last look. Only those count that had something to run all the time.
    pub(super) fn look(&mut self, flows: &mut Flows, now: Instant) {
        self.looked = Some(now);
        let mut shares = Vec::new();
        let shared = flows.lanes.iter().enumerate().filter(|(_, lane)| !lane.class.strict);
        for (class, lane) in shared {
            let steady = lane.turns().filter_map(|turn| flows.get(turn.flow)).filter(|flow| flow.steady);
            let steady: Vec<_> = steady.take(MAX_FLOWS).collect();
            let weights: f64 = steady.iter().map(|flow| f64::from(flow.weight)).sum();
            shares.extend(steady.into_iter().map(|flow| Share {
                tenant: flow.tenant.clone(),
                class,
                got: flow.got,
                due: f64::from(lane.class.weight) * f64::from(flow.weight) / weights,
            }));
        }
        let (got, due) = shares.iter().fold((0.0, 0.0), |(got, due), share| (got + share.got, due + share.due));
        for share in &mut shares {
            share.due *= got / due;
        }
        self.looks.push_back(shares.into());
        if self.looks.len() > LOOKS {
            self.looks.pop_front();
        }
        flows.start_look();
    }
}

impl Scheduler {
    /// The scheduler as it is now.
    pub(crate) fn stats(&mut self, now: Instant) -> Stats {
        self.tick(now);
        self.record_service();
        let forecast = self.forecast(now);
        let depth = self.flows.all().map(|(_, flow)| {
            let waiting = flow.places.len() + flow.stranded.len();
            ((flow.tenant.clone(), ClassId(flow.class)), waiting)
        });
        let mut busy = HashMap::new();
        for running in self.running.values().filter(|running| running.replica.is_some()) {
            *busy.entry(running.waiter.ticket.tenant.clone()).or_default() += running.waiter.slots;
        }
        let spreads = self.flows.lanes.iter().map(|lane| {
            let tags = || lane.turns().map(|turn| turn.tag);
            let (least, most) = (tags().min(), tags().max());
            most.zip(least).map_or(0.0, |(most, least)| (most - least).cost(1))
        });
        Stats {
            depth: depth.filter(|(_, waiting)| *waiting > 0).collect(),
            busy,
            forecast,
            spread: if self.flows.first_come() { 0.0 } else { spreads.fold(0.0, f64::max) },
            service: self.record.service.iter().map(|(tenant, service)| (tenant.clone(), *service)).collect(),
            looks: self.record.looks.iter().cloned().collect(),
            idle_with_backlog: self.record.idle,
            rate: self.rate(),
            output_cost: self.speeds.weights().output,
        }
    }

    /// How many requests wait.
    #[cfg(test)]
    pub(crate) fn depth(&self) -> usize {
        self.flows.waiting()
    }
}
