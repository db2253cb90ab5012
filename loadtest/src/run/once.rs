//! A workload sent once: its requests, their records, and what they add up to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Bench;
use super::watch::{Moment, Watch};
use super::watchdog::Watchdog;
use crate::books::ClientBook;
use crate::clock::Clock;
use crate::drive::{self, Drive, Live};
use crate::measure::{Measured, Measures};
use crate::record::Record;
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
    /// Why it ended before its time, if it did.
    pub(super) broken_off: Option<String>,
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

impl Collector<'_> {
    fn moment<'a>(&mut self, workload: &Workload, elapsed: Duration, live: &'a Live) -> Moment<'a> {
        Moment { elapsed, duration: workload.duration, live, measured: self.measures.snapshot(elapsed) }
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
        let keys = workload.tenants.keys().map(|name| self.keys.get(name).cloned().flatten()).collect();
        let (sender, mut records) = mpsc::channel(RECORDS);
        let live = Arc::new(Live::default());
        // Its own token: what ends this run must not end those that follow.
        let stop = stop.child_token();
        let clock = Clock::begin();
        let mut driving = JoinSet::new();
        driving.spawn(drive::drive(Drive {
            workload: workload.clone(),
            loads,
            keys,
            client: self.server.client.clone(),
            clock,
            records: sender,
            live: live.clone(),
            stop: stop.clone(),
        }));
        let mut collector = Collector {
            names: workload.tenants.keys().map(String::as_str).collect(),
            measures: Measures::new(workload, self.slots(workload)),
            clients: ClientBook::new(workload.tenants.len()),
            watchdog: Watchdog::new(workload.tenants.len()),
            watch,
            broken_off: None,
        };
        let mut looks = tokio::time::interval(LOOK);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                count = records.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    for record in batch.drain(..) {
                        collector.add(&record, &stop);
                    }
                }
                _ = looks.tick() => {
                    let moment = collector.moment(workload, clock.now(), &live);
                    collector.watch.look(moment);
                }
            }
        }
        let moment = collector.moment(workload, clock.now(), &live);
        collector.watch.end(moment);
        let Some(summary) = driving.join_next().await else { anyhow::bail!("the driver is gone") };
        let summary = summary??;
        if summary.stopped && collector.broken_off.is_none() {
            collector.broken_off = Some("it was stopped".to_owned());
        }
        if summary.lost > 0 {
            let why = format!("{} requests have no record: this is a fault of the harness", summary.lost);
            collector.broken_off.get_or_insert(why);
        }
        Ok(Once {
            measured: collector.measures.finish(summary.scheduled_until),
            clients: collector.clients,
            most_in_flight: live.most_in_flight.load(Relaxed),
            broken_off: collector.broken_off,
        })
    }
}

/// API keys by tenant; none where nobody needs one.
pub(super) type Keys = BTreeMap<String, Option<String>>;
