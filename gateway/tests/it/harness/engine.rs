//! A real llama-server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

use super::client::{get, post};
use super::process::{free_port, memory_kib, mortal, signal, spawn};
use super::{eventually, eventually_true};

/// How a llama-server is started.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) model: PathBuf,
    pub(crate) slots: u32,
    /// Tokens of context for each slot.
    pub(crate) context: u32,
    pub(crate) args: Vec<String>,
}

impl Options {
    /// The random model of a few megabytes: thousands of tokens a second, hardly ever an end before the limit.
    pub(crate) fn tiny() -> Self {
        Self { model: variable("TINY_MODEL").into(), slots: 4, context: 4096, args: Vec::new() }
    }

    /// The small model that speaks English, slow enough (about 100 tokens a second) to be caught in the act.
    pub(crate) fn speaking() -> Self {
        Self { model: variable("MODEL").into(), slots: 2, context: 2048, args: Vec::new() }
    }

    pub(crate) fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    pub(crate) fn context(mut self, tokens: u32) -> Self {
        self.context = tokens;
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// A template with function calls and reasoning, which lets the random model show both.
    pub(crate) fn tools(self) -> Self {
        let template = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/tools.jinja");
        self.args(&["--chat-template-file", template])
    }
}

/// What the environment must name; there is no skipping.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set; hint: run scripts/test, which fetches what the tests need and sets it")
    })
}

/// A running llama-server; killed on drop.
pub(crate) struct Engine {
    child: Child,
    port: u16,
    options: Options,
    hung: bool,
}

impl Engine {
    /// Starts one on a free port and waits until its model is loaded.
    pub(crate) fn start(options: Options) -> Self {
        let engine = Self::launch(options, free_port());
        engine.wait_ready();
        engine
    }

    /// Starts one and does not wait for anything.
    pub(crate) fn launch(options: Options, port: u16) -> Self {
        let mut command = mortal(variable("LLAMA_SERVER"));
        command.arg("-m").arg(&options.model);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["-np", &options.slots.to_string(), "-c", &(options.slots * options.context).to_string()]);
        // One thread: two servers that fight over two cores are slower than one each.
        command.args(["-t", "1", "--threads-http", "64", "--no-ui", "--metrics", "--slots", "--alias", "test-model"]);
        command.args(&options.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: spawn(command), port, options, hung: false }
    }

    pub(crate) fn wait_ready(&self) {
        eventually_true("llama-server is ready", || {
            get(self.address(), "/health").is_ok_and(|reply| reply.status == 200)
        });
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.resume();
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Stops it in mid-air: connections stay open and nothing is answered.
    pub(crate) fn hang(&mut self) {
        signal(self.pid(), "STOP");
        self.hung = true;
    }

    pub(crate) fn resume(&mut self) {
        if std::mem::take(&mut self.hung) {
            signal(self.pid(), "CONT");
        }
    }

    /// Kills it and starts another one on the same port.
    pub(crate) fn restart(&mut self, options: Options) {
        self.kill();
        *self = Self::launch(options, self.port);
        self.wait_ready();
    }

    pub(crate) fn options(&self) -> Options {
        self.options.clone()
    }

    /// How many slots are decoding now, by llama-server's own word.
    pub(crate) fn slots_busy(&self) -> usize {
        let reply = get(self.address(), "/slots").unwrap();
        let slots = reply.json();
        slots.as_array().unwrap().iter().filter(|slot| slot["is_processing"] == true).count()
    }

    /// The counters of its `/metrics`.
    pub(crate) fn counters(&self) -> BTreeMap<String, f64> {
        parse_metrics(&get(self.address(), "/metrics").unwrap().text())
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The largest memory that it ever had, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        memory_kib(self.pid(), "VmHWM")
    }

    /// What it answers when asked directly.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> Value {
        let reply = post(self.address(), path, None, body);
        assert_eq!(reply.status, 200, "llama-server refused {body}: {}", reply.text());
        reply.json()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One llama-server for all tests that only ask it things.
pub(crate) fn shared() -> &'static Engine {
    static SHARED: LazyLock<Engine> = LazyLock::new(|| Engine::start(Options::tiny()));
    &SHARED
}

/// Prometheus text as `name{labels}` -> value.
pub(crate) fn parse_metrics(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// Waits until no slot of `engine` is busy.
pub(crate) fn wait_idle(engine: &Engine) {
    eventually("llama-server is idle", || (engine.slots_busy() == 0).then_some(()));
}
