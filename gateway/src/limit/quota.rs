//! Tokens a day and a month: what was used and what is held, by the calendar period (UTC) in which a request arrived,
//! as the ledger counts.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

const SECONDS_PER_DAY: i64 = 86_400;

/// The day and the month in which a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Periods {
    pub(super) day: i64,
    pub(super) month: i64,
}

impl Periods {
    pub(super) fn of(time: Timestamp) -> Self {
        let date = time.to_zoned(TimeZone::UTC).date();
        Self {
            day: time.as_second().div_euclid(SECONDS_PER_DAY),
            month: i64::from(date.year()) * 12 + i64::from(date.month()),
        }
    }
}

/// When the day and the month (UTC) of `time` began.
///
/// # Errors
/// `time` is at the end of all times.
pub fn beginnings(time: Timestamp) -> Result<(Timestamp, Timestamp), jiff::Error> {
    let date = time.to_zoned(TimeZone::UTC).date();
    Ok((midnight(date)?, midnight(date.first_of_month())?))
}

fn midnight(date: Date) -> Result<Timestamp, jiff::Error> {
    date.to_zoned(TimeZone::UTC).map(|midnight| midnight.timestamp())
}

/// When the day and the month (UTC) of `time` will be over.
///
/// # Errors
/// `time` is at the end of all times.
pub fn endings(time: Timestamp) -> Result<(Timestamp, Timestamp), jiff::Error> {
    let date = time.to_zoned(TimeZone::UTC).date();
    Ok((midnight(date.tomorrow()?)?, midnight(date.last_of_month().tomorrow()?)?))
}

/// What is used and held of one period.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    period: i64,
    used: u64,
    held: u64,
}

/// One quota.
#[derive(Debug)]
pub(super) struct Quota {
    pub(super) limit: u64,
    /// Running requests end where it ends.
    pub(super) cuts: bool,
    current: Use,
    /// Who arrived just before the turn of the day may come here just after it.
    previous: Use,
}

impl Quota {
    pub(super) fn new(limit: u64, cuts: bool) -> Self {
        Self { limit, cuts, current: Use::default(), previous: Use::default() }
    }

    /// Tokens of the period that were used before.
    pub(super) fn restore(&mut self, period: i64, used: u64) {
        self.current = Use { period, used, held: 0 };
    }

    /// Lets a request of this period in. A period that is neither this one nor the one before begins unused: a new
    /// one, or one to which the wall clock was set back.
    pub(super) fn turn_to(&mut self, period: i64) {
        if self.find(period).is_none() {
            self.previous = self.current;
            self.current = Use { period, ..Use::default() };
        }
    }

    /// Tokens that nobody has used or holds.
    pub(super) fn left(&mut self, period: i64) -> u64 {
        let limit = self.limit;
        self.find(period).map_or(limit, |found| limit.saturating_sub(found.used).saturating_sub(found.held))
    }

    /// Tokens of settled requests.
    pub(super) fn used(&mut self, period: i64) -> u64 {
        self.find(period).map_or(0, |found| found.used)
    }

    /// The same, with what running requests hold.
    pub(super) fn taken(&mut self, period: i64) -> u64 {
        self.find(period).map_or(0, |found| found.used.saturating_add(found.held))
    }

    pub(super) fn hold(&mut self, period: i64, tokens: u64) {
        if let Some(found) = self.find(period) {
            found.held = found.held.saturating_add(tokens);
        }
    }

    /// A request that held tokens is over. A period that is long past is of no interest any more.
    pub(super) fn settle(&mut self, period: i64, held: u64, used: u64) {
        if let Some(found) = self.find(period) {
            found.held = found.held.saturating_sub(held);
            found.used = found.used.saturating_add(used);
        }
    }

    fn find(&mut self, period: i64) -> Option<&mut Use> {
        [&mut self.current, &mut self.previous].into_iter().find(|found| found.period == period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_at_midnight_utc() {
        let time: Timestamp = "2026-02-28T23:59:59.999Z".parse().unwrap();
        let (day, month) = beginnings(time).unwrap();
        assert_eq!(day.to_string(), "2026-02-28T00:00:00Z");
        assert_eq!(month.to_string(), "2026-02-01T00:00:00Z");
        let next: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        assert_eq!(endings(time).unwrap(), (next, next));
        assert_eq!(Periods::of(next).day, Periods::of(time).day + 1);
        assert_eq!(Periods::of(next).month, Periods::of(time).month + 1);
        assert_eq!(Periods::of(day).day, Periods::of(time).day);
        let december: Timestamp = "2026-12-31T12:00:00Z".parse().unwrap();
        let january: Timestamp = "2027-01-01T12:00:00Z".parse().unwrap();
        assert_eq!(Periods::of(january).month, Periods::of(december).month + 1);
    }

    #[test]
    fn each_request_counts_on_the_day_on_which_it_arrived() {
        let mut quota = Quota::new(100, false);
        quota.turn_to(7);
        quota.hold(7, 60);
        quota.turn_to(8);
        assert_eq!((quota.left(7), quota.left(8)), (40, 100));
        quota.settle(7, 60, 50);
        assert_eq!((quota.used(7), quota.used(8)), (50, 0));
        // Long past: the day is known no more, and nobody else pays.
        quota.turn_to(8);
        quota.hold(8, 10);
        quota.turn_to(9);
        quota.turn_to(10);
        quota.settle(8, 10, 10);
        assert_eq!((quota.used(9), quota.used(10), quota.left(10)), (0, 0, 100));
    }
}
