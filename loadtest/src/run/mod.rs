//! A measured run: a workload and a target in, a `Report` out.
//!
//! `Bench::prepare` looks at the target once; `Bench::run` may be called again and again. In the order of a run: the
//! victim alone, if there is one; the books; the load (`once.rs`); the books again; how soon a client who leaves frees
//! its slot; the verdict.

mod once;
mod pulse;
#[cfg(test)]
mod tests;
mod watch;
mod watchdog;

use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::books::Books;
use crate::cancel::{Leaving, Probe};
use crate::client;
use crate::clock::wall_clock;
use crate::measure::fairness;
use crate::plan::Vocabulary;
use crate::process;
use crate::report::{self, Audit, Distribution, Health, Report, Target, Verdict};
use crate::target::{self, Asker, Server};
use crate::verdict::{self, Doubts};
use crate::workload::{Tenant, Workload};
use once::Once;
pub use watch::Watch;

/// How long a server may take to load its model before a run.
const PATIENCE: Duration = Duration::from_secs(600);

/// Whom to ask, and what beside the load is looked at.
#[derive(Clone, Default)]
pub struct Settings {
    /// Base URL of the requests.
    pub target: String,
    /// Base URLs of the llama-servers behind it.
    pub upstreams: Vec<String>,
    /// The key that those want, if any.
    pub upstream_key: Option<String>,
    /// How connections are made.
    pub client: client::Options,
    /// Where the tenants' keys come from.
    pub keys: KeyFrom,
    /// Trials of how soon a leaving client frees its slot; needs `upstreams`.
    pub cancel_trials: u32,
    /// Whether the books are read.
    pub audit: bool,
}

/// Where keys come from.
#[derive(Clone, Default)]
pub enum KeyFrom {
    /// From where the workload says, each tenant's own.
    #[default]
    Workload,
    /// This one is everybody's.
    Given(String),
    /// The target wants none.
    Nobody,
}

/// A target that can be measured.
pub struct Bench {
    server: Server,
    upstreams: Vec<Server>,
    /// The tenants, in the order of their names.
    askers: Vec<Asker>,
    vocabulary: Vocabulary,
    target: Target,
    settings: Settings,
    /// What makes the numbers less exact, for people.
    pub warnings: Vec<String>,
}

impl Bench {
    /// Looks at the target: whether it can be reached, whether the keys are good, how many slots there are, and which
    /// words are one token each.
    ///
    /// # Errors
    /// A key is missing or refused; nobody answers.
    pub async fn prepare(workload: &Workload, settings: Settings) -> anyhow::Result<Self> {
        let askers = askers(workload, &settings.keys)?;
        let server = Server::new(&settings.target, None, &settings.client)?;
        let upstream = |url: &String| Server::new(url, settings.upstream_key.clone(), &settings.client);
        let upstreams = settings.upstreams.iter().map(upstream).collect::<Result<Vec<_>, _>>()?;
        let found = target::examine(&server, &upstreams, &askers, PATIENCE).await?;
        let vocabulary = Vocabulary::from_words(found.words).unwrap_or_else(Vocabulary::estimated);
        let (target, warnings) = (found.target, found.warnings);
        Ok(Self { server, upstreams, askers, vocabulary, target, settings, warnings })
    }

    /// Runs a workload once and says what it showed. `stop` ends it early; what was measured until then is reported.
    ///
    /// # Errors
    /// The workload cannot be planned. Whatever happens later is in the report.
    pub async fn run(
        &self,
        workload: &Workload,
        watch: &mut Watch,
        stop: &CancellationToken,
    ) -> anyhow::Result<Report> {
        let started_at = wall_clock();
        let alone = self.victim_alone(workload, watch, stop).await?;
        let books = match self.settings.audit {
            true => Some(Books::open(&self.server, &self.askers, &self.upstreams).await),
            false => None,
        };
        watch.begin(&format!("{}, for {}", workload.name, humantime::format_duration(workload.duration)), true);
        // Where there is no /proc, nothing is known of it.
        let own_cpu = || process::cpu_seconds(&[std::process::id()]).unwrap_or_default();
        let cpu_before = own_cpu();
        let once = self.once(workload, watch, stop).await?;
        let cpu_seconds = own_cpu() - cpu_before;
        let audit = match books {
            Some(books) => Some(books.close(&once.clients).await),
            None => None,
        };
        let cancel = if stop.is_cancelled() { None } else { self.cancel().await };
        Ok(self.report(workload, Parts { started_at, alone, once, audit, cancel, cpu_seconds }))
    }

    /// The first-token times of the victim when nobody else sends, if the workload names one.
    async fn victim_alone(
        &self,
        workload: &Workload,
        watch: &mut Watch,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Distribution>> {
        let Some(name) = &workload.fairness.victim else { return Ok(None) };
        let baseline = Workload {
            duration: workload.fairness.baseline,
            requests: 0,
            warm_up: Duration::ZERO,
            ..workload.only(name)
        };
        watch.begin(&format!("{name} alone, for {}", humantime::format_duration(baseline.duration)), false);
        let once = self.once(&baseline, watch, stop).await.context("the victim's baseline")?;
        Ok(once.measured.total.measures.get("ttft_scheduled").cloned())
    }

    /// How soon a client who leaves frees its slot. A load that has just ended may keep llama-server busy; what cannot
    /// be told is left out.
    async fn cancel(&self) -> Option<Distribution> {
        if self.settings.cancel_trials == 0 || self.upstreams.is_empty() {
            return None;
        }
        let asker = self.askers.first()?;
        let target = self.server.with_key(asker.key.clone());
        let trials = self.settings.cancel_trials;
        let probe = Probe { target: &target, upstreams: &self.upstreams, model: &asker.model, trials };
        let freed = probe.run(Leaving::DuringOutput).await.ok()?;
        Some(freed.times)
    }

    /// Slots of all replicas: as the workload says, else as llama-server does.
    fn slots(&self, workload: &Workload) -> u32 {
        match workload.fairness.slots {
            0 => self.target.slots.unwrap_or(1),
            slots => slots,
        }
    }

    fn report(&self, workload: &Workload, parts: Parts) -> Report {
        let Parts { started_at, alone, once, audit, cancel, cpu_seconds } = parts;
        let Once { measured, most_in_flight, pulse_lag, broken_off, .. } = once;
        let mut fairness = measured.fairness;
        if let (Some(fairness), Some(name), Some(alone)) = (&mut fairness, &workload.fairness.victim, alone) {
            let beside = measured.tenants.get(name).and_then(|tenant| tenant.measures.get("ttft_scheduled"));
            fairness.victim = beside.and_then(|beside| fairness::victim(name, alone, beside.clone()));
        }
        let doubts = Doubts { lies: measured.lies, broken_off };
        let mut report = Report {
            format: report::FORMAT,
            harness: env!("CARGO_PKG_VERSION").to_owned(),
            started_at,
            workload: workload.clone(),
            target: self.target.clone(),
            measured_seconds: measured.measured_seconds,
            total: measured.total,
            tenants: measured.tenants,
            formulas: measured.formulas,
            timeline: measured.timeline,
            blocks: measured.blocks,
            fairness,
            audit,
            cancel,
            harness_health: Health {
                was_bottleneck: verdict::is_too_late(&measured.dispatch_lag, workload)
                    || verdict::is_too_late(&pulse_lag, workload),
                pulse_lag,
                dispatch_lag: measured.dispatch_lag,
                cpu_seconds,
                most_in_flight,
            },
            verdict: Verdict::default(),
        };
        report.verdict = verdict::judge(&report, &doubts);
        report
    }
}

/// What a report is made of.
struct Parts {
    started_at: String,
    alone: Option<Distribution>,
    once: Once,
    audit: Option<Audit>,
    cancel: Option<Distribution>,
    cpu_seconds: f64,
}

/// Who asks for what: the tenants, in the order of their names.
fn askers(workload: &Workload, keys: &KeyFrom) -> anyhow::Result<Vec<Asker>> {
    let environment = |name: &str| std::env::var(name).ok();
    let asker = |(name, tenant): (&String, &Tenant)| {
        let key = match keys {
            KeyFrom::Workload => Some(tenant.key(name, environment)?),
            KeyFrom::Given(key) => Some(key.clone()),
            KeyFrom::Nobody => None,
        };
        let model = tenant.model.as_ref().unwrap_or(&workload.model).clone();
        Ok(Asker { tenant: name.clone(), key, model })
    };
    workload.tenants.iter().map(asker).collect()
}
