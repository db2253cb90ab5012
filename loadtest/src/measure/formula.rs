//! What each measure is: the one place that defines them. Every measure is a time and a function of one record; reports
//! give it in milliseconds, with the words that stand here beside the number.
//!
//! Load tests use the same names for different things: time per output token with and without the first token, times to
//! a first event that has no content. So a number without its formula says little.
//!
//! A reply that comes in one piece has no first token that its client could see: its time to first token would be its
//! end-to-end time. So everything about tokens in time (`ttft`, `ttfot`, `itl`, `tpot`, `largest_gap`) is measured on
//! streamed replies only. Times of the whole reply (`ntpot`, `e2e`) are those of complete replies: how long a failure
//! took is no latency. Failures count in the attainment.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::record::{Ending, Record};
use crate::report::Formula;

/// One measure.
pub struct Measure {
    /// Its name in reports and objectives.
    pub key: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// How it is computed, in words.
    pub formula: &'static str,
    /// Its values in a record.
    pub values: Values,
}

/// The values of a measure in a record.
pub enum Values {
    /// One, or none where it cannot be measured.
    One(fn(&Record) -> Option<Duration>),
    /// Any number.
    Each(fn(&Record) -> &[Duration]),
}

/// All measures, in the order in which people read them.
pub const MEASURES: [Measure; 14] = [
    Measure {
        key: "ttft_scheduled",
        title: "Time to first token, from the scheduled moment",
        formula: "first event with generated content (reasoning, tool calls included) - scheduled moment; streamed \
                  replies",
        values: Values::One(ttft_scheduled),
    },
    Measure {
        key: "ttft",
        title: "Time to first token",
        formula: "first event with generated content (reasoning, tool calls included) - sending; streamed replies",
        values: Values::One(ttft),
    },
    Measure {
        key: "ttfot_scheduled",
        title: "Time to first output token, from the scheduled moment",
        formula: "first event with content that is no reasoning - scheduled moment; streamed replies",
        values: Values::One(|record| since(first_output_token(record), record.scheduled)),
    },
    Measure {
        key: "ttfot",
        title: "Time to first output token",
        formula: "first event with content that is no reasoning - sending; streamed replies",
        values: Values::One(|record| since(first_output_token(record), record.sent)),
    },
    Measure {
        key: "itl",
        title: "Inter-token latency",
        formula: "every gap between two events with generated content; streamed replies",
        values: Values::Each(gaps),
    },
    Measure {
        key: "tpot",
        title: "Time per output token, without the first",
        formula: "(last event with content - first event with content) / (output tokens - 1); complete streamed replies of \
                  at least 2 tokens",
        values: Values::One(tpot),
    },
    Measure {
        key: "ntpot",
        title: "Normalized time per output token",
        formula: "(end - sending) / output tokens; complete replies",
        values: Values::One(ntpot),
    },
    Measure {
        key: "largest_gap",
        title: "Largest gap",
        formula: "the largest gap between two events with generated content of one reply; streamed replies",
        values: Values::One(largest_gap),
    },
    Measure {
        key: "e2e_scheduled",
        title: "End to end, from the scheduled moment",
        formula: "last byte of the reply - scheduled moment; complete replies",
        values: Values::One(e2e_scheduled),
    },
    Measure {
        key: "e2e",
        title: "End to end",
        formula: "last byte of the reply - sending; complete replies",
        values: Values::One(|record| since(complete(record), record.sent)),
    },
    Measure {
        key: "queue_wait",
        title: "Wait in the gateway's queue",
        formula: "as the gateway tells it (x-queue-wait-ms); replies that tell it",
        values: Values::One(|record| record.queue_wait),
    },
    Measure {
        key: "head",
        title: "Head of the reply",
        formula: "head of the last try's reply - sending of the first try; replies with a head",
        values: Values::One(|record| since(record.head, record.sent)),
    },
    Measure {
        key: "pool_wait",
        title: "Wait for a connection",
        formula: "sending - dispatch: the wait for one of the tenant's connections; all requests",
        values: Values::One(|record| since(Some(record.sent), record.dispatched)),
    },
    Measure {
        key: "dispatch_lag",
        title: "Dispatch lag",
        formula: "dispatch - scheduled moment: how late the harness was; all requests",
        values: Values::One(|record| since(Some(record.dispatched), record.scheduled)),
    },
];

/// What else a report says of its requests, with its formula.
const OTHERS: [(&str, &str, &str); 5] = [
    (
        "attainment",
        "Attainment",
        "good requests / (scheduled requests - those whose client left on purpose); a request is good if it is \
         complete and within each bound that can be measured on it, and a stream without content within none on its \
         first token; refusals, errors and timeouts are misses",
    ),
    ("goodput", "Goodput", "good requests / measured seconds"),
    ("offered", "Offered load", "scheduled requests / seconds in which requests were scheduled, without the warm-up"),
    (
        "jain_index",
        "Jain's index",
        "(sum of x)^2 / (n * sum of x^2), x = service / weight of each of the n tenants of a class while all of them \
         had requests waiting; of several classes the lowest",
    ),
    (
        "service_gap",
        "Largest service gap",
        "the largest |W1/w1 - W2/w2| over any time in which both tenants had requests waiting, W being the service in \
         that time and w the weight; bound: (slots + 1) * (c1/w1 + c2/w2), c being the tenant's largest request",
    ),
];

impl Measure {
    /// Calls `each` with every value that the record has.
    pub fn each_value(&self, record: &Record, mut each: impl FnMut(Duration)) {
        match self.values {
            Values::One(value) => value(record).into_iter().for_each(each),
            Values::Each(values) => values(record).iter().for_each(|value| each(*value)),
        }
    }
}

/// The formulas by name, for the report.
pub fn formulas() -> BTreeMap<String, Formula> {
    let measures = MEASURES.iter().map(|measure| (measure.key, measure.title, measure.formula));
    let formula = |(key, title, formula): (&str, &str, &str)| {
        (key.to_owned(), Formula { title: title.to_owned(), formula: formula.to_owned() })
    };
    measures.chain(OTHERS).map(formula).collect()
}

/// Time to first token from the scheduled moment.
pub fn ttft_scheduled(record: &Record) -> Option<Duration> {
    since(first_token(record), record.scheduled)
}

/// Time to first token from the sending.
pub fn ttft(record: &Record) -> Option<Duration> {
    since(first_token(record), record.sent)
}

/// Time per output token without the first.
pub fn tpot(record: &Record) -> Option<Duration> {
    complete(record)?;
    let rest = u32::try_from(record.tokens_seen).ok()?.checked_sub(1).filter(|rest| *rest > 0)?;
    Some(since(record.last_token, first_token(record)?)? / rest)
}

/// The largest gap between two events with content.
pub fn largest_gap(record: &Record) -> Option<Duration> {
    gaps(record).iter().max().copied()
}

/// End to end from the scheduled moment.
pub fn e2e_scheduled(record: &Record) -> Option<Duration> {
    since(complete(record), record.scheduled)
}

fn ntpot(record: &Record) -> Option<Duration> {
    let tokens = u32::try_from(record.tokens_seen).ok().filter(|tokens| *tokens > 0)?;
    Some(since(complete(record), record.sent)? / tokens)
}

fn gaps(record: &Record) -> &[Duration] {
    if record.streamed { &record.gaps } else { &[] }
}

fn first_token(record: &Record) -> Option<Duration> {
    record.first_token.filter(|_| record.streamed)
}

fn first_output_token(record: &Record) -> Option<Duration> {
    record.first_output_token.filter(|_| record.streamed)
}

/// When a complete reply was over.
fn complete(record: &Record) -> Option<Duration> {
    (record.ending == Ending::Complete).then_some(record.ended)
}

fn since(moment: Option<Duration>, before: Duration) -> Option<Duration> {
    moment.map(|moment| moment.saturating_sub(before))
}
