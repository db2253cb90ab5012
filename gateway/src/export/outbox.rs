//! What waits to be delivered, in the order in which it was settled.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::event::Events;

/// Some of what waits, from the front.
#[derive(Default)]
pub(super) struct Batch {
    /// The events, each as JSON on one line.
    pub(super) events: Vec<String>,
    /// When the first one was.
    pub(super) oldest: Option<Timestamp>,
    /// The place of the last one in the outbox: all up to it are in this batch, or have been in earlier ones.
    pub(super) last: i64,
    /// Rows of the outbox whose entry is gone.
    pub(super) lost: u64,
    /// How many wait, these included.
    pub(super) pending: i64,
}

impl Batch {
    /// How many rows of the outbox it holds.
    pub(super) fn rows(&self) -> usize {
        self.events.len() + usize::try_from(self.lost).unwrap_or(0)
    }
}

/// How many wait behind place `after`. Places have no gaps but at the front: what was delivered goes in order, and a
/// transaction that is rolled back takes its places back.
pub(super) fn pending(connection: &Connection, after: i64) -> rusqlite::Result<i64> {
    // Apart, each of the two is one step in the table's tree.
    let sql = "SELECT coalesce((SELECT max(sequence) FROM outbox)
        - max(?1, (SELECT min(sequence) FROM outbox) - 1), 0)";
    connection.prepare_cached(sql)?.query_row([after], |row| row.get(0))
}

/// Reads at most `most` rows behind place `after`. What is in an empty outbox is known after one look.
pub(super) fn read(connection: &mut Connection, source: &str, after: i64, most: u32) -> rusqlite::Result<Batch> {
    // One transaction: an entry may be deleted after its row in the outbox, never before.
    let transaction = connection.transaction()?;
    let mut batch = Batch { last: after, pending: pending(&transaction, after)?, ..Batch::default() };
    if batch.pending > 0 {
        let sql = "SELECT sequence, request_id, revision FROM outbox WHERE sequence > ?1 ORDER BY sequence LIMIT ?2";
        let mut rows = transaction.prepare_cached(sql)?;
        let mut rows = rows.query(params![after, most])?;
        let mut events = Events::new(&transaction, source)?;
        while let Some(row) = rows.next()? {
            batch.last = row.get(0)?;
            match events.read(row.get_ref(1)?.as_str()?, row.get(2)?)? {
                Some(event) => {
                    batch.oldest.get_or_insert(event.time);
                    let text = serde_json::to_string(&event);
                    batch.events.push(text.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?);
                }
                None => batch.lost += 1,
            }
        }
    }
    Ok(batch)
}

/// Takes all up to place `last` out.
pub(super) fn remove(connection: &Connection, last: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM outbox WHERE sequence <= ?1")?.execute([last]).map(drop)
}
