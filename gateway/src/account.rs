//! The account of one request: what happened when, how many tokens, how it ended.
//!
//! Begun when the request is admitted, settled exactly once, whatever way the request ends: in the ledger, in the
//! metrics and in one log line. Dropping it unsettled ends it as well, mostly because the client left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::{Reason, Rejection};
use crate::ledger::{Charge, Closing, Count, CountedBy, Dispatched, Ending, Outcome, Progress, Subject};
use crate::limit::Reservation;
use crate::metrics::Metrics;
use crate::queue::{Speed, View};
use crate::retries::Live;
use crate::roster::{About, Listing, Roster, Run};
use crate::server::{Client, Drain, Phase};
use crate::traces::{Settled, Step, Timed, Trace};

/// The status that the ledger shows for a client that left before it was given one, as nginx writes it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What happened when, on both clocks.
#[derive(Clone, Copy)]
struct Moment {
    instant: Instant,
    timestamp: Timestamp,
}

/// What all accounts have in common.
#[derive(Clone)]
pub struct Books {
    /// Wall-clock time.
    pub clock: Clock,
    /// Where endings, tokens and times are counted.
    pub metrics: Arc<Metrics>,
    /// Tells a request that the shutdown cut off from one whose client left.
    pub drain: Drain,
}

/// Whether the client has been sent its status line, which is a 200 then. It may go out before the account is settled
/// and while whoever holds the account still waits.
#[derive(Clone, Debug, Default)]
pub struct Answered(Arc<AtomicBool>);

impl Answered {
    /// The 200 goes out now.
    pub fn set(&self) {
        self.0.store(true, Relaxed);
    }
}

/// What an account begins with.
pub struct Opening {
    /// Its room in the ledger.
    pub charge: Charge,
    /// Whose request it is, and of what.
    pub subject: Subject,
    /// Its place among the concurrent requests, and its tokens.
    pub reservation: Reservation,
    /// Its place among the requests that a retry may replace.
    pub live: Live,
    /// Its connection.
    pub client: Arc<Client>,
    /// When its head had been read.
    pub arrived: Instant,
    /// Where its steps are noted.
    pub trace: Trace,
}

/// One request's account.
pub struct Account {
    /// `None` once it is settled.
    charge: Option<Charge>,
    progress: Option<Arc<Progress>>,
    reservation: Reservation,
    subject: Subject,
    client: Arc<Client>,
    books: Books,
    arrived: Instant,
    /// When it began to wait for its slots.
    queued: Option<Instant>,
    /// How many they are.
    slots: u32,
    /// Tokens of the prompt, as counted before it was let in.
    prompt: u64,
    /// Whether the ledger has been told of a dispatch.
    opened: bool,
    /// `None` while it has no slots: before they are given, and after they were given back unused.
    dispatched: Option<Dispatched>,
    asked: Option<Instant>,
    first_token: Option<Moment>,
    last_output: Instant,
    count: Count,
    answered: Answered,
    /// Its place on the list that operators see, while it waits or runs.
    listing: Option<Listing>,
    trace: Trace,
    /// The last field: when it is dropped, everything else has been given back.
    live: Live,
}

impl Account {
    /// Begins the account of an admitted request.
    pub fn begin(opening: Opening, books: Books) -> Self {
        let Opening { charge, subject, reservation, live, client, arrived, trace } = opening;
        Self {
            charge: Some(charge),
            progress: None,
            reservation,
            subject,
            client,
            books,
            arrived,
            queued: None,
            slots: 1,
            prompt: 0,
            opened: false,
            dispatched: None,
            asked: None,
            first_token: None,
            last_output: arrived,
            count: Count::default(),
            answered: Answered::default(),
            listing: None,
            trace,
            live,
        }
    }

    /// The id that the client sees as `x-request-id`.
    pub fn request_id(&self) -> &str {
        &self.subject.request_id
    }

    /// The request waits for so many slots from now on, with a prompt of so many tokens.
    pub fn queued(&mut self, slots: u32, prompt: u64) {
        (self.queued, self.slots, self.prompt) = (Some(Instant::now()), slots.max(1), prompt);
    }

    /// It waits: operators see it from now on, in its class and with what it can expect.
    pub fn list(&mut self, roster: &Roster, class: Arc<str>, view: View) {
        let about = About {
            subject: self.subject.clone(),
            class,
            slots: self.slots,
            prompt: self.prompt,
            arrived: self.arrived,
            entered: self.queued.unwrap_or(self.arrived),
            view,
        };
        self.listing = Some(roster.list(about));
    }

    /// The request has its slots, at the replica `upstream`. When this returns, its row is durable: only then may
    /// llama-server be asked. If it could not be asked and was given slots again, the last ones count.
    ///
    /// # Errors
    /// The ledger cannot record it; the request must not be started.
    pub async fn dispatch(&mut self, upstream: Arc<str>) -> Result<(), Rejection> {
        let (slots, prompt) = (self.slots, self.prompt);
        let (at, queue_wait) = (self.moment().timestamp, self.queue_wait());
        let dispatched = Dispatched { at, queue_wait, upstream: upstream.clone(), slots, prompt };
        // Before the wait for the disk, which may be given up: the slots are held meanwhile.
        self.dispatched = Some(dispatched.clone());
        let Some(charge) = &mut self.charge else { return Ok(()) };
        if let Some(listing) = &self.listing {
            listing.runs(Run { since: Instant::now(), upstream, progress: charge.progress() });
        }
        if std::mem::replace(&mut self.opened, true) {
            charge.progress().dispatched_again(at);
            return Ok(());
        }
        if let Err(error) = charge.open(dispatched).await {
            // It does not go to llama-server: the gateway's own fault is no use of slots, and nothing to be charged.
            self.dispatched = None;
            return Err(error.into());
        }
        self.progress = Some(charge.progress());
        Ok(())
    }

    /// The slots were given back unused, because llama-server could not be reached: it waits again.
    pub fn waits_again(&mut self) {
        self.dispatched = None;
        if let Some(progress) = &self.progress {
            progress.waits_again();
        }
        if let Some(listing) = &self.listing {
            listing.waits();
        }
    }

    /// How long it has waited for a slot.
    fn queue_wait(&self) -> Duration {
        self.queued.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// llama-server is asked now. Where it could not be reached and is asked again, the last time counts.
    pub fn asked(&mut self) {
        self.asked = Some(Instant::now());
    }

    /// The model that answers.
    pub fn model(&self) -> &str {
        &self.subject.model
    }

    /// Where the steps of the request are noted.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Whether it has been settled.
    pub fn is_settled(&self) -> bool {
        self.charge.is_none()
    }

    /// Cancelled when the client has sent the request again, which takes the place of this one.
    pub fn replaced(&self) -> CancellationToken {
        self.live.replaced()
    }

    /// To be set when the client is sent its 200 before the account is settled.
    pub fn answered(&self) -> Answered {
        self.answered.clone()
    }

    /// Seconds since 1970.
    pub fn seconds(&self) -> i64 {
        self.books.clock.now().as_second()
    }

    /// llama-server gave output; `count` is what it comes to so far. `false`: the request is to end here, because its
    /// quota is used up.
    pub fn output(&mut self, count: Count, now: Instant) -> bool {
        let goes_on = self.counted(count);
        if self.first_token.is_none() {
            let moment = self.moment();
            self.first_token = Some(moment);
            if let Some(progress) = &self.progress {
                progress.first_token(moment.timestamp);
            }
            let waited = now.duration_since(self.arrived).as_secs_f64();
            let surface = self.subject.surface.label();
            self.books.metrics.time_to_first_token_seconds.with_label_values(&[surface]).observe(waited);
        } else {
            self.books.metrics.inter_token_latency_seconds.observe(now.duration_since(self.last_output).as_secs_f64());
        }
        self.last_output = now;
        goes_on
    }

    /// How fast llama-server was by the gateway's own clock, for replies that do not say it themselves; `None` where
    /// the tokens were not counted exactly. Output is counted from the first token on, as llama-server does it.
    pub fn speed(&self) -> Option<Speed> {
        let (asked, first) = (self.asked?, self.first_token?.instant);
        let milliseconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
        (self.count.by == CountedBy::Usage).then(|| Speed {
            prompt_tokens: self.count.prompt.saturating_sub(self.count.cached),
            prompt_ms: milliseconds(asked, first),
            output_tokens: self.count.completion.saturating_sub(1),
            output_ms: milliseconds(first, self.last_output),
        })
    }

    /// Events of llama-server that the meter could not read.
    pub fn unreadable(&self, events: u64) {
        self.books.metrics.stream_unreadable_events_total.inc_by(events);
    }

    /// The tokens so far, without any being new to the client. `false`: as for [`output`](Self::output).
    pub fn counted(&mut self, count: Count) -> bool {
        if self.is_settled() {
            return true;
        }
        self.count = count;
        if let Some(progress) = &self.progress {
            progress.record(&count);
        }
        self.reservation.used(count.total())
    }

    /// The tokens that were told last.
    pub fn count(&self) -> Count {
        self.count
    }

    /// Settles the account; the future is ready once the row is durable. `None` if it was settled before.
    pub fn end(&mut self, ending: Ending) -> Option<Timed<Closing>> {
        self.settle(ending, None)
    }

    /// Settles the account of a request that failed. `None` if it was settled before.
    pub fn fail(&mut self, rejection: &Rejection) -> Option<Timed<Closing>> {
        let ending = match rejection.reason {
            Reason::Draining => Ending::Drained,
            reason => Ending::Failed(reason),
        };
        self.settle(ending, rejection.operator.as_deref())
    }

    fn settle(&mut self, ending: Ending, operator: Option<&str>) -> Option<Timed<Closing>> {
        let charge = self.charge.take()?;
        self.listing = None;
        let outcome = Outcome {
            ending,
            status: self.status(ending),
            count: self.count,
            queue_wait: self.dispatched.as_ref().map_or_else(|| self.queue_wait(), |dispatched| dispatched.queue_wait),
            dispatched: self.dispatched.clone(),
            first_token: self.first_token.map(|moment| moment.timestamp),
            ended: self.moment().timestamp,
        };
        let failed = matches!(ending, Ending::Failed(_) | Ending::Drained);
        let invalid = ending == Ending::Failed(Reason::InvalidRequest);
        if self.dispatched.is_none() && failed && !invalid {
            self.reservation.give_back();
        } else {
            self.reservation.settle(self.count.total());
        }
        self.live.ended(match ending {
            Ending::Complete | Ending::Cut => false,
            Ending::Failed(reason) => reason.may_be_retried(),
            Ending::ClientLeft | Ending::SlowReader | Ending::Interrupted | Ending::Drained => true,
        });
        self.observe(&outcome);
        self.log(&outcome, operator);
        self.trace.settled(|| Settled {
            ending,
            status: outcome.status,
            count: self.count,
            slots: self.slots,
            first_token: self.first_token.map(|moment| moment.instant),
            at: Instant::now(),
        });
        Some(self.trace.timed(Step::Ledger, charge.close(outcome)))
    }

    /// What the client has been sent, or is sent with this ending.
    fn status(&self, ending: Ending) -> u16 {
        if self.answered.0.load(Relaxed) {
            return 200;
        }
        match ending {
            Ending::Complete | Ending::Cut => 200,
            Ending::ClientLeft | Ending::SlowReader | Ending::Interrupted => CLIENT_CLOSED_REQUEST,
            Ending::Drained => Reason::Draining.status().as_u16(),
            Ending::Failed(reason) => reason.status().as_u16(),
        }
    }

    fn observe(&self, outcome: &Outcome) {
        let ending = outcome.ending;
        let Subject { surface, tenant, model, .. } = &self.subject;
        let metrics = &self.books.metrics;
        metrics.requests_total.with_label_values(&[surface.label(), ending.label()]).inc();
        if let Ending::Failed(reason) = ending {
            metrics.refused_total.with_label_values(&[reason.label()]).inc();
        }
        let duration = self.arrived.elapsed().as_secs_f64();
        metrics.request_duration_seconds.with_label_values(&[surface.label()]).observe(duration);
        let kinds = [
            ("prompt", self.count.prompt),
            ("cached", self.count.cached),
            ("completion", self.count.completion),
            ("reasoning", self.count.reasoning.unwrap_or_default()),
        ];
        for (kind, tokens) in kinds {
            metrics.tokens_total.with_label_values(&[tenant, model, kind]).inc_by(tokens);
        }
        let slot_time = outcome.slot_time();
        for (phase, time) in [("prefill", slot_time.prefill), ("decode", slot_time.decode)] {
            metrics.slot_seconds_total.with_label_values(&[tenant, model, phase]).inc_by(time.as_secs_f64());
        }
    }

    fn log(&self, outcome: &Outcome, operator: Option<&str>) {
        let subject = &self.subject;
        let since_arrival = |time: Timestamp| time.duration_since(subject.arrived).as_secs_f64() * 1000.0;
        tracing::info!(
            request_id = &*subject.request_id,
            trace_id = self.trace.id(),
            tenant = &*subject.tenant,
            key_id = &*subject.key_id,
            model = &*subject.model,
            surface = subject.surface.label(),
            ending = outcome.ending.label(),
            status = outcome.status,
            prompt_tokens = outcome.count.prompt,
            cached_tokens = outcome.count.cached,
            completion_tokens = outcome.count.completion,
            counted_by = outcome.count.by.label(),
            queue_wait_ms = outcome.queue_wait.as_secs_f64() * 1000.0,
            dispatched_ms = outcome.dispatched.as_ref().map(|dispatched| since_arrival(dispatched.at)),
            first_token_ms = outcome.first_token.map(since_arrival),
            duration_ms = self.arrived.elapsed().as_secs_f64() * 1000.0,
            operator,
            "request"
        );
    }

    /// Now. All times of an entry lie as far apart as they did by the clock that nobody can set.
    fn moment(&self) -> Moment {
        let instant = Instant::now();
        let timestamp = self.subject.arrived.checked_add(instant.duration_since(self.arrived));
        Moment { instant, timestamp: timestamp.unwrap_or(self.subject.arrived) }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Whoever served the request was dropped, and with it this: by a panic or by the client's connection.
        let ending = if std::thread::panicking() {
            Ending::Failed(Reason::Internal)
        } else if self.client.stalled() {
            Ending::SlowReader
        } else if self.books.drain.phase() >= Phase::Expired {
            Ending::Drained
        } else {
            Ending::ClientLeft
        };
        drop(self.end(ending));
    }
}
