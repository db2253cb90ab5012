//! What is to be sent: the workload file's meaning as types.
//!
//! `load.rs` reads a file and `check.rs` checks it; `flags.rs` does without one; `shipped.rs` holds those that come with
//! the program. `docs/workloads.md` explains every key with its default.

mod api_key;
mod arrival;
mod check;
mod duration;
mod flags;
mod length;
mod load;
mod parts;
mod place;
mod shipped;
mod slo;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use api_key::KeyError;
pub use arrival::{Arrival, TraceFormat};
pub(crate) use check::{MOST_TOKENS, MOST_TURNS};
pub use flags::WorkloadFlags;
pub use length::{Distribution, Length};
pub use load::{WorkloadError, load, load_slo};
pub use shipped::{shipped, shipped_text};
pub use slo::{Objectives, RequestSlo, Slo};

/// A whole workload.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// A short name, for reports.
    pub name: String,
    /// The question that it answers, in one line.
    pub question: String,
    /// Same seed, same requests at the same moments.
    pub seed: u64,
    /// The model asked for, where a tenant names no other.
    pub model: String,
    /// How long requests are scheduled. Ends earlier when `requests` have been.
    #[serde(with = "duration")]
    pub duration: Duration,
    /// How many requests are scheduled in all, if that comes before `duration` ends. 0: no limit.
    pub requests: u64,
    /// Requests scheduled before this are sent and not measured.
    #[serde(with = "duration")]
    pub warm_up: Duration,
    /// How long requests that are under way at the end may take.
    #[serde(with = "duration")]
    pub drain: Duration,
    /// The most requests that the harness keeps under way; what is due beyond counts as dispatch lag.
    pub max_in_flight: usize,
    /// If the 99th percentile of the dispatch lag is above this, the harness itself was the bottleneck and the run fails.
    #[serde(with = "duration")]
    pub max_dispatch_lag: Duration,
    /// Who sends.
    pub tenants: BTreeMap<String, Tenant>,
    /// What must hold.
    pub slo: Slo,
    /// How fairness is measured.
    pub fairness: Fairness,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            name: "unnamed".to_owned(),
            question: String::new(),
            seed: 1,
            model: "default".to_owned(),
            duration: Duration::from_secs(60),
            requests: 0,
            warm_up: Duration::ZERO,
            drain: Duration::from_secs(60),
            max_in_flight: 10_000,
            max_dispatch_lag: Duration::from_millis(10),
            tenants: BTreeMap::new(),
            slo: Slo::default(),
            fairness: Fairness::default(),
        }
    }
}

/// One tenant: a key and how it is used.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenant {
    /// File with its API key. Without: the environment variable `key_variable`.
    pub key_file: Option<PathBuf>,
    /// Environment variable with its API key. Default: `LOADTEST_KEY_` and its name in capitals, else `LOADTEST_KEY`.
    pub key_variable: Option<String>,
    /// The API that it talks.
    pub surface: Surface,
    /// The model that it asks for, if not the workload's.
    pub model: Option<String>,
    /// Its weight at the gateway, for the measures of fairness. The gateway's own policy decides.
    pub weight: f64,
    /// Its class at the gateway, for the report: shares are compared within a class.
    pub class: String,
    /// When its sessions begin.
    pub arrival: Arrival,
    /// Tokens of what a user says in one turn.
    pub prompt_tokens: Length,
    /// Output tokens allowed (`max_tokens`).
    pub output_tokens: Length,
    /// Whether the model is asked to go on up to `output_tokens` (`ignore_eos`, which llama-server knows).
    pub fill_output: bool,
    /// Tokens of a system prompt that sessions have in common. 0: none.
    pub prefix_tokens: u32,
    /// How many different ones there are; sessions take them in turn.
    pub prefixes: u32,
    /// Turns of a session; each sends the conversation so far.
    pub turns: Length,
    /// Seconds between an answer and the next turn of its session.
    pub turn_pause: Length,
    /// The part of its requests that are streamed.
    pub streamed: f64,
    /// Whether requests come with a tool that the model must call.
    pub tools: bool,
    /// When the client gives up.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// How many times a refusal is tried again, in the way of the official clients (`x-should-retry`, `retry-after-ms`,
    /// `retry-after`, else growing pauses). They have 2; 0 shows what the server refuses.
    pub retries: u32,
    /// The part of its clients that leave early, and when.
    pub leavers: Leavers,
    /// The part of its clients that read slowly, and how slowly.
    pub slow_readers: SlowReaders,
    /// How many connections it may use at once. Further requests wait in the client, as in a connection pool. 0: no limit.
    pub connections: usize,
    /// What a good request is, where that differs from the workload's.
    pub slo: Option<RequestSlo>,
    /// Further fields of the request's body, as they are.
    pub fields: BTreeMap<String, toml::Value>,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            key_file: None,
            key_variable: None,
            surface: Surface::Chat,
            model: None,
            weight: 1.0,
            class: "standard".to_owned(),
            arrival: Arrival::Closed { users: 1, think_time: Length::zero() },
            prompt_tokens: Length::Fixed(128.0),
            output_tokens: Length::Fixed(64.0),
            fill_output: true,
            prefix_tokens: 0,
            prefixes: 1,
            turns: Length::Fixed(1.0),
            turn_pause: Length::Fixed(0.0),
            streamed: 1.0,
            tools: false,
            timeout: Duration::from_secs(600),
            retries: 0,
            leavers: Leavers::default(),
            slow_readers: SlowReaders::default(),
            connections: 0,
            slo: None,
            fields: BTreeMap::new(),
        }
    }
}

/// The APIs that are spoken.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Surface {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`, Anthropic's
    Messages,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/rerank`
    Rerank,
}

/// Clients who leave early: by a deadline of their own, or after so many events, whichever comes first.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Leavers {
    /// The part of the requests whose client leaves, 0 to 1.
    pub share: f64,
    /// Seconds after the sending, if given.
    pub after_seconds: Option<Length>,
    /// Events with generated content, if given.
    pub after_tokens: Option<Length>,
}

/// Clients who read slowly.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SlowReaders {
    /// The part of the requests whose client is slow, 0 to 1.
    pub share: f64,
    /// The pause before each read.
    #[serde(with = "duration")]
    pub pause: Duration,
}

/// How fairness is measured. The units are those of the gateway's scheduler (docs/scheduling.md).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Fairness {
    /// What a cached prompt token costs, in computed ones.
    pub cached_cost: f64,
    /// What an output token costs, in computed prompt tokens. 0: taken from the server's own timings.
    pub output_cost: f64,
    /// Slots of all replicas together. 0: asked from llama-server.
    pub slots: u32,
    /// The tenant whose first-token times are compared with a run in which it is alone.
    pub victim: Option<String>,
    /// How long that run takes.
    #[serde(with = "duration")]
    pub baseline: Duration,
}

impl Default for Fairness {
    fn default() -> Self {
        Self { cached_cost: 0.1, output_cost: 0.0, slots: 0, victim: None, baseline: Duration::from_secs(20) }
    }
}
