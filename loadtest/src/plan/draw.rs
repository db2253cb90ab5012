//! Numbers from a `Length`: tokens, turns, seconds.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use rand::{Rng, RngExt};
use rand_distr::weighted::WeightedIndex;
use rand_distr::{Distribution as _, LogNormal, Normal};

use super::PlanError;
use crate::workload::{Distribution, Length};

/// Numbers of an empirical distribution, that are in memory.
const MOST_VALUES: usize = 1_000_000;
/// Pauses beyond which nothing sensible is drawn.
const LONGEST: f64 = 30.0 * 86_400.0;

/// A `Length`, ready to be drawn from.
#[derive(Clone, Debug)]
pub(super) struct Draw {
    kind: Kind,
    least: f64,
    most: f64,
}

#[derive(Clone, Debug)]
enum Kind {
    Fixed(f64),
    Uniform,
    Normal(Normal<f64>),
    Lognormal(LogNormal<f64>),
    Values(Vec<f64>),
    Weighted(Vec<f64>, WeightedIndex<f64>),
}

impl Draw {
    /// Makes it ready; reads the file of an empirical one.
    ///
    /// # Errors
    /// The file cannot be read or has a line that is no number; parameters that no checked workload has.
    pub(super) fn new(length: &Length) -> Result<Self, PlanError> {
        let unusable = |error: &dyn std::fmt::Display| PlanError::Distribution(error.to_string());
        let (kind, least, most) = match length {
            Length::Fixed(number) => (Kind::Fixed(*number), 0.0, f64::MAX),
            Length::Drawn(Distribution::Uniform { min, max }) => (Kind::Uniform, *min, *max),
            Length::Drawn(Distribution::Normal { mean, deviation, min, max }) => {
                let normal = Normal::new(*mean, *deviation).map_err(|error| unusable(&error))?;
                (Kind::Normal(normal), *min, max.unwrap_or(f64::MAX))
            }
            Length::Drawn(Distribution::Lognormal { median, sigma, min, max }) => {
                let lognormal = LogNormal::new(median.ln(), *sigma).map_err(|error| unusable(&error))?;
                (Kind::Lognormal(lognormal), *min, max.unwrap_or(f64::MAX))
            }
            Length::Drawn(Distribution::Empirical { values, weights, file }) => {
                let values = file.as_deref().map_or_else(|| Ok(values.clone()), read_values)?;
                let kind = if weights.is_empty() {
                    Kind::Values(values)
                } else {
                    Kind::Weighted(values, WeightedIndex::new(weights).map_err(|error| unusable(&error))?)
                };
                (kind, 0.0, f64::MAX)
            }
        };
        let has_values = !matches!(&kind, Kind::Values(values) | Kind::Weighted(values, _) if values.is_empty());
        if has_values && least <= most {
            Ok(Self { kind, least, most })
        } else {
            Err(unusable(&"no number is within its bounds"))
        }
    }

    /// A number, as it is.
    pub(super) fn number(&self, rng: &mut impl Rng) -> f64 {
        let number = match &self.kind {
            Kind::Fixed(number) => *number,
            Kind::Uniform => self.least + rng.random::<f64>() * (self.most - self.least),
            Kind::Normal(normal) => normal.sample(rng),
            Kind::Lognormal(lognormal) => lognormal.sample(rng),
            Kind::Values(values) => values[rng.random_range(..values.len())],
            Kind::Weighted(values, weights) => values[weights.sample(rng)],
        };
        number.clamp(self.least, self.most)
    }

    /// A number that counts something: rounded, from 1 to `most`.
    pub(super) fn count(&self, rng: &mut impl Rng, most: f64) -> u64 {
        self.number(rng).round().clamp(1.0, most) as u64
    }

    /// A number of seconds.
    pub(super) fn seconds(&self, rng: &mut impl Rng) -> Duration {
        Duration::from_secs_f64(self.number(rng).clamp(0.0, LONGEST))
    }
}

/// Reads a file with a number a line; empty lines are no numbers.
fn read_values(path: &Path) -> Result<Vec<f64>, PlanError> {
    let file = File::open(path).map_err(|error| PlanError::unreadable(path, &error))?;
    let mut values = Vec::new();
    for (at, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| PlanError::unreadable(path, &error))?;
        let text = line.trim();
        if text.is_empty() {
            continue;
        }
        let value = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
        let wrong = || PlanError::line(path, at + 1, "is no number from 0 on".to_owned());
        values.push(value.ok_or_else(wrong)?);
        if values.len() > MOST_VALUES {
            return Err(PlanError::line(path, at + 1, format!("is one number too many: at most {MOST_VALUES}")));
        }
    }
    if values.is_empty() {
        return Err(PlanError::line(path, 1, "there is no number in the file".to_owned()));
    }
    Ok(values)
}
