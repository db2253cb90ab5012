//! From the queue to the head of llama-server's answer.
//!
//! Takes a request with its account and gives a [`Running`]. Whatever way it fails, the account is settled.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::account::{Account, Answered};
use crate::app::App;
use crate::error::{Reason, Rejection};
use crate::handle::Arrival;
use crate::queue::{Caps, Refusal, Slot, Ticket, View, Waiting, Work};
use crate::stream::Running;
use crate::stream::clocks::{Deadlines, expired};
use crate::surface::{Ask, Surface};
use crate::upstream::{Readiness, ReplyBody, SendError, errors};

/// Bytes of an error reply of llama-server that are read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// When to come back, where nothing better is known: a replica that has gone away is looked for every second.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How often a request is sent at most while no replica has begun to work on it.
const MAX_ATTEMPTS: u32 = 8;

/// A request that waits for a slot.
pub(crate) struct Queued {
    pub(crate) ask: Ask,
    work: Work,
    account: Account,
    waiting: Waiting,
    /// When it gives up waiting.
    deadline: Instant,
    /// When it gives up altogether.
    total: Instant,
    /// What the head of its answer tells of the wait.
    pub(crate) wait: Wait,
    /// Comes true when its client has sent it again.
    pub(crate) replaced: CancellationToken,
}

impl Queued {
    /// To be set when the client is sent its 200.
    pub(crate) fn answered(&self) -> Answered {
        self.account.answered()
    }

    /// Where to look for what it can expect.
    pub(crate) fn view(&self) -> View {
        self.waiting.view()
    }
}

/// What the head of an answer tells of the wait for a slot.
#[derive(Clone)]
pub(crate) struct Wait {
    /// How many went before it when it entered the queue.
    position: usize,
    entered: Instant,
    waited: Arc<OnceLock<Duration>>,
}

impl Wait {
    fn begin(position: usize) -> Self {
        Self { position, entered: Instant::now(), waited: Arc::default() }
    }

    /// It is over, with a slot or without. Only the first call counts.
    pub(crate) fn end(&self) {
        self.waited.get_or_init(|| self.entered.elapsed());
    }

    /// Tells the position at entry and, if it is over, how long it was.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        headers.insert("x-queue-position", HeaderValue::from(self.position));
        if let Some(waited) = self.waited.get() {
            let milliseconds = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            headers.insert("x-queue-wait-ms", HeaderValue::from(milliseconds));
        }
    }
}

/// Takes the request's place in the queue.
pub(crate) fn queue(
    app: &App,
    ask: Ask,
    work: Work,
    mut account: Account,
    arrival: &Arrival,
) -> Result<Queued, Rejection> {
    let ticket = ticket(app, &ask, work, arrival);
    let (deadline, total) = (ticket.deadline, arrival.at + app.config.timeouts.total);
    let waiting = app.queue.enter(ticket).map_err(|refusal| {
        let rejection = refused(&refusal, &ask);
        drop(account.fail(&rejection));
        rejection
    })?;
    let wait = Wait::begin(waiting.entry().position);
    let replaced = account.replaced();
    Ok(Queued { ask, work, account, waiting, deadline, total, wait, replaced })
}

fn ticket(app: &App, ask: &Ask, work: Work, arrival: &Arrival) -> Ticket {
    let Arrival { caller, terms, .. } = arrival;
    let key = terms.key.as_deref();
    let caps = Caps {
        tenant_queued: terms.tenant.queued_requests,
        key_queued: key.map_or(0, |policy| policy.queued_requests),
        tenant_slots: terms.tenant.slots,
        key_slots: key.map_or(0, |policy| policy.slots),
    };
    Ticket {
        tenant: caller.tenant.clone(),
        key: caller.key_id.clone(),
        surface: ask.surface.label(),
        class: terms.class,
        weight: terms.tenant.weight,
        slots: slots(app, ask, caps),
        caps,
        work,
        untold_output: if ask.upstream_streams { 0 } else { u64::from(ask.output_cap) * u64::from(ask.sequences()) },
        deadline: deadline(app, ask, work, arrival),
        prefix: ask.prefix.clone(),
        private: terms.private_cache(),
    }
}

/// When the request gives up waiting for a slot: as its policy says, or earlier if its client would leave before it
/// has its answer.
fn deadline(app: &App, ask: &Ask, work: Work, arrival: &Arrival) -> Instant {
    let Arrival { patience, terms, .. } = arrival;
    let (first_token, whole) = app.queue.expected_service(work);
    let service = if ask.stream { first_token } else { whole };
    // A stream is kept alive while it waits, and so is any answer with white space.
    let kept_alive = ask.stream || app.config.requests.white_space_keep_alive;
    let policy = terms.max_queue_wait().min(app.config.timeouts.total);
    arrival.at + patience.longest_wait(service, kept_alive).map_or(policy, |client| policy.min(client))
}

/// How many slots a request occupies. A long list of inputs to embed takes all that it may have, not more.
fn slots(app: &App, ask: &Ask, caps: Caps) -> u32 {
    match ask.surface {
        Surface::Embeddings | Surface::Rerank => {
            let most = [app.widest(), caps.tenant_slots, caps.key_slots].into_iter().filter(|&slots| slots > 0).min();
            ask.sequences().min(most.unwrap_or(1))
        }
        _ => ask.sequences(),
    }
}

fn refused(refusal: &Refusal, ask: &Ask) -> Rejection {
    match refusal {
        Refusal::Full { retry_after } => {
            Rejection::new(Reason::QueueFull, "Too many requests are waiting. Try again in a moment.")
                .retry_after(*retry_after)
        }
        Refusal::TooLong { wait, retry_after } => {
            let seconds = wait.as_secs().max(1);
            let text = format!("A slot would be free in about {seconds} s only, longer than this request can wait.");
            Rejection::new(Reason::WaitTooLong, text).retry_after(*retry_after)
        }
        Refusal::Expired { retry_after } => expired(Reason::QueueTimeout).retry_after(*retry_after),
        Refusal::TooWide { slots } => {
            let field = if ask.choices > 1 { "n" } else { "prompt" };
            let sequences = ask.sequences();
            let text = format!("The request asks for {sequences} answers at once; it can have {slots} slots.");
            Rejection::field(field, text)
        }
    }
}

/// Waits for a slot, makes the row durable, asks llama-server, reads the head of its answer.
pub(crate) async fn dispatch(app: &App, queued: Queued) -> Result<Running, Rejection> {
    let Queued { ask, work, mut account, waiting, deadline, total, wait, replaced } = queued;
    let mut way = Way { app, ask: &ask, work, account: &mut account, deadline, total };
    let answered = tokio::select! {
        answered = way.go(waiting, &wait) => answered,
        rejection = app.ended(replaced) => Err(rejection),
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
    work: Work,
    account: &'a mut Account,
    deadline: Instant,
    total: Instant,
}

impl Way<'_> {
    async fn go(&mut self, waiting: Waiting, wait: &Wait) -> Result<(ReplyBody, Slot, Deadlines), Rejection> {
        let slot = self.wait(waiting).await;
        wait.end();
        let mut slot = slot?;
        self.account.dispatch().await?;
        // They count from when llama-server is asked, not from the first attempt.
        let mut deadlines = self.deadlines();
        let mut sent = self.send(&slot, &deadlines).await?;
        // A replica that cannot be connected to has begun nothing, so the request goes back to its place, and any replica
        // may be asked. One that refuses is out of the queue by now: each attempt but a few meets another one.
        for _ in 1..MAX_ATTEMPTS {
            if !sent.as_ref().is_err_and(SendError::has_not_begun) || Instant::now() >= self.deadline {
                break;
            }
            slot = self.wait(slot.unused()).await?;
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

    async fn wait(&self, mut waiting: Waiting) -> Result<Slot, Rejection> {
        let slot = match timeout_at(self.deadline, &mut waiting).await {
            Ok(slot) => slot,
            Err(_elapsed) => Err(waiting.expire()),
        };
        slot.map_err(|refusal| refused(&refusal, self.ask))
    }

    /// The clocks of the answer, from now.
    fn deadlines(&self) -> Deadlines {
        let timeouts = &self.app.config.timeouts;
        let thousands = self.work.prompt as f64 / 1000.0;
        let first_token = timeouts.first_token + timeouts.first_token_per_1000.mul_f64(thousands);
        Deadlines { first_token: Instant::now() + first_token, silence: timeouts.silence, total: self.total }
    }

    /// Asks the replica of the slot. The outer error is a clock that ran out.
    async fn send(
        &mut self,
        slot: &Slot,
        deadlines: &Deadlines,
    ) -> Result<Result<http::Response<ReplyBody>, SendError>, Rejection> {
        let path = self.ask.surface.upstream_path();
        let ask = self.ask;
        let body = if slot.may_use_cache() { ask.upstream_body.clone() } else { ask.without_cache()? };
        self.account.asked();
        let asked = self.app.upstream.send(slot.replica(), path, body);
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
        error if error.has_not_begun() => Rejection::backend_unavailable(),
        _ => Rejection::new(Reason::BackendError, "The model server failed to answer the request."),
    };
    rejection.operator(error.to_string()).retry_after(RETRY_AFTER)
}
