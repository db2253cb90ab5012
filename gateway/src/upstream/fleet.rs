//! Which replicas there are: those that the configuration gives, and those that its names resolve to.
//!
//! Takes the addresses that look-ups find; starts a prober and an inspector for each replica, and ends them when the
//! replica is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dns_lookup::LookupErrorKind;
use http::uri::Authority;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::board::Board;
use super::client::Dialer;
use super::inspect::Inspector;
use super::probe::Prober;
use super::replica::{Replica, Target, host_and_port};
use crate::config;
use crate::queue::ReplicaId;

/// Addresses of one name that are used, the lowest ones.
const MAX_ADDRESSES: usize = 256;
/// How many times in a row a name must be said to have no address until that is believed: a resolver that has just been
/// started may not know it yet.
const GONE_AFTER: u32 = 2;

/// All replicas.
pub(super) struct Fleet {
    board: Arc<Board>,
    dialer: Dialer,
    config: config::Upstream,
    tasks: TaskTracker,
    stop: CancellationToken,
    members: Mutex<Members>,
    failed_lookups: AtomicU64,
}

#[derive(Default)]
struct Members {
    /// How many there have been.
    seen: usize,
    all: BTreeMap<ReplicaId, Member>,
    /// What each target resolves to, as far as it is known.
    found: Vec<(Target, BTreeSet<SocketAddr>)>,
}

struct Member {
    replica: Arc<Replica>,
    /// Ends its tasks.
    stop: CancellationToken,
    /// Where it was found; none if it is configured as such.
    found_at: Option<SocketAddr>,
    leaving: bool,
}

impl Fleet {
    /// Takes in the configured replicas and begins to look up the names, on `tasks`, until `stop` is cancelled.
    pub(super) fn start(
        targets: Vec<Target>,
        dialer: Dialer,
        board: Arc<Board>,
        config: &config::Upstream,
        (tasks, stop): (&TaskTracker, &CancellationToken),
    ) -> Arc<Self> {
        let fleet = Arc::new(Self {
            board,
            dialer,
            config: config.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            members: Mutex::default(),
            failed_lookups: AtomicU64::new(0),
        });
        let has_names = targets.iter().any(|target| matches!(target, Target::Name(_)));
        let mut members = fleet.lock();
        for (place, target) in targets.into_iter().enumerate() {
            if let Target::Fixed(authority) = &target {
                fleet.join(&mut members, authority.clone(), None);
            }
            // Whether a replica is found twice can only be a question where some are found.
            if has_names && target.literal().is_none() {
                let resolver = Arc::clone(&fleet).resolve(place, target.authority().clone());
                tasks.spawn(stop.clone().run_until_cancelled_owned(resolver));
            }
            let known = target.literal().into_iter().collect();
            members.found.push((target, known));
        }
        fleet.settle(&mut members);
        drop(members);
        fleet
    }

    pub(super) fn get(&self, id: ReplicaId) -> Option<Arc<Replica>> {
        self.lock().all.get(&id).map(|member| Arc::clone(&member.replica))
    }

    /// Look-ups that gave no address, from the start.
    pub(super) fn failed_lookups(&self) -> u64 {
        self.failed_lookups.load(Ordering::Relaxed)
    }

    /// Looks a name up again and again, until it is dropped.
    async fn resolve(self: Arc<Self>, place: usize, name: Authority) {
        let mut gone = 0;
        let mut failing = false;
        loop {
            match look_up(&name).await {
                Ok(addresses) => {
                    if failing {
                        info!(%name, addresses = addresses.len(), "the name has addresses again");
                    }
                    (failing, gone) = (false, 0);
                    self.found(place, addresses);
                }
                Err(nothing) => {
                    self.failed_lookups.fetch_add(1, Ordering::Relaxed);
                    gone = if matches!(nothing, Nothing::Gone(_)) { gone + 1 } else { 0 };
                    if !failing {
                        let (Nothing::Gone(problem) | Nothing::Unknown(problem)) = &nothing;
                        warn!(%name, problem, "the name has no address: the replicas that are known are kept");
                    }
                    failing = true;
                    if gone == GONE_AFTER {
                        info!(%name, "the name still has no address: its replicas finish what they have");
                    }
                    if gone >= GONE_AFTER { self.found(place, BTreeSet::new()) } else { self.found_nothing() }
                }
            }
            sleep(self.config.resolve_interval).await;
        }
    }

    /// A target has these addresses now.
    pub(super) fn found(&self, place: usize, addresses: BTreeSet<SocketAddr>) {
        let mut members = self.lock();
        if let Some((_, found)) = members.found.get_mut(place) {
            *found = addresses;
        }
        self.settle(&mut members);
    }

    /// A look-up failed; but some that left earlier may be done.
    pub(super) fn found_nothing(&self) {
        self.settle(&mut self.lock());
    }

    /// Takes in who appeared, parts with who vanished, and forgets those of them who are done.
    fn settle(&self, members: &mut Members) {
        let mut wanted = members.wanted();
        for (id, member) in &mut members.all {
            let Some(address) = &member.found_at else { continue };
            let leaving = !wanted.remove(address);
            if leaving != member.leaving {
                member.leaving = leaving;
                self.board.leaves(*id, leaving);
            }
        }
        for address in wanted {
            // Only one with an IPv6 zone cannot be written as an authority.
            if let Ok(authority) = address.to_string().parse() {
                self.join(members, authority, Some(address));
            }
        }
        members.all.retain(|id, member| {
            // The queue gives it nothing any more, so what is at zero stays there.
            let done = member.leaving && self.board.in_flight(*id) == 0;
            if done {
                member.stop.cancel();
                self.board.forget(*id);
                info!(replica = &*member.replica.address, "forgotten");
            }
            !done
        });
    }

    fn join(&self, members: &mut Members, authority: Authority, found_at: Option<SocketAddr>) {
        let id = ReplicaId(members.seen);
        members.seen += 1;
        let replica = Arc::new(Replica::new(id, authority, &self.dialer));
        self.board.join(id, Arc::clone(&replica.address));
        let stop = self.stop.child_token();
        let prober = Prober::new(Arc::clone(&replica), Arc::clone(&self.board), &self.config);
        self.tasks.spawn(stop.clone().run_until_cancelled_owned(prober.run()));
        let inspector = Inspector::new(Arc::clone(&replica), Arc::clone(&self.board), &self.config);
        self.tasks.spawn(stop.clone().run_until_cancelled_owned(inspector.run()));
        members.all.insert(id, Member { replica, stop, found_at, leaving: false });
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    /// Where there should be replicas besides the configured ones: a server that has both kinds of name is one.
    fn wanted(&self) -> BTreeSet<SocketAddr> {
        let of = |names: bool| {
            let targets = self.found.iter().filter(move |(target, _)| matches!(target, Target::Name(_)) == names);
            targets.flat_map(|(_, addresses)| addresses.iter().copied()).collect::<BTreeSet<_>>()
        };
        &of(true) - &of(false)
    }
}

/// Why a look-up gave no address.
enum Nothing {
    /// Who is to know says that there is none: all pods of a headless Service are ending or not ready.
    Gone(String),
    /// Nobody could say.
    Unknown(String),
}

/// The addresses of a name, at least one. If it has some of both families only those of IPv4: a host with both would be
/// two replicas, and would get twice the requests that it has slots for.
async fn look_up(name: &Authority) -> Result<BTreeSet<SocketAddr>, Nothing> {
    let (host, port) = host_and_port(name);
    let host = host.to_owned();
    let found = tokio::task::spawn_blocking(move || dns_lookup::lookup_host(&host).map(Vec::from_iter)).await;
    let found = found.map_err(|error| Nothing::Unknown(error.to_string()))?.map_err(|error| {
        let gone = matches!(error.kind(), LookupErrorKind::NoName | LookupErrorKind::NoData);
        let problem = std::io::Error::from(error).to_string();
        if gone { Nothing::Gone(problem) } else { Nothing::Unknown(problem) }
    })?;
    let one_family = found.iter().any(IpAddr::is_ipv4);
    let addresses: BTreeSet<_> = found.into_iter().filter(|address| address.is_ipv4() == one_family).collect();
    let addresses: BTreeSet<_> =
        addresses.into_iter().map(|address| (address, port).into()).take(MAX_ADDRESSES).collect();
    if addresses.is_empty() { Err(Nothing::Gone("the answer is empty".to_owned())) } else { Ok(addresses) }
}
