//! Reads server-sent events: bytes in, the data of one event after the other out.

/// Bytes of an event at most: many times what a full snapshot takes.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// What was read of a stream so far. Comments, and all fields but `data`, are left out.
#[derive(Default)]
pub(super) struct Events {
    bytes: Vec<u8>,
    /// Bytes of `bytes` in which there is no end of an event.
    searched: usize,
}

/// The event is too long to be one of a gateway.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Events {
    /// Takes what has arrived.
    ///
    /// # Errors
    /// There is no end of it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if bytes.len() > MOST_BYTES - self.bytes.len() {
            return Err(TooLong);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The data of the next event that has arrived completely. Lines may end with or without a carriage return.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = self.end()?;
            let event: Vec<u8> = self.bytes.drain(..end).collect();
            self.searched = 0;
            let lines = event.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            let data = lines.filter_map(|line| line.strip_prefix(b"data:"));
            let data: Vec<_> = data.map(|data| data.strip_prefix(b" ").unwrap_or(data)).collect();
            if !data.is_empty() {
                return Some(data.join(&b'\n'));
            }
        }
    }

    /// Where the first event ends, with the empty line behind it.
    fn end(&mut self) -> Option<usize> {
        let from = self.searched;
        let found = memchr::memchr_iter(b'\n', self.bytes.get(from..)?).map(|at| from + at).find(|newline| {
            let before = self.bytes.get(..*newline).unwrap_or_default();
            let before = before.strip_suffix(b"\r").unwrap_or(before);
            before.is_empty() || before.ends_with(b"\n")
        });
        // The last two bytes may be the beginning of an empty line.
        self.searched = self.bytes.len().saturating_sub(2);
        found.map(|newline| newline + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<String> {
        let mut events = Events::default();
        let mut all = Vec::new();
        for piece in pieces {
            events.push(&piece).unwrap();
            all.extend(std::iter::from_fn(|| events.next()).map(|data| String::from_utf8(data).unwrap()));
        }
        all
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let stream = b"event: live\ndata: {\"at\":1}\n\n: ping\n\ndata:{\"at\":2}\r\n\r\nid: 7\n\n\ndata: a\ndata: b\n\ndata: no end";
        let expected = ["{\"at\":1}", "{\"at\":2}", "a\nb"];
        assert_eq!(read([stream.to_vec()]), expected);
        assert_eq!(read(stream.iter().map(|byte| vec![*byte])), expected);
        for at in 0..stream.len() {
            assert_eq!(read([stream[..at].to_vec(), stream[at..].to_vec()]), expected, "{at}");
        }
    }

    #[test]
    fn an_event_without_an_end_is_an_error_and_not_kept() {
        let mut events = Events::default();
        events.push(&vec![b'x'; MOST_BYTES]).unwrap();
        assert_eq!(events.next(), None);
        assert_eq!(events.push(b"x"), Err(TooLong));
    }
}
