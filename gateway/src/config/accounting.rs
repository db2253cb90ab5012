//! What is recorded of requests, what it costs, and who is told: the ledger and all that is made of it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::prices::{ANY_MODEL, Day, Price};

/// The record of every request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// How often the running counts of live streams are written ahead.
    #[serde(with = "super::duration")]
    pub progress_interval: Duration,
    /// What becomes of new requests while the ledger cannot be written.
    pub on_failure: OnFailure,
    /// How long settled entries are kept; zero: for ever.
    #[serde(with = "super::duration")]
    pub keep_entries: Duration,
    /// How long the sums of a day are kept; zero: for ever.
    #[serde(with = "super::duration")]
    pub keep_days: Duration,
}

/// What becomes of new requests while the ledger cannot be written.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They are refused.
    Refuse,
    /// They run, and their entries are kept in memory until they can be written.
    Serve,
}

/// Money.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    /// The currency of all prices, as ISO 4217 writes it.
    pub currency: String,
}

/// What the tokens and the slot time of one model, or of any, cost from one day on. What is not said costs nothing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTable {
    /// The model by its name in the ledger; `*`: any that has no table of its own.
    #[serde(default = "PriceTable::any_model")]
    pub model: String,
    /// The first day (UTC) on which it counts; `None`: it has always done so.
    #[serde(default)]
    pub since: Option<Day>,
    /// A million prompt tokens that do not come from the cache.
    #[serde(default)]
    pub prompt: Price,
    /// A million prompt tokens that come from the cache; `None`: as much as others.
    pub cached: Option<Price>,
    /// A million generated tokens.
    #[serde(default)]
    pub output: Price,
    /// One slot for one second.
    #[serde(default)]
    pub slot_second: Price,
}

impl PriceTable {
    fn any_model() -> String {
        ANY_MODEL.to_owned()
    }
}

/// Where settled entries are told: in a file, to a URL, or nowhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The file that gets a line for each entry; empty: none.
    pub file: PathBuf,
    /// The `http` or `https` URL that entries are posted to; empty: none.
    pub url: String,
    /// File with a bearer token for the URL; empty: none.
    pub token_file: PathBuf,
    /// PEM file with root certificates to trust besides the system's; empty: none.
    pub ca_file: PathBuf,
    /// The events' `source`: which gateway this is.
    pub source: String,
}

impl Export {
    /// Whether entries are told at all.
    pub fn is_on(&self) -> bool {
        !self.file.as_os_str().is_empty() || !self.url.is_empty()
    }
}

/// Comparison of the ledger with llama-server's own counters.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// How often a replica that is never quiet is asked for its counters, and one with nothing to do.
    #[serde(with = "super::duration")]
    pub interval: Duration,
}
