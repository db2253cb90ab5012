//! The service that hyper calls: the routes, with the state of the connection around each request.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tower::Service;

use super::client::{Connection, Underway};
use super::{Counts, streams};
use crate::error::{Dialect, Reason, Rejection, new_request_id};

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
        tracing::warn!(request_id, why, "request refused because of its framing; connection closed");
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
        let response = self.router.clone().call(request);
        Box::pin(async move {
            if multiplexed {
                streams::watch(underway.client());
            }
            let response = response.await?;
            Ok(response.map(|body| Reply { body, underway, multiplexed }))
        })
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
