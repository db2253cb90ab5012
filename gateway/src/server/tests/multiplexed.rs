//! The same promises over HTTP/2.

use std::sync::atomic::Ordering;

use http::{Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

type Sender = http2::SendRequest<Full<Bytes>>;

/// A client whose streams take `window` bytes before it reads them.
async fn http2_client(io: TcpStream, window: u32) -> (Sender, JoinHandle<()>) {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(io))
        .await
        .unwrap();
    let driver = tokio::spawn(async move {
        connection.await.ok();
    });
    (sender, driver)
}

async fn ask(sender: &mut Sender, path: &str) -> hyper::Result<Response<Incoming>> {
    let request = Request::post(format!("http://gateway{path}")).body(Full::from("abc")).unwrap();
    sender.send_request(request).await
}

#[tokio::test]
async fn requests_over_clear_text_http2_are_answered() {
    let listener = listen(LIMITS, None).await;
    let (mut sender, _driver) = http2_client(listener.connect().await, 65_535).await;
    let answer = soon(ask(&mut sender, "/echo")).await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "abc");
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_its_request_alone() {
    let mut listener = listen(LIMITS, None).await;
    let (mut sender, _driver) = http2_client(listener.connect().await, 65_535).await;
    let silent = soon(ask(&mut sender, "/silent")).await.unwrap();
    assert_eq!(listener.event().await, Event::Begun);
    drop(silent);
    assert_eq!(listener.event().await, Event::Dropped { stalled: false });
    assert_eq!(soon(ask(&mut sender, "/echo")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_connection_that_closes_ends_all_its_requests() {
    let mut listener = listen(LIMITS, None).await;
    let tcp = std::net::TcpStream::connect(listener.address).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let same = tcp.try_clone().unwrap();
    let (mut sender, _driver) = http2_client(TcpStream::from_std(tcp).unwrap(), 65_535).await;
    let waits = tokio::spawn({
        let mut sender = sender.clone();
        async move { ask(&mut sender, "/wait").await.is_err() }
    });
    assert_eq!(listener.event().await, Event::Begun);
    let _silent = soon(ask(&mut sender, "/silent")).await.unwrap();
    assert_eq!(listener.event().await, Event::Begun);
    same.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(listener.event().await, Event::Dropped { stalled: false });
    assert_eq!(listener.event().await, Event::Dropped { stalled: false });
    assert!(soon(waits).await.unwrap());
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_cut_off_alone() {
    let slow_reader_timeout = Duration::from_millis(100);
    let mut listener = listen(Limits { slow_reader_timeout, ..LIMITS }, None).await;
    let (mut sender, _driver) = http2_client(listener.connect().await, 65_535).await;
    let _silent = soon(ask(&mut sender, "/silent")).await.unwrap();
    assert_eq!(listener.event().await, Event::Begun);
    let flood = soon(ask(&mut sender, "/flood")).await.unwrap();
    assert_eq!(listener.event().await, Event::Begun);
    assert_eq!(listener.event().await, Event::Dropped { stalled: true });
    assert_eq!(listener.counts.stalled.load(Ordering::Relaxed), 1);
    assert_eq!(soon(ask(&mut sender, "/echo")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(listener.event().await, Event::Begun);
    assert!(listener.events.try_recv().is_err(), "the silent stream lives");
    assert!(flood.into_body().collect().await.is_err());
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test]
async fn a_connection_that_is_not_read_is_cut_off() {
    let slow_reader_timeout = Duration::from_millis(100);
    let mut listener = listen(Limits { slow_reader_timeout, ..LIMITS }, None).await;
    let mut client = listener.connect_narrow().await;
    // All windows are as large as can be, so that only the socket can hold the flood back.
    let open = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
        frame(8, 0, 0, &[0x7f, 0, 0, 0]),
        frame(1, 5, 1, b"\x83\x86\x04\x06/flood\x01\x01a"),
    ];
    client.write_all(&open.concat()).await.unwrap();
    assert_eq!(listener.event().await, Event::Begun);
    assert_eq!(listener.event().await, Event::Dropped { stalled: true });
}

/// Reads frames until one of this kind comes.
async fn read_frame(client: &mut TcpStream, kind: u8) {
    loop {
        let mut head = [0; 9];
        soon(client.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
        soon(client.read_exact(&mut payload)).await.unwrap();
        if head[3] == kind {
            return;
        }
    }
}

#[tokio::test]
async fn streams_with_doubtful_framing_are_reset() {
    let mut listener = listen(LIMITS, None).await;
    for field in [&b"\x11transfer-encoding\x07chunked"[..], b"\x0econtent-length\x015", b"\x0aconnection\x05close"] {
        let mut client = listener.connect().await;
        let open = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[]),
            frame(1, 5, 1, &[b"\x83\x86\x04\x05/echo\x01\x01a\x00", field].concat()),
        ];
        client.write_all(&open.concat()).await.unwrap();
        read_frame(&mut client, 3).await;
    }
    assert!(listener.events.try_recv().is_err(), "no handler saw any of them");
}

#[tokio::test]
async fn an_upgrade_to_http2_is_ignored() {
    let listener = listen(LIMITS, None).await;
    let mut client = listener.connect().await;
    let upgrade = "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
    send(&mut client, upgrade).await;
    assert!(read_until(&mut client, "hello").await.starts_with("HTTP/1.1 200 "));
    send(&mut client, &post_to("/echo", "again")).await;
    read_until(&mut client, "again").await;
}

/// A body that comes when the test says so.
struct Late(Option<tokio::sync::oneshot::Receiver<()>>);

impl http_body::Body for Late {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let Some(come) = &mut self.0 else { return std::task::Poll::Ready(None) };
        std::task::ready!(std::pin::Pin::new(come).poll(cx)).unwrap();
        self.0 = None;
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data("abc".into()))))
    }
}

#[tokio::test]
async fn a_refusal_waits_for_the_body_that_is_on_its_way() {
    // Answered at once, the stream would be reset under the body, and curl would report that instead of the answer.
    let listener = listen(LIMITS, None).await;
    let io = TokioIo::new(listener.connect().await);
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(io).await.unwrap();
    let _driver = tokio::spawn(connection);
    let (come, late) = tokio::sync::oneshot::channel();
    let request = Request::post("http://gateway/hello").body(Late(Some(late))).unwrap();
    let mut answer = tokio::spawn(sender.send_request(request));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut answer).await.is_err());
    come.send(()).unwrap();
    let answer = soon(answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
}
