//! A reply that goes to the client in one piece: folded from llama-server's stream, or passed through where
//! llama-server was not asked for one.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::clocks::{Clocks, Due, expired};
use super::fold::{Fold, FoldError};
use super::meter::Meter;
use super::{Ended, Running, lost, timings};
use crate::error::Rejection;
use crate::ledger::Ending;
use crate::surface::{Ask, usage};
use crate::upstream::errors;

/// Bytes of a whole reply at most: far above any output cap, far below what hurts.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// Reads a reply to its end. When this returns a reply, its row in the ledger is durable.
///
/// # Errors
/// A clock ran out, llama-server failed or broke off, or `ended` came true; the account is settled then, too.
pub async fn whole(mut running: Running, ask: &Ask, meter: Meter, mut ended: Ended) -> Result<Bytes, Rejection> {
    let read = if ask.upstream_streams {
        folded(&mut running, ask, meter, &mut ended).await
    } else {
        passed_through(&mut running, ask, &mut ended).await
    };
    match read {
        Ok((reply, ending)) => {
            let closing = running.account.end(ending);
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

async fn folded(
    running: &mut Running,
    ask: &Ask,
    mut meter: Meter,
    ended: &mut Ended,
) -> Result<(Bytes, Ending), Rejection> {
    let mut clocks = Clocks::new(None);
    clocks.start(running.deadlines);
    // Ids and model are told by the first event, which llama-server leaves out of some messages.
    let (id, model) = (format!("msg_{}", running.account.request_id()), running.account.model());
    let mut fold = Fold::new(ask, MAX_REPLY_BYTES).unnamed(&id, model);
    let mut discarded = BytesMut::new();
    let mut ending = Ending::Complete;
    while let Some(bytes) = next(running, &mut clocks, ended).await? {
        let seen = meter.push(&bytes, &mut discarded);
        discarded.clear();
        let count = meter.count();
        let goes_on = if seen.outputs > 0 {
            let now = Instant::now();
            clocks.output(now);
            running.output(count, now)
        } else {
            running.counted(count)
        };
        if let Some(message) = &seen.failed {
            return Err(errors::in_stream(message));
        }
        fold.push(&bytes).map_err(unfolded)?;
        if !goes_on
            && !seen.terminal
            && let Some(events) = meter.cut(&running.names(), &mut discarded)
        {
            fold.cut(events.as_bytes()).map_err(unfolded)?;
            ending = Ending::Cut;
            break;
        }
    }
    running.account.unreadable(meter.unreadable());
    let mut count = running.account.count();
    if ending == Ending::Complete {
        meter.finish(&mut discarded);
        count = meter.count();
        running.counted(count);
    }
    running.account.trace().finished(meter.finish_reason());
    running.learn(meter.speed());
    Ok((fold.finish(&count).map_err(unfolded)?, ending))
}

fn unfolded(error: FoldError) -> Rejection {
    lost(&error.to_string())
}

async fn passed_through(running: &mut Running, ask: &Ask, ended: &mut Ended) -> Result<(Bytes, Ending), Rejection> {
    let mut clocks = Clocks::new(None);
    // Nothing comes before everything is there, so the only clock that can be kept is the total.
    clocks.start(super::clocks::Deadlines { first_token: running.deadlines.total, ..running.deadlines });
    let mut reply = BytesMut::new();
    while let Some(bytes) = next(running, &mut clocks, ended).await? {
        if reply.len() + bytes.len() > MAX_REPLY_BYTES {
            return Err(lost("the reply is larger than the gateway takes"));
        }
        reply.extend_from_slice(&bytes);
    }
    let timed = timings::speed(&reply);
    let (reply, count) = usage::of_reply(ask, reply.freeze());
    if let Some(count) = count {
        // There is nothing left that a quota could end.
        running.counted(count);
    }
    running.learn(timed);
    Ok((reply, Ending::Complete))
}

/// The next bytes, or why there are none.
async fn next(running: &mut Running, clocks: &mut Clocks, ended: &mut Ended) -> Result<Option<Bytes>, Rejection> {
    poll_fn(|context| {
        if let Poll::Ready(bytes) = running.poll_bytes(context) {
            return Poll::Ready(bytes.transpose());
        }
        if let Poll::Ready(rejection) = ended.as_mut().poll(context) {
            return Poll::Ready(Err(rejection));
        }
        match clocks.poll(context) {
            Poll::Ready(Due::Expired(reason)) => Poll::Ready(Err(expired(reason))),
            // There are no keep-alives in a reply of one piece.
            Poll::Ready(Due::KeepAlive) | Poll::Pending => Poll::Pending,
        }
    })
    .await
}
