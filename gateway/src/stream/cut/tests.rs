//! Recorded streams are cut at every event and at any byte, and what comes out is read as a client would.

use std::fs;
use std::path::PathBuf;

use bytes::BytesMut;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{CUT_REASON, Names};
use crate::error::Reason;
use crate::ledger::{Count, CountedBy};
use crate::stream::fold::Fold;
use crate::stream::meter::Meter;
use crate::surface::fixture::replied;
use crate::surface::{Ask, Surface};

const NAMES: Names<'static> = Names { request_id: "req_1", model: "smollm2", created: 1_795_446_929 };

struct Case {
    name: String,
    ask: Ask,
    stream: String,
}

fn case(name: &str) -> Case {
    let (prompts, choices) = match name {
        "chat-two-choices" => (1, 2),
        "completions-two-prompts" => (2, 1),
        "completions-two-by-two" => (2, 2),
        _ => (1, 1),
    };
    let label = name.split('-').next().unwrap();
    let surface = *Surface::ALL.iter().find(|known| known.label() == label).unwrap();
    let ask = Ask { stream: true, ..replied(surface, prompts, choices) };
    Case { name: name.to_owned(), ask, stream: fs::read_to_string(folder().join(format!("{name}.asked.sse"))).unwrap() }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/streams")
}

fn cases() -> Vec<Case> {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = files.filter_map(|file| file.strip_suffix(".asked.sse").map(str::to_owned)).collect();
    names.sort();
    assert!(names.len() > 20, "the recordings are there");
    names.iter().filter(|name| !name.ends_with("-error")).map(|name| case(name)).collect()
}

/// What became of a stream that was cut.
struct Cut {
    /// What the client was given.
    given: String,
    /// The closing events, as llama-server would have sent them.
    events: String,
    /// What had been counted before.
    count: Count,
    meter: Meter,
}

/// Cuts the stream behind these reads; `None` where it cannot be cut there.
fn cut<'a>(ask: &Ask, reads: impl IntoIterator<Item = &'a [u8]>) -> Option<Cut> {
    let mut meter = Meter::new(ask);
    meter.watch();
    let mut out = BytesMut::new();
    for read in reads {
        if meter.push(read, &mut out).terminal {
            return None;
        }
    }
    let count = meter.count();
    let events = meter.cut(&NAMES, &mut out)?;
    Some(Cut { given: String::from_utf8(out.to_vec()).unwrap(), events, count, meter })
}

/// Cuts the stream behind each of its events, where that can be done.
fn cuts(case: &Case) -> Vec<(&str, Cut)> {
    let ends = case.stream.match_indices("\n\n").map(|(at, _)| &case.stream[..at + 2]);
    ends.filter_map(|part| Some((part, cut(&case.ask, [part.as_bytes()])?))).collect()
}

fn objects(stream: &str) -> Vec<Value> {
    let object = |line: &str| serde_json::from_str(line.strip_prefix("data: ")?).ok().filter(Value::is_object);
    stream.lines().filter_map(object).collect()
}

/// What a client puts together from the pieces: for each choice, block or item its text, thoughts and arguments.
fn texts(stream: &str) -> Vec<(String, String)> {
    let mut texts = std::collections::BTreeMap::<String, String>::new();
    for object in objects(stream) {
        for choice in object["choices"].as_array().into_iter().flatten() {
            let pieces = [&choice["text"], &choice["delta"]["content"], &choice["delta"]["reasoning_content"]];
            for piece in pieces.into_iter().filter_map(Value::as_str) {
                *texts.entry(format!("{}", choice["index"])).or_default() += piece;
            }
            for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
                *texts.entry(format!("{} call {}", choice["index"], call["index"])).or_default() += arguments;
            }
        }
        for kind in ["text", "thinking", "partial_json"] {
            if let Some(piece) = object["delta"][kind].as_str() {
                *texts.entry(format!("{} {kind}", object["index"])).or_default() += piece;
            }
        }
        if let (Some(item), Some(piece)) = (object["item_id"].as_str(), object["delta"].as_str()) {
            *texts.entry(item.to_owned()).or_default() += piece;
        }
    }
    texts.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

#[test]
fn the_reason_that_is_told_is_that_of_a_refusal() {
    assert_eq!(CUT_REASON, format!(",\"cut_reason\":\"{}\"", Reason::QuotaExceeded.label()));
}

#[test]
fn every_stream_can_be_cut_behind_almost_every_event_and_keeps_what_it_has_shown() {
    for case in cases() {
        let events = case.stream.matches("\n\n").count();
        let cuts = cuts(&case);
        assert!(cuts.len() + 5 >= events / 2 && !cuts.is_empty(), "{}: {} of {events}", case.name, cuts.len());
        for (part, cut) in cuts {
            assert_eq!(texts(&cut.given), texts(part), "{}", case.name);
            assert_eq!(cut.meter.unreadable(), 0, "{}: {}", case.name, cut.events);
            let after = cut.meter.count();
            assert_eq!(
                (after.prompt, after.cached, after.completion),
                (cut.count.prompt, cut.count.cached, cut.count.completion),
                "{}",
                case.name
            );
            assert_eq!(after.by, CountedBy::Usage, "{}", case.name);
            assert_eq!(cut.given.matches(CUT_REASON).count(), told(&case, part), "{}:\n{}", case.name, cut.given);
        }
    }
}

/// How often the reason is told: once, or in a stream of chunks with each choice that still ran.
fn told(case: &Case, part: &str) -> usize {
    match case.ask.surface {
        Surface::Chat | Surface::Completions => {
            case.ask.sequences() as usize - part.matches("\"finish_reason\":\"").count()
        }
        _ => 1,
    }
}

#[test]
fn chunks_end_with_one_finish_reason_for_each_choice_and_done() {
    for case in cases() {
        if !matches!(case.ask.surface, Surface::Chat | Surface::Completions) {
            continue;
        }
        for (_, cut) in cuts(&case) {
            assert!(cut.given.ends_with("}\n\ndata: [DONE]\n\n"), "{}", case.name);
            let chunks = objects(&cut.given);
            let choices = || chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
            for index in 0..case.ask.sequences() {
                let finishes =
                    choices().filter(|choice| choice["index"] == index && choice["finish_reason"] != json!(null));
                assert_eq!(finishes.count(), 1, "{}: choice {index} of\n{}", case.name, cut.given);
            }
            for chunk in &chunks {
                for key in ["id", "model", "object", "system_fingerprint"] {
                    assert_eq!(chunk[key], chunks[0][key], "{}", case.name);
                }
                // What the client did not ask for stays out, as always.
                assert!(case.ask.surface == Surface::Completions || chunk.get("usage").is_none(), "{}", case.name);
            }
        }
    }
}

#[test]
fn usage_that_was_asked_for_is_there_once_with_the_last_timings() {
    for name in ["chat", "chat-tools", "chat-two-choices"] {
        let mut case = case(name);
        case.ask.include_usage = true;
        for (_, cut) in cuts(&case) {
            let chunks = objects(&cut.given);
            let (usage, others) = chunks.split_last().unwrap();
            assert!(others.iter().all(|chunk| chunk.get("usage").is_none()), "{name}");
            assert_eq!(usage["choices"], json!([]));
            assert_eq!(usage["usage"]["completion_tokens"], cut.count.completion);
            assert_eq!(usage["usage"]["prompt_tokens"], cut.count.prompt);
            if case.ask.choices == 1 && cut.count.completion > 0 {
                assert_eq!(usage["timings"]["predicted_n"], cut.count.completion);
            }
        }
    }
}

#[test]
fn every_block_of_a_message_is_closed_and_thoughts_are_signed() {
    for name in ["messages", "messages-tools", "messages-reasoning"] {
        let case = case(name);
        for (_, cut) in cuts(&case) {
            let events = objects(&cut.given);
            let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
            assert_eq!(of("content_block_start"), of("content_block_stop"), "{name}:\n{}", cut.given);
            let thinks = cut.given.contains("\"type\":\"thinking\"");
            assert_eq!(cut.given.matches("signature_delta").count(), usize::from(thinks), "{name}");
            let [.., delta, stop] = &events[..] else { panic!("{name}: {}", cut.given) };
            assert_eq!((&delta["delta"]["stop_reason"], &stop["type"]), (&json!("max_tokens"), &json!("message_stop")));
            assert_eq!(delta["cut_reason"], "insufficient_quota");
            assert_eq!(delta["usage"]["output_tokens"], cut.count.completion);
        }
    }
}

#[test]
fn a_response_is_incomplete_and_repeats_what_was_shown() {
    for name in ["responses", "responses-tools", "responses-reasoning"] {
        let case = case(name);
        for (part, cut) in cuts(&case) {
            let events = objects(&cut.given);
            let last = events.last().unwrap();
            assert_eq!(
                (&last["type"], &last["cut_reason"]),
                (&json!("response.incomplete"), &json!("insufficient_quota"))
            );
            let response = &last["response"];
            assert_eq!(response["status"], "incomplete");
            assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
            assert_eq!(response["id"], objects(part)[0]["response"]["id"]);
            assert_eq!(response["usage"]["output_tokens"], cut.count.completion);
            let closed = events.iter().filter(|event| event["type"] == "response.output_item.done");
            let added = events.iter().filter(|event| event["type"] == "response.output_item.added").count();
            let mut closed: Vec<_> = closed.map(|event| event["item"].clone()).collect();
            assert_eq!(closed.len(), added, "{name}:\n{}", cut.given);
            let mut output = response["output"].as_array().unwrap().clone();
            assert_eq!(texts(part), texts_of(&output), "{name}");
            output.sort_by_key(ToString::to_string);
            closed.sort_by_key(ToString::to_string);
            assert_eq!(output, closed, "{name}");
        }
    }
}

/// The texts of output items by their ids.
fn texts_of(output: &[Value]) -> Vec<(String, String)> {
    let text = |item: &Value| match item["type"].as_str() {
        Some("function_call") => item["arguments"].as_str().map(str::to_owned),
        _ => item["content"].get(0).and_then(|part| part["text"].as_str().map(str::to_owned)),
    };
    let mut texts: Vec<_> = output
        .iter()
        .map(|item| (item["id"].as_str().unwrap().to_owned(), text(item).unwrap_or_default()))
        .filter(|(_, text)| !text.is_empty())
        .collect();
    texts.sort();
    texts
}

#[test]
fn a_reply_of_one_piece_is_folded_of_what_was_shown() {
    for case in cases() {
        for (part, cut) in cuts(&case) {
            let mut fold = Fold::new(&case.ask, 1 << 20);
            fold.push(part.as_bytes()).unwrap();
            // The beginning of an event that will not end.
            fold.push(b"data: {\"choi").unwrap();
            fold.cut(cut.events.as_bytes()).unwrap();
            let reply: Value = serde_json::from_slice(&fold.finish(&cut.count).unwrap()).unwrap();
            assert_eq!(reply["cut_reason"], "insufficient_quota", "{}: {reply}", case.name);
            let ends = match case.ask.surface {
                Surface::Responses => {
                    assert_eq!(reply["incomplete_details"]["reason"], "max_output_tokens");
                    reply["status"] == "incomplete"
                }
                Surface::Messages => reply["stop_reason"] == "max_tokens",
                _ => {
                    let choices = reply["choices"].as_array().unwrap();
                    assert_eq!(choices.len(), case.ask.sequences() as usize, "{}: {reply}", case.name);
                    choices.iter().any(|choice| choice["finish_reason"] == "length")
                        || part.matches("\"finish_reason\":\"").count() == choices.len()
                }
            };
            assert!(ends, "{}: {reply}", case.name);
            assert!(!reply.to_string().contains('\u{FFFD}'), "{}: no half character is made up: {reply}", case.name);
        }
    }
}

#[test]
fn what_has_shown_nothing_or_is_not_watched_goes_on() {
    for name in ["chat", "completions", "messages", "responses"] {
        let case = case(name);
        assert!(cut(&case.ask, [&b": ping\n\n"[..], b"data: {\"half"]).is_none(), "{name}");
        let mut meter = Meter::new(&case.ask);
        let mut out = BytesMut::new();
        meter.push(&case.stream.as_bytes()[..case.stream.len() / 2], &mut out);
        assert!(meter.cut(&NAMES, &mut out).is_none(), "{name}");
    }
}

#[test]
fn a_response_of_more_than_is_kept_goes_on() {
    let case = case("responses");
    let (head, _) = case.stream.split_once("event: response.output_text.delta").unwrap();
    let id = objects(head).iter().find_map(|event| event["item"]["id"].as_str().map(str::to_owned)).unwrap();
    let delta = json!({"type": "response.output_text.delta", "item_id": id, "delta": "x".repeat(400_000)});
    let delta = format!("event: response.output_text.delta\ndata: {delta}\n\n");
    let stream = |times| head.to_owned() + &delta.repeat(times);
    assert!(cut(&case.ask, [stream(2).as_bytes()]).is_some());
    assert!(cut(&case.ask, [stream(3).as_bytes()]).is_none());
}

#[test]
fn a_response_that_lost_its_first_event_is_named_by_the_gateway() {
    let case = case("responses");
    let start = case.stream.find("event: response.output_item.added").unwrap();
    let end = case.stream.find("event: response.output_text.done").unwrap();
    let cut = cut(&case.ask, [&case.stream.as_bytes()[start..end]]).unwrap();
    let response = objects(&cut.given).pop().unwrap()["response"].take();
    assert_eq!((&response["id"], &response["model"]), (&json!("resp_req_1"), &json!("smollm2")));
    assert_eq!(response["created_at"], NAMES.created);
}

#[test]
fn the_speed_is_that_of_the_last_timings() {
    let case = case("chat");
    let (part, cut) = cuts(&case).pop().unwrap();
    let timings = objects(part).iter().rev().find_map(|chunk| chunk.get("timings").cloned()).unwrap();
    let speed = cut.meter.speed().unwrap();
    assert_eq!(json!(speed.prompt_tokens), timings["prompt_n"]);
    assert_eq!(json!(speed.prompt_ms), timings["prompt_ms"]);
    assert_eq!(json!(speed.output_tokens + 1), timings["predicted_n"]);
    assert_eq!(json!(speed.output_ms), timings["predicted_ms"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cut_within_an_event_is_one_behind_the_event_before_it(
        name in prop::sample::select(cases().into_iter().map(|case| case.name).collect::<Vec<_>>()),
        at in any::<prop::sample::Index>(),
        pieces in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let case = case(&name);
        let part = &case.stream.as_bytes()[..at.index(case.stream.len())];
        let mut places: Vec<_> = pieces.iter().map(|place| place.index(part.len() + 1)).collect();
        places.extend([0, part.len()]);
        places.sort_unstable();
        let split = cut(&case.ask, places.windows(2).map(|pair| &part[pair[0]..pair[1]]));
        let whole = part.windows(2).rposition(|end| end == b"\n\n").map_or(&part[..0], |end| &part[..end + 2]);
        let whole = cut(&case.ask, [whole]);
        prop_assert_eq!(split.map(|cut| cut.given), whole.map(|cut| cut.given));
    }
}
