//! What a request asks of the queue, and what it is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Prefix;
use crate::config::Order;

/// One llama-server. A number is never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub usize);

/// A class of requests, by its place in the list of classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub usize);

/// A class of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its name: a metric label.
    pub name: Arc<str>,
    /// Its share while all classes have requests waiting.
    pub weight: u32,
    /// It goes before all that are not, and before all strict ones behind it in the list.
    pub strict: bool,
}

/// How the queue orders requests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The order.
    pub order: Order,
    /// The classes, strict ones first.
    pub classes: Vec<Class>,
    /// How far, in units of cost, a warm prompt may go before its turn.
    pub locality_slack: u32,
    /// How many times in a row the one whose turn it is may be passed over for that.
    pub locality_passes: u32,
}

/// The work of a request in tokens, as far as it is known before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Prompt tokens, cached or not.
    pub prompt: u64,
    /// Output tokens that are expected, of all choices.
    pub output: u64,
}

/// What a tenant, and its key, may have in the queue. 0: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Waiting requests of the tenant.
    pub tenant_queued: u32,
    /// Waiting requests of the key.
    pub key_queued: u32,
    /// Slots in use by the tenant.
    pub tenant_slots: u32,
    /// Slots in use by the key.
    pub key_slots: u32,
}

/// What a request asks of the queue.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Whose request it is: the unit of fairness.
    pub tenant: Arc<str>,
    /// The public id of its key.
    pub key: Arc<str>,
    /// The surface's label: what is learned of output lengths is learned for each tenant and surface.
    pub surface: &'static str,
    /// Its class.
    pub class: ClassId,
    /// The tenant's share within the class.
    pub weight: u32,
    /// Sequences that llama-server decodes at once for it: all on one replica, one slot each. 0 counts as 1.
    pub slots: u32,
    /// Bounds on the tenant's requests and on those of its key.
    pub caps: Caps,
    /// What it will cost.
    pub work: Work,
    /// Output tokens that it may have, at most, of which llama-server tells nothing before the end; 0 for a stream.
    pub untold_output: u64,
    /// When it gives up waiting. Within a tenant, the earliest goes first.
    pub deadline: Instant,
    /// The beginning of its prompt, to find out where it is cached.
    pub prefix: Prefix,
    /// It shares no cached state with other tenants.
    pub private: bool,
}

/// Why a request gets no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many requests of the tenant or of the key wait as may wait.
    #[error("the queue is full")]
    Full {
        /// When one of them will probably have got its slot.
        retry_after: Duration,
    },
    /// It would wait longer than it can.
    #[error("the wait would be too long: about {wait:?}")]
    TooLong {
        /// The predicted wait.
        wait: Duration,
        /// When the wait will probably be short enough.
        retry_after: Duration,
    },
    /// Its deadline passed while it waited.
    #[error("its deadline passed")]
    Expired {
        /// When a new one would probably get its slot in time.
        retry_after: Duration,
    },
    /// It needs more slots at once than any replica has, or than its caps allow.
    #[error("it needs more slots at once than the {slots} that it can ever have")]
    TooWide {
        /// The slots that it can have.
        slots: u32,
    },
}

/// What a waiting request can expect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// How many go before it: 0 is next, or has been given its slot.
    pub position: usize,
    /// How long it will probably wait; `None` while nothing is known of how fast replicas work.
    pub wait: Option<Duration>,
}

/// What is ahead of those who come now, and of those who wait.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// By class, how long a request of a tenant with nothing waiting would probably wait if it came now; `None` while
    /// nothing is known of how fast replicas work, or none takes requests.
    pub waits: Vec<(Arc<str>, Option<Duration>)>,
    /// The work of all requests that wait, in units of cost. Those that need more slots than any ready replica has are
    /// not in it.
    pub backlog: f64,
    /// How long that work will probably take once what runs now is over; `None` as for `waits`.
    pub drain: Option<Duration>,
}

/// How fast a replica worked on one request, as llama-server's timings tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    /// Prompt tokens that were computed, not taken from the cache.
    pub prompt_tokens: u64,
    /// Milliseconds that this took.
    pub prompt_ms: f64,
    /// Tokens that were generated.
    pub output_tokens: u64,
    /// Milliseconds that this took.
    pub output_ms: f64,
}

/// How busy a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Which replica.
    pub replica: ReplicaId,
    /// Its slots.
    pub total: u32,
    /// Slots that are taken: above `total` only after the replica came back with fewer.
    pub in_flight: u32,
    /// Requests that were given slots there, from the start.
    pub started: u64,
    /// Whether it takes requests.
    pub ready: bool,
}
