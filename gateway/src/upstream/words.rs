//! What of llama-server's messages may be told: the words that are its own.
//!
//! They quote what they are about: a tool, a schema, a part of the chat template, the output that could not be read.
//! That is prompt and reply, which neither an error nor the log may hold. So a message is searched for phrases that are
//! known, and all else of it is left out.

/// Phrases of llama-server b10434. `#` stands for a number, `@` for a kind of JSON value.
const PHRASES: &[&str] = &[
    // Of the reader of requests.
    "[json.exception.parse_error.#] parse error at line #, column #: syntax error while parsing",
    "type must be @, but is @",
    "Value must be between # <= value <= #, but got #",
    "\"prompt\" elements must be a string, a list of tokens, a JSON object containing a prompt string, or a list of mixed strings & tokens.",
    "\"prompt\" is required",
    "\"prompt\" must be a string",
    "\"prompt\" must not be empty",
    "\"input\" or \"content\" must be provided",
    "\"query\" must be provided",
    "\"query\" must be a string",
    "\"documents\" must be a non-empty string array",
    "'messages' is required",
    "'input' is required",
    "'input' must be a string or array of objects",
    "'image_url' is required",
    "'input_file' is not supported by llamacpp at this moment",
    "'type' must be one of 'input_text', 'input_image', or 'input_file'",
    "'type' must be one of 'output_text' or 'refusal'",
    "'Input text' requires 'text'",
    "'Output text' requires 'text'",
    "'Refusal' requires 'refusal'",
    "Cannot determine type of 'item'",
    "Input content cannot be empty",
    "Prompt contains invalid tokens",
    "Failed to tokenize prompt",
    "Tokenization failed: input text too large",
    "Invalid base64 value",
    "Error: dry_sequence_breakers must be a non-empty array of strings",
    "llama.cpp does not support 'previous_response_id'.",
    "Only no echo is supported",
    "Unsupported param",
    "logprobs is not supported with tools + stream",
    "top_logprobs requires logprobs to be set to true",
    "request (# tokens) exceeds the available context size (# tokens)",
    // Of conversations and tools.
    "Failed to parse messages",
    "Failed to parse tools",
    "Failed to parse tool call arguments as JSON",
    "Expected 'messages' to be an array",
    "Expected 'message' to be an object",
    "Expected 'content' to be a string or an array",
    "Expected 'tools' to be an array",
    "'tools' must be an array of objects",
    "Invalid 'content' type: expected string or array",
    "All non-assistant messages must contain 'content'",
    "Assistant message must contain either 'content' or 'tool_calls'!",
    "Missing 'role' in message",
    "Missing content part type",
    "Missing tool type",
    "Missing tool function",
    "Missing tool call type",
    "Missing tool call function",
    "Missing tool call name",
    "Unsupported content part type",
    "unsupported content[].type",
    "Unsupported tool type",
    "Unsupported tool call type",
    "Invalid tool_choice",
    "Unknown reasoning format",
    "invalid type for \"enable_thinking\" (expected boolean",
    "Cannot have 2 or more assistant messages at the end of the list.",
    "Cannot set both add_generation_prompt and continue_final_message to true.",
    "Cannot specify both content and content_parts",
    "Conversation roles must alternate user/assistant/user/assistant/...",
    "Unable to generate parser for this template. Automatic parser generation failed",
    "requires --jinja flag",
    "image input is not supported",
    "audio input is not supported",
    "video input is not supported",
    "Multimodal data provided, but model does not support multimodal requests.",
    "Failed to load image or audio file",
    // Of what the output must look like.
    "response_format type must be one of \"text\" or \"json_object\"",
    "Cannot use both json_schema and grammar",
    "Cannot specify grammar with tools",
    "Cannot use custom grammar constraints with tools.",
    "JSON schema conversion failed",
    "Unrecognized schema",
    "Unsupported ref",
    "Error resolving ref",
    "Pattern must start with '^' and end with '$'",
    "Failed to initialize samplers",
    "failed to parse grammar",
    // Of its own faults, and of how it was started.
    "Invalid API Key",
    "File Not Found",
    "Loading model",
    "This server does not support embeddings. Start it with `--embeddings`",
    "This server does not support reranking. Start it with `--reranking`",
    "Context size has been exceeded.",
    "input (# tokens) is too large to process. increase the physical batch size (current batch size: #)",
    "Invalid input batch.",
    "Compute error.",
    "Unexpected empty grammar stack after accepting piece",
    "Failed to parse input at pos #",
    "The model produced output that does not match the expected",
    "An unknown error occurred",
];

const JSON_KINDS: [&str; 7] = ["null", "object", "array", "string", "boolean", "number", "binary"];

/// Bytes of a message that are searched; what llama-server says for itself stands at its beginning.
const SEARCHED: usize = 4096;

/// The known phrases of a message, in its order; empty if there are none.
pub(super) fn own(message: &str) -> String {
    let (mut own, (mut rest, _)) = (String::new(), message.split_at(message.floor_char_boundary(SEARCHED)));
    while !rest.is_empty() {
        let known = PHRASES.iter().filter_map(|phrase| begins(rest, phrase)).max();
        match known {
            Some(length) => {
                let (phrase, behind) = rest.split_at(length);
                if !own.is_empty() {
                    own.push_str(": ");
                }
                own.push_str(phrase);
                rest = behind;
            }
            None => rest = rest.get(rest.ceil_char_boundary(1)..).unwrap_or_default(),
        }
    }
    own
}

/// How many bytes of the text are this phrase, if it begins with it.
fn begins(text: &str, phrase: &str) -> Option<usize> {
    let mut rest = text;
    for char in phrase.chars() {
        rest = match char {
            '#' => {
                let number = rest.trim_start_matches(|char: char| char.is_ascii_digit() || ".-".contains(char));
                (number.len() < rest.len()).then_some(number)?
            }
            '@' => JSON_KINDS.iter().find_map(|kind| rest.strip_prefix(kind))?,
            char => rest.strip_prefix(char)?,
        };
    }
    Some(text.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_message_only_known_phrases_are_kept() {
        let messages = [
            ("Invalid tool_choice: sometimes", "Invalid tool_choice"),
            (
                "Failed to parse tools: Unsupported tool type: {\"type\":\"odd\"}; tools = [\n]",
                "Failed to parse tools: Unsupported tool type",
            ),
            (
                "[json.exception.type_error.302] type must be string, but is number",
                "type must be string, but is number",
            ),
            (
                "Value must be between 1 <= value <= 2, but got -5.5",
                "Value must be between 1 <= value <= 2, but got -5.5",
            ),
            ("Value must be between my <= value <= secrets", ""),
            ("a prompt, é", ""),
            ("", ""),
        ];
        for (message, own_words) in messages {
            assert_eq!(own(message), own_words);
        }
    }
}
