//! Counters of llama-servers, remembered in the ledger.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::counters::Counters;

/// The counters of a replica at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// The replica, as entries name it.
    pub(super) upstream: String,
    pub(super) at: Timestamp,
    pub(super) counters: Counters,
    /// Requests of others that it was seen to work on since the last sample, at most.
    pub(super) foreign: u32,
    /// It was seen to be another process than at the last sample.
    pub(super) restarted: bool,
}

/// What requests that are not settled may have used: it is in the counters already, or will be later. A prompt whose
/// tokens llama-server has not told yet has as many as were counted before.
const IN_FLIGHT: &str = "
    SELECT coalesce(sum(max(prompt_tokens, admitted_tokens) + completion_tokens), 0)
    FROM entries WHERE ending IS NULL AND upstream = ?1";

const LAST: &str = "
    SELECT at_ms, computed_tokens, cached_tokens, generated_tokens, in_flight_tokens
    FROM engine_samples WHERE upstream = ?1 ORDER BY at_ms DESC LIMIT 1";

const INSERT: &str = "
    INSERT INTO engine_samples (upstream, at_ms, computed_tokens, cached_tokens, generated_tokens, in_flight_tokens,
        foreign_requests, restarted)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

/// Remembers a sample, unless it says what the last one said.
pub(super) fn store(connection: &Connection, sample: &Sample) -> rusqlite::Result<()> {
    let Counters { computed, cached, generated, .. } = sample.counters;
    let in_flight: i64 = connection.prepare_cached(IN_FLIGHT)?.query_row([&sample.upstream], |row| row.get(0))?;
    let last = connection.prepare_cached(LAST)?.query_row([&sample.upstream], |row| {
        Ok((row.get::<_, i64>(0)?, (row.get(1)?, row.get(2)?, row.get(3)?), row.get::<_, i64>(4)?))
    });
    let (mut at, mut restarted) = (sample.at.as_millisecond(), sample.restarted);
    if let Some((last_at, last, last_in_flight)) = last.optional()? {
        if last == (computed, cached, generated) && last_in_flight == in_flight && sample.foreign == 0 && !restarted {
            return Ok(());
        }
        // One that says how many came from the cache after one that did not say it is another program.
        restarted |= computed < last.0 || cached < last.1 || generated < last.2 || cached.is_some() != last.1.is_some();
        // The clock may have been set back; the order of the samples stays.
        at = at.max(last_at + 1);
    }
    let values =
        params![sample.upstream, at, computed, cached, generated, in_flight, sample.foreign, i64::from(restarted)];
    connection.prepare_cached(INSERT)?.execute(values).map(drop)
}

/// Forgets what is older.
pub(super) fn forget(connection: &Connection, before: Timestamp) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM engine_samples WHERE at_ms < ?1", [before.as_millisecond()]).map(drop)
}
