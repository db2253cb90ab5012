//! A session: its turns one after the other, each as a request with a record.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep_until;

use super::exchange::Exchange;
use super::{Lane, Run, Turned};
use crate::client::reply::{Known, Reading};
use crate::plan::{Session, Turn};
use crate::record::{Ending, Record};

/// A request that is due.
#[derive(Clone, Copy)]
pub(super) struct Due {
    /// Index of its tenant.
    pub(super) tenant: usize,
    /// Number of its session.
    pub(super) session: u64,
    pub(super) turn: u32,
    /// When it should be sent.
    pub(super) scheduled: Duration,
}

impl Due {
    /// Its record before anything has happened.
    pub(super) fn record(&self, streamed: bool, now: Duration) -> Record {
        let Self { tenant, session, turn, scheduled } = *self;
        Record { tenant, session, turn, streamed, scheduled, ..Record::not_sent(now) }
    }
}

/// A session that has begun.
struct Talk<'a> {
    session: &'a Session,
    /// The answers so far.
    answers: Vec<String>,
    /// Tokens of the conversation so far.
    tokens: u64,
}

/// Sends the turns of a session, until one does not end well or the run is over. Its first one is due now and has a
/// place in flight. Gives the moment of its end.
pub(super) async fn session(run: &Run, mut due: Due, place: OwnedSemaphorePermit) -> Duration {
    let Some(lane) = run.lanes.get(due.tenant) else { return due.scheduled };
    let session = (lane.session)(due.session);
    let mut talk = Talk { session: &session, answers: Vec::new(), tokens: session.system_tokens };
    let (mut place, mut ended) = (Some(place), due.scheduled);
    for (turn, number) in session.turns.iter().zip(0..) {
        if number > 0 {
            due = Due { turn: number, scheduled: ended + turn.pause, ..due };
            let Turned::Now(next) = run.turn_to(due).await else { break };
            place = Some(next);
        }
        let (record, answer) = request(run, lane, &mut talk, turn, due).await;
        ended = record.ended;
        let complete = record.ending == Ending::Complete;
        run.keep(record).await;
        drop(place.take());
        if !complete {
            break;
        }
        talk.answers.extend(answer);
    }
    ended
}

/// Sends one turn. Gives its record, and its answer if a further turn needs it.
async fn request(run: &Run, lane: &Lane, talk: &mut Talk<'_>, turn: &Turn, due: Due) -> (Record, Option<String>) {
    run.live.begin();
    talk.tokens += turn.prompt_tokens;
    let mut message = lane.message.clone();
    message.body = lane.form.body(talk.session, turn, &talk.answers);
    let has_next = talk.answers.len() + 1 < talk.session.turns.len();
    let mut exchange = Exchange {
        client: &run.client,
        clock: run.clock,
        live: &run.live,
        turn,
        message,
        timeout: lane.timeout,
        retries: lane.retries,
        seed: lane.seed ^ due.session,
        reading: Reading::new(lane.surface, has_next),
        record: due.record(turn.streamed, run.clock.now()),
    };
    let sending = async {
        // Closing is not an end that this semaphore meets.
        let _connection = match &lane.connections {
            Some(connections) => connections.acquire().await.ok(),
            None => None,
        };
        exchange.record.sent = run.clock.now();
        let leaving = turn.leave.and_then(|leave| leave.after).map(|after| run.clock.at(exchange.record.sent + after));
        tokio::select! {
            biased;
            ending = exchange.run() => ending,
            () = at(leaving) => Ending::Left,
        }
    };
    let ending = tokio::select! {
        biased;
        ending = sending => ending,
        () = run.schedule.cut.cancelled() => Ending::Abandoned,
    };
    run.live.end(&ending);
    let Exchange { record, reading, .. } = exchange;
    let record = settled(Record { ended: run.clock.now(), ending, ..record }, &reading, turn, talk.tokens);
    talk.tokens += record.tokens_seen;
    (record, reading.into_text())
}

/// The record of a turn that is over, with what its reply has told. The conversation up to it has `prompt_tokens`.
fn settled(mut record: Record, reading: &Reading, turn: &Turn, prompt_tokens: u64) -> Record {
    record.usage = reading.usage();
    (record.prefill, record.decode) = reading.durations();
    record.tokens_seen = reading.tokens_seen(record.chunks);
    record.planned_prompt_tokens = prompt_tokens;
    record.planned_output_tokens = turn.output_tokens;
    if record.tries == 0 {
        record.sent = record.ended;
    }
    if record.ending == Ending::Complete {
        let known = Known { allowed: turn.output_tokens, prompted: prompt_tokens > 0, chunks: record.chunks };
        record.lie = reading.lie(known);
    }
    record
}

/// Waits for a moment, or for ever.
async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
