//! What `GET /v1/live` says, as far as it is shown.
//!
//! The gateway that is watched may be of another version than this program: what is not known here is ignored, what is
//! missing is not shown.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The gateway at one moment. Times are in seconds, moments in seconds since 1970; none: not known.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Snapshot {
    pub(super) at: f64,
    pub(super) gateway: Gateway,
    pub(super) upstreams: Vec<Upstream>,
    /// All that run; `running` has not more than some of them.
    pub(super) running_total: usize,
    pub(super) running: Vec<Running>,
    /// All that wait; `waiting` has not more than some of them.
    pub(super) waiting_total: usize,
    pub(super) queue: Queue,
    pub(super) waiting: Vec<Waiting>,
    pub(super) tenants: Vec<Tenant>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Gateway {
    pub(super) version: String,
    pub(super) started: f64,
    pub(super) readiness: String,
    pub(super) draining: bool,
    pub(super) ledger_healthy: Option<bool>,
    pub(super) open_connections: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Upstream {
    pub(super) address: String,
    pub(super) state: String,
    pub(super) problem: Option<String>,
    pub(super) model: Option<String>,
    pub(super) build: Option<String>,
    pub(super) context_tokens: Option<u64>,
    pub(super) slots: Option<u64>,
    pub(super) slots_busy: Option<u64>,
    pub(super) foreign_requests: Option<u64>,
    pub(super) restarts: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Running {
    pub(super) request_id: String,
    pub(super) tenant: String,
    pub(super) key_id: String,
    pub(super) model: Option<String>,
    pub(super) surface: String,
    pub(super) upstream: Option<String>,
    pub(super) phase: String,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) completion_tokens: Option<u64>,
    pub(super) tokens_per_second: Option<f64>,
    pub(super) queue_wait_seconds: Option<f64>,
    pub(super) ttft_seconds: Option<f64>,
    pub(super) age_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Queue {
    /// By the class's name: how long somebody would wait who came now and had nothing waiting.
    pub(super) expected_wait_seconds: BTreeMap<String, Option<f64>>,
    pub(super) drain_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Waiting {
    pub(super) request_id: String,
    pub(super) tenant: String,
    pub(super) key_id: String,
    pub(super) surface: String,
    pub(super) class: String,
    pub(super) position: Option<u64>,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) waited_seconds: Option<f64>,
    pub(super) expected_wait_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tenant {
    pub(super) tenant: String,
    pub(super) running: u64,
    pub(super) waiting: u64,
    pub(super) slots_busy: u64,
    pub(super) tokens_per_minute: Option<Bucket>,
    pub(super) day: Option<Quota>,
    pub(super) month: Option<Quota>,
}

/// Tokens a minute.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Bucket {
    pub(super) capacity: f64,
    pub(super) left: f64,
}

/// Tokens a day or a month.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Quota {
    pub(super) limit: f64,
    pub(super) used: f64,
}
