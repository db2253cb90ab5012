//! What a group of requests had: endings, tokens, good requests, and the distribution of each measure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::formula::{self, MEASURES};
use super::histogram::Histogram;
use crate::record::{Ending, Record, Refusal};
use crate::report::{self, Rates, Tokens};
use crate::workload::RequestSlo;

/// The most names that a server's codes can make in one list; further ones are counted together.
const MOST_LABELS: usize = 64;
/// Their common name.
const OTHER: &str = "other";

/// Sums over the requests of one tenant, or of all.
pub struct Summary {
    scheduled: u64,
    completed: u64,
    left: u64,
    good: u64,
    /// Those with names of ours, of which there are few.
    endings: Labels,
    /// Those with names that the server makes.
    refusals: Labels,
    retried: Labels,
    tokens: Tokens,
    /// In the order of `MEASURES`.
    measures: Vec<Histogram>,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            scheduled: 0,
            completed: 0,
            left: 0,
            good: 0,
            endings: Labels::default(),
            refusals: Labels::default(),
            retried: Labels::default(),
            tokens: Tokens::default(),
            measures: vec![Histogram::fine(); MEASURES.len()],
        }
    }
}

impl Summary {
    /// Adds a request.
    pub fn add(&mut self, record: &Record, good: bool) {
        self.scheduled += 1;
        self.completed += u64::from(record.ending == Ending::Complete);
        self.left += u64::from(record.ending == Ending::Left);
        self.good += u64::from(good);
        let endings = match record.ending {
            Ending::Refused(_) | Ending::ErrorEvent(_) => &mut self.refusals,
            _ => &mut self.endings,
        };
        endings.count(record.ending.label(), 1);
        for refusal in &record.retried {
            self.retried.count(status_label(refusal), 1);
        }
        let usage = record.usage.unwrap_or_default();
        let tokens = Tokens { prompt: usage.prompt, cached: usage.cached, completion: record.tokens_seen };
        self.tokens = plus(self.tokens, tokens);
        for (measure, histogram) in MEASURES.iter().zip(&mut self.measures) {
            measure.each_value(record, |value| histogram.record(value));
        }
    }

    /// Adds another group.
    pub fn merge(&mut self, other: &Self) {
        self.scheduled += other.scheduled;
        self.completed += other.completed;
        self.left += other.left;
        self.good += other.good;
        self.endings.merge(&other.endings);
        self.refusals.merge(&other.refusals);
        self.retried.merge(&other.retried);
        self.tokens = plus(self.tokens, other.tokens);
        for (own, other) in self.measures.iter_mut().zip(&other.measures) {
            own.merge(other);
        }
    }

    /// As it stands in the report. `scheduling` is how long requests were scheduled, `measured` until when they were
    /// over, both in seconds from the end of the warm-up. Measures without a value are left out.
    pub fn report(&self, scheduling: f64, measured: f64) -> report::Summary {
        let rate = |count: u64, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let stayed = self.scheduled - self.left;
        let named = MEASURES.iter().zip(&self.measures).filter(|(_, histogram)| histogram.count() > 0);
        report::Summary {
            scheduled: self.scheduled,
            endings: self.endings.0.clone().into_iter().chain(self.refusals.0.clone()).collect(),
            retried: self.retried.0.clone(),
            tokens: self.tokens,
            rates: Rates {
                offered: rate(self.scheduled, scheduling),
                completed: rate(self.completed, measured),
                goodput: rate(self.good, measured),
                prompt_tokens: rate(self.tokens.prompt, measured),
                completion_tokens: rate(self.tokens.completion, measured),
            },
            good: self.good,
            attainment: if stayed > 0 { self.good as f64 / stayed as f64 } else { 0.0 },
            measures: named.map(|(measure, histogram)| (measure.key.to_owned(), histogram.distribution())).collect(),
        }
    }

    /// The memory that grows with what was added.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.measures.iter().map(Histogram::bytes).sum()
    }
}

/// Whether a request is good: complete, and within each bound that is given and can be measured on it. A reply in one
/// piece has no first token, one of a single token no time per output token: it is judged by the other bounds. A stream
/// without any content misses a bound on its first token, for which its client waited in vain.
pub fn is_good(record: &Record, slo: &RequestSlo) -> bool {
    let within = |measured: fn(&Record) -> Option<Duration>, bound: Option<Duration>| {
        bound.is_none_or(|bound| measured(record).is_none_or(|measured| measured <= bound))
    };
    let has_first_token = record.first_token.is_some() || !record.streamed;
    record.ending == Ending::Complete
        && (has_first_token || (slo.ttft_scheduled.is_none() && slo.ttft.is_none()))
        && within(formula::ttft_scheduled, slo.ttft_scheduled)
        && within(formula::ttft, slo.ttft)
        && within(formula::tpot, slo.tpot)
        && within(formula::largest_gap, slo.largest_gap)
        && within(formula::e2e_scheduled, slo.e2e_scheduled)
}

/// A server may claim any number: sums stop at the largest one.
fn plus(one: Tokens, other: Tokens) -> Tokens {
    Tokens {
        prompt: one.prompt.saturating_add(other.prompt),
        cached: one.cached.saturating_add(other.cached),
        completion: one.completion.saturating_add(other.completion),
    }
}

fn status_label(refusal: &Refusal) -> String {
    Ending::Refused(refusal.clone()).label()
}

/// How often each name came. Their number is bounded, whatever codes a server makes up.
#[derive(Default)]
pub(super) struct Labels(pub(super) BTreeMap<String, u64>);

impl Labels {
    pub(super) fn count(&mut self, label: String, times: u64) {
        let named = self.0.len() - usize::from(self.0.contains_key(OTHER));
        let known = named < MOST_LABELS || self.0.contains_key(&label);
        *self.0.entry(if known { label } else { OTHER.to_owned() }).or_default() += times;
    }

    fn merge(&mut self, other: &Self) {
        for (label, times) in &other.0 {
            self.count(label.clone(), *times);
        }
    }
}
