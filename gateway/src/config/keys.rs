//! The keys of the configuration: which there are, how they are spelled, where a file sets them.

use std::fmt;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// A key: the names from the outermost table inwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key(Vec<String>);

impl Key {
    /// A key of these names.
    pub(super) fn of(names: &[&str]) -> Self {
        Self(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// The names.
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    /// The value that the key has, to be changed.
    pub(super) fn value_in<'t>(&self, table: &'t mut Table) -> Option<&'t mut Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(table.get_mut(first)?, |value, name| value.get_mut(name))
    }

    /// The environment variable that sets the key.
    pub(super) fn variable(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.0.join("_")).to_uppercase()
    }

    /// The line, from 1, on which a file sets the key; of a key that it does not set, the line of the innermost
    /// table around it that it has.
    pub(super) fn line_in(&self, text: &str) -> Option<usize> {
        let document = DeTable::parse(text).ok()?;
        let mut table = Some(document.get_ref());
        let mut found = None;
        for name in &self.0 {
            let Some((key, value)) = table.and_then(|table| table.get_key_value(name.as_str())) else { break };
            found = Some(key.span().start);
            table = match value.get_ref() {
                DeValue::Table(inner) => Some(inner),
                _ => None,
            };
        }
        Some(text[..found?].matches('\n').count() + 1)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bare = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        for (at, name) in self.0.iter().enumerate() {
            let dot = if at > 0 { "." } else { "" };
            if is_bare(name) { write!(f, "{dot}{name}")? } else { write!(f, "{dot}{name:?}")? }
        }
        Ok(())
    }
}

/// All keys that hold a value. Tables in `free` are values: their keys are whatever one likes.
pub(super) fn leaves(table: &Table, free: &[&[&str]]) -> Vec<Key> {
    let mut keys = Vec::new();
    collect(table, &[], free, &mut keys);
    keys
}

fn collect(table: &Table, outer: &[&str], free: &[&[&str]], keys: &mut Vec<Key>) {
    for (name, value) in table {
        let names = [outer, &[name.as_str()]].concat();
        match value {
            Value::Table(inner) if !free.contains(&names.as_slice()) => collect(inner, &names, free, keys),
            _ => keys.push(Key::of(&names)),
        }
    }
}

/// The one of `known` that is spelled most like `wanted`.
pub(super) fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> &'a str {
    known.into_iter().min_by_key(|candidate| distance(wanted, candidate)).unwrap_or_default()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_however_the_file_writes_it() {
        let text = "upstream.urls = []\n\n[policies.gold]\nslots = 1 # one\n\n[tenants]\n\"acme.eu\" = { policy = \"gold\" }\n\
                    [tenants.\"b\"]\nkey_policy = 'x'\n";
        for (names, line) in [
            (&["upstream", "urls"][..], Some(1)),
            (&["policies", "gold", "slots"][..], Some(4)),
            (&["policies", "gold"][..], Some(3)),
            // Not there itself, but its table is.
            (&["policies", "gold", "class"][..], Some(3)),
            (&["tenants", "acme.eu", "policy"][..], Some(7)),
            (&["tenants", "b", "key_policy"][..], Some(9)),
            (&["server", "listen"][..], None),
        ] {
            assert_eq!(Key::of(names).line_in(text), line, "{names:?}");
        }
    }

    #[test]
    fn a_key_is_shown_as_a_file_would_write_it() {
        assert_eq!(Key::of(&["tenants", "acme.eu", "policy"]).to_string(), "tenants.\"acme.eu\".policy");
        assert_eq!(Key::of(&["queue", "order"]).variable("X_"), "X_QUEUE_ORDER");
    }
}
