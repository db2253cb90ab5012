//! What the gateway must know of a request's prompt without llama-server's template: which request it is, how large it
//! is, the texts that llama-server tokenizes as they are, and how to keep it out of llama-server's cache.

use bytes::Bytes;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::json::{self, Members};
use super::rule::Kind;
use super::{Ask, Surface};
use crate::error::{Reason, Rejection};

/// The fields that become the prompt.
const PROMPT_FIELDS: [&str; 9] =
    ["messages", "prompt", "input", "instructions", "system", "tools", "query", "documents", "texts"];

/// Which request a body is: those that have the same one ask for the same thing by the same surface. 128 bits of
/// SHA-256, so that nobody can make two that collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub(crate) [u8; 16]);

/// What llama-server makes the prompts of a request of, where it applies no template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces {
    /// Body for `POST /tokenize` whose reply holds the tokens of all texts; `None` if there is no text.
    pub texts: Option<Bytes>,
    /// Tokens that the client gave as numbers.
    pub numbers: u64,
    /// Prompts that begin with a text: to each, llama-server adds the tokens with which the model wants texts to begin
    /// and end. Those are not in the reply for `texts`.
    pub opened: u64,
}

impl Surface {
    /// The field that holds the prompt, for errors that name it.
    pub fn prompt_field(self) -> &'static str {
        match self {
            Self::Completions => "prompt",
            Self::Responses | Self::Embeddings => "input",
            Self::Rerank => "documents",
            Self::Tokenize => "content",
            Self::Detokenize => "tokens",
            Self::Chat | Self::Messages | Self::CountTokens | Self::ApplyTemplate => "messages",
        }
    }

    /// Whether llama-server can be told to leave its cache alone. On the way of an Anthropic message into a chat it
    /// forgets all fields but a few, and `cache_prompt` is none of those.
    pub fn can_avoid_cache(self) -> bool {
        self != Self::Messages
    }
}

/// The refusal of a request whose prompt must stay out of the shared cache on a surface where it cannot.
pub fn cached_only() -> Rejection {
    let text = "This prompt must not share the model server's cache with others, and the Messages API has no way to \
                say so. Use /v1/chat/completions or /v1/responses.";
    Rejection::new(Reason::NotSupported, text)
}

impl Ask {
    /// Which request this is.
    pub fn fingerprint(&self) -> Fingerprint {
        let hash = Sha256::new().chain_update(self.surface.label()).chain_update([0]).chain_update(&self.upstream_body);
        let mut fingerprint = [0; 16];
        fingerprint.iter_mut().zip(hash.finalize()).for_each(|(byte, hashed)| *byte = hashed);
        Fingerprint(fingerprint)
    }

    /// Bytes of everything that becomes the prompt, as written in the body.
    pub fn prompt_bytes(&self) -> usize {
        let Some(Members(members)) = self.members() else { return self.upstream_body.len() };
        let size = |field: &str| -> usize {
            members.iter().filter(|(name, _)| name == field).map(|(_, value)| value.get().len()).sum()
        };
        let all: usize = PROMPT_FIELDS.iter().map(|field| size(field)).sum();
        // Each document is read together with the query.
        let again = if self.surface == Surface::Rerank { size("query") } else { 0 };
        all + again * (self.prompts as usize).saturating_sub(1)
    }

    /// What the prompts are made of; `None` on surfaces with a template, and for prompts of a shape that llama-server
    /// refuses or that is not counted here.
    pub fn pieces(&self) -> Option<Pieces> {
        if !matches!(self.surface, Surface::Completions | Surface::Embeddings) {
            return None;
        }
        let Members(members) = self.members()?;
        let field = self.surface.prompt_field();
        let (_, value) = members.iter().find(|(name, _)| name == field)?;
        Cutter::new(value.get().len()).cut(value)
    }

    /// The body for llama-server with its cache turned off for this request: nothing of another prompt is used.
    ///
    /// # Errors
    /// llama-server cannot be told on this surface.
    pub fn without_cache(&self) -> Result<Bytes, Rejection> {
        if !self.surface.can_avoid_cache() {
            return Err(cached_only());
        }
        let Some(open) = self.upstream_body.strip_suffix(b"}") else { return Ok(self.upstream_body.clone()) };
        // Of two members with one name llama-server takes the last one, whatever the operator let pass before it.
        let comma: &[u8] = if open == b"{" { b"" } else { b"," };
        Ok([open, comma, b"\"cache_prompt\":false}"].concat().into())
    }

    fn members(&self) -> Option<Members<'_>> {
        serde_json::from_slice(&self.upstream_body).ok()
    }
}

/// Takes prompts apart.
struct Cutter {
    /// `{"content":[` and the texts so far, each with a comma behind it.
    texts: Vec<u8>,
    numbers: u64,
    opened: u64,
}

impl Cutter {
    const HEAD: &[u8] = b"{\"content\":[";
    const TAIL: &[u8] = b"],\"add_special\":false,\"parse_special\":true}";

    fn new(size: usize) -> Self {
        let mut texts = Vec::with_capacity(size + Self::HEAD.len() + Self::TAIL.len());
        texts.extend_from_slice(Self::HEAD);
        Self { texts, numbers: 0, opened: 0 }
    }

    /// The value of `prompt` or `input`: one prompt, or an array of them. An array with a number in it is one.
    fn cut(mut self, value: &RawValue) -> Option<Pieces> {
        if Kind::of(value) == Kind::Array && !json::items(value)?.numbers {
            json::each(value, &mut |prompt| self.prompt(prompt))?;
        } else {
            self.prompt(value)?;
        }
        let texts = (self.texts.len() > Self::HEAD.len()).then(|| {
            self.texts.pop();
            self.texts.extend_from_slice(Self::TAIL);
            self.texts.into()
        });
        Some(Pieces { texts, numbers: self.numbers, opened: self.opened })
    }

    /// One prompt: a text, or texts and tokens one after the other.
    fn prompt(&mut self, value: &RawValue) -> Option<()> {
        if Kind::of(value) != Kind::Array {
            self.opened += 1;
            return self.piece(value);
        }
        let mut first = true;
        json::each(value, &mut |piece| {
            if std::mem::take(&mut first) && Kind::of(piece) == Kind::Text {
                self.opened += 1;
            }
            self.piece(piece)
        })
    }

    fn piece(&mut self, value: &RawValue) -> Option<()> {
        match Kind::of(value) {
            Kind::Text => {
                self.texts.extend_from_slice(value.get().as_bytes());
                self.texts.push(b',');
            }
            Kind::Number => self.numbers += 1,
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
#[path = "prompt_tests.rs"]
mod tests;
