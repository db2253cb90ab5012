//! Streams recorded from a real llama-server (`fixtures/streams/README.md` says which) go through the meter.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use gateway::ledger::{Count, CountedBy};
use gateway::stream::meter::{MAX_EVENT_BYTES, Meter, Seen};
use gateway::surface::{Ask, Surface};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// A recorded request: what the stream was made of, in the words of its file name.
fn surface(case: &str) -> Surface {
    match case.split('-').next().unwrap() {
        "chat" => Surface::Chat,
        "completions" => Surface::Completions,
        "responses" => Surface::Responses,
        _ => Surface::Messages,
    }
}

fn ask(case: &str, way: &str) -> Ask {
    let (prompts, choices) = match case {
        "chat-two-choices" => (1, 2),
        "completions-two-prompts" => (2, 1),
        "completions-two-by-two" => (2, 2),
        _ => (1, 1),
    };
    Ask {
        surface: surface(case),
        model: None,
        stream: true,
        upstream_streams: true,
        include_usage: way == "usage",
        timings_per_token: way == "timings",
        prompts,
        choices,
        output_cap: 100,
        sampling: gateway::surface::Sampling::default(),
        prefix: gateway::queue::Prefix::default(),
        upstream_body: Bytes::new(),
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/streams")
}

fn recorded(case: &str, way: &str) -> String {
    fs::read_to_string(folder().join(format!("{case}.{way}.sse"))).unwrap()
}

/// All recordings as (case, way).
fn recordings() -> Vec<(String, String)> {
    let mut names: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| {
            let (case, way) = name.strip_suffix(".sse")?.split_once('.')?;
            Some((case.to_owned(), way.to_owned()))
        })
        .collect();
    names.sort();
    assert!(names.len() > 50, "the recordings are there");
    names
}

fn asked_cases() -> Vec<String> {
    recordings().into_iter().filter(|(_, way)| way == "asked").map(|(case, _)| case).collect()
}

/// What a stream became.
#[derive(Debug, Default, PartialEq)]
struct Metered {
    out: Vec<u8>,
    count: Count,
    unreadable: u64,
    outputs: u32,
    terminal: bool,
    failed: Option<String>,
}

fn meter<'a>(ask: &Ask, reads: impl IntoIterator<Item = &'a [u8]>) -> Metered {
    let mut meter = Meter::new(ask);
    let mut metered = Metered::default();
    let mut out = BytesMut::new();
    let mut note = |seen: Seen, out: &mut BytesMut| {
        metered.out.extend_from_slice(&out.split());
        metered.outputs += seen.outputs;
        metered.terminal |= seen.terminal;
        metered.failed = seen.failed.or(metered.failed.take());
    };
    for read in reads {
        let seen = meter.push(read, &mut out);
        note(seen, &mut out);
    }
    let seen = meter.finish(&mut out);
    note(seen, &mut out);
    Metered { count: meter.count(), unreadable: meter.unreadable(), ..metered }
}

fn whole(ask: &Ask, stream: &str) -> Metered {
    meter(ask, [stream.as_bytes()])
}

/// The JSON of each data line.
fn objects(stream: &str) -> Vec<Value> {
    stream.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect()
}

/// A stream without what differs from one run to the next: ids and times.
fn comparable(stream: &str) -> Vec<String> {
    fn forget(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    match key.as_str() {
                        "id" if value.is_string() => *value = json!("id"),
                        "item_id" | "call_id" => *value = json!("id"),
                        "created" | "created_at" => *value = json!(0),
                        key if key.ends_with("_ms") || key.ends_with("_per_second") => *value = json!(0),
                        _ => forget(value),
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(forget),
            _ => {}
        }
    }
    let comparable_line = |line: &str| match line.strip_prefix("data: ").map(serde_json::from_str::<Value>) {
        Some(Ok(mut value)) => {
            forget(&mut value);
            format!("data: {value}")
        }
        _ => line.to_owned(),
    };
    stream.lines().map(comparable_line).collect()
}

/// What was generated up to an event of a thought.
fn thoughts(object: &Value) -> Option<u64> {
    let is_thought = object.pointer("/choices/0/delta/reasoning_content").is_some()
        || object["type"] == "response.reasoning_text.delta";
    object.pointer("/timings/predicted_n").filter(|_| is_thought)?.as_u64()
}

/// What the final usage in a stream says, read without any of the meter's code.
fn usage_in(case: &str, asked: &str) -> Count {
    let objects = objects(asked);
    let number = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_u64);
    let reasoning = objects.iter().filter_map(thoughts).next_back();
    let mut count = Count { by: CountedBy::Usage, reasoning, ..Count::default() };
    for object in &objects {
        if let Some(prompt) = number(object, "/usage/prompt_tokens") {
            let repeats = number(object, "/choices/0/index").is_some_and(|i| i % u64::from(ask(case, "").choices) != 0);
            if case == "chat-two-choices" {
                count.prompt = prompt;
            } else if !repeats {
                count.prompt += prompt;
                count.cached += number(object, "/usage/prompt_tokens_details/cached_tokens").unwrap();
            }
            count.completion += number(object, "/usage/completion_tokens").unwrap();
        }
        if let Some(prompt) = number(object, "/response/usage/input_tokens") {
            count.prompt = prompt;
            count.cached = number(object, "/response/usage/input_tokens_details/cached_tokens").unwrap();
            count.completion = number(object, "/response/usage/output_tokens").unwrap();
        }
        if let Some(computed) = number(object, "/message/usage/input_tokens") {
            count.cached = number(object, "/message/usage/cache_read_input_tokens").unwrap();
            count.prompt = computed + count.cached;
        }
        if let Some(output) = number(object, "/usage/output_tokens") {
            count.completion = output;
        }
    }
    count
}

#[test]
fn the_client_sees_what_llama_server_would_have_sent_for_its_own_request() {
    let mut compared = 0;
    for (case, way) in recordings() {
        // One usage chunk for all choices is what the gateway does better on purpose.
        if way == "asked" || (case == "chat-two-choices" && way == "usage") || case.ends_with("-error") {
            continue;
        }
        let metered = whole(&ask(&case, &way), &recorded(&case, "asked"));
        let seen = comparable(str::from_utf8(&metered.out).unwrap());
        let mut native = comparable(&recorded(&case, &way));
        if case == "completions-stop" {
            // A stop string makes llama-server put timings into the chunk before the last one as well.
            native = native.iter().map(|line| without_early_timings(line)).collect();
        }
        for (seen, native) in seen.iter().zip(&native) {
            assert_eq!(seen, native, "{case}, client asks: {way}");
        }
        assert_eq!(seen.len(), native.len(), "{case}, client asks: {way}");
        assert_eq!(metered.unreadable, 0, "{case}");
        compared += 1;
    }
    assert!(compared > 40);
}

fn without_early_timings(line: &str) -> String {
    match line.strip_prefix("data: ").map(serde_json::from_str::<Value>) {
        Some(Ok(mut value)) if value.get("usage").is_none() => {
            value.as_object_mut().unwrap().remove("timings");
            format!("data: {value}")
        }
        _ => line.to_owned(),
    }
}

#[test]
fn the_count_is_the_final_usage_of_all_sequences() {
    for case in asked_cases().iter().filter(|case| !case.ends_with("-error")) {
        let stream = recorded(case, "asked");
        let metered = whole(&ask(case, "plain"), &stream);
        assert_eq!(metered.count, usage_in(case, &stream), "{case}");
        assert!(metered.count.completion > 0 && metered.count.prompt > 0, "{case}");
        let thinks = case.contains("reasoning") && !case.starts_with("messages");
        assert_eq!(metered.count.reasoning.is_some_and(|thoughts| thoughts > 0), thinks, "{case}");
        assert!(metered.terminal && metered.failed.is_none() && metered.outputs > 0, "{case}");
    }
}

#[test]
fn two_choices_pay_their_prompt_once() {
    let count = whole(&ask("chat-two-choices", "plain"), &recorded("chat-two-choices", "asked")).count;
    assert_eq!((count.prompt, count.completion), (32, 24));
    let count = whole(&ask("completions-two-by-two", "plain"), &recorded("completions-two-by-two", "asked")).count;
    assert_eq!((count.prompt, count.completion), (4 + 2, 16));
}

#[test]
fn several_choices_get_one_usage_chunk_before_the_end() {
    let metered = whole(&ask("chat-two-choices", "usage"), &recorded("chat-two-choices", "asked"));
    let stream = String::from_utf8(metered.out).unwrap();
    let chunks = objects(&stream);
    let (last, others) = chunks.split_last().unwrap();
    assert!(others.iter().all(|chunk| chunk.get("usage").is_none()));
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["object"], others[0]["object"]);
    assert_eq!(last["id"], others[0]["id"]);
    assert_eq!(
        last["usage"],
        json!({
            "completion_tokens": 24, "prompt_tokens": 32, "total_tokens": 56,
            "prompt_tokens_details": {"cached_tokens": metered.count.cached},
        })
    );
    assert!(stream.ends_with("}\n\ndata: [DONE]\n\n"));
}

#[test]
fn a_stream_that_is_cut_is_counted_by_its_last_timings() {
    for case in ["chat", "chat-reasoning", "chat-tools", "completions", "responses", "responses-tools"] {
        let stream = recorded(case, "asked");
        let request = ask(case, "plain");
        let mut meter = Meter::new(&request);
        let mut out = BytesMut::new();
        let mut expected = Count::default();
        for event in stream.split_inclusive("\n\n") {
            let object = objects(event).pop().unwrap_or_default();
            let seen = meter.push(event.as_bytes(), &mut out);
            if seen.terminal {
                break;
            }
            if let Some(timings) = object.get("timings") {
                let number = |key: &str| timings[key].as_u64().unwrap();
                expected = Count {
                    prompt: number("cache_n") + number("prompt_n"),
                    cached: number("cache_n"),
                    completion: number("predicted_n"),
                    by: CountedBy::Timings,
                    reasoning: thoughts(&object).or(expected.reasoning),
                };
            }
            assert_eq!(meter.count(), expected, "{case}");
        }
        assert!(expected.completion > 0, "{case}");
    }
}

#[test]
fn a_cut_stream_of_messages_is_counted_by_its_events() {
    let stream = recorded("messages", "asked");
    let (cut, _) = stream.split_once("event: content_block_stop").unwrap();
    let count = whole(&ask("messages", "plain"), cut).count;
    assert_eq!(count.by, CountedBy::Events);
    assert_eq!(count.completion, u64::try_from(cut.matches("event: content_block_delta").count()).unwrap());
    assert_eq!(count.prompt, usage_in("messages", &stream).prompt);
}

#[test]
fn an_error_in_the_middle_is_told_and_not_passed_on() {
    for case in asked_cases().iter().filter(|case| case.ends_with("-error")) {
        let stream = recorded(case, "asked");
        let metered = whole(&ask(case, "timings"), &stream);
        let told = metered.failed.unwrap();
        assert!(told == "Context size has been exceeded." || told.contains("does not match the expected"), "{case}");
        assert!(!metered.terminal, "{case}");
        assert_eq!(metered.unreadable, 0, "{case}");
        let error =
            stream.rfind(if case.starts_with("messages") { "event: error" } else { "data: {\"error\"" }).unwrap();
        assert_eq!(str::from_utf8(&metered.out).unwrap(), &stream[..error], "{case}");
        let by = if case.starts_with("messages") { CountedBy::Events } else { CountedBy::Timings };
        assert_eq!(metered.count.by, by, "{case}");
        assert!(metered.count.prompt > 0 && metered.count.completion > 0, "{case}");
    }
}

#[test]
fn the_end_is_told_with_the_bytes_that_show_it() {
    for case in asked_cases().iter().filter(|case| !case.ends_with("-error")) {
        for way in ["plain", "usage"] {
            let stream = recorded(case, "asked");
            let mut meter = Meter::new(&ask(case, way));
            let mut out = BytesMut::new();
            let mut over = false;
            for event in stream.split_inclusive("\n\n") {
                over |= meter.push(event.as_bytes(), &mut out).terminal;
                let given = out.split();
                let shows = |what: &str| str::from_utf8(&given).unwrap().contains(what);
                let last = shows("[DONE]") || shows("response.completed\n") || shows("message_stop");
                if last || (ask(case, way).sequences() == 1 && shows("\"usage\":{") && !shows("message_start")) {
                    assert!(over, "{case} {way}");
                    assert_eq!(meter.count().by, CountedBy::Usage, "{case} {way}");
                }
            }
            assert!(over, "{case} {way}");
        }
    }
}

#[test]
fn comments_and_null_events_pass_and_are_no_output() {
    for surface in ["chat", "completions", "responses", "messages"] {
        let stream = ":\n\n: ping\n\ndata: null\n\n\n\n";
        let metered = whole(&ask(surface, "plain"), stream);
        assert_eq!(metered, Metered { out: stream.into(), ..Metered::default() });
    }
}

#[test]
fn a_reply_that_speaks_of_timings_and_usage_is_left_alone() {
    let tricks = [
        r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":",\"timings\":{\"predicted_n\":9}}"}}],"id":"x"}"#,
        r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"\\\",\"usage\":{\"prompt_tokens\":9}"}}],"id":"x"}"#,
        r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"\"finish_reason\":\"stop\""}}],"id":"x"}"#,
        r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"data: {\"error\":{"}}],"id":"x"}"#,
    ];
    for trick in tricks {
        let event = format!("data: {trick}\n\n");
        let metered = whole(&ask("chat", "plain"), &event);
        assert_eq!(metered.out, event.as_bytes());
        assert_eq!((metered.unreadable, metered.outputs, metered.failed), (0, 1, None));
        assert_eq!(metered.count, Count { completion: 1, by: CountedBy::Events, ..Count::default() });

        let timed = event.replace(r#""id":"x"}"#, r#""id":"x","timings":{"cache_n":1,"prompt_n":2,"predicted_n":3}}"#);
        let metered = whole(&ask("chat", "plain"), &timed);
        assert_eq!(metered.out, event.as_bytes());
        assert_eq!(
            metered.count,
            Count { prompt: 3, cached: 1, completion: 3, by: CountedBy::Timings, ..Count::default() }
        );
    }
}

#[test]
fn what_cannot_be_understood_is_passed_on_and_counted() {
    let odd = [
        r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"timings":{"predicted_n":-1}}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"timings":{"predicted_n":1},"new":1}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"timings":{"predicted_n":{"of":1}}}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":"many"}}"#,
        r#"{"half":"#,
        "",
        "hello",
    ];
    for data in odd {
        let event = format!("data: {data}\n\n");
        let metered = whole(&ask("chat", "plain"), &event);
        assert_eq!(metered.out, event.as_bytes());
        assert_eq!((metered.unreadable, metered.outputs), (1, 1), "{data}");
        assert_eq!(metered.count, Count::default(), "{data}");
    }
}

#[test]
fn absurd_numbers_do_no_harm() {
    let chunk = |predicted: &str| {
        let timings = format!("{{\"cache_n\":{predicted},\"prompt_n\":{predicted},\"predicted_n\":{predicted}}}");
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{}}}}],\"timings\":{timings}}}\n\n")
    };
    let stream = chunk("7") + &chunk("3");
    assert_eq!(whole(&ask("chat", "plain"), &stream).count.completion, 7, "a running count never goes back");
    let stream = chunk("99999999999999999999999999999");
    assert_eq!(whole(&ask("chat", "plain"), &stream).count.completion, u64::from(u32::MAX));
    let far = "data: {\"choices\":[{\"index\":99999999999999999999,\"delta\":{}}],\"id\":1}\n\n";
    assert_eq!(whole(&ask("chat-two-choices", "plain"), far).unreadable, 1);
}

#[test]
fn a_huge_event_passes_at_once_and_unread() {
    let mut meter = Meter::new(&ask("chat", "plain"));
    let mut out = BytesMut::new();
    let piece = vec![b'x'; 100_000];
    let mut sent = b"data: ".to_vec();
    meter.push(b"data: ", &mut out);
    while sent.len() < 3 * MAX_EVENT_BYTES {
        meter.push(&piece, &mut out);
        sent.extend_from_slice(&piece);
        assert!(sent.len() <= MAX_EVENT_BYTES || out == sent, "nothing is held back above the bound");
    }
    assert_eq!(meter.unreadable(), 1);
    let rest = format!("\n\n{}", recorded("chat", "asked"));
    meter.push(rest.as_bytes(), &mut out);
    assert_eq!(meter.unreadable(), 1, "what follows is read again");
    assert_eq!(meter.count().by, CountedBy::Usage);
}

#[test]
fn other_line_endings_change_nothing_but_the_line_endings() {
    for case in asked_cases() {
        for ending in ["\r\n", "\r"] {
            let request = ask(&case, "plain");
            let stream = recorded(&case, "asked");
            let plain = whole(&request, &stream);
            let metered = whole(&request, &stream.replace('\n', ending));
            let out = String::from_utf8(plain.out.clone()).unwrap().replace('\n', ending);
            assert_eq!(metered, Metered { out: out.into(), ..plain }, "{case}");
        }
    }
}

/// Cuts a stream into reads.
fn reads<'a>(stream: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same_bytes_and_the_same_count(
        (case, _) in select(recordings()),
        way in select(vec!["plain", "usage", "timings"]),
        ending in select(vec!["\n", "\r\n", "\r"]),
        cuts in proptest::collection::vec(any::<Index>(), 0..40),
    ) {
        let stream = recorded(&case, "asked").replace('\n', ending);
        let request = ask(&case, way);
        prop_assert_eq!(meter(&request, reads(stream.as_bytes(), &cuts)), whole(&request, &stream));
    }

    #[test]
    fn garbage_passes_unchanged(
        case in select(vec!["chat", "completions", "responses", "messages"]),
        parts in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..50),
                select(vec![
                    "data: ", "event: error", "\n\n", "\r", "\n", "{\"choices\":[{", "\"usage\":{", ",\"timings\":{", "}",
                    "\"finish_reason\":\"", "\u{feff}", ":", "null", "\"prompt_tokens\":1", ",\"prompt_progress\":{",
                ]).prop_map(|text| text.as_bytes().to_vec()),
            ],
            0..60,
        ),
        cuts in proptest::collection::vec(any::<Index>(), 0..10),
    ) {
        let stream = parts.concat();
        let metered = meter(&ask(case, "plain"), reads(&stream, &cuts));
        if metered.failed.is_none() {
            prop_assert_eq!(metered.out, stream);
        }
    }

    #[test]
    fn damaged_streams_never_panic_and_stay_the_same_in_any_split(
        case in select(asked_cases()),
        damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..20),
        cuts in proptest::collection::vec(any::<Index>(), 0..20),
    ) {
        let mut stream = recorded(&case, "asked").into_bytes();
        for (place, byte) in &damage {
            let place = place.index(stream.len());
            stream[place] = *byte;
        }
        let request = ask(&case, "usage");
        prop_assert_eq!(meter(&request, reads(&stream, &cuts)), meter(&request, [&stream[..]]));
    }
}
