//! How soon a client who leaves frees its slot: streams that are dropped on purpose, one at a time, while llama-server
//! is watched until it is idle.
//!
//! Takes the target, a model, and the llama-servers behind it, which must be idle but for this; gives the times from
//! the leaving to the answer that says idle. Such an answer may be late by as much as the watching is coarse, which is
//! given beside them.
//!
//! llama-server is asked for its slots, or, where that is switched off (`--no-slots`), for its metrics. Being asked
//! keeps it from noticing who left a reply in one piece, not who left a stream: so the trials are streams.

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use http::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::client::events::Events;
use crate::client::{ClientError, Message};
use crate::clock::wall_clock;
use crate::measure::histogram::Histogram;
use crate::report::Distribution;
use crate::target::{Server, counters};

/// Between two questions to llama-server.
const STEP: Duration = Duration::from_millis(2);
/// Events that are waited for before leaving: the role, and some with content.
const EVENTS: usize = 4;
/// More than any trial waits for.
const OUTPUT_TOKENS: u32 = 1024;
/// Words of the prompt of those who leave before the first token: long enough to be met at it.
const LONG_PROMPT_WORDS: usize = 700;
/// How long llama-server may be busy with others before a trial.
const OTHERS: Duration = Duration::from_secs(10);
/// How long one step of a trial may take: a first token, or becoming idle. Prompts take minutes on slow machines.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is tried.
pub struct Probe<'a> {
    /// Whom the clients ask, with its key.
    pub target: &'a Server,
    /// The llama-servers behind it, or itself.
    pub upstreams: &'a [Server],
    /// The model asked for.
    pub model: &'a str,
    /// How many trials of each kind.
    pub trials: u32,
}

/// When the clients of some trials leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// After some tokens.
    DuringOutput,
    /// While the prompt is computed.
    BeforeFirstToken,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Freed {
    /// From the leaving to the answer that all is idle, in milliseconds.
    pub times: Distribution,
    /// The longest time between two answers of llama-server, in milliseconds: by so much the times may be too long.
    pub resolution: f64,
    /// Trials that tell nothing: the request was over before its client could leave.
    pub missed: u32,
}

impl Probe<'_> {
    /// Does the trials.
    ///
    /// # Errors
    /// llama-server tells neither slots nor metrics, is not idle, or a stream cannot be had.
    pub async fn run(&self, leaving: Leaving) -> anyhow::Result<Freed> {
        ensure!(!self.upstreams.is_empty(), "nobody can be watched\nhint: give llama-server's address with --upstream");
        let (mut times, mut resolution, mut missed) = (Histogram::fine(), Duration::ZERO, 0);
        for number in 0..self.trials {
            until_idle(self.upstreams, OTHERS).await.context("before a trial")?;
            let left = match leaving {
                Leaving::DuringOutput => self.leave_during_output(number).await?,
                Leaving::BeforeFirstToken => self.leave_before_first_token(number).await?,
            };
            let Some(left) = left else {
                missed += 1;
                continue;
            };
            resolution = resolution.max(until_idle(self.upstreams, PATIENCE).await?);
            times.record(left.elapsed());
        }
        Ok(Freed { times: times.distribution(), resolution: resolution.as_secs_f64() * 1e3, missed })
    }

    /// Reads some events and leaves. The moment of that; `None` if the reply was over before.
    async fn leave_during_output(&self, number: u32) -> anyhow::Result<Option<Instant>> {
        let message = self.message(&format!("Trial {number}: count from one to ten thousand."))?;
        let mut reply = timeout(PATIENCE, self.target.client.send(&message)).await.context("no reply in time")??;
        ensure!(reply.status == StatusCode::OK, "a request of the cancel probe was answered {}", reply.status);
        let (mut events, mut seen) = (Events::default(), 0);
        while seen < EVENTS {
            let chunk = timeout(PATIENCE, reply.chunk()).await.context("no token in time")??;
            let Some(bytes) = chunk else { return Ok(None) };
            events.push(&bytes, |_| seen += 1)?;
        }
        let left = Instant::now();
        drop(reply);
        Ok(Some(left))
    }

    /// Leaves as soon as llama-server is seen at work. The moment of that; `None` if there was an answer before.
    async fn leave_before_first_token(&self, number: u32) -> anyhow::Result<Option<Instant>> {
        // What comes first is new each time, so that nothing behind it is in the prompt cache.
        let words = "Words and more words. ".repeat(LONG_PROMPT_WORDS / 4);
        let message = self.message(&format!("{} {number}. {words}", wall_clock()))?;
        let answered = async {
            let mut reply = self.target.client.send(&message).await?;
            ensure!(reply.status == StatusCode::OK, "a request of the cancel probe was answered {}", reply.status);
            // The head may come early, and so may comments of the gateway, which are no events.
            let (mut events, mut seen) = (Events::default(), 0);
            while let (0, Some(bytes)) = (seen, reply.chunk().await?) {
                events.push(&bytes, |_| seen += 1)?;
            }
            Ok(())
        };
        let left = tokio::select! {
            answered = answered => answered.map(|()| None)?,
            busy = until_busy(self.upstreams) => Some(busy?),
        };
        // The future with the connection has been dropped by now.
        Ok(left)
    }

    fn message(&self, prompt: &str) -> Result<Message, ClientError> {
        self.target.long_stream(self.model, prompt, OUTPUT_TOKENS)
    }
}

async fn until_busy(upstreams: &[Server]) -> anyhow::Result<Instant> {
    let end = Instant::now() + PATIENCE;
    while !any_busy(upstreams).await? {
        ensure!(Instant::now() < end, "llama-server did not begin in time");
        sleep(STEP).await;
    }
    Ok(Instant::now())
}

/// Waits until nothing is worked on. The longest time between two answers.
///
/// # Errors
/// It does not become idle in time, or does not tell.
pub(crate) async fn until_idle(upstreams: &[Server], patience: Duration) -> anyhow::Result<Duration> {
    let (begin, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    while any_busy(upstreams).await? {
        longest = longest.max(last.elapsed());
        last = Instant::now();
        ensure!(begin.elapsed() < patience, "llama-server was busy for {} s: others use it", patience.as_secs());
        sleep(STEP).await;
    }
    Ok(longest.max(last.elapsed()))
}

async fn any_busy(upstreams: &[Server]) -> anyhow::Result<bool> {
    for upstream in upstreams {
        if is_busy(upstream).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a llama-server works on anything.
async fn is_busy(upstream: &Server) -> anyhow::Result<bool> {
    let url = &upstream.url;
    let slots = upstream.get("/slots").await.with_context(|| format!("{url}/slots"))?;
    if slots.status == StatusCode::OK {
        let slots: Vec<Value> = serde_json::from_slice(&slots.body).with_context(|| format!("{url}/slots"))?;
        return Ok(slots.iter().any(|slot| slot["is_processing"].as_bool().unwrap_or(false)));
    }
    let counters = counters::read(upstream).await.map_err(|why| {
        let hint = "hint: start llama-server with --slots or --metrics";
        anyhow!("{url} tells neither its slots (/slots answers {}) nor its metrics: {why}\n{hint}", slots.status)
    })?;
    Ok(counters.busy > 0)
}

#[cfg(test)]
mod tests;
