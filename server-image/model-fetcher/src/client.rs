//! HTTP: trusts, proxies, redirects, and who may see the token.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, LOCATION, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::fault::{Fault, chain};
use crate::retry::Trouble;

/// Time to open a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Hugging Face needs two at most: to the new name of a repository, and to where the files lie.
const MAX_REDIRECTS: u32 = 10;

/// Calls the hub and where it redirects to.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    /// `Authorization`, for the endpoint alone.
    authorization: Option<HeaderValue>,
    stall: Duration,
}

impl Client {
    /// A client for `endpoint` that gives up a server that is silent for `stall`. It takes its proxies from the
    /// environment, and trusts the system's root certificates and those in `ca_file`.
    ///
    /// # Errors
    /// When the token or the certificates cannot be read.
    pub fn new(endpoint: Url, token_file: &Path, ca_file: Option<&Path>, stall: Duration) -> Result<Self, Fault> {
        let no_tls = |error: &dyn std::error::Error| Fault::Refused {
            problem: format!("HTTP cannot be set up: {}", chain(error)),
            hint: "look at HTTPS_PROXY, HTTP_PROXY and CA_FILE".to_owned(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| no_tls(&error))?
            .with_root_certificates(roots(ca_file)?)
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            // Followed here, where it is decided who sees the token.
            .redirect(Policy::none())
            .referer(false)
            .user_agent(concat!("model-fetcher/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| no_tls(&error.without_url()))?;
        let authorization = token(token_file)?;
        if authorization.is_some() && endpoint.scheme() == "http" {
            tracing::warn!("the token goes to {endpoint} without TLS");
        }
        Ok(Self { http, endpoint, authorization, stall })
    }

    /// An address below the endpoint. A segment's own slashes are escaped.
    pub fn address<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// Gets `url`, from the byte `offset` on. The answer is a good one.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, url: &Url, offset: u64) -> Result<Response, Trouble> {
        let mut url = url.clone();
        for _ in 0..MAX_REDIRECTS {
            let mut request = self.http.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.authorization.as_ref().filter(|_| self.is_endpoint(&url)) {
                request = request.header(AUTHORIZATION, token);
            }
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            let sent = self.in_time(request.send()).await?;
            let response = sent.map_err(|error| Trouble::again(chain(&error.without_url())))?;
            let location = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = location else { return self.judge(response, &url) };
            let next = location.to_str().ok().and_then(|location| url.join(location).ok());
            // Not told: it may be signed.
            url = next.ok_or_else(|| Trouble::again("redirected to what is no address"))?;
        }
        Err(Trouble::again(format!("redirected more than {MAX_REDIRECTS} times")))
    }

    /// The next piece of a body, or none after the last one.
    ///
    /// # Errors
    /// When the connection breaks or is silent.
    pub async fn chunk(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, Trouble> {
        self.in_time(response.chunk()).await?.map_err(|error| Trouble::again(chain(&error.without_url())))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Trouble> {
        let silent = |_| Trouble::again(format!("no byte for {} s", self.stall.as_secs_f64()));
        tokio::time::timeout(self.stall, work).await.map_err(silent)
    }

    fn is_endpoint(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// Lets a good answer through.
    fn judge(&self, response: Response, url: &Url) -> Result<Response, Trouble> {
        let status = response.status();
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        let host = url.host_str().unwrap_or_default();
        // Where the files lie, an address is signed and expires: the next attempt gets a new one from the endpoint.
        let passing = status.is_server_error()
            || matches!(status.as_u16(), 408 | 416 | 425 | 429)
            || !status.is_client_error()
            || !self.is_endpoint(url);
        if passing {
            return Err(Trouble::Again { cause: format!("{host} answers {status}"), after: asked_pause(&response) });
        }
        let said = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let message: String = said("x-error-message").unwrap_or_default().chars().take(200).collect();
        let problem = format!("{host} answers {status} {message}").trim_end().to_owned();
        let hint = match (said("x-error-code"), status.as_u16()) {
            (Some("GatedRepo"), _) => format!(
                "the repository is gated: accept its terms at {} with the account of the token, and give that token \
                 in HF_TOKEN_FILE",
                self.endpoint
            ),
            (Some("RevisionNotFound"), _) => "there is no such MODEL_REVISION in the repository".to_owned(),
            (_, 401) if self.authorization.is_some() => {
                "the token in HF_TOKEN_FILE is not valid or may not read this repository, or MODEL_REPO is misspelt"
                    .to_owned()
            }
            (_, 401) => "MODEL_REPO is misspelt, or the repository needs a token in HF_TOKEN_FILE".to_owned(),
            (_, 403) => "the token in HF_TOKEN_FILE may not read this repository: give it the right to read it, and \
                         accept the repository's terms with its account"
                .to_owned(),
            (_, 404 | 410) => "look at MODEL_REPO and MODEL_REVISION, and at HF_ENDPOINT".to_owned(),
            _ => "look at HF_ENDPOINT and the proxy".to_owned(),
        };
        Err(Fault::Refused { problem, hint }.into())
    }
}

/// `Retry-After` in seconds, or what Hugging Face says of its limit: `ratelimit: "api";r=0;t=55`.
fn asked_pause(response: &Response) -> Option<Duration> {
    let text = |name: &str| response.headers().get(name)?.to_str().ok();
    let limit = || text("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="));
    text(RETRY_AFTER.as_str()).or_else(limit)?.trim().parse().ok().map(Duration::from_secs)
}

fn token(path: &Path) -> Result<Option<HeaderValue>, Fault> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(unusable_token(path, &error.to_string())),
    };
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable_token(path, "it is not one word of letters, digits and signs"));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {text}"))
        .map_err(|_| unusable_token(path, "it is no value of a header"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn unusable_token(path: &Path, why: &str) -> Fault {
    Fault::Parameter {
        name: "HF_TOKEN_FILE",
        problem: format!("the token in {} cannot be used: {why}", path.display()),
        hint: "the file holds the token alone; without the file, no token is sent",
    }
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    // An image without any can still call those that `ca_file` vouches for.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(path) = ca_file else { return Ok(roots) };
    let unusable = |why: &str| Fault::Parameter {
        name: "CA_FILE",
        problem: format!("{} cannot be used: {why}", path.display()),
        hint: "it must be a PEM file of root certificates",
    };
    let mut found = false;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error.to_string()))? {
        let certificate = certificate.map_err(|error| unusable(&error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(&error.to_string()))?;
        found = true;
    }
    if found { Ok(roots) } else { Err(unusable("it has no certificate")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str) -> Client {
        let stall = Duration::from_secs(1);
        Client::new(Url::parse(endpoint).unwrap(), Path::new("/nowhere/token"), None, stall).unwrap()
    }

    #[test]
    fn addresses_are_below_the_endpoint_with_its_path() {
        let address = |endpoint| client(endpoint).address(["o", "n", "resolve", "refs/pr/1", "a%b c.gguf"]).to_string();
        assert_eq!(address("https://hub"), "https://hub/o/n/resolve/refs%2Fpr%2F1/a%25b%20c.gguf");
        assert_eq!(address("https://hub/api/hf/"), "https://hub/api/hf/o/n/resolve/refs%2Fpr%2F1/a%25b%20c.gguf");
    }

    #[test]
    fn the_endpoint_is_scheme_host_and_port() {
        let client = client("https://hub.example");
        let is = |url| client.is_endpoint(&Url::parse(url).unwrap());
        assert!(is("https://hub.example/x") && is("https://hub.example:443/x"));
        for url in ["http://hub.example/x", "https://hub.example:444/x", "https://cdn.hub.example/x", "https://hub/x"] {
            assert!(!is(url), "{url}");
        }
    }

    #[test]
    fn a_token_is_one_word_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |text: &str| {
            fs::write(file.path(), text).unwrap();
            token(file.path())
        };
        let value = with("hf_secret\n").unwrap().unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer hf_secret");
        assert!(!format!("{value:?}").contains("secret"));
        assert_eq!(with(" \n").unwrap(), None);
        assert_eq!(token(Path::new("/nowhere/token")).unwrap(), None);
        for text in ["two hf_secrets", "hf_secret\nHost: x", "hf_secret\u{e4}"] {
            let fault = with(text).unwrap_err();
            assert_eq!(fault.exit_code(), 2);
            assert!(!fault.to_string().contains("secret"), "{fault}");
        }
        assert!(token(Path::new("/")).is_err());
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(file.path(), text).unwrap();
            assert!(roots(Some(file.path())).unwrap_err().to_string().starts_with("CA_FILE: "));
        }
        assert!(roots(Some(Path::new("/nowhere/ca.pem"))).is_err());
    }
}
