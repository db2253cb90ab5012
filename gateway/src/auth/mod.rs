//! Who asks: an API key or a token becomes a [`Caller`].
//!
//! [`Keys`] makes, lists, changes, rotates and revokes keys, for the command line and for the admin API;
//! [`Authenticator`] checks them for the server, and [`Tokens`] checks what others have signed. Keys are stored in
//! `keys.sqlite`, or declared in a file by their hashes.
//!
//! | files | |
//! |---|---|
//! | `address`, `credential`, `key` | where a request comes from; the text of its key, and what is in that |
//! | `record`, `scope` | the keys in memory: whose they are, whether they are valid, what they are for |
//! | `follow` | keeps them equal to `keys.sqlite`, at the cost of one small read a request |
//! | `declared` | keys that stand in a mounted file |
//! | `last_used`, `tend` | what is written down of their use, and the task that does it |
//! | `schema`, `store`, `wanted`, `info` | `keys.sqlite`, and what operators do with it |
//! | `token/` | tokens of other issuers |

pub mod address;
mod credential;
mod declared;
mod follow;
mod info;
mod key;
mod last_used;
mod record;
mod schema;
mod scope;
mod store;
mod tend;
#[cfg(test)]
mod tests;
mod token;
mod wanted;

use std::path::Path;
use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;

use crate::config::Config;
use crate::error::{Reason, Rejection};

pub use declared::{DeclaredError, declare, declared};
pub use info::{KeyInfo, write_list};
pub use key::{NewKey, key_id};
pub use record::{Revocation, revoked};
pub use scope::{Scope, ScopeError};
pub use store::{KeyError, Keys, Revoked};
pub use tend::tend;
pub use token::{RevocationError, Tokens, key_id_of, revoke};
pub use wanted::{Change, DEFAULT_OVERLAP, Wanted, parse_expiry, parse_overlap};

use declared::DeclaredFile;
use follow::Follower;
use last_used::LastUsed;
use record::Roster;

/// Finds the caller by the one credential in the headers: an API key, or a token where issuers are configured.
///
/// # Errors
/// When there is no credential, more than one, or one that is not valid at `now`.
pub async fn caller(
    keys: &Authenticator,
    tokens: &Tokens,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Arc<Caller>, Rejection> {
    match credential::of(headers)? {
        token if tokens.is_token(token) => tokens.authenticate(token, now).await,
        _ => keys.authenticate(headers, now),
    }
}

/// Whom a request is accounted to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The unit of accounting.
    pub tenant: Arc<str>,
    /// The public id of the API key, or `issuer/subject` of a token.
    pub key_id: Arc<str>,
    /// The name of the key's own policy, where it was made with one.
    pub policy: Option<Arc<str>>,
    /// What of the API it may use, and from where.
    pub scope: Arc<Scope>,
    /// Tells when what it runs is to end.
    pub revocation: Revocation,
}

impl Caller {
    /// A caller of whom no more is known than who it is.
    pub fn new(tenant: &str, key_id: &str) -> Self {
        Self {
            tenant: tenant.into(),
            key_id: key_id.into(),
            policy: None,
            scope: Arc::default(),
            revocation: Revocation::default(),
        }
    }
}

/// Checks API keys against what is in memory, which follows `keys.sqlite` from request to request.
///
/// The fields are dropped in this order: the follower's file must be the last that is closed.
pub struct Authenticator {
    last_used: LastUsed,
    declared: Option<DeclaredFile>,
    roster: Roster,
    follower: Follower,
}

impl Authenticator {
    /// Opens `keys.sqlite` in the data directory, creates what is missing, and reads all keys. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory, the file or its schema cannot be used.
    pub fn open(data_dir: &Path) -> Result<Self, KeyError> {
        let roster = Roster::default();
        let follower = Follower::open(data_dir, &roster)?;
        Ok(Self { last_used: LastUsed::open(data_dir)?, declared: None, roster, follower })
    }

    /// Reads the keys that are declared in the file of the configuration, if it names one, and follows that, too.
    ///
    /// # Errors
    /// When the file cannot be used, or declares a key that is stored.
    pub fn declaring(mut self, config: &Config) -> Result<Self, KeyError> {
        self.declared = DeclaredFile::open(config, &self.roster)?;
        Ok(self)
    }

    /// The caller behind a key id, whether the key is valid or not: for what it did before.
    pub fn caller(&self, key_id: &str) -> Option<Arc<Caller>> {
        self.roster.find(key_id, |record| record.caller.clone())
    }

    /// The keys that are declared in a file.
    pub fn declared(&self) -> Vec<KeyInfo> {
        self.declared.as_ref().map(DeclaredFile::keys).unwrap_or_default()
    }

    /// The keys that expire soon or did so lately, and when; each with the tenant whose it is.
    pub fn expiring(&self, now: Timestamp) -> Vec<(Timestamp, Arc<Caller>)> {
        self.roster.expiring(now)
    }

    /// Whether the file of declared keys, if there is one, could be used when it was looked at last.
    pub fn declared_is_healthy(&self) -> bool {
        self.declared.as_ref().is_none_or(DeclaredFile::is_healthy)
    }

    /// Finds the caller by the one credential in the headers: `Authorization: Bearer`, `x-api-key` or `api-key`.
    ///
    /// # Errors
    /// When there is no credential, more than one, or one that is not valid at `now`. Who does not know the secret
    /// is not told whether the key exists.
    pub fn authenticate(&self, headers: &HeaderMap, now: Timestamp) -> Result<Arc<Caller>, Rejection> {
        let text = credential::of(headers)?;
        let key_id = key::key_id(text).ok_or_else(incorrect)?;
        self.follower.follow(&self.roster).map_err(|error| {
            Rejection::new(Reason::Internal, "The API key cannot be checked at the moment.").operator(error.to_string())
        })?;
        let caller = self.roster.check(key_id, &key::hash(text), now)?;
        self.last_used.note(&caller, now);
        Ok(caller)
    }

    /// Looks for what has changed while no request does; with `write`, writes the last uses down. Blocks on the disk.
    fn look(&self, write: bool) -> Result<(), String> {
        if let Some(declared) = &self.declared {
            declared.refresh(&self.roster);
        }
        let followed = self.follower.check_place().and_then(|()| self.follower.follow(&self.roster));
        let followed = followed.map_err(|error| error.to_string());
        if write {
            let written = self.last_used.write(&self.follower, &self.roster);
            written.map_err(|error| format!("the last uses cannot be written: {error}"))?;
        }
        followed
    }
}

fn invalid(message: &str) -> Rejection {
    Rejection::new(Reason::InvalidApiKey, message)
}

fn incorrect() -> Rejection {
    invalid("Incorrect API key.")
}
