//! HTTP as hostile as it comes: refused or closed, and nothing of it reaches llama-server.

use std::process::Command;

use serde_json::json;

use crate::harness::client::{exchange, get_as, post, request};
use crate::harness::engine::shared;
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Step, Stub, stream_of};
use crate::harness::{chat, chat_stream, eventually_true, with};

const PATH: &str = "/v1/chat/completions";

/// Sends bytes; gives the status, or 0 where the connection was closed without an answer.
fn status_of(gateway: &Gateway, bytes: &[u8]) -> u16 {
    exchange(gateway.address, bytes).map_or(0, |answer| answer.head.status)
}

/// A POST with the key, these header lines and this body.
fn raw(gateway: &Gateway, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let key = &gateway.key;
    format!("POST {path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {key}\r\n{headers}\r\n{body}").into_bytes()
}

#[test]
fn bodies_that_are_too_large_are_refused_before_they_are_read() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[server]\nmax_body_bytes = 10000");
    let reply = gateway.post(PATH, &with(chat(3), json!({"user": "x".repeat(20_000)})));
    assert_eq!((reply.status, reply.code().as_str()), (413, "request_too_large"));
    let chunks = format!("2710\r\n{}\r\n", "x".repeat(10_000)).repeat(2);
    let chunked = raw(&gateway, PATH, "Transfer-Encoding: chunked\r\n", &chunks);
    assert_eq!(status_of(&gateway, &chunked), 413);
    let messages = post(gateway.address, "/v1/messages", Some(&gateway.key), &json!({"x": "x".repeat(20_000)}));
    assert_eq!((messages.status, &messages.json()["error"]["type"]), (413, &json!("request_too_large")));
    assert_eq!(stub.count(), 0);
}

#[test]
fn a_body_that_is_announced_too_large_is_not_waited_for() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    for headers in ["Content-Length: 99999999999\r\n", "Content-Length: 99999999999\r\nExpect: 100-continue\r\n"] {
        let answer = exchange(gateway.address, &raw(&gateway, PATH, headers, ""));
        assert_eq!(answer.unwrap().head.status, 413, "{headers:?}");
    }
    assert_eq!(stub.count(), 0);
}

#[test]
fn a_chunked_body_is_read_like_any_other() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let body = chat(3).to_string();
    let (left, right) = body.split_at(20);
    let chunks = format!("{:x}\r\n{left}\r\n{:x};ext=1\r\n{right}\r\n0\r\n\r\n", left.len(), right.len());
    assert_eq!(status_of(&gateway, &raw(&gateway, PATH, "Transfer-Encoding: chunked\r\n", &chunks)), 200);
    assert_eq!(stub.requests()[0].json()["messages"], chat(3)["messages"]);
}

#[test]
fn bodies_that_are_no_json_of_the_right_kind_are_plain_400s() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let bodies: [&[u8]; 10] = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\"messages\"",
        b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}",
        b"{} {}",
        b"{\"max_tokens\":5}",
        b"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":{}}",
        deep.as_bytes(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = exchange(gateway.address, &request(PATH, Some(&gateway.key), body)).unwrap();
        let reply = answer.reply().unwrap();
        assert_eq!(reply.status, 400, "{shown}: {}", reply.text());
        assert_eq!(reply.openai_error()["type"], "invalid_request_error");
    }
    assert_eq!(stub.count(), 0);
}

#[test]
fn half_a_surrogate_is_refused_with_llama_servers_own_words() {
    let gateway = Gateway::start(&shared().url());
    let body = br#"{"messages":[{"role":"user","content":"\ud800"}],"max_tokens":2}"#;
    let answer = exchange(gateway.address, &request(PATH, Some(&gateway.key), body)).unwrap();
    let reply = answer.reply().unwrap();
    assert_eq!(reply.status, 400, "{}", reply.text());
}

#[test]
fn encoded_bodies_are_refused() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    for encoding in ["gzip", "br", "deflate", "zstd"] {
        let headers = format!("Content-Encoding: {encoding}\r\nContent-Length: 4\r\n");
        let reply = exchange(gateway.address, &raw(&gateway, PATH, &headers, "\x1f\u{b}ab")).unwrap().reply().unwrap();
        assert_eq!(reply.status, 415, "{encoding}");
        reply.openai_error();
    }
    let body = chat(3).to_string();
    let headers = format!("Content-Encoding: identity\r\nContent-Length: {}\r\n", body.len());
    assert_eq!(status_of(&gateway, &raw(&gateway, PATH, &headers, &body)), 200);
}

#[test]
fn paths_that_are_not_served_are_404s_and_never_reach_llama_server() {
    let stub = Stub::start(1);
    // The gateway itself looks at the slots; here it must not.
    let gateway = Gateway::with_config(&stub.url(), "[upstream]\ninspect_interval = \"1h\"");
    let before = stub.other_heads().len();
    let paths = [
        "/",
        "/props",
        "/slots",
        "/slots/0?action=erase",
        "/metrics",
        "/lora-adapters",
        "/completion",
        "/infill",
        "/v1/stream?conv_id=x",
        "/v1/streams/lookup",
        "/cors-proxy",
        "/tools",
        "/models/load",
        "/v1/chat/completions/control",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1/../props",
        "/v1%2Fprops",
        "/%2e%2e/props",
        "/V1/chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/audio/transcriptions",
        "/predict",
        "/v1",
    ];
    for path in paths {
        for method in ["GET", "POST"] {
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {}\r\nContent-Length: 2\r\n\r\n{{}}",
                gateway.key
            );
            let reply = exchange(gateway.address, head.as_bytes()).unwrap().reply().unwrap();
            assert_eq!(reply.status, 404, "{method} {path}: {}", reply.text());
            assert_eq!(reply.code(), "unknown_url", "{method} {path}");
        }
    }
    assert_eq!(stub.count(), 0);
    let asked = stub.other_heads()[before..].to_vec();
    let probe = |head: &String| ["/props", "/v1/models"].iter().any(|p| head.starts_with(&format!("GET {p} ")));
    assert!(asked.iter().all(probe), "{asked:?}");
}

#[test]
fn a_wrong_method_is_a_405_that_names_the_right_one() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    for (method, path, right) in [
        ("GET", PATH, "POST"),
        ("DELETE", PATH, "POST"),
        ("PUT", "/v1/responses", "POST"),
        ("POST", "/v1/models", "GET"),
    ] {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\n\r\n",
            gateway.key
        );
        let reply = exchange(gateway.address, head.as_bytes()).unwrap().reply().unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"), "{method} {path}");
        assert!(reply.head.header("allow").is_some_and(|allow| allow.contains(right)), "{:?}", reply.head);
    }
    let reply = get_as(gateway.address, PATH, Some(&gateway.key)).unwrap();
    reply.head.request_id();
    assert_eq!(stub.count(), 0);
}

#[test]
fn smuggling_is_refused_or_closed_and_nothing_reaches_llama_server() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let body = chat(3).to_string();
    let length = body.len();
    let chunks = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let with_length = [
        format!("Content-Length: {length}\r\nContent-Length: {}\r\n", length + 1),
        format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}, {length}\r\n"),
        format!("Content-Length: +{length}\r\n"),
        format!("Content-Length: 0x{length:x}\r\n"),
        format!("Content-Length: -{length}\r\n"),
        "Content-Length: 99999999999999999999999\r\n".to_owned(),
        format!("Content-Length : {length}\r\n"),
        format!("Content-Length\r\n: {length}\r\n"),
        format!("Content-Length: {length}\r\n folded: 1\r\n"),
        format!("Content-Length: {length}\r\nHost: other\r\n"),
        format!("Content-Length: {length}\r\nX: a\0b\r\n"),
        format!("Content-Length: {length}\r\nX: a\rb\r\n"),
        format!("Content-Length: {length}\r\nAuthorization: Bearer other\r\n"),
        format!("Content-Length: {length}\r\nTransfer-Encoding: identity\r\n"),
    ];
    for headers in with_length {
        let status = status_of(&gateway, &raw(&gateway, PATH, &headers, &body));
        assert!(status == 0 || (400..500).contains(&status), "{headers:?}: {status}");
    }
    let chunked = [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding: \x0bchunked\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
    ];
    for headers in chunked {
        let status = status_of(&gateway, &raw(&gateway, PATH, &headers, &chunks));
        assert!(status == 0 || (400..=501).contains(&status), "{headers:?}: {status}");
    }
    let bad_chunks = ["FFFFFFFFFFFFFFFFF\r\nx\r\n0\r\n\r\n", "-1\r\nx\r\n", "5\r\nabcdefghij\r\n0\r\n\r\n", "zz\r\n"];
    for chunks in bad_chunks {
        let status = status_of(&gateway, &raw(&gateway, PATH, "Transfer-Encoding: chunked\r\n", chunks));
        assert!(status == 0 || (400..500).contains(&status), "{chunks:?}: {status}");
    }
    let bare = raw(&gateway, PATH, &format!("Content-Length: {length}\r\n"), &body);
    let bare = String::from_utf8(bare).unwrap();
    for head in [
        bare.replacen(" HTTP/1.1", "", 1),
        bare.replacen("HTTP/1.1", "HTTP/1.9", 1),
        bare.replacen("HTTP/1.1", "HTTP/2.0", 1),
        bare.replacen("POST ", "POST  ", 1),
        bare.replacen("Host: t\r\n", "", 1),
        bare.replacen("POST", "PO ST", 1),
    ] {
        let status = status_of(&gateway, head.as_bytes());
        assert!(status == 0 || (400..=505).contains(&status), "{head:?}: {status}");
    }
    assert_eq!(stub.count(), 0);
}

#[test]
fn a_wrong_content_length_never_becomes_a_request() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let body = chat(3).to_string();
    let announced = |length: usize| raw(&gateway, PATH, &format!("Content-Length: {length}\r\n"), &body);
    // Too much announced, then the client says that nothing more will come.
    let mut conn = gateway.conn();
    conn.send(&announced(body.len() + 10)).unwrap();
    conn.half_close();
    conn.wait_closed();
    // Too little announced: what is cut off is no JSON, and the rest no request.
    let mut conn = gateway.conn();
    conn.send(&announced(body.len() - 10)).unwrap();
    assert_eq!(conn.read_head().unwrap().status, 400);
    conn.wait_closed();
    assert_eq!(stub.count(), 0);
}

#[test]
fn half_sent_heads_and_bodies_are_given_up() {
    let stub = Stub::start(1);
    let config = "[server]\nheader_timeout = \"300ms\"\nbody_timeout = \"300ms\"";
    let gateway = Gateway::with_config(&stub.url(), config);
    for beginning in ["", "P", "POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nX: "] {
        let mut conn = gateway.conn();
        conn.send(beginning.as_bytes()).unwrap();
        conn.wait_closed();
    }
    // Byte by byte is no way around the deadline.
    let mut conn = gateway.conn();
    let start = std::time::Instant::now();
    while !conn.is_closed() && conn.send(b"x").is_ok() {
        assert!(start.elapsed().as_secs() < 20, "a slow head is never given up");
    }
    let half = raw(&gateway, PATH, "Content-Length: 100\r\n", "{\"messages\"");
    let reply = exchange(gateway.address, &half).unwrap().reply().unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (408, "request_timeout"));
    eventually_true("no connection is left", || gateway.metric("llama_gateway_open_connections") == 0.0);
    assert_eq!(stub.count(), 0);
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let body = chat(3).to_string();
    let length = format!("Content-Length: {}\r\n", body.len());
    let large = format!("{length}X: {}\r\n", "x".repeat(100_000));
    let many = (0..2000).map(|n| format!("X-{n}: 1\r\n")).collect::<String>() + &length;
    for headers in [large, many] {
        let status = status_of(&gateway, &raw(&gateway, PATH, &headers, &body));
        assert!([0, 400, 431].contains(&status), "{status}");
    }
    let path = format!("{PATH}?{}", "x".repeat(100_000));
    assert!([0, 400, 414, 431].contains(&status_of(&gateway, &raw(&gateway, &path, &length, &body))));
    assert_eq!(stub.count(), 0);
}

#[test]
fn no_header_and_no_query_of_a_client_reaches_llama_server() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let body = chat_stream(3).to_string();
    let headers = format!(
        "Content-Length: {}\r\nX-Conversation-Id: 1\r\nCookie: a=b\r\nX-Forwarded-For: 1.2.3.4\r\nOrigin: http://evil\r\n\
         User-Agent: me\r\nAccept: text/html\r\nAccept-Encoding: gzip\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
         Content-Type: text/plain\r\nTraceparent: 00-1\r\n",
        body.len()
    );
    let bytes = raw(&gateway, "/v1/chat/completions?verbose=1", &headers, &body);
    assert_eq!(status_of(&gateway, &bytes), 200);
    let sent = &stub.requests()[0];
    assert_eq!(sent.path(), "/v1/chat/completions");
    let mut names = sent.headers().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    names.sort();
    assert_eq!(names, ["content-length", "content-type", "host"], "{}", sent.head);
    assert!(sent.head.contains(&stub.address().to_string()));
    assert!(!sent.head.contains(&gateway.key) && !String::from_utf8_lossy(&sent.body).contains(&gateway.key));
}

/// Headers that answers may carry.
const ALLOWED: [&str; 16] = [
    "allow",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "transfer-encoding",
    "www-authenticate",
    "x-accel-buffering",
    "x-queue-position",
    "x-queue-wait-ms",
    "x-request-id",
    "x-should-retry",
];

#[test]
fn answers_carry_only_headers_that_are_on_the_list() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let error = json!({"error": {"code": 400, "message": "no", "type": "invalid_request_error"}});
    let mut heads = vec![
        gateway.open(PATH, &chat_stream(3)).reply().unwrap().head,
        gateway.post(PATH, &chat(3)).head,
        gateway.get("/v1/models").head,
        gateway.get("/nowhere").head,
        post(gateway.address, PATH, None, &chat(3)).head,
    ];
    stub.plan(vec![Step::Whole(400, error)]);
    heads.push(gateway.post(PATH, &chat(3)).head);
    assert_eq!(heads[5].status, 400, "an error of llama-server that is the client's fault stays one");
    for head in heads {
        head.request_id();
        for (name, _) in &head.headers {
            assert!(ALLOWED.contains(&name.as_str()), "{name} in {head:?}");
        }
    }
}

#[test]
fn every_answer_has_another_request_id_whatever_the_client_sends() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let get = format!("GET /v1/models HTTP/1.1\r\nHost: t\r\nX-Request-Id: mine\r\nx-api-key: {}\r\n\r\n", gateway.key);
    let ids = (0..3).map(|_| exchange(gateway.address, get.as_bytes()).unwrap().head.request_id()).collect::<Vec<_>>();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids.iter().all(|id| id != "mine"), "{ids:?}");
}

#[test]
fn connections_are_kept_and_requests_on_them_are_answered_in_turn() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[server]\nheader_timeout = \"1s\"");
    let mut conn = gateway.conn();
    let one = gateway.request(PATH, &chat_stream(3));
    conn.send(&[one.clone(), one].concat()).unwrap();
    let first = conn.read_head().unwrap();
    assert_eq!(first.status, 200);
    conn.wait_closed();
    // The first is answered; the pipelined one is answered or left out, never mixed up.
    assert!((1..=2).contains(&stub.count()));

    let mut conn = gateway.conn();
    for _ in 0..3 {
        conn.send(format!("GET /v1/models HTTP/1.1\r\nHost: t\r\nx-api-key: {}\r\n\r\n", gateway.key).as_bytes())
            .unwrap();
        let mut answer = conn.answer().unwrap();
        assert_eq!(answer.head.status, 200);
        answer.read_rest();
        conn = answer.conn;
    }
}

fn curl(gateway: &Gateway, args: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sN", "--http2-prior-knowledge", "-H", &format!("Authorization: Bearer {}", gateway.key)]);
    command.args(args).arg(format!("http://{}{PATH}", gateway.address));
    command
}

#[test]
fn http_2_without_tls_is_spoken() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let body = chat_stream(3).to_string();
    let output = curl(&gateway, &["-i", "-d", &body]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("HTTP/2 200") && text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[test]
fn a_client_that_leaves_over_http_2_frees_the_slot() {
    let stub = Stub::start(1);
    let gateway = Gateway::with_config(&stub.url(), "[ledger]\nprogress_interval = \"20ms\"");
    stub.plan_next(vec![Step::Head, Step::Tokens(4), Step::Gate]);
    stub.plan(stream_of(2));
    let mut child = curl(&gateway, &["-d", &chat_stream(9).to_string(), "-o", "/dev/null"]).spawn().unwrap();
    eventually_true("four tokens have been counted", || {
        gateway.usage_rows().iter().any(|row| row["completion_tokens"] == 4)
    });
    let left = std::time::Instant::now();
    child.kill().unwrap();
    child.wait().unwrap();
    eprintln!("upstream closed after {:?}", stub.wait_closed(0).saturating_duration_since(left));
    let row = gateway.only_settled_row();
    assert_eq!((&row["ending"], &row["completion_tokens"]), (&json!("client_left"), &json!(4)));
    assert_eq!(gateway.post(PATH, &chat(3)).status, 200);
}
