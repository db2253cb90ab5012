//! `/v1/completions`: chunks of a stream, and the reply in one piece. The last chunk of a stream always has usage.

use serde_json::{Value, json};

use super::super::model::{Event, Output};
use super::about::{About, Finished, data_event};
use super::json::{Ordered, timings};
use super::plan::{Piece, Plan};

/// The chunks of a stream.
#[derive(Default)]
pub(crate) struct Completions;

impl Completions {
    /// What an event becomes.
    pub(crate) fn event(&self, about: &About, output: &Output) -> String {
        let Output { sequence, timings: numbers, .. } = output;
        let chunk = |text: &str, reason: Option<&str>| {
            let choice = json!({"text": text, "index": sequence, "logprobs": null, "finish_reason": reason});
            envelope(about, json!([choice]))
        };
        let id = || format!("chatcmpl-{}", about.id);
        match output.event {
            Event::Progress(processed) if about.show.progress => {
                let progress = about.progress(numbers, processed, output.prompt);
                let chunk = chunk("", None).with("id", id()).maybe("timings", about.timings_per_token(numbers));
                data_event(&chunk.with("prompt_progress", progress))
            }
            Event::Token => {
                let plan = about.plans.get(*sequence);
                let text = plan.map_or("", |plan| said(plan, numbers.predicted));
                if text.is_empty() {
                    return String::new();
                }
                data_event(&chunk(text, None).with("id", id()).maybe("timings", about.timings_per_token(numbers)))
            }
            Event::Ended(end) => {
                let finish = chunk("", Some(about.finish_reason(*sequence, end))).with("usage", about.usage(numbers));
                data_event(&finish.with("id", id()).with("timings", timings(numbers)))
            }
            _ => String::new(),
        }
    }
}

/// A text completion has no thoughts apart from its text.
fn said(plan: &Plan, token: u64) -> &str {
    match plan.piece(token) {
        Piece::Reasoning(text) | Piece::Text(text) | Piece::Call(text) => text,
    }
}

fn envelope(about: &About, choices: Value) -> Ordered {
    Ordered::default()
        .with("choices", choices)
        .with("created", about.created)
        .with("model", about.model.as_str())
        .with("system_fingerprint", about.build.as_str())
        .with("object", "text_completion")
}

/// The reply in one piece. As llama-server's: usage and timings are those of the first choice or prompt.
pub(crate) fn whole(about: &About, finished: &[Finished]) -> Ordered {
    let choice = |(index, of): (usize, &Finished)| {
        let tokens = 1..=of.timings.predicted;
        let text: String = about.plans.get(index).map(|plan| tokens.map(|token| said(plan, token)).collect())?;
        let reason = about.finish_reason(index, of.end);
        Some(json!({"text": text, "index": index, "logprobs": null, "finish_reason": reason}))
    };
    let choices: Vec<_> = finished.iter().enumerate().filter_map(choice).collect();
    let first = finished.first().map(|of| of.timings).unwrap_or_default();
    envelope(about, choices.into())
        .with("usage", about.usage(&first))
        .with("id", format!("chatcmpl-{}", about.id))
        .with("timings", timings(&first))
}
