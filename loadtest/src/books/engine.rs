//! llama-server's book: its own counters (`GET /metrics`).

use http::StatusCode;

use crate::target::Server;

/// Significant digits that llama-server writes.
const DIGITS: u32 = 6;
/// Counters beyond this are nonsense; sums of what is below fit.
const MOST: f64 = (1_u64 << 53) as f64;

/// The counters of a llama-server since its start, and whether it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    /// Prompt tokens that were computed: those that did not come from the cache.
    pub(super) computed: u64,
    /// Prompt tokens that came from the cache; older builds do not count them.
    pub(super) cached: Option<u64>,
    /// Generated tokens of requests that are over.
    pub(super) generated: u64,
    /// Requests that it works on or keeps waiting.
    pub(super) busy: u64,
}

/// Reads the counters.
///
/// # Errors
/// In words, why they cannot be read.
pub(super) async fn read(upstream: &Server) -> Result<Counters, String> {
    let url = &upstream.url;
    let reply = upstream.client.get("/metrics", upstream.key.as_deref()).await;
    let answer = reply.map_err(|error| format!("{url}/metrics: {error:#}"))?;
    let status = answer.status;
    match status {
        StatusCode::OK => {
            parse(&answer.body).ok_or_else(|| format!("{url}/metrics does not have llama-server's counters"))
        }
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => {
            Err(format!("{url}/metrics answers {status} (hint: start llama-server with --metrics)"))
        }
        _ => Err(format!("{url}/metrics answers {status}")),
    }
}

fn parse(reply: &[u8]) -> Option<Counters> {
    let text = std::str::from_utf8(reply).ok()?;
    let value = |name: &str| {
        let of = |line: &str| line.strip_prefix("llamacpp:")?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(of).filter(|value| (0.0..MOST).contains(value)).map(|value: f64| value as u64)
    };
    Some(Counters {
        computed: value("prompt_tokens_total")?,
        cached: value("prompt_tokens_cached_total"),
        generated: value("tokens_predicted_total")?,
        busy: value("requests_processing")? + value("requests_deferred")?,
    })
}

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

impl Counters {
    /// What has come since `before`. `None`: the server was started anew meanwhile, since counters never fall.
    pub(super) fn since(&self, before: &Self) -> Option<Growth> {
        let cached = match (self.cached, before.cached) {
            (Some(now), Some(before)) => Some(now.checked_sub(before)?),
            _ => None,
        };
        let all = [self.computed, before.computed, self.generated, before.generated];
        let caches = [self.cached, before.cached].into_iter().flatten();
        Some(Growth {
            computed: self.computed.checked_sub(before.computed)?,
            cached,
            generated: self.generated.checked_sub(before.generated)?,
            rounding: all.into_iter().chain(caches).map(rounding).sum(),
        })
    }
}

impl Growth {
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

    /// As llama-server b10434 writes it, shortened.
    fn metrics(prompt: &str, cached: &str, generated: &str) -> String {
        format!(
            "# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total {prompt}\n{cached}\
             llamacpp:tokens_predicted_total {generated}\nllamacpp:tokens_predicted_seconds_total 0.00032\n\
             llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\n"
        )
    }

    fn counters(computed: u64, cached: Option<u64>, generated: u64) -> Counters {
        Counters { computed, cached, generated, busy: 0 }
    }

    #[test]
    fn counters_are_read_as_they_are_written() {
        let text = metrics("1.248e+06", "llamacpp:prompt_tokens_cached_total 31\n", "320");
        assert_eq!(parse(text.as_bytes()), Some(Counters { busy: 3, ..counters(1_248_000, Some(31), 320) }));
        let old = metrics("7", "", "3");
        assert_eq!(parse(old.as_bytes()), Some(Counters { busy: 3, ..counters(7, None, 3) }));
    }

    #[test]
    fn what_is_no_counter_tells_nothing() {
        for wrong in ["-1", "nan", "inf", "1e300", "many", ""] {
            assert_eq!(parse(metrics(wrong, "", "3").as_bytes()), None, "{wrong}");
        }
        for garbage in [&b"<html>"[..], b"\xff\xfe", b"", b"up 1\n"] {
            assert_eq!(parse(garbage), None);
        }
    }

    #[test]
    fn a_counter_that_fell_is_a_restart() {
        let before = counters(100, Some(50), 20);
        let grown = Growth { computed: 1, cached: Some(2), generated: 3, rounding: 0 };
        assert_eq!(counters(101, Some(52), 23).since(&before), Some(grown));
        for fallen in [counters(99, Some(50), 20), counters(100, Some(49), 20), counters(100, Some(50), 19)] {
            assert_eq!(fallen.since(&before), None, "{fallen:?}");
        }
    }

    #[test]
    fn from_a_million_on_counters_are_rounded() {
        let growth = counters(1_248_000, Some(0), 999_999).since(&counters(999_999, Some(0), 7)).unwrap();
        assert_eq!(growth.rounding, 5);
        for (counter, error) in [(0, 0), (7, 0), (12_345_600, 50), (1_000_000_000, 5_000), (1_248_001, 0)] {
            assert_eq!(rounding(counter), error, "{counter}");
        }
    }
}
