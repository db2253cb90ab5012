//! The request fields of every surface: the one list that decides what reaches llama-server.
//!
//! A field is in one group of a surface, or it is unknown and left out. `docs/request-fields.md` is written from
//! this table; a test keeps the two the same. Names and meanings are those that llama-server's own request readers
//! have (`server-schema`, `oaicompat_chat_params_parse`, the Responses and Anthropic converters).

use super::Surface;
use super::rule::{FLAG, Kind, Part, Rule, object, text};

/// One request field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// Its name in the body.
    pub(super) name: &'static str,
    /// What is done with it.
    pub(super) rule: Rule,
    /// Why, in one line.
    pub(super) why: &'static str,
}

/// Fields that some surfaces share.
#[derive(Debug)]
pub(super) struct Group {
    /// A heading in the documents.
    #[cfg_attr(not(test), expect(dead_code, reason = "the documents are compared with the table by a test"))]
    pub(super) title: &'static str,
    /// The fields.
    pub(super) fields: &'static [Field],
}

const fn field(name: &'static str, rule: Rule, why: &'static str) -> Field {
    Field { name, rule, why }
}

/// A JSON schema: llama-server makes a grammar of it while nothing else runs.
const SCHEMA_BYTES: usize = 64 * 1024;
/// Small objects that steer a template.
const KWARGS_BYTES: usize = 16 * 1024;
/// llama-server reserves memory for this many tokens before it generates one.
const LOOKBACK: i64 = 4096;
const COUNT: i64 = 1 << 20;
const TOKENS: i64 = i32::MAX as i64;
/// Prompts of one completions request: each takes a slot.
const PROMPTS: usize = 64;
/// Texts of one embeddings or rerank request; OpenAI's own limit.
const INPUTS: usize = 2048;

const CHAT: Group = Group {
    title: "Conversation (chat)",
    fields: &[
        field("messages", Rule::Content, "the conversation; media only as `data:` URLs"),
        field("tools", Rule::Tools(128, 1 << 20), "functions the model may call"),
        field("tool_choice", Rule::Shape(&[Kind::Text, Kind::Object], 4096), "which of them it must call"),
        field("parallel_tool_calls", FLAG, "several calls in one turn"),
        field("response_format", Rule::Schema(SCHEMA_BYTES), "JSON mode or a JSON schema"),
        field("reasoning_effort", text(32), "how long to think; `none` for not at all"),
        field("logprobs", FLAG, "log probabilities of the tokens"),
        field("top_logprobs", Rule::Clamped(0, 20), "llama-server has no bound and would list the whole vocabulary"),
    ],
};

const COMPLETION: Group = Group {
    title: "Prompt (completions)",
    fields: &[
        field("prompt", Rule::Prompts(PROMPTS), "text, tokens, or an array of either; each prompt takes a slot"),
        field("logprobs", Rule::Clamped(0, 20), "log probabilities of the most likely tokens"),
    ],
};

const RESPONSE: Group = Group {
    title: "Conversation (responses)",
    fields: &[
        field("input", Rule::Content, "text or items; media only as `data:` URLs"),
        field("instructions", Rule::Content, "the system prompt"),
        field("tools", Rule::Tools(128, 1 << 20), "functions the model may call"),
        field("tool_choice", Rule::Shape(&[Kind::Text, Kind::Object], 4096), "which of them it must call"),
        field("parallel_tool_calls", FLAG, "several calls in one turn"),
        field("reasoning", object(4096), "`effort` is used"),
        field("response_format", Rule::Schema(SCHEMA_BYTES), "JSON mode or a JSON schema, as on the chat surface"),
        field(
            "previous_response_id",
            Rule::Refused,
            "responses are not stored, send the whole conversation as `input`",
        ),
        field("conversation", Rule::Refused, "conversations are not stored, send the whole conversation as `input`"),
        field("prompt", Rule::Refused, "prompts are not stored, send `instructions` and `input`"),
        field("background", Rule::Refused, "responses are not stored, so one cannot be fetched later"),
    ],
};

const MESSAGE: Group = Group {
    title: "Conversation (messages)",
    fields: &[
        field("messages", Rule::Content, "the conversation; images only as `base64` sources"),
        field("system", Rule::Content, "the system prompt"),
        field("tools", Rule::Tools(128, 1 << 20), "functions the model may call"),
        field("tool_choice", object(4096), "which of them it must call"),
        field("thinking", object(1024), "whether to think, and how long"),
        field("chat_template_kwargs", object(KWARGS_BYTES), "variables for the chat template"),
    ],
};

const MESSAGE_SAMPLING: Group = Group {
    title: "Sampling (messages)",
    fields: &[
        field("stop_sequences", Rule::Texts(16, 256), "each is searched for at every token"),
        field("temperature", Rule::Number(0.0, 100.0), "randomness"),
        field("top_k", Rule::Integer(-1, TOKENS), "only the most likely tokens"),
        field("top_p", Rule::Number(0.0, 1.0), "only the most likely part of the distribution"),
    ],
};

const OUTPUT: Group = Group {
    title: "Output cap",
    fields: &[
        field("max_tokens", Rule::Cap, "the smallest of the four that are given wins, lowered to `max_output_tokens`"),
        field("max_completion_tokens", Rule::Cap, "OpenAI's newer name of the same"),
        field("max_output_tokens", Rule::Cap, "the Responses API's name of the same"),
        field("n_predict", Rule::Cap, "llama-server's own name of the same, which would win over the others"),
    ],
};

const MODEL: Group = Group {
    title: "Model",
    fields: &[field(
        "model",
        Rule::Read(Part::Model),
        "checked by the gateway; llama-server has one model and ignores it",
    )],
};

const STREAM: Group = Group {
    title: "Stream",
    fields: &[
        field("stream", Rule::Read(Part::Stream), "llama-server is asked for a stream in any case"),
        field(
            "stream_options",
            Rule::Read(Part::StreamOptions),
            "only `include_usage` is used; usage is always counted",
        ),
    ],
};

const REPLY: Group = Group {
    title: "Reply, as llama-server extends it",
    fields: &[
        field(
            "timings_per_token",
            Rule::Read(Part::Timings),
            "always asked for, so that a cut stream is counted exactly",
        ),
        field("return_progress", Rule::Read(Part::Progress), "progress of the prompt, in streams only"),
        field("t_max_predict_ms", Rule::Integer(-1, 86_400_000), "time limit of the generation"),
        field("cache_prompt", Rule::OnlyFalse, "`false` keeps a prompt out of the cache that all users share"),
    ],
};

const CHOICES: Group = Group {
    title: "Choices",
    fields: &[
        field("n", Rule::Read(Part::Choices), "each choice takes a slot"),
        field("n_cmpl", Rule::Refused, "use `n`"),
    ],
};

const SAMPLING: Group = Group {
    title: "Sampling",
    fields: &[
        field("temperature", Rule::Number(0.0, 100.0), "randomness"),
        field("dynatemp_range", Rule::Number(0.0, 100.0), "dynamic temperature"),
        field("dynatemp_exponent", Rule::Number(0.0, 100.0), "dynamic temperature"),
        field("top_k", Rule::Integer(-1, TOKENS), "only the most likely tokens"),
        field("top_p", Rule::Number(0.0, 1.0), "only the most likely part of the distribution"),
        field("min_p", Rule::Number(0.0, 1.0), "only tokens of some likelihood"),
        field("typical_p", Rule::Number(0.0, 1.0), "locally typical sampling"),
        field("top_n_sigma", Rule::Number(-1.0, 100.0), "only tokens within some deviations of the best"),
        field("xtc_probability", Rule::Number(0.0, 1.0), "exclude top choices"),
        field("xtc_threshold", Rule::Number(0.0, 1.0), "exclude top choices"),
        field("min_keep", Rule::Integer(0, COUNT), "tokens that samplers must leave"),
        field("mirostat", Rule::Integer(0, 2), "perplexity control"),
        field("mirostat_tau", Rule::Number(0.0, 100.0), "perplexity control"),
        field("mirostat_eta", Rule::Number(0.0, 100.0), "perplexity control"),
        field("adaptive_target", Rule::Number(-1.0, 1.0), "adaptive sampling"),
        field("adaptive_decay", Rule::Number(0.0, 0.99), "adaptive sampling"),
        field("repeat_penalty", Rule::Number(0.01, 100.0), "repetition; a division by zero below"),
        field("repeat_last_n", Rule::Clamped(0, LOOKBACK), "memory is reserved for as many tokens as this says"),
        field("presence_penalty", Rule::Number(-100.0, 100.0), "repetition"),
        field("frequency_penalty", Rule::Number(-100.0, 100.0), "repetition"),
        field("dry_multiplier", Rule::Number(0.0, 100.0), "repetition of sequences"),
        field("dry_base", Rule::Number(0.0, 100.0), "repetition of sequences"),
        field("dry_allowed_length", Rule::Integer(0, LOOKBACK), "repetition of sequences"),
        field("dry_penalty_last_n", Rule::Clamped(0, LOOKBACK), "memory is reserved for as many tokens as this says"),
        field("dry_sequence_breakers", Rule::Entries(16, 1024), "each is looked up in the whole vocabulary"),
        field("samplers", Rule::Texts(32, 64), "which samplers run, in which order"),
        field("seed", Rule::Integer(i64::MIN, i64::MAX), "repeatable results"),
        field("stop", Rule::Texts(16, 256), "each is searched for at every token"),
        field("logit_bias", Rule::Entries(1024, 64 * 1024), "each entry is applied at every token"),
        field("ignore_eos", FLAG, "go on to the output cap"),
        field("n_indent", Rule::Dropped, "it takes text back that a stream has already given"),
        field("n_probs", Rule::Clamped(0, 20), "llama-server's own name of `top_logprobs`"),
        field("post_sampling_probs", FLAG, "probabilities after the samplers"),
        field("json_schema", Rule::Schema(SCHEMA_BYTES), "JSON schema"),
    ],
};

const TEMPLATE: Group = Group {
    title: "Chat template",
    fields: &[
        field("chat_template_kwargs", object(KWARGS_BYTES), "variables for the chat template"),
        field("add_generation_prompt", FLAG, "whether the assistant's turn is opened"),
        field("continue_final_message", Rule::Shape(&[Kind::Flag, Kind::Text], 64), "go on with the last message"),
        field("echo", FLAG, "with `continue_final_message`: repeat what is continued"),
        field("reasoning_format", text(32), "where thoughts appear in the reply"),
        field("reasoning_budget_tokens", Rule::Integer(-1, TOKENS), "tokens to think at most"),
        field("thinking_budget_tokens", Rule::Integer(-1, TOKENS), "another name of the same"),
        field("reasoning_budget_message", text(1024), "said when the budget is used up"),
    ],
};

const INTERNALS: Group = Group {
    title: "Refused",
    fields: &[
        field("grammar", Rule::Refused, "a few lines of grammar can stop the server for good; send a JSON schema"),
        field("grammar_lazy", Rule::Refused, "it is set from the tools; a wrong combination stops the server"),
        field("grammar_triggers", Rule::Refused, "they are set from the tools; a wrong type stops the server"),
        field("grammar_type", Rule::Refused, "it is set from the tools"),
        field("preserved_tokens", Rule::Refused, "they are set from the chat template"),
        field("chat_format", Rule::Refused, "it is set from the chat template"),
        field("chat_parser", Rule::Refused, "it is set from the chat template"),
        field("generation_prompt", Rule::Refused, "it is set from the chat template"),
        field("message_delimiters", Rule::Refused, "they are set from the chat template"),
        field("parse_tool_calls", Rule::Refused, "it is set from the tools"),
        field("reasoning_budget_start_tag", Rule::Refused, "it is set from the chat template"),
        field("reasoning_budget_end_tag", Rule::Refused, "it is set from the chat template"),
        field("reasoning_budget_end_tags", Rule::Refused, "they are set from the chat template"),
        field("reasoning_control", Rule::Refused, "it lets others end a generation"),
        field("id_slot", Rule::Refused, "slots are shared and given by the queue"),
        field("lora", Rule::Refused, "adapters are the operator's choice"),
        field("response_fields", Rule::Refused, "it would hide what is counted"),
        field("verbose", Rule::Refused, "it would repeat the whole prompt in the reply"),
    ],
};

const TUNING: Group = Group {
    title: "Left out: llama-server's tuning",
    fields: &[
        field("sse_ping_interval", Rule::Dropped, "the gateway keeps streams alive itself"),
        field("n_keep", Rule::Dropped, "context shifting is the operator's choice"),
        field("n_discard", Rule::Dropped, "context shifting is the operator's choice"),
        field("n_cache_reuse", Rule::Dropped, "cache reuse is the operator's choice"),
        field("backend_sampling", Rule::Dropped, "where sampling runs is the operator's choice"),
        field("return_tokens", Rule::Dropped, "has no effect on these surfaces"),
    ],
};

const OPENAI: Group = Group {
    title: "Left out: sent by OpenAI clients, without effect at llama-server",
    fields: &[
        field("user", Rule::Dropped, "no effect"),
        field("metadata", Rule::Dropped, "nothing is stored"),
        field("store", Rule::Dropped, "nothing is stored"),
        field("service_tier", Rule::Dropped, "there is one"),
        field("safety_identifier", Rule::Dropped, "no effect"),
        field("prompt_cache_key", Rule::Dropped, "the cache is found by the prompt itself"),
        field("prompt_cache_retention", Rule::Dropped, "the cache is the operator's choice"),
        field("modalities", Rule::Dropped, "replies are text"),
        field("audio", Rule::Dropped, "replies are text"),
        field("prediction", Rule::Dropped, "no effect"),
        field("verbosity", Rule::Dropped, "no effect"),
        field("web_search_options", Rule::Dropped, "there is no search"),
        field("functions", Rule::Dropped, "replaced by `tools`"),
        field("function_call", Rule::Dropped, "replaced by `tool_choice`"),
        field("best_of", Rule::Dropped, "no effect"),
        field("suffix", Rule::Dropped, "no effect"),
        field("include", Rule::Dropped, "no effect"),
        field("truncation", Rule::Dropped, "a prompt that is too long is refused"),
        field("max_tool_calls", Rule::Dropped, "no effect"),
        field("text", Rule::Dropped, "no effect; `response_format` has one"),
    ],
};

const ANTHROPIC: Group = Group {
    title: "Left out: sent by Anthropic clients, without effect at llama-server",
    fields: &[
        field("metadata", Rule::Dropped, "nothing is stored"),
        field("service_tier", Rule::Dropped, "there is one"),
        field("container", Rule::Dropped, "no effect"),
        field("context_management", Rule::Dropped, "no effect"),
        field("cache_control", Rule::Dropped, "the cache is found by the prompt itself"),
        field("mcp_servers", Rule::Dropped, "no effect"),
        field("output_config", Rule::Dropped, "no effect"),
        field("output_format", Rule::Dropped, "no effect"),
    ],
};

const EMBEDDING: Group = Group {
    title: "Embeddings",
    fields: &[
        field("model", Rule::Read(Part::Model), "repeated in the reply"),
        field("input", Rule::Prompts(INPUTS), "text, tokens, or an array of either"),
        field("encoding_format", text(16), "`float` or `base64`"),
        field("embd_normalize", Rule::Integer(-1, 100), "the norm"),
        field("content", Rule::Refused, "use `input`"),
        field("dimensions", Rule::Dropped, "no effect at llama-server"),
        field("user", Rule::Dropped, "no effect"),
    ],
};

const RERANK: Group = Group {
    title: "Rerank",
    fields: &[
        field("model", Rule::Read(Part::Model), "repeated in the reply"),
        field("query", Rule::Content, "what the documents are compared with"),
        field("documents", Rule::Prompts(INPUTS), "the documents"),
        field("texts", Rule::Prompts(INPUTS), "the documents, with replies in another shape"),
        field("top_n", Rule::Integer(0, TOKENS), "only the best; a negative number makes the server fail"),
        field("return_text", FLAG, "with `texts`: repeat them in the reply"),
        field("return_documents", Rule::Dropped, "no effect at llama-server"),
    ],
};

const TOKENIZE: Group = Group {
    title: "Tokenize",
    fields: &[
        field("content", Rule::Content, "text, or an array of texts and tokens"),
        field("add_special", FLAG, "with the tokens that begin a text"),
        field("parse_special", FLAG, "whether special tokens are seen in the text"),
        field("with_pieces", FLAG, "with the text of each token"),
    ],
};

const DETOKENIZE: Group =
    Group { title: "Detokenize", fields: &[field("tokens", Rule::Content, "the tokens of a text")] };

/// The groups of a surface.
pub(super) fn groups(surface: Surface) -> &'static [&'static Group] {
    match surface {
        Surface::Chat => {
            &[&CHAT, &MODEL, &STREAM, &CHOICES, &OUTPUT, &SAMPLING, &TEMPLATE, &REPLY, &INTERNALS, &TUNING, &OPENAI]
        }
        Surface::Completions => {
            &[&COMPLETION, &MODEL, &STREAM, &CHOICES, &OUTPUT, &SAMPLING, &REPLY, &INTERNALS, &TUNING, &OPENAI]
        }
        Surface::Responses => {
            &[&RESPONSE, &MODEL, &STREAM, &OUTPUT, &SAMPLING, &TEMPLATE, &REPLY, &INTERNALS, &TUNING, &OPENAI]
        }
        Surface::Messages => &[&MESSAGE, &MODEL, &STREAM, &OUTPUT, &MESSAGE_SAMPLING, &ANTHROPIC],
        Surface::CountTokens => &[&MESSAGE, &MODEL, &ANTHROPIC],
        Surface::Embeddings => &[&EMBEDDING],
        Surface::Rerank => &[&RERANK],
        Surface::Tokenize => &[&TOKENIZE],
        Surface::Detokenize => &[&DETOKENIZE],
        Surface::ApplyTemplate => &[&CHAT, &MODEL, &TEMPLATE],
    }
}

/// The fields without which a request means nothing: one of each list must be there.
pub(super) fn required(surface: Surface) -> &'static [&'static [&'static str]] {
    match surface {
        Surface::Chat | Surface::Messages | Surface::CountTokens | Surface::ApplyTemplate => &[&["messages"]],
        Surface::Completions => &[&["prompt"]],
        Surface::Responses | Surface::Embeddings => &[&["input"]],
        Surface::Rerank => &[&["query"], &["documents", "texts"]],
        Surface::Tokenize => &[&["content"]],
        Surface::Detokenize => &[&["tokens"]],
    }
}

/// The one name of the output cap that llama-server reads on this surface; `None`: it generates nothing.
pub(super) fn cap_name(surface: Surface) -> Option<&'static str> {
    match surface {
        Surface::Chat | Surface::Completions | Surface::Messages => Some("max_tokens"),
        Surface::Responses => Some("max_output_tokens"),
        _ => None,
    }
}
