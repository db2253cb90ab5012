//! One replica, and the board that says how all of them are.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http::Uri;
use http::uri::{Authority, Scheme};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::StartError;
use super::client::{Dialer, Link};
use crate::queue::{Queue, ReplicaId};

/// Whether requests can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A replica is ready.
    Ready,
    /// None is ready, but one is loading its model or has not been probed yet.
    Loading,
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
    /// Its place in the configuration.
    pub id: ReplicaId,
    /// `host:port`, for the operator only.
    pub address: Arc<str>,
    /// How it is.
    pub state: State,
    /// What it told last, also when it is not ready any more.
    pub facts: Option<Arc<Facts>>,
    /// Why it is down, for the operator only.
    pub problem: Option<Arc<str>>,
}

pub(super) fn readiness(replicas: &[ReplicaStatus]) -> Readiness {
    let any = |state| replicas.iter().any(|replica| replica.state == state);
    match () {
        () if any(State::Ready) => Readiness::Ready,
        () if any(State::Loading) => Readiness::Loading,
        () => Readiness::Unreachable,
    }
}

/// One llama-server as the gateway uses it.
pub(super) struct Replica {
    pub(super) id: ReplicaId,
    pub(super) address: Arc<str>,
    pub(super) link: Link,
    suspicion: Notify,
}

impl Replica {
    pub(super) fn new(id: ReplicaId, authority: Authority, dialer: &Dialer) -> Self {
        let address = authority.as_str().into();
        Self { id, address, link: dialer.link(authority), suspicion: Notify::new() }
    }

    /// Ends the prober's pause.
    pub(super) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    pub(super) async fn suspected(&self) {
        self.suspicion.notified().await;
    }
}

/// How all replicas are. Writing here tells the queue in the same step, so that the two never disagree.
pub(super) struct Board {
    statuses: watch::Sender<Vec<ReplicaStatus>>,
    queue: Queue,
}

impl Board {
    pub(super) fn new(replicas: &[Arc<Replica>], queue: Queue) -> Self {
        let unknown = |replica: &Arc<Replica>| ReplicaStatus {
            id: replica.id,
            address: Arc::clone(&replica.address),
            state: State::Loading,
            facts: None,
            problem: None,
        };
        for replica in replicas {
            queue.set_replica(replica.id, 0, false);
        }
        Self { statuses: watch::Sender::new(replicas.iter().map(unknown).collect()), queue }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Vec<ReplicaStatus>> {
        self.statuses.subscribe()
    }

    pub(super) fn ready(&self, id: ReplicaId, facts: Arc<Facts>) {
        self.set(id, State::Ready, Some(facts), None);
    }

    pub(super) fn loading(&self, id: ReplicaId) {
        self.set(id, State::Loading, None, None);
    }

    pub(super) fn down(&self, id: ReplicaId, problem: &str) {
        self.set(id, State::Down, None, Some(problem));
    }

    fn set(&self, id: ReplicaId, state: State, facts: Option<Arc<Facts>>, problem: Option<&str>) {
        self.statuses.send_if_modified(|statuses| {
            let Some(status) = statuses.get_mut(id.0) else { return false };
            let facts = facts.or_else(|| status.facts.clone());
            let slots = facts.as_ref().map_or(0, |facts| facts.total_slots);
            self.queue.set_replica(id, slots, state == State::Ready);
            let address = Arc::clone(&status.address);
            let now = ReplicaStatus { id, address, state, facts, problem: problem.map(Into::into) };
            let changed = *status != now;
            if changed {
                tell(status.state, &now, slots);
                *status = now;
            }
            changed
        });
    }
}

fn tell(before: State, now: &ReplicaStatus, slots: u32) {
    let (replica, problem) = (&*now.address, now.problem.as_deref());
    match now.state {
        State::Ready => {
            let model = now.facts.as_ref().map(|facts| facts.model.as_str());
            info!(replica, slots, model, "llama-server is ready");
        }
        State::Loading if before != State::Loading => info!(replica, "llama-server is loading its model"),
        State::Down if before != State::Down => warn!(replica, problem, "llama-server is down"),
        State::Loading | State::Down => {}
    }
}

/// `host:port` of each configured URL.
pub(super) fn addresses(urls: &[String]) -> Result<Vec<Authority>, StartError> {
    if urls.is_empty() {
        return Err(StartError::NoUrl);
    }
    let mut seen = HashSet::new();
    urls.iter()
        .map(|url| {
            let checked = address(url).and_then(|address| match seen.insert(address.clone()) {
                true => Ok(address),
                // Its slots would be counted twice.
                false => Err("is given twice"),
            });
            checked.map_err(|problem| StartError::Url { url: url.clone(), problem })
        })
        .collect()
}

fn address(url: &str) -> Result<Authority, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => {}
        Some(scheme) if *scheme == Scheme::HTTPS => return Err("https to llama-server is not supported"),
        Some(_) => return Err("is not an http URL"),
        None => return Err("has no scheme"),
    }
    let authority = uri.authority().ok_or("has no host")?;
    if authority.as_str().contains('@') {
        return Err("credentials do not belong into it: use upstream.api_key_file");
    }
    if authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has no port");
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('#') {
        return Err("has a path or a query");
    }
    Ok(authority.clone())
}
