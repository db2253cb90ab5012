//! What a run gives: plain data, written as JSON (`docs/loadtest-report.schema.json`), read back by `compare` and `show`,
//! and shown as text, CSV and HTML.
//!
//! Times are in milliseconds, rates per second, tokens as the server counted them.

pub mod beside;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
pub(crate) mod schema;
pub mod sweep;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the JSON form. Fields may be added; anything else makes a new version.
pub const FORMAT: u32 = 1;

/// One measured run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// Version of this form: `FORMAT`.
    pub format: u32,
    /// Version of the harness.
    pub harness: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// The workload, as it was run.
    pub workload: crate::workload::Workload,
    /// Where it was sent.
    pub target: Target,
    /// Seconds over which rates are taken: from the end of the warm-up to the end of the last request that was
    /// scheduled in time, at least to the end of the scheduled time.
    pub measured_seconds: f64,
    /// All tenants together.
    pub total: Summary,
    /// Each tenant, by name.
    pub tenants: BTreeMap<String, Summary>,
    /// What the measures mean, by name.
    pub formulas: BTreeMap<String, Formula>,
    /// How it went over time.
    pub timeline: Timeline,
    /// The same measures by block of time, for resampling: requests of one moment are not independent, blocks nearly are.
    pub blocks: Vec<Block>,
    /// How the tenants shared the slots, if there are several.
    pub fairness: Option<Fairness>,
    /// The books, if they were read.
    pub audit: Option<Audit>,
    /// How long after its client had left a request went on in llama-server, in milliseconds, by trials after the load.
    pub cancel: Option<Distribution>,
    /// What the harness says of itself.
    pub harness_health: Health,
    /// Whether the objectives were met.
    pub verdict: Verdict,
}

/// The server that was asked.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Target {
    /// Base URL of the requests.
    pub url: String,
    /// llama-server's own URL, if given.
    pub upstream: Option<String>,
    /// What llama-server says of itself (`build_info`).
    pub build: Option<String>,
    /// Its slots.
    pub slots: Option<u32>,
    /// Whether prompts were sized with its own tokenizer; otherwise their lengths are estimates.
    pub exact_prompts: bool,
}

/// What a group of requests had.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Summary {
    /// Requests scheduled, warm-up excluded. Everything below is of these.
    pub scheduled: u64,
    /// How they ended: complete, left, and each kind of fault.
    pub endings: BTreeMap<String, u64>,
    /// Tries that were refused and tried again.
    pub retried: BTreeMap<String, u64>,
    /// Tokens as the server counted them, or as seen where a reply was cut short.
    pub tokens: Tokens,
    /// Requests, tokens and good requests a second.
    pub rates: Rates,
    /// Requests within the objectives.
    pub good: u64,
    /// `good / (scheduled - left)`: refusals, errors and timeouts are misses.
    pub attainment: f64,
    /// Measures by name, in milliseconds.
    pub measures: BTreeMap<String, Distribution>,
}

impl Summary {
    /// How many requests were complete.
    pub fn complete(&self) -> u64 {
        self.ended("complete")
    }

    /// How many requests' clients left, as the workload wanted.
    pub fn left(&self) -> u64 {
        self.ended("left")
    }

    /// How many requests count for attainment: all that were scheduled, without those whose client left.
    pub fn expected(&self) -> u64 {
        self.scheduled.saturating_sub(self.left())
    }

    /// How many requests ended neither complete nor left.
    pub fn failed(&self) -> u64 {
        self.expected().saturating_sub(self.complete())
    }

    fn ended(&self, ending: &str) -> u64 {
        self.endings.get(ending).copied().unwrap_or(0)
    }

    /// A measure by its name, if it has a value.
    pub fn measure(&self, name: &str) -> Option<&Distribution> {
        self.measures.get(name).filter(|values| values.count > 0)
    }
}

/// Sums of tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Tokens {
    /// Prompt tokens, cached ones included.
    pub prompt: u64,
    /// Those from the cache.
    pub cached: u64,
    /// Generated tokens.
    pub completion: u64,
}

/// Rates over the measured time, but for `offered`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Rates {
    /// Scheduled requests a second of the time in which requests were scheduled.
    pub offered: f64,
    /// Complete requests a second.
    pub completed: f64,
    /// Good requests a second: the goodput.
    pub goodput: f64,
    /// Prompt tokens a second.
    pub prompt_tokens: f64,
    /// Generated tokens a second.
    pub completion_tokens: f64,
}

/// The distribution of a measure, in milliseconds. Every value is in it; values are kept to three digits.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Distribution {
    /// How many values.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// Percentiles.
    pub p50: f64,
    /// The 90th.
    pub p90: f64,
    /// The 95th.
    pub p95: f64,
    /// The 99th.
    pub p99: f64,
    /// The 99.9th.
    pub p999: f64,
    /// The most.
    pub max: f64,
    /// Values and how often each came, ascending.
    pub histogram: Vec<(f64, u64)>,
}

/// What a measure means.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Formula {
    /// Name for people.
    pub title: String,
    /// How it is computed.
    pub formula: String,
}

/// Values by slice of time from the beginning of the run, warm-up included; all lists are of the same length.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Timeline {
    /// Seconds of a slice.
    pub slice_seconds: f64,
    /// Requests scheduled in the slice.
    pub scheduled: Vec<u64>,
    /// Requests that were complete in it.
    pub completed: Vec<u64>,
    /// Requests that failed in it.
    pub failed: Vec<u64>,
    /// Requests under way, on average.
    pub in_flight: Vec<f64>,
    /// Requests sent and without a first token, on average: those that wait for a slot or for their prompt.
    pub waiting: Vec<f64>,
    /// Tokens generated in it.
    pub completion_tokens: Vec<u64>,
    /// The median time to first token, from the scheduled moment, of the requests that had it in this slice; none if
    /// there was none.
    pub ttft_scheduled_p50: Vec<Option<f64>>,
    /// The 95th percentile of the same.
    pub ttft_scheduled_p95: Vec<Option<f64>>,
}

/// A block of time, by the scheduled moment of its requests.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Block {
    /// Requests scheduled.
    pub scheduled: u64,
    /// Of which good.
    pub good: u64,
    /// Of which left.
    pub left: u64,
    /// Of which neither complete nor left.
    pub failed: u64,
    /// Generated tokens.
    pub completion_tokens: u64,
    /// Histograms by measure, to two digits: values in milliseconds and how often each came.
    pub histograms: BTreeMap<String, Vec<(f64, u64)>>,
}

/// How tenants shared the slots.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Fairness {
    /// What an output token cost, in computed prompt tokens.
    pub output_cost: f64,
    /// Slots.
    pub slots: u32,
    /// Each tenant's service in cost units and its weight.
    pub service: BTreeMap<String, Service>,
    /// Jain's index of the weighted service of a class's tenants over the time in which all of them had requests waiting;
    /// none if there was none. Of several classes, the lowest.
    pub jain_index: Option<f64>,
    /// For each pair of one class: the largest gap of weighted service while both had requests waiting, and the bound.
    pub gaps: Vec<Gap>,
    /// The victim's first-token times beside those when it was alone.
    pub victim: Option<Victim>,
}

/// A tenant's service.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Service {
    /// Its weight.
    pub weight: f64,
    /// Its class.
    pub class: String,
    /// Service after the warm-up, in cost units.
    pub cost: f64,
    /// Service while all tenants of its class had requests waiting.
    pub cost_while_all_waited: f64,
    /// The largest cost of one of its requests.
    pub largest_request: f64,
}

/// The gap of two tenants.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Gap {
    /// Their names.
    pub tenants: (String, String),
    /// The largest gap, in cost units over weight.
    pub gap: f64,
    /// `(slots + 1) * (c1/w1 + c2/w2)`.
    pub bound: f64,
    /// Seconds in which both had requests waiting.
    pub seconds_both_waited: f64,
}

/// A tenant beside itself alone.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Victim {
    /// Its name.
    pub tenant: String,
    /// Its time to first token, from the scheduled moment, alone.
    pub alone: Distribution,
    /// The same beside the others.
    pub beside: Distribution,
    /// Median beside the others / median alone.
    pub ratio: f64,
}

/// The three books of tokens. A book that could not be read says why.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Audit {
    /// Each comparison, in the order of the books.
    pub lines: Vec<AuditLine>,
    /// Whether all lines agree.
    pub agrees: bool,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
}

/// One kind of tokens in the books.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AuditLine {
    /// Whose: a tenant's name, or "all".
    pub of: String,
    /// `prompt`, `cached`, `completion`, `requests`.
    pub kind: String,
    /// As the clients saw them.
    pub clients: u64,
    /// As the gateway's ledger has them.
    pub ledger: Option<u64>,
    /// As llama-server's counters grew.
    pub engine: Option<u64>,
    /// How far they may be apart, because of requests that were cut.
    pub allowed: u64,
    /// Whether they are no further apart.
    pub agrees: bool,
}

/// What the harness says of itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Health {
    /// How late requests were turned to, in milliseconds.
    pub dispatch_lag: Distribution,
    /// How late a task of the harness was that does nothing but wake every 10 ms, in milliseconds: with users who send again
    /// when the answer has come, requests are never late, and only this tells of a harness without CPU time.
    pub pulse_lag: Distribution,
    /// CPU seconds of the harness.
    pub cpu_seconds: f64,
    /// Whether the harness was the bottleneck: the numbers then say nothing of the server.
    pub was_bottleneck: bool,
    /// The most requests that were under way at once.
    pub most_in_flight: u64,
}

/// The verdict.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Verdict {
    /// Each objective.
    pub objectives: Vec<Objective>,
    /// Why the run is no measurement, if it is none: the harness was too slow, a server lied, the run was broken off.
    pub invalid: Vec<String>,
}

/// One objective.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Objective {
    /// What, in words: `ttft_scheduled.p95 of chat`.
    pub name: String,
    /// What was wanted, in words: `at most 2 s`.
    pub wanted: String,
    /// What was measured, in words.
    pub measured: String,
    /// Whether it was met.
    pub met: bool,
}

impl Verdict {
    /// The exit code of the program: 2 where nothing valid was measured, 1 where an objective was missed, else 0.
    pub fn exit_code(&self) -> u8 {
        if !self.invalid.is_empty() { 2 } else { u8::from(self.objectives.iter().any(|objective| !objective.met)) }
    }
}
