//! The llama-server replicas: whether they are up, how many slots they have, and the connection to them.
//!
//! Takes a [`Slot`](crate::queue::Slot)'s replica, a path and a body, and gives the reply; tells the queue which
//! replicas take how many requests. Nothing that a client sent but the body reaches llama-server: paths are
//! constants and headers are the gateway's own, but for the ids of the client's trace.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::queue::{Queue, ReplicaId};
use crate::traces::Propagation;

mod board;
mod census;
mod client;
pub mod errors;
mod fleet;
mod inspect;
mod pool;
mod probe;
mod replica;
#[cfg(test)]
mod tests;
mod wire;
mod words;

pub use board::{Facts, Readiness, ReplicaStatus, State};
pub use client::SendError;
pub use wire::{ReplyBody, ReplyError};

use board::Board;
use client::Dialer;
use fleet::Fleet;

/// Small requests that are under way at once. Each takes one of llama-server's HTTP threads.
const MAX_CALLS: usize = 8;
/// Time that a small request may take, waiting for its turn included. Tokenizing 16 MB takes 6 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of the reply to a small request: the tokens of a long prompt as JSON.
const MAX_CALL_REPLY: usize = 16 << 20;
/// Bytes of `/metrics`, which has some 5 KB.
const MAX_COUNTERS: usize = 1 << 20;

/// Why the replicas cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No URL is configured.
    #[error("upstream.urls is empty\n  hint: give at least one, such as \"http://127.0.0.1:8001\"")]
    NoUrl,
    /// A URL is not one of a llama-server.
    #[error(
        "upstream.urls: `{url}`: {problem}\n  hint: write http://host:port, or dns://host:port for all addresses of a name, without a path"
    )]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The key file cannot be read.
    #[error("upstream.api_key_file: cannot read {path}")]
    KeyFile {
        /// As configured.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The key file holds no key.
    #[error("upstream.api_key_file: {path} must hold one key on one line and nothing else")]
    Key {
        /// As configured.
        path: String,
    },
}

/// The llama-server replicas and the connections to them.
pub struct Upstream {
    fleet: Arc<Fleet>,
    board: Arc<Board>,
    calls: Semaphore,
    probe_timeout: Duration,
    /// Spreads the small requests.
    turn: AtomicUsize,
}

impl Upstream {
    /// Checks the configuration and starts on `tasks` what probes and inspects each replica and looks up the names of
    /// replicas; all that ends at once when `stop` is cancelled, while replies go on. An idle connection ends after 4 s,
    /// or with the `Upstream`. No replica is ready before its first probe.
    ///
    /// # Errors
    /// A URL or the key file is not usable.
    pub fn start(
        config: &config::Upstream,
        queue: Queue,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Arc<Self>, StartError> {
        let targets = replica::targets(&config.urls)?;
        let dialer = Dialer::new(key(&config.api_key_file)?, config.connect_timeout);
        let board = Arc::new(Board::new(queue));
        let fleet = Fleet::start(targets, dialer, Arc::clone(&board), config, (tasks, stop));
        let calls = Semaphore::new(MAX_CALLS);
        Ok(Arc::new(Self { fleet, board, calls, probe_timeout: config.probe_timeout, turn: AtomicUsize::new(0) }))
    }

    /// Checks what [`Upstream::start`] would refuse, without starting anything.
    ///
    /// # Errors
    /// A URL or the key file is not usable.
    pub fn check(config: &config::Upstream) -> Result<(), StartError> {
        replica::targets(&config.urls)?;
        key(&config.api_key_file).map(drop)
    }

    /// Whether requests can be served: as good as the best replica.
    pub fn readiness(&self) -> Readiness {
        board::readiness(&self.board.watch().borrow())
    }

    /// The replicas as they are now.
    pub fn snapshot(&self) -> Vec<ReplicaStatus> {
        self.board.watch().borrow().clone()
    }

    /// The replicas as they change.
    #[cfg(test)]
    fn watch(&self) -> tokio::sync::watch::Receiver<Vec<ReplicaStatus>> {
        self.board.watch()
    }

    /// Look-ups of names that gave no address, from the start.
    pub fn failed_lookups(&self) -> u64 {
        self.fleet.failed_lookups()
    }

    /// What a replica told about itself and its model: one that is ready, else one that was.
    pub fn facts(&self) -> Option<Arc<Facts>> {
        let replicas = self.board.watch();
        let replicas = replicas.borrow();
        let ready = replicas.iter().filter(|replica| replica.state == State::Ready);
        ready.chain(replicas.iter()).find_map(|replica| replica.facts.clone())
    }

    /// The address of a replica.
    pub fn address(&self, id: ReplicaId) -> Option<Arc<str>> {
        self.fleet.get(id).map(|replica| Arc::clone(&replica.address))
    }

    /// Tokens in the context of one slot, of the ready replica that has the largest; 0 if one of them does not tell.
    pub fn context(&self) -> u32 {
        let replicas = self.board.watch();
        let replicas = replicas.borrow();
        let ready = replicas.iter().filter(|replica| replica.state == State::Ready);
        let contexts = ready.map(|replica| replica.facts.as_ref().map_or(0, |facts| facts.n_ctx));
        contexts.reduce(|one, other| if one == 0 || other == 0 { 0 } else { one.max(other) }).unwrap_or(0)
    }

    /// Has a replica probed at once: to be called when a reply of it breaks off.
    pub fn mark_suspect(&self, id: ReplicaId) {
        if let Some(replica) = self.fleet.get(id) {
            replica.suspect();
        }
    }

    /// Sends a request to the replica of a slot and gives the reply, whatever its status, with its body unread.
    /// Dropping this future or the body closes the connection at once.
    ///
    /// # Errors
    /// [`SendError::Connect`] and [`SendError::Unread`]: nothing has begun, so it may be sent again; a replica that
    /// refuses connections is taken out of the queue before this returns. [`SendError::Broken`]: the replica may have
    /// begun to work on it. A connection that turns out to have been closed while it was idle is replaced by a new one,
    /// once.
    pub async fn send(
        &self,
        id: ReplicaId,
        path: &'static str,
        body: Bytes,
        trace: &Propagation,
    ) -> Result<http::Response<ReplyBody>, SendError> {
        let replica = self.fleet.get(id).ok_or(SendError::NoReplica(Readiness::Unreachable))?;
        let reply = replica.post(path, body, trace).await;
        if let Err(error) = &reply {
            if error.is_refused() {
                self.board.absent(id, &error.to_string());
            }
            replica.suspect();
        }
        reply
    }

    /// Sends a small request that takes no slot (token counts, templates) to any ready replica and reads the reply.
    /// Few are under way at once, each bounded in time (30 s) and size (16 MiB).
    ///
    /// # Errors
    /// [`SendError::NoReplica`] if none is ready, and all other kinds.
    pub async fn call(
        &self,
        path: &'static str,
        body: Bytes,
        trace: &Propagation,
    ) -> Result<(StatusCode, Bytes), SendError> {
        let asked = async {
            let _turn = self.calls.acquire().await;
            self.ask(path, body, trace).await
        };
        timeout(CALL_TIMEOUT, asked).await.unwrap_or(Err(SendError::Timeout))
    }

    /// The same for a caller that bounds the number of its requests and their time itself.
    ///
    /// # Errors
    /// [`SendError::NoReplica`] if none is ready, and all other kinds but [`SendError::Timeout`].
    pub async fn ask(
        &self,
        path: &'static str,
        body: Bytes,
        trace: &Propagation,
    ) -> Result<(StatusCode, Bytes), SendError> {
        let mut failure = None;
        // Who cannot be connected to has not seen the request, so the next one may be asked.
        while let Some(id) = self.any_ready() {
            match self.send(id, path, body.clone(), trace).await {
                Ok(reply) => return client::read(reply, MAX_CALL_REPLY).await,
                Err(error) if error.is_refused() => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| SendError::NoReplica(self.readiness())))
    }

    /// What a replica's `/metrics` says. llama-server's averages begin anew with each reading.
    ///
    /// # Errors
    /// [`SendError::NoReplica`] if it is forgotten, and all other kinds. It has as long as a probe.
    pub async fn counters(&self, id: ReplicaId) -> Result<(StatusCode, Bytes), SendError> {
        let replica = self.fleet.get(id).ok_or(SendError::NoReplica(Readiness::Unreachable))?;
        let reply = async { client::read(replica.link.get("/metrics").await?, MAX_COUNTERS).await };
        timeout(self.probe_timeout, reply).await.unwrap_or(Err(SendError::Timeout))
    }

    fn any_ready(&self) -> Option<ReplicaId> {
        let replicas = self.board.watch();
        let replicas = replicas.borrow();
        let ready: Vec<_> = replicas.iter().filter(|replica| replica.state == State::Ready).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        ready.get(turn.checked_rem(ready.len())?).map(|replica| replica.id)
    }
}

/// The `Authorization` header with the key in the file; none if no file is configured.
fn key(file: &Path) -> Result<Option<HeaderValue>, StartError> {
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    let path = file.display().to_string();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(source) => return Err(StartError::KeyFile { path, source }),
    };
    let key = text.trim();
    let one_word = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    let header = one_word.then(|| HeaderValue::try_from(format!("Bearer {key}")).ok()).flatten();
    let mut header = header.ok_or(StartError::Key { path })?;
    header.set_sensitive(true);
    Ok(Some(header))
}
