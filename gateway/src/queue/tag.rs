//! Virtual time: how much weighted work a flow has been charged for.

use std::ops::{Add, AddAssign, Sub};

/// Steps of a tag in one unit of cost: fine enough that weights do not round work away, coarse enough that an `i64`
/// lasts for centuries at a thousand units a second.
const STEPS: f64 = 1e6;

/// A moment, or a span, of virtual time: units of cost divided by weight. Whole numbers, so that what was charged can
/// be taken back to the last bit, and tags order totally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag(i64);

impl Tag {
    pub(super) const ZERO: Self = Self(0);

    /// What `cost` units come to for a flow of this weight.
    pub(super) fn of(cost: f64, weight: u32) -> Self {
        Self((cost * STEPS / f64::from(weight.max(1))) as i64)
    }

    /// The order of arrival as a tag.
    pub(super) fn arrival(number: u64) -> Self {
        Self(i64::try_from(number).unwrap_or(i64::MAX))
    }

    /// The units of cost that this span is for a flow of this weight.
    pub(super) fn cost(self, weight: u32) -> f64 {
        self.0 as f64 / STEPS * f64::from(weight.max(1))
    }
}

impl Add for Tag {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Tag {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Tag {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Where a flow stands in virtual time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// The start tag of its next request: the smallest goes first.
    pub(super) tag: Tag,
    /// Counts how often it came back from having nothing to run.
    era: u64,
    /// How far what was charged before this era reaches beyond the virtual time at which the era began. Below zero, it
    /// had credit, which is gone.
    before: Tag,
}

impl Standing {
    pub(super) fn era(&self) -> u64 {
        self.era
    }

    /// It has something to run again: it starts at the virtual time at least, whatever it did not use meanwhile.
    pub(super) fn lift(&mut self, virtual_time: Tag) {
        self.before = self.tag - virtual_time;
        self.tag = self.tag.max(virtual_time);
        self.era += 1;
    }

    /// Charges, or takes back, work of a request that was dispatched in `era`.
    ///
    /// What becomes known later of requests from before the last lift counts as if it had been known then: a refund
    /// must not bring back the credit that the lift took away.
    pub(super) fn charge(&mut self, amount: Tag, era: u64) {
        if era == self.era {
            self.tag += amount;
        } else {
            let counted = self.before.max(Tag::ZERO);
            self.before += amount;
            self.tag += self.before.max(Tag::ZERO) - counted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(units: f64) -> Tag {
        Tag::of(units, 1)
    }

    #[test]
    fn a_lift_takes_credit_away_but_leaves_debt() {
        let mut standing = Standing::default();
        standing.lift(units(50.0));
        assert_eq!(standing.tag, units(50.0));
        standing.charge(units(30.0), standing.era());
        standing.lift(units(60.0));
        assert_eq!(standing.tag, units(80.0));
    }

    #[test]
    fn a_refund_from_before_a_lift_brings_no_credit_back() {
        let mut standing = Standing::default();
        let era = standing.era();
        standing.charge(units(100.0), era);
        standing.lift(units(80.0));
        assert_eq!(standing.tag, units(100.0));
        // It came to 10 only. Had that been known, the lift would have gone to 80, not 10.
        standing.charge(units(-90.0), era);
        assert_eq!(standing.tag, units(80.0));
        // And what another one of then comes to above its estimate fills the gap first.
        standing.charge(units(75.0), era);
        assert_eq!(standing.tag, units(85.0));
    }

    #[test]
    fn what_is_charged_can_be_taken_back_exactly() {
        let mut standing = Standing::default();
        standing.charge(units(0.1), standing.era());
        let (before, odd) = (standing.tag, Tag::of(1234.5, 7));
        standing.charge(odd, standing.era());
        standing.charge(Tag::ZERO - odd, standing.era());
        assert_eq!(standing.tag, before);
        assert!((odd.cost(7) - 1234.5).abs() < 1e-4);
    }
}
