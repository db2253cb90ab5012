//! `keys.sqlite`: what is known of each API key. The command line writes it, also while a server reads it.

use std::io::Write;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

use super::key::{KeyHash, NewKey};
use crate::config::is_name;
use crate::database::{self, DatabaseError, read_time};
use crate::table;

/// The file in the data directory. Not the ledger's: its many commits would look like changes to the keys.
const FILE: &str = "keys.sqlite";

/// One SQL text a version; what has been released is never edited.
const MIGRATIONS: &[&str] = &[
    // 1. Times are milliseconds since 1970.
    "CREATE TABLE keys (
        key_id     TEXT    NOT NULL PRIMARY KEY,
        hash       BLOB    NOT NULL,
        tenant     TEXT    NOT NULL,
        label      TEXT    NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER,
        revoked_ms INTEGER
    ) STRICT;",
    // 2. The name of the key's own policy; NULL: its tenant's configuration decides.
    "ALTER TABLE keys ADD COLUMN policy TEXT;",
];

const MAX_LABEL_CHARS: usize = 200;

/// Why a key cannot be made, listed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// SQLite cannot read or write it.
    #[error("cannot read or write the keys")]
    Sql(#[from] rusqlite::Error),
    /// The operating system gives no random numbers.
    #[error("cannot draw random numbers: {0}")]
    Random(getrandom::Error),
    /// Not a name for a tenant.
    #[error("`{}` is not a tenant name\nhint: use 1 to 64 of the characters A-Z a-z 0-9 . _ -", .0.escape_debug())]
    Tenant(String),
    /// Not a label.
    #[error("a label has at most {MAX_LABEL_CHARS} characters and no control characters")]
    Label,
    /// Not a time span, or one that does not end in the future.
    #[error("`{}` is not a time span that ends in the future, such as 12h, 90d or 1y", .0.escape_debug())]
    Expiry(String),
    /// There is no such key.
    #[error("there is no key with the id `{}`\nhint: `llama-gateway keys list` shows them", .0.escape_debug())]
    Unknown(String),
}

/// What a key is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Whose it is.
    pub tenant: &'a str,
    /// What its owner calls it; may be empty.
    pub label: &'a str,
    /// The name of its own policy.
    pub policy: Option<&'a str>,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its public part.
    pub key_id: String,
    /// Whose it is: the unit of accounting.
    pub tenant: String,
    /// What its owner calls it; may be empty.
    pub label: String,
    /// The name of its own policy, if it has one.
    pub policy: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
    /// Since when it is refused.
    pub revoked: Option<Timestamp>,
}

/// What a revocation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The key was valid and is no more.
    Now,
    /// The key had been revoked before, which stays as it is.
    Before,
}

/// The time that lies `span` (such as `90d`) after `now`.
///
/// # Errors
/// When `span` cannot be read, is zero or reaches too far.
pub fn parse_expiry(span: &str, now: Timestamp) -> Result<Timestamp, KeyError> {
    let wrong = || KeyError::Expiry(span.to_owned());
    let duration = humantime::parse_duration(span).map_err(|_| wrong())?;
    let duration = SignedDuration::try_from(duration).map_err(|_| wrong())?;
    let expires = now.checked_add(duration).map_err(|_| wrong())?;
    if expires > now { Ok(expires) } else { Err(wrong()) }
}

/// The keys, for the command line.
pub struct Keys(Connection);

impl Keys {
    /// Opens `keys.sqlite` in the data directory and creates what is missing.
    ///
    /// # Errors
    /// When the directory, the file or its schema cannot be used.
    pub fn open(data_dir: &Path) -> Result<Self, KeyError> {
        Ok(Self(open(data_dir)?))
    }

    /// Makes a key and stores its hash. The key itself is in the answer and nowhere else. Whether its policy exists is
    /// for the caller to know.
    ///
    /// # Errors
    /// When tenant or label are not allowed, or the key cannot be stored.
    pub fn create(&self, wanted: &Wanted<'_>, now: Timestamp) -> Result<NewKey, KeyError> {
        let Wanted { tenant, label, policy, expires } = *wanted;
        if !is_name(tenant) {
            return Err(KeyError::Tenant(tenant.to_owned()));
        }
        if label.chars().count() > MAX_LABEL_CHARS || label.contains(char::is_control) {
            return Err(KeyError::Label);
        }
        loop {
            let key = NewKey::draw().map_err(KeyError::Random)?;
            let inserted = self.0.execute(
                "INSERT INTO keys (key_id, hash, tenant, label, policy, created_ms, expires_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    key.key_id(),
                    super::key::hash(key.expose().as_bytes()),
                    tenant,
                    label,
                    policy,
                    now.as_millisecond(),
                    expires.map(Timestamp::as_millisecond),
                ],
            );
            match inserted {
                Ok(_) => return Ok(key),
                // Two keys drew the same id, of 2^40: draw again.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// All keys, in the order in which they were made.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        let mut statement = self.0.prepare("SELECT * FROM keys ORDER BY created_ms, key_id")?;
        let keys = statement.query_map([], info)?;
        Ok(keys.collect::<rusqlite::Result<_>>()?)
    }

    /// Refuses a key from now on; a running server does so at the next request.
    ///
    /// # Errors
    /// When there is no such key, or the revocation cannot be stored.
    pub fn revoke(&self, key_id: &str, now: Timestamp) -> Result<Revoked, KeyError> {
        let sql = "UPDATE keys SET revoked_ms = ?2 WHERE key_id = ?1 AND revoked_ms IS NULL";
        if self.0.execute(sql, params![key_id, now.as_millisecond()])? == 1 {
            return Ok(Revoked::Now);
        }
        let sql = "SELECT 1 FROM keys WHERE key_id = ?1";
        let known = self.0.query_row(sql, [key_id], |_| Ok(())).optional()?.is_some();
        if known { Ok(Revoked::Before) } else { Err(KeyError::Unknown(key_id.to_owned())) }
    }
}

/// Writes keys as a table, with what each is worth at `now`.
///
/// # Errors
/// What `out` says.
pub fn write_list(keys: &[KeyInfo], now: Timestamp, out: &mut dyn Write) -> std::io::Result<()> {
    let time = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"));
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            let state = match key {
                KeyInfo { revoked: Some(_), .. } => "revoked",
                KeyInfo { expires: Some(expires), .. } if *expires <= now => "expired",
                _ => "valid",
            };
            let label = if key.label.is_empty() { "-" } else { &key.label };
            let policy = key.policy.as_deref().unwrap_or("-");
            [
                key.key_id.clone(),
                key.tenant.clone(),
                policy.to_owned(),
                state.to_owned(),
                time(key.created),
                time(key.expires),
                time(key.revoked),
                label.to_owned(),
            ]
        })
        .collect();
    table::write_aligned(
        out,
        ["key_id", "tenant", "policy", "state", "created", "expires", "revoked", "label"],
        &rows,
        8,
    )
}

pub(super) fn open(data_dir: &Path) -> Result<Connection, DatabaseError> {
    database::create_dir(data_dir)?;
    database::open(&data_dir.join(FILE), MIGRATIONS)
}

/// Gives each key with its hash.
pub(super) fn read_all(connection: &Connection) -> rusqlite::Result<Vec<(KeyInfo, KeyHash)>> {
    let mut statement = connection.prepare_cached("SELECT * FROM keys")?;
    let keys = statement.query_map([], |row| Ok((info(row)?, row.get("hash")?)))?;
    keys.collect()
}

fn info(row: &Row<'_>) -> rusqlite::Result<KeyInfo> {
    Ok(KeyInfo {
        key_id: row.get("key_id")?,
        tenant: row.get("tenant")?,
        label: row.get("label")?,
        policy: row.get("policy")?,
        created: read_time(row, "created_ms")?,
        expires: read_time(row, "expires_ms")?,
        revoked: read_time(row, "revoked_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    #[test]
    fn a_key_is_listed_without_its_secret_and_revoked_once() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let wanted = Wanted { tenant: "acme", label: "laptop", policy: Some("gold"), expires: Some(at(60)) };
        let key = keys.create(&wanted, at(0)).unwrap();
        let expected = KeyInfo {
            key_id: key.key_id().to_owned(),
            tenant: "acme".to_owned(),
            label: "laptop".to_owned(),
            policy: Some("gold".to_owned()),
            created: Some(at(0)),
            expires: Some(at(60)),
            revoked: None,
        };
        assert_eq!(keys.list().unwrap(), [expected]);

        assert_eq!(keys.revoke(key.key_id(), at(1)).unwrap(), Revoked::Now);
        assert_eq!(keys.revoke(key.key_id(), at(2)).unwrap(), Revoked::Before);
        assert_eq!(keys.list().unwrap()[0].revoked, Some(at(1)));
        assert!(matches!(keys.revoke("nobodys", at(2)), Err(KeyError::Unknown(_))));
    }

    #[test]
    fn the_files_hold_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        let key = keys.create(&Wanted { tenant: "acme", ..Wanted::default() }, at(0)).unwrap();
        let (_, secret) = key.expose().rsplit_once('-').unwrap();
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(memchr::memmem::find(&bytes, &secret.as_bytes()[..16]).is_none());
        }
    }

    #[test]
    fn tenants_and_labels_have_a_small_alphabet() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(dir.path()).unwrap();
        for tenant in ["", "a b", "ä", "a\n", "a/b", &"a".repeat(65)] {
            assert!(
                matches!(keys.create(&Wanted { tenant, ..Wanted::default() }, at(0)), Err(KeyError::Tenant(_))),
                "{tenant}"
            );
        }
        for label in ["a\tb", &"a".repeat(201)] {
            let wanted = Wanted { tenant: "acme", label, ..Wanted::default() };
            assert!(matches!(keys.create(&wanted, at(0)), Err(KeyError::Label)), "{label}");
        }
        for tenant in ["a", "Acme-1.prod_x", &"a".repeat(64)] {
            keys.create(&Wanted { tenant, label: "Jörg’s laptop", ..Wanted::default() }, at(0)).unwrap();
        }
    }

    #[test]
    fn an_expiry_lies_in_the_future() {
        assert_eq!(parse_expiry("90d", at(0)).unwrap(), at(90 * 86_400));
        assert_eq!(parse_expiry("1h 30m", at(0)).unwrap(), at(5400));
        for span in ["", "0s", "soon", "-1d", "100000000y"] {
            assert!(matches!(parse_expiry(span, at(0)), Err(KeyError::Expiry(_))), "{span}");
        }
    }

    #[test]
    fn the_list_tells_what_each_key_is_worth() {
        let key = |key_id: &str, expires, revoked| KeyInfo {
            key_id: key_id.to_owned(),
            tenant: "acme".to_owned(),
            label: String::new(),
            policy: None,
            created: Some(at(0)),
            expires,
            revoked,
        };
        let gold = KeyInfo { policy: Some("gold".to_owned()), ..key("b", Some(at(9)), None) };
        let keys = [key("a", None, None), gold, key("c", Some(at(9)), Some(at(1)))];
        let mut out = Vec::new();
        write_list(&keys, at(9), &mut out).unwrap();
        let expected = "\
key_id  tenant  policy  state    created               expires               revoked               label
a       acme    -       valid    2026-01-01T00:00:00Z  -                     -                     -
b       acme    gold    expired  2026-01-01T00:00:00Z  2026-01-01T00:00:09Z  -                     -
c       acme    -       revoked  2026-01-01T00:00:00Z  2026-01-01T00:00:09Z  2026-01-01T00:00:01Z  -
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn keys_of_a_file_of_the_first_version_are_kept_and_have_no_policy_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let old = database::open(&dir.path().join(FILE), &MIGRATIONS[..1]).unwrap();
        let row = "INSERT INTO keys VALUES ('abcdefgh', zeroblob(32), 'acme', 'laptop', 1767225600000, NULL, NULL)";
        old.execute(row, []).unwrap();
        drop(old);

        let keys = Keys::open(dir.path()).unwrap();
        let listed = keys.list().unwrap();
        assert_eq!((&*listed[0].key_id, &*listed[0].label, &listed[0].policy), ("abcdefgh", "laptop", &None));
        assert_eq!((listed[0].created, listed[0].revoked), (Some(at(0)), None));
        let wanted = Wanted { tenant: "acme", policy: Some("gold"), ..Wanted::default() };
        keys.create(&wanted, at(1)).unwrap();
        // And opened again, it is of the second version already.
        assert_eq!(Keys::open(dir.path()).unwrap().list().unwrap()[1].policy.as_deref(), Some("gold"));
    }
}
