//! A server for tests: each connection follows a script.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A server that lives as long as this does.
pub(crate) struct Stub {
    pub(crate) url: String,
    /// How many connections it has accepted.
    pub(crate) connections: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

/// A URL at which nobody answers as long as the socket lives: it has the port and does not listen.
pub(crate) fn nobody() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, url)
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, as the script sees it.
pub(crate) struct Conn {
    io: Box<dyn Io>,
    bytes: Vec<u8>,
    /// Its number, from 0.
    pub(crate) number: usize,
}

/// A request.
pub(crate) struct Asked {
    /// Request line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("bearer ")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Stub {
    pub(crate) async fn start<F>(script: impl Fn(Conn) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::listen(None, script).await
    }

    pub(crate) async fn listen<F>(tls: Option<TlsAcceptor>, script: impl Fn(Conn) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        let connections = Arc::new(AtomicUsize::new(0));
        let (counter, mut accepting) = (connections.clone(), JoinSet::new());
        accepting.spawn(async move {
            let mut scripts = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                let number = counter.fetch_add(1, Relaxed);
                let io: Box<dyn Io> = match &tls {
                    None => Box::new(tcp),
                    // A client that does not trust it hangs up.
                    Some(tls) => match tls.accept(tcp).await {
                        Ok(secure) => Box::new(secure),
                        Err(_) => continue,
                    },
                };
                scripts.spawn(script(Conn { io, bytes: Vec::new(), number }));
            }
        });
        Self { url, connections, _accepting: accepting }
    }

    /// Answers each request with what `answer` gives: a status and a body.
    pub(crate) async fn answering(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::start(move |mut conn| {
            let answer = Arc::clone(&answer);
            async move {
                while let Some(asked) = conn.request().await {
                    let (status, body) = answer(&asked);
                    conn.whole(status, "", &body).await;
                }
            }
        })
        .await
    }

    pub(crate) fn accepted(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

impl Conn {
    /// The next request, `None` if the client has hung up.
    pub(crate) async fn request(&mut self) -> Option<Asked> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n\r\n") {
                let head = String::from_utf8(self.bytes[..end].to_ascii_lowercase()).unwrap();
                let mut asked = Asked { head, body: String::new() };
                let whole = end + 4 + asked.header("content-length").map_or(0, |length| length.parse().unwrap());
                if self.bytes.len() >= whole {
                    asked.body = String::from_utf8(self.bytes[end + 4..whole].to_vec()).unwrap();
                    self.bytes.drain(..whole);
                    return Some(asked);
                }
            }
            if self.io.read_buf(&mut self.bytes).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Waits until the client hangs up.
    pub(crate) async fn hung_up(&mut self) {
        while self.io.read_buf(&mut self.bytes).await.is_ok_and(|read| read > 0) {}
    }

    /// Sends text as it is. A client that has hung up does not matter.
    pub(crate) async fn send(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).await.ok();
        self.io.flush().await.ok();
    }

    /// Sends a reply in one piece, with further `headers` (each with its line end).
    pub(crate) async fn whole(&mut self, status: u16, headers: &str, body: &str) {
        let length = body.len();
        let kind = "content-type: application/json\r\n";
        self.send(&format!("HTTP/1.1 {status} X\r\n{kind}{headers}content-length: {length}\r\n\r\n{body}")).await;
    }

    /// Sends the head of a stream.
    pub(crate) async fn stream(&mut self) {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        self.send(head).await;
    }

    /// Sends a piece of a stream as a chunk; an empty one ends it.
    pub(crate) async fn chunk(&mut self, piece: &str) {
        self.send(&format!("{:x}\r\n{piece}\r\n", piece.len())).await;
    }
}
