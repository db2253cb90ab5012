//! llama-server's book: by how much its own counters have grown.

use crate::target::counters::Counters;

/// Significant digits that llama-server writes.
const DIGITS: u32 = 6;

/// How much counters have grown by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) computed: u64,
    /// None if one of the servers does not count them.
    pub(super) cached: Option<u64>,
    pub(super) generated: u64,
    /// How far these may be off, because the server rounds large counters.
    pub(super) rounding: u64,
}

impl Growth {
    /// What has come between two readings. `None`: the server was started anew meanwhile, since counters never fall.
    pub(super) fn between(before: &Counters, after: &Counters) -> Option<Self> {
        let cached = match (after.cached, before.cached) {
            (Some(now), Some(before)) => Some(now.checked_sub(before)?),
            _ => None,
        };
        let all = [after.computed, before.computed, after.generated, before.generated];
        let caches = [after.cached, before.cached].into_iter().flatten();
        Some(Self {
            computed: after.computed.checked_sub(before.computed)?,
            cached,
            generated: after.generated.checked_sub(before.generated)?,
            rounding: all.into_iter().chain(caches).map(rounding).sum(),
        })
    }

    /// Of two servers together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            computed: self.computed + other.computed,
            cached: self.cached.zip(other.cached).map(|(one, other)| one + other),
            generated: self.generated + other.generated,
            rounding: self.rounding + other.rounding,
        }
    }
}

/// How far a counter may be from what it says: from a million on llama-server rounds it to six digits. One that has more
/// digits was not rounded.
fn rounding(counter: u64) -> u64 {
    let unit = 10_u64.pow(counter.max(1).ilog10().saturating_sub(DIGITS - 1));
    if counter.is_multiple_of(unit) { unit / 2 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(computed: u64, cached: Option<u64>, generated: u64) -> Counters {
        Counters { computed, cached, generated, busy: 0 }
    }

    #[test]
    fn a_counter_that_fell_is_a_restart() {
        let before = counters(100, Some(50), 20);
        let grown = Growth { computed: 1, cached: Some(2), generated: 3, rounding: 0 };
        assert_eq!(Growth::between(&before, &counters(101, Some(52), 23)), Some(grown));
        for fallen in [counters(99, Some(50), 20), counters(100, Some(49), 20), counters(100, Some(50), 19)] {
            assert_eq!(Growth::between(&before, &fallen), None, "{fallen:?}");
        }
    }

    #[test]
    fn from_a_million_on_counters_are_rounded() {
        let growth = Growth::between(&counters(999_999, Some(0), 7), &counters(1_248_000, Some(0), 999_999)).unwrap();
        assert_eq!(growth.rounding, 5);
        for (counter, error) in [(0, 0), (7, 0), (12_345_600, 50), (1_000_000_000, 5_000), (1_248_001, 0)] {
            assert_eq!(rounding(counter), error, "{counter}");
        }
    }
}
