use std::io::Write as _;
use std::sync::Arc;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::Notify;
use tokio::time;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::stub::{Stub, nobody};

fn client(stub: &Stub) -> Client {
    Client::new(&stub.url, &Options::default()).unwrap()
}

/// A server that answers everything with the number of the connection and what was asked.
async fn echo() -> Stub {
    Stub::start(|mut conn| async move {
        while let Some(asked) = conn.request().await {
            let line = asked.head.lines().next().unwrap().to_owned();
            let body = format!("{} {line} {}", conn.number, asked.body);
            conn.whole(200, "", &body).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let stub = echo().await;
    let client = client(&stub);
    assert_eq!(client.get("/health", None).await.unwrap().body, "0 get /health http/1.1 ");
    assert_eq!(client.post("/v1/x", None, "{}").await.unwrap().body, "0 post /v1/x http/1.1 {}");
    assert_eq!(client.clone().get("/health", None).await.unwrap().body, "0 get /health http/1.1 ");
    assert_eq!(stub.accepted(), 1);
}

#[tokio::test]
async fn requests_at_the_same_time_have_connections_of_their_own() {
    let stub = echo().await;
    let client = client(&stub);
    let mut first = client.send(&client.message(Method::GET, "/a", None).unwrap()).await.unwrap();
    let mut second = client.send(&client.message(Method::GET, "/b", None).unwrap()).await.unwrap();
    assert_eq!(first.whole(100).await.unwrap(), "0 get /a http/1.1 ");
    assert_eq!(second.whole(100).await.unwrap(), "1 get /b http/1.1 ");
}

#[tokio::test]
async fn the_key_is_sent_and_not_shown() {
    let stub = Stub::start(|mut conn| async move {
        let asked = conn.request().await.unwrap();
        let told = asked.header("authorization").unwrap_or("nothing").to_owned();
        conn.whole(200, "", &told).await;
    })
    .await;
    let client = client(&stub);
    assert_eq!(client.get("/", Some("sk-secret")).await.unwrap().body, "bearer sk-secret");
    let message = client.message(Method::GET, "/", Some("sk-secret")).unwrap();
    assert!(!format!("{message:?}").contains("secret"));
    let refused = client.message(Method::GET, "/", Some("sk\nsecret")).unwrap_err();
    assert!(!refused.to_string().contains("secret") && refused.to_string().contains("hint:"), "{refused}");
}

#[tokio::test]
async fn an_idle_connection_that_the_server_has_closed_is_not_used() {
    let closed = Arc::new(Notify::new());
    let told = closed.clone();
    let stub = Stub::start(move |mut conn| {
        let told = told.clone();
        async move {
            conn.request().await.unwrap();
            conn.whole(200, "", "ok").await;
            drop(conn);
            told.notify_one();
        }
    })
    .await;
    let client = client(&stub);
    for _ in 0..3 {
        client.get("/", None).await.unwrap();
        closed.notified().await;
    }
    assert_eq!(stub.accepted(), 3);
}

#[tokio::test]
async fn a_request_that_meets_a_connection_which_is_being_closed_is_sent_once_more() {
    let stub = Stub::start(|mut conn| async move {
        conn.request().await.unwrap();
        let body = conn.number.to_string();
        conn.whole(200, "", &body).await;
        // The second one is read and gets no byte of a reply.
        conn.request().await;
    })
    .await;
    let client = client(&stub);
    assert_eq!(client.get("/", None).await.unwrap().body, "0");
    assert_eq!(client.get("/", None).await.unwrap().body, "1");
}

#[tokio::test]
async fn a_request_whose_reply_had_begun_is_not_sent_again() {
    for half in ["HTTP/1.1 200 OK\r\ncontent-le", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhal", "garbage\r\n\r\n"]
    {
        let stub = Stub::start(move |mut conn| async move {
            conn.request().await.unwrap();
            conn.whole(200, "", "ok").await;
            conn.request().await.unwrap();
            conn.send(half).await;
        })
        .await;
        let client = client(&stub);
        client.get("/", None).await.unwrap();
        assert!(client.get("/", None).await.is_err(), "{half}");
        assert_eq!(stub.accepted(), 1, "{half}");
    }
}

#[tokio::test]
async fn a_request_that_fails_on_a_new_connection_is_not_sent_again() {
    let stub = Stub::start(|mut conn| async move {
        conn.request().await.unwrap();
    })
    .await;
    let client = client(&stub);
    let failed = client.send(&client.message(Method::GET, "/", None).unwrap()).await;
    assert!(matches!(failed, Err(SendError::Exchange(_))));
    assert_eq!(stub.accepted(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_given_up_before_llama_server_closes_it() {
    let stub = echo().await;
    let client = client(&stub);
    client.get("/", None).await.unwrap();
    // From here on time stands still but for what is passed: an open connection needs no timer that could move it.
    time::pause();
    client.get("/", None).await.unwrap();
    time::advance(Duration::from_millis(3999)).await;
    client.get("/", None).await.unwrap();
    assert_eq!(stub.accepted(), 1);
    time::advance(Duration::from_millis(4000)).await;
    // A new connection has a timer.
    time::resume();
    client.get("/", None).await.unwrap();
    assert_eq!(stub.accepted(), 2);
}

#[tokio::test]
async fn dropping_a_reply_closes_its_connection_at_once() {
    let left = Arc::new(Notify::new());
    let told = left.clone();
    let stub = Stub::start(move |mut conn| {
        let told = told.clone();
        async move {
            let asked = conn.request().await.unwrap();
            if asked.head.starts_with("get /stream") {
                conn.stream().await;
                conn.chunk("data: 1\n\n").await;
            }
            conn.hung_up().await;
            told.notify_one();
        }
    })
    .await;
    let client = client(&stub);
    let mut reply = client.send(&client.message(Method::GET, "/stream", None).unwrap()).await.unwrap();
    assert_eq!(reply.chunk().await.unwrap().unwrap(), "data: 1\n\n");
    drop(reply);
    left.notified().await;
    // And so does dropping the wait for its head.
    let message = client.message(Method::GET, "/silence", None).unwrap();
    let mut sending = Box::pin(client.send(&message));
    while stub.accepted() < 2 {
        assert!(poll_once(&mut sending).await.is_pending());
    }
    drop(sending);
    left.notified().await;
}

/// Polls once, and lets others go on.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    let polled = poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context))).await;
    tokio::task::yield_now().await;
    polled
}

#[tokio::test]
async fn a_long_body_is_refused_when_it_is_wanted_in_one_piece() {
    let stub = Stub::start(|mut conn| async move {
        conn.request().await.unwrap();
        conn.stream().await;
        for _ in 0..4 {
            conn.chunk(&"x".repeat(1000)).await;
        }
        conn.hung_up().await;
    })
    .await;
    let client = client(&stub);
    let mut reply = client.send(&client.message(Method::GET, "/", None).unwrap()).await.unwrap();
    assert!(matches!(reply.whole(2500).await, Err(SendError::TooLong)));
}

#[tokio::test]
async fn who_cannot_be_reached_is_told_apart() {
    let (_port, url) = nobody();
    let client = Client::new(&url, &Options::default()).unwrap();
    let failed = client.send(&client.message(Method::GET, "/", None).unwrap()).await;
    assert!(matches!(failed, Err(SendError::Connect(_))));
}

/// A certificate for localhost: what a server needs, and a file with what a client must trust.
fn certificate() -> (TlsAcceptor, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(made.cert.pem().as_bytes()).unwrap();
    (TlsAcceptor::from(Arc::new(config)), file)
}

#[tokio::test]
async fn a_server_with_tls_must_be_trusted() {
    let (acceptor, file) = certificate();
    let stub = Stub::listen(Some(acceptor), |mut conn| async move {
        while conn.request().await.is_some() {
            conn.whole(200, "", "secure").await;
        }
    })
    .await;
    let trusting = Options { ca_file: Some(file.path().to_owned()), ..Options::default() };
    let client = Client::new(&stub.url, &trusting).unwrap();
    assert_eq!(client.get("/", None).await.unwrap().body, "secure");
    assert_eq!(client.get("/", None).await.unwrap().body, "secure");
    assert_eq!(stub.accepted(), 1);
    let stranger = Client::new(&stub.url, &Options::default()).unwrap();
    let failed = stranger.send(&stranger.message(Method::GET, "/", None).unwrap()).await;
    assert!(matches!(failed, Err(SendError::Connect(_))));
}

#[tokio::test]
async fn a_server_that_does_not_finish_the_handshake_is_not_waited_for() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options { connect_timeout: Duration::from_millis(20), ca_file: None };
    let client = Client::new(&format!("https://{}", listener.local_addr().unwrap()), &options).unwrap();
    let failed = client.send(&client.message(Method::GET, "/", None).unwrap()).await;
    assert!(matches!(failed, Err(SendError::Connect(error)) if error.kind() == std::io::ErrorKind::TimedOut));
}

#[test]
fn a_file_without_certificates_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path().to_owned(), "/nowhere/ca.pem".into()] {
        let options = Options { ca_file: Some(path.clone()), ..Options::default() };
        let refused = Client::new("https://localhost", &options).err().unwrap().to_string();
        assert!(refused.contains(path.to_str().unwrap()), "{refused}");
    }
}

#[test]
fn a_url_may_have_a_path_and_is_checked() {
    let path = |url: &str| {
        let client = Client::new(url, &Options::default()).unwrap();
        client.message(Method::GET, "/v1/models", None).unwrap().uri.to_string()
    };
    for url in ["http://localhost:8080", "http://localhost:8080/", "http://[::1]:8080/v1", "https://localhost/v1/"] {
        assert_eq!(path(url), "/v1/models", "{url}");
    }
    assert_eq!(path("https://host/llm/v1"), "/llm/v1/models");
    for url in ["localhost:8080", "ftp://localhost", "http://", "http://me:secret@localhost", "not a url"] {
        let refused = Client::new(url, &Options::default()).err();
        assert!(matches!(refused, Some(ClientError::Url { .. })), "{url}: {refused:?}");
    }
}
