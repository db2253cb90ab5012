//! `llama-gateway keys`: what the admin API does with keys, on the data directory; a running server follows at once.

use std::io::{Read, Write};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{DataDirectory, configuration, data_directory, say};
use crate::auth::{self, Change, Keys, Revoked, Scope, Wanted};
use crate::clock::Clock;
use crate::config::Config;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Create a key and print it: it is shown this once
    Create {
        #[command(flatten)]
        wanted: WantedArguments,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// List all keys by their public ids
    List {
        /// As JSON, with all that is known of each key
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Change what a key may do; an empty value takes a restriction away
    Change {
        /// The public id of the key
        key_id: String,
        #[command(flatten)]
        change: ChangeArguments,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Give a key another secret and print it: it is shown this once. Id, limits and usage of the key stay
    Rotate {
        /// The public id of the key
        key_id: String,
        /// How long the old secret stays valid
        #[arg(long, value_name = "TIME", default_value = auth::DEFAULT_OVERLAP)]
        overlap: String,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Revoke a key, for good; it is refused from the next request on
    Revoke {
        /// The public id of the key
        key_id: String,
        /// Also end the requests of the key that wait or run
        #[arg(long)]
        end_streams: bool,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Draw a key for the file of declared keys and store nothing: the key goes to standard error, what declares it to
    /// standard output
    Declare {
        #[command(flatten)]
        wanted: WantedArguments,
        /// Configuration file (TOML)
        #[arg(long, value_name = "F")]
        config: Option<std::path::PathBuf>,
    },
    /// Read a key from standard input and say whether it is well-formed, and its id; needs no data directory
    Check,
}

#[derive(Args)]
pub(super) struct WantedArguments {
    /// Who is accounted for what is asked with the key
    #[arg(long, value_name = "T")]
    tenant: String,
    /// A note for people
    #[arg(long, value_name = "L", default_value = "")]
    label: String,
    /// The key's own policy, one of the configuration file; without it, as the file says for the tenant
    #[arg(long, value_name = "P")]
    policy: Option<String>,
    /// How long the key is valid, such as 90d, or until when; without it, until it is revoked
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Models that it is for, separated by commas; without it, all
    #[arg(long, value_name = "M,...", value_delimiter = ',')]
    models: Vec<String>,
    /// Surfaces that it is for, such as chat,embeddings; without it, all
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    surfaces: Vec<String>,
    /// Networks that it may be used from, such as 10.0.0.0/8; without it, all
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    networks: Vec<String>,
}

impl WantedArguments {
    fn read(self, config: &Config, now: Timestamp) -> anyhow::Result<Wanted> {
        let Self { tenant, label, policy, expires, models, surfaces, networks } = self;
        policy.as_deref().map_or(Ok(()), |policy| config.check_policy(policy))?;
        let expires = expires.map(|text| auth::parse_expiry(&text, now)).transpose()?;
        Ok(Wanted { tenant, label, policy, expires, scope: Scope::parse(&models, &surfaces, &networks)? })
    }
}

#[derive(Args)]
#[group(required = true, multiple = true)]
pub(super) struct ChangeArguments {
    /// A note for people
    #[arg(long, value_name = "L")]
    label: Option<String>,
    /// The key's own policy, one of the configuration file
    #[arg(long, value_name = "P")]
    policy: Option<String>,
    /// How long the key is valid from now on, such as 90d, or until when
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Models that it is for, separated by commas
    #[arg(long, value_name = "M,...", value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// Surfaces that it is for, such as chat,embeddings
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    surfaces: Option<Vec<String>>,
    /// Networks that it may be used from, such as 10.0.0.0/8
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    networks: Option<Vec<String>>,
}

impl ChangeArguments {
    fn read(self, config: &Config, now: Timestamp) -> anyhow::Result<Change> {
        let Self { label, policy, expires, models, surfaces, networks } = self;
        let given = |text: String| (!text.is_empty()).then_some(text);
        let policy = policy.map(given);
        policy.iter().flatten().try_for_each(|policy| config.check_policy(policy))?;
        let expires = expires.map(given);
        let expires = expires.map(|text| text.map(|text| auth::parse_expiry(&text, now)).transpose()).transpose()?;
        let list =
            |names: Option<Vec<String>>| names.map(|names| names.into_iter().filter_map(given).collect::<Vec<_>>());
        let (models, surfaces, networks) = (list(models), list(surfaces), list(networks));
        let change = Change { label, policy, expires, ..Change::default() };
        Ok(change.lists(models.as_deref(), surfaces.as_deref(), networks.as_deref())?)
    }
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    let now = Clock::system().now();
    match command {
        Command::Create { wanted, data } => {
            let config = configuration(&data)?;
            let wanted = wanted.read(&config, now)?;
            say(Keys::open(&config.server.data_dir)?.create(&wanted, now)?.expose())
        }
        Command::List { json, data } => list(json, &configuration(&data)?, now),
        Command::Change { key_id, change, data } => {
            let config = configuration(&data)?;
            let change = change.read(&config, now)?;
            Keys::open(&config.server.data_dir)?.change(&key_id, &change)?;
            say(&format!("{key_id} is changed."))
        }
        Command::Rotate { key_id, overlap, data } => {
            let overlap = auth::parse_overlap(&overlap)?;
            say(Keys::open(&data_directory(&data)?)?.rotate(&key_id, overlap, now)?.expose())
        }
        Command::Revoke { key_id, end_streams, data } => {
            match Keys::open(&data_directory(&data)?)?.revoke(&key_id, end_streams, now)? {
                Revoked::Now => say(&format!("{key_id} is revoked.")),
                Revoked::Before => say(&format!("{key_id} was revoked before.")),
            }
        }
        Command::Declare { wanted, config } => {
            let config = super::load(config.as_deref(), &crate::config::Overrides::default())?;
            let (key, stanza) = auth::declare(&wanted.read(&config, now)?)?;
            writeln!(std::io::stderr().lock(), "{}", key.expose()).context("standard error cannot be written")?;
            say(stanza.trim_end())
        }
        Command::Check => check(),
    }
}

fn list(json: bool, config: &Config, now: Timestamp) -> anyhow::Result<()> {
    let keys = Keys::open(&config.server.data_dir)?.list(auth::declared(config)?)?;
    let out = &mut std::io::stdout().lock();
    if json {
        let keys: Vec<_> = keys.iter().map(|key| key.json(now)).collect();
        return writeln!(out, "{}", serde_json::json!(keys)).context("standard output cannot be written");
    }
    Ok(auth::write_list(&keys, now, out)?)
}

fn check() -> anyhow::Result<()> {
    let mut text = Vec::new();
    std::io::stdin().lock().take(4096).read_to_end(&mut text).context("standard input cannot be read")?;
    match auth::key_id(text.trim_ascii()) {
        Some(key_id) => say(&format!("This is a well-formed key. Its id is {key_id}.")),
        None => bail!("this is not a key of llama-gateway, or one that is mistyped or cut off"),
    }
}
