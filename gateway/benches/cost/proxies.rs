//! The gateway, nginx and Envoy: found, set up alike (one worker, no access log but the gateway's own, no buffering of
//! replies, kept connections), started, asked until they answer, and ended.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::process::{self, Cores};

const GATEWAY: &str = env!("CARGO_BIN_EXE_llama-gateway");
const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy with its version.
#[derive(Clone)]
pub(crate) enum Kind {
    Nginx(Installed),
    Envoy(Installed),
    Gateway,
}

#[derive(Clone)]
pub(crate) struct Installed {
    program: PathBuf,
    version: String,
}

impl Kind {
    /// The column of the table.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Nginx(nginx) => format!("nginx {}", nginx.version),
            Self::Envoy(envoy) => format!("Envoy {}", envoy.version),
            Self::Gateway => format!("llama-gateway {}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// What can be measured here. nginx must be there, since it is the yardstick.
pub(crate) fn available() -> anyhow::Result<Vec<Kind>> {
    if find(Path::new("taskset")).is_none() {
        bail!("taskset is not installed\nhint: apt-get install util-linux");
    }
    let nginx = find(Path::new("nginx")).or_else(|| find(Path::new("/usr/sbin/nginx")));
    let nginx = nginx.context("nginx is not installed\nhint: apt-get install nginx-light")?;
    let mut kinds = vec![Kind::Nginx(Installed { version: version(&nginx, "-v")?, program: nginx })];
    let named = std::env::var_os("ENVOY").map(PathBuf::from);
    if let Some(envoy) = find(named.as_deref().unwrap_or(Path::new("envoy"))) {
        kinds.push(Kind::Envoy(Installed { version: version(&envoy, "--version")?, program: envoy }));
    } else if let Some(named) = named {
        bail!("$ENVOY is {}, which is not there", named.display());
    }
    kinds.push(Kind::Gateway);
    Ok(kinds)
}

/// The program by this name in PATH, or at this path.
fn find(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// The first number with dots in what the program says of itself.
fn version(program: &Path, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(flag).output().with_context(|| program.display().to_string())?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let mut words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    Ok(words.find(|word| word.split('.').filter(|part| !part.is_empty()).count() == 3).unwrap_or("?").to_owned())
}

/// A proxy that serves.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// The API key, which only the gateway looks at.
    pub(crate) key: String,
    child: Child,
    directory: TempDir,
}

impl Proxy {
    /// Starts a proxy in front of `upstream` and waits until it answers.
    pub(crate) fn start(kind: &Kind, upstream: SocketAddr, cores: &Cores) -> anyhow::Result<Self> {
        // Beside the build, not in a /tmp that may be memory: the ledger waits for a disk, as it does in service.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let path = directory.path();
        // Free a moment ago, and nobody else looks for one now.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut key = "unused".to_owned();
        let mut command = match kind {
            Kind::Nginx(nginx) => {
                fs::write(path.join("nginx.conf"), nginx_conf(path, address, upstream))?;
                let mut command = cores.for_proxy(&nginx.program);
                command.arg("-p").arg(path).arg("-e").arg(path.join("log")).arg("-c").arg(path.join("nginx.conf"));
                command
            }
            Kind::Envoy(envoy) => {
                fs::write(path.join("envoy.json"), envoy_conf(address, upstream).to_string())?;
                let mut command = cores.for_proxy(&envoy.program);
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]);
                command.arg(path.join("envoy.json"));
                command
            }
            Kind::Gateway => {
                key = create_key(path)?;
                let mut command = cores.for_proxy(Path::new(GATEWAY));
                command.args(["serve", "--admin-listen", "127.0.0.1:0", "--listen"]).arg(address.to_string());
                command.arg("--upstream").arg(format!("http://{upstream}")).arg("--data-dir").arg(path);
                command
            }
        };
        let log = File::create(path.join("output"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut proxy = Self { address, key, child, directory };
        proxy.wait()?;
        Ok(proxy)
    }

    /// The proxy and its workers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        process::tree(self.child.id())
    }

    /// The end of what it wrote, for an error message.
    pub(crate) fn last_words(&self) -> String {
        let read = |name| fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        let text = [read("log"), read("output")].concat();
        let lines: Vec<_> = text.lines().collect();
        format!("\nits last words:\n{}", lines[lines.len().saturating_sub(5)..].join("\n"))
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let patience = Instant::now() + PATIENCE;
        while !self.answers() {
            if self.child.try_wait()?.is_some() || Instant::now() > patience {
                bail!("it does not answer{}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        let body = crate::load::prompt(false, 1, Duration::ZERO);
        let asked = || -> std::io::Result<Vec<u8>> {
            let mut tcp = TcpStream::connect(self.address)?;
            tcp.set_read_timeout(Some(Duration::from_secs(2)))?;
            let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n";
            let length = body.len();
            write!(tcp, "{head}Authorization: Bearer {}\r\nContent-Length: {length}\r\n\r\n{body}", self.key)?;
            let mut reply = Vec::new();
            tcp.read_to_end(&mut reply)?;
            Ok(reply)
        };
        asked().is_ok_and(|reply| reply.starts_with(b"HTTP/1.1 200"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

fn create_key(data: &Path) -> anyhow::Result<String> {
    let output =
        Command::new(GATEWAY).args(["keys", "create", "--tenant", "bench", "--data-dir"]).arg(data).output()?;
    if !output.status.success() {
        bail!("no key: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn nginx_conf(directory: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    let path = directory.display();
    format!(
        "daemon off; worker_processes 1; pid {path}/pid; error_log {path}/log;
         events {{ worker_connections 8192; }}
         http {{
           access_log off; tcp_nodelay on; keepalive_requests 1000000000; client_body_buffer_size 64k;
           client_body_temp_path {path}/a; proxy_temp_path {path}/b; fastcgi_temp_path {path}/c;
           uwsgi_temp_path {path}/d; scgi_temp_path {path}/e;
           upstream llama {{ server {upstream}; keepalive 1024; keepalive_requests 1000000000; }}
           server {{
             listen {address} backlog=4096;
             location / {{
               proxy_pass http://llama; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off;
             }}
           }}
         }}\n"
    )
}

fn envoy_conf(address: SocketAddr, upstream: SocketAddr) -> serde_json::Value {
    let socket = |address: SocketAddr| serde_json::json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let http = "type.googleapis.com/envoy.extensions.filters";
    let manager = serde_json::json!({
        "@type": format!("{http}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "generate_request_id": false,
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "llama", "timeout": "0s"}}
        ]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": format!("{http}.http.router.v3.Router")}}],
    });
    serde_json::json!({"static_resources": {
        "listeners": [{"name": "in", "address": socket(address), "filter_chains": [
            {"filters": [{"name": "http", "typed_config": manager}]}
        ]}],
        "clusters": [{
            "name": "llama", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [
                {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}
            ]},
            "load_assignment": {"cluster_name": "llama", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": socket(upstream)}}]}
            ]},
        }],
    }})
}
