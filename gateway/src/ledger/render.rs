//! How answers of the ledger look: for people, as JSON, as CSV.
//!
//! Each answer is made of the same columns and cells for all three, so that they cannot differ in more than spelling.

use std::io::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::Sums;
use super::query::{Field, Filter, Query, Used, Width};
use super::usage::{Reader, RequestRow, UsageError};
use crate::prices::{Cost, Day, Money, Prices};
use crate::table;

/// For whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// People: an aligned table, or lines of cells between tabs.
    #[default]
    Text,
    /// One JSON array of sums, or one JSON object a line and request.
    Json,
    /// Comma-separated values with a header line, quoted as RFC 4180 says.
    Csv,
}

/// Decimals of money and of seconds in tables for people; elsewhere all are shown.
const DECIMALS_OF_MONEY: usize = 4;
const DECIMALS_OF_SECONDS: usize = 1;

const SUM_COLUMNS: [&str; 8] = [
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "queue_wait_seconds",
    "prefill_slot_seconds",
    "decode_slot_seconds",
];

const REQUEST_COLUMNS: [&str; 21] = [
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
    "reasoning_tokens",
    "upstream",
    "queue_wait_ms",
    "prefill_slot_ms",
    "decode_slot_ms",
    "revision",
];

/// Columns of costs; they are there if anything has a price.
const COST_COLUMNS: [&str; 3] = ["cost", "currency", "unpriced_requests"];

/// One value of an answer.
#[derive(Clone, Debug)]
enum Cell {
    Text(String),
    Integer(i64),
    /// Milliseconds that are shown as seconds.
    Seconds(i64),
    Money(Money),
    Nothing,
}

impl Cell {
    /// For people.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => one_cell(text),
            Self::Integer(number) => number.to_string(),
            Self::Seconds(milliseconds) => seconds(*milliseconds, DECIMALS_OF_SECONDS),
            Self::Money(money) => format!("{money:.DECIMALS_OF_MONEY$}"),
            Self::Nothing => "-".to_owned(),
        }
    }

    /// For machines.
    fn exact(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
            Self::Seconds(milliseconds) => seconds(*milliseconds, 3),
            Self::Money(money) => money.to_string(),
            Self::Nothing => String::new(),
        }
    }

    /// As CSV, quoted where that is needed. A text that a spreadsheet would take for a formula gets an apostrophe.
    fn csv(&self) -> String {
        let mut cell = self.exact();
        if matches!(self, Self::Text(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r'])) {
            cell.insert(0, '\'');
        }
        if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Money(money) => money.serialize(serializer),
            // A number with its three decimals.
            Self::Seconds(_) => {
                RawValue::from_string(self.exact()).map_err(serde::ser::Error::custom)?.serialize(serializer)
            }
            Self::Nothing => serializer.serialize_none(),
        }
    }
}

/// One line of an answer as a JSON object.
struct Line<'a> {
    columns: &'a [&'static str],
    cells: &'a [Cell],
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len()))?;
        for (column, cell) in self.columns.iter().zip(self.cells) {
            map.serialize_entry(column, cell)?;
        }
        map.end()
    }
}

/// Writes what a query gives: a line for each bucket and group, and for people a line with the totals.
///
/// # Errors
/// What the ledger or `out` says.
pub fn usage(
    reader: &Reader,
    query: &Query,
    prices: Option<&Prices>,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), UsageError> {
    let used = reader.used(query, prices)?;
    let fields: Vec<_> = Field::ALL.into_iter().filter(|field| query.by.contains(field)).collect();
    let time = (query.width != Width::Total).then_some(query.width.label());
    let names = time.into_iter().chain(fields.iter().map(|field| field.column()));
    let columns: Vec<_> = names.chain(SUM_COLUMNS).chain(cost_columns(prices)).collect();
    let mut lines: Vec<_> = used.iter().map(|used| sum_cells(used, query.width, &fields, prices)).collect();
    match format {
        Format::Text => {
            let names = fields.len() + usize::from(time.is_some());
            if names > 0 && !lines.is_empty() {
                lines.push(total_cells(&used, names, prices));
            }
            let lines: Vec<Vec<_>> = lines.iter().map(|line| line.iter().map(Cell::shown).collect()).collect();
            table::write_aligned(out, &columns, &lines, names)?;
        }
        Format::Json => json(out, &lines.iter().map(|cells| Line { columns: &columns, cells }).collect::<Vec<_>>())?,
        Format::Csv => {
            writeln!(out, "{}", columns.join(","))?;
            lines.iter().try_for_each(|line| csv(out, line))?;
        }
    }
    Ok(())
}

/// Writes each entry of a span of time, one a line, in order of arrival.
///
/// # Errors
/// What the ledger or `out` says.
pub fn requests(
    reader: &Reader,
    query: &Query,
    prices: Option<&Prices>,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), UsageError> {
    let columns: Vec<_> = REQUEST_COLUMNS.into_iter().chain(cost_columns(prices)).collect();
    match format {
        Format::Text => writeln!(out, "{}", columns.join("\t"))?,
        Format::Json => {}
        Format::Csv => writeln!(out, "{}", columns.join(","))?,
    }
    let only: &Filter = &query.only;
    reader.requests((query.from, query.to), only, |row| {
        let cells = request_cells(row, prices);
        match format {
            Format::Text => writeln!(out, "{}", cells.iter().map(Cell::shown).collect::<Vec<_>>().join("\t"))?,
            Format::Json => json(out, &Line { columns: &columns, cells: &cells })?,
            Format::Csv => csv(out, &cells)?,
        }
        Ok(())
    })
}

fn cost_columns(prices: Option<&Prices>) -> impl Iterator<Item = &'static str> {
    prices.into_iter().flat_map(|_| COST_COLUMNS)
}

fn sum_cells(used: &Used, width: Width, fields: &[Field], prices: Option<&Prices>) -> Vec<Cell> {
    let time = (width != Width::Total).then(|| Cell::Text(bucket(used.start, width)));
    let group = fields.iter().map(|field| Cell::Text(used.group.field(*field).unwrap_or_default().to_owned()));
    time.into_iter().chain(group).chain(measures(used.sums)).chain(costs(used.cost, prices)).collect()
}

/// The sums over all lines, behind as many cells as the lines have names.
fn total_cells(used: &[Used], names: usize, prices: Option<&Prices>) -> Vec<Cell> {
    let (mut sums, mut cost) = (Sums::default(), Cost::default());
    for used in used {
        sums += used.sums;
        cost += used.cost.unwrap_or_default();
    }
    let mut cells = vec![Cell::Text("total".to_owned())];
    cells.resize(names, Cell::Text(String::new()));
    cells.extend(measures(sums).into_iter().chain(costs(Some(cost), prices)));
    cells
}

fn measures(sums: Sums) -> [Cell; 8] {
    [
        Cell::Integer(sums.requests),
        Cell::Integer(sums.prompt_tokens),
        Cell::Integer(sums.cached_tokens),
        Cell::Integer(sums.completion_tokens),
        Cell::Integer(sums.reasoning_tokens),
        Cell::Seconds(sums.queue_wait_ms),
        Cell::Seconds(sums.prefill_slot_ms),
        Cell::Seconds(sums.decode_slot_ms),
    ]
}

fn costs(cost: Option<Cost>, prices: Option<&Prices>) -> Vec<Cell> {
    let cells = |prices: &Prices| {
        let cost = cost.unwrap_or_default();
        let currency = Cell::Text(prices.currency().to_owned());
        vec![Cell::Money(cost.total()), currency, Cell::Integer(cost.unpriced_requests)]
    };
    prices.map(cells).unwrap_or_default()
}

fn request_cells(row: RequestRow, prices: Option<&Prices>) -> Vec<Cell> {
    let time = |time: Option<Timestamp>| time.map_or(Cell::Nothing, |time| Cell::Text(format!("{time:.3}")));
    let integer = |number: u64| Cell::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let cost = prices.zip(row.arrived).map(|(prices, arrived)| {
        prices.cost(&row.model, Day::of_days(super::daily::day_of(arrived)), &row.quantities())
    });
    let mut cells = vec![
        Cell::Text(row.request_id),
        Cell::Text(row.tenant),
        Cell::Text(row.key_id),
        Cell::Text(row.model),
        Cell::Text(row.surface),
        Cell::Text(row.ending),
        Cell::Text(row.counted_by),
        integer(row.prompt_tokens),
        integer(row.cached_tokens),
        integer(row.completion_tokens),
        time(row.arrived),
        time(row.dispatched),
        time(row.first_token),
        time(row.ended),
        row.status.map_or(Cell::Nothing, |status| Cell::Integer(i64::from(status))),
        row.reasoning_tokens.map_or(Cell::Nothing, integer),
        row.upstream.map_or(Cell::Nothing, Cell::Text),
        integer(row.queue_wait_ms),
        integer(row.prefill_slot_ms),
        integer(row.decode_slot_ms),
        integer(row.revision),
    ];
    cells.extend(costs(cost, prices));
    cells
}

/// The beginning of a bucket, with as much of the time as its width leaves open.
fn bucket(start: Timestamp, width: Width) -> String {
    let start = start.to_zoned(TimeZone::UTC);
    let format = if width == Width::Day { "%Y-%m-%d" } else { "%Y-%m-%dT%H:%MZ" };
    start.strftime(format).to_string()
}

/// Milliseconds as seconds with so many decimals, rounded half away from zero.
fn seconds(milliseconds: i64, decimals: usize) -> String {
    let step = 10_u64.pow(3 - decimals.min(3) as u32);
    let rounded = (milliseconds.unsigned_abs() + step / 2) / step;
    let (sign, in_a_second) = (if milliseconds < 0 { "-" } else { "" }, 1000 / step);
    format!("{sign}{}.{:0decimals$}", rounded / in_a_second, rounded % in_a_second)
}

/// A model's name comes from llama-server; whatever it holds, the line keeps its columns.
fn one_cell(cell: &str) -> String {
    if cell.contains(char::is_control) { cell.escape_debug().to_string() } else { cell.to_owned() }
}

fn json(out: &mut dyn Write, value: &(impl Serialize + ?Sized)) -> Result<(), UsageError> {
    serde_json::to_writer(&mut *out, value).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

fn csv(out: &mut dyn Write, cells: &[Cell]) -> Result<(), UsageError> {
    writeln!(out, "{}", cells.iter().map(Cell::csv).collect::<Vec<_>>().join(","))?;
    Ok(())
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
