//! One request from the sending to its end, with all of its tries.

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, Sleep, sleep};

use super::Live;
use crate::client::events::{Event, Events};
use crate::client::reply::{self, Reading, Seen};
use crate::client::{Client, MAX_BODY_BYTES, Message, Reply, SendError, retry};
use crate::clock::Clock;
use crate::plan::Turn;
use crate::record::{Ending, Record, Refusal};

/// More of an error reply is not read.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// A stream that brings more events with content than so many for each token that is allowed, and some more, is given
/// up: it may have no end, and the times between its events are kept.
const MOST_EVENTS_PER_TOKEN: u64 = 4;
const MORE_EVENTS: u64 = 1000;

/// A request under way. It writes into its record as it goes, so that whatever ends it leaves what was known.
pub(super) struct Exchange<'a> {
    pub(super) client: &'a Client,
    pub(super) clock: Clock,
    pub(super) live: &'a Live,
    pub(super) turn: &'a Turn,
    pub(super) message: Message,
    /// How long the client waits for a connection's next bytes.
    pub(super) timeout: Duration,
    pub(super) retries: u32,
    pub(super) seed: u64,
    /// What the reply has told.
    pub(super) reading: Reading,
    pub(super) record: Record,
}

/// A try that may be followed by another one.
struct Failure {
    ending: Ending,
    /// The head of the reply, if there was one.
    head: Option<(StatusCode, HeaderMap)>,
}

impl From<Ending> for Failure {
    fn from(ending: Ending) -> Self {
        Self { ending, head: None }
    }
}

impl Exchange<'_> {
    /// Tries until the request is over.
    pub(super) async fn run(&mut self) -> Ending {
        let mut tries = 0;
        loop {
            self.message.headers.insert("x-stainless-retry-count", HeaderValue::from(tries));
            tries += 1;
            self.record.tries += 1;
            let failure = match self.once().await {
                Ok(ending) => return ending,
                Err(failure) => failure,
            };
            if tries > self.retries {
                return failure.ending;
            }
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(tries.into());
            let head = failure.head.as_ref().map(|(status, headers)| (*status, headers));
            let Some(pause) = retry::pause(head, tries, &mut rng) else { return failure.ending };
            self.tried_again(match failure.ending {
                Ending::Refused(refusal) => refusal,
                other => Refusal { status: 0, code: other.label() },
            });
            sleep(pause).await;
        }
    }

    /// Notes a try that is followed by another one. What its head told is not told of the next.
    fn tried_again(&mut self, refusal: Refusal) {
        let record = &mut self.record;
        record.retried.push(refusal);
        (record.head, record.queue_wait, record.request_id) = (None, None, None);
    }

    /// One try. Once the head of a good reply is there, official clients try no more.
    async fn once(&mut self) -> Result<Ending, Failure> {
        let mut patience = Patience::new(self.timeout);
        let sent = patience.within(self.client.send(&self.message)).await;
        let mut reply = sent.ok_or(Ending::TimedOut)?.map_err(|error| broken(&error))?;
        let head = self.clock.now();
        if reply.resent {
            self.tried_again(Refusal { status: 0, code: Ending::Cut.label() });
            self.record.tries += 1;
        }
        self.record.head = Some(head);
        let text = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok());
        self.record.queue_wait =
            text("x-queue-wait-ms").and_then(|value| value.parse().ok()).map(Duration::from_millis);
        self.record.request_id = text("x-request-id").map(str::to_owned);
        if !reply.status.is_success() {
            return Err(self.refused(reply, &mut patience).await);
        }
        let streamed = text(header::CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with("text/event-stream"));
        self.record.streamed = streamed;
        Ok(if streamed {
            self.stream(&mut reply, &mut patience).await
        } else {
            self.whole(&mut reply, &mut patience).await
        })
    }

    /// What an error status says. The status is enough where its body does not come.
    async fn refused(&mut self, mut reply: Reply, patience: &mut Patience) -> Failure {
        let body = self.body(&mut reply, patience, MAX_ERROR_BYTES).await.unwrap_or_default();
        let refusal = reply::refusal(reply.status.as_u16(), &body);
        Failure { ending: Ending::Refused(refusal), head: Some((reply.status, reply.headers)) }
    }

    /// Reads a reply in one piece.
    async fn whole(&mut self, reply: &mut Reply, patience: &mut Patience) -> Ending {
        let body = match self.body(reply, patience, MAX_BODY_BYTES).await {
            Ok(body) => body,
            Err(ending) => return ending,
        };
        match self.reading.whole(&body) {
            Err(_) => return Ending::Unreadable,
            Ok(Seen::Failed(refusal)) => return self.failed(refusal, reply.status),
            Ok(Seen::Reasoning) => self.content(false, self.clock.now()),
            Ok(Seen::Output) => self.content(true, self.clock.now()),
            Ok(Seen::Nothing | Seen::End) => {}
        }
        Ending::Complete
    }

    /// Reads a stream to the end of its body. What comes after the announced end cannot spoil it any more.
    async fn stream(&mut self, reply: &mut Reply, patience: &mut Patience) -> Ending {
        let (mut events, mut complete) = (Events::default(), false);
        loop {
            let bytes = match self.next(reply, patience).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) | Err(_) if complete => return Ending::Complete,
                Ok(None) => return Ending::Cut,
                Err(ending) => return ending,
            };
            let now = self.clock.now();
            let mut ending = None;
            let split = events.push(&bytes, |event| {
                if ending.is_none() && !complete {
                    let seen = self.event(&event, now, reply.status);
                    complete = seen == Some(Ending::Complete);
                    ending = seen.filter(|_| !complete);
                }
            });
            match ending {
                Some(ending) => return ending,
                None if split.is_err() => return Ending::Unreadable,
                None => {}
            }
        }
    }

    /// What an event of a stream ends, if anything.
    fn event(&mut self, event: &Event<'_>, now: Duration, status: StatusCode) -> Option<Ending> {
        match self.reading.event(event) {
            Err(_) => Some(Ending::Unreadable),
            Ok(Seen::Failed(refusal)) => Some(self.failed(refusal, status)),
            Ok(Seen::End) => Some(Ending::Complete),
            Ok(Seen::Nothing) => None,
            Ok(seen) => {
                self.content(seen == Seen::Output, now);
                let most = MOST_EVENTS_PER_TOKEN * self.turn.output_tokens + MORE_EVENTS;
                if self.record.chunks > most {
                    let allowed = self.turn.output_tokens;
                    self.record.lie =
                        Some(format!("more than {most} events of content where {allowed} tokens were allowed"));
                    return Some(Ending::Unreadable);
                }
                let leaves_after = self.turn.leave.and_then(|leave| leave.after_chunks);
                leaves_after.is_some_and(|chunks| self.record.chunks >= chunks).then_some(Ending::Left)
            }
        }
    }

    /// Notes generated content.
    fn content(&mut self, output: bool, now: Duration) {
        let record = &mut self.record;
        match record.last_token {
            None => record.first_token = Some(now),
            Some(last) => record.gaps.push(now - last),
        }
        record.last_token = Some(now);
        record.first_output_token = record.first_output_token.or(output.then_some(now));
        record.chunks += 1;
        self.live.chunks.fetch_add(1, Relaxed);
    }

    fn failed(&self, refusal: Refusal, status: StatusCode) -> Ending {
        // An error that names no status came with that of its reply.
        let status = if refusal.status == 0 { status.as_u16() } else { refusal.status };
        Ending::ErrorEvent(Refusal { status, ..refusal })
    }

    /// A body in one piece.
    async fn body(&self, reply: &mut Reply, patience: &mut Patience, limit: usize) -> Result<Bytes, Ending> {
        let Some(first) = self.next(reply, patience).await? else { return Ok(Bytes::new()) };
        // Most bodies come as one piece, which needs no copy.
        let Some(second) = self.next(reply, patience).await? else { return Ok(first) };
        let mut body = BytesMut::from(first);
        body.extend_from_slice(&second);
        while let Some(bytes) = self.next(reply, patience).await? {
            body.extend_from_slice(&bytes);
            if body.len() > limit {
                return Err(Ending::Unreadable);
            }
        }
        Ok(body.freeze())
    }

    /// The next piece of a body, as soon as its client looks for it.
    async fn next(&self, reply: &mut Reply, patience: &mut Patience) -> Result<Option<Bytes>, Ending> {
        if let Some(pause) = self.turn.slow_reader {
            sleep(pause).await;
        }
        patience.within(reply.chunk()).await.ok_or(Ending::TimedOut)?.map_err(|error| broken(&error))
    }
}

/// How a request ends whose exchange failed.
fn broken(error: &SendError) -> Ending {
    match error {
        SendError::Connect(_) => Ending::Unreachable,
        SendError::Exchange(error) if !error.is_parse() => Ending::Cut,
        SendError::Exchange(_) | SendError::TooLong => Ending::Unreadable,
    }
}

/// A client's timeout: how long it waits for the next bytes. (openai-python's is of this kind; comments that keep a
/// stream alive start it anew.)
struct Patience {
    timeout: Duration,
    /// One timer for the whole try. It is set again only when it fires too early: bytes come more often than that.
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    fn new(timeout: Duration) -> Self {
        Self { timeout, timer: Box::pin(sleep(timeout)) }
    }

    /// Waits for something that must come in time.
    async fn within<T>(&mut self, something: impl Future<Output = T>) -> Option<T> {
        let deadline = Instant::now() + self.timeout;
        let expired = async {
            loop {
                self.timer.as_mut().await;
                if Instant::now() >= deadline {
                    break;
                }
                self.timer.as_mut().reset(deadline);
            }
        };
        tokio::select! {
            biased;
            done = something => Some(done),
            () = expired => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_that_come_in_time_start_the_patience_anew() {
        let mut patience = Patience::new(Duration::from_secs(10));
        for _ in 0..10 {
            assert_eq!(patience.within(sleep(Duration::from_secs(9))).await, Some(()));
        }
        let before = Instant::now();
        assert_eq!(patience.within(sleep(Duration::from_secs(11))).await, None);
        assert_eq!(before.elapsed(), Duration::from_secs(10));
    }
}
