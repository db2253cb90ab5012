//! The record of every request: one entry each, whatever way it ended.
//!
//! [`Ledger::admit`] gives a [`Charge`], which is one request's account. It is opened before llama-server sees the
//! request, written ahead while tokens flow, and settled exactly once: by [`Charge::close`] or by being dropped.
//! One thread writes `ledger.sqlite`; [`usage::Reader`] reads it beside that thread or without it.

#![expect(clippy::disallowed_types, reason = "the writer is a thread without a runtime: no paused clock reaches it")]

mod charge;
pub mod check;
pub mod correct;
mod daily;
mod entry;
mod job;
mod message;
pub mod query;
pub mod render;
pub mod retention;
mod schema;
pub mod usage;
mod vacuum;
mod writer;

use std::error::Error as _;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::config::OnFailure;
use crate::database::{self, DatabaseError, Identity};
use crate::error::{Reason, Rejection};

pub use charge::{Charge, Closing, Progress};
pub use daily::Sums;
pub use entry::{Count, CountedBy, Dispatched, Ending, Outcome, SlotTime, Subject};

use message::Message;
use writer::{Opened, Writer};

/// Why the ledger cannot be opened or an entry cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Another server has it open.
    #[error("another llama-gateway serves from this data directory: it holds {}\n\
             hint: stop it, or give this one another --data-dir", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file cannot be locked.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The writer thread cannot be started.
    #[error("cannot start the thread that writes the ledger")]
    Thread(#[source] std::io::Error),
    /// As many requests are live or not yet written as may be.
    #[error("the ledger has as many unsettled entries as it may have")]
    Full,
    /// The entry was not committed. An opened one is refused, unless it is configured to go on; a closed one is kept and
    /// tried again.
    #[error("the ledger cannot be written")]
    Write(#[source] Arc<rusqlite::Error>),
    /// A charge can be opened once.
    #[error("the entry was opened before")]
    OpenedBefore,
    /// The ledger was closed.
    #[error("the ledger is closed")]
    Stopped,
    /// The ledger was closed while entries could not be written. Each of them is in the log.
    #[error("{0} settled entries could not be written to the ledger")]
    Unsettled(usize),
}

impl From<LedgerError> for Rejection {
    fn from(error: LedgerError) -> Self {
        let mut operator = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            operator = format!("{operator}: {cause}");
            source = cause.source();
        }
        Self::new(
            Reason::LedgerUnavailable,
            "The request was not started, because it cannot be recorded at the moment.",
        )
        .operator(operator)
        .retry_after(Duration::from_secs(5))
    }
}

/// What the ledger needs to know besides where it is.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How often the running counts of opened charges are written ahead.
    pub progress_interval: Duration,
    /// Charges that may be live or waiting to be written; more are refused. Each costs about 50 bytes at the start.
    pub max_live: usize,
    /// What becomes of new requests while the ledger cannot be written.
    pub on_failure: OnFailure,
    /// Whether settled entries are put into the outbox.
    pub export: bool,
}

/// How the ledger fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Age of the oldest entry that was handed over and is not committed.
    pub lag: Duration,
    /// Commits since the start; of those of jobs none.
    pub commits: u64,
    /// Commits that failed since the start.
    pub failures: u64,
    /// Requests since the start that were let run although their OPEN could not be committed.
    pub unrecorded: u64,
    /// Settled entries that are kept in memory because they could not be committed.
    pub unsettled: u64,
    /// Whether the last commit succeeded. A broken ledger tries again by itself as long as it has something to write.
    pub healthy: bool,
}

/// [`Health`] as the writer thread leaves it.
#[derive(Debug)]
struct Gauges {
    epoch: Instant,
    /// Microseconds from `epoch`, plus one, of the oldest uncommitted entry; zero: there is none.
    oldest: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
    unrecorded: AtomicU64,
    unsettled: AtomicU64,
    healthy: AtomicBool,
}

impl Gauges {
    fn new() -> Self {
        Self {
            // Not tokio's: the writer is a thread without a runtime, which does not see a paused clock.
            epoch: Instant::now(),
            oldest: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            unrecorded: AtomicU64::new(0),
            unsettled: AtomicU64::new(0),
            healthy: AtomicBool::new(true),
        }
    }

    fn set_oldest(&self, handed_over: Option<Instant>) {
        let micros = handed_over.map_or(0, |at| at.duration_since(self.epoch).as_micros() as u64 + 1);
        self.oldest.store(micros, Relaxed);
    }

    fn read(&self) -> Health {
        let lag = match self.oldest.load(Relaxed) {
            0 => Duration::ZERO,
            micros => self.epoch.elapsed().saturating_sub(Duration::from_micros(micros - 1)),
        };
        Health {
            lag,
            commits: self.commits.load(Relaxed),
            failures: self.failures.load(Relaxed),
            unrecorded: self.unrecorded.load(Relaxed),
            unsettled: self.unsettled.load(Relaxed),
            healthy: self.healthy.load(Relaxed),
        }
    }
}

struct Shared {
    messages: SyncSender<Message>,
    places: Arc<Semaphore>,
    jobs: Semaphore,
    on_failure: OnFailure,
    gauges: Arc<Gauges>,
    clock: Clock,
}

/// The way to the ledger's writer. Cheap to clone.
#[derive(Clone)]
pub struct Ledger(Arc<Shared>);

impl Ledger {
    /// Opens `ledger.sqlite` in the data directory for this process alone, closes what an earlier process left open
    /// as interrupted, and starts the writer. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory, the file or its schema cannot be used, or another server uses it.
    pub fn open(data_dir: &Path, clock: Clock, settings: Settings) -> Result<(Self, LedgerHandle), LedgerError> {
        database::create_dir(data_dir)?;
        let lock = lock(data_dir)?;
        let path = data_dir.join(schema::FILE);
        let mut connection = database::open(&path, schema::MIGRATIONS)?;
        let failed = |source| LedgerError::Database(DatabaseError::open(&path, source));
        if let Err(error) = vacuum::convert(&connection) {
            tracing::warn!(%error, "the ledger could not be rewritten: its file will not shrink until the next start");
        }
        let interrupted = schema::close_interrupted(&mut connection, settings.export).map_err(failed)?;
        let unreadable = |source| LedgerError::Database(DatabaseError::Create { path: path.clone(), source });
        let file = Identity::of(&path).map_err(unreadable)?;

        // A charge holds a place until its entry is committed, and sends one OPEN and one CLOSE at most; jobs have
        // places of their own, and the handle sends one STOP. So there is always room for a message, and sending one
        // cannot fail or wait, also in `Drop`.
        let (messages, inbox) = sync_channel(2 * settings.max_live + job::MOST + 1);
        let gauges = Arc::new(Gauges::new());
        let writer = Writer::new(Opened { connection, file, lock }, Arc::clone(&gauges), settings);
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run(&inbox))
            .map_err(LedgerError::Thread)?;
        let places = Arc::new(Semaphore::new(settings.max_live));
        let jobs = Semaphore::new(job::MOST);
        let on_failure = settings.on_failure;
        let ledger = Self(Arc::new(Shared { messages, places, jobs, on_failure, gauges, clock }));
        Ok((ledger.clone(), LedgerHandle { ledger, thread, interrupted }))
    }

    /// Makes an account for one request and reserves the room that it needs until it is settled. Never waits.
    ///
    /// # Errors
    /// When the ledger is full or closed.
    pub fn admit(&self, subject: Subject) -> Result<Charge, LedgerError> {
        use tokio::sync::TryAcquireError;
        let place = Arc::clone(&self.0.places).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::NoPermits => LedgerError::Full,
            TryAcquireError::Closed => LedgerError::Stopped,
        })?;
        Ok(Charge::new(self.clone(), subject, place))
    }

    /// How the ledger fares. Reads atomics only.
    pub fn health(&self) -> Health {
        self.0.gauges.read()
    }

    /// Whether new requests are taken: the last commit succeeded, or requests are to go on without.
    pub fn takes_requests(&self) -> bool {
        self.0.on_failure == OnFailure::Serve || self.health().healthy
    }

    fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Never waits: see the size of the channel.
    fn send(&self, message: Message) -> Result<(), Message> {
        use std::sync::mpsc::TrySendError::{Disconnected, Full};
        self.0.messages.try_send(message).map_err(|error| {
            self.0.gauges.healthy.store(false, Relaxed);
            let (Full(message) | Disconnected(message)) = error;
            message
        })
    }
}

/// Owns the writer thread.
#[must_use = "the writer is to be closed after the last charge"]
pub struct LedgerHandle {
    ledger: Ledger,
    thread: std::thread::JoinHandle<Result<(), LedgerError>>,
    interrupted: u64,
}

impl LedgerHandle {
    /// How many entries of an earlier process were found open and closed as interrupted.
    pub fn interrupted(&self) -> u64 {
        self.interrupted
    }

    /// Commits what was handed over, closes the file and ends the thread. To be called when all charges are gone:
    /// one that is left becomes an interrupted entry at the next start.
    ///
    /// # Errors
    /// When settled entries cannot be written.
    pub async fn close(self) -> Result<(), LedgerError> {
        let Self { ledger, thread, .. } = self;
        ledger.0.places.close();
        // It can only fail when the thread is gone, and then the join below tells why.
        drop(ledger.send(Message::Stop));
        match tokio::task::spawn_blocking(move || thread.join()).await {
            Ok(Ok(result)) => result,
            _ => Err(LedgerError::Stopped),
        }
    }
}

/// A connection of its own for who reads the ledger beside the writer, as [`usage::Reader`] does.
///
/// # Errors
/// When there is no ledger, or it cannot be read.
pub(crate) fn open_to_read(data_dir: &Path) -> Result<rusqlite::Connection, DatabaseError> {
    database::open_to_read(&data_dir.join(schema::FILE), schema::MIGRATIONS)
}

/// One server at a time: two writers would each close the other's live entries as interrupted.
fn lock(data_dir: &Path) -> Result<File, LedgerError> {
    let path = data_dir.join("serve.lock");
    let file = database::open_private_file(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse { path }),
        Err(TryLockError::Error(source)) => Err(LedgerError::Lock { path, source }),
    }
}

#[cfg(test)]
mod tests;
