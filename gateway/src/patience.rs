//! How long a client will wait, as far as its headers say.

use std::time::Duration;

use http::HeaderMap;

/// Where any client may say how many seconds it will wait for its answer.
const REQUEST_TIMEOUT: &str = "x-request-timeout";
/// Where the official clients say after how many seconds without a byte they give up.
const CLIENT_TIMEOUTS: [&str; 2] = ["x-stainless-read-timeout", "x-stainless-timeout"];
/// Where the official clients count the tries of one request.
const RETRY_COUNT: &str = "x-stainless-retry-count";

/// What a client's headers say about its waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// It leaves after this time, come what may.
    pub request: Option<Duration>,
    /// It leaves after this time without a byte: an answer in one piece must be there by then.
    pub silence: Option<Duration>,
    /// How many times it has tried before.
    pub retries: u32,
}

impl Patience {
    /// Reads the headers. What cannot be read says nothing.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let seconds = |name: &str| text(name)?.trim().parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
        let duration = |name: &str| Duration::try_from_secs_f64(seconds(name)?).ok();
        Self {
            request: duration(REQUEST_TIMEOUT),
            silence: CLIENT_TIMEOUTS.into_iter().filter_map(duration).min(),
            retries: text(RETRY_COUNT).and_then(|count| count.parse().ok()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let mut headers = HeaderMap::new();
        assert_eq!(Patience::of(&headers), Patience::default());
        headers.insert("x-stainless-read-timeout", "600".parse().unwrap());
        headers.insert("x-stainless-retry-count", "2".parse().unwrap());
        headers.insert("x-request-timeout", "1.5".parse().unwrap());
        let patience = Patience::of(&headers);
        assert_eq!(patience.silence, Some(Duration::from_secs(600)));
        assert_eq!((patience.request, patience.retries), (Some(Duration::from_millis(1500)), 2));
        for nonsense in ["", "-1", "NaN", "inf", "1e300", "soon"] {
            headers.insert("x-request-timeout", nonsense.parse().unwrap());
            assert_eq!(Patience::of(&headers).request, None, "{nonsense}");
        }
    }
}
