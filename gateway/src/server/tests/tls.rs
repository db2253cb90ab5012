//! TLS, with certificates that `openssl` makes for each test.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// Makes `certificate.pem` and `key.pem` in `directory`.
fn make_certificate(directory: &Path) {
    make_certificate_for(2, directory);
}

fn make_certificate_for(days: u32, directory: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", &days.to_string()])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-out", "certificate.pem", "-keyout", "key.pem"])
        .current_dir(directory)
        .output()
        .expect("openssl should be installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn certificate_in(directory: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(directory.join("certificate.pem")).unwrap()
}

async fn connect(listener: &Listener, trusted: &CertificateDer<'static>, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let tcp = listener.connect().await;
    soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap()
}

fn load(directory: &Path) -> Tls {
    Tls::load(&directory.join("certificate.pem"), &directory.join("key.pem")).unwrap()
}

#[tokio::test]
async fn both_protocols_work_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    make_certificate(directory.path());
    let listener = listen(LIMITS, Some(load(directory.path()))).await;
    let trusted = certificate_in(directory.path());

    let mut http1 = connect(&listener, &trusted, b"http/1.1").await;
    http1.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(http1.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");

    let http2 = connect(&listener, &trusted, b"h2").await;
    assert_eq!(http2.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<Bytes>>(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(http2),
    )
    .await
    .unwrap();
    let _driver = tokio::spawn(connection);
    let request = Request::get("https://localhost/hello").body(http_body_util::Empty::new()).unwrap();
    let answer = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_through_tls() {
    let directory = tempfile::tempdir().unwrap();
    make_certificate(directory.path());
    let mut listener = listen(LIMITS, Some(load(directory.path()))).await;
    let mut client = connect(&listener, &certificate_in(directory.path()), b"http/1.1").await;
    client.write_all((post_to("/wait", "{}") + &post_to("/echo", "next")).as_bytes()).await.unwrap();
    assert_eq!(listener.event().await, Event::Begun);
    drop(client);
    assert_eq!(listener.event().await, Event::Dropped { stalled: false });
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    make_certificate(directory.path());
    let limits = Limits { header_timeout: Duration::from_millis(100), ..LIMITS };
    let listener = listen(limits, Some(load(directory.path()))).await;
    let mut client = listener.connect().await;
    assert_eq!(read_to_close(&mut client).await, "");
}

#[tokio::test]
async fn changed_files_are_taken_up_and_broken_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    make_certificate(directory.path());
    let tls = load(directory.path());
    let listener = listen(LIMITS, Some(tls.clone())).await;
    let first = certificate_in(directory.path());
    let expires = || tls.expiry().1.unwrap();
    let first_expires = expires();
    assert_eq!(tls.expiry().0, directory.path().join("certificate.pem"));
    assert!(!tls.refresh().unwrap(), "nothing has changed");

    fs::write(directory.path().join("certificate.pem"), "no certificate").unwrap();
    assert!(tls.refresh().is_err());
    assert!(!tls.refresh().unwrap(), "the same broken file is not tried again");
    assert_eq!(expires(), first_expires);
    let client = connect(&listener, &first, b"http/1.1").await;
    assert_eq!(client.get_ref().1.peer_certificates().unwrap()[0], first);

    make_certificate_for(30, directory.path());
    assert!(tls.refresh().unwrap());
    let days = (expires() - first_expires).as_secs_f64() / 86_400.0;
    assert!((28.0..28.1).contains(&days), "{days} days more");
    let second = certificate_in(directory.path());
    assert_ne!(first, second);
    let client = connect(&listener, &second, b"http/1.1").await;
    assert_eq!(client.get_ref().1.peer_certificates().unwrap()[0], second);
}
