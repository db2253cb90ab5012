//! `/v1/responses`: named events of a stream, and the reply in one piece.

use serde_json::{Value, json};

use super::super::model::{Event, Output, Timings};
use super::about::{About, Finished, Told, named_event};
use super::json::{Ordered, timings};
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
                let data = Ordered::default().with("response", begun_response(about)).maybe("timings", timings);
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
        let data = Ordered::default().with("response", begun_response(about));
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
        let data = Ordered::default().with("item_id", item_id(about, item)).with("delta", delta);
        events + &named_event(name, data.maybe("timings", about.timings_per_token(&output.timings)))
    }

    fn end(&mut self, about: &About, numbers: &Timings) -> String {
        let mut events = self.begin(about);
        for item in items(about, numbers.predicted) {
            events.push_str(&closed(about, item, numbers.predicted));
        }
        let response = json!({
            "id": format!("resp_{}", about.id),
            "object": "response",
            "created_at": about.created,
            "status": "completed",
            "model": about.model,
            "output": output(about, numbers.predicted, false),
            "usage": usage(about, numbers),
        });
        let data = Ordered::default().with("response", response).with("timings", timings(numbers));
        events + &named_event("response.completed", data)
    }
}

fn begun_response(about: &About) -> Value {
    json!({"id": format!("resp_{}", about.id), "object": "response", "status": "in_progress"})
}

fn created(about: &About) -> String {
    named_event("response.created", Ordered::default().with("response", begun_response(about)))
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
    let added = |item: Value| named_event("response.output_item.added", Ordered::default().with("item", item));
    match item {
        Item::Reasoning => added(json!({"id": id, "summary": [], "type": "reasoning", "content": [],
            "encrypted_content": "", "status": "in_progress"})),
        Item::Message => {
            let item =
                json!({"content": [], "id": id, "role": "assistant", "status": "in_progress", "type": "message"});
            let part = Ordered::default().with("item_id", id).with("part", json!({"type": "output_text", "text": ""}));
            added(item) + &named_event("response.content_part.added", part)
        }
        Item::Call => {
            let name = about.plans.first().and_then(|plan| plan.call(0)).map(|(name, _)| name);
            added(json!({"id": id, "arguments": "", "call_id": call_id(about), "name": name,
                "type": "function_call", "status": "in_progress"}))
        }
    }
}

/// The events with which an item ends.
fn closed(about: &About, item: Item, tokens: u64) -> String {
    let id = item_id(about, item);
    let done = |item: Value| named_event("response.output_item.done", Ordered::default().with("item", item));
    match item {
        Item::Message => {
            let whole = item_value(about, item, tokens, true);
            let part = whole["content"][0].clone();
            let text = Ordered::default().with("item_id", id.as_str()).with("text", part["text"].clone());
            named_event("response.output_text.done", text)
                + &named_event("response.content_part.done", Ordered::default().with("item_id", id).with("part", part))
                + &done(whole)
        }
        _ => done(item_value(about, item, tokens, true)),
    }
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

fn output(about: &About, tokens: u64, with_status: bool) -> Vec<Value> {
    items(about, tokens).into_iter().map(|item| item_value(about, item, tokens, with_status)).collect()
}

/// An item when it is complete. Only thoughts have no status inside `response.completed`.
fn item_value(about: &About, item: Item, tokens: u64, with_status: bool) -> Value {
    let id = item_id(about, item);
    let Some(plan) = about.plans.first() else { return Value::Null };
    match item {
        Item::Reasoning => {
            let content = json!([{"text": plan.reasoning_text(tokens), "type": "reasoning_text"}]);
            let mut item =
                json!({"id": id, "summary": [], "type": "reasoning", "content": content, "encrypted_content": ""});
            if let (true, Some(members)) = (with_status, item.as_object_mut()) {
                members.insert("status".to_owned(), json!("completed"));
            }
            item
        }
        Item::Message => {
            let part = json!({"type": "output_text", "annotations": [], "logprobs": [], "text": plan.text(tokens)});
            json!({"type": "message", "status": "completed", "id": id, "content": [part], "role": "assistant"})
        }
        Item::Call => {
            let (name, arguments) = plan.call(tokens).unwrap_or_default();
            json!({"id": id, "type": "function_call", "status": "completed", "arguments": arguments,
                "call_id": call_id(about), "name": name})
        }
    }
}

fn usage(about: &About, numbers: &Timings) -> Value {
    let Told { prompt, cached, completion, total } = about.told(numbers);
    json!({"input_tokens": prompt, "output_tokens": completion, "total_tokens": total,
        "input_tokens_details": {"cached_tokens": cached}})
}

/// The reply in one piece, without timings.
pub(crate) fn whole(about: &About, finished: &[Finished]) -> Ordered {
    let numbers = finished.first().map(|of| of.timings).unwrap_or_default();
    Ordered::default()
        .with("completed_at", about.created)
        .with("created_at", about.created)
        .with("id", format!("resp_{}", about.id))
        .with("model", about.model.as_str())
        .with("object", "response")
        .with("output", output(about, numbers.predicted, true))
        .with("status", "completed")
        .with("usage", usage(about, &numbers))
}
