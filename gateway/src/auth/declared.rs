//! Keys that are declared in a mounted file, by their hashes: for those who keep their configuration in a repository.
//!
//! Takes the path of a TOML file; gives its keys, and again whenever the file has changed. A file that cannot be read or
//! is wrong leaves the keys as they were.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, fs, io};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde::Deserialize;
use toml::Spanned;

use super::info::KeyInfo;
use super::key::{self, KeyHash, NewKey};
use super::record::{Record, Roster};
use super::scope::Scope;
use super::wanted::Wanted;
use super::{Caller, KeyError};
use crate::config::{Config, no_such};

/// What a hash in the file begins with.
const ALGORITHM: &str = "sha256:";

/// Why a file of declared keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {what}", path.display(), Line(*line))]
pub struct DeclaredError {
    /// The file.
    path: PathBuf,
    /// Where in it, from 1.
    line: Option<usize>,
    /// What is wrong there.
    what: String,
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// A key of the file.
pub(super) struct Declared {
    info: KeyInfo,
    hash: KeyHash,
    line: usize,
}

/// The file, and what is known of it.
pub(super) struct DeclaredFile {
    path: PathBuf,
    policies: BTreeSet<String>,
    seen: Mutex<Seen>,
    keys: ArcSwap<Vec<KeyInfo>>,
}

/// What was seen at the last look.
struct Seen {
    /// Which file it was. Kubernetes swaps symbolic links, so that a new file has another inode.
    identity: Option<Identity>,
    /// What was wrong with it.
    error: Option<DeclaredError>,
}

#[derive(PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let is = fs::metadata(path)?;
        Ok(Self { device: is.dev(), inode: is.ino(), modified: (is.mtime(), is.mtime_nsec()), length: is.len() })
    }
}

impl DeclaredFile {
    /// Reads the file that is configured, if there is one, and puts its keys into the roster.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) fn open(config: &Config, roster: &Roster) -> Result<Option<Self>, DeclaredError> {
        let path = config.keys.file.clone();
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let identity = Identity::of(&path).ok();
        let policies = config.policies.keys().cloned().collect();
        let file = Self { path, policies, seen: Mutex::new(Seen { identity, error: None }), keys: ArcSwap::default() };
        file.take(roster)?;
        Ok(Some(file))
    }

    /// Looks whether the file has changed, and takes it up if so. What is wrong with it is logged once.
    pub(super) fn refresh(&self, roster: &Roster) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = Identity::of(&self.path);
        if identity.as_ref().ok() == seen.identity.as_ref() && identity.is_ok() {
            return;
        }
        // Before it is read: what is written to it meanwhile shows as yet another file.
        seen.identity = identity.ok();
        match self.take(roster) {
            Ok(keys) => {
                tracing::info!(path = %self.path.display(), keys, "declared keys in use");
                seen.error = None;
            }
            Err(error) => {
                if seen.error.as_ref() != Some(&error) {
                    tracing::error!(%error, "the file of declared keys cannot be used; keeping those that were there");
                }
                seen.error = Some(error);
            }
        }
    }

    /// Whether the file could be used at the last look.
    pub(super) fn is_healthy(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).error.is_none()
    }

    /// The keys that are in use.
    pub(super) fn keys(&self) -> Vec<KeyInfo> {
        Vec::clone(&self.keys.load())
    }

    fn take(&self, roster: &Roster) -> Result<usize, DeclaredError> {
        let keys = read(&self.path, &self.policies)?;
        if let Some(both) = keys.iter().find(|key| roster.is_stored(&key.info.key_id)) {
            let what =
                format!("the key `{}` is also stored in keys.sqlite: it can be in one place only", both.info.key_id);
            return Err(DeclaredError { path: self.path.clone(), line: Some(both.line), what });
        }
        let infos: Vec<_> = keys.iter().map(|key| key.info.clone()).collect();
        roster.declare(keys.into_iter().map(|key| record(key, roster)).collect());
        let count = infos.len();
        self.keys.store(Arc::new(infos));
        Ok(count)
    }
}

/// The record of a declared key. What belongs to the key stays: its running requests, its last use.
fn record(Declared { info, hash, .. }: Declared, roster: &Roster) -> Record {
    let known = roster.find(&info.key_id, |record| record.caller.revocation.clone());
    let caller = Caller {
        tenant: info.tenant.into(),
        key_id: info.key_id.into(),
        policy: info.policy.map(Arc::from),
        scope: Arc::new(info.scope),
        revocation: known.unwrap_or_default(),
    };
    Record { hash, previous: None, caller: Arc::new(caller), expires: info.expires, revoked: false }
}

/// The keys that the configuration's file declares; none without one.
///
/// # Errors
/// The file cannot be used.
pub fn declared(config: &Config) -> Result<Vec<KeyInfo>, DeclaredError> {
    if config.keys.file.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let keys = read(&config.keys.file, &config.policies.keys().cloned().collect())?;
    Ok(keys.into_iter().map(|key| key.info).collect())
}

/// Draws a key that is stored nowhere, and gives it with the lines that declare it.
///
/// # Errors
/// Tenant or label are not allowed, or the operating system gives no random numbers.
pub fn declare(wanted: &Wanted) -> Result<(NewKey, String), KeyError> {
    wanted.check()?;
    let key = NewKey::draw()?;
    let mut table = toml::Table::new();
    let mut set = |name: &str, value: toml::Value| table.insert(name.to_owned(), value);
    set("id", key.key_id().into());
    set("hash", written(&key.hash()).into());
    set("tenant", wanted.tenant.as_str().into());
    let texts = [
        ("label", Some(wanted.label.clone()).filter(|label| !label.is_empty())),
        ("policy", wanted.policy.clone()),
        ("expires", wanted.expires.map(|expires| expires.to_string())),
    ];
    for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text?))) {
        set(name, text.into());
    }
    let scope = &wanted.scope;
    let lists =
        [("models", scope.models.clone()), ("surfaces", scope.surface_names()), ("networks", scope.network_names())];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        set(name, list.into());
    }
    Ok((key, format!("\n[[keys]]\n{table}")))
}

fn written(hash: &KeyHash) -> String {
    use fmt::Write as _;
    hash.iter().fold(ALGORITHM.to_owned(), |mut text, byte| {
        // Writing to a string does not fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

fn parse_hash(text: &str) -> Option<KeyHash> {
    let digits = text.strip_prefix(ALGORITHM)?;
    let mut hash = KeyHash::default();
    if digits.len() != 2 * hash.len() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    keys: Vec<Spanned<Stanza>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stanza {
    id: Spanned<String>,
    hash: Spanned<String>,
    tenant: Spanned<String>,
    label: Option<Spanned<String>>,
    policy: Option<Spanned<String>>,
    expires: Option<Spanned<String>>,
    models: Option<Spanned<Vec<String>>>,
    surfaces: Option<Spanned<Vec<String>>>,
    networks: Option<Spanned<Vec<String>>>,
}

/// Where in the text something is wrong, in bytes, and what it is.
type Wrong = (usize, String);

fn read(path: &Path, policies: &BTreeSet<String>) -> Result<Vec<Declared>, DeclaredError> {
    let failed = |line, what| DeclaredError { path: path.to_owned(), line, what };
    let text = fs::read_to_string(path).map_err(|error| failed(None, format!("cannot be read: {error}")))?;
    let line = |at: usize| text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
    let document: Document = toml::from_str(&text)
        .map_err(|error| failed(error.span().map(|span| line(span.start)), error.message().to_owned()))?;
    let mut ids = HashSet::new();
    let mut keys = Vec::with_capacity(document.keys.len());
    for stanza in document.keys {
        let at = stanza.span().start;
        let (info, hash) =
            declared_key(stanza.into_inner(), policies, &mut ids).map_err(|(at, what)| failed(Some(line(at)), what))?;
        keys.push(Declared { info, hash, line: line(at) });
    }
    Ok(keys)
}

fn declared_key(
    stanza: Stanza,
    policies: &BTreeSet<String>,
    ids: &mut HashSet<String>,
) -> Result<(KeyInfo, KeyHash), Wrong> {
    let at = |text: &Spanned<String>| text.span().start;
    let id = stanza.id.get_ref();
    if !key::is_id(id) {
        // It is not repeated: it may be a whole key, by mistake.
        return Err((
            at(&stanza.id),
            "an id is 8 characters of a-z and 2-7\nhint: `llama-gateway keys declare`".to_owned(),
        ));
    }
    if !ids.insert(id.clone()) {
        return Err((at(&stanza.id), format!("the key `{id}` is declared twice")));
    }
    let hash = parse_hash(stanza.hash.get_ref()).ok_or_else(|| {
        (
            at(&stanza.hash),
            format!("a hash is `{ALGORITHM}` and 64 hexadecimal digits\nhint: `llama-gateway keys declare`"),
        )
    })?;
    if let Some(policy) = &stanza.policy
        && !policies.contains(policy.get_ref())
    {
        return Err((at(policy), no_such("policy", policy.get_ref(), policies.iter())));
    }
    let expires = stanza.expires.as_ref().map(|text| {
        let wrong =
            |_| (at(text), format!("`{}` is not a time such as 2030-01-31T12:00:00Z", text.get_ref().escape_debug()));
        text.get_ref().parse::<Timestamp>().map_err(wrong)
    });
    let scope = scope(&stanza)?;
    let (tenant_at, label_at) = (at(&stanza.tenant), stanza.label.as_ref().map_or(0, at));
    let text = |text: Option<Spanned<String>>| text.map(Spanned::into_inner);
    let wanted = Wanted {
        tenant: stanza.tenant.into_inner(),
        label: text(stanza.label).unwrap_or_default(),
        policy: text(stanza.policy),
        expires: expires.transpose()?,
        scope,
    };
    wanted.check().map_err(|error| {
        let at = if matches!(error, KeyError::Label { .. }) { label_at } else { tenant_at };
        (at, error.to_string())
    })?;
    let Wanted { tenant, label, policy, expires, scope } = wanted;
    let key_id = stanza.id.into_inner();
    Ok((KeyInfo { key_id, tenant, label, policy, expires, scope, declared: true, ..KeyInfo::default() }, hash))
}

fn scope(stanza: &Stanza) -> Result<Scope, Wrong> {
    let names =
        |list: &Option<Spanned<Vec<String>>>| list.as_ref().map(|list| list.get_ref().clone()).unwrap_or_default();
    let lists = [("models", &stanza.models), ("surfaces", &stanza.surfaces), ("networks", &stanza.networks)];
    Scope::parse(&names(&stanza.models), &names(&stanza.surfaces), &names(&stanza.networks)).map_err(|error| {
        let list = lists.iter().find(|(name, _)| *name == error.list).and_then(|(_, list)| list.as_ref());
        (list.map_or(0, |list| list.span().start), error.what)
    })
}

#[cfg(test)]
#[path = "declared_tests.rs"]
mod tests;
