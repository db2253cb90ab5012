//! A stub llama-server: it costs less than any proxy before it, and its replies have the shape of the real one's.
//!
//! The prompt says what it shall do: `tokens=16 pause_us=20000`, which passes through any proxy. It answers
//! `/props` with as many slots as nobody needs, so that a proxy which admits by slots is not held up.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::Context;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

const SLOTS: u32 = 4096;
const MODELS: &str = r#"{"object":"list","data":[{"id":"stub","object":"model","created":1,"owned_by":"llamacpp","meta":{"n_ctx":4096}}]}"#;
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nX-Accel-Buffering: no\r\n\
    Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Each chunk of a stream ends like this.
const COMMON: &str = r#""created":1795448481,"id":"chatcmpl-xYuvDQpzc2qWF6YbhPLe5rAnhknc2baw","model":"stub","system_fingerprint":"b1-7e4c0a9","object":"chat.completion.chunk""#;

/// Serves on a free port, which it prints, until standard input ends.
pub(crate) fn run() -> anyhow::Result<()> {
    // Its parent holds the other end of the pipe: the stub does not outlive it.
    std::thread::spawn(|| {
        drop(std::io::stdin().read(&mut [0]));
        std::process::exit(0);
    });
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve())
}

async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (tcp, _) = accepted?;
                tcp.set_nodelay(true)?;
                // A proxy that hangs up is nothing to talk about.
                connections.spawn(async move { drop(connection(tcp).await) });
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Answers one request after the other.
async fn connection(mut tcp: TcpStream) -> anyhow::Result<()> {
    let mut bytes = Vec::with_capacity(4096);
    while let Some((head, body)) = next_request(&mut tcp, &mut bytes).await? {
        let target = head.split(' ').nth(1).unwrap_or_default();
        match target {
            "/props" => whole(&mut tcp, &props()).await?,
            "/v1/models" => whole(&mut tcp, MODELS).await?,
            "/v1/chat/completions" => chat(&mut tcp, &body).await?,
            "/v1/chat/completions/input_tokens" => whole(&mut tcp, r#"{"input_tokens":32}"#).await?,
            _ => whole(&mut tcp, r#"{"status":"ok"}"#).await?,
        }
    }
    Ok(())
}

/// Head and body of the next request; `None` when the proxy has hung up between two.
async fn next_request(tcp: &mut TcpStream, bytes: &mut Vec<u8>) -> anyhow::Result<Option<(String, Vec<u8>)>> {
    loop {
        if let Some(end) = memmem::find(bytes, b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_ascii_lowercase())?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let whole = end + 4 + length.map_or(Ok(0), |length| length.trim().parse::<usize>())?;
            if bytes.len() >= whole {
                let body = bytes[end + 4..whole].to_vec();
                bytes.drain(..whole);
                return Ok(Some((head, body)));
            }
        }
        if tcp.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn props() -> String {
    format!(
        r#"{{"default_generation_settings":{{"n_ctx":4096}},"total_slots":{SLOTS},"model_alias":"stub","model_path":"stub.gguf","build_info":"stub"}}"#
    )
}

async fn whole(tcp: &mut TcpStream, body: &str) -> anyhow::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: application/json; charset=utf-8\r\n";
    let reply = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    Ok(tcp.write_all(reply.as_bytes()).await?)
}

/// What the request asks for.
struct Order {
    tokens: u32,
    pause: Duration,
    timings: bool,
    usage: bool,
}

async fn chat(tcp: &mut TcpStream, body: &[u8]) -> anyhow::Result<()> {
    let asks = |what: &[u8]| memmem::find(body, what).is_some();
    let order = Order {
        tokens: number(body, b"tokens=").context("no order in the prompt")?,
        pause: Duration::from_micros(number(body, b"pause_us=").unwrap_or(0).into()),
        timings: asks(br#""timings_per_token":true"#),
        usage: asks(br#""include_usage":true"#),
    };
    if asks(br#""stream":true"#) {
        return stream(tcp, &order).await;
    }
    let (usage, timings) = (usage(order.tokens), timings(order.tokens));
    let text = " word".repeat(order.tokens as usize);
    let common = COMMON.replace("completion.chunk", "completion");
    let choices =
        format!(r#"[{{"finish_reason":"length","index":0,"message":{{"role":"assistant","content":"{text}"}}}}]"#);
    whole(tcp, &format!(r#"{{"choices":{choices},{common},{usage},{timings}}}"#)).await
}

/// The number behind `name` in the prompt.
fn number(body: &[u8], name: &[u8]) -> Option<u32> {
    let digits = body.get(memmem::find(body, name)? + name.len()..)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

fn usage(tokens: u32) -> String {
    let total = tokens + 32;
    format!(
        r#""usage":{{"completion_tokens":{tokens},"prompt_tokens":32,"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":24}}}}"#
    )
}

fn timings(tokens: u32) -> String {
    format!(
        r#""timings":{{"cache_n":24,"prompt_n":8,"prompt_ms":29.393,"prompt_per_token_ms":3.674125,"prompt_per_second":272.1736467866499,"predicted_n":{tokens},"predicted_ms":21.607,"predicted_per_token_ms":10.8035,"predicted_per_second":92.56259545517656}}"#
    )
}

/// One write per chunk, as llama-server does it.
async fn stream(tcp: &mut TcpStream, order: &Order) -> anyhow::Result<()> {
    tcp.write_all(STREAM_HEAD.as_bytes()).await?;
    let mut event = String::with_capacity(1024);
    let choice = |finish: &str, delta: &str| {
        format!(r#"data: {{"choices":[{{"finish_reason":{finish},"index":0,"delta":{{{delta}}}}}],{COMMON}"#)
    };
    write_event(tcp, &format!("{}}}", choice("null", r#""role":"assistant","content":null"#))).await?;
    let content = choice("null", r#""content":" word""#);
    let begin = Instant::now();
    for token in 1..=order.tokens {
        if !order.pause.is_zero() {
            sleep_until(begin + order.pause * token).await;
        }
        event.clear();
        event.push_str(&content);
        if order.timings {
            write!(event, ",{}", timings(token))?;
        }
        event.push('}');
        write_event(tcp, &event).await?;
    }
    // llama-server puts the last timings into its last chunk.
    let last = format!(",{}", timings(order.tokens));
    let behind = if order.usage { "" } else { last.as_str() };
    write_event(tcp, &format!("{}{behind}}}", choice(r#""length""#, ""))).await?;
    if order.usage {
        write_event(tcp, &format!(r#"data: {{"choices":[],{COMMON},{}{last}}}"#, usage(order.tokens))).await?;
    }
    write_event(tcp, "data: [DONE]").await?;
    Ok(tcp.write_all(b"0\r\n\r\n").await?)
}

async fn write_event(tcp: &mut TcpStream, event: &str) -> anyhow::Result<()> {
    let chunk = format!("{:x}\r\n{event}\n\n\r\n", event.len() + 2);
    Ok(tcp.write_all(chunk.as_bytes()).await?)
}
