//! Where the body of a reply ends: by length, by chunks or with the connection.
//!
//! Pure functions of bytes, so that it makes no difference how the bytes were cut on their way.

use bytes::{BufMut, BytesMut};

use super::ReplyError;

/// Bytes of a chunk at most: far above what llama-server sends at once.
const MAX_CHUNK: u64 = 1 << 30;
/// Bytes of a chunk's size line, and of all trailers together, at most.
const MAX_LINES: u16 = 4 << 10;

/// How far the body of a reply has been read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// It says chunk by chunk how it goes on.
    Chunked(Chunked),
    /// It ends when the server closes the connection.
    UntilClose,
}

impl Framing {
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunked { part: Part::Size, left: 0, spent: 0 })
    }

    /// Whether the body has reached its announced end.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.part == Part::Over,
            Self::UntilClose => false,
        }
    }

    /// Takes the bytes that come next and puts what belongs to the body into `out`, also when it fails. Gives the
    /// number of bytes that it took: fewer than all if the body ended before.
    pub(super) fn push(&mut self, input: &[u8], out: &mut BytesMut) -> Result<usize, ReplyError> {
        match self {
            Self::Length(left) => Ok(pass(left, input, out)),
            Self::Chunked(chunked) => chunked.push(input, out),
            Self::UntilClose => {
                out.put_slice(input);
                Ok(input.len())
            }
        }
    }

    /// The server has closed the connection.
    pub(super) fn close(&self) -> Result<(), ReplyError> {
        match self {
            Self::UntilClose => Ok(()),
            _ if self.is_over() => Ok(()),
            Self::Length(_) | Self::Chunked(_) => Err(ReplyError::UnexpectedEnd),
        }
    }
}

/// Moves what is `left` of a run of bytes.
fn pass(left: &mut u64, input: &[u8], out: &mut BytesMut) -> usize {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    out.put_slice(&input[..length]);
    *left -= length as u64;
    length
}

/// A place in the chunked transfer coding (RFC 9112, 7.1). Extensions and trailers are skipped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunked {
    part: Part,
    /// Bytes of the chunk that are still to come; while its size is read, the size so far.
    left: u64,
    /// Bytes of a size line or of the trailers.
    spent: u16,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A size that may not end yet: a first digit is missing.
    Size,
    MoreSize,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The start of a trailer or of the last line.
    Trailer,
    MoreTrailer,
    TrailerLf,
    LastLf,
    Over,
}

impl Chunked {
    fn push(&mut self, input: &[u8], out: &mut BytesMut) -> Result<usize, ReplyError> {
        let mut rest = input;
        while let Some((&byte, after)) = rest.split_first() {
            match self.part {
                Part::Over => break,
                Part::Data => {
                    let passed = pass(&mut self.left, rest, out);
                    rest = &rest[passed..];
                    if self.left == 0 {
                        self.part = Part::DataCr;
                    }
                }
                part => {
                    self.part = self.step(part, byte).ok_or(ReplyError::Malformed("a chunk is wrongly framed"))?;
                    rest = after;
                }
            }
        }
        Ok(input.len() - rest.len())
    }

    /// What follows a byte of the framing; nothing if the byte is wrong.
    fn step(&mut self, part: Part, byte: u8) -> Option<Part> {
        self.spent += 1;
        if self.spent > MAX_LINES {
            return None;
        }
        match (part, byte) {
            (Part::Size | Part::MoreSize, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16)?;
                self.left = self.left * 16 + u64::from(digit);
                (self.left <= MAX_CHUNK).then_some(Part::MoreSize)
            }
            (Part::MoreSize, b';') => Some(Part::Extension),
            (Part::MoreSize | Part::Extension, b'\r') => Some(Part::SizeLf),
            (Part::SizeLf, b'\n') => {
                self.spent = 0;
                Some(if self.left == 0 { Part::Trailer } else { Part::Data })
            }
            (Part::DataCr, b'\r') => Some(Part::DataLf),
            (Part::DataLf, b'\n') => {
                self.spent = 0;
                Some(Part::Size)
            }
            (Part::Trailer, b'\r') => Some(Part::LastLf),
            (Part::MoreTrailer, b'\r') => Some(Part::TrailerLf),
            (Part::TrailerLf, b'\n') => Some(Part::Trailer),
            (Part::LastLf, b'\n') => Some(Part::Over),
            (Part::Extension, byte) if byte != b'\n' => Some(Part::Extension),
            (Part::Trailer | Part::MoreTrailer, byte) if byte != b'\n' => Some(Part::MoreTrailer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out of `text` when it arrives in pieces: the body, and what was left over or went wrong.
    fn decode<'a>(
        mut framing: Framing,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<u8>, Result<usize, String>) {
        let (mut out, mut extra) = (BytesMut::new(), 0);
        for piece in pieces {
            match framing.push(piece, &mut out) {
                Ok(taken) => extra += piece.len() - taken,
                Err(error) => return (out.to_vec(), Err(error.to_string())),
            }
        }
        let end = framing.close().map(|()| extra).map_err(|error| error.to_string());
        (out.to_vec(), end)
    }

    fn chunked(text: &str) -> (String, Result<usize, String>) {
        let (body, end) = decode(Framing::chunked(), [text.as_bytes()]);
        (String::from_utf8(body).unwrap(), end)
    }

    fn cut<'a>(text: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut places: Vec<_> = places.iter().map(|place| place.index(text.len() + 1)).collect();
        places.extend([0, text.len()]);
        places.sort_unstable();
        places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
    }

    proptest! {
        #[test]
        fn a_body_is_the_same_however_its_bytes_were_cut(
            chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..300), "(;[a-z=\"]{0,9})?"), 0..6),
            trailers in "(x-[a-z]{1,5}: [a-z]{0,5}\r\n){0,2}",
            extra in "[A-Z]{0,4}",
            places in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let (mut text, mut body) = (Vec::new(), Vec::new());
            for (chunk, extension) in &chunks {
                text.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
                body.extend_from_slice(chunk);
            }
            text.extend_from_slice(format!("0\r\n{trailers}\r\n{extra}").as_bytes());
            prop_assert_eq!(decode(Framing::chunked(), cut(&text, &places)), (body, Ok(extra.len())));
        }

        #[test]
        fn garbage_gives_the_same_however_it_was_cut(
            text in "([0-9a-fx;]|\r\n|\r|\n){0,40}",
            places in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let text = text.as_bytes();
            prop_assert_eq!(decode(Framing::chunked(), cut(text, &places)), decode(Framing::chunked(), [text]));
            prop_assert_eq!(decode(Framing::Length(9), cut(text, &places)), decode(Framing::Length(9), [text]));
        }
    }

    #[test]
    fn every_byte_of_a_reply_may_come_alone() {
        let text = b"1ea;x=y\r\n".iter().copied().chain([b'x'; 0x1ea]).chain(*b"\r\n1\r\ny\r\n0\r\na: b\r\n\r\n");
        let text: Vec<_> = text.collect();
        let (body, end) = decode(Framing::chunked(), text.chunks(1));
        assert_eq!((body.len(), end), (0x1eb, Ok(0)));
    }

    #[test]
    fn chunks_that_are_wrongly_framed_are_errors_after_what_was_right() {
        let wrong = Err(ReplyError::Malformed("a chunk is wrongly framed").to_string());
        let texts = [
            "\r\n",
            "x\r\n",
            " 1\r\nb",
            "1 \r\nb",
            "-1\r\n",
            "0x1\r\nb\r\n",
            "1\nb",
            ";x\r\n",
            "1\rb",
            "1;\n",
            "1\r\nbc\r\n",
            "1\r\nb\n",
            "1\r\nb0\r\n\r\n",
            "1\r\nb\r\r",
            "0\r\n\n",
            "0\r\n\rx",
            "0\r\nx\n",
            "40000001\r\n",
            "fffffffffffffffff\r\n",
            "8000000000000000\r\n",
        ];
        for text in texts {
            let (body, end) = chunked(&format!("1\r\na\r\n{text}"));
            assert_eq!(end, wrong, "{text:?}");
            assert!(body == "a" || body == "ab", "{text:?}: {body:?}");
        }
    }

    #[test]
    fn lines_without_an_end_are_errors() {
        let long = "0".repeat(usize::from(MAX_LINES) + 1);
        assert!(chunked(&long).1.is_err());
        assert!(chunked(&format!("1;{long}")).1.is_err());
        assert!(chunked(&format!("0\r\n{long}")).1.is_err());
        assert!(chunked(&format!("0\r\n{}", "a: b\r\n".repeat(1000))).1.is_err(), "nor may trailers go on for ever");
    }

    #[test]
    fn an_end_that_was_not_announced_is_an_error() {
        let ended = Err(ReplyError::UnexpectedEnd.to_string());
        let whole = "3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(chunked(whole), ("abc".into(), Ok(0)));
        for length in 0..whole.len() {
            assert_eq!(chunked(&whole[..length]).1, ended, "{length}");
        }
        assert_eq!(decode(Framing::Length(4), [&b"abc"[..]]), (b"abc".to_vec(), ended));
        assert_eq!(decode(Framing::Length(3), [&b"abcd"[..]]), (b"abc".to_vec(), Ok(1)));
        assert_eq!(decode(Framing::UntilClose, [&b"abc"[..]]), (b"abc".to_vec(), Ok(0)));
    }
}
