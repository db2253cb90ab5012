//! Tests of [`super`].

use serde_json::{Value, json};

use super::*;
use crate::surface::fixture::{ask, chat};

fn pieces(prompt: Value) -> Option<(Value, u64, u64)> {
    let pieces = ask(Surface::Completions, &json!({"prompt": prompt})).pieces()?;
    let texts = pieces.texts.map_or(Value::Null, |texts| {
        let texts: Value = serde_json::from_slice(&texts).unwrap();
        assert_eq!((&texts["add_special"], &texts["parse_special"]), (&json!(false), &json!(true)));
        texts["content"].clone()
    });
    Some((texts, pieces.numbers, pieces.opened))
}

#[test]
fn prompts_are_taken_apart_as_llama_server_reads_them() {
    assert_eq!(pieces(json!("a \"b\" ü")), Some((json!(["a \"b\" ü"]), 0, 1)));
    assert_eq!(pieces(json!("")), Some((json!([""]), 0, 1)));
    assert_eq!(pieces(json!(["a", "b"])), Some((json!(["a", "b"]), 0, 2)));
    assert_eq!(pieces(json!([1, 2, 3])), Some((Value::Null, 3, 0)));
    assert_eq!(pieces(json!([[1, 2], [3]])), Some((Value::Null, 3, 0)));
    assert_eq!(pieces(json!(["a", 5, "b"])), Some((json!(["a", "b"]), 1, 1)), "one prompt that begins with a text");
    assert_eq!(pieces(json!([5, "b"])), Some((json!(["b"]), 1, 0)), "one prompt that begins with a token");
    assert_eq!(pieces(json!([["a", 5], "c", [6, "d"]])), Some((json!(["a", "c", "d"]), 2, 2)));
}

#[test]
fn prompts_of_other_shapes_are_not_taken_apart() {
    for prompt in [json!({"prompt_string": "a"}), json!([{"prompt_string": "a"}, "b"]), json!([[["a"]]]), json!(true)] {
        assert_eq!(pieces(prompt.clone()), None, "{prompt}");
    }
    assert_eq!(chat("hi").pieces(), None, "a template is applied to it");
}

#[test]
fn only_what_becomes_the_prompt_has_a_size() {
    let one = chat("hi").prompt_bytes();
    assert_eq!(one, r#"[{"role":"user","content":"hi"}]"#.len());
    assert_eq!(chat("hi there").prompt_bytes(), one + 6);
    let body = json!({"query": "abc", "documents": ["d", "e"]});
    assert_eq!(ask(Surface::Rerank, &body).prompt_bytes(), r#"["d","e"]"#.len() + 2 * r#""abc""#.len());
}

#[test]
fn requests_are_the_same_if_surface_and_body_are() {
    let completions = |prompt: &str| ask(Surface::Completions, &json!({"prompt": prompt})).fingerprint();
    assert_eq!(completions("a"), completions("a"));
    assert_ne!(completions("a"), completions("b"));
    assert_ne!(chat("a").fingerprint(), Ask { surface: Surface::ApplyTemplate, ..chat("a") }.fingerprint());
}

#[test]
fn the_cache_is_turned_off_behind_everything_else() {
    let text = |ask: &Ask| String::from_utf8(ask.without_cache().unwrap().to_vec()).unwrap();
    let plain = chat("hi");
    let without = text(&plain);
    assert!(without.ends_with(r#","cache_prompt":false}"#), "{without}");
    assert_eq!(serde_json::from_str::<Value>(&without).unwrap()["messages"][0]["content"], "hi");
    // Once more is harmless: the last one of a name counts.
    let body = json!({"messages": [], "cache_prompt": false});
    let twice = text(&ask(Surface::Chat, &body));
    assert_eq!(serde_json::from_str::<Value>(&twice).unwrap()["cache_prompt"], false);
    assert_eq!(text(&Ask { upstream_body: Bytes::from_static(b"{}"), ..plain }), r#"{"cache_prompt":false}"#);
}

#[test]
fn a_message_cannot_avoid_the_cache_and_says_so() {
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3});
    let refused = ask(Surface::Messages, &body).without_cache().unwrap_err();
    assert_eq!(refused.reason, Reason::NotSupported);
}
