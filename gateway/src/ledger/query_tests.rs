//! The sums, against a model that adds up one request after the other.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use rusqlite::params;

use super::*;
use crate::config::{Overrides, load};
use crate::database;
use crate::ledger::retention::{Position, delete_slice};
use crate::ledger::schema::{FILE, MIGRATIONS, Statements};
use crate::ledger::tests::{complete, dispatched, subject};
use crate::ledger::{Count, Outcome};
use crate::surface::Surface;

const DAY: i64 = MILLISECONDS_OF_A_DAY;
/// 2026-01-01
const START: i64 = 1_767_225_600_000;

/// One request of the model, and what its corrections add to its prompt and output.
#[derive(Clone, Debug)]
struct Request {
    arrived: i64,
    tenant: &'static str,
    key: &'static str,
    model: &'static str,
    surface: Surface,
    output: u64,
    open: bool,
    corrections: Vec<i64>,
}

impl Request {
    fn group(&self, by: &[Field]) -> Group {
        let field = |field, value: &str| by.contains(&field).then(|| value.to_owned());
        Group {
            tenant: field(Field::Tenant, self.tenant),
            key_id: field(Field::Key, self.key),
            model: field(Field::Model, self.model),
            surface: field(Field::Surface, self.surface.label()),
        }
    }

    fn sums(&self) -> Sums {
        let output = self.output as i64;
        if self.open {
            // As it was opened, and written ahead once.
            return Sums {
                requests: 1,
                prompt_tokens: 10,
                cached_tokens: 1,
                completion_tokens: output,
                queue_wait_ms: 4,
                prefill_slot_ms: 8,
                decode_slot_ms: 9,
                ..Sums::default()
            };
        }
        let more: i64 = self.corrections.iter().sum();
        Sums {
            requests: 1,
            prompt_tokens: 10 + more,
            cached_tokens: 1,
            completion_tokens: output + more,
            reasoning_tokens: 2,
            queue_wait_ms: 4,
            prefill_slot_ms: 25,
            decode_slot_ms: 60 + more,
        }
    }
}

fn request() -> impl Strategy<Value = Request> {
    // Around the turns of days, hours and minutes, and anywhere.
    let turns = (0..4_i64, select(vec![0, 60_000, 3_600_000]), -2..2_i64);
    let turns = turns.prop_map(|(day, after, ms)| START + day * DAY + after + ms);
    let arrived = prop_oneof![turns, START..START + 3 * DAY];
    let names = (select(vec!["acme", "beta"]), select(vec!["k1", "k2"]), select(vec!["big", "small"]));
    let surface = select(vec![Surface::Chat, Surface::Embeddings]);
    let corrections = prop::collection::vec(-3..9_i64, 0..3);
    (arrived, names, surface, 20..30_u64, prop::bool::weighted(0.2), corrections).prop_map(
        |(arrived, (tenant, key, model), surface, output, open, corrections)| {
            let corrections = if open { Vec::new() } else { corrections };
            Request { arrived, tenant, key, model, surface, output, open, corrections }
        },
    )
}

fn query() -> impl Strategy<Value = Query> {
    let end = || prop_oneof![(0..5_i64).prop_map(|day| START + day * DAY), START - 5..START + 4 * DAY];
    let width = select(vec![Width::Minute, Width::Hour, Width::Day, Width::Total]);
    let only = |names: &'static [&'static str]| {
        subsequence(names, 0..=1).prop_map(|names| names.iter().map(|name| (*name).to_owned()).collect())
    };
    let only = (only(&["acme"]), only(&["k2"]), only(&["small"]), only(&["chat"]));
    let only = only.prop_map(|(tenants, keys, models, surfaces)| Filter { tenants, keys, models, surfaces });
    (end(), end(), width, subsequence(Field::ALL.to_vec(), 0..=4), only).prop_map(|(a, b, width, by, only)| Query {
        from: at(a.min(b)),
        to: at(a.max(b)),
        width,
        by,
        only,
    })
}

fn prices() -> Prices {
    let file = tempfile::NamedTempFile::new().unwrap();
    let toml = "[prices.a]\nmodel = \"big\"\nprompt = 3\ncached = 0.5\noutput = 7.25\nslot_second = 0.001\n\
                [prices.b]\nmodel = \"big\"\nsince = 2026-01-02\nprompt = 4\nslot_second = 0.0000001\n";
    std::fs::write(file.path(), toml).unwrap();
    Prices::of(&load(Some(file.path()), std::iter::empty(), &Overrides::default()).unwrap()).unwrap()
}

/// A ledger with these requests.
fn ledger(requests: &[Request]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let connection = database::open(&dir.path().join(FILE), MIGRATIONS).unwrap();
    let transaction = connection.unchecked_transaction().unwrap();
    let mut statements = Statements::prepare(&transaction, false).unwrap();
    for (number, request) in requests.iter().enumerate() {
        let mut subject = subject(&format!("r{number}"));
        subject.tenant = request.tenant.into();
        subject.key_id = request.key.into();
        subject.model = request.model.into();
        subject.surface = request.surface;
        subject.arrived = at(request.arrived);
        if request.open {
            let sample = crate::ledger::charge::Sample {
                count: Count { prompt: 10, cached: 1, completion: request.output, ..Count::default() },
                ..Default::default()
            };
            let milliseconds = Duration::from_millis;
            let held = crate::ledger::SlotTime { prefill: milliseconds(8), decode: milliseconds(9) };
            statements.open(&subject, &dispatched()).unwrap();
            statements.progress(&subject.request_id, &sample, held).unwrap();
        } else {
            let outcome: Outcome = complete(request.output);
            statements.close(&subject, &outcome).unwrap();
        }
    }
    statements.finish().unwrap();
    for (number, request) in requests.iter().enumerate() {
        for (revision, more) in (1..).zip(&request.corrections) {
            correct(&transaction, (number, request), revision, *more);
        }
    }
    transaction.commit().unwrap();
    dir
}

/// Corrects prompt, output and decode time of an entry.
fn correct(connection: &Connection, (number, request): (usize, &Request), revision: i64, more: i64) {
    let Request { tenant, key, model, surface, arrived, .. } = request;
    let insert = "INSERT INTO corrections VALUES (?1, ?2, 0, 'test', ?3, ?4, ?5, ?6, ?7, ?8, 0, ?8, 0, 0, ?8)";
    let request_id = format!("r{number}");
    let values = params![request_id, revision, tenant, key, model, surface.label(), arrived, more];
    connection.execute(insert, values).unwrap();
    let add = "UPDATE daily SET prompt_tokens = prompt_tokens + ?6, completion_tokens = completion_tokens + ?6,
        decode_slot_ms = decode_slot_ms + ?6
        WHERE day = ?1 AND tenant = ?2 AND key_id = ?3 AND model = ?4 AND surface = ?5";
    let changed = connection.execute(add, params![arrived / DAY, tenant, key, model, surface.label(), more]).unwrap();
    assert_eq!(changed, 1);
}

/// Deletes the oldest settled entries, as retention does.
fn delete_before(dir: &tempfile::TempDir, time: i64) {
    let connection = database::open(&dir.path().join(FILE), MIGRATIONS).unwrap();
    // Fewer than a slice takes.
    delete_slice(&connection, at(time), &Position::MIN).unwrap();
}

/// What a query should give.
fn expected(requests: &[Request], query: &Query, prices: Option<&Prices>) -> Vec<Used> {
    let mut found: BTreeMap<(Timestamp, Group), (Timestamp, Sums, Option<Cost>)> = BTreeMap::new();
    let passes = |list: &[String], value: &str| list.is_empty() || list.iter().any(|only| only == value);
    for request in requests {
        let only = &query.only;
        if at(request.arrived) < query.from
            || at(request.arrived) >= query.to
            || !passes(&only.tenants, request.tenant)
            || !passes(&only.keys, request.key)
            || !passes(&only.models, request.model)
            || !passes(&only.surfaces, request.surface.label())
        {
            continue;
        }
        let (start, end) = match query.width.milliseconds() {
            Some(width) => (request.arrived / width * width, (request.arrived / width + 1) * width),
            None => (i64::MIN, i64::MAX),
        };
        let key = (at(start).max(query.from), request.group(&query.by));
        let (_, sums, cost) = found.entry(key).or_insert((at(end).min(query.to), Sums::default(), None));
        *sums += request.sums();
        if let Some(prices) = prices {
            let day = Day::of_days(request.arrived / DAY);
            *cost.get_or_insert_default() += prices.cost(request.model, day, &request.sums().quantities());
        }
    }
    let used = |((start, group), (end, sums, cost))| Used { start, end, group, sums, cost };
    found.into_iter().map(used).collect()
}

/// Whether the answer needs entries of a day of which some have been deleted.
fn needs_deleted(requests: &[Request], query: &Query, deleted_before: i64) -> bool {
    let (from, to) = (query.from.as_millisecond(), query.to.as_millisecond());
    let (first, last) = ((from + DAY - 1) / DAY * DAY, to / DAY * DAY);
    let spans = match query.width {
        Width::Day | Width::Total if first <= last => vec![(from, first), (last, to)],
        _ => vec![(from, to)],
    };
    let gone = requests.iter().filter(|request| !request.open && request.arrived < deleted_before);
    let days: Vec<_> = gone.map(|request| request.arrived / DAY).collect();
    let touches =
        |(from, to): (i64, i64)| from < to && days.iter().any(|day| (from / DAY..=(to - 1) / DAY).contains(day));
    spans.into_iter().any(touches)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sums_are_those_of_the_requests_one_by_one(
        requests in prop::collection::vec(request(), 0..40),
        queries in prop::collection::vec((query(), any::<bool>()), 1..8),
        deleted_before in START..START + 3 * DAY,
    ) {
        let dir = ledger(&requests);
        let priced = prices();
        for (query, costs) in &queries {
            let prices = costs.then_some(&priced);
            let used = Reader::open(dir.path()).unwrap().used(query, prices).unwrap();
            prop_assert_eq!(used, expected(&requests, query, prices), "{:?}", query);
        }
        delete_before(&dir, deleted_before);
        for (query, _) in &queries {
            match Reader::open(dir.path()).unwrap().used(query, None) {
                Ok(used) => {
                    prop_assert!(!needs_deleted(&requests, query, deleted_before), "{:?}", query);
                    prop_assert_eq!(used, expected(&requests, query, None), "{:?}", query);
                }
                Err(UsageError::Deleted { until }) => {
                    prop_assert!(needs_deleted(&requests, query, deleted_before), "{:?} {}", query, until);
                    let later = Query { from: until.min(query.to), ..query.clone() };
                    let used = Reader::open(dir.path()).unwrap().used(&later, None).unwrap();
                    prop_assert_eq!(used, expected(&requests, &later, None), "{:?}", later);
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}

fn request_at(arrived: i64) -> Request {
    let (tenant, key, model) = ("acme", "k1", "big");
    Request { arrived, tenant, key, model, surface: Surface::Chat, output: 20, open: false, corrections: Vec::new() }
}

fn whole_days(from: i64, to: i64) -> Query {
    Query { from: at(from), to: at(to), width: Width::Day, by: Vec::new(), only: Filter::default() }
}

#[test]
fn the_first_and_the_last_bucket_are_as_long_as_the_range_leaves_them() {
    let dir = ledger(&[request_at(START + DAY - 1), request_at(START + DAY), request_at(START + 2 * DAY)]);
    let used = Reader::open(dir.path()).unwrap().used(&whole_days(START + 7, START + 2 * DAY + 1), None).unwrap();
    let buckets: Vec<_> =
        used.iter().map(|used| (used.start.as_millisecond() - START, used.end.as_millisecond() - START)).collect();
    assert_eq!(buckets, [(7, DAY), (DAY, 2 * DAY), (2 * DAY, 2 * DAY + 1)]);
}

#[test]
fn of_deleted_entries_whole_days_are_left_and_a_finer_question_is_refused() {
    let dir = ledger(&[request_at(START + 5), request_at(START + DAY + 5)]);
    delete_before(&dir, START + DAY);
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.used(&whole_days(START, START + 2 * DAY), None).unwrap().len(), 2);
    assert_eq!(reader.tokens(at(START), Timestamp::MAX).unwrap()[0].tokens, 60);
    let hours = Query { width: Width::Hour, ..whole_days(START, START + 2 * DAY) };
    for query in [hours, whole_days(START + 1, START + 2 * DAY), whole_days(START, START + 6)] {
        let error = reader.used(&query, None).unwrap_err();
        assert!(matches!(error, UsageError::Deleted { until } if until == at(START + DAY)), "{error:?}");
        assert!(error.to_string().contains("hint: begin and end at midnight UTC"), "{error}");
    }
    // Nothing arrived before the first day that there is, so nothing is missing there.
    let hours = Query { width: Width::Hour, ..whole_days(START - 9 * DAY, START) };
    assert_eq!(reader.used(&hours, None).unwrap(), []);
}

#[test]
fn a_range_without_a_beginning_or_an_end_is_answered_and_an_empty_one_is_empty() {
    let dir = ledger(&[request_at(START)]);
    let reader = Reader::open(dir.path()).unwrap();
    for width in [Width::Minute, Width::Hour, Width::Day, Width::Total] {
        let all = Query { from: Timestamp::MIN, to: Timestamp::MAX, width, ..whole_days(0, 0) };
        assert_eq!(reader.used(&all, None).unwrap().len(), 1, "{width:?}");
        let backwards = Query { from: at(START + 5), to: at(START), width, ..whole_days(0, 0) };
        assert_eq!(reader.used(&backwards, None).unwrap(), [], "{width:?}");
    }
}

/// A question about one key must not read the sums of all.
#[test]
fn the_sums_of_one_key_are_looked_up() {
    let dir = ledger(&[request_at(START)]);
    let reader = Reader::open(dir.path()).unwrap();
    let only = Filter { tenants: vec!["acme".to_owned()], keys: vec!["k1".to_owned()], ..Filter::default() };
    let plan = |sql: &str, parameters: &[&dyn ToSql]| {
        let mut statement = reader.0.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let plan = statement.query_map(parameters, |row| row.get::<_, String>("detail"));
        plan.unwrap().collect::<rusqlite::Result<Vec<_>>>().unwrap()
    };
    let known = plan(KNOWN_DAYS, &[]);
    assert!(!known.iter().any(|step| step == "SCAN daily"), "{known:?}");
    let sums = DAYS.sql(&[Field::Model], &only.sql(4).0);
    let plan = plan(&sums, params![DAY, START, START + DAY, "[]", "[]"]);
    let looked_up = "SEARCH daily USING PRIMARY KEY (day=? AND tenant=? AND key_id=?)";
    assert!(plan.iter().any(|step| step == looked_up), "{plan:?}");
}
