//! Deletes settled entries that are old enough, and gives the room that becomes free back to the file system.
//!
//! Takes the ledger and how long to keep what; works in slices of a few milliseconds on the writer's thread, with pauses
//! between them, so that no request waits noticeably. The sums by day stay as they are, whatever is deleted.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, params};
use tokio::time::{Instant, sleep};

use super::daily::{MILLISECONDS_OF_A_DAY, day_of};
use super::vacuum::give_back;
use super::{Ledger, LedgerError};
use crate::clock::Clock;

/// From the start to the first look.
const FIRST_LOOK: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(3600);
/// Entries that a slice looks at.
const SLICE: usize = 100;
/// Between two slices.
const PAUSE: Duration = Duration::from_millis(25);
/// The wall clock may be set by less than this while the gateway runs.
const TRUSTED_DRIFT: SignedDuration = SignedDuration::from_hours(1);

/// How long what is kept; zero: for ever.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Settled entries and their corrections.
    pub entries: Duration,
    /// The sums of a day.
    pub days: Duration,
}

/// Deletes what is old. To be run beside the server.
pub struct Retention {
    ledger: Ledger,
    clock: Clock,
    keep: Keep,
    /// The same moment on both clocks.
    started: (Instant, Timestamp),
}

impl Retention {
    /// Of a ledger that was opened just now.
    pub fn new(ledger: Ledger, clock: Clock, keep: Keep) -> Self {
        let started = (Instant::now(), clock.now());
        Self { ledger, clock, keep, started }
    }

    /// Looks for what is old, from time to time, for ever.
    pub async fn run(self) {
        sleep(FIRST_LOOK).await;
        loop {
            self.look().await;
            sleep(LOOK).await;
        }
    }

    /// Deletes what is old now.
    async fn look(&self) {
        let now = self.clock.now();
        let (instant, timestamp) = self.started;
        let expected = timestamp.checked_add(instant.elapsed()).unwrap_or(Timestamp::MAX);
        let drift = now.duration_since(expected);
        if drift.abs() > TRUSTED_DRIFT {
            let seconds = drift.as_secs();
            tracing::warn!(
                seconds,
                "the machine's clock was set by more than an hour since the start: no entry is deleted until the \
                 next one, since it may be wrong"
            );
            return;
        }
        let began = Instant::now();
        match self.delete(now).await {
            Ok(0) => {}
            Ok(entries) => tracing::info!(entries, seconds = began.elapsed().as_secs_f64(), "deleted old entries"),
            Err(LedgerError::Stopped) => {}
            Err(error) => tracing::warn!(%error, "old entries could not be deleted; it is tried again in an hour"),
        }
    }

    /// Gives how many entries were deleted.
    pub(super) async fn delete(&self, now: Timestamp) -> Result<usize, LedgerError> {
        let mut deleted = 0;
        if let Some(before) = cutoff(now, self.keep.entries) {
            let mut next = Some(Position::MIN);
            while let Some(after) = next {
                let slice = self.ledger.work(move |connection| delete_slice(connection, before, &after)).await?;
                deleted += slice.deleted;
                next = slice.next;
                sleep(PAUSE).await;
            }
        }
        if let Some(before) = cutoff(now, self.keep.days) {
            self.ledger.work(move |connection| delete_days(connection, before)).await?;
        }
        while self.ledger.work(give_back).await? {
            sleep(PAUSE).await;
        }
        Ok(deleted)
    }
}

/// `None`: nothing is old.
fn cutoff(now: Timestamp, keep: Duration) -> Option<Timestamp> {
    if keep.is_zero() { None } else { now.checked_sub(SignedDuration::try_from(keep).ok()?).ok() }
}

/// An entry's place in the order of arrival.
pub(super) struct Position {
    arrived_ms: i64,
    request_id: String,
}

impl Position {
    /// Before all entries.
    pub(super) const MIN: Self = Self { arrived_ms: i64::MIN, request_id: String::new() };
}

/// What one slice came to.
#[derive(Default)]
pub(super) struct Slice {
    pub(super) deleted: usize,
    /// Where to go on; `None`: nothing that old is left to look at.
    pub(super) next: Option<Position>,
}

/// Looks at the next entries that arrived before `before`, in order of arrival from behind `after`, and deletes those
/// that may go: settled, with nothing of them waiting to be exported.
pub(super) fn delete_slice(connection: &Connection, before: Timestamp, after: &Position) -> rusqlite::Result<Slice> {
    let mut select = connection.prepare_cached(
        "SELECT request_id, arrived_ms, ending IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.request_id = entries.request_id)
         FROM entries WHERE (arrived_ms, request_id) > (?1, ?2) AND arrived_ms < ?3
         ORDER BY arrived_ms, request_id LIMIT ?4",
    )?;
    let mut delete = connection.prepare_cached("DELETE FROM entries WHERE request_id = ?1")?;
    let mut delete_corrections = connection.prepare_cached("DELETE FROM corrections WHERE request_id = ?1")?;
    let mut remember = connection.prepare_cached(
        "INSERT INTO retired (day, entries) VALUES (?1, 1) ON CONFLICT DO UPDATE SET entries = entries + 1",
    )?;
    let range = params![after.arrived_ms, after.request_id, before.as_millisecond(), SLICE as i64];
    let found = select.query_map(range, |row| row.try_into())?;
    let found = found.collect::<rusqlite::Result<Vec<(String, i64, bool)>>>()?;
    let (is_last, mut slice) = (found.len() < SLICE, Slice::default());
    for (request_id, arrived_ms, may_go) in found {
        if may_go {
            delete.execute([&request_id])?;
            delete_corrections.execute([&request_id])?;
            remember.execute([arrived_ms / MILLISECONDS_OF_A_DAY])?;
            slice.deleted += 1;
        }
        slice.next = (!is_last).then_some(Position { arrived_ms, request_id });
    }
    Ok(slice)
}

/// Deletes the sums of days that ended before `before`, as far as there are no entries of them any more.
fn delete_days(connection: &Connection, before: Timestamp) -> rusqlite::Result<()> {
    const OLD: &str = "day < ?1 AND NOT EXISTS (SELECT 1 FROM entries
        WHERE arrived_ms >= day * 86400000 AND arrived_ms < (day + 1) * 86400000)";
    for table in ["daily", "retired"] {
        connection.execute(&format!("DELETE FROM {table} WHERE {OLD}"), [day_of(before)])?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
