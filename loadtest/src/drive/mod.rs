//! Sends the requests of a run and makes a record of each.
//!
//! Takes what each tenant sends (`Load`) and when; gives records over a channel, and a `Summary` when all is over.
//! Sessions begin at moments that were fixed before the run (open loop) or when a user is ready (closed loop). A moment
//! never depends on how long something took before, so a server that stalls does not slow its own load down; what the
//! harness itself is late shows as the time from `scheduled` to `dispatched`.

mod closed;
mod exchange;
mod live;
mod open;
mod schedule;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use http::{HeaderValue, Method};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::body::Form;
use crate::client::{Client, Message};
use crate::clock::Clock;
use crate::plan::{PlanError, Session, TenantPlan, Vocabulary};
use crate::record::Record;
use crate::workload::{Arrival, Surface, Tenant, Workload};
pub use live::Live;
use schedule::Schedule;
use session::Due;

/// Gives the session with a number.
pub type SessionOf = Arc<dyn Fn(u64) -> Session + Send + Sync>;

/// What a tenant sends, and when.
pub struct Load {
    /// When its sessions begin.
    pub starts: Starts,
    /// Its sessions.
    pub session: SessionOf,
}

/// When sessions begin.
pub enum Starts {
    /// At these moments, in order; the sessions have the numbers 0, 1, 2 and so on.
    At(Box<dyn Iterator<Item = Duration> + Send>),
    /// Whenever one of `users` users is ready. User `u` of `n` has the sessions `u`, `u + n`, `u + 2n` and so on.
    Users {
        /// How many.
        users: u32,
        /// The pause after the session with a number.
        think_time: Arc<dyn Fn(u64) -> Duration + Send + Sync>,
    },
}

/// The loads of a workload, in the order of its tenants' names.
///
/// # Errors
/// When a file that a tenant's plan needs cannot be used.
pub fn loads(workload: &Workload, vocabulary: &Vocabulary) -> Result<Vec<Load>, PlanError> {
    let load = |(name, tenant): (&String, &Tenant)| {
        let plan = TenantPlan::new(workload, name, vocabulary)?;
        let starts = match &tenant.arrival {
            Arrival::Closed { users, .. } => {
                let plan = plan.clone();
                Starts::Users { users: *users, think_time: Arc::new(move |number| plan.think_time(number)) }
            }
            _ => Starts::At(Box::new(plan.arrivals())),
        };
        Ok(Load { starts, session: Arc::new(move |number| plan.session(number)) })
    };
    workload.tenants.iter().map(load).collect()
}

/// A run.
pub struct Drive {
    /// What is to be sent.
    pub workload: Workload,
    /// What each tenant sends, in the order of their names.
    pub loads: Vec<Load>,
    /// The API key of each, in the same order; `None` sends none.
    pub keys: Vec<Option<String>>,
    /// Who sends.
    pub client: Client,
    /// The beginning of the run.
    pub clock: Clock,
    /// Takes the records. What is not taken from it holds up the run: whoever reads it must be quick.
    pub records: mpsc::Sender<Record>,
    /// Counts what happens.
    pub live: Arc<Live>,
    /// Ends the run at once. Requests under way are abandoned, and have records.
    pub stop: CancellationToken,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// When the last request was scheduled or could have been: rates are taken over the time until then.
    pub scheduled_until: Duration,
    /// When the last request was over.
    pub ended: Duration,
    /// Whether it was stopped from outside.
    pub stopped: bool,
    /// Requests that were due and have no record: their task has panicked. There should be none.
    pub lost: u64,
}

/// All that the tasks of a run share.
struct Run {
    lanes: Vec<Lane>,
    client: Client,
    clock: Clock,
    records: mpsc::Sender<Record>,
    live: Arc<Live>,
    /// How many records were made.
    kept: AtomicU64,
    schedule: Schedule,
    /// Places of `max_in_flight`.
    places: Arc<Semaphore>,
    /// Owns all tasks.
    tasks: TaskTracker,
}

/// What is the same for all requests of a tenant.
struct Lane {
    session: SessionOf,
    surface: Surface,
    form: Form,
    /// Its request without a body.
    message: Message,
    timeout: Duration,
    retries: u32,
    /// Of the pauses before further tries.
    seed: u64,
    /// Its connections, if they are limited.
    connections: Option<Semaphore>,
}

/// What became of a request that was to be sent.
enum Turned {
    /// It is due now.
    Now(OwnedSemaphorePermit),
    /// It was due, and the run was over before there was a place for it.
    Abandoned,
    /// The schedule ends before.
    Over,
}

/// Sends a workload and waits until all of it is over.
///
/// No request is scheduled any more once the workload's duration or number of requests is reached. Those under way then
/// have the time `drain`; what is left after that is abandoned, and so is all when the run is stopped.
///
/// # Errors
/// When a tenant's requests cannot be made: its further fields or its key cannot be sent.
pub async fn drive(drive: Drive) -> anyhow::Result<Summary> {
    let Drive { workload, loads, keys, client, clock, records, live, stop } = drive;
    let mut lanes = Vec::new();
    let mut starts = Vec::new();
    let keys = keys.into_iter().chain(std::iter::repeat(None));
    for ((load, key), index) in loads.into_iter().zip(keys).zip(0..) {
        lanes.push(lane(&workload, &client, index, load.session, key.as_deref())?);
        starts.push(load.starts);
    }
    let run = Arc::new(Run {
        lanes,
        client,
        clock,
        records,
        live,
        kept: AtomicU64::new(0),
        schedule: Schedule::new(clock, &workload),
        places: Arc::new(Semaphore::new(workload.max_in_flight.clamp(1, Semaphore::MAX_PERMITS))),
        tasks: TaskTracker::new(),
    });
    begin(&run, starts);
    run.tasks.close();
    let over_early = tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = run.schedule.over() => false,
        () = run.tasks.wait() => true,
    };
    // Users who think, and arrivals that are drawn, could have sent until the end; a trace that is over could not.
    let is_replay = workload.tenants.values().all(|tenant| matches!(tenant.arrival, Arrival::Trace { .. }));
    let could_go_on = over_early && !is_replay;
    let scheduled_until = if could_go_on { workload.duration } else { clock.now().min(workload.duration) };
    tokio::select! {
        () = run.tasks.wait() => {}
        () = tokio::time::sleep(workload.drain) => {}
        () = stop.cancelled() => {}
    }
    run.schedule.cut.cancel();
    run.tasks.wait().await;
    let lost = run.live.scheduled.load(Relaxed).saturating_sub(run.kept.load(Relaxed));
    Ok(Summary { scheduled_until, ended: clock.now(), stopped: stop.is_cancelled(), lost })
}

fn lane(
    workload: &Workload,
    client: &Client,
    index: usize,
    load: SessionOf,
    key: Option<&str>,
) -> anyhow::Result<Lane> {
    let (name, tenant) = workload.tenants.iter().nth(index).context("there are more loads than tenants")?;
    let form = Form::new(tenant, tenant.model.as_deref().unwrap_or(&workload.model));
    let form = form.with_context(|| format!("tenants.{name}"))?;
    let mut message = client.message(Method::POST, form.path(), key).with_context(|| format!("tenants.{name}"))?;
    // What openai-python tells: the gateway lets requests wait accordingly.
    message.headers.insert("x-stainless-read-timeout", tenant.timeout.as_secs_f64().to_string().parse()?);
    if tenant.surface == Surface::Messages {
        message.headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    }
    Ok(Lane {
        session: load,
        surface: tenant.surface,
        form,
        message,
        timeout: tenant.timeout,
        retries: tenant.retries,
        seed: workload.seed.wrapping_add(index as u64) << 32,
        connections: (tenant.connections > 0).then(|| Semaphore::new(tenant.connections.min(Semaphore::MAX_PERMITS))),
    })
}

/// Starts the tasks that begin sessions: one for all open loops together, and one for each user of the closed ones.
fn begin(run: &Arc<Run>, starts: Vec<Starts>) {
    let mut open = Vec::new();
    for (starts, tenant) in starts.into_iter().zip(0..) {
        match starts {
            Starts::At(moments) => open.push((tenant, moments)),
            Starts::Users { users, think_time } => {
                for user in 0..users {
                    let user = closed::User { tenant, user, users, think_time: think_time.clone() };
                    run.tasks.spawn(closed::user(run.clone(), user));
                }
            }
        }
    }
    run.tasks.spawn(open::dispatch(run.clone(), open));
}

impl Run {
    /// Waits until a request is due, takes it off the schedule and waits for its place in flight.
    async fn turn_to(&self, due: Due) -> Turned {
        if !self.schedule.reach(due.scheduled).await {
            return Turned::Over;
        }
        self.live.scheduled.fetch_add(1, Relaxed);
        let place = tokio::select! {
            biased;
            () = self.schedule.cut.cancelled() => None,
            place = self.places.clone().acquire_owned() => place.ok(),
        };
        let Some(place) = place else {
            self.live.failed.fetch_add(1, Relaxed);
            self.keep(due.record(false, self.clock.now())).await;
            return Turned::Abandoned;
        };
        Turned::Now(place)
    }

    async fn keep(&self, record: Record) {
        self.kept.fetch_add(1, Relaxed);
        // Nobody takes records any more: then nobody wants them.
        self.records.send(record).await.ok();
    }
}
