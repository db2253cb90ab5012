//! A stand-in for llama-server whose every step can be held back, and which remembers what it was sent.
//!
//! It speaks as much HTTP as the gateway needs: requests with a `Content-Length`, answers in chunks. Each request
//! that would occupy a slot follows a plan, a list of [`Step`]s.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PATIENCE, eventually};

/// One step of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Waits until the test calls [`Stub::release`].
    Gate,
    /// Status and headers of a stream.
    Head,
    /// That many tokens, one event each, as chat deltas with running timings.
    Tokens(u64),
    /// Finish chunk, usage chunk and `[DONE]`.
    Finish,
    /// These bytes, as they are, as one piece of the body.
    Bytes(Vec<u8>),
    /// The end of the body.
    End,
    /// A whole answer that is no stream: status and JSON body.
    Whole(u16, Value),
    /// Closes the connection in the middle of the body.
    Cut,
    /// Nothing more, for as long as the connection lasts.
    Silence,
}

/// How the endpoints that count a prompt answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Counting {
    /// With [`PROMPT_TOKENS`].
    #[default]
    Claimed,
    /// With so many tokens.
    Tokens(u64),
    /// 404.
    Missing,
    /// Not at all.
    Silent,
}

/// The prompt tokens that every answer of the stub claims.
pub(crate) const PROMPT_TOKENS: u64 = 7;

/// What an ordinary stream of `n` tokens does.
pub(crate) fn stream_of(n: u64) -> Vec<Step> {
    vec![Step::Head, Step::Tokens(n), Step::Finish, Step::End]
}

/// A stream that has begun and stops at a gate.
pub(crate) fn held() -> Vec<Step> {
    vec![Step::Head, Step::Tokens(1), Step::Gate, Step::Tokens(1), Step::Finish, Step::End]
}

/// One request as it arrived, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// Request line and headers, byte for byte.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Tokens sent so far.
    pub(crate) tokens: u64,
    /// It waits at a gate.
    pub(crate) held: bool,
    /// The plan went through to its end.
    pub(crate) finished: bool,
    /// Its slot is free again.
    freed: bool,
    /// When the gateway closed the connection before that.
    pub(crate) closed: Option<Instant>,
    releases: usize,
}

impl Recorded {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Header lines as `name` (lower case) and value, in order.
    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
    }

    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }
}

#[derive(Default)]
struct Inner {
    slots: u32,
    loading: bool,
    counting: Counting,
    plan: Vec<Step>,
    /// Plans for the next requests, before `plan` serves the rest.
    next_plans: VecDeque<Vec<Step>>,
    requests: Vec<Recorded>,
    busy: usize,
    most_busy: usize,
    /// Heads of everything else that was asked, probes included.
    other: Vec<String>,
}

impl Inner {
    /// Each request that is being answered occupies a slot, and decodes a token when it sends one.
    fn slots_reply(&self) -> Value {
        let live = |recorded: &Recorded| !recorded.freed && recorded.closed.is_none();
        let mut busy = self.requests.iter().enumerate().filter(|(_, recorded)| live(recorded));
        let slot = |id| match busy.next() {
            None => json!({"id": id, "n_ctx": 2048, "is_processing": false}),
            Some((task, recorded)) => json!({
                "id": id, "n_ctx": 2048, "is_processing": true, "id_task": task + 1,
                "n_prompt_tokens_processed": PROMPT_TOKENS, "next_token": [{"n_decoded": recorded.tokens}],
            }),
        };
        (0..self.slots).map(slot).collect()
    }

    fn free(&mut self, index: usize) {
        if !std::mem::replace(&mut self.requests[index].freed, true) {
            self.busy -= 1;
        }
    }
}

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let value = change(&mut self.lock());
        self.changed.notify_all();
        value
    }
}

/// A running stub. Its threads end with the test process.
pub(crate) struct Stub {
    state: Arc<State>,
    address: SocketAddr,
}

impl Stub {
    /// One with so many slots, whose answers are three tokens long.
    pub(crate) fn start(slots: u32) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), slots)
    }

    /// The same at a given address.
    pub(crate) fn start_at(address: SocketAddr, slots: u32) -> Self {
        let state = Arc::new(State::default());
        state.update(|inner| (inner.slots, inner.plan) = (slots, stream_of(3)));
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                std::thread::spawn(move || serve(&state, stream));
            }
        });
        Self { state, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What requests do from now on.
    pub(crate) fn plan(&self, steps: Vec<Step>) {
        self.state.update(|inner| inner.plan = steps);
    }

    /// What the next request does; further calls are for the ones after it.
    pub(crate) fn plan_next(&self, steps: Vec<Step>) {
        self.state.update(|inner| inner.next_plans.push_back(steps));
    }

    /// Answers 503 to everything, as llama-server does while it loads its model.
    pub(crate) fn set_loading(&self, loading: bool) {
        self.state.update(|inner| inner.loading = loading);
    }

    pub(crate) fn set_counting(&self, counting: Counting) {
        self.state.update(|inner| inner.counting = counting);
    }

    /// How often it was asked to count a prompt.
    pub(crate) fn counted(&self) -> usize {
        self.state.lock().other.iter().filter(|head| counts(head.split(' ').nth(1).unwrap_or_default())).count()
    }

    pub(crate) fn set_slots(&self, slots: u32) {
        self.state.update(|inner| inner.slots = slots);
    }

    /// Opens the gate at which request `index` waits, or the next one that it comes to.
    pub(crate) fn release(&self, index: usize) {
        self.state.update(|inner| inner.requests[index].releases += 1);
    }

    /// The requests that arrived so far.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.state.lock().requests.clone()
    }

    /// How many requests arrived so far.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().requests.len()
    }

    /// Paths and heads of everything that was no request for a slot.
    pub(crate) fn other_heads(&self) -> Vec<String> {
        self.state.lock().other.clone()
    }

    /// The seeds of the requests in the order in which they came: by them a test tells requests apart.
    pub(crate) fn seeds(&self) -> Vec<u64> {
        self.requests().iter().map(|recorded| recorded.json()["seed"].as_u64().unwrap()).collect()
    }

    /// The most requests that were ever being answered at one time.
    pub(crate) fn most_busy(&self) -> usize {
        self.state.lock().most_busy
    }

    pub(crate) fn busy(&self) -> usize {
        self.state.lock().busy
    }

    /// Waits until request `index` is there and `condition` holds for it.
    pub(crate) fn wait(&self, index: usize, condition: impl Fn(&Recorded) -> bool) -> Recorded {
        let start = Instant::now();
        let mut inner = self.state.lock();
        loop {
            if let Some(recorded) = inner.requests.get(index).filter(|recorded| condition(recorded)) {
                return recorded.clone();
            }
            assert!(start.elapsed() < PATIENCE, "request {index} never came to that: {:?}", inner.requests.get(index));
            inner = self.state.changed.wait_timeout(inner, Duration::from_millis(100)).unwrap().0;
        }
    }

    /// Waits until request `index` stands at a gate.
    pub(crate) fn wait_held(&self, index: usize) {
        self.wait(index, |recorded| recorded.held);
    }

    /// Waits until the gateway has closed the connection of request `index`.
    pub(crate) fn wait_closed(&self, index: usize) -> Instant {
        self.wait(index, |recorded| recorded.closed.is_some()).closed.unwrap()
    }

    /// Waits until so many requests have arrived.
    pub(crate) fn wait_count(&self, count: usize) {
        eventually("the requests arrive at the stub", || (self.count() >= count).then_some(()));
    }
}

/// Reads requests off one connection; each is answered by a thread of its own, so that a close is seen at once.
fn serve(state: &Arc<State>, stream: TcpStream) {
    stream.set_nodelay(true).ok();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut current: Option<usize> = None;
    while let Some((head, body)) = read_request(&mut reader) {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let method = head.split(' ').next().unwrap_or_default();
        if method != "POST" || !takes_slot(&path) {
            answer_other(state, &stream, head, &path);
            continue;
        }
        let (index, plan) = state.update(|inner| {
            let recorded = Recorded {
                head,
                body,
                tokens: 0,
                held: false,
                finished: false,
                freed: false,
                closed: None,
                releases: 0,
            };
            inner.requests.push(recorded);
            inner.busy += 1;
            inner.most_busy = inner.most_busy.max(inner.busy);
            (inner.requests.len() - 1, inner.next_plans.pop_front().unwrap_or_else(|| inner.plan.clone()))
        });
        current = Some(index);
        let (state, stream) = (state.clone(), stream.try_clone().unwrap());
        std::thread::spawn(move || {
            let finished = follow(&state, &stream, index, &plan);
            state.update(|inner| {
                inner.free(index);
                inner.requests[index].finished = finished;
            });
        });
    }
    if let Some(index) = current {
        let now = Instant::now();
        state.update(|inner| {
            let recorded = &mut inner.requests[index];
            recorded.closed = (!recorded.finished).then_some(now);
        });
    }
}

fn takes_slot(path: &str) -> bool {
    matches!(
        path,
        "/v1/chat/completions" | "/v1/completions" | "/v1/responses" | "/v1/messages" | "/v1/embeddings" | "/v1/rerank"
    )
}

/// Whether this is where llama-server counts the tokens of a conversation.
fn counts(path: &str) -> bool {
    path.ends_with("/input_tokens") || path.ends_with("/count_tokens")
}

/// Reads a request with its body; `None` at the end of the connection.
pub(crate) fn read_request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn answer_other(state: &State, stream: &TcpStream, head: String, path: &str) {
    let (loading, slots, counting) = state.update(|inner| {
        inner.other.push(head);
        (inner.loading, inner.slots, inner.counting)
    });
    let (status, body) = match path {
        _ if loading => (503, json!({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})),
        "/health" => (200, json!({"status": "ok"})),
        _ if counts(path) => match counting {
            Counting::Claimed => (200, json!({"input_tokens": PROMPT_TOKENS})),
            Counting::Tokens(tokens) => (200, json!({"input_tokens": tokens})),
            Counting::Missing => (404, json!({"error": {"code": 404, "message": "File Not Found"}})),
            Counting::Silent => return,
        },
        "/props" => (
            200,
            json!({"total_slots": slots, "default_generation_settings": {"n_ctx": 2048}, "model_alias": "stub",
                   "build_info": "stub", "model_path": "/stub.gguf", "chat_template": ""}),
        ),
        "/slots" => (200, state.lock().slots_reply()),
        "/v1/models" => (
            200,
            json!({"object": "list", "data": [{"id": "stub", "object": "model", "created": 1, "owned_by": "llamacpp",
                   "meta": {"n_ctx": 2048, "n_ctx_train": 2048, "n_params": 1, "size": 1}}]}),
        ),
        _ => (404, json!({"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}})),
    };
    write_whole(stream, status, &body).ok();
}

fn write_whole(mut stream: &TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} Stub\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n\
         Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Follows a plan; tells whether it came to its end.
fn follow(state: &State, stream: &TcpStream, index: usize, plan: &[Step]) -> bool {
    plan.iter().all(|step| take_step(state, stream, index, step).unwrap_or(false))
}

fn take_step(state: &State, mut stream: &TcpStream, index: usize, step: &Step) -> std::io::Result<bool> {
    // As at llama-server, a slot is free when the last result is sent, not when everybody has read it.
    if matches!(step, Step::Finish | Step::Whole(..) | Step::Cut) {
        state.update(|inner| inner.free(index));
    }
    match step {
        Step::Gate => return Ok(wait_at_gate(state, index)),
        Step::Head => stream.write_all(
            b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nX-Accel-Buffering: no\r\n\
              Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=100\r\n\r\n",
        )?,
        Step::Tokens(n) => {
            for _ in 0..*n {
                // Counted before it is sent: a test that saw the token must find it counted.
                let sent = state.update(|inner| {
                    inner.requests[index].tokens += 1;
                    inner.requests[index].tokens
                });
                write_chunk(stream, &token_event(sent))?;
            }
        }
        Step::Finish => {
            let sent = state.lock().requests[index].tokens;
            write_chunk(stream, &event(r#"[{"finish_reason":"stop","index":0,"delta":{}}]"#, ""))?;
            let total = sent + PROMPT_TOKENS;
            let usage = format!(
                r#","usage":{{"completion_tokens":{sent},"prompt_tokens":{PROMPT_TOKENS},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":2}}}}"#
            );
            write_chunk(stream, &event("[]", &(usage + &timings(sent))))?;
            write_chunk(stream, "data: [DONE]\n\n")?;
        }
        Step::Bytes(bytes) => {
            write!(stream, "{:x}\r\n", bytes.len())?;
            stream.write_all(bytes)?;
            stream.write_all(b"\r\n")?;
        }
        Step::End => stream.write_all(b"0\r\n\r\n")?,
        Step::Whole(status, body) => write_whole(stream, *status, body)?,
        Step::Cut => stream.shutdown(std::net::Shutdown::Both)?,
        Step::Silence => {
            let mut inner = state.lock();
            while inner.requests[index].closed.is_none() {
                inner = state.changed.wait_timeout(inner, Duration::from_millis(100)).unwrap().0;
            }
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits for a release; `false` when the connection was closed first.
fn wait_at_gate(state: &State, index: usize) -> bool {
    let mut inner = state.lock();
    inner.requests[index].held = true;
    state.changed.notify_all();
    while inner.requests[index].releases == 0 && inner.requests[index].closed.is_none() {
        inner = state.changed.wait_timeout(inner, Duration::from_millis(100)).unwrap().0;
    }
    let recorded = &mut inner.requests[index];
    recorded.held = false;
    recorded.releases = recorded.releases.saturating_sub(1);
    recorded.closed.is_none()
}

fn write_chunk(mut stream: &TcpStream, text: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())
}

// The order of keys is llama-server's own; `timings` is always the last one.
fn timings(sent: u64) -> String {
    let prompt = PROMPT_TOKENS - 2;
    format!(
        r#","timings":{{"cache_n":2,"prompt_n":{prompt},"prompt_ms":1.5,"prompt_per_token_ms":1.5,"prompt_per_second":1.5,"predicted_n":{sent},"predicted_ms":1.5,"predicted_per_token_ms":1.5,"predicted_per_second":1.5}}"#
    )
}

fn event(choices: &str, further: &str) -> String {
    format!(
        "data: {{\"choices\":{choices},\"created\":1,\"id\":\"chatcmpl-stub\",\"model\":\"stub\",\
         \"system_fingerprint\":\"stub\",\"object\":\"chat.completion.chunk\"{further}}}\n\n"
    )
}

/// The event of the `sent`th token: its text is ` tN`.
fn token_event(sent: u64) -> String {
    let choices = format!(r#"[{{"finish_reason":null,"index":0,"delta":{{"content":" t{sent}"}}}}]"#);
    event(&choices, &timings(sent))
}
