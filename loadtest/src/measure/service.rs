//! What a record tells of its service: how long the request waited for a slot, when its prompt was computed, and when
//! its tokens came. Seen from the client, so all of it includes the way back.

use std::time::Duration;

use super::histogram::micros;
use crate::record::{Ending, Record};

/// A reply in one piece shows no token before its end; if the server tells how long it generated, its tokens are spread
/// over that time in at most so many steps.
const STEPS: u64 = 100;

/// From when to when the request waited for a slot. None if it did not, or if it is not known.
///
/// The wait ends as the gateway tells (`x-queue-wait-ms`); a stream that was opened while it waited does not have that
/// header, nor does a server without a gateway: then the wait ends when the prompt began to be computed, or, if the
/// server does not tell how long that took, with the first token. Who got no token waited to the end. When the last of
/// several tries was sent is not known, so those do not count as waiting.
pub(super) fn waited(record: &Record) -> Option<(Duration, Duration)> {
    let none = matches!(record.ending, Ending::Unreachable) || record.tries > 1;
    let refused = matches!(record.ending, Ending::Refused(_)) && record.queue_wait.is_none();
    if none || refused {
        return None;
    }
    let end = match record.queue_wait {
        Some(wait) => record.sent + wait,
        None => match prompt_done(record) {
            Some(done) => done.saturating_sub(record.prefill.unwrap_or_default()),
            None => record.ended,
        },
    };
    let end = end.min(record.ended);
    (record.sent < end).then_some((record.sent, end))
}

/// When the prompt had been computed: with the first token. Of a reply in one piece, as long before its end as the server
/// says that it generated.
pub(super) fn prompt_done(record: &Record) -> Option<Duration> {
    let first = record.first_token?;
    match (record.streamed, record.decode) {
        (false, Some(decode)) => Some(first.saturating_sub(decode).max(record.sent)),
        _ => Some(first),
    }
}

/// Calls `each` with moments in microseconds, ascending, and the tokens that came then. All of the record's tokens come:
/// those of one event cannot be told from those of the next, so events share them evenly.
pub(super) fn each_token(record: &Record, mut each: impl FnMut(u64, u64)) {
    let tokens = record.tokens_seen;
    let share = |step: u64, of: u64| tokens * (step + 1) / of - tokens * step / of;
    let (Some(first), Some(done)) = (record.first_token, prompt_done(record)) else {
        each(micros(record.ended), tokens);
        return;
    };
    if record.streamed {
        let events = record.gaps.len() as u64 + 1;
        let mut moment = first;
        each(micros(moment), share(0, events));
        for (step, gap) in (1..).zip(&record.gaps) {
            moment += *gap;
            each(micros(moment), share(step, events));
        }
    } else {
        let steps = tokens.clamp(1, STEPS);
        let (begin, length) = (micros(done), micros(first.saturating_sub(done)));
        for step in 0..steps {
            each(begin + length * (step + 1) / steps, share(step, steps));
        }
    }
}
