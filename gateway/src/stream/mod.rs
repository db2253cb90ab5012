//! A reply of llama-server on its way back: events are found in the bytes, counted, passed on, kept alive and
//! bounded in time, or folded into one reply.

pub mod body;
pub mod clocks;
pub mod cut;
pub mod fold;
pub mod meter;
pub mod sse;
mod tally;
mod timings;
mod usage;
pub mod white_space;
pub mod whole;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::auth::{Revocation, revoked};
use crate::error::{Reason, Rejection};
use crate::ledger::Count;
use crate::queue::{Slot, Speed};
use crate::server::Drain;
use crate::upstream::{ReplyBody, Upstream};
use clocks::Deadlines;
use cut::Names;

/// A reply that llama-server has begun, with everything that is held until it is over.
///
/// The fields are dropped in this order: the connection to llama-server is closed first, then the slot goes to the
/// next waiter, then the account is settled.
pub struct Running {
    /// `None` once the request was ended by the gateway itself.
    body: Option<ReplyBody>,
    /// `None` once llama-server is done with the request, which a slow reader may still be reading.
    slot: Option<Slot>,
    account: Account,
    deadlines: Deadlines,
    upstream: Arc<Upstream>,
}

impl Running {
    /// A reply of `upstream` whose head has arrived.
    pub fn new(body: ReplyBody, slot: Slot, account: Account, deadlines: Deadlines, upstream: Arc<Upstream>) -> Self {
        Self { body: Some(body), slot: Some(slot), account, deadlines, upstream }
    }

    /// llama-server gave output; `count` is what it comes to so far. `false`: the request is to end here, because its
    /// quota is used up.
    fn output(&mut self, count: Count, now: Instant) -> bool {
        self.record(&count);
        self.account.output(count, now)
    }

    /// The tokens so far, without any being new to the client. `false`: as for [`output`](Self::output).
    fn counted(&mut self, count: Count) -> bool {
        self.record(&count);
        self.account.counted(count)
    }

    /// The queue learns how fast the replica was: by llama-server's timings, or by what the account has measured where
    /// a surface (Anthropic messages) has none.
    fn learn(&self, timed: Option<Speed>) {
        if let Some(slot) = &self.slot
            && let Some(speed) = timed.or_else(|| self.account.speed())
        {
            slot.learn(speed);
        }
    }

    /// Names for what the stream itself did not name.
    fn names(&self) -> Names<'_> {
        Names { request_id: self.account.request_id(), model: self.account.model(), created: self.account.seconds() }
    }

    fn record(&self, count: &Count) {
        if let Some(slot) = &self.slot {
            slot.record(count);
        }
    }

    /// The next bytes of the reply; `None` at its end.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Rejection>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
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

/// Comes true when a request must end before its answer does; gives what its client is told.
pub type Ended = Pin<Box<dyn Future<Output = Rejection> + Send>>;

/// The end of a request at the end of the drain grace, when its own retry has `replaced` it, or when its key was revoked
/// so that what it runs ends.
pub fn ended(drain: Drain, replaced: CancellationToken, revocation: Revocation) -> Ended {
    Box::pin(async move {
        tokio::select! {
            biased;
            () = drain.expired() => Rejection::draining(),
            () = replaced.cancelled() => Rejection::replaced(),
            () = revocation.announced() => revoked(),
        }
    })
}

/// llama-server's reply broke off.
fn lost(operator: &str) -> Rejection {
    Rejection::new(Reason::BackendError, "The connection to the model server broke off.").operator(operator)
}
