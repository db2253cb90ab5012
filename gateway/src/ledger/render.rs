//! How answers of the ledger look: for people, as JSON, as CSV.

use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;

use super::usage::{DayUsage, Reader, RequestRow, UsageError};
use crate::table;

/// For whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// People: an aligned table, or lines of cells between tabs.
    #[default]
    Text,
    /// One JSON array of days, or one JSON object a line and request.
    Json,
    /// Comma-separated values with a header line, quoted as RFC 4180 says.
    Csv,
}

const DAY_COLUMNS: [&str; 6] = ["day", "tenant", "requests", "prompt_tokens", "cached_tokens", "completion_tokens"];

const REQUEST_COLUMNS: [&str; 15] = [
    "request_id",
    "tenant",
    "key_id",
    "model",
    "surface",
    "ending",
    "counted_by",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "arrived",
    "dispatched",
    "first_token",
    "ended",
    "status",
];

/// Writes usage by day and tenant.
///
/// # Errors
/// What `out` says.
pub fn usage(days: &[DayUsage], format: Format, out: &mut dyn Write) -> Result<(), UsageError> {
    let rows: Vec<_> = days.iter().map(day_cells).collect();
    match format {
        Format::Text => table::write_aligned(out, DAY_COLUMNS, &rows, 2)?,
        Format::Json => json(out, days)?,
        Format::Csv => {
            csv(out, DAY_COLUMNS)?;
            for row in &rows {
                csv(out, row.each_ref().map(String::as_str))?;
            }
        }
    }
    Ok(())
}

/// Writes each entry that arrived at `since` or later, one a line, in order of arrival.
///
/// # Errors
/// What the ledger or `out` says.
pub fn requests(reader: &Reader, since: Timestamp, format: Format, out: &mut dyn Write) -> Result<(), UsageError> {
    match format {
        Format::Text => writeln!(out, "{}", REQUEST_COLUMNS.join("\t"))?,
        Format::Json => {}
        Format::Csv => csv(out, REQUEST_COLUMNS)?,
    }
    reader.requests(since, |row| {
        match format {
            Format::Text => writeln!(out, "{}", request_cells(&row, "-").map(one_cell).join("\t"))?,
            Format::Json => json(out, &row)?,
            Format::Csv => csv(out, request_cells(&row, "").each_ref().map(String::as_str))?,
        }
        Ok(())
    })
}

fn day_cells(day: &DayUsage) -> [String; 6] {
    [
        day.day.clone(),
        day.tenant.clone(),
        day.requests.to_string(),
        day.prompt_tokens.to_string(),
        day.cached_tokens.to_string(),
        day.completion_tokens.to_string(),
    ]
}

/// `none` stands where there is no value.
fn request_cells(row: &RequestRow, none: &str) -> [String; 15] {
    let time = |time: Option<Timestamp>| time.map_or_else(|| none.to_owned(), |time| format!("{time:.3}"));
    [
        row.request_id.clone(),
        row.tenant.clone(),
        row.key_id.clone(),
        row.model.clone(),
        row.surface.clone(),
        row.ending.clone(),
        row.counted_by.clone(),
        row.prompt_tokens.to_string(),
        row.cached_tokens.to_string(),
        row.completion_tokens.to_string(),
        time(row.arrived),
        time(row.dispatched),
        time(row.first_token),
        time(row.ended),
        row.status.map_or_else(|| none.to_owned(), |status| status.to_string()),
    ]
}

/// A model's name comes from llama-server; whatever it holds, the line keeps its columns.
fn one_cell(cell: String) -> String {
    if cell.contains(char::is_control) { cell.escape_debug().to_string() } else { cell }
}

fn json(out: &mut dyn Write, value: &(impl Serialize + ?Sized)) -> Result<(), UsageError> {
    serde_json::to_writer(&mut *out, value).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

fn csv<const N: usize>(out: &mut dyn Write, cells: [&str; N]) -> std::io::Result<()> {
    let quoted = cells.map(|cell| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.to_owned()
        }
    });
    writeln!(out, "{}", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database;
    use crate::ledger::Dispatched;
    use crate::ledger::schema::{self, Statements};
    use crate::ledger::tests::{at, complete, dispatched, subject};

    const DAY: i64 = 86_400_000;

    /// Two days, two tenants, one open entry.
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
        open.model = "a\tb".into();
        statements.open(&open, &Dispatched { at: at(DAY + 3), ..dispatched() }).unwrap();
        statements.finish().unwrap();
        drop(connection);
        let reader = Reader::open(dir.path()).unwrap();
        (dir, reader)
    }

    fn usage_text(format: Format, since: Timestamp) -> String {
        let (_dir, reader) = ledger();
        let mut out = Vec::new();
        usage(&reader.usage(since).unwrap(), format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn requests_text(format: Format, since: Timestamp) -> String {
        let (_dir, reader) = ledger();
        let mut out = Vec::new();
        requests(&reader, since, format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn usage_is_a_table_by_utc_day_and_tenant() {
        let expected = "\
day         tenant  requests  prompt_tokens  cached_tokens  completion_tokens
2026-01-01  acme           2             20              2                 10
2026-01-02  acme           2             10              1                  5
2026-01-02  b,e            1             10              1                  5
";
        assert_eq!(usage_text(Format::Text, Timestamp::MIN), expected);
    }

    #[test]
    fn usage_is_one_json_array() {
        let expected = "[{\"day\":\"2026-01-02\",\"tenant\":\"acme\",\"requests\":2,\"prompt_tokens\":10,\
                        \"cached_tokens\":1,\"completion_tokens\":5},{\"day\":\"2026-01-02\",\"tenant\":\"b,e\",\
                        \"requests\":1,\"prompt_tokens\":10,\"cached_tokens\":1,\"completion_tokens\":5}]\n";
        assert_eq!(usage_text(Format::Json, at(DAY)), expected);
        assert_eq!(usage_text(Format::Json, at(9 * DAY)), "[]\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let expected = "\
day,tenant,requests,prompt_tokens,cached_tokens,completion_tokens
2026-01-02,acme,2,10,1,5
2026-01-02,\"b,e\",1,10,1,5
";
        assert_eq!(usage_text(Format::Csv, at(DAY)), expected);
    }

    #[test]
    fn requests_are_lines_between_tabs_in_the_stable_order() {
        let expected = "\
request_id\ttenant\tkey_id\tmodel\tsurface\tending\tcounted_by\tprompt_tokens\tcached_tokens\tcompletion_tokens\t\
arrived\tdispatched\tfirst_token\tended\tstatus
r4\tb,e\tabcdefgh\tsmollm2\tchat\tcomplete\tusage\t10\t1\t5\t\
2026-01-02T00:00:00.001Z\t2026-01-01T00:00:00.005Z\t2026-01-01T00:00:00.030Z\t2026-01-01T00:00:00.090Z\t200
r5\tacme\tabcdefgh\ta\\tb\tchat\topen\tnothing\t0\t0\t0\t\
2026-01-02T00:00:00.002Z\t2026-01-02T00:00:00.003Z\t-\t-\t-
";
        assert_eq!(requests_text(Format::Text, at(DAY + 1)), expected);
    }

    #[test]
    fn json_requests_have_the_columns_as_keys() {
        let text = requests_text(Format::Json, at(DAY + 2));
        let expected = "{\"request_id\":\"r5\",\"tenant\":\"acme\",\"key_id\":\"abcdefgh\",\"model\":\"a\\tb\",\
                        \"surface\":\"chat\",\"ending\":\"open\",\"counted_by\":\"nothing\",\"prompt_tokens\":0,\
                        \"cached_tokens\":0,\"completion_tokens\":0,\"arrived\":\"2026-01-02T00:00:00.002Z\",\
                        \"dispatched\":\"2026-01-02T00:00:00.003Z\",\"first_token\":null,\"ended\":null,\
                        \"status\":null}\n";
        assert_eq!(text, expected);
        let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert!(REQUEST_COLUMNS.iter().all(|column| keys.contains_key(*column)) && keys.len() == 15);
    }

    #[test]
    fn csv_requests_leave_cells_without_a_value_empty() {
        let text = requests_text(Format::Csv, at(DAY + 2));
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("2026-01-02T00:00:00.003Z,,,\n"), "{text}");
    }

    #[test]
    fn a_time_span_reaches_back_from_now() {
        use crate::ledger::usage::since;
        assert_eq!(since("1d", at(DAY)).unwrap(), at(0));
        assert_eq!(since("1h 30m", at(5_400_000)).unwrap(), at(0));
        for nonsense in ["", "yesterday", "-1d", "99999999999y"] {
            assert!(matches!(since(nonsense, at(0)), Err(UsageError::Span(_))), "{nonsense}");
        }
    }
}
