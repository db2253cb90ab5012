//! Looks at what the slots of one replica are doing, and writes on the board what should not be: requests that did not
//! come through this gateway, and slots that are busy without getting anywhere.
//!
//! `/slots` tells of each slot, but may be switched off (`--no-slots`); `/metrics` of all slots together, if it is
//! switched on (`--metrics`), and is the only one to tell of llama-server's own queue. Both are asked rarely: each time
//! they are, llama-server waits a second longer until it looks whether the clients of its replies in one piece have left.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use super::board::{Board, State};
use super::census::{Census, Watcher};
use super::client::{SendError, read};
use super::replica::Replica;
use crate::config;

/// Bytes of a reply at most. A slot has 1.5 KB, or all its text if llama-server was told to show it.
const MAX_REPLY: usize = 8 << 20;

/// Why an inspection found nothing.
enum Blind {
    /// llama-server was started without it, or tells it in a way that is not known.
    Untold,
    /// There was no answer in time.
    Silent,
    /// Something else: the prober will find out what.
    Failed,
}

pub(super) struct Inspector {
    replica: Arc<Replica>,
    board: Arc<Board>,
    interval: Duration,
    timeout: Duration,
    watcher: Watcher,
    /// Requests that had been abandoned at the last inspection.
    abandoned: u64,
    /// Restarts that were on the board at the last inspection.
    restarts: u32,
    /// It was said that nothing can be seen.
    complained: bool,
}

impl Inspector {
    pub(super) fn new(replica: Arc<Replica>, board: Arc<Board>, config: &config::Upstream) -> Self {
        let watcher = Watcher::new(config.wedged_after);
        let (interval, timeout) = (config.inspect_interval, config.probe_timeout);
        Self { replica, board, interval, timeout, watcher, abandoned: 0, restarts: 0, complained: false }
    }

    /// Inspects until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            sleep(self.interval).await;
            match self.board.state(self.replica.id) {
                Some(State::Ready | State::Wedged) => self.inspect().await,
                // What was seen before says nothing about what is there afterwards.
                _ => self.watcher.forget(),
            }
        }
    }

    async fn inspect(&mut self) {
        let id = self.replica.id;
        let restarts = self.board.restarts(id);
        if std::mem::replace(&mut self.restarts, restarts) != restarts {
            // A prober found it absent and back between two inspections: not to be told as another restart.
            self.watcher.forget();
        }
        let before = self.board.in_flight(id);
        let look = self.look().await;
        // What begins or ends meanwhile may have been seen or not.
        let ours = before.max(self.board.in_flight(id));
        let findings = match look {
            Ok(census) => {
                let abandoned = self.replica.link.abandoned();
                let left = abandoned - std::mem::replace(&mut self.abandoned, abandoned);
                self.complained = false;
                debug!(replica = &*self.replica.address, ours, ?census, "inspected");
                self.watcher.note(&census, ours, left, Instant::now())
            }
            Err(Blind::Silent) if self.get("/props").await.is_ok() => self.watcher.silence(Instant::now()),
            Err(Blind::Untold) if !self.complained => {
                let replica = &*self.replica.address;
                info!(replica, "llama-server does not tell what its slots do\n  hint: start it with --slots");
                self.complained = true;
                return;
            }
            Err(_) => return,
        };
        if findings.restarted {
            self.board.restarted(id);
            self.restarts = self.board.restarts(id);
        }
        self.board.inspected(id, findings.foreign, findings.stuck.as_deref());
    }

    async fn look(&self) -> Result<Census, Blind> {
        let slots = self.get("/slots").await.and_then(|reply| Census::of_slots(&reply).ok_or(Blind::Untold));
        let mut census = match slots {
            Err(Blind::Untold) => Census::of_metrics(&self.get("/metrics").await?).ok_or(Blind::Untold)?,
            slots => slots?,
        };
        // Only then can anything wait in llama-server's own queue. Averages in /metrics begin anew with each reader, so
        // that it is not read without need.
        if census.is_full()
            && let Ok(metrics) = self.get("/metrics").await
            && let Some(all) = Census::of_metrics(&metrics)
        {
            census.deferred = all.deferred;
        }
        if self.replica.has_batches() {
            census.deferred = 0;
        }
        Ok(census)
    }

    async fn get(&self, path: &'static str) -> Result<Bytes, Blind> {
        let link = &self.replica.link;
        let reply = async { read(link.get(path).await?, MAX_REPLY).await };
        match timeout(self.timeout, reply).await {
            Err(_elapsed) => Err(Blind::Silent),
            Ok(Ok((StatusCode::OK, body))) => Ok(body),
            Ok(Ok((StatusCode::NOT_IMPLEMENTED | StatusCode::NOT_FOUND | StatusCode::FORBIDDEN, _)))
            | Ok(Err(SendError::TooLarge)) => Err(Blind::Untold),
            Ok(_) => Err(Blind::Failed),
        }
    }
}
