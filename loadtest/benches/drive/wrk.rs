//! The same requests by `wrk`, a load generator in C that does not look into replies: what is possible at all.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use loadtest::process::ended_children_cpu_seconds;

use crate::{PROMPT_WORDS, USERS, server};

pub(crate) struct Wrk {
    pub(crate) per_second: f64,
    /// Microseconds of CPU a request.
    pub(crate) micros: f64,
}

/// Sends them for `duration`, a second at least. Without wrk there is no measure to go by, and no benchmark.
pub(crate) fn measure(address: &str, streamed: bool, duration: Duration) -> anyhow::Result<Wrk> {
    let mut script = tempfile::NamedTempFile::new()?;
    let body = serde_json::json!({
        "messages": [{"role": "user", "content": "word ".repeat(PROMPT_WORDS.into())}],
        "max_tokens": server::EVENTS,
        "stream": streamed,
        "ignore_eos": true,
        "model": "default",
    });
    writeln!(script, "wrk.method = 'POST'\nwrk.body = '{body}'")?;
    writeln!(
        script,
        "wrk.headers['Content-Type'] = 'application/json'\nwrk.headers['Authorization'] = 'Bearer sk-bench'"
    )?;
    let before = ended_children_cpu_seconds()?;
    let seconds = duration.as_secs().max(1);
    let output = Command::new("wrk")
        .args(["-t2", &format!("-c{USERS}"), &format!("-d{seconds}"), "-s"])
        .arg(script.path())
        .arg(format!("http://{address}/v1/chat/completions"))
        .output()
        .context("wrk cannot be run\nhint: apt-get install wrk")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && !text.contains("Non-2xx"), "wrk: {text}");
    let field = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let per_second: f64 = field("Requests/sec:").context("wrk names no rate")?.parse()?;
    let requests = per_second * seconds as f64;
    Ok(Wrk { per_second, micros: (ended_children_cpu_seconds()? - before) * 1e6 / requests })
}
