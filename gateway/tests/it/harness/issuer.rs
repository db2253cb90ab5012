//! An issuer of tokens: a server of a key set, over HTTP or TLS, that counts who asks and misbehaves when told to.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};

use super::signer::{Signer, key_set};
use super::stub::read_request;

/// How it answers.
#[derive(Clone, Debug)]
pub(crate) enum Answers {
    /// With this body.
    Text(String),
    /// With this status and this further header.
    Status(u16, &'static str),
    /// Not at all, while the connection stays open.
    Hang,
    /// New connections are closed at once.
    Refuse,
}

struct State {
    answers: Answers,
    heads: Vec<String>,
    hanging: Vec<TcpStream>,
}

/// The server. Its threads end with the test process.
pub(crate) struct IssuerServer {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    /// The certificate of the authority that vouches for it, as PEM; empty without TLS.
    pub(crate) authority: String,
}

impl IssuerServer {
    /// One without TLS that serves these keys.
    pub(crate) fn start(signers: &[&Signer]) -> Self {
        Self::serve(signers, None, String::new())
    }

    /// One with TLS, by an authority of its own.
    pub(crate) fn start_tls(signers: &[&Signer]) -> Self {
        let (tls, authority) = tls();
        Self::serve(signers, Some(Arc::new(tls)), authority)
    }

    fn serve(signers: &[&Signer], tls: Option<Arc<ServerConfig>>, authority: String) -> Self {
        let state = State { answers: Answers::Text(key_set(signers)), heads: Vec::new(), hanging: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (state, tls) = (shared.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    // Who does not trust it leaves.
                    Some(tls) => {
                        let copy = stream.try_clone().unwrap();
                        let tls = ServerConnection::new(tls).unwrap();
                        answer(&state, StreamOwned::new(tls, stream), copy).ok()
                    }
                    None => answer(&state, stream.try_clone().unwrap(), stream).ok(),
                });
            }
        });
        Self { state, address, authority }
    }

    /// Where the keys are.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.authority.is_empty() { "http" } else { "https" };
        format!("{scheme}://{}/keys", self.address)
    }

    pub(crate) fn set(&self, answers: Answers) {
        self.state.lock().unwrap().answers = answers;
    }

    /// Serves these keys from now on.
    pub(crate) fn publish(&self, signers: &[&Signer]) {
        self.set(Answers::Text(key_set(signers)));
    }

    /// How many times it was asked.
    pub(crate) fn fetches(&self) -> usize {
        self.state.lock().unwrap().heads.len()
    }

    /// Request lines and headers, in the order in which they came.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.state.lock().unwrap().heads.clone()
    }

    /// The configuration of an issuer `idp` with its keys here, and with these lines on top.
    pub(crate) fn config(&self, lines: &str) -> String {
        let url = self.url();
        format!("[issuers.idp]\nissuer = \"https://idp.test\"\naudience = [\"llm\"]\njwks_url = \"{url}\"\n{lines}\n")
    }
}

/// Claims of this issuer that are valid for an hour, with those of `further` on top.
pub(crate) fn claims(further: Value) -> Value {
    let now = seconds();
    let claims = json!({"iss": "https://idp.test", "aud": "llm", "sub": "ann", "iat": now, "exp": now + 3600});
    super::with(claims, further)
}

/// Seconds since 1970.
pub(crate) fn seconds() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64
}

fn answer(state: &Mutex<State>, mut stream: impl Read + Write, socket: TcpStream) -> std::io::Result<()> {
    if matches!(state.lock().unwrap().answers, Answers::Refuse) {
        return Ok(());
    }
    let request = read_request(&mut BufReader::new(&mut stream));
    let Some((head, _)) = request else { return Ok(()) };
    let answers = {
        let mut state = state.lock().unwrap();
        state.heads.push(head);
        state.answers.clone()
    };
    match answers {
        Answers::Text(body) => {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        }
        Answers::Status(status, header) => {
            write!(stream, "HTTP/1.1 {status} No\r\nConnection: close\r\n{header}Content-Length: 0\r\n\r\n")?;
        }
        Answers::Hang => {
            state.lock().unwrap().hanging.push(socket);
            return Ok(());
        }
        Answers::Refuse => {}
    }
    stream.flush()
}

fn tls() -> (ServerConfig, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    (config, authority.pem())
}

/// A little longer than the pause that the gateway makes between two fetches.
pub(crate) fn pause_between_fetches() {
    std::thread::sleep(Duration::from_millis(2200));
}
