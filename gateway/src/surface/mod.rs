//! What differs between the API surfaces, and nothing else.
//!
//! Takes a request body and gives an [`Ask`]: what the gateway must know of it, and the body that llama-server
//! gets, built from an allow-list of fields.

#[cfg(test)]
mod document;
pub mod fields;
mod json;
pub mod models;
mod prompt;
mod rule;
mod schema;
mod table;
pub mod usage;

pub use prompt::{Fingerprint, Pieces, cached_only};

use bytes::Bytes;

use crate::error::Dialect;
use crate::queue::Prefix;

/// One API that clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surface {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/messages` (Anthropic)
    Messages,
    /// `POST /v1/messages/count_tokens` (Anthropic)
    CountTokens,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/rerank`
    Rerank,
    /// `POST /tokenize`
    Tokenize,
    /// `POST /detokenize`
    Detokenize,
    /// `POST /apply-template`
    ApplyTemplate,
}

impl Surface {
    /// All surfaces: metric labels are made from this list and from nothing else.
    pub const ALL: [Self; 10] = [
        Self::Chat,
        Self::Completions,
        Self::Responses,
        Self::Messages,
        Self::CountTokens,
        Self::Embeddings,
        Self::Rerank,
        Self::Tokenize,
        Self::Detokenize,
        Self::ApplyTemplate,
    ];

    /// The name in metrics, logs, configuration and the ledger.
    pub fn label(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
            Self::Tokenize => "tokenize",
            Self::Detokenize => "detokenize",
            Self::ApplyTemplate => "apply_template",
        }
    }

    /// The path at llama-server: a constant, never what the client sent.
    pub fn upstream_path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Embeddings => "/v1/embeddings",
            Self::Rerank => "/v1/rerank",
            Self::Tokenize => "/tokenize",
            Self::Detokenize => "/detokenize",
            Self::ApplyTemplate => "/apply-template",
        }
    }

    /// The error shape that clients of this surface expect.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Messages | Self::CountTokens => Dialect::Anthropic,
            _ => Dialect::OpenAi,
        }
    }

    /// Whether llama-server can answer as a stream of events.
    pub fn streams(self) -> bool {
        matches!(self, Self::Chat | Self::Completions | Self::Responses | Self::Messages)
    }

    /// Whether a request occupies a slot. The others are answered by llama-server's HTTP threads alone; they
    /// neither queue nor appear in the ledger.
    pub fn takes_slot(self) -> bool {
        self.streams() || matches!(self, Self::Embeddings | Self::Rerank)
    }
}

/// What the gateway understood of a request body, and the body that llama-server gets.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The surface it came by.
    pub surface: Surface,
    /// The model as the client named it.
    pub model: Option<String>,
    /// The client wants a stream of events.
    pub stream: bool,
    /// llama-server is asked for a stream: always, where it can stream and the stream can be folded exactly.
    pub upstream_streams: bool,
    /// The client asked for the usage chunk (`stream_options.include_usage`).
    pub include_usage: bool,
    /// The client asked for timings in every chunk (`timings_per_token`).
    pub timings_per_token: bool,
    /// How many prompts the request holds (an array of prompts or inputs holds several).
    pub prompts: u32,
    /// How many choices are generated for each prompt (`n`).
    pub choices: u32,
    /// Output tokens of each choice at most.
    pub output_cap: u32,
    /// How the output is drawn, where the client says so.
    pub sampling: Sampling,
    /// The beginning of the prompt.
    pub prefix: Prefix,
    /// The body for llama-server.
    pub upstream_body: Bytes,
}

/// How output is drawn: told to traces.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// The randomness.
    pub temperature: Option<f64>,
    /// Only so much of the distribution, of the most likely.
    pub top_p: Option<f64>,
}

impl Ask {
    /// How many sequences llama-server decodes at once for this request: one slot each.
    pub fn sequences(&self) -> u32 {
        self.prompts.saturating_mul(self.choices)
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    /// A request as the gateway reads it.
    pub(crate) fn ask(surface: Surface, body: &serde_json::Value) -> Ask {
        let requests = crate::config::Requests {
            max_output_tokens: 1000,
            max_json_depth: 64,
            white_space_keep_alive: false,
            extra_fields: std::collections::BTreeMap::default(),
        };
        let bounds = fields::Bounds::new(&requests).unwrap();
        fields::read(surface, &Bytes::from(body.to_string()), &bounds, 1000).unwrap()
    }

    /// What is known of a request when its reply comes, which llama-server streams.
    pub(crate) fn replied(surface: Surface, prompts: u32, choices: u32) -> Ask {
        Ask {
            surface,
            model: Some("smollm2".to_owned()),
            stream: false,
            upstream_streams: true,
            include_usage: false,
            timings_per_token: false,
            prompts,
            choices,
            output_cap: 100,
            sampling: Sampling::default(),
            prefix: Prefix::default(),
            upstream_body: Bytes::new(),
        }
    }

    /// A chat with one message.
    pub(crate) fn chat(text: &str) -> Ask {
        ask(Surface::Chat, &serde_json::json!({"messages": [{"role": "user", "content": text}]}))
    }
}
