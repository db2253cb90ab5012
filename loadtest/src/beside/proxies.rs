//! nginx and the gateway: found, set up alike (no buffering of replies, kept connections, no log but the gateway's own),
//! started in front of one llama-server, asked until they answer, and ended.
//!
//! Each has a directory of its own that goes with it. A proxy that is dropped is killed: nginx runs as one process, so
//! that no worker outlives it.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::{StatusCode, Uri};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::client::Options;
use crate::process;
use crate::target::Server;

/// How long a proxy may take to begin, and a command to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks whether it has begun.
const STEP: Duration = Duration::from_millis(50);
/// Lines of a proxy's log that are shown when it fails.
const LAST_LINES: usize = 8;

/// A program that can be measured.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    /// What it says of its version.
    pub(super) version: String,
}

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Nginx,
    Gateway,
}

impl Program {
    /// The gateway at this path.
    ///
    /// # Errors
    /// It is not there, or does not run.
    pub(super) async fn gateway(path: &Path) -> anyhow::Result<Self> {
        let hint = "hint: build it with `cargo build --release -p gateway`; it is target/release/llama-gateway then";
        ensure!(path.is_file(), "there is no gateway at {}\n{hint}", path.display());
        let version = version(path, "--version").await?;
        Ok(Self { path: path.to_owned(), version })
    }

    /// nginx at this path, or where it is installed.
    ///
    /// # Errors
    /// It is not there, or does not run.
    pub(super) async fn nginx(path: Option<&Path>) -> anyhow::Result<Self> {
        let found = match path {
            Some(path) => path.is_file().then(|| path.to_owned()),
            None => installed("nginx"),
        };
        let wanted = path.unwrap_or(Path::new("nginx"));
        let found = found.with_context(|| {
            format!("{} is not installed\nhint: apt-get install nginx-light, or --nginx PATH", wanted.display())
        })?;
        let version = version(&found, "-v").await?;
        Ok(Self { path: found, version })
    }
}

/// The program by this name in PATH, or where only root looks.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// The first word with a dot and a digit in what the program says of itself.
async fn version(program: &Path, flag: &str) -> anyhow::Result<String> {
    let output = output(program, Command::new(program).arg(flag)).await?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    let version = numbers.map(|number| number.trim_matches('.')).find(|number| number.contains('.'));
    Ok(version.unwrap_or("unknown").to_owned())
}

/// Runs a program to its end.
async fn output(program: &Path, command: &mut Command) -> anyhow::Result<Output> {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(PATIENCE, running).await.with_context(|| format!("{} hangs", program.display()))?;
    output.with_context(|| format!("{} cannot be run", program.display()))
}

/// A proxy that serves.
pub(super) struct Proxy {
    /// Where, with the key that it wants.
    pub(super) server: Server,
    name: &'static str,
    child: Child,
    directory: TempDir,
}

impl Proxy {
    /// Starts a proxy in front of `upstream` and waits until it answers.
    ///
    /// # Errors
    /// It does not; with its last words.
    pub(super) async fn start(kind: Kind, program: &Program, upstream: &Server) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("no directory for a proxy")?;
        // Free a moment ago; that it is still free shows when the proxy answers.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (name, key, mut command) = match kind {
            Kind::Nginx => ("nginx", upstream.key.clone(), nginx(program, directory.path(), address, upstream)?),
            Kind::Gateway => {
                let (key, command) = gateway(program, directory.path(), address, upstream).await?;
                ("the gateway", Some(key), command)
            }
        };
        let log = File::create(directory.path().join("output"))?;
        // In a group of its own: Ctrl-C ends the harness, which then ends its proxies.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("{} cannot be run", program.path.display()))?;
        let server = Server::new(&format!("http://{address}"), key, &Options::default())?;
        let mut proxy = Self { server, name, child, directory };
        proxy.wait().await?;
        Ok(proxy)
    }

    /// The proxy and its workers.
    ///
    /// # Errors
    /// It has ended; with its last words.
    pub(super) fn pids(&mut self) -> anyhow::Result<Vec<u32>> {
        match self.child.id() {
            Some(pid) if self.child.try_wait()?.is_none() => Ok(process::tree(pid)),
            _ => bail!("{} has ended{}", self.name, self.last_words()),
        }
    }

    /// Ends it. A proxy of a measurement has nothing to lose.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("{} cannot be ended", self.name))
    }

    /// The end of what it wrote, for an error message.
    pub(super) fn last_words(&self) -> String {
        let read = |name| fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        let text = [read("log"), read("output")].concat();
        let lines: Vec<_> = text.lines().collect();
        if lines.is_empty() {
            return String::new();
        }
        format!("\nits last words:\n{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"))
    }

    /// Until it serves. To list models is not enough: the gateway does so before it has seen that llama-server is ready.
    async fn wait(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let asked = self.server.get("/health").await;
            if asked.is_ok_and(|answer| answer.status == StatusCode::OK) {
                return Ok(());
            }
            self.pids()?;
            ensure!(Instant::now() < end, "{} does not answer{}", self.name, self.last_words());
            sleep(STEP).await;
        }
    }
}

fn nginx(program: &Program, directory: &Path, address: SocketAddr, upstream: &Server) -> anyhow::Result<Command> {
    let url: Uri = upstream.url.parse().with_context(|| format!("{} is no URL", upstream.url))?;
    ensure!(url.scheme_str() == Some("http"), "{} is not http: proxies are measured without TLS", upstream.url);
    let authority = url.authority().with_context(|| format!("{} names no host", upstream.url))?;
    let configuration = directory.join("nginx.conf");
    fs::write(&configuration, nginx_conf(directory, address, authority.as_str()))?;
    let mut command = Command::new(&program.path);
    command.arg("-p").arg(directory).arg("-e").arg(directory.join("log")).arg("-c").arg(configuration);
    Ok(command)
}

/// One process with one event loop. llama-server closes a connection after a stream without having said so: a request
/// that meets one which is just being closed is sent again (`proxy_next_upstream`), as the gateway does, too.
fn nginx_conf(directory: &Path, address: SocketAddr, upstream: &str) -> String {
    let path = directory.display();
    format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/log;
         events {{ worker_connections 8192; }}
         http {{
           access_log off; tcp_nodelay on; keepalive_requests 1000000000; client_body_buffer_size 64k;
           client_max_body_size 0; proxy_read_timeout 1h;
           client_body_temp_path {path}/a; proxy_temp_path {path}/b; fastcgi_temp_path {path}/c;
           uwsgi_temp_path {path}/d; scgi_temp_path {path}/e;
           upstream llama {{ server {upstream}; keepalive 1024; keepalive_timeout 4s; }}
           server {{
             listen {address} backlog=4096;
             location / {{
               proxy_pass http://llama; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off;
               proxy_next_upstream error non_idempotent;
             }}
           }}
         }}\n"
    )
}

/// The gateway as it comes, but for the length of its queue: nginx refuses nobody either.
async fn gateway(
    program: &Program,
    directory: &Path,
    address: SocketAddr,
    upstream: &Server,
) -> anyhow::Result<(String, Command)> {
    let mut configuration = "[policies.default]\nqueued_requests = 0\n".to_owned();
    if let Some(key) = &upstream.key {
        fs::write(directory.join("upstream.key"), key)?;
        configuration += &format!("[upstream]\napi_key_file = '{}'\n", directory.join("upstream.key").display());
    }
    let file = directory.join("gateway.toml");
    fs::write(&file, configuration)?;
    let key = create_key(program, directory).await?;
    let mut command = Command::new(&program.path);
    command.args(["serve", "--admin-listen", "127.0.0.1:0", "--listen"]).arg(address.to_string());
    command.arg("--upstream").arg(&upstream.url).arg("--data-dir").arg(directory).arg("--config").arg(file);
    Ok((key, command))
}

async fn create_key(program: &Program, data: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(&program.path);
    command.args(["keys", "create", "--tenant", "beside", "--data-dir"]).arg(data);
    let output = output(&program.path, &mut command).await?;
    ensure!(output.status.success(), "the gateway makes no key: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout).context("the gateway's key is no text")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::tests::somebody;

    /// A shell script in the place of a proxy.
    fn script(directory: &Path, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join("program");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error_with_a_hint() {
        let nginx = Program::nginx(Some(Path::new("/no/such/nginx"))).await.unwrap_err().to_string();
        assert!(nginx.starts_with("/no/such/nginx is not installed\nhint: apt-get install nginx-light"), "{nginx}");
        let gateway = Program::gateway(Path::new("/no/such/gateway")).await.unwrap_err().to_string();
        assert!(gateway.starts_with("there is no gateway at /no/such/gateway\nhint: build it"), "{gateway}");
    }

    #[tokio::test]
    async fn versions_are_found_in_what_programs_say() {
        let directory = tempfile::tempdir().unwrap();
        let path = script(directory.path(), "echo 'nginx version: nginx/1.22.1 (Ubuntu)' >&2");
        assert_eq!(Program::nginx(Some(&path)).await.unwrap().version, "1.22.1");
    }

    #[tokio::test]
    async fn a_proxy_that_ends_at_once_is_shown_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = script(directory.path(), "[ \"$1\" = -v ] && echo 1.0 || { echo 'no such option'; exit 3; }");
        let program = Program::nginx(Some(&path)).await.unwrap();
        let (_stub, upstream) = somebody().await;
        let error = Proxy::start(Kind::Nginx, &program, &upstream).await.err().unwrap();
        assert_eq!(error.to_string(), "nginx has ended\nits last words:\nno such option");
    }

    #[tokio::test]
    async fn a_proxy_that_is_dropped_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let path = script(directory.path(), &format!("echo $$ > {}; exec sleep 1000", pid_file.display()));
        let program = Program { path, version: String::new() };
        let (_stub, upstream) = somebody().await;
        let starting = Proxy::start(Kind::Nginx, &program, &upstream);
        let pid = async {
            loop {
                match fs::read_to_string(&pid_file) {
                    Ok(pid) if pid.ends_with('\n') => return pid.trim().to_owned(),
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        let pid = tokio::select! {
            started = starting => panic!("it answers: {}", started.is_ok()),
            pid = pid => pid,
        };
        // tokio reaps what it has killed in its own time: until then it is a zombie.
        let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        while !state().is_empty() && !state().contains(") Z ") {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn https_upstreams_are_refused() {
        let program = Program { path: PathBuf::from("/bin/true"), version: String::new() };
        let (_stub, mut upstream) = somebody().await;
        upstream.url = "https://127.0.0.1:1".to_owned();
        let error = Proxy::start(Kind::Nginx, &program, &upstream).await.err().unwrap();
        assert_eq!(error.to_string(), "https://127.0.0.1:1 is not http: proxies are measured without TLS");
    }
}
