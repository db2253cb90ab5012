//! HTTP/1.1 to one server: connections that are used again, requests, replies piece by piece.
//!
//! Takes a base URL; gives replies. `body` makes request bodies of the APIs, `events` and `reply` read what comes back,
//! `retry` knows when official clients try again.

pub mod body;
mod connection;
pub mod events;
mod pool;
pub mod reply;
pub mod retry;
#[cfg(test)]
mod tests;
mod tls;

use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use rustls_pki_types::ServerName;

use connection::{Connection, Target};
use pool::Pool;

/// The most that is read of a body which is wanted in one piece.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// How long a whole reply is waited for. A llama-server that computes a long prompt answers nothing meanwhile.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// How a client connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time to open a connection, TLS included. The official clients' is 5 s.
    pub connect_timeout: Duration,
    /// PEM file of root certificates that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(5), ca_file: None }
    }
}

/// Why there is no client, or no message for it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is none that can be called.
    #[error("{url} is no URL of a server: {why}\nhint: write it like http://127.0.0.1:8080")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file with root certificates cannot be used.
    #[error("cannot take root certificates from {}: {why}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The key cannot be in a header. It is not shown.
    #[error("the API key has characters that no header can carry\nhint: look for a line break or a blank in it")]
    Key,
    /// The path cannot be in a URL.
    #[error("{0} is no path of a URL")]
    Path(String),
}

/// Why a request has no reply, or only half of one.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// What happened on the connection, or what came back, was no HTTP exchange.
    #[error("the exchange failed: {0}")]
    Exchange(#[from] hyper::Error),
    /// The body is longer than anything that is read in one piece.
    #[error("the reply is longer than {MAX_BODY_BYTES} bytes")]
    TooLong,
}

/// A client of one server. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    target: Target,
    host: HeaderValue,
    /// Path of the base URL, without a slash at its end and without `/v1`, which all paths have.
    prefix: String,
    pool: Pool,
}

/// A request, ready to be sent as often as it takes.
#[derive(Clone, Debug)]
pub struct Message {
    method: Method,
    uri: Uri,
    /// The headers; `host` is among them, and the key if there is one.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Message {
    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// A whole reply.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Client {
    /// A client for the server at `url`, such as `http://127.0.0.1:8080`. Connects when something is sent. May read
    /// certificates from the disk.
    ///
    /// # Errors
    /// When the URL is none of a server, or the certificates cannot be read.
    pub fn new(url: &str, options: &Options) -> Result<Self, ClientError> {
        let wrong = |why: &str| ClientError::Url { url: url.to_owned(), why: why.to_owned() };
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it begins with neither http:// nor https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a password does not belong into it"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure {
            let name = ServerName::try_from(host.clone()).map_err(|error| wrong(&error.to_string()))?;
            Some((tls::connector(options.ca_file.as_deref())?, name))
        } else {
            None
        };
        let path = uri.path().trim_end_matches('/');
        Ok(Self(Arc::new(Inner {
            host: HeaderValue::from_str(authority.as_str()).map_err(|error| wrong(&error.to_string()))?,
            prefix: path.strip_suffix("/v1").unwrap_or(path).to_owned(),
            target: Target { host, port, tls, connect_timeout: options.connect_timeout },
            pool: Pool::default(),
        })))
    }

    /// A request without a body.
    ///
    /// # Errors
    /// When path or key cannot be sent.
    pub fn message(&self, method: Method, path: &str, key: Option<&str>) -> Result<Message, ClientError> {
        let uri = format!("{}{path}", self.0.prefix).parse().map_err(|_| ClientError::Path(path.to_owned()))?;
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::HOST, self.0.host.clone());
        if let Some(key) = key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| ClientError::Key)?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        if method == Method::POST {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(Message { method, uri, headers, body: Bytes::new() })
    }

    /// Sends a request and waits for the head of its reply, as long as it takes. Dropping the future closes the
    /// connection. If an idle connection is closed before any byte of a reply, the request is sent once more on a new
    /// one, and the reply says so: a server that closes what is idle and one that breaks off look the same.
    ///
    /// # Errors
    /// When there is no connection, or no reply on it.
    pub async fn send(&self, message: &Message) -> Result<Reply, SendError> {
        while let Some(mut connection) = self.0.pool.take() {
            if !poll_fn(|context| Poll::Ready(connection.poll_usable(context))).await {
                continue;
            }
            match connection.send(message.request()).await {
                Ok(head) => return Ok(self.reply(head, connection)),
                Err(error) if !error.is_parse() && !connection.had_reply() => {
                    return match self.send_on_new(message).await {
                        Ok(reply) => Ok(Reply { resent: true, ..reply }),
                        // It was reached once.
                        Err(SendError::Connect(_)) => Err(error.into()),
                        Err(again) => Err(again),
                    };
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.send_on_new(message).await
    }

    async fn send_on_new(&self, message: &Message) -> Result<Reply, SendError> {
        let mut connection = Connection::open(&self.0.target).await?;
        let head = connection.send(message.request()).await?;
        Ok(self.reply(head, connection))
    }

    fn reply(&self, head: http::Response<Incoming>, connection: Connection) -> Reply {
        let (head, body) = head.into_parts();
        let (status, headers, client) = (head.status, head.headers, self.clone());
        Reply { status, headers, resent: false, body, connection: Some(connection), client }
    }

    /// A whole reply to a GET.
    ///
    /// # Errors
    /// When path or key cannot be sent, or there is no whole reply within a minute.
    pub async fn get(&self, path: &str, key: Option<&str>) -> anyhow::Result<Answer> {
        let message = self.message(Method::GET, path, key)?;
        self.answer(&message).await
    }

    /// A whole reply to a POST of JSON.
    ///
    /// # Errors
    /// When path or key cannot be sent, or there is no whole reply within a minute.
    pub async fn post(&self, path: &str, key: Option<&str>, body: impl Into<Bytes>) -> anyhow::Result<Answer> {
        let mut message = self.message(Method::POST, path, key)?;
        message.body = body.into();
        self.answer(&message).await
    }

    async fn answer(&self, message: &Message) -> anyhow::Result<Answer> {
        let answer = async {
            let mut reply = self.send(message).await?;
            let body = reply.whole(MAX_BODY_BYTES).await?;
            Ok(Answer { status: reply.status, headers: reply.headers, body })
        };
        let in_time = tokio::time::timeout(LONGEST_ANSWER, answer).await;
        in_time.with_context(|| format!("no answer within {} s", LONGEST_ANSWER.as_secs()))?
    }
}

/// A reply whose body is still to be read. Dropping it before its end closes the connection at once.
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Whether the request had been sent before, on a connection that was then closed without a reply.
    pub resent: bool,
    body: Incoming,
    /// Gone when the body is over.
    connection: Option<Connection>,
    client: Client,
}

impl Reply {
    /// The next piece of the body, `None` at its end. Nothing is read from the network unless this is waited for.
    ///
    /// # Errors
    /// When the connection or the body ends too early.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SendError> {
        let Some(connection) = &mut self.connection else { return Ok(None) };
        match poll_fn(|context| connection.poll_chunk(&mut self.body, context)).await {
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(error)) => {
                self.connection = None;
                Err(error.into())
            }
            None => {
                let usable = poll_fn(|context| Poll::Ready(connection.poll_usable(context))).await;
                if let Some(connection) = self.connection.take_if(|_| usable) {
                    self.client.0.pool.put(connection);
                }
                self.connection = None;
                Ok(None)
            }
        }
    }

    /// The whole body, if it is not longer than `limit` bytes.
    ///
    /// # Errors
    /// When the connection or the body ends too early, or it is too long.
    pub async fn whole(&mut self, limit: usize) -> Result<Bytes, SendError> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        // Most bodies come as one piece, which needs no copy.
        let Some(second) = self.chunk().await? else { return Ok(first) };
        let mut body = BytesMut::from(first);
        body.extend_from_slice(&second);
        while let Some(bytes) = self.chunk().await? {
            body.extend_from_slice(&bytes);
            if body.len() > limit {
                return Err(SendError::TooLong);
            }
        }
        Ok(body.freeze())
    }
}
