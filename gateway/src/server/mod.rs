//! The listener: accepts connections, bounds what a client may do before and beside its requests, and drains.
//!
//! Takes a bound socket and the routes; gives each request to them with an [`Arc<Client>`](Client) in its
//! extensions. What a connection does stands in `connection`; the layers between socket and HTTP in `socket` (is
//! the client reading?), `wire` (has it left, are its requests cleanly framed?) and `framing`.
//!
//! What hyper cannot parse it refuses by itself, with a 400, 414 or 431 that has no body; what it would accept but
//! two readers could take in two ways is refused here, in the error shape of the API.

mod answer;
mod client;
mod connection;
mod drain;
mod framing;
pub mod signals;
mod socket;
mod streams;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub use client::Client;
pub use drain::{Drain, Phase};
pub use tls::{Tls, TlsError};

/// How long to pause after an error that the next `accept` would meet as well, such as having no file descriptor
/// left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client may take of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections at most.
    pub max_connections: usize,
    /// Bytes of a request head at most; also of what is buffered for a client. At least 8,192 are used.
    pub max_header_bytes: usize,
    /// Time for a TLS handshake and for a request head; also how long an idle connection stays open.
    pub header_timeout: Duration,
    /// A client that takes no byte for this long is cut off.
    pub slow_reader_timeout: Duration,
}

impl From<&crate::config::Server> for Limits {
    fn from(server: &crate::config::Server) -> Self {
        Self {
            max_connections: server.max_connections,
            max_header_bytes: server.max_header_bytes,
            header_timeout: server.header_timeout,
            slow_reader_timeout: server.slow_reader_timeout,
        }
    }
}

/// What the listener counts; read by the metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that are open now.
    pub open: AtomicUsize,
    /// Requests refused because of how they were framed. What hyper refuses by itself is not among them.
    pub refused: AtomicU64,
    /// Connections and HTTP/2 streams that were cut off because the client did not read.
    pub stalled: AtomicU64,
}

/// How a listener is set up.
#[derive(Clone)]
pub struct Options {
    /// What a client may take.
    pub limits: Limits,
    /// Certificate and key; `None`: clear text.
    pub tls: Option<Tls>,
    /// Where to count.
    pub counts: Arc<Counts>,
}

/// What all connections of a listener share.
struct Shared {
    router: Router,
    options: Options,
    drain: Drain,
    tasks: TaskTracker,
}

/// Accepts connections, and returns when `drain` has started and the last connection from before that is gone.
///
/// Until then, requests still arrive, because balancers learn late of a shutdown. Their connections are accepted, so
/// that the routes can tell them to come back later; the shutdown does not wait for them.
///
/// At `max_connections` it stops accepting until one closes: who comes then waits in the kernel's backlog, which
/// is bounded too, instead of being refused and coming back at once. Idle connections close after
/// `header_timeout`, so the wait is short unless all of them are at work.
pub async fn serve(listener: TcpListener, router: Router, options: Options, drain: Drain) {
    let tasks = TaskTracker::new();
    let tls = options.tls.clone();
    let shared = Arc::new(Shared { router, options, drain, tasks: tasks.clone() });
    tokio::select! {
        () = accept(&listener, &shared, &tasks, Phase::Draining) => {}
        () = tls::reload(tls.as_ref()) => {}
    }
    tasks.close();
    let late = TaskTracker::new();
    tokio::select! {
        () = accept(&listener, &shared, &late, Phase::Over) => {}
        () = tasks.wait() => {}
    }
    drop((listener, shared));
    late.close();
    tokio::join!(tasks.wait(), late.wait());
}

/// Accepts connections until the drain reaches the phase `until`, which also ends those that have not said anything.
async fn accept(listener: &TcpListener, shared: &Arc<Shared>, tasks: &TaskTracker, until: Phase) {
    let max_connections = shared.options.limits.max_connections;
    let permits = Arc::new(Semaphore::new(max_connections));
    let (mut full, mut failing) = (Seldom::default(), Seldom::default());
    loop {
        if permits.available_permits() == 0 && full.is_due() {
            tracing::warn!(max_connections, "all connections are taken; accepting none until one closes");
        }
        let next = async {
            // The semaphore is never closed, so this gives a permit.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = shared.drain.reached(until) => return,
            next = next => next,
        };
        match accepted {
            Ok((tcp, address)) => {
                let open = Open::new(permit, Arc::clone(&shared.options.counts));
                let shared_by_connection = Arc::clone(shared);
                tasks.spawn(async move {
                    connection::run(tcp, address, &shared_by_connection, until).await;
                    drop(open);
                });
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                if failing.is_due() {
                    tracing::error!(%error, pause_ms = ACCEPT_PAUSE.as_millis(), "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether `accept` failed because of the connection at hand, so that the next one can be accepted at once.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Lets a log line through once a minute.
#[derive(Default)]
struct Seldom {
    last: Option<Instant>,
}

impl Seldom {
    fn is_due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() > Duration::from_secs(60));
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

/// An open connection: counted, and holding its permit, until it is dropped.
struct Open {
    _permit: Option<OwnedSemaphorePermit>,
    counts: Arc<Counts>,
}

impl Open {
    fn new(permit: Option<OwnedSemaphorePermit>, counts: Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self { _permit: permit, counts }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}
