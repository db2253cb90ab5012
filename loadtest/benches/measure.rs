//! What it costs to fold a request into the measures: the harness must not be slowed down by its own statistics.
//! Run by `cargo bench -p loadtest --bench measure`; docs/measures.md has the figures.

#![expect(clippy::disallowed_types, reason = "measures real time, and needs no runtime")]

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use loadtest::measure::Measures;
use loadtest::record::{Ending, Record, Usage};
use loadtest::workload::{Tenant, Workload};

const RECORDS: u32 = 200_000;

fn main() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for gaps in [0, 10, 100, 1000] {
        let records = RECORDS / (1 + gaps / 100);
        let mut record = record(gaps);
        let mut measures = Measures::new(&workload(), 4);
        let began = Instant::now();
        for number in 0..records {
            at(&mut record, number, records);
            measures.add(&record);
        }
        let each = began.elapsed() / records;
        let began = Instant::now();
        let measured = measures.finish(workload().duration);
        let finishing = began.elapsed();
        writeln!(out, "{gaps:>5} gaps: {each:>8.1?} a record; the report: {finishing:.1?}").context("stdout")?;
        anyhow::ensure!(measured.total.scheduled == u64::from(records), "a record was lost");
    }
    Ok(())
}

fn workload() -> Workload {
    let tenants = ["a", "b", "c", "d"].map(|name| (name.to_owned(), Tenant::default()));
    Workload { duration: Duration::from_secs(600), tenants: tenants.into(), ..Workload::default() }
}

/// The same request as one of another tenant at another moment, with other times: what is near in a histogram is cheap.
fn at(record: &mut Record, number: u32, of: u32) {
    let spread = Duration::from_micros(u64::from(number.wrapping_mul(2_654_435_761) >> 12));
    record.tenant = number as usize % 4;
    record.scheduled = Duration::from_secs(580) * number / of;
    record.dispatched = record.scheduled + spread / 1000;
    record.sent = record.dispatched;
    record.head = Some(record.sent + spread);
    record.first_token = Some(record.sent + spread);
    record.first_output_token = record.first_token;
    record.last_token = Some(record.sent + spread + record.gaps.iter().sum::<Duration>());
    record.ended = record.sent + spread + record.gaps.iter().sum::<Duration>();
}

/// Streamed, with so many gaps of 10 to 40 ms.
fn record(gaps: u32) -> Record {
    let gap = |number: u32| Duration::from_micros(u64::from(10_000 + number.wrapping_mul(2_654_435_761) % 30_000));
    let tokens = u64::from(gaps) + 1;
    Record {
        streamed: true,
        tries: 1,
        gaps: (0..gaps).map(gap).collect(),
        chunks: tokens,
        queue_wait: Some(Duration::from_millis(20)),
        prefill: Some(Duration::from_millis(100)),
        decode: Some(Duration::from_millis(900)),
        planned_prompt_tokens: 500,
        planned_output_tokens: tokens,
        usage: Some(Usage { prompt: 500, cached: 100, completion: tokens }),
        tokens_seen: tokens,
        ending: Ending::Complete,
        ..Record::not_sent(Duration::ZERO)
    }
}
