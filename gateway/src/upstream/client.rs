//! Requests to one replica over connections that are used again: HTTP/1.1, nothing in it that a client chose but the
//! body and the ids of its trace.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::uri::Authority;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::board::Readiness;
use super::pool::Pool;
use super::replica::host_and_port;
use super::wire::{Lost, ReplyBody, ReplyError, Traffic, Wire};
use crate::traces::Propagation;

/// Why a request got no reply.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection could be made: nothing was sent.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// `host:port`, for the operator only.
        address: String,
        /// What the connection said.
        source: io::Error,
    },
    /// The connection was reset before anything came back: the replica had closed it with unread bytes, so that the
    /// request had not begun. (One that was read and then lost with its process ends without a reset.)
    #[error("{address} has not read the request: {source}")]
    Unread {
        /// `host:port`, for the operator only.
        address: String,
        /// What the connection said.
        source: ReplyError,
    },
    /// The connection broke before the head of a reply had arrived, or what came was none.
    #[error("no reply from {address}: {source}")]
    Broken {
        /// `host:port`, for the operator only.
        address: String,
        /// What the connection said.
        source: ReplyError,
    },
    /// The connection broke within the reply to a small request.
    #[error("the reply broke off: {0}")]
    Cut(String),
    /// The reply to a small request is larger than any should be.
    #[error("the reply is too large")]
    TooLarge,
    /// A small request took too long.
    #[error("no reply in time")]
    Timeout,
    /// No replica can be asked now.
    #[error("no replica is ready")]
    NoReplica(Readiness),
}

impl SendError {
    /// The name in traces.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "not_connected",
            Self::Unread { .. } => "not_read",
            Self::Broken { .. } => "no_reply",
            Self::Cut(_) => "broken_off",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::NoReplica(_) => "no_replica",
        }
    }

    /// The replica, or its machine, actively refused the connection or cannot be found. A timeout is not that: under
    /// load llama-server accepts late.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() != io::ErrorKind::TimedOut)
    }

    /// No replica has begun to work on the request, so it may be sent to another one.
    pub(crate) fn has_not_begun(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Unread { .. } | Self::NoReplica(_))
    }
}

/// What the connections to all replicas have in common.
pub(super) struct Dialer {
    key: Option<HeaderValue>,
    connect_timeout: Duration,
}

impl Dialer {
    pub(super) fn new(key: Option<HeaderValue>, connect_timeout: Duration) -> Self {
        Self { key, connect_timeout }
    }

    pub(super) fn link(&self, authority: Authority) -> Link {
        let mut headers = format!(" HTTP/1.1\r\nhost: {authority}\r\n").into_bytes();
        if let Some(key) = &self.key {
            headers.extend_from_slice(b"authorization: ");
            headers.extend_from_slice(key.as_bytes());
            headers.extend_from_slice(b"\r\n");
        }
        let (connect_timeout, pool, traffic) = (self.connect_timeout, Arc::default(), Arc::default());
        Link { authority, headers, connect_timeout, pool, traffic }
    }
}

/// The connections to one replica.
pub(super) struct Link {
    authority: Authority,
    /// What all requests have in common, from the protocol version on. Holds the key: not to be shown.
    headers: Vec<u8>,
    connect_timeout: Duration,
    pool: Arc<Pool>,
    traffic: Arc<Traffic>,
}

impl Link {
    pub(super) async fn post(
        &self,
        path: &'static str,
        body: Bytes,
        trace: &Propagation,
    ) -> Result<Response<ReplyBody>, SendError> {
        let (length, trace) = (body.len(), trace.lines());
        let more = format!("content-type: application/json\r\ncontent-length: {length}\r\n{trace}");
        let head = self.head("POST ", path, &more);
        let begun = self.traffic.begin();
        let reply = self.request(head, body).await;
        begun.done();
        reply
    }

    pub(super) async fn get(&self, path: &'static str) -> Result<Response<ReplyBody>, SendError> {
        self.request(self.head("GET ", path, ""), Bytes::new()).await
    }

    /// How many times bytes came from the replica, on any connection. A replica that is heard is alive, even when it
    /// has no thread for a probe.
    pub(super) fn heard(&self) -> u64 {
        self.traffic.heard()
    }

    /// How many requests were given up before their reply was over.
    pub(super) fn abandoned(&self) -> u64 {
        self.traffic.abandoned()
    }

    fn head(&self, method: &str, path: &'static str, more: &str) -> Bytes {
        [method.as_bytes(), path.as_bytes(), &self.headers, more.as_bytes(), b"\r\n"].concat().into()
    }

    async fn request(&self, head: Bytes, body: Bytes) -> Result<Response<ReplyBody>, SendError> {
        let mut earlier = None;
        if let Some(wire) = self.pool.take() {
            match wire.exchange(head.clone().chain(body.clone()), &self.pool).await {
                Ok(reply) => return Ok(reply),
                // The server may have closed it while it was idle, which is no answer to this request. Only once:
                // a new connection cannot have been idle.
                Err(lost) if lost.unanswered => earlier = Some(lost),
                Err(lost) => return Err(self.broken(lost)),
            }
        }
        let stream = match (self.connect().await, earlier) {
            (Ok(stream), _) => stream,
            // The request itself may be what the process died of: it must not be taken to the next one.
            (Err(_), Some(lost)) if !lost.is_unread() => return Err(self.broken(lost)),
            (Err(source), _) => return Err(SendError::Connect { address: self.authority.to_string(), source }),
        };
        let wire = Wire::new(stream, Arc::clone(&self.traffic));
        wire.exchange(head.chain(body), &self.pool).await.map_err(|lost| self.broken(lost))
    }

    fn broken(&self, lost: Lost) -> SendError {
        let (address, unread) = (self.authority.to_string(), lost.is_unread());
        let source = lost.error;
        if unread { SendError::Unread { address, source } } else { SendError::Broken { address, source } }
    }

    /// Connects to the first address of the host that can be connected to; each has its share of the time.
    async fn connect(&self) -> io::Result<TcpStream> {
        let found = timeout(self.connect_timeout, lookup_host(host_and_port(&self.authority))).await;
        let addresses: Vec<_> = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?.collect();
        let share = self.connect_timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return stream.set_nodelay(true).map(|()| stream),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failure)
    }
}

/// Reads a reply of at most `limit` bytes.
pub(super) async fn read(reply: Response<ReplyBody>, limit: usize) -> Result<(StatusCode, Bytes), SendError> {
    let status = reply.status();
    match Limited::new(reply.into_body(), limit).collect().await {
        Ok(body) => Ok((status, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(SendError::TooLarge),
        Err(error) => Err(SendError::Cut(error.to_string())),
    }
}
