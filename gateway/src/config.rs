//! The configuration: one struct a concern.
//!
//! `config.default.toml` holds every key with its default and its meaning; it is the lowest layer. A file, the
//! environment and command-line flags go on top of it, in this order.

#[cfg(test)]
mod document;
mod layers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use layers::{ConfigError, Overrides, load};

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Listeners and their limits.
    pub server: Server,
    /// The llama-server replicas.
    pub upstream: Upstream,
    /// Names under which the model is served.
    pub models: Models,
    /// Bounds on what a request may ask for.
    pub requests: Requests,
    /// The queue for slots.
    pub queue: Queue,
    /// The four clocks of a request, and keep-alive.
    pub timeouts: Timeouts,
    /// Keys and usage.
    pub ledger: Ledger,
    /// Log lines.
    pub log: Log,
}

/// Listeners and their limits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address of the public listener.
    pub listen: SocketAddr,
    /// Address of the admin listener: metrics and health.
    pub admin_listen: SocketAddr,
    /// Where keys and ledger are kept.
    pub data_dir: PathBuf,
    /// PEM file with the certificate chain; empty: no TLS.
    pub tls_certificate: PathBuf,
    /// PEM file with the private key; empty: no TLS.
    pub tls_key: PathBuf,
    /// Open connections at most.
    pub max_connections: usize,
    /// Bytes of a request head at most.
    pub max_header_bytes: usize,
    /// Bytes of a request body at most.
    pub max_body_bytes: usize,
    /// Time for a request head to arrive; also how long an idle connection stays open.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// Time for a request body to arrive.
    #[serde(with = "duration")]
    pub body_timeout: Duration,
    /// A client that takes no byte for this long is cut off.
    #[serde(with = "duration")]
    pub slow_reader_timeout: Duration,
    /// Time that running streams get to finish after SIGTERM.
    #[serde(with = "duration")]
    pub drain_grace: Duration,
}

/// The llama-server replicas.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Base URLs, `http://host:port`.
    pub urls: Vec<String>,
    /// File with the API key that llama-server was started with; empty: none.
    pub api_key_file: PathBuf,
    /// Time to open a connection.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// Pause between two health probes of a replica.
    #[serde(with = "duration")]
    pub probe_interval: Duration,
    /// Time that a probe may take.
    #[serde(with = "duration")]
    pub probe_timeout: Duration,
}

/// Names under which the model is served.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    /// Further names that clients may use. Empty: any name is answered by the model that is loaded.
    pub aliases: Vec<String>,
}

/// Bounds on what a request may ask for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// Output tokens at most, for each choice; also the cap of a request that names none.
    pub max_output_tokens: u32,
    /// Nesting of a JSON body at most.
    pub max_json_depth: usize,
    /// Fields to pass on besides those of the built-in list, by surface label.
    pub extra_fields: BTreeMap<String, Vec<String>>,
}

/// The queue for slots.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Requests that wait for a slot at most.
    pub max_waiting: usize,
}

/// The four clocks of a request, and keep-alive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Waiting for a slot.
    #[serde(with = "duration")]
    pub queue: Duration,
    /// From dispatch to the first token, for a short prompt.
    #[serde(with = "duration")]
    pub first_token: Duration,
    /// Added to the first-token clock for each 1,000 tokens of prompt (estimated from its bytes).
    #[serde(with = "duration")]
    pub first_token_per_1000: Duration,
    /// Between two tokens.
    #[serde(with = "duration")]
    pub silence: Duration,
    /// From arrival to the end.
    #[serde(with = "duration")]
    pub total: Duration,
    /// How long a stream is held back before it is opened early, so that refusals are still plain replies.
    #[serde(with = "duration")]
    pub early_open: Duration,
    /// A comment line is sent when a stream was silent for this long.
    #[serde(with = "duration")]
    pub keep_alive: Duration,
}

/// Keys and usage.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// How often the running counts of live streams are written ahead.
    #[serde(with = "duration")]
    pub progress_interval: Duration,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Log lines.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A filter such as `info` or `gateway=debug`.
    pub level: String,
}

/// Durations in the file are text: `90s`, `30m`, `250ms`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de::Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|error| D::Error::custom(format!("`{text}` is not a duration: {error}")))
    }
}
