//! Puts the rooms together, runs them until the gateway is told to stop, and closes them in order.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::audit::{Auditor, Parts};
use crate::auth::{self, Authenticator, Caller, Tokens};
use crate::clock::Clock;
use crate::config::Config;
use crate::count::Counter;
use crate::export::Exporter;
use crate::ledger::retention::{Keep, Retention};
use crate::ledger::usage::Reader;
use crate::ledger::{Ledger, Settings};
use crate::limit;
use crate::metrics::Metrics;
use crate::policy::Policies;
use crate::queue::{self, Queue};
use crate::retries::Retries;
use crate::roster::Roster;
use crate::server::signals::Signals;
use crate::server::{self, Drain, Limits, Options, Phase, Tls};
use crate::surface::fields::Bounds;
use crate::traces::Traces;
use crate::upstream::Upstream;
use crate::usage::Reads;
use crate::volume::Volume;
use crate::{admin, panics, routes};

/// Requests that may be live at once: those that wait, those that run, and those whose row is being written. Beyond
/// it they are refused. Each costs the ledger 50 bytes.
const MAX_LIVE: usize = 16_384;

/// Questions about usage that are answered at once, of holders of keys and of operators each.
const READERS: usize = 2;

/// Says whether a configuration whose keys and types are right can also be run with.
///
/// # Errors
/// What cannot.
pub fn check(config: &Config) -> anyhow::Result<()> {
    Bounds::new(&config.requests)?;
    Policies::new(config)?;
    Upstream::check(&config.upstream)?;
    Exporter::check(&config.export)?;
    Traces::check(&config.traces).context("`traces.ca_file`")?;
    auth::declared(config)?;
    Tokens::check(&config.issuers)?;
    tls(config)?;
    Ok(())
}

/// How the configuration wants the ledger to be kept.
pub fn ledger_settings(config: &Config) -> Settings {
    let ledger = &config.ledger;
    Settings {
        progress_interval: ledger.progress_interval,
        max_live: MAX_LIVE,
        on_failure: ledger.on_failure,
        export: config.export.is_on(),
    }
}

/// Runs the gateway until it has drained after SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting.
pub async fn serve(config: Config, clock: Clock) -> anyhow::Result<()> {
    let directory = config.server.data_dir.clone();
    let limits = Limits::from(&config.server);
    let grace = config.server.drain_grace;
    let tls = tls(&config)?;
    let (ledger, writer) = Ledger::open(&directory, clock.clone(), ledger_settings(&config))?;
    if writer.interrupted() > 0 {
        tracing::warn!(entries = writer.interrupted(), "closed what an earlier process had left open");
    }
    let (public, admin) = (bind(config.server.listen).await?, bind(config.server.admin_listen).await?);

    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let policies = Policies::new(&config)?;
    let authenticator = Arc::new(Authenticator::open(&directory)?.declaring(&config)?);
    tasks.spawn(auth::tend(authenticator.clone(), stop.clone()));
    let metrics = Arc::new(Metrics::new()?);
    panics::watch(metrics.panics_total.clone());
    let tokens = Tokens::open(&config.issuers, &directory, metrics.clone())?;
    let used = limits_of(&directory, &clock, &policies, (&authenticator, &tokens))?;
    tokens.start(&clock, &tasks, &stop);
    let queue = Queue::new(order(&config, &policies), metrics.clone());
    let upstream = Upstream::start(&config.upstream, queue.clone(), &tasks, &stop)?;
    let (traces, exporter) = Traces::open(&config.traces, &metrics).context("`traces.ca_file`")?;
    if let Some(exporter) = exporter {
        tasks.spawn(exporter.run(stop.clone()));
    }
    let drain = Drain::new();
    let app = Arc::new(App {
        authenticator,
        tokens,
        bounds: Bounds::new(&config.requests)?,
        limits: used,
        counter: Counter::new(metrics.clone()),
        roster: Roster::default(),
        retries: Retries::default(),
        policies,
        own_usage: Reads::new(&config, READERS),
        all_usage: Reads::new(&config, READERS),
        traces,
        metrics,
        counts: Arc::default(),
        tls,
        volume: Volume::of(&directory),
        started: clock.now(),
        drain: drain.clone(),
        config,
        clock,
        queue,
        upstream,
        ledger,
    });
    tend_ledger(&app, &tasks, &stop)?;
    let signals = Signals::listen().context("signals cannot be listened to")?;
    announce(&app.config, &public, &admin)?;
    tasks.spawn(stop.clone().run_until_cancelled_owned(signals.drain(drain.clone(), grace)));
    answer(&app, (public, admin), limits).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    // Every account is settled by now; the ledger is closed last.
    drop(app);
    writer.close().await?;
    tracing::info!("stopped");
    Ok(())
}

/// Begins what works on the ledger beside the requests: it is kept small, told to others, and compared.
fn tend_ledger(app: &App, tasks: &TaskTracker, stop: &CancellationToken) -> anyhow::Result<()> {
    let App { config, clock, ledger, metrics, queue, upstream, .. } = app;
    let (directory, keep) = (&config.server.data_dir, config.ledger.keep_entries);
    let retention =
        Retention::new(ledger.clone(), clock.clone(), Keep { entries: keep, days: config.ledger.keep_days });
    tasks.spawn(stop.clone().run_until_cancelled_owned(retention.run()));
    if let Some(exporter) = Exporter::open(&config.export, directory, ledger, metrics, clock)? {
        tasks.spawn(exporter.run(stop.clone()));
    }
    let parts = Parts { upstream, queue, ledger, metrics, clock };
    let auditor = Auditor::open(&parts, directory, config.audit.interval, keep)?;
    tasks.spawn(stop.clone().run_until_cancelled_owned(auditor.run()));
    Ok(())
}

/// Answers on both listeners, until the drain is over.
async fn answer(app: &Arc<App>, (public, admin): (TcpListener, TcpListener), limits: Limits) {
    // Health and metrics are answered until the last stream is over.
    let admin_drain = Drain::new();
    let public_server = async {
        let options = Options { limits, tls: app.tls.clone(), counts: app.counts.clone() };
        server::serve(public, routes::routes(app.clone()), options, app.drain.clone()).await;
        admin_drain.advance(Phase::Over);
    };
    let options = Options { limits, tls: None, counts: Arc::default() };
    let admin_server = server::serve(admin, admin::routes(app.clone()), options, admin_drain.clone());
    tokio::join!(public_server, admin_server);
}

/// The order in which requests get slots.
fn order(config: &Config, policies: &Policies) -> queue::Settings {
    queue::Settings {
        order: config.queue.order,
        classes: policies.classes().to_vec(),
        locality_slack: config.queue.locality_slack,
        locality_passes: config.queue.locality_passes,
    }
}

/// The limits, with what the ledger says was used before.
fn limits_of(
    directory: &Path,
    clock: &Clock,
    policies: &Policies,
    (authenticator, tokens): (&Authenticator, &Tokens),
) -> anyhow::Result<limit::Limits> {
    let limits = limit::Limits::new(clock.clone());
    let who = |tenant: &str, key_id: &str| {
        // A key that is gone leaves what its tenant used. Tokens are not known beforehand, but may have one policy all.
        let policy = tokens.fixed_policy(key_id).map(Arc::from);
        let unknown = || Arc::new(Caller { policy: policy.clone(), ..Caller::new(tenant, key_id) });
        let caller = authenticator.caller(key_id).unwrap_or_else(unknown);
        let terms = policies.of(&caller).or_else(|_| policies.of(&unknown())).ok()?;
        Some((caller, terms))
    };
    limits.restore(&Reader::open(directory)?, who).context(
        "what was used before cannot be read\n\
         hint: `llama-gateway usage check` says whether the ledger is damaged, docs/accounting.md how to go on",
    )?;
    Ok(limits)
}

fn tls(config: &Config) -> anyhow::Result<Option<Tls>> {
    let server = &config.server;
    if server.tls_certificate.as_os_str().is_empty() {
        return Ok(None);
    }
    Ok(Some(Tls::load(&server.tls_certificate, &server.tls_key)?))
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{address} cannot be listened on"))
}

/// What a running gateway tells in its data directory, for commands on the same machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Announced {
    /// The address that was bound: port 0 in the configuration means any free one.
    pub listen: SocketAddr,
    /// The same of the admin listener.
    pub admin_listen: SocketAddr,
    /// The file of the admin key; empty: the admin API is off. None is known of a gateway of an older version.
    #[serde(default)]
    pub admin_key_file: PathBuf,
    /// The process.
    pub pid: u32,
}

impl Announced {
    const FILE: &str = "serve.json";

    /// What the gateway that runs on the directory has told, or the last one that did; none: there was no gateway.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(directory: &Path) -> anyhow::Result<Option<Self>> {
        let path = directory.join(Self::FILE);
        match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read
                .and_then(|text| Ok(Some(serde_json::from_slice(&text)?)))
                .with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let path = directory.join(Self::FILE);
        let unfinished = directory.join("serve.json.new");
        let text = serde_json::to_string(self)?;
        std::fs::write(&unfinished, format!("{text}\n"))
            .and_then(|()| std::fs::rename(&unfinished, &path))
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}

fn announce(config: &Config, public: &TcpListener, admin: &TcpListener) -> anyhow::Result<()> {
    let (listen, admin_listen) = (public.local_addr()?, admin.local_addr()?);
    let key_file = &config.admin.key_file;
    // Others have another working directory.
    let admin_key_file = std::path::absolute(key_file).unwrap_or_else(|_| key_file.clone());
    Announced { listen, admin_listen, admin_key_file, pid: std::process::id() }.write(&config.server.data_dir)?;
    tracing::info!(%listen, %admin_listen, "listening");
    Ok(())
}
