//! Issuers of tokens: whom to believe, and what their claims mean here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::check::{LONGEST, NAMES, Wrong, no_such, wrong};
use super::{Config, duration, is_name};

/// One issuer of tokens. A claim is the name of a top-level one, or a JSON pointer (`/realm_access/roles`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What `iss` says, to the letter.
    pub issuer: String,
    /// Of these `aud` must name one.
    pub audience: Vec<String>,
    /// Where its public keys are served.
    pub jwks_url: Option<String>,
    /// Or the file that holds them.
    pub jwks_file: Option<PathBuf>,
    /// PEM file of root certificates that are trusted besides the system's when `jwks_url` is asked.
    pub ca_file: Option<PathBuf>,
    /// File with the token that `jwks_url` wants to see. It is read anew each time.
    pub bearer_token_file: Option<PathBuf>,
    /// How tokens may be signed.
    #[serde(default = "Issuer::default_algorithms")]
    pub algorithms: Vec<SignatureAlgorithm>,
    /// How far its clock and ours may be apart.
    #[serde(default = "Issuer::default_clock_skew", with = "duration")]
    pub clock_skew: Duration,
    /// The longest time from `iat` to `exp`.
    #[serde(default, with = "optional_duration")]
    pub max_lifetime: Option<Duration>,
    /// Pause between two fetches of the keys.
    #[serde(default = "Issuer::default_refresh_interval", with = "duration")]
    pub refresh_interval: Duration,
    /// How long keys are believed that cannot be fetched again.
    #[serde(default = "Issuer::default_max_stale", with = "duration")]
    pub max_stale: Duration,
    /// The claim that tells the callers of this issuer apart.
    #[serde(default = "Issuer::default_subject_claim")]
    pub subject_claim: String,
    /// The tenant of all its callers.
    pub tenant: Option<String>,
    /// Or the claim that names it.
    pub tenant_claim: Option<String>,
    /// What the values of `tenant_claim` mean; other values are refused. Empty: the value is the tenant's name.
    #[serde(default)]
    pub tenants: BTreeMap<String, String>,
    /// Claims that a token must have, and the values of which one must be there.
    #[serde(default)]
    pub required_claims: BTreeMap<String, Vec<String>>,
    /// The policy of each caller alone.
    pub policy: Option<String>,
    /// Or the claim that names it.
    pub policy_claim: Option<String>,
    /// The models that may be used; empty: all.
    #[serde(default)]
    pub models: Vec<String>,
    /// Or the claim that names them.
    pub models_claim: Option<String>,
    /// The surfaces that may be used, by their labels; empty: all.
    #[serde(default)]
    pub surfaces: Vec<String>,
    /// Or the claim that names them.
    pub surfaces_claim: Option<String>,
}

/// How a token may be signed: by public keys only. There is no `none`, and no HMAC, whose secret anybody who checks
/// tokens could sign with.
#[expect(missing_docs, reason = "the names of RFC 7518 and RFC 8037")]
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl Issuer {
    /// The keys of one issuer; the default file names no issuer.
    pub(super) const KEYS: [&str; 22] = [
        "issuer",
        "audience",
        "jwks_url",
        "jwks_file",
        "ca_file",
        "bearer_token_file",
        "algorithms",
        "clock_skew",
        "max_lifetime",
        "refresh_interval",
        "max_stale",
        "subject_claim",
        "tenant",
        "tenant_claim",
        "tenants",
        "required_claims",
        "policy",
        "policy_claim",
        "models",
        "models_claim",
        "surfaces",
        "surfaces_claim",
    ];

    fn default_algorithms() -> Vec<SignatureAlgorithm> {
        vec![SignatureAlgorithm::RS256, SignatureAlgorithm::ES256]
    }

    fn default_clock_skew() -> Duration {
        Duration::from_secs(30)
    }

    fn default_refresh_interval() -> Duration {
        Duration::from_secs(300)
    }

    fn default_max_stale() -> Duration {
        Duration::from_secs(86_400)
    }

    fn default_subject_claim() -> String {
        "sub".to_owned()
    }
}

/// Finds the first value of an issuer that cannot be used.
pub(super) fn check(config: &Config, name: &str, issuer: &Issuer) -> Result<(), Wrong> {
    let key = |key| ["issuers", name, key];
    if !is_name(name) {
        return wrong(&["issuers", name], NAMES);
    }
    if issuer.issuer.is_empty() {
        return wrong(&key("issuer"), "must not be empty");
    }
    let mut others = config.issuers.iter().filter(|(other, _)| *other != name);
    if let Some((other, _)) = others.find(|(_, other)| other.issuer == issuer.issuer) {
        return wrong(&key("issuer"), format!("`issuers.{other}` has the same"));
    }
    if issuer.audience.is_empty() || issuer.audience.iter().any(String::is_empty) {
        return wrong(&key("audience"), "at least one is needed, and none may be empty");
    }
    if issuer.algorithms.is_empty() {
        return wrong(&key("algorithms"), "at least one is needed");
    }
    keys_from(name, issuer)?;
    durations(name, issuer)?;
    meaning(config, name, issuer)
}

fn keys_from(name: &str, issuer: &Issuer) -> Result<(), Wrong> {
    let key = |key| ["issuers", name, key];
    let Some(url) = &issuer.jwks_url else {
        if issuer.jwks_file.is_none() {
            return wrong(&key("jwks_url"), "`jwks_url` or `jwks_file` is needed");
        }
        if issuer.ca_file.is_some() || issuer.bearer_token_file.is_some() {
            return wrong(&key("jwks_file"), "`ca_file` and `bearer_token_file` are for `jwks_url`");
        }
        return Ok(());
    };
    if issuer.jwks_file.is_some() {
        return wrong(&key("jwks_file"), "`jwks_url` and `jwks_file` exclude each other");
    }
    let Ok(parsed) = reqwest::Url::parse(url) else { return wrong(&key("jwks_url"), "is not a URL") };
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return wrong(&key("jwks_url"), "must hold no secret\nhint: put it into the file of `bearer_token_file`");
    }
    match parsed.scheme() {
        "https" => Ok(()),
        "http" if is_this_machine(&parsed) => Ok(()),
        _ => wrong(&key("jwks_url"), "must be https: whoever can change the keys on their way can make tokens"),
    }
}

fn is_this_machine(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn durations(name: &str, issuer: &Issuer) -> Result<(), Wrong> {
    let above_zero = [
        ("refresh_interval", Some(issuer.refresh_interval)),
        ("max_stale", Some(issuer.max_stale)),
        ("max_lifetime", issuer.max_lifetime),
    ];
    for (key, value) in above_zero.into_iter().chain([("clock_skew", Some(issuer.clock_skew))]) {
        if value.is_some_and(|value| value > LONGEST) {
            return wrong(&["issuers", name, key], "must not be above 365 days");
        }
        if value.is_some_and(|value| value.is_zero()) && key != "clock_skew" {
            return wrong(&["issuers", name, key], "must be above zero");
        }
    }
    Ok(())
}

/// What the claims are to mean.
fn meaning(config: &Config, name: &str, issuer: &Issuer) -> Result<(), Wrong> {
    let key = |key| ["issuers", name, key];
    if issuer.tenant.is_none() && issuer.tenant_claim.is_none() {
        return wrong(&key("tenant"), "`tenant` or `tenant_claim` is needed");
    }
    for (fixed, claim, both) in [
        ("tenant", "tenant_claim", issuer.tenant.is_some() && issuer.tenant_claim.is_some()),
        ("policy", "policy_claim", issuer.policy.is_some() && issuer.policy_claim.is_some()),
        ("models", "models_claim", !issuer.models.is_empty() && issuer.models_claim.is_some()),
        ("surfaces", "surfaces_claim", !issuer.surfaces.is_empty() && issuer.surfaces_claim.is_some()),
        ("tenants", "tenant", !issuer.tenants.is_empty() && issuer.tenant.is_some()),
    ] {
        if both {
            return wrong(&key(claim), format!("`{fixed}` and `{claim}` exclude each other"));
        }
    }
    if let Some(tenant) = issuer.tenant.iter().find(|tenant| !is_name(tenant)) {
        return wrong(&key("tenant"), format!("`{}`: {NAMES}", tenant.escape_debug()));
    }
    if let Some((value, _)) = issuer.tenants.iter().find(|(_, tenant)| !is_name(tenant)) {
        return wrong(&["issuers", name, "tenants", value], NAMES);
    }
    if let Some((claim, _)) = issuer.required_claims.iter().find(|(_, values)| values.is_empty()) {
        return wrong(&["issuers", name, "required_claims", claim], "at least one value is needed");
    }
    match issuer.policy.as_ref().filter(|policy| !config.policies.contains_key(*policy)) {
        Some(policy) => wrong(&key("policy"), no_such("policy", policy, config.policies.keys())),
        None => Ok(()),
    }
}

/// A duration, or none.
mod optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer};

    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Text(#[serde(with = "super::duration")] Duration);

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Some(Text::deserialize(deserializer)?.0))
    }
}

#[cfg(test)]
#[path = "issuers_tests.rs"]
mod tests;
