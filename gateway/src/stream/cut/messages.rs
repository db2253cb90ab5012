//! Anthropic messages: blocks that are open are closed, then the message.

use memchr::memmem;
use serde::Deserialize;

use super::CUT_REASON;
use crate::stream::tally::Tally;

#[derive(Deserialize)]
struct Start<'a> {
    index: u32,
    #[serde(borrow)]
    content_block: Kind<'a>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    r#type: &'a str,
}

#[derive(Deserialize)]
struct Place {
    index: u32,
}

/// A content block that was not closed.
#[derive(Debug)]
struct Block {
    index: u32,
    /// A block of thoughts has a signature before it is closed; this one's was not shown.
    unsigned: bool,
}

/// What a stream of messages has shown.
#[derive(Debug, Default)]
pub(in crate::stream) struct Messages {
    begun: bool,
    open: Vec<Block>,
}

impl Messages {
    pub(super) fn event(&mut self, name: Option<&[u8]>, data: &[u8]) {
        self.begun |= name.is_some();
        match name {
            Some(b"content_block_start") => {
                if let Ok(Start { index, content_block }) = serde_json::from_slice(data) {
                    self.open.push(Block { index, unsigned: content_block.r#type == "thinking" });
                }
            }
            Some(b"content_block_delta") if memmem::find(data, b"\"type\":\"signature_delta\"").is_some() => {
                if let Some(at) = self.place(data)
                    && let Some(block) = self.open.get_mut(at)
                {
                    block.unsigned = false;
                }
            }
            Some(b"content_block_stop") => {
                if let Some(at) = self.place(data) {
                    self.open.remove(at);
                }
            }
            _ => {}
        }
    }

    /// Which open block an event speaks of.
    fn place(&self, data: &[u8]) -> Option<usize> {
        let Place { index } = serde_json::from_slice(data).ok()?;
        self.open.iter().position(|block| block.index == index)
    }

    pub(super) fn ending(&self, tally: &Tally) -> Option<String> {
        if !self.begun {
            return None;
        }
        let mut out = String::new();
        for Block { index, unsigned } in &self.open {
            if *unsigned {
                out += &format!(
                    "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{index},\
                     \"delta\":{{\"type\":\"signature_delta\",\"signature\":\"\"}}}}\n\n"
                );
            }
            out +=
                &format!("event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":{index}}}\n\n");
        }
        let output = tally.count().completion;
        out += &format!(
            "event: message_delta\ndata: {{\"type\":\"message_delta\",\
             \"delta\":{{\"stop_reason\":\"max_tokens\",\"stop_sequence\":null}},\
             \"usage\":{{\"output_tokens\":{output}}}{CUT_REASON}}}\n\n"
        );
        Some(out + "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
    }
}
