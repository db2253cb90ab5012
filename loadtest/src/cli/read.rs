//! What works on reports that were written before: `compare` and `show`; and `workloads`, which shows what can be run.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::compare;
use crate::report::sweep::Sweep;
use crate::report::{FORMAT, Report};
use crate::show;
use crate::workload::{shipped, shipped_text};

#[derive(Args)]
pub(super) struct CompareArguments {
    /// report.json of the run before
    a: PathBuf,
    /// report.json of the run after
    b: PathBuf,
    /// By how much B may be worse, as a part
    #[arg(long, value_name = "PART", default_value_t = 0.05)]
    tolerance: f64,
    /// Print JSON, in place of text
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct ShowArguments {
    /// report.json or sweep.json
    file: PathBuf,
    /// Write an HTML page to this file, in place of text on stdout
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Says how B differs from A.
pub(super) fn compare(arguments: &CompareArguments) -> anyhow::Result<ExitCode> {
    let (a, b) = (read::<Report>(&arguments.a)?, read::<Report>(&arguments.b)?);
    let comparison = compare::compare(&a, &b, arguments.tolerance)?;
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&comparison)? + "\n",
        false => comparison.to_string(),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::from(comparison.exit_code()))
}

/// Shows a report or a sweep again.
pub(super) fn show(arguments: &ShowArguments) -> anyhow::Result<ExitCode> {
    let json: Value = read(&arguments.file)?;
    let (text, html) = if json.get("points").is_some() {
        let sweep: Sweep = understand(json, &arguments.file)?;
        (show::text_sweep(&sweep), show::html_sweep(&sweep))
    } else {
        let report: Report = understand(json, &arguments.file)?;
        (show::text(&report), show::html(&report))
    };
    match &arguments.html {
        Some(path) => fs::write(path, html).with_context(|| format!("cannot write {}", path.display()))?,
        None => std::io::stdout().lock().write_all(text.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the workloads that come with the program, or prints one.
pub(super) fn workloads(name: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    let Some(name) = name else {
        for (name, text) in shipped() {
            let workload: crate::workload::Workload = toml::from_str(text)?;
            writeln!(stdout, "{name:<20} {}", workload.question)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some(text) = shipped_text(name) else {
        bail!("no workload of this program is called {name}\nhint: `loadtest workloads` lists them");
    };
    stdout.write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let json = serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))?;
    understand(json, path)
}

fn understand<T: DeserializeOwned>(json: Value, path: &Path) -> anyhow::Result<T> {
    serde_path_to_error::deserialize(json)
        .with_context(|| format!("{} is no report of this program (format {FORMAT})", path.display()))
}
