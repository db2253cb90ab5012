//! What a client is told about trying again.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Rejection;

/// The longest wait that every official client keeps. Told more, openai's npm client is back after a few seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A client is never told to come back at once.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// Clients wait exactly as they are told. So that those who were refused together do not come back together, waits are
/// longer by up to this share.
const SPREAD: f64 = 0.25;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// Nothing: it waits as it always does, up to 8 s.
    Unsaid,
    /// After this time.
    After(Duration),
    /// Not by itself: it would not wait for so long.
    NotBefore(Duration),
    /// It is in vain.
    Never,
}

impl Retry {
    fn of(rejection: &Rejection) -> Self {
        match rejection.retry_after {
            _ if !rejection.reason.may_be_retried() => Self::Never,
            None => Self::Unsaid,
            Some(after) if after > LONGEST_WAIT => Self::NotBefore(after),
            Some(after) => Self::After(after),
        }
    }
}

/// Puts it into the headers of the answer.
pub(super) fn tell(rejection: &Rejection, request_id: &str, headers: &mut HeaderMap) {
    let retry = Retry::of(rejection);
    if matches!(retry, Retry::Never | Retry::NotBefore(_)) {
        headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
    }
    let after = match retry {
        Retry::After(after) => spread(after, request_id),
        Retry::NotBefore(after) => after,
        Retry::Unsaid | Retry::Never => return,
    };
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    if matches!(retry, Retry::After(_)) {
        let milliseconds = after.as_nanos().div_ceil(1_000_000);
        let milliseconds = HeaderValue::from(u64::try_from(milliseconds).unwrap_or(u64::MAX));
        headers.insert(HeaderName::from_static("retry-after-ms"), milliseconds);
    }
}

/// A wait that is longer than `after` by a share that the random end of the request's id decides, but not longer than
/// clients accept.
fn spread(after: Duration, request_id: &str) -> Duration {
    let after = after.clamp(SHORTEST_WAIT, LONGEST_WAIT);
    let digits = request_id.len().checked_sub(8).and_then(|start| request_id.get(start..));
    let random = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
    let most = after.mul_f64(SPREAD).min(LONGEST_WAIT - after);
    after + most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
