//! Gives the room of deleted entries back to the file system while the ledger is in use.

use std::time::Instant;

use rusqlite::Connection;

/// What `PRAGMA auto_vacuum` says of a file that can give free pages back one by one.
const INCREMENTAL: i64 = 2;
/// Pages of 4 KiB that are given back at once.
const PAGES: i64 = 50;

/// Rewrites a file of an older version once, so that it can shrink later on. Takes about a second for each 100 MB, and as
/// much free disk as the file is large. Gives whether that was needed.
pub(super) fn convert(connection: &Connection) -> rusqlite::Result<bool> {
    let mode: i64 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if mode == INCREMENTAL {
        return Ok(false);
    }
    let began = Instant::now();
    connection.execute_batch("PRAGMA auto_vacuum = incremental; VACUUM;")?;
    tracing::info!(
        seconds = began.elapsed().as_secs_f64(),
        "rewrote the ledger once, so that it can shrink from now on"
    );
    Ok(true)
}

/// Gives some free pages back; the file is shorter after the next checkpoint. `false`: there are no more.
pub(super) fn give_back(connection: &Connection) -> rusqlite::Result<bool> {
    let free = || connection.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0));
    let before = free()?;
    // Each step of the statement gives back one page.
    let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    let after = free()?;
    // A file that could not be rewritten never gives any back.
    Ok(after > 0 && after < before)
}
