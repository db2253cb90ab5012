//! The tables of `ledger.sqlite` and the statements that write them.

use rusqlite::{CachedStatement, Connection, params};

use super::charge::Sample;
use super::entry::{Ending, Outcome, Subject};
use jiff::Timestamp;

/// The file in the data directory.
pub(super) const FILE: &str = "ledger.sqlite";

/// One SQL text a version; what has been released is never edited.
pub(super) const MIGRATIONS: &[&str] = &[
    // 1. Times are milliseconds since 1970. An entry without an ending is open.
    "CREATE TABLE entries (
        request_id        TEXT    NOT NULL PRIMARY KEY,
        tenant            TEXT    NOT NULL,
        key_id            TEXT    NOT NULL,
        model             TEXT    NOT NULL,
        surface           TEXT    NOT NULL,
        ending            TEXT,
        counted_by        TEXT    NOT NULL,
        prompt_tokens     INTEGER NOT NULL,
        cached_tokens     INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        arrived_ms        INTEGER NOT NULL,
        dispatched_ms     INTEGER,
        first_token_ms    INTEGER,
        ended_ms          INTEGER,
        status            INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX entries_by_arrival ON entries (arrived_ms);
    CREATE INDEX entries_open ON entries (request_id) WHERE ending IS NULL;",
];

const OPEN: &str = "
    INSERT INTO entries (request_id, tenant, key_id, model, surface, arrived_ms, dispatched_ms,
        counted_by, prompt_tokens, cached_tokens, completion_tokens)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'nothing', 0, 0, 0)
    ON CONFLICT DO NOTHING";

const PROGRESS: &str = "
    UPDATE entries SET counted_by = ?2, prompt_tokens = ?3, cached_tokens = ?4, completion_tokens = ?5,
        first_token_ms = ?6
    WHERE request_id = ?1 AND ending IS NULL";

/// Inserts the whole entry where it was never opened, settles it where it is open, and leaves a settled one alone.
const CLOSE: &str = "
    INSERT INTO entries (request_id, tenant, key_id, model, surface, arrived_ms, dispatched_ms,
        counted_by, prompt_tokens, cached_tokens, completion_tokens, first_token_ms, ended_ms, ending, status)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
    ON CONFLICT DO UPDATE SET dispatched_ms = coalesce(excluded.dispatched_ms, dispatched_ms),
        counted_by = excluded.counted_by, prompt_tokens = excluded.prompt_tokens,
        cached_tokens = excluded.cached_tokens, completion_tokens = excluded.completion_tokens,
        first_token_ms = coalesce(excluded.first_token_ms, first_token_ms),
        ended_ms = excluded.ended_ms, ending = excluded.ending, status = excluded.status
    WHERE ending IS NULL";

/// The statements, prepared.
pub(super) struct Statements<'c> {
    open: CachedStatement<'c>,
    progress: CachedStatement<'c>,
    close: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            open: connection.prepare_cached(OPEN)?,
            progress: connection.prepare_cached(PROGRESS)?,
            close: connection.prepare_cached(CLOSE)?,
        })
    }

    pub(super) fn open(&mut self, subject: &Subject, dispatched: Timestamp) -> rusqlite::Result<usize> {
        self.open.execute(params![
            subject.request_id,
            subject.tenant,
            subject.key_id,
            subject.model,
            subject.surface.label(),
            subject.arrived.as_millisecond(),
            dispatched.as_millisecond(),
        ])
    }

    pub(super) fn progress(&mut self, request_id: &str, sample: &Sample) -> rusqlite::Result<usize> {
        let count = &sample.count;
        self.progress.execute(params![
            request_id,
            count.by.label(),
            integer(count.prompt),
            integer(count.cached),
            integer(count.completion),
            sample.first_token.map(Timestamp::as_millisecond),
        ])
    }

    pub(super) fn close(&mut self, subject: &Subject, outcome: &Outcome) -> rusqlite::Result<usize> {
        let count = &outcome.count;
        self.close.execute(params![
            subject.request_id,
            subject.tenant,
            subject.key_id,
            subject.model,
            subject.surface.label(),
            subject.arrived.as_millisecond(),
            outcome.dispatched.map(Timestamp::as_millisecond),
            count.by.label(),
            integer(count.prompt),
            integer(count.cached),
            integer(count.completion),
            outcome.first_token.map(Timestamp::as_millisecond),
            outcome.ended.as_millisecond(),
            outcome.ending.label(),
            outcome.status,
        ])
    }
}

/// A number beyond reason (they are read from llama-server's replies) must neither make an entry impossible to write
/// nor overflow the sums over entries.
fn integer(tokens: u64) -> i64 {
    const MOST: u64 = 1 << 40;
    tokens.min(MOST) as i64
}

/// Settles what an earlier process left open: with the tokens that were written ahead, and without an end time or a
/// status, since nobody knows them. Gives their number.
pub(super) fn close_interrupted(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "UPDATE entries SET ending = ?1 WHERE ending IS NULL";
    connection.execute(sql, [Ending::Interrupted.label()]).map(|rows| rows as u64)
}
