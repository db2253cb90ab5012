//! `/v1/embeddings` and `/v1/rerank`: numbers that look random and are the same for the same text. A slot computes each
//! text like a prompt.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use super::super::model::{Event, Request, Sequence};
use super::super::server::App;
use super::super::words::{Reply, Token, fingerprint, mixed};
use super::error::ApiError;
use super::json::{Ordered, ordered};
use super::prompt;

/// Numbers in a vector.
const DIMENSIONS: u64 = 64;

/// `/v1/embeddings`
///
/// # Errors
/// As llama-server's.
pub(crate) async fn embeddings(app: &Arc<App>, body: &Value) -> Result<Ordered, ApiError> {
    let input = body.get("input").or_else(|| body.get("content"));
    let input = input.ok_or_else(|| ApiError::invalid("\"input\" or \"content\" must be provided"))?;
    let base64 = match body["encoding_format"].as_str() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            let message = "The format to return the embeddings in. Can be either float or base64";
            return Err(ApiError::invalid(message));
        }
    };
    let texts = match input {
        Value::Array(items) if !items.iter().any(Value::is_number) => {
            items.iter().map(|item| prompt::mixed_tokens(&app.tokenizer, item)).collect::<Result<Vec<_>, _>>()?
        }
        _ => vec![prompt::mixed_tokens(&app.tokenizer, input)?],
    };
    if texts.iter().any(Vec::is_empty) {
        return Err(ApiError::invalid("Input content cannot be empty"));
    }
    let embedding = |(index, text): (usize, &Vec<Token>)| {
        let vector = vector(text);
        match base64 {
            false => json!({"embedding": vector, "index": index, "object": "embedding"}),
            true => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                json!({"embedding": BASE64_STANDARD.encode(&bytes), "index": index, "object": "embedding", "encoding_format": "base64"})
            }
        }
    };
    let data: Vec<_> = texts.iter().enumerate().map(embedding).collect();
    let usage = compute(app, texts).await?;
    Ok(envelope(app, body, usage).with("data", data))
}

/// `/v1/rerank`
///
/// # Errors
/// As llama-server's.
pub(crate) async fn rerank(app: &Arc<App>, body: &Value) -> Result<String, ApiError> {
    let Some(query) = body["query"].as_str() else { return Err(ApiError::invalid("\"query\" must be provided")) };
    let plain = body.get("texts").is_some();
    let documents = if plain { &body["texts"] } else { &body["documents"] };
    let documents =
        documents.as_array().map(|documents| documents.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    let documents = documents.filter(|documents| !documents.is_empty());
    let documents = documents.ok_or_else(|| ApiError::invalid("\"documents\" must be a non-empty string array"))?;
    let texts: Vec<_> =
        documents.iter().map(|document| app.tokenizer.tokens(&format!("{query}\n{document}"))).collect();
    let mut scores: Vec<_> = texts.iter().map(|text| f64::from(vector(text)[0])).enumerate().collect();
    scores.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    scores.truncate(body["top_n"].as_u64().map_or(usize::MAX, |most| most as usize));
    let usage = compute(app, texts).await?;
    if plain {
        let result = |(index, score): &(usize, f64)| match body["return_text"] == true {
            true => json!({"index": index, "score": score, "text": documents[*index]}),
            false => json!({"index": index, "score": score}),
        };
        return Ok(scores.iter().map(result).collect::<Value>().to_string());
    }
    let results = scores.iter().map(|(index, score)| json!({"index": index, "relevance_score": score}));
    Ok(envelope(app, body, usage).with("results", results.collect::<Value>()).text())
}

fn envelope(app: &App, body: &Value, tokens: usize) -> Ordered {
    let model = body["model"].as_str().unwrap_or(&app.options.profile.name);
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    ordered! {"model": model, "object": "list", "usage": usage}
}

/// Lets the model compute the texts; gives how many tokens they are.
async fn compute(app: &Arc<App>, texts: Vec<Vec<Token>>) -> Result<usize, ApiError> {
    let tokens = texts.iter().map(Vec::len).sum();
    let mut left = texts.len();
    let sequence = |prompt| {
        let (reply, limit) = (Reply::Words { seed: 0 }, Some(0));
        Sequence { prompt, reply, ends_at: None, limit, cached: false, trouble: None }
    };
    let sequences = texts.into_iter().map(sequence).collect();
    let request = Request { sequences, together: false, streamed: false, ping: None };
    let mut ticket = app.engine.submit(request);
    while left > 0 {
        match ticket.next().await.map(|output| output.event) {
            Some(Event::TooLong(tokens)) => {
                let batch = app.options.profile.batch;
                return Err(ApiError::server(format!(
                    "input ({tokens} tokens) is too large to process. increase the physical batch size (current batch \
                     size: {batch})"
                )));
            }
            Some(Event::Ended(_)) => left -= 1,
            Some(_) => {}
            None => return Err(ApiError::server("the simulator has ended")),
        }
    }
    Ok(tokens)
}

/// A vector of length 1.
fn vector(text: &[Token]) -> Vec<f32> {
    let seed = fingerprint(text);
    let raw = |at| (mixed(seed ^ at) % 2001) as f32 / 1000.0 - 1.0;
    let raw: Vec<f32> = (0..DIMENSIONS).map(raw).collect();
    let length = raw.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::EPSILON);
    raw.iter().map(|value| value / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_depend_on_the_text() {
        let length: f32 = vector(&[1, 2]).iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5);
        assert_ne!(vector(&[1, 2]), vector(&[1, 3]));
    }
}
