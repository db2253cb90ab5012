//! One replica, and how `upstream.urls` names it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::uri::Authority;
use http::{Response, Uri};
use tokio::sync::Notify;

use super::StartError;
use super::client::{Dialer, Link, SendError};
use super::wire::ReplyBody;
use crate::queue::ReplicaId;
use crate::traces::Propagation;

/// One llama-server as the gateway uses it.
pub(super) struct Replica {
    pub(super) id: ReplicaId,
    pub(super) address: Arc<str>,
    pub(super) link: Link,
    suspicion: Notify,
    /// Requests under way that may have more sequences than they have slots.
    batches: AtomicU32,
}

impl Replica {
    pub(super) fn new(id: ReplicaId, authority: Authority, dialer: &Dialer) -> Self {
        let address = authority.as_str().into();
        let link = dialer.link(authority);
        Self { id, address, link, suspicion: Notify::new(), batches: AtomicU32::new(0) }
    }

    /// Sends a request for a slot.
    pub(super) async fn post(
        &self,
        path: &'static str,
        body: Bytes,
        trace: &Propagation,
    ) -> Result<Response<ReplyBody>, SendError> {
        // These are answered as a whole: their head is there when all of them is done.
        let _batch = matches!(path, "/v1/embeddings" | "/v1/rerank").then(|| Batch::begin(&self.batches));
        self.link.post(path, body, trace).await
    }

    /// Whether llama-server may have more sequences of this gateway than slots were taken for: a long list of inputs to
    /// embed has one for each.
    pub(super) fn has_batches(&self) -> bool {
        self.batches.load(Ordering::Relaxed) > 0
    }

    /// Ends the prober's pause.
    pub(super) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    pub(super) async fn suspected(&self) {
        self.suspicion.notified().await;
    }
}

/// A request with many sequences, while it is under way.
struct Batch<'a>(&'a AtomicU32);

impl<'a> Batch<'a> {
    fn begin(batches: &'a AtomicU32) -> Self {
        batches.fetch_add(1, Ordering::Relaxed);
        Self(batches)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one of `upstream.urls` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// One replica.
    Fixed(Authority),
    /// Every address of a name is a replica.
    Name(Authority),
}

impl Target {
    pub(super) fn authority(&self) -> &Authority {
        match self {
            Self::Fixed(authority) | Self::Name(authority) => authority,
        }
    }

    /// Its address, if it is written as one.
    pub(super) fn literal(&self) -> Option<SocketAddr> {
        let (host, port) = host_and_port(self.authority());
        host.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, port))
    }
}

/// The host without the brackets of an IPv6 address, and the port.
pub(super) fn host_and_port(authority: &Authority) -> (&str, u16) {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    (host, authority.port_u16().unwrap_or(80))
}

/// What the configured URLs name.
pub(super) fn targets(urls: &[String]) -> Result<Vec<Target>, StartError> {
    if urls.is_empty() {
        return Err(StartError::NoUrl);
    }
    let mut seen = HashSet::new();
    urls.iter()
        .map(|url| {
            let checked = target(url).and_then(|target| match seen.insert(target.authority().clone()) {
                true => Ok(target),
                // Its slots would be counted twice.
                false => Err("is given twice"),
            });
            checked.map_err(|problem| StartError::Url { url: url.clone(), problem })
        })
        .collect()
}

fn target(url: &str) -> Result<Target, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
    let kind = match uri.scheme_str() {
        Some("http") => Target::Fixed,
        Some("dns") => Target::Name,
        Some("https") => return Err("https to llama-server is not supported"),
        Some(_) => return Err("is neither an http nor a dns URL"),
        None => return Err("has no scheme"),
    };
    let authority = uri.authority().ok_or("has no host")?;
    if authority.as_str().contains('@') {
        return Err("credentials do not belong into it: use upstream.api_key_file");
    }
    if authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has no port");
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('#') {
        return Err("has a path or a query");
    }
    Ok(kind(authority.clone()))
}
