//! TLS from PEM files, read again when they change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds no PEM section of the kind that is needed, or a broken one.
    #[error("{path} is not a PEM file with a {needed}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        needed: &'static str,
        /// What was found.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not fit each other or cannot be used.
    #[error("certificate and key cannot be used together")]
    Unusable(#[from] rustls::Error),
}

/// The certificate in use. Clones share it.
#[derive(Clone)]
pub struct Tls {
    files: Arc<Files>,
    in_use: Arc<ArcSwap<InUse>>,
}

struct InUse {
    config: Arc<ServerConfig>,
    /// When the certificate of the server itself expires, since 1970.
    expires: Option<Duration>,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// What was tried last, good or not, so that a broken file is complained about once.
    tried: Mutex<[u8; 32]>,
}

impl Tls {
    /// Reads certificate chain and key.
    ///
    /// # Errors
    /// If they cannot be read or do not fit each other.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let (chain_pem, key_pem) = (read(certificate)?, read(key)?);
        let tried = Mutex::new(digest(&chain_pem, &key_pem));
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned(), tried };
        let in_use = files.configure(&chain_pem, &key_pem)?;
        Ok(Self { files: Arc::new(files), in_use: Arc::new(ArcSwap::from_pointee(in_use)) })
    }

    /// Takes new files up if they have changed; true if it did. Reads from the disk.
    ///
    /// # Errors
    /// If the new files cannot be used; the old certificate stays in use, and the same files are not tried again.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let (chain_pem, key_pem) = (read(&self.files.certificate)?, read(&self.files.key)?);
        let found = digest(&chain_pem, &key_pem);
        let mut tried = self.files.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *tried, found) == found {
            return Ok(false);
        }
        self.in_use.store(Arc::new(self.files.configure(&chain_pem, &key_pem)?));
        Ok(true)
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.in_use.load().config.clone())
    }

    /// The file of the certificate, and when the one that is in use expires, since 1970; `None` if it does not say so in
    /// a way that can be read.
    pub fn expiry(&self) -> (&Path, Option<Duration>) {
        (&self.files.certificate, self.in_use.load().expires)
    }
}

impl Files {
    fn configure(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<InUse, TlsError> {
        let pem = |path: &Path, needed| {
            let path = path.to_owned();
            move |source| TlsError::Pem { path, needed, source }
        };
        let chain = CertificateDer::pem_slice_iter(chain_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(pem(&self.certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(pem(&self.key, "private key"))?;
        let expires = chain.first().and_then(|leaf| self.expiry_of(leaf));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(InUse { config: Arc::new(config), expires })
    }

    /// What only a metric needs: a certificate that rustls takes is used, whatever comes of this.
    fn expiry_of(&self, certificate: &[u8]) -> Option<Duration> {
        let read = Certificate::from_der(certificate);
        let read = read.inspect_err(|error| {
            let path = self.certificate.display();
            tracing::warn!(%path, %error, "cannot tell when the TLS certificate expires: it has no metric");
        });
        Some(read.ok()?.tbs_certificate().validity().not_after.to_unix_duration())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

/// A digest, so that the key is not kept twice in memory.
fn digest(chain_pem: &[u8], key_pem: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(chain_pem).chain_update([0]).chain_update(key_pem).finalize().into()
}

/// Looks at the files again and again. Never ends.
pub(super) async fn reload(tls: Option<&Tls>) {
    let Some(tls) = tls else { return std::future::pending().await };
    let mut missing = false;
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        // Two small files, read every few seconds: no work for another thread.
        match tls.refresh() {
            Ok(changed) => {
                missing = false;
                if changed {
                    tracing::info!(path = %tls.files.certificate.display(), "new TLS certificate in use");
                }
            }
            Err(error) if missing && matches!(error, TlsError::File { .. }) => {}
            Err(error) => {
                missing = matches!(error, TlsError::File { .. });
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, source, "new TLS files cannot be used; keeping the old certificate");
            }
        }
    }
}
