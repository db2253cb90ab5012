//! Records folded into what the report says. Takes each `Record` once, in any order; keeps sums, histograms and buckets
//! of time, and no record. So memory does not grow with the number of requests: it is below 40 MiB and 4 MiB for each
//! tenant, and half of that where latencies stay below a minute.
//!
//! - `formula`: what each measure is; the one place that defines them
//! - `histogram`: distributions that lose no value
//! - `summary`: a tenant's endings, tokens, good requests and measures
//! - `series`, `timeline`, `blocks`: the same over time
//! - `service`, `fairness`: who had how much of the slots
//! - `live`: how it goes, while it goes

pub mod blocks;
pub mod fairness;
pub mod formula;
pub mod histogram;
pub mod live;
mod series;
mod service;
pub mod summary;
#[cfg(test)]
mod tests;
pub mod timeline;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::record::Record;
use crate::report::{self, Distribution, Formula};
use crate::workload::{RequestSlo, Workload};
use blocks::Blocks;
use fairness::Fairness;
use live::{Live, Snapshot};
use summary::{Labels, Summary, is_good};
use timeline::Timeline;

/// All that is measured in a run.
pub struct Measures {
    warm_up: Duration,
    tenants: Vec<Tenant>,
    timeline: Timeline,
    blocks: Blocks,
    fairness: Fairness,
    live: Live,
    lies: Labels,
    /// When the last measured request was over.
    last_ended: Duration,
}

struct Tenant {
    name: String,
    slo: RequestSlo,
    summary: Summary,
}

/// What was measured, as parts of a `Report`.
pub struct Measured {
    /// Seconds over which rates are taken.
    pub measured_seconds: f64,
    /// All tenants together.
    pub total: report::Summary,
    /// Each tenant, by name.
    pub tenants: BTreeMap<String, report::Summary>,
    /// What the measures mean, by name.
    pub formulas: BTreeMap<String, Formula>,
    /// How it went over time.
    pub timeline: report::Timeline,
    /// The same measures by block of time.
    pub blocks: Vec<report::Block>,
    /// How the tenants shared the slots, if there are several. Its `victim` is found by another run.
    pub fairness: Option<report::Fairness>,
    /// How late the harness was.
    pub dispatch_lag: Distribution,
    /// What was wrong with the server's own numbers, and how often: if there is anything, the run is no measurement.
    pub lies: BTreeMap<String, u64>,
}

impl Measures {
    /// Of a run of the workload at a server with so many slots in all.
    pub fn new(workload: &Workload, slots: u32) -> Self {
        let tenant = |(name, tenant): (&String, &crate::workload::Tenant)| Tenant {
            name: name.clone(),
            slo: tenant.slo.clone().unwrap_or_else(|| workload.slo.request.clone()),
            summary: Summary::default(),
        };
        Self {
            warm_up: workload.warm_up,
            tenants: workload.tenants.iter().map(tenant).collect(),
            timeline: Timeline::default(),
            blocks: Blocks::new(workload.warm_up),
            fairness: Fairness::new(workload, slots),
            live: Live::default(),
            lies: Labels::default(),
            last_ended: Duration::ZERO,
        }
    }

    /// Adds a request that is over, and says whether it was good. What was scheduled before the end of the warm-up is
    /// seen in the timeline, in the tenants' service and in the live progress, and measured nowhere else.
    pub fn add(&mut self, record: &Record) -> bool {
        // A record of a tenant that the workload does not have belongs to another run.
        let Some(tenant) = self.tenants.get_mut(record.tenant) else { return false };
        self.live.add(record);
        self.timeline.add(record);
        self.fairness.add(record);
        if let Some(lie) = &record.lie {
            self.lies.count(lie.clone(), 1);
        }
        let good = is_good(record, &tenant.slo);
        if record.scheduled < self.warm_up {
            return good;
        }
        tenant.summary.add(record, good);
        self.blocks.add(record, good);
        self.last_ended = self.last_ended.max(record.ended);
        good
    }

    /// How it goes now. Cheap: two percentiles and the list of failures.
    pub fn snapshot(&self) -> Snapshot {
        self.live.snapshot()
    }

    /// What was measured. `scheduled_until` is when the last request was due or could have been: the end of the
    /// workload's duration, or the moment at which all of its requests had been scheduled.
    pub fn finish(&self, scheduled_until: Duration) -> Measured {
        let seconds = |until: Duration| until.saturating_sub(self.warm_up).as_secs_f64();
        let (scheduling, measured) = (seconds(scheduled_until), seconds(scheduled_until.max(self.last_ended)));
        let mut total = Summary::default();
        let mut tenants = BTreeMap::new();
        for tenant in &self.tenants {
            total.merge(&tenant.summary);
            tenants.insert(tenant.name.clone(), tenant.summary.report(scheduling, measured));
        }
        let total = total.report(scheduling, measured);
        Measured {
            measured_seconds: measured,
            dispatch_lag: total.measures.get("dispatch_lag").cloned().unwrap_or_default(),
            total,
            tenants,
            formulas: self.formulas(),
            timeline: self.timeline.report(),
            blocks: self.blocks.report(),
            fairness: self.fairness.report(),
            lies: self.lies.0.clone(),
        }
    }

    /// The memory that grows with what is added.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let tenants: usize = self.tenants.iter().map(|tenant| tenant.summary.bytes()).sum();
        tenants + self.timeline.bytes() + self.blocks.bytes() + self.fairness.bytes()
    }

    fn formulas(&self) -> BTreeMap<String, Formula> {
        let mut formulas = formula::formulas();
        let cost = self.fairness.cost_formula();
        formulas.insert("service".to_owned(), Formula { title: "Service, in cost units".to_owned(), formula: cost });
        formulas
    }
}
