//! The requests under way, for operators who look: who waits, who runs, and how far each is.
//!
//! An account lists its request once it waits for a slot, and takes it off when it is settled. Tokens are not told here
//! a second time: they are read where the ledger reads them, so that a listed request costs nothing while it streams.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::ledger::{Progress, Subject};
use crate::queue::View;

/// All requests that wait or run. Cheap to clone.
#[derive(Clone, Default)]
pub struct Roster(Arc<Mutex<Listed>>);

#[derive(Default)]
struct Listed {
    next: u64,
    /// In order of arrival in the queue.
    requests: BTreeMap<u64, Arc<Request>>,
}

/// What is known of a request when it begins to wait.
pub struct About {
    /// Whose it is, and of what.
    pub subject: Subject,
    /// The name of its class.
    pub class: Arc<str>,
    /// Slots that it needs.
    pub slots: u32,
    /// Tokens of its prompt, as counted before it was let in.
    pub prompt: u64,
    /// When its head had been read.
    pub arrived: Instant,
    /// When it entered the queue.
    pub entered: Instant,
    /// What it can expect while it waits.
    pub view: View,
}

/// One request.
pub struct Request {
    /// What does not change.
    pub about: About,
    /// `None` while it waits.
    run: Mutex<Option<Run>>,
}

/// A request that has its slots.
#[derive(Clone)]
pub struct Run {
    /// Since when.
    pub since: Instant,
    /// The replica, by its address.
    pub upstream: Arc<str>,
    /// Its tokens so far.
    pub progress: Arc<Progress>,
}

impl Request {
    /// How it runs; `None` while it waits.
    pub fn run(&self) -> Option<Run> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Run>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roster {
    /// Lists a request that waits, until the [`Listing`] is dropped.
    pub fn list(&self, about: About) -> Listing {
        let request = Arc::new(Request { about, run: Mutex::default() });
        let mut listed = self.lock();
        let place = listed.next;
        listed.next += 1;
        listed.requests.insert(place, request.clone());
        Listing { roster: self.clone(), place, request }
    }

    /// All of them, those that entered the queue first before the others.
    pub fn requests(&self) -> Vec<Arc<Request>> {
        self.lock().requests.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's place on the list. Dropping it takes the request off.
#[must_use = "dropping it takes the request off the list"]
pub struct Listing {
    roster: Roster,
    place: u64,
    request: Arc<Request>,
}

impl Listing {
    /// It has its slots.
    pub fn runs(&self, run: Run) {
        *self.request.lock() = Some(run);
    }

    /// It gave them back unused.
    pub fn waits(&self) {
        *self.request.lock() = None;
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.roster.lock().requests.remove(&self.place);
    }
}
