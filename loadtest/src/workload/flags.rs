//! The workload by flags: the simple case of one tenant, or a workload file with some of its values replaced.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::check::check;
use super::load::{Source, set_objective};
use super::{Arrival, Length, Surface, Tenant, Workload, WorkloadError, load, load_slo};

/// The name of the tenant of the simple case.
const TENANT: &str = "simple";

/// What is sent: a workload, or `--users` or `--rate` for one tenant whose requests are all alike.
#[derive(Args, Clone, Debug, Default)]
#[command(group = ArgGroup::new("what").args(["workload", "users", "rate"]).required(true))]
pub struct WorkloadFlags {
    /// A shipped workload's name (smoke, chat, ...) or a file
    pub workload: Option<String>,
    /// So many users, each of whom sends again when the answer has come
    #[arg(long, value_name = "N", help_heading = "Without a workload")]
    pub users: Option<u32>,
    /// So many requests a second, at random moments (Poisson), however long the answers take
    #[arg(long, value_name = "R", help_heading = "Without a workload")]
    pub rate: Option<f64>,
    /// Tokens of a prompt [default: 128]
    #[arg(long, value_name = "N", conflicts_with = "workload", help_heading = "Without a workload")]
    pub prompt_tokens: Option<u32>,
    /// Tokens of an answer [default: 64]
    #[arg(long, value_name = "N", conflicts_with = "workload", help_heading = "Without a workload")]
    pub output_tokens: Option<u32>,
    /// The API: chat, completions, responses, messages, embeddings or rerank [default: chat]
    #[arg(long, value_name = "API", value_parser = surface, conflicts_with = "workload", help_heading = "Without a workload")]
    pub surface: Option<Surface>,
    /// The part of the requests that are streamed, 0 to 1 [default: 1]
    #[arg(long, value_name = "SHARE", conflicts_with = "workload", help_heading = "Without a workload")]
    pub streamed: Option<f64>,
    /// How long a client waits for the next bytes before it gives up, such as 30s [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "workload",
          help_heading = "Without a workload")]
    pub timeout: Option<Duration>,
    /// How many times a refusal is tried again, in the way of the official clients [default: 0]
    #[arg(long, value_name = "N", conflicts_with = "workload", help_heading = "Without a workload")]
    pub retries: Option<u32>,
    /// File with the API key [default: the key in the environment variable LOADTEST_KEY]
    #[arg(long, value_name = "FILE", conflicts_with = "workload", help_heading = "Without a workload")]
    pub key_file: Option<PathBuf>,
    /// How long requests are scheduled, such as 30s [default: the workload's; without one, 1m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// How many requests are scheduled in all, if that comes before the end of the duration [default: the
    /// workload's; without one, no limit]
    #[arg(long, value_name = "N")]
    pub requests: Option<u64>,
    /// What is scheduled before this is sent and not measured [default: the workload's; without one, 0s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub warm_up: Option<Duration>,
    /// The model that all tenants ask for [default: the workload's; without one, "default"]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Same seed, same requests at the same moments [default: the workload's; without one, 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How late the harness may be at the 99th percentile, for machines that are not quiet [default: the workload's;
    /// without one, 10ms]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub max_dispatch_lag: Option<Duration>,
    /// File with objectives [default: the workload's; without one, none]
    #[arg(long, value_name = "FILE")]
    pub slo: Option<PathBuf>,
    /// An objective besides: run.error_rate=0.01, request.tpot=80ms, or the most that a measure may be:
    /// ttft_scheduled.p95=2s, TENANT:itl.p99=1s; may be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    pub objective: Vec<String>,
}

impl WorkloadFlags {
    /// The workload that the flags say.
    ///
    /// # Errors
    /// As those of `load`; a flag's value cannot be used.
    pub fn workload(&self) -> Result<Workload, WorkloadError> {
        let mut workload = match &self.workload {
            Some(name_or_path) => load(name_or_path)?,
            None => self.simple(),
        };
        self.replace_values(&mut workload);
        check(&workload).map_err(|wrong| Source::Flags.wrong(wrong))?;
        if let Some(path) = &self.slo {
            workload.slo = load_slo(path, &workload)?;
        }
        for words in &self.objective {
            set_objective(&mut workload, words)?;
        }
        Ok(workload)
    }

    /// One tenant whose requests are all alike.
    fn simple(&self) -> Workload {
        let usual = Tenant::default();
        let count = |value: Option<u32>, usual: Length| value.map_or(usual, |count| Length::Fixed(f64::from(count)));
        let tenant = Tenant {
            key_file: self.key_file.clone(),
            surface: self.surface.unwrap_or(usual.surface),
            arrival: match self.rate {
                Some(rate) => Arrival::Poisson { rate },
                None => Arrival::Closed { users: self.users.unwrap_or(1), think_time: Length::zero() },
            },
            prompt_tokens: count(self.prompt_tokens, usual.prompt_tokens),
            output_tokens: count(self.output_tokens, usual.output_tokens),
            streamed: self.streamed.unwrap_or(usual.streamed),
            timeout: self.timeout.unwrap_or(usual.timeout),
            retries: self.retries.unwrap_or(usual.retries),
            ..Tenant::default()
        };
        Workload {
            name: TENANT.to_owned(),
            tenants: BTreeMap::from([(TENANT.to_owned(), tenant)]),
            ..Workload::default()
        }
    }

    fn replace_values(&self, workload: &mut Workload) {
        workload.duration = self.duration.unwrap_or(workload.duration);
        workload.requests = self.requests.unwrap_or(workload.requests);
        workload.warm_up = self.warm_up.unwrap_or(workload.warm_up);
        workload.max_dispatch_lag = self.max_dispatch_lag.unwrap_or(workload.max_dispatch_lag);
        workload.seed = self.seed.unwrap_or(workload.seed);
        if let Some(model) = &self.model {
            workload.model.clone_from(model);
            workload.tenants.values_mut().for_each(|tenant| tenant.model = None);
        }
    }
}

/// Reads a surface as a workload file would.
fn surface(text: &str) -> Result<Surface, String> {
    use serde::Deserialize;
    use serde::de::IntoDeserializer;
    Surface::deserialize(text.into_deserializer()).map_err(|error: serde::de::value::Error| error.to_string())
}
