//! The byte-level reading of a request body.
//!
//! Takes the body as it came; gives its top-level members with their values left raw, so that a long conversation
//! is neither copied nor rebuilt, and answers two questions about nesting and about media that llama-server would
//! fetch over the network.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr2;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// Members of the top-level object at most; known clients send about thirty.
const MAX_MEMBERS: usize = 256;

/// What one pass over the bytes tells, before anything is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// How deep arrays and objects nest.
    pub(super) depth: usize,
    /// Some string may be an address to fetch: it starts like one, or hides letters behind `\u00..` escapes.
    pub(super) may_fetch: bool,
}

/// Measures nesting. The JSON reader skips raw values without any limit on it, and llama-server's does not have one
/// either, while much of what llama-server does with the result is recursive.
pub(super) fn scan(body: &[u8]) -> Scan {
    let mut seen = Scan { depth: 0, may_fetch: false };
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = body.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => {
                depth += 1;
                seen.depth = seen.depth.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = scan_string(body, at, &mut seen.may_fetch),
            _ => {}
        }
    }
    seen
}

/// Skips a string whose first byte is at `at`; gives the position behind its closing quote.
fn scan_string(body: &[u8], mut at: usize, may_fetch: &mut bool) -> usize {
    let rest = body.get(at..).unwrap_or_default();
    *may_fetch |= fetched(rest);
    while let Some(found) = body.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if body.get(at) == Some(&b'"') {
            return at + 1;
        }
        *may_fetch |= body.get(at..).is_some_and(|rest| rest.starts_with(b"\\u00"));
        at += 2;
    }
    body.len()
}

/// Whether llama-server takes a media string for an address: it asks for exactly these beginnings, and takes all
/// others for `data:` or bare base64.
fn fetched(text: &[u8]) -> bool {
    text.starts_with(b"http") || text.starts_with(b"file:")
}

/// Why a text could not be read. The reader's own words for a value of the wrong kind quote the value.
pub(super) fn why(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Data => {
            let (line, column) = (error.line(), error.column());
            format!("a value of another kind, or more than {MAX_MEMBERS} fields, at line {line} column {column}")
        }
        Category::Syntax | Category::Eof | Category::Io => error.to_string(),
    }
}

/// A member name with its escapes resolved, so that `"n_predic\u0074"` is known for what it is.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// The members of the top-level object, in the order of the body.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some((Key(name), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom(format_args!("more than {MAX_MEMBERS} fields")));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// What stands in a list, one level deep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Items {
    /// How many items there are.
    pub(super) count: usize,
    /// Some item is a number.
    pub(super) numbers: bool,
    /// Some item is not a string.
    pub(super) not_strings: bool,
    /// Length in bytes of the longest item, as written.
    pub(super) longest: usize,
}

/// Looks at the items of an array, or at the values of an object. `None` if it is neither.
pub(super) fn items(value: &RawValue) -> Option<Items> {
    struct ItemsVisitor;
    fn add(items: &mut Items, item: &RawValue) {
        let first = item.get().as_bytes().first().copied().unwrap_or_default();
        items.count += 1;
        items.numbers |= first == b'-' || first.is_ascii_digit();
        items.not_strings |= first != b'"';
        items.longest = items.longest.max(item.get().len());
    }
    impl<'de> Visitor<'de> for ItemsVisitor {
        type Value = Items;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array or an object")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items, A::Error> {
            let mut items = Items::default();
            while let Some(item) = seq.next_element::<&'de RawValue>()? {
                add(&mut items, item);
            }
            Ok(items)
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Items, A::Error> {
            let mut items = Items::default();
            while let Some((_, item)) = map.next_entry::<IgnoredAny, &'de RawValue>()? {
                add(&mut items, item);
            }
            Ok(items)
        }
    }
    serde_json::Deserializer::from_str(value.get()).deserialize_any(ItemsVisitor).ok()
}

/// Shows `take` each item of an array, as long as it wants them. `None`: it did not want one, or this is no array.
pub(super) fn each<'a>(value: &'a RawValue, take: &mut dyn FnMut(&'a RawValue) -> Option<()>) -> Option<()> {
    struct EachVisitor<'f, 'de>(&'f mut dyn FnMut(&'de RawValue) -> Option<()>);
    impl<'de> Visitor<'de> for EachVisitor<'_, 'de> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
            while let Some(item) = seq.next_element::<&'de RawValue>()? {
                (self.0)(item).ok_or_else(|| A::Error::custom("not wanted"))?;
            }
            Ok(())
        }
    }
    serde_json::Deserializer::from_str(value.get()).deserialize_seq(EachVisitor(take)).ok()
}

/// Where in a conversation a walk stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Anywhere that llama-server does not read as media.
    Text,
    /// The value of `image_url` and its like: an address itself, or an object that holds one.
    Media,
    /// The value of an Anthropic `source`: an object that may hold an address (as text it is a citation).
    Source,
    /// An address.
    Address,
}

impl Place {
    /// The place of the member `name` of an object that stands here; `None` where llama-server reads no media.
    fn member(self, name: &str) -> Option<Self> {
        match (self, name) {
            (Self::Media | Self::Source, "url" | "data") => Some(Self::Address),
            (_, "image_url" | "input_audio" | "input_video" | "video_url") => Some(Self::Media),
            (_, "source") => Some(Self::Source),
            // What a tool was called with may hold any address: it is data there.
            (_, "arguments" | "input" | "input_schema" | "parameters") => None,
            _ => Some(Self::Text),
        }
    }
}

/// Whether a conversation holds media which llama-server would fetch itself, from the network (any address that it
/// can reach, its own machine included) or from its disk.
///
/// # Errors
/// The reader's own, where the value is not JSON that it can walk.
pub(super) fn fetches_media(value: &RawValue) -> Result<bool, serde_json::Error> {
    Walk(Place::Text).deserialize(&mut serde_json::Deserializer::from_str(value.get()))
}

/// Walks a value without building it; says whether a media address is in it. It looks at every member, also at
/// repeated ones, since it is not for the gateway to know which of them llama-server takes.
struct Walk(Place);

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(matches!(self.0, Place::Media | Place::Address) && fetched(text.as_bytes()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(item) = seq.next_element_seed(Walk(self.0))? {
            found |= item;
        }
        Ok(found)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(Key(name)) = map.next_key::<Key<'de>>()? {
            match self.0.member(&name) {
                Some(place) => found |= map.next_value_seed(Walk(place))?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}
