//! From a request body to an [`Ask`], by the table of fields.
//!
//! Takes the bytes that a client sent; gives what the gateway must know of them and the body for llama-server. That
//! body is spliced from the client's own bytes, member by member: what is on the list passes in the client's words,
//! what is not never leaves the gateway.

use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, Members, why};
use super::rule::{Kind, MAX_CHOICES, Part, Rule, Verdict, integer};
use super::table;
use super::{Ask, Sampling, Surface};
use crate::config;
use crate::error::{Reason, Rejection};
use crate::queue::PrefixReader;

/// The longest model name that is looked at, in bytes as written.
const MODEL_BYTES: usize = 256;

/// The list of fields as configured: built once, used for every request.
#[derive(Clone, Debug)]
pub struct Bounds {
    max_output_tokens: u32,
    max_json_depth: usize,
    /// For each surface, in the order of [`Surface::ALL`]: what is done with a field, and why.
    fields: Vec<HashMap<Cow<'static, str>, (Rule, &'static str)>>,
}

impl Bounds {
    /// Joins the built-in table and what the operator adds to it.
    ///
    /// # Errors
    /// A text for the operator: a bound that makes no sense, an unknown surface, or a field that the gateway must
    /// read itself.
    pub fn new(requests: &config::Requests) -> anyhow::Result<Self> {
        ensure!(requests.max_output_tokens > 0, "requests.max_output_tokens must be at least 1");
        ensure!(
            (4..=100).contains(&requests.max_json_depth),
            "requests.max_json_depth must be from 4 to 100, not {}",
            requests.max_json_depth
        );
        let mut fields: Vec<HashMap<_, _>> = Surface::ALL.into_iter().map(built_in).collect();
        for (label, names) in &requests.extra_fields {
            let place = Surface::ALL.iter().position(|surface| surface.label() == label).with_context(|| {
                let labels: Vec<_> = Surface::ALL.iter().map(|surface| surface.label()).collect();
                format!("requests.extra_fields: no surface is named `{label}`; hint: {}", labels.join(", "))
            })?;
            let Some(known) = fields.get_mut(place) else { continue };
            for name in names {
                allow(known, label, name)?;
            }
        }
        Ok(Self { max_output_tokens: requests.max_output_tokens, max_json_depth: requests.max_json_depth, fields })
    }

    fn find(&self, surface: Surface, name: &str) -> Option<(&str, Rule, &'static str)> {
        let place = Surface::ALL.iter().position(|one| *one == surface)?;
        let (name, (rule, why)) = self.fields.get(place)?.get_key_value(name)?;
        Some((name, *rule, why))
    }
}

fn built_in(surface: Surface) -> HashMap<Cow<'static, str>, (Rule, &'static str)> {
    let fields = table::groups(surface).iter().flat_map(|group| group.fields);
    fields.map(|field| (Cow::Borrowed(field.name), (field.rule, field.why))).collect()
}

/// Lets a further field pass.
fn allow(known: &mut HashMap<Cow<'static, str>, (Rule, &'static str)>, label: &str, name: &str) -> anyhow::Result<()> {
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    ensure!(plain, "requests.extra_fields.{label}: `{name}` is not a field name");
    let free = !matches!(known.get(name), Some((rule, _)) if !matches!(rule, Rule::Dropped | Rule::Refused));
    ensure!(free, "requests.extra_fields.{label}: `{name}` is on the built-in list already");
    known.insert(Cow::Owned(name.to_owned()), (Rule::Operator, ""));
    Ok(())
}

/// Reads a request body. `default_cap`: output tokens of one choice where the body names no cap.
///
/// # Errors
/// A 400 that names the field at fault and says what it must be.
pub fn read(surface: Surface, body: &Bytes, bounds: &Bounds, default_cap: u32) -> Result<Ask, Rejection> {
    let invalid = |message: String| Rejection::new(Reason::InvalidRequest, message);
    if body.is_empty() {
        return Err(invalid("the request body is empty".to_owned()));
    }
    let text = std::str::from_utf8(body).map_err(|_| invalid("the request body is not UTF-8".to_owned()))?;
    let scan = json::scan(body);
    if scan.depth > bounds.max_json_depth {
        return Err(invalid(format!("the request body nests deeper than {} levels", bounds.max_json_depth)));
    }
    let Members(members) = serde_json::from_str(text)
        .map_err(|error| invalid(format!("the request body is not a JSON object that can be read: {}", why(&error))))?;
    let mut draft = Draft::new(surface, body.len(), scan.may_fetch);
    for (at, (name, value)) in members.iter().enumerate() {
        if members.iter().take(at).any(|(earlier, _)| earlier == name) {
            return Err(Rejection::field(clip(name), format!("`{}` is given twice", clip(name))));
        }
        // What is unknown is left out, and `null` stands for the default, as at llama-server.
        if let (Some((name, rule, why)), false) = (bounds.find(surface, name), Kind::of(value) == Kind::Null) {
            draft.take(name, rule, why, value)?;
        }
    }
    draft.cap = Some(draft.cap.unwrap_or(i64::from(default_cap)).min(i64::from(bounds.max_output_tokens)));
    draft.finish()
}

/// A name of the client's, short enough to be said back.
fn clip(name: &str) -> String {
    name.chars().filter(|char| !char.is_control()).take(64).collect()
}

/// What has been read so far.
struct Draft {
    surface: Surface,
    may_fetch: bool,
    model: Option<String>,
    stream: bool,
    include_usage: bool,
    timings_per_token: bool,
    progress: bool,
    cap: Option<i64>,
    choices: Option<u32>,
    prompts: u32,
    folding: Folding,
    sampling: Sampling,
    begins: PrefixReader,
    /// Which of the required fields were there.
    given: Vec<&'static str>,
    /// The upstream body: `{` and the members so far, each with a comma behind it.
    out: Vec<u8>,
}

impl Draft {
    fn new(surface: Surface, size: usize, may_fetch: bool) -> Self {
        // The gateway's own members take less than this.
        let mut out = Vec::with_capacity(size + 192);
        out.push(b'{');
        Self {
            surface,
            may_fetch,
            model: None,
            stream: false,
            include_usage: false,
            timings_per_token: false,
            progress: false,
            cap: None,
            choices: None,
            prompts: 1,
            folding: Folding::default(),
            sampling: Sampling::default(),
            begins: PrefixReader::default(),
            given: Vec::new(),
            out,
        }
    }

    /// Takes in one field of the list.
    fn take(&mut self, name: &str, rule: Rule, why: &str, value: &RawValue) -> Result<(), Rejection> {
        match rule {
            Rule::Cap => self.cap = smaller(self.cap, cap(name, value)?),
            Rule::Read(part) => self.read(part, name, value)?,
            Rule::Prompts(most) => {
                self.prompts = prompts(value, most)
                    .ok_or_else(|| Rejection::field(name, format!("`{name}` must hold from 1 to {most} items")))?;
                self.content(name, value)?;
            }
            Rule::Content => self.content(name, value)?,
            _ => {
                if let Verdict::Pass(words) = rule.apply(name, why, value)? {
                    self.folding.note(name, &words);
                    match name {
                        "temperature" => self.sampling.temperature = words.parse().ok(),
                        "top_p" => self.sampling.top_p = words.parse().ok(),
                        _ => {}
                    }
                    self.put(name, &words);
                }
            }
        }
        Ok(())
    }

    /// The matter of the request passes as it is, once it is clear that llama-server fetches nothing for it.
    fn content(&mut self, name: &str, value: &RawValue) -> Result<(), Rejection> {
        if self.may_fetch {
            let fetches = json::fetches_media(value)
                .map_err(|error| Rejection::field(name, format!("`{name}` cannot be read: {}", why(&error))))?;
            if fetches {
                return Err(Rejection::field(
                    name,
                    format!("`{name}` holds media by address: nothing is fetched for a request, send a `data:` URL"),
                ));
            }
        }
        let required = table::required(self.surface).iter().copied().flatten();
        self.given.extend(required.filter(|required| **required == name));
        self.begins.push(value.get().as_bytes());
        self.put(name, value.get());
        Ok(())
    }

    /// A field that the gateway reads, and writes itself in [`Self::finish`].
    fn read(&mut self, part: Part, name: &str, value: &RawValue) -> Result<(), Rejection> {
        let rule = Rule::Read(part);
        match part {
            Part::Model => {
                let model = (value.get().len() <= MODEL_BYTES).then(|| serde_json::from_str(value.get()).ok());
                self.model = Some(model.flatten().ok_or_else(|| rule.broken(name))?);
            }
            Part::Stream => self.stream = flag(rule, name, value)?,
            Part::Timings => self.timings_per_token = flag(rule, name, value)?,
            Part::Progress => self.progress = flag(rule, name, value)?,
            Part::StreamOptions => self.include_usage = include_usage(rule, name, value)?,
            Part::Choices => {
                let choices = integer(value).filter(|choices| (1..=MAX_CHOICES).contains(choices));
                let choices = choices.and_then(|choices| u32::try_from(choices).ok());
                self.choices = Some(choices.ok_or_else(|| rule.broken(name))?);
            }
        }
        Ok(())
    }

    /// Appends a member. Names come from the list, values are JSON.
    fn put(&mut self, name: &str, value: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b',');
    }

    /// Adds the gateway's own members and closes the body.
    fn finish(mut self) -> Result<Ask, Rejection> {
        for names in table::required(self.surface) {
            if !names.iter().any(|name| self.given.contains(name)) {
                let [name, ..] = names else { continue };
                return Err(Rejection::field(*name, format!("`{name}` is required")));
            }
        }
        let output_cap = self.cap.and_then(|cap| u32::try_from(cap).ok()).unwrap_or_default();
        if let Some(name) = table::cap_name(self.surface) {
            self.put(name, &output_cap.to_string());
        }
        if let Some(choices) = self.choices {
            self.put("n", &choices.to_string());
        }
        if let (Surface::Embeddings | Surface::Rerank, Some(model)) = (self.surface, &self.model) {
            // Only these two repeat it in their reply.
            let model = serde_json::Value::from(model.as_str()).to_string();
            self.put("model", &model);
        }
        let sequences = self.prompts.saturating_mul(self.choices.unwrap_or(1));
        let foldable = self.folding.exact(self.surface) || self.folding.must_be_counted(sequences);
        let upstream_streams = self.surface.streams() && (self.stream || foldable);
        if self.surface.streams() {
            self.put("stream", if upstream_streams { "true" } else { "false" });
        }
        if upstream_streams {
            self.ask_for_counts();
        }
        // The last comma, or the brace itself, gives way to the end.
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
        self.out.push(b'}');
        Ok(Ask {
            surface: self.surface,
            model: self.model,
            stream: self.stream && self.surface.streams(),
            upstream_streams,
            include_usage: self.include_usage,
            timings_per_token: self.timings_per_token,
            prompts: self.prompts,
            choices: self.choices.unwrap_or(1),
            output_cap,
            sampling: self.sampling,
            prefix: self.begins.finish(),
            upstream_body: Bytes::from(self.out),
        })
    }

    /// What a stream must carry to be counted exactly, wherever it is cut. The Anthropic converter passes none of
    /// these on, and only chat has a usage event that must be asked for.
    fn ask_for_counts(&mut self) {
        if self.surface == Surface::Chat {
            self.put("stream_options", r#"{"include_usage":true}"#);
        }
        if self.surface != Surface::Messages {
            self.put("timings_per_token", "true");
        }
        if self.progress && self.stream {
            self.put("return_progress", "true");
        }
    }
}

/// What decides whether a stream can be folded into exactly the reply that llama-server would have given.
#[derive(Clone, Copy, Debug, Default)]
struct Folding {
    probabilities: bool,
    stop: bool,
    thoughts_in_content: bool,
}

impl Folding {
    /// Of several choices, llama-server's reply in one piece counts the first one only. Log probabilities tell the
    /// tokens of the others; without them the stream must, even if it cannot be folded to the letter.
    fn must_be_counted(self, sequences: u32) -> bool {
        sequences > 1 && !self.probabilities
    }

    fn note(&mut self, name: &str, value: &str) {
        match name {
            "logprobs" | "n_probs" => self.probabilities |= !matches!(value, "false" | "0"),
            "stop" => self.stop = value.len() > 2,
            "reasoning_format" => self.thoughts_in_content = value.contains("legacy"),
            _ => {}
        }
    }

    /// A request for which this says no, and whose client wants no stream, is not streamed upstream either.
    fn exact(self, surface: Surface) -> bool {
        // In a chat, the token that ends the output has log probabilities but no event; with tools, llama-server
        // refuses to stream them at all.
        let unseen = self.probabilities && surface == Surface::Chat;
        // Without a stream, the tokens of the stop word are taken off the log probabilities again.
        let trimmed = self.probabilities && self.stop;
        // `deepseek-legacy` leaves thoughts in the content of streams only.
        !(unseen || trimmed || self.thoughts_in_content)
    }
}

/// The smaller of two caps, where there are any.
fn smaller(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.into_iter().chain(other).min()
}

/// An output cap; -1 is none.
fn cap(name: &str, value: &RawValue) -> Result<Option<i64>, Rejection> {
    match integer(value) {
        Some(-1) => Ok(None),
        Some(tokens) if tokens >= 0 => Ok(Some(tokens)),
        _ => Err(Rejection::field(name, format!("`{name}` must be a whole number from 0, or -1 or null for none"))),
    }
}

fn flag(rule: Rule, name: &str, value: &RawValue) -> Result<bool, Rejection> {
    match value.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(rule.broken(name)),
    }
}

/// How many prompts a value holds: an array in which a number stands is one prompt of tokens, possibly with texts
/// between them; any other array holds one prompt an item. `None`: none, or more than `most`.
fn prompts(value: &RawValue, most: usize) -> Option<u32> {
    if Kind::of(value) != Kind::Array {
        return Some(1);
    }
    let items = json::items(value)?;
    let count = if items.numbers { 1 } else { items.count };
    u32::try_from(count).ok().filter(|_| (1..=most).contains(&count))
}

/// The member of `stream_options` that is used; others (`include_obfuscation`) have no effect at llama-server.
fn include_usage(rule: Rule, name: &str, value: &RawValue) -> Result<bool, Rejection> {
    #[derive(Deserialize)]
    struct Options {
        #[serde(default)]
        include_usage: Option<bool>,
    }
    if Kind::of(value) != Kind::Object {
        return Err(rule.broken(name));
    }
    let options: Options = serde_json::from_str(value.get())
        .map_err(|_| Rejection::field(name, "`stream_options.include_usage` must be true or false, once"))?;
    Ok(options.include_usage.unwrap_or_default())
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
