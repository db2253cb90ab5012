//! A reply that goes to the client in one piece: folded from llama-server's stream, or passed through where
//! llama-server was not asked for one.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::clocks::{Clocks, Due, expired};
use super::fold::Fold;
use super::meter::Meter;
use super::{Expired, Running, lost};
use crate::error::Rejection;
use crate::ledger::Ending;
use crate::surface::{Ask, usage};
use crate::upstream::errors;

/// Bytes of a whole reply at most: far above any output cap, far below what hurts.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// Reads a reply to its end. When this returns a reply, its row in the ledger is durable.
///
/// # Errors
/// A clock ran out, llama-server failed or broke off, or the gateway is at the end of its drain; the account is
/// settled then, too.
pub async fn whole(mut running: Running, ask: &Ask, mut drain_expired: Expired) -> Result<Bytes, Rejection> {
    let read = if ask.upstream_streams {
        folded(&mut running, ask, &mut drain_expired).await
    } else {
        passed_through(&mut running, ask, &mut drain_expired).await
    };
    match read {
        Ok(reply) => {
            let closing = running.account.end(Ending::Complete);
            // The slot is free for the next one while the row is being written.
            drop(running);
            if let Some(closing) = closing {
                // A ledger that cannot commit keeps the row and says so loudly; the answer is not held against it.
                drop(closing.await);
            }
            Ok(reply)
        }
        Err(rejection) => {
            drop(running.account.fail(&rejection));
            Err(rejection)
        }
    }
}

async fn folded(running: &mut Running, ask: &Ask, drain_expired: &mut Expired) -> Result<Bytes, Rejection> {
    let mut clocks = Clocks::new(None);
    clocks.start(running.deadlines);
    let mut meter = Meter::new(ask);
    // Ids and model are told by the first event, which llama-server leaves out of some messages.
    let (id, model) = (format!("msg_{}", running.account.request_id()), running.account.model());
    let mut fold = Fold::new(ask, MAX_REPLY_BYTES).unnamed(&id, model);
    let mut discarded = BytesMut::new();
    while let Some(bytes) = next(running, &mut clocks, drain_expired).await? {
        let seen = meter.push(&bytes, &mut discarded);
        discarded.clear();
        if seen.outputs > 0 {
            let now = Instant::now();
            clocks.output(now);
            running.output(meter.count(), now);
        } else {
            running.counted(meter.count());
        }
        if let Some(message) = &seen.failed {
            return Err(errors::in_stream(message));
        }
        fold.push(&bytes).map_err(|error| lost(&error.to_string()))?;
    }
    meter.finish(&mut discarded);
    let count = meter.count();
    running.counted(count);
    running.account.unreadable(meter.unreadable());
    fold.finish(&count).map_err(|error| lost(&error.to_string()))
}

async fn passed_through(running: &mut Running, ask: &Ask, drain_expired: &mut Expired) -> Result<Bytes, Rejection> {
    let mut clocks = Clocks::new(None);
    // Nothing comes before everything is there, so the only clock that can be kept is the total.
    clocks.start(super::clocks::Deadlines { first_token: running.deadlines.total, ..running.deadlines });
    let mut reply = BytesMut::new();
    while let Some(bytes) = next(running, &mut clocks, drain_expired).await? {
        if reply.len() + bytes.len() > MAX_REPLY_BYTES {
            return Err(lost("the reply is larger than the gateway takes"));
        }
        reply.extend_from_slice(&bytes);
    }
    let (reply, count) = usage::of_reply(ask, reply.freeze());
    if let Some(count) = count {
        running.counted(count);
    }
    Ok(reply)
}

/// The next bytes, or why there are none.
async fn next(
    running: &mut Running,
    clocks: &mut Clocks,
    drain_expired: &mut Expired,
) -> Result<Option<Bytes>, Rejection> {
    poll_fn(|context| {
        if let Poll::Ready(bytes) = running.poll_bytes(context) {
            return Poll::Ready(bytes.transpose());
        }
        if drain_expired.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(Rejection::draining()));
        }
        match clocks.poll(context) {
            Poll::Ready(Due::Expired(reason)) => Poll::Ready(Err(expired(reason))),
            // There are no keep-alives in a reply of one piece.
            Poll::Ready(Due::KeepAlive) | Poll::Pending => Poll::Pending,
        }
    })
    .await
}
