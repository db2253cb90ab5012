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
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body as _;
use tokio::time::Instant;

use crate::account::Account;
use crate::error::{Reason, Rejection};
use crate::ledger::Count;
use crate::queue::Slot;
use crate::upstream::{ReplyBody, Upstream};
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
    upstream: Arc<Upstream>,
}

impl Running {
    /// A reply of `upstream` whose head has arrived.
    pub fn new(body: ReplyBody, slot: Slot, account: Account, deadlines: Deadlines, upstream: Arc<Upstream>) -> Self {
        Self { body, slot: Some(slot), account, deadlines, upstream }
    }

    /// llama-server gave output; `count` is what it comes to so far.
    fn output(&mut self, count: Count, now: Instant) {
        self.account.output(count, now);
        self.record(&count);
    }

    /// The tokens so far, without any being new to the client.
    fn counted(&mut self, count: Count) {
        self.account.counted(count);
        self.record(&count);
    }

    fn record(&self, count: &Count) {
        if let Some(slot) = &self.slot {
            slot.record(count);
        }
    }

    /// The next bytes of the reply; `None` at its end.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Rejection>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| match frame {
            // A frame without data, trailers, has nothing for anybody.
            Ok(frame) => Ok(frame.into_data().unwrap_or_default()),
            Err(error) => {
                // Before the slot goes to the next one.
                if let Some(slot) = &self.slot {
                    self.upstream.mark_suspect(slot.replica());
                }
                Err(lost(&error.to_string()))
            }
        }))
    }
}

/// Comes true when the gateway's drain grace is over and streams must end.
pub type Expired = Pin<Box<dyn Future<Output = ()> + Send>>;

/// llama-server's reply broke off.
fn lost(operator: &str) -> Rejection {
    Rejection::new(Reason::BackendError, "The connection to the model server broke off.").operator(operator)
}
