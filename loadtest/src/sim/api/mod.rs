//! The API: one line a route, one file a concern. Takes a request's method, path and body; gives a reply.

mod about;
mod ask;
mod chat;
mod completions;
mod control;
mod count;
mod error;
mod fields;
mod info;
mod json;
mod messages;
mod plan;
mod prompt;
mod reply;
mod responses;
mod vectors;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::server::App;
pub(crate) use about::{About, Show, random_id};
use ask::{Ask, Surface};
pub(crate) use error::ApiError;
pub(crate) use plan::Plan;
pub(crate) use reply::{Body, json_reply};

/// A request, read whole.
pub(crate) struct Call {
    /// Its method; `HEAD` counts as `GET`.
    pub(crate) method: Method,
    /// Its path.
    pub(crate) path: String,
    /// What follows the question mark.
    pub(crate) query: String,
    /// Its body.
    pub(crate) body: Bytes,
}

/// Paths that need no key.
pub(crate) const PUBLIC: [&str; 4] = ["/health", "/v1/health", "/models", "/v1/models"];

/// Answers a request. What is on no list is not found, whatever its method.
///
/// # Errors
/// As llama-server's.
pub(crate) async fn answer(app: &Arc<App>, call: Call) -> Result<Response<Body>, ApiError> {
    let Call { method, path, query, body } = call;
    let path = path.as_str();
    match method {
        Method::GET | Method::HEAD => get(app, path, &query).await,
        Method::POST => post(app, path, &body).await,
        _ => Err(ApiError::not_found()),
    }
}

async fn get(app: &Arc<App>, path: &str, query: &str) -> Result<Response<Body>, ApiError> {
    match path {
        "/health" | "/v1/health" => ok(&json!({"status": "ok"})),
        "/models" | "/v1/models" => Ok(json_reply(StatusCode::OK, info::models(app).text().into())),
        "/props" => ok(&info::props(app)),
        "/slots" => {
            app.stall_over().await;
            ok(&info::slots(app, query)?)
        }
        "/metrics" => {
            app.stall_over().await;
            Ok(info::metrics(app))
        }
        "/sim/cancels" => ok(&control::cancels(app)),
        _ => Err(ApiError::not_found()),
    }
}

async fn post(app: &Arc<App>, path: &str, body: &Bytes) -> Result<Response<Body>, ApiError> {
    match path {
        "/v1/chat/completions" | "/chat/completions" => generate(app, Surface::Chat, body).await,
        "/v1/completions" => generate(app, Surface::Completions, body).await,
        "/v1/responses" | "/responses" => generate(app, Surface::Responses, body).await,
        "/v1/messages" => generate(app, Surface::Messages, body).await,
        "/v1/embeddings" if !app.options.embeddings => {
            Err(ApiError::unsupported("This server does not support embeddings. Start it with `--embeddings`"))
        }
        "/v1/embeddings" => {
            let reply = vectors::embeddings(app, &parsed(body)?).await?;
            Ok(json_reply(StatusCode::OK, reply.text().into()))
        }
        "/rerank" | "/v1/rerank" | "/reranking" | "/v1/reranking" if !app.options.rerank => {
            Err(ApiError::unsupported("This server does not support reranking. Start it with `--reranking`"))
        }
        "/rerank" | "/v1/rerank" | "/reranking" | "/v1/reranking" => {
            Ok(json_reply(StatusCode::OK, vectors::rerank(app, &parsed(body)?).await?.into()))
        }
        "/tokenize" => ok(&count::tokenize(app, &parsed(body)?)?),
        "/detokenize" => ok(&count::detokenize(app, &parsed(body)?)),
        "/apply-template" => ok(&count::apply_template(&parsed(body)?)?),
        "/v1/chat/completions/input_tokens" | "/chat/completions/input_tokens" => {
            input_tokens(app, Surface::Chat, body)
        }
        "/v1/responses/input_tokens" | "/responses/input_tokens" => input_tokens(app, Surface::Responses, body),
        "/v1/messages/count_tokens" => input_tokens(app, Surface::Messages, body),
        "/sim/faults" => ok(&control::put_fault(app, &parsed(body)?)?),
        "/sim/stall" => ok(&control::stall(app, &parsed(body)?)?),
        _ => unsupported(path),
    }
}

/// What llama-server knows and does not do as it is started here.
fn unsupported(path: &str) -> Result<Response<Body>, ApiError> {
    let message = match path {
        "/props" => "This server does not support changing global properties. Start it with `--props`",
        "/infill" => "Infill is not supported by this model",
        "/v1/audio/transcriptions" | "/audio/transcriptions" => "The current model does not support audio input.",
        _ if path.starts_with("/slots/") => {
            "This server does not support slots action. Start it with `--slot-save-path`"
        }
        _ => return Err(ApiError::not_found()),
    };
    Err(ApiError::unsupported(message))
}

async fn generate(app: &Arc<App>, surface: Surface, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let ask = Ask::read(app, surface, &parsed(body)?)?;
    reply::generate(app, ask).await
}

fn input_tokens(app: &App, surface: Surface, body: &Bytes) -> Result<Response<Body>, ApiError> {
    ok(&count::input_tokens(app, surface, &parsed(body)?)?)
}

/// A body as JSON. What is none is the server's fault, in the build that is imitated.
fn parsed(body: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::server(format!("[json.exception.parse_error.101] parse error: {error}")))
}

fn ok(value: &Value) -> Result<Response<Body>, ApiError> {
    Ok(json_reply(StatusCode::OK, value.to_string().into()))
}
