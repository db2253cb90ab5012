//! llama-server's error replies, in the gateway's own terms.
//!
//! Takes status and body of a reply that is no success; gives the [`Rejection`] that the client is told. Whose fault
//! it was decides: llama-server's words about the request reach the client, all others only the operator. Either way
//! they are the words that `words.rs` knows, so that nobody is told what was in a prompt or a reply.

use http::StatusCode;
use serde::Deserialize;

use super::words;
use crate::error::{Reason, Rejection};

/// Beginnings and parts of the messages which llama-server sends with status 500 although the request is at fault:
/// they come from the reading of the request, before anything runs.
const REQUEST_FAULTS: &[&str] = &[
    "input is not supported",
    "Multimodal data provided",
    "[json.exception.",
    "Failed to parse messages",
    "Failed to parse tools",
    "Failed to parse tool call arguments",
    "is required",
    "must be provided",
    "Cannot use both",
    "Cannot specify",
    "Cannot continue an assistant message",
    "Unknown reasoning format",
    "Unsupported param",
    "Only no echo is supported",
    "requires --jinja flag",
    "JSON schema conversion failed",
    "\"json_schema\":",
    "failed to parse grammar",
    "Failed to initialize samplers",
    "Jinja Exception",
    "Conversation roles must alternate",
    "Unable to generate parser for this template",
    "Failed to load image or audio file",
    "Failed to tokenize prompt",
    "Invalid base64 value",
    "logprobs is not supported",
    "_M_range_check",
];

#[derive(Deserialize)]
struct Reply {
    error: Fault,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fault {
    message: String,
    r#type: String,
    n_prompt_tokens: Option<u64>,
    n_ctx: Option<u64>,
}

/// What the message of an error event inside a stream means.
pub fn in_stream(message: &str) -> Rejection {
    if REQUEST_FAULTS.iter().any(|part| message.contains(part)) {
        return invalid(message);
    }
    if message.contains("exceeds the available context size") {
        return context_exceeded(&Fault::default());
    }
    backend(StatusCode::INTERNAL_SERVER_ERROR, message)
}

/// What an error reply of llama-server means.
pub fn rejection(status: StatusCode, body: &[u8]) -> Rejection {
    let Ok(Reply { error: fault }) = serde_json::from_slice(body) else {
        return backend(status, &String::from_utf8_lossy(body));
    };
    match (status.as_u16(), fault.r#type.as_str()) {
        (_, "exceed_context_size_error") => context_exceeded(&fault),
        (503, _) | (_, "unavailable_error") => {
            Rejection::model_loading().operator(for_operator(status, &fault.message))
        }
        (501, _) | (_, "not_supported_error") => not_supported(status, &fault.message),
        (400, _) => invalid(&fault.message),
        (500, _) if REQUEST_FAULTS.iter().any(|part| fault.message.contains(part)) => invalid(&fault.message),
        // The gateway's own credential or path is wrong: nothing that the client could mend, or should know.
        _ => backend(status, &fault.message),
    }
}

fn context_exceeded(fault: &Fault) -> Rejection {
    if let (Some(prompt), Some(context)) = (fault.n_prompt_tokens, fault.n_ctx) {
        return too_long("messages", prompt, context);
    }
    let message = "the request has more tokens than the context holds";
    Rejection { param: Some("messages".to_owned()), ..Rejection::new(Reason::ContextLengthExceeded, message) }
}

/// The refusal of a prompt of so many tokens, in the field `param`, by a context of so many.
pub fn too_long(param: &str, prompt: u64, context: u64) -> Rejection {
    let message = format!("the request has {prompt} tokens, more than the context of {context} tokens holds");
    Rejection { param: Some(param.to_owned()), ..Rejection::new(Reason::ContextLengthExceeded, message) }
}

fn not_supported(status: StatusCode, message: &str) -> Rejection {
    let what = ["embeddings", "reranking"].into_iter().find(|what| message.contains(what)).unwrap_or("this");
    Rejection::new(Reason::NotSupported, format!("the model server was started without support for {what}"))
        .operator(for_operator(status, message))
}

/// The request is at fault, and llama-server's words say how.
fn invalid(message: &str) -> Rejection {
    let rejection = Rejection::new(Reason::InvalidRequest, public(message));
    match field_name(message) {
        Some(name) => Rejection { param: Some(name.to_owned()), ..rejection },
        None => rejection,
    }
}

/// llama-server is at fault, or stands in the way.
fn backend(status: StatusCode, text: &str) -> Rejection {
    Rejection::new(Reason::BackendError, "the model server failed to answer the request")
        .operator(for_operator(status, text))
}

fn for_operator(status: StatusCode, text: &str) -> String {
    let (status, words) = (status.as_u16(), words::own(text));
    if words.is_empty() {
        return format!(
            "llama-server answered {status} with a text that may quote the request; its own log may have it"
        );
    }
    format!("llama-server answered {status}: {words}")
}

/// The `x` of `Field 'x': ...`.
fn field_name(message: &str) -> Option<&str> {
    let (name, _) = message.strip_prefix("Field '")?.split_once('\'')?;
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (plain && !name.is_empty() && name.len() <= 64).then_some(name)
}

/// llama-server's words as the client may read them.
fn public(message: &str) -> String {
    if message.contains("_M_range_check") {
        return "a token id is outside the vocabulary".to_owned();
    }
    // What a template says to its user stands behind this; before it stands the template's own text.
    let raised = message.rsplit_once("Jinja Exception: ").map(|(_, raised)| raised);
    let words = words::own(raised.unwrap_or(message));
    match (words.is_empty(), field_name(message)) {
        (true, _) if raised.is_some() => "the model's chat template refused the messages".to_owned(),
        (true, _) => "the model server refused the request as invalid".to_owned(),
        (false, Some(name)) => format!("Field '{name}': {words}"),
        (false, None) => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Error replies recorded from llama-server b10434: `tests/fixtures/errors/<status>-<name>.json`.
    fn recorded(name: &str) -> Rejection {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/errors");
        let status = name.split_once('-').unwrap().0.parse().unwrap();
        rejection(StatusCode::from_u16(status).unwrap(), &std::fs::read(folder.join(format!("{name}.json"))).unwrap())
    }

    #[test]
    fn a_prompt_that_does_not_fit_says_both_numbers() {
        let rejection = recorded("400-context-exceeded");
        assert_eq!(rejection.reason, Reason::ContextLengthExceeded);
        assert_eq!(rejection.param.as_deref(), Some("messages"));
        assert!(rejection.message.contains("3031") && rejection.message.contains("2048"), "{}", rejection.message);
    }

    #[test]
    fn a_model_that_loads_asks_for_a_retry() {
        let rejection = recorded("503-loading");
        assert_eq!(rejection.reason, Reason::ModelLoading);
        assert!(rejection.retry_after.is_some());
    }

    #[test]
    fn what_the_server_was_started_without_is_not_supported() {
        assert_eq!(recorded("501-embeddings-off").reason, Reason::NotSupported);
        assert!(recorded("501-embeddings-off").message.contains("embeddings"));
        assert!(recorded("501-rerank-off").message.contains("reranking"));
    }

    #[test]
    fn every_recorded_fault_of_a_request_is_a_400_in_words_fit_for_the_client() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/errors");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
            if ["400-context-exceeded", "401-key", "404-not-found"].contains(&name.as_str()) || name.as_str() > "501" {
                continue;
            }
            let rejection = recorded(&name);
            assert_eq!(rejection.reason, Reason::InvalidRequest, "{name}");
            let text = &rejection.message;
            assert!(!text.is_empty() && text.chars().count() < 200, "{name}");
            assert!(!text.contains(['\n', '\t']) && !text.contains("{%"), "{name}: {text}");
            let says_why = !text.starts_with("the model server refused");
            assert!(says_why, "{name}: {text}");
            seen += 1;
        }
        assert!(seen > 20, "the fixtures are there");
    }

    #[test]
    fn the_words_that_reach_the_client_are_short_and_plain() {
        assert_eq!(recorded("500-image-on-text-model").message, "image input is not supported");
        assert_eq!(
            recorded("400-template-raises").message,
            "Conversation roles must alternate user/assistant/user/assistant/..."
        );
        assert_eq!(recorded("500-bad-token").message, "a token id is outside the vocabulary");
        assert!(!recorded("500-tool-type").message.contains("tools ="));
        assert_eq!(recorded("400-wrong-type").param.as_deref(), Some("temperature"));
    }

    #[test]
    fn the_gateways_own_wrong_credential_is_the_operators_matter() {
        for name in ["401-key", "404-not-found"] {
            let rejection = recorded(name);
            assert_eq!(rejection.reason, Reason::BackendError);
            assert!(!rejection.message.contains("Key"), "{}", rejection.message);
            assert!(rejection.operator.is_some());
        }
        assert!(recorded("401-key").operator.unwrap().contains("Invalid API Key"));
    }

    #[test]
    fn paths_of_the_machine_never_reach_the_client() {
        for path in ["/srv/models/kimi.gguf", "'/etc/passwd/x'", "C:\\models\\x", "file:///etc/passwd"] {
            let body =
                serde_json::json!({"error": {"code": 400, "message": format!("cannot open {path}"), "type": "x"}});
            let rejection = rejection(StatusCode::BAD_REQUEST, body.to_string().as_bytes());
            assert!(!rejection.message.contains("models") && !rejection.message.contains("etc"), "{path}");
        }
    }

    #[test]
    fn other_failures_and_replies_that_make_no_sense_are_the_servers() {
        let bodies: [&[u8]; 4] = [b"", b"Internal Server Error", br#"{"error":7}"#, b"\xff\xfe"];
        for body in bodies {
            assert_eq!(rejection(StatusCode::INTERNAL_SERVER_ERROR, body).reason, Reason::BackendError);
        }
        let body = br#"{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}"#;
        assert_eq!(rejection(StatusCode::INTERNAL_SERVER_ERROR, body).reason, Reason::BackendError);
        let huge = vec![b'x'; 1 << 20];
        let operator = rejection(StatusCode::BAD_GATEWAY, &huge).operator.unwrap();
        assert!(operator.len() < 600, "{}", operator.len());
    }
}
