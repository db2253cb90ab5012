//! The text of an API key.
//!
//! `sk-lgw-<id>-<secret><check>`: an id that is public, 256 random bits, and a CRC-32 over all that stands before
//! it. The check lets a mistyped key be told from an unknown one without a database, also by scanners for leaked
//! secrets. All three are base32 in lower case.

use sha2::{Digest, Sha256};

const PREFIX: &str = "sk-lgw-";
const ID_CHARS: usize = 8;
const SECRET_BYTES: usize = 32;
const SECRET_CHARS: usize = 52;
const CHECK_CHARS: usize = 7;
const KEY_CHARS: usize = PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS + CHECK_CHARS;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// SHA-256 of a whole key: what is stored. A slow hash is for passwords; 256 random bits cannot be guessed.
pub(super) type KeyHash = [u8; 32];
/// The public part of a key, in the characters that it is written with.
pub(super) type KeyId = [u8; ID_CHARS];

/// A key as it is shown once, to whoever created it. Its `Debug` shows the id only.
pub struct NewKey {
    text: String,
}

impl NewKey {
    /// Draws a key from the operating system's random numbers.
    ///
    /// # Errors
    /// It gives none.
    pub fn draw() -> Result<Self, getrandom::Error> {
        let mut id = [0; 5];
        getrandom::fill(&mut id)?;
        Self::draw_for(&base32(&id))
    }

    /// Draws another secret for the key with this id.
    pub(super) fn draw_for(id: &str) -> Result<Self, getrandom::Error> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret)?;
        let mut text = format!("{PREFIX}{id}-{}", base32(&secret));
        let check = checksum(&text);
        text.push_str(&check);
        Ok(Self { text })
    }

    /// What is stored of it.
    pub(super) fn hash(&self) -> KeyHash {
        hash(self.text.as_bytes())
    }

    /// The key itself.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Its public part.
    pub fn key_id(&self) -> &str {
        &self.text[PREFIX.len()..PREFIX.len() + ID_CHARS]
    }
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewKey({PREFIX}{}-…)", self.key_id())
    }
}

/// The id in a key, if the text is well-formed: right length, alphabet and check. That it is one says nothing of whether
/// there is such a key.
pub fn key_id(text: &[u8]) -> Option<&str> {
    let text = str::from_utf8(text).ok()?;
    if text.len() != KEY_CHARS || !text.is_ascii() {
        return None;
    }
    let (rest, check) = text.split_at(KEY_CHARS - CHECK_CHARS);
    let (id, secret) = rest.strip_prefix(PREFIX)?.split_once('-')?;
    (is_id(id) && in_alphabet(secret) && check == checksum(rest)).then_some(id)
}

/// Whether a key may have this id.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == ID_CHARS && in_alphabet(text)
}

fn in_alphabet(text: &str) -> bool {
    // Not by a search of `ALPHABET`: that would be half of what checking a key costs.
    text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
}

/// The id of this text; `None` if it has not the length of one.
pub(super) fn id(text: &str) -> Option<KeyId> {
    text.as_bytes().try_into().ok()
}

pub(super) fn hash(text: &[u8]) -> KeyHash {
    Sha256::digest(text).into()
}

fn checksum(text: &str) -> String {
    base32(&crc32fast::hash(text.as_bytes()).to_be_bytes())
}

/// RFC 4648 base32, in lower case and without padding.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut bits, mut held) = (0u32, 0u32);
    for &byte in bytes {
        bits = (bits << 8) | u32::from(byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(ALPHABET[(bits >> held) as usize & 31] as char);
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        text.push(ALPHABET[(bits << (5 - held)) as usize & 31] as char);
    }
    text
}

/// A key with the right check, for tests that forge one.
#[cfg(test)]
pub(super) fn seal(rest: &str) -> String {
    format!("{rest}{}", checksum(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_agrees_with_the_test_vectors_of_rfc_4648() {
        let vectors =
            [("", ""), ("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foob", "mzxw6yq"), ("foobar", "mzxw6ytboi")];
        for (bytes, text) in vectors {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_drawn_key_is_well_formed_and_unlike_the_next() {
        let (one, other) = (NewKey::draw().unwrap(), NewKey::draw().unwrap());
        assert_eq!(one.expose().len(), KEY_CHARS);
        assert_eq!(key_id(one.expose().as_bytes()), Some(one.key_id()));
        assert_ne!(one.expose(), other.expose());
        assert_ne!(one.key_id(), other.key_id());
    }

    #[test]
    fn any_mistyped_character_is_noticed() {
        let key = NewKey::draw().unwrap();
        for at in 0..KEY_CHARS {
            for wrong in [b'a', b'7', b'-', b'A', b'\0', 0xff] {
                let mut text = key.expose().as_bytes().to_vec();
                if text[at] != wrong {
                    text[at] = wrong;
                    assert_eq!(key_id(&text), None, "{at} {wrong}");
                }
            }
        }
        let text = key.expose();
        for text in ["", "sk-lgw-", &text[1..], &text[..KEY_CHARS - 1], &format!("{text}a"), &format!("{text} ")] {
            assert_eq!(key_id(text.as_bytes()), None);
        }
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let key = NewKey::draw().unwrap();
        assert_eq!(format!("{key:?}"), format!("NewKey(sk-lgw-{}-…)", key.key_id()));
    }
}
