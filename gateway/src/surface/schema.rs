//! What a JSON schema costs llama-server.
//!
//! A schema becomes a grammar, and the grammar is walked in llama-server's one main loop while every other request
//! waits: a pattern such as `(a?){0,1999}` keeps it busy for hours, and deeply nested groups end the process. So
//! patterns and enumerations are bounded here, before they get there.

use memchr::memmem;
use serde_json::Value;
use serde_json::value::RawValue;

/// Bytes of one `pattern` at most.
const PATTERN_BYTES: usize = 512;
/// Groups of a pattern inside each other at most.
const PATTERN_DEPTH: usize = 16;
/// What the choices of one pattern may multiply to: 60 took a second for four tokens, 100 did not end in six.
const PATTERN_CHOICES: u64 = 64;
/// Values of all `enum` lists of a field together: 500 took two seconds for four tokens.
const ENUM_VALUES: usize = 512;

/// Looks for what is too costly in a schema, or in tools that hold schemas. `Err` says what it is.
pub(super) fn check(raw: &RawValue) -> Result<(), String> {
    let bytes = raw.get().as_bytes();
    // Names can be written with escapes, so these decide only together.
    let marks: [&[u8]; 3] = [b"\"pattern\"", b"\"enum\"", b"\\u00"];
    if !marks.iter().any(|mark| memmem::find(bytes, mark).is_some()) {
        return Ok(());
    }
    let value: Value = serde_json::from_str(raw.get()).map_err(|error| format!("cannot be read: {error}"))?;
    let mut enumerated = 0;
    walk(&value, &mut enumerated)
}

fn walk(value: &Value, enumerated: &mut usize) -> Result<(), String> {
    match value {
        Value::Object(members) => members.iter().try_for_each(|(name, member)| {
            match (name.as_str(), member) {
                ("pattern", Value::String(pattern)) if !affordable(pattern) => {
                    return Err("holds a `pattern` with too many optional parts, repeated groups or characters".into());
                }
                ("enum", Value::Array(values)) => *enumerated += values.len(),
                _ => {}
            }
            if *enumerated > ENUM_VALUES {
                return Err(format!("holds `enum` lists of more than {ENUM_VALUES} values together"));
            }
            walk(member, enumerated)
        }),
        Value::Array(items) => items.iter().try_for_each(|item| walk(item, enumerated)),
        _ => Ok(()),
    }
}

/// Whether a pattern stays cheap. Its choices (`?`, `*`, `|`, a repetition from 0) count once each, times the upper
/// bounds of all repeated groups, as if these stood inside each other: too much rather than too little.
fn affordable(pattern: &str) -> bool {
    if pattern.len() > PATTERN_BYTES {
        return false;
    }
    let bytes = pattern.as_bytes();
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut choices, mut repeats) = (0_u64, 1_u64);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let group = at > 0 && bytes.get(at - 1) == Some(&b')');
        match byte {
            b'\\' => at += 1,
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'?' | b'*' | b'|' => choices += 1,
            b'{' => {
                choices += u64::from(bytes.get(at + 1) == Some(&b'0'));
                if group {
                    repeats = repeats.saturating_mul(upper_bound(pattern.get(at + 1..).unwrap_or_default()));
                }
            }
            _ => {}
        }
        deepest = deepest.max(depth);
        at += 1;
    }
    deepest <= PATTERN_DEPTH && choices.saturating_mul(repeats) <= PATTERN_CHOICES
}

/// The larger number of `2,5}`, `5}` or `2,}`; what cannot be read is taken for endless.
fn upper_bound(text: &str) -> u64 {
    let bounds = text.split_once('}').map_or("", |(bounds, _)| bounds);
    let numbers = bounds.split(',').map(str::trim).filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().unwrap_or(u64::MAX)).max().unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(schema: &str) -> Result<(), String> {
        check(serde_json::from_str(schema).unwrap())
    }

    #[test]
    fn patterns_that_hang_or_end_the_server_are_refused() {
        let parens = format!("{}a{}", "(".repeat(30_000), ")".repeat(30_000));
        let optional = "a?".repeat(100);
        for pattern in
            ["(a?){0,1999}", "((a?){0,40}){0,40}", "(a|b){99999999999}", "(a?){,}", "(a*){x}", &parens, &optional]
        {
            let schema = format!(r#"{{"properties":{{"a":{{"type":"string","pattern":"^{pattern}$"}}}}}}"#);
            assert!(checked(&schema).is_err(), "{pattern}");
            assert!(checked(&schema.replace("pattern", "p\\u0061ttern")).is_err(), "{pattern}");
            assert!(checked(&format!(r#"[{{"function":{{"parameters":{schema}}}}}]"#)).is_err(), "{pattern}");
        }
    }

    #[test]
    fn patterns_of_everyday_schemas_pass() {
        for pattern in [
            r"^\\d{4}-\\d{2}-\\d{2}$",
            r"^[A-Z]{2}[0-9]{2}[A-Z0-9]{4}[0-9]{7}([A-Z0-9]?){0,16}$",
            r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\\.[a-zA-Z]{2,}$",
            r"^(https?|ftp)://[^ ]*$",
            r"^([0-9]{1,3}\\.){3}[0-9]{1,3}$",
            r"^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}$",
        ] {
            assert_eq!(checked(&format!(r#"{{"pattern":"{pattern}"}}"#)), Ok(()), "{pattern}");
        }
        // A property of this name is no pattern.
        assert_eq!(checked(r#"{"properties":{"pattern":{"type":"string"},"enum":{"type":"string"}}}"#), Ok(()));
    }

    #[test]
    fn enumerations_are_bounded_together() {
        let half = vec!["1"; ENUM_VALUES / 2].join(",");
        assert!(checked(&format!(r#"[{{"enum":[{half}]}},{{"enum":[{half}]}}]"#)).is_ok());
        assert!(checked(&format!(r#"[{{"enum":[{half}]}},{{"enum":[{half},1]}}]"#)).is_err());
    }
}
