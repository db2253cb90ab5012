//! Cuts the bytes of a server-sent event stream into events.
//!
//! Takes reads of any size, split at any byte, with LF or CRLF line endings; gives the payload of each event, borrowed
//! from the read where it lies wholly within one. (The standard's third line ending, a lone CR, is sent by no server of
//! this kind.)

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};

/// An event may not be longer than this: what does not end must not fill the memory.
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

/// One event with a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Value of its `event:` line; empty without one.
    pub name: &'a [u8],
    /// Payload of its `data:` lines, joined by LF where there are several.
    pub data: Cow<'a, [u8]>,
}

/// An event that is longer than any real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {MAX_EVENT_BYTES} bytes")]
pub struct TooLong;

/// The splitter of one stream.
#[derive(Debug, Default)]
pub struct Events {
    /// The beginning of an event whose end has not come.
    pending: Vec<u8>,
}

impl Events {
    /// Takes one read and gives the events that end in it.
    ///
    /// # Errors
    /// When an event is too long.
    pub fn push(&mut self, input: &[u8], mut each: impl FnMut(Event<'_>)) -> Result<(), TooLong> {
        if self.pending.is_empty() {
            let used = split(input, 0, &mut each);
            self.pending.extend_from_slice(input.get(used..).unwrap_or_default());
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            // A blank line may have begun in what is pending: LF CR LF is three bytes.
            let seen = pending.len().saturating_sub(2);
            pending.extend_from_slice(input);
            let used = split(&pending, seen, &mut each);
            pending.drain(..used);
            self.pending = pending;
        }
        if self.pending.len() > MAX_EVENT_BYTES { Err(TooLong) } else { Ok(()) }
    }
}

/// Gives all whole events of `bytes`, in which no event ends before `seen`; says how many bytes they were.
fn split(bytes: &[u8], seen: usize, each: &mut impl FnMut(Event<'_>)) -> usize {
    let mut begin = 0;
    for line_end in memchr_iter(b'\n', bytes.get(seen..).unwrap_or_default()).map(|at| at + seen) {
        let lines = bytes.get(begin..line_end).unwrap_or_default();
        // The line that ends here is blank: nothing but perhaps a CR since the LF before.
        if lines.is_empty() || lines == b"\r" || lines.ends_with(b"\n") || lines.ends_with(b"\n\r") {
            block(lines, each);
            begin = line_end + 1;
        }
    }
    begin
}

/// Reads the lines before a blank one.
fn block(mut lines: &[u8], each: &mut impl FnMut(Event<'_>)) {
    let (mut name, mut data) = (&b""[..], None::<Cow<'_, [u8]>>);
    while !lines.is_empty() {
        let end = memchr(b'\n', lines).unwrap_or(lines.len());
        let (line, rest) = lines.split_at(end);
        lines = rest.get(1..).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            data = Some(match data {
                None => Cow::Borrowed(value),
                Some(before) => {
                    let mut joined = before.into_owned();
                    joined.push(b'\n');
                    joined.extend_from_slice(value);
                    Cow::Owned(joined)
                }
            });
        } else if let Some(value) = line.strip_prefix(b"event:") {
            name = value.strip_prefix(b" ").unwrap_or(value);
        }
    }
    // Without one it is a comment, which servers send to keep a connection alive.
    if let Some(data) = data {
        each(Event { name, data });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let (mut splitter, mut seen) = (Events::default(), Vec::new());
        for piece in pieces {
            splitter
                .push(piece, |event| {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    seen.push((text(event.name), text(&event.data)));
                })
                .unwrap();
        }
        seen
    }

    fn pair(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn events_have_a_name_and_a_payload() {
        let stream = b": queued\n\nevent: a\ndata: 1\n\ndata:2\ndata: 3\n\n\n:\n\ndata: [DONE]\n\ndata: half";
        assert_eq!(events(&[stream]), [pair("a", "1"), pair("", "2\n3"), pair("", "[DONE]")]);
    }

    #[test]
    fn an_event_without_an_end_does_not_fill_the_memory() {
        let mut splitter = Events::default();
        let piece = vec![b'x'; 1024 * 1024];
        let accepted = (0..100).take_while(|_| splitter.push(&piece, |_| {}).is_ok()).count();
        assert_eq!(accepted, 8);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_reads_are_cut_or_how_lines_end(
            lines in prop::collection::vec(prop_oneof![
                Just(""), Just("data: x"), Just("data"), Just(": ping"), Just("event: y"), Just("data: \u{e4}b:c"),
            ], 0..30),
            cuts in prop::collection::vec(0usize..400, 0..20),
            windows in any::<bool>(),
        ) {
            let plain: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let stream = if windows { plain.replace('\n', "\r\n") } else { plain.clone() }.into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect();
            prop_assert_eq!(events(&pieces), events(&[plain.as_bytes()]));
        }
    }
}
