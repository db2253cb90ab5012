//! `/v1/responses`: named events of a stream, and the reply in one piece.

use super::super::model::{Event, Output, Timings};
use super::about::{About, Finished, Told, named_event};
use super::json::{Ordered, ordered, timings};
use super::plan::Piece;

/// The events of a stream. One choice: the API knows no more.
#[derive(Default)]
pub(crate) struct Responses {
    begun: bool,
    /// The kind of the item that is open.
    item: Option<Item>,
}

#[derive(Clone, Copy, PartialEq)]
enum Item {
    Reasoning,
    Message,
    Call,
}

impl Responses {
    /// What an event becomes.
    pub(crate) fn event(&mut self, about: &About, output: &Output) -> String {
        let numbers = &output.timings;
        match output.event {
            Event::Progress(processed) if about.show.progress => {
                let progress = about.progress(numbers, processed, output.prompt);
                let timings = about.timings_per_token(numbers);
                let begun = std::mem::replace(&mut self.begun, true);
                let data = ordered! {"response": begun_response(about)}.maybe("timings", timings);
                let events = if begun { String::new() } else { created(about) };
                events + &named_event("response.in_progress", data.with("prompt_progress", progress))
            }
            Event::Token => self.token(about, output),
            Event::Ended(_) => self.end(about, numbers),
            _ => String::new(),
        }
    }

    fn begin(&mut self, about: &About) -> String {
        if std::mem::replace(&mut self.begun, true) {
            return String::new();
        }
        let data = ordered! {"response": begun_response(about)};
        created(about) + &named_event("response.in_progress", data)
    }

    fn token(&mut self, about: &About, output: &Output) -> String {
        let mut events = self.begin(about);
        let Some(plan) = about.plans.first() else { return events };
        let (item, name, delta) = match plan.piece(output.timings.predicted) {
            Piece::Text("") => return events,
            Piece::Reasoning(text) => (Item::Reasoning, "response.reasoning_text.delta", text),
            Piece::Text(text) => (Item::Message, "response.output_text.delta", text),
            Piece::Call(part) => (Item::Call, "response.function_call_arguments.delta", part),
        };
        if self.item != Some(item) {
            self.item = Some(item);
            events.push_str(&opened(about, item));
        }
        let data = ordered! {"item_id": item_id(about, item), "delta": delta};
        events + &named_event(name, data.maybe("timings", about.timings_per_token(&output.timings)))
    }

    fn end(&mut self, about: &About, numbers: &Timings) -> String {
        let mut events = self.begin(about);
        for item in items(about, numbers.predicted) {
            events.push_str(&closed(about, item, numbers.predicted));
        }
        let response = ordered! {
            "id": format!("resp_{}", about.id),
            "object": "response",
            "created_at": about.created,
            "status": "completed",
            "model": about.model,
            "output": output(about, numbers.predicted, false),
            "usage": usage(about, numbers),
        };
        let data = ordered! {"response": response, "timings": timings(numbers)};
        events + &named_event("response.completed", data)
    }
}

fn begun_response(about: &About) -> Ordered {
    ordered! {"id": format!("resp_{}", about.id), "object": "response", "status": "in_progress"}
}

fn created(about: &About) -> String {
    named_event("response.created", ordered! {"response": begun_response(about)})
}

fn item_id(about: &About, item: Item) -> String {
    let (prefix, number) = match item {
        Item::Reasoning => ("rs", 0),
        Item::Message => ("msg", 1),
        Item::Call => ("fc", 2),
    };
    format!("{prefix}_{}", about.further_id(number))
}

fn call_id(about: &About) -> String {
    format!("call_{}", about.further_id(2))
}

/// The events with which an item begins.
fn opened(about: &About, item: Item) -> String {
    let id = item_id(about, item);
    let added = |item: Ordered| named_event("response.output_item.added", ordered! {"item": item});
    let nothing: [Ordered; 0] = [];
    match item {
        Item::Reasoning => added(ordered! {"id": id, "summary": nothing, "type": "reasoning", "content": nothing,
        "encrypted_content": "", "status": "in_progress"}),
        Item::Message => {
            let part = ordered! {"item_id": id, "part": ordered! {"type": "output_text", "text": ""}};
            added(ordered! {"content": nothing, "id": id, "role": "assistant", "status": "in_progress",
            "type": "message"})
                + &named_event("response.content_part.added", part)
        }
        Item::Call => {
            let name = about.plans.first().and_then(|plan| plan.call(0)).map(|(name, _)| name);
            added(ordered! {"id": id, "arguments": "", "call_id": call_id(about), "name": name,
            "type": "function_call", "status": "in_progress"})
        }
    }
}

/// The events with which an item ends.
fn closed(about: &About, item: Item, tokens: u64) -> String {
    let id = item_id(about, item);
    let done = named_event("response.output_item.done", ordered! {"item": item_value(about, item, tokens, false)});
    if item != Item::Message {
        return done;
    }
    let text = about.plans.first().map(|plan| plan.text(tokens)).unwrap_or_default();
    let part = ordered! {"item_id": id, "part": text_part(&text)};
    named_event("response.output_text.done", ordered! {"item_id": id, "text": text})
        + &named_event("response.content_part.done", part)
        + &done
}

fn text_part(text: &str) -> Ordered {
    let nothing: [Ordered; 0] = [];
    ordered! {"type": "output_text", "annotations": nothing, "logprobs": nothing, "text": text}
}

/// The items of so many tokens, in order.
fn items(about: &About, tokens: u64) -> Vec<Item> {
    let Some(plan) = about.plans.first() else { return Vec::new() };
    let reasoning = (plan.reasoning > 0 && tokens > 0).then_some(Item::Reasoning);
    let said = match plan.call(0) {
        Some(_) => Some(Item::Call),
        None => (!plan.text(tokens).is_empty()).then_some(Item::Message),
    };
    [reasoning, said].into_iter().flatten().collect()
}

fn output(about: &About, tokens: u64, with_status: bool) -> Vec<Ordered> {
    items(about, tokens).into_iter().map(|item| item_value(about, item, tokens, with_status)).collect()
}

/// An item when it is complete. In a stream thoughts have no status.
fn item_value(about: &About, item: Item, tokens: u64, with_status: bool) -> Ordered {
    let id = item_id(about, item);
    let Some(plan) = about.plans.first() else { return Ordered::default() };
    let nothing: [Ordered; 0] = [];
    match item {
        Item::Reasoning => {
            let content = [ordered! {"text": plan.reasoning_text(tokens), "type": "reasoning_text"}];
            let item = ordered! {"id": id, "summary": nothing, "type": "reasoning", "content": content,
            "encrypted_content": ""};
            item.maybe("status", with_status.then_some("completed"))
        }
        Item::Message => ordered! {"type": "message", "status": "completed", "id": id,
        "content": [text_part(&plan.text(tokens))], "role": "assistant"},
        Item::Call => {
            let (name, arguments) = plan.call(tokens).unwrap_or_default();
            ordered! {"id": id, "type": "function_call", "status": "completed", "arguments": arguments,
            "call_id": call_id(about), "name": name}
        }
    }
}

fn usage(about: &About, numbers: &Timings) -> Ordered {
    let Told { prompt, cached, completion, total } = about.told(numbers);
    ordered! {"input_tokens": prompt, "output_tokens": completion, "total_tokens": total,
    "input_tokens_details": ordered! {"cached_tokens": cached}}
}

/// The reply in one piece, without timings.
pub(crate) fn whole(about: &About, finished: &[Finished]) -> Ordered {
    let numbers = finished.first().map(|of| of.timings).unwrap_or_default();
    ordered! {
        "completed_at": about.created,
        "created_at": about.created,
        "id": format!("resp_{}", about.id),
        "model": about.model,
        "object": "response",
        "output": output(about, numbers.predicted, true),
        "status": "completed",
        "usage": usage(about, &numbers),
    }
}
