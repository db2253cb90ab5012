//! Snapshots as they come from the gateway, over a connection that is opened again when it is lost.

use std::time::Duration;

use anyhow::anyhow;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time;

use super::TopArguments;
use super::events::Events;
use super::target::{self, Target};
use super::text::harmless;
use crate::admin::live::snapshot::Snapshot;
use crate::outbound;

/// The gateway tells its state each second.
const PATIENCE: Duration = Duration::from_secs(10);
/// As long as a stream may last: an outbound request has an end unless it is told another one.
const NO_END: Duration = Duration::from_secs(365 * 24 * 3600);
/// Pauses between attempts to connect: the first one, doubled up to the last one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(8);
/// Bytes of a snapshot, and of a refusal, at most.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// What is known at present.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) snapshot: Snapshot,
    /// Why it is not new, where it is not.
    pub(super) lost: Option<String>,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// To ask again would not help.
    Refused(anyhow::Error),
    /// Perhaps later.
    Lost(anyhow::Error),
}

impl From<Failure> for anyhow::Error {
    fn from((Failure::Refused(error) | Failure::Lost(error)): Failure) -> Self {
        error
    }
}

/// The way to the gateway.
pub(super) struct Feed {
    client: Client,
    arguments: TopArguments,
    /// Longer silence is a lost connection.
    patience: Duration,
}

impl Feed {
    pub(super) fn new(arguments: TopArguments) -> anyhow::Result<Self> {
        Ok(Self { client: outbound::client(None)?, arguments, patience: PATIENCE })
    }

    /// One snapshot.
    pub(super) async fn once(&self) -> Result<Snapshot, Failure> {
        let (target, response) = self.ask("/v1/live", self.patience).await?;
        let body = outbound::read(response, MOST_BYTES).await.map_err(|error| lost(&target, &error.into()))?;
        parse(&target, &body)
    }

    /// Opens the stream of snapshots.
    pub(super) async fn open(&self) -> Result<Stream, Failure> {
        let asked = time::timeout(self.patience, self.ask("/v1/live/events", NO_END)).await;
        let (target, response) = asked.map_err(|_| Failure::Lost(anyhow!("the gateway does not answer")))??;
        Ok(Stream { target, response, events: Events::default(), patience: self.patience })
    }

    /// Keeps `known` new, and comes back only when the gateway refuses to tell more.
    pub(super) async fn run(&self, mut stream: Stream, known: &watch::Sender<Known>) -> anyhow::Error {
        loop {
            let failure = loop {
                match stream.next().await {
                    Ok(snapshot) => known.send_replace(Known { snapshot, lost: None }),
                    Err(failure) => break failure,
                };
            };
            stream = match self.reopen(failure, known).await {
                Ok(stream) => stream,
                Err(error) => return error,
            };
        }
    }

    async fn reopen(&self, mut failure: Failure, known: &watch::Sender<Known>) -> anyhow::Result<Stream> {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match failure {
                Failure::Lost(error) => error,
                Failure::Refused(error) => return Err(error),
            };
            // What matters first, since narrow terminals cut it. The hint is for who starts this program.
            let text = error.to_string();
            let text = format!("Trying again: {}", text.lines().next().unwrap_or_default());
            known.send_modify(|known| known.lost = Some(text));
            time::sleep(pause).await;
            pause = LAST_PAUSE.min(pause * 2);
            match self.open().await {
                Ok(stream) => return Ok(stream),
                Err(next) => failure = next,
            }
        }
    }

    async fn ask(&self, path: &str, patience: Duration) -> Result<(Target, Response), Failure> {
        let target = target::find(&self.arguments).map_err(Failure::Refused)?;
        let request = self.client.get(format!("{}{path}", target.url)).bearer_auth(&target.key).timeout(patience);
        let response = request.send().await.map_err(|error| unreachable(&target, error))?;
        match response.status() {
            StatusCode::OK => Ok((target, response)),
            status => {
                Err(refusal(&target, status, outbound::read(response, MOST_BYTES).await.unwrap_or_default().as_slice()))
            }
        }
    }
}

/// A stream of snapshots.
pub(super) struct Stream {
    target: Target,
    response: Response,
    events: Events,
    patience: Duration,
}

impl Stream {
    /// The next snapshot.
    pub(super) async fn next(&mut self) -> Result<Snapshot, Failure> {
        loop {
            if let Some(data) = self.events.next() {
                return parse(&self.target, &data);
            }
            let Ok(piece) = time::timeout(self.patience, self.response.chunk()).await else {
                return Err(lost(&self.target, &anyhow!("nothing came for {:?}", self.patience)));
            };
            match piece {
                Ok(Some(piece)) => {
                    self.events.push(&piece).map_err(|_| lost(&self.target, &anyhow!("an event has no end")))?;
                }
                Ok(None) => return Err(lost(&self.target, &anyhow!("the gateway has ended it"))),
                Err(error) => return Err(lost(&self.target, &error.without_url().into())),
            }
        }
    }
}

fn parse(target: &Target, text: &[u8]) -> Result<Snapshot, Failure> {
    serde_json::from_slice(text).map_err(|error| {
        let Target { url, .. } = target;
        Failure::Refused(anyhow!(
            "what {url} tells is not understood: {}\nhint: use the program of the gateway's own version",
            harmless(&error.to_string())
        ))
    })
}

fn unreachable(target: &Target, error: reqwest::Error) -> Failure {
    let why = anyhow::Error::from(error.without_url());
    Failure::Lost(anyhow!(
        "no gateway answers at {}: {}\n\
         hint: is it running? --admin names the URL of its admin port, --data-dir the directory that it runs on",
        target.url,
        harmless(&why.root_cause().to_string())
    ))
}

fn lost(target: &Target, why: &anyhow::Error) -> Failure {
    Failure::Lost(anyhow!("the connection to {} is lost: {}", target.url, harmless(&why.root_cause().to_string())))
}

/// What an answer without a snapshot means.
fn refusal(target: &Target, status: StatusCode, body: &[u8]) -> Failure {
    let Target { url, key_file, .. } = target;
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| harmless(body["error"][name].as_str().unwrap_or_default());
    let error = match (status, text("code").as_str()) {
        (StatusCode::UNAUTHORIZED, _) => anyhow!(
            "{url} refuses the key of {}\n\
             hint: it takes the key in the file that its configuration names as `admin.key_file`, and on its admin port only",
            key_file.display()
        ),
        (StatusCode::FORBIDDEN, "admin_disabled") => anyhow!(
            "the admin API of {url} is off\n\
             hint: its configuration names the file of the admin key as `admin.key_file` (docs/keys.md). It says: {}",
            text("message")
        ),
        (StatusCode::NOT_FOUND, _) => {
            anyhow!("{url} has no live view\nhint: --admin names the admin port of a gateway of this version")
        }
        _ => anyhow!("{url} answers {status}: {}\nhint: the log of the gateway may tell why", text("message")),
    };
    // A proxy before it, or the gateway, may be well again soon.
    if status.is_server_error() { Failure::Lost(error) } else { Failure::Refused(error) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with these bytes, and then says nothing more until the other side leaves.
    fn feed(answer: &'static str) -> (Feed, tempfile::NamedTempFile) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut asked = [0; 4096];
            assert!(stream.read(&mut asked).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
            while let Ok(1..) = stream.read(&mut asked) {}
        });
        let key_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key_file.path(), "a-key-that-nobody-checks").unwrap();
        let admin = Some(format!("http://{address}"));
        let arguments = TopArguments { admin, key_file: Some(key_file.path().to_owned()), ..TopArguments::default() };
        (Feed::new(arguments).unwrap(), key_file)
    }

    /// For those whose other side falls silent. No test may need an answer within it.
    const SHORT: Duration = Duration::from_millis(50);

    fn told(failure: Failure) -> (&'static str, String) {
        match failure {
            Failure::Refused(error) => ("refused", error.to_string()),
            Failure::Lost(error) => ("lost", error.to_string()),
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_none_is_refused_or_asked_for_again() {
        for (answer, kind, expected) in [
            ("HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n", "refused", "refuses the key"),
            ("HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n", "refused", "answers 403"),
            ("HTTP/1.1 302 X\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n", "refused", "answers 302"),
            ("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", "refused", "has no live view"),
            ("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", "lost", "answers 503"),
            ("HTTP/1.1 500 X\r\nContent-Length: 33\r\n\r\n{\"error\":{\"message\":\"\\u001b[2J\"}}", "lost", ": ?[2J"),
            ("HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\nhello", "refused", "is not understood"),
            ("HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n{", "lost", "timed out"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "lost", "no gateway answers"),
            ("", "lost", "no gateway answers"),
        ] {
            let (mut feed, _key_file) = feed(answer);
            if expected == "timed out" {
                feed.patience = SHORT;
            }
            let (was, text) = told(feed.once().await.err().unwrap());
            assert!(was == kind && text.contains(expected), "{answer}: {was}: {text}");
            assert!(!text.contains('\x1b'), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_falls_silent_or_ends_is_lost() {
        const EVENT: &str = concat!(
            r#"data: {"object":"live","at":0.0,"gateway":{"version":"","started":0.0,"readiness":"","draining":false,"#,
            r#""ledger_healthy":true,"open_connections":0},"upstreams":[],"running_total":7,"running":[],"waiting_total":0,"#,
            r#""queue":{"expected_wait_seconds":{}},"waiting":[],"tenants":[]}"#,
            "\n\n"
        );
        for (rest, expected) in [
            ("", "nothing came for"),
            ("0\r\n\r\n", "has ended it"),
            ("nonsense\r\n", "is lost"),
            ("8\r\ndata: 1\n\r\n1\r\n\n\r\n", "is not understood"),
        ] {
            let answer =
                format!("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{EVENT}\r\n{rest}", EVENT.len());
            let (feed, _key_file) = feed(answer.leak());
            let mut stream = feed.open().await.ok().unwrap();
            assert_eq!(stream.next().await.ok().unwrap().running_total, 7);
            if rest.is_empty() {
                stream.patience = SHORT;
            }
            let (_, text) = told(stream.next().await.err().unwrap());
            assert!(text.contains(expected), "{rest}: {text}");
        }
    }

    #[tokio::test]
    async fn a_gateway_that_accepts_and_says_nothing_is_not_waited_for() {
        let (mut feed, _key_file) = feed("");
        feed.patience = SHORT;
        let (kind, text) = told(feed.open().await.err().unwrap());
        assert!(kind == "lost" && text.contains("does not answer"), "{text}");
    }
}
