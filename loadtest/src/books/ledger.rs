//! The gateway's book: what a key has used, as its holder may ask (`GET /v1/usage`, docs/usage.md).

use http::StatusCode;
use serde::Deserialize;

use crate::target::Server;

/// What was used.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) requests: i64,
    pub(super) prompt_tokens: i64,
    pub(super) cached_tokens: i64,
    pub(super) completion_tokens: i64,
}

impl Used {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            cached_tokens: self.cached_tokens + other.cached_tokens,
            completion_tokens: self.completion_tokens + other.completion_tokens,
        }
    }

    pub(super) fn minus(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            prompt_tokens: self.prompt_tokens - before.prompt_tokens,
            cached_tokens: self.cached_tokens - before.cached_tokens,
            completion_tokens: self.completion_tokens - before.completion_tokens,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    today: Day,
    /// Only if days were asked for; those without requests are left out.
    #[serde(default)]
    buckets: Vec<Used>,
}

#[derive(Deserialize)]
struct Day {
    start_time: i64,
}

/// The day (UTC, by the gateway's clock) on which a run begins, in seconds since 1970.
///
/// # Errors
/// In words, why the ledger cannot be read.
pub(super) async fn today(gateway: &Server) -> Result<i64, String> {
    Ok(ask(gateway, "/v1/usage").await?.today.start_time)
}

/// What the key has used since the beginning of this day, however many midnights ago that is.
///
/// # Errors
/// In words, why the ledger cannot be read.
pub(super) async fn used_since(gateway: &Server, day: i64) -> Result<Used, String> {
    let answer = ask(gateway, &format!("/v1/usage?start_time={day}")).await?;
    Ok(answer.buckets.into_iter().fold(Used::default(), Used::plus))
}

async fn ask(gateway: &Server, path: &str) -> Result<Answer, String> {
    let reply = gateway.get(path).await;
    let answer = reply.map_err(|error| format!("/v1/usage: {error:#}"))?;
    if answer.status != StatusCode::OK {
        return Err(format!("/v1/usage answers {}", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|error| format!("/v1/usage: {error}"))
}
