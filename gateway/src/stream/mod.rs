//! A reply of llama-server on its way back: events are found in the bytes, counted, passed on, kept alive and
//! bounded in time, or folded into one reply.

pub mod body;
pub mod clocks;
pub mod fold;
pub mod meter;
pub mod sse;
mod tally;
mod timings;
mod usage;
pub mod whole;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body as _;

use crate::account::Account;
use crate::error::{Reason, Rejection};
use crate::queue::Slot;
use crate::upstream::ReplyBody;
use clocks::Deadlines;

/// A reply that llama-server has begun, with everything that is held until it is over.
///
/// The fields are dropped in this order: the connection to llama-server is closed first, then the slot goes to the
/// next waiter, then the account is settled.
pub struct Running {
    body: ReplyBody,
    /// `None` once llama-server is done with the request, which a slow reader may still be reading.
    slot: Option<Slot>,
    account: Account,
    deadlines: Deadlines,
}

impl Running {
    /// A reply whose head has arrived.
    pub fn new(body: ReplyBody, slot: Slot, account: Account, deadlines: Deadlines) -> Self {
        Self { body, slot: Some(slot), account, deadlines }
    }

    /// The next bytes of the reply; `None` at its end.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Rejection>>> {
        loop {
            return match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(lost(&error.to_string())))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => Poll::Ready(Some(Ok(bytes))),
                    Err(_trailers) => continue,
                },
            };
        }
    }
}

/// Comes true when the gateway's drain grace is over and streams must end.
pub type Expired = Pin<Box<dyn Future<Output = ()> + Send>>;

/// llama-server's reply broke off.
fn lost(operator: &str) -> Rejection {
    Rejection::new(Reason::BackendError, "The connection to the model server broke off.").operator(operator)
}
