//! A request that wants something generated: its body as what the model is asked for and how the reply is to look.

use serde_json::{Value, json};

use super::super::fault::Fault;
use super::super::model::{Request, Sequence};
use super::super::server::App;
use super::super::words::{Reply, Token, fingerprint, mixed};
use super::about::Show;
use super::error::ApiError;
use super::fields::Fields;
use super::plan::{Plan, demanded_call};
use super::prompt;

/// The APIs that generate text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
}

/// What is asked.
pub(crate) struct Ask {
    /// Of which API.
    pub(crate) surface: Surface,
    /// What the model must do.
    pub(crate) request: Request,
    /// What it will say, one for each sequence.
    pub(crate) plans: Vec<Plan>,
    /// What the reply shows.
    pub(crate) show: Show,
    /// What goes wrong.
    pub(crate) fault: Option<Fault>,
}

impl Surface {
    /// The prompts of a body, as tokens.
    ///
    /// # Errors
    /// As llama-server's.
    pub(crate) fn prompts(self, app: &App, body: &Value) -> Result<Vec<Vec<Token>>, ApiError> {
        let text = match self {
            Self::Chat => prompt::chat(body)?,
            Self::Responses => prompt::responses(body)?,
            Self::Messages => prompt::messages(body)?,
            Self::Completions => return prompt::completion(&app.tokenizer, body),
        };
        Ok(vec![app.tokenizer.tokens(&text)])
    }
}

/// What the Messages API passes on; its other fields do nothing.
const OF_MESSAGES: [&str; 8] =
    ["max_tokens", "temperature", "top_p", "top_k", "stream", "stop_sequences", "chat_template_kwargs", "sim_fault"];
/// Where a message has no limit of its own.
const MESSAGE_LIMIT: u64 = 4096;

impl Surface {
    /// The fields beside the prompt, under the names of a chat, as llama-server converts them.
    fn settings(self, body: &Value) -> Value {
        let mut fields = body.as_object().cloned().unwrap_or_default();
        match self {
            Self::Chat | Self::Completions => {}
            Self::Responses => {
                if let Some(limit) = fields.remove("max_output_tokens") {
                    fields.insert("max_tokens".to_owned(), limit);
                }
            }
            Self::Messages => {
                fields.retain(|name, _| OF_MESSAGES.contains(&name.as_str()));
                fields.entry("max_tokens").or_insert(json!(MESSAGE_LIMIT));
            }
        }
        fields.into()
    }
}

impl Ask {
    /// Reads a body.
    ///
    /// # Errors
    /// As llama-server's.
    pub(crate) fn read(app: &App, surface: Surface, body: &Value) -> Result<Self, ApiError> {
        let prompts = surface.prompts(app, body)?;
        let settings = surface.settings(body);
        let fields = Fields::of(&settings)?;
        let choices = fields.choices(app.options.profile.slots)?;
        let fault = match fields.fault() {
            Some(name) => Some(name.parse().map_err(|error| ApiError::invalid(format!("{error}")))?),
            None => app.faults().take(),
        };
        let call = if surface == Surface::Completions { None } else { demanded_call(body) };
        let (mut sequences, mut plans) = (Vec::new(), Vec::new());
        for prompt in &prompts {
            for choice in 0..choices {
                let (sequence, plan) = sequence(app, surface, fields, prompt.clone(), (choice as u64, call.clone()));
                sequences.push(Sequence { trouble: trouble(fault, &sequence), ..sequence });
                plans.push(plan);
            }
        }
        let streamed = fields.flag("stream");
        let show = Show {
            usage: fields.get("stream_options").is_some_and(|options| options["include_usage"] == true),
            timings: fields.flag("timings_per_token"),
            progress: fields.flag("return_progress"),
        };
        let ping = fields.number("sse_ping_interval").and_then(|seconds| u64::try_from(seconds).ok());
        let ping = ping.map(std::time::Duration::from_secs);
        let request = Request { sequences, together: choices > 1, streamed, ping };
        Ok(Self { surface, request, plans, show, fault })
    }
}

fn sequence(
    app: &App,
    surface: Surface,
    fields: Fields<'_>,
    prompt: Vec<Token>,
    (choice, call): (u64, Option<Reply>),
) -> (Sequence, Plan) {
    let room = app.options.profile.context.saturating_sub(prompt.len()) as u64;
    let limit = fields.limit();
    let seed = mixed(fingerprint(&prompt) ^ choice);
    let reply = call.unwrap_or(Reply::Words { seed });
    let reasoning = if surface == Surface::Completions { 0 } else { app.options.reasoning_tokens };
    let most = limit.unwrap_or(room).min(room);
    let plan = Plan::new(reply.clone(), reasoning, &fields.stops(), most);
    // A model that is left alone says half to one and a half of the usual.
    let usual = app.options.reply_tokens;
    let own_end = (usual > 0 && !fields.flag("ignore_eos")).then(|| (usual / 2 + mixed(seed) % usual).max(1));
    let ends = [reply.length(), plan.stop.as_ref().map(|stop| stop.token), own_end];
    let cached = fields.get("cache_prompt").and_then(Value::as_bool).unwrap_or(true);
    let ends_at = ends.into_iter().flatten().min();
    (Sequence { prompt, reply, ends_at, limit, cached, trouble: None }, plan)
}

/// Where in the reply a fault of the model happens.
fn trouble(fault: Option<Fault>, sequence: &Sequence) -> Option<super::super::model::Trouble> {
    let tokens = [sequence.ends_at, sequence.limit].into_iter().flatten().min();
    fault?.trouble(tokens.unwrap_or(2))
}
