//! Who asks: an API key or a token becomes a [`Caller`].
//!
//! [`Keys`] makes, lists and revokes keys for the command line; [`Authenticator`] checks them for the server, and
//! [`Tokens`] checks what others have signed.

mod key;
mod scope;
mod store;
mod token;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::{HeaderMap, header};
use jiff::Timestamp;
use rusqlite::Connection;
use subtle::ConstantTimeEq;

use crate::error::{Reason, Rejection};

pub use key::NewKey;
pub use scope::Scope;
pub use store::{KeyError, KeyInfo, Keys, Revoked, Wanted, parse_expiry, write_list};
pub use token::{RevocationError, Tokens, key_id_of, revoke};

use key::KeyHash;

/// Finds the caller by the one credential in the headers: an API key, or a token where issuers are configured.
///
/// # Errors
/// When there is no credential, more than one, or one that is not valid at `now`.
pub async fn caller(
    keys: &Authenticator,
    tokens: &Tokens,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Caller, Rejection> {
    match credential(headers)? {
        token if tokens.is_token(token) => tokens.authenticate(token, now).await,
        _ => keys.authenticate(headers, now),
    }
}

/// Whom a request is accounted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The unit of accounting.
    pub tenant: Arc<str>,
    /// The public id of the API key, or `issuer/subject` of a token.
    pub key_id: Arc<str>,
    /// The name of the key's own policy, where it was made with one.
    pub policy: Option<Arc<str>>,
    /// What of the API it may use, and from where.
    pub scope: Arc<Scope>,
}

/// A key as the server knows it.
struct Record {
    hash: KeyHash,
    caller: Caller,
    expires: Option<Timestamp>,
    revoked: bool,
}

/// All keys at one time.
#[derive(Default)]
struct Snapshot {
    records: HashMap<Arc<str>, Record>,
}

/// The file, and which of its versions the snapshot shows.
struct Source {
    connection: Connection,
    version: Option<i64>,
}

/// Checks API keys against a snapshot in memory, which follows the file: what another process creates or revokes
/// counts from the very next request on.
///
/// Whether the file changed is asked of SQLite before every check (`PRAGMA data_version`), under a lock that nobody
/// holds longer. That takes 2 to 3 µs with an optimised SQLite and 5.7 µs in an unoptimised build (measured with
/// 1000 keys on a virtual machine); a change costs one reading of all keys. A file that is deleted or replaced, not
/// changed, is noticed at the next start only.
pub struct Authenticator {
    source: Mutex<Source>,
    snapshot: ArcSwap<Snapshot>,
}

impl Authenticator {
    /// Opens `keys.sqlite` in the data directory, creates what is missing, and reads all keys. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory, the file or its schema cannot be used.
    pub fn open(data_dir: &Path) -> Result<Self, KeyError> {
        let connection = store::open(data_dir)?;
        // Asked on the way of a request: a lock that is held is an error there, not a wait.
        connection.busy_timeout(std::time::Duration::from_millis(10))?;
        let source = Mutex::new(Source { connection, version: None });
        let authenticator = Self { source, snapshot: ArcSwap::default() };
        authenticator.follow()?;
        Ok(authenticator)
    }

    /// The caller behind a key id, whether the key is valid or not: for what it did before.
    pub fn caller(&self, key_id: &str) -> Option<Caller> {
        self.snapshot.load().records.get(key_id).map(|record| record.caller.clone())
    }

    /// Finds the caller by the one credential in the headers: `Authorization: Bearer`, `x-api-key` or `api-key`.
    ///
    /// # Errors
    /// When there is no credential, more than one, or one that is not valid at `now`. Who does not know the secret
    /// is not told whether the key exists.
    pub fn authenticate(&self, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Rejection> {
        let text = credential(headers)?;
        let key_id = key::key_id(text).ok_or_else(incorrect)?;
        self.follow().map_err(|error| {
            Rejection::new(Reason::Internal, "The API key cannot be checked at the moment.")
                .operator(format!("cannot read keys.sqlite: {error}"))
        })?;
        let snapshot = self.snapshot.load();
        let record = snapshot.records.get(key_id);
        // An unknown id is compared with a hash that no key has, so that it takes as long as a wrong secret.
        let expected = record.map_or(&[0; 32], |record| &record.hash);
        let matches = bool::from(key::hash(text).ct_eq(expected));
        let record = record.filter(|_| matches).ok_or_else(incorrect)?;
        if record.revoked {
            return Err(invalid("The API key has been revoked."));
        }
        if record.expires.is_some_and(|expires| expires <= now) {
            return Err(invalid("The API key has expired."));
        }
        Ok(record.caller.clone())
    }

    /// Reads the keys anew if another connection changed the file.
    fn follow(&self) -> rusqlite::Result<()> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let version = data_version(&source.connection)?;
        if source.version != Some(version) {
            // A change between the two queries shows as yet another version at the next request.
            self.snapshot.store(Arc::new(read(&source.connection)?));
            source.version = Some(version);
        }
        Ok(())
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

fn read(connection: &Connection) -> rusqlite::Result<Snapshot> {
    let mut records = HashMap::new();
    // All keys of a tenant share its name.
    let mut tenants: BTreeSet<Arc<str>> = BTreeSet::new();
    let everything = Arc::new(Scope::default());
    for (info, hash) in store::read_all(connection)? {
        let known = tenants.get(info.tenant.as_str()).cloned();
        let tenant = known.unwrap_or_else(|| info.tenant.into());
        tenants.insert(Arc::clone(&tenant));
        let key_id: Arc<str> = info.key_id.into();
        let policy = info.policy.map(Arc::from);
        let caller = Caller { tenant, key_id: Arc::clone(&key_id), policy, scope: Arc::clone(&everything) };
        records.insert(key_id, Record { hash, caller, expires: info.expires, revoked: info.revoked.is_some() });
    }
    Ok(Snapshot { records })
}

/// The one credential. A header that stands there twice, or two that differ, is refused: whoever reads another of
/// them than we do would see another caller.
fn credential(headers: &HeaderMap) -> Result<&[u8], Rejection> {
    let mut found: Option<&[u8]> = None;
    for name in [header::AUTHORIZATION.as_str(), "x-api-key", "api-key"] {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        let text = if name == header::AUTHORIZATION { bearer(value.as_bytes())? } else { value.as_bytes() };
        if values.next().is_some() || found.is_some_and(|other| other != text) {
            return Err(invalid("The request carries several API keys. Send one."));
        }
        found = Some(text);
    }
    found.ok_or_else(|| {
        invalid("No API key was given. Send it as `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`.")
    })
}

/// The token of a Bearer credential; the scheme may be written in any case.
fn bearer(value: &[u8]) -> Result<&[u8], Rejection> {
    match value.split_at_checked("bearer ".len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Ok(token.trim_ascii()),
        _ => Err(invalid("The `Authorization` header is to be `Bearer KEY`.")),
    }
}

fn invalid(message: &str) -> Rejection {
    Rejection::new(Reason::InvalidApiKey, message)
}

fn incorrect() -> Rejection {
    invalid("Incorrect API key.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn bearer_of(key: &str) -> HeaderMap {
        headers(&[("authorization", &format!("Bearer {key}"))])
    }

    fn wanted(tenant: &str, expires: Option<Timestamp>) -> Wanted<'_> {
        Wanted { tenant, expires, ..Wanted::default() }
    }

    fn refusal(authenticator: &Authenticator, headers: &HeaderMap) -> String {
        let rejection = authenticator.authenticate(headers, at(10)).unwrap_err();
        assert_eq!(rejection.reason, Reason::InvalidApiKey);
        rejection.message
    }

    #[test]
    fn a_key_is_taken_from_each_of_the_three_headers() {
        let dir = tempfile::tempdir().unwrap();
        let key = Keys::open(dir.path()).unwrap().create(&wanted("acme", None), at(0)).unwrap();
        let authenticator = Authenticator::open(dir.path()).unwrap();
        let text = key.expose();
        let caller = Caller { tenant: "acme".into(), key_id: key.key_id().into(), policy: None, scope: Arc::default() };
        for headers in [
            bearer_of(text),
            headers(&[("authorization", &format!("bEARER   {text}"))]),
            headers(&[("x-api-key", text)]),
            headers(&[("api-key", text)]),
            headers(&[("api-key", text), ("authorization", &format!("Bearer {text}"))]),
        ] {
            assert_eq!(authenticator.authenticate(&headers, at(10)).unwrap(), caller);
        }
    }

    #[test]
    fn a_key_brings_its_own_policy() {
        let dir = tempfile::tempdir().unwrap();
        let gold = Wanted { policy: Some("gold"), ..wanted("acme", None) };
        let key = Keys::open(dir.path()).unwrap().create(&gold, at(0)).unwrap();
        let authenticator = Authenticator::open(dir.path()).unwrap();
        let caller = authenticator.authenticate(&bearer_of(key.expose()), at(10)).unwrap();
        assert_eq!(caller.policy.as_deref(), Some("gold"));
    }

    #[test]
    fn several_credentials_are_refused_even_when_one_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let one = keys.create(&wanted("acme", None), at(0)).unwrap();
        let other = keys.create(&wanted("acme", None), at(0)).unwrap();
        let authenticator = Authenticator::open(dir.path()).unwrap();
        let (one, other) = (one.expose(), other.expose());
        let bearer = format!("Bearer {one}");
        for headers in [
            headers(&[("x-api-key", one), ("api-key", other)]),
            headers(&[("authorization", &bearer), ("x-api-key", "")]),
            headers(&[("authorization", &bearer), ("authorization", &bearer)]),
            headers(&[("x-api-key", one), ("x-api-key", other)]),
        ] {
            assert!(refusal(&authenticator, &headers).contains("several"));
        }
        for value in ["Basic abc", "Bearer", one, ""] {
            let message = refusal(&authenticator, &headers(&[("authorization", value), ("x-api-key", one)]));
            assert!(message.contains("`Bearer KEY`"), "{message}");
        }
    }

    #[test]
    fn who_does_not_know_the_secret_learns_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let stranger = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let known = keys.create(&wanted("acme", Some(at(5))), at(0)).unwrap();
        let unknown = Keys::open(stranger.path()).unwrap().create(&wanted("acme", None), at(0)).unwrap();
        let authenticator = Authenticator::open(dir.path()).unwrap();

        // A well-formed key with the id of a known one (expired, which is not told) and another secret.
        let secret = unknown.expose().rsplit_once('-').unwrap().1;
        let forged = key::seal(&format!("sk-lgw-{}-{}", known.key_id(), &secret[..52]));
        assert_eq!(key::key_id(forged.as_bytes()), Some(known.key_id()));
        for text in [unknown.expose(), &forged, "sk-lgw-typo", ""] {
            assert_eq!(refusal(&authenticator, &bearer_of(text)), "Incorrect API key.");
        }
        assert!(refusal(&authenticator, &HeaderMap::new()).starts_with("No API key was given."));
    }

    #[test]
    fn an_expired_key_is_refused_from_its_time_on() {
        let dir = tempfile::tempdir().unwrap();
        let key = Keys::open(dir.path()).unwrap().create(&wanted("acme", Some(at(11))), at(0)).unwrap();
        let authenticator = Authenticator::open(dir.path()).unwrap();
        let headers = bearer_of(key.expose());
        assert!(authenticator.authenticate(&headers, at(10)).is_ok());
        let rejection = authenticator.authenticate(&headers, at(11)).unwrap_err();
        assert_eq!(rejection.message, "The API key has expired.");
    }

    #[test]
    fn keys_that_another_process_creates_or_revokes_count_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let authenticator = Authenticator::open(dir.path()).unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        for tenant in ["acme", "beta", "acme"] {
            let key = keys.create(&wanted(tenant, None), at(0)).unwrap();
            let headers = bearer_of(key.expose());
            assert_eq!(&*authenticator.authenticate(&headers, at(10)).unwrap().tenant, tenant);
            keys.revoke(key.key_id(), at(1)).unwrap();
            assert_eq!(refusal(&authenticator, &headers), "The API key has been revoked.");
        }
    }

    #[test]
    fn no_message_repeats_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let key = keys.create(&wanted("acme", Some(at(5))), at(0)).unwrap();
        let authenticator = Authenticator::open(dir.path()).unwrap();
        let wrong = "sk-lgw-aaaaaaaa-wrong";
        for (name, value) in [("authorization", key.expose()), ("x-api-key", key.expose()), ("api-key", wrong)] {
            let rejection = authenticator.authenticate(&headers(&[(name, value)]), at(10)).unwrap_err();
            assert!(!format!("{rejection:?}").contains(value));
        }
    }
}
