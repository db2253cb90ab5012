//! From the queue to the head of llama-server's answer.
//!
//! Takes [`Queued`] and gives a [`Running`]. Whatever way it fails, the account is settled.

use std::sync::Arc;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout_at};

use crate::account::Account;
use crate::app::App;
use crate::enqueue::{self, Queued, Wait};
use crate::error::{Reason, Rejection};
use crate::queue::{Slot, Waiting, Work};
use crate::stream::Running;
use crate::stream::clocks::{Deadlines, expired};
use crate::surface::Ask;
use crate::traces::{Step, Trace};
use crate::upstream::{Readiness, ReplyBody, SendError, errors};

/// Bytes of an error reply of llama-server that are read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// How often a request is sent at most while no replica has begun to work on it.
const MAX_ATTEMPTS: u32 = 8;

/// Waits for a slot, makes the row durable, asks llama-server, reads the head of its answer.
pub(crate) async fn dispatch(app: &App, queued: Queued) -> Result<Running, Rejection> {
    let Queued { ask, work, mut account, waiting, deadline, total, wait, revocation, .. } = queued;
    let ended = app.ended(account.replaced(), &revocation);
    let trace = account.trace().clone();
    let mut dispatch = Dispatch { app, ask: &ask, work, account: &mut account, deadline, total, trace };
    let answered = tokio::select! {
        answered = dispatch.run(waiting, &wait) => answered,
        rejection = ended => Err(rejection),
    };
    wait.end();
    match answered {
        Ok((body, slot, deadlines)) => Ok(Running::new(body, slot, account, deadlines, app.upstream.clone())),
        Err(rejection) => {
            drop(account.fail(&rejection));
            Err(rejection)
        }
    }
}

/// What the steps of a dispatch share.
struct Dispatch<'a> {
    app: &'a App,
    ask: &'a Ask,
    work: Work,
    account: &'a mut Account,
    deadline: Instant,
    total: Instant,
    trace: Trace,
}

/// What a replica said to a request, if it could be asked.
type Sent = Result<http::Response<ReplyBody>, SendError>;

impl Dispatch<'_> {
    async fn run(&mut self, waiting: Waiting, wait: &Wait) -> Result<(ReplyBody, Slot, Deadlines), Rejection> {
        let mut slot = self.slot(waiting).await?;
        wait.end();
        self.record(&slot).await?;
        let mut attempts = 1;
        loop {
            // They count from when llama-server is asked, not from the first attempt.
            let deadlines = self.deadlines();
            match self.send(&slot, &deadlines).await? {
                // No replica has begun with it, so the request goes back to its place, and any may be asked. One that
                // refuses is out of the queue by now: each attempt but a few meets another one.
                Err(error) if error.has_not_begun() && attempts < MAX_ATTEMPTS && Instant::now() < self.deadline => {
                    attempts += 1;
                    self.account.waits_again();
                    slot = self.slot(slot.unused()).await?;
                    self.record(&slot).await?;
                }
                Err(error) => return Err(unsent(&error)),
                Ok(reply) if reply.status() == StatusCode::OK => return Ok((reply.into_body(), slot, deadlines)),
                Ok(reply) => return Err(self.refused(reply, &deadlines).await),
            }
        }
    }

    async fn slot(&self, mut waiting: Waiting) -> Result<Slot, Rejection> {
        let _queue = self.trace.step(Step::Queue);
        let slot = match timeout_at(self.deadline, &mut waiting).await {
            Ok(slot) => slot,
            Err(_elapsed) => Err(waiting.expire()),
        };
        slot.map_err(|refusal| enqueue::rejection(&refusal, self.ask))
    }

    /// A replica that is just being forgotten has no address.
    fn address(&self, slot: &Slot) -> Arc<str> {
        self.app.upstream.address(slot.replica()).unwrap_or_default()
    }

    /// Puts into the ledger where the request goes.
    async fn record(&mut self, slot: &Slot) -> Result<(), Rejection> {
        let upstream = self.address(slot);
        let _ledger = self.trace.step(Step::Ledger);
        self.account.dispatch(upstream).await
    }

    /// The clocks of the answer, from now.
    fn deadlines(&self) -> Deadlines {
        let timeouts = &self.app.config.timeouts;
        let thousands = self.work.prompt as f64 / 1000.0;
        let first_token = timeouts.first_token + timeouts.first_token_per_1000.mul_f64(thousands);
        Deadlines { first_token: Instant::now() + first_token, silence: timeouts.silence, total: self.total }
    }

    /// Asks the replica of the slot. The outer error is a clock that ran out.
    async fn send(&mut self, slot: &Slot, deadlines: &Deadlines) -> Result<Sent, Rejection> {
        let ask = self.ask;
        let body = if slot.may_use_cache() { ask.upstream_body.clone() } else { ask.without_cache()? };
        self.account.asked();
        let path = ask.surface.upstream_path();
        let told = self.trace.attempt(path, || self.address(slot));
        let asked = self.app.upstream.send(slot.replica(), path, body, &told);
        // The head comes when a slot starts the request, or with the whole answer where llama-server does not stream.
        let (until, reason) = if ask.upstream_streams && deadlines.first_token < self.total {
            (deadlines.first_token, Reason::FirstTokenTimeout)
        } else {
            (self.total, Reason::TotalTimeout)
        };
        let sent = timeout_at(until, asked).await;
        match &sent {
            Ok(Ok(reply)) => self.trace.attempt_answered(reply.status().as_u16()),
            Ok(Err(error)) => self.trace.attempt_failed(error.label()),
            Err(_elapsed) => self.trace.attempt_failed(reason.label()),
        }
        sent.map_err(|_elapsed| expired(reason))
    }

    /// What an error reply of llama-server comes to. The slot is held meanwhile, so one that stalls in the middle is
    /// not waited for.
    async fn refused(&self, reply: http::Response<ReplyBody>, deadlines: &Deadlines) -> Rejection {
        let (head, body) = reply.into_parts();
        let until = self.total.min(Instant::now() + deadlines.silence);
        let read = timeout_at(until, Limited::new(body, MAX_ERROR_BYTES).collect()).await;
        let text = read.ok().and_then(Result::ok).map(|collected| collected.to_bytes()).unwrap_or_default();
        errors::rejection(head.status, &text)
    }
}

/// Why llama-server gave no answer.
pub(crate) fn unsent(error: &SendError) -> Rejection {
    let rejection = match error {
        SendError::NoReplica(Readiness::Loading) => Rejection::model_loading(),
        error if error.has_not_begun() => Rejection::backend_unavailable(),
        _ => Rejection::unanswered(),
    };
    rejection.operator(error.to_string())
}
