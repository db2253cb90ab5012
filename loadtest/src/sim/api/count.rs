//! Tokens without generating any: `/tokenize`, `/detokenize`, `/apply-template` and the endpoints that count a prompt.

use serde_json::{Value, json};

use super::super::server::App;
use super::super::words::Token;
use super::ask::Surface;
use super::error::ApiError;
use super::prompt;

/// `/tokenize`
///
/// # Errors
/// The content is neither text nor a list of texts and tokens.
pub(crate) fn tokenize(app: &App, body: &Value) -> Result<Value, ApiError> {
    let tokens = match body.get("content") {
        Some(content) => prompt::mixed_tokens(&app.tokenizer, content)?,
        None => Vec::new(),
    };
    if body["with_pieces"] != true {
        return Ok(json!({"tokens": tokens}));
    }
    let piece = |token: &Token| {
        let piece = app.tokenizer.piece(*token);
        let text = String::from_utf8(piece);
        // A part of a character is given as bytes.
        let piece = text.map_or_else(|bytes| json!(bytes.into_bytes()), |text| json!(text));
        json!({"id": token, "piece": piece})
    };
    Ok(json!({"tokens": tokens.iter().map(piece).collect::<Vec<_>>()}))
}

/// `/detokenize`
pub(crate) fn detokenize(app: &App, body: &Value) -> Value {
    let tokens = body["tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let tokens: Vec<_> = tokens.iter().filter_map(Value::as_u64).map(|token| token as Token).collect();
    json!({"content": app.tokenizer.text(&tokens)})
}

/// `/apply-template`
///
/// # Errors
/// As those of a chat.
pub(crate) fn apply_template(body: &Value) -> Result<Value, ApiError> {
    Ok(json!({"prompt": prompt::chat(body)?}))
}

/// How many tokens the prompt of a body has.
///
/// # Errors
/// As those of the surface.
pub(crate) fn input_tokens(app: &App, surface: Surface, body: &Value) -> Result<Value, ApiError> {
    let tokens: usize = surface.prompts(app, body)?.iter().map(Vec::len).sum();
    Ok(match surface {
        Surface::Messages => json!({"input_tokens": tokens}),
        _ => json!({"input_tokens": tokens, "object": "response.input_tokens"}),
    })
}
