//! What is known of a key, and how it is shown: as a row of a table, as JSON.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::scope::Scope;
use crate::table;

/// What is known of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its public part.
    pub key_id: String,
    /// Whose it is: the unit of accounting.
    pub tenant: String,
    /// What its owner calls it; may be empty.
    pub label: String,
    /// The name of its own policy, if it has one.
    pub policy: Option<String>,
    /// What of the API it is for, and from where.
    pub scope: Scope,
    /// When it was made; unknown of a declared key.
    pub created: Option<Timestamp>,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
    /// When it got its secret in the place of another one.
    pub rotated: Option<Timestamp>,
    /// Until when that other one is valid.
    pub previous_until: Option<Timestamp>,
    /// Since when it is refused.
    pub revoked: Option<Timestamp>,
    /// When it was used last, as far as that is written down: a server does so every few seconds.
    pub last_used: Option<Timestamp>,
    /// It stands in the file of declared keys, and can be changed only there.
    pub declared: bool,
}

impl KeyInfo {
    /// What the key is worth at `now`: `valid`, `expired` or `revoked`.
    pub fn state(&self, now: Timestamp) -> &'static str {
        match self {
            Self { revoked: Some(_), .. } => "revoked",
            Self { expires: Some(expires), .. } if *expires <= now => "expired",
            _ => "valid",
        }
    }

    /// As an object with all that is known; times are RFC 3339.
    pub fn json(&self, now: Timestamp) -> Value {
        json!({
            "object": "api_key",
            "id": self.key_id,
            "tenant": self.tenant,
            "label": self.label,
            "policy": self.policy,
            "state": self.state(now),
            "models": self.scope.models,
            "surfaces": self.scope.surface_names(),
            "networks": self.scope.network_names(),
            "created": self.created.map(text),
            "expires": self.expires.map(text),
            "rotated": self.rotated.map(text),
            "previous_until": self.previous_until.map(text),
            "revoked": self.revoked.map(text),
            "last_used": self.last_used.map(text),
            "declared": self.declared,
        })
    }
}

fn text(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// Writes keys as a table, with what each is worth at `now`.
///
/// # Errors
/// What `out` says.
pub fn write_list(keys: &[KeyInfo], now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let header = ["key_id", "tenant", "policy", "state", "created", "expires", "last_used", "scope", "label"];
    let rows: Vec<_> = keys.iter().map(|key| row(key, now)).collect();
    table::write_aligned(out, header, &rows, 9)
}

fn row(key: &KeyInfo, now: Timestamp) -> [String; 9] {
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let time = |time: Option<Timestamp>| or_none(time.map(text).unwrap_or_default());
    let scope = [key.scope.surface_names(), key.scope.models.clone(), key.scope.network_names()].concat().join(",");
    [
        key.key_id.clone(),
        key.tenant.clone(),
        or_none(key.policy.clone().unwrap_or_default()),
        key.state(now).to_owned(),
        if key.declared { "declared".to_owned() } else { time(key.created) },
        time(key.expires),
        time(key.last_used),
        or_none(scope),
        or_none(key.label.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    #[test]
    fn the_list_tells_what_each_key_is_worth() {
        let key = |key_id: &str, expires, revoked| KeyInfo {
            key_id: key_id.to_owned(),
            tenant: "acme".to_owned(),
            created: Some(at(0)),
            expires,
            revoked,
            ..KeyInfo::default()
        };
        let scope = Scope::parse(&["kimi".to_owned()], &["chat".to_owned()], &["10.0.0.0/8".to_owned()]).unwrap();
        let gold = KeyInfo {
            policy: Some("gold".to_owned()),
            label: "laptop".to_owned(),
            last_used: Some(at(8)),
            scope,
            ..key("b", Some(at(9)), None)
        };
        let declared = KeyInfo { created: None, declared: true, ..key("d", None, None) };
        let keys = [key("a", None, None), gold, key("c", Some(at(9)), Some(at(1))), declared];
        let mut out = Vec::new();
        write_list(&keys, at(9), &mut out).unwrap();
        let expected = "\
key_id  tenant  policy  state    created               expires               last_used             scope                 label
a       acme    -       valid    2026-01-01T00:00:00Z  -                     -                     -                     -
b       acme    gold    expired  2026-01-01T00:00:00Z  2026-01-01T00:00:09Z  2026-01-01T00:00:08Z  chat,kimi,10.0.0.0/8  laptop
c       acme    -       revoked  2026-01-01T00:00:00Z  2026-01-01T00:00:09Z  -                     -                     -
d       acme    -       valid    declared              -                     -                     -                     -
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(keys[1].json(at(9))["networks"], json!(["10.0.0.0/8"]));
        assert_eq!(keys[1].json(at(9))["last_used"], "2026-01-01T00:00:08Z");
    }
}
