//! Measures against naive models: sorted lists, brute force over all intervals, sums that must come out the same.

mod fairness;
mod histogram;
mod measures;
mod over_time;
mod single_record;

use std::time::Duration;

use proptest::prelude::*;

use crate::record::{Ending, Record, Refusal, Usage, sample};
use crate::workload::{Tenant, Workload};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Sent at once at `sent`; 10 prompt tokens, of which 4 are cached; 5 tokens in 5 events: the first after 100 ms, the
/// others 10 ms apart, the end 5 ms later.
fn complete(sent: u64) -> Record {
    Record {
        scheduled: ms(sent),
        dispatched: ms(sent),
        sent: ms(sent),
        head: Some(ms(sent + 1)),
        first_token: Some(ms(sent + 100)),
        first_output_token: Some(ms(sent + 110)),
        last_token: Some(ms(sent + 140)),
        ended: ms(sent + 145),
        gaps: vec![ms(10); 4],
        chunks: 5,
        planned_prompt_tokens: 10,
        planned_output_tokens: 5,
        usage: Some(Usage { prompt: 10, cached: 4, completion: 5 }),
        tokens_seen: 5,
        ..sample()
    }
}

/// One that ended so after `after` milliseconds, without a token.
fn without_token(sent: u64, after: u64, ending: Ending) -> Record {
    Record {
        first_token: None,
        first_output_token: None,
        last_token: None,
        ended: ms(sent + after),
        gaps: Vec::new(),
        chunks: 0,
        usage: None,
        tokens_seen: 0,
        ending,
        ..complete(sent)
    }
}

/// Of so many tenants "a", "b", ... of weight 1.
fn workload(tenants: usize) -> Workload {
    let names = ('a'..).take(tenants).map(|name| (name.to_string(), Tenant::default()));
    Workload {
        duration: Duration::from_secs(8),
        drain: Duration::from_secs(2),
        tenants: names.collect(),
        ..Workload::default()
    }
}

fn refused(code: &str) -> Ending {
    Ending::Refused(Refusal { status: 429, code: code.to_owned() })
}

fn any_ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        6 => Just(Ending::Complete),
        1 => Just(Ending::Left),
        1 => Just(Ending::TimedOut),
        1 => Just(refused("rate_limit_exceeded")),
        1 => Just(Ending::Cut),
        1 => Just(Ending::Abandoned),
    ]
}

prop_compose! {
    /// What a run of ten seconds can bring, of three tenants.
    fn any_record()(
        tenant in 0..3_usize,
        streamed in prop::bool::weighted(0.8),
        moments in (0..8_000_000_u64, 0..20_000_u64, 0..20_000_u64, 1..1_000_000_u64),
        gaps in prop::collection::vec(0..20_000_u64, 0..30),
        tokens in 0..100_u64,
        prompt in (1..2000_u64, 0.0..1.0),
        told in (prop::option::of(0..500_000_u64), prop::option::of((1..500_000_u64, 1..500_000_u64))),
        ending in any_ending(),
    ) -> Record {
        let micros = Duration::from_micros;
        let scheduled = micros(moments.0);
        let dispatched = scheduled + micros(moments.1);
        let sent = dispatched + micros(moments.2);
        let got_tokens = matches!(ending, Ending::Complete | Ending::Cut);
        let gaps: Vec<_> = if got_tokens && streamed { gaps.into_iter().map(micros).collect() } else { Vec::new() };
        let first = sent + micros(moments.3);
        let last = first + gaps.iter().sum::<Duration>();
        Record {
            tenant,
            streamed,
            scheduled,
            dispatched,
            sent,
            first_token: got_tokens.then_some(first),
            first_output_token: got_tokens.then_some(first),
            last_token: got_tokens.then_some(last),
            ended: last + micros(100),
            chunks: gaps.len() as u64 + 1,
            gaps,
            queue_wait: told.0.map(micros),
            prefill: told.1.map(|(prefill, _)| micros(prefill)),
            decode: told.1.map(|(_, decode)| micros(decode)),
            usage: (ending == Ending::Complete).then_some(Usage {
                prompt: prompt.0,
                cached: (prompt.0 as f64 * prompt.1) as u64,
                completion: tokens,
            }),
            planned_prompt_tokens: prompt.0,
            tokens_seen: if got_tokens { tokens } else { 0 },
            ending,
            ..complete(0)
        }
    }
}

fn any_records() -> impl Strategy<Value = Vec<Record>> {
    prop::collection::vec(any_record(), 1..60)
}
