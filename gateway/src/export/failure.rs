//! Why a batch was not delivered, and when it is tried again.

use std::io;
use std::time::Duration;

use http::StatusCode;

use crate::outbound::OutboundError;

/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The outbox cannot be read, or what was delivered cannot be taken out.
    #[error("the outbox cannot be used: {0}")]
    Ledger(String),
    /// The file cannot be written.
    #[error("the file cannot be written: {0}")]
    File(#[from] io::Error),
    /// There is no token.
    #[error(transparent)]
    Token(OutboundError),
    /// The receiver did not answer.
    #[error("the receiver did not answer: {0}")]
    Unreachable(String),
    /// The receiver said no, and will go on to do so.
    #[error("the receiver refused with status {0}\n  hint: see export.url and export.token_file; nothing is dropped")]
    Refused(StatusCode),
    /// The receiver cannot take it now.
    #[error("the receiver answered with status {status}")]
    Busy {
        /// Its answer.
        status: StatusCode,
        /// After which time it wants to be asked again.
        retry_after: Option<Duration>,
    },
}

impl Failure {
    /// Its name in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Ledger(_) => "ledger",
            Self::File(_) => "file",
            Self::Token(_) => "token",
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "refused",
            Self::Busy { .. } => "busy",
        }
    }

    /// How long to wait after so many failures in a row. `random`, from 0 to 1, keeps several gateways apart.
    pub(super) fn pause(&self, failures: u32, random: f64) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let longest = match self {
            // Somebody has to do something first.
            Self::Refused(_) => LONGEST_PAUSE,
            _ => doubled.min(LONGEST_PAUSE),
        };
        let asked = match self {
            Self::Busy { retry_after, .. } => retry_after.unwrap_or_default().min(LONGEST_PAUSE),
            _ => Duration::ZERO,
        };
        longest.mul_f64(0.5 + random / 2.0).max(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_differ() {
        let failure = Failure::Unreachable(String::new());
        let seconds = |failures, random| failure.pause(failures, random).as_secs_f64();
        assert_eq!([1, 2, 3, 7, 8, u32::MAX].map(|failures| seconds(failures, 1.0)), [0.5, 1.0, 2.0, 32.0, 60.0, 60.0]);
        assert_eq!(seconds(8, 0.0), 30.0);
    }

    #[test]
    fn what_an_operator_must_mend_is_tried_slowly_from_the_start() {
        assert!(Failure::Refused(StatusCode::UNAUTHORIZED).pause(1, 0.0) >= Duration::from_secs(30));
    }

    #[test]
    fn a_receiver_is_left_alone_for_as_long_as_it_asks_within_reason() {
        let busy = |seconds| Failure::Busy {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(busy(7).pause(1, 0.0), Duration::from_secs(7));
        assert_eq!(busy(86_400).pause(1, 0.0), Duration::from_secs(60));
        assert_eq!(busy(0).pause(3, 1.0), Duration::from_secs(2));
    }
}
