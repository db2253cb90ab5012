//! Questions to the ledger, beside a running server or without one.

use std::io;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, Row, ToSql};

use super::query::{Field, Filter, Query, Used, Width};
use super::schema;
use crate::database::{self, DatabaseError, read_time};
use crate::prices::Quantities;

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
    /// Of what arrived before `until` only sums by whole days are left.
    #[error(
        "what single requests before {until} used is not kept any more: sums by whole days (UTC) are\n\
             hint: begin and end at midnight UTC with buckets of a day, or begin at {until} or later"
    )]
    Deleted {
        /// Since then all entries are there.
        until: Timestamp,
    },
    /// A time such as `2026-01-31` was expected.
    #[error("`{0}` is neither a date such as 2026-01-31 nor a time such as 2026-01-31T12:00:00Z")]
    Time(String),
    /// A time span such as `1d` was expected.
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

/// A time as people write it: `2026-01-31` (midnight UTC) or `2026-01-31T12:00:00Z`.
///
/// # Errors
/// It is neither.
pub fn time(text: &str) -> Result<Timestamp, UsageError> {
    let midnight = |date: Date| date.to_zoned(TimeZone::UTC).map(|midnight| midnight.timestamp());
    // A text that begins like a date and goes on would be read as its date alone.
    let is_date = text.len() == "2026-01-31".len();
    let time = if is_date { text.parse().and_then(midnight) } else { text.parse() };
    time.map_err(|_| UsageError::Time(text.to_owned()))
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

/// One entry as it is read back. Tokens and slot times are those that its corrections make of them.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Those of them that were thoughts, where that is known.
    pub reasoning_tokens: Option<u64>,
    /// When the request head had been read.
    pub arrived: Option<Timestamp>,
    /// When it was sent to llama-server.
    pub dispatched: Option<Timestamp>,
    /// When the first token arrived.
    pub first_token: Option<Timestamp>,
    /// When it was over; unknown where the gateway died.
    pub ended: Option<Timestamp>,
    /// The HTTP status that the client was given.
    pub status: Option<u16>,
    /// The replica that was asked, by its address.
    pub upstream: Option<String>,
    /// How long it waited for a slot, in milliseconds.
    pub queue_wait_ms: u64,
    /// Slot time up to the first token, in milliseconds.
    pub prefill_slot_ms: u64,
    /// Slot time from the first token on, in milliseconds.
    pub decode_slot_ms: u64,
    /// The last correction; 0: there was none.
    pub revision: u64,
}

impl RequestRow {
    /// What of it has a price.
    pub fn quantities(&self) -> Quantities {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Quantities {
            requests: 1,
            prompt_tokens: whole(self.prompt_tokens) - whole(self.cached_tokens),
            cached_tokens: whole(self.cached_tokens),
            output_tokens: whole(self.completion_tokens),
            slot_ms: whole(self.prefill_slot_ms) + whole(self.decode_slot_ms),
        }
    }
}

/// Reads the ledger. Never writes it, and never holds up its writer.
pub struct Reader(pub(super) Connection);

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

    /// Tokens by tenant and key of what arrived from `from` on and before `to`. Quick where both are midnights (UTC).
    ///
    /// # Errors
    /// What SQLite says.
    pub fn tokens(&self, from: Timestamp, to: Timestamp) -> Result<Vec<KeyTokens>, UsageError> {
        let by = vec![Field::Tenant, Field::Key];
        let query = Query { from, to, width: Width::Total, by, only: Filter::default() };
        let tokens = |used: Used| {
            let tokens = used.sums.prompt_tokens + used.sums.completion_tokens;
            Some(KeyTokens {
                tenant: used.group.tenant?,
                key_id: used.group.key_id?,
                tokens: u64::try_from(tokens).ok()?,
            })
        };
        Ok(self.used(&query, None)?.into_iter().filter_map(tokens).collect())
    }

    /// Gives each entry of a span of time (without its end) to `each`, in order of arrival, and holds none in memory.
    ///
    /// # Errors
    /// What SQLite or `each` says.
    pub fn requests(
        &self,
        (from, to): (Timestamp, Timestamp),
        only: &Filter,
        mut each: impl FnMut(RequestRow) -> Result<(), UsageError>,
    ) -> Result<(), UsageError> {
        let (filter, values) = only.sql(3);
        let mut statement = self.0.prepare(&format!("{REQUESTS}{filter} ORDER BY arrived_ms, request_id"))?;
        let span = [from.as_millisecond(), to.as_millisecond()];
        let span = span.iter().map(|end| end as &dyn ToSql);
        let parameters: Vec<_> = span.chain(values.iter().map(|value| value as &dyn ToSql)).collect();
        let mut rows = statement.query(&*parameters)?;
        while let Some(row) = rows.next()? {
            each(request(row)?)?;
        }
        Ok(())
    }
}

/// The names without a table are those of the result: the sums replace the columns that they are of.
const REQUESTS: &str = "
    SELECT * FROM (
        SELECT entries.*, coalesce(revision, 0) AS revision,
            prompt_tokens + coalesce(more_prompt, 0) AS all_prompt,
            cached_tokens + coalesce(more_cached, 0) AS all_cached,
            completion_tokens + coalesce(more_completion, 0) AS all_completion,
            coalesce(reasoning_tokens + coalesce(more_reasoning, 0), nullif(more_reasoning, 0)) AS all_reasoning,
            prefill_slot_ms + coalesce(more_prefill, 0) AS all_prefill,
            decode_slot_ms + coalesce(more_decode, 0) AS all_decode
        FROM entries LEFT JOIN (
            SELECT request_id, max(revision) AS revision, sum(prompt_tokens) AS more_prompt,
                sum(cached_tokens) AS more_cached, sum(completion_tokens) AS more_completion,
                sum(reasoning_tokens) AS more_reasoning, sum(prefill_slot_ms) AS more_prefill,
                sum(decode_slot_ms) AS more_decode
            FROM corrections WHERE arrived_ms >= ?1 AND arrived_ms < ?2 GROUP BY request_id
        ) USING (request_id)
    ) WHERE arrived_ms >= ?1 AND arrived_ms < ?2";

fn request(row: &Row<'_>) -> rusqlite::Result<RequestRow> {
    Ok(RequestRow {
        request_id: row.get("request_id")?,
        tenant: row.get("tenant")?,
        key_id: row.get("key_id")?,
        model: row.get("model")?,
        surface: row.get("surface")?,
        ending: row.get::<_, Option<String>>("ending")?.unwrap_or_else(|| OPEN.to_owned()),
        counted_by: row.get("counted_by")?,
        prompt_tokens: whole(row, "all_prompt")?,
        cached_tokens: whole(row, "all_cached")?,
        completion_tokens: whole(row, "all_completion")?,
        reasoning_tokens: row.get::<_, Option<i64>>("all_reasoning")?.map(|tokens| u64::try_from(tokens).unwrap_or(0)),
        arrived: read_time(row, "arrived_ms")?,
        dispatched: read_time(row, "dispatched_ms")?,
        first_token: read_time(row, "first_token_ms")?,
        ended: read_time(row, "ended_ms")?,
        status: row.get("status")?,
        upstream: row.get("upstream")?,
        queue_wait_ms: whole(row, "queue_wait_ms")?,
        prefill_slot_ms: whole(row, "all_prefill")?,
        decode_slot_ms: whole(row, "all_decode")?,
        revision: whole(row, "revision")?,
    })
}

fn whole(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}
