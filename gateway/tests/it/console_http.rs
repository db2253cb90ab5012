//! The console's files and its try-out, byte by byte. What a browser makes of them, `console.rs` tells.

use std::process::Command;

use serde_json::json;

use crate::harness::client::{Answer, Reply, exchange, get};
use crate::harness::gateway::{ADMIN_KEY, Gateway};
use crate::harness::stub::{Stub, held};
use crate::harness::{chat, chat_stream};

/// Asks the admin port with these further headers.
fn ask(gateway: &Gateway, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {length}\r\n\r\n");
    exchange(gateway.admin, (head + body).as_bytes()).unwrap()
}

fn try_it(gateway: &Gateway, headers: &str, body: &str) -> Answer {
    let headers = format!("Authorization: Bearer {ADMIN_KEY}\r\n{headers}");
    ask(gateway, "POST", "/v1/console/try", &headers, body)
}

/// The addresses that a file of the console names as `name="/..."` or `name "./..."`.
fn named<'t>(text: &'t str, before: &str) -> Vec<&'t str> {
    text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// The page, and everything that it loads, and what that loads.
fn files(gateway: &Gateway) -> Vec<(String, Reply)> {
    let mut wanted = vec!["/console".to_owned()];
    let mut found: Vec<(String, Reply)> = Vec::new();
    while let Some(path) = wanted.pop() {
        if found.iter().any(|(known, _)| *known == path) {
            continue;
        }
        let reply = get(gateway.admin, &path).unwrap();
        let text = reply.text();
        wanted.extend(named(&text, "src=\"").into_iter().chain(named(&text, "href=\"")).map(str::to_owned));
        wanted.extend(named(&text, "from \"./").into_iter().map(|file| format!("/console/{file}")));
        found.push((path, reply));
    }
    found
}

#[test]
fn the_console_and_all_that_it_loads_is_within_the_binary_under_a_strict_policy() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let start = get(gateway.admin, "/").unwrap();
    assert_eq!((start.status, start.head.header("location")), (303, Some("/console")));
    let files = files(&gateway);
    let source = std::fs::read_dir(format!("{}/src/admin/console", env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert_eq!(files.len(), source.count(), "what nobody loads: {:?}", files.iter().map(|(path, _)| path));
    for (path, reply) in &files {
        assert_eq!(reply.status, 200, "{path}");
        for unsafe_part in ["<script>", " style=", "onclick=", "innerHTML", "outerHTML", "insertAdjacent", "eval("] {
            assert!(!reply.text().contains(unsafe_part), "{unsafe_part} in {path}");
        }
        let header = |name: &str| reply.head.header(name).unwrap_or_default();
        let kind = match path.rsplit_once('.') {
            None => "text/html; charset=utf-8",
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some(_) => "image/svg+xml",
        };
        assert_eq!(header("content-type"), kind, "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(header("cache-control"), "no-store");
        let policy = header("content-security-policy");
        for part in ["default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "trusted-types 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(
            !reply.text().contains("://") || path.ends_with(".svg") || reply.text().contains("www.w3.org"),
            "{path}"
        );
    }
    assert_eq!(get(gateway.admin, "/console/no.js").unwrap().code(), "unknown_url");
    assert_eq!(ask(&gateway, "POST", "/console", "", "").reply().unwrap().code(), "method_not_allowed");
    for path in ["/", "/console", "/console/app.js"] {
        assert_eq!(gateway.get(path).status, 404, "{path} on the public port");
    }
}

#[test]
fn pages_of_other_origins_are_refused_before_their_key_is_looked_at() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let key = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
    for foreign in ["Origin: http://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        for (method, path) in [("GET", "/v1/keys"), ("POST", "/v1/keys"), ("POST", "/v1/console/try")] {
            for headers in [format!("{key}{foreign}"), foreign.to_owned()] {
                let reply = ask(&gateway, method, path, &headers, r#"{"tenant":"evil"}"#).reply().unwrap();
                assert_eq!((reply.status, reply.code().as_str()), (403, "foreign_origin"), "{method} {path} {headers}");
                assert_eq!(reply.head.header("access-control-allow-origin"), None);
            }
        }
    }
    assert!(gateway.log().contains("foreign_origin"), "{}", gateway.log());
    let own = format!("{key}Origin: http://test\r\nSec-Fetch-Site: same-origin\r\n");
    let keys = ask(&gateway, "GET", "/v1/keys", &own, "").reply().unwrap();
    assert_eq!(keys.json()["data"].as_array().unwrap().len(), 1, "nothing was made: {keys:?}");
}

#[test]
fn a_chat_that_is_tried_is_one_of_the_keys_tenant() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let key = format!("X-Try-Key: {}\r\n", gateway.key);
    let reply = try_it(&gateway, &key, &chat(3).to_string()).reply().unwrap();
    assert_eq!((reply.status, &reply.json()["object"]), (200, &json!("chat.completion")), "{reply:?}");
    let row = gateway.settled_row(&reply.head.request_id());
    assert_eq!((&row["tenant"], &row["ending"]), (&json!("acme"), &json!("complete")), "{row}");

    let events = try_it(&gateway, &key, &chat_stream(3).to_string()).events();
    assert_eq!(events.last().unwrap(), "data: [DONE]");

    // Whoever leaves ends it, as everywhere.
    stub.plan_next(held());
    let answer = try_it(&gateway, &key, &chat_stream(3).to_string());
    let request_id = answer.head.request_id();
    answer.conn.reset();
    assert_eq!(gateway.settled_row(&request_id)["ending"], "client_left");
}

#[test]
fn what_is_tried_is_refused_as_for_any_client() {
    let stub = Stub::start(1);
    let limits = "[policies.one]\nrequests_per_minute = 1\n[tenants.acme]\npolicy = \"one\"";
    let gateway = Gateway::with_config(&stub.url(), limits);
    let body = chat(2).to_string();
    for key in ["", "X-Try-Key: sk-nobody\r\n", &format!("X-Try-Key: {ADMIN_KEY}\r\n")] {
        let reply = try_it(&gateway, key, &body).reply().unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_api_key"), "{key}");
    }
    let key = format!("X-Try-Key: {}\r\n", gateway.key);
    let without_admin_key = ask(&gateway, "POST", "/v1/console/try", &key, &body).reply().unwrap();
    assert_eq!((without_admin_key.status, without_admin_key.code().as_str()), (401, "invalid_api_key"));
    assert_eq!(ask(&gateway, "GET", "/v1/console/try", "", "").reply().unwrap().code(), "method_not_allowed");
    assert_eq!(try_it(&gateway, &key, "{").reply().unwrap().status, 400);
    // The body that cannot be read has taken the minute's request.
    let reply = try_it(&gateway, &key, &body).reply().unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (429, "rate_limit_exceeded"));
    assert!(reply.head.header("x-ratelimit-limit-requests").is_some(), "{reply:?}");
    assert!(gateway.usage_rows().is_empty());
    assert!(!gateway.log().contains(&gateway.key) && !gateway.log().contains(ADMIN_KEY), "a key in the log");
}

#[test]
fn no_other_header_of_the_page_reaches_the_public_routes() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let headers = format!("X-Api-Key: sk-other\r\nX-Try-Key: {}\r\nX-Forwarded-For: 10.0.0.1\r\n", gateway.key);
    assert_eq!(try_it(&gateway, &headers, &chat(2).to_string()).reply().unwrap().status, 200);
    let compressed = format!("X-Try-Key: {}\r\nContent-Encoding: gzip\r\n", gateway.key);
    assert_eq!(try_it(&gateway, &compressed, "x").reply().unwrap().code(), "unsupported_encoding");
}

/// Formatting, plots, events cut at every byte, folding of usage: what needs no browser.
#[test]
fn the_parts_of_the_page_work() {
    let mut command = Command::new("node");
    command.arg("--test").arg(format!("{}/tests/clients/console_units.mjs", env!("CARGO_MANIFEST_DIR")));
    let output = command.output().expect("node cannot be started; hint: scripts/test says which one is needed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("fail 0"), "{text}");
}
