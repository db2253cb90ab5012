//! The command line: what to do. With what is in the environment.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::check::check;
use crate::fault::{Ended, Fault};
use crate::fetch::fetch;
use crate::parameters::{Parameters, configured_model, models_dir};
use crate::prune;
use crate::volume::{Volume, list};

/// Fetches a GGUF model from Hugging Face to a volume: resumable, checked, one directory per model.
#[derive(Debug, Parser)]
#[command(version, after_help = ENVIRONMENT)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Loads what is missing of the configured model. Does nothing, without network, if it is whole.
    Fetch,
    /// Lists the models on the volume and its free space.
    List,
    /// Deletes all models but the configured one.
    Prune,
    /// Reads the configured model again and compares its hashes.
    Check {
        /// Deletes the files that are wrong, so that `fetch` loads them again.
        #[arg(long)]
        discard: bool,
    },
}

const ENVIRONMENT: &str = "\
Environment:
  MODEL_REPO           repository on Hugging Face, owner/name
  QUANT_TYPE           quantisation, such as UD-TQ1_0 or mxfp4
  MODEL_REVISION       branch, tag or commit [main]
  MODELS_DIR           where the volume is [/models]
  HF_ENDPOINT          a mirror [https://huggingface.co]
  HF_TOKEN_FILE        a token, if the file is there [/run/secrets/huggingface/HF_TOKEN]
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY
  CA_FILE              further root certificates, PEM
  FETCH_CONNECTIONS    files at the same time [4]
  FETCH_OFFLINE        1: no network, check a volume that others filled
  FETCH_PRUNE          1: delete other models when the new one does not fit
  FETCH_STALL_SECONDS  silence after which a connection is given up [60]
  FETCH_ATTEMPTS       attempts without progress before it gives up [10]
  KEEP_FREE_GIB        space that stays free [2]";

/// Does it, and tells how it ended.
pub fn run(cli: &Cli, get: impl Fn(&str) -> Option<String>) -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    // What is made belongs to the group too: on OpenShift another namespace has another UID, and 0 as its group.
    rustix::process::umask(rustix::fs::Mode::WOTH);
    match until_signal(perform(&cli.command, &get)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("model-fetcher: {fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}

/// Does the work; a signal ends it where it stands.
fn until_signal(work: impl Future<Output = Result<(), Fault>>) -> Result<(), Fault> {
    let fault = |error| Fault::io("listen for signals on", "the process".as_ref(), error);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(fault)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(fault)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
        tokio::select! {
            result = work => result,
            _ = terminate.recv() => Err(Fault::Signal(Ended::Terminate)),
            _ = interrupt.recv() => Err(Fault::Signal(Ended::Interrupt)),
        }
    })
}

async fn perform(command: &Command, get: &dyn Fn(&str) -> Option<String>) -> Result<(), Fault> {
    match command {
        Command::Fetch => {
            let parameters = Parameters::read(get)?;
            fetch(&parameters, &Volume::open(&parameters.models_dir)?).await
        }
        Command::List => {
            let table = list(&Volume::open(&models_dir(get))?, configured_model(get).as_ref())?;
            // A reader that left, such as `head`, is no fault.
            io::stdout().write_all(table.as_bytes()).or(Ok(()))
        }
        Command::Prune => {
            let parameters = Parameters::read(get)?;
            let volume = Volume::open(&parameters.models_dir)?;
            let _lock = volume.lock_at_once()?;
            let others = prune::others(&volume, &parameters.model)?;
            if others.is_empty() {
                tracing::info!("nothing to delete: there is no other model");
            }
            prune::delete(&others)
        }
        Command::Check { discard } => {
            let parameters = Parameters::read(get)?;
            check(&Volume::open(&parameters.models_dir)?, &parameters.model, *discard).await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_parameter_is_in_the_help_and_in_the_document() {
        let asked = RefCell::new(BTreeSet::new());
        let get = |name: &str| {
            asked.borrow_mut().insert(name.to_owned());
            match name {
                "MODEL_REPO" => Some("o/n".to_owned()),
                "QUANT_TYPE" => Some("Q8_0".to_owned()),
                _ => None,
            }
        };
        Parameters::read(&get).unwrap();
        let document = include_str!("../../../docs/model-fetcher.md");
        let asked = asked.into_inner();
        assert!(asked.len() > 10, "{asked:?}");
        for name in asked {
            assert!(ENVIRONMENT.contains(&format!("  {name} ")), "{name} is not in the help");
            assert!(document.contains(&format!("| `{name}` |")), "{name} is not in docs/model-fetcher.md");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
