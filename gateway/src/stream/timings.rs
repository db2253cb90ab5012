//! Finds the `timings` that llama-server puts at the end of a streamed object, and reads their token counts.
//!
//! Takes the bytes of one JSON object as llama-server writes it: compact, `timings` last (only `prompt_progress` may
//! follow). Works on bytes and allocates nothing, because it runs once a token.

use std::ops::Range;

use memchr::{memchr, memmem, memrchr};
use serde::Deserialize;

use crate::queue::Speed;

/// The token counts of one `timings` object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timings {
    /// Prompt tokens taken from the cache (`cache_n`).
    pub(super) cached: u64,
    /// Prompt tokens computed (`prompt_n`).
    pub(super) computed: u64,
    /// Tokens generated so far (`predicted_n`).
    pub(super) predicted: u64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No timings.
    Absent,
    /// Something that looks like timings, but not where or how they are known to stand.
    Unclear,
    /// Timings, and the bytes that hold them: the comma before the key to the closing brace. Without these bytes
    /// the object is what it would have been without timings.
    At(Range<usize>, Timings),
}

impl Found {
    /// What of `object`, in which this was found, stands before the timings and what behind them.
    pub(super) fn cut_from<'a>(&self, object: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        match self {
            Self::At(range, _) => {
                (object.get(..range.start).unwrap_or_default(), object.get(range.end..).unwrap_or_default())
            }
            Self::Absent | Self::Unclear => (object, &[]),
        }
    }

    /// Whether `object` tells the progress of the prompt: then `prompt_progress` follows the timings.
    pub(super) fn is_progress(&self, object: &[u8]) -> bool {
        matches!(self, Self::At(range, _) if range.end + 1 < object.len())
    }
}

const KEY: &[u8] = b",\"timings\":";
const PROGRESS_KEY: &[u8] = b",\"prompt_progress\":";

/// Looks for timings at the end of `object`.
///
/// No text of a reply can be taken for them: within a JSON string the quotes of the key would be escaped, so `KEY`
/// with bare quotes is always a key; and it is a key of the outermost object, since only one brace follows the value.
pub(super) fn find(object: &[u8]) -> Found {
    match at_end(object) {
        Some((range, timings)) => Found::At(range, timings),
        None if memmem::find(object, KEY).is_some() => Found::Unclear,
        None => Found::Absent,
    }
}

fn at_end(object: &[u8]) -> Option<(Range<usize>, Timings)> {
    let mut members = object.strip_suffix(b"}")?;
    let mut open = memrchr(b'{', members)?;
    if members.get(..open)?.ends_with(PROGRESS_KEY) {
        read(members.get(open..)?)?;
        members = members.get(..open - PROGRESS_KEY.len())?;
        open = memrchr(b'{', members)?;
    }
    if !members.get(..open)?.ends_with(KEY) {
        return None;
    }
    let timings = read(members.get(open..)?)?;
    Some((open - KEY.len()..members.len(), timings))
}

/// Reads a flat object of numbers. `None` if it is anything else or if more bytes follow.
fn read(object: &[u8]) -> Option<Timings> {
    let mut timings = Timings::default();
    let mut rest = object.strip_prefix(b"{\"")?.strip_suffix(b"}")?;
    loop {
        let (key, after) = rest.split_at(memchr(b'"', rest)?);
        let after = after.strip_prefix(b"\":")?;
        let end = memchr(b',', after).unwrap_or(after.len());
        let (value, tail) = after.split_at(end);
        if !is_number(value) {
            return None;
        }
        match key {
            b"cache_n" => timings.cached = integer(value)?,
            b"prompt_n" => timings.computed = integer(value)?,
            b"predicted_n" => timings.predicted = integer(value)?,
            _ => {}
        }
        match tail {
            [] => return Some(timings),
            _ => rest = tail.strip_prefix(b",\"")?,
        }
    }
}

/// How fast llama-server worked, by the timings at the end of `object`; `None` if there are none, or times that are no
/// numbers. `object` may also be the member alone, with the comma before it.
pub(super) fn speed(object: &[u8]) -> Option<Speed> {
    #[derive(Deserialize)]
    struct Times {
        prompt_n: u64,
        prompt_ms: f64,
        predicted_n: u64,
        predicted_ms: f64,
    }
    let value = object.get(memmem::rfind(object, KEY)? + KEY.len()..)?;
    // What follows the value is not looked at: the brace that closes the object, the progress of the prompt.
    let times = Times::deserialize(&mut serde_json::Deserializer::from_slice(value)).ok()?;
    Some(Speed {
        prompt_tokens: times.prompt_n,
        prompt_ms: times.prompt_ms,
        // The first token comes with the prompt: the time of the output begins behind it.
        output_tokens: times.predicted_n.saturating_sub(1),
        output_ms: times.predicted_ms,
    })
}

/// Whether `value` is a number, or `null`, which stands for one that is not finite.
fn is_number(value: &[u8]) -> bool {
    let numeric = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    value == b"null" || (!value.is_empty() && value.iter().all(numeric))
}

/// A number of tokens; one that is too large to be true becomes the largest.
fn integer(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        Some(value.saturating_mul(10).saturating_add(u64::from(digit)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMINGS: &str =
        r#""timings":{"cache_n":24,"prompt_n":8,"prompt_ms":35.1e-2,"predicted_n":3,"prompt_per_second":null}"#;

    /// The object without its timings, and the timings.
    fn cut(object: &str) -> Option<(String, Timings)> {
        match find(object.as_bytes()) {
            Found::At(range, timings) => {
                let mut rest = object.to_owned();
                rest.replace_range(range, "");
                Some((rest, timings))
            }
            Found::Absent | Found::Unclear => None,
        }
    }

    #[test]
    fn timings_at_the_end_are_read_and_can_be_cut_out() {
        let timings = Timings { cached: 24, computed: 8, predicted: 3 };
        let object = r#"{"choices":[{"index":0}],"id":"x"}"#;
        let with = object.replace(r#""x"}"#, &format!(r#""x",{TIMINGS}}}"#));
        assert_eq!(cut(&with), Some((object.to_owned(), timings)));
    }

    #[test]
    fn progress_of_the_prompt_may_follow_and_stays() {
        let object = format!(r#"{{"a":1,{TIMINGS},"prompt_progress":{{"total":4,"cache":0}}}}"#);
        let rest = r#"{"a":1,"prompt_progress":{"total":4,"cache":0}}"#;
        assert_eq!(cut(&object).map(|(rest, _)| rest).as_deref(), Some(rest));
    }

    #[test]
    fn the_speed_is_read_wherever_timings_are_last() {
        let timings = r#","timings":{"cache_n":24,"prompt_n":8,"prompt_ms":35.1,"predicted_n":3,"predicted_ms":20.5}"#;
        let expected = Speed { prompt_tokens: 8, prompt_ms: 35.1, output_tokens: 2, output_ms: 20.5 };
        let progress = r#","prompt_progress":{"total":4}"#;
        for object in [timings, &format!(r#"{{"a":1{timings}}}"#), &format!(r#"{{"a":1{timings}{progress}}}"#)] {
            assert_eq!(speed(object.as_bytes()), Some(expected), "{object}");
        }
        for none in ["", r#"{"usage":{}}"#, r#"{"a":1,"timings":{"prompt_n":8,"prompt_ms":null}}"#] {
            assert_eq!(speed(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn draft_counts_are_no_obstacle() {
        let object = r#"{"a":1,"timings":{"cache_n":1,"prompt_n":2,"predicted_n":3,"draft_n":4,"draft_n_accepted":2}}"#;
        assert_eq!(cut(object).map(|(rest, _)| rest).as_deref(), Some(r#"{"a":1}"#));
    }

    #[test]
    fn a_text_that_looks_like_timings_is_none() {
        let object = r#"{"text":",\"timings\":{\"cache_n\":1}}"}"#;
        assert_eq!(find(object.as_bytes()), Found::Absent);
        assert_eq!(find(br#"{"text":"{","id":{}}"#), Found::Absent);
        assert_eq!(find(b""), Found::Absent);
    }

    #[test]
    fn timings_in_an_unknown_place_or_shape_are_left_alone() {
        for object in [
            r#"{"a":1,"timings":{"cache_n":1},"b":2}"#,
            r#"{"a":{"b":1,"timings":{"cache_n":1}}}"#,
            r#"{"a":1,"timings":{"cache_n":"1"}}"#,
            r#"{"a":1,"timings":{"cache_n":1.5}}"#,
            r#"{"a":1,"timings":{"cache_n":-1}}"#,
            r#"{"a":1,"timings":{"cache_n":1,}}"#,
            r#"{"a":1,"timings":{}}"#,
            r#"{"a":1,"timings":{"more":{"cache_n":1}}}"#,
            r#"{"a":1,"timings":{"cache_n":1}"#,
        ] {
            assert_eq!(find(object.as_bytes()), Found::Unclear, "{object}");
        }
    }
}
