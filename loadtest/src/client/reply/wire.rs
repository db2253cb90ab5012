//! The shapes of replies, as far as they are read. Texts are borrowed where nothing in them is escaped.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::MAX_CODE;
use crate::record::{Refusal, Usage};

/// More tokens are never told of one request in earnest. Sums of what is below fit, a million requests long.
const MOST_TOLD: u64 = 1 << 40;

/// A text. (serde borrows a `Cow` only if it is not within an `Option`, so it has a type of its own.)
#[derive(Debug, Default, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// Chat and completions: an event, or a reply in one piece.
#[derive(Deserialize)]
pub(super) struct OpenAi<'a> {
    #[serde(borrow, default)]
    pub(super) choices: Vec<Choice<'a>>,
    pub(super) usage: Option<Numbers>,
    pub(super) timings: Option<Timings>,
    #[serde(borrow)]
    pub(super) error: Option<ErrorBody<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow, alias = "message")]
    pub(super) delta: Option<Delta<'a>>,
    #[serde(borrow)]
    pub(super) text: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub(super) content: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) reasoning_content: Option<Text<'a>>,
    /// Another name of it: vLLM's.
    #[serde(borrow)]
    pub(super) reasoning: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) tool_calls: Option<Vec<ToolCall<'a>>>,
}

#[derive(Deserialize)]
pub(super) struct ToolCall<'a> {
    #[serde(borrow)]
    pub(super) function: Option<Function<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Function<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) arguments: Option<Text<'a>>,
}

/// An event of a Responses stream.
#[derive(Deserialize)]
pub(super) struct ResponsesEvent<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) delta: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) response: Option<Response<'a>>,
    pub(super) timings: Option<Timings>,
    #[serde(borrow)]
    pub(super) error: Option<ErrorBody<'a>>,
    /// Of an error event.
    pub(super) code: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct Response<'a> {
    pub(super) usage: Option<Numbers>,
    #[serde(borrow)]
    pub(super) error: Option<ErrorBody<'a>>,
}

/// An event of a Messages stream.
#[derive(Deserialize)]
pub(super) struct MessagesEvent<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Text<'a>,
    pub(super) message: Option<Message>,
    #[serde(borrow)]
    pub(super) delta: Option<Block<'a>>,
    pub(super) usage: Option<Numbers>,
    #[serde(borrow)]
    pub(super) error: Option<ErrorBody<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Message {
    pub(super) usage: Option<Numbers>,
}

/// A reply in one piece of Responses (`output`) or Messages (`content`).
#[derive(Deserialize)]
pub(super) struct Blocks<'a> {
    #[serde(borrow, default, alias = "output", rename = "content")]
    pub(super) blocks: Vec<Block<'a>>,
    pub(super) usage: Option<Numbers>,
    #[serde(borrow)]
    pub(super) error: Option<ErrorBody<'a>>,
}

/// A block of content, one within it, or a piece of one.
#[derive(Deserialize)]
pub(super) struct Block<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) text: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) thinking: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) partial_json: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) arguments: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) content: Option<Vec<Block<'a>>>,
}

/// Embeddings and rerank.
#[derive(Deserialize)]
pub(super) struct Vectors<'a> {
    #[serde(alias = "results")]
    pub(super) data: Option<IgnoredAny>,
    pub(super) usage: Option<Numbers>,
    #[serde(borrow)]
    pub(super) error: Option<ErrorBody<'a>>,
}

/// `error` of a reply, or of an event.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ErrorBody<'a> {
    /// A text; llama-server's is the status as a number.
    pub(super) code: Option<Value>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
}

impl ErrorBody<'_> {
    pub(super) fn refusal(&self) -> Refusal {
        let status = self.code.as_ref().and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        let code = self.code.as_ref().and_then(Value::as_str).or(self.kind.as_ref().map(|kind| &*kind.0));
        // Codes come into the terminal and into files.
        let code =
            code.unwrap_or_default().chars().filter(|character| !character.is_control()).take(MAX_CODE).collect();
        Refusal { status: status.unwrap_or_default(), code }
    }
}

/// `usage`, by the names of all APIs.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Numbers {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    input_tokens_details: Option<Details>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

/// llama-server's own measure of a request.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Timings {
    #[serde(default)]
    pub(super) cache_n: u64,
    #[serde(default)]
    pub(super) prompt_n: u64,
    #[serde(default)]
    pub(super) predicted_n: u64,
    /// Milliseconds in which the prompt was computed.
    pub(super) prompt_ms: Option<f64>,
    /// Milliseconds in which the output was generated.
    pub(super) predicted_ms: Option<f64>,
}

impl Timings {
    /// With numbers that can be added.
    pub(super) fn bounded(self) -> Self {
        let [cache_n, prompt_n, predicted_n] =
            [self.cache_n, self.prompt_n, self.predicted_n].map(|number| number.min(MOST_TOLD));
        Self { cache_n, prompt_n, predicted_n, ..self }
    }
}

/// What has been claimed, put together from one or several `usage` objects.
#[derive(Debug, Default)]
pub(super) struct Claim {
    pub(super) prompt: Option<u64>,
    cached: u64,
    pub(super) completion: Option<u64>,
    pub(super) total: Option<u64>,
}

impl Claim {
    /// Takes a further `usage`; what it does not tell stays as it was.
    pub(super) fn take(&mut self, numbers: Option<&Numbers>) {
        let Some(numbers) = numbers else { return };
        let bounded = |number: Option<u64>| number.map(|number| number.min(MOST_TOLD));
        let cached = |details: &Option<Details>| bounded(details.as_ref().and_then(|details| details.cached_tokens));
        let (read, written) = (bounded(numbers.cache_read_input_tokens), bounded(numbers.cache_creation_input_tokens));
        // Anthropic's input_tokens are without the cached ones.
        let beside = read.unwrap_or(0) + written.unwrap_or(0);
        let prompt = bounded(numbers.prompt_tokens).or(bounded(numbers.input_tokens).map(|tokens| tokens + beside));
        self.prompt = prompt.or(self.prompt);
        self.cached = cached(&numbers.prompt_tokens_details)
            .or(cached(&numbers.input_tokens_details))
            .or(read)
            .unwrap_or(self.cached);
        self.completion = bounded(numbers.completion_tokens.or(numbers.output_tokens)).or(self.completion);
        self.total = bounded(numbers.total_tokens).or(self.total);
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        let prompt = self.prompt?;
        Some(Usage { prompt, cached: self.cached, completion: self.completion.unwrap_or(0) })
    }
}
