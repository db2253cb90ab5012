//! What `GET /v1/live` says. Times are in seconds, times of day in seconds since 1970; `None` is not known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The gateway at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `live`
    pub object: String,
    /// When it was taken.
    pub at: f64,
    /// The gateway itself.
    pub gateway: Gateway,
    /// The llama-server replicas.
    pub upstreams: Vec<Upstream>,
    /// How many requests have slots.
    pub running_total: usize,
    /// Those that have waited longest since they entered the queue, the first ones first.
    pub running: Vec<Running>,
    /// How many requests wait for slots.
    pub waiting_total: usize,
    /// The queue as a whole.
    pub queue: Queue,
    /// Those that are first in line.
    pub waiting: Vec<Waiting>,
    /// Tenants that have requests under way, and others that have limits.
    pub tenants: Vec<Tenant>,
}

/// The gateway itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gateway {
    /// Its version.
    pub version: String,
    /// When it was started.
    pub started: f64,
    /// Whether llama-server can be asked: `ready`, `loading`, `wedged` or `unreachable`.
    pub readiness: String,
    /// Whether it is shutting down.
    pub draining: bool,
    /// Whether the last ledger transaction succeeded.
    pub ledger_healthy: bool,
    /// Connections of clients.
    pub open_connections: usize,
}

/// A llama-server replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    /// `host:port`
    pub address: String,
    /// `ready`, `loading`, `down`, `wedged` or `leaving`.
    pub state: String,
    /// Why it is down or wedged.
    pub problem: Option<String>,
    /// The name of its model, when it has told it.
    pub model: Option<String>,
    /// Its version, when it has told it.
    pub build: Option<String>,
    /// Tokens in the context of one slot.
    pub context_tokens: Option<u32>,
    /// Its slots, 0 while it takes no requests.
    pub slots: u32,
    /// Slots in use by this gateway.
    pub slots_busy: u32,
    /// Requests on it that are not this gateway's.
    pub foreign_requests: u32,
    /// How often it was started anew since it was first ready.
    pub restarts: u32,
}

/// A request that has its slots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Its `x-request-id`.
    pub request_id: String,
    /// Whose it is.
    pub tenant: String,
    /// The public id of its key.
    pub key_id: String,
    /// The model that answers.
    pub model: String,
    /// The API surface.
    pub surface: String,
    /// The replica that works on it.
    pub upstream: String,
    /// Slots that it holds.
    pub slots: u32,
    /// `prefill` until its first token, then `decode`.
    pub phase: String,
    /// Tokens of its prompt, cached ones included.
    pub prompt_tokens: u64,
    /// Those of them that came from the cache; 0 until llama-server tells.
    pub cached_tokens: u64,
    /// Output tokens so far.
    pub completion_tokens: u64,
    /// Output tokens a second since the first one.
    pub tokens_per_second: Option<f64>,
    /// How long it waited for its slots.
    pub queue_wait_seconds: f64,
    /// From its arrival to its first token.
    pub ttft_seconds: Option<f64>,
    /// How long it has had its slots.
    pub running_seconds: f64,
    /// How long ago it arrived.
    pub age_seconds: f64,
}

/// The queue as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// By class: how long a request would probably wait that came now, of a tenant that has nothing waiting.
    pub expected_wait_seconds: BTreeMap<String, Option<f64>>,
    /// How long all that wait will probably take to be done.
    pub drain_seconds: Option<f64>,
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its `x-request-id`.
    pub request_id: String,
    /// Whose it is.
    pub tenant: String,
    /// The public id of its key.
    pub key_id: String,
    /// The API surface.
    pub surface: String,
    /// Its class.
    pub class: String,
    /// Slots that it needs.
    pub slots: u32,
    /// How many go before it.
    pub position: usize,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// How long it has waited.
    pub waited_seconds: f64,
    /// How much longer it will probably wait.
    pub expected_wait_seconds: Option<f64>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its name.
    pub tenant: String,
    /// Its requests that have slots.
    pub running: usize,
    /// Its requests that wait.
    pub waiting: usize,
    /// Slots that it holds.
    pub slots_busy: u32,
    /// Its tokens a minute, if they are limited.
    pub tokens_per_minute: Option<Bucket>,
    /// Its tokens of this day (UTC), if they are limited.
    pub day: Option<Quota>,
    /// Its tokens of this month (UTC), if they are limited.
    pub month: Option<Quota>,
}

/// Tokens a minute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// At most.
    pub capacity: u64,
    /// Left now; what running requests hold is not.
    pub left: u64,
}

/// Tokens of a day or a month.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quota {
    /// At most.
    pub limit: u64,
    /// Used, and held by running requests.
    pub used: u64,
}
