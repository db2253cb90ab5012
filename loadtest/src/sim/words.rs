//! Text and tokens of the simulated model: a tokenizer for whatever comes, and the words of the replies.
//!
//! A word with the blank before it is one token, so a text has as many tokens as words, marks and lines. Tokens can be
//! turned back into text: what is not known yet is given a number when it is first seen.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// One token's number.
pub type Token = u32;

/// Tokens of the vocabulary: single bytes, the marks of the chat template, the words of replies, and what is met.
pub const VOCABULARY: usize = 150_000;

/// Longer words are several tokens.
const LONGEST_WORD: usize = 16;

/// Where the template's marks are in the vocabulary; below are the 256 bytes.
const FIRST_MARK: Token = 256;
const MARKS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];
/// Where the words of replies are in the vocabulary.
const FIRST_WORD: Token = FIRST_MARK + MARKS.len() as Token;
/// What replies are made of, each with the blank before it.
const WORDS: [&str; 32] = [
    " the",
    " river",
    " carries",
    " water",
    " from",
    " hills",
    " to",
    " a",
    " sea",
    " and",
    " stone",
    " bridges",
    " cross",
    " it",
    " where",
    " towns",
    " grew",
    " in",
    " spring",
    " floods",
    " bring",
    " soil",
    " for",
    " fields",
    " of",
    " grain",
    " while",
    " boats",
    " move",
    " slowly",
    " toward",
    " harbours",
];

/// The numbers of pieces that were met.
pub struct Tokenizer {
    met: Mutex<Met>,
}

#[derive(Default)]
struct Met {
    numbers: HashMap<String, Token>,
    pieces: Vec<String>,
}

impl Default for Tokenizer {
    fn default() -> Self {
        let mut met = Met::default();
        for piece in MARKS.iter().chain(&WORDS) {
            met.add(piece);
        }
        Self { met: Mutex::new(met) }
    }
}

impl Met {
    /// The piece's number; none if the vocabulary is full.
    fn add(&mut self, piece: &str) -> Option<Token> {
        if let Some(number) = self.numbers.get(piece) {
            return Some(*number);
        }
        let number = FIRST_MARK as usize + self.pieces.len();
        if number >= VOCABULARY {
            return None;
        }
        self.pieces.push(piece.to_owned());
        self.numbers.insert(piece.to_owned(), number as Token);
        Some(number as Token)
    }
}

impl Tokenizer {
    /// The tokens of a text.
    pub fn tokens(&self, text: &str) -> Vec<Token> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tokens = Vec::with_capacity(text.len() / 4);
        for piece in pieces(text) {
            match met.add(piece) {
                Some(number) => tokens.push(number),
                // A full vocabulary still has the bytes.
                None => tokens.extend(piece.bytes().map(Token::from)),
            }
        }
        tokens
    }

    /// The text of one token, as bytes: a single byte may be part of a character.
    pub fn piece(&self, token: Token) -> Vec<u8> {
        if let Ok(byte) = u8::try_from(token) {
            return vec![byte];
        }
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = met.pieces.get((token - FIRST_MARK) as usize);
        piece.map(|piece| piece.clone().into_bytes()).unwrap_or_default()
    }

    /// The text of tokens.
    pub fn text(&self, tokens: &[Token]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.piece(*token)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The pieces of a text, whole: joined again they are the text.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(first_piece(rest)?);
        rest = after;
        Some(piece)
    })
}

/// The length of the first piece in bytes: a mark of the template, a word with a blank before it, or one other character.
fn first_piece(text: &str) -> Option<usize> {
    if let Some(mark) = MARKS.iter().find(|mark| text.starts_with(**mark)) {
        return Some(mark.len());
    }
    let first = text.chars().next()?;
    let blank = usize::from(first == ' ');
    let word =
        text.get(blank..)?.char_indices().take_while(|(_, char)| char.is_alphanumeric()).take(LONGEST_WORD).last();
    Some(match word {
        Some((at, char)) => blank + at + char.len_utf8(),
        None => first.len_utf8(),
    })
}

/// What the model will say, token by token; the same for the same prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Words without end, in an order that `seed` decides.
    Words {
        /// Different seeds, different words.
        seed: u64,
    },
    /// The arguments of a call, piece by piece.
    Call {
        /// The function's name.
        name: String,
        /// Their pieces; joined they are a JSON object.
        arguments: Vec<String>,
    },
}

impl Reply {
    /// The piece at this place, from 0.
    pub fn piece(&self, at: u64) -> &str {
        match self {
            Self::Words { seed } => word(*seed, at).1,
            Self::Call { arguments, .. } => arguments.get(at as usize).map_or("", String::as_str),
        }
    }

    /// The token at this place, from 0. The pieces of a call count as bytes: nobody asks for a prefix of them.
    pub fn token(&self, at: u64) -> Token {
        match self {
            Self::Words { seed } => word(*seed, at).0,
            Self::Call { .. } => self.piece(at).bytes().next().map_or(0, Token::from),
        }
    }

    /// How many tokens it has, if it has an end.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Words { .. } => None,
            Self::Call { arguments, .. } => Some(arguments.len() as u64),
        }
    }
}

fn word(seed: u64, at: u64) -> (Token, &'static str) {
    let index = mixed(seed ^ at.wrapping_mul(0x9E37_79B9_7F4A_7C15)) % WORDS.len() as u64;
    (FIRST_WORD + index as Token, WORDS[index as usize])
}

/// A number that looks random and depends on nothing but `value` (the finalizer of SplitMix64, Steele et al. 2014).
pub fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// A number that stands for a prompt.
pub fn fingerprint(tokens: &[Token]) -> u64 {
    tokens.iter().fold(1, |sum, token| mixed(sum ^ u64::from(*token)).wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_word_with_its_blank_is_one_token() {
        let tokenizer = Tokenizer::default();
        assert_eq!(pieces("Tell me, river.\n").collect::<Vec<_>>(), ["Tell", " me", ",", " river", ".", "\n"]);
        assert_eq!(tokenizer.tokens("<|im_start|>user").len(), 2);
        assert_eq!(tokenizer.tokens("abcdefghijklmnopqrst").len(), 2, "long words are several");
    }

    #[test]
    fn a_reply_that_comes_back_in_a_prompt_has_the_same_tokens() {
        let tokenizer = Tokenizer::default();
        let reply = Reply::Words { seed: 7 };
        let said: String = (0..50).map(|at| reply.piece(at)).collect();
        let tokens: Vec<_> = (0..50).map(|at| reply.token(at)).collect();
        assert_eq!(tokenizer.tokens(&said), tokens);
    }

    #[test]
    fn a_full_vocabulary_still_takes_any_text() {
        let tokenizer = Tokenizer::default();
        for number in 0..VOCABULARY {
            tokenizer.tokens(&number.to_string());
        }
        let tokens = tokenizer.tokens("größe");
        assert_eq!((tokens.len(), tokenizer.text(&tokens)), (7, "größe".to_owned()));
    }

    proptest! {
        #[test]
        fn tokens_turn_back_into_their_text(text in "\\PC{0,60}") {
            let tokenizer = Tokenizer::default();
            let tokens = tokenizer.tokens(&text);
            prop_assert_eq!(tokenizer.text(&tokens), text);
        }
    }
}
