//! The workload as sessions: what each tenant sends, and when. Same workload and seed, same sessions.
//!
//! Takes a checked `Workload` and a `Vocabulary`; gives, for each tenant, the moments at which its sessions begin and,
//! for any number, that session. A session is a pure function of seed, tenant and number, so it does not matter in which
//! order sessions are sent.

mod arrivals;
mod draw;
mod seeds;
mod session;
#[cfg(test)]
mod tests;
mod text;
mod trace;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use arrivals::Arrivals;
pub use session::TenantPlan;
pub use text::Vocabulary;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The workload has no such tenant.
    #[error("there is no tenant `{0}`\nhint: the workload's file names them as [tenants.NAME]")]
    NoTenant(String),
    /// A file of lengths or a trace cannot be read.
    #[error("{file}: {error}\nhint: a relative path begins where the workload file is")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: String,
    },
    /// A line in it makes no sense.
    #[error("{file}:{line}: {what}\nhint: docs/workloads.md shows what such a file holds")]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Parameters of a distribution that no checked workload has.
    #[error("a distribution cannot be drawn from: {0}\nhint: check the workload before it is planned")]
    Distribution(String),
}

impl PlanError {
    fn unreadable(file: &Path, error: &dyn std::fmt::Display) -> Self {
        Self::Unreadable { file: file.to_owned(), error: error.to_string() }
    }

    fn line(file: &Path, line: usize, what: String) -> Self {
        Self::Line { file: file.to_owned(), line, what }
    }
}

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
