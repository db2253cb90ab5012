//! Axes: where a value stands between the two ends, and which round values are written beside it.

use super::super::number::{round, round_milliseconds};

/// An axis of a chart.
pub(super) struct Axis {
    scale: Scale,
    /// The scaled value at either end.
    from: f64,
    to: f64,
    /// Where ticks stand, from 0 to 1, and what is written there.
    pub(super) ticks: Vec<(f64, String)>,
}

#[derive(Clone, Copy)]
enum Scale {
    Linear,
    Logarithmic,
    /// Parts of all values, from 0 to 1: each step to the right is a tenth of what was left, so that the tail is seen.
    Tail,
}

impl Scale {
    fn of(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
            Self::Tail => -(1.0 - value).max(1e-12).log10(),
        }
    }
}

impl Axis {
    fn new(scale: Scale, ends: (f64, f64), ticks: impl IntoIterator<Item = (f64, String)>) -> Self {
        let (from, to) = (scale.of(ends.0), scale.of(ends.1));
        let mut axis = Self { scale, from, to, ticks: Vec::new() };
        axis.ticks = ticks.into_iter().map(|(value, label)| (axis.at(value), label)).collect();
        axis
    }

    /// From 0 to a round value not below `most`.
    pub(super) fn linear(most: f64, label: impl Fn(f64) -> String) -> Self {
        let step = round_step(most, 4.0);
        let steps = (most / step).ceil().max(1.0);
        Self::new(
            Scale::Linear,
            (0.0, step * steps),
            (0..=steps as u32).map(|n| (f64::from(n) * step, label(f64::from(n) * step))),
        )
    }

    /// From 0 to exactly `end`: time, or a part of a whole.
    pub(super) fn up_to(end: f64, label: impl Fn(f64) -> String) -> Self {
        let end = if end > 0.0 { end } else { 1.0 };
        let step = round_step(end, 5.0);
        let ticks = (0..=(end / step + 1e-9) as u32).map(|n| (f64::from(n) * step, label(f64::from(n) * step)));
        Self::new(Scale::Linear, (0.0, end), ticks)
    }

    /// Times in milliseconds, logarithmic, between round values around `least` and `most`; at most four powers of ten, so
    /// that a gap of almost nothing between two tokens does not press all others together. Less stands at the beginning.
    pub(super) fn times(least: f64, most: f64) -> Self {
        let rounds =
            |steps: &'static [f64]| (-3..8).flat_map(move |e| steps.iter().map(move |step| step * 10f64.powi(e)));
        let least = least.max(most / 1e4).clamp(0.001, 1e7);
        let from = rounds(&[1.0, 2.0, 5.0]).take_while(|&round| round <= least * 1.0001).last().unwrap_or(0.001);
        let to = rounds(&[1.0, 2.0, 5.0]).find(|&round| round >= most && round > from).unwrap_or(1e8);
        let steps: &[f64] = if to / from > 300.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let shown = rounds(steps).filter(|&round| round >= from * 0.9999 && round <= to * 1.0001);
        Self::new(Scale::Logarithmic, (from, to), shown.map(|round| (round, round_milliseconds(round))))
    }

    /// Percentiles of so many values: the last one is the largest value of all.
    pub(super) fn percentiles(count: u64) -> Self {
        let last = 1.0 - 1.0 / (count.max(10) as f64);
        let known = [(0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
        let shown = known.into_iter().filter(|(part, _)| *part <= last + 1e-9);
        Self::new(Scale::Tail, (0.0, last), shown.map(|(part, label)| (part, label.to_owned())))
    }

    /// Where a value stands: 0 at the beginning, 1 at the end; what is beyond stands at the end.
    pub(super) fn at(&self, value: f64) -> f64 {
        ((self.scale.of(value) - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }
}

/// 1, 2 or 5 times a power of ten, so that about `parts` of them make `most`.
fn round_step(most: f64, parts: f64) -> f64 {
    let rough = if most > 0.0 { most / parts } else { 0.25 };
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    power * steps.into_iter().find(|step| step * power >= rough * 0.9999).unwrap_or(10.0)
}

/// Seconds since the beginning.
pub(super) fn seconds(value: f64) -> String {
    if value >= 600.0 { format!("{} min", round(value / 60.0)) } else { format!("{} s", round(value)) }
}

/// A part of a whole.
pub(super) fn percent(part: f64) -> String {
    format!("{} %", round(part * 100.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_values() {
        assert_eq!(labels(&Axis::linear(7.3, round)), ["0", "2", "4", "6", "8"]);
        assert_eq!(labels(&Axis::up_to(180.0, seconds)), ["0 s", "50 s", "100 s", "150 s"]);
        assert_eq!(labels(&Axis::up_to(1.0, percent)), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]);
        assert_eq!(labels(&Axis::times(130.0, 1800.0)), ["100 ms", "200 ms", "500 ms", "1 s", "2 s"]);
        assert_eq!(labels(&Axis::times(3.0, 30_000.0)), ["10 ms", "100 ms", "1 s", "10 s"]);
        assert_eq!(labels(&Axis::times(0.0, 1000.0)), ["0.1 ms", "1 ms", "10 ms", "100 ms", "1 s"]);
        assert_eq!(labels(&Axis::percentiles(2000)), ["0", "50 %", "90 %", "99 %", "99.9 %"]);
    }

    #[test]
    fn each_step_of_the_tail_takes_a_tenth_of_what_was_left() {
        let axis = Axis::percentiles(10_000);
        let steps = [0.0, 0.9, 0.99, 0.999].map(|part| axis.at(part));
        for (step, expected) in steps.iter().zip([0.0, 0.25, 0.5, 0.75]) {
            assert!((step - expected).abs() < 1e-9, "{steps:?}");
        }
    }

    #[test]
    fn an_axis_of_nothing_has_ends_nevertheless() {
        for axis in [Axis::linear(0.0, round), Axis::up_to(0.0, round), Axis::times(0.0, 0.0), Axis::percentiles(0)] {
            assert!(axis.to > axis.from);
            assert!(axis.at(0.0) >= 0.0 && axis.at(1e9) <= 1.0);
        }
    }

    proptest! {
        #[test]
        fn values_are_within_the_axis_and_in_order(mut values in prop::collection::vec(0.001f64..1e7, 2..20)) {
            values.sort_by(f64::total_cmp);
            let (least, most) = (values[0], values[values.len() - 1]);
            for axis in [Axis::linear(most, round), Axis::up_to(most, round), Axis::times(least, most)] {
                let places: Vec<f64> = values.iter().map(|&value| axis.at(value)).collect();
                prop_assert!(places.iter().all(|place| (0.0..=1.0).contains(place)));
                prop_assert!(places.is_sorted());
                prop_assert!((2..=12).contains(&axis.ticks.len()), "{:?}", axis.ticks);
                prop_assert!(axis.ticks.iter().map(|(at, _)| at).is_sorted());
            }
        }
    }
}
