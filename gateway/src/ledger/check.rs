//! Checks the ledger against itself, beside a running server or without one.
//!
//! Takes a data directory; gives what was compared and what does not agree. Writes nothing.

use std::path::Path;

use rusqlite::Connection;

use super::schema;
use super::usage::UsageError;
use crate::database;

/// Differences of one kind that are told; there may be more.
const MOST_TOLD: usize = 20;

/// One thing that was checked.
#[derive(Debug)]
pub struct Checked {
    /// What, as a sentence that is true when nothing is wrong.
    pub what: &'static str,
    /// What disagrees, one line each.
    pub wrong: Vec<String>,
}

/// A sentence, and a query for what contradicts it: one text a row.
type Question = (&'static str, &'static str);

const QUESTIONS: [Question; 6] = [
    ("the sums of each day are those of its entries and corrections, where none was deleted", SUMS),
    ("each day has as many requests as it has entries, deleted ones included", REQUESTS),
    ("every correction has its entry and follows the one before", CORRECTIONS),
    ("what waits to be exported is there", OUTBOX),
    ("no entry, with its corrections, has a negative number, or more cached tokens than its prompt has", NUMBERS),
    ("no entry ends before it began", TIMES),
];

const SUMS: &str = "
    SELECT format('%s, tenant %s, key %s, model %s, %s: the day differs from its entries by %d requests, ' ||
        '%d prompt, %d cached, %d completion and %d reasoning tokens, %d ms of waiting, %d and %d ms in slots',
        date(day * 86400, 'unixepoch'), tenant, key_id, model, surface, sum(requests), sum(prompt), sum(cached),
        sum(completion), sum(reasoning), sum(waited), sum(prefill), sum(decode))
    FROM (
        SELECT day, tenant, key_id, model, surface, requests, prompt_tokens AS prompt, cached_tokens AS cached,
            completion_tokens AS completion, reasoning_tokens AS reasoning, queue_wait_ms AS waited,
            prefill_slot_ms AS prefill, decode_slot_ms AS decode
        FROM daily
        UNION ALL
        SELECT arrived_ms / 86400000, tenant, key_id, model, surface, -1, -prompt_tokens, -cached_tokens,
            -completion_tokens, -coalesce(reasoning_tokens, 0), -queue_wait_ms, -prefill_slot_ms, -decode_slot_ms
        FROM entries WHERE ending IS NOT NULL
        UNION ALL
        SELECT arrived_ms / 86400000, tenant, key_id, model, surface, 0, -prompt_tokens, -cached_tokens,
            -completion_tokens, -reasoning_tokens, 0, -prefill_slot_ms, -decode_slot_ms
        FROM corrections
    )
    WHERE day NOT IN (SELECT day FROM retired)
    GROUP BY day, tenant, key_id, model, surface
    HAVING sum(requests) != 0 OR sum(prompt) != 0 OR sum(cached) != 0 OR sum(completion) != 0 OR sum(reasoning) != 0
        OR sum(waited) != 0 OR sum(prefill) != 0 OR sum(decode) != 0";

const REQUESTS: &str = "
    SELECT format('%s: %d requests more than entries', date(day * 86400, 'unixepoch'), sum(requests))
    FROM (
        SELECT day, requests FROM daily
        UNION ALL SELECT day, -entries FROM retired
        UNION ALL SELECT arrived_ms / 86400000, -1 FROM entries WHERE ending IS NOT NULL
    )
    GROUP BY day HAVING sum(requests) != 0";

const CORRECTIONS: &str = "
    SELECT format('%s, revision %d', request_id, revision) FROM corrections AS this
    WHERE NOT EXISTS (SELECT 1 FROM entries WHERE entries.request_id = this.request_id AND ending IS NOT NULL)
        OR revision != 1 + (SELECT count(*) FROM corrections AS earlier
            WHERE earlier.request_id = this.request_id AND earlier.revision < this.revision)";

const OUTBOX: &str = "
    SELECT format('%s, revision %d', request_id, revision) FROM outbox
    WHERE CASE revision
        WHEN 0 THEN NOT EXISTS (SELECT 1 FROM entries WHERE entries.request_id = outbox.request_id)
        ELSE NOT EXISTS (SELECT 1 FROM corrections
            WHERE corrections.request_id = outbox.request_id AND corrections.revision = outbox.revision)
    END";

const NUMBERS: &str = "
    SELECT format('%s: prompt %d, cached %d, completion %d, reasoning %d, slots %d and %d ms', request_id,
        sum(prompt), sum(cached), sum(completion), sum(reasoning), sum(prefill), sum(decode))
    FROM (
        SELECT request_id, prompt_tokens AS prompt, cached_tokens AS cached, completion_tokens AS completion,
            coalesce(reasoning_tokens, 0) AS reasoning, prefill_slot_ms AS prefill, decode_slot_ms AS decode
        FROM entries
        UNION ALL
        SELECT request_id, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, prefill_slot_ms,
            decode_slot_ms
        FROM corrections
    )
    GROUP BY request_id
    HAVING min(sum(prompt), sum(cached), sum(completion), sum(reasoning), sum(prefill), sum(decode)) < 0
        OR sum(cached) > sum(prompt)";

const TIMES: &str = "
    SELECT format('%s: arrived %d, dispatched %d, first token %d, ended %d', request_id, arrived_ms, dispatched_ms,
        first_token_ms, ended_ms)
    FROM entries
    WHERE dispatched_ms < arrived_ms OR first_token_ms < dispatched_ms OR ended_ms < arrived_ms
        OR ended_ms < first_token_ms";

/// Checks the ledger of a data directory.
///
/// # Errors
/// When there is none, or it cannot be read at all.
pub fn check(data_dir: &Path) -> Result<Vec<Checked>, UsageError> {
    let path = data_dir.join(schema::FILE);
    if !path.exists() {
        return Err(UsageError::NoLedger { path });
    }
    let connection = database::open_to_read(&path, schema::MIGRATIONS)?;
    let structure = structure(&connection)?;
    // What a damaged file answers to questions means nothing.
    if !structure.wrong.is_empty() {
        return Ok(vec![structure]);
    }
    let mut checked = vec![structure];
    checked.extend(compare(&connection)?);
    Ok(checked)
}

/// Whether the file is what SQLite has written.
fn structure(connection: &Connection) -> rusqlite::Result<Checked> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({MOST_TOLD})"))?;
    let found = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>();
    let mut wrong = match found {
        Ok(found) => found,
        // So damaged that it cannot even be checked.
        Err(error @ rusqlite::Error::SqliteFailure(..)) => vec![error.to_string()],
        Err(error) => return Err(error),
    };
    wrong.retain(|line| line != "ok");
    Ok(Checked { what: "the file is sound (integrity_check)", wrong })
}

/// Asks all questions of one and the same moment.
pub(super) fn compare(connection: &Connection) -> rusqlite::Result<Vec<Checked>> {
    let moment = connection.unchecked_transaction()?;
    QUESTIONS
        .iter()
        .map(|(what, query)| {
            let mut statement = moment.prepare(&format!("{query} LIMIT {MOST_TOLD}"))?;
            let wrong = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            Ok(Checked { what, wrong })
        })
        .collect()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
