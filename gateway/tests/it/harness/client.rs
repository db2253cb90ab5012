//! An HTTP/1.1 client that shows every byte, sends whatever it is told and leaves as rudely as wanted.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// A connection, with the bytes that were read and not yet used.
pub(crate) struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Status line and headers.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// A header by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn request_id(&self) -> String {
        self.header("x-request-id").expect("every answer has an x-request-id").to_owned()
    }
}

impl Conn {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    /// Closes with FIN.
    pub(crate) fn close(self) {}

    /// Closes with RST.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Says that nothing more will be sent and stays to read.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Keeps the kernel from taking more than a little of what is not read.
    pub(crate) fn small_receive_buffer(&self) {
        socket2::SockRef::from(&self.stream).set_recv_buffer_size(4096).unwrap();
    }

    fn fill(&mut self) -> Result<usize> {
        let mut piece = [0; 16 * 1024];
        let n = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    fn take(&mut self, n: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < n {
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..n).collect())
    }

    fn take_through(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return self.take(at + end.len());
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Waits until the other side closes; what it still sent is thrown away.
    pub(crate) fn wait_closed(mut self) {
        while self.fill().is_ok_and(|n| n > 0) {}
    }

    /// Whether the other side has closed or closes within 20 ms.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.stream.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        let closed = match self.fill() {
            Ok(n) => n == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        closed
    }

    pub(crate) fn read_head(&mut self) -> Result<Head> {
        let head = String::from_utf8_lossy(&self.take_through(b"\r\n\r\n")?).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| Error::other(format!("not a status line: {head}")))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Head { status, headers })
    }

    /// Reads the head of an answer; its body follows as it comes.
    pub(crate) fn answer(mut self) -> Result<Answer> {
        let head = self.read_head()?;
        let chunked = head.header("transfer-encoding") == Some("chunked");
        let length = head.header("content-length").and_then(|length| length.parse().ok());
        let left = match (chunked, length) {
            (true, _) => Left::Chunks,
            (false, Some(length)) => Left::Bytes(length),
            (false, None) => Left::UntilClosed,
        };
        Ok(Answer { head, conn: self, left, text: Vec::new() })
    }
}

#[derive(PartialEq)]
enum Left {
    Chunks,
    Bytes(usize),
    UntilClosed,
    Nothing,
}

/// An answer whose body is still arriving.
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) conn: Conn,
    left: Left,
    text: Vec<u8>,
}

impl Answer {
    /// The next piece of the body; `None` at its proper end; an error where it was cut.
    pub(crate) fn piece(&mut self) -> Result<Option<Vec<u8>>> {
        match self.left {
            Left::Nothing | Left::Bytes(0) => Ok(None),
            Left::Bytes(n) => {
                self.left = Left::Nothing;
                self.conn.take(n).map(Some)
            }
            Left::UntilClosed => {
                while self.conn.fill()? > 0 {}
                self.left = Left::Nothing;
                Ok(Some(std::mem::take(&mut self.conn.buffer)))
            }
            Left::Chunks => {
                let line = String::from_utf8_lossy(&self.conn.take_through(b"\r\n")?).into_owned();
                let size = usize::from_str_radix(line.trim(), 16).map_err(Error::other)?;
                let mut chunk = self.conn.take(size + 2)?;
                chunk.truncate(size);
                if size == 0 {
                    self.left = Left::Nothing;
                }
                Ok((size > 0).then_some(chunk))
            }
        }
    }

    /// The next event, comments included, without its blank line; `None` when the stream ended properly.
    pub(crate) fn raw_event(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(at) = self.text.windows(2).position(|window| window == b"\n\n") {
                let event = self.text.drain(..at + 2).collect::<Vec<_>>();
                return Ok(Some(String::from_utf8_lossy(&event[..at]).into_owned()));
            }
            match self.piece()? {
                Some(piece) => self.text.extend(piece),
                None => return Ok(None),
            }
        }
    }

    /// The next event that is not a comment.
    pub(crate) fn event(&mut self) -> Result<Option<String>> {
        loop {
            match self.raw_event()? {
                Some(event) if event.starts_with(':') => {}
                event => return Ok(event),
            }
        }
    }

    /// The JSON of the next event; `None` at `[DONE]` and at the end.
    pub(crate) fn json_event(&mut self) -> Result<Option<Value>> {
        let Some(event) = self.event()? else { return Ok(None) };
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
        if data == "[DONE]" {
            return Ok(None);
        }
        serde_json::from_str(data).map(Some).map_err(|_| Error::other(format!("not an event with JSON: {event}")))
    }

    /// Reads on until an event carries a piece of text.
    pub(crate) fn next_text(&mut self) -> String {
        loop {
            let event = self.json_event().expect("the stream goes on").expect("the stream goes on");
            if let Some(text) = event["choices"][0]["delta"]["content"].as_str() {
                return text.to_owned();
            }
        }
    }

    /// All events to the proper end of the stream, without comments.
    pub(crate) fn events(mut self) -> Vec<String> {
        std::iter::from_fn(|| self.event().expect("the stream ends properly")).collect()
    }

    /// Reads what is left of the body and throws it away: the connection can then be used again.
    pub(crate) fn read_rest(&mut self) {
        while self.piece().unwrap().is_some() {}
    }

    /// The whole body.
    pub(crate) fn reply(mut self) -> Result<Reply> {
        let mut body = std::mem::take(&mut self.text);
        while let Some(piece) = self.piece()? {
            body.extend(piece);
        }
        Ok(Reply { status: self.head.status, head: self.head, body })
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The OpenAI error, checked for its shape: four keys, `code` and `param` text or null.
    pub(crate) fn openai_error(&self) -> Value {
        assert_eq!(self.head.header("content-type"), Some("application/json"), "{self:?}");
        let error = self.json()["error"].clone();
        assert!(error["message"].is_string() && error["type"].is_string(), "{self:?}");
        for key in ["param", "code"] {
            let value = error.get(key).unwrap_or_else(|| panic!("no {key} in {error}"));
            assert!(value.is_null() || value.is_string(), "{self:?}");
        }
        error
    }

    pub(crate) fn code(&self) -> String {
        self.openai_error()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// The bytes of a POST with a JSON body.
pub(crate) fn request(path: &str, key: Option<&str>, body: &[u8]) -> Vec<u8> {
    request_of("POST", path, key, body)
}

/// The bytes of a request with a JSON body.
pub(crate) fn request_of(method: &str, path: &str, key: Option<&str>, body: &[u8]) -> Vec<u8> {
    let authorization = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{authorization}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Sends some bytes on a fresh connection and reads the head of what comes back.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> Result<Answer> {
    let mut conn = Conn::open(address)?;
    conn.send(bytes)?;
    conn.answer()
}

/// Posts JSON; the body of the answer follows as it comes.
pub(crate) fn open(address: SocketAddr, path: &str, key: Option<&str>, body: &Value) -> Answer {
    exchange(address, &request(path, key, body.to_string().as_bytes())).unwrap()
}

/// Posts JSON and reads the whole answer.
pub(crate) fn post(address: SocketAddr, path: &str, key: Option<&str>, body: &Value) -> Reply {
    open(address, path, key, body).reply().unwrap()
}

/// Gets a path without a key.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<Reply> {
    get_as(address, path, None)
}

/// Gets a path.
pub(crate) fn get_as(address: SocketAddr, path: &str, key: Option<&str>) -> Result<Reply> {
    let authorization = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: test\r\n{authorization}\r\n").as_bytes())?.reply()
}
