//! The limits as Prometheus sees them.

use std::collections::HashMap;

use prometheus::core::Collector;

use super::quota::Periods;
use super::refusal::Limit;
use super::{Limits, lock_one};
use crate::metrics::{Metrics, raise};

impl Limits {
    /// Brings the metrics up to date. All numbers of one tenant are read at once, so that they add up.
    pub fn observe(&self, metrics: &Metrics) {
        // The accounts' own count, which knows nothing of buckets. Read first: what settles meanwhile shows as a drift
        // above zero until the next time.
        let accounts = accounted(metrics);
        let periods = Periods::of(self.0.clock.now());
        let tenants: Vec<_> = self.kept().tenants.iter().map(|(name, owner)| (name.clone(), owner.clone())).collect();
        for (tenant, owner) in tenants {
            let mut state = lock_one(&owner);
            let refusals = state.refusals;
            let audit = state.audit(self.now());
            let settled = audit.map(|audit| state.settled_since_start(&audit));
            let quotas: Vec<_> = state.quotas_used(periods).collect();
            drop(state);
            for (limit, count) in Limit::ALL.into_iter().zip(refusals) {
                let counter = metrics.limit_refusals_total.with_label_values(&[&*tenant, limit.label()]);
                raise(&counter, count);
            }
            for (limit, most, used) in quotas {
                let labels = [&*tenant, if limit == Limit::Day { "day" } else { "month" }];
                metrics.quota_limit_tokens.with_label_values(&labels).set(gauge(most));
                metrics.quota_used_tokens.with_label_values(&labels).set(gauge(used));
            }
            let (Some(audit), Some(settled)) = (audit, settled) else { continue };
            let counted = i128::from(accounts.get(&*tenant).copied().unwrap_or_default());
            let gauges = [
                (&metrics.token_bucket_capacity, audit.capacity),
                (&metrics.token_bucket_level, audit.level),
                (&metrics.token_bucket_refilled, audit.refilled),
                (&metrics.token_bucket_settled, audit.settled),
                (&metrics.token_reservations_open, audit.open),
                (&metrics.token_bucket_drift, settled - counted),
            ];
            for (metric, value) in gauges {
                metric.with_label_values(&[&*tenant]).set(gauge(value));
            }
        }
    }
}

/// Tokens of settled accounts by tenant.
fn accounted(metrics: &Metrics) -> HashMap<String, u64> {
    let mut tokens: HashMap<String, u64> = HashMap::new();
    for family in metrics.tokens_total.collect() {
        for metric in family.get_metric() {
            let label = |name: &str| metric.get_label().iter().find(|label| label.name() == name);
            let Some(tenant) = label("tenant") else { continue };
            // Cached tokens are prompt tokens.
            if label("kind").is_some_and(|kind| kind.value() != "cached") {
                *tokens.entry(tenant.value().to_owned()).or_default() += metric.get_counter().get_value() as u64;
            }
        }
    }
    tokens
}

fn gauge(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
