//! The names of spans and attributes, all of them.
//!
//! Those of OpenTelemetry are from its semantic conventions, <https://opentelemetry.io/docs/specs/semconv/>; those for
//! generative AI are still being developed and may change: they are changed here. The gateway's own begin with
//! `llama_gateway.`; `docs/traces.md` lists all.

pub(super) const SERVICE_NAME: &str = "service.name";
pub(super) const SERVICE_VERSION: &str = "service.version";
pub(super) const SERVICE_INSTANCE_ID: &str = "service.instance.id";

pub(super) const HTTP_REQUEST_METHOD: &str = "http.request.method";
pub(super) const HTTP_ROUTE: &str = "http.route";
pub(super) const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
pub(super) const SERVER_ADDRESS: &str = "server.address";
pub(super) const SERVER_PORT: &str = "server.port";
pub(super) const ERROR_TYPE: &str = "error.type";

pub(super) const OPERATION: &str = "gen_ai.operation.name";
pub(super) const PROVIDER: &str = "gen_ai.provider.name";
pub(super) const REQUEST_MODEL: &str = "gen_ai.request.model";
pub(super) const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
pub(super) const REQUEST_TEMPERATURE: &str = "gen_ai.request.temperature";
pub(super) const REQUEST_TOP_P: &str = "gen_ai.request.top_p";
pub(super) const REQUEST_STREAM: &str = "gen_ai.request.stream";
pub(super) const REQUEST_CHOICES: &str = "gen_ai.request.choice.count";
pub(super) const RESPONSE_MODEL: &str = "gen_ai.response.model";
pub(super) const RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
pub(super) const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
pub(super) const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
pub(super) const CACHED_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";

pub(super) const REQUEST_ID: &str = "llama_gateway.request_id";
pub(super) const TENANT: &str = "llama_gateway.tenant";
pub(super) const KEY_ID: &str = "llama_gateway.key_id";
pub(super) const SURFACE: &str = "llama_gateway.surface";
pub(super) const ENDING: &str = "llama_gateway.ending";
pub(super) const SLOTS: &str = "llama_gateway.slots";
pub(super) const ATTEMPT: &str = "llama_gateway.attempt";

/// The `gen_ai.provider.name`.
pub(super) const LLAMA_CPP: &str = "llama.cpp";

/// A part of a request that is a span of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The key or token is checked.
    Auth,
    /// Limits are asked and taken from.
    Limit,
    /// The body is read and understood.
    Body,
    /// The prompt's tokens are counted.
    Count,
    /// It waits for its slots.
    Queue,
    /// Its row is made durable: before llama-server is asked, and at the end.
    Ledger,
}

impl Step {
    /// The name of its span.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Limit => "limit",
            Self::Body => "body",
            Self::Count => "count",
            Self::Queue => "queue",
            Self::Ledger => "ledger",
        }
    }
}

/// The span from when llama-server is asked to its first token.
pub(super) const FIRST_TOKEN: &str = "first token";
/// The span from the first token to the end.
pub(super) const STREAM: &str = "stream";

/// The `gen_ai.operation.name` of a surface, by its label; where the conventions have none, the label.
pub(super) fn operation(surface: &'static str) -> &'static str {
    match surface {
        "chat" | "responses" | "messages" => "chat",
        "completions" => "text_completion",
        other => other,
    }
}
