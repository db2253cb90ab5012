//! What is recorded of one request.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::error::Reason;
use crate::surface::Surface;

/// Who asked for what: known before the request waits for anything.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The `x-request-id` of the answer; the primary key.
    pub request_id: Arc<str>,
    /// The unit of accounting.
    pub tenant: Arc<str>,
    /// The public id of the API key.
    pub key_id: Arc<str>,
    /// The model that answers, by a name from the configuration or from llama-server.
    pub model: Arc<str>,
    /// The API surface.
    pub surface: Surface,
    /// When the request head had been read.
    pub arrived: Timestamp,
}

/// How the tokens of an entry were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CountedBy {
    /// Nothing was generated.
    #[default]
    Nothing,
    /// llama-server's final usage.
    Usage,
    /// llama-server's running timings: exact up to the last event that was read.
    Timings,
    /// Output events, where llama-server gives no running count: at least one token each, so a lower bound.
    Events,
    /// llama-server's final word on the output, and its count of the prompt from before the request was let in, since
    /// the reply did not tell. Only what came from the cache is not known.
    Admission,
}

impl CountedBy {
    /// The name in the ledger.
    pub fn label(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Usage => "usage",
            Self::Timings => "timings",
            Self::Events => "events",
            Self::Admission => "admission",
        }
    }
}

/// Tokens of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Prompt tokens, cached ones included.
    pub prompt: u64,
    /// Prompt tokens that llama-server took from its cache.
    pub cached: u64,
    /// Generated tokens, over all choices.
    pub completion: u64,
    /// Those of them that were thoughts, where llama-server shows thoughts and running counts. Pieces of thought and
    /// answer that llama-server sends in one event count as the kind that the event has.
    pub reasoning: Option<u64>,
    /// Where the numbers come from.
    pub by: CountedBy,
}

impl Count {
    /// Prompt and output.
    pub fn total(&self) -> u64 {
        // The numbers are llama-server's, and may be anything.
        self.prompt.saturating_add(self.completion)
    }
}

/// How a request ended: a ledger column, a metric label and a test case each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The client was given everything.
    Complete,
    /// The client went away first.
    ClientLeft,
    /// The client stopped reading for longer than the slow-reader deadline.
    SlowReader,
    /// The gateway shut down before the end.
    Drained,
    /// The gateway process died; found and closed at the next start.
    Interrupted,
    /// It was ended, cleanly for the client, because a quota was used up.
    Cut,
    /// It was refused or failed.
    Failed(Reason),
}

impl Ending {
    /// The name in the ledger and in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::SlowReader => "slow_reader",
            Self::Drained => "drained",
            Self::Interrupted => "interrupted",
            Self::Cut => "cut_at_quota",
            Self::Failed(reason) => reason.label(),
        }
    }
}

/// Time that a request held slots: of two slots during one second, two seconds. By the gateway's own clock, since what
/// counts is how long nobody else could have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotTime {
    /// From the dispatch to the first token, or to the end where there was none.
    pub prefill: Duration,
    /// From the first token to the end.
    pub decode: Duration,
}

/// When, where and after which wait a request was dispatched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatched {
    /// When it got its slots.
    pub at: Timestamp,
    /// How long it had waited for them.
    pub queue_wait: Duration,
    /// The replica that was asked, by its address.
    pub upstream: Arc<str>,
    /// How many slots it holds.
    pub slots: u32,
    /// Prompt tokens as they were counted, or estimated, before it was let in: what it may come to if llama-server
    /// does not tell.
    pub prompt: u64,
}

impl Dispatched {
    /// How long the slots have been held at `until`.
    pub fn slot_time(&self, first_token: Option<Timestamp>, until: Timestamp) -> SlotTime {
        let between = |from: Timestamp, to: Timestamp| {
            Duration::try_from(to.duration_since(from)).unwrap_or_default().saturating_mul(self.slots)
        };
        let prefilled = first_token.unwrap_or(until);
        SlotTime { prefill: between(self.at, prefilled), decode: between(prefilled, until) }
    }
}

/// How a request went: settles its entry.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// The HTTP status that the client was given (499 where it left before one).
    pub status: u16,
    /// Its tokens.
    pub count: Count,
    /// Where it was dispatched, if it was.
    pub dispatched: Option<Dispatched>,
    /// How long it waited for a slot, with or without getting one.
    pub queue_wait: Duration,
    /// When the first token arrived.
    pub first_token: Option<Timestamp>,
    /// When it was over.
    pub ended: Timestamp,
}

impl Outcome {
    /// How long it held its slots.
    pub fn slot_time(&self) -> SlotTime {
        let held = self.dispatched.as_ref().map(|dispatched| dispatched.slot_time(self.first_token, self.ended));
        held.unwrap_or_default()
    }
}
