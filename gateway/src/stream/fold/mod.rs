//! The reply for a client who did not ask for a stream: folded from llama-server's stream.
//!
//! Takes the bytes of the stream and gives the reply that llama-server would have sent for the same request without
//! `stream`: the same fields in the same order, numbers as they were printed. No I/O, bounded memory. Only `usage`
//! is counted better where several sequences were decoded: llama-server names those of the first one.
//!
//! A stream says less than the reply where the request (passed on unfolded for this reason) has
//! * chat: `logprobs` or `n_probs`: tokens that show no text (the end of the output, thoughts' marks) have no event;
//! * completions: `logprobs` or `n_probs` with `stop`: the reply leaves out the tokens of the stop string;
//! * chat and completions: `verbose` (`__verbose` repeats the whole reply); everywhere: `n_indent` (it takes back text).
//!
//! And in two cases that only the output decides; the fold then lacks that text:
//! * with `stop`, the token limit is reached while the output may be the beginning of a stop string: held back, the
//!   text is in the reply and in no event;
//! * the token limit is reached when nothing but markup was generated (`<think>`, the head of a tool call): the reply
//!   shows the raw markup as content, the stream does not.

mod chat;
mod chunks;
mod completions;
mod messages;
mod responses;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::ledger::Count;
use crate::surface::{Ask, Surface};

use super::cut::CUT_REASON;
use super::sse::{Event, Piece, Splitter};

/// What half a character at the end of the output looks like in a reply. A stream leaves the half out.
const REPLACEMENT: char = '\u{FFFD}';

/// Why there is no folded reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The stream holds more than may be kept.
    #[error("the reply is larger than allowed")]
    TooLarge,
    /// The stream ended before the reply did.
    #[error("the stream ended before the reply was whole")]
    Incomplete,
    /// An event is not what llama-server sends on this surface. Names the kind of event; never its text, which is
    /// the reply.
    #[error("cannot read {0}")]
    Unreadable(&'static str),
    /// llama-server reported an error inside the stream: its error object as JSON text.
    #[error("llama-server reported an error inside the stream")]
    Upstream(String),
}

/// Folds one stream into one reply.
pub struct Fold {
    splitter: Splitter,
    state: State,
    cut: bool,
}

struct State {
    shape: Shape,
    budget: Budget,
}

enum Shape {
    Chat(chat::Chat),
    Completions(completions::Completions),
    Responses(responses::Responses),
    Messages(messages::Messages),
    /// A surface that has no streams.
    Unstreamed,
}

impl Fold {
    /// A fold at the start of the stream for this request. More than about `max_bytes` are never kept.
    pub fn new(ask: &Ask, max_bytes: usize) -> Self {
        let shape = match ask.surface {
            Surface::Chat => Shape::Chat(chat::Chat::new(ask.sequences())),
            Surface::Completions => Shape::Completions(completions::Completions::new(ask.sequences())),
            Surface::Responses => Shape::Responses(responses::Responses::default()),
            Surface::Messages => Shape::Messages(messages::Messages::new(ask.model.as_deref())),
            _ => Shape::Unstreamed,
        };
        Self { splitter: Splitter::new(max_bytes), state: State { shape, budget: Budget(max_bytes) }, cut: false }
    }

    /// The id and the model for a reply whose stream names none: that of a `/v1/messages` request loses its first
    /// event where the output begins with a character of several tokens.
    pub fn unnamed(mut self, id: &str, model: &str) -> Self {
        if let Shape::Messages(messages) = &mut self.state.shape {
            messages.unnamed(id, model);
        }
        self
    }

    /// Takes the next bytes of the stream, split anywhere. After an error there is no reply.
    ///
    /// # Errors
    /// Where the stream reports an error, cannot be read, or is too large.
    pub fn push(&mut self, input: &[u8]) -> Result<(), FoldError> {
        let Self { splitter, state, .. } = self;
        let mut result = Ok(());
        splitter.push(input, |piece| {
            if result.is_ok() {
                result = match piece {
                    Piece::Event(event) => state.take(&event),
                    Piece::Oversized(_) => Err(FoldError::TooLarge),
                };
            }
        });
        result
    }

    /// Ends the stream with these events, which the gateway made because a quota is used up; half an event before
    /// them is forgotten.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn cut(&mut self, ending: &[u8]) -> Result<(), FoldError> {
        self.splitter.discard();
        self.cut = true;
        self.push(ending)
    }

    /// The whole reply. `count` becomes its `usage`.
    ///
    /// # Errors
    /// [`FoldError::Incomplete`] where the stream had not come to its own end.
    pub fn finish(self, count: &Count) -> Result<Bytes, FoldError> {
        let reply = match self.state.shape {
            Shape::Chat(chat) => chat.finish(count, !self.cut),
            Shape::Completions(completions) => completions.finish(count),
            Shape::Responses(responses) => responses.finish(count),
            Shape::Messages(messages) => messages.finish(count, !self.cut),
            Shape::Unstreamed => Err(FoldError::Incomplete),
        }?;
        match reply.strip_suffix(b"}") {
            Some(members) if self.cut => Ok([members, CUT_REASON.as_bytes(), b"}"].concat().into()),
            _ => Ok(reply),
        }
    }
}

impl State {
    fn take(&mut self, event: &Event<'_>) -> Result<(), FoldError> {
        let Some(data) = event.data.as_deref() else { return Ok(()) };
        if event.name == Some(b"error") {
            return Err(FoldError::Upstream(String::from_utf8_lossy(data).into_owned()));
        }
        // Where a request holds several prompts, the starts of all but the first are sent as `null`.
        if data == b"null" {
            return Ok(());
        }
        match &mut self.shape {
            Shape::Chat(chat) => chat.take(data, &mut self.budget),
            Shape::Completions(completions) => completions.take(data, &mut self.budget),
            Shape::Responses(responses) => responses.take(data, &mut self.budget),
            Shape::Messages(messages) => messages.take(data, &mut self.budget),
            Shape::Unstreamed => Err(FoldError::Unreadable("a stream on a surface that has none")),
        }
    }
}

/// How many bytes may still be kept.
struct Budget(usize);

impl Budget {
    fn spend(&mut self, bytes: usize) -> Result<(), FoldError> {
        self.0 = self.0.checked_sub(bytes).ok_or(FoldError::TooLarge)?;
        Ok(())
    }

    /// Adds `piece` to a text that is kept.
    fn append(&mut self, text: &mut String, piece: &str) -> Result<(), FoldError> {
        self.spend(piece.len())?;
        text.push_str(piece);
        Ok(())
    }
}

/// `usage` as chat and completions print it.
#[derive(Serialize)]
struct Usage {
    completion_tokens: u64,
    prompt_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: TokenDetails,
}

/// The part of the prompt that came from the cache.
#[derive(Serialize)]
struct TokenDetails {
    cached_tokens: u64,
}

impl From<&Count> for Usage {
    fn from(count: &Count) -> Self {
        Self {
            completion_tokens: count.completion,
            prompt_tokens: count.prompt,
            total_tokens: count.prompt.saturating_add(count.completion),
            prompt_tokens_details: TokenDetails { cached_tokens: count.cached },
        }
    }
}

/// `logprobs` of one choice: the entries of all chunks, as they were printed.
#[derive(Default)]
struct Logprobs(Vec<Box<RawValue>>);

/// `logprobs` as chunks and replies print it.
#[derive(serde::Deserialize, Serialize)]
struct LogprobsContent<T> {
    content: Vec<T>,
}

impl Logprobs {
    fn append(&mut self, chunk: Option<LogprobsContent<&RawValue>>, budget: &mut Budget) -> Result<(), FoldError> {
        for entry in chunk.into_iter().flat_map(|chunk| chunk.content) {
            budget.spend(entry.get().len())?;
            self.0.push(entry.to_owned());
        }
        Ok(())
    }

    /// `None` where the client asked for none.
    fn finish(self) -> Option<LogprobsContent<Box<RawValue>>> {
        (!self.0.is_empty()).then_some(LogprobsContent { content: self.0 })
    }
}

/// Finds the choice with this index, or opens it. Choices are few; they stay in the order of their index.
fn choice<T: Default>(choices: &mut Vec<T>, index: u32, limit: u32) -> Result<&mut T, FoldError> {
    if index >= limit {
        return Err(FoldError::Unreadable("a choice that was not asked for"));
    }
    let index = index as usize;
    if choices.len() <= index {
        choices.resize_with(index + 1, T::default);
    }
    choices.get_mut(index).ok_or(FoldError::Incomplete)
}

fn to_bytes(reply: &impl Serialize) -> Result<Bytes, FoldError> {
    // Cannot fail: all keys are strings and nothing in a reply refuses to be written.
    serde_json::to_vec(reply).map(Bytes::from).map_err(|_| FoldError::Unreadable("the folded reply"))
}
