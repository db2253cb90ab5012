//! Numbers that differ from request to request: tokens, turns, seconds.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A distribution of numbers. In a file: a number, or a table with `kind`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(untagged)]
pub enum Length {
    /// Always this.
    Fixed(f64),
    /// Drawn anew each time.
    Drawn(Distribution),
}

/// What a number is drawn from. Where it counts something, it is rounded.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Distribution {
    /// Each number from `min` to `max` alike.
    Uniform {
        /// The least.
        min: f64,
        /// The most.
        max: f64,
    },
    /// Normal, cut at `min` and `max`.
    Normal {
        /// The mean before the cut.
        mean: f64,
        /// The standard deviation before the cut.
        deviation: f64,
        /// The least.
        #[serde(default)]
        min: f64,
        /// The most.
        #[serde(default = "unbounded", skip_serializing_if = "is_unbounded")]
        max: f64,
    },
    /// Lognormal, cut at `min` and `max`: what lengths of real prompts look like.
    Lognormal {
        /// The median before the cut.
        median: f64,
        /// The standard deviation of the logarithm.
        sigma: f64,
        /// The least.
        #[serde(default)]
        min: f64,
        /// The most.
        #[serde(default = "unbounded", skip_serializing_if = "is_unbounded")]
        max: f64,
    },
    /// One of these, each alike or by weight.
    Empirical {
        /// The numbers; empty if they are in `file`.
        #[serde(default)]
        values: Vec<f64>,
        /// Their weights; empty: all alike.
        #[serde(default)]
        weights: Vec<f64>,
        /// A file with a number a line.
        #[serde(default)]
        file: Option<PathBuf>,
    },
}

fn unbounded() -> f64 {
    f64::INFINITY
}

/// JSON has no infinity.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_unbounded(max: &f64) -> bool {
    max.is_infinite()
}

impl Length {
    /// Always 0.
    pub fn zero() -> Self {
        Self::Fixed(0.0)
    }
}
