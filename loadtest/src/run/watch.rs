//! Who watches a run: a row for each request in a file, and progress on the terminal.

use std::fs::File;
use std::io::{Stderr, Write as _};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;

use crate::drive::Live;
use crate::measure::live;
use crate::record::Record;
use crate::show::progress::{Progress, Snapshot, Style};
use crate::show::table::Table;

/// Watches one run after the other.
pub struct Watch {
    style: Style,
    progress: Option<Progress<Stderr>>,
    rows: Option<Table<File>>,
    /// Whether the requests of this run get rows.
    in_rows: bool,
    /// The first row that could not be written. A full disk does not end a measurement.
    lost: Option<anyhow::Error>,
}

impl Watch {
    /// Shows progress on stderr, unless it should be quiet.
    pub fn new(quiet: bool) -> Self {
        Self { style: Style::of(&std::io::stderr(), quiet), progress: None, rows: None, in_rows: false, lost: None }
    }

    /// Writes a row for each request to a file as well.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn with_rows(self, file: File) -> anyhow::Result<Self> {
        Ok(Self { rows: Some(Table::new(file)?), ..self })
    }

    /// A run begins; whether its requests get rows.
    pub(super) fn begin(&mut self, what: &str, in_rows: bool) {
        if self.style != Style::Quiet {
            writeln!(std::io::stderr(), "{what}").ok();
        }
        self.progress = Some(Progress::new(std::io::stderr(), self.style));
        self.in_rows = in_rows;
    }

    /// A request is over.
    pub(super) fn record(&mut self, tenant: &str, record: &Record, good: bool) {
        let Some(rows) = self.rows.as_mut().filter(|_| self.in_rows && self.lost.is_none()) else { return };
        self.lost = rows.add(record, tenant, good).err().map(Into::into);
    }

    /// How it goes. Progress that cannot be shown is no reason to end a run. Rows are written out now, so that a harness
    /// that is killed leaves them.
    pub(super) fn look(&mut self, moment: Moment<'_>) {
        if let Some(rows) = &mut self.rows
            && let Err(error) = rows.flush()
        {
            self.lost.get_or_insert(error.into());
        }
        if let Some(progress) = &mut self.progress {
            progress.update(&moment.snapshot()).ok();
        }
    }

    /// The run is over.
    pub(super) fn end(&mut self, moment: Moment<'_>) {
        if let Some(progress) = self.progress.take() {
            progress.finish(&moment.snapshot()).ok();
        }
    }

    /// Writes out what is held back.
    ///
    /// # Errors
    /// A row could not be written.
    pub fn finish(self) -> anyhow::Result<()> {
        let flushed = self.rows.map_or(Ok(()), |mut rows| rows.flush());
        match self.lost {
            Some(lost) => Err(lost),
            None => flushed.map_err(Into::into),
        }
        .context("the table of requests is not complete")
    }
}

/// What is known at a moment of a run.
pub(super) struct Moment<'a> {
    pub(super) elapsed: Duration,
    pub(super) duration: Duration,
    pub(super) live: &'a Live,
    pub(super) measured: live::Snapshot,
}

impl Moment<'_> {
    fn snapshot(self) -> Snapshot {
        let Self { elapsed, duration, live, measured } = self;
        Snapshot {
            elapsed,
            duration,
            scheduled: live.scheduled.load(Relaxed),
            in_flight: live.in_flight.load(Relaxed),
            completed: live.completed.load(Relaxed),
            failed: live.failed.load(Relaxed),
            left: live.left.load(Relaxed),
            completion_tokens: live.chunks.load(Relaxed),
            ttft_p50_ms: measured.ttft_scheduled_p50,
            ttft_p95_ms: measured.ttft_scheduled_p95,
            errors: measured.errors.into_iter().collect(),
        }
    }
}
