//! The order in which measures are shown: as a request meets them, what counts from the scheduled moment first.

use std::collections::BTreeMap;

use crate::report::Distribution;

const ORDER: [&str; 14] = [
    "ttft_scheduled",
    "ttft",
    "ttfot_scheduled",
    "ttfot",
    "itl",
    "tpot",
    "ntpot",
    "e2e_scheduled",
    "e2e",
    "queue_wait",
    "head",
    "pool_wait",
    "dispatch_lag",
    "largest_gap",
];

/// The measures that have values, in that order; such as are not known here come last.
pub(super) fn in_order(measures: &BTreeMap<String, Distribution>) -> Vec<(&str, &Distribution)> {
    let mut listed: Vec<_> = measures
        .iter()
        .filter(|(_, distribution)| distribution.count > 0)
        .map(|(name, distribution)| (name.as_str(), distribution))
        .collect();
    listed.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    listed
}
