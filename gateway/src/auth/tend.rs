//! What is done for the keys beside the requests, by one task.
//!
//! It follows `keys.sqlite` while no request does, so that running streams of a revoked key end; looks at the file of
//! declared keys; writes down the last uses. All of that waits for the disk, and so is done off the async threads.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Authenticator;

/// How often it is looked for changes.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often last uses are written: what a kill -9 can lose of them.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until it is told to stop; then it writes what is left.
pub async fn tend(authenticator: Arc<Authenticator>, stop: CancellationToken) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = Instant::now();
    let mut failing = Failing::default();
    let mut stopping = false;
    while !stopping {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => stopping = true,
        }
        let write = stopping || written.elapsed() >= WRITE_INTERVAL;
        if write {
            written = Instant::now();
        }
        let looking = authenticator.clone();
        let done = tokio::task::spawn_blocking(move || looking.look(write)).await;
        failing.tell(done.map_err(|error| error.to_string()).flatten());
    }
}

/// Logs a failure once, not at each look.
#[derive(Default)]
struct Failing(Option<String>);

impl Failing {
    fn tell(&mut self, done: Result<(), String>) {
        let error = done.err();
        if error == self.0 {
            return;
        }
        match &error {
            Some(error) => tracing::error!(error, "keys.sqlite cannot be used; trying again"),
            None => tracing::info!("keys.sqlite can be used again"),
        }
        self.0 = error;
    }
}
