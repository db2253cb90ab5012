//! Against a small server that does what a test tells it to, on real sockets; waiting is for states, not for time.

#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::*;
use crate::queue::fixture;

mod changes;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy)]
enum Mood {
    Ready { slots: u32 },
    Loading,
    Silent,
    Stranger,
}

/// What the server is told to do, and how often it was probed.
struct Script {
    mood: Mutex<Mood>,
    /// Its replies to `/slots` and `/metrics`; none: it was started without them.
    slots: Mutex<Option<String>>,
    metrics: Mutex<Option<String>>,
    probes: watch::Sender<usize>,
    posts: mpsc::Sender<Post>,
}

/// A request with its socket: the test answers it by hand.
struct Post {
    head: String,
    body: Vec<u8>,
    socket: TcpStream,
}

impl Post {
    async fn write(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    async fn open_stream(&mut self) {
        self.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    }

    async fn chunk(&mut self, text: &str) {
        self.write(&format!("{:x}\r\n{text}\r\n", text.len())).await;
    }

    /// Waits until the gateway has closed the connection.
    async fn closed(&mut self) {
        let mut rest = Vec::new();
        let read = timeout(HOUR, self.socket.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty(), "{read:?} {rest:?}");
    }
}

struct Fake {
    address: SocketAddr,
    script: Arc<Script>,
    posts: mpsc::Receiver<Post>,
    accepting: AbortHandle,
}

impl Fake {
    async fn start(mood: Mood) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), mood).await
    }

    async fn start_at(address: SocketAddr, mood: Mood) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (sender, posts) = mpsc::channel(16);
        let script = Arc::new(Script {
            mood: Mutex::new(mood),
            slots: Mutex::default(),
            metrics: Mutex::default(),
            probes: watch::Sender::new(0),
            posts: sender,
        });
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&script))).abort_handle();
        Self { address, script, posts, accepting }
    }

    fn set(&self, mood: Mood) {
        *self.script.mood.lock().unwrap() = mood;
    }

    /// Waits until it was probed `times` times from the start.
    async fn probed(&self, times: usize) {
        self.script.probes.subscribe().wait_for(|probes| *probes >= times).await.unwrap();
    }

    async fn die(self) -> SocketAddr {
        self.accepting.abort();
        // Its port is free when its task is gone.
        while !self.accepting.is_finished() {
            tokio::task::yield_now().await;
        }
        self.address
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        connections.spawn(serve(socket, Arc::clone(&script)));
    }
}

async fn serve(mut socket: TcpStream, script: Arc<Script>) {
    while let Some((head, body)) = request(&mut socket).await {
        if head.starts_with("POST") {
            script.posts.send(Post { head, body, socket }).await.ok();
            return;
        }
        if let Some(reply) = inspection(&script, &head) {
            socket.write_all(reply.as_bytes()).await.unwrap();
            continue;
        }
        let mood = *script.mood.lock().unwrap();
        let reply = match mood {
            _ if head.starts_with("GET /v1/models") => ok(r#"{"data":[{"id":"tiny"}]}"#),
            Mood::Ready { slots } => ok(&format!(
                r#"{{"default_generation_settings":{{"n_ctx":2048}},"total_slots":{slots},"model_alias":"tiny","build_info":"b1"}}"#
            )),
            Mood::Loading => {
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}".into()
            }
            Mood::Stranger => ok("<html>"),
            Mood::Silent => String::new(),
        };
        script.probes.send_modify(|probes| *probes += 1);
        if matches!(mood, Mood::Silent) {
            std::future::pending::<()>().await;
        }
        socket.write_all(reply.as_bytes()).await.unwrap();
    }
}

fn inspection(script: &Script, head: &str) -> Option<String> {
    let script = match head.split(' ').nth(1)? {
        "/slots" => &script.slots,
        "/metrics" => &script.metrics,
        _ => return None,
    };
    let reply = script.lock().unwrap();
    Some(reply.as_deref().map_or("HTTP/1.1 501 Not Implemented\r\nContent-Length: 2\r\n\r\n{}".into(), ok))
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn request(socket: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    let head =
        String::from_utf8(head).unwrap().to_ascii_lowercase().replacen("post", "POST", 1).replacen("get", "GET", 1);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

/// An upstream that probes every 10 ms unless told otherwise, and what keeps its probers running.
struct World {
    upstream: Arc<Upstream>,
    queue: Queue,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl World {
    fn start(addresses: &[SocketAddr], tune: impl FnOnce(&mut config::Upstream)) -> Self {
        let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
        Self::start_with(&urls, tune)
    }

    fn start_with(urls: &[impl ToString], tune: impl FnOnce(&mut config::Upstream)) -> Self {
        let mut config = config::Upstream {
            urls: urls.iter().map(ToString::to_string).collect(),
            api_key_file: PathBuf::new(),
            connect_timeout: HOUR,
            probe_interval: Duration::from_millis(10),
            probe_timeout: HOUR,
            inspect_interval: HOUR,
            wedged_after: HOUR,
            resolve_interval: HOUR,
        };
        tune(&mut config);
        let (queue, tasks, stop) = (fixture::queue(), TaskTracker::new(), CancellationToken::new());
        let upstream = Upstream::start(&config, queue.clone(), &tasks, &stop).unwrap();
        Self { upstream, queue, tasks, stop }
    }

    /// Waits until a replica is in a state, with a number of slots.
    async fn reaches(&self, id: usize, state: State, slots: u32) {
        let mut watch = self.upstream.watch();
        let there = |all: &Vec<ReplicaStatus>| {
            let one = all.iter().find(|one| one.id == ReplicaId(id));
            let total = |one: &ReplicaStatus| one.facts.as_ref().map_or(0, |facts| facts.total_slots);
            one.is_some_and(|one| one.state == state && total(one) == slots)
        };
        let reached = timeout(Duration::from_secs(30), watch.wait_for(there)).await;
        assert!(reached.is_ok(), "{:?}", self.upstream.snapshot());
        drop(reached);
        let load = self.queue.load().into_iter().find(|load| load.replica == ReplicaId(id)).unwrap();
        assert_eq!((load.total, load.ready), (slots, state == State::Ready), "the queue knows as soon as the board");
    }

    fn chat(&self, id: usize) -> TaskHandle {
        let upstream = Arc::clone(&self.upstream);
        tokio::spawn(async move {
            upstream.send(ReplicaId(id), "/v1/chat/completions", "{}".into(), &Propagation::default()).await
        })
    }
}

type TaskHandle = tokio::task::JoinHandle<Result<http::Response<ReplyBody>, SendError>>;

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn an_absent_replica_is_unreachable_and_found_when_it_comes() {
    let address = Fake::start(Mood::Loading).await.die().await;
    let world = World::start(&[address], |_| ());
    assert_eq!(world.upstream.readiness(), Readiness::Loading, "nothing is known before the first probe");
    world.reaches(0, State::Down, 0).await;
    assert_eq!(world.upstream.readiness(), Readiness::Unreachable);
    assert!(world.upstream.snapshot()[0].problem.as_ref().unwrap().contains("refused"));
    assert!(matches!(
        world.upstream.call("/tokenize", Bytes::new(), &Propagation::default()).await,
        Err(SendError::NoReplica(_))
    ));

    let _fake = Fake::start_at(address, Mood::Ready { slots: 2 }).await;
    world.reaches(0, State::Ready, 2).await;
    assert_eq!(world.upstream.readiness(), Readiness::Ready);
    let facts = world.upstream.facts().unwrap();
    assert_eq!((facts.n_ctx, &*facts.model, &*facts.build), (2048, "tiny", "b1"));
    assert_eq!(facts.models, r#"{"data":[{"id":"tiny"}]}"#);
}

#[tokio::test]
async fn a_replica_that_loads_its_model_takes_requests_once_it_is_ready() {
    let fake = Fake::start(Mood::Loading).await;
    let world = World::start(&[fake.address], |_| ());
    fake.probed(2).await;
    assert_eq!(world.upstream.readiness(), Readiness::Loading);
    let waiting = world.queue.enter(fixture::ticket("t", 1)).unwrap();
    fake.set(Mood::Ready { slots: 1 });
    assert_eq!(waiting.await.unwrap().replica(), ReplicaId(0));
}

#[tokio::test]
async fn a_replica_that_dies_is_down_and_comes_back_with_other_slots() {
    let fake = Fake::start(Mood::Ready { slots: 4 }).await;
    let world = World::start(&[fake.address], |_| ());
    world.reaches(0, State::Ready, 4).await;
    let address = fake.die().await;
    world.reaches(0, State::Down, 4).await;
    let fake = Fake::start_at(address, Mood::Ready { slots: 1 }).await;
    world.reaches(0, State::Ready, 1).await;
    // A restart between two probes shows in the props alone.
    fake.set(Mood::Ready { slots: 3 });
    world.reaches(0, State::Ready, 3).await;
}

#[tokio::test]
async fn a_server_that_is_not_llama_server_is_down() {
    let fake = Fake::start(Mood::Stranger).await;
    let world = World::start(&[fake.address], |_| ());
    world.reaches(0, State::Down, 0).await;
    assert!(world.upstream.snapshot()[0].problem.as_ref().unwrap().contains("not that of a llama-server"));
}

#[tokio::test]
async fn a_suspect_is_probed_at_once() {
    let fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::start(&[fake.address], |config| config.probe_interval = HOUR);
    world.reaches(0, State::Ready, 1).await;
    fake.set(Mood::Ready { slots: 2 });
    world.upstream.mark_suspect(ReplicaId(0));
    world.reaches(0, State::Ready, 2).await;
    fake.probed(2).await;
}

#[tokio::test]
async fn a_replica_that_refuses_a_request_is_out_of_the_queue_before_its_slot_is_back() {
    let dead = Fake::start(Mood::Ready { slots: 2 }).await;
    let alive = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::start(&[dead.address, alive.address], |config| config.probe_interval = HOUR);
    world.reaches(0, State::Ready, 2).await;
    world.reaches(1, State::Ready, 1).await;
    dead.die().await;
    let slot = world.queue.enter(fixture::ticket("t", 1)).unwrap().await.unwrap();
    assert_eq!(slot.replica(), ReplicaId(0));
    // The first attempts may meet the pooled connection of the probe before its end was noticed.
    let error = loop {
        match world
            .upstream
            .send(slot.replica(), "/v1/chat/completions", "{}".into(), &Propagation::default())
            .await
            .unwrap_err()
        {
            SendError::Broken { .. } | SendError::Unread { .. } => {}
            error => break error,
        }
    };
    assert!(matches!(error, SendError::Connect { .. }), "{error}");
    drop(slot);
    let next = world.queue.enter(fixture::ticket("t", 1)).unwrap().await.unwrap();
    assert_eq!(next.replica(), ReplicaId(1));
}

#[tokio::test]
async fn a_request_that_its_replica_has_not_read_may_be_sent_to_another_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::start(&[listener.local_addr().unwrap()], |config| config.probe_interval = HOUR);
    let probe = listener.accept().await.unwrap();
    let reply = world.chat(0);
    let (socket, _) = listener.accept().await.unwrap();
    socket.peek(&mut [0]).await.unwrap();
    drop(socket);
    let error = reply.await.unwrap().unwrap_err();
    assert!(matches!(error, SendError::Unread { .. }) && error.has_not_begun(), "{error}");
    drop(probe);
}

#[tokio::test]
async fn a_request_that_its_replica_may_have_died_of_is_not_taken_to_another_one() {
    let mut fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::start(&[fake.address], |config| config.probe_interval = HOUR);
    world.reaches(0, State::Ready, 1).await;
    // On the connection of the probe, which lives on.
    let reply = world.chat(0);
    let post = fake.posts.recv().await.unwrap();
    fake.die().await;
    drop(post);
    let error = reply.await.unwrap().unwrap_err();
    assert!(matches!(error, SendError::Broken { .. }) && !error.has_not_begun(), "{error}");
}

#[tokio::test]
async fn a_silent_replica_is_down_after_three_probes() {
    let fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let tune = |config: &mut config::Upstream| config.probe_timeout = Duration::from_millis(300);
    let world = World::start(&[fake.address], tune);
    world.reaches(0, State::Ready, 1).await;
    fake.set(Mood::Silent);
    let before = *fake.script.probes.borrow();
    let mut watch = world.upstream.watch();
    watch.mark_unchanged();
    fake.probed(before + 3).await;
    assert!(!watch.has_changed().unwrap(), "two probes without an answer are forgiven");
    world.reaches(0, State::Down, 1).await;
    fake.set(Mood::Ready { slots: 1 });
    world.reaches(0, State::Ready, 1).await;
}

#[tokio::test]
async fn a_replica_without_a_thread_for_probes_stays_ready_while_its_replies_flow() {
    let mut fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let tune = |config: &mut config::Upstream| config.probe_timeout = Duration::from_millis(300);
    let world = World::start(&[fake.address], tune);
    world.reaches(0, State::Ready, 1).await;
    let reply = world.chat(0);
    let mut post = fake.posts.recv().await.unwrap();
    post.open_stream().await;
    let mut body = reply.await.unwrap().unwrap().into_body();
    let first = *fake.script.probes.borrow() + 1;
    let mut watch = world.upstream.watch();
    watch.mark_unchanged();
    fake.set(Mood::Silent);
    for probe in first..first + 5 {
        fake.probed(probe).await;
        post.chunk("data: x\n\n").await;
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: x\n\n");
    }
    assert!(!watch.has_changed().unwrap());
}

#[tokio::test]
async fn llama_server_gets_the_gateways_own_headers_and_nothing_else() {
    let mut fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), " sesame \r\n").unwrap();
    let world = World::start(&[fake.address], |config| config.api_key_file = key.path().into());
    let reply = world.chat(0);
    let mut post = fake.posts.recv().await.unwrap();
    let mut lines: Vec<_> = post.head.trim_end().lines().collect();
    lines.sort_unstable();
    let host = format!("host: {}", fake.address);
    let own = [
        "POST /v1/chat/completions http/1.1",
        "authorization: bearer sesame",
        "content-length: 2",
        "content-type: application/json",
        &host,
    ];
    assert_eq!(lines, own);
    assert_eq!(post.body, b"{}");
    post.write("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(reply.await.unwrap().unwrap().status(), StatusCode::NOT_FOUND, "errors are replies too");
}

#[tokio::test]
async fn a_pooled_connection_that_the_server_has_closed_costs_no_request() {
    let mut fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::start(&[fake.address], |config| config.probe_interval = HOUR);
    world.reaches(0, State::Ready, 1).await;
    for _ in 0..20 {
        let reply = world.chat(0);
        let mut post = fake.posts.recv().await.unwrap();
        post.write(&ok("{}")).await;
        drop(post);
        let (_, body) = client::read(reply.await.unwrap().unwrap(), 9).await.unwrap();
        assert_eq!(body, "{}");
    }
}

#[tokio::test]
async fn a_reply_that_is_dropped_closes_the_connection_at_once() {
    let mut fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::start(&[fake.address], |_| ());
    for round in 0..20 {
        let reply = world.chat(0);
        let mut post = fake.posts.recv().await.unwrap();
        post.open_stream().await;
        post.chunk("data: x\n\n").await;
        let mut body = reply.await.unwrap().unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        if round % 2 == 1 {
            // Bytes that were sent but not read must not delay it.
            post.chunk("data: y\n\n").await;
        }
        drop(body);
        post.closed().await;
    }
}

#[tokio::test]
async fn a_request_that_is_dropped_before_its_reply_closes_the_connection() {
    let mut fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::start(&[fake.address], |_| ());
    let reply = world.chat(0);
    let mut post = fake.posts.recv().await.unwrap();
    reply.abort();
    post.closed().await;
}

#[tokio::test]
async fn a_huge_event_arrives_in_pieces_of_the_read_buffer() {
    let mut fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::start(&[fake.address], |_| ());
    let reply = world.chat(0);
    let mut post = fake.posts.recv().await.unwrap();
    let event = "x".repeat(1 << 20);
    let sent = event.clone();
    let writing = tokio::spawn(async move {
        post.open_stream().await;
        post.chunk(&sent).await;
        post.write("0\r\n\r\n").await;
    });
    let mut body = reply.await.unwrap().unwrap().into_body();
    let mut received = Vec::new();
    while let Some(frame) = body.frame().await {
        let piece = frame.unwrap().into_data().unwrap();
        assert!(piece.len() <= wire::READ_BYTES);
        received.extend_from_slice(&piece);
    }
    assert!(received == event.as_bytes());
    writing.await.unwrap();
}

#[tokio::test]
async fn a_small_request_goes_to_a_replica_that_is_ready() {
    let mut fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let address = Fake::start(Mood::Loading).await.die().await;
    let world = World::start(&[address, fake.address], |_| ());
    world.reaches(0, State::Down, 0).await;
    world.reaches(1, State::Ready, 1).await;
    let upstream = Arc::clone(&world.upstream);
    let reply = tokio::spawn(async move { upstream.call("/tokenize", "{}".into(), &Propagation::default()).await });
    fake.posts.recv().await.unwrap().write(&ok("[1]")).await;
    assert_eq!(reply.await.unwrap().unwrap(), (StatusCode::OK, Bytes::from("[1]")));
}

#[tokio::test]
async fn probers_end_at_once_when_they_are_told_to() {
    let fake = Fake::start(Mood::Silent).await;
    let world = World::start(&[fake.address], |_| ());
    fake.probed(1).await;
    world.stop.cancel();
    world.tasks.close();
    world.tasks.wait().await;
}

#[tokio::test]
async fn urls_and_keys_that_cannot_work_are_refused() {
    let start = |urls: &[&str], key: PathBuf| {
        let config = config::Upstream {
            urls: urls.iter().map(ToString::to_string).collect(),
            api_key_file: key,
            connect_timeout: HOUR,
            probe_interval: HOUR,
            probe_timeout: HOUR,
            inspect_interval: HOUR,
            wedged_after: HOUR,
            resolve_interval: HOUR,
        };
        let upstream = Upstream::start(&config, fixture::queue(), &TaskTracker::new(), &CancellationToken::new());
        upstream.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let url = |url| start(&[url], PathBuf::new());
    assert_eq!(start(&["http://localhost:1", "http://[::1]:1/"], PathBuf::new()), "");
    assert!(start(&[], PathBuf::new()).contains("empty"));
    assert!(url("https://localhost:1").contains("https"));
    assert!(url("http://localhost").contains("port"));
    assert!(url("http://localhost:1/v1").contains("path"));
    assert!(url("http://localhost:1?x").contains("query"));
    assert!(url("http://me:secret@localhost:1").contains("credentials"));
    assert!(url("localhost:1").contains("scheme"));
    assert!(url("http://local host:1").contains("not a URL"));
    assert!(url("ftp://localhost:1").contains("neither an http nor a dns URL"));
    assert!(url("dns://localhost").contains("port"));
    assert!(url("dns://localhost:1/v1").contains("path"));
    assert!(start(&["http://h:1", "http://H:1/"], PathBuf::new()).contains("twice"));
    assert!(start(&["dns://h:1", "http://h:1"], PathBuf::new()).contains("twice"));

    let file = tempfile::NamedTempFile::new().unwrap();
    let key = || start(&["http://localhost:1"], file.path().into());
    assert!(start(&["http://localhost:1"], "/nowhere".into()).contains("cannot read"));
    assert!(key().contains("one key"));
    std::fs::write(file.path(), "two keys").unwrap();
    assert!(key().contains("one key"));
    std::fs::write(file.path(), "sesame\n").unwrap();
    assert_eq!(key(), "");
}
