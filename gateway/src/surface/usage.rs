//! Where the usage sits in a reply of one piece, and what is wrong with it there.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::json::Members;
use super::{Ask, Surface};
use crate::ledger::{Count, CountedBy};

#[derive(Deserialize)]
struct Reply {
    usage: Usage,
    #[serde(default)]
    choices: Vec<Choice>,
}

/// The names of all surfaces side by side: each reply has some of them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Details,
    input_tokens: u64,
    output_tokens: u64,
    input_tokens_details: Details,
    cache_read_input_tokens: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: u64,
}

#[derive(Deserialize)]
struct Choice {
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Vec<IgnoredAny>,
}

/// Reads the usage of a whole reply (`None` if there is none that can be read) and sets right what llama-server
/// counts wrong in it: of several choices it counts the first one only. The others are counted by their log
/// probabilities, one entry a token.
pub fn of_reply(ask: &Ask, reply: Bytes) -> (Bytes, Option<Count>) {
    let Ok(Reply { usage, choices }) = serde_json::from_slice(&reply) else { return (reply, None) };
    let (prompt, cached, completion) = match ask.surface {
        Surface::Responses => (usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens),
        // Anthropic's input tokens are those that were not in the cache.
        Surface::Messages => {
            (usage.input_tokens + usage.cache_read_input_tokens, usage.cache_read_input_tokens, usage.output_tokens)
        }
        _ => (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens),
    };
    let count = Count { prompt, cached, completion, by: CountedBy::Usage, ..Count::default() };
    let generated: Option<Vec<u64>> =
        choices.iter().map(|choice| Some(choice.logprobs.as_ref()?.content.len() as u64)).collect();
    match generated {
        Some(generated) if generated.len() > 1 => {
            let count = Count { completion: generated.iter().sum(), ..count };
            (with_usage(&reply, &count).unwrap_or(reply), Some(count))
        }
        _ => (reply, Some(count)),
    }
}

/// The reply with another usage; all else stays to the byte.
fn with_usage(reply: &Bytes, count: &Count) -> Option<Bytes> {
    let Members(members) = serde_json::from_slice(reply).ok()?;
    let (_, usage) = members.iter().find(|(name, _)| name == "usage")?;
    let start = usage.get().as_ptr().addr().checked_sub(reply.as_ptr().addr())?;
    let Count { prompt, cached, completion, .. } = count;
    let total = prompt + completion;
    let summed = format!(
        r#"{{"completion_tokens":{completion},"prompt_tokens":{prompt},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached}}}}}"#
    );
    let after = reply.get(start + usage.get().len()..)?;
    Some([reply.get(..start)?, summed.as_bytes(), after].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surface::fields::{Bounds, read};

    fn count(surface: Surface, request: &str, reply: &str) -> (String, Option<Count>) {
        let config = crate::config::load(None, std::iter::empty(), &crate::config::Overrides::default()).unwrap();
        let bounds = Bounds::new(&config.requests).unwrap();
        let ask = read(surface, &Bytes::copy_from_slice(request.as_bytes()), &bounds, 32_768).unwrap();
        let (reply, count) = of_reply(&ask, Bytes::copy_from_slice(reply.as_bytes()));
        (String::from_utf8(reply.to_vec()).unwrap(), count)
    }

    const MESSAGES: &str = r#"{"messages":[],"max_tokens":9}"#;

    #[test]
    fn each_surface_names_its_tokens_in_its_own_way() {
        let chat = r#"{"usage":{"completion_tokens":3,"prompt_tokens":32,"total_tokens":35,"prompt_tokens_details":{"cached_tokens":31}}}"#;
        let messages = r#"{"usage":{"cache_read_input_tokens":31,"input_tokens":1,"output_tokens":3}}"#;
        let responses = r#"{"usage":{"input_tokens":32,"output_tokens":3,"total_tokens":35,"input_tokens_details":{"cached_tokens":31}}}"#;
        let expected = Some(Count { prompt: 32, cached: 31, completion: 3, by: CountedBy::Usage, ..Count::default() });
        assert_eq!(count(Surface::Chat, MESSAGES, chat), (chat.to_owned(), expected));
        assert_eq!(count(Surface::Messages, MESSAGES, messages).1, expected);
        assert_eq!(count(Surface::Responses, r#"{"input":"x"}"#, responses).1, expected);
    }

    #[test]
    fn embeddings_have_a_prompt_only() {
        let reply = r#"{"usage":{"prompt_tokens":7,"total_tokens":7},"data":[]}"#;
        assert_eq!(count(Surface::Embeddings, r#"{"input":"x"}"#, reply).1.unwrap().prompt, 7);
        assert_eq!(count(Surface::Embeddings, r#"{"input":"x"}"#, "[]").1, None);
    }

    #[test]
    fn all_choices_are_counted_by_their_log_probabilities() {
        let reply = r#"{"choices":[{"logprobs":{"content":[{},{}]}},{"logprobs":{"content":[{},{},{}]}}],"usage":{"completion_tokens":2,"prompt_tokens":5,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":1}},"id":1.50}"#;
        let (reply, count) = count(Surface::Chat, r#"{"messages":[],"n":2,"logprobs":true}"#, reply);
        assert_eq!(count.unwrap().completion, 5);
        let usage = r#""usage":{"completion_tokens":5,"prompt_tokens":5,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":1}},"id":1.50}"#;
        assert!(reply.ends_with(usage), "{reply}");
    }
}
