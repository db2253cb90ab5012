//! Cuts the bytes of a server-sent event stream into events.
//!
//! Takes reads of any size, split at any byte, with LF, CRLF or CR line endings; gives each event with its raw
//! bytes and the payload of its `data:` lines. An event that lies wholly within one read is borrowed, not copied.
//! The bytes of all pieces, put together, are the bytes that came in.

use std::borrow::Cow;

use memchr::memchr2;

/// A pending buffer larger than this is given back after the event that needed it: streams live long, and one
/// large event must not cost each of them its memory for the rest of their time.
const KEPT_CAPACITY: usize = 16 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// All its bytes, the terminating blank line included (absent only where the stream ended before it).
    pub raw: &'a [u8],
    /// Payload of its `data:` lines, without the line ending; several lines are joined by LF. `None` where there is
    /// no such line, as in a comment. Borrowed from `raw` where there is one line.
    pub data: Option<Cow<'a, [u8]>>,
    /// Value of its `event:` line.
    pub name: Option<&'a [u8]>,
}

/// What the splitter gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole event, or a comment, or a blank line that ends nothing.
    Event(Event<'a>),
    /// Bytes of an event that is larger than the bound: they are not kept until it ends, so nobody can read it.
    Oversized(&'a [u8]),
}

/// What is known of the line that the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// No byte of it was seen.
    Empty,
    /// As `Empty`, and the byte before was a CR: an LF would still belong to that line ending.
    AfterCr,
    /// It has text.
    Text,
    /// It was empty and ended by a CR in a stream that ends lines by CRLF: the event ends with the LF to come.
    BlankCr,
}

/// Cuts a byte stream into events at blank lines.
#[derive(Debug)]
pub struct Splitter {
    /// The beginning of an event whose end has not been seen; never longer than the bound.
    pending: Vec<u8>,
    max_event_bytes: usize,
    line: Line,
    /// The last line ended by CRLF.
    crlf: bool,
    /// No event was given yet: only here may a byte order mark stand.
    first: bool,
    /// Within an event that is larger than the bound.
    within_oversized: bool,
    oversized: u64,
}

impl Splitter {
    /// A splitter at the start of a stream. An event of more than `max_event_bytes` is passed on unread.
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            pending: Vec::new(),
            max_event_bytes,
            line: Line::Empty,
            crlf: false,
            first: true,
            within_oversized: false,
            oversized: 0,
        }
    }

    /// Takes one read and gives the events that end in it.
    pub fn push(&mut self, mut input: &[u8], mut each: impl FnMut(Piece<'_>)) {
        while !input.is_empty() {
            match self.end_of_event(input) {
                Some(end) => {
                    let (head, rest) = input.split_at(end);
                    self.complete(head, &mut each);
                    input = rest;
                }
                None => {
                    self.keep(input, &mut each);
                    return;
                }
            }
        }
    }

    /// Gives what is left at the end of the stream: an event without its blank line, if anything.
    ///
    /// Not to be called when the stream broke off: then the rest is half an event, which nobody wants.
    pub fn finish(&mut self, mut each: impl FnMut(Piece<'_>)) {
        if !self.pending.is_empty() {
            self.complete(&[], &mut each);
        }
        self.line = Line::Empty;
        self.within_oversized = false;
    }

    /// Forgets the beginning of an event: the stream ends before it does. `false`: its beginning was given already,
    /// because it is larger than the bound, and nothing is forgotten.
    pub fn discard(&mut self) -> bool {
        if self.within_oversized {
            return false;
        }
        self.clear_pending();
        (self.line, self.crlf) = (Line::Empty, false);
        true
    }

    /// How many events were larger than the bound.
    pub fn oversized(&self) -> u64 {
        self.oversized
    }

    /// The index behind the last byte of the current event, or `None` if it goes on behind `input`.
    ///
    /// Whether a CR ends an event at once must not depend on where a read happened to be cut. So it is decided by
    /// the line ending before it: after CRLF the LF is waited for, after CR it is not.
    fn end_of_event(&mut self, input: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            if self.line == Line::BlankCr {
                let next = *input.get(at)?;
                self.line = Line::Empty;
                return Some(if next == b'\n' { at + 1 } else { at });
            }
            let rest = input.get(at..).unwrap_or_default();
            let Some(text) = memchr2(b'\n', b'\r', rest) else {
                if !rest.is_empty() {
                    self.line = Line::Text;
                }
                return None;
            };
            if text > 0 {
                self.line = Line::Text;
            }
            at += text + 1;
            let lf = rest.get(text) == Some(&b'\n');
            match (lf, self.line) {
                (true, Line::AfterCr) => (self.crlf, self.line) = (true, Line::Empty),
                (true, Line::Text) => (self.crlf, self.line) = (false, Line::Empty),
                (false, Line::Text) => (self.crlf, self.line) = (false, Line::AfterCr),
                (false, Line::Empty) if self.crlf => self.line = Line::BlankCr,
                (_, Line::Empty | Line::AfterCr | Line::BlankCr) => {
                    (self.crlf, self.line) = (false, Line::Empty);
                    return Some(at);
                }
            }
        }
    }

    /// The current event ends with `head`.
    fn complete(&mut self, head: &[u8], each: &mut impl FnMut(Piece<'_>)) {
        if self.within_oversized || self.pending.len().saturating_add(head.len()) > self.max_event_bytes {
            self.give_oversized(head, each);
            self.within_oversized = false;
        } else if self.pending.is_empty() {
            each(Piece::Event(Event::read(head, self.first)));
        } else {
            self.pending.extend_from_slice(head);
            each(Piece::Event(Event::read(&self.pending, self.first)));
            self.clear_pending();
        }
        self.first = false;
    }

    /// The current event goes on behind `head`.
    fn keep(&mut self, head: &[u8], each: &mut impl FnMut(Piece<'_>)) {
        if self.within_oversized || self.pending.len().saturating_add(head.len()) > self.max_event_bytes {
            self.give_oversized(head, each);
            self.within_oversized = true;
        } else {
            self.pending.extend_from_slice(head);
        }
    }

    fn give_oversized(&mut self, head: &[u8], each: &mut impl FnMut(Piece<'_>)) {
        self.oversized += u64::from(!self.within_oversized);
        if !self.pending.is_empty() {
            each(Piece::Oversized(&self.pending));
            self.clear_pending();
        }
        if !head.is_empty() {
            each(Piece::Oversized(head));
        }
    }

    fn clear_pending(&mut self) {
        self.pending.clear();
        self.pending.shrink_to(KEPT_CAPACITY);
    }
}

impl<'a> Event<'a> {
    /// Reads the lines of an event. Fields other than `data` and `event` are of no use here.
    fn read(raw: &'a [u8], first: bool) -> Self {
        let mut event = Self { raw, data: None, name: None };
        let mut rest = raw;
        if first {
            rest = rest.strip_prefix(BYTE_ORDER_MARK).unwrap_or(rest);
        }
        while !rest.is_empty() {
            // A CRLF is read as a line ending and an empty line, which has no field.
            let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            let (line, tail) = rest.split_at(end);
            rest = tail.get(1..).unwrap_or_default();
            if let Some(value) = field(line, b"data") {
                match &mut event.data {
                    None => event.data = Some(Cow::Borrowed(value)),
                    Some(lines) => {
                        let lines = lines.to_mut();
                        lines.push(b'\n');
                        lines.extend_from_slice(value);
                    }
                }
            } else if let Some(value) = field(line, b"event") {
                event.name = Some(value);
            }
        }
        event
    }
}

/// The value of a line, if its field has this name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A piece with its bytes: raw, data, name; or the bytes of a large event.
    #[derive(Debug, PartialEq)]
    enum Owned {
        Event(Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>),
        Oversized(Vec<u8>),
    }

    fn pieces<'a>(max: usize, reads: impl IntoIterator<Item = &'a [u8]>) -> Vec<Owned> {
        let mut splitter = Splitter::new(max);
        let mut pieces = Vec::new();
        let mut each = |piece: Piece<'_>| match (piece, pieces.last_mut()) {
            (Piece::Event(Event { raw, data, name }), _) => {
                let data = data.map(Cow::into_owned);
                pieces.push(Owned::Event(raw.to_vec(), data, name.map(<[u8]>::to_vec)));
            }
            (Piece::Oversized(bytes), Some(Owned::Oversized(before))) => before.extend_from_slice(bytes),
            (Piece::Oversized(bytes), _) => pieces.push(Owned::Oversized(bytes.to_vec())),
        };
        for read in reads {
            splitter.push(read, &mut each);
        }
        splitter.finish(&mut each);
        pieces
    }

    /// The (data, name) of each event.
    fn read(stream: &str) -> Vec<(Option<String>, Option<String>)> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let event = |piece| match piece {
            Owned::Event(_, data, name) => (data.map(text), name.map(text)),
            Owned::Oversized(_) => (None, None),
        };
        pieces(1000, [stream.as_bytes()]).into_iter().map(event).collect()
    }

    fn event(data: Option<&str>, name: Option<&str>) -> (Option<String>, Option<String>) {
        (data.map(str::to_owned), name.map(str::to_owned))
    }

    #[test]
    fn lines_end_in_lf_crlf_or_cr() {
        let stream = ": ping\n\nevent: a\ndata: 1\n\ndata:2\ndata: 3\n\ndata\n\nid: 7\n\n";
        let expected = [
            event(None, None),
            event(Some("1"), Some("a")),
            event(Some("2\n3"), None),
            event(Some(""), None),
            event(None, None),
        ];
        for ending in ["\n", "\r\n", "\r"] {
            assert_eq!(read(&stream.replace('\n', ending)), expected, "{ending:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped_at_the_start_only() {
        let mark = "\u{feff}";
        let stream = format!("{mark}data: 1\n\n{mark}data: 2\n\n");
        assert_eq!(read(&stream), [event(Some("1"), None), event(None, None)]);
    }

    #[test]
    fn field_names_are_whole_and_one_blank_is_cut() {
        assert_eq!(read("data:  two\n\n"), [event(Some(" two"), None)]);
        assert_eq!(read("database: 1\ndata : 2\n\n"), [event(None, None)]);
    }

    #[test]
    fn an_event_is_given_as_soon_as_its_blank_line_is_seen() {
        for ending in ["\n", "\r", "\r\n"] {
            let stream = format!("data: 1{ending}{ending}");
            let mut splitter = Splitter::new(100);
            let mut given = 0;
            splitter.push(stream.as_bytes(), |_| given += 1);
            assert_eq!(given, 1, "{ending:?}");
        }
    }

    #[test]
    fn an_event_within_one_read_is_not_copied() {
        let stream = b"data: 1\n\ndata: 2\n\n";
        let mut splitter = Splitter::new(100);
        splitter.push(stream, |piece| {
            let borrowed = |raw: &[u8]| stream.as_ptr_range().contains(&raw.as_ptr());
            assert!(matches!(piece, Piece::Event(Event { raw, data: Some(Cow::Borrowed(_)), .. }) if borrowed(raw)));
        });
        assert_eq!(splitter.pending.capacity(), 0);
    }

    #[test]
    fn an_event_above_the_bound_passes_without_being_kept() {
        let large = "x".repeat(50);
        let stream = format!("data: 1\n\ndata: {large}\n\ndata: {large}\n\ndata: 2\n\n");
        let mut splitter = Splitter::new(20);
        let mut bytes = Vec::new();
        let mut events = 0;
        for read in stream.as_bytes().chunks(3) {
            splitter.push(read, |piece| match piece {
                Piece::Event(event) => {
                    events += 1;
                    bytes.extend_from_slice(event.raw);
                }
                Piece::Oversized(part) => bytes.extend_from_slice(part),
            });
            assert!(splitter.pending.len() <= 20);
        }
        assert_eq!((events, splitter.oversized()), (2, 2));
        assert_eq!(bytes, stream.as_bytes());
    }

    #[test]
    fn what_has_no_blank_line_is_given_at_the_end() {
        assert_eq!(read("data: 1\n\ndata: [DONE]"), [event(Some("1"), None), event(Some("[DONE]"), None)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_split_gives_the_same_pieces_and_no_byte_is_lost(
            parts in proptest::collection::vec(
                prop_oneof![Just("\n"), Just("\r"), Just("\r\n"), Just("data: x"), Just(":"), Just("event: y")], 0..40,
            ),
            cut in 1_usize..9,
        ) {
            let stream = parts.concat();
            let whole = pieces(16, [stream.as_bytes()]);
            prop_assert_eq!(&pieces(16, stream.as_bytes().chunks(cut)), &whole);
            let bytes: Vec<u8> = whole
                .into_iter()
                .flat_map(|piece| match piece {
                    Owned::Event(raw, ..) => raw,
                    Owned::Oversized(bytes) => bytes,
                })
                .collect();
            prop_assert_eq!(bytes, stream.into_bytes());
        }
    }
}
