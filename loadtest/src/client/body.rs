//! Request bodies of the six APIs.
//!
//! Takes what a tenant always sends (its `Form`) and one turn of a session; gives JSON.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::plan::{Session, Turn};
use crate::workload::{Surface, Tenant};

/// Into how many pieces of the same length the prompt of a rerank request is cut: a query, and documents.
const RERANK_PIECES: usize = 5;

/// What is the same in all requests of a tenant.
#[derive(Clone, Debug)]
pub struct Form {
    surface: Surface,
    /// The fields that never change, as the text of a JSON object.
    constant: Vec<u8>,
}

impl Form {
    /// The form of a tenant that asks for `model`.
    ///
    /// # Errors
    /// When a further field is nothing that JSON has.
    pub fn new(tenant: &Tenant, model: &str) -> Result<Self, serde_json::Error> {
        let mut constant = Map::new();
        for (name, value) in &tenant.fields {
            constant.insert(name.clone(), serde_json::to_value(value)?);
        }
        constant.insert("model".to_owned(), json!(model));
        let generates = !matches!(tenant.surface, Surface::Embeddings | Surface::Rerank);
        if tenant.fill_output && generates {
            constant.insert("ignore_eos".to_owned(), json!(true));
        }
        if tenant.tools {
            constant.extend(tools(tenant.surface));
        }
        Ok(Self { surface: tenant.surface, constant: serde_json::to_vec(&constant)? })
    }

    /// The path at the server.
    pub fn path(&self) -> &'static str {
        match self.surface {
            Surface::Chat => "/v1/chat/completions",
            Surface::Completions => "/v1/completions",
            Surface::Responses => "/v1/responses",
            Surface::Messages => "/v1/messages",
            Surface::Embeddings => "/v1/embeddings",
            Surface::Rerank => "/v1/rerank",
        }
    }

    /// The body of a session's turn; `answers` are those to the turns before it.
    pub fn body(&self, session: &Session, turn: &Turn, answers: &[String]) -> Bytes {
        let talk = Talk { session, turn, answers };
        let mut body = Vec::with_capacity(self.constant.len() + talk.bytes() + 256);
        match self.surface {
            Surface::Chat => write(&mut body, &Chat::new(&talk)),
            Surface::Completions => write(&mut body, &Completion::new(turn)),
            Surface::Responses => write(&mut body, &Response::new(&talk)),
            Surface::Messages => write(&mut body, &Anthropic::new(&talk)),
            Surface::Embeddings => write(&mut body, &Embedding { input: &turn.prompt }),
            Surface::Rerank => write(&mut body, &Rerank::new(&turn.prompt)),
        }
        // Both are objects with at least one field: the one goes on where the other ends.
        body.pop();
        body.push(b',');
        body.extend_from_slice(self.constant.get(1..).unwrap_or_default());
        body.into()
    }
}

#[expect(clippy::expect_used, reason = "texts, numbers and lists of them can be written, and a Vec takes them")]
fn write(body: &mut Vec<u8>, fields: &impl Serialize) {
    serde_json::to_writer(body, fields).expect("JSON in memory");
}

/// The tool that must be called, as each API wants to be told.
fn tools(surface: Surface) -> Map<String, Value> {
    let name = "get_weather";
    let description = "The weather of the coming days in a city.";
    let parameters = json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    });
    let fields = match surface {
        Surface::Chat => json!({
            "tools": [{"type": "function", "function":
                {"name": name, "description": description, "parameters": parameters}}],
            "tool_choice": "required",
        }),
        Surface::Responses => json!({
            "tools": [{"type": "function", "name": name, "description": description, "parameters": parameters}],
            "tool_choice": "required",
        }),
        Surface::Messages => json!({
            "tools": [{"name": name, "description": description, "input_schema": parameters}],
            "tool_choice": {"type": "any"},
        }),
        // These have no tools.
        Surface::Completions | Surface::Embeddings | Surface::Rerank => json!({}),
    };
    if let Value::Object(fields) = fields { fields } else { Map::new() }
}

/// A conversation up to the turn that is sent.
struct Talk<'a> {
    session: &'a Session,
    turn: &'a Turn,
    answers: &'a [String],
}

impl<'a> Talk<'a> {
    /// The turns so far, each as what was said and what was answered.
    fn past(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.session.turns.iter().map(|turn| turn.prompt.as_str()).zip(self.answers.iter().map(String::as_str))
    }

    fn bytes(&self) -> usize {
        let past: usize = self.past().map(|(prompt, answer)| prompt.len() + answer.len() + 64).sum();
        past + self.session.system.as_ref().map_or(0, String::len) + self.turn.prompt.len()
    }

    fn messages(&self, system: Option<&'a str>) -> Vec<Message<'a>> {
        let mut messages = Vec::with_capacity(2 * self.answers.len() + 2);
        messages.extend(system.map(|content| Message { role: "system", content }));
        for (prompt, answer) in self.past() {
            messages.push(Message { role: "user", content: prompt });
            messages.push(Message { role: "assistant", content: answer });
        }
        messages.push(Message { role: "user", content: &self.turn.prompt });
        messages
    }
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// Without it, streams of these APIs do not tell their usage.
fn stream_options(turn: &Turn) -> Option<StreamOptions> {
    turn.streamed.then_some(StreamOptions { include_usage: true })
}

#[derive(Serialize)]
struct Chat<'a> {
    messages: Vec<Message<'a>>,
    max_tokens: u64,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

impl<'a> Chat<'a> {
    fn new(talk: &Talk<'a>) -> Self {
        Self {
            messages: talk.messages(talk.session.system.as_deref()),
            max_tokens: talk.turn.output_tokens,
            stream: talk.turn.streamed,
            stream_options: stream_options(talk.turn),
        }
    }
}

#[derive(Serialize)]
struct Completion<'a> {
    prompt: &'a str,
    max_tokens: u64,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

impl<'a> Completion<'a> {
    fn new(turn: &'a Turn) -> Self {
        Self {
            prompt: &turn.prompt,
            max_tokens: turn.output_tokens,
            stream: turn.streamed,
            stream_options: stream_options(turn),
        }
    }
}

#[derive(Serialize)]
struct Response<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<&'a str>,
    input: Vec<Item<'a>>,
    max_output_tokens: u64,
    stream: bool,
}

/// What was said is text; what was answered must be told as the output that it was.
#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Said(Message<'a>),
    Answered { r#type: &'static str, role: &'static str, content: [OutputText<'a>; 1] },
}

#[derive(Serialize)]
struct OutputText<'a> {
    r#type: &'static str,
    text: &'a str,
}

impl<'a> Response<'a> {
    fn new(talk: &Talk<'a>) -> Self {
        let item = |message: Message<'a>| match message.role {
            "assistant" => Item::Answered {
                r#type: "message",
                role: "assistant",
                content: [OutputText { r#type: "output_text", text: message.content }],
            },
            _ => Item::Said(message),
        };
        Self {
            instructions: talk.session.system.as_deref(),
            input: talk.messages(None).into_iter().map(item).collect(),
            max_output_tokens: talk.turn.output_tokens,
            stream: talk.turn.streamed,
        }
    }
}

#[derive(Serialize)]
struct Anthropic<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<&'a str>,
    messages: Vec<Message<'a>>,
    max_tokens: u64,
    stream: bool,
}

impl<'a> Anthropic<'a> {
    fn new(talk: &Talk<'a>) -> Self {
        Self {
            system: talk.session.system.as_deref(),
            messages: talk.messages(None),
            max_tokens: talk.turn.output_tokens,
            stream: talk.turn.streamed,
        }
    }
}

#[derive(Serialize)]
struct Embedding<'a> {
    input: &'a str,
}

#[derive(Serialize)]
struct Rerank {
    query: String,
    documents: Vec<String>,
}

impl Rerank {
    fn new(prompt: &str) -> Self {
        let words: Vec<&str> = prompt.split(' ').collect();
        let mut pieces = words.chunks(words.len().div_ceil(RERANK_PIECES)).map(|words| words.join(" "));
        let query = pieces.next().unwrap_or_default();
        let documents: Vec<String> = pieces.collect();
        // A prompt of one word: there must be something to rank.
        let documents = if documents.is_empty() { vec![query.clone()] } else { documents };
        Self { query, documents }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn turn(prompt: &str, streamed: bool) -> Turn {
        Turn {
            prompt: prompt.to_owned(),
            prompt_tokens: 3,
            output_tokens: 16,
            pause: Duration::ZERO,
            streamed,
            leave: None,
            slow_reader: None,
        }
    }

    /// The body of the second turn of a session with a system prompt.
    fn second(surface: Surface, tools: bool) -> Value {
        let fields = [("temperature".to_owned(), toml::Value::Float(0.5))].into();
        let tenant = Tenant { surface, tools, fields, ..Tenant::default() };
        let turns = vec![turn("one \"two\"", true), turn("three four", true)];
        let session = Session { number: 0, system: Some("be good".to_owned()), system_tokens: 2, turns };
        let form = Form::new(&tenant, "m").unwrap();
        let body = form.body(&session, &session.turns[1], &["an answer".to_owned()]);
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn a_chat_request_holds_the_conversation_so_far() {
        assert_eq!(
            second(Surface::Chat, false),
            json!({
                "model": "m", "temperature": 0.5, "ignore_eos": true, "max_tokens": 16,
                "stream": true, "stream_options": {"include_usage": true},
                "messages": [
                    {"role": "system", "content": "be good"},
                    {"role": "user", "content": "one \"two\""},
                    {"role": "assistant", "content": "an answer"},
                    {"role": "user", "content": "three four"},
                ],
            })
        );
    }

    #[test]
    fn a_completion_request_has_a_prompt_and_no_conversation() {
        assert_eq!(
            second(Surface::Completions, true),
            json!({
                "model": "m", "temperature": 0.5, "ignore_eos": true, "max_tokens": 16, "prompt": "three four",
                "stream": true, "stream_options": {"include_usage": true},
            })
        );
    }

    #[test]
    fn a_responses_request_tells_answers_as_output() {
        assert_eq!(
            second(Surface::Responses, false),
            json!({
                "model": "m", "temperature": 0.5, "ignore_eos": true, "max_output_tokens": 16, "stream": true,
                "instructions": "be good",
                "input": [
                    {"role": "user", "content": "one \"two\""},
                    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "an answer"}]},
                    {"role": "user", "content": "three four"},
                ],
            })
        );
    }

    #[test]
    fn a_messages_request_has_its_system_prompt_apart() {
        let body = second(Surface::Messages, true);
        assert_eq!(body["system"], "be good");
        assert_eq!(body["messages"][1], json!({"role": "assistant", "content": "an answer"}));
        assert_eq!(body["max_tokens"], 16);
        assert_eq!(body["tool_choice"], json!({"type": "any"}));
        assert_eq!(body["tools"][0]["input_schema"]["type"], "object");
        assert_eq!(body.get("stream_options"), None);
    }

    #[test]
    fn tools_are_told_as_each_api_wants_them() {
        assert_eq!(second(Surface::Chat, true)["tools"][0]["function"]["name"], "get_weather");
        assert_eq!(second(Surface::Responses, true)["tools"][0]["name"], "get_weather");
    }

    #[test]
    fn embeddings_and_rerank_send_the_prompt_alone() {
        assert_eq!(
            second(Surface::Embeddings, false),
            json!({"model": "m", "temperature": 0.5, "input": "three four"})
        );
        let rerank = second(Surface::Rerank, false);
        assert_eq!((&rerank["query"], &rerank["documents"]), (&json!("three"), &json!(["four"])));
        assert_eq!(Rerank::new("a b c d e f g").documents, ["c d", "e f", "g"]);
        assert_eq!(Rerank::new("alone").documents, ["alone"]);
    }

    #[test]
    fn what_is_not_streamed_asks_for_no_usage_of_streams() {
        let tenant = Tenant { fill_output: false, ..Tenant::default() };
        let session = Session { number: 0, system: None, system_tokens: 0, turns: vec![turn("one", false)] };
        let body = Form::new(&tenant, "m").unwrap().body(&session, &session.turns[0], &[]);
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap(),
            json!({"model": "m", "max_tokens": 16, "stream": false, "messages": [{"role": "user", "content": "one"}]})
        );
    }
}
