//! SIGTERM and SIGINT: the first one drains, the second one ends at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Drain;

/// SIGTERM and SIGINT. From its making on, these signals no longer end the process by themselves.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes both signals over.
    ///
    /// # Errors
    /// If the system does not let it.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for either of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for a signal, then takes `drain` through its phases; a second signal ends it at once.
    pub async fn drain(mut self, drain: Drain, grace: Duration) {
        self.next().await;
        tracing::info!(grace_s = grace.as_secs(), "draining: no new work, running streams may finish");
        let again = async {
            self.next().await;
            tracing::warn!("second signal: ending at once");
        };
        drain.run(grace, again).await;
    }
}
