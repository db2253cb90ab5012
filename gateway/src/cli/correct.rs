//! `llama-gateway usage correct` and `usage check`.

use std::io::Write;

use anyhow::{Context, bail};
use clap::Args;

use super::{DataDirectory, configuration, data_directory, say};
use crate::clock::Clock;
use crate::ledger::check;
use crate::ledger::correct::Correction;
use crate::serve;

/// What is to be corrected.
#[derive(Args)]
pub(super) struct CorrectArguments {
    /// The `x-request-id` of the request
    request_id: String,
    /// Why: it stands beside the correction
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Prompt tokens as they should have been, cached ones included
    #[arg(long, value_name = "N")]
    prompt: Option<u64>,
    /// Prompt tokens from the cache as they should have been
    #[arg(long, value_name = "N")]
    cached: Option<u64>,
    /// Generated tokens as they should have been
    #[arg(long, value_name = "N")]
    completion: Option<u64>,
    /// Count nothing of it, neither tokens nor slot time
    #[arg(long)]
    void: bool,
    #[command(flatten)]
    data: DataDirectory,
}

pub(super) fn correct(arguments: CorrectArguments) -> anyhow::Result<()> {
    let config = configuration(&arguments.data)?;
    let CorrectArguments { request_id, reason, prompt, cached, completion, void, .. } = arguments;
    let correction = Correction { request_id, reason, prompt, cached, completion, void };
    let export = serve::ledger_settings(&config).export;
    let corrected = correction.apply(&config.server.data_dir, Clock::system().now(), export)?;
    say(&format!("revision {}\nbefore: {}\nnow:    {}", corrected.revision, corrected.before, corrected.after))
}

/// Fails when anything disagrees.
pub(super) fn check(data: &DataDirectory) -> anyhow::Result<()> {
    let checked = check::check(&data_directory(data)?)?;
    let mut out = std::io::stdout().lock();
    let mut print = |line: String| writeln!(out, "{line}").context("standard output cannot be written");
    for one in &checked {
        print(format!("{:<5} {}", if one.wrong.is_empty() { "ok" } else { "WRONG" }, one.what))?;
        one.wrong.iter().try_for_each(|line| print(format!("      {line}")))?;
    }
    if checked.iter().any(|one| !one.wrong.is_empty()) {
        bail!("the ledger does not agree with itself\nhint: docs/accounting.md tells what to do");
    }
    Ok(())
}
