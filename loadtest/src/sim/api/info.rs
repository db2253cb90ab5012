//! What the server tells of itself: `/health`, `/v1/models`, `/props`, `/slots`, `/metrics`.

use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use serde_json::{Value, json};

use super::super::model::SlotLook;
use super::super::server::App;
use super::super::words::VOCABULARY;
use super::error::ApiError;
use super::json::{Ordered, ordered};
use super::prompt::TEMPLATE;
use super::reply::Body;

/// The sampling parameters of llama-server b10434, which the simulator does not use.
const PARAMETERS: &str = include_str!("params.json");

/// `/v1/models`
pub(crate) fn models(app: &App) -> Ordered {
    let model = &app.options.profile.name;
    let details = json!({"parent_model": "", "format": "gguf", "family": "", "families": [""], "parameter_size": "",
        "quantization_level": ""});
    let old = json!({"name": model, "model": model, "modified_at": "", "size": "", "digest": "", "type": "model",
        "description": "", "tags": [""], "capabilities": ["completion"], "parameters": "", "details": details});
    let meta = json!({"vocab_type": 2, "n_vocab": VOCABULARY, "n_ctx": app.options.profile.context,
        "n_ctx_train": app.options.profile.context, "n_embd": 64, "n_params": 0, "size": 0, "ftype": "simulated"});
    let data = json!({"id": model, "aliases": [model], "tags": [], "object": "model",
        "created": crate::clock::unix_seconds(), "owned_by": "llamacpp", "meta": meta});
    ordered! {"models": [old], "object": "list", "data": [data]}
}

/// `/props`
pub(crate) fn props(app: &App) -> Value {
    let profile = &app.options.profile;
    json!({
        "default_generation_settings": {"params": parameters(), "n_ctx": profile.context},
        "total_slots": profile.slots,
        "model_alias": profile.name,
        "model_ftype": "simulated",
        "model_path": format!("/simulated/{}.gguf", profile.name),
        "modalities": {"vision": false, "video": false, "audio": false},
        "media_marker": "<__media__>",
        "endpoint_slots": true,
        "endpoint_props": false,
        "endpoint_metrics": true,
        "ui": false,
        "ui_settings": {},
        "chat_template": TEMPLATE,
        "chat_template_caps": {"supports_object_arguments": false, "supports_parallel_tool_calls": false,
            "supports_preserve_reasoning": false, "supports_reasoning_effort": false, "supports_string_content": true,
            "supports_system_role": true, "supports_tool_calls": true, "supports_tools": true,
            "supports_typed_content": false},
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "build_info": app.build(),
        "is_sleeping": false,
        "cors_proxy_enabled": false,
    })
}

fn parameters() -> Value {
    serde_json::from_str(PARAMETERS).unwrap_or_default()
}

/// `/slots`
///
/// # Errors
/// All are busy, where the request wants at least one that is not.
pub(crate) fn slots(app: &App, query: &str) -> Result<Value, ApiError> {
    let slots = app.engine.update(|model, now| {
        // The answer wakes all threads that wait for a result.
        model.poke(now);
        model.look()
    });
    let full = slots.iter().all(|slot| slot.busy);
    if full && query.split('&').any(|part| part.starts_with("fail_on_no_slot=") && !part.ends_with("=0")) {
        return Err(ApiError::unavailable("no slot available"));
    }
    Ok(slots.iter().enumerate().map(|(id, slot)| slot_value(app, id, slot)).collect())
}

fn slot_value(app: &App, id: usize, slot: &SlotLook) -> Value {
    let context = app.options.profile.context;
    let Some(task) = slot.task else {
        return json!({"id": id, "n_ctx": context, "speculative": false, "is_processing": slot.busy});
    };
    let limit = slot.limit.map_or(json!(-1), |limit| json!(limit));
    let mut parameters = parameters();
    if let Some(members) = parameters.as_object_mut() {
        members.insert("max_tokens".to_owned(), limit.clone());
        members.insert("n_predict".to_owned(), limit);
        members.insert("stream".to_owned(), json!(slot.streamed));
    }
    let remain = slot.remain.map_or(json!(-1), |remain| json!(remain));
    json!({
        "id": id,
        "n_ctx": context,
        "speculative": false,
        "is_processing": slot.busy,
        "id_task": task,
        "n_prompt_tokens": slot.tokens,
        "n_prompt_tokens_processed": slot.computed,
        "n_prompt_tokens_cache": slot.cached,
        "params": parameters,
        "next_token": [{"has_next_token": slot.busy, "has_new_line": false, "n_remain": remain,
            "n_decoded": slot.generated}],
    })
}

/// `/metrics`, in Prometheus' text format.
pub(crate) fn metrics(app: &App) -> Response<Body> {
    let (counters, averages, busy, deferred) = app.engine.update(|model, now| {
        model.poke(now);
        let averages = model.counters().averages();
        (model.counters().clone(), averages, model.busy(), model.deferred())
    });
    let per_pass = counters.slots_in_passes as f64 / counters.passes.max(1) as f64;
    let (prompt_time, predicted_time) = (counters.prompt_time.as_secs_f64(), counters.predicted_time.as_secs_f64());
    let series: [(&str, &str, &str, f64); 15] = [
        (
            "prompt_tokens_total",
            "counter",
            "Number of prompt tokens processed, excluding cached tokens",
            counters.prompt as f64,
        ),
        (
            "prompt_tokens_cached_total",
            "counter",
            "Number of prompt tokens reused from the cache",
            counters.cached as f64,
        ),
        ("prompt_seconds_total", "counter", "Total time spent processing prompts", prompt_time),
        ("tokens_predicted_total", "counter", "Number of generation tokens processed", counters.predicted as f64),
        ("tokens_predicted_seconds_total", "counter", "Total time spent generating tokens", predicted_time),
        ("n_decode_total", "counter", "Total number of passes", counters.passes as f64),
        ("n_tokens_max", "counter", "Largest observed sequence length (prompt + generation)", counters.longest as f64),
        ("spec_decode_num_draft_tokens_total", "counter", "Speculative: none here", 0.0),
        ("spec_decode_num_accepted_tokens_total", "counter", "Speculative: none here", 0.0),
        ("spec_decode_num_drafts_total", "counter", "Speculative: none here", 0.0),
        ("prompt_tokens_seconds", "gauge", "Average prompt throughput in tokens/s", averages.0),
        ("predicted_tokens_seconds", "gauge", "Average generation throughput in tokens/s", averages.1),
        ("requests_processing", "gauge", "Number of requests processing", busy as f64),
        ("requests_deferred", "gauge", "Number of requests deferred", deferred as f64),
        ("n_busy_slots_per_decode", "gauge", "Average number of busy slots per pass", per_pass),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in series {
        let name = format!("llamacpp:{name}");
        // Writing to a string cannot fail.
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}", six_digits(value)).ok();
    }
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(text))));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    headers.insert("process-start-time-unix", HeaderValue::from_static("0"));
    response
}

/// A number as C++ streams write it: six significant digits, from a million on with an exponent.
fn six_digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        let places = usize::try_from(5 - exponent).unwrap_or_default();
        return trimmed(&format!("{value:.places$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(digits), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_llama_server_writes_them() {
        let cases = [
            (0.0, "0"),
            (7.0, "7"),
            (0.01742, "0.01742"),
            (2554.891, "2554.89"),
            (999_999.0, "999999"),
            (1_248_000.0, "1.248e+06"),
            (0.000_012_345_67, "1.23457e-05"),
            (1.5, "1.5"),
            (100_000.0, "100000"),
        ];
        for (value, text) in cases {
            assert_eq!(six_digits(value), text);
        }
    }
}
