//! Where one HTTP/1 request ends and the next begins.
//!
//! Takes the bytes of a connection in pieces of any size; gives the end of each request, or why its framing is
//! refused. It is stricter than hyper, which accepts line feeds alone, drops a `Content-Length` beside a
//! `Transfer-Encoding`, and joins equal `Content-Length` headers: a proxy in front may read any of these in another
//! way and take a part of one request for another request. All else about requests is left to hyper.

use memchr::{memchr, memchr2};

/// Where in a request the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    /// In a body with this many bytes to go.
    Sized(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkExtension {
        size: u64,
    },
    /// Behind the carriage return of a size line.
    ChunkSizeEnd {
        size: u64,
    },
    ChunkData(u64),
    ChunkDataReturn,
    ChunkDataEnd,
    TrailerStart,
    Trailer,
    TrailerEnd,
    /// Behind the carriage return of the empty line that ends the trailers.
    LastEnd,
}

/// What a head says about framing.
#[derive(Debug, Default)]
struct Fields {
    request_line: bool,
    http_1_0: bool,
    hosts: u32,
    lengths: u32,
    length: u64,
    encodings: u32,
}

/// How far a piece of bytes belongs to the request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Bytes that belong to it.
    pub(super) count: usize,
    /// It ends with them.
    pub(super) complete: bool,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    place: Place,
    fields: Fields,
    /// The beginning of a head line whose end has not come yet. hyper bounds the head.
    line: Vec<u8>,
    begun: bool,
}

impl Framing {
    pub(super) fn new() -> Self {
        Self { place: Place::Head, fields: Fields::default(), line: Vec::new(), begun: false }
    }

    /// Whether a request has begun and not ended.
    pub(super) fn is_inside(&self) -> bool {
        self.begun
    }

    /// Whether the next byte belongs to a body.
    pub(super) fn is_in_body(&self) -> bool {
        self.place != Place::Head
    }

    /// Takes the bytes of the request under way, and no more.
    ///
    /// # Errors
    /// What is wrong with the framing, for the client. Nothing can be said about the bytes behind it.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Taken, &'static str> {
        let mut at = 0;
        while at < bytes.len() {
            self.begun = true;
            let complete = if self.place == Place::Head {
                self.take_line(bytes, &mut at)?
            } else {
                self.take_body(bytes, &mut at)?
            };
            if complete {
                *self = Self::new();
                return Ok(Taken { count: at, complete: true });
            }
        }
        Ok(Taken { count: at, complete: false })
    }

    /// Takes a line of the head, or the piece of it that is there. True: the request ends with it.
    fn take_line(&mut self, bytes: &[u8], at: &mut usize) -> Result<bool, &'static str> {
        let rest = bytes.get(*at..).unwrap_or_default();
        let Some(end) = memchr(b'\n', rest) else {
            self.line.extend_from_slice(rest);
            *at = bytes.len();
            return Ok(false);
        };
        *at += end + 1;
        let piece = rest.get(..end).unwrap_or_default();
        if self.line.is_empty() {
            return self.end_line(piece);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(piece);
        self.end_line(&line)
    }

    /// A whole line, without its line feed.
    fn end_line(&mut self, line: &[u8]) -> Result<bool, &'static str> {
        let line = line.strip_suffix(b"\r").ok_or("a line of the request head ends without a carriage return")?;
        if memchr2(b'\r', b'\0', line).is_some() {
            return Err("the request head holds a carriage return or a null byte inside a line");
        }
        match (self.fields.request_line, line.is_empty()) {
            // Old clients send an empty line behind a body.
            (false, true) => {}
            (false, false) => self.fields.request_line(line)?,
            (true, false) => self.fields.header(line)?,
            (true, true) => {
                self.place = self.fields.body()?;
                return Ok(self.place == Place::Sized(0));
            }
        }
        Ok(false)
    }

    /// Takes bytes of a body. True: the request ends with them.
    fn take_body(&mut self, bytes: &[u8], at: &mut usize) -> Result<bool, &'static str> {
        let rest = bytes.get(*at..).unwrap_or_default();
        let Some(&byte) = rest.first() else { return Ok(false) };
        match &mut self.place {
            Place::Sized(left) => {
                *at += skip(left, rest.len());
                return Ok(*left == 0);
            }
            Place::ChunkData(left) => {
                *at += skip(left, rest.len());
                if *left == 0 {
                    self.place = Place::ChunkDataReturn;
                }
                return Ok(false);
            }
            _ => {}
        }
        *at += 1;
        let next = after(self.place, byte).ok_or("the chunks of the request body are malformed")?;
        self.place = next;
        Ok(next == Place::Head)
    }
}

/// Counts `left` down by at most `there`; says by how much.
fn skip(left: &mut u64, there: usize) -> usize {
    let step = usize::try_from(*left).unwrap_or(usize::MAX).min(there);
    *left -= step as u64;
    step
}

/// Where a chunked body stands after one more byte of its frame; `Head` when it has ended.
fn after(place: Place, byte: u8) -> Option<Place> {
    match (place, byte) {
        (Place::ChunkSize { size, digits }, b'\r') if digits > 0 => Some(Place::ChunkSizeEnd { size }),
        (Place::ChunkSize { size, digits }, b';' | b' ' | b'\t') if digits > 0 => Some(Place::ChunkExtension { size }),
        (Place::ChunkSize { size, digits: digits @ 0..15 }, digit) => {
            let value = char::from(digit).to_digit(16)?;
            Some(Place::ChunkSize { size: size * 16 + u64::from(value), digits: digits + 1 })
        }
        (Place::ChunkExtension { size }, b'\r') => Some(Place::ChunkSizeEnd { size }),
        (Place::ChunkExtension { size }, other) if other != b'\n' => Some(Place::ChunkExtension { size }),
        (Place::ChunkSizeEnd { size: 0 }, b'\n') => Some(Place::TrailerStart),
        (Place::ChunkSizeEnd { size }, b'\n') => Some(Place::ChunkData(size)),
        (Place::ChunkDataReturn, b'\r') => Some(Place::ChunkDataEnd),
        (Place::ChunkDataEnd, b'\n') => Some(Place::ChunkSize { size: 0, digits: 0 }),
        (Place::TrailerStart, b'\r') => Some(Place::LastEnd),
        (Place::Trailer, b'\r') => Some(Place::TrailerEnd),
        (Place::TrailerStart | Place::Trailer, other) if other != b'\n' => Some(Place::Trailer),
        (Place::TrailerEnd, b'\n') => Some(Place::TrailerStart),
        (Place::LastEnd, b'\n') => Some(Place::Head),
        _ => None,
    }
}

impl Fields {
    fn request_line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        self.request_line = true;
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(_method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("the request line is not three words with one space between them");
        };
        // The authority alone (CONNECT) or `*` (OPTIONS) address a proxy or no resource.
        if !(target.starts_with(b"/") || target.starts_with(b"http://") || target.starts_with(b"https://")) {
            return Err("the request target is neither a path nor an http URL");
        }
        // http::Uri cuts a fragment off, where another reader may keep it.
        if memchr(b'#', target).is_some() {
            return Err("the request target holds a fragment");
        }
        self.http_1_0 = version == b"HTTP/1.0";
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), &'static str> {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return Err("a header continues on a second line");
        }
        let colon = memchr(b':', line).ok_or("a header has no colon")?;
        let (name, value) = line.split_at(colon);
        if name.is_empty() || name.last().is_some_and(u8::is_ascii_whitespace) {
            return Err("a header has no name, or a space before its colon");
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths += 1;
            self.length = length(value).ok_or("Content-Length is not a number")?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.encodings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err("the only Transfer-Encoding that is served is `chunked`");
            }
        }
        Ok(())
    }

    /// How the body is framed, once the head has ended.
    fn body(&self) -> Result<Place, &'static str> {
        if self.encodings > 0 && self.lengths > 0 {
            return Err("Content-Length and Transfer-Encoding exclude each other");
        }
        if self.encodings > 1 || self.lengths > 1 {
            return Err("Content-Length or Transfer-Encoding is given more than once");
        }
        if self.encodings > 0 && self.http_1_0 {
            return Err("HTTP/1.0 has no Transfer-Encoding");
        }
        if self.hosts > 1 || (self.hosts == 0 && !self.http_1_0) {
            return Err("exactly one Host header is needed");
        }
        match self.encodings {
            0 => Ok(Place::Sized(self.length)),
            _ => Ok(Place::ChunkSize { size: 0, digits: 0 }),
        }
    }
}

/// A Content-Length: digits alone, no sign, no list.
fn length(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}
