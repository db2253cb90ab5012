//! The organization usage API in OpenAI's shape: tokens by time, tenant, key and model, for the operator.
//!
//! What the gateway knows besides OpenAI's fields stands beside them, by the names that `llama-gateway usage` has.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::Uri;
use serde::Serialize;

use super::gate::Refused;
use super::pages::{Asked, GroupBy, Kind, Page, Widths};
use crate::app::App;
use crate::ledger::query::{Field, Filter, Query, Used, Width};
use crate::prices::Prices;
use crate::usage::Further;

const WIDTHS: Widths =
    &[("1d", (Width::Day, (7, 31))), ("1h", (Width::Hour, (24, 168))), ("1m", (Width::Minute, (60, 1440)))];

const GROUPS: &[(&str, GroupBy)] = &[
    ("project_id", GroupBy::Project),
    ("user_id", GroupBy::User),
    ("api_key_id", GroupBy::Key),
    ("model", GroupBy::Model),
    ("surface", GroupBy::Surface),
];

/// What generates.
pub(super) const COMPLETIONS: Kind = Kind {
    name: "completions",
    surfaces: &["chat", "completions", "responses", "messages"],
    widths: WIDTHS,
    groups: GROUPS,
    names: "models",
};

/// What only reads. Both together are everything that is in the ledger.
const EMBEDDINGS: Kind = Kind { name: "embeddings", surfaces: &["embeddings", "rerank"], ..COMPLETIONS };

/// What OpenAI and the gateway tell of any group.
#[derive(Serialize)]
struct Group {
    num_model_requests: i64,
    project_id: Option<String>,
    user_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    surface: Option<String>,
    #[serde(flatten)]
    further: Further,
}

/// `organization.usage.completions.result`
#[derive(Serialize)]
pub(super) struct Completions {
    object: &'static str,
    input_tokens: i64,
    input_cached_tokens: i64,
    input_uncached_tokens: i64,
    input_audio_tokens: i64,
    output_tokens: i64,
    output_audio_tokens: i64,
    batch: Option<bool>,
    service_tier: Option<String>,
    #[serde(flatten)]
    group: Group,
}

/// `organization.usage.embeddings.result`
#[derive(Serialize)]
pub(super) struct Embeddings {
    object: &'static str,
    input_tokens: i64,
    #[serde(flatten)]
    group: Group,
}

/// `GET /v1/organization/usage/completions`
pub(super) async fn completions(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<Page<Completions>>, Refused> {
    let (asked, used) = ask(&app, &COMPLETIONS, &uri).await?;
    let prices = app.all_usage.prices();
    let result = |row: &Used| Completions {
        object: "organization.usage.completions.result",
        input_tokens: row.sums.prompt_tokens,
        input_cached_tokens: row.sums.cached_tokens,
        input_uncached_tokens: row.sums.prompt_tokens - row.sums.cached_tokens,
        input_audio_tokens: 0,
        output_tokens: row.sums.completion_tokens,
        output_audio_tokens: 0,
        batch: None,
        service_tier: None,
        group: group(row, prices),
    };
    Ok(Json(asked.page(&used, |rows| rows.iter().map(result).collect())))
}

/// `GET /v1/organization/usage/embeddings`
pub(super) async fn embeddings(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<Page<Embeddings>>, Refused> {
    let (asked, used) = ask(&app, &EMBEDDINGS, &uri).await?;
    let prices = app.all_usage.prices();
    let result = |row: &Used| Embeddings {
        object: "organization.usage.embeddings.result",
        input_tokens: row.sums.prompt_tokens,
        group: group(row, prices),
    };
    Ok(Json(asked.page(&used, |rows| rows.iter().map(result).collect())))
}

/// Asks the ledger for one page.
async fn ask(app: &App, kind: &Kind, uri: &Uri) -> Result<(Asked, Vec<Used>), Refused> {
    let asked = Asked::read(kind, uri, app.clock.now())?;
    if asked.users {
        return Ok((asked, Vec::new()));
    }
    let (from, to) = asked.span();
    let fields = [
        (GroupBy::Project, Field::Tenant),
        (GroupBy::Key, Field::Key),
        (GroupBy::Model, Field::Model),
        (GroupBy::Surface, Field::Surface),
    ];
    let by = fields.into_iter().filter(|(group, _)| asked.has(*group)).map(|(_, field)| field).collect();
    let only = Filter { models: asked.names.clone(), ..asked.only.clone() };
    let used = app.all_usage.used(Query { from, to, width: asked.width, by, only }).await?;
    Ok((asked, used))
}

fn group(row: &Used, prices: Option<&Prices>) -> Group {
    Group {
        num_model_requests: row.sums.requests,
        project_id: row.group.tenant.clone(),
        user_id: None,
        api_key_id: row.group.key_id.clone(),
        model: row.group.model.clone(),
        surface: row.group.surface.clone(),
        further: Further::of(row.sums, row.cost, prices),
    }
}
