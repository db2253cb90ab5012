//! `llama-gateway usage`: what was used, added up by time and group, or request by request.

use clap::Args;
use jiff::Timestamp;

use super::{DataDirectory, configuration};
use crate::clock::Clock;
use crate::ledger::query::{Field, Filter, Query, Width};
use crate::ledger::render::{self, Format};
use crate::ledger::usage::{Reader, since, time};
use crate::prices::Prices;

#[derive(Args)]
pub(super) struct ShowArguments {
    /// How far to look back, such as 1d
    #[arg(long, value_name = "TIME", conflicts_with = "from")]
    since: Option<String>,
    /// What arrived then or later: 2026-01-31 (midnight UTC) or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// What arrived before that
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// How long a bucket of time is
    #[arg(long, value_name = "WIDTH", default_value = "day")]
    width: Width,
    /// What is told apart, separated by commas
    #[arg(long, value_name = "FIELDS", value_delimiter = ',', default_value = "tenant")]
    by: Vec<Field>,
    /// Of this tenant only; may be given more than once, as the next two
    #[arg(long, value_name = "T")]
    tenant: Vec<String>,
    /// By the API key with this public id only
    #[arg(long, value_name = "ID")]
    key: Vec<String>,
    /// Of this model only
    #[arg(long, value_name = "M")]
    model: Vec<String>,
    /// One request a line instead of sums
    #[arg(long, conflicts_with_all = ["width", "by"])]
    requests: bool,
    /// As JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// As CSV
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    data: DataDirectory,
}

/// Shows what is asked for on standard output.
pub(super) fn show(arguments: ShowArguments) -> anyhow::Result<()> {
    let config = configuration(&arguments.data)?;
    let prices = Prices::of(&config);
    let format = match arguments {
        ShowArguments { json: true, .. } => Format::Json,
        ShowArguments { csv: true, .. } => Format::Csv,
        _ => Format::Text,
    };
    let from = match (&arguments.since, &arguments.from) {
        (Some(span), _) => since(span, Clock::system().now())?,
        (None, Some(text)) => time(text)?,
        (None, None) => Timestamp::MIN,
    };
    let query = Query {
        from,
        to: arguments.to.as_deref().map(time).transpose()?.unwrap_or(Timestamp::MAX),
        width: arguments.width,
        by: arguments.by,
        only: Filter { tenants: arguments.tenant, keys: arguments.key, models: arguments.model, surfaces: Vec::new() },
    };
    let reader = Reader::open(&config.server.data_dir)?;
    let out = &mut std::io::stdout().lock();
    if arguments.requests {
        render::requests(&reader, &query, prices.as_ref(), format, out)?;
    } else {
        render::usage(&reader, &query, prices.as_ref(), format, out)?;
    }
    Ok(())
}
