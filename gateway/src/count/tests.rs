//! Tests of what the counter makes of what it is told; the counting itself is tested with a real llama-server.

use serde_json::json;

use super::*;
use crate::surface::fixture::{ask, chat};

fn completion(prompts: u32) -> Ask {
    Ask { prompts, ..ask(Surface::Completions, &json!({"prompt": "hi"})) }
}

#[test]
fn a_prompt_must_leave_room_for_one_token_of_output() {
    assert!(fits(&chat("hi"), 255, 256).is_ok());
    let refused = fits(&chat("hi"), 256, 256).unwrap_err();
    assert_eq!(refused.reason, Reason::ContextLengthExceeded);
    assert_eq!(refused.param.as_deref(), Some("messages"));
    assert!(refused.message.matches("256").count() == 2, "{}", refused.message);
    assert_eq!(fits(&completion(1), 300, 256).unwrap_err().param.as_deref(), Some("prompt"));
}

#[test]
fn an_embedding_may_fill_the_context() {
    let embedding = ask(Surface::Embeddings, &json!({"input": "hi"}));
    assert!(fits(&embedding, 256, 256).is_ok());
    assert_eq!(fits(&embedding, 257, 256).unwrap_err().param.as_deref(), Some("input"));
}

#[test]
fn nobody_is_refused_where_the_context_is_not_known_or_not_that_of_one_prompt() {
    assert!(fits(&chat("hi"), 1 << 30, 0).is_ok());
    assert!(fits(&completion(2), 300, 256).is_ok());
}

#[test]
fn an_estimate_goes_by_size_up_to_what_can_be_used() {
    let long = chat(&"a".repeat(7000));
    assert_eq!(estimate(&long, 0), 2009);
    assert_eq!(estimate(&long, 4096), 2009);
    assert_eq!(estimate(&long, 256), 256);
    assert_eq!(estimate(&Ask { prompts: 3, ..long }, 256), 768);
}

#[test]
fn only_a_fault_of_the_request_refuses_it() {
    let refused = |status: u16, message: &str, kind: &str| {
        let body = json!({"error": {"code": status, "message": message, "type": kind}}).to_string();
        refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    };
    assert!(refused(400, "'messages' is required", "invalid_request_error").is_some());
    assert!(refused(500, "image input is not supported - hint: mmproj", "server_error").is_some());
    assert!(refused(500, "Failed to load image or audio file", "server_error").is_none());
    assert!(refused(500, "out of memory", "server_error").is_none());
    assert!(refused(503, "Loading model", "unavailable_error").is_none());
    assert!(refused(401, "Invalid API Key", "authentication_error").is_none());
    assert!(refusal(StatusCode::BAD_REQUEST, b"").is_none());
}

#[test]
fn counts_of_a_model_that_was_replaced_are_forgotten() {
    let counter = Counter::new(Arc::new(Metrics::new().unwrap()));
    let facts = || {
        Arc::new(Facts { total_slots: 1, n_ctx: 1, build: String::new(), model: String::new(), models: Bytes::new() })
    };
    let (first, second) = (facts(), facts());
    let key = || ("one".into(), chat("hi").fingerprint());
    assert_eq!(counter.cached(Some(&first), &key()), None);
    counter.remember(Some(&first), key(), 7);
    assert_eq!(counter.cached(Some(&first), &key()), Some(7));
    assert_eq!(counter.cached(Some(&second), &key()), None);
    counter.remember(Some(&first), key(), 7);
    assert_eq!(counter.cached(Some(&second), &key()), None, "it came too late");
}
