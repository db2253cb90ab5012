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

/// Samples that are this much later than now are of a clock that was wrong: with them nothing that happens from now on
/// could be compared until it is as late again. A difference of less is outlived by what is compared.
const WRONG_BY_MS: i64 = 86_400_000;

const FORGET_LATER: &str = "DELETE FROM engine_samples WHERE upstream = ?1 AND at_ms > ?2";

/// Samples of one replica that are forgotten at once at most: whoever settles an entry waits meanwhile.
const SLICE: i64 = 1000;

const NEXT_UPSTREAM: &str = "SELECT min(upstream) FROM engine_samples WHERE upstream > ?1";

/// The primary key begins with the replica: without it, all samples would be read.
const FORGET: &str = "
    DELETE FROM engine_samples WHERE upstream = ?1 AND at_ms < min(?2, coalesce(
        (SELECT at_ms FROM engine_samples WHERE upstream = ?1 ORDER BY at_ms LIMIT 1 OFFSET ?3), ?2))";

const INSERT: &str = "
    INSERT INTO engine_samples (upstream, at_ms, computed_tokens, cached_tokens, generated_tokens, in_flight_tokens,
        foreign_requests, restarted)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

/// Remembers a sample, unless it says what the last one said.
pub(super) fn store(connection: &Connection, sample: &Sample) -> rusqlite::Result<()> {
    let Counters { computed, cached, generated, .. } = sample.counters;
    let in_flight: i64 = connection.prepare_cached(IN_FLIGHT)?.query_row([&sample.upstream], |row| row.get(0))?;
    let (mut at, mut restarted) = (sample.at.as_millisecond(), sample.restarted);
    // Its entries are as wrong: what was counted since the last right sample is compared with nothing.
    let later = params![sample.upstream, at.saturating_add(WRONG_BY_MS)];
    restarted |= connection.prepare_cached(FORGET_LATER)?.execute(later)? > 0;
    let last = connection.prepare_cached(LAST)?.query_row([&sample.upstream], |row| {
        Ok((row.get::<_, i64>(0)?, (row.get(1)?, row.get(2)?, row.get(3)?), row.get::<_, i64>(4)?))
    });
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

/// Forgets what is older, some of it at a time.
pub(super) fn forget(connection: &Connection, before: Timestamp) -> rusqlite::Result<()> {
    let mut next = connection.prepare_cached(NEXT_UPSTREAM)?;
    let mut forget = connection.prepare_cached(FORGET)?;
    let mut upstream = String::new();
    while let Some(found) = next.query_row([&upstream], |row| row.get(0))? {
        upstream = found;
        forget.execute(params![upstream, before.as_millisecond(), SLICE])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::Book;

    /// It is done on the thread that settles entries.
    #[test]
    fn what_is_forgotten_is_looked_up() {
        let book = Book::new();
        let mut statement = book.connection.prepare(&format!("EXPLAIN QUERY PLAN {FORGET}")).unwrap();
        let plan = statement.query_map(params!["", 0, 0], |row| row.get::<_, String>("detail"));
        let plan = plan.unwrap().collect::<rusqlite::Result<Vec<_>>>().unwrap();
        assert!(!plan.iter().any(|step| step.starts_with("SCAN engine_samples")), "{plan:?}");
    }
}
