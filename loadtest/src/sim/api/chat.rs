//! `/v1/chat/completions`: chunks of a stream, and the reply in one piece.

use super::super::model::{Event, Output};
use super::about::{About, Finished, data_event};
use super::json::{Ordered, ordered, timings};
use super::plan::Piece;

/// What an event becomes in a stream.
pub(crate) fn event(about: &About, output: &Output) -> String {
    let Output { sequence, timings: numbers, .. } = output;
    let chunk = |delta: Ordered, reason: Option<&str>| {
        envelope(about, &[ordered! {"finish_reason": reason, "index": sequence, "delta": delta}])
    };
    match output.event {
        Event::Progress(processed) if about.show.progress => {
            let progress = about.progress(numbers, processed, output.prompt);
            let chunk = chunk(opening(), None).maybe("timings", about.timings_per_token(numbers));
            data_event(&chunk.with("prompt_progress", progress))
        }
        Event::Token => {
            let mut text = String::new();
            if numbers.predicted == 1 {
                text.push_str(&data_event(&chunk(opening(), None)));
            }
            if let Some(delta) = delta(about, output) {
                text.push_str(&data_event(&chunk(delta, None).maybe("timings", about.timings_per_token(numbers))));
            }
            text
        }
        Event::Ended(end) => {
            let finish = chunk(Ordered::default(), Some(about.finish_reason(*sequence, end)));
            if !about.show.usage {
                return data_event(&finish.with("timings", timings(numbers)));
            }
            let usage = envelope(about, &[]).with("usage", about.usage(numbers));
            data_event(&finish) + &data_event(&usage.with("timings", timings(numbers)))
        }
        _ => String::new(),
    }
}

fn opening() -> Ordered {
    ordered! {"role": "assistant", "content": None::<&str>}
}

/// What a token adds; nothing if it belongs to a stop sequence.
fn delta(about: &About, output: &Output) -> Option<Ordered> {
    let token = output.timings.predicted;
    let plan = about.plans.get(output.sequence)?;
    match plan.piece(token) {
        Piece::Text("") => None,
        Piece::Text(text) => Some(ordered! {"content": text}),
        Piece::Reasoning(text) => Some(ordered! {"reasoning_content": text}),
        Piece::Call(part) if token == 1 => {
            let function = ordered! {"name": plan.call(0).map(|(name, _)| name), "arguments": part};
            let id = about.further_id(output.sequence);
            let call = ordered! {"index": 0, "id": id, "type": "function", "function": function};
            Some(ordered! {"tool_calls": [call]})
        }
        Piece::Call(part) => {
            let call = ordered! {"index": 0, "function": ordered! {"arguments": part}};
            Some(ordered! {"tool_calls": [call]})
        }
    }
}

fn envelope(about: &About, choices: &[Ordered]) -> Ordered {
    ordered! {
        "choices": choices,
        "created": about.created,
        "id": format!("chatcmpl-{}", about.id),
        "model": about.model,
        "system_fingerprint": about.build,
        "object": "chat.completion.chunk",
    }
}

/// The reply in one piece. As llama-server's: usage and timings are those of the first choice.
pub(crate) fn whole(about: &About, finished: &[Finished]) -> Ordered {
    let choice = |(index, of): (usize, &Finished)| {
        let reason = about.finish_reason(index, of.end);
        let message = message(about, index, of.timings.predicted);
        ordered! {"finish_reason": reason, "index": index, "message": message}
    };
    let choices: Vec<_> = finished.iter().enumerate().map(choice).collect();
    let first = finished.first().map(|of| of.timings).unwrap_or_default();
    ordered! {
        "choices": choices,
        "created": about.created,
        "model": about.model,
        "system_fingerprint": about.build,
        "object": "chat.completion",
        "usage": about.usage(&first),
        "id": format!("chatcmpl-{}", about.id),
        "timings": timings(&first),
    }
}

fn message(about: &About, choice: usize, tokens: u64) -> Ordered {
    let message = ordered! {"role": "assistant"};
    let Some(plan) = about.plans.get(choice) else { return message };
    let thoughts = (plan.reasoning > 0).then(|| plan.reasoning_text(tokens));
    let call = plan.call(tokens).map(|(name, arguments)| {
        let function = ordered! {"name": name, "arguments": arguments};
        [ordered! {"type": "function", "function": function, "id": about.further_id(choice)}]
    });
    message.with("content", plan.text(tokens)).maybe("reasoning_content", thoughts).maybe("tool_calls", call)
}
