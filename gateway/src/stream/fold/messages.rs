//! Anthropic messages: content blocks in pieces become content blocks.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Budget, FoldError, REPLACEMENT, to_bytes};
use crate::ledger::Count;

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockStart {
        index: u32,
        content_block: BlockStart,
    },
    ContentBlockDelta {
        index: u32,
        delta: Delta,
    },
    MessageDelta {
        delta: End,
    },
    MessageStop,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Start {
    id: String,
    model: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum BlockStart {
    ToolUse {
        id: String,
        name: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: String },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: String },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct End {
    stop_reason: String,
    stop_sequence: Option<String>,
}

/// Folds an Anthropic messages stream.
pub(super) struct Messages {
    id: String,
    model: String,
    /// `message_start` was sent. It is not where the first token is a part of a character.
    opened: bool,
    thinking: String,
    text: String,
    tools: Vec<Tool>,
    /// Which tool call a content block is.
    blocks: BTreeMap<u32, usize>,
    end: Option<End>,
    stopped: bool,
}

struct Tool {
    id: String,
    name: String,
    arguments: String,
}

// What follows is the reply: the order of fields is llama-server's.

#[derive(Serialize)]
struct Reply {
    id: String,
    r#type: &'static str,
    role: &'static str,
    content: Vec<Block>,
    model: String,
    stop_reason: String,
    stop_sequence: Option<String>,
    usage: Usage,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Thinking { thinking: String, signature: &'static str },
    Text { text: String },
    ToolUse { id: String, name: String, input: Box<RawValue> },
}

#[derive(Serialize)]
struct Usage {
    cache_read_input_tokens: u64,
    input_tokens: u64,
    output_tokens: u64,
}

impl Messages {
    pub(super) fn new(model: Option<&str>) -> Self {
        Self {
            id: String::new(),
            model: model.unwrap_or_default().to_owned(),
            opened: false,
            thinking: String::new(),
            text: String::new(),
            tools: Vec::new(),
            blocks: BTreeMap::new(),
            end: None,
            stopped: false,
        }
    }

    pub(super) fn unnamed(&mut self, id: &str, model: &str) {
        id.clone_into(&mut self.id);
        model.clone_into(&mut self.model);
    }

    pub(super) fn take(&mut self, data: &[u8], budget: &mut Budget) -> Result<(), FoldError> {
        let event = serde_json::from_slice(data).map_err(|_| FoldError::Unreadable("a message event"))?;
        match event {
            Event::MessageStart { message } => {
                (self.id, self.model, self.opened) = (message.id, message.model, true);
            }
            Event::ContentBlockStart { index, content_block: BlockStart::ToolUse { id, name } } => {
                budget.spend(size_of::<Tool>() + id.len() + name.len())?;
                self.blocks.insert(index, self.tools.len());
                self.tools.push(Tool { id, name, arguments: String::new() });
            }
            Event::ContentBlockDelta { index, delta } => self.take_delta(index, &delta, budget)?,
            Event::MessageDelta { delta } => self.end = Some(delta),
            Event::MessageStop => self.stopped = true,
            Event::ContentBlockStart { .. } | Event::Other => {}
        }
        Ok(())
    }

    /// Text and thoughts are one block each, whatever their index: while tool calls are being recognised llama-server
    /// may give two blocks the same one.
    fn take_delta(&mut self, index: u32, delta: &Delta, budget: &mut Budget) -> Result<(), FoldError> {
        match delta {
            Delta::Text { text } => budget.append(&mut self.text, text),
            Delta::Thinking { thinking } => budget.append(&mut self.thinking, thinking),
            Delta::InputJson { partial_json } => {
                let tool = self.blocks.get(&index).and_then(|tool| self.tools.get_mut(*tool));
                let tool = tool.ok_or(FoldError::Unreadable("a tool call out of order"))?;
                budget.append(&mut tool.arguments, partial_json)
            }
            Delta::Other => Ok(()),
        }
    }

    /// The reply; `whole`: llama-server has ended the stream itself.
    pub(super) fn finish(mut self, count: &Count, whole: bool) -> Result<Bytes, FoldError> {
        let (Some(end), true) = (self.end.take(), self.stopped) else { return Err(FoldError::Incomplete) };
        let empty = self.text.is_empty() && self.thinking.is_empty() && self.tools.is_empty();
        if empty && whole && !self.opened && end.stop_reason == "max_tokens" {
            // The output ended within its first character. Behind other text llama-server drops such a half.
            self.text.push(REPLACEMENT);
        }
        to_bytes(&Reply {
            r#type: "message",
            role: "assistant",
            content: blocks(self.thinking, self.text, self.tools)?,
            id: self.id,
            model: self.model,
            stop_reason: end.stop_reason,
            stop_sequence: end.stop_sequence,
            usage: Usage {
                cache_read_input_tokens: count.cached,
                input_tokens: count.prompt.saturating_sub(count.cached),
                output_tokens: count.completion,
            },
        })
    }
}

fn blocks(thinking: String, text: String, tools: Vec<Tool>) -> Result<Vec<Block>, FoldError> {
    let mut blocks = Vec::new();
    if !thinking.is_empty() {
        blocks.push(Block::Thinking { thinking, signature: "" });
    }
    if !text.is_empty() {
        blocks.push(Block::Text { text });
    }
    for tool in tools {
        let input = compact(&tool.arguments).map_err(|_| FoldError::Unreadable("arguments of a tool call"))?;
        blocks.push(Block::ToolUse { id: tool.id, name: tool.name, input });
    }
    Ok(blocks)
}

/// Arguments as a JSON value without blanks, or `{}` where they are no JSON: a call that was cut short.
pub(super) fn compact(arguments: &str) -> serde_json::Result<Box<RawValue>> {
    if serde_json::from_str::<&RawValue>(arguments).is_err() {
        return RawValue::from_string("{}".to_owned());
    }
    let mut out = String::with_capacity(arguments.len());
    let (mut quoted, mut escaped) = (false, false);
    for character in arguments.chars() {
        if quoted {
            quoted = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if matches!(character, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            quoted = character == '"';
        }
        out.push(character);
    }
    RawValue::from_string(out)
}
