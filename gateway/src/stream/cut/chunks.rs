//! Chat and text completions: each choice that still runs gets its finish reason and its usage.

use std::collections::BTreeSet;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::CUT_REASON;
use crate::stream::tally::{MAX_SEQUENCES, Tally, index_of};
use crate::stream::usage::{self, Usage};

/// What all chunks of a reply repeat, as it was printed.
#[derive(Debug, Deserialize)]
struct Frame {
    created: Box<RawValue>,
    id: Box<RawValue>,
    model: Box<RawValue>,
    system_fingerprint: Box<RawValue>,
}

/// What a stream of chunks has shown.
#[derive(Debug)]
pub(in crate::stream) struct Chunks {
    chat: bool,
    frame: Option<Frame>,
    /// Sequences whose finish reason was shown.
    finished: BTreeSet<usize>,
}

impl Chunks {
    pub(super) fn new(chat: bool) -> Self {
        Self { chat, frame: None, finished: BTreeSet::new() }
    }

    pub(super) fn event(&mut self, data: &[u8]) {
        if self.frame.is_none() {
            self.frame = serde_json::from_slice(data).ok();
        }
        if memmem::find(data, b"\"finish_reason\":\"").is_some()
            && let Some(index) = index_of(data).filter(|index| *index < MAX_SEQUENCES)
        {
            self.finished.insert(index);
        }
    }

    pub(super) fn ending(&self, tally: &Tally, timings: &str) -> Option<String> {
        let frame = self.frame.as_ref()?;
        // llama-server gives each sequence timings of its own; of several, only the newest are known.
        let timings = if tally.single() { timings } else { "" };
        let open = tally.unfinished();
        // A chat's finish chunk is followed at once by its usage: whose came last is waiting for it.
        let (awaiting, running): (Vec<_>, Vec<_>) = open.partition(|(index, _)| self.finished.contains(index));
        let mut out = String::new();
        for (_, usage) in awaiting {
            out += &frame.usage_chunk(usage, timings);
        }
        for (index, usage) in running {
            if self.chat {
                out += &frame.finish_chunk(index);
                out += &frame.usage_chunk(usage, timings);
            } else {
                out += &frame.last_text(index, usage, timings);
            }
        }
        Some(out + "data: [DONE]\n\n")
    }
}

// The order of members is llama-server's.
impl Frame {
    fn finish_chunk(&self, index: usize) -> String {
        let Self { created, id, model, system_fingerprint } = self;
        format!(
            "data: {{\"choices\":[{{\"finish_reason\":\"length\",\"index\":{index},\"delta\":{{}}}}],\
             \"created\":{created},\"id\":{id},\"model\":{model},\"system_fingerprint\":{system_fingerprint},\
             \"object\":\"chat.completion.chunk\"{CUT_REASON}}}\n\n"
        )
    }

    fn usage_chunk(&self, usage: Usage, timings: &str) -> String {
        let Self { created, id, model, system_fingerprint } = self;
        let usage = usage::written(usage);
        format!(
            "data: {{\"choices\":[],\"created\":{created},\"id\":{id},\"model\":{model},\
             \"system_fingerprint\":{system_fingerprint},\"object\":\"chat.completion.chunk\",\
             \"usage\":{usage}{timings}}}\n\n"
        )
    }

    fn last_text(&self, index: usize, usage: Usage, timings: &str) -> String {
        let Self { created, id, model, system_fingerprint } = self;
        let usage = usage::written(usage);
        format!(
            "data: {{\"choices\":[{{\"text\":\"\",\"index\":{index},\"logprobs\":null,\"finish_reason\":\"length\"}}],\
             \"created\":{created},\"model\":{model},\"system_fingerprint\":{system_fingerprint},\
             \"object\":\"text_completion\",\"usage\":{usage},\"id\":{id}{CUT_REASON}{timings}}}\n\n"
        )
    }
}
