//! The three formats, to the character.

use super::*;
use crate::config::{Overrides, load};
use crate::database;
use crate::ledger::Dispatched;
use crate::ledger::schema::{self, Statements};
use crate::ledger::tests::{at, complete, dispatched, subject};

const DAY: i64 = 86_400_000;

/// Two days, two tenants, one open entry, one entry that was corrected.
fn ledger() -> (tempfile::TempDir, Reader) {
    let dir = tempfile::tempdir().unwrap();
    let connection = database::open(&dir.path().join(schema::FILE), schema::MIGRATIONS).unwrap();
    let mut statements = Statements::prepare(&connection, false).unwrap();
    let entries = [("r1", "acme", 0), ("r2", "acme", DAY - 1), ("r3", "acme", DAY), ("r4", "b,e", DAY + 1)];
    for (request_id, tenant, arrived) in entries {
        let mut subject = subject(request_id);
        subject.tenant = tenant.into();
        subject.arrived = at(arrived);
        statements.close(&subject, &complete(5)).unwrap();
    }
    let mut open = subject("r5");
    open.arrived = at(DAY + 2);
    open.model = "=a\tb".into();
    statements.open(&open, &Dispatched { at: at(DAY + 3), ..dispatched() }).unwrap();
    statements.finish().unwrap();
    for revision in 1..=2 {
        let sql = format!(
            "INSERT INTO corrections VALUES ('r4', {revision}, 0, 'test', 'b,e', 'abcdefgh', 'smollm2', 'chat', {},
                1, 0, -1, 0, 0, 3)",
            at(DAY + 1).as_millisecond()
        );
        connection.execute(&sql, []).unwrap();
    }
    drop(connection);
    let reader = Reader::open(dir.path()).unwrap();
    (dir, reader)
}

fn since(time: i64) -> Query {
    let (from, to) = (at(time), Timestamp::MAX);
    Query { from, to, width: Width::Day, by: vec![Field::Tenant], only: Filter::default() }
}

fn prices() -> Prices {
    let file = tempfile::NamedTempFile::new().unwrap();
    let toml = "[prices.a]\nmodel = \"smollm2\"\nprompt = 0.5\noutput = 1000\nslot_second = \"0.1\"\n";
    std::fs::write(file.path(), toml).unwrap();
    Prices::of(&load(Some(file.path()), std::iter::empty(), &Overrides::default()).unwrap()).unwrap()
}

fn usage_text(format: Format, query: &Query, prices: Option<&Prices>) -> String {
    let (_dir, reader) = ledger();
    let mut out = Vec::new();
    usage(&reader, query, prices, format, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn requests_text(format: Format, from: i64, prices: Option<&Prices>) -> String {
    let (_dir, reader) = ledger();
    let mut out = Vec::new();
    requests(&reader, &since(from), prices, format, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn people_get_a_table_with_a_line_of_totals() {
    let expected = "\
day         tenant  requests  prompt_tokens  cached_tokens  completion_tokens  reasoning_tokens  queue_wait_seconds  prefill_slot_seconds  decode_slot_seconds
2026-01-01  acme           2             20              2                 10                 4                 0.0                   0.1                  0.1
2026-01-02  acme           2             10              1                  5                 2                 0.0                   0.0                  0.1
2026-01-02  b,e            1             10              1                  5                 2                 0.0                   0.0                  0.1
total                      5             40              4                 20                 8                 0.0                   0.1                  0.2
";
    assert_eq!(usage_text(Format::Text, &since(0), None), expected);
    assert_eq!(usage_text(Format::Text, &since(9 * DAY), None).lines().count(), 1);
}

#[test]
fn usage_is_one_json_array_with_exact_numbers() {
    let expected = "[{\"day\":\"2026-01-02\",\"tenant\":\"b,e\",\"requests\":1,\"prompt_tokens\":10,\
                    \"cached_tokens\":1,\"completion_tokens\":5,\"reasoning_tokens\":2,\"queue_wait_seconds\":0.004,\
                    \"prefill_slot_seconds\":0.025,\"decode_slot_seconds\":0.060,\"cost\":0.013505,\
                    \"currency\":\"USD\",\"unpriced_requests\":0}]\n";
    let mut query = since(DAY);
    query.only.tenants = vec!["b,e".to_owned()];
    assert_eq!(usage_text(Format::Json, &query, Some(&prices())), expected);
    assert_eq!(usage_text(Format::Json, &since(9 * DAY), None), "[]\n");
}

#[test]
fn csv_quotes_what_needs_it_and_no_spreadsheet_takes_a_name_for_a_formula() {
    let query = Query { by: vec![Field::Tenant, Field::Model], ..since(DAY) };
    let expected = "\
day,tenant,model,requests,prompt_tokens,cached_tokens,completion_tokens,reasoning_tokens,queue_wait_seconds,\
prefill_slot_seconds,decode_slot_seconds,cost,currency,unpriced_requests
2026-01-02,acme,'=a\tb,1,0,0,0,0,0.004,0.000,0.000,0,USD,1
2026-01-02,acme,smollm2,1,10,1,5,2,0.004,0.025,0.060,0.013505,USD,0
2026-01-02,\"b,e\",smollm2,1,10,1,5,2,0.004,0.025,0.060,0.013505,USD,0
";
    assert_eq!(usage_text(Format::Csv, &query, Some(&prices())), expected);
    for (text, csv) in [("-1", "'-1"), ("+1", "'+1"), ("@a,b", "\"'@a,b\""), ("a\"b", "\"a\"\"b\""), ("a=b", "a=b")] {
        assert_eq!(Cell::Text(text.to_owned()).csv(), csv);
    }
    assert_eq!(Cell::Integer(-1).csv(), "-1");
}

#[test]
fn shorter_buckets_tell_their_time_and_the_whole_range_has_none() {
    let hours = Query { width: Width::Hour, by: Vec::new(), ..since(0) };
    let first_cells = |query: &Query| {
        let text = usage_text(Format::Csv, query, None);
        text.lines().map(|line| line.split(',').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(first_cells(&hours), ["hour", "2026-01-01T00:00Z", "2026-01-01T23:00Z", "2026-01-02T00:00Z"]);
    let minutes = Query { width: Width::Minute, ..hours.clone() };
    assert_eq!(first_cells(&minutes), ["minute", "2026-01-01T00:00Z", "2026-01-01T23:59Z", "2026-01-02T00:00Z"]);
    assert_eq!(first_cells(&Query { width: Width::Total, ..hours }), ["requests", "5"]);
}

#[test]
fn requests_are_lines_between_tabs_in_the_stable_order_with_all_corrections() {
    let expected = "\
request_id\ttenant\tkey_id\tmodel\tsurface\tending\tcounted_by\tprompt_tokens\tcached_tokens\tcompletion_tokens\t\
arrived\tdispatched\tfirst_token\tended\tstatus\treasoning_tokens\tupstream\tqueue_wait_ms\tprefill_slot_ms\t\
decode_slot_ms\trevision
r4\tb,e\tabcdefgh\tsmollm2\tchat\tcomplete\tusage\t12\t1\t3\t\
2026-01-02T00:00:00.001Z\t2026-01-01T00:00:00.005Z\t2026-01-01T00:00:00.030Z\t2026-01-01T00:00:00.090Z\t200\t2\t\
127.0.0.1:8001\t4\t25\t66\t2
r5\tacme\tabcdefgh\t=a\\tb\tchat\topen\tnothing\t0\t0\t0\t\
2026-01-02T00:00:00.002Z\t2026-01-02T00:00:00.003Z\t-\t-\t-\t-\t127.0.0.1:8001\t4\t0\t0\t0
";
    assert_eq!(requests_text(Format::Text, DAY + 1, None), expected);
}

#[test]
fn json_requests_have_the_columns_as_keys() {
    let text = requests_text(Format::Json, DAY + 2, Some(&prices()));
    let expected = "{\"request_id\":\"r5\",\"tenant\":\"acme\",\"key_id\":\"abcdefgh\",\"model\":\"=a\\tb\",\
                    \"surface\":\"chat\",\"ending\":\"open\",\"counted_by\":\"nothing\",\"prompt_tokens\":0,\
                    \"cached_tokens\":0,\"completion_tokens\":0,\"arrived\":\"2026-01-02T00:00:00.002Z\",\
                    \"dispatched\":\"2026-01-02T00:00:00.003Z\",\"first_token\":null,\"ended\":null,\
                    \"status\":null,\"reasoning_tokens\":null,\"upstream\":\"127.0.0.1:8001\",\"queue_wait_ms\":4,\
                    \"prefill_slot_ms\":0,\"decode_slot_ms\":0,\"revision\":0,\"cost\":0,\"currency\":\"USD\",\
                    \"unpriced_requests\":1}\n";
    assert_eq!(text, expected);
    let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let columns = REQUEST_COLUMNS.iter().chain(&COST_COLUMNS);
    assert!(columns.clone().all(|column| keys.contains_key(*column)) && keys.len() == columns.count());
}

#[test]
fn csv_requests_leave_cells_without_a_value_empty() {
    let text = requests_text(Format::Csv, DAY + 2, None);
    assert_eq!(text.lines().count(), 2);
    assert!(text.ends_with("2026-01-02T00:00:00.003Z,,,,,127.0.0.1:8001,4,0,0,0\n"), "{text}");
}

#[test]
fn seconds_are_exact_for_machines_and_short_for_people() {
    for (milliseconds, exact, short) in [
        (0, "0.000", "0.0"),
        (49, "0.049", "0.0"),
        (50, "0.050", "0.1"),
        (61_999, "61.999", "62.0"),
        (-1500, "-1.500", "-1.5"),
    ] {
        assert_eq!(
            (Cell::Seconds(milliseconds).exact().as_str(), Cell::Seconds(milliseconds).shown().as_str()),
            (exact, short)
        );
    }
}

#[test]
fn times_and_spans_are_read_as_people_write_them() {
    use crate::ledger::usage::{since, time};
    assert_eq!(since("1d", at(DAY)).unwrap(), at(0));
    assert_eq!(since("1h 30m", at(5_400_000)).unwrap(), at(0));
    for nonsense in ["", "yesterday", "-1d", "99999999999y"] {
        assert!(matches!(since(nonsense, at(0)), Err(UsageError::Span(_))), "{nonsense}");
    }
    assert_eq!(time("2026-01-02").unwrap(), at(DAY));
    assert_eq!(time("2026-01-02T01:00:00+01:00").unwrap(), at(DAY));
    for nonsense in ["", "2026", "2026-02-30", "2026-01-02T01:00:00", "today", "1767225600"] {
        assert!(matches!(time(nonsense), Err(UsageError::Time(_))), "{nonsense}");
    }
}
