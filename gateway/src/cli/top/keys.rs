//! What a terminal sends when a key is pressed.

use super::screen::Scroll;

/// A key that means something here, or any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    /// Also the first byte of what other keys send.
    Escape,
    Pause,
    Help,
    Scroll(Scroll),
    Other,
}

/// Longer than what any key sends.
const MOST_BYTES: usize = 32;

/// Takes the first key from `bytes`; none: they are the beginning of one, or there are none.
pub(super) fn take(bytes: &mut Vec<u8>) -> Option<Key> {
    let length = length(bytes)?;
    let sequence: Vec<u8> = bytes.drain(..length).collect();
    Some(match sequence.as_slice() {
        b"q" | b"\x03" => Key::Quit,
        b"p" => Key::Pause,
        b"h" | b"?" => Key::Help,
        b"\t" => Key::Scroll(Scroll::NextPart),
        b"\x1b[A" | b"\x1bOA" => Key::Scroll(Scroll::LineBack),
        b"\x1b[B" | b"\x1bOB" => Key::Scroll(Scroll::Line),
        b"\x1b[5~" => Key::Scroll(Scroll::PageBack),
        b"\x1b[6~" => Key::Scroll(Scroll::Page),
        b"\x1b[H" | b"\x1bOH" | b"\x1b[1~" => Key::Scroll(Scroll::Top),
        b"\x1b[F" | b"\x1bOF" | b"\x1b[4~" => Key::Scroll(Scroll::End),
        _ => Key::Other,
    })
}

/// Bytes of the first key, if all of them are there.
fn length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0x1b, b'O', ..] => (bytes.len() > 2).then_some(3),
        // ECMA-48: parameters and intermediates, then one final byte. Anything else ends the sequence, too.
        [0x1b, b'[', rest @ ..] => {
            let inner = rest.iter().position(|byte| !(0x20..0x40).contains(byte));
            inner.map(|inner| inner + 3).or((bytes.len() > MOST_BYTES).then_some(bytes.len()))
        }
        // An escape that is pressed while something else is sent, or a key together with Alt.
        [0x1b, 0x1b, ..] => Some(1),
        [0x1b, _, ..] => Some(2),
        [0x1b] | [] => None,
        _ => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> (Vec<Key>, usize) {
        let mut bytes = bytes.to_vec();
        let keys = std::iter::from_fn(|| take(&mut bytes)).collect();
        (keys, bytes.len())
    }

    #[test]
    fn keys_are_told_apart_however_their_bytes_arrive() {
        use Key::{Help, Other, Pause, Quit};
        let scroll = Key::Scroll;
        for (bytes, expected, left) in [
            (&b""[..], &[][..], 0),
            (b"q", &[Quit], 0),
            (b"\x03", &[Quit], 0),
            (b"ph?\t", &[Pause, Help, Help, scroll(Scroll::NextPart)], 0),
            (b"\x1b[A\x1bOB", &[scroll(Scroll::LineBack), scroll(Scroll::Line)], 0),
            (b"\x1b[5~\x1b[6~", &[scroll(Scroll::PageBack), scroll(Scroll::Page)], 0),
            (b"\x1b[H\x1bOF\x1b[1~\x1b[4~", &[Scroll::Top, Scroll::End, Scroll::Top, Scroll::End].map(scroll), 0),
            // Beginnings.
            (b"\x1b", &[], 1),
            (b"\x1b[", &[], 2),
            (b"\x1b[5", &[], 3),
            (b"\x1bO", &[], 2),
            // F5, Ctrl with an arrow, Alt-q, an answer to a question that nobody asked.
            (b"\x1b[15~\x1b[1;5A\x1bqp", &[Other, Other, Other, Pause], 0),
            (b"\x1b[?62;c\xc3\xa4x", &[Other; 4], 0),
        ] {
            assert_eq!(keys(bytes), (expected.to_vec(), left), "{bytes:?}");
        }
    }

    #[test]
    fn a_sequence_without_an_end_does_not_grow() {
        assert_eq!(keys(&[b"\x1b[".as_slice(), &[b'1'; 20]].concat()), (vec![], 22));
        assert_eq!(keys(&[b"\x1b[".as_slice(), &[b'1'; 40]].concat()), (vec![Key::Other], 0));
    }
}
