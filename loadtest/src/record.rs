//! What is kept of one request: a plain record, made by `drive` when the request is over and folded into the measures
//! by `measure`. All statistics are functions of records.
//!
//! Every moment is a duration since the beginning of the run (`clock.rs`).

use std::time::Duration;

/// One request, with all of its tries, however it ended.
#[derive(Clone, Debug)]
pub struct Record {
    /// Index of its tenant in the workload, in the order of their names.
    pub tenant: usize,
    /// Number of its session among those of its tenant, from 0.
    pub session: u64,
    /// Its turn in the session, from 0.
    pub turn: u32,
    /// Whether its reply came as a stream of events; if none came, whether it was asked for as one.
    pub streamed: bool,
    /// When it should have been sent. In a closed loop and from the second turn on: when its user was ready.
    pub scheduled: Duration,
    /// When the harness turned to it. What is later than `scheduled` is the fault of the harness: the dispatch lag.
    pub dispatched: Duration,
    /// When its first try was handed to HTTP, before any connecting. What is later than `dispatched` is the wait for
    /// one of the tenant's connections, where the workload limits them.
    pub sent: Duration,
    /// How many times it was tried; 0 if the run ended before it was sent.
    pub tries: u32,
    /// Status and code of each try that was refused and tried again, in order.
    pub retried: Vec<Refusal>,
    /// When the head of the last try's reply came.
    pub head: Option<Duration>,
    /// When the first event with generated content came, reasoning and tool calls included. Of a reply in one piece:
    /// when it was complete.
    pub first_token: Option<Duration>,
    /// When the first event came whose content is no reasoning.
    pub first_output_token: Option<Duration>,
    /// When the last event with generated content came.
    pub last_token: Option<Duration>,
    /// When it was over: the last byte of the reply, the error, the leaving.
    pub ended: Duration,
    /// The times between events with generated content, in order; one fewer than `chunks`.
    pub gaps: Vec<Duration>,
    /// How many events with generated content came. One event may carry several tokens.
    pub chunks: u64,
    /// How long it waited in the gateway's queue, as the gateway tells (`x-queue-wait-ms`).
    pub queue_wait: Option<Duration>,
    /// How long llama-server computed its prompt (`timings.prompt_ms`), if it told.
    pub prefill: Option<Duration>,
    /// How long llama-server generated its reply (`timings.predicted_ms`), if it told.
    pub decode: Option<Duration>,
    /// How many prompt tokens the plan asked for, of the whole conversation so far.
    pub planned_prompt_tokens: u64,
    /// How many output tokens it allowed.
    pub planned_output_tokens: u64,
    /// What the server said of its tokens.
    pub usage: Option<Usage>,
    /// Tokens known to have been generated for it: `usage` if there is one, else what timings or events told.
    pub tokens_seen: u64,
    /// How it ended.
    pub ending: Ending,
    /// The id that the server gave it (`x-request-id`).
    pub request_id: Option<String>,
    /// What was wrong with the server's own numbers, if anything: such numbers cannot be believed.
    pub lie: Option<String>,
}

impl Record {
    /// The record of a request to which the harness turns at a moment and of which nothing is known yet. If nothing ever
    /// is, it was abandoned.
    pub fn not_sent(now: Duration) -> Self {
        Self {
            tenant: 0,
            session: 0,
            turn: 0,
            streamed: false,
            scheduled: now,
            dispatched: now,
            sent: now,
            tries: 0,
            retried: Vec::new(),
            head: None,
            first_token: None,
            first_output_token: None,
            last_token: None,
            ended: now,
            gaps: Vec::new(),
            chunks: 0,
            queue_wait: None,
            prefill: None,
            decode: None,
            planned_prompt_tokens: 0,
            planned_output_tokens: 0,
            usage: None,
            tokens_seen: 0,
            ending: Ending::Abandoned,
            request_id: None,
            lie: None,
        }
    }
}

/// A refused try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status; 0 if a try had no reply, and the code then tells why.
    pub status: u16,
    /// The error's `code` or `type`, at most 64 characters.
    pub code: String,
}

/// Tokens as the server counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All prompt tokens, cached ones included.
    pub prompt: u64,
    /// Those of them that came from the cache; 0 if the server does not tell.
    pub cached: u64,
    /// Generated tokens, reasoning included.
    pub completion: u64,
}

/// The ways in which a request can end. The label is a column, a key in the report and a row in the summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The whole reply came.
    Complete,
    /// The client left, as the workload wanted: neither good nor a fault.
    Left,
    /// The client's own timeout.
    TimedOut,
    /// The last try was answered with an error status.
    Refused(Refusal),
    /// An error came after a good status, in the stream.
    ErrorEvent(Refusal),
    /// The connection or the stream ended before the reply did.
    Cut,
    /// No connection could be made.
    Unreachable,
    /// The reply was complete and could not be understood.
    Unreadable,
    /// The run ended first.
    Abandoned,
}

impl Ending {
    /// Its name in reports. The number of names is bounded by what servers use as codes; `measure` bounds it further.
    pub fn label(&self) -> String {
        match self {
            Self::Complete => "complete".to_owned(),
            Self::Left => "left".to_owned(),
            Self::TimedOut => "timed out".to_owned(),
            Self::Refused(Refusal { status: 0, code }) => code.clone(),
            Self::Refused(Refusal { status, code }) if code.is_empty() => format!("status {status}"),
            Self::Refused(Refusal { status, code }) => format!("status {status} {code}"),
            Self::ErrorEvent(Refusal { code, .. }) => format!("error in stream {code}").trim_end().to_owned(),
            Self::Cut => "cut".to_owned(),
            Self::Unreachable => "unreachable".to_owned(),
            Self::Unreadable => "unreadable".to_owned(),
            Self::Abandoned => "abandoned".to_owned(),
        }
    }
}

/// A record of a streamed request that was due at 0, was sent at once and is complete, and of which nothing else is
/// known. For tests.
#[cfg(test)]
pub(crate) fn sample() -> Record {
    Record { streamed: true, tries: 1, ending: Ending::Complete, ..Record::not_sent(Duration::ZERO) }
}
