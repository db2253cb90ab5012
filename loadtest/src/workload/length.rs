//! Numbers that differ from request to request: tokens, turns, seconds.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::arrival::needed;

/// A distribution of numbers. In a file: a number, or a table with `kind`.
#[derive(Clone, Debug, Serialize, PartialEq)]
#[serde(untagged)]
pub enum Length {
    /// Always this.
    Fixed(f64),
    /// Drawn anew each time.
    Drawn(Distribution),
}

/// What a number is drawn from. Where it counts something, it is rounded.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "DistributionKeys")]
pub enum Distribution {
    /// Each number from `min` to `max` alike.
    Uniform {
        /// The least.
        min: f64,
        /// The most.
        max: f64,
    },
    /// Normal; what is below `min` becomes `min`, what is above `max` becomes `max`.
    Normal {
        /// The mean before the cut.
        mean: f64,
        /// The standard deviation before the cut.
        deviation: f64,
        /// The least.
        min: f64,
        /// The most, if there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        max: Option<f64>,
    },
    /// Lognormal, cut in the same way: what lengths of real prompts look like.
    Lognormal {
        /// The median before the cut.
        median: f64,
        /// The standard deviation of the logarithm.
        sigma: f64,
        /// The least.
        min: f64,
        /// The most, if there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        max: Option<f64>,
    },
    /// One of these, each alike or by weight.
    Empirical {
        /// The numbers; empty if they are in `file`.
        values: Vec<f64>,
        /// Their weights; empty: all alike.
        weights: Vec<f64>,
        /// A file with a number a line, beside the workload file if the path is relative.
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<PathBuf>,
    },
}

impl Length {
    /// Always 0.
    pub fn zero() -> Self {
        Self::Fixed(0.0)
    }
}

// By hand and not `untagged`: serde would say of every mistake that no variant matched, and not where.
impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrTable;
        impl<'de> Visitor<'de> for NumberOrTable {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a table with `kind`")
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Length, E> {
                Ok(Length::Fixed(number))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Length, E> {
                Ok(Length::Fixed(number as f64))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Length, E> {
                Ok(Length::Fixed(number as f64))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Length, A::Error> {
                Distribution::deserialize(MapAccessDeserializer::new(map)).map(Length::Drawn)
            }
        }
        deserializer.deserialize_any(NumberOrTable)
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Uniform,
    Normal,
    Lognormal,
    Empirical,
}

/// The keys of all kinds, for the same reason as those of `Arrival`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a number, or a table with `kind`")]
pub(super) struct DistributionKeys {
    kind: Kind,
    min: Option<f64>,
    max: Option<f64>,
    mean: Option<f64>,
    deviation: Option<f64>,
    median: Option<f64>,
    sigma: Option<f64>,
    values: Option<Vec<f64>>,
    weights: Option<Vec<f64>>,
    file: Option<PathBuf>,
}

impl TryFrom<DistributionKeys> for Distribution {
    type Error = String;

    fn try_from(mut keys: DistributionKeys) -> Result<Self, String> {
        let mut min = || keys.min.take().unwrap_or(0.0);
        let distribution = match keys.kind {
            Kind::Uniform => Self::Uniform { min: min(), max: needed(keys.max.take(), "max")? },
            Kind::Normal => Self::Normal {
                mean: needed(keys.mean.take(), "mean")?,
                deviation: needed(keys.deviation.take(), "deviation")?,
                min: min(),
                max: keys.max.take(),
            },
            Kind::Lognormal => Self::Lognormal {
                median: needed(keys.median.take(), "median")?,
                sigma: needed(keys.sigma.take(), "sigma")?,
                min: min(),
                max: keys.max.take(),
            },
            Kind::Empirical => Self::Empirical {
                values: keys.values.take().unwrap_or_default(),
                weights: keys.weights.take().unwrap_or_default(),
                file: keys.file.take(),
            },
        };
        keys.left_over().map_or(Ok(distribution), |name| Err(format!("this kind has no key `{name}`")))
    }
}

impl DistributionKeys {
    /// A key that was given and that the kind did not take.
    fn left_over(&self) -> Option<&'static str> {
        let given = [
            ("min", self.min.is_some()),
            ("max", self.max.is_some()),
            ("mean", self.mean.is_some()),
            ("deviation", self.deviation.is_some()),
            ("median", self.median.is_some()),
            ("sigma", self.sigma.is_some()),
            ("values", self.values.is_some()),
            ("weights", self.weights.is_some()),
            ("file", self.file.is_some()),
        ];
        given.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
    }
}
