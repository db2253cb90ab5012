//! What must hold: of a single request (it is good or it is not), and of the whole run (it passes or it does not).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// A service level objective. May be a file of its own (`--slo`).
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Slo {
    /// What a good request is.
    pub request: RequestSlo,
    /// What the run must show.
    pub run: Objectives,
}

/// Bounds of one request, as texts such as `"2s"`; a request is good if it is complete and within all that are given.
/// Those with `scheduled` in their name count from the moment at which the request should have been sent.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct RequestSlo {
    /// Time to first token from the scheduled moment.
    #[serde(with = "duration::option")]
    pub ttft_scheduled: Option<Duration>,
    /// Time to first token from the sending.
    #[serde(with = "duration::option")]
    pub ttft: Option<Duration>,
    /// Time per output token without the first.
    #[serde(with = "duration::option")]
    pub tpot: Option<Duration>,
    /// The largest gap between two events with content.
    #[serde(with = "duration::option")]
    pub largest_gap: Option<Duration>,
    /// End to end from the scheduled moment.
    #[serde(with = "duration::option")]
    pub e2e_scheduled: Option<Duration>,
}

/// Objectives of the run. What is not given is not looked at.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Objectives {
    /// The least part of all scheduled requests that is good.
    pub attainment: Option<f64>,
    /// The largest part of all scheduled requests that ended neither complete nor left.
    pub error_rate: Option<f64>,
    /// The most that a measure may be, by names such as `"ttft_scheduled.p95"` or `"chat:tpot.p99"` (a tenant's).
    pub at_most: BTreeMap<String, String>,
    /// The least Jain index of the tenants' weighted service.
    pub jain_index: Option<f64>,
    /// Whether the largest service gap must be within the scheduler's bound.
    pub service_gap_within_bound: bool,
    /// The most that the victim's median first-token time may be, in multiples of what it is alone.
    pub victim_ratio: Option<f64>,
    /// `true`: the books must be read and agree. `false`: whether they do does not matter. Not given: they must agree if
    /// they were read.
    pub audit: Option<bool>,
}
