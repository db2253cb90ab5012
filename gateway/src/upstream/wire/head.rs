//! The head of a reply: its status, where its body ends, and whether the connection lives on.
//!
//! Strict, since a reply that is read differently than it was meant shifts all that follow on its connection. Other
//! headers are not kept: nobody needs them.

use http::{HeaderName, StatusCode, header};

use super::ReplyError;
use super::framing::Framing;

/// Bytes of a head at most.
pub(super) const MAX_HEAD: usize = 16 << 10;
/// Headers of a reply at most; llama-server sends seven.
const MAX_HEADERS: usize = 64;

/// The head of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) framing: Framing,
    /// Whether the connection may be used again once the body is over.
    pub(super) keep: bool,
}

/// Reads the head at the start of `bytes` and gives its length with it; nothing if it is not all there yet. Heads of
/// interim replies (100 Continue and the like) are skipped.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, ReplyError> {
    let mut start = 0;
    loop {
        let mut space = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut reply = httparse::Response::new(&mut space);
        let length = match reply.parse(&bytes[start..]) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => return Err(malformed("its head is too large")),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(malformed("its head is not one of HTTP/1")),
        };
        start += length;
        if start > MAX_HEAD {
            return Err(malformed("its head is too large"));
        }
        let head = head(&reply)?;
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS => return Err(malformed("it switches to another protocol")),
            status if status.is_informational() => {}
            _ => return Ok(Some((head, start))),
        }
    }
}

fn head(reply: &httparse::Response<'_, '_>) -> Result<Head, ReplyError> {
    let status = reply.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(malformed("its status is no number from 100 to 999"))?;
    let mut keep = reply.version == Some(1) && !lists(reply, "close");
    let coding = only(reply, &header::TRANSFER_ENCODING)?;
    let length = only(reply, &header::CONTENT_LENGTH)?;
    let framing = match (coding, length) {
        (Some(_), Some(_)) => return Err(malformed("it has a length and a transfer coding")),
        _ if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => Framing::Length(0),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Framing::chunked(),
        (Some(_), None) => return Err(malformed("its transfer coding is unknown")),
        (None, Some(length)) => Framing::Length(number(length).ok_or(malformed("its length is not a number"))?),
        (None, None) => {
            keep = false;
            Framing::UntilClose
        }
    };
    Ok(Head { status, framing, keep })
}

/// The value of a header that may be there once.
fn only<'a>(reply: &httparse::Response<'_, 'a>, name: &HeaderName) -> Result<Option<&'a [u8]>, ReplyError> {
    let mut values = values(reply, name);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(malformed("a header that says where it ends is there twice")),
    }
}

/// Whether the `connection` headers list an option.
fn lists(reply: &httparse::Response<'_, '_>, option: &str) -> bool {
    values(reply, &header::CONNECTION)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

fn values<'a>(reply: &httparse::Response<'_, 'a>, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    reply
        .headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name.as_str()))
        .map(|header| header.value)
}

/// Digits and nothing else: no sign, no list.
fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn malformed(problem: &'static str) -> ReplyError {
    ReplyError::Malformed(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(Head, usize)>, String> {
        parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    fn framed(headers: &str) -> Result<Framing, String> {
        Ok(read(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"))?.unwrap().0.framing)
    }

    fn kept(text: &str) -> bool {
        read(text).unwrap().unwrap().0.keep
    }

    #[test]
    fn a_head_is_found_when_its_last_byte_is_there() {
        let text = "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n\
            Transfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=100\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(read(&text[..length]), Ok(None));
        }
        let head = Head { status: StatusCode::OK, framing: Framing::chunked(), keep: true };
        assert_eq!(read(&format!("{text}rest")), Ok(Some((head, text.len()))));
    }

    #[test]
    fn the_end_of_a_body_is_announced_in_one_way_or_not_at_all() {
        assert_eq!(framed("content-length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(framed("Transfer-Encoding: Chunked\r\n"), Ok(Framing::chunked()));
        assert_eq!(framed(""), Ok(Framing::UntilClose));
        for wrong in [
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "content-length: 1\r\ncontent-length: 1\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: identity\r\n",
            "transfer-encoding: \r\n",
            "content-length: 1, 1\r\n",
            "content-length: +1\r\n",
            "content-length: -1\r\n",
            "content-length: 0x1\r\n",
            "content-length: \r\n",
            "content-length: 18446744073709551616\r\n",
            "content-length : 1\r\n",
            "content-length: 1\r\n folded: 1\r\n",
        ] {
            assert!(framed(wrong).is_err(), "{wrong}");
        }
        let none = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(read(none).unwrap().unwrap().0.framing, Framing::Length(0));
    }

    #[test]
    fn a_connection_lives_on_unless_the_reply_says_otherwise() {
        assert!(kept("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
        assert!(kept("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n"));
        assert!(!kept("HTTP/1.1 400 Bad Request\r\nConnection: Close\r\ncontent-length: 0\r\n\r\n"));
        assert!(!kept("HTTP/1.1 200 OK\r\nconnection: x, close\r\ncontent-length: 0\r\n\r\n"));
        assert!(!kept("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n"));
        assert!(!kept("HTTP/1.1 200 OK\r\n\r\n"));
    }

    #[test]
    fn interim_replies_are_skipped() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        let (head, length) = read(text).unwrap().unwrap();
        assert_eq!((head.status, length), (StatusCode::OK, text.len()));
        assert_eq!(read("HTTP/1.1 100 Continue\r\n\r\n"), Ok(None));
        assert!(read("HTTP/1.1 101 Switching Protocols\r\n\r\n").is_err());
    }

    #[test]
    fn what_is_no_head_or_too_large_for_one_is_refused() {
        for wrong in ["HTTP/2 200\r\n\r\n", "<html>", "HTTP/1.1 99 x\r\n\r\n", "HTTP/1.1 2000 x\r\n\r\n", "\0"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        assert!(framed(&many).is_err());
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(MAX_HEAD));
        assert!(read(&long).unwrap_err().contains("too large"));
        assert!(read(&format!("{long}\r\n\r\n")).unwrap_err().contains("too large"));
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_HEAD / 20);
        assert!(read(&interim).unwrap_err().contains("too large"));
    }
}
