//! Responses: the last event carries the whole reply, in another order and with a few fields less.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Budget, FoldError, REPLACEMENT, TokenDetails, to_bytes};
use crate::ledger::Count;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Completed {
    created_at: i64,
    id: String,
    model: String,
    status: String,
    /// Only where the gateway ended the stream.
    incomplete_details: Option<Box<RawValue>>,
    output: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct ItemType<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
}

/// Folds a Responses stream.
#[derive(Default)]
pub(super) struct Responses {
    /// An event came before the last one. None does where the output ended within its first character.
    opened: bool,
    completed: Option<Completed>,
}

// What follows is the reply: the order of fields is llama-server's.

#[derive(Serialize)]
struct Reply {
    completed_at: i64,
    created_at: i64,
    id: String,
    model: String,
    object: &'static str,
    output: Vec<Box<RawValue>>,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete_details: Option<Box<RawValue>>,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    input_tokens: u64,
    output_tokens: u64,
    total_tokens: u64,
    input_tokens_details: TokenDetails,
}

/// The thoughts of a model. The stream's item has no `status`.
#[derive(Deserialize, Serialize)]
struct Reasoning<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    summary: &'a RawValue,
    #[serde(borrow)]
    r#type: &'a RawValue,
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    encrypted_content: &'a RawValue,
    #[serde(default = "completed")]
    status: Cow<'static, str>,
}

fn completed() -> Cow<'static, str> {
    Cow::Borrowed("completed")
}

/// A message; the stream's item has another order.
#[derive(Deserialize, Serialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    role: &'a RawValue,
    #[serde(borrow)]
    status: &'a RawValue,
    #[serde(borrow)]
    r#type: &'a RawValue,
}

/// A message that no stream has.
#[derive(Serialize)]
struct OwnMessage<'a> {
    content: [OwnText; 1],
    id: String,
    role: &'a str,
    status: &'a str,
    r#type: &'a str,
}

#[derive(Serialize)]
struct OwnText {
    r#type: &'static str,
    annotations: [(); 0],
    logprobs: [(); 0],
    text: char,
}

impl Responses {
    pub(super) fn take(&mut self, data: &[u8], budget: &mut Budget) -> Result<(), FoldError> {
        let event: Event<'_> = serde_json::from_slice(data).map_err(|_| FoldError::Unreadable("a response event"))?;
        if let Some(error) = event.error {
            return Err(FoldError::Upstream(error.get().to_owned()));
        }
        let ("response.completed" | "response.incomplete", Some(response)) = (event.r#type.as_ref(), event.response)
        else {
            self.opened = true;
            return Ok(());
        };
        budget.spend(response.get().len())?;
        let completed =
            serde_json::from_str(response.get()).map_err(|_| FoldError::Unreadable("a response.completed event"))?;
        self.completed = Some(completed);
        Ok(())
    }

    pub(super) fn finish(self, count: &Count) -> Result<Bytes, FoldError> {
        let completed = self.completed.ok_or(FoldError::Incomplete)?;
        let mut output = completed.output.iter().map(|item| reordered(item)).collect::<Result<Vec<_>, _>>()?;
        if output.is_empty() && !self.opened && count.completion > 0 {
            output.push(half_character(&completed.id)?);
        }
        to_bytes(&Reply {
            completed_at: completed.created_at,
            created_at: completed.created_at,
            id: completed.id,
            model: completed.model,
            object: "response",
            output,
            status: completed.status,
            incomplete_details: completed.incomplete_details,
            usage: Usage {
                input_tokens: count.prompt,
                output_tokens: count.completion,
                total_tokens: count.prompt.saturating_add(count.completion),
                input_tokens_details: TokenDetails { cached_tokens: count.cached },
            },
        })
    }
}

/// An output item as the reply has it. Function calls are the same in both.
fn reordered(item: &RawValue) -> Result<Box<RawValue>, FoldError> {
    let unreadable = |_| FoldError::Unreadable("an output item");
    let kind: ItemType<'_> = serde_json::from_str(item.get()).map_err(unreadable)?;
    match kind.r#type.as_ref() {
        "reasoning" => serde_json::from_str(item.get()).and_then(|item: Reasoning<'_>| raw(&item)),
        "message" => serde_json::from_str(item.get()).and_then(|item: Message<'_>| raw(&item)),
        _ => Ok(item.to_owned()),
    }
    .map_err(unreadable)
}

/// The message of an output that ended within its first character.
fn half_character(response_id: &str) -> Result<Box<RawValue>, FoldError> {
    let id = response_id.strip_prefix("resp_").unwrap_or(response_id);
    let text = OwnText { r#type: "output_text", annotations: [], logprobs: [], text: REPLACEMENT };
    let message = OwnMessage {
        content: [text],
        id: format!("msg_{id}"),
        role: "assistant",
        status: "completed",
        r#type: "message",
    };
    raw(&message).map_err(|_| FoldError::Unreadable("an output item"))
}

fn raw(item: &impl Serialize) -> serde_json::Result<Box<RawValue>> {
    serde_json::value::to_raw_value(item)
}
