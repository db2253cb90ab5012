//! Whom to ask.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::client;
use crate::run::{KeyFrom, Settings};

/// The target and the llama-servers behind it.
#[derive(Args)]
pub(super) struct TargetArguments {
    /// Base URL of the gateway, or of any server that speaks OpenAI's API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    target: String,
    /// Base URL of the llama-server behind it, for its slots, tokenizer and counters; may be given more than once
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// File with the key that llama-server wants [default: it wants none]
    #[arg(long, value_name = "FILE")]
    upstream_key_file: Option<PathBuf>,
    /// Send no API keys
    #[arg(long)]
    no_key: bool,
    /// PEM file with root certificates that are trusted beside the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How long opening a connection may take
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5s")]
    connect_timeout: Duration,
}

impl TargetArguments {
    /// The settings of a run that looks at nothing but the load.
    ///
    /// # Errors
    /// The key file cannot be read.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        Ok(Settings {
            target: self.target.clone(),
            upstreams: self.upstream.clone(),
            upstream_key: self.upstream_key_file.as_deref().map(key_in).transpose()?,
            client: client::Options { connect_timeout: self.connect_timeout, ca_file: self.ca_file.clone() },
            keys: if self.no_key { KeyFrom::Nobody } else { KeyFrom::Workload },
            cancel_trials: 0,
            audit: false,
        })
    }
}

/// The key in a file.
///
/// # Errors
/// The file cannot be read.
pub(super) fn key_in(path: &Path) -> anyhow::Result<String> {
    let key = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(key.trim().to_owned())
}
