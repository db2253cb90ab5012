//! CPU time, user and system.

use anyhow::Context;

/// Clock ticks per second in `/proc/<pid>/stat`: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of all threads of this process so far.
pub(crate) fn of_this_process() -> anyhow::Result<f64> {
    fields(11)
}

/// Seconds of the processes that this one has started and that have ended.
pub(crate) fn of_ended_children() -> anyhow::Result<f64> {
    fields(13)
}

/// The sum of two fields of `/proc/self/stat`, the first of them `skip` behind the process name.
fn fields(skip: usize) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("this benchmark needs Linux")?;
    let (_, fields) = stat.rsplit_once(')').context("no process name")?;
    let ticks: u64 = fields.split_whitespace().skip(skip).take(2).map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}
