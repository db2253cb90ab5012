//! Shutting down in steps, so that running streams can finish.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How long bodies have, after the grace period, to send their last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How far the shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not at all.
    Serving,
    /// No new connections and no new work; what runs may finish.
    Draining,
    /// Time is up: streams end with an error event.
    Expired,
    /// Connections are dropped.
    Over,
}

/// Tells everybody how far the shutdown is. Clones share one state.
#[derive(Clone, Debug)]
pub struct Drain {
    phase: Arc<watch::Sender<Phase>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// One that has not started.
    pub fn new() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)) }
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether new work is to be refused.
    pub fn is_started(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Waits until new work is to be refused.
    pub async fn started(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until streams must end.
    pub async fn expired(&self) {
        self.reached(Phase::Expired).await;
    }

    /// Waits until `phase` or a later one.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so waiting cannot fail.
        self.phase.subscribe().wait_for(|now| *now >= phase).await.ok();
    }

    /// Goes on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let forward = phase > *now;
            *now = phase.max(*now);
            forward
        });
    }

    /// Goes through all phases: draining at once, expired after `grace`, over a little later; over at once when
    /// `again` comes true.
    pub async fn run(&self, grace: Duration, again: impl Future<Output = ()>) {
        self.advance(Phase::Draining);
        let steps = async {
            tokio::time::sleep(grace).await;
            self.advance(Phase::Expired);
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = steps => {}
            () = again => {}
        }
        self.advance(Phase::Over);
    }

    /// Follows the phases; the one of now counts as new.
    pub(super) fn follow(&self) -> watch::Receiver<Phase> {
        let mut phases = self.phase.subscribe();
        phases.mark_changed();
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_grace_period_passes_before_streams_must_end() {
        let drain = Drain::new();
        let begun = tokio::time::Instant::now();
        let run = drain.run(Duration::from_secs(30), std::future::pending());
        let watch = async {
            drain.started().await;
            assert_eq!(begun.elapsed(), Duration::ZERO);
            drain.expired().await;
            assert_eq!(begun.elapsed().as_secs(), 30);
            drain.reached(Phase::Over).await;
            assert_eq!(begun.elapsed().as_secs(), 32);
        };
        tokio::join!(run, watch);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_everything_at_once() {
        let drain = Drain::new();
        let begun = tokio::time::Instant::now();
        drain.run(Duration::from_secs(30), tokio::time::sleep(Duration::from_secs(1))).await;
        assert_eq!(begun.elapsed().as_secs(), 1);
        assert_eq!(drain.phase(), Phase::Over);
    }

    #[test]
    fn it_never_goes_back() {
        let drain = Drain::new();
        drain.advance(Phase::Expired);
        drain.advance(Phase::Draining);
        assert_eq!(drain.phase(), Phase::Expired);
    }
}
