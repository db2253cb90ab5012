//! A server that costs next to nothing: fixed replies, in the shapes of llama-server's.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Events with content in a stream. They go out in one write: a server cannot be quicker.
pub(crate) const EVENTS: u64 = 256;

const COMMON: &str = r#""created":1795448481,"id":"chatcmpl-xYuvDQpzc2qWF6YbhPLe5rAnhknc2baw","model":"stub","system_fingerprint":"b1-7e4c0a9""#;

/// The server in a process of its own, so that its CPU time is not counted as the harness's. It ends with this value.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut address)?;
        Ok(Self { child, address: address.trim().to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Serves on a free port, which it prints, until standard input ends.
pub(crate) fn run() -> anyhow::Result<()> {
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
                connections.spawn(async move { drop(connection(tcp).await) });
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Answers one request after the other, by what stands in its body.
async fn connection(mut tcp: TcpStream) -> anyhow::Result<()> {
    let (whole, stream) = (whole(), stream());
    let mut bytes = Vec::with_capacity(8192);
    loop {
        let end = loop {
            if let Some(end) = request_end(&bytes) {
                break end;
            }
            if tcp.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let streamed = memmem::find(&bytes[..end], br#""stream":true"#).is_some();
        bytes.drain(..end);
        tcp.write_all(if streamed { &stream } else { &whole }).await?;
    }
}

/// Where the first request ends, if all of it is there.
fn request_end(bytes: &[u8]) -> Option<usize> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let name = memmem::find(&bytes[..head], b"ontent-length: ").or(memmem::find(&bytes[..head], b"ontent-Length: "))?;
    let digits = bytes[name + 15..].split(|byte| *byte == b'\r').next()?;
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (bytes.len() >= head + length).then_some(head + length)
}

fn usage(tokens: u64) -> String {
    let total = 32 + tokens;
    format!(
        r#""usage":{{"completion_tokens":{tokens},"prompt_tokens":32,"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":24}}}},"timings":{{"cache_n":24,"prompt_n":8,"prompt_ms":29.393,"predicted_n":{tokens},"predicted_ms":21.607}}"#
    )
}

fn whole() -> Vec<u8> {
    let text = " word".repeat(16);
    let choices =
        format!(r#"[{{"finish_reason":"length","index":0,"message":{{"role":"assistant","content":"{text}"}}}}]"#);
    let body = format!(r#"{{"choices":{choices},{COMMON},"object":"chat.completion",{}}}"#, usage(16));
    let head = "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: application/json; charset=utf-8\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn stream() -> Vec<u8> {
    let head =
        "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let delta = |delta: &str| {
        format!(
            r#"{{"choices":[{{"finish_reason":null,"index":0,"delta":{{{delta}}}}}],{COMMON},"object":"chat.completion.chunk"}}"#
        )
    };
    let mut events = vec![delta(r#""role":"assistant","content":null"#)];
    events.extend((0..EVENTS).map(|_| delta(r#""content":" word""#)));
    events.push(delta(""));
    events.push(format!(r#"{{"choices":[],{COMMON},"object":"chat.completion.chunk",{}}}"#, usage(EVENTS)));
    events.push("[DONE]".to_owned());
    let chunk = |event: String| format!("{:x}\r\ndata: {event}\n\n\r\n", event.len() + 8);
    let body: String = events.into_iter().map(chunk).collect();
    format!("{head}{body}0\r\n\r\n").into_bytes()
}
