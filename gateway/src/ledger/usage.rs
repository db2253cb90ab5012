//! Questions to the ledger, beside a running server or without one.

use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, Row};
use serde::{Serialize, Serializer};

use super::schema;
use crate::database::{self, DatabaseError, read_time};

/// What an entry that is not settled shows as its ending.
const OPEN: &str = "open";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Nothing was served from this data directory.
    #[error("there is no ledger at {}\n\
             hint: `llama-gateway serve` makes it; is this its --data-dir?", path.display())]
    NoLedger {
        /// Where it would be.
        path: PathBuf,
    },
    /// The file cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// SQLite cannot answer.
    #[error("cannot read the ledger")]
    Read(#[from] rusqlite::Error),
    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Output(#[from] io::Error),
    /// A time such as `1d` was expected.
    #[error("`{0}` is not a time span such as 30m, 12h or 7d")]
    Span(String),
}

/// The time that lies `span` (such as `1d` or `12h 30m`) before `now`.
///
/// # Errors
/// When `span` cannot be read or reaches too far back.
pub fn since(span: &str, now: Timestamp) -> Result<Timestamp, UsageError> {
    let not_a_span = || UsageError::Span(span.to_owned());
    let duration = humantime::parse_duration(span).map_err(|_| not_a_span())?;
    let duration = SignedDuration::try_from(duration).map_err(|_| not_a_span())?;
    now.checked_sub(duration).map_err(|_| not_a_span())
}

/// What one tenant used on one day (UTC), by the time of arrival. Entries that are still open count as far as they
/// were written ahead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DayUsage {
    /// `2026-01-31`
    pub day: String,
    /// The tenant.
    pub tenant: String,
    /// Requests, refused and failed ones included.
    pub requests: u64,
    /// Prompt tokens, cached ones included.
    pub prompt_tokens: u64,
    /// Prompt tokens that came from the cache.
    pub cached_tokens: u64,
    /// Generated tokens.
    pub completion_tokens: u64,
}

/// What one key used, prompt and output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTokens {
    /// The tenant.
    pub tenant: String,
    /// The public id of the API key.
    pub key_id: String,
    /// Prompt tokens, cached ones included, and generated ones.
    pub tokens: u64,
}

/// One entry as it is read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestRow {
    /// The answer's `x-request-id`.
    pub request_id: String,
    /// The tenant.
    pub tenant: String,
    /// The public id of the API key.
    pub key_id: String,
    /// The model.
    pub model: String,
    /// The API surface.
    pub surface: String,
    /// How it ended; `open` where it has not.
    pub ending: String,
    /// How the tokens were counted.
    pub counted_by: String,
    /// Prompt tokens, cached ones included.
    pub prompt_tokens: u64,
    /// Prompt tokens that came from the cache.
    pub cached_tokens: u64,
    /// Generated tokens.
    pub completion_tokens: u64,
    /// When the request head had been read.
    #[serde(serialize_with = "milliseconds")]
    pub arrived: Option<Timestamp>,
    /// When it was sent to llama-server.
    #[serde(serialize_with = "milliseconds")]
    pub dispatched: Option<Timestamp>,
    /// When the first token arrived.
    #[serde(serialize_with = "milliseconds")]
    pub first_token: Option<Timestamp>,
    /// When it was over; unknown where the gateway died.
    #[serde(serialize_with = "milliseconds")]
    pub ended: Option<Timestamp>,
    /// The HTTP status that the client was given.
    pub status: Option<u16>,
}

fn milliseconds<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&format_args!("{time:.3}")),
        None => serializer.serialize_none(),
    }
}

/// Reads the ledger. Never writes it, and never holds up its writer.
pub struct Reader(Connection);

impl Reader {
    /// Opens the ledger of a data directory.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open(data_dir: &Path) -> Result<Self, UsageError> {
        let path = data_dir.join(schema::FILE);
        if !path.exists() {
            return Err(UsageError::NoLedger { path });
        }
        Ok(Self(database::open_to_read(&path, schema::MIGRATIONS)?))
    }

    /// Usage by day and tenant of what arrived at `since` or later, in this order.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn usage(&self, since: Timestamp) -> Result<Vec<DayUsage>, UsageError> {
        let mut statement = self.0.prepare(
            "SELECT strftime('%Y-%m-%d', arrived_ms / 1000, 'unixepoch') AS day, tenant, count(*) AS requests,
                sum(prompt_tokens) AS prompt_tokens, sum(cached_tokens) AS cached_tokens,
                sum(completion_tokens) AS completion_tokens
             FROM entries WHERE arrived_ms >= ?1 GROUP BY day, tenant ORDER BY day, tenant",
        )?;
        let days = statement.query_map([since.as_millisecond()], |row| {
            Ok(DayUsage {
                day: row.get("day")?,
                tenant: row.get("tenant")?,
                requests: tokens(row, "requests")?,
                prompt_tokens: tokens(row, "prompt_tokens")?,
                cached_tokens: tokens(row, "cached_tokens")?,
                completion_tokens: tokens(row, "completion_tokens")?,
            })
        })?;
        Ok(days.collect::<rusqlite::Result<_>>()?)
    }

    /// Tokens by tenant and key of what arrived at `since` or later.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn tokens(&self, since: Timestamp) -> Result<Vec<KeyTokens>, UsageError> {
        let mut statement = self.0.prepare(
            "SELECT tenant, key_id, sum(prompt_tokens + completion_tokens) AS tokens
             FROM entries WHERE arrived_ms >= ?1 GROUP BY tenant, key_id ORDER BY tenant, key_id",
        )?;
        let keys = statement.query_map([since.as_millisecond()], |row| {
            Ok(KeyTokens { tenant: row.get("tenant")?, key_id: row.get("key_id")?, tokens: tokens(row, "tokens")? })
        })?;
        Ok(keys.collect::<rusqlite::Result<_>>()?)
    }

    /// Gives each entry that arrived at `since` or later to `each`, in order of arrival, and holds none in memory.
    ///
    /// # Errors
    /// What SQLite or `each` says.
    pub fn requests(
        &self,
        since: Timestamp,
        mut each: impl FnMut(RequestRow) -> Result<(), UsageError>,
    ) -> Result<(), UsageError> {
        let mut statement =
            self.0.prepare("SELECT * FROM entries WHERE arrived_ms >= ?1 ORDER BY arrived_ms, request_id")?;
        let mut rows = statement.query([since.as_millisecond()])?;
        while let Some(row) = rows.next()? {
            each(request(row)?)?;
        }
        Ok(())
    }
}

fn request(row: &Row<'_>) -> rusqlite::Result<RequestRow> {
    Ok(RequestRow {
        request_id: row.get("request_id")?,
        tenant: row.get("tenant")?,
        key_id: row.get("key_id")?,
        model: row.get("model")?,
        surface: row.get("surface")?,
        ending: row.get::<_, Option<String>>("ending")?.unwrap_or_else(|| OPEN.to_owned()),
        counted_by: row.get("counted_by")?,
        prompt_tokens: tokens(row, "prompt_tokens")?,
        cached_tokens: tokens(row, "cached_tokens")?,
        completion_tokens: tokens(row, "completion_tokens")?,
        arrived: read_time(row, "arrived_ms")?,
        dispatched: read_time(row, "dispatched_ms")?,
        first_token: read_time(row, "first_token_ms")?,
        ended: read_time(row, "ended_ms")?,
        status: row.get("status")?,
    })
}

fn tokens(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}
