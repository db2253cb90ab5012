//! `llama-gateway usage audit`: the ledger against llama-server's own counters.

use std::io::{self, Write};

use anyhow::{Context, bail};
use clap::Args;

use super::{DataDirectory, data_directory};
use crate::audit::{self, Comparison};
use crate::clock::Clock;
use crate::ledger::usage;
use crate::table;

/// The arguments of `usage audit`.
#[derive(Args)]
pub(super) struct AuditArguments {
    /// How far to look back, such as 1d
    #[arg(long, value_name = "TIME", default_value = "1d")]
    since: String,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataDirectory,
}

/// Shows the comparison.
///
/// # Errors
/// When there is none, or something does not agree.
pub(super) fn audit(arguments: &AuditArguments) -> anyhow::Result<()> {
    let since = usage::since(&arguments.since, Clock::system().now())?;
    let ledger = audit::open(&data_directory(&arguments.data)?)?;
    let comparisons = audit::compare(&ledger, since).context("the ledger cannot be read")?;
    let out = &mut io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut *out, &comparisons)?;
        writeln!(out)?;
    } else {
        write_table(&comparisons, out)?;
    }
    if !comparisons.iter().all(|comparison| comparison.agrees) {
        bail!("the ledger does not agree with llama-server's counters\nhint: docs/audit.md says what to look for");
    }
    Ok(())
}

fn write_table(comparisons: &[Comparison], out: &mut dyn Write) -> io::Result<()> {
    if comparisons.is_empty() {
        let hint = "hint: llama-server tells its counters when it is started with --metrics";
        return writeln!(out, "No counters of a llama-server are known.\n{hint}");
    }
    let mut rows = Vec::new();
    for comparison in comparisons {
        for line in &comparison.tokens {
            let verdict = if line.agrees() { "agrees" } else { "DIFFERS" };
            let numbers = [line.engine, line.ledger, line.drift, line.allowed].map(|number| number.to_string());
            let [engine, ledger, drift, allowed] = numbers;
            let (upstream, kind) = (comparison.upstream.clone(), line.kind.label().to_owned());
            rows.push([upstream, kind, verdict.to_owned(), engine, ledger, drift, allowed]);
        }
    }
    let header = ["replica", "tokens", "verdict", "engine", "ledger", "drift", "allowed"];
    table::write_aligned(out, header, &rows, 3)?;
    for Comparison { upstream, requests, cut, restarts, foreign_requests, .. } in comparisons {
        writeln!(out, "{upstream}: {requests} requests, {cut} of them cut; {restarts} restarts")?;
        if *foreign_requests > 0 {
            let seen = "requests that did not come through the gateway were seen: the ledger cannot know their tokens";
            writeln!(out, "{upstream}: {seen}")?;
        }
    }
    Ok(())
}
