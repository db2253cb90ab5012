//! Idle connections, to be used again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;

/// Idle connections are given up after this: llama-server closes them after 5 s, and a request that meets one which is
/// just being closed has to be sent again.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// Never more of them than there were requests at once. Oldest first.
#[derive(Default)]
pub(super) struct Pool(Mutex<VecDeque<(Connection, Instant)>>);

impl Pool {
    /// The one that was used last, which is the least likely to be closed soon.
    pub(super) fn take(&self) -> Option<Connection> {
        let (connection, since) = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_back()?;
        (since.elapsed() < MAX_IDLE).then_some(connection)
    }

    /// Keeps a connection on which nothing is under way, and gives up those that are too old.
    pub(super) fn put(&self, connection: Connection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while idle.front().is_some_and(|(_, since)| since.elapsed() >= MAX_IDLE) {
            idle.pop_front();
        }
        idle.push_back((connection, Instant::now()));
    }
}
