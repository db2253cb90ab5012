//! `/v1/messages`: named events of a stream, and the reply in one piece, as Anthropic's API has them.

use serde_json::Value;

use super::super::model::{End, Event, Output, Timings};
use super::about::{About, Finished, named_event};
use super::json::{Ordered, ordered};
use super::plan::Piece;

/// The events of a stream.
#[derive(Default)]
pub(crate) struct Messages {
    begun: bool,
    /// The kind of the block that is open; blocks are numbered from 0.
    block: Option<Block>,
    index: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Block {
    Thinking,
    Text,
    Tool,
}

impl Messages {
    /// What an event becomes. Neither timings nor progress are told here.
    pub(crate) fn event(&mut self, about: &About, output: &Output) -> String {
        match output.event {
            Event::Token => {
                let events = self.begin(about, &output.timings);
                events + &self.token(about, output)
            }
            Event::Ended(end) => {
                let events = self.begin(about, &output.timings);
                events + &self.end(about, end, &output.timings)
            }
            _ => String::new(),
        }
    }

    fn begin(&mut self, about: &About, numbers: &Timings) -> String {
        if std::mem::replace(&mut self.begun, true) {
            return String::new();
        }
        let nothing: [Ordered; 0] = [];
        let message = ordered! {
            "id": format!("chatcmpl-{}", about.id),
            "type": "message",
            "role": "assistant",
            "content": nothing,
            "model": about.model,
            "stop_reason": None::<&str>,
            "stop_sequence": None::<&str>,
            "usage": usage(about, numbers, Some(0)),
        };
        named_event("message_start", ordered! {"message": message})
    }

    fn token(&mut self, about: &About, output: &Output) -> String {
        let Some(plan) = about.plans.first() else { return String::new() };
        let (block, content, delta) = match plan.piece(output.timings.predicted) {
            Piece::Text("") => return String::new(),
            Piece::Reasoning(text) => {
                let delta = ordered! {"type": "thinking_delta", "thinking": text};
                (Block::Thinking, ordered! {"type": "thinking", "thinking": ""}, delta)
            }
            Piece::Text(text) => {
                let delta = ordered! {"type": "text_delta", "text": text};
                (Block::Text, ordered! {"type": "text", "text": ""}, delta)
            }
            Piece::Call(part) => {
                let name = plan.call(0).map(|(name, _)| name);
                let content = ordered! {"type": "tool_use", "id": about.further_id(0), "name": name};
                (Block::Tool, content, ordered! {"type": "input_json_delta", "partial_json": part})
            }
        };
        let mut events = String::new();
        if self.block != Some(block) {
            if self.block.is_some() {
                self.index += 1;
            }
            self.block = Some(block);
            let data = ordered! {"index": self.index, "content_block": content};
            events.push_str(&named_event("content_block_start", data));
        }
        let data = ordered! {"index": self.index, "delta": delta};
        events + &named_event("content_block_delta", data)
    }

    /// All blocks end together, after the last token.
    fn end(&mut self, about: &About, end: End, numbers: &Timings) -> String {
        let mut events = String::new();
        let thoughts = about.plans.first().is_some_and(|plan| plan.reasoning > 0);
        if self.block.is_some() {
            for index in 0..=self.index {
                if thoughts && index == 0 {
                    let signature = ordered! {"type": "signature_delta", "signature": ""};
                    let data = ordered! {"index": index, "delta": signature};
                    events.push_str(&named_event("content_block_delta", data));
                }
                events.push_str(&named_event("content_block_stop", ordered! {"index": index}));
            }
        }
        let (reason, sequence) = stop(about, end);
        let data = ordered! {
            "delta": ordered! {"stop_reason": reason, "stop_sequence": sequence},
            "usage": ordered! {"output_tokens": about.told(numbers).completion},
        };
        events + &named_event("message_delta", data) + &named_event("message_stop", Ordered::default())
    }
}

/// Why it ended. A stop sequence is told, under the reason of an ordinary end.
fn stop(about: &About, end: End) -> (&'static str, Option<&str>) {
    let plan = about.plans.first();
    match end {
        End::Limit => ("max_tokens", None),
        End::Complete if plan.is_some_and(|plan| plan.call(0).is_some()) => ("tool_use", None),
        End::Complete => ("end_turn", plan.and_then(|plan| plan.stop.as_ref()).map(|stop| stop.word.as_str())),
    }
}

/// `input_tokens` are those that did not come from the cache.
fn usage(about: &About, numbers: &Timings, output: Option<u64>) -> Ordered {
    let told = about.told(numbers);
    ordered! {"cache_read_input_tokens": told.cached, "input_tokens": told.prompt - told.cached,
    "output_tokens": output.unwrap_or(told.completion)}
}

/// The reply in one piece.
pub(crate) fn whole(about: &About, finished: &[Finished]) -> Ordered {
    let numbers = finished.first().map(|of| of.timings).unwrap_or_default();
    let (reason, sequence) = stop(about, finished.first().map_or(End::Complete, |of| of.end));
    ordered! {
        "id": format!("chatcmpl-{}", about.id),
        "type": "message",
        "role": "assistant",
        "content": content(about, numbers.predicted),
        "model": about.model,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage(about, &numbers, None),
    }
}

fn content(about: &About, tokens: u64) -> Vec<Ordered> {
    let Some(plan) = about.plans.first() else { return Vec::new() };
    let thoughts = (plan.reasoning > 0)
        .then(|| ordered! {"type": "thinking", "thinking": plan.reasoning_text(tokens), "signature": ""});
    let call = plan.call(tokens).map(|(name, arguments)| {
        // Arguments that were cut off by a limit are no JSON.
        let input: Value = serde_json::from_str(&arguments).unwrap_or_default();
        ordered! {"type": "tool_use", "id": about.further_id(0), "name": name, "input": input}
    });
    let text = Some(plan.text(tokens)).filter(|text| !text.is_empty());
    let text = text.map(|text| ordered! {"type": "text", "text": text});
    [thoughts, call, text].into_iter().flatten().collect()
}
