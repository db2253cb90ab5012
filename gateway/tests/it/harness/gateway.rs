//! The gateway: its real binary, on free ports, with its own data directory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

use super::client::{self, Answer, Conn, Reply};
use super::engine::parse_metrics;
use super::process::{free_port, memory_kib, mortal, mortal_with_hosts, signal, spawn};
use super::{eventually, eventually_true};

/// The key of every gateway's admin API.
pub(crate) const ADMIN_KEY: &str = "the-admin-key-of-the-tests";

/// A running gateway; killed on drop, its log printed if the test failed.
pub(crate) struct Gateway {
    child: Mutex<Child>,
    data: TempDir,
    upstreams: Vec<String>,
    hosts: Option<PathBuf>,
    /// The ports that it is told to listen on; 0: any that is free.
    ports: [u16; 2],
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// A key of the tenant `acme`.
    pub(crate) key: String,
}

impl Gateway {
    /// Starts one in front of `upstream` with the default configuration and waits until it is ready.
    pub(crate) fn start(upstream: &str) -> Self {
        Self::with_config(upstream, "")
    }

    /// The same, with some TOML on top of the defaults.
    pub(crate) fn with_config(upstream: &str, toml: &str) -> Self {
        let gateway = Self::launch(&[upstream], toml);
        gateway.wait_ready();
        gateway
    }

    /// Starts one and waits for its listeners only.
    pub(crate) fn launch(upstreams: &[&str], toml: &str) -> Self {
        Self::launch_with_hosts(upstreams, toml, None)
    }

    /// The same with `hosts`, `nsswitch.conf` and `resolv.conf` of that folder for those of `/etc`.
    pub(crate) fn launch_with_hosts(upstreams: &[&str], toml: &str, hosts: Option<PathBuf>) -> Self {
        Self::launch_at([0, 0], upstreams, toml, hosts)
    }

    /// Starts one that is found at the same addresses after a restart.
    pub(crate) fn at_fixed_ports(upstream: &str, toml: &str) -> Self {
        let gateway = Self::launch_at([free_port(), free_port()], &[upstream], toml, None);
        gateway.wait_ready();
        gateway
    }

    fn launch_at(ports: [u16; 2], upstreams: &[&str], toml: &str, hosts: Option<PathBuf>) -> Self {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("config.toml"), toml).unwrap();
        std::fs::write(data.path().join("admin.key"), format!("{ADMIN_KEY}\n")).unwrap();
        let key = create_key(&data, "acme");
        let upstreams = upstreams.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let (child, address, admin) = serve(&data, &upstreams, hosts.as_deref(), ports);
        Self { child: Mutex::new(child), data, upstreams, hosts, ports, address, admin, key }
    }

    /// Starts one on a data directory that another one has left, in front of `upstream`.
    pub(crate) fn on(data: TempDir, upstream: &str) -> Self {
        let key = create_key(&data, "acme");
        let upstreams = vec![upstream.to_owned()];
        let ports = [0, 0];
        let (child, address, admin) = serve(&data, &upstreams, None, ports);
        Self { child: Mutex::new(child), data, upstreams, hosts: None, ports, address, admin, key }
    }

    /// A copy of the files in the data directory, as they lie there.
    pub(crate) fn copy_data(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(self.data.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        copy
    }

    /// Starts another one on the same data directory, after this one has ended.
    pub(crate) fn restart(&mut self) {
        self.kill9();
        let (child, address, admin) = serve(&self.data, &self.upstreams, self.hosts.as_deref(), self.ports);
        (self.address, self.admin) = (address, admin);
        *self.child.lock().unwrap() = child;
        self.wait_ready();
    }

    pub(crate) fn wait_ready(&self) {
        eventually_true("the gateway is ready", || self.ready_status() == 200);
    }

    /// The status of `/readyz`; 0 where nothing answers.
    pub(crate) fn ready_status(&self) -> u16 {
        client::get(self.admin, "/readyz").map_or(0, |reply| reply.status)
    }

    pub(crate) fn create_key(&self, tenant: &str) -> String {
        create_key(&self.data, tenant)
    }

    /// Runs the gateway's own command line on this data directory and gives what it prints.
    pub(crate) fn command(&self, args: &[&str]) -> String {
        command(&self.data, args)
    }

    /// The same for what may fail.
    pub(crate) fn try_command(&self, args: &[&str]) -> Output {
        try_command(&self.data, args)
    }

    /// The ledger, one object a request.
    pub(crate) fn usage_rows(&self) -> Vec<Value> {
        rows(&self.data)
    }

    /// The ledger's row of a request, once it is there.
    pub(crate) fn row(&self, request_id: &str) -> Value {
        eventually("the request is in the ledger", || self.rows_of(request_id).pop())
    }

    /// The ledger's row of a request, once it says how the request ended.
    pub(crate) fn settled_row(&self, request_id: &str) -> Value {
        eventually("the request is settled in the ledger", || {
            let row = self.rows_of(request_id).pop()?;
            is_settled(&row).then_some(row)
        })
    }

    /// The only row of the ledger, once it is settled.
    pub(crate) fn only_settled_row(&self) -> Value {
        eventually("the only request is settled in the ledger", || {
            let rows = self.usage_rows();
            assert!(rows.len() < 2, "more than one row: {rows:?}");
            rows.into_iter().next().filter(is_settled)
        })
    }

    fn rows_of(&self, request_id: &str) -> Vec<Value> {
        let rows = self.usage_rows().into_iter().filter(|row| row["request_id"] == request_id).collect::<Vec<_>>();
        assert!(rows.len() < 2, "two rows of one request: {rows:?}");
        rows
    }

    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        parse_metrics(&client::get(self.admin, "/metrics").unwrap().text())
    }

    /// The sum of all series of one metric.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let series = self.metrics();
        let matches = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        series.iter().filter(|(key, _)| matches(key)).map(|(_, value)| value).sum()
    }

    /// Waits until so many requests wait for a slot.
    pub(crate) fn wait_depth(&self, depth: usize) {
        eventually_true("the queue is as long as that", || self.metric("llama_gateway_queue_depth") == depth as f64);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    pub(crate) fn memory_kib(&self) -> u64 {
        memory_kib(self.pid(), "VmRSS")
    }

    pub(crate) fn term(&self) {
        signal(self.pid(), "TERM");
    }

    pub(crate) fn kill9(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().ok();
        child.wait().ok();
    }

    /// Waits for its own end.
    pub(crate) fn wait_exit(&self) -> ExitStatus {
        eventually("the gateway ends", || self.child.lock().unwrap().try_wait().unwrap())
    }

    pub(crate) fn has_exited(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_some()
    }

    pub(crate) fn conn(&self) -> Conn {
        Conn::open(self.address).unwrap()
    }

    /// Posts JSON with the key; the body of the answer follows as it comes.
    pub(crate) fn open(&self, path: &str, body: &Value) -> Answer {
        client::open(self.address, path, Some(&self.key), body)
    }

    /// Sends a chat with the key and reads nothing yet.
    pub(crate) fn send_chat(&self, body: &Value) -> Conn {
        let mut conn = self.conn();
        conn.send(&self.request("/v1/chat/completions", body)).unwrap();
        conn
    }

    /// Posts JSON with the key and reads the whole answer.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        client::post(self.address, path, Some(&self.key), body)
    }

    /// Asks the admin API, with its key.
    pub(crate) fn ask_admin(&self, method: &str, path: &str, body: &Value) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let bytes = client::request_of(method, path, Some(ADMIN_KEY), body.as_bytes());
        client::exchange(self.admin, &bytes).unwrap().reply().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        client::get_as(self.address, path, Some(&self.key)).unwrap()
    }

    /// Opens a chat stream and reads on to its first text.
    pub(crate) fn stream_chat(&self, body: &Value) -> Answer {
        let mut answer = self.open("/v1/chat/completions", body);
        assert_eq!(answer.head.status, 200);
        answer.next_text();
        answer
    }

    /// The bytes of a POST with the key.
    pub(crate) fn request(&self, path: &str, body: &Value) -> Vec<u8> {
        client::request(path, Some(&self.key), body.to_string().as_bytes())
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("gateway.log")).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- the gateway's log ---\n{}", self.log());
        }
    }
}

/// Whether a row says how its request ended.
pub(crate) fn is_settled(row: &Value) -> bool {
    row["ending"].as_str().is_some_and(|ending| !ending.is_empty() && ending != "open")
}

/// The ledger in a data directory, one object a request.
pub(crate) fn rows(data: &TempDir) -> Vec<Value> {
    let text = command(data, &["usage", "--requests", "--json"]);
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Makes a key for a tenant in a data directory.
pub(crate) fn create_key(data: &TempDir, tenant: &str) -> String {
    let printed = command(data, &["keys", "create", "--tenant", tenant]);
    let key = printed.trim();
    assert!(!key.is_empty() && !key.contains(char::is_whitespace), "not a key alone: {printed:?}");
    key.to_owned()
}

fn try_command(data: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-gateway"));
    command.args(args).arg("--data-dir").arg(data.path()).output().unwrap()
}

fn command(data: &TempDir, args: &[&str]) -> String {
    let output = try_command(data, args);
    assert!(output.status.success(), "llama-gateway {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn serve(
    data: &TempDir,
    upstreams: &[String],
    hosts: Option<&Path>,
    ports: [u16; 2],
) -> (Child, SocketAddr, SocketAddr) {
    let announced = data.path().join("serve.json");
    std::fs::remove_file(&announced).ok();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(data.path().join("gateway.log")).unwrap();
    let binary = env!("CARGO_BIN_EXE_llama-gateway");
    let mut command = hosts.map_or_else(|| mortal(binary), |hosts| mortal_with_hosts(binary, hosts));
    command.arg("serve").arg("--config").arg(data.path().join("config.toml"));
    let [listen, admin_listen] = ports.map(|port| format!("127.0.0.1:{port}"));
    command.args(["--listen", &listen, "--admin-listen", &admin_listen]);
    command.arg("--data-dir").arg(data.path());
    command.env("LLAMA_GATEWAY_ADMIN_KEY_FILE", data.path().join("admin.key"));
    for url in upstreams {
        command.args(["--upstream", url]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut child = spawn(command);
    let addresses = eventually("the gateway listens", || {
        if let Some(status) = child.try_wait().unwrap() {
            let log = std::fs::read_to_string(data.path().join("gateway.log")).unwrap_or_default();
            panic!("the gateway ended at start ({status}):\n{log}");
        }
        serde_json::from_slice::<Value>(&std::fs::read(&announced).ok()?).ok()
    });
    let address = |name: &str| addresses[name].as_str().unwrap().parse().unwrap();
    (child, address("listen"), address("admin_listen"))
}
