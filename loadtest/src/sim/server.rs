//! HTTP: connections, keys, and the headers that llama-server sends.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Options;
use super::api::{self, About, ApiError, Body, Call, Plan, Show};
use super::engine::Engine;
use super::fault::{Fault, Store};
use super::model::Model;
use super::words::{Tokenizer, mixed};

/// Bytes of a body at most, as llama-server's.
const MOST_BODY: usize = 100 << 20;
/// How long a connection may be idle, and how many requests it may carry (cpp-httplib's defaults).
const IDLE: Duration = Duration::from_secs(5);
const MOST_REQUESTS: u64 = 100;

/// What all requests share.
pub(crate) struct App {
    /// The model.
    pub(crate) engine: Arc<Engine>,
    /// How it was started.
    pub(crate) options: Options,
    /// Text as tokens.
    pub(crate) tokenizer: Tokenizer,
    faults: Mutex<Store>,
    replies: AtomicU64,
    began: Instant,
}

impl App {
    fn new(options: Options) -> Self {
        Self {
            engine: Arc::new(Engine::new(Model::new(options.profile.clone()))),
            faults: Mutex::new(Store::new(options.fault)),
            options,
            tokenizer: Tokenizer::default(),
            replies: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    /// What is in store.
    pub(crate) fn faults(&self) -> MutexGuard<'_, Store> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The build that it claims to be.
    pub(crate) fn build(&self) -> String {
        format!("simulated-{}", env!("CARGO_PKG_VERSION"))
    }

    /// A new reply.
    pub(crate) fn about(&self, plans: Vec<Plan>, show: Show, fault: Option<Fault>) -> About {
        let number = self.replies.fetch_add(1, Ordering::Relaxed);
        let (id, created) = (api::random_id(mixed(number)), crate::clock::unix_seconds());
        About { id, created, model: self.options.profile.name.clone(), build: self.build(), plans, show, fault }
    }

    /// Waits while the server stalls: what its main loop answers, it does not answer then.
    pub(crate) async fn stall_over(&self) {
        let until = |model: &mut Model, now| {
            model.advance(now);
            model.stalled_until()
        };
        while let Some(until) = self.engine.update(until) {
            sleep_until(self.began + until).await;
        }
    }

    fn is_loading(&self) -> bool {
        self.began.elapsed() < self.options.profile.load
    }

    /// Whether the key is right, or none is wanted. A wrong `Authorization` is not made good by an `X-Api-Key`.
    fn lets_in(&self, path: &str, headers: &HeaderMap) -> bool {
        let Some(key) = &self.options.key else { return true };
        let authorization = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = match authorization {
            Some(value) => Some(value.strip_prefix(b"Bearer ").unwrap_or(value)),
            None => headers.get("x-api-key").map(HeaderValue::as_bytes),
        };
        api::PUBLIC.contains(&path) || given == Some(key.as_bytes())
    }
}

/// Serves a simulated llama-server until it is told to stop; connections are then dropped as they are.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let app = Arc::new(App::new(options));
    let tasks = TaskTracker::new();
    let engine = Arc::clone(&app.engine);
    let until = stop.clone();
    tasks.spawn(async move { engine.run(until).await });
    let result = accept(&listener, &app, &tasks, &stop).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    result
}

async fn accept(
    listener: &TcpListener,
    app: &Arc<App>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return Ok(()),
        };
        let (stream, _) = accepted.context("the simulator's listener failed")?;
        let (app, stop) = (Arc::clone(app), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = connection(&app, stream) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn connection(app: &Arc<App>, stream: TcpStream) {
    // A token at a time must not wait for the next one.
    stream.set_nodelay(true).ok();
    let requests = AtomicU64::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        let is_last = requests.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_REQUESTS;
        async move { Ok::<_, Infallible>(finished(handle(app, request).await, is_last)) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE).auto_date_header(false);
    // How a connection ends is the client's affair, or a fault that was ordered.
    server.serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn handle(app: &Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if head.method == Method::OPTIONS {
        return preflight();
    }
    if app.is_loading() {
        return error_reply(&ApiError::unavailable("Loading model"));
    }
    if !app.lets_in(&path, &head.headers) {
        return error_reply(&ApiError::key());
    }
    let Ok(body) = Limited::new(body, MOST_BODY).collect().await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let query = head.uri.query().unwrap_or_default().to_owned();
    let call = Call { method: head.method, path, query, body: body.to_bytes() };
    api::answer(app, call).await.unwrap_or_else(|error| error_reply(&error))
}

fn error_reply(error: &ApiError) -> Response<Body> {
    api::json_reply(error.status, error.body())
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::new())));
    *response.status_mut() = status;
    response
}

/// What a browser is told that asks before it posts.
fn preflight() -> Response<Body> {
    let mut response = plain(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert("access-control-allow-credentials", HeaderValue::from_static("true"));
    headers.insert("access-control-allow-methods", HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
    headers.insert("access-control-allow-headers", HeaderValue::from_static("*"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

/// With the headers that every reply has. An error ends its connection.
fn finished(mut response: Response<Body>, is_last: bool) -> Response<Body> {
    let ends = is_last || response.status().as_u16() >= 400;
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("llama.cpp"));
    headers.insert("access-control-allow-origin", HeaderValue::from_static(""));
    if ends {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    } else {
        headers.insert("keep-alive", HeaderValue::from_static("timeout=5, max=100"));
    }
    response
}
