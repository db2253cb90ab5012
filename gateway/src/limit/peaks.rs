//! How full a bucket has been since something was taken from it.
//!
//! A refund must not be worth more than what was taken. A bucket that has been full since would be just as full had
//! nothing been taken, so that nothing is due: otherwise credit could be banked above the capacity by taking, waiting
//! for the refill, and giving back. With `L` the level and `C` the capacity, having taken `f` less at time `t` would
//! make a level that is higher by `min(f, C - max L since t)`: the bucket is a queue with a reflecting barrier.

use std::collections::VecDeque;

/// Peaks that are remembered; beyond it the oldest two become one, which makes refunds smaller, never larger.
const MAX_PEAKS: usize = 64;

/// The highest levels since each of the takings that may still be given back.
#[derive(Debug, Default)]
pub(super) struct Peaks {
    /// The number of the last taking, and how many of them are open.
    last: u64,
    open: u64,
    /// `(taking, level)`: the highest level since any taking up to this one, and since the entry before. Levels fall.
    peaks: VecDeque<(u64, i128)>,
}

impl Peaks {
    /// Something was taken. Its number is given back with [`Peaks::end`].
    pub(super) fn begin(&mut self) -> u64 {
        self.last += 1;
        self.open += 1;
        self.last
    }

    /// The level has risen to this.
    pub(super) fn risen(&mut self, level: i128) {
        if self.open == 0 {
            return;
        }
        while self.peaks.back().is_some_and(|(_, peak)| *peak <= level) {
            self.peaks.pop_back();
        }
        if self.peaks.back().is_some_and(|(taking, _)| *taking == self.last) {
            return;
        }
        self.peaks.push_back((self.last, level));
        if self.peaks.len() > MAX_PEAKS
            && let Some((_, highest)) = self.peaks.pop_front()
            && let Some((_, peak)) = self.peaks.front_mut()
        {
            *peak = highest;
        }
    }

    /// A taking is over. Gives the highest level since; `None`: it has not risen.
    pub(super) fn end(&mut self, taking: u64) -> Option<i128> {
        let first = self.peaks.partition_point(|(last, _)| *last < taking);
        let highest = self.peaks.get(first).map(|(_, level)| *level);
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.peaks.clear();
        }
        highest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_taking_knows_the_highest_level_since() {
        let mut peaks = Peaks::default();
        let first = peaks.begin();
        peaks.risen(7);
        let second = peaks.begin();
        peaks.risen(3);
        peaks.risen(5);
        peaks.risen(4);
        let third = peaks.begin();
        assert_eq!(peaks.end(third), None);
        assert_eq!(peaks.end(second), Some(5));
        assert_eq!(peaks.end(first), Some(7));
        assert!(peaks.peaks.is_empty());
    }

    #[test]
    fn ever_lower_peaks_take_bounded_memory_and_err_to_the_safe_side() {
        let mut peaks = Peaks::default();
        let takings: Vec<_> = (0..1000)
            .map(|i| {
                let taking = peaks.begin();
                peaks.risen(10_000 - i);
                (taking, 10_000 - i)
            })
            .collect();
        assert_eq!(peaks.peaks.len(), MAX_PEAKS);
        for (taking, level) in takings {
            assert!(peaks.end(taking).unwrap() >= level);
        }
    }
}
