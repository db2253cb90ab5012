//! What may be done with one request field: the vocabulary of the table.
//!
//! Takes the raw value of a field; says whether it passes, passes changed, is left out or is refused.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use super::{json, schema};
use crate::error::Rejection;

/// A kind of JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true`, `false`
    Flag,
    /// `"..."`
    Text,
    /// `[...]`
    Array,
    /// `{...}`
    Object,
    /// `1`, `0.5`
    Number,
    /// `null`
    Null,
}

impl Kind {
    /// The kind of a value, by its first byte: it is known to be JSON.
    pub(super) fn of(raw: &RawValue) -> Self {
        match raw.get().as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::Text,
            Some(b't' | b'f') => Self::Flag,
            Some(b'n') => Self::Null,
            _ => Self::Number,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Flag => "true or false",
            Self::Text => "text",
            Self::Array => "an array",
            Self::Object => "an object",
            Self::Number => "a number",
            Self::Null => "null",
        }
    }
}

/// A field that the gateway reads and then writes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The name of the model.
    Model,
    /// Whether the client wants a stream.
    Stream,
    /// Whether the client wants the usage chunk.
    StreamOptions,
    /// How many choices.
    Choices,
    /// Whether the client wants timings in every chunk.
    Timings,
    /// Whether the client wants progress events while the prompt is read.
    Progress,
}

/// What is done with a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    /// The matter of the request: passes unchanged, if it names no media that llama-server would fetch.
    Content,
    /// The same, and its items are counted: this many at most.
    Prompts(usize),
    /// One of these kinds of value, this many bytes at most.
    Shape(&'static [Kind], usize),
    /// A number within these bounds.
    Number(f64, f64),
    /// A whole number within these bounds.
    Integer(i64, i64),
    /// A whole number; above the upper bound it is lowered to it.
    Clamped(i64, i64),
    /// A text or an array of texts: this many, of this many bytes each.
    Texts(usize, usize),
    /// An array or object of this many entries and this many bytes.
    Entries(usize, usize),
    /// An object of this many bytes that holds a JSON schema.
    Schema(usize),
    /// An array of this many tools and this many bytes, which hold JSON schemas.
    Tools(usize, usize),
    /// Only `false` passes; `true` is the default and left out.
    OnlyFalse,
    /// A cap on the output.
    Cap,
    /// Read by the gateway, which writes its own.
    Read(Part),
    /// Passes as it is, because the operator said so.
    Operator,
    /// Left out.
    Dropped,
    /// A 400; `null` and `false` are left out.
    Refused,
}

/// `true` or `false`.
pub(super) const FLAG: Rule = Rule::Shape(&[Kind::Flag], 5);

/// Text of this many bytes at most.
pub(super) const fn text(bytes: usize) -> Rule {
    Rule::Shape(&[Kind::Text], bytes)
}

/// An object of this many bytes at most.
pub(super) const fn object(bytes: usize) -> Rule {
    Rule::Shape(&[Kind::Object], bytes)
}

impl fmt::Display for Rule {
    /// As the documentation and error messages put it: `must be ...`, `is ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Content => f.write_str("passes"),
            Self::Prompts(items) => write!(f, "passes; at most {items} items"),
            Self::Shape(&[Kind::Flag], _) => f.write_str("true or false"),
            Self::Shape(kinds, bytes) => {
                let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
                write!(f, "{}, at most {bytes} bytes", names.join(" or "))
            }
            Self::Number(min, max) => write!(f, "a number from {min} to {max}"),
            Self::Integer(i64::MIN, i64::MAX) => f.write_str("a whole number of 64 bits"),
            Self::Integer(min, max) => write!(f, "a whole number from {min} to {max}"),
            Self::Clamped(min, max) => write!(f, "a whole number from {min}; above {max} it is lowered to {max}"),
            Self::Texts(items, bytes) => write!(f, "text or an array of at most {items} texts, {bytes} bytes each"),
            Self::Entries(items, bytes) => {
                write!(f, "an array or object of at most {items} entries and {bytes} bytes")
            }
            Self::Schema(bytes) => write!(f, "an object, at most {bytes} bytes, with patterns that are cheap"),
            Self::Tools(items, bytes) => {
                write!(f, "an array of at most {items} items and {bytes} bytes, with patterns that are cheap")
            }
            Self::OnlyFalse => f.write_str("true or false; only `false` passes"),
            Self::Cap => f.write_str("output cap: `null` or -1 for none, else a whole number from 0"),
            Self::Read(Part::Model) => f.write_str("read by the gateway: text, at most 256 bytes"),
            Self::Read(Part::StreamOptions) => f.write_str("read by the gateway: an object"),
            Self::Read(Part::Choices) => write!(f, "read by the gateway: a whole number from 1 to {MAX_CHOICES}"),
            Self::Read(_) => f.write_str("read by the gateway: true or false"),
            Self::Operator => f.write_str("passes (configuration)"),
            Self::Dropped => f.write_str("left out"),
            Self::Refused => f.write_str("refused"),
        }
    }
}

/// Choices of one request at most; how many slots there are is the queue's to know.
pub(super) const MAX_CHOICES: i64 = 64;

/// What becomes of a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    /// It goes to llama-server in these words.
    Pass(Cow<'a, str>),
    /// It is left out.
    Drop,
}

impl Rule {
    /// Applies the rule to a value that is not `null`.
    ///
    /// # Errors
    /// A 400 that names the field and says what it must be.
    pub(super) fn apply<'a>(self, name: &str, why: &str, raw: &'a RawValue) -> Result<Verdict<'a>, Rejection> {
        let value = raw.get();
        let pass = Verdict::Pass(Cow::Borrowed(value));
        let fits = match self {
            Self::Content | Self::Operator => true,
            Self::Shape(kinds, bytes) => kinds.contains(&Kind::of(raw)) && value.len() <= bytes,
            Self::Number(min, max) => number(raw).is_some_and(|number| number >= min && number <= max),
            Self::Integer(min, max) => {
                let number = integer(raw).filter(|number| *number >= min && *number <= max);
                return number.map(|number| written(raw, number)).ok_or_else(|| self.broken(name));
            }
            Self::Clamped(min, max) => return clamp(self, name, raw, (min, max)),
            Self::Texts(items, bytes) => texts(raw, items, bytes),
            Self::Entries(items, bytes) => {
                value.len() <= bytes && json::items(raw).is_some_and(|found| found.count <= items)
            }
            Self::Schema(bytes) => value.len() <= bytes && Kind::of(raw) == Kind::Object && cheap(name, raw)?,
            Self::Tools(items, bytes) => {
                let few = json::items(raw).is_some_and(|found| found.count <= items);
                value.len() <= bytes && Kind::of(raw) == Kind::Array && few && cheap(name, raw)?
            }
            Self::OnlyFalse if value == "true" => return Ok(Verdict::Drop),
            Self::OnlyFalse => value == "false",
            Self::Refused if value != "false" => {
                return Err(Rejection::field(name, format!("`{name}` is not accepted here: {why}")));
            }
            // These the reader of the body handles itself, or there is nothing to do.
            Self::Dropped | Self::Refused | Self::Prompts(_) | Self::Cap | Self::Read(_) => return Ok(Verdict::Drop),
        };
        if fits { Ok(pass) } else { Err(self.broken(name)) }
    }

    /// The 400 of a value that breaks this rule.
    pub(super) fn broken(self, name: &str) -> Rejection {
        let must = self.to_string();
        let must = must.strip_prefix("read by the gateway: ").unwrap_or(&must);
        Rejection::field(name, format!("`{name}` must be {must}"))
    }
}

/// Lowers what is too large. llama-server reads booleans as 1 and 0 here, and so does this.
fn clamp<'a>(rule: Rule, name: &str, raw: &'a RawValue, (min, max): (i64, i64)) -> Result<Verdict<'a>, Rejection> {
    let number = match raw.get() {
        "true" => 1,
        "false" => 0,
        _ => integer(raw).ok_or_else(|| rule.broken(name))?,
    };
    if number < min {
        return Err(rule.broken(name));
    }
    Ok(written(raw, number.min(max)))
}

/// A whole number in the client's own words, where these say it plainly.
fn written(raw: &RawValue, number: i64) -> Verdict<'_> {
    let own = raw.get().parse() == Ok(number);
    Verdict::Pass(if own { Cow::Borrowed(raw.get()) } else { Cow::Owned(number.to_string()) })
}

/// Whether the schemas in a value are cheap enough; the 400 says why not.
fn cheap(name: &str, raw: &RawValue) -> Result<bool, Rejection> {
    schema::check(raw).map_err(|why| Rejection::field(name, format!("`{name}` {why}")))?;
    Ok(true)
}

fn texts(raw: &RawValue, items: usize, bytes: usize) -> bool {
    match Kind::of(raw) {
        Kind::Text => raw.get().len() <= bytes,
        Kind::Array => {
            json::items(raw).is_some_and(|found| found.count <= items && found.longest <= bytes && !found.not_strings)
        }
        _ => false,
    }
}

/// The value as a finite number.
pub(super) fn number(raw: &RawValue) -> Option<f64> {
    if Kind::of(raw) != Kind::Number {
        return None;
    }
    raw.get().parse().ok().filter(|number: &f64| number.is_finite())
}

/// The value as a whole number; `5.0` is one, as clients in languages without integers write it. What is larger
/// than 64 bits counts as the largest: a cap or a clamp makes something of it.
pub(super) fn integer(raw: &RawValue) -> Option<i64> {
    if let Ok(number) = raw.get().parse() {
        return Some(number);
    }
    let number = number(raw)?;
    // A float cast saturates, which is what is wanted.
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    (number.fract() == 0.0).then_some(number as i64)
}
