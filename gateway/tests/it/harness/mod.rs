//! What the tests stand on: processes, clients, a stub llama-server with gates, and a proxy that breaks things.

pub(crate) mod chaos;
pub(crate) mod client;
pub(crate) mod collector;
pub(crate) mod crowd;
pub(crate) mod dice;
pub(crate) mod disk;
pub(crate) mod engine;
pub(crate) mod gateway;
pub(crate) mod issuer;
pub(crate) mod loadtest;
pub(crate) mod process;
mod self_test;
pub(crate) mod signer;
pub(crate) mod stub;
pub(crate) mod tap;
pub(crate) mod told;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take before a test fails: generous, since the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `poll` until it gives a value; panics when it never does.
pub(crate) fn eventually<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks `condition` until it holds.
pub(crate) fn eventually_true(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || condition().then_some(()));
}

/// The middle one of some measured times.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A chat that is not streamed.
pub(crate) fn chat(max_tokens: u32) -> Value {
    json!({"model": "test-model", "messages": [{"role": "user", "content": "Tell me about rivers."}],
           "max_tokens": max_tokens, "temperature": 0, "seed": 1})
}

/// A streamed chat.
pub(crate) fn chat_stream(max_tokens: u32) -> Value {
    with(chat(max_tokens), json!({"stream": true}))
}

/// `body` with the fields of `further` on top.
pub(crate) fn with(mut body: Value, further: Value) -> Value {
    let Value::Object(further) = further else { panic!("not an object: {further}") };
    body.as_object_mut().unwrap().extend(further);
    body
}
