//! The exporter with a ledger of its own and a receiver that fails as it is told.

use std::collections::VecDeque;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::*;
use crate::ledger::{Charge, Count, CountedBy, Ending, LedgerHandle, Outcome, Settings, Subject};
use crate::surface::Surface;

/// What the receiver does with a batch.
#[derive(Clone, Debug)]
enum Answer {
    /// Takes it and says so.
    Takes,
    /// Takes it and dies before it can say so.
    TakesAndDies,
    /// Hangs up before it has read it.
    HangsUp,
    /// Says this, and takes nothing.
    Says(&'static str),
    /// Breaks off within its answer, a yes, whose head is there.
    BreaksOff,
}

/// A receiver that remembers what it took.
#[derive(Default)]
struct Receiving {
    answers: Mutex<VecDeque<Answer>>,
    taken: Mutex<Vec<Value>>,
    heads: Mutex<Vec<String>>,
    /// How many more batches may be answered.
    gate: Option<Semaphore>,
}

impl Receiving {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() })
    }

    async fn listen(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap());
        let receiving = Arc::clone(self);
        #[expect(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let receiving = Arc::clone(&receiving);
                #[expect(clippy::disallowed_methods, reason = "ends with the test")]
                tokio::spawn(async move { receiving.serve(BufReader::new(stream)).await });
            }
        });
        url
    }

    /// Answers on one connection, until it is closed.
    async fn serve(&self, mut stream: BufReader<TcpStream>) -> Option<()> {
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).await.ok()? == 0 {
                    return None;
                }
            }
            let lower = head.to_ascii_lowercase();
            let length = lower.split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
            self.heads.lock().unwrap().push(lower);
            let answer = self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Takes);
            if matches!(answer, Answer::HangsUp) {
                return None;
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
            if let Some(gate) = &self.gate {
                gate.acquire().await.ok()?.forget();
            }
            if !matches!(answer, Answer::Says(_)) {
                let Value::Array(events) = serde_json::from_slice(&body).unwrap() else { panic!("not a batch") };
                self.taken.lock().unwrap().extend(events);
            }
            let (text, goes_on) = match answer {
                Answer::TakesAndDies | Answer::HangsUp => return None,
                Answer::Takes => ("HTTP/1.1 204 No Content\r\n\r\n", true),
                Answer::BreaksOff => ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nthan", false),
                Answer::Says(text) => (text, true),
            };
            stream.write_all(text.as_bytes()).await.ok()?;
            if !goes_on {
                return None;
            }
        }
    }

    fn ids(&self) -> Vec<String> {
        self.taken.lock().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    }
}

struct Bench {
    ledger: Ledger,
    handle: LedgerHandle,
    metrics: Arc<Metrics>,
    config: config::Export,
    dir: tempfile::TempDir,
}

fn config(file: PathBuf, url: &str) -> config::Export {
    let (url, source) = (url.to_owned(), "gateway-1".to_owned());
    config::Export { file, url, token_file: PathBuf::new(), ca_file: PathBuf::new(), source }
}

fn at(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn outcome(completion: u64) -> Outcome {
    Outcome {
        ending: Ending::Complete,
        status: 200,
        count: Count { prompt: 10, cached: 1, completion, by: CountedBy::Usage, reasoning: Some(2) },
        dispatched: None,
        queue_wait: Duration::from_millis(4),
        first_token: Some(at(1)),
        ended: at(2),
    }
}

impl Bench {
    fn to_url(url: &str) -> Self {
        Self::new(|_| config(PathBuf::new(), url))
    }

    fn to_file() -> Self {
        Self::new(|dir| config(dir.join("usage.jsonl"), ""))
    }

    fn new(config: impl FnOnce(&Path) -> config::Export) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            progress_interval: Duration::from_secs(3600),
            max_live: 1000,
            on_failure: config::OnFailure::Refuse,
            export: true,
        };
        let (ledger, handle) = Ledger::open(dir.path(), Clock::from_fn(|| at(60)), settings).unwrap();
        let config = config(dir.path());
        Self { ledger, handle, metrics: Arc::new(Metrics::new().unwrap()), config, dir }
    }

    fn exporter(&self) -> Exporter {
        let clock = Clock::from_fn(|| at(60));
        Exporter::open(&self.config, self.dir.path(), &self.ledger, &self.metrics, &clock).unwrap().unwrap()
    }

    fn charge(&self, id: &str) -> Charge {
        let subject = Subject {
            request_id: id.into(),
            tenant: "acme".into(),
            key_id: "abcdefgh".into(),
            model: "smollm2".into(),
            surface: Surface::Chat,
            arrived: at(0),
        };
        self.ledger.admit(subject).unwrap()
    }

    /// Settles requests of these ids.
    async fn settle(&self, ids: impl IntoIterator<Item = String>) {
        for id in ids {
            self.charge(&id).close(outcome(5)).await.unwrap();
        }
    }

    async fn correct(&self, id: &'static str) {
        let insert = move |connection: &Connection| {
            connection.execute(
                "INSERT INTO corrections SELECT request_id, 1, 1767225660000, 'billed twice', tenant, key_id, model,
                    surface, arrived_ms, -prompt_tokens, 0, -5, 0, 0, 0 FROM entries WHERE request_id = ?1",
                [id],
            )?;
            connection.execute("INSERT INTO outbox (request_id, revision) VALUES (?1, 1)", [id]).map(drop)
        };
        self.ledger.work(insert).await.unwrap();
    }

    async fn pending(&self) -> i64 {
        self.ledger.work(|connection| outbox::pending(connection, 0)).await.unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.config.file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Takes turns until nothing waits; the pauses are not waited for.
async fn deliver(exporter: &mut Exporter) {
    for _ in 0..100 {
        if exporter.turn().await == POLL {
            return;
        }
    }
    panic!("never delivered");
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("r{n}.0")).collect()
}

fn requests(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("r{n}"))
}

#[tokio::test]
async fn an_event_tells_all_that_the_ledger_knows() {
    let bench = Bench::to_file();
    bench.settle(["r0".to_owned()]).await;
    bench.correct("r0").await;
    deliver(&mut bench.exporter()).await;
    let expected = serde_json::json!({
        "specversion": "1.0", "id": "r0.0", "source": "gateway-1", "type": "llama-gateway.request.settled.v1",
        "subject": "acme", "time": "2026-01-01T00:00:02.000Z", "datacontenttype": "application/json",
        "data": {
            "request_id": "r0", "revision": 0, "tenant": "acme", "key_id": "abcdefgh", "model": "smollm2",
            "surface": "chat", "upstream": null, "ending": "complete", "status": 200, "counted_by": "usage",
            "prompt_tokens": 10, "cached_tokens": 1, "completion_tokens": 5, "reasoning_tokens": 2,
            "queue_wait_ms": 4, "prefill_slot_ms": 0, "decode_slot_ms": 0, "arrived": "2026-01-01T00:00:00.000Z",
            "dispatched": null, "first_token": "2026-01-01T00:00:01.000Z", "ended": "2026-01-01T00:00:02.000Z",
        },
    });
    let lines = bench.lines();
    assert_eq!(lines[0], expected);
    let correction = &lines[1];
    assert_eq!(correction["id"], "r0.1");
    assert_eq!(correction["type"], "llama-gateway.request.corrected.v1");
    assert_eq!(correction["time"], "2026-01-01T00:01:00.000Z");
    assert_eq!(correction["data"]["reason"], "billed twice");
    assert_eq!(
        (&correction["data"]["prompt_tokens"], &correction["data"]["completion_tokens"]),
        (&(-10).into(), &(-5).into())
    );
    for line in &lines {
        schema::check(line);
    }
}

#[tokio::test]
async fn events_are_posted_as_a_batch_with_the_token_of_the_moment() {
    let receiving = Receiving::new([]);
    let mut bench = Bench::to_url(&receiving.listen().await);
    bench.config.token_file = bench.dir.path().join("token");
    let mut exporter = bench.exporter();
    bench.settle(requests(1)).await;
    assert!(exporter.turn().await > POLL);
    std::fs::write(&bench.config.token_file, "\n").unwrap();
    assert!(exporter.turn().await > POLL);
    assert_eq!(bench.metrics.export_failures_total.with_label_values(&["token"]).get(), 2, "no file, an empty one");
    assert!(receiving.heads.lock().unwrap().is_empty());
    for (n, token) in ["first", "second"].iter().enumerate() {
        std::fs::write(&bench.config.token_file, format!("{token}\n")).unwrap();
        bench.settle([format!("more{n}")]).await;
        deliver(&mut exporter).await;
        let head = receiving.heads.lock().unwrap().last().unwrap().clone();
        assert!(head.starts_with("post /events http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/cloudevents-batch+json; charset=utf-8\r\n"), "{head}");
        assert!(head.contains(&format!("authorization: bearer {token}\r\n")), "{head}");
    }
    assert_eq!(receiving.ids(), ["r0.0", "more0.0", "more1.0"]);
    assert_eq!((bench.pending().await, bench.metrics.export_delivered_total.get()), (0, 3));
}

#[tokio::test]
async fn what_was_refused_is_kept_and_told_by_kind_and_once() {
    let says = |text| Answer::Says(text);
    let receiving = Receiving::new([
        says("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n"),
        says("HTTP/1.1 307 There\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"),
        says("HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"),
        says("HTTP/1.1 500 Ouch\r\ncontent-length: 0\r\n\r\n"),
        Answer::HangsUp,
        Answer::BreaksOff,
    ]);
    let bench = Bench::to_url(&receiving.listen().await);
    bench.settle(requests(2)).await;
    let mut exporter = bench.exporter();
    let half_a_minute = Duration::from_secs(30);
    assert!(exporter.turn().await >= half_a_minute);
    assert!(exporter.turn().await >= half_a_minute);
    assert!(exporter.turn().await >= Duration::from_secs(7));
    assert_eq!((bench.metrics.export_pending.get(), bench.metrics.export_oldest_seconds.get()), (2, 58.0));
    for _ in 0..2 {
        assert!(exporter.turn().await > POLL);
    }
    assert_eq!(exporter.outage.as_ref().map(|outage| outage.failures), Some(5));
    assert_eq!(exporter.turn().await, POLL, "its yes was heard");
    assert!(exporter.outage.is_none());
    assert_eq!(receiving.ids(), ids(2));
    let kinds = [("refused", 2), ("busy", 2), ("unreachable", 1)];
    for (kind, count) in kinds {
        assert_eq!(bench.metrics.export_failures_total.with_label_values(&[kind]).get(), count, "{kind}");
    }
    assert_eq!((bench.pending().await, bench.metrics.export_pending.get()), (0, 0));
}

#[tokio::test]
async fn more_than_a_batch_goes_in_order_without_a_pause() {
    let receiving = Receiving::new([]);
    let bench = Bench::to_url(&receiving.listen().await);
    bench.settle(requests(1)).await;
    // Ten thousand entries like that one.
    let many = |connection: &Connection| {
        connection.execute_batch(
            "CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
                SELECT i FROM n;
             INSERT INTO entries SELECT 'r' || i, tenant, key_id, model, surface, ending, counted_by, prompt_tokens,
                cached_tokens, completion_tokens, arrived_ms, dispatched_ms, first_token_ms, ended_ms, status, upstream,
                queue_wait_ms, reasoning_tokens, prefill_slot_ms, decode_slot_ms, 0 FROM entries, n;
             INSERT INTO outbox (request_id, revision) SELECT 'r' || i, 0 FROM n ORDER BY i;",
        )
    };
    bench.ledger.work(many).await.unwrap();
    let mut exporter = bench.exporter();
    assert_eq!(bench.metrics.export_pending.get(), 10_000);
    for _ in 0..20 {
        assert_eq!(exporter.turn().await, Duration::ZERO);
    }
    assert_eq!(exporter.turn().await, POLL);
    assert!(receiving.ids() == ids(10_000));
    assert_eq!(receiving.heads.lock().unwrap().len(), 20);
    assert_eq!(bench.pending().await, 0);
}

#[tokio::test]
async fn what_is_delivered_and_cannot_be_taken_out_is_not_delivered_again() {
    let bench = Bench::to_file();
    bench.settle(requests(3)).await;
    let mut exporter = bench.exporter();
    let refuse = "CREATE TRIGGER full BEFORE DELETE ON outbox BEGIN SELECT raise(ABORT, 'full'); END";
    bench.ledger.work(|connection| connection.execute_batch(refuse)).await.unwrap();
    for _ in 0..3 {
        assert!(exporter.turn().await > POLL);
    }
    assert_eq!(bench.metrics.export_failures_total.with_label_values(&["ledger"]).get(), 3);
    bench.ledger.work(|connection| connection.execute_batch("DROP TRIGGER full")).await.unwrap();
    deliver(&mut exporter).await;
    assert_eq!((bench.lines().len(), bench.pending().await), (3, 0));
}

#[tokio::test]
async fn an_entry_that_is_gone_is_counted_as_lost_and_holds_nothing_up() {
    let bench = Bench::to_file();
    bench.settle(requests(3)).await;
    bench
        .ledger
        .work(|connection| connection.execute("DELETE FROM entries WHERE request_id = 'r1'", []))
        .await
        .unwrap();
    let mut exporter = bench.exporter();
    std::fs::create_dir(&bench.config.file).unwrap();
    for _ in 0..3 {
        assert!(exporter.turn().await > POLL);
    }
    std::fs::remove_dir(&bench.config.file).unwrap();
    deliver(&mut exporter).await;
    assert_eq!(bench.lines().iter().map(|line| &line["id"]).collect::<Vec<_>>(), ["r0.0", "r2.0"]);
    assert_eq!(bench.metrics.export_failures_total.with_label_values(&["lost"]).get(), 1, "once, however often tried");
    assert_eq!(bench.pending().await, 0);
}

#[tokio::test]
async fn when_the_gateway_stops_what_was_settled_last_is_still_delivered() {
    let bench = Bench::to_file();
    let exporter = bench.exporter();
    let stop = CancellationToken::new();
    stop.cancel();
    // Handed over, and nobody waits for the commit.
    for id in requests(5) {
        drop(bench.charge(&id).close(outcome(5)));
    }
    exporter.run(stop).await;
    assert_eq!(bench.lines().len(), 5);
    bench.handle.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_hangs_holds_the_stop_up_for_a_few_seconds_only_and_nothing_is_lost() {
    let receiving = Arc::new(Receiving { gate: Some(Semaphore::new(0)), ..Receiving::default() });
    let bench = Bench::to_url(&receiving.listen().await);
    bench.settle(requests(2)).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let begin = Instant::now();
    bench.exporter().run(stop).await;
    assert!(begin.elapsed() <= 2 * LAST_ATTEMPT);
    assert_eq!((receiving.ids().len(), bench.pending().await), (0, 2));
}

#[tokio::test]
async fn without_a_target_nothing_is_delivered_and_what_waits_is_kept() {
    let mut bench = Bench::to_file();
    bench.settle(requests(2)).await;
    bench.config.file = PathBuf::new();
    let clock = Clock::from_fn(|| at(60));
    let opened = Exporter::open(&bench.config, bench.dir.path(), &bench.ledger, &bench.metrics, &clock).unwrap();
    assert!(opened.is_none());
    assert_eq!((bench.metrics.export_pending.get(), bench.pending().await), (2, 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever a receiver does, and however often the exporter is started anew.
    #[test]
    fn every_settled_entry_is_delivered_at_least_once_and_in_order(
        steps in prop::collection::vec((0..4usize, 0..7u8, any::<bool>()), 1..12)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let receiving = Receiving::new([]);
            let bench = Bench::to_url(&receiving.listen().await);
            let mut exporter = bench.exporter();
            let mut settled = 0;
            for (entries, answer, restarts) in steps {
                bench.settle((settled..settled + entries).map(|n| format!("r{n}"))).await;
                settled += entries;
                let answer = match answer {
                    0 => Answer::TakesAndDies,
                    1 => Answer::HangsUp,
                    2 => Answer::Says("HTTP/1.1 500 Ouch\r\ncontent-length: 0\r\n\r\n"),
                    3 => Answer::Says("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n"),
                    4 => Answer::BreaksOff,
                    _ => Answer::Takes,
                };
                *receiving.answers.lock().unwrap() = VecDeque::from([answer]);
                exporter.turn().await;
                if restarts {
                    exporter = bench.exporter();
                }
            }
            receiving.answers.lock().unwrap().clear();
            deliver(&mut exporter).await;
            let taken = receiving.ids();
            let mut seen = std::collections::HashSet::new();
            let first_times: Vec<_> = taken.into_iter().filter(|id| seen.insert(id.clone())).collect();
            assert_eq!(first_times, ids(settled));
            assert_eq!(bench.pending().await, 0);
        });
    }
}

/// Holds events against `docs/export.schema.json`, as far as that file uses JSON Schema.
mod schema {
    use serde_json::Value;

    const SCHEMA: &str = include_str!("../../../docs/export.schema.json");

    pub(super) fn check(event: &Value) {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let problems = problems(&schema, &schema, event, "");
        assert!(problems.is_empty(), "{problems:#?}");
    }

    /// Knows these words, and no others.
    fn problems(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (word, wanted) in schema.as_object().unwrap() {
            let fits = match word.as_str() {
                "$schema" | "$id" | "$defs" | "title" | "description" | "format" => true,
                "$ref" => {
                    let name = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                    found.extend(problems(root, root.pointer(name).unwrap(), value, at));
                    true
                }
                "oneOf" => {
                    let all = wanted.as_array().unwrap().iter();
                    let each: Vec<_> = all.map(|schema| problems(root, schema, value, at)).collect();
                    let fits = each.iter().filter(|problems| problems.is_empty()).count() == 1;
                    if !fits {
                        found.extend(each.into_iter().flatten());
                    }
                    fits
                }
                "type" => match wanted {
                    Value::Array(types) => types.iter().any(|wanted| is_of(wanted, value)),
                    wanted => is_of(wanted, value),
                },
                "const" => wanted == value,
                "enum" => wanted.as_array().unwrap().contains(value),
                "minimum" => value.as_i64().is_none_or(|number| number >= wanted.as_i64().unwrap()),
                "required" => wanted.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
                "properties" => {
                    for (key, schema) in wanted.as_object().unwrap() {
                        let member = value.get(key).into_iter();
                        found.extend(member.flat_map(|member| problems(root, schema, member, &format!("{at}/{key}"))));
                    }
                    // What is told is also described.
                    value.as_object().unwrap().keys().all(|key| wanted.get(key).is_some())
                }
                word => panic!("{word}: not known here"),
            };
            if !fits {
                found.push(format!("{at}: {value} does not fit {word}: {wanted}"));
            }
        }
        found
    }

    fn is_of(kind: &Value, value: &Value) -> bool {
        match kind.as_str().unwrap() {
            "object" => value.is_object(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "null" => value.is_null(),
            kind => panic!("{kind}: not known here"),
        }
    }

    #[test]
    fn an_event_that_is_not_as_described_is_found() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        for wrong in [serde_json::json!({}), serde_json::json!({"specversion": "1.0", "surprise": 1})] {
            assert!(!problems(&schema, &schema, &wrong, "").is_empty());
        }
    }
}
