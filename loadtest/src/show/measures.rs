//! The order in which measures are shown: that of their definitions.

use std::collections::BTreeMap;

use crate::measure::formula::MEASURES;
use crate::report::Distribution;

/// The measures that have values, in that order; such as are not known here come last.
pub(super) fn in_order(measures: &BTreeMap<String, Distribution>) -> Vec<(&str, &Distribution)> {
    let mut listed: Vec<_> = measures
        .iter()
        .filter(|(_, distribution)| distribution.count > 0)
        .map(|(name, distribution)| (name.as_str(), distribution))
        .collect();
    listed.sort_by_key(|(name, _)| MEASURES.iter().position(|known| known.key == *name).unwrap_or(MEASURES.len()));
    listed
}
