//! A stand-in for `client`.

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Options.
#[derive(Default)]
pub struct Options {}

/// Asks one server, a connection a request.
#[derive(Clone)]
pub struct Client {
    url: String,
}

/// A request.
pub struct Message {
    method: Method,
    path: String,
    key: Option<String>,
    /// Body.
    pub body: Bytes,
}

/// A whole reply.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// A reply whose body is still to be read. Dropping it closes the connection.
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
    _connection: JoinSet<()>,
}

impl Client {
    /// Of a base URL.
    pub fn new(url: &str, _: &Options) -> anyhow::Result<Self> {
        Ok(Self { url: url.trim_end_matches('/').to_owned() })
    }

    /// GET.
    pub async fn get(&self, path: &str, key: Option<&str>) -> anyhow::Result<Answer> {
        self.whole(&self.message(Method::GET, path, key)?).await
    }

    /// POST.
    pub async fn post(&self, path: &str, key: Option<&str>, body: impl Into<Bytes>) -> anyhow::Result<Answer> {
        let mut message = self.message(Method::POST, path, key)?;
        message.body = body.into();
        self.whole(&message).await
    }

    /// A message.
    pub fn message(&self, method: Method, path: &str, key: Option<&str>) -> anyhow::Result<Message> {
        Ok(Message { method, path: path.to_owned(), key: key.map(str::to_owned), body: Bytes::new() })
    }

    async fn whole(&self, message: &Message) -> anyhow::Result<Answer> {
        let reply = self.send(message).await?;
        Ok(Answer { status: reply.status, headers: reply.headers, body: reply.body.collect().await?.to_bytes() })
    }

    /// The head of a reply.
    pub async fn send(&self, message: &Message) -> anyhow::Result<Reply> {
        let authority = self.url.strip_prefix("http://").context("not http")?;
        let tcp = TcpStream::connect(authority).await?;
        tcp.set_nodelay(true)?;
        let (mut sender, connection) = handshake(TokioIo::new(tcp)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        let mut request =
            Request::builder().method(message.method.clone()).uri(&message.path).header(header::HOST, authority);
        if let Some(key) = &message.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let reply = sender.send_request(request.body(Full::new(message.body.clone()))?).await?;
        let (head, body) = reply.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, body, _connection: tasks })
    }
}

impl Reply {
    /// The next bytes.
    pub async fn chunk(&mut self) -> anyhow::Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}
