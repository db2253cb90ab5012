//! A workload sent once: its requests, their records, and what they add up to.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Bench;
use super::pulse::pulse;
use super::watch::{Moment, Watch};
use super::watchdog::Watchdog;
use crate::books::ClientBook;
use crate::clock::Clock;
use crate::drive::{self, Drive, Live};
use crate::measure::{Measured, Measures};
use crate::record::Record;
use crate::report::Distribution;
use crate::workload::Workload;

/// Records that may wait to be folded in.
const RECORDS: usize = 4096;
/// Records that are folded in at once.
const BATCH: usize = 256;
/// Between two looks at the progress.
const LOOK: Duration = Duration::from_millis(500);

/// What a workload gave.
pub(super) struct Once {
    pub(super) measured: Measured,
    pub(super) clients: ClientBook,
    pub(super) most_in_flight: u64,
    /// How late the harness was, even for what needs nothing.
    pub(super) pulse_lag: Distribution,
    /// Why it ended before its time, if it did.
    pub(super) broken_off: Option<String>,
}

/// The run whose records are collected.
#[derive(Clone, Copy)]
struct Running<'a> {
    clock: Clock,
    duration: Duration,
    live: &'a Live,
    stop: &'a CancellationToken,
}

/// What collects the records.
struct Collector<'a> {
    names: Vec<&'a str>,
    measures: Measures,
    clients: ClientBook,
    watchdog: Watchdog,
    watch: &'a mut Watch,
    broken_off: Option<String>,
}

impl<'a> Collector<'a> {
    fn new(bench: &Bench, workload: &'a Workload, watch: &'a mut Watch) -> Self {
        let names: Vec<_> = workload.tenants.keys().map(String::as_str).collect();
        Self {
            measures: Measures::new(workload, bench.slots(workload)),
            clients: ClientBook::new(names.len()),
            watchdog: Watchdog::new(names.len()),
            names,
            watch,
            broken_off: None,
        }
    }

    /// Takes records until the last one has come.
    async fn collect(&mut self, mut records: mpsc::Receiver<Record>, run: Running<'_>) {
        let mut looks = tokio::time::interval(LOOK);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                count = records.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    for record in batch.drain(..) {
                        self.add(&record, run.stop);
                    }
                }
                _ = looks.tick() => {
                    let moment = self.moment(run);
                    self.watch.look(moment);
                }
            }
        }
        let moment = self.moment(run);
        self.watch.end(moment);
    }

    fn moment<'b>(&self, run: Running<'b>) -> Moment<'b> {
        let Running { clock, duration, live, .. } = run;
        Moment { elapsed: clock.now(), duration, live, measured: self.measures.snapshot() }
    }

    fn add(&mut self, record: &Record, stop: &CancellationToken) {
        self.clients.add(record);
        let good = self.measures.add(record);
        let Some(name) = self.names.get(record.tenant) else { return };
        self.watch.record(name, record, good);
        if self.broken_off.is_none()
            && let Some(why) = self.watchdog.see(record, name)
        {
            self.broken_off = Some(why);
            stop.cancel();
        }
    }
}

impl Bench {
    /// Sends a workload and waits until all of it is over, or `stop` is asked for.
    ///
    /// # Errors
    /// The workload cannot be planned. Whatever happens later is a measurement.
    pub(super) async fn once(
        &self,
        workload: &Workload,
        watch: &mut Watch,
        stop: &CancellationToken,
    ) -> anyhow::Result<Once> {
        let loads = drive::loads(workload, &self.vocabulary)?;
        let key = |name: &String| self.askers.iter().find(|asker| asker.tenant == *name)?.key.clone();
        let (sender, records) = mpsc::channel(RECORDS);
        let live = Arc::new(Live::default());
        // Its own token: what ends this run must not end those that follow.
        let stop = stop.child_token();
        let clock = Clock::begin();
        let mut driving = JoinSet::new();
        driving.spawn(drive::drive(Drive {
            workload: workload.clone(),
            loads,
            keys: workload.tenants.keys().map(key).collect(),
            client: self.server.client.clone(),
            clock,
            records: sender,
            live: live.clone(),
            stop: stop.clone(),
        }));
        let ended = CancellationToken::new();
        let mut beating = JoinSet::new();
        beating.spawn(pulse(clock, ended.clone()));
        let mut collector = Collector::new(self, workload, watch);
        collector.collect(records, Running { clock, duration: workload.duration, live: &live, stop: &stop }).await;
        let summary = driving.join_next().await.context("the driver is gone")???;
        ended.cancel();
        let lateness = beating.join_next().await.context("nobody takes the pulse")??;
        let stopped = summary.stopped.then(|| "it was stopped".to_owned());
        let lost = (summary.lost > 0)
            .then(|| format!("{} requests have no record: this is a fault of the harness", summary.lost));
        Ok(Once {
            measured: collector.measures.finish(summary.scheduled_until),
            clients: collector.clients,
            most_in_flight: live.most_in_flight.load(Relaxed),
            pulse_lag: lateness.distribution(),
            broken_off: collector.broken_off.or(stopped).or(lost),
        })
    }
}
