//! What proxies add to a llama-server: `beside`.

use serde::{Deserialize, Serialize};

/// The same workload directly, through nginx and through the gateway.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Beside {
    /// Version of this form: `FORMAT`.
    pub format: u32,
    /// Version of the harness.
    pub harness: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// The workload; each run had a seed of its own.
    pub workload: crate::workload::Workload,
    /// llama-server's URL.
    pub upstream: String,
    /// Version of nginx.
    pub nginx: String,
    /// Version of the gateway.
    pub gateway: String,
    /// How often each way was measured.
    pub rounds: u32,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What keeps the numbers from being exact, for people.
    pub notes: Vec<String>,
    /// Why it ended before its time, if it did: the rows have what was measured until then.
    pub broken_off: Option<String>,
}

impl Beside {
    /// The exit code of the program: 2 where it was broken off, else 0, since there is no objective.
    pub fn exit_code(&self) -> u8 {
        if self.broken_off.is_some() { 2 } else { 0 }
    }
}

/// One measure on all ways.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    /// Its key: `ttft_p50`, `cpu_per_1000_requests`.
    pub name: String,
    /// Its name for people, with the unit.
    pub title: String,
    /// Directly; none of what only a proxy has.
    pub direct: Option<Figure>,
    /// Through nginx.
    pub nginx: Option<Figure>,
    /// Through the gateway.
    pub gateway: Option<Figure>,
    /// Through nginx less directly, round by round; all of what only a proxy has.
    pub nginx_adds: Option<Figure>,
    /// Through the gateway less directly, round by round; all of what only a proxy has.
    pub gateway_adds: Option<Figure>,
    /// The gateway's part of nginx's, round by round: 2 is twice as much. Of what only a proxy has.
    pub ratio: Option<Figure>,
}

/// A number over the rounds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
pub struct Figure {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}
