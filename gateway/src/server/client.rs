//! What is known of a client and its connection while a request is under way.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

/// A moment of a connection's life, in milliseconds since it was accepted; 0 means "not now".
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn clear(&self) {
        self.0.store(0, Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Relaxed) != 0
    }
}

/// The state of one connection, shared by its layers and its requests.
#[derive(Debug)]
pub(super) struct Connection {
    peer: IpAddr,
    accepted: Instant,
    /// Since when the socket takes no byte of what is to be written.
    blocked: Moment,
    /// Since when no request is under way.
    idle: Moment,
    asked: AtomicU64,
    answered: AtomicU64,
    stalled: AtomicBool,
    refusal: OnceLock<&'static str>,
    /// Wakes the connection's task when a reply has ended and pipelined bytes wait behind it.
    reader: Mutex<Option<Waker>>,
}

impl Connection {
    pub(super) fn new(peer: IpAddr) -> Arc<Self> {
        let connection = Self {
            peer,
            accepted: Instant::now(),
            blocked: Moment::default(),
            idle: Moment::default(),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            refusal: OnceLock::new(),
            reader: Mutex::new(None),
        };
        connection.set(&connection.idle);
        Arc::new(connection)
    }

    fn set(&self, moment: &Moment) {
        let millis = u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        moment.0.store(millis + 1, Relaxed);
    }

    fn since(&self, moment: &Moment) -> Option<Duration> {
        let millis = moment.0.load(Relaxed).checked_sub(1)?;
        Some(self.accepted.elapsed().saturating_sub(Duration::from_millis(millis)))
    }

    /// The socket takes no more bytes.
    pub(super) fn write_blocked(&self) {
        if !self.blocked.is_set() {
            self.set(&self.blocked);
        }
    }

    /// The socket took bytes.
    pub(super) fn write_went_on(&self) {
        self.blocked.clear();
    }

    /// How long the socket has taken no byte, if there are any for it.
    pub(super) fn blocked_for(&self) -> Option<Duration> {
        self.since(&self.blocked)
    }

    /// How long no request has been under way.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        self.since(&self.idle)
    }

    /// Replies that have ended so far, whether sent whole or given up.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Asks to be woken when the next reply has ended.
    pub(super) fn wake_when_answered(&self, waker: &Waker) {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *reader {
            Some(kept) => kept.clone_from(waker),
            None => *reader = Some(waker.clone()),
        }
    }

    /// The client is cut off because it does not read.
    pub(super) fn mark_stalled(&self) {
        self.stalled.store(true, Relaxed);
    }

    /// A request head breaks the framing rules: this request and all behind it are refused.
    pub(super) fn refuse(&self, why: &'static str) {
        self.refusal.get_or_init(|| why);
    }

    /// Why requests are refused, if they are.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        self.refusal.get().copied()
    }
}

/// The client of one request, as its connection sees it: an `Arc<Client>` in the request's extensions.
#[derive(Debug)]
pub struct Client {
    connection: Arc<Connection>,
    /// Since when the reply's last frame waits to be taken (HTTP/2 only).
    waiting: Moment,
    stalled: AtomicBool,
}

impl Client {
    /// The address at the other end of the connection: the client, or a proxy.
    pub fn peer(&self) -> IpAddr {
        self.connection.peer
    }

    /// Whether the reply is being dropped because the client did not read it, not because the client left.
    /// Meaningful in the `Drop` of a handler's future or of a response body.
    pub fn stalled(&self) -> bool {
        self.stalled.load(Relaxed) || self.connection.stalled.load(Relaxed)
    }

    /// The reply gave a frame, which is now to be sent.
    pub(super) fn handed_over(&self) {
        self.connection.set(&self.waiting);
    }

    /// The reply is asked for more, so its last frame is on its way.
    pub(super) fn polled(&self) {
        self.waiting.clear();
    }

    /// Marks the client as stalled if a frame has been waiting for longer than `timeout`.
    pub(super) fn stall_after(&self, timeout: Duration) -> bool {
        let overdue = self.connection.since(&self.waiting).is_some_and(|waited| waited > timeout);
        if overdue {
            self.stalled.store(true, Relaxed);
        }
        overdue
    }
}

/// A request under way; when it is dropped, its reply has ended.
#[derive(Debug)]
pub(super) struct Underway {
    client: Arc<Client>,
}

impl Underway {
    pub(super) fn begin(connection: &Arc<Connection>) -> Self {
        connection.asked.fetch_add(1, Relaxed);
        connection.idle.clear();
        let client =
            Client { connection: Arc::clone(connection), waiting: Moment::default(), stalled: AtomicBool::new(false) };
        Self { client: Arc::new(client) }
    }

    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let connection = &self.client.connection;
        let answered = connection.answered.fetch_add(1, Relaxed) + 1;
        if answered == connection.asked.load(Relaxed) {
            connection.set(&connection.idle);
        }
        let reader = connection.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}
