//! Traces posted to a collector: OTLP/HTTP with protobuf, <https://opentelemetry.io/docs/specs/otlp/#otlphttp>.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::Client;

use super::protobuf::{self, PartialSuccess};
use crate::config;
use crate::outbound::{self, OutboundError};

/// Where collectors take traces, if the configured URL has no path.
const PATH: &str = "/v1/traces";
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;
/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// There is no token.
    #[error(transparent)]
    Token(OutboundError),
    /// The collector did not answer.
    #[error("the collector did not answer: {0}")]
    Unreachable(String),
    /// The collector said no, and would go on to do so.
    #[error("the collector refused with status {0}\n  hint: see traces.url and traces.token_file")]
    Refused(StatusCode),
    /// The collector cannot take it now.
    #[error("the collector answered with status {status}")]
    Busy {
        /// Its answer.
        status: StatusCode,
        /// After which time it wants to be asked again.
        retry_after: Option<Duration>,
    },
}

impl Failure {
    /// What kind it is, in log lines.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "refused",
            Self::Busy { .. } => "busy",
        }
    }

    /// Whether the same batch may be taken later.
    pub(super) fn may_pass(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }

    /// How long to wait after so many failures in a row. `random`, from 0 to 1, keeps several gateways apart.
    pub(super) fn pause(&self, failures: u32, random: f64) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
        let asked = match self {
            Self::Busy { retry_after, .. } => retry_after.unwrap_or_default().min(LONGEST_PAUSE),
            _ => Duration::ZERO,
        };
        doubled.mul_f64(0.5 + random / 2.0).max(asked)
    }
}

/// Who is told.
pub(super) struct Collector {
    client: Client,
    url: String,
    token_file: Option<PathBuf>,
    pub(super) service_name: String,
}

impl Collector {
    /// # Errors
    /// When the file with root certificates cannot be used.
    pub(super) fn new(config: &config::Traces) -> Result<Self, OutboundError> {
        let given = |path: &Path| Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty());
        let client = outbound::client(given(&config.ca_file).as_deref())?;
        let (url, token_file) = (endpoint(&config.url), given(&config.token_file));
        Ok(Self { client, url, token_file, service_name: config.service_name.clone() })
    }

    /// Posts a request; says what the collector did not take of it.
    ///
    /// # Errors
    /// When it did not say that it has it.
    pub(super) async fn post(&self, body: Bytes) -> Result<PartialSuccess, Failure> {
        let mut request = self.client.post(&self.url).header(CONTENT_TYPE, "application/x-protobuf").body(body);
        if let Some(path) = self.token_file.clone() {
            request = request.header(AUTHORIZATION, outbound::bearer(path).await.map_err(Failure::Token)?);
        }
        let answer = request.send().await.map_err(|error| Failure::Unreachable(outbound::told(error)))?;
        let status = answer.status();
        let retry_after = outbound::retry_after(answer.headers());
        let answer = outbound::read(answer, MAX_ANSWER).await;
        match status {
            status if status.is_success() => Ok(protobuf::response(&answer.unwrap_or_default())),
            // The specification names these four, and no others.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Failure::Busy { status, retry_after }),
            status => Err(Failure::Refused(status)),
        }
    }
}

/// The URL with the path that all collectors know, where it has none.
fn endpoint(url: &str) -> String {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    match url[after_scheme..].find(['/', '?']) {
        None => format!("{url}{PATH}"),
        Some(at) if &url[after_scheme + at..] == "/" => format!("{}{PATH}", url.trim_end_matches('/')),
        Some(_) => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_means_the_path_that_all_collectors_have() {
        for (url, endpoint) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://[::1]:4318/v1/traces", "https://[::1]:4318/v1/traces"),
            ("https://backend.example/otlp/", "https://backend.example/otlp/"),
            ("https://backend.example?token=x", "https://backend.example?token=x"),
        ] {
            assert_eq!(super::endpoint(url), endpoint);
        }
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_and_a_collector_may_ask_for_longer_ones() {
        let failure = Failure::Unreachable(String::new());
        let seconds = |failures, random| failure.pause(failures, random).as_secs_f64();
        assert_eq!([1, 2, 3, 6, 7, u32::MAX].map(|failures| seconds(failures, 1.0)), [0.5, 1.0, 2.0, 16.0, 30.0, 30.0]);
        assert_eq!(seconds(7, 0.0), 15.0);
        let busy = |seconds| Failure::Busy {
            status: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(busy(7).pause(1, 0.0), Duration::from_secs(7));
        assert_eq!(busy(86_400).pause(1, 0.0), LONGEST_PAUSE);
    }
}
