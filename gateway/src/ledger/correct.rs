//! Corrections: what an operator says an entry should have said.
//!
//! Takes the new counts of a settled entry; inserts the differences as its next revision, adds them to the sums of its
//! day and, if entries are exported, puts them into the outbox, all in one transaction. The entry itself is never
//! changed. Works beside a running server.

use std::fmt;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::usage::UsageError;
use super::{daily, schema};
use crate::database::{self, DatabaseError};

/// Tokens of one request beyond which a number is a slip of the finger.
const MOST_TOKENS: u64 = 1_000_000_000;
const MOST_REASON_CHARS: usize = 200;

/// What is to be corrected.
#[derive(Clone, Debug, Default)]
pub struct Correction {
    /// The entry.
    pub request_id: String,
    /// Why, for whoever reads the bill: 1 to 200 characters.
    pub reason: String,
    /// Prompt tokens, cached ones included, as they should have been.
    pub prompt: Option<u64>,
    /// Prompt tokens from the cache, as they should have been.
    pub cached: Option<u64>,
    /// Generated tokens, as they should have been.
    pub completion: Option<u64>,
    /// Nothing of it counts: neither tokens nor slot time.
    pub void: bool,
}

/// Why a correction is refused. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum CorrectionError {
    /// There is no ledger.
    #[error(transparent)]
    NoLedger(#[from] UsageError),
    /// The file cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// SQLite cannot write it.
    #[error("the correction could not be written")]
    Write(#[from] rusqlite::Error),
    /// There is no such entry, or it was deleted because of its age.
    #[error("the ledger has no entry `{0}`: it never had, or the entry was so old that it was deleted")]
    Unknown(String),
    /// The request is running.
    #[error("the entry `{0}` is still open: it can be corrected when the request is over")]
    Open(String),
    /// The numbers cannot be.
    #[error("{0}")]
    Absurd(&'static str),
    /// The ledger says so already.
    #[error("that is what the ledger says already")]
    Unchanged,
}

/// What an entry and its corrections come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Prompt tokens, cached ones included.
    pub prompt: i64,
    /// Prompt tokens from the cache.
    pub cached: i64,
    /// Generated tokens.
    pub completion: i64,
    /// Those of them that were thoughts.
    pub reasoning: i64,
    /// Milliseconds in slots up to the first token.
    pub prefill_slot_ms: i64,
    /// Milliseconds in slots from the first token on.
    pub decode_slot_ms: i64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prompt, cached, completion, prefill_slot_ms, decode_slot_ms, .. } = self;
        let slot_ms = prefill_slot_ms + decode_slot_ms;
        write!(f, "prompt {prompt}, of these cached {cached}, completion {completion}, slot time {slot_ms} ms")
    }
}

/// A correction that is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrected {
    /// Its number: 1 is the first correction of an entry.
    pub revision: i64,
    /// What it was.
    pub before: Counts,
    /// What it is now.
    pub after: Counts,
}

impl Correction {
    /// Corrects an entry of the ledger in a data directory. `export`: whether entries are exported, as far as the caller
    /// knows. Where some ever were, the correction is told in any case.
    ///
    /// # Errors
    /// When the entry cannot be corrected, or not so.
    pub fn apply(&self, data_dir: &Path, now: Timestamp, export: bool) -> Result<Corrected, CorrectionError> {
        let path = data_dir.join(schema::FILE);
        if !path.exists() {
            return Err(UsageError::NoLedger { path }.into());
        }
        let mut connection = database::open(&path, schema::MIGRATIONS)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let corrected = self.write(&transaction, now, export)?;
        transaction.commit()?;
        Ok(corrected)
    }

    /// The same within a transaction.
    pub(super) fn write(
        &self,
        connection: &Connection,
        now: Timestamp,
        export: bool,
    ) -> Result<Corrected, CorrectionError> {
        let reason = self.reason.trim();
        if reason.is_empty() || reason.chars().count() > MOST_REASON_CHARS || reason.contains(char::is_control) {
            return Err(CorrectionError::Absurd("a reason is one line of 1 to 200 characters"));
        }
        let (revision, before) = current(connection, &self.request_id)?;
        let after = self.wanted(before)?;
        if after == before {
            return Err(CorrectionError::Unchanged);
        }
        connection.execute(
            "INSERT INTO corrections SELECT request_id, ?2, ?3, ?4, tenant, key_id, model, surface, arrived_ms,
                ?5, ?6, ?7, ?8, ?9, ?10 FROM entries WHERE request_id = ?1",
            params![
                self.request_id,
                revision,
                now.as_millisecond(),
                reason,
                after.prompt - before.prompt,
                after.cached - before.cached,
                after.completion - before.completion,
                after.reasoning - before.reasoning,
                after.prefill_slot_ms - before.prefill_slot_ms,
                after.decode_slot_ms - before.decode_slot_ms,
            ],
        )?;
        daily::add_correction(connection, &self.request_id, revision)?;
        if export || was_exported(connection)? {
            let sql = "INSERT INTO outbox (request_id, revision) VALUES (?1, ?2)";
            connection.execute(sql, params![self.request_id, revision])?;
        }
        Ok(Corrected { revision, before, after })
    }

    /// What the entry is to come to.
    fn wanted(&self, before: Counts) -> Result<Counts, CorrectionError> {
        let given = [self.prompt, self.cached, self.completion];
        if self.void {
            return match given {
                [None, None, None] => Ok(Counts::default()),
                _ => Err(CorrectionError::Absurd("what is void has no tokens: give numbers or --void")),
            };
        }
        if given == [None, None, None] {
            return Err(CorrectionError::Absurd("what is it to be? Give --prompt, --cached, --completion or --void"));
        }
        if given.iter().flatten().any(|tokens| *tokens > MOST_TOKENS) {
            return Err(CorrectionError::Absurd("no request has more than 1,000,000,000 tokens"));
        }
        let or = |given: Option<u64>, before: i64| given.map_or(before, |tokens| tokens as i64);
        let completion = or(self.completion, before.completion);
        let after = Counts {
            prompt: or(self.prompt, before.prompt),
            cached: or(self.cached, before.cached),
            completion,
            reasoning: before.reasoning.min(completion),
            ..before
        };
        if after.cached > after.prompt {
            return Err(CorrectionError::Absurd("of the prompt's tokens, more would be cached than there are"));
        }
        Ok(after)
    }
}

/// Whether anything has ever been put into the outbox. Who corrects need not have the server's configuration at hand, and
/// whoever was told of an entry must hear of its corrections.
fn was_exported(connection: &Connection) -> rusqlite::Result<bool> {
    // SQLite remembers the last number of a table with AUTOINCREMENT here, also when its rows are gone.
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'outbox')";
    connection.query_row(sql, [], |row| row.get(0))
}

/// The number of the next correction, and what the entry and all earlier ones come to.
fn current(connection: &Connection, request_id: &str) -> Result<(i64, Counts), CorrectionError> {
    let sql = "SELECT ending IS NULL FROM entries WHERE request_id = ?1";
    match connection.query_row(sql, [request_id], |row| row.get(0)).optional()? {
        None => return Err(CorrectionError::Unknown(request_id.to_owned())),
        Some(true) => return Err(CorrectionError::Open(request_id.to_owned())),
        Some(false) => {}
    }
    let sums = "SELECT max(revision) + 1, sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens),
            sum(reasoning_tokens), sum(prefill_slot_ms), sum(decode_slot_ms)
        FROM (
            SELECT 0 AS revision, prompt_tokens, cached_tokens, completion_tokens,
                coalesce(reasoning_tokens, 0) AS reasoning_tokens, prefill_slot_ms, decode_slot_ms
            FROM entries WHERE request_id = ?1
            UNION ALL
            SELECT revision, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, prefill_slot_ms,
                decode_slot_ms
            FROM corrections WHERE request_id = ?1
        )";
    Ok(connection.query_row(sums, [request_id], |row| {
        let counts = Counts {
            prompt: row.get(1)?,
            cached: row.get(2)?,
            completion: row.get(3)?,
            reasoning: row.get(4)?,
            prefill_slot_ms: row.get(5)?,
            decode_slot_ms: row.get(6)?,
        };
        Ok((row.get(0)?, counts))
    })?)
}

#[cfg(test)]
#[path = "correct_tests.rs"]
mod tests;
