//! How long a client will wait, as far as its headers say.

use std::time::Duration;

use http::HeaderMap;

/// Where any client may say how many seconds it will wait for its answer.
const REQUEST_TIMEOUT: &str = "x-request-timeout";
/// Where the official clients say after how many seconds without a byte they give up, streams or not. The Python
/// clients of openai and anthropic send the first one: the time between two bytes. openai's npm client sends the second
/// one, in whole seconds rounded down: the time until the head of the answer. It does so only where the call itself sets
/// a timeout, not for that of the client object (600 s, if nothing else is said). anthropic's Python client sends the
/// second one, too, as `NOT_GIVEN` unless the call sets a timeout.
const CLIENT_TIMEOUTS: [&str; 2] = ["x-stainless-read-timeout", "x-stainless-timeout"];
/// Where the official clients count the tries of one request.
const RETRY_COUNT: &str = "x-stainless-retry-count";

/// A refusal must reach the client before it gives up by itself: its clock began before ours, and the way back takes
/// time. Of short timeouts a quarter is enough.
const MARGIN: Duration = Duration::from_millis(500);
/// However little a client says that it will wait, its stream is not fed more often than this.
const LEAST_PAUSE: Duration = Duration::from_millis(500);

/// What a client's headers say about its waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// It leaves after this time, come what may.
    pub request: Option<Duration>,
    /// It leaves after this time without a byte: an answer in one piece must be there by then, and a stream be open.
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

    /// The longest wait for a slot that leaves `service` for the work itself, if the client sets a bound.
    /// `kept_alive`: it is sent something while it waits.
    pub fn longest_wait(&self, service: Duration, kept_alive: bool) -> Option<Duration> {
        let silence = self.silence.filter(|_| !kept_alive);
        let timeout = self.request.into_iter().chain(silence).min()?;
        let patience = timeout.saturating_sub(MARGIN.min(timeout / 4));
        // How long the work takes is a guess: on its account alone, nobody is refused a slot that is free.
        Some(patience.saturating_sub(service.min(timeout / 2)))
    }

    /// How long a stream may be silent: `most`, or half of the time that its client will stand.
    pub fn pause(&self, most: Duration) -> Duration {
        self.silence.map_or(most, |silence| most.min((silence / 2).max(LEAST_PAUSE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &str)]) -> Patience {
        Patience::of(&headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect())
    }

    #[test]
    fn what_the_official_clients_send_is_understood() {
        // As recorded from openai-python 3.54.0, openai-node 7.57.0 and anthropic-python 2.12.0.
        for (headers, silence, retries) in [
            (&[("x-stainless-retry-count", "0"), ("x-stainless-read-timeout", "600")][..], Some(600_000), 0),
            (&[("x-stainless-retry-count", "1"), ("x-stainless-read-timeout", "2.5")][..], Some(2500), 1),
            (&[("x-stainless-retry-count", "0"), ("x-stainless-timeout", "600")][..], Some(600_000), 0),
            // Below a second, and without any timeout.
            (&[("x-stainless-retry-count", "2"), ("x-stainless-timeout", "0")][..], None, 2),
            (&[("x-stainless-timeout", "NOT_GIVEN"), ("x-stainless-read-timeout", "600")][..], Some(600_000), 0),
            (&[("x-stainless-timeout", "None")][..], None, 0),
            (&[("x-stainless-timeout", "5.0"), ("x-stainless-read-timeout", "5.0")][..], Some(5000), 0),
        ] {
            let patience = of(headers);
            assert_eq!(patience.silence, silence.map(Duration::from_millis), "{headers:?}");
            assert_eq!((patience.retries, patience.request), (retries, None), "{headers:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        assert_eq!(of(&[]), Patience::default());
        assert_eq!(of(&[("x-request-timeout", "1.5")]).request, Some(Duration::from_millis(1500)));
        for nonsense in ["", "-1", "0", "NaN", "inf", "1e300", "soon", "30s"] {
            assert_eq!(of(&[("x-request-timeout", nonsense)]), Patience::default(), "{nonsense}");
        }
        for nonsense in ["-1", "1.5", "many", "99999999999"] {
            assert_eq!(of(&[("x-stainless-retry-count", nonsense)]), Patience::default(), "{nonsense}");
        }
    }

    #[test]
    fn a_request_waits_no_longer_than_its_client_can_bear_to_hear_no() {
        let (read, request) = (("x-stainless-read-timeout", "10"), ("x-request-timeout", "1"));
        for (headers, service, kept_alive, wait) in [
            (&[read][..], 0, false, Some(9500)),
            (&[read][..], 4000, false, Some(5500)),
            (&[read][..], 60_000, false, Some(4500)),
            // A client that is sent comments stays.
            (&[read][..], 0, true, None),
            (&[request][..], 0, true, Some(750)),
            (&[read, request][..], 0, false, Some(750)),
            (&[][..], 0, false, None),
        ] {
            let longest = of(headers).longest_wait(Duration::from_millis(service), kept_alive);
            assert_eq!(longest, wait.map(Duration::from_millis), "{headers:?} {service} {kept_alive}");
        }
    }

    #[test]
    fn a_stream_is_fed_before_its_client_loses_patience() {
        let most = Duration::from_secs(10);
        for (silence, pause) in [("600", 10_000), ("20", 10_000), ("5", 2500), ("0.001", 500)] {
            let patience = of(&[("x-stainless-read-timeout", silence)]);
            assert_eq!(patience.pause(most), Duration::from_millis(pause), "{silence}");
        }
        assert_eq!(Patience::default().pause(most), most);
    }
}
