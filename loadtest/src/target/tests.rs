use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;
use crate::stub::{Asked, Stub, nobody};

const PATIENCE: Duration = Duration::from_secs(5);

/// A server that says `[]` to everything.
pub(crate) async fn somebody() -> (Stub, Server) {
    let stub = Stub::answering(|_| (200, "[]".to_owned())).await;
    let server = server(&stub);
    (stub, server)
}

pub(crate) fn server(stub: &Stub) -> Server {
    Server::new(&stub.url, None, &Options::default()).unwrap()
}

fn asker(tenant: &str, key: &str) -> Asker {
    Asker { tenant: tenant.to_owned(), key: Some(key.to_owned()), model: "tiny".to_owned() }
}

/// A tokenizer for which each word with the space before it is a token, but for words with an `x`, which are two; and so
/// is a line's first word, but for those that begin with a `k`.
fn tokenize(body: &[u8]) -> String {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let mut tokens = Vec::new();
    for (line, words) in asked["content"].as_str().unwrap().split('\n').enumerate() {
        tokens.extend((line > 0).then(|| "\n".to_owned()));
        for (index, word) in words.split(' ').enumerate() {
            let space = if index == 0 { "" } else { " " };
            match (word.split_once('x'), word.strip_prefix('k').filter(|_| index == 0)) {
                (Some((left, right)), _) => tokens.extend([format!("{space}{left}"), format!("x{right}")]),
                (None, Some(rest)) => tokens.extend(["k".to_owned(), rest.to_owned()]),
                (None, None) => tokens.push(format!("{space}{word}")),
            }
        }
    }
    json!({ "tokens": tokens.iter().map(|piece| json!({ "id": 1, "piece": piece })).collect::<Vec<_>>() }).to_string()
}

/// A llama-server with two slots.
fn llama(asked: &Asked) -> (u16, String) {
    match asked.path() {
        "/health" => (200, "{}".to_owned()),
        "/v1/models" => (200, json!({"data": [{"id": "tiny", "aliases": ["small"]}]}).to_string()),
        "/props" => (200, json!({"total_slots": 2, "build_info": "b1-test"}).to_string()),
        "/tokenize" => (200, tokenize(asked.body.as_bytes())),
        path => (404, path.to_owned()),
    }
}

/// A gateway that knows one key and has no tokenizer for it.
fn gateway(asked: &Asked) -> (u16, String) {
    match (asked.key(), asked.path()) {
        (Some("good"), "/v1/models") => llama(asked),
        (Some("good"), _) => (404, json!({"error": {"message": "no such path"}}).to_string()),
        _ => (401, String::new()),
    }
}

#[tokio::test]
async fn a_llama_server_tells_its_slots_its_build_and_the_words_that_are_one_token() {
    let llama = Stub::answering(llama).await;
    let found = examine(&server(&llama), &[], &[asker("a", "any")], PATIENCE).await.unwrap();
    assert_eq!((found.target.slots, found.target.build.as_deref()), (Some(2), Some("b1-test")));
    assert!(found.target.exact_prompts && found.target.upstream.is_none());
    assert!(found.words.len() > 1000 && found.words.iter().all(|word| !word.contains('x') && !word.starts_with('k')));
    assert_eq!(found.warnings, Vec::<String>::new());
}

#[tokio::test]
async fn slots_of_several_llama_servers_behind_a_gateway_add_up() {
    let (gateway, one, other) =
        (Stub::answering(gateway).await, Stub::answering(llama).await, Stub::answering(llama).await);
    let upstreams = [server(&one), server(&other)];
    let found = examine(&server(&gateway), &upstreams, &[asker("a", "good")], PATIENCE).await.unwrap();
    assert_eq!((found.target.slots, found.target.build.as_deref()), (Some(4), Some("b1-test")));
    assert_eq!(found.target.upstream, Some(format!("{}, {}", one.url, other.url)));
    assert!(found.target.exact_prompts);
}

#[tokio::test]
async fn without_a_tokenizer_lengths_are_estimates_and_it_says_so() {
    let gateway = Stub::answering(gateway).await;
    let found = examine(&server(&gateway), &[], &[asker("a", "good")], PATIENCE).await.unwrap();
    assert!(found.words.is_empty() && !found.target.exact_prompts);
    let wanted = "lengths of prompts are estimates: /tokenize answers 404 Not Found: no such path";
    assert_eq!(found.warnings, [wanted]);
}

#[tokio::test]
async fn a_tokenizer_that_counts_a_text_otherwise_is_not_believed() {
    let llama = Stub::answering(|asked: &Asked| match asked.path() {
        // A text with fewer words than the whole list is one token short for each third word.
        "/tokenize" => {
            let mut reply: Value = serde_json::from_str(&tokenize(asked.body.as_bytes())).unwrap();
            let tokens = reply["tokens"].as_array_mut().unwrap();
            if tokens.len() < 300 {
                tokens.truncate(150);
            }
            (200, reply.to_string())
        }
        _ => llama(asked),
    })
    .await;
    let found = examine(&server(&llama), &[], &[asker("a", "any")], PATIENCE).await.unwrap();
    assert!(found.words.is_empty());
    assert!(
        found.warnings[0].ends_with("a text of 200 words that are one token each has 150 tokens"),
        "{:?}",
        found.warnings
    );
}

#[tokio::test]
async fn a_model_that_is_not_listed_is_a_warning_that_names_the_ones_that_are() {
    let llama = Stub::answering(llama).await;
    let asker = Asker { model: "huge".to_owned(), ..asker("a", "any") };
    let found = examine(&server(&llama), &[], &[asker], PATIENCE).await.unwrap();
    let wanted = "the model \"huge\", which is asked for, is not listed: there is small, tiny";
    assert_eq!(found.warnings, [wanted]);
}

#[tokio::test]
async fn a_refused_key_names_its_tenant_and_not_the_key() {
    let gateway = Stub::answering(gateway).await;
    let askers = [asker("a", "good"), asker("b", "s3cret")];
    let error = examine(&server(&gateway), &[], &askers, PATIENCE).await.unwrap_err();
    assert!(matches!(&error, Unfit::KeyRefused { tenant, .. } if tenant == "b"), "{error}");
    assert!(!format!("{error:?} {error}").contains("s3cret"));
}

#[tokio::test]
async fn nobody_at_the_address_is_an_error_with_a_hint() {
    let (_port, url) = nobody();
    let server = Server::new(&url, None, &Options::default()).unwrap();
    let error = examine(&server, &[], &[asker("a", "any")], PATIENCE).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("{} cannot be reached", server.url)) && text.contains("\nhint: "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_loading_is_waited_for() {
    let asked_before = AtomicU32::new(0);
    let loading = Stub::answering(move |asked: &Asked| match asked.path() {
        "/v1/models" if asked_before.fetch_add(1, Relaxed) < 3 => {
            (503, json!({"error": {"code": 503, "message": "Loading model"}}).to_string())
        }
        _ => llama(asked),
    })
    .await;
    let found = examine(&server(&loading), &[], &[asker("a", "any")], PATIENCE).await.unwrap();
    assert_eq!(found.target.slots, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_never_loads_is_given_up() {
    let (gateway, loading) = (
        Stub::answering(gateway).await,
        Stub::answering(|_: &Asked| (503, json!({"error": {"message": "Loading model"}}).to_string())).await,
    );
    let upstreams = [server(&loading)];
    let error = examine(&server(&gateway), &upstreams, &[asker("a", "good")], PATIENCE).await.unwrap_err();
    let wanted = format!("{} still answers 503 Service Unavailable after 5 s: Loading model", loading.url);
    assert!(error.to_string().starts_with(&wanted), "{error}");
}

#[tokio::test]
async fn what_a_server_says_is_quoted_on_one_short_line() {
    let broken = Stub::answering(|_: &Asked| (500, format!("line\nline{}", "x".repeat(1000)))).await;
    let error = examine(&server(&broken), &[], &[asker("a", "any")], PATIENCE).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/v1/models answers 500 Internal Server Error: line linex") && text.len() < 500, "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_never_answers_is_given_up() {
    let stub = Stub::start(|mut conn| async move { conn.hung_up().await }).await;
    let (server, askers) = (server(&stub), [asker("a", "any")]);
    let examined = tokio::time::timeout(Duration::from_secs(600), examine(&server, &[], &askers, PATIENCE)).await;
    let error = examined.expect("it ends by itself").unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
}
