//! The beginning of a prompt as a chain of hashes: two requests that begin alike share the first links.

use std::sync::Arc;

use crc32fast::Hasher;

/// Bytes of a prompt that one link covers.
pub(super) const BLOCK_BYTES: usize = 2048;
/// Links at most: what follows is not looked at. Each is looked up and written down at the end of a request, while
/// everybody waits.
const MAX_LINKS: usize = 64;

/// The beginning of a prompt. Cheap to clone; the default is that of a prompt of which nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix(Arc<[u32]>);

impl Prefix {
    /// The links, the first block first.
    pub fn links(&self) -> &[u32] {
        &self.0
    }
}

/// Reads a prompt piece by piece, as the client wrote it.
#[derive(Debug, Default)]
pub struct PrefixReader {
    /// Of everything so far, so that each link stands for all blocks before it.
    hasher: Hasher,
    in_block: usize,
    links: Vec<u32>,
}

impl PrefixReader {
    /// Takes the next piece.
    pub fn push(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && self.links.len() < MAX_LINKS {
            let (now, later) = piece.split_at(piece.len().min(BLOCK_BYTES - self.in_block));
            self.hasher.update(now);
            self.in_block += now.len();
            if self.in_block == BLOCK_BYTES {
                self.in_block = 0;
                self.links.push(self.hasher.clone().finalize());
            }
            piece = later;
        }
    }

    /// All whole blocks.
    pub fn finish(self) -> Prefix {
        Prefix(self.links.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(pieces: &[&[u8]]) -> Prefix {
        let mut reader = PrefixReader::default();
        pieces.iter().for_each(|piece| reader.push(piece));
        reader.finish()
    }

    #[test]
    fn prompts_that_begin_alike_share_links_up_to_where_they_differ() {
        let long = vec![b'a'; 3 * BLOCK_BYTES - 1];
        let mut other = long.clone();
        other[2 * BLOCK_BYTES - 1] = b'b';
        let (one, other) = (prefix(&[&long]), prefix(&[&other]));
        assert_eq!(one.links().len(), 2);
        assert_eq!(one.links()[0], other.links()[0]);
        assert_ne!(one.links()[1], other.links()[1]);
    }

    #[test]
    fn how_a_prompt_is_cut_makes_no_difference_and_its_length_is_bounded() {
        let long = vec![7; BLOCK_BYTES * (MAX_LINKS + 3)];
        let (head, tail) = long.split_at(BLOCK_BYTES * 3 / 2);
        assert_eq!(prefix(&[head, tail]), prefix(&[&long]));
        assert_eq!(prefix(&[&long]).links().len(), MAX_LINKS);
    }
}
