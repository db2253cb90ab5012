//! A fault of the gateway ends one request, and tells nothing that its clients said.
//!
//! The product has no route that panics, but its clock is a parameter: this runs it within the test, with a clock that
//! panics when it is told to, wherever a request is by then. While an answer comes the clock is asked only where a quota
//! cuts it, so each tenant has one.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway::clock::Clock;
use gateway::config::{self, Overrides};
use gateway::serve::serve;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::harness::client::{self, Reply, open, post};
use crate::harness::engine::parse_metrics;
use crate::harness::gateway::{create_key, rows};
use crate::harness::stub::{PROMPT_TOKENS, Step, Stub};
use crate::harness::{chat, chat_stream, eventually, eventually_true};

const PATH: &str = "/v1/chat/completions";
/// Stands in the message of each panic.
const MARKER: &str = "said-by-a-client";

/// The gateway in this process.
struct Inside {
    stub: Stub,
    data: TempDir,
    key: String,
    addresses: Value,
    /// The next look at the clock panics.
    armed: Arc<AtomicBool>,
    /// Dropped last but one: it stops the gateway.
    _runtime: Runtime,
}

impl Inside {
    fn start() -> Self {
        let (stub, data) = (Stub::start(1), tempfile::tempdir().unwrap());
        let key = create_key(&data, "acme");
        let log = Arc::new(File::create(data.path().join("gateway.log")).unwrap());
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(log).init();
        let overrides = Overrides {
            upstream: vec![stub.url()],
            listen: Some("127.0.0.1:0".to_owned()),
            admin_listen: Some("127.0.0.1:0".to_owned()),
            data_dir: Some(data.path().to_owned()),
        };
        let settings = [
            ("TIMEOUTS_EARLY_OPEN", "20ms".to_owned()),
            ("POLICIES_DEFAULT_TOKENS_PER_DAY", (PROMPT_TOKENS + 4).to_string()),
            ("POLICIES_DEFAULT_CUT_AT_QUOTA", "true".to_owned()),
        ];
        let settings = settings.into_iter().map(|(name, value)| (format!("LLAMA_GATEWAY_{name}"), value));
        let config = config::load(None, settings, &overrides).unwrap();
        let armed = Arc::new(AtomicBool::new(false));
        let trigger = armed.clone();
        let clock = Clock::from_fn(move || {
            assert!(!trigger.swap(false, Ordering::SeqCst), "byte index 1 is not a char boundary of `{MARKER}`");
            Timestamp::now()
        });
        let runtime = Runtime::new().unwrap();
        runtime.spawn(serve(config, clock));
        let addresses = eventually("the gateway listens", || {
            serde_json::from_slice(&std::fs::read(data.path().join("serve.json")).ok()?).ok()
        });
        let inside = Self { stub, data, key, addresses, armed, _runtime: runtime };
        eventually_true("it is ready", || {
            client::get(inside.address("admin_listen"), "/readyz").unwrap().status == 200
        });
        inside
    }

    fn address(&self, name: &str) -> std::net::SocketAddr {
        self.addresses[name].as_str().unwrap().parse().unwrap()
    }

    fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    fn post(&self, path: &str) -> Reply {
        post(self.address("listen"), path, Some(&self.key), &chat(9))
    }

    /// A key of a tenant whose quota nobody has used.
    fn other_key(&self, tenant: &str) -> String {
        create_key(&self.data, tenant)
    }

    fn metric(&self, name: &str) -> f64 {
        parse_metrics(&client::get(self.address("admin_listen"), "/metrics").unwrap().text())[name]
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("gateway.log")).unwrap()
    }

    fn row(&self, request_id: &str) -> Value {
        let is_it = |row: &Value| row["request_id"] == request_id && row["ending"] != "open";
        eventually("the request is settled", || rows(&self.data).into_iter().find(is_it))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the gateway's log ---\n{}", self.log());
        }
    }
}

/// Checks that nobody is told what the panic said.
fn is_silent(reply: &Reply) {
    assert!(!format!("{reply:?}").contains(MARKER), "{reply:?}");
}

fn at_the_gate(gateway: &Inside) {
    gateway.arm();
    let reply = gateway.post(PATH);
    assert_eq!((reply.status, reply.code().as_str()), (500, "internal_error"));
    is_silent(&reply);
    gateway.arm();
    let reply = gateway.post("/v1/messages");
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (500, &json!("api_error")));
    assert_eq!(reply.json()["request_id"], reply.head.request_id());
    is_silent(&reply);
    assert_eq!(rows(&gateway.data).len(), 0);
}

fn in_a_handler(gateway: &Inside) {
    gateway.stub.plan_next(vec![Step::Gate, Step::Head, Step::Tokens(5), Step::Gate]);
    let reply = std::thread::scope(|scope| {
        let client = scope.spawn(|| gateway.post(PATH));
        gateway.stub.wait_held(0);
        gateway.arm();
        gateway.stub.release(0);
        client.join().unwrap()
    });
    assert_eq!((reply.status, reply.code().as_str()), (500, "internal_error"));
    is_silent(&reply);
    let row = gateway.row(&reply.head.request_id());
    assert_eq!((&row["ending"], &row["status"]), (&json!("internal_error"), &json!(500)), "{row}");
    gateway.stub.wait_closed(0);
}

fn in_a_body(gateway: &Inside) {
    gateway.stub.plan_next(vec![Step::Gate, Step::Head, Step::Tokens(5), Step::Gate]);
    // The 200 goes out before there is a token.
    let answer = open(gateway.address("listen"), PATH, Some(&gateway.other_key("beta")), &chat_stream(9));
    let id = answer.head.request_id();
    gateway.stub.wait_held(1);
    gateway.arm();
    gateway.stub.release(1);
    assert!(answer.reply().is_err(), "a stream that failed does not end as if it were whole");
    let row = gateway.row(&id);
    assert_eq!((&row["ending"], &row["status"]), (&json!("internal_error"), &json!(200)), "{row}");
    gateway.stub.wait_closed(1);
}

#[test]
fn a_panic_ends_one_request_and_is_counted_and_its_place_is_logged_but_never_its_message() {
    let usual = std::panic::take_hook();
    let gateway = Inside::start();
    at_the_gate(&gateway);
    in_a_handler(&gateway);
    in_a_body(&gateway);
    // The slot is free again, and the gateway goes on.
    let key = gateway.other_key("gamma");
    assert_eq!(post(gateway.address("listen"), PATH, Some(&key), &chat(9)).status, 200);
    std::panic::set_hook(usual);
    assert_eq!(gateway.metric("llama_gateway_panics_total"), 4.0);
    let log = gateway.log();
    let places = log.lines().filter(|line| line.contains("ERROR") && line.contains("panicked at="));
    let here = |line: &str| line.contains(Path::new(file!()).file_name().unwrap().to_str().unwrap());
    assert_eq!(places.filter(|line| here(line)).count(), 4, "{log}");
    assert!(!log.contains(MARKER) && !log.contains("char boundary"), "{log}");
}
