//! Chat completions: deltas of several choices become messages.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::chunks::Whole;
use super::{Budget, FoldError, Logprobs, LogprobsContent, REPLACEMENT, choice};
use crate::ledger::Count;

#[derive(Deserialize)]
struct ChunkChoice<'a> {
    #[serde(default)]
    index: u32,
    finish_reason: Option<String>,
    #[serde(borrow, default)]
    delta: Delta<'a>,
    #[serde(borrow)]
    logprobs: Option<LogprobsContent<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
struct Delta<'a> {
    role: Option<IgnoredAny>,
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Vec<ToolDelta<'a>>,
}

#[derive(Deserialize)]
struct ToolDelta<'a> {
    index: usize,
    id: Option<String>,
    #[serde(borrow)]
    function: Option<FunctionDelta<'a>>,
}

#[derive(Deserialize)]
struct FunctionDelta<'a> {
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<Cow<'a, str>>,
}

/// Folds a chat stream.
pub(super) struct Chat {
    limit: u32,
    choices: Vec<Choice>,
    /// The choice whose last chunk was the newest one with a choice: the usage chunk behind it is its own.
    finished: Option<u32>,
    whole: Whole,
}

#[derive(Default)]
struct Choice {
    /// The first token was sent. It is not where it is a part of a character.
    opened: bool,
    content: String,
    reasoning: String,
    tools: Vec<ToolCall>,
    logprobs: Logprobs,
    finish_reason: Option<String>,
}

// What follows is the reply: the order of fields is llama-server's.

#[derive(Serialize)]
struct ReplyChoice {
    finish_reason: String,
    index: usize,
    message: Message,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<LogprobsContent<Box<RawValue>>>,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Default, Serialize)]
struct ToolCall {
    r#type: &'static str,
    function: Function,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
}

#[derive(Default, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

impl Chat {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, choices: Vec::new(), finished: None, whole: Whole::default() }
    }

    pub(super) fn take(&mut self, data: &[u8], budget: &mut Budget) -> Result<(), FoldError> {
        let Some(chunk) = self.whole.read::<ChunkChoice<'_>>(data, "a chat completion chunk")? else { return Ok(()) };
        for part in chunk.choices {
            self.finished = part.finish_reason.is_some().then_some(part.index);
            let opens = part.delta.role.is_some() && chunk.prompt_progress.is_none();
            let choice = choice(&mut self.choices, part.index, self.limit)?;
            choice.opened |= opens;
            choice.take(part, budget)?;
        }
        if self.finished == Some(0) && chunk.timings.is_some() {
            self.whole.timings = chunk.timings.map(RawValue::to_owned);
        }
        Ok(())
    }

    /// The reply; `whole`: llama-server has ended the stream itself.
    pub(super) fn finish(self, count: &Count, whole: bool) -> Result<Bytes, FoldError> {
        let choices = self.choices.into_iter().enumerate().map(|(index, choice)| choice.finish(index, whole));
        self.whole.reply("chat.completion", choices.collect::<Result<Vec<_>, _>>()?, count)
    }
}

impl Choice {
    fn take(&mut self, part: ChunkChoice<'_>, budget: &mut Budget) -> Result<(), FoldError> {
        budget.append(&mut self.content, part.delta.content.as_deref().unwrap_or_default())?;
        budget.append(&mut self.reasoning, part.delta.reasoning_content.as_deref().unwrap_or_default())?;
        for delta in part.delta.tool_calls {
            self.take_tool(delta, budget)?;
        }
        self.logprobs.append(part.logprobs, budget)?;
        if part.finish_reason.is_some() {
            self.finish_reason = part.finish_reason;
        }
        Ok(())
    }

    fn take_tool(&mut self, delta: ToolDelta<'_>, budget: &mut Budget) -> Result<(), FoldError> {
        if delta.index == self.tools.len() {
            budget.spend(size_of::<ToolCall>())?;
            self.tools.push(ToolCall { r#type: "function", ..ToolCall::default() });
        }
        let tool = self.tools.get_mut(delta.index).ok_or(FoldError::Unreadable("a tool call out of order"))?;
        // Id and name come whole: when the parser changes its mind it sends them again.
        if let Some(id) = delta.id {
            budget.spend(id.len())?;
            tool.id = id;
        }
        let Some(function) = delta.function else { return Ok(()) };
        if let Some(name) = function.name {
            budget.spend(name.len())?;
            tool.function.name = name;
        }
        budget.append(&mut tool.function.arguments, function.arguments.as_deref().unwrap_or_default())
    }

    fn finish(mut self, index: usize, whole: bool) -> Result<ReplyChoice, FoldError> {
        let finish_reason = self.finish_reason.ok_or(FoldError::Incomplete)?;
        let empty = self.content.is_empty() && self.reasoning.is_empty() && self.tools.is_empty();
        if empty && whole && !self.opened && finish_reason == "length" {
            // The output ended within its first character. Behind other text llama-server drops such a half.
            self.content.push(REPLACEMENT);
        }
        Ok(ReplyChoice {
            finish_reason,
            index,
            message: Message {
                role: "assistant",
                content: self.content,
                reasoning_content: self.reasoning,
                tool_calls: self.tools,
            },
            logprobs: self.logprobs.finish(),
        })
    }
}
