use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde_json::json;

use super::*;
use crate::served::{Asked, serve};

const PATIENCE: Duration = Duration::from_secs(5);

fn asker(tenant: &str, key: &str) -> Asker {
    Asker { tenant: tenant.to_owned(), key: Some(key.to_owned()), model: "tiny".to_owned() }
}

/// A tokenizer for which each word with the space before it is a token, but for words with an `x`, which are two.
fn tokenize(body: &[u8]) -> String {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let mut tokens = Vec::new();
    for (index, word) in asked["content"].as_str().unwrap().split(' ').enumerate() {
        let space = if index == 0 { "" } else { " " };
        match word.split_once('x') {
            Some((left, right)) => tokens.extend([format!("{space}{left}"), format!("x{right}")]),
            None => tokens.push(format!("{space}{word}")),
        }
    }
    json!({ "tokens": tokens.iter().map(|piece| json!({ "id": 1, "piece": piece })).collect::<Vec<_>>() }).to_string()
}

/// A llama-server with two slots.
fn llama(asked: &Asked) -> (u16, String) {
    match asked.path.as_str() {
        "/health" => (200, "{}".to_owned()),
        "/v1/models" => (200, json!({"data": [{"id": "tiny", "aliases": ["small"]}]}).to_string()),
        "/props" => (200, json!({"total_slots": 2, "build_info": "b1-test"}).to_string()),
        "/tokenize" => (200, tokenize(&asked.body)),
        path => (404, path.to_owned()),
    }
}

/// A gateway that knows one key and has no tokenizer for it.
fn gateway(asked: &Asked) -> (u16, String) {
    match (asked.key.as_deref(), asked.path.as_str()) {
        (Some("good"), "/v1/models") => llama(asked),
        (Some("good"), _) => (404, json!({"error": {"message": "no such path"}}).to_string()),
        _ => (401, String::new()),
    }
}

#[tokio::test]
async fn a_llama_server_tells_its_slots_its_build_and_the_words_that_are_one_token() {
    let llama = serve(llama).await;
    let found = examine(&llama.server(), &[], &[asker("a", "any")], PATIENCE).await.unwrap();
    assert_eq!((found.target.slots, found.target.build.as_deref()), (Some(2), Some("b1-test")));
    assert!(found.target.exact_prompts && found.target.upstream.is_none());
    assert!(found.words.len() > 1000 && found.words.iter().all(|word| !word.contains('x')));
    assert_eq!(found.warnings, Vec::<String>::new());
}

#[tokio::test]
async fn slots_of_several_llama_servers_behind_a_gateway_add_up() {
    let (gateway, one, other) = (serve(gateway).await, serve(llama).await, serve(llama).await);
    let upstreams = [one.server(), other.server()];
    let found = examine(&gateway.server(), &upstreams, &[asker("a", "good")], PATIENCE).await.unwrap();
    assert_eq!((found.target.slots, found.target.build.as_deref()), (Some(4), Some("b1-test")));
    assert_eq!(found.target.upstream, Some(format!("{}, {}", one.url, other.url)));
    assert!(found.target.exact_prompts);
}

#[tokio::test]
async fn without_a_tokenizer_lengths_are_estimates_and_it_says_so() {
    let gateway = serve(gateway).await;
    let found = examine(&gateway.server(), &[], &[asker("a", "good")], PATIENCE).await.unwrap();
    assert!(found.words.is_empty() && !found.target.exact_prompts);
    let wanted = "lengths of prompts are estimates: /tokenize answers 404 Not Found: no such path";
    assert_eq!(found.warnings, [wanted]);
}

#[tokio::test]
async fn a_tokenizer_that_counts_a_text_otherwise_is_not_believed() {
    let llama = serve(|asked: &Asked| match asked.path.as_str() {
        // A text with fewer words than the whole list is one token short for each third word.
        "/tokenize" => {
            let mut reply: Value = serde_json::from_str(&tokenize(&asked.body)).unwrap();
            let tokens = reply["tokens"].as_array_mut().unwrap();
            if tokens.len() < 300 {
                tokens.truncate(150);
            }
            (200, reply.to_string())
        }
        _ => llama(asked),
    })
    .await;
    let found = examine(&llama.server(), &[], &[asker("a", "any")], PATIENCE).await.unwrap();
    assert!(found.words.is_empty());
    assert!(
        found.warnings[0].ends_with("a text of 200 words that are one token each has 150 tokens"),
        "{:?}",
        found.warnings
    );
}

#[tokio::test]
async fn a_model_that_is_not_listed_is_a_warning_that_names_the_ones_that_are() {
    let llama = serve(llama).await;
    let asker = Asker { model: "huge".to_owned(), ..asker("a", "any") };
    let found = examine(&llama.server(), &[], &[asker], PATIENCE).await.unwrap();
    let wanted = "tenant a asks for model \"huge\", which is not listed: there is small, tiny";
    assert_eq!(found.warnings, [wanted]);
}

#[tokio::test]
async fn a_refused_key_names_its_tenant_and_not_the_key() {
    let gateway = serve(gateway).await;
    let askers = [asker("a", "good"), asker("b", "s3cret")];
    let error = examine(&gateway.server(), &[], &askers, PATIENCE).await.unwrap_err();
    assert!(matches!(&error, Unfit::KeyRefused { tenant, .. } if tenant == "b"), "{error}");
    assert!(!format!("{error:?} {error}").contains("s3cret"));
}

#[tokio::test]
async fn nobody_at_the_address_is_an_error_with_a_hint() {
    let served = serve(llama).await;
    let server = served.server();
    drop(served);
    let error = examine(&server, &[], &[asker("a", "any")], PATIENCE).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("{} cannot be reached", server.url)) && text.contains("\nhint: "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_loading_is_waited_for() {
    let asked_before = AtomicU32::new(0);
    let loading = serve(move |asked: &Asked| match asked.path.as_str() {
        "/v1/models" if asked_before.fetch_add(1, Relaxed) < 3 => {
            (503, json!({"error": {"code": 503, "message": "Loading model"}}).to_string())
        }
        _ => llama(asked),
    })
    .await;
    let found = examine(&loading.server(), &[], &[asker("a", "any")], PATIENCE).await.unwrap();
    assert_eq!(found.target.slots, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_never_loads_is_given_up() {
    let (gateway, loading) = (
        serve(gateway).await,
        serve(|_: &Asked| (503, json!({"error": {"message": "Loading model"}}).to_string())).await,
    );
    let upstreams = [loading.server()];
    let error = examine(&gateway.server(), &upstreams, &[asker("a", "good")], PATIENCE).await.unwrap_err();
    let wanted = format!("{} still answers 503 Service Unavailable after 5 s: Loading model", loading.url);
    assert!(error.to_string().starts_with(&wanted), "{error}");
}

#[tokio::test]
async fn what_a_server_says_is_quoted_on_one_short_line() {
    let broken = serve(|_: &Asked| (500, format!("line\nline{}", "x".repeat(1000)))).await;
    let error = examine(&broken.server(), &[], &[asker("a", "any")], PATIENCE).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/v1/models answers 500 Internal Server Error: line linex") && text.len() < 500, "{text}");
}
