//! Samples and entries as a ledger has them, and what the comparison says.

use proptest::prelude::*;

use super::*;
use crate::config::OnFailure;
use crate::ledger::{Settings, usage};

/// A ledger into which the tests write directly. Times are in seconds.
pub(super) struct Book {
    pub(super) connection: Connection,
    requests: u64,
    _dir: tempfile::TempDir,
}

fn at(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn counters(computed: i64, cached: i64, generated: i64) -> Counters {
    Counters { computed, cached: Some(cached), generated, busy: false }
}

/// An entry: when it ended, its tokens, how it ended and was counted.
#[derive(Clone, Debug)]
struct Entry {
    ended: i64,
    /// Computed, cached, generated.
    tokens: (i64, i64, i64),
    ending: &'static str,
    counted_by: &'static str,
    status: Option<u16>,
    admitted: i64,
}

fn complete(ended: i64, computed: i64, cached: i64, generated: i64) -> Entry {
    let tokens = (computed, cached, generated);
    Entry { ended, tokens, ending: "complete", counted_by: "usage", status: Some(200), admitted: computed + cached }
}

impl Book {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            progress_interval: Duration::from_secs(3600),
            max_live: 1,
            on_failure: OnFailure::Refuse,
            export: false,
        };
        drop(Ledger::open(dir.path(), Clock::from_fn(|| at(0)), settings).unwrap());
        let connection = Connection::open(dir.path().join("ledger.sqlite")).unwrap();
        Self { connection, requests: 0, _dir: dir }
    }

    fn sample(&self, upstream: &str, seconds: i64, counters: Counters) {
        self.store(&Sample { upstream: upstream.into(), at: at(seconds), counters, foreign: 0, restarted: false });
    }

    fn store(&self, sample: &Sample) {
        sample::store(&self.connection, sample).unwrap();
    }

    fn samples(&self) -> i64 {
        self.connection.query_row("SELECT count(*) FROM engine_samples", [], |row| row.get(0)).unwrap()
    }

    fn entry(&mut self, upstream: &str, entry: &Entry) {
        self.requests += 1;
        let Entry { ended, tokens: (computed, cached, generated), ending, counted_by, status, admitted } = entry;
        let is_open = *ending == "open";
        let ended = at(*ended).as_millisecond();
        self.connection
            .execute(
                "INSERT INTO entries (request_id, tenant, key_id, model, surface, ending, counted_by, prompt_tokens,
                    cached_tokens, completion_tokens, arrived_ms, dispatched_ms, ended_ms, status, upstream,
                    admitted_tokens)
                 VALUES (?1, 'acme', 'k', 'm', 'chat', ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9, ?10, ?11)",
                rusqlite::params![
                    self.requests.to_string(),
                    (!is_open).then_some(ending),
                    counted_by,
                    computed + cached,
                    cached,
                    generated,
                    ended - 100,
                    (!is_open && *ending != "interrupted").then_some(ended),
                    status,
                    upstream,
                    admitted,
                ],
            )
            .unwrap();
    }

    fn compare(&self, since: i64) -> Vec<Comparison> {
        compare(&self.connection, at(since)).unwrap()
    }

    /// The comparison of the only replica.
    fn only(&self) -> Comparison {
        let mut all = self.compare(-1);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

/// Engine, ledger and allowed drift, of each kind.
fn numbers(comparison: &Comparison) -> Vec<(i64, i64, i64)> {
    comparison.tokens.iter().map(|line| (line.engine, line.ledger, line.allowed)).collect()
}

#[test]
fn what_ended_between_two_samples_is_compared_with_what_was_counted_between_them() {
    let mut book = Book::new();
    book.sample("a", 10, counters(100, 50, 30));
    for entry in [complete(10, 9, 9, 9), complete(12, 20, 5, 7), complete(20, 10, 0, 3), complete(21, 9, 9, 9)] {
        book.entry("a", &entry);
    }
    book.entry("b", &complete(15, 99, 99, 99));
    book.sample("a", 20, counters(130, 55, 40));
    let only = book.only();
    assert_eq!(numbers(&only), [(30, 30, 0), (5, 5, 0), (10, 10, 0)]);
    assert!(only.agrees);
    assert_eq!((only.requests, only.cut, only.restarts), (2, 0, 0));
}

#[test]
fn a_drift_beyond_a_thousandth_is_found_either_way() {
    for (engine, agrees) in [(10_000, true), (10_010, true), (10_012, false), (9_990, true), (9_989, false)] {
        let mut book = Book::new();
        book.sample("a", 0, counters(0, 0, 0));
        book.entry("a", &complete(5, 0, 0, 10_000));
        book.sample("a", 10, counters(0, 0, engine));
        assert_eq!(book.only().agrees, agrees, "{engine}");
    }
}

#[test]
fn a_restart_ends_a_run_and_what_was_used_around_it_is_not_compared() {
    let mut book = Book::new();
    book.sample("a", 0, counters(100, 0, 100));
    book.entry("a", &complete(5, 10, 0, 10));
    book.sample("a", 10, counters(110, 0, 110));
    // Lost with the process, or counted by the next one: nobody can tell.
    book.entry("a", &complete(15, 77, 0, 77));
    book.sample("a", 20, counters(3, 0, 3));
    book.entry("a", &complete(25, 20, 0, 20));
    book.sample("a", 30, counters(23, 0, 23));
    let only = book.only();
    assert_eq!(numbers(&only), [(30, 30, 0), (0, 0, 0), (30, 30, 0)]);
    assert_eq!((only.restarts, only.requests), (1, 2));
}

#[test]
fn a_restart_that_was_seen_counts_also_where_the_counters_have_grown() {
    let book = Book::new();
    book.sample("a", 0, counters(10, 0, 10));
    let sample =
        Sample { upstream: "a".into(), at: at(10), counters: counters(500, 0, 500), foreign: 0, restarted: true };
    book.store(&sample);
    book.sample("a", 20, counters(500, 0, 501));
    assert_eq!(numbers(&book.only()), [(0, 0, 0), (0, 0, 0), (1, 0, 0)]);
}

#[test]
fn each_replica_is_compared_alone() {
    let mut book = Book::new();
    for upstream in ["a", "b"] {
        book.sample(upstream, 0, counters(0, 0, 0));
        book.entry(upstream, &complete(5, 100, 0, 50));
    }
    book.sample("a", 10, counters(100, 0, 50));
    book.sample("b", 11, counters(200, 0, 50));
    let all = book.compare(-1);
    assert_eq!(
        all.iter().map(|one| (one.upstream.as_str(), one.agrees)).collect::<Vec<_>>(),
        [("a", true), ("b", false)]
    );
}

#[test]
fn a_span_begins_with_the_last_sample_before_it() {
    let mut book = Book::new();
    book.sample("a", 0, counters(0, 0, 0));
    book.entry("a", &complete(5, 7, 0, 7));
    book.sample("a", 10, counters(7, 0, 7));
    book.entry("a", &complete(15, 100, 0, 50));
    book.sample("a", 20, counters(107, 0, 57));
    assert_eq!(numbers(&book.compare(12)[0])[0], (100, 100, 0));
    assert_eq!(numbers(&book.compare(9)[0])[0], (107, 107, 0));
}

#[test]
fn one_sample_is_a_beginning() {
    let mut book = Book::new();
    assert!(book.compare(-1).is_empty());
    book.entry("a", &complete(-5, 1, 1, 1));
    book.sample("a", 0, counters(9, 9, 9));
    book.entry("a", &complete(5, 1, 1, 1));
    assert_eq!((numbers(&book.only()), book.only().requests), (vec![(0, 0, 0); 3], 0));
}

#[test]
fn what_cannot_be_known_of_cut_requests_is_allowed_for() {
    let cut = |ending, counted_by, generated, status| Entry {
        tokens: (10, 0, generated),
        ending,
        counted_by,
        status: Some(status),
        ..complete(5, 10, 0, 0)
    };
    let cases = [
        (cut("client_left", "timings", 30, 200), 10, [0, 0, TOKENS_OF_A_CUT]),
        (cut("client_left", "timings", 30, 200), 14, [4, 4, TOKENS_OF_A_CUT]),
        (cut("cut_at_quota", "timings", 30, 200), 10, [0, 0, TOKENS_OF_A_CUT]),
        (cut("client_left", "events", 30, 200), 10, [0, 0, TOKENS_OF_A_CUT + 30]),
        (Entry { tokens: (0, 0, 0), ..cut("client_left", "nothing", 0, 499) }, 500, [500, 500, TOKENS_OF_A_CUT]),
        (cut("invalid_request", "nothing", 0, 400), 500, [0, 0, 0]),
        (cut("complete", "admission", 30, 200), 500, [10, 10, 0]),
        (cut("interrupted", "timings", 30, 200), 10, [0, 0, TOKENS_OF_A_CUT + TOKENS_OF_AN_INTERRUPTION]),
    ];
    for (entry, admitted, allowed) in cases {
        let mut book = Book::new();
        book.sample("a", 0, counters(0, 0, 0));
        book.entry("a", &Entry { admitted, ..entry.clone() });
        book.sample("a", 10, counters(1, 0, 1));
        let found: Vec<_> = book.only().tokens.iter().map(|line| line.allowed).collect();
        assert_eq!(found, allowed, "{entry:?}");
    }
}

#[test]
fn what_is_in_flight_at_a_sample_is_allowed_for() {
    let mut book = Book::new();
    book.sample("a", 0, counters(0, 0, 0));
    let open = Entry { ending: "open", counted_by: "timings", ..complete(9, 30, 10, 5) };
    book.entry("a", &open);
    book.entry("a", &Entry { tokens: (0, 0, 0), admitted: 200, ..open });
    book.sample("a", 10, counters(30, 10, 0));
    let only = book.only();
    assert_eq!(numbers(&only)[0], (30, 0, 245));
    assert!(only.agrees);
}

#[test]
fn counters_that_are_rounded_are_allowed_for() {
    let book = Book::new();
    book.sample("a", 0, counters(1_000_000, 0, 0));
    book.sample("a", 10, counters(12_345_600, 0, 0));
    assert_eq!(numbers(&book.only())[0].2, 11_345 + 5 + 50);
}

#[test]
fn a_build_that_does_not_count_cached_tokens_is_not_asked_for_them() {
    let mut book = Book::new();
    let old = |computed, generated| Counters { cached: None, ..counters(computed, 0, generated) };
    book.sample("a", 0, old(0, 0));
    book.entry("a", &complete(5, 10, 90, 10));
    book.sample("a", 10, old(10, 10));
    let only = book.only();
    assert_eq!(only.tokens.iter().map(|line| line.kind).collect::<Vec<_>>(), [Kind::Computed, Kind::Generated]);
    assert!(only.agrees);
}

#[test]
fn foreign_requests_are_told() {
    let book = Book::new();
    book.sample("a", 0, counters(0, 0, 0));
    let sample = |seconds, generated, foreign| Sample {
        upstream: "a".into(),
        at: at(seconds),
        counters: counters(0, 0, generated),
        foreign,
        restarted: false,
    };
    for (seconds, generated, foreign) in [(10, 50, 2), (20, 60, 1), (30, 70, 0)] {
        book.store(&sample(seconds, generated, foreign));
    }
    let only = book.only();
    assert_eq!((only.foreign_requests, only.agrees), (2, false));
}

#[test]
fn a_sample_that_says_nothing_new_is_not_kept_and_old_ones_are_forgotten() {
    let book = Book::new();
    book.sample("a", 0, counters(1, 1, 1));
    book.sample("a", 10, counters(1, 1, 1));
    assert_eq!(book.samples(), 1);
    book.sample("a", 20, counters(2, 1, 1));
    book.sample("b", 20, counters(2, 1, 1));
    assert_eq!(book.samples(), 3);
    sample::forget(&book.connection, at(20)).unwrap();
    assert_eq!(book.samples(), 2);
}

#[test]
fn a_clock_that_was_set_back_loses_no_sample() {
    let book = Book::new();
    book.sample("a", 100, counters(1, 1, 1));
    book.sample("a", 50, counters(9, 1, 1));
    assert_eq!(numbers(&book.only())[0].0, 8);
}

#[test]
fn samples_of_a_clock_that_was_wrong_by_a_year_do_not_blind_the_audit_for_a_year() {
    const YEAR: i64 = 365 * 86_400;
    let mut book = Book::new();
    // A node that has just been started, before its clock was set.
    book.sample("a", YEAR, counters(0, 0, 0));
    book.entry("a", &complete(YEAR + 5, 10, 0, 10));
    book.sample("a", YEAR + 10, counters(10, 0, 10));
    book.sample("b", YEAR, counters(0, 0, 0));

    book.sample("a", 100, counters(12, 0, 12));
    book.entry("a", &complete(105, 20, 0, 20));
    book.sample("a", 110, counters(32, 0, 32));
    let found = book.compare(-1);
    assert_eq!(numbers(&found[0]), [(20, 20, 0), (0, 0, 0), (20, 20, 0)]);
    assert_eq!(found[1].upstream, "b", "of others nothing was forgotten");
}

#[test]
fn many_old_samples_are_forgotten_some_at_a_time() {
    let book = Book::new();
    (0..1500).for_each(|second| book.sample("a", second, counters(second, 0, 0)));
    book.sample("b", 0, counters(0, 0, 0));
    let left = || {
        sample::forget(&book.connection, at(1400)).unwrap();
        book.samples()
    };
    assert_eq!([left(), left(), left()], [500, 100, 100]);
}

#[test]
fn a_data_directory_without_a_ledger_has_nothing_to_compare() {
    let dir = tempfile::tempdir().unwrap();
    assert!(open(dir.path()).is_err());
    assert!(matches!(usage::Reader::open(dir.path()), Err(usage::UsageError::NoLedger { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// An engine that counts what the ledger has, whenever it is asked and started anew.
    #[test]
    fn an_engine_that_counts_the_same_agrees_exactly(
        steps in prop::collection::vec((0..400i64, 0..100i64, 0..300i64, 0..4u8), 1..40)
    ) {
        let mut book = Book::new();
        let mut engine = counters(0, 0, 0);
        let mut restarts = 0;
        book.sample("a", 0, engine);
        for (n, (computed, cached, generated, then)) in steps.into_iter().enumerate() {
            let now = 10 * n as i64 + 5;
            book.entry("a", &complete(now, computed, cached, generated));
            engine.computed += computed;
            engine.cached = engine.cached.map(|before| before + cached);
            engine.generated += generated;
            if then == 1 {
                (engine, restarts) = (counters(0, 0, 0), restarts + 1);
            }
            if then < 3 {
                let sample = Sample {
                    upstream: "a".into(), at: at(now + 1), counters: engine, foreign: 0, restarted: then == 1,
                };
                book.store(&sample);
            }
        }
        for comparison in book.compare(-1) {
            prop_assert!(comparison.tokens.iter().all(|line| line.drift == 0), "{:?}", comparison);
            prop_assert_eq!(comparison.restarts, restarts);
        }
    }
}
