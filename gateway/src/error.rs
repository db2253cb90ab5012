//! Why a request is refused or fails, as data.
//!
//! Every room below the handler gives a [`Rejection`]; only this file knows how one looks over HTTP, for the
//! OpenAI and for the Anthropic dialect, as a whole reply and as an event inside a stream that is already open.
//! The text for the client and the text for the operator are two fields.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

mod retry;
#[cfg(test)]
mod tests;

/// When to come back to a gateway that is shutting down: another one may be there by then. Nothing predicts it.
const DRAINING_RETRY_AFTER: Duration = Duration::from_secs(5);
/// When to come back to a llama-server that is gone. Nothing foretells when it will be back; it is looked for all the
/// time.
const GONE_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Loading a model takes longer than that, but it may have begun long ago. llama-server does not say how far it is.
const LOADING_RETRY_AFTER: Duration = Duration::from_secs(10);

/// Whose error shape a client expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error":{"message","type","param","code"}}`
    OpenAi,
    /// `{"type":"error","error":{"type","message"},"request_id"}`
    Anthropic,
}

impl Dialect {
    /// What a client that asks for this path expects.
    pub fn of_path(path: &str) -> Self {
        if path.starts_with("/v1/messages") { Self::Anthropic } else { Self::OpenAi }
    }

    /// The same, where the path alone does not tell: clients of both kinds ask for their usage, and Anthropic's say
    /// which version of its API they speak.
    pub fn of_request(path: &str, headers: &HeaderMap) -> Self {
        let is_anthropic = path == "/v1/usage" && headers.contains_key("anthropic-version");
        if is_anthropic { Self::Anthropic } else { Self::of_path(path) }
    }

    /// Puts the id of a request into the headers of its answer.
    pub fn name_request(self, response: &mut Response, request_id: &str) {
        let Ok(value) = HeaderValue::from_str(request_id) else { return };
        if self == Self::Anthropic {
            response.headers_mut().insert(HeaderName::from_static("request-id"), value.clone());
        }
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
}

/// A new id for a request; ids sort by time.
pub fn new_request_id() -> String {
    format!("req_{}", uuid::Uuid::now_v7().simple())
}

/// The kinds of refusal and failure: a status, a code for the client, a metric label and a ledger ending at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request cannot be understood or asks for what is not allowed.
    InvalidRequest,
    /// Prompt and output do not fit the context of one slot.
    ContextLengthExceeded,
    /// No API key, or one that is unknown, expired or revoked.
    InvalidApiKey,
    /// The API key is not for requests from this address.
    IpNotAuthorized,
    /// The API key is not for this API.
    EndpointNotAllowed,
    /// The API key is not for this model.
    ModelNotAllowed,
    /// The admin API has no key, so that nobody may use it.
    AdminDisabled,
    /// A page of another origin asks the admin API.
    ForeignOrigin,
    /// There is no API key with this id: an answer of the admin API.
    KeyNotFound,
    /// A token of another issuer that is not valid, or not here.
    InvalidToken,
    /// There are no keys to check a token with.
    IssuerUnavailable,
    /// The model is not one of those that are served.
    ModelNotFound,
    /// The path is not one of those that are served.
    UnknownUrl,
    /// The path is served, by another method.
    MethodNotAllowed,
    /// The request body did not arrive in time.
    RequestTimeout,
    /// The request body is larger than allowed.
    RequestTooLarge,
    /// The request body is compressed or in another encoding that is not read.
    UnsupportedEncoding,
    /// llama-server was started without this capability (embeddings, rerank).
    NotSupported,
    /// More requests a minute than the policy allows.
    RequestRate,
    /// More tokens a minute than the policy allows.
    TokenRate,
    /// More requests at once than the policy allows.
    Concurrency,
    /// The tokens of the day or the month are used up.
    QuotaExceeded,
    /// As many requests wait for a slot as may wait.
    QueueFull,
    /// A slot would not become free within the time that the client or the policy gives it.
    WaitTooLong,
    /// The client sent the same request again, which took the place of this one.
    Replaced,
    /// No slot became free within the queue deadline.
    QueueTimeout,
    /// llama-server gave no token within the first-token deadline.
    FirstTokenTimeout,
    /// llama-server fell silent between two tokens.
    StreamIdleTimeout,
    /// The request as a whole took longer than allowed.
    TotalTimeout,
    /// No llama-server can be reached.
    BackendUnavailable,
    /// llama-server is still loading its model.
    ModelLoading,
    /// llama-server answered with an error of its own, or its connection broke.
    BackendError,
    /// The ledger cannot record the request, so it is not started.
    LedgerUnavailable,
    /// The gateway is shutting down.
    Draining,
    /// A fault of the gateway itself.
    Internal,
}

impl Reason {
    /// The name in metrics, logs and the ledger.
    pub fn label(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::InvalidApiKey => "invalid_api_key",
            Self::IpNotAuthorized => "ip_not_authorized",
            Self::EndpointNotAllowed => "endpoint_not_allowed",
            Self::ModelNotAllowed => "model_not_allowed",
            Self::AdminDisabled => "admin_disabled",
            Self::ForeignOrigin => "foreign_origin",
            Self::KeyNotFound => "key_not_found",
            Self::InvalidToken => "invalid_token",
            Self::IssuerUnavailable => "issuer_unavailable",
            Self::ModelNotFound => "model_not_found",
            Self::UnknownUrl => "unknown_url",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::RequestTooLarge => "request_too_large",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::NotSupported => "not_supported",
            Self::RequestRate => "request_rate",
            Self::TokenRate => "token_rate",
            Self::Concurrency => "concurrency",
            Self::QuotaExceeded => "insufficient_quota",
            Self::QueueFull => "queue_full",
            Self::WaitTooLong => "wait_too_long",
            Self::Replaced => "replaced",
            Self::QueueTimeout => "queue_timeout",
            Self::FirstTokenTimeout => "first_token_timeout",
            Self::StreamIdleTimeout => "stream_idle_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::BackendUnavailable => "backend_unavailable",
            Self::ModelLoading => "model_loading",
            Self::BackendError => "backend_error",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::Draining => "draining",
            Self::Internal => "internal_error",
        }
    }

    /// The HTTP status of a reply that carries this reason.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest | Self::ContextLengthExceeded => StatusCode::BAD_REQUEST,
            Self::InvalidApiKey | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::IpNotAuthorized
            | Self::EndpointNotAllowed
            | Self::ModelNotAllowed
            | Self::AdminDisabled
            | Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::ModelNotFound | Self::UnknownUrl | Self::KeyNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotSupported => StatusCode::NOT_IMPLEMENTED,
            Self::RequestRate
            | Self::TokenRate
            | Self::Concurrency
            | Self::QuotaExceeded
            | Self::QueueFull
            | Self::WaitTooLong => StatusCode::TOO_MANY_REQUESTS,
            Self::Replaced => StatusCode::CONFLICT,
            Self::QueueTimeout
            | Self::IssuerUnavailable
            | Self::BackendUnavailable
            | Self::ModelLoading
            | Self::LedgerUnavailable
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::FirstTokenTimeout | Self::StreamIdleTimeout | Self::TotalTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::BackendError => StatusCode::BAD_GATEWAY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the same request may succeed later. Official clients retry each 408, 409, 429 and 5xx unless told not
    /// to.
    pub fn may_be_retried(self) -> bool {
        match self {
            Self::InvalidRequest
            | Self::ContextLengthExceeded
            | Self::InvalidApiKey
            | Self::IpNotAuthorized
            | Self::EndpointNotAllowed
            | Self::ModelNotAllowed
            | Self::AdminDisabled
            | Self::ForeignOrigin
            | Self::KeyNotFound
            | Self::InvalidToken
            | Self::ModelNotFound
            | Self::UnknownUrl
            | Self::MethodNotAllowed
            | Self::RequestTooLarge
            | Self::UnsupportedEncoding
            | Self::NotSupported
            | Self::QuotaExceeded
            // Its successor is being served.
            | Self::Replaced
            // It would take as long again.
            | Self::TotalTimeout => false,
            Self::RequestTimeout
            | Self::RequestRate
            | Self::TokenRate
            | Self::Concurrency
            | Self::QueueFull
            | Self::WaitTooLong
            | Self::QueueTimeout
            | Self::FirstTokenTimeout
            | Self::StreamIdleTimeout
            | Self::IssuerUnavailable
            | Self::BackendUnavailable
            | Self::ModelLoading
            | Self::BackendError
            | Self::LedgerUnavailable
            | Self::Draining
            | Self::Internal => true,
        }
    }

    /// What is asked of a client whose credential is missing or refused (RFC 6750).
    fn challenge(self) -> Option<&'static str> {
        match self {
            Self::InvalidApiKey => Some("Bearer"),
            Self::InvalidToken => Some("Bearer error=\"invalid_token\""),
            _ => None,
        }
    }

    fn openai_type(self) -> &'static str {
        match self.status() {
            _ if self == Self::QuotaExceeded => "insufficient_quota",
            _ if self == Self::TokenRate => "tokens",
            StatusCode::TOO_MANY_REQUESTS => "requests",
            StatusCode::FORBIDDEN => "permission_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The OpenAI `code`; plain invalid requests have none.
    fn openai_code(self) -> Option<&'static str> {
        match self {
            Self::InvalidRequest => None,
            Self::RequestRate | Self::TokenRate | Self::Concurrency => Some("rate_limit_exceeded"),
            // The only code of OpenAI's for a credential that is not valid.
            Self::InvalidToken => Some(Self::InvalidApiKey.label()),
            _ => Some(self.label()),
        }
    }

    fn anthropic_type(self) -> &'static str {
        match self.status() {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::CONFLICT => "conflict_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        }
    }
}

/// A refusal or failure of one request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {message}", reason.label())]
pub struct Rejection {
    /// What kind it is.
    pub reason: Reason,
    /// What the client is told. Never an address, a path of this machine, a key or a prompt.
    pub message: String,
    /// The request field at fault, if there is one.
    pub param: Option<String>,
    /// What the operator is told, in the log only.
    pub operator: Option<String>,
    /// After which time a retry makes sense: the true time, as far as it can be foreseen.
    pub retry_after: Option<Duration>,
}

impl Rejection {
    /// A rejection with a text for the client.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), param: None, operator: None, retry_after: None }
    }

    /// A 400 that names the field at fault.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(Reason::InvalidRequest, message) }
    }

    /// The gateway is shutting down; another one may be there at once.
    pub fn draining() -> Self {
        Self::new(Reason::Draining, "The gateway is shutting down.").retry_after(DRAINING_RETRY_AFTER)
    }

    /// The client sent the same request again.
    pub fn replaced() -> Self {
        Self::new(Reason::Replaced, "The same request came again and took the place of this one.")
    }

    /// No llama-server is ready, but one is loading its model.
    pub fn model_loading() -> Self {
        Self::new(Reason::ModelLoading, "The model is still loading.").retry_after(LOADING_RETRY_AFTER)
    }

    /// No llama-server can be reached.
    pub fn backend_unavailable() -> Self {
        Self::new(Reason::BackendUnavailable, "The model server cannot be reached.").retry_after(GONE_RETRY_AFTER)
    }

    /// A llama-server was lost before its answer began.
    pub fn unanswered() -> Self {
        Self::new(Reason::BackendError, "The model server failed to answer the request.").retry_after(GONE_RETRY_AFTER)
    }

    /// The gateway itself is at fault.
    pub fn internal() -> Self {
        Self::new(Reason::Internal, "The gateway is at fault.")
    }

    /// Adds what only the operator may read.
    pub fn operator(mut self, text: impl Into<String>) -> Self {
        self.operator = Some(text.into());
        self
    }

    /// Adds the time after which a retry makes sense.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The error object in the client's dialect.
    pub fn body(&self, dialect: Dialect, request_id: &str) -> serde_json::Value {
        match dialect {
            Dialect::OpenAi => json!({"error": {
                "message": self.message,
                "type": self.reason.openai_type(),
                "param": self.param,
                "code": self.reason.openai_code(),
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {"type": self.reason.anthropic_type(), "message": self.message},
                "request_id": request_id,
            }),
        }
    }

    /// The error as an event of a stream whose 200 is already out.
    pub fn event(&self, dialect: Dialect, request_id: &str) -> String {
        let body = self.body(dialect, request_id);
        match dialect {
            Dialect::OpenAi => format!("data: {body}\n\n"),
            Dialect::Anthropic => format!("event: error\ndata: {body}\n\n"),
        }
    }

    /// The error as a whole reply.
    pub fn response(&self, dialect: Dialect, request_id: &str) -> Response {
        let body = self.body(dialect, request_id).to_string();
        let mut response = (self.reason.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(challenge) = self.reason.challenge() {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.reason == Reason::Draining {
            // The next request is to find another gateway.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        retry::tell(self, request_id, headers);
        response
    }
}
