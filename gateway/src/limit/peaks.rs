//! How full a bucket has been since something was taken from it.
//!
//! A refund must not be worth more than what was taken. A bucket that has been full since would be just as full had
//! nothing been taken, so that nothing is due: otherwise credit could be banked above the capacity by taking, waiting
//! for the refill, and giving back. With `L` the level and `C` the capacity, having taken `f` less at time `t` would
//! make a level that is higher by `min(f, C - max L since t)`: the bucket is a queue with a reflecting barrier.

use std::collections::VecDeque;

/// The highest levels since each of the takings that are not over.
#[derive(Clone, Debug, Default)]
pub(super) struct Peaks {
    /// The number of the last taking.
    last: u64,
    /// Takings since which no level has been told.
    fresh: usize,
    /// Later ones are lower. Each has a taking that is not over, so there are no more than those.
    peaks: VecDeque<Peak>,
}

/// The highest level since each of the takings that come after those of the peak before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Peak {
    /// The last of the takings.
    last: u64,
    level: i128,
    /// How many of them are not over.
    open: usize,
}

impl Peaks {
    /// Something was taken. Its number is for [`Peaks::end`].
    pub(super) fn begin(&mut self) -> u64 {
        self.last += 1;
        self.fresh += 1;
        self.last
    }

    /// The level is this now. To be told before something is taken or a taking ends, and when it has risen.
    pub(super) fn risen(&mut self, level: i128) {
        while let Some(lower) = self.peaks.pop_back_if(|peak| peak.level <= level) {
            self.fresh += lower.open;
        }
        if self.fresh > 0 {
            self.peaks.push_back(Peak { last: self.last, level, open: self.fresh });
            self.fresh = 0;
        }
    }

    /// A taking is over, and so much of it was not needed. Gives how much of that is due: below zero, of a taking that
    /// was too small, all of it.
    pub(super) fn end(&mut self, taking: u64, unused: i128, capacity: i128) -> i128 {
        let mut index = self.peaks.partition_point(|peak| peak.last < taking);
        let Some(peak) = self.peaks.get_mut(index) else {
            self.fresh = self.fresh.saturating_sub(1);
            return unused;
        };
        peak.open = peak.open.saturating_sub(1);
        let due = unused.min(capacity - peak.level);
        if due > 0 {
            // All levels since would have been higher by it, which makes less due to those who came later.
            self.peaks.range_mut(index..).for_each(|peak| peak.level += due);
            while index > 0 && self.peaks[index - 1].level <= self.peaks[index].level {
                index -= 1;
                let lower = self.peaks.remove(index).map_or(0, |peak| peak.open);
                self.peaks[index].open += lower;
            }
        }
        if self.peaks[index].open == 0 {
            self.peaks.remove(index);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refund_is_worth_as_much_as_there_was_room_since_its_taking() {
        let mut peaks = Peaks::default();
        let takings = [10, 7, 3].map(|level| {
            let taking = peaks.begin();
            peaks.risen(level);
            taking
        });
        assert_eq!(peaks.end(takings[2], 5, 12), 5);
        assert_eq!(peaks.end(takings[0], 5, 12), 2);
        // The level has been 7 and would have been 9 without the first.
        assert_eq!(peaks.end(takings[1], 5, 12), 2);
        assert!(peaks.peaks.is_empty());
    }

    #[test]
    fn what_was_overdrawn_is_due_in_full() {
        let mut peaks = Peaks::default();
        let taking = peaks.begin();
        peaks.risen(12);
        assert_eq!(peaks.end(taking, -5, 12), -5);
    }

    #[test]
    fn there_are_never_more_peaks_than_open_takings() {
        let mut peaks = Peaks::default();
        let oldest = peaks.begin();
        for level in (0..1000).rev() {
            peaks.risen(level);
            let short = peaks.begin();
            peaks.risen(level - 1);
            peaks.end(short, 0, 1000);
            assert!(peaks.peaks.len() <= 1, "{peaks:?}");
        }
        assert_eq!(peaks.end(oldest, 50, 1000), 1);
    }
}
