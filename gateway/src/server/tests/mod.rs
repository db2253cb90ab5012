//! The real listener on a port of its own, and clients that misbehave on raw sockets.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test's tasks end with its runtime; real sockets, real time"
)]

mod draining;
mod leaving;
mod limits;
mod multiplexed;
mod smuggling;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::BodyExt;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Client, Counts, Drain, Limits, Options, Tls, serve};

/// What happened at the handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A handler has read its request.
    Begun,
    /// A handler or a response body was dropped; whether because its client did not read.
    Dropped { stalled: bool },
}

/// Sends an event when it is dropped.
struct Probe {
    events: mpsc::Sender<Event>,
    client: Arc<Client>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.events.try_send(Event::Dropped { stalled: self.client.stalled() }).ok();
    }
}

/// A body that begins with one frame and goes on in one of three ways.
struct Going {
    _probe: Probe,
    how: How,
    begun: bool,
}

enum How {
    Silent,
    Ticking(tokio::time::Interval),
    Flood,
}

impl http_body::Body for Going {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let first = !std::mem::replace(&mut self.begun, true);
        match &mut self.how {
            _ if first => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"first"))))),
            How::Silent => Poll::Pending,
            How::Ticking(ticks) => ticks.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b"tick"))))),
            How::Flood => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024]))))),
        }
    }
}

fn client_of(request: &Request<Body>) -> Arc<Client> {
    Arc::clone(request.extensions().get::<Arc<Client>>().unwrap())
}

/// `/hello`, `/echo`, and the handlers that never end: `/wait`, `/silent`, `/ticking`, `/flood`.
fn routes(events: &mpsc::Sender<Event>) -> Router {
    let going = |events: mpsc::Sender<Event>, how: fn() -> How| {
        post(async move |request: Request<Body>| {
            let client = client_of(&request);
            request.into_body().collect().await.unwrap();
            events.try_send(Event::Begun).unwrap();
            Body::new(Going { _probe: Probe { events, client }, how: how(), begun: false })
        })
    };
    let wait = {
        let events = events.clone();
        post(async move |request: Request<Body>| {
            let client = client_of(&request);
            request.into_body().collect().await.unwrap();
            events.try_send(Event::Begun).unwrap();
            let _probe = Probe { events, client };
            std::future::pending::<()>().await;
        })
    };
    let echo_events = events.clone();
    Router::new()
        .route("/hello", get(async || "hello"))
        .route(
            "/echo",
            post(async move |body: Bytes| {
                echo_events.try_send(Event::Begun).unwrap();
                body
            }),
        )
        .route("/wait", wait)
        .route("/silent", going(events.clone(), || How::Silent))
        .route("/ticking", going(events.clone(), || How::Ticking(tokio::time::interval(Duration::from_millis(5)))))
        .route("/flood", going(events.clone(), || How::Flood))
}

struct Listener {
    address: SocketAddr,
    drain: Drain,
    counts: Arc<Counts>,
    events: mpsc::Receiver<Event>,
    served: JoinHandle<()>,
}

const LIMITS: Limits = Limits {
    max_connections: 64,
    max_header_bytes: 16 * 1024,
    header_timeout: Duration::from_secs(30),
    slow_reader_timeout: Duration::from_secs(30),
};

async fn listen(limits: Limits, tls: Option<Tls>) -> Listener {
    let (sender, events) = mpsc::channel(1024);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, counts) = (Drain::new(), Arc::new(Counts::default()));
    let options = Options { limits, tls, counts: Arc::clone(&counts) };
    let served = tokio::spawn(serve(listener, routes(&sender), options, drain.clone()));
    Listener { address, drain, counts, events, served }
}

impl Listener {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A client whose kernel takes few bytes for it.
    async fn connect_narrow(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.unwrap()
    }
}

/// Nothing here takes long; a test that waits longer has failed.
async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(5), future).await.expect("it should have happened by now")
}

fn post_to(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn send(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).await.unwrap();
}

/// Reads until `end` has come.
async fn read_until(client: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(end) {
        let count = soon(client.read_buf(&mut read)).await.unwrap();
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&read));
    }
    String::from_utf8(read).unwrap()
}

/// Reads until the other side closes, by FIN or RST.
async fn read_to_close(client: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while let Ok(1..) = soon(client.read_buf(&mut read)).await {}
    String::from_utf8_lossy(&read).into_owned()
}

fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
}
