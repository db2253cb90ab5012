//! Prompts: conversations as the text that the model would see, with a plain ChatML template, and their tokens.

use serde_json::Value;

use super::super::words::{Token, Tokenizer};
use super::error::ApiError;

/// The template that `/props` shows; `conversation` does the same.
pub(crate) const TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] \
     + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The text of a chat request.
///
/// # Errors
/// As llama-server's, with its status codes: some faults of the client are 500 there.
pub(crate) fn chat(body: &Value) -> Result<String, ApiError> {
    let messages = body.get("messages").ok_or_else(|| ApiError::invalid("'messages' is required"))?;
    let messages = messages.as_array().ok_or_else(|| ApiError::invalid("Expected 'messages' to be an array"))?;
    if let Some(tools) = body.get("tools").filter(|tools| !tools.is_array() && !tools.is_null()) {
        return Err(ApiError::server(format!("Failed to parse tools: Expected 'tools' to be an array, got {tools}")));
    }
    for message in messages {
        let is_assistant = message["role"] == "assistant";
        if message.get("content").is_none() && !is_assistant {
            return Err(ApiError::invalid("All non-assistant messages must contain 'content'"));
        }
        if message.get("role").is_none() {
            return Err(ApiError::server(format!("Failed to parse messages: Missing 'role' in message: {message}")));
        }
    }
    conversation(body.get("tools"), None, messages)
}

/// The text of a Responses request.
///
/// # Errors
/// As llama-server's.
pub(crate) fn responses(body: &Value) -> Result<String, ApiError> {
    if body.get("previous_response_id").is_some() {
        return Err(ApiError::invalid("llama.cpp does not support 'previous_response_id'."));
    }
    let input = body.get("input").ok_or_else(|| ApiError::invalid("'input' is required"))?;
    let (tools, instructions) = (body.get("tools"), body.get("instructions"));
    match input {
        Value::String(_) => conversation(tools, instructions, &[serde_json::json!({"role": "user", "content": input})]),
        Value::Array(items) => conversation(tools, instructions, items),
        _ => Err(ApiError::invalid("'input' must be a string or array of objects")),
    }
}

/// The text of a Messages request.
///
/// # Errors
/// As llama-server's.
pub(crate) fn messages(body: &Value) -> Result<String, ApiError> {
    let messages = body.get("messages").ok_or_else(|| ApiError::server("'messages' is required"))?;
    conversation(body.get("tools"), body.get("system"), messages.as_array().map_or(&[], Vec::as_slice))
}

/// The prompts of a text completion, as tokens: a text, tokens, or several of them.
///
/// # Errors
/// As llama-server's.
pub(crate) fn completion(tokenizer: &Tokenizer, body: &Value) -> Result<Vec<Vec<Token>>, ApiError> {
    let prompt = body.get("prompt");
    let prompt = prompt.ok_or_else(|| ApiError::invalid("[json.exception.out_of_range.403] key 'prompt' not found"))?;
    match prompt {
        Value::Array(items) if items.is_empty() => Err(ApiError::invalid("\"prompt\" must not be empty")),
        Value::Array(items) if !items.iter().any(Value::is_number) => {
            items.iter().map(|item| mixed_tokens(tokenizer, item)).collect()
        }
        _ => Ok(vec![mixed_tokens(tokenizer, prompt)?]),
    }
}

/// The tokens of a text, or of a list of texts and tokens.
///
/// # Errors
/// Something else is among them.
pub(crate) fn mixed_tokens(tokenizer: &Tokenizer, content: &Value) -> Result<Vec<Token>, ApiError> {
    let single = |item: &Value| match item {
        Value::String(text) => Some(tokenizer.tokens(text)),
        Value::Number(number) => Some(vec![number.as_u64()? as Token]),
        _ => None,
    };
    let tokens = match content {
        Value::Array(items) => items.iter().map(single).collect::<Option<Vec<_>>>().map(|parts| parts.concat()),
        Value::String(_) => single(content),
        _ => None,
    };
    tokens.ok_or_else(|| {
        ApiError::invalid(
            "\"prompt\" elements must be a string, a list of tokens, a JSON object containing a prompt string, or a \
             list of mixed strings & tokens.",
        )
    })
}

/// Tools, if there are any, then the system prompt, then the messages, then the assistant's turn.
fn conversation(tools: Option<&Value>, system: Option<&Value>, messages: &[Value]) -> Result<String, ApiError> {
    let mut text = String::new();
    if let Some(tools) = tools.and_then(Value::as_array).filter(|tools| !tools.is_empty()) {
        let tools = serde_json::to_string(tools).unwrap_or_default();
        add_turn(&mut text, "system", &tools);
    }
    if let Some(system) = system {
        add_turn(&mut text, "system", &content(system)?);
    }
    for message in messages {
        let role = message["role"].as_str().unwrap_or("user");
        let said = match (message.get("content"), message.get("tool_calls")) {
            (Some(said), _) if !said.is_null() => content(said)?,
            (_, Some(calls)) => calls.to_string(),
            // A function call or its output in the Responses API.
            _ => ["arguments", "output"].iter().filter_map(|name| message[*name].as_str()).collect(),
        };
        add_turn(&mut text, role, &said);
    }
    text.push_str("<|im_start|>assistant\n");
    Ok(text)
}

fn add_turn(text: &mut String, role: &str, said: &str) {
    for part in ["<|im_start|>", role, "\n", said, "<|im_end|>", "\n"] {
        text.push_str(part);
    }
}

/// The text of a message, or of its parts.
fn content(content: &Value) -> Result<String, ApiError> {
    let parts = match content {
        Value::Array(parts) => parts.as_slice(),
        Value::String(text) => return Ok(text.clone()),
        _ => &[],
    };
    let mut text = String::new();
    for part in parts {
        match part["type"].as_str() {
            Some("image_url" | "input_image" | "image" | "input_audio") => {
                let hint = "hint: if this is unexpected, you may need to provide the mmproj";
                return Err(ApiError::server(format!("image input is not supported - {hint}")));
            }
            _ => text.push_str(part["text"].as_str().unwrap_or_default()),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conversation_becomes_chatml() {
        let messages = json!([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]);
        let expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(chat(&json!({"messages": messages})).unwrap(), expected);
        assert_eq!(super::messages(&json!({"messages": messages})).unwrap(), expected);
        assert_eq!(responses(&json!({"input": "Hi"})).unwrap(), expected);
        let with_system = responses(&json!({"input": "Hi", "instructions": "Be brief."})).unwrap();
        assert_eq!(with_system, format!("<|im_start|>system\nBe brief.<|im_end|>\n{expected}"));
    }

    #[test]
    fn a_prompt_may_be_text_or_tokens_or_several() {
        let tokenizer = Tokenizer::default();
        let prompts = |prompt: Value| completion(&tokenizer, &json!({"prompt": prompt}));
        assert_eq!(prompts(json!([1, 2, 3])).unwrap(), [vec![1, 2, 3]]);
        assert_eq!(prompts(json!(["one", "two words"])).unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(prompts(json!("")).unwrap(), [Vec::<Token>::new()]);
        assert!(prompts(json!([])).is_err() && prompts(json!(5)).is_err());
    }
}
