//! Reads the few events that are worth a JSON parser: those with usage, and errors.

use bytes::BytesMut;
use memchr::memmem;
use serde::Deserialize;

use crate::ledger::Count;

/// Bytes of llama-server's error message that are kept.
const MAX_MESSAGE_BYTES: usize = 512;

/// Tokens of one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Prompt tokens, cached ones included.
    pub(super) prompt: u64,
    /// Those that were taken from the cache.
    pub(super) cached: u64,
    /// Generated tokens.
    pub(super) completion: u64,
}

/// Usage as a chunk carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkUsage {
    /// The sequence it belongs to; `None` in a chunk with usage alone.
    pub(super) index: Option<usize>,
    pub(super) usage: Usage,
}

#[derive(Default, Deserialize)]
struct Cached {
    #[serde(default)]
    cached_tokens: u64,
}

/// The usage in a chunk of a chat or text completion.
pub(super) fn of_chunk(data: &[u8]) -> Option<ChunkUsage> {
    #[derive(Deserialize)]
    struct Chunk {
        choices: Vec<Choice>,
        usage: Reported,
    }
    #[derive(Deserialize)]
    struct Choice {
        index: usize,
    }
    #[derive(Deserialize)]
    struct Reported {
        prompt_tokens: u64,
        completion_tokens: u64,
        #[serde(default)]
        prompt_tokens_details: Option<Cached>,
    }
    let Chunk { choices, usage } = serde_json::from_slice(data).ok()?;
    Some(ChunkUsage {
        index: choices.first().map(|choice| choice.index),
        usage: Usage {
            prompt: usage.prompt_tokens,
            cached: usage.prompt_tokens_details.unwrap_or_default().cached_tokens,
            completion: usage.completion_tokens,
        },
    })
}

/// Why the output of a sequence ended, if the event says so in a known word: what else stands there is not told to
/// anybody.
pub(super) fn finish_reason(data: &[u8]) -> Option<&'static str> {
    const KNOWN: [&str; 8] =
        ["stop", "length", "tool_calls", "content_filter", "end_turn", "max_tokens", "stop_sequence", "tool_use"];
    let after = |key: &[u8]| data.get(memmem::find(data, key)? + key.len()..);
    let value = after(b"\"finish_reason\":\"").or_else(|| after(b"\"stop_reason\":\""))?;
    let value = value.get(..memmem::find(value, b"\"")?)?;
    KNOWN.into_iter().find(|known| known.as_bytes() == value)
}

/// The usage in `response.completed`.
pub(super) fn of_response(data: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Envelope {
        response: Response,
    }
    #[derive(Deserialize)]
    struct Response {
        usage: Reported,
    }
    #[derive(Deserialize)]
    struct Reported {
        input_tokens: u64,
        output_tokens: u64,
        #[serde(default)]
        input_tokens_details: Option<Cached>,
    }
    let usage = serde_json::from_slice::<Envelope>(data).ok()?.response.usage;
    Some(Usage {
        prompt: usage.input_tokens,
        cached: usage.input_tokens_details.unwrap_or_default().cached_tokens,
        completion: usage.output_tokens,
    })
}

/// The prompt in `message_start`. There `input_tokens` are those that were not cached.
pub(super) fn of_message_start(data: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Envelope {
        message: Message,
    }
    #[derive(Deserialize)]
    struct Message {
        usage: Reported,
    }
    #[derive(Deserialize)]
    struct Reported {
        input_tokens: u64,
        #[serde(default)]
        cache_read_input_tokens: u64,
    }
    let usage = serde_json::from_slice::<Envelope>(data).ok()?.message.usage;
    Some(Usage {
        prompt: usage.input_tokens.saturating_add(usage.cache_read_input_tokens),
        cached: usage.cache_read_input_tokens,
        completion: 0,
    })
}

/// The output tokens in `message_delta`.
pub(super) fn of_message_delta(data: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Delta {
        usage: Reported,
    }
    #[derive(Deserialize)]
    struct Reported {
        output_tokens: u64,
    }
    serde_json::from_slice::<Delta>(data).ok().map(|delta| delta.usage.output_tokens)
}

/// The message of an error event, cut to a bounded length; `None` if the event is no error.
pub(super) fn of_failure(name: Option<&[u8]>, data: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Failure {
        error: Option<Inner>,
        message: Option<String>,
    }
    #[derive(Deserialize)]
    struct Inner {
        message: String,
    }
    let named = name == Some(b"error");
    if !named && !data.starts_with(b"{\"error\":{") {
        return None;
    }
    let message = serde_json::from_slice::<Failure>(data)
        .ok()
        .and_then(|failure| failure.error.map(|inner| inner.message).or(failure.message));
    match message {
        Some(mut message) => {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
            Some(message)
        }
        None => named.then(|| "an error event without a message".to_owned()),
    }
}

/// `usage` as chat and text completions have it.
pub(super) fn written(usage: Usage) -> String {
    let Usage { prompt, cached, completion } = usage;
    let total = prompt.saturating_add(completion);
    format!(
        "{{\"completion_tokens\":{completion},\"prompt_tokens\":{prompt},\"total_tokens\":{total},\
         \"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}}}"
    )
}

/// Appends the event of a usage chunk with the numbers of the whole request instead of its own.
///
/// `chunk` is the object without timings, so that usage is its last member.
pub(super) fn write_merged(chunk: &[u8], count: &Count, out: &mut BytesMut) {
    const KEY: &[u8] = b"\"usage\":";
    let head = memmem::rfind(chunk, KEY).and_then(|at| chunk.get(..at + KEY.len())).unwrap_or_default();
    let Count { prompt, cached, completion, .. } = *count;
    let usage = written(Usage { prompt, cached, completion });
    for part in [&b"data: "[..], head, usage.as_bytes(), b"}\n\n"] {
        out.extend_from_slice(part);
    }
}
