//! Many clients at once, and clients of several tenants with headers of their own.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{Answer, Conn, Reply};
use super::gateway::Gateway;

/// Where chats go.
pub(crate) const CHAT: &str = "/v1/chat/completions";

/// The bytes of a chat with some further headers.
pub(crate) fn chat_request(key: &str, headers: &[(&str, &str)], body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let further = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
    let length = body.len();
    format!(
        "POST {CHAT} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\n\
         {further}Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Sends a chat and reads nothing yet.
pub(crate) fn send(gateway: &Gateway, key: &str, headers: &[(&str, &str)], body: &Value) -> Conn {
    let mut conn = gateway.conn();
    conn.send(&chat_request(key, headers, body)).unwrap();
    conn
}

/// Sends a chat and reads the whole answer.
pub(crate) fn post(gateway: &Gateway, key: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
    send(gateway, key, headers, body).answer().unwrap().reply().unwrap()
}

/// What became of many requests that were sent at the same moment.
pub(crate) struct Storm {
    /// Those that were answered with 200; their bodies are still to be read.
    pub(crate) passed: Vec<Answer>,
    /// All others.
    pub(crate) refused: Vec<Reply>,
    /// From the moment at which they were sent until all had a status.
    pub(crate) took: Duration,
}

/// Sends `count` chats at the same moment, each on a connection that is open by then.
pub(crate) fn storm(gateway: &Gateway, key: &str, body: &Value, count: usize) -> Storm {
    let bytes = chat_request(key, &[], body);
    let barrier = Barrier::new(count + 1);
    let (answers, took) = std::thread::scope(|scope| {
        let client = || {
            let mut conn = gateway.conn();
            barrier.wait();
            conn.send(&bytes).unwrap();
            conn.answer().unwrap()
        };
        let clients = (0..count).map(|_| scope.spawn(client)).collect::<Vec<_>>();
        barrier.wait();
        let start = Instant::now();
        let answers = clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>();
        (answers, start.elapsed())
    });
    let (passed, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.head.status == 200);
    let refused = refused.into_iter().map(|answer| answer.reply().unwrap()).collect();
    Storm { passed, refused, took }
}
