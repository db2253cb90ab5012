//! `/v1/completions`: chunks of a stream, and the reply in one piece. The last chunk of a stream always has usage.

use super::super::model::{Event, Output};
use super::about::{About, Finished, data_event};
use super::json::{Ordered, ordered, timings};
use super::plan::Piece;

/// What an event becomes in a stream.
pub(crate) fn event(about: &About, output: &Output) -> String {
    let Output { sequence, timings: numbers, .. } = output;
    let id = || format!("chatcmpl-{}", about.id);
    let chunk = |text: &str, reason: Option<&str>| envelope(about, &[choice(text, *sequence, reason)]);
    match output.event {
        Event::Progress(processed) if about.show.progress => {
            let progress = about.progress(numbers, processed, output.prompt);
            let chunk = chunk("", None).with("id", id()).maybe("timings", about.timings_per_token(numbers));
            data_event(&chunk.with("prompt_progress", progress))
        }
        Event::Token => match about.plans.get(*sequence).map(|plan| plan.piece(numbers.predicted)) {
            Some(Piece::Text(text)) if !text.is_empty() => {
                data_event(&chunk(text, None).with("id", id()).maybe("timings", about.timings_per_token(numbers)))
            }
            _ => String::new(),
        },
        Event::Ended(end) => {
            let finish = chunk("", Some(about.finish_reason(*sequence, end))).with("usage", about.usage(numbers));
            data_event(&finish.with("id", id()).with("timings", timings(numbers)))
        }
        _ => String::new(),
    }
}

fn choice(text: &str, index: usize, reason: Option<&str>) -> Ordered {
    ordered! {"text": text, "index": index, "logprobs": None::<&str>, "finish_reason": reason}
}

fn envelope(about: &About, choices: &[Ordered]) -> Ordered {
    ordered! {
        "choices": choices,
        "created": about.created,
        "model": about.model,
        "system_fingerprint": about.build,
        "object": "text_completion",
    }
}

/// The reply in one piece. As llama-server's: usage and timings are those of the first choice or prompt.
pub(crate) fn whole(about: &About, finished: &[Finished]) -> Ordered {
    let choices = about.plans.iter().zip(finished).enumerate().map(|(index, (plan, of))| {
        choice(&plan.text(of.timings.predicted), index, Some(about.finish_reason(index, of.end)))
    });
    let first = finished.first().map(|of| of.timings).unwrap_or_default();
    envelope(about, &choices.collect::<Vec<_>>())
        .with("usage", about.usage(&first))
        .with("id", format!("chatcmpl-{}", about.id))
        .with("timings", timings(&first))
}
