//! Where in a workload file something is: keys, as a file would write them, and their lines.

use std::fmt;

use toml::de::{DeTable, DeValue};

/// The names of a key from the outermost table inwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place(Vec<String>);

impl Place {
    /// The place of these names.
    pub(super) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(str::to_owned).collect())
    }

    /// A key in the table that is here.
    pub(super) fn key(&self, name: &str) -> Self {
        Self(self.0.iter().map(String::as_str).chain([name]).map(str::to_owned).collect())
    }

    /// Whether this is the whole file.
    pub(super) fn is_whole(&self) -> bool {
        self.0.is_empty()
    }

    /// The line, from 1, on which `text` sets the key; of a key that it does not set, the line of the innermost table
    /// around it that it has.
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

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bare = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        for (at, name) in self.0.iter().enumerate() {
            let dot = if at > 0 { "." } else { "" };
            if is_bare(name) { write!(f, "{dot}{name}")? } else { write!(f, "{dot}{name:?}")? }
        }
        Ok(())
    }
}
