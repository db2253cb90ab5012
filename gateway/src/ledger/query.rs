//! Sums over the ledger: the one way in which usage is added up, for the command line, both usage APIs and the limits.
//!
//! Takes a [`Query`]; gives a [`Used`] for each bucket of time and each group in which there was a request. Whole days
//! come from the sums by day, and with them the entries that are still open, as far as they are written ahead; all else
//! comes from the entries and their corrections. Both say the same, to the token: whatever the width, the sums over one
//! range are equal. Usage belongs to the time at which its request arrived, in UTC.

use std::collections::BTreeMap;

use clap::ValueEnum;
use jiff::Timestamp;
use rusqlite::{Connection, Row, ToSql, Transaction};

use super::daily::{MILLISECONDS_OF_A_DAY, Sums};
use super::usage::{Reader, UsageError};
use crate::prices::{Cost, Day, Prices};

/// How long a bucket is. The first and the last one are as long as the range leaves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Width {
    /// From minute to minute.
    Minute,
    /// From hour to hour (UTC).
    Hour,
    /// From midnight to midnight (UTC).
    Day,
    /// As long as the range.
    Total,
}

impl Width {
    /// The name, for people and as a column.
    pub fn label(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Total => "total",
        }
    }

    /// How long a bucket is, in milliseconds; `None`: as long as the range.
    pub fn milliseconds(self) -> Option<i64> {
        match self {
            Self::Minute => Some(60_000),
            Self::Hour => Some(3_600_000),
            Self::Day => Some(MILLISECONDS_OF_A_DAY),
            Self::Total => None,
        }
    }
}

/// By what usage can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Field {
    /// The tenant.
    Tenant,
    /// The public id of the API key.
    Key,
    /// The model.
    Model,
    /// The API surface.
    Surface,
}

impl Field {
    /// All of them, in the order of columns.
    pub const ALL: [Self; 4] = [Self::Tenant, Self::Key, Self::Model, Self::Surface];

    /// The column in the ledger, and in answers.
    pub fn column(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Key => "key_id",
            Self::Model => "model",
            Self::Surface => "surface",
        }
    }
}

/// Which requests count. An empty list restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of these tenants.
    pub tenants: Vec<String>,
    /// By these API keys.
    pub keys: Vec<String>,
    /// Of these models.
    pub models: Vec<String>,
    /// By these surfaces.
    pub surfaces: Vec<String>,
}

impl Filter {
    fn lists(&self) -> [(Field, &[String]); 4] {
        [
            (Field::Tenant, &self.tenants),
            (Field::Key, &self.keys),
            (Field::Model, &self.models),
            (Field::Surface, &self.surfaces),
        ]
    }

    /// The conditions as SQL that begins with ` AND`, with parameters from number `first` on, and their values.
    pub(super) fn sql(&self, first: usize) -> (String, Vec<String>) {
        let (mut sql, mut values) = (String::new(), Vec::new());
        for (field, list) in self.lists().into_iter().filter(|(_, list)| !list.is_empty()) {
            let number = first + values.len();
            sql.push_str(&format!(" AND {} IN (SELECT value FROM json_each(?{number}))", field.column()));
            values.push(serde_json::Value::from(list).to_string());
        }
        (sql, values)
    }
}

/// What is asked of the ledger.
#[derive(Clone, Debug)]
pub struct Query {
    /// What arrived then or later ...
    pub from: Timestamp,
    /// ... and before that.
    pub to: Timestamp,
    /// How long a bucket is.
    pub width: Width,
    /// What is told apart within a bucket.
    pub by: Vec<Field>,
    /// Which requests count.
    pub only: Filter,
}

/// Of what the sums are, by the fields that were asked for; the others are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The tenant.
    pub tenant: Option<String>,
    /// The public id of the API key.
    pub key_id: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The API surface.
    pub surface: Option<String>,
}

impl Group {
    /// One of the fields, if it was asked for.
    pub fn field(&self, field: Field) -> Option<&str> {
        match field {
            Field::Tenant => self.tenant.as_deref(),
            Field::Key => self.key_id.as_deref(),
            Field::Model => self.model.as_deref(),
            Field::Surface => self.surface.as_deref(),
        }
    }
}

/// What one group used in one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// When the bucket begins.
    pub start: Timestamp,
    /// When it is over.
    pub end: Timestamp,
    /// Of what the sums are.
    pub group: Group,
    /// The sums.
    pub sums: Sums,
    /// What that cost; `None`: nothing has a price.
    pub cost: Option<Cost>,
}

/// A span of time, in milliseconds since 1970, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: i64,
    to: i64,
}

impl Span {
    fn days(self) -> (i64, i64) {
        (self.from.div_euclid(MILLISECONDS_OF_A_DAY), (self.to - 1).div_euclid(MILLISECONDS_OF_A_DAY))
    }
}

/// A table that has a part of the sums. Its rows are summed up by time (`?1` is how many milliseconds a bucket of it
/// has) and by group, in the span from `?2` to `?3`.
struct Source {
    with: &'static str,
    rows: &'static str,
    time: &'static str,
    requests: &'static str,
    reasoning: &'static str,
    queue_wait: &'static str,
}

/// One look-up a day, so that the sums of one key are found among those of many.
const DAYS: Source = Source {
    with: "WITH RECURSIVE days (day) AS
        (SELECT ?2 / 86400000 UNION ALL SELECT day + 1 FROM days WHERE day + 1 < ?3 / 86400000)",
    rows: "days CROSS JOIN daily USING (day) WHERE true",
    time: "day * 86400000",
    requests: "requests",
    reasoning: "reasoning_tokens",
    queue_wait: "queue_wait_ms",
};

const OPEN: Source = Source {
    rows: "entries INDEXED BY entries_open WHERE ending IS NULL AND arrived_ms >= ?2 AND arrived_ms < ?3",
    ..ENTRIES
};

const ENTRIES: Source = Source {
    with: "",
    rows: "entries WHERE arrived_ms >= ?2 AND arrived_ms < ?3",
    time: "arrived_ms",
    requests: "1",
    reasoning: "coalesce(reasoning_tokens, 0)",
    queue_wait: "queue_wait_ms",
};

const CORRECTIONS: Source = Source {
    with: "",
    rows: "corrections WHERE arrived_ms >= ?2 AND arrived_ms < ?3",
    time: "arrived_ms",
    requests: "0",
    reasoning: "reasoning_tokens",
    queue_wait: "0",
};

impl Source {
    fn sql(&self, by: &[Field], filter: &str) -> String {
        let Self { with, rows, time, requests, reasoning, queue_wait } = self;
        let group = Field::ALL.map(|field| if by.contains(&field) { field.column() } else { "NULL" }).join(", ");
        format!(
            "{with} SELECT {time} / ?1, {group}, sum({requests}), sum(prompt_tokens), sum(cached_tokens),
                sum(completion_tokens), sum({reasoning}), sum({queue_wait}), sum(prefill_slot_ms), sum(decode_slot_ms)
            FROM {rows}{filter} GROUP BY 1, 2, 3, 4, 5"
        )
    }
}

/// The sums so far, by the beginning of the bucket and by group.
type Found = BTreeMap<(i64, Group), (Sums, Option<Cost>)>;

impl Reader {
    /// What was used, in the order of time and group.
    ///
    /// # Errors
    /// What SQLite says; or the range begins or ends within a day whose entries have been deleted, or has shorter
    /// buckets than such a day.
    pub fn used(&self, query: &Query, prices: Option<&Prices>) -> Result<Vec<Used>, UsageError> {
        // One transaction: an entry that is settled meanwhile counts once, as an open one or in its day.
        let transaction = self.0.unchecked_transaction()?;
        let range = Span { from: query.from.as_millisecond().max(0), to: query.to.as_millisecond() };
        let (days, rest) = split(range, query.width);
        let mut found = Found::new();
        let mut add = |source, span| add(&transaction, source, span, (query, prices), &mut found);
        if let Some(days) = known_days(&transaction, days)? {
            add(&DAYS, days)?;
        }
        add(&OPEN, days)?;
        for span in rest {
            refuse_deleted(&transaction, span)?;
            add(&ENTRIES, span)?;
            add(&CORRECTIONS, span)?;
        }
        let bucket = |((start, group), (sums, cost))| {
            let start = at(start).max(query.from);
            let end = query.width.milliseconds().map(|width| {
                let start = start.as_millisecond();
                at(start - start.rem_euclid(width) + width)
            });
            Used { start, end: end.unwrap_or(query.to).min(query.to), group, sums, cost }
        };
        Ok(found.into_iter().map(bucket).collect())
    }
}

/// The whole days whose sums are asked for, and what of the range comes from the entries.
fn split(range: Span, width: Width) -> (Span, [Span; 2]) {
    let nothing = Span { from: range.to, to: range.to };
    if matches!(width, Width::Minute | Width::Hour) {
        return (nothing, [range, nothing]);
    }
    let (day, to) = (MILLISECONDS_OF_A_DAY, range.to.max(range.from));
    let first = range.from.saturating_add(day - 1).div_euclid(day) * day;
    let last = to.div_euclid(day) * day;
    if first > last {
        return (nothing, [range, nothing]);
    }
    (Span { from: first, to: last }, [Span { from: range.from, to: first }, Span { from: last, to }])
}

/// The first and the last day of which there are sums. Apart, each of the two is one step in the table's tree; together
/// they would read all of it.
const KNOWN_DAYS: &str = "SELECT (SELECT min(day) FROM daily), (SELECT max(day) FROM daily)";

/// Those of the days that any sum can be of.
fn known_days(connection: &Connection, days: Span) -> rusqlite::Result<Option<Span>> {
    let (first, last): (Option<i64>, Option<i64>) =
        connection.query_row(KNOWN_DAYS, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(None) };
    let from = days.from.max(first * MILLISECONDS_OF_A_DAY);
    let to = days.to.min((last + 1) * MILLISECONDS_OF_A_DAY);
    Ok((from < to).then_some(Span { from, to }))
}

/// Adds what a table has of a span.
fn add(
    transaction: &Transaction<'_>,
    source: &Source,
    span: Span,
    (query, prices): (&Query, Option<&Prices>),
    found: &mut Found,
) -> Result<(), UsageError> {
    if span.from >= span.to {
        return Ok(());
    }
    let mut by = query.by.clone();
    if prices.is_some() {
        by.push(Field::Model);
    }
    let (filter, values) = query.only.sql(4);
    let mut statement = transaction.prepare(&source.sql(&by, &filter))?;
    // Prices may change from day to day, so no sum is of more than one.
    let width = query.width.milliseconds().unwrap_or(MILLISECONDS_OF_A_DAY);
    let mut parameters: Vec<&dyn ToSql> = vec![&width, &span.from, &span.to];
    parameters.extend(values.iter().map(|value| value as &dyn ToSql));
    let mut rows = statement.query(&*parameters)?;
    while let Some(row) = rows.next()? {
        let time = row.get::<_, i64>(0)? * width;
        let (mut group, sums) = (read_group(row)?, read_sums(row)?);
        let cost = prices.zip(group.model.as_deref()).map(|(prices, model)| {
            prices.cost(model, Day::of_days(time.div_euclid(MILLISECONDS_OF_A_DAY)), &sums.quantities())
        });
        group.model = group.model.filter(|_| query.by.contains(&Field::Model));
        let start = if query.width == Width::Total { query.from.as_millisecond() } else { time };
        let (total, total_cost) = found.entry((start, group)).or_default();
        *total += sums;
        if let Some(cost) = cost {
            *total_cost.get_or_insert_default() += cost;
        }
    }
    Ok(())
}

/// Refuses a span in which entries have been deleted: their sums by day are all that is left of them.
fn refuse_deleted(connection: &Connection, span: Span) -> Result<(), UsageError> {
    if span.from >= span.to {
        return Ok(());
    }
    let (first, last) = span.days();
    // Of older days some entries may be there: those that still wait to be exported.
    let deleted = "SELECT max(day) + 1 FROM retired WHERE EXISTS (SELECT 1 FROM retired WHERE day BETWEEN ?1 AND ?2)";
    match connection.query_row(deleted, [first, last], |row| row.get::<_, Option<i64>>(0))? {
        Some(day) => Err(UsageError::Deleted { until: at(day * MILLISECONDS_OF_A_DAY) }),
        None => Ok(()),
    }
}

fn read_group(row: &Row<'_>) -> rusqlite::Result<Group> {
    Ok(Group { tenant: row.get(1)?, key_id: row.get(2)?, model: row.get(3)?, surface: row.get(4)? })
}

fn read_sums(row: &Row<'_>) -> rusqlite::Result<Sums> {
    Ok(Sums {
        requests: row.get(5)?,
        prompt_tokens: row.get(6)?,
        cached_tokens: row.get(7)?,
        completion_tokens: row.get(8)?,
        reasoning_tokens: row.get(9)?,
        queue_wait_ms: row.get(10)?,
        prefill_slot_ms: row.get(11)?,
        decode_slot_ms: row.get(12)?,
    })
}

/// The time so many milliseconds after 1970; the last one there is, if it is later.
fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or(if milliseconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
