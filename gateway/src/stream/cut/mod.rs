//! The end of a stream that the gateway ends itself, because a quota is used up.
//!
//! Remembers of llama-server's events what those repeat that close a stream, and writes these: in llama-server's own
//! form, so that meter and fold take them like any others, with finish reason "length" and a member `cut_reason`
//! that tells the true one. Only streams that may be cut are watched: the others pay nothing for it.

mod chunks;
mod messages;
mod responses;
#[cfg(test)]
mod tests;

use super::tally::Tally;
use crate::surface::Surface;

/// The last member of the reply, or of the event that ends a stream, where a quota has ended it. Official clients keep
/// members that they do not know.
pub(super) const CUT_REASON: &str = r#","cut_reason":"insufficient_quota""#;

/// Names for what the stream itself did not name.
#[derive(Clone, Debug)]
pub struct Names<'a> {
    /// The `x-request-id` of the answer.
    pub request_id: &'a str,
    /// The model that answers.
    pub model: &'a str,
    /// Seconds since 1970.
    pub created: i64,
}

/// What a stream has shown so far.
#[derive(Debug)]
pub(super) enum Shown {
    Chunks(chunks::Chunks),
    Messages(messages::Messages),
    Responses(responses::Responses),
}

impl Shown {
    /// Nothing yet. `None`: the surface has no streams.
    pub(super) fn new(surface: Surface) -> Option<Self> {
        Some(match surface {
            Surface::Chat => Self::Chunks(chunks::Chunks::new(true)),
            Surface::Completions => Self::Chunks(chunks::Chunks::new(false)),
            Surface::Messages => Self::Messages(messages::Messages::default()),
            Surface::Responses => Self::Responses(responses::Responses::default()),
            _ => return None,
        })
    }

    /// An event of llama-server.
    pub(super) fn event(&mut self, name: Option<&[u8]>, data: &[u8]) {
        match self {
            Self::Chunks(chunks) => chunks.event(data),
            Self::Messages(messages) => messages.event(name, data),
            Self::Responses(responses) => responses.event(name, data),
        }
    }

    /// The events that end the stream now; `timings` is the last member of that name, with the comma before it, or
    /// empty. `None`: nothing was shown yet, or more than is kept.
    pub(super) fn ending(&self, tally: &Tally, timings: &str, names: &Names<'_>) -> Option<String> {
        match self {
            Self::Chunks(chunks) => chunks.ending(tally, timings),
            Self::Messages(messages) => messages.ending(tally),
            Self::Responses(responses) => responses.ending(tally, timings, names),
        }
    }
}
