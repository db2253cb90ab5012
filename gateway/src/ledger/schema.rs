//! The tables of `ledger.sqlite` and the statements that write them.

use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, params};

use super::charge::Sample;
use super::daily::Days;
use super::entry::{Dispatched, Ending, Outcome, SlotTime, Subject};

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
    // 2. Slot times are those of all slots together. A correction holds differences, and is never changed itself.
    // What was settled is summed up by the day (UTC, as days since 1970) on which it arrived, in the transaction that
    // settles it: the sums stay when the entries are deleted, and how many were is remembered by day in `retired`. What is
    // to be exported waits in the outbox; revision 0 is the entry itself. The counters of llama-servers are remembered to
    // compare the entries with.
    "ALTER TABLE entries ADD COLUMN upstream TEXT;
    ALTER TABLE entries ADD COLUMN queue_wait_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE entries ADD COLUMN reasoning_tokens INTEGER;
    ALTER TABLE entries ADD COLUMN prefill_slot_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE entries ADD COLUMN decode_slot_ms INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE corrections (
        request_id        TEXT    NOT NULL,
        revision          INTEGER NOT NULL,
        at_ms             INTEGER NOT NULL,
        reason            TEXT    NOT NULL,
        tenant            TEXT    NOT NULL,
        key_id            TEXT    NOT NULL,
        model             TEXT    NOT NULL,
        surface           TEXT    NOT NULL,
        arrived_ms        INTEGER NOT NULL,
        prompt_tokens     INTEGER NOT NULL,
        cached_tokens     INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        reasoning_tokens  INTEGER NOT NULL,
        prefill_slot_ms   INTEGER NOT NULL,
        decode_slot_ms    INTEGER NOT NULL,
        PRIMARY KEY (request_id, revision)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX corrections_by_arrival ON corrections (arrived_ms);
    CREATE TABLE daily (
        day               INTEGER NOT NULL,
        tenant            TEXT    NOT NULL,
        key_id            TEXT    NOT NULL,
        model             TEXT    NOT NULL,
        surface           TEXT    NOT NULL,
        requests          INTEGER NOT NULL,
        prompt_tokens     INTEGER NOT NULL,
        cached_tokens     INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        reasoning_tokens  INTEGER NOT NULL,
        queue_wait_ms     INTEGER NOT NULL,
        prefill_slot_ms   INTEGER NOT NULL,
        decode_slot_ms    INTEGER NOT NULL,
        PRIMARY KEY (day, tenant, key_id, model, surface)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO daily
        SELECT arrived_ms / 86400000, tenant, key_id, model, surface, count(*), sum(prompt_tokens),
            sum(cached_tokens), sum(completion_tokens), 0, 0, 0, 0
        FROM entries WHERE ending IS NOT NULL GROUP BY 1, 2, 3, 4, 5;
    CREATE TABLE outbox (
        sequence          INTEGER PRIMARY KEY AUTOINCREMENT,
        request_id        TEXT    NOT NULL,
        revision          INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX outbox_by_request ON outbox (request_id);
    CREATE TABLE retired (
        day               INTEGER NOT NULL PRIMARY KEY,
        entries           INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE engine_samples (
        upstream          TEXT    NOT NULL,
        at_ms             INTEGER NOT NULL,
        computed_tokens   INTEGER NOT NULL,
        cached_tokens     INTEGER,
        generated_tokens  INTEGER NOT NULL,
        in_flight_tokens  INTEGER NOT NULL,
        restarted         INTEGER NOT NULL,
        PRIMARY KEY (upstream, at_ms)
    ) STRICT, WITHOUT ROWID;",
];

const OPEN: &str = "
    INSERT INTO entries (request_id, tenant, key_id, model, surface, arrived_ms, dispatched_ms, queue_wait_ms, upstream,
        counted_by, prompt_tokens, cached_tokens, completion_tokens)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'nothing', 0, 0, 0)
    ON CONFLICT DO NOTHING";

const PROGRESS: &str = "
    UPDATE entries SET counted_by = ?2, prompt_tokens = ?3, cached_tokens = ?4, completion_tokens = ?5,
        reasoning_tokens = ?6, first_token_ms = ?7, prefill_slot_ms = ?8, decode_slot_ms = ?9
    WHERE request_id = ?1 AND ending IS NULL";

/// Inserts the whole entry where it was never opened, settles it where it is open, and leaves a settled one alone.
const CLOSE: &str = "
    INSERT INTO entries (request_id, tenant, key_id, model, surface, arrived_ms, dispatched_ms,
        counted_by, prompt_tokens, cached_tokens, completion_tokens, first_token_ms, ended_ms, ending, status,
        upstream, queue_wait_ms, reasoning_tokens, prefill_slot_ms, decode_slot_ms)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)
    ON CONFLICT DO UPDATE SET dispatched_ms = coalesce(excluded.dispatched_ms, dispatched_ms),
        counted_by = excluded.counted_by, prompt_tokens = excluded.prompt_tokens,
        cached_tokens = excluded.cached_tokens, completion_tokens = excluded.completion_tokens,
        first_token_ms = coalesce(excluded.first_token_ms, first_token_ms),
        ended_ms = excluded.ended_ms, ending = excluded.ending, status = excluded.status,
        upstream = coalesce(excluded.upstream, upstream), queue_wait_ms = excluded.queue_wait_ms,
        reasoning_tokens = excluded.reasoning_tokens, prefill_slot_ms = excluded.prefill_slot_ms,
        decode_slot_ms = excluded.decode_slot_ms
    WHERE ending IS NULL";

const EXPORT: &str = "INSERT INTO outbox (request_id, revision) VALUES (?1, 0)";

/// The statements of one transaction, prepared, and the days that it adds to.
pub(super) struct Statements<'c> {
    open: CachedStatement<'c>,
    progress: CachedStatement<'c>,
    close: CachedStatement<'c>,
    /// `None`: nothing is exported.
    export: Option<CachedStatement<'c>>,
    days: Days,
    connection: &'c Connection,
}

impl<'c> Statements<'c> {
    pub(super) fn prepare(connection: &'c Connection, export: bool) -> rusqlite::Result<Self> {
        Ok(Self {
            open: connection.prepare_cached(OPEN)?,
            progress: connection.prepare_cached(PROGRESS)?,
            close: connection.prepare_cached(CLOSE)?,
            export: if export { Some(connection.prepare_cached(EXPORT)?) } else { None },
            days: Days::default(),
            connection,
        })
    }

    pub(super) fn open(&mut self, subject: &Subject, dispatched: &Dispatched) -> rusqlite::Result<usize> {
        self.open.execute(params![
            subject.request_id,
            subject.tenant,
            subject.key_id,
            subject.model,
            subject.surface.label(),
            subject.arrived.as_millisecond(),
            dispatched.at.as_millisecond(),
            milliseconds(dispatched.queue_wait),
            dispatched.upstream,
        ])
    }

    pub(super) fn progress(&mut self, request_id: &str, sample: &Sample, held: SlotTime) -> rusqlite::Result<usize> {
        let count = &sample.count;
        self.progress.execute(params![
            request_id,
            count.by.label(),
            integer(count.prompt),
            integer(count.cached),
            integer(count.completion),
            count.reasoning.map(integer),
            sample.first_token.map(Timestamp::as_millisecond),
            milliseconds(held.prefill),
            milliseconds(held.decode),
        ])
    }

    /// Settles an entry, adds it to its day and puts it into the outbox, all of it once: whoever settles it again
    /// changes nothing.
    pub(super) fn close(&mut self, subject: &Subject, outcome: &Outcome) -> rusqlite::Result<()> {
        let (count, slot_time) = (&outcome.count, outcome.slot_time());
        let settled = self.close.execute(params![
            subject.request_id,
            subject.tenant,
            subject.key_id,
            subject.model,
            subject.surface.label(),
            subject.arrived.as_millisecond(),
            outcome.dispatched.as_ref().map(|dispatched| dispatched.at.as_millisecond()),
            count.by.label(),
            integer(count.prompt),
            integer(count.cached),
            integer(count.completion),
            outcome.first_token.map(Timestamp::as_millisecond),
            outcome.ended.as_millisecond(),
            outcome.ending.label(),
            outcome.status,
            outcome.dispatched.as_ref().map(|dispatched| &*dispatched.upstream),
            milliseconds(outcome.queue_wait),
            count.reasoning.map(integer),
            milliseconds(slot_time.prefill),
            milliseconds(slot_time.decode),
        ])?;
        if settled == 1 {
            self.days.add(subject, outcome);
            if let Some(export) = &mut self.export {
                export.execute([&*subject.request_id])?;
            }
        }
        Ok(())
    }

    /// Writes the sums of the days. To be called before the transaction is committed.
    pub(super) fn finish(self) -> rusqlite::Result<()> {
        self.days.write(self.connection)
    }
}

/// A number beyond reason (they are read from llama-server's replies) must neither make an entry impossible to write
/// nor overflow the sums over entries.
pub(super) fn integer(tokens: u64) -> i64 {
    const MOST: u64 = 1 << 40;
    tokens.min(MOST) as i64
}

/// Whole milliseconds, bounded like [`integer`].
pub(super) fn milliseconds(duration: std::time::Duration) -> i64 {
    integer(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Settles what an earlier process left open: with the tokens and slot times that were written ahead, and without an
/// end time or a status, since nobody knows them. Gives their number.
pub(super) fn close_interrupted(connection: &mut Connection, export: bool) -> rusqlite::Result<u64> {
    let transaction = connection.transaction()?;
    super::daily::add_open(&transaction)?;
    if export {
        let sql = "INSERT INTO outbox (request_id, revision) SELECT request_id, 0 FROM entries WHERE ending IS NULL";
        transaction.execute(sql, [])?;
    }
    let sql = "UPDATE entries SET ending = ?1 WHERE ending IS NULL";
    let closed = transaction.execute(sql, [Ending::Interrupted.label()])?;
    transaction.commit()?;
    Ok(closed as u64)
}
