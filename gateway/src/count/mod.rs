//! How many tokens a prompt has, before it is let in.
//!
//! llama-server counts, with its own template and tokenizer, on its HTTP threads: no slot is needed, and it takes about
//! a millisecond even while all slots are busy. What it refuses while it counts, it would refuse later in the same
//! words: both ways begin with the same reading of the request. Where it does not answer in time the size of the
//! prompt must do; an estimate never refuses anybody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::error::{Reason, Rejection};
use crate::metrics::Metrics;
use crate::surface::{Ask, Surface};
use crate::traces::Propagation;
use crate::upstream::{Facts, Upstream, errors};

mod cache;
mod pauses;

use cache::Cache;
pub use cache::Key;
use pauses::{Endpoint, Pauses};

/// Bytes for one token where nobody counts: English has about 4, other languages and code fewer.
const BYTES_PER_TOKEN: f64 = 3.5;
/// Bodies of more bytes than this are long.
const LONG: usize = 256 << 10;
/// Counts of short bodies that are under way at once. Each takes one of llama-server's HTTP threads, as few as 8 by
/// default on a small machine.
const SHORT_CALLS: usize = 6;
/// Counts of long bodies at once: those of one tenant leave the short ones of others alone.
const LONG_CALLS: usize = 2;
/// Time to wait for one's turn to ask.
const TURN: Duration = Duration::from_millis(500);
/// Time for the answer, and on top of it for each MiB of the body, of which llama-server reads about three a second.
const ANSWER: Duration = Duration::from_secs(1);
/// Asks what begins and ends a text.
const EMPTY_TEXT: &[u8] = br#"{"content":"","add_special":true}"#;
/// Refusals that counting may give alone, since it does not look into media: they refuse nobody.
const DOUBTFUL: [&str; 2] = ["Failed to load image", "Failed to tokenize"];

/// A prompt's tokens, and whether llama-server has counted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Prompt tokens, with the chat template and the tools; of several prompts, all of them. Choices share a prompt.
    pub tokens: u64,
    /// Counted by llama-server, not estimated.
    pub exact: bool,
}

/// Counts prompts.
pub struct Counter {
    known: Mutex<Known>,
    short: Semaphore,
    long: Semaphore,
    metrics: Arc<Metrics>,
}

/// What earlier answers told.
#[derive(Default)]
struct Known {
    /// Of which model; all else is forgotten when a replica tells something new about itself.
    model: Option<Arc<Facts>>,
    counts: Cache,
    /// How many tokens begin and end a text.
    around: Option<u64>,
    pauses: Pauses,
}

#[derive(Deserialize)]
struct InputTokens {
    input_tokens: u64,
}

#[derive(Deserialize)]
struct Tokens {
    /// Takes no memory: only their number matters.
    tokens: Vec<IgnoredAny>,
}

impl Counter {
    /// A counter that knows nothing yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let (short, long) = (Semaphore::new(SHORT_CALLS), Semaphore::new(LONG_CALLS));
        Self { known: Mutex::default(), short, long, metrics }
    }

    /// Counts the prompt of a request with llama-server's own template and tokenizer; where that does not answer in
    /// time, estimates. `key`: whose request it is, and its fingerprint.
    ///
    /// # Errors
    /// The prompt does not fit the context of a slot, or llama-server says what is wrong with the request.
    pub async fn count(&self, upstream: &Upstream, ask: &Ask, key: Key) -> Result<Counted, Rejection> {
        let context = u64::from(upstream.context());
        let model = upstream.facts();
        let (by, tokens) = match self.cached(model.as_ref(), &key) {
            Some(tokens) => ("cached", Some(tokens)),
            None => {
                let began = Instant::now();
                let tokens = self.asked(upstream, ask).await?;
                self.metrics.prompt_count_seconds.observe(began.elapsed().as_secs_f64());
                if let Some(tokens) = tokens {
                    self.remember(model.as_ref(), key, tokens);
                }
                (if tokens.is_some() { "exact" } else { "estimate" }, tokens)
            }
        };
        self.metrics.prompt_counts_total.with_label_values(&[by]).inc();
        let counted = match tokens {
            Some(tokens) => Counted { tokens, exact: true },
            None => Counted { tokens: estimate(ask, context), exact: false },
        };
        tracing::debug!(surface = ask.surface.label(), tokens = counted.tokens, by, "prompt counted");
        if counted.exact {
            fits(ask, counted.tokens, context)?;
        }
        Ok(counted)
    }

    /// Asks llama-server. `None`: it cannot tell.
    async fn asked(&self, upstream: &Upstream, ask: &Ask) -> Result<Option<u64>, Rejection> {
        let endpoint = match ask.surface {
            Surface::Chat => Endpoint::Chat,
            Surface::Responses => Endpoint::Responses,
            Surface::Messages => Endpoint::Messages,
            _ => return Ok(self.tokenized(upstream, ask).await),
        };
        match self.call(upstream, endpoint, ask.upstream_body.clone()).await {
            Some((StatusCode::OK, reply)) => {
                Ok(serde_json::from_slice(&reply).ok().map(|InputTokens { input_tokens }| input_tokens))
            }
            Some((status, reply)) => refusal(status, &reply).map_or(Ok(None), Err),
            None => Ok(None),
        }
    }

    /// Counts prompts to which no template is applied, all with one call. What this endpoint refuses, the others may
    /// yet accept: it has another reader.
    async fn tokenized(&self, upstream: &Upstream, ask: &Ask) -> Option<u64> {
        let pieces = ask.pieces()?;
        let texts = match pieces.texts {
            Some(texts) => self.tokens(upstream, texts).await?,
            None => 0,
        };
        let around = match pieces.opened {
            0 => 0,
            opened => opened * self.around(upstream).await?,
        };
        Some(pieces.numbers + texts + around)
    }

    /// How many tokens begin and end a text: asked once.
    async fn around(&self, upstream: &Upstream) -> Option<u64> {
        let around = self.known().around;
        if around.is_some() {
            return around;
        }
        let model = upstream.facts();
        let tokens = self.tokens(upstream, Bytes::from_static(EMPTY_TEXT)).await?;
        let mut known = self.known();
        if known.is_of(model.as_ref()) {
            known.around = Some(tokens);
        }
        Some(tokens)
    }

    async fn tokens(&self, upstream: &Upstream, texts: Bytes) -> Option<u64> {
        let (status, reply) = self.call(upstream, Endpoint::Tokenize, texts).await?;
        let Tokens { tokens } = serde_json::from_slice(&reply).ok().filter(|_| status == StatusCode::OK)?;
        Some(tokens.len() as u64)
    }

    /// One call, bounded in time. `None`: no answer.
    async fn call(&self, upstream: &Upstream, endpoint: Endpoint, body: Bytes) -> Option<(StatusCode, Bytes)> {
        let length = body.len();
        let turns = if length > LONG { &self.long } else { &self.short };
        let _turn = timeout(TURN, turns.acquire()).await.ok()?;
        if !self.known().pauses.may_ask(endpoint, Instant::now()) {
            return None;
        }
        let patience = ANSWER + ANSWER.mul_f64(length as f64 / f64::from(1 << 20));
        match timeout(patience, upstream.ask(endpoint.path(), body, &Propagation::default())).await {
            Ok(Ok((StatusCode::NOT_FOUND, _))) => {
                self.pause(endpoint, "is not there");
                None
            }
            Ok(Ok(reply)) => {
                self.known().pauses.end(endpoint);
                Some(reply)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, endpoint = endpoint.path(), "a prompt could not be counted");
                None
            }
            Err(_elapsed) => {
                // How long a long one takes says more about its text than about the endpoint.
                if length <= LONG {
                    self.pause(endpoint, "gives no answer in time");
                }
                None
            }
        }
    }

    fn pause(&self, endpoint: Endpoint, problem: &'static str) {
        if self.known().pauses.begin(endpoint, Instant::now()) {
            tracing::warn!(
                endpoint = endpoint.path(),
                problem,
                "prompts are estimated until they can be counted again"
            );
        }
    }

    fn cached(&self, model: Option<&Arc<Facts>>, key: &Key) -> Option<u64> {
        let mut known = self.known();
        if !known.is_of(model) {
            *known = Known { model: model.cloned(), ..Known::default() };
        }
        known.counts.get(key)
    }

    fn remember(&self, model: Option<&Arc<Facts>>, key: Key, tokens: u64) {
        let mut known = self.known();
        if known.is_of(model) {
            known.counts.insert(key, tokens);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// A replica that was started anew tells anew of itself, even if it tells the same; its template may be another one.
    fn is_of(&self, model: Option<&Arc<Facts>>) -> bool {
        match (&self.model, model) {
            (Some(known), Some(model)) => Arc::ptr_eq(known, model),
            (known, model) => known.is_none() && model.is_none(),
        }
    }
}

/// What an error reply of a counting endpoint says against the request; `None` if it is not the request's fault.
fn refusal(status: StatusCode, reply: &[u8]) -> Option<Rejection> {
    let rejection = errors::rejection(status, reply);
    let doubtful = DOUBTFUL.iter().any(|text| rejection.message.contains(text));
    (rejection.reason == Reason::InvalidRequest && !doubtful).then_some(rejection)
}

/// Refuses a prompt that llama-server would refuse once it had its slot. It wants room for one token of output;
/// embeddings have none. Of several prompts it cannot be said here which one is too long.
fn fits(ask: &Ask, tokens: u64, context: u64) -> Result<(), Rejection> {
    let room = match ask.surface {
        Surface::Embeddings | Surface::Rerank => context,
        _ => context.saturating_sub(1),
    };
    if context == 0 || ask.prompts > 1 || tokens <= room {
        return Ok(());
    }
    Err(errors::too_long(ask.surface.prompt_field(), tokens, context))
}

/// Tokens by size, at most what fits the context: more than that cannot be used, whatever the size (an image of a
/// megabyte is some hundred tokens).
fn estimate(ask: &Ask, context: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bodies are some megabytes at most")]
    let tokens = (ask.prompt_bytes() as f64 / BYTES_PER_TOKEN).ceil() as u64;
    match context.saturating_mul(u64::from(ask.prompts)) {
        0 => tokens,
        most => tokens.min(most),
    }
}

#[cfg(test)]
mod tests;
