//! Responses: the closing events repeat all that was shown, so that is kept.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{CUT_REASON, Names};
use crate::ledger::Count;
use crate::stream::meter::MAX_EVENT_BYTES;
use crate::stream::tally::Tally;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    response: Option<Named<'a>>,
    #[serde(borrow)]
    item: Option<&'a RawValue>,
    #[serde(borrow)]
    item_id: Option<&'a str>,
    delta: Option<String>,
}

#[derive(Deserialize)]
struct Named<'a> {
    id: &'a str,
}

/// What an output item is.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Head {
    Message { id: String },
    Reasoning { id: String },
    FunctionCall { id: String, call_id: String, name: String },
}

#[derive(Debug)]
struct Item {
    head: Head,
    /// Its text, its thoughts or its arguments.
    text: String,
    /// The part that holds a message's text was announced.
    part: bool,
    /// The whole item, once llama-server has closed it.
    done: Option<Value>,
}

/// What a stream of a response has shown.
#[derive(Debug, Default)]
pub(in crate::stream) struct Responses {
    begun: bool,
    id: Option<String>,
    items: Vec<Item>,
    kept: usize,
    /// More was shown than is kept.
    lost: bool,
}

impl Responses {
    pub(super) fn event(&mut self, name: Option<&[u8]>, data: &[u8]) {
        let Some(name) = name else { return };
        self.begun = true;
        let kind = name.strip_prefix(b"response.").unwrap_or_default();
        let read = matches!(kind, b"created" | b"output_item.added" | b"output_item.done" | b"content_part.added");
        if self.lost || !(read || kind.ends_with(b".delta")) {
            return;
        }
        self.kept = self.kept.saturating_add(if read { data.len() } else { 0 });
        if self.take(kind, data).is_none() || self.kept > MAX_EVENT_BYTES {
            *self = Self { begun: true, lost: true, ..Self::default() };
        }
    }

    /// `None`: the event is not what it should be, so the stream cannot be told to its end.
    fn take(&mut self, kind: &[u8], data: &[u8]) -> Option<()> {
        let event: Event<'_> = serde_json::from_slice(data).ok()?;
        match kind {
            b"created" => self.id = Some(event.response?.id.to_owned()),
            b"output_item.added" => {
                let head = serde_json::from_str(event.item?.get()).ok()?;
                self.items.push(Item { head, text: String::new(), part: false, done: None });
            }
            b"output_item.done" => {
                let done: Value = serde_json::from_str(event.item?.get()).ok()?;
                self.item(done.get("id")?.as_str()?)?.done = Some(done.clone());
            }
            b"content_part.added" => self.item(event.item_id?)?.part = true,
            _ => {
                let delta = event.delta?;
                self.kept = self.kept.saturating_add(delta.len());
                self.item(event.item_id?)?.text.push_str(&delta);
            }
        }
        Some(())
    }

    fn item(&mut self, id: &str) -> Option<&mut Item> {
        // The newest ones first: deltas belong to the last.
        self.items.iter_mut().rev().find(|item| item.head.id() == id)
    }

    pub(super) fn ending(&self, tally: &Tally, timings: &str, names: &Names<'_>) -> Option<String> {
        if !self.begun || self.lost {
            return None;
        }
        let mut out = String::new();
        let mut output = Vec::new();
        for item in &self.items {
            let whole = match &item.done {
                Some(whole) => whole.clone(),
                None => item.close(&mut out),
            };
            output.push(whole);
        }
        let Count { prompt, cached, completion, .. } = tally.count();
        let response = json!({
            "id": self.id.clone().unwrap_or_else(|| format!("resp_{}", names.request_id)),
            "object": "response",
            "created_at": names.created,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "model": names.model,
            "output": output,
            "usage": {
                "input_tokens": prompt,
                "output_tokens": completion,
                "total_tokens": prompt.saturating_add(completion),
                "input_tokens_details": {"cached_tokens": cached},
            },
        });
        out += &format!(
            "event: response.incomplete\ndata: {{\"type\":\"response.incomplete\",\
             \"response\":{response}{CUT_REASON}{timings}}}\n\n"
        );
        Some(out)
    }
}

impl Head {
    fn id(&self) -> &str {
        match self {
            Self::Message { id } | Self::Reasoning { id } | Self::FunctionCall { id, .. } => id,
        }
    }
}

impl Item {
    /// Writes the events that close an open item; gives the whole item, as the last event repeats it.
    fn close(&self, out: &mut String) -> Value {
        let text = &self.text;
        let item = match &self.head {
            Head::Message { id } => {
                let part = json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text});
                let content = if self.part { vec![part.clone()] } else { Vec::new() };
                if self.part {
                    event(out, "output_text.done", json!({"item_id": id, "text": text}));
                    event(out, "content_part.done", json!({"item_id": id, "part": part}));
                }
                json!({"type": "message", "status": "incomplete", "id": id, "content": content, "role": "assistant"})
            }
            Head::Reasoning { id } => json!({
                "id": id, "summary": [], "type": "reasoning", "content": [{"text": text, "type": "reasoning_text"}],
                "encrypted_content": "", "status": "incomplete",
            }),
            Head::FunctionCall { id, call_id, name } => json!({
                "id": id, "type": "function_call", "status": "incomplete", "arguments": text, "call_id": call_id,
                "name": name,
            }),
        };
        event(out, "output_item.done", json!({"item": item}));
        item
    }
}

/// Writes an event with these members.
fn event(out: &mut String, kind: &str, mut members: Value) {
    let name = format!("response.{kind}");
    if let Value::Object(members) = &mut members {
        members.insert("type".to_owned(), name.as_str().into());
    }
    *out += &format!("event: {name}\ndata: {members}\n\n");
}
