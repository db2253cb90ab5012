//! The board that says how all replicas are.
//!
//! Takes what probes, inspections and look-ups find; gives the state of each replica to everybody, and tells the queue
//! in the same step which replicas take requests, so that the two never disagree.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::queue::{Queue, ReplicaId};

/// Whether requests can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A replica is ready.
    Ready,
    /// None is ready, but one is loading its model or has not been probed yet.
    Loading,
    /// None is ready or loading, but one answers: it has a slot that does not move.
    Wedged,
    /// None can be reached.
    Unreachable,
}

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It takes requests.
    Ready,
    /// It loads its model; also before the first probe.
    Loading,
    /// It cannot be reached or does not answer like a llama-server.
    Down,
    /// It answers, but one of its slots is busy without any progress. It takes no requests until that changes.
    Wedged,
    /// Its address is not one of its name's any more. It finishes what it has, and is forgotten then.
    Leaving,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Ready, Self::Loading, Self::Down, Self::Wedged, Self::Leaving];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Loading => "loading",
            Self::Down => "down",
            Self::Wedged => "wedged",
            Self::Leaving => "leaving",
        }
    }
}

/// What a replica told about itself when it became ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Sequences that it decodes at once.
    pub total_slots: u32,
    /// Tokens in the context of one slot; 0 if it does not tell.
    pub n_ctx: u32,
    /// Its version.
    pub build: String,
    /// The name of its model.
    pub model: String,
    /// Its reply to `GET /v1/models`, as it came.
    pub models: Bytes,
}

/// A replica at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Which one. A number is never given to another replica, also when this one is forgotten.
    pub id: ReplicaId,
    /// `host:port`, for the operator only.
    pub address: Arc<str>,
    /// How it is.
    pub state: State,
    /// What it told last, also when it is not ready any more.
    pub facts: Option<Arc<Facts>>,
    /// Why it is down or wedged, for the operator only.
    pub problem: Option<Arc<str>>,
    /// Requests on it that are not this gateway's.
    pub foreign: u32,
    /// How often it was started anew since it was first ready.
    pub restarts: u32,
    marks: Marks,
}

/// What its state is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marks {
    /// What the last probe found.
    probed: Probed,
    /// What the last inspection found to be stuck.
    stuck: Option<Arc<str>>,
    leaving: bool,
    /// Its process has ended since it was ready.
    gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probed {
    Ready,
    Loading,
    Down,
}

impl ReplicaStatus {
    fn new(id: ReplicaId, address: Arc<str>) -> Self {
        let marks = Marks { probed: Probed::Loading, stuck: None, leaving: false, gone: false };
        Self { id, address, state: State::Loading, facts: None, problem: None, foreign: 0, restarts: 0, marks }
    }

    fn total_slots(&self) -> u32 {
        self.facts.as_ref().map_or(0, |facts| facts.total_slots)
    }

    /// A probe has found that it takes no requests. What inspections found is of no meaning then.
    fn fails(&mut self, probed: Probed, problem: Option<&str>) {
        self.marks.probed = probed;
        self.marks.stuck = None;
        self.foreign = 0;
        self.problem = problem.map(Into::into);
    }
}

impl Marks {
    fn state(&self) -> State {
        match self.probed {
            _ if self.leaving => State::Leaving,
            Probed::Ready if self.stuck.is_some() => State::Wedged,
            Probed::Ready => State::Ready,
            Probed::Loading => State::Loading,
            Probed::Down => State::Down,
        }
    }
}

pub(super) fn readiness(replicas: &[ReplicaStatus]) -> Readiness {
    let any = |state| replicas.iter().any(|replica| replica.state == state);
    match () {
        () if any(State::Ready) => Readiness::Ready,
        () if any(State::Loading) => Readiness::Loading,
        () if any(State::Wedged) => Readiness::Wedged,
        () => Readiness::Unreachable,
    }
}

/// How all replicas are, in the order in which they came.
pub(super) struct Board {
    statuses: watch::Sender<Vec<ReplicaStatus>>,
    queue: Queue,
}

impl Board {
    pub(super) fn new(queue: Queue) -> Self {
        Self { statuses: watch::Sender::new(Vec::new()), queue }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Vec<ReplicaStatus>> {
        self.statuses.subscribe()
    }

    pub(super) fn state(&self, id: ReplicaId) -> Option<State> {
        self.statuses.borrow().iter().find(|status| status.id == id).map(|status| status.state)
    }

    /// How many of its slots this gateway's requests have.
    pub(super) fn in_flight(&self, id: ReplicaId) -> u32 {
        self.queue.load().iter().find(|load| load.replica == id).map_or(0, |load| load.in_flight)
    }

    /// A replica that is not probed yet.
    pub(super) fn join(&self, id: ReplicaId, address: Arc<str>) {
        self.statuses.send_modify(|statuses| {
            self.queue.set_replica(id, 0, false);
            statuses.push(ReplicaStatus::new(id, address));
        });
    }

    /// A replica that has no requests any more and is not to get one.
    pub(super) fn forget(&self, id: ReplicaId) {
        self.statuses.send_modify(|statuses| {
            self.queue.remove_replica(id);
            statuses.retain(|status| status.id != id);
        });
    }

    /// Its address is among those of its name, or not any more.
    pub(super) fn leaves(&self, id: ReplicaId, leaving: bool) {
        self.update(id, |status| status.marks.leaving = leaving);
    }

    pub(super) fn ready(&self, id: ReplicaId, facts: Arc<Facts>) {
        self.update(id, |status| {
            status.marks.probed = Probed::Ready;
            status.problem.clone_from(&status.marks.stuck);
            status.facts = Some(facts);
        });
    }

    pub(super) fn loading(&self, id: ReplicaId) {
        self.update(id, |status| {
            status.fails(Probed::Loading, None);
            // A model is loaded once in the life of a process.
            status.marks.gone = status.facts.is_some();
        });
    }

    /// It does not answer.
    pub(super) fn silent(&self, id: ReplicaId, problem: &str) {
        self.update(id, |status| status.fails(Probed::Down, Some(problem)));
    }

    /// Nobody is there, or somebody else.
    pub(super) fn absent(&self, id: ReplicaId, problem: &str) {
        self.update(id, |status| {
            status.fails(Probed::Down, Some(problem));
            status.marks.gone = status.facts.is_some();
        });
    }

    /// What an inspection found: requests that are not this gateway's, and what is stuck, if anything.
    pub(super) fn inspected(&self, id: ReplicaId, foreign: u32, stuck: Option<&str>) {
        self.update(id, |status| {
            // It may have gone down meanwhile.
            if status.marks.probed == Probed::Ready {
                status.foreign = foreign;
                status.marks.stuck = stuck.map(Into::into);
                status.problem.clone_from(&status.marks.stuck);
            }
        });
    }

    /// How often its process was seen to be another one; 0 also of one that is not there any more.
    pub(super) fn restarts(&self, id: ReplicaId) -> u32 {
        self.statuses.borrow().iter().find(|status| status.id == id).map_or(0, |status| status.restarts)
    }

    /// Its process was started anew although no probe found it absent.
    pub(super) fn restarted(&self, id: ReplicaId) {
        self.update(id, |status| status.marks.gone = true);
    }

    fn update(&self, id: ReplicaId, change: impl FnOnce(&mut ReplicaStatus)) {
        self.statuses.send_if_modified(|statuses| {
            let Some(status) = statuses.iter_mut().find(|status| status.id == id) else { return false };
            let before = status.clone();
            change(status);
            status.state = status.marks.state();
            if status.marks.gone && status.marks.probed == Probed::Ready {
                status.marks.gone = false;
                status.restarts = status.restarts.saturating_add(1);
                info!(replica = &*status.address, "llama-server was started anew: nothing is cached there");
                self.queue.replica_restarted(id);
            }
            self.queue.set_replica(id, status.total_slots(), status.state == State::Ready);
            tell(&before, status);
            *status != before
        });
    }
}

/// Logs what has changed.
fn tell(before: &ReplicaStatus, now: &ReplicaStatus) {
    let (replica, problem, foreign) = (&*now.address, now.problem.as_deref(), now.foreign);
    if now.state != before.state || (now.state == State::Ready && now.facts != before.facts) {
        match now.state {
            State::Ready => {
                let model = now.facts.as_ref().map(|facts| facts.model.as_str());
                info!(replica, slots = now.total_slots(), model, "llama-server is ready");
            }
            State::Loading => info!(replica, "llama-server is loading its model"),
            State::Down => warn!(replica, problem, "llama-server is down"),
            State::Wedged => warn!(replica, problem, "llama-server is stuck: it gets no new requests"),
            State::Leaving => info!(replica, "llama-server is not named any more: it gets no new requests"),
        }
    }
    if foreign > 0 && before.foreign == 0 {
        warn!(replica, foreign, "llama-server works on requests that did not come through this gateway");
    } else if foreign == 0 && before.foreign > 0 {
        info!(replica, "llama-server works on this gateway's requests only");
    }
}
