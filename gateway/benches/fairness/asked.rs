//! One streamed chat as its client sees it.

use std::io::Result;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::client;

/// One request and when its tokens arrived.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) sent: Instant,
    /// When each event with text arrived: SmolLM2 gives one token an event, but for a rare character of several.
    pub(crate) texts: Vec<Instant>,
    pub(crate) answer: String,
    /// Of the prompt, by llama-server's usage.
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
}

impl Asked {
    /// Time to first token (TTFT): from sending the request to the first event with text.
    pub(crate) fn first_token(&self) -> Option<Duration> {
        self.texts.first().map(|first| first.duration_since(self.sent))
    }
}

/// A streamed chat of exactly `tokens` output tokens.
pub(crate) fn chat(messages: &Value, tokens: u32) -> Value {
    json!({"model": "test-model", "messages": messages, "max_tokens": tokens, "ignore_eos": true, "temperature": 0,
           "stream": true, "stream_options": {"include_usage": true}})
}

/// Sends a streamed chat and reads on to its end. What had arrived when the stream broke is kept.
pub(crate) fn ask(gateway: SocketAddr, key: &str, body: &Value) -> Asked {
    let mut asked =
        Asked { sent: Instant::now(), texts: Vec::new(), answer: String::new(), prompt_tokens: 0, cached_tokens: 0 };
    // The end of a phase breaks what still runs.
    read(gateway, key, body, &mut asked).ok();
    asked
}

fn read(gateway: SocketAddr, key: &str, body: &Value, asked: &mut Asked) -> Result<()> {
    let request = client::request("/v1/chat/completions", Some(key), body.to_string().as_bytes());
    let mut answer = client::exchange(gateway, &request)?;
    if answer.head.status != 200 {
        panic!("the gateway refused a request: {}", answer.reply()?.text());
    }
    while let Some(event) = answer.json_event()? {
        assert!(event.get("error").is_none(), "the gateway gave up a stream: {event}");
        if let Some(text) = event["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
            asked.texts.push(Instant::now());
            asked.answer.push_str(text);
        }
        if let Some(tokens) = event["usage"]["prompt_tokens"].as_u64() {
            asked.prompt_tokens = tokens;
            asked.cached_tokens = event["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
        }
    }
    Ok(())
}

/// The smallest of `times` that is not below `share` of them, in seconds: the nearest-rank percentile.
pub(crate) fn percentile(times: &[Duration], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).map_or(f64::NAN, Duration::as_secs_f64)
}
