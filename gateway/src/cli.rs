//! The command line: arguments in, one of `serve`, `keys`, `tokens`, `usage`, `top`, `check-config` done.

mod audit;
mod correct;
mod keys;
mod top;
mod usage;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::auth;
use crate::clock::Clock;
use crate::config::{self, Config, LogFormat, Overrides};
use crate::serve;

/// An authenticating, metering, OpenAI-compatible gateway in front of llama-server.
#[derive(Parser)]
#[command(name = "llama-gateway", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve(ServeArguments),
    /// Create, list, change, rotate and revoke API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Revoke tokens of other issuers
    #[command(subcommand)]
    Tokens(TokensCommand),
    /// Show what was used
    Usage(UsageArguments),
    /// Watch what runs and who waits, live
    Top(top::TopArguments),
    /// Say whether a configuration file is right, and what is wrong where
    CheckConfig {
        /// The configuration file
        file: PathBuf,
    },
}

#[derive(Args)]
struct ServeArguments {
    /// Configuration file (TOML); every key has a default
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// Base URL of a llama-server; may be given more than once [default: http://127.0.0.1:8001]
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// Address of the public listener [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of the admin listener [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// Where keys and ledger are kept [default: data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Where the data directory is: given, or as the configuration says.
#[derive(Args, Clone, Default)]
struct DataDirectory {
    /// Configuration file (TOML)
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// Where keys and ledger are kept [default: data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum TokensCommand {
    /// Refuse every token of a subject that was issued up to now; newer ones are let in
    Revoke {
        /// Whose tokens: the issuer's name in the configuration file, a slash and the subject, as the ledger shows them
        #[arg(value_name = "ISSUER/SUBJECT")]
        subject: String,
        #[command(flatten)]
        data: DataDirectory,
    },
}

#[derive(Subcommand)]
enum UsageCommand {
    /// Compare the ledger with llama-server's own counters; fails if they do not agree
    Audit(audit::AuditArguments),
    /// Correct a request's numbers: the differences are added, what was recorded stays
    Correct(correct::CorrectArguments),
    /// Check that the ledger is sound and agrees with itself
    Check {
        #[command(flatten)]
        data: DataDirectory,
    },
}

/// What to do with what was used: to show it, if nothing else is said.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
struct UsageArguments {
    #[command(subcommand)]
    command: Option<UsageCommand>,
    #[command(flatten)]
    show: usage::ShowArguments,
}

/// Does what the command line asks for.
///
/// # Errors
/// Whatever keeps it from being done, in words for the operator.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(arguments) => run_server(arguments),
        Command::Keys(command) => keys::run(command),
        Command::Tokens(TokensCommand::Revoke { subject, data }) => revoke_tokens(&subject, &data),
        Command::Usage(UsageArguments { command: None, show }) => usage::show(show),
        Command::Usage(UsageArguments { command: Some(command), .. }) => match command {
            UsageCommand::Audit(what) => audit::audit(&what),
            UsageCommand::Correct(what) => correct::correct(what),
            UsageCommand::Check { data } => correct::check(&data),
        },
        Command::Top(arguments) => top::run(arguments),
        Command::CheckConfig { file } => {
            let config = load(Some(&file), &Overrides::default())?;
            serve::check(&config)?;
            log_filter(&config)?;
            say(&format!("{} is right.", file.display()))
        }
    }
}

fn load(file: Option<&Path>, overrides: &Overrides) -> anyhow::Result<Config> {
    // Unlike `vars`, this does not panic over somebody else's variable that is not UTF-8.
    let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let environment = environment.map(|(name, value)| (name, value.to_string_lossy().into_owned()));
    Ok(config::load(file, environment, overrides)?)
}

fn run_server(arguments: ServeArguments) -> anyhow::Result<()> {
    let ServeArguments { config, upstream, listen, admin_listen, data_dir } = arguments;
    let config = load(config.as_deref(), &Overrides { upstream, listen, admin_listen, data_dir })?;
    begin_logging(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(serve::serve(config, Clock::system()))
}

fn log_filter(config: &Config) -> anyhow::Result<EnvFilter> {
    let level = &config.log.level;
    EnvFilter::try_new(level).with_context(|| format!("`log.level`: `{level}` is not a filter"))
}

fn begin_logging(config: &Config) -> anyhow::Result<()> {
    let lines = tracing_subscriber::fmt().with_env_filter(log_filter(config)?).with_writer(std::io::stderr);
    // It would tell them on standard error, and panic where that is what cannot be written, as on a full disk.
    let lines = lines.log_internal_errors(false);
    match config.log.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

fn configuration(data: &DataDirectory) -> anyhow::Result<Config> {
    let overrides = Overrides { data_dir: data.data_dir.clone(), ..Overrides::default() };
    load(data.config.as_deref(), &overrides)
}

fn data_directory(data: &DataDirectory) -> anyhow::Result<PathBuf> {
    Ok(configuration(data)?.server.data_dir)
}

fn revoke_tokens(subject: &str, data: &DataDirectory) -> anyhow::Result<()> {
    let config = configuration(data)?;
    let (issuer, key_id) = auth::key_id_of(subject).context("not of the form ISSUER/SUBJECT")?;
    config.check_issuer(issuer)?;
    // The issuer's clock may be ahead: a token that it makes now may say that it is of a time to come.
    let skew = config.issuers.get(issuer).map(|issuer| issuer.clock_skew).unwrap_or_default();
    let until = Clock::system().now().checked_add(skew)?;
    auth::revoke(&config.server.data_dir, &key_id, until)?;
    say(&format!("Tokens of {key_id} that were issued up to {until:.0} are revoked."))
}

/// One text on standard output; a reader that has gone away is not an error worth a panic.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").context("standard output cannot be written")
}
