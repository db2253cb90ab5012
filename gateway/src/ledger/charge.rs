//! One request's account.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::entry::{Count, CountedBy, Dispatched, Ending, Outcome, Subject};
use super::message::{Close, Message, Open};
use super::{Ledger, LedgerError};
use crate::error::Reason;

/// The status of a client that left before it was given one.
const CLIENT_LEFT: u16 = 499;

/// The running count of a request. Recording is a few atomic stores: it may be done for every token.
#[derive(Debug, Default)]
pub struct Progress {
    prompt: AtomicU64,
    cached: AtomicU64,
    completion: AtomicU64,
    /// Plus one; zero: not known.
    reasoning: AtomicU64,
    by: AtomicU8,
    /// Milliseconds since 1970; zero: no token yet.
    first_token: AtomicI64,
    /// Since when the slots are held, in milliseconds since 1970, where that is not what the OPEN said.
    slots_since: AtomicI64,
}

/// What [`Progress::slots_since`] holds until a request is dispatched again.
const AS_OPENED: i64 = 0;
/// What it holds while a request has no slots.
const NO_SLOTS: i64 = -1;

impl Progress {
    /// Takes over what was counted so far. To be called by one task only.
    pub fn record(&self, count: &Count) {
        self.prompt.store(count.prompt, Relaxed);
        self.cached.store(count.cached, Relaxed);
        self.completion.store(count.completion, Relaxed);
        self.reasoning.store(count.reasoning.map_or(0, |tokens| tokens.saturating_add(1)), Relaxed);
        // Last, and read first: who sees how it was counted sees numbers that are at least as new.
        self.by.store(count.by as u8, Release);
    }

    /// Remembers when the first token arrived, for an entry that is never closed in the ordinary way.
    pub fn first_token(&self, at: Timestamp) {
        self.first_token.store(at.as_millisecond(), Relaxed);
    }

    /// The slots were given back unused.
    pub fn waits_again(&self) {
        self.slots_since.store(NO_SLOTS, Relaxed);
    }

    /// There are slots again, from `at` on.
    pub fn dispatched_again(&self, at: Timestamp) {
        self.slots_since.store(at.as_millisecond(), Relaxed);
    }

    /// What was counted so far.
    pub fn count(&self) -> Count {
        self.sample().count
    }

    /// When the first token arrived, if it has.
    pub fn first_token_at(&self) -> Option<Timestamp> {
        self.sample().first_token
    }

    pub(super) fn sample(&self) -> Sample {
        let by = match self.by.load(Acquire) {
            by if by == CountedBy::Usage as u8 => CountedBy::Usage,
            by if by == CountedBy::Timings as u8 => CountedBy::Timings,
            by if by == CountedBy::Events as u8 => CountedBy::Events,
            by if by == CountedBy::Admission as u8 => CountedBy::Admission,
            _ => CountedBy::Nothing,
        };
        // The numbers may be of two counts, of which the second is being recorded; more cached tokens than there are would
        // be less than nothing to be paid for.
        let prompt = self.prompt.load(Relaxed);
        let count = Count {
            prompt,
            cached: self.cached.load(Relaxed).min(prompt),
            completion: self.completion.load(Relaxed),
            reasoning: self.reasoning.load(Relaxed).checked_sub(1),
            by,
        };
        let first_token = match self.first_token.load(Relaxed) {
            0 => None,
            millis => Timestamp::from_millisecond(millis).ok(),
        };
        let slots_since = match self.slots_since.load(Relaxed) {
            AS_OPENED => SlotsSince::Opened,
            NO_SLOTS => SlotsSince::Never,
            millis => Timestamp::from_millisecond(millis).map_or(SlotsSince::Opened, SlotsSince::At),
        };
        Sample { count, first_token, slots_since }
    }
}

/// What [`Progress`] held at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) count: Count,
    pub(super) first_token: Option<Timestamp>,
    pub(super) slots_since: SlotsSince,
}

/// Since when a request holds its slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotsSince {
    /// As its OPEN said.
    #[default]
    Opened,
    /// It gave them back.
    Never,
    /// It gave them back, and was given others.
    At(Timestamp),
}

/// One request's account, settled exactly once: by [`Charge::close`], or, when it is dropped, as one whose client
/// left, with what [`Progress`] says.
#[must_use = "a charge that is dropped is settled as a client that left"]
pub struct Charge(Option<Account>);

struct Account {
    ledger: Ledger,
    subject: Arc<Subject>,
    progress: Arc<Progress>,
    opened: bool,
    dispatched: Option<Dispatched>,
    /// Given back when the entry is committed, which bounds both the live charges and those that wait in memory.
    place: OwnedSemaphorePermit,
}

impl Charge {
    pub(super) fn new(ledger: Ledger, subject: Subject, place: OwnedSemaphorePermit) -> Self {
        let (subject, progress) = (Arc::new(subject), Arc::default());
        Self(Some(Account { ledger, subject, progress, opened: false, dispatched: None, place }))
    }

    /// Records that the request goes to llama-server now. The entry is durable when this gives `Ok`; who does not
    /// wait for that may drop the future and the charge, which settles the entry all the same.
    ///
    /// # Errors
    /// When the entry was not committed: the request must not be sent. The charge is still to be closed.
    pub async fn open(&mut self, dispatched: Dispatched) -> Result<(), LedgerError> {
        let account = self.0.as_mut().ok_or(LedgerError::Stopped)?;
        // The channel has room for one OPEN of each charge.
        if std::mem::replace(&mut account.opened, true) {
            return Err(LedgerError::OpenedBefore);
        }
        let (done, committed) = oneshot::channel();
        let open = Open {
            subject: Arc::clone(&account.subject),
            progress: Arc::clone(&account.progress),
            dispatched: dispatched.clone(),
            handed_over: Instant::now(),
            done: Some(done),
        };
        account.ledger.send(Message::Open(Box::new(open))).map_err(|_| LedgerError::Stopped)?;
        // Before the wait, which may be given up: the OPEN is on its way.
        account.dispatched = Some(dispatched);
        let result = committed.await.unwrap_or(Err(LedgerError::Stopped));
        if result.is_err() {
            account.dispatched = None;
        }
        result
    }

    /// Where the running count is recorded. Once the charge is open, it is written ahead at every interval.
    pub fn progress(&self) -> Arc<Progress> {
        // There is always an account before `close` or `Drop`.
        self.0.as_ref().map(|account| Arc::clone(&account.progress)).unwrap_or_default()
    }

    /// Settles the entry. That happens also when the future is dropped.
    pub fn close(mut self, outcome: Outcome) -> Closing {
        let (done, committed) = oneshot::channel();
        if let Some(account) = self.0.take() {
            account.settle(outcome, Some(done));
        }
        Closing(committed)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let Some(account) = self.0.take() else { return };
        let Sample { count, first_token, .. } = account.progress.sample();
        let (ending, status) = match std::thread::panicking() {
            true => (Ending::Failed(Reason::Internal), Reason::Internal.status().as_u16()),
            false => (Ending::ClientLeft, CLIENT_LEFT),
        };
        let dispatched = account.dispatched.clone();
        let queue_wait = dispatched.as_ref().map_or(Duration::ZERO, |dispatched| dispatched.queue_wait);
        // A clock that was set back meanwhile must not make it end before it began.
        let ended = account.ledger.clock().now().max(first_token.unwrap_or(account.subject.arrived));
        account.settle(Outcome { ending, status, count, dispatched, queue_wait, first_token, ended }, None);
    }
}

impl Account {
    fn settle(self, outcome: Outcome, done: Option<oneshot::Sender<Result<(), LedgerError>>>) {
        let Self { ledger, subject, place, .. } = self;
        let close = Box::new(Close { subject, outcome, handed_over: Instant::now(), done, failed: false, place });
        if let Err(Message::Close(close)) = ledger.send(Message::Close(close)) {
            close.log("the ledger is closed");
        }
    }
}

/// Resolves when the entry is durable.
///
/// # Errors
/// When it could not be committed at the first attempt. It stays in memory and is tried again.
#[must_use = "the entry is durable only when this has resolved"]
pub struct Closing(oneshot::Receiver<Result<(), LedgerError>>);

impl Future for Closing {
    type Output = Result<(), LedgerError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(LedgerError::Stopped)))
    }
}
