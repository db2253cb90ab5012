//! What charges and the handle tell the writer, and what of it goes into one transaction.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::LedgerError;
use super::charge::Progress;
use super::entry::{Dispatched, Outcome, Subject};
use super::job::Job;

pub(super) type Done = oneshot::Sender<Result<(), LedgerError>>;

/// What charges and the handle tell the writer. Boxed, because the channel's buffer is allocated as a whole.
pub(super) enum Message {
    Open(Box<Open>),
    Close(Box<Close>),
    Job(Job),
    Stop,
}

/// A request is about to be sent to llama-server.
pub(super) struct Open {
    pub(super) subject: Arc<Subject>,
    pub(super) progress: Arc<Progress>,
    pub(super) dispatched: Dispatched,
    pub(super) handed_over: Instant,
    /// `None`: it was answered, and waits for a ledger that can be written.
    pub(super) done: Option<Done>,
}

impl Open {
    /// Says that a request begins without a row.
    pub(super) fn log(&self, error: &str) {
        let Self { subject, dispatched, .. } = self;
        tracing::error!(
            request_id = %subject.request_id,
            tenant = %subject.tenant,
            key_id = %subject.key_id,
            model = %subject.model,
            surface = subject.surface.label(),
            arrived = %subject.arrived,
            upstream = %dispatched.upstream,
            error,
            "a request begins although the ledger cannot record it; its entry is kept in memory"
        );
    }
}

/// A request is over.
pub(super) struct Close {
    pub(super) subject: Arc<Subject>,
    pub(super) outcome: Outcome,
    pub(super) handed_over: Instant,
    pub(super) done: Option<Done>,
    /// It could not be committed before, and that was logged.
    pub(super) failed: bool,
    pub(super) place: OwnedSemaphorePermit,
}

impl Close {
    /// Writes all that the entry holds to the log: the last resort of the accounts.
    pub(super) fn log(&self, error: &str) {
        let Self { subject, outcome, .. } = self;
        tracing::error!(
            request_id = %subject.request_id,
            tenant = %subject.tenant,
            key_id = %subject.key_id,
            model = %subject.model,
            surface = subject.surface.label(),
            ending = outcome.ending.label(),
            status = outcome.status,
            counted_by = outcome.count.by.label(),
            prompt_tokens = outcome.count.prompt,
            cached_tokens = outcome.count.cached,
            completion_tokens = outcome.count.completion,
            reasoning_tokens = outcome.count.reasoning,
            arrived = %subject.arrived,
            upstream = outcome.dispatched.as_ref().map(|dispatched| &*dispatched.upstream),
            dispatched = outcome.dispatched.as_ref().map(|dispatched| tracing::field::display(dispatched.at)),
            first_token = outcome.first_token.map(tracing::field::display),
            prefill_slot_ms = outcome.slot_time().prefill.as_millis(),
            decode_slot_ms = outcome.slot_time().decode.as_millis(),
            ended = %outcome.ended,
            error,
            "an entry could not be written to the ledger"
        );
    }
}

/// What one transaction holds.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) opens: Vec<Open>,
    pub(super) closes: Vec<Close>,
    pub(super) jobs: Vec<Job>,
    pub(super) stop: bool,
}

impl Batch {
    /// An OPEN always arrives before its CLOSE, so writing all OPENs first keeps the order that matters.
    pub(super) fn add(&mut self, message: Message) {
        match message {
            Message::Open(open) => self.opens.push(*open),
            Message::Close(close) => self.closes.push(*close),
            Message::Job(job) => self.jobs.push(job),
            Message::Stop => self.stop = true,
        }
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        let opens = self.opens.iter().map(|open| open.handed_over);
        opens.chain(self.closes.iter().map(|close| close.handed_over)).min()
    }
}
