//! When sessions begin: an iterator of moments for every kind of arrival.
//!
//! All kinds but a trace are made in two steps. Gaps with a mean of 1 (even, exponential or gamma) add up to the number
//! of sessions that are to be expected by a moment, and the rate's curve says when that number is expected. With
//! exponential gaps this is a Poisson process whose rate follows the curve, exactly: the change of time of Çinlar,
//! Introduction to Stochastic Processes (1975), chapter 4.7. Unlike thinning (Lewis and Shedler, 1979) it draws one
//! number a session, so that the n-th session is the same draw at every rate.

use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Gamma};

use super::trace::Trace;
use crate::workload::Arrival;

/// The moments at which a tenant's sessions begin, ascending, from the beginning of the run. It ends with the
/// workload's duration, with the trace, or when the rate stays 0. A closed loop has none: its users decide.
#[derive(Clone, Debug)]
pub struct Arrivals(Source);

#[derive(Clone, Debug)]
enum Source {
    /// Users decide.
    Closed,
    /// Drawn, until `end`.
    Drawn { process: Box<Process>, end: Duration },
    /// The rows of a trace; those that are due within the duration are all that were read.
    Trace { rows: Arc<Trace>, next: usize },
}

impl Arrivals {
    /// Those of a checked `arrival` that is no trace, for a run that takes `duration`.
    pub(super) fn drawn(arrival: &Arrival, duration: Duration, rng: ChaCha8Rng) -> Self {
        Self(
            Process::new(arrival, duration, rng)
                .map_or(Source::Closed, |process| Source::Drawn { process: Box::new(process), end: duration }),
        )
    }

    /// Those of a trace.
    pub(super) fn recorded(rows: Arc<Trace>) -> Self {
        Self(Source::Trace { rows, next: 0 })
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        match &mut self.0 {
            Source::Closed => None,
            Source::Drawn { process, end } => process.next().filter(|moment| moment < end),
            Source::Trace { rows, next } => {
                let moment = rows.moment(*next)?;
                *next += 1;
                Some(moment)
            }
        }
    }
}

/// Sessions at a rate.
#[derive(Clone, Debug)]
struct Process {
    gaps: Gaps,
    curve: Curve,
    /// How many sessions are expected by now.
    expected: f64,
    rng: ChaCha8Rng,
}

/// Gaps between sessions where one a second is expected.
#[derive(Clone, Copy, Debug)]
enum Gaps {
    Even,
    Exponential,
    Gamma(Gamma<f64>),
}

/// The rate over time, as far as it is needed: when so many sessions are expected.
#[derive(Clone, Debug)]
enum Curve {
    /// One rate.
    Flat { rate: f64 },
    /// A rate for `on`, none for `off`, again and again.
    Bursts { rate: f64, on: f64, off: f64 },
    /// From one rate to another within `seconds`.
    Ramp { from: f64, to: f64, seconds: f64 },
    /// One rate after the other, each for `every`, the last one to the end.
    Steps { rates: Vec<f64>, every: f64 },
}

impl Process {
    /// None for a closed loop and for a trace.
    fn new(arrival: &Arrival, duration: Duration, rng: ChaCha8Rng) -> Option<Self> {
        let (gaps, curve) = match arrival {
            Arrival::Closed { .. } | Arrival::Trace { .. } => return None,
            Arrival::Constant { rate } => (Gaps::Even, Curve::Flat { rate: *rate }),
            Arrival::Poisson { rate } => (Gaps::Exponential, Curve::Flat { rate: *rate }),
            // The shape of a checked workload is above 0, which is all that Gamma asks for.
            Arrival::Gamma { rate, shape } => {
                (Gaps::Gamma(Gamma::new(*shape, 1.0 / shape).ok()?), Curve::Flat { rate: *rate })
            }
            Arrival::Bursts { rate, on, off } => {
                (Gaps::Exponential, Curve::Bursts { rate: *rate, on: on.as_secs_f64(), off: off.as_secs_f64() })
            }
            Arrival::Ramp { from, to } => {
                (Gaps::Exponential, Curve::Ramp { from: *from, to: *to, seconds: duration.as_secs_f64() })
            }
            Arrival::Steps { rates, every } => {
                (Gaps::Exponential, Curve::Steps { rates: rates.clone(), every: every.as_secs_f64() })
            }
        };
        Some(Self { gaps, curve, expected: 0.0, rng })
    }

    fn next(&mut self) -> Option<Duration> {
        let gap = match &self.gaps {
            Gaps::Even => 1.0,
            Gaps::Exponential => Exp1.sample(&mut self.rng),
            Gaps::Gamma(gamma) => gamma.sample(&mut self.rng),
        };
        self.expected += gap;
        // Even ones begin at once; random ones with a gap.
        let expected = if let Gaps::Even = self.gaps { self.expected - 1.0 } else { self.expected };
        Duration::try_from_secs_f64(self.curve.moment_of(expected)?).ok()
    }
}

impl Curve {
    /// The second at which `expected` sessions are expected: the inverse of the rate's integral. None if there never
    /// will be so many.
    fn moment_of(&self, expected: f64) -> Option<f64> {
        match self {
            Self::Flat { rate } => Some(expected / rate),
            Self::Bursts { rate, on, off } => {
                let seconds_on = expected / rate;
                Some(seconds_on + (seconds_on / on).floor() * off)
            }
            Self::Ramp { from, to, seconds } => {
                // from·t + (to − from)·t² / (2·seconds) = expected, in the form that does not subtract near equals.
                let in_ramp = (from + to) / 2.0 * seconds;
                let slope = (to - from) / seconds;
                let root = (from * from + 2.0 * slope * expected).max(0.0).sqrt();
                (expected < in_ramp).then(|| 2.0 * expected / (from + root))
            }
            Self::Steps { rates, every } => {
                let mut before = 0.0;
                for (step, rate) in rates.iter().enumerate() {
                    let in_step = (expected - before) / rate;
                    let is_last = step + 1 == rates.len();
                    if *rate > 0.0 && (is_last || in_step < *every) {
                        return Some(step as f64 * every + in_step);
                    }
                    before += rate * every;
                }
                None
            }
        }
    }
}
