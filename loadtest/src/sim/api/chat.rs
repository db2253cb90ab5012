//! `/v1/chat/completions`: chunks of a stream, and the reply in one piece.

use serde_json::{Map, Value, json};

use super::super::model::{Event, Output};
use super::about::{About, Finished, data_event};
use super::json::{Ordered, timings};
use super::plan::Piece;

/// The chunks of a stream.
#[derive(Default)]
pub(crate) struct Chat;

impl Chat {
    /// What an event becomes.
    pub(crate) fn event(&self, about: &About, output: &Output) -> String {
        let Output { sequence, timings: numbers, .. } = output;
        let chunk = |delta: Value| chunk(about, *sequence, delta, None);
        match output.event {
            Event::Progress(processed) if about.show.progress => {
                let progress = about.progress(numbers, processed, output.prompt);
                let chunk = chunk(opening()).maybe("timings", about.timings_per_token(numbers));
                data_event(&chunk.with("prompt_progress", progress))
            }
            Event::Token => {
                let mut text = String::new();
                if numbers.predicted == 1 {
                    text.push_str(&data_event(&chunk(opening())));
                }
                if let Some(delta) = delta(about, output) {
                    let chunk = chunk(delta).maybe("timings", about.timings_per_token(numbers));
                    text.push_str(&data_event(&chunk));
                }
                text
            }
            Event::Ended(end) => {
                let reason = about.finish_reason(*sequence, end);
                let finish = super::chat::chunk(about, *sequence, json!({}), Some(reason));
                if !about.show.usage {
                    return data_event(&finish.with("timings", timings(numbers)));
                }
                let usage = envelope(about, json!([])).with("usage", about.usage(numbers));
                data_event(&finish) + &data_event(&usage.with("timings", timings(numbers)))
            }
            _ => String::new(),
        }
    }
}

fn opening() -> Value {
    json!({"role": "assistant", "content": null})
}

/// What a token adds; nothing if it belongs to a stop sequence.
fn delta(about: &About, output: &Output) -> Option<Value> {
    let token = output.timings.predicted;
    let plan = about.plans.get(output.sequence)?;
    match plan.piece(token) {
        Piece::Text("") => None,
        Piece::Text(text) => Some(json!({"content": text})),
        Piece::Reasoning(text) => Some(json!({"reasoning_content": text})),
        Piece::Call(part) if token == 1 => {
            let name = plan.call(0).map(|(name, _)| name);
            let function = json!({"name": name, "arguments": part});
            let id = about.further_id(output.sequence);
            Some(json!({"tool_calls": [{"index": 0, "id": id, "type": "function", "function": function}]}))
        }
        Piece::Call(part) => Some(json!({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})),
    }
}

fn chunk(about: &About, choice: usize, delta: Value, reason: Option<&str>) -> Ordered {
    envelope(about, json!([{"finish_reason": reason, "index": choice, "delta": delta}]))
}

fn envelope(about: &About, choices: Value) -> Ordered {
    Ordered::default()
        .with("choices", choices)
        .with("created", about.created)
        .with("id", format!("chatcmpl-{}", about.id))
        .with("model", about.model.as_str())
        .with("system_fingerprint", about.build.as_str())
        .with("object", "chat.completion.chunk")
}

/// The reply in one piece. As llama-server's: usage and timings are those of the first choice.
pub(crate) fn whole(about: &About, finished: &[Finished]) -> Ordered {
    let choice = |(index, of): (usize, &Finished)| {
        let reason = about.finish_reason(index, of.end);
        json!({"finish_reason": reason, "index": index, "message": message(about, index, of.timings.predicted)})
    };
    let choices: Vec<_> = finished.iter().enumerate().map(choice).collect();
    let first = finished.first().map(|of| of.timings).unwrap_or_default();
    Ordered::default()
        .with("choices", choices)
        .with("created", about.created)
        .with("model", about.model.as_str())
        .with("system_fingerprint", about.build.as_str())
        .with("object", "chat.completion")
        .with("usage", about.usage(&first))
        .with("id", format!("chatcmpl-{}", about.id))
        .with("timings", timings(&first))
}

fn message(about: &About, choice: usize, tokens: u64) -> Value {
    let mut message = Map::new();
    message.insert("role".to_owned(), json!("assistant"));
    let Some(plan) = about.plans.get(choice) else { return message.into() };
    message.insert("content".to_owned(), json!(plan.text(tokens)));
    if plan.reasoning > 0 {
        message.insert("reasoning_content".to_owned(), json!(plan.reasoning_text(tokens)));
    }
    if let Some((name, arguments)) = plan.call(tokens) {
        let function = json!({"name": name, "arguments": arguments});
        let call = json!({"type": "function", "function": function, "id": about.further_id(choice)});
        message.insert("tool_calls".to_owned(), json!([call]));
    }
    message.into()
}
