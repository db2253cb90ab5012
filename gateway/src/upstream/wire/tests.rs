//! Against a peer that does by hand what the test says, on real sockets.

#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

use std::future::Future;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::traces::Propagation;
use crate::upstream::SendError;
use crate::upstream::client::{Dialer, Link, read};

const PATH: &str = "/v1/chat/completions";
const STREAM: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// What llama-server would be.
struct Peer {
    listener: TcpListener,
    link: Arc<Link>,
}

impl Peer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string().parse().unwrap();
        let link = Dialer::new(None, std::time::Duration::from_secs(60)).link(authority);
        Self { listener, link: Arc::new(link) }
    }

    fn post(&self, body: &'static str) -> JoinHandle<Result<Response<ReplyBody>, SendError>> {
        let link = Arc::clone(&self.link);
        tokio::spawn(async move { link.post(PATH, Bytes::from_static(body.as_bytes()), &Propagation::default()).await })
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// A connection over which a first request went well.
    async fn used(&self) -> TcpStream {
        let reply = self.post("first");
        let mut socket = self.accept().await;
        request(&mut socket).await;
        socket.write_all(EMPTY.as_bytes()).await.unwrap();
        assert!(reply.await.unwrap().unwrap().into_body().is_end_stream());
        socket
    }

    /// The outcome of a request that the peer answers with `text` and a closed connection.
    async fn answered(&self, text: &str) -> Result<(StatusCode, Bytes), SendError> {
        let reply = self.post("");
        let mut socket = self.accept().await;
        request(&mut socket).await;
        socket.write_all(text.as_bytes()).await.unwrap();
        drop(socket);
        read(reply.await.unwrap()?, 1 << 20).await
    }
}

/// The body of the next request on a connection; none at its end.
async fn request(socket: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        text.push(char::from(socket.read_u8().await.ok()?));
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().unwrap();
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    String::from_utf8(body).ok()
}

/// Closes a connection so that its peer gets an RST.
fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

async fn next(body: &mut ReplyBody) -> Result<Bytes, ReplyError> {
    body.frame().await.unwrap().map(|frame| frame.into_data().unwrap())
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
}

#[tokio::test]
async fn one_connection_serves_request_after_request() {
    let peer = Peer::start().await;
    let mut socket = peer.used().await;
    for round in 0..100 {
        let reply = peer.post("more");
        assert_eq!(request(&mut socket).await.as_deref(), Some("more"));
        let text = match round % 2 {
            0 => format!("{STREAM}{}0\r\n\r\n", chunk("reply")),
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nreply".to_owned(),
        };
        socket.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(read(reply.await.unwrap().unwrap(), 5).await.unwrap().1, "reply");
    }
}

#[tokio::test]
async fn a_connection_is_not_used_again_when_the_reply_forbids_it_or_more_came_than_the_reply() {
    let peer = Peer::start().await;
    for reply in [
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n",
        &format!("{STREAM}0\r\n\r\nx"),
    ] {
        let asked = peer.post("");
        let mut socket = peer.accept().await;
        request(&mut socket).await.unwrap();
        socket.write_all(reply.as_bytes()).await.unwrap();
        read(asked.await.unwrap().unwrap(), 9).await.unwrap();
        assert_eq!(request(&mut socket).await, None, "{reply}");
    }
}

#[tokio::test]
async fn a_connection_that_speaks_unasked_or_has_ended_is_not_used_again() {
    let peer = Peer::start().await;
    let mut socket = peer.used().await;
    socket.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
    let other = peer.used().await;
    drop(other);
    peer.used().await;
}

#[tokio::test]
async fn a_connection_is_not_used_again_after_four_seconds() {
    let peer = Peer::start().await;
    let mut socket = peer.used().await;
    // Not paused for longer: time would run ahead while sockets are waited for.
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_millis(4001)).await;
    tokio::time::resume();
    let _fresh = peer.used().await;
    assert_eq!(request(&mut socket).await, None);
}

#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_sent_again_once() {
    for (close, unread) in [(drop as fn(TcpStream), false), (reset, true)] {
        let peer = Peer::start().await;
        let mut socket = peer.used().await;
        let reply = peer.post("again");
        assert_eq!(request(&mut socket).await.as_deref(), Some("again"));
        close(socket);
        let mut socket = peer.accept().await;
        assert_eq!(request(&mut socket).await.as_deref(), Some("again"));
        close(socket);
        let error = reply.await.unwrap().err().unwrap();
        assert_eq!(matches!(error, SendError::Unread { .. }), unread, "{error}");
        assert_eq!(matches!(error, SendError::Broken { .. }), !unread, "{error}");
    }
}

#[tokio::test]
async fn a_request_is_not_sent_again_after_a_byte_of_its_reply() {
    let peer = Peer::start().await;
    let mut socket = peer.used().await;
    let reply = peer.post("once");
    request(&mut socket).await.unwrap();
    socket.write_all(b"H").await.unwrap();
    drop(socket);
    let error = reply.await.unwrap().err().unwrap();
    assert!(matches!(error, SendError::Broken { source: ReplyError::UnexpectedEnd, .. }), "{error}");
}

#[tokio::test]
async fn a_first_connection_that_breaks_costs_the_request() {
    let peer = Peer::start().await;
    let broken = peer.answered("").await.unwrap_err();
    assert!(matches!(broken, SendError::Broken { source: ReplyError::UnexpectedEnd, .. }), "{broken}");
    let broken = peer.answered(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(20_000))).await.unwrap_err();
    assert!(matches!(broken, SendError::Broken { source: ReplyError::Malformed(_), .. }), "{broken}");
    let broken = peer.answered("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert!(broken.unwrap_err().to_string().contains("a length and a transfer coding"));
}

#[tokio::test]
async fn a_body_ends_as_it_was_announced_or_fails() {
    let peer = Peer::start().await;
    assert_eq!(peer.answered(&format!("{STREAM}{}0\r\n\r\n", chunk("abc"))).await.unwrap().1, "abc");
    assert_eq!(peer.answered("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").await.unwrap().1, "abc");
    assert_eq!(peer.answered("HTTP/1.1 200 OK\r\n\r\nabc").await.unwrap().1, "abc");
    for cut in [format!("{STREAM}{}", chunk("abc")), "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc".into()] {
        let error = peer.answered(&cut).await.unwrap_err();
        assert!(matches!(&error, SendError::Cut(why) if why == "unexpected end"), "{error}");
    }
    let error = peer.answered(&format!("{STREAM}zzz\r\n")).await.unwrap_err();
    assert!(matches!(&error, SendError::Cut(why) if why.contains("wrongly framed")), "{error}");
}

#[tokio::test]
async fn what_has_arrived_is_one_frame_and_comes_before_the_fault_behind_it() {
    let peer = Peer::start().await;
    let reply = peer.post("");
    let mut socket = peer.accept().await;
    request(&mut socket).await.unwrap();
    socket.write_all(format!("{STREAM}{}{}", chunk("a"), chunk("b")).as_bytes()).await.unwrap();
    let mut body = reply.await.unwrap().unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap(), "ab");
    assert!(poll_once(&mut body.frame()).await.is_pending());
    socket.write_all(format!("{}{}oops", chunk("c"), chunk(&"d".repeat(2000))).as_bytes()).await.unwrap();
    assert_eq!(next(&mut body).await.unwrap().len(), 2001);
    assert!(!body.is_end_stream());
    assert!(matches!(next(&mut body).await, Err(ReplyError::Malformed(_))));
    assert!(body.is_end_stream() && body.frame().await.is_none());
}

#[tokio::test]
async fn the_length_of_a_body_is_told_when_it_is_known() {
    let peer = Peer::start().await;
    let reply = peer.post("");
    let mut socket = peer.accept().await;
    request(&mut socket).await.unwrap();
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").await.unwrap();
    let mut body = reply.await.unwrap().unwrap().into_body();
    assert_eq!(body.size_hint().exact(), Some(5));
    assert_eq!(next(&mut body).await.unwrap(), "ab");
    assert_eq!(body.size_hint().exact(), Some(3));
    socket.write_all(b"cde").await.unwrap();
    assert_eq!(next(&mut body).await.unwrap(), "cde");
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
}

#[tokio::test]
async fn a_reset_by_the_server_is_an_error_after_what_came_before() {
    let peer = Peer::start().await;
    let reply = peer.post("");
    let mut socket = peer.accept().await;
    request(&mut socket).await.unwrap();
    socket.write_all(format!("{STREAM}{}", chunk("a")).as_bytes()).await.unwrap();
    let mut body = reply.await.unwrap().unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap(), "a");
    reset(socket);
    let error = next(&mut body).await.unwrap_err();
    assert!(matches!(&error, ReplyError::Io(error) if error.kind() == io::ErrorKind::ConnectionReset), "{error}");
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn frames_that_are_dropped_make_room_for_the_next_ones() {
    let peer = Peer::start().await;
    let reply = peer.post("");
    let mut socket = peer.accept().await;
    request(&mut socket).await.unwrap();
    socket.write_all(STREAM.as_bytes()).await.unwrap();
    let mut body = reply.await.unwrap().unwrap().into_body();
    let mut places = std::collections::HashSet::new();
    for _ in 0..100 {
        socket.write_all(chunk(&"x".repeat(300)).as_bytes()).await.unwrap();
        let frame = next(&mut body).await.unwrap();
        places.insert(frame.as_ptr() as usize / 4096);
    }
    assert!(places.len() <= 3, "{}", places.len());
}
