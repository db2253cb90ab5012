//! Calls to the outside: the key sets of token issuers, and whoever takes usage events. (llama-server is not called
//! from here: `upstream` has a client of its own.)
//!
//! Takes certificates to trust; gives an HTTP client that is bounded in time, and answers that are bounded in bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Time to open a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a whole exchange, the body included. A single request may set another one.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the outside cannot be called, or its answer not be read.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The file with further root certificates cannot be used.
    #[error("cannot read certificates from {}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls_pki_types::pem::Error,
    },
    /// The file with further root certificates has none, or one that is none.
    #[error("{} is not a PEM file of root certificates", .0.display())]
    NoCertificate(PathBuf),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The client cannot be made, or the exchange failed. It does not tell the URL, whose query may hold a secret.
    #[error(transparent)]
    Http(reqwest::Error),
    /// There is no token to show.
    #[error("{} cannot be read as a bearer token: {problem}", path.display())]
    Token {
        /// Where it should be.
        path: PathBuf,
        /// Why it is not.
        problem: String,
    },
    /// The answer is longer than it may be.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

impl From<reqwest::Error> for OutboundError {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error.without_url())
    }
}

/// A client that trusts the system's root certificates (those of `SSL_CERT_FILE` and `SSL_CERT_DIR` where these are
/// set) and the ones in the PEM file `ca_file`. Reads from the disk.
///
/// It follows no redirects and takes no proxy from the environment: whom the gateway believes and tells is said by its
/// configuration alone.
///
/// # Errors
/// When `ca_file` cannot be read or holds no certificate.
pub fn client(ca_file: Option<&Path>) -> Result<Client, OutboundError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca_file)?)
        .with_no_client_auth();
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .user_agent(concat!("llama-gateway/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TOTAL_TIMEOUT)
        .build()?;
    Ok(client)
}

/// Reads the body of an answer.
///
/// # Errors
/// When it is longer than `max_bytes`, or breaks off.
pub async fn read(mut response: Response, max_bytes: usize) -> Result<Vec<u8>, OutboundError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if piece.len() > max_bytes - body.len() {
            return Err(OutboundError::TooLong(max_bytes));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The `Authorization` header with the token that is in the file now.
///
/// # Errors
/// When the file cannot be read, is empty, or holds more than a token.
pub async fn bearer(path: PathBuf) -> Result<HeaderValue, OutboundError> {
    let read = tokio::task::spawn_blocking({
        let path = path.clone();
        move || {
            let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
            // Whoever exchanges it may be just about to write it.
            let token = Some(text.trim()).filter(|token| !token.is_empty()).ok_or("it is empty")?;
            let value = HeaderValue::try_from(format!("Bearer {token}"));
            let mut value = value.map_err(|_| "it is more than one line, or not ASCII")?;
            value.set_sensitive(true);
            Ok(value)
        }
    });
    let read: Result<_, String> = read.await.unwrap_or_else(|error| Err(error.to_string()));
    read.map_err(|problem| OutboundError::Token { path, problem })
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, OutboundError> {
    let mut roots = RootCertStore::empty();
    // A machine without any, as a small container image is, can still call those that `ca_file` vouches for.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(path) = ca_file else { return Ok(roots) };
    let unreadable = |source| OutboundError::Certificates { path: path.to_owned(), source };
    let mut found = false;
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots.add(certificate.map_err(unreadable)?).map_err(|_| OutboundError::NoCertificate(path.to_owned()))?;
        found = true;
    }
    if found { Ok(roots) } else { Err(OutboundError::NoCertificate(path.to_owned())) }
}

/// After how many seconds whoever answered wants to be asked again.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// An error with its causes. The path of a URL may be a secret, as that of a web hook is.
pub fn told(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::from(error.without_url()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
    use rustls::ServerConfig;
    use rustls_pki_types::PrivatePkcs8KeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Answers one request with `answer`; over TLS, if there is a configuration for it.
    async fn serve_once(tls: Option<ServerConfig>, answer: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        #[expect(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            if let Some(tls) = tls {
                let Ok(mut stream) = TlsAcceptor::from(Arc::new(tls)).accept(stream).await else { return };
                assert!(stream.read(&mut buffer).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            } else {
                let mut stream = stream;
                assert!(stream.read(&mut buffer).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    fn answer(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    /// A server's TLS and the PEM text of the authority that vouches for it.
    fn tls_of_own_authority() -> (ServerConfig, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        (builder.with_no_client_auth().with_single_cert(vec![certificate.into()], key).unwrap(), authority.pem())
    }

    #[tokio::test]
    async fn an_authority_that_is_not_the_systems_is_trusted_when_its_file_is_given() {
        let (tls, authority) = tls_of_own_authority();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), authority).unwrap();
        let port = serve_once(Some(tls.clone()), answer("hello")).await;
        let response = client(Some(file.path())).unwrap().get(format!("https://127.0.0.1:{port}/")).send().await;
        assert_eq!(read(response.unwrap(), 5).await.unwrap(), b"hello");

        let port = serve_once(Some(tls), answer("hello")).await;
        let refused = client(None).unwrap().get(format!("https://127.0.0.1:{port}/")).send().await.unwrap_err();
        assert!(refused.is_connect(), "{refused:?}");
    }

    #[tokio::test]
    async fn an_answer_longer_than_the_bound_is_an_error() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n3\r\nlo!\r\n0\r\n\r\n";
        for text in [answer("hello!"), chunked.to_owned()] {
            for (bound, fits) in [(6, true), (5, false), (0, false)] {
                let port = serve_once(None, text.clone()).await;
                let response = client(None).unwrap().get(format!("http://127.0.0.1:{port}/")).send().await.unwrap();
                match read(response, bound).await {
                    Ok(body) => assert!(fits && body == b"hello!"),
                    Err(error) => assert!(!fits && matches!(error, OutboundError::TooLong(_)), "{error}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let text = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
        let port = serve_once(None, text.to_owned()).await;
        let response = client(None).unwrap().get(format!("http://127.0.0.1:{port}/")).send().await.unwrap();
        assert_eq!(response.status(), 302);
    }

    #[tokio::test]
    async fn a_failure_does_not_tell_the_url() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let sent = client(None).unwrap().get(format!("http://{closed}/keys?api_key=secret")).send().await;
        let error = OutboundError::from(sent.unwrap_err());
        let debugged = format!("{error:?}");
        let told = format!("{debugged} {:#}", anyhow::Error::from(error));
        assert!(told.contains("error sending request") && !told.contains("secret"), "{told}");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(client(Some(file.path())), Err(OutboundError::NoCertificate(_))));
        std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(client(Some(file.path())), Err(OutboundError::NoCertificate(_))));
        assert!(matches!(client(Some(Path::new("/nowhere/ca.pem"))), Err(OutboundError::Certificates { .. })));
    }
}
