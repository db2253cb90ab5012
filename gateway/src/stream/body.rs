//! The body of a streamed answer.
//!
//! Polled by the client's own connection, so that a client that leaves drops it at once, and with it the
//! connection to llama-server. It may begin before llama-server has answered: then it keeps the client company
//! while the request waits, and what still fails is an event in the stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::time::Instant;

use super::clocks::{Clocks, Due, expired};
use super::meter::{Meter, Seen};
use super::{Ended, Running, lost};
use crate::account::Answered;
use crate::error::{Dialect, Reason, Rejection};
use crate::ledger::{Closing, Ending};
use crate::metrics::Metrics;
use crate::queue::{Outlook, View};
use crate::traces::Timed;
use crate::upstream::errors;

/// A comment: ignored by every client, but bytes on the wire.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
/// Output frames are cut from blocks of this size; a block is used again once its frames are sent.
const BLOCK_BYTES: usize = 2048;

/// A request on its way to llama-server: queue, dispatch, answer head. It settles the account itself if it fails.
pub type Opening = Pin<Box<dyn Future<Output = Result<Running, Rejection>> + Send>>;

enum State {
    Opening(Opening),
    Running(Running),
    /// The end has been seen and waits for the ledger; `held` goes out after it.
    Closing {
        running: Running,
        closing: Timed<Closing>,
        held: Bytes,
    },
    Ended,
}

/// What a streamed answer needs from its surroundings.
pub struct Surroundings {
    /// The error shape of the surface.
    pub dialect: Dialect,
    /// The `x-request-id` of the answer.
    pub request_id: Arc<str>,
    /// Set when the 200 goes out.
    pub answered: Answered,
    /// Comes true when the stream must end before llama-server's reply does.
    pub ended: Ended,
    /// Where to look for what the request can expect while it waits for its slot.
    pub view: View,
    /// How often it is told that.
    pub queue_update: Duration,
    /// A comment is sent after so long a silence.
    pub keep_alive: Duration,
    /// Where bytes are counted.
    pub metrics: Arc<Metrics>,
}

/// The body of a streamed answer.
pub struct StreamBody {
    state: State,
    meter: Meter,
    clocks: Clocks,
    out: BytesMut,
    unreadable: u64,
    /// The stream has just been opened, and is to be told that it waits.
    greet: bool,
    around: Surroundings,
}

impl StreamBody {
    /// A body for the answer that `opening` will bring.
    pub fn new(opening: Opening, meter: Meter, around: Surroundings) -> Self {
        let clocks = Clocks::new(Some(around.keep_alive));
        let state = State::Opening(opening);
        Self { state, meter, clocks, out: BytesMut::new(), unreadable: 0, greet: false, around }
    }

    /// Drives the request until llama-server has answered or it has failed.
    pub fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        let State::Opening(opening) = &mut self.state else { return Poll::Ready(Ok(())) };
        match opening.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(running)) => {
                self.clocks.keep_alive(self.around.keep_alive);
                self.clocks.start(running.deadlines);
                self.state = State::Running(running);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(rejection)) => {
                self.state = State::Ended;
                Poll::Ready(Err(rejection))
            }
        }
    }

    /// The 200 goes out now.
    pub fn answered(&mut self) {
        self.around.answered.set();
        if self.outlook().is_some() {
            self.greet = true;
            self.clocks.keep_alive(self.around.queue_update.min(self.around.keep_alive));
        }
    }

    /// What the request can expect while it waits for its slot.
    fn outlook(&self) -> Option<Outlook> {
        match self.state {
            State::Opening(_) => self.around.view.outlook(),
            _ => None,
        }
    }

    /// A comment for a client that has heard nothing for a while.
    fn company(&mut self) -> Bytes {
        if let Some(outlook) = self.outlook() {
            return queued(outlook);
        }
        self.clocks.keep_alive(self.around.keep_alive);
        Bytes::from_static(KEEP_ALIVE)
    }

    /// The next bytes for the client: `None` when the stream is over.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match ready!(self.poll_step(context)) {
                Step::Send(bytes) if bytes.is_empty() => {}
                Step::Send(bytes) => return Poll::Ready(Some(bytes)),
                Step::Again => {}
                Step::End => return Poll::Ready(None),
            }
        }
    }

    /// What happens next: with the reply, or, while it has nothing, with the clocks.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        if let Poll::Ready(step) = self.poll_reply(context) {
            return Poll::Ready(step);
        }
        match &self.state {
            State::Closing { .. } => return Poll::Pending,
            // An opening request watches for its end itself: it holds the account.
            State::Opening(_) => {
                if std::mem::take(&mut self.greet) {
                    return Poll::Ready(Step::Send(self.company()));
                }
            }
            _ => {
                if let Poll::Ready(rejection) = self.around.ended.as_mut().poll(context) {
                    return Poll::Ready(Step::Send(self.fail(&rejection)));
                }
            }
        }
        self.clocks.poll(context).map(|due| match due {
            Due::KeepAlive => Step::Send(self.company()),
            Due::Expired(reason) => Step::Send(self.fail(&expired(reason))),
        })
    }

    fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        match &mut self.state {
            State::Ended => Poll::Ready(Step::End),
            State::Opening(_) => self.poll_open(context).map(|opened| match opened {
                Ok(()) => Step::Again,
                Err(rejection) => Step::Send(self.event(&rejection)),
            }),
            State::Running(running) => match running.poll_bytes(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Ok(bytes))) => Poll::Ready(self.passed(&bytes)),
                Poll::Ready(Some(Err(rejection))) => Poll::Ready(Step::Send(self.fail(&rejection))),
                Poll::Ready(None) => Poll::Ready(self.finished()),
            },
            State::Closing { closing, .. } => Pin::new(closing).poll(context).map(|_durable| self.closed()),
        }
    }

    /// Bytes of llama-server have come: counts them and rewrites them for the client.
    fn passed(&mut self, bytes: &[u8]) -> Step {
        if self.out.capacity() == 0 {
            self.out.reserve(BLOCK_BYTES);
        }
        let seen = self.meter.push(bytes, &mut self.out);
        self.seen(&seen)
    }

    /// llama-server's reply is over: what the meter still held goes out.
    fn finished(&mut self) -> Step {
        let seen = self.meter.finish(&mut self.out);
        let step = self.seen(&seen);
        if !matches!(step, Step::Send(_)) {
            return step;
        }
        let State::Running(running) = &mut self.state else { return step };
        let Step::Send(rest) = step else { return Step::End };
        if running.account.is_settled() {
            self.state = State::Ended;
            return Step::Send(rest);
        }
        // The body ended properly, but its end was never announced: the client must not take it for an answer.
        self.last(&rest, &lost("the stream ended before its last event"))
    }

    /// What the meter saw decides how it goes on.
    fn seen(&mut self, seen: &Seen) -> Step {
        let State::Running(running) = &mut self.state else { return Step::End };
        let mut late = false;
        let goes_on = if seen.outputs > 0 {
            let now = Instant::now();
            late = self.clocks.total_is_over(now);
            self.clocks.output(now);
            running.output(self.meter.count(), now)
        } else {
            // The first events tell the prompt, before there is any output.
            running.counted(self.meter.count())
        };
        if self.meter.unreadable() > self.unreadable {
            running.account.unreadable(self.meter.unreadable() - self.unreadable);
            self.unreadable = self.meter.unreadable();
        }
        let mut ending = Ending::Complete;
        if !goes_on && !seen.terminal && seen.failed.is_none() {
            // The client is given what it has used, and the events of an end.
            if self.meter.cut(&running.names(), &mut self.out).is_some() {
                ending = Ending::Cut;
            }
        }
        let bytes = self.out.split().freeze();
        if let Some(message) = &seen.failed {
            return self.last(&bytes, &errors::in_stream(message));
        }
        if !seen.terminal && ending == Ending::Complete {
            return if late { self.last(&bytes, &expired(Reason::TotalTimeout)) } else { Step::Send(bytes) };
        }
        self.close(ending, bytes)
    }

    /// The stream ends with `held`, once its row is durable.
    fn close(&mut self, ending: Ending, held: Bytes) -> Step {
        let State::Running(running) = &mut self.state else { return Step::End };
        running.account.trace().finished(self.meter.finish_reason());
        let Some(closing) = running.account.end(ending) else { return Step::Send(held) };
        running.learn(self.meter.speed());
        if ending == Ending::Cut {
            // This ends it at llama-server, too.
            running.body = None;
        }
        // llama-server is done: the next one may start, however long the row and this client's reading take.
        running.slot = None;
        if let State::Running(running) = std::mem::replace(&mut self.state, State::Ended) {
            self.state = State::Closing { running, closing, held };
        }
        Step::Again
    }

    /// The row is durable (or the ledger has said loudly that it is not): the end may go out.
    fn closed(&mut self) -> Step {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Closing { running, held, .. } => {
                self.state = State::Running(running);
                Step::Send(held)
            }
            other => {
                self.state = other;
                Step::Again
            }
        }
    }

    /// The last bytes of llama-server that go out, with the error behind them.
    fn last(&mut self, bytes: &[u8], rejection: &Rejection) -> Step {
        let mut last = BytesMut::from(bytes);
        last.extend_from_slice(&self.fail(rejection));
        Step::Send(last.freeze())
    }

    /// Ends the stream with an error event: the connection to llama-server is closed, the slot is free. After a
    /// complete answer there is nothing left to complain about, and nothing is given.
    fn fail(&mut self, rejection: &Rejection) -> Bytes {
        let state = std::mem::replace(&mut self.state, State::Ended);
        if let State::Running(mut running) = state {
            if running.account.is_settled() {
                return Bytes::new();
            }
            drop(running.account.fail(rejection));
        }
        self.event(rejection)
    }

    fn event(&self, rejection: &Rejection) -> Bytes {
        Bytes::from(rejection.event(self.around.dialect, &self.around.request_id))
    }
}

/// The comment that tells a waiting client what it can expect, in whole seconds.
fn queued(outlook: Outlook) -> Bytes {
    let Outlook { position, wait } = outlook;
    let eta = wait.map(|wait| format!(" eta={:.0}", wait.as_secs_f64().ceil())).unwrap_or_default();
    Bytes::from(format!(": queued position={position}{eta}\n\n"))
}

enum Step {
    /// Bytes for the client; empty ones are not sent.
    Send(Bytes),
    /// Something changed: look again.
    Again,
    /// Nothing more.
    End,
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.poll_bytes(context).map(|bytes| {
            let bytes = bytes?;
            this.clocks.sent(Instant::now());
            this.around.metrics.stream_bytes_total.inc_by(bytes.len() as u64);
            Some(Ok(Frame::data(bytes)))
        })
    }
}
