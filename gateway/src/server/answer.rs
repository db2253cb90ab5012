//! The service that hyper calls: the routes, with the state of the connection around each request.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::timeout;
use tower::Service;

use super::client::{Connection, Underway};
use super::{Counts, streams};
use crate::error::{Dialect, Reason, Rejection, new_request_id};

/// What is read of a refused request's body over HTTP/2, and for how long.
const LEFTOVER_BYTES: usize = 256 * 1024;
const LEFTOVER_TIME: Duration = Duration::from_secs(1);

/// Answers the requests of one connection.
pub(super) struct Answer {
    router: Router,
    connection: Arc<Connection>,
    counts: Arc<Counts>,
    /// Many requests at once: HTTP/2.
    multiplexed: bool,
}

impl Answer {
    pub(super) fn new(router: Router, connection: Arc<Connection>, counts: Arc<Counts>, multiplexed: bool) -> Self {
        Self { router, connection, counts, multiplexed }
    }

    fn refuse(&self, path: &str, why: &str) -> Response<Body> {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        let (request_id, dialect) = (new_request_id(), Dialect::of_path(path));
        // Anybody can cause this as often as they like, so it is counted, and told only to who asks.
        tracing::debug!(request_id, why, "request refused because of its framing; connection closed");
        let mut response = Rejection::new(Reason::InvalidRequest, why).response(dialect, &request_id);
        dialect.name_request(&mut response, &request_id);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

impl hyper::service::Service<Request<Incoming>> for Answer {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let underway = Underway::begin(&self.connection);
        let multiplexed = self.multiplexed;
        if let Some(why) = self.connection.refusal() {
            let response = self.refuse(request.uri().path(), why);
            return Box::pin(async move { Ok(response.map(|body| Reply { body, underway, multiplexed })) });
        }
        request.extensions_mut().insert(Arc::clone(underway.client()));
        if !multiplexed {
            let response = self.router.clone().call(request);
            return Box::pin(async move { Ok(response.await?.map(|body| Reply { body, underway, multiplexed })) });
        }
        let (head, body) = request.into_parts();
        let asked = Asked(Arc::new(Mutex::new(body)));
        let response = self.router.clone().call(Request::from_parts(head, asked.clone()));
        Box::pin(async move {
            streams::watch(underway.client());
            let response = response.await?;
            asked.read_out().await;
            Ok(response.map(|body| Reply { body, underway, multiplexed }))
        })
    }
}

/// The body of a request over HTTP/2, kept until there is an answer: dropping it earlier resets the stream, and then
/// some clients do not take the answer.
#[derive(Clone)]
struct Asked(Arc<Mutex<Incoming>>);

impl Asked {
    /// Reads what a refused client still sends, as far as it is little and comes soon.
    async fn read_out(mut self) {
        let mut left = LEFTOVER_BYTES;
        let rest = async {
            while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        // Whoever sends more, or more slowly, gets the reset.
        timeout(LEFTOVER_TIME, rest).await.ok();
    }
}

impl http_body::Body for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

/// A response body that tells its connection how it goes.
pub(super) struct Reply {
    // Before `underway`: when the connection learns that the reply has ended, it has.
    body: Body,
    underway: Underway,
    multiplexed: bool,
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        // On an HTTP/1 connection the socket itself shows whether the client reads.
        if !self.multiplexed {
            return Pin::new(&mut self.body).poll_frame(cx);
        }
        self.underway.client().polled();
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_some() {
            self.underway.client().handed_over();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
