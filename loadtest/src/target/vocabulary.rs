//! Words that are one token each, so that a prompt of n words has n tokens: asked from the server's own tokenizer.
//!
//! `words.txt` has common short English words. Most of them are one token with the space before them in any tokenizer
//! that has seen English, and many without it, as a prompt begins; which, `/tokenize` tells. Tokenizers split at spaces
//! before they do anything else, so what holds for a word alone holds in a text; one text is counted to see that it does.

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{Server, quoted};

const WORDS: &str = include_str!("words.txt");
/// Words of the text that is counted, and by how many tokens it may be off: the space that some tokenizers put before
/// a text, and the token with which some begin one.
const COUNTED: usize = 200;
const OFF: usize = 2;
/// With fewer words prompts would repeat themselves so much that a prompt cache or a drafting model gains by it.
const LEAST: usize = 100;

/// The words that are one token each for this server.
///
/// # Errors
/// In words, why its tokens cannot be had.
pub(super) async fn ask(server: &Server) -> Result<Vec<String>, String> {
    let words: Vec<_> = WORDS.lines().collect();
    let whole = words_after(server, &words, " ").await?;
    // A chat template begins a prompt on a line of its own: where a word without its space is two tokens, a prompt that
    // begins with it has one more. Some tokenizers have hardly a word without its space; then it cannot be helped.
    let first = words_after(server, &words, "\n").await?;
    let both: Vec<_> = whole.iter().filter(|word| first.contains(word)).cloned().collect();
    let whole = if both.len() < LEAST { whole } else { both };
    if whole.len() < LEAST {
        return Err(format!("only {} of {} words are one token each", whole.len(), words.len()));
    }
    // Neighbours in the list are neighbours in the alphabet, as in no text: every 37th.
    let some: Vec<_> = (0..COUNTED).map(|index| whole[index * 37 % whole.len()].as_str()).collect();
    let counted = tokenize(server, &some.join(" ")).await?.len();
    if counted.abs_diff(COUNTED) > OFF {
        return Err(format!("a text of {COUNTED} words that are one token each has {counted} tokens"));
    }
    Ok(whole)
}

/// The words that are one token each after a separator: with the space before them, or alone on a line.
async fn words_after(server: &Server, words: &[&str], separator: &str) -> Result<Vec<String>, String> {
    // The first word has no separator before it and is not judged; so it comes twice.
    let text = format!("{}{separator}{}", words[0], words.join(separator));
    let tokens = tokenize(server, &text).await?;
    let lead = if separator == " " { " " } else { "" };
    let pieces = tokens.iter().map(|token| token.piece.text());
    one_token_each(words, lead, pieces).ok_or_else(|| "the tokens of a text are not its words".to_owned())
}

/// Of a text that is the first word and then all words, each after a space or on a line of its own: the words that are
/// one piece, `lead` included. `None`: the pieces do not make up the text.
fn one_token_each<'a>(words: &[&str], lead: &str, mut pieces: impl Iterator<Item = &'a str>) -> Option<Vec<String>> {
    let mut whole = Vec::new();
    for (position, word) in words.first().into_iter().chain(words).enumerate() {
        let (mut text, mut last) = (String::new(), "");
        while text.trim_start_matches([' ', '\n']) != *word {
            last = pieces.next()?;
            text += last;
            if text.len() > word.len() + 1 {
                return None;
            }
        }
        if position > 0 && last.strip_prefix(lead) == Some(word) {
            whole.push((*word).to_owned());
        }
    }
    Some(whole)
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    piece: Piece,
}

/// The text of a token; its bytes, where they are no text by themselves.
#[derive(Deserialize)]
#[serde(untagged)]
enum Piece {
    Text(String),
    Bytes(#[expect(dead_code, reason = "not needed: no word has such a token")] Vec<u8>),
}

impl Piece {
    /// Bytes that are no text are no part of a word.
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Bytes(_) => "\u{fffd}",
        }
    }
}

async fn tokenize(server: &Server, text: &str) -> Result<Vec<Token>, String> {
    let body = Bytes::from(json!({ "content": text, "with_pieces": true }).to_string());
    let reply = server.client.post("/tokenize", server.key.as_deref(), body).await;
    let answer = reply.map_err(|error| format!("/tokenize: {error:#}"))?;
    if answer.status != StatusCode::OK {
        return Err(format!("/tokenize answers {}: {}", answer.status, quoted(&answer.body)));
    }
    let Tokens { tokens } = serde_json::from_slice(&answer.body).map_err(|error| format!("/tokenize: {error}"))?;
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_several_pieces_are_left_out_and_the_rest_is_still_found() {
        let words = ["able", "about", "abroad", "above"];
        let pieces = ["able", " able", " about", " ab", "road", " above"];
        assert_eq!(one_token_each(&words, " ", pieces.into_iter()).unwrap(), ["able", "about", "above"]);
    }

    #[test]
    fn a_tokenizer_that_puts_a_space_before_the_text_is_understood() {
        let pieces = [" a", "ble", " able", " about"];
        assert_eq!(one_token_each(&["able", "about"], " ", pieces.into_iter()).unwrap(), ["able", "about"]);
    }

    #[test]
    fn words_that_begin_a_line_are_judged_without_a_space() {
        let words = ["able", "about", "abroad", "above"];
        let pieces = ["able", "\n", "able", "\n", "ab", "out", "\n", "abroad", "\n", "above"];
        assert_eq!(one_token_each(&words, "", pieces.into_iter()).unwrap(), ["able", "abroad", "above"]);
    }

    #[test]
    fn pieces_that_are_not_the_text_tell_nothing() {
        for wrong in
            [&["able", " above", " about"][..], &["able", " able"], &[], &["\u{fffd}", "able", " able", " about"]]
        {
            assert_eq!(one_token_each(&["able", "about"], " ", wrong.iter().copied()), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_list_has_no_word_twice_and_nothing_but_words() {
        let words: Vec<_> = WORDS.lines().collect();
        assert!(words.len() > 1000 && words.is_sorted_by(|a, b| a < b));
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
    }
}
