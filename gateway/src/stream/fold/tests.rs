//! Folds of recorded streams, compared with llama-server's own replies recorded for the same requests.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Fold, FoldError};
use crate::ledger::{Count, CountedBy};
use crate::surface::fixture::replied;
use crate::surface::{Ask, Surface};

const MAX_BYTES: usize = 1 << 20;

/// JSON whose fields keep their order. Numbers keep their text.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Object(Vec<(String, Tree)>),
    List(Vec<Tree>),
    Leaf(Value),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Tree;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Tree::Object(fields))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Tree::List(items))
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Leaf(Value::Null))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Tree {
    fn read(text: &[u8]) -> Self {
        serde_json::from_slice(text).unwrap()
    }

    /// Without what differs between two runs of the same request: ids and times.
    fn steady(self) -> Self {
        match self {
            Self::Object(fields) => Self::Object(fields.into_iter().map(|(key, value)| steady(key, value)).collect()),
            Self::List(items) => Self::List(items.into_iter().map(Self::steady).collect()),
            leaf @ Self::Leaf(_) => leaf,
        }
    }

    fn with_usage(self, usage: &Tree) -> Self {
        let Self::Object(fields) = self else { panic!("a reply is an object") };
        let replace = |(key, value)| if key == "usage" { (key, usage.clone()) } else { (key, value) };
        Self::Object(fields.into_iter().map(replace).collect())
    }
}

fn steady(key: String, value: Tree) -> (String, Tree) {
    let masked = matches!(key.as_str(), "created" | "created_at" | "completed_at" | "call_id")
        || key.ends_with("_ms")
        || key.ends_with("_per_second");
    // The id of a token is a number and no accident.
    let random_id = key == "id" && matches!(&value, Tree::Leaf(Value::String(_)));
    let value = if masked || random_id { Tree::Leaf("any".into()) } else { value.steady() };
    (key, value)
}

struct Case {
    name: String,
    ask: Ask,
    stream: Vec<u8>,
    reply: Vec<u8>,
}

impl Case {
    fn read(name: &str) -> Self {
        let folder = folder();
        let file = |kind: &str| fs::read(folder.join(format!("{name}.{kind}"))).unwrap();
        let request: Value = serde_json::from_slice(&file("request.json")).unwrap();
        let surface = name.split('-').next().unwrap();
        let surface = *Surface::ALL.iter().find(|known| known.label() == surface).unwrap();
        let prompts = request["prompt"].as_array().map_or(1, Vec::len);
        let choices = request["n"].as_u64().unwrap_or(1);
        let ask = replied(surface, prompts as u32, choices as u32);
        Self { name: name.to_owned(), ask, stream: file("stream.sse"), reply: file("reply.json") }
    }

    fn all() -> Vec<Self> {
        let names = fs::read_dir(folder()).unwrap().filter_map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".request.json").map(str::to_owned)
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        assert!(names.len() > 40, "fixtures are missing");
        names.iter().map(|name| Self::read(name)).collect()
    }

    /// What the gateway counted, and llama-server's usage where one sequence was decoded.
    fn count(&self) -> Count {
        if self.ask.sequences() == 1 {
            let reply: Value = serde_json::from_slice(&self.reply).unwrap();
            return self.own_count(&reply["usage"]);
        }
        // llama-server's stream has one usage a sequence.
        let events = String::from_utf8(self.stream.clone()).unwrap();
        let usages = events.lines().filter_map(|line| {
            let event: Value = serde_json::from_str(line.strip_prefix("data: ")?).ok()?;
            event.get("usage").map(|usage| self.own_count(usage))
        });
        let sum = usages.fold(Count::default(), |sum, one| Count {
            prompt: sum.prompt + one.prompt,
            cached: sum.cached + one.cached,
            completion: sum.completion + one.completion,
            by: CountedBy::Usage,
            reasoning: None,
        });
        let choices = u64::from(self.ask.choices);
        Count { prompt: sum.prompt / choices, cached: sum.cached / choices, ..sum }
    }

    fn own_count(&self, usage: &Value) -> Count {
        let number = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap();
        let (prompt, cached, completion) = match self.ask.surface {
            Surface::Responses => {
                (number("/input_tokens"), number("/input_tokens_details/cached_tokens"), number("/output_tokens"))
            }
            Surface::Messages => {
                let cached = number("/cache_read_input_tokens");
                (number("/input_tokens") + cached, cached, number("/output_tokens"))
            }
            _ => {
                (number("/prompt_tokens"), number("/prompt_tokens_details/cached_tokens"), number("/completion_tokens"))
            }
        };
        Count { prompt, cached, completion, by: CountedBy::Usage, ..Count::default() }
    }

    fn fold(&self) -> Vec<u8> {
        fold(&self.ask, &[&self.stream], &self.count()).unwrap().to_vec()
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/folds")
}

fn fold(ask: &Ask, reads: &[&[u8]], count: &Count) -> Result<bytes::Bytes, FoldError> {
    let mut fold = Fold::new(ask, MAX_BYTES);
    for read in reads {
        fold.push(read)?;
    }
    fold.finish(count)
}

fn total(count: &Count) -> Tree {
    let (prompt, completion, total) = (count.prompt, count.completion, count.prompt + count.completion);
    Tree::read(
        format!(
            r#"{{"completion_tokens":{completion},"prompt_tokens":{prompt},"total_tokens":{total},
               "prompt_tokens_details":{{"cached_tokens":{}}}}}"#,
            count.cached
        )
        .as_bytes(),
    )
}

#[test]
fn every_recorded_stream_folds_into_the_reply_recorded_for_the_same_request() {
    let mut wrong = BTreeMap::new();
    for case in Case::all() {
        let mut expected = Tree::read(&case.reply).steady();
        if case.ask.sequences() > 1 {
            expected = expected.with_usage(&total(&case.count()));
        }
        let folded = Tree::read(&case.fold()).steady();
        if folded != expected {
            wrong.insert(case.name, format!("\n  folded   {folded:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_folded_reply_is_written_as_llama_server_writes_it() {
    // The timings differ in their digits, so the longest reply without any is compared byte by byte.
    let case = Case::read("messages-tools");
    let text = |reply: &[u8]| {
        let reply = String::from_utf8(reply.to_vec()).unwrap();
        let parts = reply.split("\"id\":\"").map(|part| part.split_once("\",").map_or(part, |(_, rest)| rest));
        parts.collect::<Vec<_>>().join("\"id\":\"any\",")
    };
    assert_eq!(text(&case.fold()), text(&case.reply));
}

#[test]
fn timings_and_logprobs_keep_the_digits_that_llama_server_printed() {
    let case = Case::read("completions-logprobs");
    let folded = String::from_utf8(case.fold()).unwrap();
    let stream = String::from_utf8(case.stream.clone()).unwrap();
    let numbers = folded.split([',', '}']).filter(|part| part.contains("logprob\":") || part.contains("_ms\":"));
    assert!(numbers.clone().count() > 10);
    for number in numbers {
        assert!(stream.contains(number), "{number}");
    }
}

#[test]
fn a_stream_that_was_cut_anywhere_before_its_last_event_gives_no_reply() {
    for name in ["chat-plain", "completions-prompts", "responses-plain", "messages-tools"] {
        let case = Case::read(name);
        for end in (0..case.stream.len() - 3).step_by(7) {
            let result = fold(&case.ask, &[&case.stream[..end]], &case.count());
            assert_eq!(result, Err(FoldError::Incomplete), "{name} cut at {end}");
        }
    }
}

#[test]
fn an_error_inside_the_stream_is_handed_on() {
    let error = r#"{"code":500,"message":"Context size has been exceeded.","type":"server_error"}"#;
    for name in ["chat-plain", "completions-plain", "responses-plain", "messages-plain"] {
        let case = Case::read(name);
        let event = match case.ask.surface {
            Surface::Messages => format!("event: error\ndata: {error}\n\n"),
            _ => format!("data: {{\"error\":{error}}}\n\n"),
        };
        let half = case.stream.windows(2).rposition(|two| two == b"\n\n").unwrap() / 2;
        let half = case.stream[..half].windows(2).rposition(|two| two == b"\n\n").unwrap() + 2;
        let result = fold(&case.ask, &[&case.stream[..half], event.as_bytes()], &case.count());
        assert_eq!(result, Err(FoldError::Upstream(error.to_owned())), "{name}");
    }
}

#[test]
fn a_reply_that_is_too_large_is_given_up() {
    for case in Case::all() {
        let mut fold = Fold::new(&case.ask, 24);
        assert_eq!(fold.push(&case.stream), Err(FoldError::TooLarge), "{}", case.name);
    }
    let mut fold = Fold::new(&replied(Surface::Chat, 1, 1), 300);
    let chunk = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"twenty characters ...\"}}]}\n\n";
    let results: Vec<_> = (0..20).map(|_| fold.push(chunk)).collect();
    assert_eq!(results.iter().position(Result::is_err), Some(14));
}

#[test]
fn what_llama_server_does_not_send_is_not_read() {
    let chat = replied(Surface::Chat, 1, 1);
    for event in [
        "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"x\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":3}]}}]}\n\n",
        "data: {\"choices\":\n\n",
    ] {
        let result = fold(&chat, &[event.as_bytes()], &Count::default());
        assert!(matches!(result, Err(FoldError::Unreadable(_))), "{event}");
    }
}

#[test]
fn comments_between_events_change_nothing() {
    let case = Case::read("chat-tools");
    let stream = String::from_utf8(case.stream.clone()).unwrap().replace("\n\n", "\n\n:\n\n");
    let folded = fold(&case.ask, &[stream.as_bytes()], &case.count()).unwrap();
    assert_eq!(folded, case.fold());
}

#[test]
fn a_message_whose_stream_lost_its_start_is_named_by_the_gateway() {
    let stream = "event: content_block_start\n\
        data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n\
        event: content_block_delta\n\
        data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"\u{1F600}\"}}\n\n\
        event: message_delta\n\
        data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\
        \"usage\":{\"output_tokens\":4}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let mut fold = Fold::new(&replied(Surface::Messages, 1, 1), MAX_BYTES).unnamed("msg_1", "smollm2");
    fold.push(stream.as_bytes()).unwrap();
    let reply =
        fold.finish(&Count { prompt: 5, cached: 2, completion: 4, by: CountedBy::Usage, ..Count::default() }).unwrap();
    let expected = "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\
        \"content\":[{\"type\":\"text\",\"text\":\"\u{1F600}\"}],\"model\":\"smollm2\",\"stop_reason\":\"end_turn\",\
        \"stop_sequence\":null,\
        \"usage\":{\"cache_read_input_tokens\":2,\"input_tokens\":3,\"output_tokens\":4}}";
    assert_eq!(reply, expected.as_bytes());
}

#[test]
fn arguments_that_were_cut_short_are_an_empty_object_in_a_message() {
    assert_eq!(super::messages::compact("{\"city\": \"Pa").unwrap().get(), "{}");
    assert_eq!(super::messages::compact("").unwrap().get(), "{}");
    assert_eq!(
        super::messages::compact("{ \"a b\" : \" \\\\\" ,\n\"c\\\" \": [ 1.50, 2 ] }").unwrap().get(),
        "{\"a b\":\" \\\\\",\"c\\\" \":[1.50,2]}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_the_bytes_gives_the_same_reply(cuts in prop::collection::vec(0.0..1.0f64, 0..40)) {
        for name in ["chat-tools", "completions-prompts-logprobs", "responses-reasoning", "messages-tools"] {
            let case = Case::read(name);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * case.stream.len() as f64) as usize).collect();
            cuts.sort_unstable();
            let mut reads = Vec::new();
            let mut start = 0;
            for cut in cuts.into_iter().chain([case.stream.len()]) {
                reads.push(&case.stream[start..cut]);
                start = cut;
            }
            prop_assert_eq!(fold(&case.ask, &reads, &case.count()).unwrap(), case.fold());
        }
    }
}
