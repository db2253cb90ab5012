//! What is known of each API key, in `keys.sqlite`: made, listed, changed, rotated and revoked by the command line and by
//! the admin API, also while a server reads it (`follow`).

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::info::KeyInfo;
use super::key::{KeyHash, NewKey};
use super::schema;
use super::scope::{Scope, ScopeError};
use super::wanted::{Change, Wanted};
use crate::database::{DatabaseError, read_time};

/// Why a key cannot be made, listed, changed, rotated or revoked.
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
    Random(#[from] getrandom::Error),
    /// Not a name for a tenant.
    #[error("`{}` is not a tenant name\nhint: use 1 to 64 of the characters A-Z a-z 0-9 . _ -", .0.escape_debug())]
    Tenant(String),
    /// Not a label.
    #[error("a label has at most {most} characters and no control characters")]
    Label {
        /// How many it may have.
        most: usize,
    },
    /// Not a time, or one that does not lie in the future.
    #[error(
        "`{}` is not a time in the future\nhint: give a span such as 12h, 90d or 1y, or a time such as 2030-01-31T12:00:00Z",
        .0.escape_debug()
    )]
    Expiry(String),
    /// Not an overlap.
    #[error("`{}` is not a time span of at most a year, such as 24h, or 0s", .0.escape_debug())]
    Overlap(String),
    /// An entry of a scope that cannot be used.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// There is no such key.
    #[error(
        "there is no key with the id `{}`\nhint: `llama-gateway keys list` shows them; a declared key is changed in its file",
        .0.escape_debug()
    )]
    Unknown(String),
    /// The key was revoked.
    #[error("the key `{0}` is revoked, which is for good\nhint: create another one")]
    Revoked(String),
    /// The file of declared keys cannot be used.
    #[error(transparent)]
    Declared(#[from] super::declared::DeclaredError),
}

/// What a revocation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The key was valid and is no more.
    Now,
    /// The key had been revoked before.
    Before,
}

/// The keys that are stored.
pub struct Keys(Connection);

/// A key with its last use.
const SELECT: &str = "SELECT keys.*, last_used.used_ms FROM keys LEFT JOIN last_used USING (key_id)";

impl Keys {
    /// Opens `keys.sqlite` in the data directory and creates what is missing. Blocks on the disk, as does all that
    /// follows.
    ///
    /// # Errors
    /// When the directory, the file or its schema cannot be used.
    pub fn open(data_dir: &Path) -> Result<Self, KeyError> {
        Ok(Self(schema::open(data_dir)?))
    }

    /// Makes a key and stores its hash. The key itself is in the answer and nowhere else.
    ///
    /// # Errors
    /// When tenant or label are not allowed, or the key cannot be stored.
    pub fn create(&self, wanted: &Wanted, now: Timestamp) -> Result<NewKey, KeyError> {
        wanted.check()?;
        loop {
            let key = NewKey::draw()?;
            match self.insert(&key, wanted, now) {
                Ok(_) => return Ok(key),
                // Two keys drew the same id, of 2^40: draw again.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn insert(&self, key: &NewKey, wanted: &Wanted, now: Timestamp) -> rusqlite::Result<usize> {
        let Wanted { tenant, label, policy, expires, scope } = wanted;
        let mut statement = self.0.prepare_cached(
            "INSERT INTO keys (key_id, hash, tenant, label, policy, created_ms, expires_ms, models, surfaces, networks)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        statement.execute(params![
            key.key_id(),
            key.hash(),
            tenant,
            label,
            policy,
            now.as_millisecond(),
            expires.map(Timestamp::as_millisecond),
            list(&scope.models),
            list(&scope.surface_names()),
            list(&scope.network_names()),
        ])
    }

    /// All keys, in the order in which they were made; then those of `declared`, with what is known of their last use.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn list(&self, declared: Vec<KeyInfo>) -> Result<Vec<KeyInfo>, KeyError> {
        let mut statement = self.0.prepare(&format!("{SELECT} ORDER BY created_ms, key_id"))?;
        let mut keys: Vec<_> = statement.query_map([], info)?.collect::<rusqlite::Result<_>>()?;
        for key in declared {
            keys.push(self.with_last_use(key)?);
        }
        Ok(keys)
    }

    /// One key, be it stored or one of `declared`.
    ///
    /// # Errors
    /// When there is no such key, or what SQLite says.
    pub fn get(&self, key_id: &str, declared: &[KeyInfo]) -> Result<KeyInfo, KeyError> {
        match declared.iter().find(|key| key.key_id == key_id) {
            Some(key) => Ok(self.with_last_use(key.clone())?),
            None => get(&self.0, key_id),
        }
    }

    fn with_last_use(&self, key: KeyInfo) -> rusqlite::Result<KeyInfo> {
        let mut statement = self.0.prepare_cached("SELECT used_ms FROM last_used WHERE key_id = ?1")?;
        let last_used = statement.query_row([&key.key_id], |row| read_time(row, "used_ms")).optional()?.flatten();
        Ok(KeyInfo { last_used, ..key })
    }

    /// Changes what a key is; a running server follows at the next request. Gives what it is then.
    ///
    /// # Errors
    /// When there is no such key, the label is not allowed, or the change cannot be stored.
    pub fn change(&self, key_id: &str, change: &Change) -> Result<KeyInfo, KeyError> {
        let transaction = self.begin()?;
        let mut info = get(&transaction, key_id)?;
        change.apply(&mut info)?;
        transaction.execute(
            "UPDATE keys SET label = ?2, policy = ?3, expires_ms = ?4, models = ?5, surfaces = ?6, networks = ?7
             WHERE key_id = ?1",
            params![
                key_id,
                info.label,
                info.policy,
                info.expires.map(Timestamp::as_millisecond),
                list(&info.scope.models),
                list(&info.scope.surface_names()),
                list(&info.scope.network_names()),
            ],
        )?;
        transaction.commit()?;
        Ok(info)
    }

    /// Gives a key another secret; its id, and with it its limits and its usage, stays. The secret that it had is valid
    /// until `overlap` is over; one that it had before that is not valid any more.
    ///
    /// # Errors
    /// When there is no such key, it is revoked, or the change cannot be stored.
    pub fn rotate(&self, key_id: &str, overlap: SignedDuration, now: Timestamp) -> Result<NewKey, KeyError> {
        let until = now.checked_add(overlap).map_err(|_| KeyError::Overlap(format!("{overlap:#}")))?;
        let transaction = self.begin()?;
        let info = get(&transaction, key_id)?;
        if info.revoked.is_some() {
            return Err(KeyError::Revoked(info.key_id));
        }
        let key = NewKey::draw_for(&info.key_id)?;
        transaction.execute(
            "UPDATE keys SET previous_hash = hash, previous_until_ms = ?3, hash = ?2, rotated_ms = ?4 WHERE key_id = ?1",
            params![key_id, key.hash(), until.as_millisecond(), now.as_millisecond()],
        )?;
        transaction.commit()?;
        Ok(key)
    }

    /// Refuses a key from now on; a running server does so at the next request. With `end_streams` it also ends what the
    /// key runs, within a second.
    ///
    /// # Errors
    /// When there is no such key, or the revocation cannot be stored.
    pub fn revoke(&self, key_id: &str, end_streams: bool, now: Timestamp) -> Result<Revoked, KeyError> {
        let transaction = self.begin()?;
        let info = get(&transaction, key_id)?;
        transaction.execute(
            "UPDATE keys SET revoked_ms = coalesce(revoked_ms, ?2), end_streams = max(end_streams, ?3)
             WHERE key_id = ?1",
            params![key_id, now.as_millisecond(), end_streams],
        )?;
        transaction.commit()?;
        Ok(if info.revoked.is_some() { Revoked::Before } else { Revoked::Now })
    }

    /// A transaction that sees what it changes: nobody else writes meanwhile.
    fn begin(&self) -> rusqlite::Result<Transaction<'_>> {
        Transaction::new_unchecked(&self.0, TransactionBehavior::Immediate)
    }
}

/// A row as a server reads it.
pub(super) struct Stored {
    pub(super) info: KeyInfo,
    pub(super) hash: KeyHash,
    /// The secret before the last rotation, and until when it is valid.
    pub(super) previous: Option<(KeyHash, Timestamp)>,
    pub(super) end_streams: bool,
    pub(super) version: i64,
}

/// The version of the latest change.
pub(super) fn newest_version(connection: &Connection) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached("SELECT coalesce(max(version), -1) FROM keys")?;
    statement.query_row([], |row| row.get(0))
}

/// The rows that have changed since `version` was the last one.
pub(super) fn read_above(connection: &Connection, version: i64) -> rusqlite::Result<Vec<Stored>> {
    let mut statement = connection.prepare_cached("SELECT *, NULL AS used_ms FROM keys WHERE version > ?1")?;
    let rows = statement.query_map([version], |row| {
        let info = info(row)?;
        let previous: Option<KeyHash> = row.get("previous_hash")?;
        Ok(Stored {
            hash: row.get("hash")?,
            previous: previous.zip(info.previous_until),
            end_streams: row.get("end_streams")?,
            version: row.get("version")?,
            info,
        })
    })?;
    rows.collect()
}

fn get(connection: &Connection, key_id: &str) -> Result<KeyInfo, KeyError> {
    let found = connection.query_row(&format!("{SELECT} WHERE key_id = ?1"), [key_id], info).optional()?;
    found.ok_or_else(|| KeyError::Unknown(key_id.to_owned()))
}

fn info(row: &Row<'_>) -> rusqlite::Result<KeyInfo> {
    Ok(KeyInfo {
        key_id: row.get("key_id")?,
        tenant: row.get("tenant")?,
        label: row.get("label")?,
        policy: row.get("policy")?,
        scope: scope(row)?,
        created: read_time(row, "created_ms")?,
        expires: read_time(row, "expires_ms")?,
        rotated: read_time(row, "rotated_ms")?,
        previous_until: read_time(row, "previous_until_ms")?,
        revoked: read_time(row, "revoked_ms")?,
        last_used: read_time(row, "used_ms")?,
        declared: false,
    })
}

fn scope(row: &Row<'_>) -> rusqlite::Result<Scope> {
    let unreadable = |error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error);
    let names = |column: &str| -> rusqlite::Result<Vec<String>> {
        let text: Option<String> = row.get(column)?;
        text.map_or(Ok(Vec::new()), |text| serde_json::from_str(&text).map_err(|error| unreadable(error.into())))
    };
    Scope::parse(&names("models")?, &names("surfaces")?, &names("networks")?).map_err(|error| unreadable(error.into()))
}

/// A list as it is stored. An empty one is NULL.
fn list(names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| serde_json::json!(names).to_string())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
