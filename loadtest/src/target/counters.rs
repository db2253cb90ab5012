//! What llama-server has counted, and whether it works (`GET /metrics`).

use http::StatusCode;

use super::Server;

/// Counters beyond this are nonsense; sums of what is below fit.
const MOST: f64 = (1_u64 << 53) as f64;

/// The counters of a llama-server since its start, and whether it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Prompt tokens that were computed: those that did not come from the cache.
    pub(crate) computed: u64,
    /// Prompt tokens that came from the cache; older builds do not count them.
    pub(crate) cached: Option<u64>,
    /// Generated tokens of requests that are over.
    pub(crate) generated: u64,
    /// Requests that it works on or keeps waiting.
    pub(crate) busy: u64,
}

/// Reads the counters.
///
/// # Errors
/// In words, why they cannot be read.
pub(crate) async fn read(upstream: &Server) -> Result<Counters, String> {
    let url = &upstream.url;
    let reply = upstream.get("/metrics").await;
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
}
