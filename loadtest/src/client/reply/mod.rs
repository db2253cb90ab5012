//! What a reply of each API means: generated content, tokens, errors, its end.
//!
//! Takes the events of a stream, or a body in one piece; gives what each brings (`Seen`) and keeps what the server said
//! of its tokens. `wire` has the shapes, `lie` looks whether the server's numbers can be true.

mod lie;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

use serde::Deserialize;

use crate::client::events::Event;
use crate::record::{Refusal, Usage};
use crate::workload::Surface;
pub use lie::Known;
use wire::{Claim, Timings};

/// The longest code of an error that is kept.
const MAX_CODE: usize = 64;

/// What an event brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing that was generated: a role, usage, progress, an empty delta.
    Nothing,
    /// Generated content, all of it reasoning.
    Reasoning,
    /// Generated content that is no reasoning: text, or a tool call.
    Output,
    /// An error; nothing comes after it.
    Failed(Refusal),
    /// The end that the API announces.
    End,
}

/// What one reply has told so far.
#[derive(Debug)]
pub struct Reading {
    surface: Surface,
    /// The answer, if it is wanted for a further turn: text and arguments of tool calls, without reasoning.
    text: Option<String>,
    claim: Claim,
    /// The last timings (llama-server's own measure), and whether they came beside the last usage.
    timings: Option<Timings>,
    beside: bool,
    /// What was told of the tokens is only what a stream of messages tells at its beginning: none are generated yet.
    is_begun: bool,
    /// All content was plain text, of which one token makes at most one event.
    plain: bool,
}

impl Reading {
    /// A reply of which nothing has come; its answer is kept if `keep_text`.
    pub fn new(surface: Surface, keep_text: bool) -> Self {
        let text = keep_text.then(String::new);
        Self { surface, text, claim: Claim::default(), timings: None, beside: false, is_begun: false, plain: true }
    }

    /// Reads an event of a stream.
    ///
    /// # Errors
    /// When it is nothing that the API has.
    pub fn event(&mut self, event: &Event<'_>) -> Result<Seen, serde_json::Error> {
        match self.surface {
            Surface::Responses => self.responses_event(&event.data),
            Surface::Messages => self.messages_event(event),
            _ if *event.data == *b"[DONE]" => Ok(Seen::End),
            _ => self.openai(&event.data),
        }
    }

    /// Reads a reply in one piece.
    ///
    /// # Errors
    /// When it is nothing that the API has.
    pub fn whole(&mut self, body: &[u8]) -> Result<Seen, serde_json::Error> {
        match self.surface {
            Surface::Chat | Surface::Completions => self.openai(body),
            Surface::Responses | Surface::Messages => self.blocks(body),
            Surface::Embeddings | Surface::Rerank => {
                let reply: wire::Vectors<'_> = serde_json::from_slice(body)?;
                self.claim.take(reply.usage.as_ref());
                self.plain = false;
                let seen = if reply.data.is_some() { Seen::Output } else { Seen::Nothing };
                Ok(reply.error.map_or(seen, |error| Seen::Failed(error.refusal())))
            }
        }
    }

    /// What the server said of its tokens.
    pub fn usage(&self) -> Option<Usage> {
        self.claim.usage().filter(|_| !self.is_begun)
    }

    /// How long llama-server computed the prompt and how long it generated, if it told.
    pub fn durations(&self) -> (Option<Duration>, Option<Duration>) {
        let duration = |milliseconds: Option<f64>| Duration::try_from_secs_f64(milliseconds? / 1e3).ok();
        self.timings.map_or((None, None), |timings| (duration(timings.prompt_ms), duration(timings.predicted_ms)))
    }

    /// Tokens that are known to have been generated, if `chunks` events had content.
    pub fn tokens_seen(&self, chunks: u64) -> u64 {
        let told = self.timings.map_or(0, |timings| timings.predicted_n);
        self.usage().map_or(chunks.max(told), |usage| usage.completion)
    }

    /// The answer, if it was to be kept.
    pub fn into_text(self) -> Option<String> {
        self.text
    }

    fn keep(&mut self, text: &str) {
        if let Some(kept) = &mut self.text {
            kept.push_str(text);
        }
    }

    fn told(&mut self, usage: Option<&wire::Numbers>, timings: Option<Timings>) {
        self.claim.take(usage);
        self.timings = timings.map(Timings::bounded).or(self.timings);
        if usage.is_some() {
            self.beside = timings.is_some();
        }
    }

    /// Chat and completions, which have the same shape in a stream and in one piece.
    fn openai(&mut self, data: &[u8]) -> Result<Seen, serde_json::Error> {
        let event: wire::OpenAi<'_> = serde_json::from_slice(data)?;
        if let Some(error) = event.error {
            return Ok(Seen::Failed(error.refusal()));
        }
        self.told(event.usage.as_ref(), event.timings);
        let mut seen = Seen::Nothing;
        for choice in &event.choices {
            let delta = choice.delta.as_ref();
            let text = choice.text.as_ref().or_else(|| delta?.content.as_ref()).map_or("", |text| &text.0);
            if !text.is_empty() {
                self.keep(text);
                seen = Seen::Output;
            }
            for call in delta.and_then(|delta| delta.tool_calls.as_ref()).into_iter().flatten() {
                let Some(function) = &call.function else { continue };
                let arguments = function.arguments.as_ref().map_or("", |text| &text.0);
                if !arguments.is_empty() || function.name.as_ref().is_some_and(|name| !name.0.is_empty()) {
                    self.keep(arguments);
                    (self.plain, seen) = (false, Seen::Output);
                }
            }
            let thought = delta.and_then(|delta| delta.reasoning_content.as_ref().or(delta.reasoning.as_ref()));
            if thought.is_some_and(|text| !text.0.is_empty()) {
                self.plain = false;
                if seen == Seen::Nothing {
                    seen = Seen::Reasoning;
                }
            }
        }
        Ok(seen)
    }

    fn responses_event(&mut self, data: &[u8]) -> Result<Seen, serde_json::Error> {
        let event: wire::ResponsesEvent<'_> = serde_json::from_slice(data)?;
        if let Some(error) = event.error {
            return Ok(Seen::Failed(error.refusal()));
        }
        let response = event.response.as_ref();
        self.told(response.and_then(|response| response.usage.as_ref()), event.timings);
        let has_text = event.delta.as_ref().is_some_and(|text| !text.0.is_empty());
        match &*event.kind.0 {
            "response.completed" | "response.incomplete" => Ok(Seen::End),
            "response.failed" => {
                Ok(Seen::Failed(event.response.and_then(|response| response.error).unwrap_or_default().refusal()))
            }
            "error" => Ok(Seen::Failed(wire::ErrorBody { code: event.code, ..Default::default() }.refusal())),
            "response.output_text.delta" | "response.refusal.delta" if has_text => {
                self.keep(event.delta.as_ref().map_or("", |text| &text.0));
                Ok(Seen::Output)
            }
            "response.function_call_arguments.delta" if has_text => {
                self.plain = false;
                self.keep(event.delta.as_ref().map_or("", |text| &text.0));
                Ok(Seen::Output)
            }
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" if has_text => {
                self.plain = false;
                Ok(Seen::Reasoning)
            }
            _ => Ok(Seen::Nothing),
        }
    }

    fn messages_event(&mut self, event: &Event<'_>) -> Result<Seen, serde_json::Error> {
        if event.name == b"error" {
            return Ok(Seen::Failed(error_event(&event.data)?));
        }
        let event: wire::MessagesEvent<'_> = serde_json::from_slice(&event.data)?;
        if let Some(error) = event.error {
            return Ok(Seen::Failed(error.refusal()));
        }
        let at_begin = event.message.as_ref().and_then(|message| message.usage.as_ref());
        self.is_begun = (self.is_begun || at_begin.is_some()) && event.usage.is_none();
        self.told(at_begin.or(event.usage.as_ref()), None);
        if *event.kind.0 == *"message_stop" {
            return Ok(Seen::End);
        }
        Ok(event.delta.map_or(Seen::Nothing, |block| self.block(&block)))
    }

    /// Responses and messages in one piece.
    fn blocks(&mut self, body: &[u8]) -> Result<Seen, serde_json::Error> {
        let reply: wire::Blocks<'_> = serde_json::from_slice(body)?;
        if let Some(error) = reply.error {
            return Ok(Seen::Failed(error.refusal()));
        }
        self.told(reply.usage.as_ref(), None);
        let mut seen = Seen::Nothing;
        for item in &reply.blocks {
            let inner = item.content.iter().flatten().map(|block| self.block(block));
            let inner: Vec<Seen> = inner.collect();
            for one in inner.into_iter().chain([self.block(item)]) {
                if one == Seen::Output || seen == Seen::Nothing {
                    seen = one;
                }
            }
        }
        Ok(seen)
    }

    /// A block of content, or a piece of one.
    fn block(&mut self, block: &wire::Block<'_>) -> Seen {
        let length = |text: &Option<wire::Text<'_>>| text.as_ref().map_or(0, |text| text.0.len());
        if length(&block.thinking) > 0 || (&*block.kind.0 == "reasoning_text" && length(&block.text) > 0) {
            self.plain = false;
            return Seen::Reasoning;
        }
        let call = block.partial_json.as_ref().or(block.arguments.as_ref());
        self.plain = self.plain && call.is_none();
        let text = block.text.as_ref().or(call).map_or("", |text| &text.0);
        self.keep(text);
        // A call in one piece has its arguments as an object, which always says something.
        if text.is_empty() && &*block.kind.0 != "tool_use" { Seen::Nothing } else { Seen::Output }
    }
}

/// The error of an error status, an error event or a reply that is an error: OpenAI's, Anthropic's, llama-server's.
fn error_event(body: &[u8]) -> Result<Refusal, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<'a> {
        Wrapped {
            #[serde(borrow)]
            error: wire::ErrorBody<'a>,
        },
        Bare(#[serde(borrow)] wire::ErrorBody<'a>),
    }
    serde_json::from_slice(body).map(|either: Either<'_>| match either {
        Either::Wrapped { error } | Either::Bare(error) => error.refusal(),
    })
}

/// What a reply with an error status says; the code is empty if its body says nothing.
pub fn refusal(status: u16, body: &[u8]) -> Refusal {
    let code = error_event(body).map(|refusal| refusal.code).unwrap_or_default();
    Refusal { status, code }
}
