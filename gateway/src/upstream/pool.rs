//! The connections to one replica that wait for their next request.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::wire::Wire;

/// llama-server closes a connection that was idle for 5 s; ours must be gone before, or a request may be lost in it.
const MAX_IDLE_TIME: Duration = Duration::from_secs(4);
/// Each idle connection holds one of llama-server's HTTP threads; but no more are ever used than it has slots, and a few.
const MAX_IDLE: usize = 256;

/// Idle connections, the one that was used last at the end.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<(Instant, Wire)>>,
}

impl Pool {
    /// A connection that can be used at once. Closes those that were idle for too long: a replica is probed every few
    /// seconds, so none stays for long when there are no other requests.
    pub(super) fn take(&self) -> Option<Wire> {
        loop {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = idle.iter().position(|(since, _)| since.elapsed() < MAX_IDLE_TIME).unwrap_or(idle.len());
            let stale: Vec<_> = idle.drain(..fresh).collect();
            let wire = idle.pop();
            drop(idle);
            drop(stale);
            let (_, wire) = wire?;
            if wire.is_quiet() {
                return Some(wire);
            }
        }
    }

    /// Keeps a connection whose reply was read to its end; closes it if there are enough.
    pub(super) fn give(&self, wire: Wire) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push((Instant::now(), wire));
        }
    }
}
