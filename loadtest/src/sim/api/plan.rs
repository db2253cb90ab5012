//! What will be said in reply to one prompt: which tokens are thoughts, text or a call, and what ends it.

use serde_json::{Value, json};

use super::super::words::{Reply, pieces};

/// A reply before it is generated.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its tokens.
    pub(crate) reply: Reply,
    /// How many of them, from the first, are thoughts.
    pub(crate) reasoning: u64,
    /// What ends it before its own end, if anything.
    pub(crate) stop: Option<Stop>,
}

/// A stop sequence that will come.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stop {
    /// The sequence.
    pub(crate) word: String,
    /// The token that completes it, from 1.
    pub(crate) token: u64,
    /// Bytes of text before it.
    keep: usize,
}

/// What one token says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Piece<'a> {
    /// A thought.
    Reasoning(&'a str),
    /// Text; empty where it belongs to a stop sequence.
    Text(&'a str),
    /// A part of a call's arguments.
    Call(&'a str),
}

impl Plan {
    /// A reply, with the first of `stops` that comes within `most` tokens.
    pub(crate) fn new(reply: Reply, reasoning: u64, stops: &[&str], most: u64) -> Self {
        let reasoning = if matches!(reply, Reply::Words { .. }) { reasoning } else { 0 };
        let plan = Self { reply, reasoning, stop: None };
        let stop = if stops.is_empty() { None } else { plan.find(stops, most) };
        Self { stop, ..plan }
    }

    fn find(&self, stops: &[&str], most: u64) -> Option<Stop> {
        let mut text = String::new();
        for token in self.reasoning..most {
            text.push_str(self.reply.piece(token));
            let found = stops.iter().filter_map(|stop| Some((text.find(stop)?, stop)));
            if let Some((keep, word)) = found.min_by_key(|(at, _)| *at) {
                return Some(Stop { word: (*word).to_owned(), token: token + 1, keep });
            }
        }
        None
    }

    /// What a token says, from 1.
    pub(crate) fn piece(&self, token: u64) -> Piece<'_> {
        let at = token.saturating_sub(1);
        let piece = self.reply.piece(at);
        match (&self.reply, &self.stop) {
            (Reply::Call { .. }, _) => Piece::Call(piece),
            _ if at < self.reasoning => Piece::Reasoning(piece),
            (_, None) => Piece::Text(piece),
            (_, Some(stop)) => {
                let before: usize = (self.reasoning..at).map(|at| self.reply.piece(at).len()).sum();
                let room = stop.keep.saturating_sub(before).min(piece.len());
                Piece::Text(piece.get(..room).unwrap_or_default())
            }
        }
    }

    /// All text of so many tokens.
    pub(crate) fn text(&self, tokens: u64) -> String {
        self.joined(tokens, |piece| if let Piece::Text(text) = piece { text } else { "" })
    }

    /// All thoughts of so many tokens.
    pub(crate) fn reasoning_text(&self, tokens: u64) -> String {
        self.joined(tokens, |piece| if let Piece::Reasoning(text) = piece { text } else { "" })
    }

    /// The function that is called and the arguments so far, if one is.
    pub(crate) fn call(&self, tokens: u64) -> Option<(&str, String)> {
        let Reply::Call { name, .. } = &self.reply else { return None };
        Some((name, self.joined(tokens, |piece| if let Piece::Call(part) = piece { part } else { "" })))
    }

    fn joined<'a>(&'a self, tokens: u64, text: impl Fn(Piece<'a>) -> &'a str) -> String {
        (1..=tokens).map(|token| text(self.piece(token))).collect()
    }
}

/// The call that a request demands: of the first of its tools, or of the one it names.
pub(crate) fn demanded_call(body: &Value) -> Option<Reply> {
    let choice = body.get("tool_choice")?;
    let wanted = choice["function"]["name"].as_str().or_else(|| choice["name"].as_str());
    let demands = choice == "required" || choice["type"] == "any" || wanted.is_some();
    let tools = body.get("tools")?.as_array().filter(|_| demands)?;
    let name = |tool: &Value| tool["function"]["name"].as_str().or_else(|| tool["name"].as_str()).map(str::to_owned);
    let tool = tools.iter().find(|tool| wanted.is_none() || name(tool).as_deref() == wanted)?;
    let schemas = [&tool["function"]["parameters"], &tool["parameters"], &tool["input_schema"]];
    let schema = schemas.into_iter().find(|schema| schema.is_object());
    let arguments = schema.map_or_else(|| json!({}), arguments).to_string();
    Some(Reply::Call { name: name(tool)?, arguments: pieces(&arguments).map(str::to_owned).collect() })
}

/// Arguments that fit a schema of plain properties.
fn arguments(schema: &Value) -> Value {
    let properties = schema["properties"].as_object();
    let argument = |(name, schema): (&String, &Value)| {
        let value = match (schema["enum"].get(0), schema["type"].as_str()) {
            (Some(first), _) => first.clone(),
            (_, Some("integer" | "number")) => json!(1),
            (_, Some("boolean")) => json!(true),
            (_, Some("array")) => json!([]),
            (_, Some("object")) => json!({}),
            _ => json!("river"),
        };
        (name.clone(), value)
    };
    Value::Object(properties.map(|properties| properties.iter().map(argument).collect()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_sequence_cuts_the_text_where_it_begins() {
        let whole = Plan::new(Reply::Words { seed: 3 }, 2, &[], 0);
        let text = whole.text(40);
        let word: Vec<_> = text.split(' ').collect();
        let stop = format!("{} {}", &word[7][1..], &word[8][..1]);
        let plan = Plan::new(Reply::Words { seed: 3 }, 2, &[&stop, "never said"], 40);
        let found = plan.stop.clone().unwrap();
        assert!(found.token <= 2 + 8, "{found:?}");
        assert_eq!(plan.text(found.token), &text[..text.find(&stop).unwrap()]);
        assert_eq!(plan.reasoning_text(found.token), whole.reasoning_text(2));
    }

    #[test]
    fn a_demanded_call_has_arguments_that_fit() {
        let parameters =
            json!({"type": "object", "properties": {"city": {"enum": ["Rome"]}, "days": {"type": "integer"}}});
        let chat = json!({"tools": [{"type": "function", "function": {"name": "weather", "parameters": parameters}}],
            "tool_choice": "required"});
        let messages = json!({"tools": [{"name": "other"}, {"name": "weather", "input_schema": parameters}],
            "tool_choice": {"type": "tool", "name": "weather"}});
        for body in [chat, messages] {
            let reply = demanded_call(&body).unwrap();
            let plan = Plan::new(reply.clone(), 5, &[], 0);
            let (name, arguments) = plan.call(reply.length().unwrap()).unwrap();
            assert_eq!((name, arguments.as_str()), ("weather", r#"{"city":"Rome","days":1}"#));
        }
        assert_eq!(demanded_call(&json!({"tools": [{"name": "a"}], "tool_choice": "auto"})), None);
    }
}
