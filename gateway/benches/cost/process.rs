//! Processes: on which core they run, what CPU time and memory they took, how they are ended.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::Context;

/// Clock ticks per second in `/proc/<pid>/stat`: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// The core of the proxies, and that of everything else. One core makes every proxy take one thread for its work.
pub(crate) struct Cores {
    load: u32,
    proxy: u32,
}

impl Cores {
    /// The first two cores that this process may use.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("this benchmark needs Linux")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("0");
        let mut allowed = list.trim().split(',').flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<u32>().unwrap_or(0)..=last.parse::<u32>().unwrap_or(0)
        });
        let load = allowed.next().unwrap_or(0);
        Ok(Self { load, proxy: allowed.next().unwrap_or(load) })
    }

    /// Whether the proxies have a core of their own.
    pub(crate) fn apart(&self) -> bool {
        self.load != self.proxy
    }

    /// A command on the load's core.
    pub(crate) fn for_load(&self, program: &Path) -> Command {
        on(self.load, program)
    }

    /// A command on the proxy's core.
    pub(crate) fn for_proxy(&self, program: &Path) -> Command {
        on(self.proxy, program)
    }
}

/// Through a shell, which lets it open as many files as it may.
fn on(core: u32, program: &Path) -> Command {
    let mut command = Command::new("sh");
    let script = r#"ulimit -n "$(ulimit -Hn)"; exec taskset -c "$0" "$@""#;
    command.args(["-c", script, &core.to_string()]).arg(program);
    command
}

/// A process and its children.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(tree);
    std::iter::once(pid).chain(below).collect()
}

/// User and system time of all threads of these processes so far.
pub(crate) fn cpu_seconds(pids: &[u32]) -> anyhow::Result<f64> {
    let mut ticks = 0;
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
        // The name before it may hold anything. Behind it, utime and stime are the 12th and 13th fields.
        let (_, fields) = stat.rsplit_once(')').context("no process name")?;
        for field in fields.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<u64>()?;
        }
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// KiB of memory that these processes hold.
pub(crate) fn resident_kib(pids: &[u32]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        sum += line.trim().trim_end_matches(" kB").parse::<u64>()?;
    }
    Ok(sum)
}

/// Asks a process to end, and makes it if it does not.
pub(crate) fn end(child: &mut Child) {
    drop(Command::new("kill").args(["-TERM", &child.id().to_string()]).status());
    let patience = Instant::now() + Duration::from_secs(3);
    while Instant::now() < patience {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(child.kill());
    drop(child.wait());
}
