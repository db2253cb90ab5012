//! What chat and text completions have in common: chunks that name their reply, and the reply around the choices.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{FoldError, Usage, to_bytes};
use crate::ledger::Count;

/// A chunk with pieces `P` of its choices.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a, P: Deserialize<'de>"))]
pub(super) struct Chunk<'a, P> {
    #[serde(default = "Vec::new")]
    pub(super) choices: Vec<P>,
    #[serde(default)]
    created: i64,
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    model: Cow<'a, str>,
    #[serde(borrow, default)]
    system_fingerprint: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) timings: Option<&'a RawValue>,
    pub(super) prompt_progress: Option<IgnoredAny>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// The order of fields is llama-server's.
#[derive(Serialize)]
struct Reply<C> {
    choices: Vec<C>,
    created: i64,
    model: String,
    system_fingerprint: String,
    object: &'static str,
    usage: Usage,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Box<RawValue>>,
}

/// What the chunks say of their reply as a whole.
#[derive(Default)]
pub(super) struct Whole {
    created: i64,
    id: String,
    model: String,
    system_fingerprint: String,
    /// Where there are several choices, llama-server's reply has the timings of the first one.
    pub(super) timings: Option<Box<RawValue>>,
    done: bool,
}

impl Whole {
    /// Reads an event, of which `kind` is the name in errors; `None` is the end of the stream.
    pub(super) fn read<'a, P: Deserialize<'a>>(
        &mut self,
        data: &'a [u8],
        kind: &'static str,
    ) -> Result<Option<Chunk<'a, P>>, FoldError> {
        if data == b"[DONE]" {
            self.done = true;
            return Ok(None);
        }
        let chunk: Chunk<'a, P> = serde_json::from_slice(data).map_err(|_| FoldError::Unreadable(kind))?;
        if let Some(error) = chunk.error {
            return Err(FoldError::Upstream(error.get().to_owned()));
        }
        self.created = chunk.created;
        if self.id.is_empty() {
            self.id = chunk.id.to_string();
            self.model = chunk.model.to_string();
            self.system_fingerprint = chunk.system_fingerprint.to_string();
        }
        Ok(Some(chunk))
    }

    /// The reply, called an `object` of its kind.
    pub(super) fn reply(
        self,
        object: &'static str,
        choices: Vec<impl Serialize>,
        count: &Count,
    ) -> Result<Bytes, FoldError> {
        if !self.done || choices.is_empty() {
            return Err(FoldError::Incomplete);
        }
        let Self { created, id, model, system_fingerprint, timings, .. } = self;
        to_bytes(&Reply { choices, created, model, system_fingerprint, object, usage: Usage::from(count), id, timings })
    }
}
