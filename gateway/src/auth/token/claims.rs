//! What the claims of a token say: whether it is for us and valid now, and whom it stands for.
//!
//! A claim is named by the configuration, as a top-level one (`sub`) or as a JSON pointer (`/kubernetes.io/namespace`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::refusal::Refusal;
use crate::auth::scope::MOST_ENTRIES;
use crate::auth::{Caller, Revocation, Scope};
use crate::config::{Issuer, is_name};
use crate::surface::Surface;

/// Characters of a subject that stands in a key id as it is.
const MAX_SUBJECT_CHARS: usize = 128;
/// What stands there of every other subject: this, and the first bytes of its hash.
const HASHED: &str = "sha256:";
const HASHED_BYTES: usize = 16;

/// When a token was made, and until when it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// `iat`.
    pub(super) issued: Option<Timestamp>,
    /// `exp`, and the clock skew.
    pub(super) until: Timestamp,
}

/// Says whether a token of this issuer is for us, and valid at `now`.
pub(super) fn check(claims: &Value, issuer: &Issuer, now: Timestamp) -> Result<Times, Refusal> {
    if claims.get("iss").and_then(Value::as_str) != Some(&*issuer.issuer) {
        return Err(Refusal::UnknownIssuer);
    }
    if !claims
        .get("aud")
        .is_some_and(|audience| issuer.audience.iter().any(|ours| strings(audience).contains(&&**ours)))
    {
        return Err(Refusal::Audience);
    }
    let expires = date(claims, "exp").ok().flatten().ok_or(Refusal::NoExpiry)?;
    let issued = date(claims, "iat")?;
    let until = later(expires, issuer.clock_skew);
    if now >= until {
        return Err(Refusal::Expired);
    }
    let by_its_clock = later(now, issuer.clock_skew);
    if issued.is_some_and(|at| at > by_its_clock) || date(claims, "nbf")?.is_some_and(|from| from > by_its_clock) {
        return Err(Refusal::NotYetValid);
    }
    if let Some(longest) = issuer.max_lifetime
        && issued.is_none_or(|issued| expires > later(issued, longest))
    {
        return Err(Refusal::Lifetime);
    }
    for (claim, allowed) in &issuer.required_claims {
        let value = find(claims, claim)?;
        if !allowed.iter().any(|allowed| says(claim, value, allowed)) {
            return Err(Refusal::claim(claim, "has none of the required values"));
        }
    }
    Ok(Times { issued, until })
}

/// Whom a token of the issuer `name` stands for.
pub(super) fn caller(claims: &Value, name: &str, issuer: &Issuer) -> Result<Caller, Refusal> {
    let subject = find(claims, &issuer.subject_claim)?.as_str().filter(|subject| !subject.is_empty());
    let subject = subject.ok_or_else(|| Refusal::claim(&issuer.subject_claim, "is not a text"))?;
    let scope = Scope { models: models(claims, issuer)?, surfaces: surfaces(claims, issuer)?, networks: Vec::new() };
    Ok(Caller {
        tenant: tenant(claims, issuer)?.into(),
        key_id: key_id(name, subject),
        policy: policy(claims, issuer)?.map(Into::into),
        scope: Arc::new(scope),
        revocation: Revocation::default(),
    })
}

/// The public id of all tokens of one subject. A subject with other characters than those that ids consist of, or with
/// too many, is named by its hash.
pub(super) fn key_id(issuer: &str, subject: &str) -> Arc<str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'@' | b'|' | b'-');
    // Nobody may call himself what another one's hash is.
    let is_plain = subject.len() <= MAX_SUBJECT_CHARS && subject.bytes().all(allowed) && !subject.starts_with(HASHED);
    if is_plain {
        return format!("{issuer}/{subject}").into();
    }
    let hash = Sha256::digest(subject.as_bytes());
    let hex: String = hash.iter().take(HASHED_BYTES).map(|byte| format!("{byte:02x}")).collect();
    format!("{issuer}/{HASHED}{hex}").into()
}

/// Whether a subject, as the command line has it, is already the hash of one.
pub(super) fn is_hashed(subject: &str) -> bool {
    let hex = subject.strip_prefix(HASHED).unwrap_or_default();
    hex.len() == 2 * HASHED_BYTES && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A surface by its label.
pub(super) fn surface(label: &str) -> Option<Surface> {
    Surface::ALL.into_iter().find(|surface| surface.label() == label)
}

fn tenant<'c>(claims: &'c Value, issuer: &'c Issuer) -> Result<&'c str, Refusal> {
    if let Some(tenant) = &issuer.tenant {
        return Ok(tenant);
    }
    let claim = issuer.tenant_claim.as_deref().unwrap_or_default();
    let values = strings(find(claims, claim)?);
    let tenants: BTreeSet<&str> = if issuer.tenants.is_empty() {
        values.into_iter().collect()
    } else {
        values.into_iter().filter_map(|value| issuer.tenants.get(value).map(String::as_str)).collect()
    };
    let mut tenants = tenants.into_iter();
    match (tenants.next(), tenants.next()) {
        (Some(tenant), None) if is_name(tenant) => Ok(tenant),
        (Some(_), None) => Err(Refusal::claim(claim, "is not a tenant's name")),
        (None, _) => Err(Refusal::claim(claim, "names no tenant")),
        (Some(_), Some(_)) => Err(Refusal::claim(claim, "names several tenants")),
    }
}

fn policy(claims: &Value, issuer: &Issuer) -> Result<Option<String>, Refusal> {
    let Some(claim) = &issuer.policy_claim else { return Ok(issuer.policy.clone()) };
    match find(claims, claim)?.as_str() {
        Some(policy) if is_name(policy) => Ok(Some(policy.to_owned())),
        _ => Err(Refusal::claim(claim, "is not a policy's name")),
    }
}

fn surfaces(claims: &Value, issuer: &Issuer) -> Result<Vec<Surface>, Refusal> {
    let labels = listed(claims, &issuer.surfaces, issuer.surfaces_claim.as_deref())?;
    // Among the words of a claim such as `scope` there are others.
    let surfaces: Vec<_> = labels.iter().filter_map(|label| surface(label)).collect();
    match &issuer.surfaces_claim {
        // An empty list would allow everything.
        Some(claim) if surfaces.is_empty() => Err(Refusal::claim(claim, "names no surface")),
        _ => Ok(surfaces),
    }
}

/// The models that the configuration or the claim names.
fn models(claims: &Value, issuer: &Issuer) -> Result<Vec<String>, Refusal> {
    let models = listed(claims, &issuer.models, issuer.models_claim.as_deref())?;
    // The list is kept with the token, and searched at every request.
    match &issuer.models_claim {
        Some(claim) if models.len() > MOST_ENTRIES => Err(Refusal::claim(claim, "has too many values")),
        _ => Ok(models),
    }
}

/// What the configuration lists, or the claim: an array of texts, or one text with spaces between the items.
fn listed(claims: &Value, fixed: &[String], claim: Option<&str>) -> Result<Vec<String>, Refusal> {
    let Some(claim) = claim else { return Ok(fixed.to_vec()) };
    let texts = strings(find(claims, claim)?).into_iter();
    let items: Vec<_> = texts.flat_map(str::split_ascii_whitespace).map(str::to_owned).collect();
    if items.is_empty() { Err(Refusal::claim(claim, "is empty")) } else { Ok(items) }
}

fn find<'c>(claims: &'c Value, claim: &str) -> Result<&'c Value, Refusal> {
    let found = if claim.starts_with('/') { claims.pointer(claim) } else { claims.get(claim) };
    found.ok_or_else(|| Refusal::claim(claim, "is missing"))
}

/// A text, or the texts of an array.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Whether a claim has a value. `scope` is a list with spaces between its items, by RFC 8693.
fn says(claim: &str, value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) if claim == "scope" => text.split(' ').any(|item| item == wanted),
        Value::Bool(value) => wanted == if *value { "true" } else { "false" },
        _ => strings(value).contains(&wanted),
    }
}

/// A date: seconds since 1970, with or without a fraction.
fn date(claims: &Value, claim: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let date = value.as_f64().and_then(|seconds| Timestamp::from_millisecond((seconds * 1000.0) as i64).ok());
    date.map(Some).ok_or_else(|| Refusal::claim(claim, "is not a date"))
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
