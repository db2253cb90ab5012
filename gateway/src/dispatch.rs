//! From the queue to the head of llama-server's answer.
//!
//! Takes a request with its account and gives a [`Running`]. Whatever way it fails, the account is settled.

use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout_at};

use crate::account::{Account, Answered};
use crate::app::App;
use crate::error::{Reason, Rejection};
use crate::queue::{Refusal, Slot, Ticket, Waiting};
use crate::stream::Running;
use crate::stream::clocks::{Deadlines, expired};
use crate::surface::{Ask, Surface};
use crate::upstream::{Readiness, ReplyBody, SendError, errors};

/// Bytes of an error reply of llama-server that are read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// When to come back, where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A request that waits for a slot.
pub(crate) struct Queued {
    pub(crate) ask: Ask,
    account: Account,
    ticket: Ticket,
    waiting: Waiting,
    /// When it gives up waiting.
    queue: Instant,
    /// When it gives up altogether.
    total: Instant,
}

impl Queued {
    /// To be set when the client is sent its 200.
    pub(crate) fn answered(&self) -> Answered {
        self.account.answered()
    }
}

/// Takes the request's place in the queue.
pub(crate) fn queue(app: &App, ask: Ask, mut account: Account, arrived: Instant) -> Result<Queued, Rejection> {
    let ticket = Ticket { slots: slots(app, &ask), tenant: account.tenant() };
    let waiting = app.queue.enter(ticket.clone()).map_err(|refusal| {
        let rejection = refused(&refusal, &ask);
        drop(account.fail(&rejection));
        rejection
    })?;
    let timeouts = &app.config.timeouts;
    let (queue, total) = (arrived + timeouts.queue.min(timeouts.total), arrived + timeouts.total);
    Ok(Queued { ask, account, ticket, waiting, queue, total })
}

/// How many slots a request occupies. A long list of inputs to embed takes all there are, not more.
fn slots(app: &App, ask: &Ask) -> u32 {
    match ask.surface {
        Surface::Embeddings | Surface::Rerank => ask.sequences().min(app.widest().max(1)),
        _ => ask.sequences(),
    }
}

fn refused(refusal: &Refusal, ask: &Ask) -> Rejection {
    match refusal {
        Refusal::Full => Rejection::new(Reason::QueueFull, "Too many requests are waiting. Try again in a moment.")
            .retry_after(RETRY_AFTER),
        Refusal::TooWide { slots } => {
            let field = if ask.choices > 1 { "n" } else { "prompt" };
            let sequences = ask.sequences();
            let text = format!("The request asks for {sequences} answers at once; the model server has {slots} slots.");
            Rejection::field(field, text)
        }
    }
}

/// Waits for a slot, makes the row durable, asks llama-server, reads the head of its answer.
pub(crate) async fn dispatch(app: &App, queued: Queued) -> Result<Running, Rejection> {
    let Queued { ask, mut account, ticket, waiting, queue, total } = queued;
    let mut way = Way { app, ask: &ask, account: &mut account, queue, total };
    let answered = tokio::select! {
        answered = way.go(ticket, waiting) => answered,
        () = app.drain.expired() => Err(Rejection::draining()),
    };
    match answered {
        Ok((body, slot, deadlines)) => Ok(Running::new(body, slot, account, deadlines, app.upstream.clone())),
        Err(rejection) => {
            drop(account.fail(&rejection));
            Err(rejection)
        }
    }
}

/// What the steps of a dispatch share.
struct Way<'a> {
    app: &'a App,
    ask: &'a Ask,
    account: &'a mut Account,
    queue: Instant,
    total: Instant,
}

impl Way<'_> {
    async fn go(&mut self, ticket: Ticket, waiting: Waiting) -> Result<(ReplyBody, Slot, Deadlines), Rejection> {
        let entered = Instant::now();
        let slot = self.wait(waiting).await;
        self.account.waited(entered.elapsed());
        let mut slot = slot?;
        self.account.dispatch().await?;
        let mut deadlines = self.deadlines();
        let mut sent = self.send(&slot, &deadlines).await?;
        // Nothing was sent to a replica that refuses the connection, so another one may be asked.
        if matches!(sent, Err(SendError::Connect { .. })) && self.app.ready().is_ok() {
            drop(slot);
            let again = self.app.queue.enter(ticket).map_err(|refusal| refused(&refusal, self.ask))?;
            slot = self.wait(again).await?;
            // They count from when llama-server is asked, not from the first attempt.
            deadlines = self.deadlines();
            sent = self.send(&slot, &deadlines).await?;
        }
        let (head, body) = sent.map_err(|error| unsent(&error))?.into_parts();
        if head.status == StatusCode::OK {
            return Ok((body, slot, deadlines));
        }
        // A slot is held meanwhile, so what stalls in the middle of an error is not waited for.
        let until = self.total.min(Instant::now() + deadlines.silence);
        let read = timeout_at(until, Limited::new(body, MAX_ERROR_BYTES).collect()).await;
        let text = read.ok().and_then(Result::ok).map(|collected| collected.to_bytes()).unwrap_or_default();
        Err(errors::rejection(head.status, &text))
    }

    async fn wait(&self, waiting: Waiting) -> Result<Slot, Rejection> {
        match timeout_at(self.queue, waiting).await {
            Ok(slot) => slot.map_err(|refusal| refused(&refusal, self.ask)),
            Err(_elapsed) => Err(expired(Reason::QueueTimeout).retry_after(RETRY_AFTER)),
        }
    }

    /// The clocks of the answer, from now.
    fn deadlines(&self) -> Deadlines {
        let timeouts = &self.app.config.timeouts;
        // Four bytes a token is what English text comes to.
        let thousands = self.ask.upstream_body.len() as f64 / 4000.0;
        let first_token = timeouts.first_token + timeouts.first_token_per_1000.mul_f64(thousands);
        Deadlines { first_token: Instant::now() + first_token, silence: timeouts.silence, total: self.total }
    }

    /// Asks the replica of the slot. The outer error is a clock that ran out.
    async fn send(
        &self,
        slot: &Slot,
        deadlines: &Deadlines,
    ) -> Result<Result<http::Response<ReplyBody>, SendError>, Rejection> {
        let path = self.ask.surface.upstream_path();
        let asked = self.app.upstream.send(slot.replica(), path, self.ask.upstream_body.clone());
        // The head comes when a slot starts the request, or with the whole answer where llama-server does not stream.
        let streams = self.ask.upstream_streams;
        let (until, reason) = if streams && deadlines.first_token < self.total {
            (deadlines.first_token, Reason::FirstTokenTimeout)
        } else {
            (self.total, Reason::TotalTimeout)
        };
        timeout_at(until, asked).await.map_err(|_elapsed| expired(reason))
    }
}

/// Why llama-server gave no answer.
pub(crate) fn unsent(error: &SendError) -> Rejection {
    let rejection = match error {
        SendError::NoReplica(Readiness::Loading) => Rejection::model_loading(),
        SendError::Connect { .. } | SendError::NoReplica(_) => Rejection::backend_unavailable(),
        _ => Rejection::new(Reason::BackendError, "The model server failed to answer the request."),
    };
    rejection.operator(error.to_string()).retry_after(RETRY_AFTER)
}
