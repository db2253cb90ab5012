//! One trace a request, told to an OpenTelemetry collector by OTLP over HTTP (`docs/traces.md`).
//!
//! A request carries a [`Trace`], into which the rooms note when their steps were and what came of them. When the last
//! one who holds it lets go of it, the request is over, and what was noted goes into a bounded queue. From there on it is
//! the exporter's: spans are made, encoded and sent beside the requests, none of which waits for that.
//!
//! The exporter is the gateway's own, of a few hundred lines, and not that of OpenTelemetry's SDK: that one takes its
//! settings from the environment as well, has a thread of its own that blocks, does not tell how many spans it lost, and
//! brings some twenty crates, four of them in second versions.

mod collector;
mod context;
mod exporter;
mod names;
mod protobuf;
mod record;
mod spans;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::{fmt, future::Future, pin::Pin};

use http::{HeaderMap, Method};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::field::DisplayValue;

use crate::config;
use crate::error::Rejection;
use crate::ledger::Ending;
use crate::metrics::Metrics;
use crate::outbound::OutboundError;
use collector::Collector;
use context::{Context, Parent, Sampling};
use record::{Attempt, Failure, Noted, Record};

pub use context::{Propagation, TraceId};
pub use exporter::Exporter;
pub use names::Step;
pub use record::{Asked, Settled};

/// Requests whose traces wait to be exported, at most. One takes about 2 KB.
const QUEUE: usize = 2048;

/// Begins traces.
#[derive(Default)]
pub struct Traces(Option<On>);

struct On {
    sampling: Sampling,
    outbox: Arc<Outbox>,
}

/// Where records of finished requests go.
struct Outbox {
    sender: mpsc::Sender<Record>,
    metrics: Arc<Metrics>,
    /// Spans that found no place.
    overflowed: AtomicU64,
}

impl Outbox {
    fn put(&self, record: Record) {
        if let Err(mpsc::error::TrySendError::Full(record) | mpsc::error::TrySendError::Closed(record)) =
            self.sender.try_send(record)
        {
            let lost = spans::of(&record).len() as u64;
            self.metrics.traces_export_failures_total.inc_by(lost);
            self.overflowed.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

/// A request whose caller is known.
pub struct Beginning<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The route that it took, if there is one.
    pub route: Option<&'a str>,
    /// The `x-request-id` of the answer.
    pub request_id: &'a Arc<str>,
    /// Who asks.
    pub tenant: &'a Arc<str>,
    /// With which key.
    pub key_id: &'a Arc<str>,
    /// When its head had been read.
    pub at: Instant,
    /// The same by the wall clock.
    pub timestamp: Timestamp,
}

impl Traces {
    /// Says whether traces can be exported as configured.
    ///
    /// # Errors
    /// When the file with root certificates cannot be used.
    pub fn check(config: &config::Traces) -> Result<(), OutboundError> {
        if config.is_on() { Collector::new(config).map(drop) } else { Ok(()) }
    }

    /// What begins traces, and what exports them; `None`: nobody is told.
    ///
    /// # Errors
    /// As [`Traces::check`].
    pub fn open(config: &config::Traces, metrics: &Arc<Metrics>) -> Result<(Self, Option<Exporter>), OutboundError> {
        if !config.is_on() {
            return Ok((Self::default(), None));
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let outbox = Arc::new(Outbox { sender, metrics: Arc::clone(metrics), overflowed: AtomicU64::new(0) });
        let exporter = Exporter::new(Collector::new(config)?, receiver, &outbox);
        let sampling = Sampling::new(config.sample_ratio, config.follow_client);
        Ok((Self(Some(On { sampling, outbox })), Some(exporter)))
    }

    /// Begins the trace of a request, or goes on with that of its client.
    pub fn begin(&self, headers: &HeaderMap, beginning: &Beginning<'_>) -> Trace {
        let Some(On { sampling, outbox }) = &self.0 else { return Trace::default() };
        let mut random = [0; 24];
        if getrandom::fill(&mut random).is_err() {
            // No id, no trace.
            return Trace::default();
        }
        let context = Context::new(Parent::of(headers), *sampling, random);
        if !context.recorded {
            return Trace(State::Unrecorded(context));
        }
        let record = Record {
            context: context.clone(),
            arrived: beginning.at,
            timestamp: beginning.timestamp,
            ended: beginning.at,
            method: method(beginning.method),
            route: beginning.route.map(Into::into),
            request_id: Arc::clone(beginning.request_id),
            tenant: Arc::clone(beginning.tenant),
            key_id: Arc::clone(beginning.key_id),
            surface: None,
            asked: None,
            steps: Vec::with_capacity(8),
            attempts: Vec::new(),
            error: None,
            status: None,
            finish_reason: None,
            settled: None,
        };
        Trace(State::Recorded(Arc::new(Recorder { context, record: Mutex::new(Some(record)), outbox: outbox.clone() })))
    }
}

/// A method by a name that no client has chosen.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "_OTHER",
    }
}

/// The trace of one request. Cheap to clone; where traces are off, or the request is not recorded, all it does is a
/// branch. The request is over when the last clone is dropped.
#[derive(Clone, Debug, Default)]
pub struct Trace(State);

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Off,
    Unrecorded(Context),
    Recorded(Arc<Recorder>),
}

struct Recorder {
    context: Context,
    /// `None` once it is over.
    record: Mutex<Option<Record>>,
    outbox: Arc<Outbox>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({})", self.context.trace_id)
    }
}

impl Recorder {
    fn note(&self, note: impl FnOnce(&mut Record)) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.as_mut().map(note);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let record = self.record.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(mut record) = record.take() else { return };
        record.ended = Instant::now();
        if record.status.is_none() {
            // Nobody has answered it: whoever was about to was dropped.
            let panicking = std::thread::panicking();
            record.error = Some(match panicking {
                true => Failure { kind: crate::error::Reason::Internal.label(), is_fault: true },
                false => Failure { kind: Ending::ClientLeft.label(), is_fault: false },
            });
        }
        self.outbox.put(record);
    }
}

impl Trace {
    fn note(&self, note: impl FnOnce(&mut Record)) {
        if let State::Recorded(recorder) = &self.0 {
            recorder.note(note);
        }
    }

    /// The id for log lines: that of a trace that somebody may have, since it is recorded or the client's.
    pub fn id(&self) -> Option<DisplayValue<TraceId>> {
        let id = match &self.0 {
            State::Recorded(recorder) => recorder.context.trace_id,
            State::Unrecorded(context) if context.parent.is_some() => context.trace_id,
            State::Off | State::Unrecorded(_) => return None,
        };
        Some(tracing::field::display(id))
    }

    /// A step begins, which ends when what this gives is dropped.
    pub fn step(&self, step: Step) -> Ongoing {
        Ongoing(match &self.0 {
            State::Recorded(recorder) => Some((Arc::clone(recorder), step, Instant::now())),
            State::Off | State::Unrecorded(_) => None,
        })
    }

    /// A step that began with the request ends now.
    pub fn step_from_arrival(&self, step: Step) {
        self.note(|record| record.note(Noted { step, from: record.arrived, to: Instant::now() }));
    }

    /// A step that lasts as long as a future.
    pub fn timed<F>(&self, step: Step, future: F) -> Timed<F> {
        Timed { future, ongoing: Some(self.step(step)) }
    }

    /// The surface, by its label, that the request came by.
    pub fn surface(&self, label: &'static str) {
        self.note(|record| record.surface = Some(label));
    }

    /// The request is understood.
    pub fn asked(&self, asked: impl FnOnce() -> Asked) {
        self.note(|record| record.asked = Some(asked()));
    }

    /// llama-server is asked now, at the address. Gives what it is told of the trace.
    pub fn attempt(&self, path: &'static str, address: impl FnOnce() -> Arc<str>) -> Propagation {
        match &self.0 {
            State::Off => Propagation::default(),
            State::Unrecorded(context) => context.propagation(context.span_id),
            State::Recorded(recorder) => {
                let mut span_id = recorder.context.span_id;
                let (address, from) = (address(), Instant::now());
                let attempt = Attempt { address, path, from, to: None, status: None, error: None };
                recorder.note(|record| span_id = record.begin_attempt(attempt));
                recorder.context.propagation(span_id)
            }
        }
    }

    /// llama-server has answered the last attempt with this status.
    pub fn attempt_answered(&self, status: u16) {
        self.note(|record| {
            if let Some(attempt) = record.attempts.last_mut() {
                attempt.status = Some(status);
            }
        });
    }

    /// The last attempt brought no answer.
    pub fn attempt_failed(&self, kind: &'static str) {
        self.note(|record| {
            if let Some(attempt) = record.attempts.last_mut() {
                (attempt.to, attempt.error) = (Some(Instant::now()), Some(kind));
            }
        });
    }

    /// The output has ended, for this reason.
    pub fn finished(&self, reason: Option<&'static str>) {
        self.note(|record| record.finish_reason = reason);
    }

    /// The request is refused, or failed before it had an account.
    pub fn refused(&self, rejection: &Rejection) {
        self.note(|record| {
            let status = rejection.reason.status();
            let (kind, is_fault) = (rejection.reason.label(), status.is_server_error());
            (record.error, record.status) = (Some(Failure { kind, is_fault }), Some(status.as_u16()));
        });
    }

    /// The account of the request is settled.
    pub fn settled(&self, settled: impl FnOnce() -> Settled) {
        self.note(|record| {
            let settled = settled();
            (record.error, record.status) = (Failure::of(settled.ending), Some(settled.status));
            record.settled = Some(settled);
        });
    }

    /// The head of the answer is there. What an account says of a status counts more.
    pub fn answered(&self, status: u16) {
        self.note(|record| record.status = record.status.or(Some(status)));
    }
}

/// A step that goes on until this is dropped.
#[must_use = "the step ends when this is dropped"]
#[derive(Debug)]
pub struct Ongoing(Option<(Arc<Recorder>, Step, Instant)>);

impl Drop for Ongoing {
    fn drop(&mut self) {
        if let Some((recorder, step, from)) = self.0.take() {
            recorder.note(|record| record.note(Noted { step, from, to: Instant::now() }));
        }
    }
}

/// A future that is a step, if it comes to its end: nobody waits for one that is dropped before.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Timed<F> {
    future: F,
    ongoing: Option<Ongoing>,
}

impl<F: Future + Unpin> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.future).poll(context);
        if polled.is_ready() {
            self.ongoing = None;
        }
        polled
    }
}

impl<F> Drop for Timed<F> {
    fn drop(&mut self) {
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.0 = None;
        }
    }
}
