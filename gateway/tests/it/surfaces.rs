//! Every API surface answers as llama-server does, and is counted.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::harness::engine::{Engine, Options, shared};
use crate::harness::gateway::Gateway;

/// One llama-server that embeds.
fn embedding() -> &'static Engine {
    static ENGINE: LazyLock<Engine> =
        LazyLock::new(|| Engine::start(Options::tiny().args(&["--embeddings", "--pooling", "mean"])));
    &ENGINE
}

/// Asks the gateway and checks that the ledger says what `prompt` and `completion` point to.
fn ask_metered(gateway: &Gateway, path: &str, body: &Value, prompt: &str, completion: &str) -> Value {
    let reply = gateway.post(path, body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let row = gateway.settled_row(&reply.head.request_id());
    let answer = reply.json();
    assert_eq!(row["ending"], "complete", "{row}");
    assert_eq!(row["counted_by"], "usage", "{row}");
    assert_eq!(row["prompt_tokens"], *answer.pointer(prompt).unwrap(), "{row} {answer}");
    if !completion.is_empty() {
        assert_eq!(row["completion_tokens"], *answer.pointer(completion).unwrap(), "{row} {answer}");
    }
    answer
}

#[test]
fn completions_are_answered_and_metered() {
    let gateway = Gateway::start(&shared().url());
    let body = json!({"prompt": "Once upon", "max_tokens": 9});
    let (prompt, completion) = ("/usage/prompt_tokens", "/usage/completion_tokens");
    let answer = ask_metered(&gateway, "/v1/completions", &body, prompt, completion);
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["usage"]["completion_tokens"], 9);
}

#[test]
fn several_prompts_in_one_completion_are_all_counted() {
    let gateway = Gateway::start(&shared().url());
    let body = json!({"prompt": ["Once upon", "There was"], "max_tokens": 9});
    let reply = gateway.post("/v1/completions", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["choices"].as_array().unwrap().len(), 2);
    assert_eq!(gateway.settled_row(&reply.head.request_id())["completion_tokens"], 18);
}

#[test]
fn responses_are_answered_and_metered_streamed_or_not() {
    let gateway = Gateway::start(&shared().url());
    let body = json!({"input": "Once upon", "max_output_tokens": 9});
    let (prompt, completion) = ("/usage/input_tokens", "/usage/output_tokens");
    let answer = ask_metered(&gateway, "/v1/responses", &body, prompt, completion);
    assert_eq!(answer["object"], "response");

    let body = json!({"input": "Once upon", "max_output_tokens": 9, "stream": true});
    let streamed = gateway.open("/v1/responses", &body);
    let id = streamed.head.request_id();
    let events = streamed.events();
    assert!(events[0].starts_with("event: response.created\n"), "{}", events[0]);
    assert!(events.last().unwrap().starts_with("event: response.completed\n"));
    assert!(
        events
            .iter()
            .all(|event| !event.starts_with("event: response.output_text.delta") || !event.contains("timings"))
    );
    assert_eq!(gateway.settled_row(&id)["completion_tokens"], 9);
}

#[test]
fn messages_are_answered_and_metered_streamed_or_not() {
    let gateway = Gateway::start(&shared().url());
    let messages = json!([{"role": "user", "content": "Once upon"}]);
    let body = json!({"model": "x", "messages": messages, "max_tokens": 9});
    let reply = gateway.post("/v1/messages", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(answer["type"], "message");
    let row = gateway.settled_row(&reply.head.request_id());
    let usage = &answer["usage"];
    let input = usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(row["prompt_tokens"], input, "{row} {usage}");
    assert_eq!(row["completion_tokens"], usage["output_tokens"]);
    assert!(reply.head.header("request-id").is_some(), "Anthropic's clients read request-id");

    let body = json!({"model": "x", "messages": messages, "max_tokens": 9, "stream": true});
    let streamed = gateway.open("/v1/messages", &body);
    let id = streamed.head.request_id();
    let events = streamed.events();
    assert!(events[0].starts_with("event: message_start\n"), "{}", events[0]);
    assert!(events.last().unwrap().starts_with("event: message_stop\n"));
    let row = gateway.settled_row(&id);
    assert_eq!((&row["prompt_tokens"], &row["completion_tokens"]), (&json!(input), &json!(9)));
}

#[test]
fn embeddings_are_answered_and_metered() {
    let gateway = Gateway::start(&embedding().url());
    let body = json!({"input": ["one river", "two rivers"], "model": "x"});
    let answer = ask_metered(&gateway, "/v1/embeddings", &body, "/usage/prompt_tokens", "");
    assert_eq!(answer["data"].as_array().unwrap().len(), 2);
    let reply = gateway.post("/v1/embeddings", &json!({"input": "a", "encoding_format": "base64"}));
    assert!(reply.json()["data"][0]["embedding"].is_string(), "{}", reply.text());
}

#[test]
fn documents_are_ranked_and_metered() {
    let engine = Engine::start(Options::tiny().args(&["--rerank"]));
    let gateway = Gateway::start(&engine.url());
    // More documents than slots: they take all slots, not more.
    let body = json!({"query": "a river", "documents": ["one river", "two rivers", "a stone", "the sea", "rain"]});
    let answer = ask_metered(&gateway, "/v1/rerank", &body, "/usage/prompt_tokens", "");
    assert_eq!(answer["results"].as_array().unwrap().len(), 5);
}

#[test]
fn embeddings_and_rerank_that_are_not_enabled_say_so() {
    let gateway = Gateway::start(&shared().url());
    let embeddings = gateway.post("/v1/embeddings", &json!({"input": "a"}));
    assert_eq!((embeddings.status, embeddings.code().as_str()), (501, "not_supported"));
    let body = json!({"query": "a", "documents": ["b", "c"]});
    let rerank = gateway.post("/v1/rerank", &body);
    assert_eq!((rerank.status, rerank.code().as_str()), (501, "not_supported"));
}

#[test]
fn texts_are_tokenized_and_back_without_a_slot_or_a_ledger_row() {
    let gateway = Gateway::start(&shared().url());
    let tokens = gateway.post("/tokenize", &json!({"content": "the river"})).json()["tokens"].clone();
    assert!(tokens.as_array().unwrap().len() > 1);
    let text = gateway.post("/detokenize", &json!({"tokens": tokens})).json();
    assert_eq!(text["content"], "the river");
    let messages = json!([{"role": "user", "content": "hi there"}]);
    let prompt = gateway.post("/apply-template", &json!({"messages": messages})).json();
    assert!(prompt["prompt"].as_str().unwrap().contains("hi there"));
    let body = json!({"model": "x", "messages": messages});
    let count = gateway.post("/v1/messages/count_tokens", &body).json();
    assert!(count["input_tokens"].as_u64().unwrap() > 2);
    assert_eq!(gateway.usage_rows().len(), 0);
}

#[test]
fn models_are_listed_and_retrieved_by_name_and_alias() {
    let gateway = Gateway::with_config(&shared().url(), "[models]\naliases = [\"gpt-4o-mini\", \"team/kimi\"]");
    let list = gateway.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let ids = list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect::<Vec<_>>();
    for id in ["test-model", "gpt-4o-mini", "team/kimi"] {
        assert!(ids.contains(&json!(id)), "{list}");
        let one = gateway.get(&format!("/v1/models/{}", id.replace('/', "%2F")));
        assert_eq!(one.status, 200, "{}", one.text());
        let one = one.json();
        assert_eq!((&one["id"], &one["object"]), (&json!(id), &json!("model")));
        assert!(one["meta"]["n_ctx"].as_u64().is_some(), "{one}");
        assert!(one["created"].is_number() && one["owned_by"].is_string());
    }
    let unknown = gateway.get("/v1/models/nobody");
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "model_not_found"));
}

#[test]
fn a_model_that_is_not_served_is_refused_where_aliases_are_set() {
    let gateway = Gateway::with_config(&shared().url(), "[models]\naliases = [\"small\"]");
    let ask = |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3});
        gateway.post("/v1/chat/completions", &body)
    };
    assert_eq!(ask("small").status, 200);
    assert_eq!(ask("test-model").status, 200);
    let refused = ask("large");
    assert_eq!((refused.status, refused.code().as_str()), (404, "model_not_found"));
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_the_code_that_clients_know() {
    let gateway = Gateway::start(&shared().url());
    let text = "river ".repeat(6000);
    let messages = json!([{"role": "user", "content": text}]);
    for stream in [false, true] {
        let body = json!({"messages": messages, "max_tokens": 3, "stream": stream});
        let reply = gateway.post("/v1/chat/completions", &body);
        assert_eq!((reply.status, reply.code().as_str()), (400, "context_length_exceeded"));
    }
    let reply = gateway.post("/v1/messages", &json!({"model": "x", "messages": messages, "max_tokens": 3}));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["type"], "error");
    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
}
