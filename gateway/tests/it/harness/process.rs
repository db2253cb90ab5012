//! Child processes that cannot outlive the tests, and free ports.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex};

type Order = (Command, Sender<std::io::Result<Child>>);

/// The kernel's parent-death signal follows the *thread* that spawned, and test threads end early; so one thread
/// that lives as long as the test process spawns every child.
static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
    let (orders, inbox) = channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, answer) in inbox {
            answer.send(command.spawn()).ok();
        }
    });
    Mutex::new(orders)
});

/// A command that is killed with the test process, however that ends.
pub(crate) fn mortal(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The same in a mount namespace of its own, in which `hosts` is `/etc/hosts`. A machine that allows no namespaces makes
/// the command end with an error.
pub(crate) fn mortal_with_hosts(program: impl AsRef<OsStr>, hosts: &Path) -> Command {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let script = "for file in hosts nsswitch.conf resolv.conf; do mount --bind \"$0/$file\" /etc/$file || exit; done
        exec setpriv --pdeathsig KILL -- \"$@\"";
    let mut command = Command::new("unshare");
    // Who is not root is made to look like it there.
    command.args([if is_root { "--mount" } else { "-rm" }, "sh", "-c", script]).arg(hosts).arg(program);
    command
}

/// Spawns `command` from the thread that outlives all tests.
pub(crate) fn spawn(command: Command) -> Child {
    let (answer, result) = channel();
    SPAWNER.lock().unwrap().send((command, answer)).unwrap();
    result.recv().unwrap().expect("the command cannot be started; is util-linux (setpriv) installed?")
}

/// Sends a signal by name (`KILL`, `TERM`, `STOP`, `CONT`).
pub(crate) fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(done.success(), "kill -{name} {pid} failed");
}

/// A number in KiB from `/proc/PID/status`, such as `VmRSS` or `VmHWM`.
pub(crate) fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A port that nothing listens on, below the range that the kernel hands to outgoing connections: so that it is
/// still free when a server is restarted on it.
pub(crate) fn free_port() -> u16 {
    // Test processes that run side by side have ids that are close: each gets ports of its own, since two that find the
    // same one free at the same moment would both use it.
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new((std::process::id() % 625 * 16) as u16));
    loop {
        let port = 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
