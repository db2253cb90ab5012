//! Where the text of a key set comes from: an issuer, or a file.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use http::{StatusCode, header};
use reqwest::Client;

use crate::config;
use crate::outbound::{self, OutboundError};

/// Bytes of a key set, or of a token to be shown, at most.
const MAX_BYTES: usize = 256 << 10;

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is too long.
    #[error("{} is longer than {MAX_BYTES} bytes", .0.display())]
    LongFile(PathBuf),
    /// The issuer does not answer, or with too much.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The issuer answers that it has no keys for us.
    #[error("the issuer answered with status {0}")]
    Status(StatusCode),
}

impl FetchError {
    /// The name in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::LongFile(_) => "file",
            Self::Outbound(OutboundError::TooLong(_)) => "too_long",
            Self::Outbound(OutboundError::Http(error)) if error.is_timeout() => "timeout",
            Self::Outbound(_) => "unreachable",
            Self::Status(_) => "status",
        }
    }
}

/// Gets the text of an issuer's key set, time after time.
pub(super) struct Fetcher {
    client: Option<Client>,
}

impl Fetcher {
    pub(super) fn new() -> Self {
        Self { client: None }
    }

    /// Gets it once more.
    pub(super) async fn fetch(&mut self, issuer: &config::Issuer) -> Result<Vec<u8>, FetchError> {
        if let Some(path) = &issuer.jwks_file {
            return read_file(path);
        }
        let fetched = self.get(issuer).await;
        if fetched.is_err() {
            // The file with the roots may have been replaced, as Kubernetes does with its own: it is read again.
            self.client = None;
        }
        fetched
    }

    async fn get(&mut self, issuer: &config::Issuer) -> Result<Vec<u8>, FetchError> {
        let client = match &self.client {
            Some(client) => client,
            None => self.client.insert(outbound::client(issuer.ca_file.as_deref())?),
        };
        let url = issuer.jwks_url.as_deref().unwrap_or_default();
        let mut request = client.get(url).header(header::ACCEPT, "application/json, application/jwk-set+json");
        if let Some(path) = &issuer.bearer_token_file {
            request = request.bearer_auth(String::from_utf8_lossy(&read_file(path)?).trim());
        }
        let response = request.send().await.map_err(OutboundError::from)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        Ok(outbound::read(response, MAX_BYTES).await?)
    }
}

/// Reads a small file. It blocks, for about as long as a look at the clock.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, FetchError> {
    let failed = |source| FetchError::File { path: path.to_owned(), source };
    let mut text = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() > MAX_BYTES { Err(FetchError::LongFile(path.to_owned())) } else { Ok(text) }
}
