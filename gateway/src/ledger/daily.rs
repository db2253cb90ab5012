//! Sums of settled entries by the day on which they arrived: what is left when the entries themselves are deleted.
//!
//! Written in the transaction that settles an entry, so that for every day the sums are those of its settled entries
//! and their corrections, at any moment and after any crash.

use std::collections::HashMap;
use std::ops::AddAssign;
use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::entry::{Outcome, Subject};
use super::schema::{integer, milliseconds};
use crate::prices::Quantities;
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

/// Sums over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Requests, refused and failed ones included.
    pub requests: i64,
    /// Prompt tokens, cached ones included.
    pub prompt_tokens: i64,
    /// Prompt tokens that came from the cache.
    pub cached_tokens: i64,
    /// Generated tokens, thoughts included.
    pub completion_tokens: i64,
    /// Those of them that were thoughts, as far as that is known.
    pub reasoning_tokens: i64,
    /// Time in the queue, in milliseconds.
    pub queue_wait_ms: i64,
    /// Slot time up to the first token, in milliseconds.
    pub prefill_slot_ms: i64,
    /// Slot time from the first token on, in milliseconds.
    pub decode_slot_ms: i64,
}

impl Sums {
    /// What of it has a price.
    pub fn quantities(&self) -> Quantities {
        Quantities {
            requests: self.requests,
            prompt_tokens: self.prompt_tokens - self.cached_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: self.completion_tokens,
            slot_ms: self.prefill_slot_ms + self.decode_slot_ms,
        }
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.completion_tokens += other.completion_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.queue_wait_ms += other.queue_wait_ms;
        self.prefill_slot_ms += other.prefill_slot_ms;
        self.decode_slot_ms += other.decode_slot_ms;
    }
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
        *self.0.entry(whose).or_default() += Sums {
            requests: 1,
            prompt_tokens: integer(count.prompt),
            cached_tokens: integer(count.cached),
            completion_tokens: integer(count.completion),
            reasoning_tokens: integer(count.reasoning.unwrap_or_default()),
            queue_wait_ms: milliseconds(outcome.queue_wait),
            prefill_slot_ms: milliseconds(slot_time.prefill),
            decode_slot_ms: milliseconds(slot_time.decode),
        };
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
