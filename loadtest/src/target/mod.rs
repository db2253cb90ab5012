//! Before a run: is there somebody to ask, are the keys good, what does llama-server say of itself, and which words are
//! one token each.
//!
//! Takes the target's client and, of each tenant, name, key and model; gives what the report says of the target, the
//! words, and warnings. What cannot be measured at all is an error; what only makes the numbers less exact is a warning.

pub(crate) mod counters;
mod vocabulary;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::{Answer, Client, ClientError, Message, Options};
use crate::report;

/// Between two questions to a server that is loading its model.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of a server's own words in an error message, at most.
const QUOTED: usize = 200;

/// A server that may be asked with a key.
#[derive(Clone)]
pub struct Server {
    /// Its base URL, for people.
    pub url: String,
    /// Its client.
    pub client: Client,
    /// The key that it wants, if it wants one.
    pub key: Option<String>,
}

impl Server {
    /// The server at `url`, to be asked with `key`.
    ///
    /// # Errors
    /// There is no client for such a URL.
    pub fn new(url: &str, key: Option<String>, options: &Options) -> Result<Self, ClientError> {
        Ok(Self { url: url.trim_end_matches('/').to_owned(), client: Client::new(url, options)?, key })
    }

    /// The same server, asked with another key.
    pub fn with_key(&self, key: Option<String>) -> Self {
        Self { key, ..self.clone() }
    }

    /// A whole reply to a GET with its key.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.client.get(path, self.key.as_deref()).await
    }

    /// A chat request whose streamed answer goes on up to `output_tokens`, for who measures the server and not what it
    /// says.
    pub(crate) fn long_stream(&self, model: &str, prompt: &str, output_tokens: u32) -> Result<Message, ClientError> {
        let body = json!({
            "model": model,
            "messages": [{ "role": "user", "content": prompt }],
            "max_tokens": output_tokens,
            "ignore_eos": true,
            "stream": true,
        });
        let mut message = self.client.message(Method::POST, "/v1/chat/completions", self.key.as_deref())?;
        message.body = body.to_string().into();
        Ok(message)
    }
}

/// Who will ask the target for what.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The tenant's name.
    pub tenant: String,
    /// Its API key; none where the target wants none.
    pub key: Option<String>,
    /// The model that it asks for.
    pub model: String,
}

/// What was found out.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What the report says of the target.
    pub target: report::Target,
    /// Words that are one token each when a space is before them: n of them have n tokens. Empty: there is no
    /// tokenizer to ask, and lengths of prompts are estimates.
    pub words: Vec<String>,
    /// What makes the numbers less exact, for people.
    pub warnings: Vec<String>,
}

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// Nobody answers.
    #[error(
        "{url} cannot be reached: {why}\nhint: is the server running, is this its address and port, and is http or https right?"
    )]
    Unreachable {
        /// The address that was asked.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// The target does not accept a key.
    #[error(
        "the key of tenant {tenant} is refused by {url} ({status})\n\
         hint: the key may be mistyped, revoked, or of another gateway; `llama-gateway keys list` shows those that count"
    )]
    KeyRefused {
        /// Whose.
        tenant: String,
        /// Who refused it.
        url: String,
        /// 401 or 403.
        status: StatusCode,
    },
    /// The model is not loaded in time.
    #[error(
        "{url} still answers {status} after {seconds} s: {said}\nhint: a large model takes minutes to load; wait for /health"
    )]
    NotReady {
        /// Who.
        url: String,
        /// Its last status.
        status: StatusCode,
        /// How long it was waited for.
        seconds: u64,
        /// What it said.
        said: String,
    },
    /// It answers, with an error.
    #[error(
        "{url}{path} answers {status}: {said}\nhint: the target must speak OpenAI's API; give its base URL without /v1"
    )]
    Refuses {
        /// Who.
        url: String,
        /// What was asked.
        path: &'static str,
        /// The status.
        status: StatusCode,
        /// What it said.
        said: String,
    },
}

/// Looks at the target (with each asker's key, not its own), and at the llama-servers behind it if their addresses are
/// known. A server that is loading its model is waited for, `patience` at most.
///
/// # Errors
/// The target, or one of the llama-servers, cannot be used as it is.
pub async fn examine(
    target: &Server,
    upstreams: &[Server],
    askers: &[Asker],
    patience: Duration,
) -> Result<Found, Unfit> {
    let mut found = Found::default();
    target.url.clone_into(&mut found.target.url);
    for asker in askers {
        greet(target, asker, patience, &mut found.warnings).await?;
    }
    let itself = target.with_key(askers.iter().find_map(|asker| asker.key.clone()));
    if upstreams.is_empty() {
        if let Some(properties) = Properties::ask(&itself).await.ok().flatten() {
            properties.add_to(&mut found.target);
        }
    } else {
        let urls: Vec<_> = upstreams.iter().map(|upstream| upstream.url.as_str()).collect();
        found.target.upstream = Some(urls.join(", "));
    }
    for upstream in upstreams {
        wait_until_loaded(upstream, patience).await?;
        match Properties::ask(upstream).await? {
            Some(properties) => properties.add_to(&mut found.target),
            None => found.warnings.push(format!("{} does not tell its slots (/props)", upstream.url)),
        }
    }
    match vocabulary::ask(upstreams.first().unwrap_or(&itself)).await {
        Ok(words) => found.words = words,
        Err(why) => found.warnings.push(format!("lengths of prompts are estimates: {why}")),
    }
    found.target.exact_prompts = !found.words.is_empty();
    Ok(found)
}

/// Asks for the models with a tenant's key.
async fn greet(target: &Server, asker: &Asker, patience: Duration, warnings: &mut Vec<String>) -> Result<(), Unfit> {
    let tenant = &asker.tenant;
    let server = target.with_key(asker.key.clone());
    let (status, body) = patiently(&server, "/v1/models", patience).await?;
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(Unfit::KeyRefused { tenant: tenant.clone(), url: target.url.clone(), status });
        }
        StatusCode::OK => {}
        StatusCode::NOT_FOUND | StatusCode::TOO_MANY_REQUESTS => {
            warnings.push(format!("/v1/models answers {status}: the key of tenant {tenant} is not known to be good"));
            return Ok(());
        }
        _ => return Err(refuses(&server, "/v1/models", status, &body)),
    }
    let models = models(&body);
    if !models.is_empty() && !models.contains(&asker.model) {
        let known: Vec<_> = models.into_iter().collect();
        let warning =
            format!("the model \"{}\", which is asked for, is not listed: there is {}", asker.model, known.join(", "));
        // Tenants mostly ask for the same one.
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    Ok(())
}

/// The names in a list of models, aliases included.
fn models(body: &[u8]) -> BTreeSet<String> {
    let list: Value = serde_json::from_slice(body).unwrap_or_default();
    let entries = list["data"].as_array().map_or(&[][..], Vec::as_slice);
    let names = entries.iter().flat_map(|model| {
        let aliases = model["aliases"].as_array().map_or(&[][..], Vec::as_slice);
        std::iter::once(&model["id"]).chain(aliases)
    });
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

async fn wait_until_loaded(upstream: &Server, patience: Duration) -> Result<(), Unfit> {
    let (status, body) = patiently(upstream, "/health", patience).await?;
    if status == StatusCode::OK { Ok(()) } else { Err(refuses(upstream, "/health", status, &body)) }
}

/// Asks until the answer is no 503, as of a server that is loading its model.
async fn patiently(server: &Server, path: &'static str, patience: Duration) -> Result<(StatusCode, Bytes), Unfit> {
    let end = Instant::now() + patience;
    loop {
        let (status, body) = get(server, path).await?;
        if status != StatusCode::SERVICE_UNAVAILABLE {
            return Ok((status, body));
        }
        if Instant::now() >= end {
            let (url, said) = (server.url.clone(), quoted(&body));
            return Err(Unfit::NotReady { url, status, seconds: patience.as_secs(), said });
        }
        sleep(PAUSE).await;
    }
}

async fn get(server: &Server, path: &str) -> Result<(StatusCode, Bytes), Unfit> {
    match server.get(path).await {
        Ok(answer) => Ok((answer.status, answer.body)),
        Err(error) => Err(Unfit::Unreachable { url: server.url.clone(), why: format!("{error:#}") }),
    }
}

fn refuses(server: &Server, path: &'static str, status: StatusCode, body: &[u8]) -> Unfit {
    Unfit::Refuses { url: server.url.clone(), path, status, said: quoted(body) }
}

/// What a server said, fit for a line: the message of an error object, or the beginning of the text.
fn quoted(body: &[u8]) -> String {
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = object["error"]["message"].as_str().map_or_else(|| String::from_utf8_lossy(body), Into::into);
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTED).collect();
    if line.trim().is_empty() { "nothing".to_owned() } else { line.trim().to_owned() }
}

/// What llama-server says of itself, as far as it is needed.
#[derive(Deserialize)]
struct Properties {
    total_slots: u32,
    #[serde(default)]
    build_info: Option<String>,
}

impl Properties {
    /// Asks `/props`. `None`: it is no llama-server, or it does not tell.
    async fn ask(server: &Server) -> Result<Option<Self>, Unfit> {
        let (status, body) = get(server, "/props").await?;
        Ok((status == StatusCode::OK).then(|| serde_json::from_slice(&body).ok()).flatten())
    }

    /// Replicas add up; their builds are named once each.
    fn add_to(self, target: &mut report::Target) {
        *target.slots.get_or_insert_default() += self.total_slots;
        match (&mut target.build, self.build_info) {
            (None, new) => target.build = new,
            (Some(known), Some(new)) if !known.contains(&new) => *known += &format!(", {new}"),
            (Some(_), _) => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
