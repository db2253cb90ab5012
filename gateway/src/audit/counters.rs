//! What llama-server has counted, as its `/metrics` says.

/// Significant digits that llama-server writes.
const DIGITS: u32 = 6;
/// Counters beyond this are nonsense; sums of what is below fit.
const MOST: f64 = (1_u64 << 53) as f64;

/// The counters of a llama-server since its start, and what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    /// Prompt tokens that were computed: those that did not come from the cache.
    pub(super) computed: i64,
    /// Prompt tokens that came from the cache; older builds do not count them.
    pub(super) cached: Option<i64>,
    /// Generated tokens of requests that are over.
    pub(super) generated: i64,
    /// Whether it works on anything, or keeps anything waiting.
    pub(super) busy: bool,
}

impl Counters {
    /// Reads a reply to `/metrics`. `None`: it is not that of a llama-server.
    pub(super) fn read(reply: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(reply).ok()?;
        let value = |name: &str| {
            let of = |line: &str| line.strip_prefix("llamacpp:")?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
            text.lines().find_map(of).filter(|value| (0.0..MOST).contains(value))
        };
        Some(Self {
            computed: value("prompt_tokens_total")? as i64,
            cached: value("prompt_tokens_cached_total").map(|tokens: f64| tokens as i64),
            generated: value("tokens_predicted_total")? as i64,
            busy: value("requests_processing")? + value("requests_deferred")? > 0.0,
        })
    }
}

/// How far a counter may be from what it says: from a million on llama-server rounds it to six digits. One that has more
/// digits was not rounded.
pub(super) fn rounding(counter: i64) -> i64 {
    let unit = 10_i64.pow(counter.max(1).ilog10().saturating_sub(DIGITS - 1));
    if counter % unit == 0 { unit / 2 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As llama-server b10434 writes it, shortened.
    fn metrics(prompt: &str, cached: &str, generated: &str) -> String {
        format!(
            "# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.\n\
             # TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total {prompt}\n{cached}\
             llamacpp:tokens_predicted_total {generated}\nllamacpp:tokens_predicted_seconds_total 0.00032\n\
             llamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n"
        )
    }

    #[test]
    fn counters_are_read_as_they_are_written() {
        let all = metrics("1.248e+06", "llamacpp:prompt_tokens_cached_total 31\n", "320");
        let counters = Counters { computed: 1_248_000, cached: Some(31), generated: 320, busy: false };
        assert_eq!(Counters::read(all.as_bytes()), Some(counters));
        let old = metrics("7", "", "3").replace("processing 0", "processing 2");
        let counters = Counters { computed: 7, cached: None, generated: 3, busy: true };
        assert_eq!(Counters::read(old.as_bytes()), Some(counters));
    }

    #[test]
    fn what_is_no_counter_tells_nothing() {
        for wrong in ["-1", "nan", "inf", "1e300", "many", ""] {
            assert_eq!(Counters::read(metrics(wrong, "", "3").as_bytes()), None, "{wrong}");
        }
        for garbage in [&b"<html>"[..], b"\xff\xfe", b"", b"up 1\n"] {
            assert_eq!(Counters::read(garbage), None);
        }
    }

    #[test]
    fn from_a_million_on_counters_are_rounded() {
        let cases = [(0, 0), (7, 0), (999_999, 0), (1_248_000, 5), (12_345_600, 50), (1_000_000_000, 5_000)];
        for (counter, error) in cases {
            assert_eq!(rounding(counter), error, "{counter}");
        }
        assert_eq!(rounding(1_248_001), 0, "all digits are there");
    }
}
