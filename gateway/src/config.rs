//! The configuration: one struct a concern.
//!
//! `config.default.toml` holds every key with its default and its meaning; it is the lowest layer. A file, the
//! environment and command-line flags go on top of it, in this order.

mod accounting;
mod check;
#[cfg(test)]
mod document;
mod issuers;
mod keys;
mod layers;
mod traces;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

pub use accounting::{Audit, Billing, Export, Ledger, OnFailure, PriceTable};
pub(crate) use check::no_such;
pub use issuers::{Issuer, SignatureAlgorithm};
pub use layers::{ConfigError, Overrides, load};
pub use traces::Traces;

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Listeners and their limits.
    pub server: Server,
    /// The admin API.
    pub admin: Admin,
    /// API keys.
    pub keys: Keys,
    /// The llama-server replicas.
    pub upstream: Upstream,
    /// Names under which the model is served.
    pub models: Models,
    /// Bounds on what a request may ask for.
    pub requests: Requests,
    /// The order in which requests get slots.
    pub queue: Queue,
    /// What tenants and keys may use, by the policy's name. Each is complete: what a file does not say of one is
    /// taken from `default`, which is always there.
    pub policies: BTreeMap<String, Policy>,
    /// The policies of tenants that do not have the default one, by the tenant's name.
    pub tenants: BTreeMap<String, Tenant>,
    /// Who else may say who a caller is: issuers of tokens, by the name that is given to them here.
    pub issuers: BTreeMap<String, Issuer>,
    /// The clocks of a request, and keep-alive.
    pub timeouts: Timeouts,
    /// The record of every request.
    pub ledger: Ledger,
    /// Money.
    pub billing: Billing,
    /// What tokens and slot time cost, by the table's name.
    pub prices: BTreeMap<String, PriceTable>,
    /// Where settled entries are told.
    pub export: Export,
    /// Comparison of the ledger with llama-server's own counters.
    pub audit: Audit,
    /// Traces of requests.
    pub traces: Traces,
    /// Log lines.
    pub log: Log,
}

impl Config {
    /// Says whether there is an issuer of this name.
    ///
    /// # Errors
    /// There is none; the nearest one is named.
    pub fn check_issuer(&self, name: &str) -> Result<(), ConfigError> {
        if self.issuers.contains_key(name) {
            return Ok(());
        }
        if self.issuers.is_empty() {
            let what = "there is no issuer\nhint: name the file in which they are with --config";
            return Err(ConfigError::new("configuration", what));
        }
        let what = check::no_such("issuer", name, self.issuers.keys());
        Err(ConfigError::new("configuration", format!("{what} Issuers are those of the file given by --config.")))
    }

    /// Says whether there is a policy of this name.
    ///
    /// # Errors
    /// There is none; the nearest one is named.
    pub fn check_policy(&self, name: &str) -> Result<(), ConfigError> {
        if self.policies.contains_key(name) {
            return Ok(());
        }
        let what = check::no_such("policy", name, self.policies.keys());
        Err(ConfigError::new("configuration", format!("{what} Policies are those of the file given by --config.")))
    }
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
    /// Proxies whose `X-Forwarded-For` is believed.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
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

/// The admin API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// File with the key of the admin API; empty: nobody may use it.
    pub key_file: PathBuf,
}

/// API keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// File of keys that are declared by their hashes; empty: none.
    pub file: PathBuf,
}

/// The llama-server replicas.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Base URLs, `http://host:port`; `dns://host:port` stands for every address of the name.
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
    /// Pause between two looks at a replica's slots.
    #[serde(with = "duration")]
    pub inspect_interval: Duration,
    /// A slot that is busy without progress for this long makes its replica wedged.
    #[serde(with = "duration")]
    pub wedged_after: Duration,
    /// Pause between two look-ups of `dns://` names.
    #[serde(with = "duration")]
    pub resolve_interval: Duration,
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
    /// Output tokens at most, for each choice.
    pub max_output_tokens: u32,
    /// Nesting of a JSON body at most.
    pub max_json_depth: usize,
    /// White space is sent to clients that wait for an answer in one piece.
    pub white_space_keep_alive: bool,
    /// Fields to pass on besides those of the built-in list, by surface label.
    pub extra_fields: BTreeMap<String, Vec<String>>,
}

/// In which order requests get slots.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Start-time fair queueing over classes, then tenants.
    Fair,
    /// By arrival alone.
    FirstCome,
}

/// The order in which requests get slots.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// The order.
    pub order: Order,
    /// Classes that go before all others, the first one first.
    pub strict_classes: Vec<String>,
    /// How far a warm prompt may go before its turn, in units of work (one is an uncached prompt token).
    pub locality_slack: u32,
    /// How many times in a row the one whose turn it is may be passed over for a warm prompt.
    pub locality_passes: u32,
    /// The classes and their weights.
    pub classes: BTreeMap<String, u32>,
}

/// What a tenant, or one key, may use. A limit of 0 is none.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Requests a minute.
    pub requests_per_minute: u32,
    /// Tokens a minute, prompt and output.
    pub tokens_per_minute: u64,
    /// Tokens a day (UTC).
    pub tokens_per_day: u64,
    /// Tokens a calendar month (UTC).
    pub tokens_per_month: u64,
    /// Running answers end where a quota ends.
    pub cut_at_quota: bool,
    /// Requests at once, waiting ones included.
    pub concurrent_requests: u32,
    /// Requests that wait for a slot at once.
    pub queued_requests: u32,
    /// Slots in use at once.
    pub slots: u32,
    /// The longest wait for a slot.
    #[serde(with = "duration")]
    pub max_queue_wait: Duration,
    /// The class of the requests. `None`, where the policy names none: for a key the class of its tenant, for a
    /// tenant that of the default policy.
    #[serde(default)]
    pub class: Option<String>,
    /// The tenant's share within its class.
    pub weight: u32,
    /// Output cap of a request that names none.
    pub default_output_tokens: u32,
    /// Prompts share no cached state with those of other tenants.
    pub private_cache: bool,
}

/// The policies of one tenant.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Of the tenant as a whole.
    #[serde(default = "Tenant::default_policy")]
    pub policy: String,
    /// Of each of its keys alone.
    pub key_policy: Option<String>,
}

impl Tenant {
    fn default_policy() -> String {
        DEFAULT_POLICY.to_owned()
    }
}

/// The policy of tenants that are not configured.
pub const DEFAULT_POLICY: &str = "default";

const MAX_NAME_CHARS: usize = 64;

/// Whether a tenant, a policy or a class may be called that: names become metric labels and cells of tables, so their
/// alphabet is small.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_NAME_CHARS).contains(&name.len()) && name.bytes().all(allowed)
}

/// The clocks of a request, and keep-alive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// From dispatch to the first token, for a short prompt.
    #[serde(with = "duration")]
    pub first_token: Duration,
    /// Added to the first-token clock for each 1,000 tokens of prompt.
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
    /// How often a waiting stream is told its position.
    #[serde(with = "duration")]
    pub queue_update: Duration,
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

/// A network such as `10.0.0.0/8`, or one address. Bits behind the prefix are dropped.
///
/// # Errors
/// It is neither.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let network =
        text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical())));
    let wrong = |_| format!("`{}` is not a network such as 10.0.0.0/8 or 2001:db8::/32", text.escape_debug());
    network.map(|network| network.trunc()).map_err(wrong)
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| network(text).map_err(D::Error::custom)).collect()
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
