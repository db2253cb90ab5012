//! When the official clients try again, and after which pause.
//!
//! As openai-python does it (`_base_client.py`, `_should_retry` and `_calculate_retry_timeout`): a server may decide
//! with `x-should-retry`; else 408, 409, 429 and from 500 on are tried again, as are failed connections and timeouts
//! before the head of a reply. The pause is the server's `retry-after-ms` or `retry-after` (in seconds; a date is not
//! read here), else it doubles from 0.5 s up to 8 s, less up to a quarter by chance.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use rand::{Rng, RngExt};

/// The longest pause that a server may ask for; the client gives up if it asks for more.
const LONGEST_ASKED: f64 = 120.0;
const FIRST_PAUSE: f64 = 0.5;
const LONGEST_PAUSE: f64 = 8.0;

/// The pause before the next try after `tries` of them, or `None` if the client would not try again. `refused` is the
/// reply's head; `None` if there was none.
pub fn pause(refused: Option<(StatusCode, &HeaderMap)>, tries: u32, rng: &mut impl Rng) -> Option<Duration> {
    if let Some((status, headers)) = refused {
        let should = headers.get("x-should-retry").and_then(|value| value.to_str().ok());
        let status = matches!(status.as_u16(), 408 | 409 | 429 | 500..);
        if should == Some("false") || (should != Some("true") && !status) {
            return None;
        }
        if let Some(seconds) = asked(headers) {
            if seconds > LONGEST_ASKED {
                return None;
            }
            if seconds > 0.0 {
                return Some(Duration::from_secs_f64(seconds));
            }
        }
    }
    let doublings = i32::try_from(tries.saturating_sub(1)).unwrap_or(i32::MAX);
    let seconds = (FIRST_PAUSE * 2f64.powi(doublings)).min(LONGEST_PAUSE);
    Some(Duration::from_secs_f64(seconds * (1.0 - 0.25 * rng.random::<f64>())))
}

/// Seconds that the server asks for.
fn asked(headers: &HeaderMap) -> Option<f64> {
    let number =
        |name| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    number("retry-after-ms").map(|milliseconds| milliseconds / 1000.0).or_else(|| number("retry-after"))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn after(status: u16, headers: &[(&'static str, &'static str)], tries: u32) -> Option<Duration> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        pause(Some((StatusCode::from_u16(status).unwrap(), &headers)), tries, &mut ChaCha8Rng::seed_from_u64(1))
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [408, 409, 429, 500, 502, 503, 504, 529] {
            assert!(after(status, &[], 1).is_some(), "{status}");
        }
        for status in [400, 401, 403, 404, 413, 422] {
            assert_eq!(after(status, &[], 1), None, "{status}");
        }
    }

    #[test]
    fn the_server_decides_if_it_wants_to() {
        assert_eq!(after(429, &[("x-should-retry", "false"), ("retry-after", "1")], 1), None);
        assert!(after(400, &[("x-should-retry", "true")], 1).is_some());
        assert!(after(429, &[("x-should-retry", "perhaps")], 1).is_some());
    }

    #[test]
    fn the_pause_is_what_the_server_asks_for() {
        assert_eq!(after(429, &[("retry-after", "3")], 1), Some(Duration::from_secs(3)));
        assert_eq!(after(429, &[("retry-after", "1.5")], 1), Some(Duration::from_millis(1500)));
        assert_eq!(after(429, &[("retry-after-ms", "20"), ("retry-after", "3")], 1), Some(Duration::from_millis(20)));
        assert_eq!(after(503, &[("retry-after", "120")], 1), Some(Duration::from_secs(120)));
        assert_eq!(after(503, &[("retry-after", "121"), ("x-should-retry", "true")], 1), None, "more than they wait");
    }

    #[test]
    fn without_one_the_pause_doubles_up_to_eight_seconds() {
        for (tries, longest) in [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (u32::MAX, 8.0)] {
            for asked in [&[][..], &[("retry-after", "0")], &[("retry-after", "soon")], &[("retry-after-ms", "NaN")]] {
                let pause = after(500, asked, tries).unwrap().as_secs_f64();
                assert!((0.75 * longest..=longest).contains(&pause), "{tries}: {pause}");
            }
            let pause = pause(None, tries, &mut ChaCha8Rng::seed_from_u64(2)).unwrap().as_secs_f64();
            assert!((0.75 * longest..=longest).contains(&pause), "{tries}: {pause}");
        }
    }
}
