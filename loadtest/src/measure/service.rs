//! What a record tells of its service: how long the request waited for a slot, when its prompt was computed, and when
//! its tokens came. Seen from the client, so all of it includes the way back.

use std::time::Duration;

use super::histogram::micros;
use crate::record::{Ending, Record};

/// Prompts, and replies in one piece, do not show when each of their tokens was computed. If the server tells how long
/// that took, they are spread over the time in at most so many steps.
const STEPS: u64 = 50;

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

/// When the prompt had been computed: with the first token. Of a reply in one piece: as long before its end as the
/// server says that it generated.
pub(super) fn prompt_done(record: &Record) -> Option<Duration> {
    let first = record.first_token?;
    match (record.streamed, record.decode) {
        (false, Some(decode)) => Some(first.saturating_sub(decode).max(record.sent)),
        _ => Some(first),
    }
}

/// Calls `each` with moments in microseconds, ascending, and how many of so many prompt tokens had been computed then.
/// Their computing took as long as the server says, else no time; none are computed for who got no token.
pub(super) fn each_prompt_token(record: &Record, tokens: u64, each: impl FnMut(u64, u64)) {
    if let Some(done) = prompt_done(record) {
        let begin = done.saturating_sub(record.prefill.unwrap_or_default()).max(record.sent);
        evenly(begin, done, tokens, each);
    }
}

/// Calls `each` with moments in microseconds, ascending, and the output tokens that came then; all of the record's
/// tokens come. How many an event carries is not known, so events share them evenly.
pub(super) fn each_output_token(record: &Record, mut each: impl FnMut(u64, u64)) {
    let tokens = record.tokens_seen;
    let (Some(first), Some(done)) = (record.first_token, prompt_done(record)) else {
        return evenly(record.ended, record.ended, tokens, each);
    };
    if !record.streamed {
        return evenly(done, first, tokens, each);
    }
    let events = record.gaps.len() as u64 + 1;
    let mut moment = first;
    each(micros(moment), share(tokens, 0, events));
    for (event, gap) in (1..).zip(&record.gaps) {
        moment += *gap;
        each(micros(moment), share(tokens, event, events));
    }
}

/// Tokens that came one after the other.
fn evenly(begin: Duration, end: Duration, tokens: u64, mut each: impl FnMut(u64, u64)) {
    let (begin, length) = (micros(begin), micros(end.saturating_sub(begin)));
    let steps = if length > 0 { tokens.clamp(1, STEPS) } else { 1 };
    for step in 0..steps {
        each(begin + length * (step + 1) / steps, share(tokens, step, steps));
    }
}

/// The tokens of one of several equal parts. Whole numbers, of which the sum is all tokens.
fn share(tokens: u64, part: u64, parts: u64) -> u64 {
    // A server may claim any number: this one can be multiplied.
    let tokens = tokens.min(u64::from(u32::MAX));
    tokens * (part + 1) / parts - tokens * part / parts
}
