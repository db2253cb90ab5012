//! llama-servers' counters against the ledger's entries, over the same span.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::Serialize;

use super::counters::rounding;
use crate::database::DatabaseError;
use crate::ledger;

/// Part of the engine's count by which the ledger may be off, in thousandths: the promise of the ledger.
const THOUSANDTHS: i64 = 1;
/// Tokens that llama-server may have generated, for each request whose end was not read, beyond those that it had told:
/// it notices that a connection is closed between two tokens, and what was under way counts. Measured: 1 to 2 on average;
/// with a model that makes thousands a second on a busy machine, more now and then.
pub const TOKENS_OF_A_CUT: i64 = 8;
/// The same for one whose gateway died: besides, what was told since the last `ledger.progress_interval`.
pub const TOKENS_OF_AN_INTERRUPTION: i64 = 64;
/// A request that took longer than this is not compared.
const LONGEST_REQUEST_MS: i64 = 86_400_000;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Prompt tokens that did not come from the cache.
    Computed,
    /// Prompt tokens that came from the cache.
    Cached,
    /// Generated tokens.
    Generated,
}

impl Kind {
    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Computed => "computed",
            Self::Cached => "cached",
            Self::Generated => "generated",
        }
    }
}

/// Tokens of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Which.
    pub kind: Kind,
    /// What llama-server counted.
    pub engine: i64,
    /// What the ledger has.
    pub ledger: i64,
    /// llama-server's less the ledger's.
    pub drift: i64,
    /// How large the drift may be, either way, without anything being wrong.
    pub allowed: i64,
}

impl Line {
    /// Whether the drift is within what is allowed.
    pub fn agrees(&self) -> bool {
        self.drift.abs() <= self.allowed
    }
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Its address.
    pub upstream: String,
    /// Entries that were compared.
    pub requests: i64,
    /// Those of them whose end was not read from llama-server.
    pub cut: i64,
    /// Times that it was started anew: what was used from the sample before to the one after is not compared.
    pub restarts: i64,
    /// Requests that were seen there and did not come through the gateway, at most at one time.
    pub foreign_requests: i64,
    /// Whether all kinds agree.
    pub agrees: bool,
    /// The kinds.
    pub tokens: Vec<Line>,
}

/// A time during which one process of a replica counted, from its first sample to its last.
struct Run {
    upstream: String,
    from: i64,
    to: i64,
    engine: [Option<i64>; 3],
    /// What requests in flight may have used at both ends.
    in_flight: i64,
    /// What is lost in writing the counters down.
    rounding: [i64; 3],
    foreign_requests: i64,
}

/// Runs begin with the last sample before the span, if there is one. What is older is not read.
const RUNS: &str = "
    WITH RECURSIVE upstreams (upstream) AS (
        SELECT min(upstream) FROM engine_samples
        UNION ALL SELECT (SELECT min(upstream) FROM engine_samples WHERE upstream > upstreams.upstream)
        FROM upstreams WHERE upstream IS NOT NULL
    ), spans AS (
        SELECT upstream AS whose, coalesce((SELECT max(at_ms) FROM engine_samples AS sample
            WHERE sample.upstream = upstreams.upstream AND at_ms <= ?1), ?1) AS beginning
        FROM upstreams WHERE upstream IS NOT NULL
    ), samples AS (
        SELECT sample.*, sum(restarted) OVER (PARTITION BY upstream ORDER BY at_ms) AS run
        FROM spans CROSS JOIN engine_samples AS sample ON upstream = whose AND at_ms >= beginning
    ), runs AS (
        SELECT upstream, run, min(at_ms) AS first, max(at_ms) AS last FROM samples GROUP BY upstream, run
    )
    SELECT upstream, runs.first, runs.last,
        a.computed_tokens, a.cached_tokens, a.generated_tokens, b.computed_tokens, b.cached_tokens, b.generated_tokens,
        a.in_flight_tokens + b.in_flight_tokens,
        (SELECT max(foreign_requests) FROM samples AS s
            WHERE s.upstream = runs.upstream AND s.run = runs.run AND s.at_ms > runs.first)
    FROM runs JOIN engine_samples AS a USING (upstream) JOIN engine_samples AS b USING (upstream)
    WHERE a.at_ms = runs.first AND b.at_ms = runs.last ORDER BY upstream, runs.first";

impl Run {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (mut engine, mut lost) = ([None; 3], [0; 3]);
        for kind in 0..3 {
            let (first, last): (Option<i64>, Option<i64>) = (row.get(3 + kind)?, row.get(6 + kind)?);
            if let (Some(first), Some(last)) = (first, last) {
                (engine[kind], lost[kind]) = (Some(last - first), rounding(first) + rounding(last));
            }
        }
        Ok(Self {
            upstream: row.get(0)?,
            from: row.get(1)?,
            to: row.get(2)?,
            engine,
            in_flight: row.get(9)?,
            rounding: lost,
            foreign_requests: row.get::<_, Option<i64>>(10)?.unwrap_or(0),
        })
    }
}

/// What the entries of one run come to.
#[derive(Default)]
struct Entries {
    requests: i64,
    cut: i64,
    interrupted: i64,
    ledger: [i64; 3],
    /// What llama-server may have computed of the prompts of cut requests without having told it: some or all of what was
    /// counted before.
    untold_prompts: i64,
    /// Prompts of which it is not known how much came from the cache.
    unknown_cached: i64,
    /// Output that was counted by events, of which each is a token at least.
    lower_bound: i64,
}

/// Entries and the time of their end; where the gateway died, the last that is known of them.
const ENTRIES: &str = "
    SELECT coalesce(ended_ms, first_token_ms, dispatched_ms), ending, counted_by, prompt_tokens, cached_tokens,
        completion_tokens, admitted_tokens
    FROM entries
    WHERE arrived_ms > ?2 - ?4 AND arrived_ms <= ?3 AND upstream = ?1 AND ending IS NOT NULL";

impl Entries {
    /// Those of each run of one replica. All entries are read once, however often it was started anew.
    fn of(connection: &Connection, upstream: &str, runs: &[&Run]) -> rusqlite::Result<Vec<Self>> {
        let mut all: Vec<_> = runs.iter().map(|_| Self::default()).collect();
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return Ok(all) };
        let mut statement = connection.prepare_cached(ENTRIES)?;
        let mut rows = statement.query(params![upstream, first.from, last.to, LONGEST_REQUEST_MS])?;
        while let Some(row) = rows.next()? {
            let Some(ended) = row.get::<_, Option<i64>>(0)? else { continue };
            // They follow each other; between two of them nobody knows who counted.
            let Some(at) = runs.partition_point(|run| run.from < ended).checked_sub(1) else { continue };
            if let (Some(run), Some(entries)) = (runs.get(at), all.get_mut(at))
                && ended <= run.to
            {
                entries.add(row)?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let (ending, counted_by) = (row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
        let [prompt, cached, completion, admitted]: [i64; 4] = [row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
        self.requests += 1;
        for (sum, tokens) in self.ledger.iter_mut().zip([prompt - cached, cached, completion]) {
            *sum += tokens;
        }
        // One that llama-server refused as invalid is no cut one: nothing was begun.
        if !matches!(counted_by, "usage" | "admission") && ending != "invalid_request" {
            self.cut += 1;
            self.untold_prompts += (admitted - prompt).max(0);
        }
        match counted_by {
            "admission" => self.unknown_cached += prompt,
            "events" => self.lower_bound += completion,
            _ => {}
        }
        self.interrupted += i64::from(ending == "interrupted");
        Ok(())
    }

    /// How far each kind may be off because of how these entries ended.
    fn uncertainty(&self) -> [i64; 3] {
        let prompt = self.untold_prompts + self.unknown_cached;
        let beyond = self.cut * TOKENS_OF_A_CUT + self.interrupted * TOKENS_OF_AN_INTERRUPTION;
        [prompt, prompt, beyond + self.lower_bound]
    }
}

/// Sums of one kind over the runs of a replica.
#[derive(Default)]
struct Sums {
    engine: i64,
    ledger: i64,
    uncertainty: i64,
}

/// Compares each replica's counters since `since` with the entries that ended meanwhile. One whose counters are known for
/// one moment only has nothing in it yet. Blocks on the disk.
///
/// # Errors
/// When the ledger cannot be read.
pub fn compare(connection: &Connection, since: Timestamp) -> rusqlite::Result<Vec<Comparison>> {
    let mut statement = connection.prepare_cached(RUNS)?;
    let runs = statement.query_map([since.as_millisecond()], Run::read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut replicas: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in &runs {
        replicas.entry(&run.upstream).or_default().push(run);
    }
    replicas.into_iter().map(|(upstream, runs)| compare_replica(connection, upstream, &runs)).collect()
}

fn compare_replica(connection: &Connection, upstream: &str, runs: &[&Run]) -> rusqlite::Result<Comparison> {
    let mut sums: [Option<Sums>; 3] = Default::default();
    let (mut requests, mut cut) = (0, 0);
    for (run, entries) in runs.iter().zip(Entries::of(connection, upstream, runs)?) {
        (requests, cut) = (requests + entries.requests, cut + entries.cut);
        let uncertainty = entries.uncertainty();
        for kind in 0..3 {
            // A build that does not count what came from the cache says nothing about it.
            let Some(engine) = run.engine[kind] else { continue };
            let sum = sums[kind].get_or_insert_default();
            sum.engine += engine;
            sum.ledger += entries.ledger[kind];
            sum.uncertainty += uncertainty[kind] + run.in_flight + run.rounding[kind];
        }
    }
    let kinds = [Kind::Computed, Kind::Cached, Kind::Generated];
    let line = |(kind, sums): (Kind, Option<Sums>)| {
        let Sums { engine, ledger, uncertainty } = sums?;
        let allowed = engine.max(ledger) * THOUSANDTHS / 1000 + uncertainty;
        Some(Line { kind, engine, ledger, drift: engine - ledger, allowed })
    };
    let tokens: Vec<_> = kinds.into_iter().zip(sums).filter_map(line).collect();
    Ok(Comparison {
        upstream: upstream.to_owned(),
        requests,
        cut,
        restarts: runs.len() as i64 - 1,
        foreign_requests: runs.iter().map(|run| run.foreign_requests).max().unwrap_or(0),
        agrees: tokens.iter().all(Line::agrees),
        tokens,
    })
}

/// Opens the ledger of a data directory, to compare.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn open(data_dir: &Path) -> Result<Connection, DatabaseError> {
    ledger::open_to_read(data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::Book;

    /// Samples of five weeks are kept, and those of a day are compared every minute.
    #[test]
    fn samples_before_the_span_are_not_read() {
        let book = Book::new();
        let mut statement = book.connection.prepare(&format!("EXPLAIN QUERY PLAN {RUNS}")).unwrap();
        let plan = statement.query_map([0], |row| row.get::<_, String>("detail"));
        let plan = plan.unwrap().collect::<rusqlite::Result<Vec<_>>>().unwrap();
        let read: Vec<_> = plan.iter().filter(|step| step.contains(" sample ")).collect();
        assert!(!read.is_empty(), "{plan:?}");
        assert!(
            read.iter().all(|step| step.starts_with("SEARCH") && step.contains("(upstream=? AND at_ms")),
            "{read:?}"
        );
    }
}
