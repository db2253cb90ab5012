//! Watches one replica: asks it for `/props` again and again and writes on the board what it finds.
//!
//! `/props` is answered while llama-server generates, tells the number of slots and, unlike other requests, does not
//! wake a model that was put to sleep.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::board::{Board, Facts};
use super::client::{SendError, read};
use super::replica::Replica;
use crate::config;

/// Pause between probes of a replica that is not ready.
const IMPATIENT: Duration = Duration::from_millis(250);
/// Probes in a row without an answer that make a replica down: under load llama-server may have no thread for one.
const STRIKES: u32 = 3;
/// Bytes of a reply at most; chat templates and model lists are some 10 KB.
const MAX_REPLY: usize = 1 << 20;

/// What a probe found.
enum Finding {
    Ready(Arc<Facts>),
    Loading,
    /// Nobody there, or somebody else.
    Absent(String),
    /// No answer; it may just be busy.
    Silent(String),
}

pub(super) struct Prober {
    replica: Arc<Replica>,
    board: Arc<Board>,
    interval: Duration,
    timeout: Duration,
    strikes: u32,
    /// The reply to `/props` of the last probe, by checksum, and what was made of it; none unless it was ready.
    known: Option<(u32, Arc<Facts>)>,
}

#[derive(Deserialize)]
struct Props {
    total_slots: u32,
    #[serde(default)]
    build_info: String,
    #[serde(default)]
    model_alias: String,
    default_generation_settings: Option<Settings>,
}

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    n_ctx: u32,
}

impl Prober {
    pub(super) fn new(replica: Arc<Replica>, board: Arc<Board>, config: &config::Upstream) -> Self {
        let (interval, timeout) = (config.probe_interval, config.probe_timeout);
        Self { replica, board, interval, timeout, strikes: 0, known: None }
    }

    /// Probes until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let heard = self.replica.link.heard();
            let finding = self.look().await.unwrap_or_else(|finding| finding);
            let replies_flow = self.replica.link.heard() != heard;
            let pause = self.note(finding, replies_flow);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.replica.suspected() => {}
            }
        }
    }

    /// Writes the finding on the board and gives the pause until the next probe.
    fn note(&mut self, finding: Finding, replies_flow: bool) -> Duration {
        let id = self.replica.id;
        let impatient = IMPATIENT.min(self.interval);
        let silent = matches!(finding, Finding::Silent(_));
        self.strikes = if silent && !replies_flow { self.strikes.saturating_add(1) } else { 0 };
        match finding {
            Finding::Ready(facts) => {
                self.board.ready(id, facts);
                return self.interval;
            }
            Finding::Silent(_) if self.strikes < STRIKES => return impatient,
            Finding::Loading => self.board.loading(id),
            Finding::Silent(problem) => self.board.silent(id, &problem),
            Finding::Absent(problem) => self.board.absent(id, &problem),
        }
        self.known = None;
        impatient
    }

    /// One probe. Both sides of the result are findings: the other one came early.
    async fn look(&mut self) -> Result<Finding, Finding> {
        let props = self.get("/props").await?;
        let checksum = crc32fast::hash(&props);
        if let Some((known, facts)) = &self.known
            && *known == checksum
        {
            return Ok(Finding::Ready(Arc::clone(facts)));
        }
        let props: Props = serde_json::from_slice(&props)
            .map_err(|error| Finding::Absent(format!("/props is not that of a llama-server: {error}")))?;
        if props.total_slots == 0 {
            return Err(Finding::Absent("/props tells of no slot".into()));
        }
        let facts = Arc::new(Facts {
            total_slots: props.total_slots,
            n_ctx: props.default_generation_settings.map_or(0, |settings| settings.n_ctx),
            build: props.build_info,
            model: props.model_alias,
            models: self.get("/v1/models").await?,
        });
        self.known = Some((checksum, Arc::clone(&facts)));
        Ok(Finding::Ready(facts))
    }

    async fn get(&self, path: &'static str) -> Result<Bytes, Finding> {
        let link = &self.replica.link;
        let reply = async { read(link.get(path).await?, MAX_REPLY).await };
        match timeout(self.timeout, reply).await {
            Err(_) => Err(Finding::Silent(format!("{path}: no answer"))),
            Ok(Ok((StatusCode::OK, body))) => Ok(body),
            Ok(Ok((StatusCode::SERVICE_UNAVAILABLE, _))) => Err(Finding::Loading),
            Ok(Ok((StatusCode::UNAUTHORIZED, _))) => {
                Err(Finding::Absent("it wants another key\n  hint: see upstream.api_key_file".into()))
            }
            Ok(Ok((status, _))) => Err(Finding::Absent(format!("{path}: {status}"))),
            Ok(Err(error @ SendError::TooLarge)) => Err(Finding::Absent(format!("{path}: {error}"))),
            Ok(Err(error)) if error.is_refused() => Err(Finding::Absent(error.to_string())),
            Ok(Err(error)) => Err(Finding::Silent(format!("{path}: {error}"))),
        }
    }
}
