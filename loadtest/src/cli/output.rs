//! Where results go: a directory with the report as JSON and HTML, a row for each request, and the verdict for CI.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

/// What is written, and where.
#[derive(Args)]
pub(super) struct OutputArguments {
    /// Directory of the results [default: loadtest-results/NAME-TIME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Show nothing while it runs
    #[arg(long)]
    pub(super) quiet: bool,
}

/// The directory of one run.
pub(super) struct Results {
    directory: PathBuf,
}

impl OutputArguments {
    /// Makes the directory. One that holds something is left alone: it may be what took hours to measure, and what is
    /// left of it beside newer results would mislead.
    ///
    /// # Errors
    /// It cannot be made, or holds something.
    pub(super) fn open(&self, name: &str) -> anyhow::Result<Results> {
        let directory = self.out.clone().unwrap_or_else(|| {
            let time = crate::clock::wall_clock().replace(':', "");
            Path::new("loadtest-results").join(format!("{name}-{time}"))
        });
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make the directory of the results, {}", directory.display()))?;
        let is_empty = fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_none());
        ensure!(
            is_empty,
            "the directory of the results, {}, is not empty\nhint: give another one with --out, or remove it",
            directory.display()
        );
        Ok(Results { directory })
    }
}

impl Results {
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes the directory away if nothing came into it.
    pub(super) fn give_up(self) {
        fs::remove_dir(self.directory).ok();
    }

    pub(super) fn create(&self, name: &str) -> anyhow::Result<File> {
        let path = self.directory.join(name);
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn write_json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        self.write(name, &(serde_json::to_string_pretty(value)? + "\n"))
    }
}
