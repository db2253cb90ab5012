//! Where traces of requests go.

use std::path::PathBuf;

use serde::Deserialize;

use super::Config;
use super::check::{Wrong, receiver, wrong};

/// Traces of requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// The `http` or `https` URL of the collector; empty: there are no traces.
    pub url: String,
    /// Which part of the requests is recorded, from 0 to 1.
    pub sample_ratio: f64,
    /// What a client says of its own trace, recorded or not, counts more than the ratio.
    pub follow_client: bool,
    /// File with a bearer token for the URL; empty: none.
    pub token_file: PathBuf,
    /// PEM file with root certificates to trust besides the system's; empty: none.
    pub ca_file: PathBuf,
    /// What the gateway is called in traces.
    pub service_name: String,
}

impl Traces {
    /// Whether there are traces at all.
    pub fn is_on(&self) -> bool {
        !self.url.is_empty()
    }
}

pub(super) fn check(config: &Config) -> Result<(), Wrong> {
    let traces = &config.traces;
    receiver("traces", &traces.url, [("token_file", &traces.token_file), ("ca_file", &traces.ca_file)])?;
    if !(0.0..=1.0).contains(&traces.sample_ratio) {
        return wrong(&["traces", "sample_ratio"], "must be from 0 to 1");
    }
    if traces.service_name.is_empty() || traces.service_name.chars().any(char::is_control) {
        return wrong(&["traces", "service_name"], "must be a name without control characters");
    }
    Ok(())
}
