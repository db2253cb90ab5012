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

/// Asks one server, a connection a request.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
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
    pub fn new(url: &str) -> Self {
        Self { url: url.trim_end_matches('/').to_owned() }
    }

    /// Base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// GET.
    pub async fn get(&self, path: &str, key: Option<&str>) -> anyhow::Result<(StatusCode, HeaderMap, Bytes)> {
        self.whole(Method::GET, path, key, Bytes::new()).await
    }

    /// POST.
    pub async fn post(
        &self,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, HeaderMap, Bytes)> {
        self.whole(Method::POST, path, key, body).await
    }

    async fn whole(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, HeaderMap, Bytes)> {
        let reply = self.open(method, path, key, body).await?;
        Ok((reply.status, reply.headers, reply.body.collect().await?.to_bytes()))
    }

    /// The head of a reply.
    pub async fn open(&self, method: Method, path: &str, key: Option<&str>, body: Bytes) -> anyhow::Result<Reply> {
        let authority = self.url.strip_prefix("http://").context("not http")?;
        let tcp = TcpStream::connect(authority).await?;
        tcp.set_nodelay(true)?;
        let (mut sender, connection) = handshake(TokioIo::new(tcp)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, authority);
        if let Some(key) = key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let reply = sender.send_request(request.body(Full::new(body))?).await?;
        let (head, body) = reply.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, body, _connection: tasks })
    }
}

impl Reply {
    /// The next bytes.
    pub async fn next(&mut self) -> Option<anyhow::Result<Bytes>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => return Some(Ok(bytes)),
                    Err(_) => continue,
                },
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}
