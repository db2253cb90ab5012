//! Tokens of others: a JWT that a configured issuer has signed becomes a [`Caller`].
//!
//! A token that was verified before costs a hash, two look-ups and one small read. Everything that can change since is
//! asked each time: the clock, whether the issuer still has the key, whether its subject was revoked.

mod cache;
mod claims;
mod fetch;
mod issuer;
mod jwks;
mod refusal;
mod revoked;
mod signature;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::decode_header;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cache::{Cache, Verified, fingerprint};
use self::issuer::Issuer;
use self::refusal::Refusal;
use self::revoked::Revocations;
use super::Caller;
use crate::clock::Clock;
use crate::error::Rejection;
use crate::metrics::Metrics;
use crate::{config, outbound};

pub use self::revoked::{RevocationError, revoke};

/// The label of tokens whose issuer is not known. No issuer can be called that.
const NO_ISSUER: &str = "";

/// Checks the tokens of all configured issuers.
pub struct Tokens {
    issuers: Vec<Arc<Issuer>>,
    cache: Cache,
    /// None without issuers: then there is no file either.
    revocations: Option<Revocations>,
    metrics: Arc<Metrics>,
}

/// What is read of a token before it is known who signed it.
#[derive(Deserialize)]
struct Claimed {
    iss: String,
}

impl Tokens {
    /// Takes the issuers as configured, and what is revoked from the data directory. Blocks on the disk.
    ///
    /// # Errors
    /// When [`Tokens::check`] finds something, or the file of revoked tokens cannot be used.
    pub fn open(
        issuers: &BTreeMap<String, config::Issuer>,
        data_dir: &Path,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        signature::install();
        let issuers = checked(issuers)?;
        let revocations = if issuers.is_empty() { None } else { Some(Revocations::open(data_dir)?) };
        Ok(Self { issuers, cache: Cache::default(), revocations, metrics })
    }

    /// Says whether issuers can be worked with.
    ///
    /// # Errors
    /// There is no surface of a name, or a file cannot be used.
    pub fn check(issuers: &BTreeMap<String, config::Issuer>) -> anyhow::Result<()> {
        checked(issuers).map(drop)
    }

    /// Begins to fetch the keys, on `tasks`, until `stop` is cancelled.
    pub fn start(&self, clock: &Clock, tasks: &TaskTracker, stop: &CancellationToken) {
        for issuer in &self.issuers {
            let fetching = issuer.clone().run(clock.clone(), self.metrics.clone());
            tasks.spawn(stop.clone().run_until_cancelled_owned(fetching));
        }
    }

    /// Whether a credential is to be read as a token: there are issuers, and it has the three parts of one. API keys
    /// have no dots.
    pub fn is_token(&self, credential: &[u8]) -> bool {
        !self.issuers.is_empty() && credential.iter().filter(|&&byte| byte == b'.').count() == 2
    }

    /// The policy that every token of this key id's issuer has, where the configuration names one.
    pub fn fixed_policy(&self, key_id: &str) -> Option<&str> {
        let (name, _) = key_id.split_once('/')?;
        self.issuers.iter().find(|issuer| issuer.name == name)?.config.policy.as_deref()
    }

    /// Finds the caller that a token stands for. It waits, for a few seconds at most, where the token's key has to be
    /// fetched first.
    ///
    /// # Errors
    /// When the token is not valid at `now`, or there is no key to check it with.
    pub async fn authenticate(&self, token: &[u8], now: Timestamp) -> Result<Arc<Caller>, Rejection> {
        let fingerprint = fingerprint(token);
        if let Some(verified) = self.cache.get(&fingerprint) {
            match self.still_valid(&verified, now) {
                Ok(()) => return Ok(verified.caller.clone()),
                // As if it had never been seen: what is wrong with it is found again.
                Err(_) => self.cache.remove(&fingerprint),
            }
        }
        let verified = self.verify(token, now).await.map_err(|(issuer, refusal)| {
            let name = issuer.map(|issuer| issuer.name.as_str());
            let labels = [name.unwrap_or(NO_ISSUER), refusal.label()];
            self.metrics.tokens_refused_total.with_label_values(&labels).inc();
            refusal.rejection(name)
        })?;
        let caller = verified.caller.clone();
        self.cache.insert(fingerprint, Arc::new(verified));
        Ok(caller)
    }

    fn still_valid(&self, verified: &Verified, now: Timestamp) -> Result<(), Refusal> {
        if verified.key.is_withdrawn() {
            return Err(Refusal::UnknownKey);
        }
        if now >= verified.times.until {
            return Err(Refusal::Expired);
        }
        let Some(revocations) = &self.revocations else { return Ok(()) };
        match revocations.has(&verified.caller.key_id, verified.times.issued) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Refusal::Revoked),
            Err(error) => Err(Refusal::Unreadable(error.to_string())),
        }
    }

    async fn verify(&self, token: &[u8], now: Timestamp) -> Result<Verified, (Option<&Issuer>, Refusal)> {
        let header = decode_header(token).map_err(|_| (None, Refusal::Malformed))?;
        // Extensions that must be understood: none is.
        if header.crit.is_some() {
            return Err((None, Refusal::Malformed));
        }
        let claimed: Claimed = insecure_decode_claims(token).map_err(|_| (None, Refusal::Malformed))?;
        let issuer = self.issuers.iter().find(|issuer| issuer.config.issuer == claimed.iss);
        let issuer = issuer.ok_or((None, Refusal::UnknownIssuer))?;
        let refused = |refusal| (Some(&**issuer), refusal);
        let key = issuer.key(&header).await.map_err(refused)?;
        let claims = key.verify(token, header.alg).map_err(refused)?;
        let times = claims::check(&claims, &issuer.config, now).map_err(refused)?;
        let caller = claims::caller(&claims, &issuer.name, &issuer.config).map_err(refused)?;
        let verified = Verified { caller: Arc::new(caller), times, key };
        self.still_valid(&verified, now).map_err(refused)?;
        Ok(verified)
    }
}

fn checked(issuers: &BTreeMap<String, config::Issuer>) -> anyhow::Result<Vec<Arc<Issuer>>> {
    let checked = issuers.iter().map(|(name, config)| {
        if let Some(unknown) = config.surfaces.iter().find(|label| claims::surface(label).is_none()) {
            anyhow::bail!("issuers.{name}.surfaces: there is no surface `{}`", unknown.escape_debug());
        }
        if let Some(path) = &config.ca_file {
            outbound::client(Some(path)).with_context(|| format!("issuers.{name}.ca_file"))?;
        }
        let issuer = Issuer::new(name, config);
        issuer.check().with_context(|| format!("issuers.{name}.jwks_file"))?;
        Ok(Arc::new(issuer))
    });
    checked.collect()
}

/// The key id under which the tokens of a subject are accounted, from `ISSUER/SUBJECT` as a person writes it, or as the
/// ledger shows it. `None` if there is no issuer in it, or no subject.
pub fn key_id_of(text: &str) -> Option<(&str, Arc<str>)> {
    let (issuer, subject) = text.split_once('/').filter(|(_, subject)| !subject.is_empty())?;
    let key_id = if claims::is_hashed(subject) { text.into() } else { claims::key_id(issuer, subject) };
    Some((issuer, key_id))
}

#[cfg(test)]
mod tests;
