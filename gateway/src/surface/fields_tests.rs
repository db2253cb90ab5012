//! Tests of [`super`]: each dangerous field, each bound, and what always holds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn bounds() -> Bounds {
    bounds_with(&[]).unwrap()
}

fn bounds_with(extra: &[(&str, &str)]) -> anyhow::Result<Bounds> {
    let mut extra_fields = BTreeMap::<String, Vec<String>>::new();
    for (label, name) in extra {
        extra_fields.entry((*label).to_owned()).or_default().push((*name).to_owned());
    }
    Bounds::new(&config::Requests {
        max_output_tokens: 1000,
        max_json_depth: 64,
        white_space_keep_alive: false,
        extra_fields,
    })
}

fn read_text(surface: Surface, body: &str) -> Result<Ask, Rejection> {
    read(surface, &Bytes::copy_from_slice(body.as_bytes()), &bounds(), 32_768)
}

/// A chat request with further fields.
fn chat(fields: &str) -> Result<Ask, Rejection> {
    let comma = if fields.is_empty() { "" } else { "," };
    read_text(Surface::Chat, &format!(r#"{{"messages":[{{"role":"user","content":"hi"}}]{comma}{fields}}}"#))
}

fn sent(ask: &Ask) -> Value {
    serde_json::from_slice(&ask.upstream_body).unwrap()
}

fn refused(asked: Result<Ask, Rejection>) -> Rejection {
    let rejection = asked.unwrap_err();
    assert_eq!(rejection.reason, Reason::InvalidRequest);
    rejection
}

#[test]
fn a_plain_chat_goes_on_as_a_stream_that_can_be_counted() {
    let ask = chat(r#""temperature":0.5,"model":"gpt-4o""#).unwrap();
    assert_eq!(ask.model.as_deref(), Some("gpt-4o"));
    assert!(!ask.stream && ask.upstream_streams && !ask.include_usage && !ask.timings_per_token);
    assert_eq!((ask.prompts, ask.choices), (1, 1));
    assert_eq!(
        std::str::from_utf8(&ask.upstream_body).unwrap(),
        r#"{"messages":[{"role":"user","content":"hi"}],"temperature":0.5,"max_tokens":1000,"stream":true,"stream_options":{"include_usage":true},"timings_per_token":true}"#
    );
}

#[test]
fn what_the_client_asked_about_the_stream_is_remembered_and_replaced() {
    let ask = chat(r#""stream":true,"stream_options":{"include_usage":true,"x":1},"timings_per_token":true"#).unwrap();
    assert!(ask.stream && ask.include_usage && ask.timings_per_token);
    let ask = chat(r#""stream":true,"stream_options":{"include_usage":false},"timings_per_token":false"#).unwrap();
    assert!(!ask.include_usage && !ask.timings_per_token);
    assert_eq!(sent(&ask)["stream_options"], json!({"include_usage": true}));
    assert_eq!(sent(&ask)["timings_per_token"], json!(true));
    assert!(!chat(r#""stream":null,"stream_options":null"#).unwrap().stream);
    for bad in [r#""stream":"yes""#, r#""stream_options":true"#, r#""stream_options":{"include_usage":1}"#] {
        refused(chat(bad));
    }
}

#[test]
fn conversations_pass_byte_for_byte() {
    let messages = r#"[ {"role":"user", "content":"a\u00e9 \"b\" 1.0e5","x":{"deep":[1,2]}} ]"#;
    let ask = read_text(Surface::Chat, &format!(r#" {{ "messages" : {messages} }} "#)).unwrap();
    assert!(std::str::from_utf8(&ask.upstream_body).unwrap().starts_with(&format!(r#"{{"messages":{messages},"#)));
}

#[test]
fn the_smallest_output_cap_wins_under_the_one_name_of_the_surface() {
    for (fields, cap) in [
        (r#""max_tokens":5"#, 5),
        (r#""max_tokens":2,"n_predict":7"#, 2),
        (r#""n_predict":2,"max_completion_tokens":7,"max_tokens":9"#, 2),
        (r#""max_output_tokens":3,"max_tokens":null"#, 3),
        (r#""max_tokens":-1"#, 1000),
        (r#""max_tokens":null"#, 1000),
        (r#""max_tokens":-1,"n_predict":4.0"#, 4),
        (r#""max_tokens":0"#, 0),
        (r#""max_tokens":99999999999"#, 1000),
        (r#""max_tokens":1e300"#, 1000),
        (r#""n_predic\u0074":7"#, 7),
    ] {
        let sent = sent(&chat(fields).unwrap());
        assert_eq!(sent["max_tokens"], json!(cap), "{fields}");
        for other in ["n_predict", "max_completion_tokens", "max_output_tokens"] {
            assert!(sent.get(other).is_none(), "{fields}");
        }
    }
    for bad in ["-2", "1.5", "\"9\"", "true", "[1]", "1e999"] {
        refused(chat(&format!(r#""max_tokens":{bad}"#)));
    }
    let ask = read_text(Surface::Responses, r#"{"input":"hi","max_output_tokens":5,"n_predict":3}"#).unwrap();
    assert_eq!(sent(&ask)["max_output_tokens"], json!(3));
    let ask = read_text(Surface::Messages, r#"{"messages":[],"max_tokens":5000}"#).unwrap();
    assert_eq!(sent(&ask), json!({"messages": [], "max_tokens": 1000, "stream": true}));
}

#[test]
fn fields_that_stop_the_server_or_evade_accounting_are_refused() {
    for field in [
        r#""grammar":"root ::= \"a\"""#,
        r#""grammar_lazy":true"#,
        r#""grammar_triggers":[{"type":99}]"#,
        r#""grammar_type":"tool_calls""#,
        r#""preserved_tokens":["a"]"#,
        r#""chat_format":3"#,
        r#""chat_parser":"x""#,
        r#""generation_prompt":"x""#,
        r#""message_delimiters":[]"#,
        r#""id_slot":0"#,
        r#""lora":[{"id":0,"scale":1}]"#,
        r#""response_fields":["content"]"#,
        r#""verbose":true"#,
        r#""n_cmpl":2"#,
        r#""reasoning_control":true"#,
    ] {
        let name = field.split('"').nth(1).unwrap();
        for body in [chat(field), read_text(Surface::Completions, &format!(r#"{{"prompt":"hi",{field}}}"#))] {
            let rejection = refused(body);
            assert_eq!(rejection.param.as_deref(), Some(name));
            assert!(rejection.message.contains(name), "{}", rejection.message);
        }
    }
    for harmless in [r#""verbose":false"#, r#""grammar_lazy":false"#, r#""id_slot":null"#] {
        let sent = sent(&chat(harmless).unwrap());
        assert_eq!(sent.as_object().unwrap().len(), 5, "{harmless} is left out: {sent}");
    }
}

#[test]
fn numbers_that_size_memory_or_replies_are_lowered() {
    for (name, most) in [("repeat_last_n", 4096), ("dry_penalty_last_n", 4096), ("top_logprobs", 20), ("n_probs", 20)] {
        for value in ["2147483647", "134217728.0", "1e300", "99999999999999999999"] {
            assert_eq!(sent(&chat(&format!(r#""{name}":{value}"#)).unwrap())[name], json!(most));
        }
        assert_eq!(sent(&chat(&format!(r#""{name}":7"#)).unwrap())[name], json!(7));
        refused(chat(&format!(r#""{name}":-2"#)));
        refused(chat(&format!(r#""{name}":"7""#)));
    }
    let ask = read_text(Surface::Completions, r#"{"prompt":"a","logprobs":100000}"#).unwrap();
    assert_eq!(sent(&ask)["logprobs"], json!(20));
}

#[test]
fn values_of_another_kind_or_out_of_range_are_refused_with_what_they_must_be() {
    for bad in [
        r#""temperature":"hot""#,
        r#""temperature":-1"#,
        r#""temperature":1e999"#,
        r#""top_p":1.5"#,
        r#""repeat_penalty":0"#,
        r#""top_k":1.5"#,
        r#""mirostat":3"#,
        r#""seed":"x""#,
        r#""ignore_eos":1"#,
        r#""logprobs":5"#,
        r#""tools":"x""#,
        r#""stop":[1]"#,
        r#""stop":{}"#,
        r#""samplers":[1]"#,
        r#""json_schema":true"#,
        r#""tools":{}"#,
        r#""model":7"#,
    ] {
        let rejection = refused(chat(bad));
        assert!(rejection.message.contains("must be"), "{bad}: {}", rejection.message);
    }
    let message = refused(chat(r#""top_p":1.5"#)).message;
    assert_eq!(message, "`top_p` must be a number from 0 to 1");
}

#[test]
fn lists_and_texts_are_bounded() {
    let many = |count: usize, item: &str| vec![item; count].join(",");
    let long = "x".repeat(70_000);
    for bad in [
        format!(r#""stop":[{}]"#, many(17, "\"a\"")),
        format!(r#""stop":"{}""#, "x".repeat(300)),
        format!(r#""tools":[{}]"#, many(129, "{}")),
        format!(r#""logit_bias":[{}]"#, many(1025, "[1,1]")),
        format!(r#""samplers":[{}]"#, many(33, "\"top_k\"")),
        format!(r#""dry_sequence_breakers":[{}]"#, many(17, "\"a\"")),
        format!(r#""json_schema":{{"a":"{long}"}}"#),
        format!(r#""response_format":{{"a":"{long}"}}"#),
        format!(r#""chat_template_kwargs":{{"a":"{long}"}}"#),
        format!(r#""model":"{long}""#),
    ] {
        refused(chat(&bad));
    }
    let logit_bias: Vec<_> = (0..1024).map(|token| format!(r#""{token}":-1"#)).collect();
    chat(&format!(r#""logit_bias":{{{}}}"#, logit_bias.join(","))).unwrap();
    chat(&format!(r#""stop":[{}]"#, many(16, "\"a\""))).unwrap();
}

#[test]
fn schemas_that_would_hang_the_server_are_refused_wherever_they_stand() {
    let schema = r#"{"type":"string","pattern":"^(a?){0,1999}$"}"#;
    for field in [
        format!(r#""json_schema":{schema}"#),
        format!(r#""response_format":{{"type":"json_schema","json_schema":{{"schema":{schema}}}}}"#),
        format!(r#""tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]"#),
    ] {
        assert!(refused(chat(&field)).message.contains("pattern"), "{field}");
    }
}

#[test]
fn what_clients_send_without_effect_is_left_out() {
    let ask = chat(
        r#""user":"u","metadata":{"a":1},"store":true,"service_tier":"auto","best_of":3,"n_keep":5,
           "sse_ping_interval":1,"never_heard_of":[{"x":1}],"cache_prompt":true,"return_progress":true,"echo":null"#,
    )
    .unwrap();
    let names: Vec<_> = sent(&ask).as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, ["max_tokens", "messages", "stream", "stream_options", "timings_per_token"]);
}

#[test]
fn a_client_may_keep_its_prompt_out_of_the_shared_cache() {
    assert_eq!(sent(&chat(r#""cache_prompt":false"#).unwrap())["cache_prompt"], json!(false));
    refused(chat(r#""cache_prompt":0"#));
}

#[test]
fn progress_is_reported_only_in_streams() {
    let ask = chat(r#""return_progress":true,"stream":true"#).unwrap();
    assert_eq!(sent(&ask)["return_progress"], json!(true));
}

#[test]
fn choices_and_prompts_are_counted() {
    assert_eq!(chat(r#""n":3"#).unwrap().choices, 3);
    assert_eq!(sent(&chat(r#""n":3"#).unwrap())["n"], json!(3));
    for bad in ["0", "-1", "65", "1.5", "\"2\"", "99999999999999999999"] {
        refused(chat(&format!(r#""n":{bad}"#)));
    }
    for (prompt, count) in [
        (r#""hi""#, 1),
        (r#"["a","b","c"]"#, 3),
        ("[1,2,3]", 1),
        (r#"[1,"a",3]"#, 1),
        ("[[1,2],[3]]", 2),
        (r#"{"prompt_string":"a"}"#, 1),
    ] {
        let ask = read_text(Surface::Completions, &format!(r#"{{"prompt":{prompt},"n":2}}"#)).unwrap();
        assert_eq!((ask.prompts, ask.sequences()), (count, 2 * count), "{prompt}");
    }
    refused(read_text(Surface::Completions, r#"{"prompt":[]}"#));
    let many = vec!["\"a\""; 65].join(",");
    refused(read_text(Surface::Completions, &format!(r#"{{"prompt":[{many}]}}"#)));
    let ask = read_text(Surface::Embeddings, &format!(r#"{{"input":[{many}],"model":"m\"x","user":"u"}}"#)).unwrap();
    assert_eq!((ask.prompts, &sent(&ask)["model"]), (65, &json!("m\"x")));
    assert!(!ask.stream && !ask.upstream_streams && sent(&ask).get("stream").is_none());
    let ask = read_text(Surface::Rerank, r#"{"query":"q","documents":["a","b"],"top_n":1}"#).unwrap();
    assert_eq!(ask.prompts, 2);
    refused(read_text(Surface::Rerank, r#"{"query":"q","documents":["a"],"top_n":-1}"#));
}

#[test]
fn a_field_without_which_a_request_means_nothing_is_asked_for() {
    for (surface, name) in [
        (Surface::Chat, "messages"),
        (Surface::Completions, "prompt"),
        (Surface::Responses, "input"),
        (Surface::Messages, "messages"),
        (Surface::CountTokens, "messages"),
        (Surface::Embeddings, "input"),
        (Surface::Rerank, "query"),
        (Surface::Tokenize, "content"),
        (Surface::Detokenize, "tokens"),
        (Surface::ApplyTemplate, "messages"),
    ] {
        for body in ["{}".to_owned(), format!(r#"{{"{name}":null}}"#)] {
            assert_eq!(refused(read_text(surface, &body)).param.as_deref(), Some(name));
        }
    }
    read_text(Surface::Rerank, r#"{"query":"q","texts":["a"]}"#).unwrap();
}

#[test]
fn media_that_llama_server_would_fetch_is_refused() {
    let part = |part: &str| format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#);
    for bad in [
        r#"{"type":"image_url","image_url":{"url":"http://169.254.169.254/latest"}}"#,
        r#"{"type":"image_url","image_url":{"url":"https://x"}}"#,
        r#"{"type":"image_url","image_url":{"url":"\u0068ttp://x"}}"#,
        r#"{"type":"image_url","image_url":{"url":"ht\u0074p://x"}}"#,
        r#"{"type":"image_url","image_\u0075rl":{"\u0075rl":"http://x"}}"#,
        r#"{"type":"image_url","image_url":{"url":"data:,","url":"http://x"}}"#,
        r#"{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}"#,
        r#"{"type":"image_url","image_url":{"url":"file:\/\/\/etc/passwd"}}"#,
        r#"{"type":"input_audio","input_audio":{"data":"http://x"}}"#,
        r#"{"type":"input_video","input_video":{"url":"http://x"}}"#,
        r#"{"type":"video_url","video_url":{"url":"http://x"}}"#,
    ] {
        let rejection = refused(read_text(Surface::Chat, &part(bad)));
        assert_eq!(rejection.param.as_deref(), Some("messages"), "{bad}");
    }
    for (surface, bad) in [
        (Surface::Messages, part(r#"{"type":"image","source":{"type":"url","url":"http://x"}}"#)),
        (
            Surface::Messages,
            part(r#"{"type":"tool_result","content":[{"type":"image","source":{"type":"url","url":"http://x"}}]}"#),
        ),
        (
            Surface::Responses,
            r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"http://x"}]}]}"#.to_owned(),
        ),
        (
            Surface::Embeddings,
            r#"{"input":[{"content":[{"type":"image_url","image_url":{"url":"http://x"}}]}]}"#.to_owned(),
        ),
        (Surface::ApplyTemplate, part(r#"{"type":"image_url","image_url":{"url":"http://x"}}"#)),
        (Surface::CountTokens, part(r#"{"type":"image","source":{"type":"url","url":"http://x"}}"#)),
    ] {
        refused(read_text(surface, &bad));
    }
}

#[test]
fn media_inside_the_request_and_addresses_in_plain_text_pass() {
    let part = |part: &str| format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#);
    for good in [
        r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}"#,
        r#"{"type":"text","text":"http://example.com"}"#,
        r#"{"type":"text","text":"see \u0068ttp://example.com"}"#,
        r#"{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}"#,
    ] {
        read_text(Surface::Chat, &part(good)).unwrap();
    }
    for good in [
        r#"{"type":"tool_use","name":"f","input":{"image_url":"http://x","source":{"url":"http://x"}}}"#,
        r#"{"type":"search_result","source":"https://example.com","content":[]}"#,
    ] {
        read_text(Surface::Messages, &part(good)).unwrap();
    }
}

#[test]
fn bodies_that_are_no_object_or_not_clean_are_refused() {
    let nested = format!(r#"{{"messages":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    let hidden = format!(r#"{{"unknown":{}{}}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    for bad in [
        "",
        " ",
        "[]",
        "7",
        "null",
        "\"x\"",
        "{",
        r#"{"messages":[]"#,
        r#"{"messages":[]}x"#,
        r#"{"messages":[]}{}"#,
        r#"{"messages":[],}"#,
        r#"{"messages":[],"messages":[]}"#,
        r#"{"messages":[],"stop":"a","st\u006fp":"b"}"#,
        r#"{"messages":[],"unknown":1,"unknown":2}"#,
        r#"{"messages":[],"top_k":NaN}"#,
        r#"{"messages":[],"seed":01}"#,
        r#"{"messages":"unclosed}"#,
        "{'messages':[]}",
        "{\"messages\":[\"\u{1}\"]}",
        &nested,
        &hidden,
    ] {
        let rejection = refused(read_text(Surface::Chat, bad));
        assert!(rejection.message.len() < 300, "{}", rejection.message);
    }
    assert!(read(Surface::Chat, &Bytes::from_static(b"{\"messages\":[\"\xff\"]}"), &bounds(), 32_768).is_err());
    assert!(refused(read_text(Surface::Chat, &nested)).message.contains("64 levels"));
    let members: Vec<_> = (0..300).map(|at| format!(r#""f{at}":1"#)).collect();
    assert!(refused(chat(&members.join(","))).message.contains("more than 256 fields"));
    // Brackets in texts do not nest.
    chat(&format!(r#""stop":"{}""#, "[".repeat(200))).unwrap();
}

#[test]
fn a_request_whose_stream_cannot_be_folded_exactly_is_not_streamed_unless_the_client_streams() {
    for fields in [
        r#""logprobs":true"#,
        r#""tools":[{}],"n_probs":2"#,
        r#""logprobs":true,"stop":["x"]"#,
        r#""reasoning_format":"deepseek-legacy""#,
    ] {
        let ask = chat(fields).unwrap();
        assert!(!ask.upstream_streams, "{fields}");
        let body = sent(&ask);
        assert_eq!(body["stream"], json!(false));
        assert!(body.get("stream_options").is_none() && body.get("timings_per_token").is_none());
        assert!(chat(&format!(r#"{fields},"stream":true"#)).unwrap().upstream_streams);
    }
    for fields in [r#""logprobs":false,"tools":[{}]"#, r#""n_probs":0,"stop":["x"]"#] {
        assert!(chat(fields).unwrap().upstream_streams, "{fields}");
    }
}

#[test]
fn each_surface_is_asked_only_for_counts_that_it_can_give() {
    let body = |surface, text| sent(&read_text(surface, text).unwrap());
    let completions = body(Surface::Completions, r#"{"prompt":"a"}"#);
    assert_eq!(completions, json!({"prompt": "a", "max_tokens": 1000, "stream": true, "timings_per_token": true}));
    let responses = body(Surface::Responses, r#"{"input":"a","store":false,"n":2}"#);
    assert_eq!(responses, json!({"input": "a", "max_output_tokens": 1000, "stream": true, "timings_per_token": true}));
    assert_eq!(body(Surface::Tokenize, r#"{"content":"a","stream":true}"#), json!({"content": "a"}));
    assert_eq!(body(Surface::Detokenize, r#"{"tokens":[1]}"#), json!({"tokens": [1]}));
    let ask = read_text(Surface::CountTokens, r#"{"messages":[],"model":"m","max_tokens":5}"#).unwrap();
    assert_eq!((sent(&ask), ask.model.as_deref()), (json!({"messages": []}), Some("m")));
}

#[test]
fn what_the_responses_api_stores_elsewhere_is_refused() {
    for field in [r#""previous_response_id":"r""#, r#""conversation":"c""#, r#""background":true"#, r#""prompt":{}"#] {
        refused(read_text(Surface::Responses, &format!(r#"{{"input":"a",{field}}}"#)));
    }
}

#[test]
fn operators_let_further_fields_pass() {
    let bounds = bounds_with(&[("chat", "new_sampler"), ("chat", "id_slot")]).unwrap();
    let body = Bytes::from_static(br#"{"messages":[],"new_sampler":{"a":1},"id_slot":1}"#);
    let ask = read(Surface::Chat, &body, &bounds, 32_768).unwrap();
    assert_eq!((&sent(&ask)["new_sampler"], &sent(&ask)["id_slot"]), (&json!({"a": 1}), &json!(1)));
    let body = Bytes::from_static(br#"{"prompt":"a","new_sampler":1}"#);
    assert!(sent(&read(Surface::Completions, &body, &bounds, 32_768).unwrap()).get("new_sampler").is_none());
    for (label, name) in [("chats", "a"), ("chat", "n_predict"), ("chat", "stream"), ("chat", "a\"b"), ("chat", "")] {
        assert!(bounds_with(&[(label, name)]).is_err(), "{label} {name}");
    }
    assert!(bounds_with(&[("chats", "a")]).unwrap_err().to_string().contains("hint: chat, completions"));
}

/// JSON of any kind, with the names and values that matter among it.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Eighths: they are the same after having been written and read.
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        "[a-z:/\\\\\"\u{e9}]{0,12}".prop_map(Value::from),
        Just(json!("http://x")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any_name(), inner), 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

fn any_name() -> impl Strategy<Value = String> {
    let known: Vec<_> = Surface::ALL
        .into_iter()
        .flat_map(table::groups)
        .flat_map(|group| group.fields)
        .map(|field| field.name.to_owned())
        .collect();
    prop_oneof![4 => prop::sample::select(known), 1 => "[a-z\"\\\\]{0,6}".prop_map(String::from)]
}

proptest! {
    #[test]
    fn whatever_is_read_gives_valid_json_of_listed_fields(
        surface in prop::sample::select(Surface::ALL.to_vec()),
        members in prop::collection::vec((any_name(), any_json()), 0..8),
    ) {
        let mut body: serde_json::Map<_, _> = members.into_iter().collect();
        for names in table::required(surface) {
            body.entry(names[0]).or_insert(json!("x"));
        }
        let bounds = bounds();
        let text = Value::Object(body).to_string();
        // Read back, since numbers lose a digit on the way to text and back.
        let body: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        if let Ok(ask) = read(surface, &Bytes::from(text), &bounds, 32_768) {
            let sent = sent(&ask).as_object().unwrap().clone();
            for (name, value) in &sent {
                let (_, rule, _) = bounds.find(surface, name).unwrap();
                prop_assert!(!matches!(rule, Rule::Dropped | Rule::Refused), "{name}");
                if !matches!(rule, Rule::Cap | Rule::Read(_) | Rule::Clamped(..) | Rule::Integer(..)) {
                    prop_assert_eq!(Some(value), body.get(name));
                }
            }
            prop_assert!(sent.get("max_tokens").is_none_or(|cap| cap.as_u64().unwrap() <= 1000));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut wrapped = br#"{"messages":["#.to_vec();
        wrapped.extend_from_slice(&bytes);
        for body in [bytes, wrapped] {
            drop(read(Surface::Chat, &Bytes::from(body), &bounds(), 32_768));
        }
    }

    #[test]
    fn no_cut_of_a_request_is_read(at in 0_usize..70) {
        let body = br#"{"messages":[{"role":"user","content":"\u00e9"}],"stop":["a"],"top_k":40}"#;
        prop_assert!(read(Surface::Chat, &Bytes::copy_from_slice(&body[..at]), &bounds(), 32_768).is_err());
    }
}
