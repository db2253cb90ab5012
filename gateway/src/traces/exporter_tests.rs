use std::path::PathBuf;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::record::fixture::answered;
use super::super::{QUEUE, Traces};
use super::*;
use crate::config;
use crate::metrics::Metrics;

/// Spans of one record of the fixture.
const SPANS: u64 = 6;
const TAKEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const REFUSED: &str = "HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
/// `partial_success { rejected_spans: 2, error_message: "old" }`
const PARTLY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\x0a\x07\x08\x02\x12\x03old";

/// A collector, and the heads of the requests that it got. Each is answered by what is said, the last one for ever;
/// with nothing to say it hangs.
struct Collecting {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Collecting {
    async fn saying(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let told = heads.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                while let Some(head) = read(&mut stream).await {
                    let asked = {
                        let mut told = told.lock().unwrap();
                        told.push(head);
                        told.len()
                    };
                    let Some(answer) = answers.get(asked - 1).or(answers.last()) else { break };
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                held.push(stream);
            }
        });
        Self { url, heads }
    }

    fn config(&self) -> config::Traces {
        config(&self.url)
    }

    fn asked(&self) -> usize {
        self.heads.lock().unwrap().len()
    }
}

/// The head of a request, whose body is read, too.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
            if bytes.len() == end + 4 + length.parse::<usize>().unwrap() {
                return Some(head);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn config(url: &str) -> config::Traces {
    config::Traces {
        url: url.to_owned(),
        sample_ratio: 1.0,
        follow_client: true,
        token_file: PathBuf::new(),
        ca_file: PathBuf::new(),
        service_name: "gateway-1".to_owned(),
    }
}

fn exporter(config: &config::Traces) -> Exporter {
    let metrics = Arc::new(Metrics::new().unwrap());
    Traces::open(config, &metrics).unwrap().1.unwrap()
}

impl Exporter {
    /// Exported and lost spans.
    fn counts(&self) -> (u64, u64) {
        let metrics = &self.outbox.metrics;
        (metrics.traces_exported_total.get(), metrics.traces_export_failures_total.get())
    }

    /// Has a batch of one request.
    fn load(&mut self) {
        self.gathered.push(answered());
        self.encode();
    }

    fn outage(&self) -> Option<(&'static str, u32)> {
        self.outage.as_ref().map(|outage| (outage.label, outage.failures))
    }
}

#[tokio::test]
async fn what_the_collector_takes_is_counted() {
    let collecting = Collecting::saying(&[TAKEN]).await;
    let mut exporter = exporter(&collecting.config());
    exporter.load();
    assert_eq!((exporter.attempt().await, exporter.counts(), exporter.outage()), (None, (SPANS, 0), None));
    let heads = collecting.heads.lock().unwrap();
    assert!(heads[0].starts_with("post /v1/traces http/1.1\r\n"), "{heads:?}");
    assert!(heads[0].contains("content-type: application/x-protobuf") && !heads[0].contains("authorization"));
}

#[tokio::test]
async fn what_the_collector_takes_a_part_of_is_counted_as_both() {
    let collecting = Collecting::saying(&[PARTLY, TAKEN]).await;
    let mut exporter = exporter(&collecting.config());
    exporter.load();
    assert_eq!((exporter.attempt().await, exporter.counts()), (None, (SPANS - 2, 2)));
    assert_eq!(exporter.outage(), Some(("rejected", 1)));
    exporter.load();
    assert_eq!((exporter.attempt().await, exporter.outage()), (None, None));
}

#[tokio::test]
async fn what_the_collector_refuses_is_not_sent_again() {
    let collecting = Collecting::saying(&[REFUSED]).await;
    let mut exporter = exporter(&collecting.config());
    exporter.load();
    assert_eq!((exporter.attempt().await, exporter.counts()), (None, (0, SPANS)));
    assert_eq!((exporter.outage(), collecting.asked()), (Some(("refused", 1)), 1));
}

#[tokio::test]
async fn a_collector_that_is_busy_is_asked_again_a_few_times_and_then_the_batch_is_lost() {
    let collecting = Collecting::saying(&[BUSY, BUSY, BUSY, BUSY, BUSY, TAKEN]).await;
    let mut exporter = exporter(&collecting.config());
    exporter.load();
    for tries in 1..MAX_TRIES {
        let pause = exporter.attempt().await.unwrap();
        assert!(pause > Duration::from_millis(200) * tries && exporter.counts() == (0, 0), "{tries}: {pause:?}");
    }
    assert_eq!((exporter.attempt().await, exporter.counts()), (None, (0, SPANS)));
    // One line told of all of it, and the next batch tells that it is over.
    assert_eq!(exporter.outage(), Some(("busy", MAX_TRIES)));
    exporter.load();
    assert_eq!((exporter.attempt().await, exporter.counts(), exporter.outage()), (None, (SPANS, SPANS), None));
}

#[tokio::test]
async fn a_collector_that_is_not_there_is_asked_again() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut exporter = exporter(&config(&format!("http://{closed}")));
    exporter.load();
    assert!(exporter.attempt().await.is_some());
    assert_eq!((exporter.outage(), exporter.counts()), (Some(("unreachable", 1)), (0, 0)));
}

#[tokio::test]
async fn the_token_in_the_file_is_shown_and_read_anew_each_time() {
    let collecting = Collecting::saying(&[TAKEN]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut exporter = exporter(&config::Traces { token_file: file.path().to_owned(), ..collecting.config() });
    exporter.load();
    assert!(exporter.attempt().await.is_some());
    assert_eq!((exporter.outage(), collecting.asked()), (Some(("token", 1)), 0));
    for token in ["one", "two"] {
        std::fs::write(file.path(), format!("{token}\n")).unwrap();
        exporter.load();
        assert_eq!(exporter.attempt().await, None);
        let head = collecting.heads.lock().unwrap().pop().unwrap();
        assert!(head.contains(&format!("authorization: bearer {token}\r\n")), "{head}");
    }
}

#[tokio::test]
async fn what_finds_no_place_is_counted_and_told_of_once() {
    let collecting = Collecting::saying(&[TAKEN]).await;
    let mut exporter = exporter(&collecting.config());
    for _ in 0..QUEUE + 3 {
        exporter.outbox.put(answered());
    }
    assert_eq!(exporter.counts(), (0, 3 * SPANS));
    exporter.tell_of_overflow();
    assert!(exporter.full);
    exporter.tell_of_overflow();
    assert!(!exporter.full);
}

#[tokio::test]
async fn when_the_gateway_stops_everything_is_still_sent() {
    let collecting = Collecting::saying(&[TAKEN]).await;
    let exporter = exporter(&collecting.config());
    let outbox = exporter.outbox.clone();
    let requests = BATCH + 44;
    for _ in 0..requests {
        outbox.put(answered());
    }
    let stop = CancellationToken::new();
    stop.cancel();
    exporter.run(stop).await;
    assert_eq!((outbox.metrics.traces_exported_total.get(), collecting.asked()), (requests as u64 * SPANS, 2));
    // Whoever comes after that is counted as lost.
    outbox.put(answered());
    assert_eq!(outbox.metrics.traces_export_failures_total.get(), SPANS);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_holds_the_stop_up_for_a_few_seconds_only_and_what_is_lost_is_counted() {
    let collecting = Collecting::saying(&[]).await;
    let mut exporter = exporter(&collecting.config());
    exporter.load();
    let outbox = exporter.outbox.clone();
    for _ in 0..3 {
        outbox.put(answered());
    }
    let (stop, begin) = (CancellationToken::new(), Instant::now());
    stop.cancel();
    exporter.run(stop).await;
    assert!(begin.elapsed() <= 2 * LAST_ATTEMPT);
    assert_eq!(outbox.metrics.traces_export_failures_total.get(), 4 * SPANS);
}

#[tokio::test]
async fn traces_that_are_off_open_nothing() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (traces, exporter) = Traces::open(&config(""), &metrics).unwrap();
    assert!(traces.0.is_none() && exporter.is_none());
}
