//! The organization costs API in OpenAI's shape: money by day, tenant, key and what was paid for.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::Uri;
use serde::Serialize;

use super::gate::Refused;
use super::pages::{Asked, GroupBy, Kind, Page};
use crate::app::App;
use crate::error::{Reason, Rejection};
use crate::ledger::query::{Field, Query, Used, Width};
use crate::prices::Money;

const COSTS: Kind = Kind {
    name: "costs",
    surfaces: &[],
    widths: &[("1d", (Width::Day, (7, 180)))],
    groups: &[
        ("project_id", GroupBy::Project),
        ("user_id", GroupBy::User),
        ("api_key_id", GroupBy::Key),
        ("line_item", GroupBy::LineItem),
    ],
    names: "line_items",
};

/// `organization.costs.result`
#[derive(Serialize)]
pub(super) struct Costs {
    object: &'static str,
    amount: Amount,
    project_id: Option<String>,
    user_id: Option<String>,
    api_key_id: Option<String>,
    line_item: Option<String>,
    quantity: Option<f64>,
    quantity_unit: Option<&'static str>,
}

#[derive(Serialize)]
struct Amount {
    value: Money,
    currency: String,
}

/// Something of one model that is paid for.
struct Item {
    /// The model and what was used of it, as OpenAI spells it: `kimi-k2, input_tokens`.
    name: String,
    quantity: f64,
    unit: &'static str,
    amount: Money,
}

/// `GET /v1/organization/costs`
pub(super) async fn costs(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<Page<Costs>>, Refused> {
    let asked = Asked::read(&COSTS, &uri, app.clock.now())?;
    let Some(prices) = app.all_usage.prices() else {
        return Err(Rejection::new(Reason::NotSupported, "Nothing has a price: `[prices]` is not configured.").into());
    };
    let ((from, to), only) = (asked.span(), asked.only.clone());
    let fields = [(GroupBy::Project, Field::Tenant), (GroupBy::Key, Field::Key)];
    let by = fields.into_iter().filter(|(group, _)| asked.has(*group)).map(|(_, field)| field);
    let by = by.chain([Field::Model]).collect();
    let used = match asked.users {
        true => Vec::new(),
        false => app.all_usage.used(Query { from, to, width: Width::Day, by, only }).await?,
    };
    let (names, by_item) = (asked.names.clone(), asked.has(GroupBy::LineItem));
    Ok(Json(asked.page(&used, |rows| results(rows, &names, by_item, prices.currency()))))
}

/// The costs of one day. `names`: the items that count; none: all.
fn results(rows: &[Used], names: &[String], by_item: bool, currency: &str) -> Vec<Costs> {
    let mut found: BTreeMap<_, (Money, f64, &'static str)> = BTreeMap::new();
    for row in rows {
        let counts = |item: &Item| names.is_empty() || names.contains(&item.name);
        for item in items(row).into_iter().filter(counts) {
            let key = (row.group.tenant.clone(), row.group.key_id.clone(), by_item.then_some(item.name));
            let (amount, quantity, unit) = found.entry(key).or_default();
            *amount = *amount + item.amount;
            *quantity += item.quantity;
            *unit = item.unit;
        }
    }
    let result = |((project_id, api_key_id, line_item), (value, quantity, unit))| Costs {
        object: "organization.costs.result",
        amount: Amount { value, currency: currency.to_lowercase() },
        project_id,
        user_id: None,
        api_key_id,
        line_item,
        quantity: by_item.then_some(quantity),
        quantity_unit: by_item.then_some(unit),
    };
    found.into_iter().map(result).collect()
}

/// What a row costs, item by item. What cost nothing is not named.
fn items(row: &Used) -> Vec<Item> {
    let (cost, quantities) = (row.cost.unwrap_or_default(), row.sums.quantities());
    let model = row.group.model.as_deref().unwrap_or_default();
    let item =
        |name: &str, quantity: f64, unit, amount| Item { name: format!("{model}, {name}"), quantity, unit, amount };
    let mut items = vec![
        item("input_tokens", quantities.prompt_tokens as f64, "tokens", cost.prompt),
        item("input_cached_tokens", quantities.cached_tokens as f64, "tokens", cost.cached),
        item("output_tokens", quantities.output_tokens as f64, "tokens", cost.output),
        item("slot_seconds", quantities.slot_ms as f64 / 1000.0, "duration_seconds", cost.slots),
    ];
    items.retain(|item| item.amount != Money::default());
    items
}
