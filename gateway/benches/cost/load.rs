//! The load generator: some connections, each with one request after the other, and what the proxy's processes took
//! while they were served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::process::{self, Cores};
use crate::proxies::Proxy;
use crate::scenarios::{Scenario, Unit};

/// Bytes of a prompt, about.
const PROMPT_BYTES: usize = 1024;
/// Events of a stream beside its tokens: the role, the finish reason, the usage and `[DONE]`.
const FRAME_EVENTS: u64 = 4;

/// What the load generator is to do.
#[derive(Serialize, Deserialize)]
pub(crate) struct Job {
    target: SocketAddr,
    key: String,
    pids: Vec<u32>,
    scenario: Scenario,
}

/// What the proxy took in the window.
#[derive(Serialize, Deserialize)]
pub(crate) struct Cost {
    units: u64,
    cpu_seconds: f64,
    pub(crate) resident_kib: u64,
}

impl Cost {
    pub(crate) fn micros_per_unit(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.units as f64
    }
}

/// Lets a load generator work on `proxy`.
pub(crate) fn measure(proxy: &Proxy, scenario: &Scenario, cores: &Cores) -> anyhow::Result<Cost> {
    let (target, key, pids) = (proxy.address, proxy.key.clone(), proxy.pids());
    let job = serde_json::to_string(&Job { target, key, pids, scenario: scenario.clone() })?;
    let output = cores.for_load(&std::env::current_exe()?).arg("load").arg(job).output()?;
    ensure!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stderr).trim(), proxy.last_words());
    let cost: Cost = serde_json::from_slice(&output.stdout)?;
    ensure!(cost.units > 0, "nothing was answered in the window");
    Ok(cost)
}

/// Does a job and prints the cost.
pub(crate) fn run(job: &Job) -> anyhow::Result<()> {
    let cost = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work(job))?;
    serde_json::to_writer(std::io::stdout(), &cost)?;
    Ok(())
}

async fn work(job: &Job) -> anyhow::Result<Cost> {
    let scenario = &job.scenario;
    let units = Arc::new(AtomicU64::new(0));
    let asked = Arc::new(Asked::new(job));
    let mut clients = JoinSet::new();
    for number in 0..scenario.connections {
        // Not all at once: an accept queue is short, and streams that march in step are unlike any real ones.
        let delay = scenario.warmup / 2 * number / scenario.connections;
        let (asked, units, target) = (Arc::clone(&asked), Arc::clone(&units), job.target);
        clients.spawn(async move {
            sleep(delay).await;
            client(target, &asked, &units).await
        });
    }
    let begin = Instant::now() + scenario.warmup;
    until(begin, &mut clients).await?;
    let (before, cpu_before) = (units.load(Relaxed), process::cpu_seconds(&job.pids)?);
    until(begin + scenario.window, &mut clients).await?;
    let (after, cpu_after) = (units.load(Relaxed), process::cpu_seconds(&job.pids)?);
    let resident_kib = process::resident_kib(&job.pids)?;
    Ok(Cost { units: after - before, cpu_seconds: cpu_after - cpu_before, resident_kib })
}

/// Waits. A client ends only when something is wrong.
async fn until(moment: Instant, clients: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        () = sleep_until(moment) => Ok(()),
        Some(ended) = clients.join_next() => ended?,
    }
}

/// The request that all clients send.
struct Asked {
    authorization: String,
    body: Bytes,
    stream: bool,
    tokens: u64,
    unit: Unit,
}

impl Asked {
    fn new(job: &Job) -> Self {
        let Scenario { stream, tokens, pause, unit, .. } = job.scenario;
        let body = prompt(stream, tokens, pause).into();
        Self { authorization: format!("Bearer {}", job.key), body, stream, tokens: tokens.into(), unit }
    }
}

/// The body of a chat request with an order for the stub.
pub(crate) fn prompt(stream: bool, tokens: u32, pause: Duration) -> String {
    let order = format!("tokens={tokens} pause_us={} ", pause.as_micros());
    let text = "What does it cost? ".repeat(PROMPT_BYTES / 19);
    let mut body = serde_json::json!({
        "model": "stub",
        "messages": [{"role": "system", "content": text}, {"role": "user", "content": order}],
        "temperature": 0.7,
        "stream": stream,
    });
    if stream {
        body["stream_options"] = serde_json::json!({"include_usage": true});
    }
    body.to_string()
}

/// One connection. Each reply must be whole.
async fn client(target: SocketAddr, asked: &Asked, units: &AtomicU64) -> anyhow::Result<()> {
    let tcp = TcpStream::connect(target).await?;
    tcp.set_nodelay(true)?;
    let (mut sender, connection) = handshake(TokioIo::new(tcp)).await?;
    let requests = async {
        loop {
            ask(&mut sender, asked, units).await?;
        }
    };
    tokio::select! {
        ended = requests => ended,
        closed = connection => closed.context("connection"),
    }
}

async fn ask(sender: &mut SendRequest<Full<Bytes>>, asked: &Asked, units: &AtomicU64) -> anyhow::Result<()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/chat/completions")
        .header(header::HOST, "gateway")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, &asked.authorization)
        .body(Full::new(asked.body.clone()))?;
    sender.ready().await?;
    let mut reply = sender.send_request(request).await?;
    ensure!(reply.status() == StatusCode::OK, "the proxy answered {}", reply.status());
    if asked.stream {
        let events = read_stream(&mut reply, asked.unit, units).await?;
        ensure!(events == asked.tokens + FRAME_EVENTS, "a stream had {events} events for {} tokens", asked.tokens);
    } else {
        let body = reply.collect().await?.to_bytes();
        let usage = format!(r#""completion_tokens":{}"#, asked.tokens);
        ensure!(memmem::find(&body, usage.as_bytes()).is_some(), "a reply without its usage");
    }
    if asked.unit == Unit::Request {
        units.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// Counts the events of a stream.
async fn read_stream(
    reply: &mut http::Response<hyper::body::Incoming>,
    unit: Unit,
    units: &AtomicU64,
) -> anyhow::Result<u64> {
    let (mut events, mut line_ended) = (0, false);
    while let Some(frame) = reply.frame().await {
        let Ok(bytes) = frame?.into_data() else { continue };
        let across = u64::from(line_ended && bytes.first() == Some(&b'\n'));
        let fresh = across + memmem::find_iter(&bytes, b"\n\n").count() as u64;
        line_ended = bytes.last() == Some(&b'\n') && !bytes.ends_with(b"\n\n");
        events += fresh;
        if unit == Unit::Chunk {
            units.fetch_add(fresh, Relaxed);
        }
    }
    Ok(events)
}
