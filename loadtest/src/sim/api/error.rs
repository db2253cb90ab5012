//! Errors as llama-server writes them.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

/// An error reply.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    /// Its HTTP status, which is also its `code`.
    pub(crate) status: StatusCode,
    /// Its `type`.
    pub(crate) kind: &'static str,
    /// Its `message`.
    pub(crate) message: String,
    /// Prompt tokens and context, where the prompt is too long.
    pub(crate) context: Option<(usize, usize)>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), context: None }
    }

    /// 400
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 401
    pub(crate) fn key() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "Invalid API Key")
    }

    /// 404
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", "File Not Found")
    }

    /// 500, which llama-server also gives for some faults of the client.
    pub(crate) fn server(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// 501
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message)
    }

    /// 503
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message)
    }

    /// The prompt does not fit.
    pub(crate) fn too_long(tokens: usize, context: usize) -> Self {
        let message = format!(
            "request ({tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"
        );
        let error = Self::new(StatusCode::BAD_REQUEST, "exceed_context_size_error", message);
        Self { context: Some((tokens, context)), ..error }
    }

    /// What stands in the body.
    pub(crate) fn value(&self) -> Value {
        let mut error = json!({"code": self.status.as_u16(), "message": self.message, "type": self.kind});
        if let (Some((tokens, context)), Some(members)) = (self.context, error.as_object_mut()) {
            members.insert("n_prompt_tokens".to_owned(), json!(tokens));
            members.insert("n_ctx".to_owned(), json!(context));
        }
        json!({"error": error})
    }

    /// The body.
    pub(crate) fn body(&self) -> Bytes {
        self.value().to_string().into()
    }
}
