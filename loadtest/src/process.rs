//! What processes have taken: CPU time and memory, as Linux tells it in `/proc`.

use std::fs;

use anyhow::Context;

/// Clock ticks per second in `/proc/<pid>/stat`: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// Fields behind the name, before utime.
const OWN: usize = 11;
/// Fields behind the name, before cutime.
const ENDED_CHILDREN: usize = 13;

/// A process and its children.
pub fn tree(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(tree);
    std::iter::once(pid).chain(below).collect()
}

/// User and system time of all threads of these processes so far, in seconds.
///
/// # Errors
/// A process is gone, or this is no Linux.
pub fn cpu_seconds(pids: &[u32]) -> anyhow::Result<f64> {
    let mut ticks = 0;
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
        ticks += ticks_of(&stat, OWN).with_context(|| format!("/proc/{pid}/stat is unlike Linux"))?;
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// User and system time of the processes that this one has started and that have ended, in seconds.
///
/// # Errors
/// This is no Linux.
pub fn ended_children_cpu_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("this is no Linux")?;
    let ticks = ticks_of(&stat, ENDED_CHILDREN).context("/proc/self/stat is unlike Linux")?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// User and system time, which are two fields of which the first is so many behind the name. The name of the process may
/// hold anything.
fn ticks_of(stat: &str, skip: usize) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(skip);
    let mut next = || times.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// KiB of memory that these processes hold (VmRSS).
///
/// # Errors
/// A process is gone, or this is no Linux.
pub fn resident_kib(pids: &[u32]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        sum += line.trim().trim_end_matches(" kB").parse::<u64>().context("VmRSS is no number")?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
        assert_eq!(ticks_of(stat, OWN), Some(300));
        assert_eq!(ticks_of(stat, ENDED_CHILDREN), Some(0));
        assert_eq!(ticks_of("42 (a) S 1", OWN), None);
    }

    #[test]
    fn this_process_holds_memory_and_one_that_is_gone_is_an_error() {
        let own = tree(std::process::id());
        assert!(resident_kib(&own).unwrap() > 100 && cpu_seconds(&own).is_ok());
        assert!(cpu_seconds(&[u32::MAX]).unwrap_err().to_string().ends_with("is gone"));
    }
}
