//! The body of an answer in one piece that is kept alive with white space, which stands before any JSON text.
//!
//! Takes the future of the reply, and is polled by the client's own connection: a client that leaves drops the body,
//! and with it the request, in whatever phase it is.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::error::{Dialect, Rejection};

/// A line feed: readers by line see it as well.
const WHITE_SPACE: &[u8] = b"\n";

/// A whole reply on its way. When it is there, its row in the ledger is durable.
pub type Answering = Pin<Box<dyn Future<Output = Result<Bytes, Rejection>> + Send>>;

/// White space, and then a reply; or the error object, since the 200 is out.
pub struct WhiteSpaceBody {
    /// `None` once the reply was given.
    answering: Option<Answering>,
    keep_alive: Interval,
    dialect: Dialect,
    request_id: Arc<str>,
}

impl WhiteSpaceBody {
    /// A body for the reply that `answering` will bring. White space is sent at once and then every `keep_alive`.
    pub fn new(answering: Answering, keep_alive: Duration, dialect: Dialect, request_id: Arc<str>) -> Self {
        let mut keep_alive = interval(keep_alive);
        // A client that did not read for a while needs one sign of life, not all that it has missed.
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { answering: Some(answering), keep_alive, dialect, request_id }
    }
}

impl http_body::Body for WhiteSpaceBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let Some(answering) = &mut this.answering else { return Poll::Ready(None) };
        let bytes = match answering.as_mut().poll(context) {
            Poll::Ready(Ok(reply)) => reply,
            Poll::Ready(Err(rejection)) => Bytes::from(rejection.body(this.dialect, &this.request_id).to_string()),
            Poll::Pending => {
                let due = this.keep_alive.poll_tick(context);
                return due.map(|_| Some(Ok(Frame::data(Bytes::from_static(WHITE_SPACE)))));
            }
        };
        this.answering = None;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.answering.is_none()
    }
}
