//! `GET /v1/usage`: what the holder of a key sees of it: what it used, its limits, what is left of them.
//!
//! Of its tenant it sees the limits and how far they are used, since they bind it too; never what other keys did. It
//! costs little: this day and month and all whole days come from the sums by day, hours from the entries of one day.

use std::collections::BTreeMap;

use http::Uri;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::Further;
use crate::app::App;
use crate::auth::Caller;
use crate::error::{Reason, Rejection};
use crate::handle::Arrival;
use crate::ledger::Sums;
use crate::ledger::query::{Field, Filter, Query, Used, Width};
use crate::limit::{Level, beginnings, endings};
use crate::parameters::Parameters;
use crate::policy::Terms;
use crate::prices::{Cost, Prices};

/// Buckets of an answer at most, by their width: 31 days are sums, 24 hours are the entries of a day.
const WIDTHS: [(&str, (Width, i64)); 2] = [("1d", (Width::Day, 31)), ("1h", (Width::Hour, 24))];

/// The whole answer.
#[derive(Serialize)]
pub struct Own {
    object: &'static str,
    tenant: String,
    api_key_id: String,
    class: String,
    policies: Policies,
    limits: Vec<Limit>,
    today: Period,
    this_month: Period,
    #[serde(skip_serializing_if = "Option::is_none")]
    buckets: Option<Vec<Period>>,
}

/// The names of the policies.
#[derive(Serialize)]
struct Policies {
    tenant: String,
    key: Option<String>,
}

/// One limit, with the time at which all of it is left again.
#[derive(Serialize)]
struct Limit {
    of: &'static str,
    name: &'static str,
    limit: u64,
    used: u64,
    remaining: u64,
    resets_at: Option<String>,
    resets_in_seconds: Option<f64>,
}

/// What was used in a span of time, and by which model. Times are seconds since 1970.
#[derive(Serialize)]
struct Period {
    start_time: i64,
    end_time: i64,
    #[serde(flatten)]
    total: Measures,
    models: Vec<OfModel>,
}

#[derive(Serialize)]
struct OfModel {
    model: String,
    #[serde(flatten)]
    measures: Measures,
}

#[derive(Serialize)]
struct Measures {
    requests: i64,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    #[serde(flatten)]
    further: Further,
}

/// The answer to the one who asks.
///
/// # Errors
/// A parameter is wrong, too many ask at once, or the ledger cannot be read.
pub async fn own(app: &App, arrival: &Arrival, uri: &Uri) -> Result<Own, Rejection> {
    let Arrival { caller, terms, timestamp: now, .. } = arrival;
    let asked = asked(Parameters::of(uri), *now)?;
    let (day, month) = beginnings(*now).map_err(|error| no_such_day(&error))?;
    let (day_end, month_end) = endings(*now).map_err(|error| no_such_day(&error))?;
    let of_days = app.own_usage.used(query_of(caller, (month, month_end), Width::Day)).await?;
    let buckets = match asked {
        Some((from, to, width)) => Some(app.own_usage.used(query_of(caller, (from, to), width)).await?),
        None => None,
    };
    let prices = app.own_usage.prices();
    let of_today = of_days.iter().filter(|used| used.start == day);
    Ok(Own {
        object: "usage",
        tenant: caller.tenant.to_string(),
        api_key_id: caller.key_id.to_string(),
        class: app.policies.classes().get(terms.class.0).map(|class| class.name.to_string()).unwrap_or_default(),
        policies: policies(app, caller),
        limits: limits(app, caller, terms, *now),
        today: period((day, day_end), of_today, prices),
        this_month: period((month, month_end), of_days.iter(), prices),
        buckets: buckets.map(|buckets| by_bucket(&buckets, prices)),
    })
}

/// The buckets that are asked for besides this day and month, if any.
fn asked(mut parameters: Parameters, now: Timestamp) -> Result<Option<(Timestamp, Timestamp, Width)>, Rejection> {
    let start = parameters.take_time("start_time")?;
    let end = parameters.take_time("end_time")?;
    let width = parameters.take_choice("bucket_width", &WIDTHS)?;
    parameters.finish()?;
    let Some(start) = start else {
        return match (end, width) {
            (None, None) => Ok(None),
            _ => Err(Rejection::field("start_time", "`start_time` is needed with `end_time` and `bucket_width`.")),
        };
    };
    let (width, most) = width.unwrap_or(WIDTHS[0].1);
    let seconds = width.milliseconds().unwrap_or_default() / 1000;
    let end = end.unwrap_or_else(|| {
        let now = now.as_second();
        Timestamp::from_second(now - now.rem_euclid(seconds) + seconds).unwrap_or(Timestamp::MAX)
    });
    for (name, time) in [("start_time", start), ("end_time", end)] {
        if time.as_second() % seconds != 0 {
            let message = format!(
                "`{name}` must be a multiple of {seconds} with this `bucket_width`: a full {} in UTC.",
                width.label()
            );
            return Err(Rejection::field(name, message));
        }
    }
    if end <= start {
        return Err(Rejection::field("end_time", "`end_time` must be after `start_time`."));
    }
    if (end.as_second() - start.as_second()) / seconds > most {
        let message = format!("There may be {most} buckets of this `bucket_width` at most.");
        return Err(Rejection::field("start_time", message));
    }
    Ok(Some((start, end, width)))
}

fn no_such_day(error: &jiff::Error) -> Rejection {
    Rejection::new(Reason::Internal, "The usage cannot be read at the moment.").operator(format!("the clock: {error}"))
}

/// What one key used, by model.
fn query_of(caller: &Caller, (from, to): (Timestamp, Timestamp), width: Width) -> Query {
    let only =
        Filter { tenants: vec![caller.tenant.to_string()], keys: vec![caller.key_id.to_string()], ..Filter::default() };
    Query { from, to, width, by: vec![Field::Model], only }
}

fn policies(app: &App, caller: &Caller) -> Policies {
    let (tenant, key) = app.policies.names(caller);
    Policies { tenant: tenant.to_owned(), key: key.map(str::to_owned) }
}

fn limits(app: &App, caller: &Caller, terms: &Terms, now: Timestamp) -> Vec<Limit> {
    let limit = |Level { of, name, limit, used, remaining, resets_in }| {
        let resets_in = resets_in.and_then(|time| SignedDuration::try_from(time).ok());
        let resets_at = resets_in.and_then(|time| now.checked_add(time).ok()).map(|time| format!("{time:.3}"));
        let resets_in_seconds = resets_in.map(|time| time.as_millis_f64().ceil() / 1000.0);
        Limit { of, name, limit, used, remaining, resets_at, resets_in_seconds }
    };
    app.limits.describe(caller, terms, now).into_iter().map(limit).collect()
}

/// The rows of one bucket after the other; they come in this order.
fn by_bucket(used: &[Used], prices: Option<&Prices>) -> Vec<Period> {
    let same = |one: &Used, next: &Used| one.start == next.start;
    let bucket = |rows: &[Used]| Some(period((rows.first()?.start, rows.first()?.end), rows.iter(), prices));
    used.chunk_by(same).filter_map(bucket).collect()
}

fn period<'a>(
    (start, end): (Timestamp, Timestamp),
    used: impl Iterator<Item = &'a Used>,
    prices: Option<&Prices>,
) -> Period {
    let (mut total, mut models) = ((Sums::default(), Cost::default()), BTreeMap::<_, (Sums, Cost)>::new());
    for row in used {
        let model = models.entry(row.group.model.as_deref().unwrap_or_default()).or_default();
        for (sums, cost) in [&mut total, model] {
            *sums += row.sums;
            *cost += row.cost.unwrap_or_default();
        }
    }
    let measures = |(sums, cost): (Sums, Cost)| Measures {
        requests: sums.requests,
        prompt_tokens: sums.prompt_tokens,
        cached_tokens: sums.cached_tokens,
        completion_tokens: sums.completion_tokens,
        further: Further::of(sums, Some(cost), prices),
    };
    let of_model = |(model, of): (&str, _)| OfModel { model: model.to_owned(), measures: measures(of) };
    Period {
        start_time: start.as_second(),
        end_time: end.as_second(),
        total: measures(total),
        models: models.into_iter().map(of_model).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn asked_at(query: &str, now: i64) -> Result<Option<(i64, i64, Width)>, Rejection> {
        let parameters = Parameters::of(&format!("/v1/usage?{query}").parse().unwrap());
        let asked = asked(parameters, Timestamp::from_second(now).unwrap())?;
        Ok(asked.map(|(from, to, width)| (from.as_second(), to.as_second(), width)))
    }

    #[test]
    fn buckets_are_asked_for_by_full_days_or_hours() {
        let now = 40 * DAY + 4000;
        for (query, expected) in [
            (String::new(), None),
            (format!("start_time={}", 39 * DAY), Some((39 * DAY, 41 * DAY, Width::Day))),
            (format!("start_time={}&end_time={}", 9 * DAY, 40 * DAY), Some((9 * DAY, 40 * DAY, Width::Day))),
            (format!("start_time={}&bucket_width=1h", 40 * DAY), Some((40 * DAY, 40 * DAY + 7200, Width::Hour))),
        ] {
            assert_eq!(asked_at(&query, now).unwrap(), expected, "{query}");
        }
        for (query, param) in [
            (format!("start_time={}", 40 * DAY + 1), "start_time"),
            (format!("start_time={}", 41 * DAY), "end_time"),
            (format!("start_time={}", 9 * DAY), "start_time"),
            (format!("start_time={}&bucket_width=1h", 39 * DAY), "start_time"),
            (format!("start_time={}&bucket_width=1m", 40 * DAY), "bucket_width"),
            ("bucket_width=1d".to_owned(), "start_time"),
            ("end_time=0".to_owned(), "start_time"),
            ("tenant=other".to_owned(), "tenant"),
        ] {
            assert_eq!(asked_at(&query, now).unwrap_err().param.as_deref(), Some(param), "{query}");
        }
    }
}
