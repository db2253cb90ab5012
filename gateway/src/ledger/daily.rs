//! Sums of settled entries by the day on which they arrived: what is left when the entries themselves are deleted.
//!
//! Written in the transaction that settles an entry, so that for every day the sums are those of its settled entries
//! and their corrections, at any moment and after any crash.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::entry::{Outcome, Subject};
use super::schema::{integer, milliseconds};
use crate::surface::Surface;

pub(super) const MILLISECONDS_OF_A_DAY: i64 = 86_400_000;

/// The day (UTC), in days since 1970.
pub(super) fn day_of(arrived: Timestamp) -> i64 {
    arrived.as_millisecond() / MILLISECONDS_OF_A_DAY
}

/// Adds rows to the sums that are there.
macro_rules! add {
    ($rows:literal) => {
        concat!(
            "INSERT INTO daily (day, tenant, key_id, model, surface, requests, prompt_tokens, cached_tokens,
                completion_tokens, reasoning_tokens, queue_wait_ms, prefill_slot_ms, decode_slot_ms) ",
            $rows,
            " ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
                prompt_tokens = prompt_tokens + excluded.prompt_tokens,
                cached_tokens = cached_tokens + excluded.cached_tokens,
                completion_tokens = completion_tokens + excluded.completion_tokens,
                reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
                queue_wait_ms = queue_wait_ms + excluded.queue_wait_ms,
                prefill_slot_ms = prefill_slot_ms + excluded.prefill_slot_ms,
                decode_slot_ms = decode_slot_ms + excluded.decode_slot_ms"
        )
    };
}

const ADD: &str = add!("VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)");

const ADD_OPEN: &str = add!(
    "SELECT arrived_ms / 86400000, tenant, key_id, model, surface, count(*), sum(prompt_tokens), sum(cached_tokens),
        sum(completion_tokens), sum(coalesce(reasoning_tokens, 0)), sum(queue_wait_ms), sum(prefill_slot_ms),
        sum(decode_slot_ms)
    FROM entries WHERE ending IS NULL GROUP BY 1, 2, 3, 4, 5"
);

const ADD_CORRECTION: &str = add!(
    "SELECT arrived_ms / 86400000, tenant, key_id, model, surface, 0, prompt_tokens, cached_tokens, completion_tokens,
        reasoning_tokens, 0, prefill_slot_ms, decode_slot_ms
    FROM corrections WHERE request_id = ?1 AND revision = ?2"
);

/// Whose sums, of what.
#[derive(PartialEq, Eq, Hash)]
struct Whose {
    day: i64,
    tenant: Arc<str>,
    key_id: Arc<str>,
    model: Arc<str>,
    surface: Surface,
}

/// Sums of one day.
#[derive(Default)]
struct Sums {
    requests: i64,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    reasoning_tokens: i64,
    queue_wait_ms: i64,
    prefill_slot_ms: i64,
    decode_slot_ms: i64,
}

/// What one transaction adds to the days: a batch of a hundred entries of one key is one statement.
#[derive(Default)]
pub(super) struct Days(HashMap<Whose, Sums>);

impl Days {
    /// Takes in an entry that has just been settled.
    pub(super) fn add(&mut self, subject: &Subject, outcome: &Outcome) {
        let whose = Whose {
            day: day_of(subject.arrived),
            tenant: subject.tenant.clone(),
            key_id: subject.key_id.clone(),
            model: subject.model.clone(),
            surface: subject.surface,
        };
        let (count, slot_time) = (&outcome.count, outcome.slot_time());
        let sums = self.0.entry(whose).or_default();
        sums.requests += 1;
        sums.prompt_tokens += integer(count.prompt);
        sums.cached_tokens += integer(count.cached);
        sums.completion_tokens += integer(count.completion);
        sums.reasoning_tokens += integer(count.reasoning.unwrap_or_default());
        sums.queue_wait_ms += milliseconds(outcome.queue_wait);
        sums.prefill_slot_ms += milliseconds(slot_time.prefill);
        sums.decode_slot_ms += milliseconds(slot_time.decode);
    }

    /// Adds the sums to those that are there.
    pub(super) fn write(self, connection: &Connection) -> rusqlite::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut add = connection.prepare_cached(ADD)?;
        for (whose, sums) in self.0 {
            add.execute(params![
                whose.day,
                whose.tenant,
                whose.key_id,
                whose.model,
                whose.surface.label(),
                sums.requests,
                sums.prompt_tokens,
                sums.cached_tokens,
                sums.completion_tokens,
                sums.reasoning_tokens,
                sums.queue_wait_ms,
                sums.prefill_slot_ms,
                sums.decode_slot_ms,
            ])?;
        }
        Ok(())
    }
}

/// Adds all open entries to their days. To be called in the transaction that settles them.
pub(super) fn add_open(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(ADD_OPEN, []).map(drop)
}

/// Adds a correction to its day. To be called in the transaction that inserts it.
pub(super) fn add_correction(connection: &Connection, request_id: &str, revision: i64) -> rusqlite::Result<()> {
    connection.execute(ADD_CORRECTION, params![request_id, revision]).map(drop)
}
