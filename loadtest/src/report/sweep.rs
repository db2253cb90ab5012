//! Several runs at different loads: `sweep` and `find-limit`.

use serde::{Deserialize, Serialize};

/// The curve, and the limit if one was looked for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sweep {
    /// Version of this form: `FORMAT`.
    pub format: u32,
    /// Version of the harness.
    pub harness: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// The workload at a load of 1.
    pub workload: crate::workload::Workload,
    /// Where it was sent.
    pub target: super::Target,
    /// The runs, in the order in which they were made.
    pub points: Vec<Point>,
    /// How it ended.
    pub finding: Finding,
    /// The highest load that meets the objectives, if one was found.
    pub limit: Option<Limit>,
    /// What the reader should know: loads that were not clear, why it was broken off.
    pub notes: Vec<String>,
}

/// How a sweep or a search ended.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// All runs of a sweep were made; no limit was looked for.
    Curve,
    /// The limit was found.
    Limit,
    /// The objectives were not met at the lowest load.
    NeverMet,
    /// They were met at the highest load that was allowed: the limit is above.
    AlwaysMet,
    /// A run could not be made or was no measurement. The points before it are good.
    BrokenOff,
}

impl Sweep {
    /// The exit code of the program: 2 where it was broken off, 1 where no load met the objectives, else 0.
    pub fn exit_code(&self) -> u8 {
        match self.finding {
            Finding::Curve | Finding::Limit | Finding::AlwaysMet => 0,
            Finding::NeverMet => 1,
            Finding::BrokenOff => 2,
        }
    }
}

/// One run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Point {
    /// What rates and numbers of users were multiplied by.
    pub load: f64,
    /// Requests.
    pub scheduled: u64,
    /// Scheduled requests a second.
    pub offered: f64,
    /// Complete requests a second.
    pub completed: f64,
    /// Good requests a second.
    pub goodput: f64,
    /// Generated tokens a second.
    pub completion_tokens: f64,
    /// Good part of all scheduled requests.
    pub attainment: f64,
    /// Wilson's 95 % confidence interval of it, as wide as the misses come in clusters.
    pub attainment_interval: (f64, f64),
    /// Time to first token from the scheduled moment in milliseconds: median. None if no request
    /// had a first token.
    pub ttft_scheduled_p50: Option<f64>,
    /// The 95th percentile.
    pub ttft_scheduled_p95: Option<f64>,
    /// Time per output token in milliseconds: median. None if no request had two.
    pub tpot_p50: Option<f64>,
    /// Whether the objectives were met.
    pub met: bool,
    /// Why it is no measurement, if it is none.
    pub invalid: Vec<String>,
}

/// The highest load that meets the objectives.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Limit {
    /// The load.
    pub load: f64,
    /// Requests a second offered at that load.
    pub offered: f64,
    /// Between which loads it lies, with `confidence` if there is one.
    pub interval: (f64, f64),
    /// 0.95, say. None where no attainment was wanted: single runs decided then.
    pub confidence: Option<f64>,
    /// What the interval rests on, in words.
    pub basis: String,
}
