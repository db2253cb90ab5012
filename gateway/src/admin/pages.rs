//! What one page of the organization usage API shows: its parameters, its buckets, and the cursor of the next page.
//!
//! Takes a URL; gives an [`Asked`]. The shapes and bounds are OpenAI's; a project is a tenant. Nobody but keys and
//! tenants is known here, so there are no users: `user_id` is null, and of particular users there is no usage.

use std::num::NonZeroI64;

use http::Uri;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::Rejection;
use crate::ledger::query::{Filter, Used, Width};
use crate::parameters::Parameters;

/// The first and the largest `limit` of each width of a bucket.
pub(super) type Widths = &'static [(&'static str, (Width, (i64, i64)))];

/// By what the API can group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupBy {
    Project,
    User,
    Key,
    Model,
    LineItem,
    Surface,
}

/// What the paths differ in.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// The last part of the path.
    pub(super) name: &'static str,
    /// The surfaces that count; none: all.
    pub(super) surfaces: &'static [&'static str],
    pub(super) widths: Widths,
    pub(super) groups: &'static [(&'static str, GroupBy)],
    /// The list of names, besides tenants and keys, that usage can be restricted to.
    pub(super) names: &'static str,
}

/// A page that is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) by: Vec<GroupBy>,
    pub(super) only: Filter,
    /// What of `Kind::names` counts; none: all.
    pub(super) names: Vec<String>,
    /// Usage of these users is asked for: there is none.
    pub(super) users: bool,
    pub(super) width: Width,
    /// The buckets of the page.
    pub(super) buckets: Vec<(Timestamp, Timestamp)>,
    /// The cursor of the page after this one.
    next_page: Option<String>,
}

/// A page.
#[derive(Serialize)]
pub(super) struct Page<T> {
    object: &'static str,
    data: Vec<Bucket<T>>,
    has_more: bool,
    next_page: Option<String>,
}

#[derive(Serialize)]
struct Bucket<T> {
    object: &'static str,
    start_time: i64,
    end_time: i64,
    results: Vec<T>,
}

impl Asked {
    /// Reads the parameters of a URL.
    ///
    /// # Errors
    /// The first one that is wrong.
    pub(super) fn read(kind: &Kind, uri: &Uri, now: Timestamp) -> Result<Self, Rejection> {
        let mut parameters = Parameters::of(uri);
        let start = parameters.take_time("start_time")?;
        let start = start.ok_or_else(|| Rejection::field("start_time", "`start_time` is needed."))?;
        let end = parameters.take_time("end_time")?;
        let width = parameters.take_choice("bucket_width", kind.widths)?;
        // Widths are listed with the longest, which is the default, first.
        let (width, (default_limit, most)) = width.unwrap_or(kind.widths[0].1);
        let limit = parameters.take_number("limit", (1, most))?.unwrap_or(default_limit);
        let by = parameters.take_choices("group_by", kind.groups)?;
        let only = Filter {
            tenants: parameters.take_all("project_ids"),
            keys: parameters.take_all("api_key_ids"),
            models: Vec::new(),
            surfaces: kind.surfaces.iter().map(|surface| (*surface).to_owned()).collect(),
        };
        let names = parameters.take_all(kind.names);
        let users = parameters.take_all("user_ids");
        let page = parameters.take("page")?;
        parameters.finish()?;
        if end.is_some_and(|end| end <= start) {
            return Err(Rejection::field("end_time", "`end_time` must be after `start_time`."));
        }
        let query = format!("{} {start} {end:?} {width:?} {by:?} {only:?} {names:?} {users:?}", kind.name);
        // What arrives in this second counts.
        let until = end.unwrap_or_else(|| seconds(now.as_second() + 1)).max(start);
        let (from, until) = match page {
            Some(page) => read_cursor(&page, &query)?,
            None => (start, until),
        };
        let buckets = buckets(from, until, width, limit);
        let next = buckets.last().map_or(until, |(_, end)| *end);
        let next_page = (next < until).then(|| cursor(next, until, &query));
        Ok(Self { by, only, names, users: !users.is_empty(), width, buckets, next_page })
    }

    /// The span of the page.
    pub(super) fn span(&self) -> (Timestamp, Timestamp) {
        let first = self.buckets.first().map_or(Timestamp::MIN, |(start, _)| *start);
        (first, self.buckets.last().map_or(first, |(_, end)| *end))
    }

    /// The answer: what `results` makes of the rows of each bucket.
    pub(super) fn page<T>(self, used: &[Used], results: impl Fn(&[Used]) -> Vec<T>) -> Page<T> {
        let bucket = |(start, end): (Timestamp, Timestamp)| {
            let first = used.partition_point(|row| row.start < start);
            let rows = &used[first..used.partition_point(|row| row.start < end)];
            Bucket {
                object: "bucket",
                start_time: start.as_second(),
                end_time: end.as_second(),
                results: results(rows),
            }
        };
        Page {
            object: "page",
            data: self.buckets.into_iter().map(bucket).collect(),
            has_more: self.next_page.is_some(),
            next_page: self.next_page,
        }
    }

    /// Whether the answer is told apart by this.
    pub(super) fn has(&self, group: GroupBy) -> bool {
        self.by.contains(&group)
    }
}

/// At most `limit` buckets; the first and the last one are as long as the range leaves them.
fn buckets(from: Timestamp, until: Timestamp, width: Width, limit: i64) -> Vec<(Timestamp, Timestamp)> {
    let width = width.milliseconds().and_then(|width| NonZeroI64::new(width / 1000)).map_or(1, NonZeroI64::get);
    let mut buckets = Vec::new();
    let mut start = from;
    while start < until && (buckets.len() as i64) < limit {
        let begun = start.as_second() - start.as_second().rem_euclid(width);
        let end = seconds(begun + width).min(until);
        buckets.push((start, end));
        start = end;
    }
    buckets
}

fn seconds(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// Where the next page begins and where the last one ends, bound to the query: all pages are of one range, however long
/// it takes to read them.
fn cursor(next: Timestamp, until: Timestamp, query: &str) -> String {
    let place = format!("{:x}-{:x}", next.as_second(), until.as_second());
    let seal = Sha256::digest(format!("usage page {place} {query}"));
    let seal: String = seal.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("page_{place}-{seal}")
}

fn read_cursor(page: &str, query: &str) -> Result<(Timestamp, Timestamp), Rejection> {
    let read = || {
        let mut parts = page.strip_prefix("page_")?.split('-');
        let mut time = || i64::from_str_radix(parts.next()?, 16).ok().map(seconds);
        let (next, until) = (time()?, time()?);
        (cursor(next, until, query) == page).then_some((next, until))
    };
    read().ok_or_else(|| {
        Rejection::field("page", "`page` must be the `next_page` of an answer to the same query, and nothing else.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::usage::COMPLETIONS;

    const DAY: i64 = 86_400;

    fn asked(query: &str) -> Result<Asked, Rejection> {
        let uri = format!("/v1/organization/usage/completions?{query}").parse().unwrap();
        Asked::read(&COMPLETIONS, &uri, seconds(40 * DAY + 100))
    }

    fn spans(asked: &Asked) -> Vec<(i64, i64)> {
        asked.buckets.iter().map(|(start, end)| (start.as_second(), end.as_second())).collect()
    }

    #[test]
    fn pages_follow_each_other_to_the_end_that_the_first_one_saw() {
        let first = asked(&format!("start_time={}", 32 * DAY + 5)).unwrap();
        let expected: Vec<_> =
            (32..39).map(|day| (day * DAY + if day == 32 { 5 } else { 0 }, (day + 1) * DAY)).collect();
        assert_eq!(spans(&first), expected);
        let page = first.next_page.unwrap();
        let uri = format!("/?start_time={}&limit=3&page={page}", 32 * DAY + 5).parse().unwrap();
        let second = Asked::read(&COMPLETIONS, &uri, seconds(50 * DAY)).unwrap();
        assert_eq!(spans(&second), [(39 * DAY, 40 * DAY), (40 * DAY, 40 * DAY + 101)]);
        assert_eq!(second.next_page, None);
    }

    #[test]
    fn a_cursor_that_was_changed_or_is_of_another_query_is_refused() {
        let query = format!("start_time={}&group_by[]=model", 20 * DAY);
        let page = asked(&query).unwrap().next_page.unwrap();
        assert!(asked(&format!("{query}&page={page}")).is_ok());
        let changed = page.replacen(&format!("{:x}", 27 * DAY), &format!("{:x}", 26 * DAY), 1);
        assert_ne!(changed, page);
        for wrong in [
            format!("{query}&page={changed}"),
            format!("{query}&page={page}0"),
            format!("{query}&page="),
            format!("{query}&page=page_1-2-3"),
            format!("start_time={}&page={page}", 20 * DAY),
            format!("{query}&project_ids=acme&page={page}"),
            format!("{query}&end_time={}&page={page}", 40 * DAY),
        ] {
            assert_eq!(asked(&wrong).unwrap_err().param.as_deref(), Some("page"), "{wrong}");
        }
    }

    #[test]
    fn widths_have_the_limits_that_openai_gives_them() {
        for (width, default, most) in [("1d", 7, 31), ("1h", 24, 168), ("1m", 60, 1440)] {
            let query = format!("start_time=0&bucket_width={width}");
            assert_eq!(asked(&query).unwrap().buckets.len(), default);
            assert_eq!(asked(&format!("{query}&limit={most}")).unwrap().buckets.len(), most);
            let error = asked(&format!("{query}&limit={}", most + 1)).unwrap_err();
            assert_eq!(error.param.as_deref(), Some("limit"));
        }
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_name() {
        for (query, param) in [
            ("", "start_time"),
            ("start_time=soon", "start_time"),
            ("start_time=1&start_time=2", "start_time"),
            ("start_time=5&end_time=5", "end_time"),
            ("start_time=0&bucket_width=1w", "bucket_width"),
            ("start_time=0&limit=0", "limit"),
            ("start_time=0&group_by[]=batch", "group_by"),
            ("start_time=0&group_by=line_item", "group_by"),
            ("start_time=0&batch=true", "batch"),
        ] {
            assert_eq!(asked(query).unwrap_err().param.as_deref(), Some(param), "{query}");
        }
        // A range that has not begun yet has no buckets.
        assert!(asked(&format!("start_time={}", 41 * DAY)).unwrap().buckets.is_empty());
    }
}
