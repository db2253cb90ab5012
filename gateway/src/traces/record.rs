//! What is noted of one request while it lasts. Spans are made of it when it is over (`spans`), by whoever exports it.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::context::{Context, SpanId};
use super::names::Step;
use crate::ledger::{Count, Ending};

/// Steps that are noted at most: more than a request has that llama-server could not be asked for eight times.
const MAX_STEPS: usize = 32;
/// Attempts at llama-server that are noted at most.
pub(super) const MAX_ATTEMPTS: usize = 16;

/// What is noted of one request.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) context: Context,
    /// When its head had been read, by both clocks.
    pub(super) arrived: Instant,
    pub(super) timestamp: Timestamp,
    /// When it was over.
    pub(super) ended: Instant,
    pub(super) method: &'static str,
    pub(super) route: Option<Box<str>>,
    pub(super) request_id: Arc<str>,
    pub(super) tenant: Arc<str>,
    pub(super) key_id: Arc<str>,
    pub(super) surface: Option<&'static str>,
    pub(super) asked: Option<Asked>,
    pub(super) steps: Vec<Noted>,
    pub(super) attempts: Vec<Attempt>,
    /// Why it failed or was refused.
    pub(super) error: Option<Failure>,
    pub(super) status: Option<u16>,
    /// Why the output ended.
    pub(super) finish_reason: Option<&'static str>,
    pub(super) settled: Option<Settled>,
}

/// One step, as long as it took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted {
    pub(super) step: Step,
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// llama-server was asked once.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) address: Arc<str>,
    pub(super) path: &'static str,
    pub(super) from: Instant,
    /// `None`: until the request was over.
    pub(super) to: Option<Instant>,
    pub(super) status: Option<u16>,
    /// Why there was no reply.
    pub(super) error: Option<&'static str>,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The name under which its model is accounted.
    pub model: Arc<str>,
    /// Output tokens of each choice at most, where there is output.
    pub max_tokens: Option<u32>,
    /// The randomness, where the client said one.
    pub temperature: Option<f64>,
    /// The part of the distribution, where the client said one.
    pub top_p: Option<f64>,
    /// Whether the client wants a stream, where there can be one.
    pub stream: Option<bool>,
    /// How many choices it wants.
    pub choices: u32,
}

/// How the account of a request was settled.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// How it ended.
    pub ending: Ending,
    /// The status that the client was given.
    pub status: u16,
    /// Its tokens.
    pub count: Count,
    /// How many slots it had.
    pub slots: u32,
    /// When the first token came.
    pub first_token: Option<Instant>,
    /// When it was settled.
    pub at: Instant,
}

/// Why a request failed or was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The reason's name.
    pub(super) kind: &'static str,
    /// It is the gateway's or llama-server's.
    pub(super) is_fault: bool,
}

impl Failure {
    pub(super) fn of(ending: Ending) -> Option<Self> {
        let is_fault = match ending {
            Ending::Complete | Ending::Cut => return None,
            Ending::ClientLeft | Ending::SlowReader => false,
            Ending::Drained | Ending::Interrupted => true,
            Ending::Failed(reason) => reason.status().is_server_error(),
        };
        Some(Self { kind: ending.label(), is_fault })
    }
}

impl Record {
    pub(super) fn note(&mut self, noted: Noted) {
        if self.steps.len() < MAX_STEPS {
            self.steps.push(noted);
        }
    }

    /// Gives the id of the attempt's span.
    pub(super) fn begin_attempt(&mut self, attempt: Attempt) -> SpanId {
        let at = self.attempts.len();
        if at < MAX_ATTEMPTS {
            self.attempts.push(attempt);
        }
        self.context.span_id.of_child(at)
    }
}

#[cfg(test)]
pub(super) mod fixture {
    use std::time::Duration;

    use super::super::context::{Sampling, TraceId};
    use super::*;
    use crate::ledger::CountedBy;

    /// A whole number of milliseconds after the arrival.
    pub(in super::super) fn at(record: &Record, milliseconds: u64) -> Instant {
        record.arrived + Duration::from_millis(milliseconds)
    }

    /// A request of which no more is known than who asks. It arrived a second after 1970 began, and took 100 ms.
    pub(in super::super) fn arrived() -> Record {
        let arrived = Instant::now();
        let mut context = Context::new(None, Sampling::new(1.0, true), [7; 24]);
        context.trace_id = TraceId([0xaa; 16]);
        Record {
            context,
            arrived,
            timestamp: Timestamp::from_second(1).unwrap(),
            ended: arrived + Duration::from_millis(100),
            method: "POST",
            route: Some("/v1/chat/completions".into()),
            request_id: "req_1".into(),
            tenant: "acme".into(),
            key_id: "k1".into(),
            surface: Some("chat"),
            asked: None,
            steps: Vec::new(),
            attempts: Vec::new(),
            error: None,
            status: Some(200),
            finish_reason: None,
            settled: None,
        }
    }

    /// A chat that was answered.
    pub(in super::super) fn answered() -> Record {
        let mut record = arrived();
        record.asked = Some(Asked {
            model: "smollm2".into(),
            max_tokens: Some(16),
            temperature: Some(0.5),
            top_p: None,
            stream: Some(true),
            choices: 1,
        });
        let (from, to) = (at(&record, 0), at(&record, 1));
        record.note(Noted { step: Step::Auth, from, to });
        let (from, to) = (at(&record, 2), at(&record, 10));
        record.note(Noted { step: Step::Queue, from, to });
        let (address, from) = ("[::1]:8001".into(), at(&record, 20));
        let path = "/v1/chat/completions";
        record.begin_attempt(Attempt { address, path, from, to: None, status: Some(200), error: None });
        record.finish_reason = Some("stop");
        record.settled = Some(Settled {
            ending: Ending::Complete,
            status: 200,
            count: Count { prompt: 10, cached: 4, completion: 3, reasoning: None, by: CountedBy::Usage },
            slots: 1,
            first_token: Some(at(&record, 50)),
            at: at(&record, 90),
        });
        record
    }
}
