//! When sessions begin: the kinds of arrival and their keys.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Length, duration};

/// When sessions begin. Rates are sessions a second, which are requests a second where sessions have one turn.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "ArrivalKeys")]
pub enum Arrival {
    /// So many users, each of whom begins a session when the last one is over and `think_time` (seconds) has passed.
    Closed {
        /// How many.
        users: u32,
        /// Seconds between two sessions of a user.
        think_time: Length,
    },
    /// One every 1/`rate` seconds.
    Constant {
        /// Sessions a second.
        rate: f64,
    },
    /// Independent of each other.
    Poisson {
        /// Sessions a second.
        rate: f64,
    },
    /// Gaps drawn from a gamma distribution: `shape` below 1 comes in clusters, 1 is Poisson, above 1 is more even.
    Gamma {
        /// Sessions a second.
        rate: f64,
        /// The shape of the distribution (vLLM's `burstiness`, the inverse of the squared coefficient of variation).
        shape: f64,
    },
    /// Poisson for `on`, then silence for `off`, again and again.
    Bursts {
        /// Sessions a second while it is on.
        rate: f64,
        /// How long it is on.
        #[serde(with = "duration")]
        on: Duration,
        /// How long it is off.
        #[serde(with = "duration")]
        off: Duration,
    },
    /// Poisson with a rate that goes in a line from `from` to `to` over the workload's duration.
    Ramp {
        /// Sessions a second at the beginning.
        from: f64,
        /// Sessions a second at the end.
        to: f64,
    },
    /// Poisson with one rate after the other, the last one to the end.
    Steps {
        /// Sessions a second, one a step.
        rates: Vec<f64>,
        /// How long a step takes.
        #[serde(with = "duration")]
        every: Duration,
    },
    /// As recorded: moments and lengths are those of a trace, one row a request.
    Trace {
        /// The trace, beside the workload file if the path is relative.
        file: PathBuf,
        /// What is in it.
        format: TraceFormat,
        /// 2 plays it in half the time.
        speed: f64,
    },
}

/// The traces that can be replayed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum TraceFormat {
    /// JSON lines of ours: `{"at": seconds, "prompt_tokens": n, "output_tokens": n}`.
    #[default]
    Jsonl,
    /// Mooncake's JSON lines: `timestamp` in ms, `input_length`, `output_length`, `hash_ids`.
    Mooncake,
    /// Azure's LLM inference traces: CSV with `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`.
    Azure,
    /// BurstGPT: CSV with `Timestamp` in seconds, `Request tokens`, `Response tokens`.
    BurstGpt,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Closed,
    Constant,
    Poisson,
    Gamma,
    Bursts,
    Ramp,
    Steps,
    Trace,
}

/// The keys of all kinds. serde buffers an enum that is told apart by a key, and errors in it then lose their place;
/// reading the keys first and asking which kind they make keeps `tenants.chat.arrival.rate` in the message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `kind`")]
pub(super) struct ArrivalKeys {
    kind: Kind,
    users: Option<u32>,
    think_time: Option<Length>,
    rate: Option<f64>,
    shape: Option<f64>,
    #[serde(default, with = "duration::option")]
    on: Option<Duration>,
    #[serde(default, with = "duration::option")]
    off: Option<Duration>,
    from: Option<f64>,
    to: Option<f64>,
    rates: Option<Vec<f64>>,
    #[serde(default, with = "duration::option")]
    every: Option<Duration>,
    file: Option<PathBuf>,
    format: Option<TraceFormat>,
    speed: Option<f64>,
}

impl TryFrom<ArrivalKeys> for Arrival {
    type Error = String;

    fn try_from(mut keys: ArrivalKeys) -> Result<Self, String> {
        const BURST: Duration = Duration::from_secs(10);
        const STEP: Duration = Duration::from_secs(30);
        let mut rate = || keys.rate.take().unwrap_or(1.0);
        let arrival = match keys.kind {
            Kind::Closed => Self::Closed {
                users: keys.users.take().unwrap_or(1),
                think_time: keys.think_time.take().unwrap_or(Length::zero()),
            },
            Kind::Constant => Self::Constant { rate: rate() },
            Kind::Poisson => Self::Poisson { rate: rate() },
            Kind::Gamma => Self::Gamma { rate: rate(), shape: keys.shape.take().unwrap_or(1.0) },
            Kind::Bursts => Self::Bursts {
                rate: rate(),
                on: keys.on.take().unwrap_or(BURST),
                off: keys.off.take().unwrap_or(BURST),
            },
            Kind::Ramp => Self::Ramp { from: keys.from.take().unwrap_or(0.0), to: needed(keys.to.take(), "to")? },
            Kind::Steps => {
                Self::Steps { rates: needed(keys.rates.take(), "rates")?, every: keys.every.take().unwrap_or(STEP) }
            }
            Kind::Trace => Self::Trace {
                file: needed(keys.file.take(), "file")?,
                format: keys.format.take().unwrap_or_default(),
                speed: keys.speed.take().unwrap_or(1.0),
            },
        };
        keys.left_over().map_or(Ok(arrival), |name| Err(format!("this kind has no key `{name}`")))
    }
}

impl ArrivalKeys {
    /// A key that was given and that the kind did not take.
    fn left_over(&self) -> Option<&'static str> {
        let given = [
            ("users", self.users.is_some()),
            ("think_time", self.think_time.is_some()),
            ("rate", self.rate.is_some()),
            ("shape", self.shape.is_some()),
            ("on", self.on.is_some()),
            ("off", self.off.is_some()),
            ("from", self.from.is_some()),
            ("to", self.to.is_some()),
            ("rates", self.rates.is_some()),
            ("every", self.every.is_some()),
            ("file", self.file.is_some()),
            ("format", self.format.is_some()),
            ("speed", self.speed.is_some()),
        ];
        given.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
    }
}

/// The value of a key that has no default.
pub(super) fn needed<T>(value: Option<T>, name: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("this kind needs `{name}`"))
}
