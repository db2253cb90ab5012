//! The command `loadtest sim`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::fault::Every;
use super::{Options, Profile, serve};

/// Serves a simulated llama-server: its API and its timing, without a model or a GPU.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// How fast it is: fast, t4-kimi-k2-tq1, t4-gpt-oss-20b or t4-llama-8b-q4.
    #[arg(long, default_value = "fast")]
    profile: String,
    /// Divides all times.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Sequences at once.
    #[arg(long)]
    slots: Option<usize>,
    /// Tokens of context for each slot.
    #[arg(long)]
    context: Option<usize>,
    /// Prompt tokens a second.
    #[arg(long)]
    prefill_rate: Option<f64>,
    /// Prompt tokens computed in one go.
    #[arg(long)]
    batch: Option<usize>,
    /// Milliseconds of a token in a slot that is alone.
    #[arg(long)]
    decode_ms: Option<f64>,
    /// What each further busy slot adds to that, as a part of it.
    #[arg(long)]
    decode_slope: Option<f64>,
    /// Prompt tokens kept beside the slots.
    #[arg(long)]
    host_cache: Option<usize>,
    /// Milliseconds until the model is loaded.
    #[arg(long)]
    load_ms: Option<f64>,
    /// Seconds between pings of a silent stream.
    #[arg(long)]
    sse_ping_interval: Option<f64>,
    /// The model's name, if not the profile's.
    #[arg(long)]
    alias: Option<String>,
    /// File with the key that it wants.
    #[arg(long)]
    api_key_file: Option<PathBuf>,
    /// Has /v1/embeddings.
    #[arg(long)]
    embeddings: bool,
    /// Has /v1/rerank.
    #[arg(long)]
    reranking: bool,
    /// Tokens of a usual reply that nothing else ends; 0 for replies that go on to their limit.
    #[arg(long, default_value_t = 256)]
    reply_tokens: u64,
    /// How many tokens of each reply, from the first, are thoughts.
    #[arg(long, default_value_t = 0)]
    reasoning_tokens: u64,
    /// What goes wrong, with every request or with every n-th: cut, wedge@10 (docs/simulator.md names them all).
    #[arg(long)]
    fault: Option<Every>,
}

impl Args {
    /// What they mean.
    ///
    /// # Errors
    /// An unknown profile, a number that makes no sense, a key file that cannot be read.
    pub fn options(&self) -> anyhow::Result<Options> {
        let Some(shipped) = Profile::shipped(&self.profile) else {
            bail!("no profile is called {:?}\n  hint: {}", self.profile, Profile::NAMES.join(", "));
        };
        let times = [self.decode_ms, self.load_ms, self.decode_slope, self.sse_ping_interval];
        ensure!(times.iter().flatten().all(|time| time.is_finite() && *time >= 0.0), "times cannot be negative");
        let rates = [Some(self.speed), self.prefill_rate];
        ensure!(rates.iter().flatten().all(|rate| rate.is_finite() && *rate > 0.0), "speed and rates must be positive");
        let sizes = [self.slots, self.context, self.batch];
        ensure!(sizes.iter().flatten().all(|size| *size > 0), "slots, context and batch must be positive");
        let key = match &self.api_key_file {
            Some(file) => {
                Some(std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?)
            }
            None => None,
        };
        let milliseconds = |time: f64| Duration::from_secs_f64(time / 1000.0);
        let profile = Profile {
            name: self.alias.clone().unwrap_or(shipped.name),
            slots: self.slots.unwrap_or(shipped.slots),
            context: self.context.unwrap_or(shipped.context),
            prefill_rate: self.prefill_rate.unwrap_or(shipped.prefill_rate),
            batch: self.batch.unwrap_or(shipped.batch),
            decode: self.decode_ms.map_or(shipped.decode, milliseconds),
            decode_slope: self.decode_slope.unwrap_or(shipped.decode_slope),
            host_cache: self.host_cache.unwrap_or(shipped.host_cache),
            load: self.load_ms.map_or(shipped.load, milliseconds),
            ping: self.sse_ping_interval.map_or(shipped.ping, Duration::from_secs_f64),
            poll: shipped.poll,
        };
        Ok(Options {
            key: key.map(|key| key.trim_end().to_owned()),
            embeddings: self.embeddings,
            rerank: self.reranking,
            reply_tokens: self.reply_tokens,
            reasoning_tokens: self.reasoning_tokens,
            fault: self.fault,
            ..Options::new(profile.faster(self.speed))
        })
    }
}

/// Serves until Ctrl-C; says where on `out`.
///
/// # Errors
/// The arguments make no sense, or the address cannot be listened on.
pub async fn run(args: Args, out: &mut impl Write) -> anyhow::Result<()> {
    let options = args.options()?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    writeln!(out, "a simulated llama-server ({}, estimates) listens on http://{address}", options.profile.name)?;
    out.flush()?;
    let stop = CancellationToken::new();
    let serving = serve(listener, options, stop.clone());
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return result,
        signal = tokio::signal::ctrl_c() => signal?,
    }
    stop.cancel();
    serving.await
}
