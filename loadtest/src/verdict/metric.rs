//! Names of what objectives bound: `"ttft_scheduled.p95"`, or `"chat:tpot.p99"` for a tenant's.

use std::fmt;

use thiserror::Error;

use crate::measure::formula;
use crate::report::Distribution;

/// One number of a distribution, and its name.
const STATISTICS: [(&str, Statistic); 7] = [
    ("mean", Statistic::Mean),
    ("p50", Statistic::P50),
    ("p90", Statistic::P90),
    ("p95", Statistic::P95),
    ("p99", Statistic::P99),
    ("p999", Statistic::P999),
    ("max", Statistic::Max),
];

/// A number of a report that can be bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Whose, if not that of all requests.
    pub tenant: Option<String>,
    /// The key of one of `formula::MEASURES`.
    pub measure: &'static str,
    /// Which number of its distribution.
    pub statistic: Statistic,
}

/// A number of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// The mean.
    Mean,
    /// The median.
    P50,
    /// The 90th percentile.
    P90,
    /// The 95th.
    P95,
    /// The 99th.
    P99,
    /// The 99.9th.
    P999,
    /// The most.
    Max,
}

/// Why a name is none. What to do about it is in `hint`.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MetricError {
    /// There is no statistic after a dot.
    #[error("`{0}` names no statistic")]
    NoStatistic(String),
    /// The measure is not known.
    #[error("there is no measure `{0}`")]
    UnknownMeasure(String),
    /// The statistic is not known.
    #[error("there is no statistic `{0}`")]
    UnknownStatistic(String),
}

impl MetricError {
    /// What may have been meant.
    pub fn hint(&self) -> String {
        match self {
            Self::NoStatistic(_) => {
                "measure.statistic, such as ttft_scheduled.p95, or tenant:measure.statistic".to_owned()
            }
            Self::UnknownMeasure(measure) => {
                let nearest = measures().min_by_key(|known| strsim::levenshtein(measure, known));
                format!("did you mean `{}`?", nearest.unwrap_or_default())
            }
            Self::UnknownStatistic(_) => format!("one of {}", STATISTICS.map(|(name, _)| name).join(", ")),
        }
    }
}

impl Metric {
    /// Reads `measure.statistic` or `tenant:measure.statistic`. Whether there is such a tenant is for the caller to see.
    ///
    /// # Errors
    /// The name has no statistic, or its measure or statistic is not known.
    pub fn parse(name: &str) -> Result<Self, MetricError> {
        // From the right: names of tenants may have dots and colons, measures have none.
        let (tenant, rest) = match name.rsplit_once(':') {
            Some((tenant, rest)) => (Some(tenant.to_owned()), rest),
            None => (None, name),
        };
        let (measure, statistic) = rest.split_once('.').ok_or_else(|| MetricError::NoStatistic(name.to_owned()))?;
        let known = measures().find(|known| *known == measure);
        let measure = known.ok_or_else(|| MetricError::UnknownMeasure(measure.to_owned()))?;
        let known = STATISTICS.into_iter().find(|(known, _)| *known == statistic);
        let (_, statistic) = known.ok_or_else(|| MetricError::UnknownStatistic(statistic.to_owned()))?;
        Ok(Self { tenant, measure, statistic })
    }
}

fn measures() -> impl Iterator<Item = &'static str> {
    formula::MEASURES.iter().map(|measure| measure.key)
}

impl Statistic {
    /// This number of a distribution, in its unit.
    pub fn of(self, distribution: &Distribution) -> f64 {
        match self {
            Self::Mean => distribution.mean,
            Self::P50 => distribution.p50,
            Self::P90 => distribution.p90,
            Self::P95 => distribution.p95,
            Self::P99 => distribution.p99,
            Self::P999 => distribution.p999,
            Self::Max => distribution.max,
        }
    }
}

/// In words: `ttft_scheduled.p95 of chat`.
impl fmt::Display for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            STATISTICS.into_iter().find(|(_, statistic)| *statistic == self.statistic).map_or("", |(name, _)| name);
        write!(formatter, "{}.{name}", self.measure)?;
        match &self.tenant {
            Some(tenant) => write!(formatter, " of {tenant}"),
            None => Ok(()),
        }
    }
}
