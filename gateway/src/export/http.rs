//! Events posted to a receiver: CloudEvents 1.0, HTTP binding, batched mode.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::Client;

use super::failure::Failure;
use crate::config;
use crate::outbound::{self, OutboundError};

/// Time that a receiver has for a batch.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read, so that its connection can be used again.
const MAX_ANSWER: usize = 64 << 10;

/// Who is told.
pub(super) struct Receiver {
    client: Client,
    url: String,
    token_file: Option<PathBuf>,
}

impl Receiver {
    /// # Errors
    /// When the file with root certificates cannot be used.
    pub(super) fn new(config: &config::Export) -> Result<Self, OutboundError> {
        let given = |path: &Path| Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty());
        let client = outbound::client(given(&config.ca_file).as_deref())?;
        Ok(Self { client, url: config.url.clone(), token_file: given(&config.token_file) })
    }

    /// Posts events, each of them JSON.
    ///
    /// # Errors
    /// When the receiver did not say that it has them.
    pub(super) async fn post(&self, events: &[String]) -> Result<(), Failure> {
        let body = format!("[{}]", events.join(","));
        let mut request = self.client.post(&self.url).timeout(TIMEOUT).body(body);
        request = request.header(CONTENT_TYPE, "application/cloudevents-batch+json; charset=utf-8");
        if let Some(path) = self.token_file.clone() {
            request = request.header(AUTHORIZATION, outbound::bearer(path).await.map_err(Failure::Token)?);
        }
        let answer = request.send().await.map_err(|error| Failure::Unreachable(outbound::told(error)))?;
        let status = answer.status();
        let retry_after = outbound::retry_after(answer.headers());
        // What it says besides its status is of no interest, nor is whether all of it arrives.
        drop(outbound::read(answer, MAX_ANSWER).await);
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(Failure::Busy { status, retry_after }),
            status if status.is_server_error() => Err(Failure::Busy { status, retry_after }),
            status => Err(Failure::Refused(status)),
        }
    }
}
