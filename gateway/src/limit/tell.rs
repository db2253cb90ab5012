//! The `x-ratelimit-*` headers, as OpenAI has them.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// What is left of one limit: the limit, what is left, the time until all is left.
pub(super) type Left = (u64, u64, Duration);

pub(super) const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
pub(super) const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Writes one limit's three headers: of several the one of which the least is left.
pub(super) fn write(names: [HeaderName; 3], all: [Option<Left>; 2], headers: &mut HeaderMap) {
    let tightest = all.into_iter().flatten().min_by_key(|(limit, left, _)| (*left, *limit));
    let Some((limit, left, reset)) = tightest else { return };
    let [limit_name, left_name, reset_name] = names;
    headers.insert(limit_name, HeaderValue::from(limit));
    headers.insert(left_name, HeaderValue::from(left));
    if let Ok(value) = HeaderValue::try_from(duration(reset)) {
        headers.insert(reset_name, value);
    }
}

/// A duration as Go writes it (`12ms`, `1.5s`, `6m0s`), in whole milliseconds, rounded up.
pub(super) fn duration(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    let (seconds, rest) = (millis / 1000, millis % 1000);
    if seconds == 0 {
        return if rest == 0 { "0s".to_owned() } else { format!("{rest}ms") };
    }
    let fraction = match rest {
        0 => String::new(),
        _ => format!(".{rest:03}").trim_end_matches('0').to_owned(),
    };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}{fraction}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}{fraction}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        let cases = [
            (0, "0s"),
            (1, "1ms"),
            (12_000_000, "12ms"),
            (999_000_001, "1s"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (59_942_000_000, "59.942s"),
            (360_000_000_000, "6m0s"),
            (61_010_000_000, "1m1.01s"),
            (3_600_000_000_000, "1h0m0s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
        }
    }
}
