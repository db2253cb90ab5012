//! The account of one request: what happened when, how many tokens, how it ended.
//!
//! Begun when the request is admitted, settled exactly once, whatever way the request ends: in the ledger, in the
//! metrics and in one log line. Dropping it unsettled means that the client left.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::error::Rejection;
use crate::ledger::{Charge, Closing, Count, Ending, Outcome, Progress, Subject};
use crate::metrics::Metrics;

/// The status that the ledger shows for a client that left before it was given one, as nginx writes it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What happened when, on both clocks.
#[derive(Clone, Copy)]
struct Moment {
    instant: Instant,
    timestamp: Timestamp,
}

/// One request's account.
pub struct Account {
    /// `None` once it is settled.
    charge: Option<Charge>,
    progress: Option<Arc<Progress>>,
    subject: Subject,
    clock: Clock,
    metrics: Arc<Metrics>,
    arrived: Instant,
    dispatched: Option<Moment>,
    first_token: Option<Moment>,
    last_output: Instant,
    count: Count,
    status: u16,
}

impl Account {
    /// Begins the account of an admitted request that arrived at `arrived`.
    pub fn begin(charge: Charge, subject: Subject, arrived: Instant, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self {
            charge: Some(charge),
            progress: None,
            subject,
            clock,
            metrics,
            arrived,
            dispatched: None,
            first_token: None,
            last_output: arrived,
            count: Count::default(),
            status: CLIENT_CLOSED_REQUEST,
        }
    }

    /// The id that the client sees as `x-request-id`.
    pub fn request_id(&self) -> &str {
        &self.subject.request_id
    }

    /// The request has its slot. When this returns, its row is durable: only then may llama-server be asked.
    ///
    /// # Errors
    /// The ledger cannot record it; the request must not be started.
    pub async fn dispatch(&mut self, waited: Duration) -> Result<(), Rejection> {
        self.metrics.queue_wait_seconds.observe(waited.as_secs_f64());
        let moment = self.moment();
        self.dispatched = Some(moment);
        if let Some(charge) = &mut self.charge {
            charge.open(moment.timestamp).await?;
            self.progress = Some(charge.progress());
        }
        Ok(())
    }

    /// Whose request it is.
    pub fn tenant(&self) -> Arc<str> {
        self.subject.tenant.clone()
    }

    /// The model that answers.
    pub fn model(&self) -> &str {
        &self.subject.model
    }

    /// Whether it has been settled.
    pub fn is_settled(&self) -> bool {
        self.charge.is_none()
    }

    /// The client has been given a status line.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// llama-server gave output; `count` is what it comes to so far.
    pub fn output(&mut self, count: Count, now: Instant) {
        self.counted(count);
        if self.first_token.is_none() {
            let moment = self.moment();
            self.first_token = Some(moment);
            if let Some(progress) = &self.progress {
                progress.first_token(moment.timestamp);
            }
            let waited = now.duration_since(self.arrived).as_secs_f64();
            self.metrics.time_to_first_token_seconds.with_label_values(&[self.subject.surface.label()]).observe(waited);
        } else {
            self.metrics.inter_token_latency_seconds.observe(now.duration_since(self.last_output).as_secs_f64());
        }
        self.last_output = now;
    }

    /// The tokens so far, without any being new to the client.
    pub fn counted(&mut self, count: Count) {
        self.count = count;
        if let Some(progress) = &self.progress {
            progress.record(&count);
        }
    }

    /// Settles the account; the future is ready once the row is durable. `None` if it was settled before.
    pub fn end(&mut self, ending: Ending) -> Option<Closing> {
        self.settle(ending, None)
    }

    /// Settles the account of a request that failed. `None` if it was settled before.
    pub fn fail(&mut self, rejection: &Rejection) -> Option<Closing> {
        self.status = rejection.reason.status().as_u16();
        self.settle(Ending::Failed(rejection.reason), rejection.operator.as_deref())
    }

    fn settle(&mut self, ending: Ending, operator: Option<&str>) -> Option<Closing> {
        let charge = self.charge.take()?;
        let outcome = Outcome {
            ending,
            status: self.status,
            count: self.count,
            dispatched: self.dispatched.map(|moment| moment.timestamp),
            first_token: self.first_token.map(|moment| moment.timestamp),
            ended: self.clock.now(),
        };
        self.observe(ending);
        self.log(&outcome, operator);
        Some(charge.close(outcome))
    }

    fn observe(&self, ending: Ending) {
        let Subject { surface, tenant, model, .. } = &self.subject;
        let metrics = &self.metrics;
        metrics.requests_total.with_label_values(&[surface.label(), ending.label()]).inc();
        if let Ending::Failed(reason) = ending {
            metrics.refused_total.with_label_values(&[reason.label()]).inc();
        }
        let duration = self.arrived.elapsed().as_secs_f64();
        metrics.request_duration_seconds.with_label_values(&[surface.label()]).observe(duration);
        let kinds =
            [("prompt", self.count.prompt), ("cached", self.count.cached), ("completion", self.count.completion)];
        for (kind, tokens) in kinds {
            metrics.tokens_total.with_label_values(&[tenant, model, kind]).inc_by(tokens);
        }
    }

    fn log(&self, outcome: &Outcome, operator: Option<&str>) {
        let since_arrival = |moment: Option<Moment>| {
            moment.map(|moment| moment.instant.duration_since(self.arrived).as_secs_f64() * 1000.0)
        };
        let subject = &self.subject;
        tracing::info!(
            request_id = &*subject.request_id,
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
            dispatched_ms = since_arrival(self.dispatched),
            first_token_ms = since_arrival(self.first_token),
            duration_ms = self.arrived.elapsed().as_secs_f64() * 1000.0,
            operator,
            "request"
        );
    }

    fn moment(&self) -> Moment {
        Moment { instant: Instant::now(), timestamp: self.clock.now() }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Without an ending nobody but the client can have ended it: its connection dropped what it was served by.
        drop(self.end(Ending::ClientLeft));
    }
}
