//! Which of llama-server's counting endpoints are being left alone, so that one that does not answer costs the time
//! limit now and then, not with every request.

use std::time::Duration;

use tokio::time::Instant;

/// Time in which an endpoint that did not answer in time, or is not there, is left alone.
const PAUSE: Duration = Duration::from_secs(5);

/// Where llama-server counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Responses,
    Messages,
    Tokenize,
}

impl Endpoint {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions/input_tokens",
            Self::Responses => "/v1/responses/input_tokens",
            Self::Messages => "/v1/messages/count_tokens",
            Self::Tokenize => "/tokenize",
        }
    }
}

/// By endpoint: when it may be asked again.
#[derive(Debug, Default)]
pub(super) struct Pauses([Option<Instant>; 4]);

impl Pauses {
    /// Whether an endpoint may be asked. When its pause is over one caller may, to find out whether it answers again;
    /// the others may once it has.
    pub(super) fn may_ask(&mut self, endpoint: Endpoint, now: Instant) -> bool {
        let pause = self.of(endpoint);
        match *pause {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                *pause = Some(now + PAUSE);
                true
            }
        }
    }

    /// The endpoint is to be left alone. Whether that is news.
    pub(super) fn begin(&mut self, endpoint: Endpoint, now: Instant) -> bool {
        self.of(endpoint).replace(now + PAUSE).is_none()
    }

    /// The endpoint has answered.
    pub(super) fn end(&mut self, endpoint: Endpoint) {
        *self.of(endpoint) = None;
    }

    fn of(&mut self, endpoint: Endpoint) -> &mut Option<Instant> {
        let [chat, responses, messages, tokenize] = &mut self.0;
        match endpoint {
            Endpoint::Chat => chat,
            Endpoint::Responses => responses,
            Endpoint::Messages => messages,
            Endpoint::Tokenize => tokenize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn an_endpoint_is_left_alone_for_a_while_and_then_tried_by_one() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        assert!(pauses.may_ask(Endpoint::Chat, now));
        assert!(pauses.begin(Endpoint::Chat, now));
        assert!(!pauses.may_ask(Endpoint::Chat, now + PAUSE - MOMENT));
        assert!(pauses.may_ask(Endpoint::Tokenize, now), "the others are not meant");
        assert!(pauses.may_ask(Endpoint::Chat, now + PAUSE));
        assert!(!pauses.may_ask(Endpoint::Chat, now + PAUSE), "one is trying already");
        assert!(pauses.may_ask(Endpoint::Chat, now + PAUSE + PAUSE), "whoever tried may have gone without a word");
    }

    #[test]
    fn an_endpoint_that_answers_again_is_asked_by_all() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        pauses.begin(Endpoint::Chat, now);
        assert!(pauses.may_ask(Endpoint::Chat, now + PAUSE));
        assert!(!pauses.begin(Endpoint::Chat, now + PAUSE), "no news");
        pauses.end(Endpoint::Chat);
        assert!(pauses.may_ask(Endpoint::Chat, now) && pauses.may_ask(Endpoint::Chat, now));
    }
}
