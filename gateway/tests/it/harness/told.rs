//! What a client is told of the tokens of its request, on every surface, streamed or not.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use super::client::{Answer, Conn};

/// Tokens of one request, in the client's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Cached ones included.
    pub(crate) prompt: u64,
    pub(crate) cached: u64,
    pub(crate) completion: u64,
}

impl std::ops::AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.completion += other.completion;
    }
}

/// What a client knows when it has read as much as it wanted or could.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) status: u16,
    /// When it had its first token, its second one, and so on; several may have come at once. Without a stream: none.
    pub(crate) received: Vec<Instant>,
    /// What the whole answer says that it took; `None`: the client did not see the end.
    pub(crate) tokens: Option<Tokens>,
}

/// How far a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// To the end.
    End,
    /// Until it has so many tokens; then it leaves, and says so by FIN or by RST.
    Tokens(usize, Leaving),
}

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    ByFin,
    ByRst,
}

impl Leaving {
    /// Closes the connection; tells when.
    pub(crate) fn go(self, conn: Conn) -> Instant {
        match self {
            Self::ByFin => conn.close(),
            Self::ByRst => conn.reset(),
        }
        Instant::now()
    }
}

/// Reads an answer and calls `token` for each token; `choices` is the `n` of the request.
pub(crate) fn read(answer: Answer, choices: usize, until: Until, mut token: impl FnMut()) -> Told {
    let (id, status) = (answer.head.request_id(), answer.head.status);
    let mut told = Told { id, status, received: Vec::new(), tokens: None };
    if answer.head.header("content-type") == Some("text/event-stream") {
        read_stream(&mut told, answer, choices, until, &mut token);
    } else if let Ok(reply) = answer.reply()
        && status == 200
    {
        told.tokens = usage_of(&reply.json());
    }
    told
}

/// The counts of a stream as its client adds them up.
#[derive(Default)]
struct Sums {
    /// The running count and the final usage of each choice of each prompt.
    running: BTreeMap<u64, u64>,
    usage: BTreeMap<u64, Tokens>,
    /// Events with output where there is no running count.
    outputs: u64,
    whole: Option<Tokens>,
    over: bool,
}

fn read_stream(told: &mut Told, mut answer: Answer, choices: usize, until: Until, token: &mut dyn FnMut()) {
    let mut sums = Sums::default();
    while let Ok(Some(event)) = answer.event() {
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
        match serde_json::from_str(data) {
            Ok(event) => sums.add(&event),
            Err(_) => sums.over |= data == "[DONE]",
        }
        let tokens = sums.outputs.max(sums.running.values().sum()) as usize;
        told.received.resize_with(tokens.max(told.received.len()), || {
            token();
            Instant::now()
        });
        if let Until::Tokens(enough, leaving) = until
            && tokens >= enough
            && !sums.over
        {
            leaving.go(answer.conn);
            return;
        }
    }
    told.tokens = sums.whole(choices);
}

impl Sums {
    fn add(&mut self, event: &Value) {
        let kind = event["type"].as_str().unwrap_or_default();
        let choice = event["choices"][0]["index"].as_u64();
        if let Some(predicted) = event["timings"]["predicted_n"].as_u64() {
            let running = self.running.entry(choice.unwrap_or_default()).or_default();
            *running = predicted.max(*running);
        }
        self.outputs += u64::from(matches!(kind, "content_block_delta" | "response.output_text.delta"));
        match kind {
            "message_start" => self.whole = usage_of(&event["message"]),
            "message_delta" => {
                let completion = event["usage"]["output_tokens"].as_u64().unwrap();
                self.whole = Some(Tokens { completion, ..self.whole.unwrap_or_default() });
            }
            "message_stop" => self.over = true,
            "response.completed" => (self.whole, self.over) = (usage_of(&event["response"]), true),
            _ => match (usage_of(event), choice) {
                (Some(usage), Some(choice)) => drop(self.usage.insert(choice, usage)),
                (Some(usage), None) => self.whole = Some(usage),
                _ => {}
            },
        }
    }

    /// Each prompt once, the output of all its choices.
    fn whole(&self, choices: usize) -> Option<Tokens> {
        if !self.over {
            return None;
        }
        if self.usage.is_empty() {
            return self.whole;
        }
        let mut whole = Tokens::default();
        for (index, usage) in &self.usage {
            whole += Tokens { completion: usage.completion, ..Tokens::default() };
            if index % choices as u64 == 0 {
                let of_prompt = |each: fn(&Tokens) -> u64| {
                    self.usage.range(index..&(index + choices as u64)).map(move |(_, usage)| each(usage))
                };
                whole.prompt += of_prompt(|usage| usage.prompt).max().unwrap_or_default();
                whole.cached += of_prompt(|usage| usage.cached).min().unwrap_or_default();
            }
        }
        Some(whole)
    }
}

/// The `usage` of a reply, in the words of whichever surface.
fn usage_of(reply: &Value) -> Option<Tokens> {
    let usage = reply.get("usage").filter(|usage| usage.is_object())?;
    let number = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64);
    let completion = number("/completion_tokens").or(number("/output_tokens")).unwrap_or_default();
    if let Some(read) = number("/cache_read_input_tokens") {
        return Some(Tokens { prompt: number("/input_tokens")? + read, cached: read, completion });
    }
    let cached = number("/prompt_tokens_details/cached_tokens").or(number("/input_tokens_details/cached_tokens"));
    let prompt = number("/prompt_tokens").or(number("/input_tokens"))?;
    Some(Tokens { prompt, cached: cached.unwrap_or_default(), completion })
}
