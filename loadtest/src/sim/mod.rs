//! A simulated llama-server: its API, its slots and its manners, without a model or a GPU (docs/simulator.md).
//!
//! - `args`: the command's arguments
//! - `profile`: how fast it is
//! - `words`: text, tokens, replies
//! - `model`: slots, queue, prompt cache and passes; pure
//! - `engine`: the model in real time
//! - `fault`: what can be made to go wrong
//! - `api`: requests and replies in llama-server's shapes
//! - `server`: HTTP

mod api;
mod args;
mod engine;
pub mod fault;
pub mod model;
pub mod profile;
mod server;
#[cfg(test)]
mod tests;
pub mod words;

pub use args::{Args, run};
pub use profile::{Expected, Profile};
pub use server::serve;

/// How a simulator is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// How fast it is, and its model's name.
    pub profile: Profile,
    /// The key that it wants, if it wants one.
    pub key: Option<String>,
    /// Whether it has `/v1/embeddings`.
    pub embeddings: bool,
    /// Whether it has `/v1/rerank`.
    pub rerank: bool,
    /// Tokens of a usual reply that nothing else ends; 0 for replies that go on to their limit.
    pub reply_tokens: u64,
    /// How many tokens of each reply, from the first, are thoughts.
    pub reasoning_tokens: u64,
    /// What goes wrong with every n-th request.
    pub fault: Option<fault::Every>,
}

impl Options {
    /// A simulator of this profile in which nothing goes wrong.
    pub fn new(profile: Profile) -> Self {
        let (key, fault) = (None, None);
        Self { profile, key, embeddings: false, rerank: false, reply_tokens: 256, reasoning_tokens: 0, fault }
    }
}
