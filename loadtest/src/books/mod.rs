//! The audit of a run: what its clients were told of their tokens, what the gateway's ledger has of it, and by how much
//! llama-server's own counters grew. Three programs count in three ways; if they agree, nothing was lost.
//!
//! Takes the target with the key of each tenant and the llama-servers behind it; `open` reads both books before the
//! run, `close` reads them after it and gives the audit. Nobody else may use the keys or the llama-servers meanwhile.
//! A book that cannot be read is left out with a note; nothing is ever called equal that was not compared.

mod clients;
mod compare;
mod engine;
mod ledger;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use clients::ClientBook;

use crate::report::Audit;
use crate::target::counters::{self, Counters};
use crate::target::{Asker, Server};
use compare::Page;
use engine::Growth;
use ledger::Used;

/// Between two readings. llama-server does not notice a client who left a reply in one piece if its metrics are read
/// more often than once a second.
const PAUSE: Duration = Duration::from_millis(1200);
/// How long it may take until nothing moves any more.
const PATIENCE: Duration = Duration::from_secs(30);

/// The books, as they were before the run.
pub struct Books {
    shelves: Shelves,
    before: Reading,
}

/// Where the books are.
struct Shelves {
    ledgers: Vec<Ledger>,
    engines: Vec<Server>,
}

/// The ledger's page of one key.
struct Ledger {
    /// The tenants who use this key: their names, and their places among all.
    names: String,
    tenants: Vec<usize>,
    gateway: Server,
    /// The day on which the run began, by the gateway's clock: of what was used since then, midnight takes nothing away.
    day: Result<i64, String>,
}

/// All books at one moment; or why one cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    ledgers: Vec<Result<Used, String>>,
    engines: Vec<Result<Counters, String>>,
}

impl Books {
    /// Reads the books before a run, once nothing moves in them. `askers` are the tenants in the order of their names,
    /// as in the workload.
    pub async fn open(target: &Server, askers: &[Asker], upstreams: &[Server]) -> Self {
        let mut by_key = BTreeMap::<Option<&str>, Vec<usize>>::new();
        for (place, asker) in askers.iter().enumerate() {
            by_key.entry(asker.key.as_deref()).or_default().push(place);
        }
        let mut ledgers = Vec::new();
        for (key, tenants) in by_key {
            let names: Vec<_> = tenants.iter().map(|&place| askers[place].tenant.as_str()).collect();
            let gateway = target.with_key(key.map(str::to_owned));
            let day = ledger::today(&gateway).await;
            ledgers.push(Ledger { names: names.join(" + "), tenants, gateway, day });
        }
        ledgers.sort_by_key(|ledger| ledger.tenants.first().copied());
        let shelves = Shelves { ledgers, engines: upstreams.to_vec() };
        let before = shelves.read_when_still().await;
        Self { shelves, before }
    }

    /// Reads the books again, once nothing moves in them, and compares. Call it before anything else is sent.
    pub async fn close(self, clients: &ClientBook) -> Audit {
        let after = self.shelves.read_when_still().await;
        let mut notes = Notes::default();
        let pages: Vec<_> = (self.shelves.ledgers.iter().zip(&self.before.ledgers).zip(&after.ledgers))
            .map(|((ledger, before), after)| Page {
                names: ledger.names.clone(),
                clients: clients.sum(&ledger.tenants),
                ledger: notes.keep(&format!("the ledger of {}", ledger.names), used(before, after)),
            })
            .collect();
        let growths = self.before.engines.iter().zip(&after.engines).zip(&self.shelves.engines);
        let growths: Vec<_> =
            growths.map(|((before, after), server)| notes.keep("llama-server", grown(before, after, server))).collect();
        // Of several replicas all must have been read: a sum without one of them says nothing.
        let engine = growths.into_iter().reduce(|sum, next| Some(sum?.plus(next?))).flatten();
        if self.shelves.engines.is_empty() {
            notes.add("llama-server", "its address is not known (hint: --upstream URL)");
        }
        let tenants: Vec<_> = self.shelves.ledgers.iter().flat_map(|ledger| ledger.tenants.clone()).collect();
        let all = clients.sum(&tenants);
        let lines = compare::lines(&pages, all, engine);
        let agrees = !lines.is_empty() && lines.iter().all(|line| line.agrees);
        Audit { lines, agrees, notes: notes.finish(all.cut) }
    }
}

impl Shelves {
    async fn read(&self) -> Reading {
        let mut reading = Reading { ledgers: Vec::new(), engines: Vec::new() };
        for Ledger { gateway, day, .. } in &self.ledgers {
            reading.ledgers.push(match day {
                Ok(day) => ledger::used_since(gateway, *day).await,
                Err(why) => Err(why.clone()),
            });
        }
        for engine in &self.engines {
            reading.engines.push(counters::read(engine).await);
        }
        reading
    }

    /// Reads until two readings are alike and llama-server has nothing to do. A book that still moves after
    /// `PATIENCE` cannot be read.
    async fn read_when_still(&self) -> Reading {
        let end = Instant::now() + PATIENCE;
        let mut last = self.read().await;
        loop {
            sleep(PAUSE).await;
            let mut next = self.read().await;
            let busy = next.engines.iter().flatten().any(|counters| counters.busy > 0);
            if next == last && !busy {
                return next;
            }
            if Instant::now() >= end {
                let still_moves = format!("it still moved after {} s: others use it", PATIENCE.as_secs());
                for (next, last) in next.ledgers.iter_mut().zip(&last.ledgers) {
                    if next != last {
                        *next = Err(still_moves.clone());
                    }
                }
                if busy || next.engines != last.engines {
                    next.engines.fill(Err(still_moves));
                }
                return next;
            }
            last = next;
        }
    }
}

fn used(before: &Result<Used, String>, after: &Result<Used, String>) -> Result<Used, String> {
    Ok(after.clone()?.minus(before.clone()?))
}

fn grown(
    before: &Result<Counters, String>,
    after: &Result<Counters, String>,
    server: &Server,
) -> Result<Growth, String> {
    let (before, after) = (before.clone()?, after.clone()?);
    let restarted = || format!("{} was started anew during the run: its counters fell", server.url);
    Growth::between(&before, &after).ok_or_else(restarted)
}

/// Why something was not compared, each reason once.
#[derive(Default)]
struct Notes {
    /// What was not compared, by reason.
    reasons: BTreeMap<String, Vec<String>>,
}

impl Notes {
    fn add(&mut self, what: &str, why: &str) {
        let subjects = self.reasons.entry(why.to_owned()).or_default();
        if !subjects.iter().any(|subject| subject == what) {
            subjects.push(what.to_owned());
        }
    }

    /// What was read; or a note.
    fn keep<T>(&mut self, what: &str, read: Result<T, String>) -> Option<T> {
        read.inspect_err(|why| self.add(what, why)).ok()
    }

    fn finish(self, cut: u64) -> Vec<String> {
        let note = |(why, subjects): (String, Vec<String>)| format!("not compared: {}: {why}", subjects.join(", "));
        let mut notes: Vec<_> = self.reasons.into_iter().map(note).collect();
        if cut > 0 {
            notes.push(format!(
                "{cut} requests were cut before their end: their prompts are estimates, and what their clients could \
                 not know is allowed for"
            ));
        }
        notes
    }
}

#[cfg(test)]
mod tests;
