//! Settled entries on their way to others.

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::harness::chat;
use crate::harness::engine::shared;
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Stub, read_request};
use crate::harness::{chat_stream, eventually_true};

/// What the receiver does with a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    /// Takes it and says so.
    Takes,
    /// Takes it and hangs up without a word.
    TakesAndDies,
    /// Reads it and never answers.
    Hangs,
    /// Refuses with this status.
    Says(u16),
}

#[derive(Default)]
struct Received {
    batches: Vec<Vec<Value>>,
    /// Batches that arrived, whatever became of them.
    asked: usize,
}

/// Takes events by HTTP. Its threads end with the test process.
struct Receiver {
    url: String,
    mood: Arc<Mutex<Mood>>,
    received: Arc<Mutex<Received>>,
}

impl Receiver {
    fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/usage", listener.local_addr().unwrap());
        let (mood, received) = (Arc::new(Mutex::new(mood)), Arc::<Mutex<Received>>::default());
        let shared = (mood.clone(), received.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (mood, received) = shared.clone();
                std::thread::spawn(move || serve(&stream, &mood, &received));
            }
        });
        Self { url, mood, received }
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> usize {
        self.received.lock().unwrap().asked
    }

    /// All events in the order in which they were first taken.
    fn once_each(&self) -> Vec<Value> {
        let mut seen = BTreeSet::new();
        let received = self.received.lock().unwrap();
        let events = received.batches.iter().flatten().filter(|event| seen.insert(id(event)));
        events.cloned().collect()
    }

    fn config(&self) -> String {
        format!("[export]\nurl = \"{}\"\nsource = \"gateway-1\"\n", self.url)
    }
}

fn serve(mut stream: &TcpStream, mood: &Mutex<Mood>, received: &Mutex<Received>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some((head, body)) = read_request(&mut reader) {
        assert!(head.to_ascii_lowercase().contains("content-type: application/cloudevents-batch+json"), "{head}");
        received.lock().unwrap().asked += 1;
        let mood = *mood.lock().unwrap();
        let status = match mood {
            Mood::Hangs => {
                // Until the gateway hangs up.
                let (None | Some(_)) = read_request(&mut reader);
                return;
            }
            Mood::Says(status) => status,
            Mood::Takes | Mood::TakesAndDies => {
                received.lock().unwrap().batches.push(serde_json::from_slice(&body).unwrap());
                204
            }
        };
        if mood == Mood::TakesAndDies || write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

fn id(event: &Value) -> String {
    event["id"].as_str().unwrap().to_owned()
}

/// The ids of the events that the ledger's rows ought to have.
fn wanted(gateway: &Gateway) -> BTreeSet<String> {
    gateway.usage_rows().iter().map(|row| format!("{}.0", row["request_id"].as_str().unwrap())).collect()
}

fn has_all(gateway: &Gateway, receiver: &Receiver) -> bool {
    receiver.once_each().iter().map(id).collect::<BTreeSet<_>>() == wanted(gateway)
}

#[test]
fn every_settled_request_is_a_line_of_the_file_that_says_what_the_ledger_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("usage.jsonl");
    std::fs::write(&path, "{\"torn\":").unwrap();
    let gateway = Gateway::with_config(&shared().url(), &format!("[export]\nfile = {path:?}\n"));
    for tokens in 1..4 {
        gateway.post("/v1/chat/completions", &chat(tokens));
    }
    let lines = || {
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    eventually_true("three lines", || lines().len() == 3);
    for (line, row) in lines().iter().zip(gateway.usage_rows()) {
        assert_eq!(line["id"], format!("{}.0", row["request_id"].as_str().unwrap()));
        assert_eq!((&line["subject"], &line["source"]), (&row["tenant"], &"llama-gateway".into()));
        for key in ["tenant", "key_id", "surface", "ending", "status", "prompt_tokens", "completion_tokens", "ended"] {
            assert_eq!(line["data"][key], row[key], "{key}");
        }
    }
    // They are counted a moment after they are on the disk.
    eventually_true("they are counted", || gateway.metric("llama_gateway_export_delivered_total") == 3.0);

    // logrotate takes the file away.
    std::fs::rename(&path, dir.path().join("usage.jsonl.1")).unwrap();
    gateway.post("/v1/chat/completions", &chat(4));
    eventually_true("a new file", || path.exists());
    gateway.term();
    assert!(gateway.wait_exit().success());
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
}

#[test]
fn who_tells_events_apart_by_id_has_each_once_whatever_the_receiver_and_kill_9_do() {
    let stub = Stub::start(4);
    let receiver = Receiver::start(Mood::TakesAndDies);
    let mut gateway = Gateway::with_config(&stub.url(), &receiver.config());
    for mood in [Mood::TakesAndDies, Mood::Hangs, Mood::Says(500), Mood::Says(401), Mood::Takes] {
        // Before the start: a gateway that still heard a 401 would pause for up to a minute.
        receiver.set(mood);
        let asked = receiver.asked();
        // In the middle of a delivery, or between two.
        gateway.restart();
        for _ in 0..5 {
            gateway.post("/v1/chat/completions", &chat(3));
        }
        eventually_true("the receiver is asked", || receiver.asked() > asked);
    }
    gateway.restart();
    eventually_true("everything is delivered", || has_all(&gateway, &receiver));
    assert_eq!(receiver.once_each().len(), 25);
    eventually_true("nothing waits", || gateway.metric("llama_gateway_export_pending") == 0.0);
    let ended: Vec<_> = receiver.once_each().iter().map(|event| event["data"]["ended"].to_string()).collect();
    assert!(ended.is_sorted(), "{ended:?}");
}

#[test]
fn requests_go_on_while_a_receiver_hangs_and_none_is_lost() {
    let stub = Stub::start(4);
    let receiver = Receiver::start(Mood::Hangs);
    let mut gateway = Gateway::with_config(&stub.url(), &receiver.config());
    gateway.post("/v1/chat/completions", &chat(3));
    eventually_true("the receiver is asked", || receiver.asked() == 1);
    for _ in 0..50 {
        let answer = gateway.open("/v1/chat/completions", &chat_stream(3));
        assert_eq!(answer.head.status, 200);
        assert_eq!(answer.events().last().unwrap(), "data: [DONE]");
    }
    // All of that while it still holds the first batch.
    assert_eq!((receiver.asked(), receiver.once_each().len()), (1, 0));
    receiver.set(Mood::Takes);
    // What hangs is given up when the gateway stops, and the rest goes out after the next start.
    gateway.term();
    assert!(gateway.wait_exit().success());
    assert!(gateway.log().contains("not everything could be exported"), "{}", gateway.log());
    gateway.restart();
    eventually_true("everything is delivered", || has_all(&gateway, &receiver));
    assert_eq!(receiver.once_each().len(), 51);
}

#[test]
fn an_outage_is_logged_once_with_the_status_and_shown_in_the_metrics() {
    let stub = Stub::start(1);
    let receiver = Receiver::start(Mood::Says(503));
    let gateway = Gateway::with_config(&stub.url(), &receiver.config());
    gateway.post("/v1/chat/completions", &chat(3));
    eventually_true("it is tried again", || receiver.asked() >= 3);
    let shown = |name: &str| gateway.metric(&format!("llama_gateway_export_{name}"));
    assert_eq!(shown("pending"), 1.0);
    assert!(shown("failures_total{kind=\"busy\"}") >= 2.0 && shown("oldest_seconds") > 0.0);
    receiver.set(Mood::Takes);
    eventually_true("it is delivered", || shown("pending") == 0.0 && shown("delivered_total") == 1.0);
    eventually_true("the end is told", || gateway.log().contains("usage is exported again"));
    let log = gateway.log();
    assert_eq!(log.matches("usage is not exported").count(), 1, "{log}");
    assert!(log.contains("503") && !log.contains("/usage"), "{log}");
}

#[test]
fn the_receiver_hears_of_a_request_within_moments() {
    let stub = Stub::start(1);
    let receiver = Receiver::start(Mood::Takes);
    let gateway = Gateway::with_config(&stub.url(), &receiver.config());
    let begin = std::time::Instant::now();
    gateway.post("/v1/chat/completions", &chat(3));
    eventually_true("it is delivered", || receiver.once_each().len() == 1);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}
