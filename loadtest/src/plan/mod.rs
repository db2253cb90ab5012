//! The workload as sessions: what each tenant sends, and when. Same workload and seed, same sessions.
//!
//! Takes a checked `Workload` and a `Vocabulary`; gives, for each tenant, the moments at which its sessions begin and,
//! for any number, that session. A session is a pure function of seed, tenant and number, so it does not matter in which
//! order sessions are sent.

use std::time::Duration;

/// One conversation of a tenant, before it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Its number among the tenant's sessions, from 0.
    pub number: u64,
    /// The system prompt, if the workload has one.
    pub system: Option<String>,
    /// Its tokens.
    pub system_tokens: u64,
    /// What the user says, turn by turn; at least one.
    pub turns: Vec<Turn>,
}

/// One request of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// What the user says.
    pub prompt: String,
    /// Tokens of `prompt`.
    pub prompt_tokens: u64,
    /// Output tokens allowed.
    pub output_tokens: u64,
    /// The pause between the answer before and this turn; zero for the first.
    pub pause: Duration,
    /// Whether the reply is streamed.
    pub streamed: bool,
    /// When its client leaves, if it does.
    pub leave: Option<Leave>,
    /// The pause before each read, if its client is slow.
    pub slow_reader: Option<Duration>,
}

/// When a client leaves: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leave {
    /// After the sending.
    pub after: Option<Duration>,
    /// After so many events with generated content.
    pub after_chunks: Option<u64>,
}
