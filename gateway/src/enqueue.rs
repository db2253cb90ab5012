//! From the account to the queue: the request's ticket, and what is told of its wait.
//!
//! Takes [`Begun`] and gives [`Queued`]. Whatever way it fails, the account is settled.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::account::Account;
use crate::admit::Begun;
use crate::app::App;
use crate::auth::Revocation;
use crate::count::Counted;
use crate::error::{Reason, Rejection};
use crate::handle::Arrival;
use crate::queue::{Caps, Refusal, Ticket, Waiting, Work};
use crate::stream::clocks::expired;
use crate::surface::{Ask, Surface};

/// A request that waits for a slot.
pub(crate) struct Queued {
    pub(crate) ask: Ask,
    pub(crate) counted: Counted,
    pub(crate) work: Work,
    pub(crate) account: Account,
    pub(crate) waiting: Waiting,
    /// When it gives up waiting.
    pub(crate) deadline: Instant,
    /// When it gives up altogether.
    pub(crate) total: Instant,
    /// What the head of its answer tells of the wait.
    pub(crate) wait: Wait,
    /// When its key is revoked so that what it runs ends.
    pub(crate) revocation: Revocation,
}

/// Takes the request's place in the queue.
pub(crate) fn enqueue(app: &App, begun: Begun, arrival: &Arrival) -> Result<Queued, Rejection> {
    let Begun { ask, counted, work, mut account } = begun;
    let ticket = ticket(app, &ask, work, arrival);
    let (deadline, total) = (ticket.deadline, arrival.at + app.config.timeouts.total);
    let class = app.policies.class_name(ticket.class);
    account.queued(ticket.slots, work.prompt);
    let waiting = app.queue.enter(ticket).map_err(|refusal| {
        let rejection = rejection(&refusal, &ask);
        drop(account.fail(&rejection));
        rejection
    })?;
    account.list(&app.roster, class, waiting.view());
    let wait = Wait::begin(waiting.entry().position);
    let revocation = arrival.caller.revocation.clone();
    Ok(Queued { ask, counted, work, account, waiting, deadline, total, wait, revocation })
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

/// What a client is told whose request gets no slot.
pub(crate) fn rejection(refusal: &Refusal, ask: &Ask) -> Rejection {
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
