use std::num::NonZero;

use serde_json::{Value, json};

use super::keys::Key;
use super::screen::{Scroll, Size, View, screen, scroll};
use super::text::{count, harmless, span};
use super::*;

/// What would do harm, or would not fit.
const HOSTILE: &str = "evil\x1b[2J\x1b]0;owned\x07\r\n\u{9b}31m\u{202e}\u{2066}\u{200b}\u{301}\u{ad}模型א";
const HOSTILE_SHOWN: &str = "evil?[2J?]0;owned????31m????????";

fn running(id: usize, tenant: &str) -> Value {
    json!({"request_id": format!("req_{id:04}"), "tenant": tenant, "key_id": "k3v5n2qa", "model": "m", "surface": "chat",
           "upstream": "10.0.0.8:8001", "slots": 1, "phase": "decode", "prompt_tokens": 120, "cached_tokens": 0,
           "completion_tokens": 17, "tokens_per_second": 9.8, "queue_wait_seconds": 0.2, "ttft_seconds": 1.1,
           "running_seconds": 2.9, "age_seconds": 3.1, "of_a_later_version": [1]})
}

fn waiting(position: usize, tenant: &str) -> Value {
    json!({"request_id": "req_w", "tenant": tenant, "key_id": "m4x7p3rb", "surface": "chat", "class": "standard",
           "slots": 1, "position": position, "prompt_tokens": 2400, "waited_seconds": 1.2, "expected_wait_seconds": 8.0})
}

fn tenant(name: &str, day: Value) -> Value {
    json!({"tenant": name, "running": 1, "waiting": 0, "slots_busy": 1, "day": day, "month": null})
}

fn upstream(address: &str, state: &str, problem: Option<&str>) -> Value {
    json!({"address": address, "state": state, "problem": problem, "model": "gpt-oss-20b", "build": "b1-abc",
           "context_tokens": 16384, "slots": 2, "slots_busy": 1, "foreign_requests": 0, "restarts": 0})
}

fn value() -> Value {
    let mut slow = running(2, "globex");
    let further = json!({"key_id": "m4x7p3rb", "surface": "messages", "phase": "prefill", "prompt_tokens": 24000,
                         "completion_tokens": 0, "tokens_per_second": null, "ttft_seconds": null, "age_seconds": 75.0});
    slow.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    let mut limited = tenant("globex", json!({"limit": 1_000_000, "used": 250_000}));
    limited["tokens_per_minute"] = json!({"capacity": 60000, "left": 1234});
    json!({"object": "live", "at": 1_795_784_640.5,
           "gateway": {"version": "0.1.0", "started": 1_795_600_000.0, "readiness": "ready", "draining": false,
                       "ledger_healthy": true, "open_connections": 3},
           "upstreams": [upstream("10.0.0.8:8001", "ready", None), upstream("10.0.0.9:8001", "down", Some("refused"))],
           "running_total": 2, "running": [running(1, "acme"), slow],
           "waiting_total": 1, "waiting": [waiting(0, "globex")],
           "queue": {"expected_wait_seconds": {"interactive": 1.0, "standard": 8.0, "batch": null},
                     "drain_seconds": 12.5},
           "tenants": [tenant("acme", json!(null)), limited]})
}

fn snapshot(value: Value) -> Snapshot {
    serde_json::from_value(value).unwrap()
}

/// A snapshot with so many rows as the gateway tells at most.
fn crowd(name: &str) -> Snapshot {
    let mut value = value();
    value["running"] = (0..200).map(|id| running(id, name)).collect();
    value["running_total"] = json!(345);
    value["waiting"] = (0..200).map(|position| waiting(position, name)).collect();
    value["waiting_total"] = json!(5000);
    value["tenants"] = (0..200).map(|_| tenant(name, json!({"limit": u64::MAX, "used": 0}))).collect();
    value["upstreams"] = (0..50).map(|_| upstream(name, name, Some(name))).collect();
    value["gateway"]["version"] = json!(name);
    value["gateway"]["readiness"] = json!(name);
    value["queue"]["expected_wait_seconds"] = json!({name: 1e300});
    snapshot(value)
}

fn rows(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| line.to_string().trim_end().to_owned()).collect()
}

fn shown(snapshot: &Snapshot, columns: usize, rows_of_it: usize) -> String {
    let size = Size { columns, rows: rows_of_it };
    format!("\n{}\n", rows(&screen(snapshot, &View::default(), None, size)).join("\n"))
}

#[test]
fn all_is_seen_on_an_ordinary_terminal() {
    let document = include_str!("../../../../docs/top.md");
    let (_, picture) = document.split_once("```text").unwrap();
    let (picture, _) = picture.split_once("```").unwrap();
    assert_eq!(shown(&snapshot(value()), 80, 24), picture);
}

#[test]
fn a_large_terminal_shows_the_columns_that_others_leave_out() {
    let text = shown(&snapshot(value()), 120, 40);
    for column in ["UPSTREAM ", "REQUEST", "req_0001", "BUILD", "b1-abc"] {
        assert!(text.contains(column), "{column}: {text}");
    }
    assert_eq!(text.lines().last(), Some("q quit  p pause  h help"));
}

#[test]
fn a_small_terminal_shows_what_matters_most() {
    let expected = "
llama-gateway 0.1.0  ready  up 2d03h
3 connections  13:04:00 UTC
slots 2/4 busy  1 waiting  9.8 tokens/s
queue drains in 13s

RUNNING 2
TENANT  PHASE    OUTPUT  TOK/S    AGE
acme    decode       17    9.8   3.1s
globex  prefill       0      -  1m15s

QUEUE 1; expected for newcomers: batch …
q quit  p pause  h help  12 below
";
    assert_eq!(shown(&snapshot(value()), 40, 12), expected);
}

#[test]
fn an_empty_gateway_says_so() {
    let expected = "
llama-gateway 0.1.0  unreachable  up 5.0s  0 connections  00:01:40 UTC
slots 0/0 busy  0 waiting  0.0 tokens/s  queue drains in -  THE LEDGER FAILS

RUNNING 0
none

QUEUE 0
none

TENANTS (tokens left)
none

UPSTREAMS
none

q quit  p pause  h help
";
    let gateway = json!({"version": "0.1.0", "started": 95.0, "readiness": "unreachable", "draining": false,
                         "ledger_healthy": false, "open_connections": 0});
    let queue = json!({"expected_wait_seconds": {}, "drain_seconds": null});
    let empty = json!({"object": "live", "at": 100.0, "gateway": gateway, "upstreams": [], "running_total": 0,
                       "running": [], "waiting_total": 0, "queue": queue, "waiting": [], "tenants": []});
    assert_eq!(shown(&snapshot(empty), 80, 16), expected);
}

#[test]
fn whatever_the_names_and_the_size_the_screen_is_filled_and_harmless() {
    for name in [HOSTILE, "a", &"long".repeat(100)] {
        let crowd = crowd(name);
        for (columns, rows) in [(1, 1), (2, 3), (20, 5), (40, 12), (80, 24), (120, 40), (300, 100)] {
            for view in [View::default(), View { offset: 300, is_paused: true, shows_help: rows == 24 }] {
                let lines = screen(&crowd, &view, Some(name), Size { columns, rows });
                assert_eq!(lines.len(), rows);
                for line in lines {
                    let text = line.to_string();
                    assert!(text.chars().count() <= columns, "{columns}: {text}");
                    assert_eq!(harmless(&text), text);
                }
            }
        }
    }
}

#[test]
fn a_gateway_that_drains_says_so_and_what_runs_is_summed() {
    let mut value = value();
    value["gateway"]["draining"] = json!(true);
    value["running"][1]["tokens_per_second"] = json!(2.3);
    let text = shown(&snapshot(value), 80, 24);
    assert!(text.contains("0.1.0  draining  up") && text.contains("12.1 tokens/s"), "{text}");
}

#[test]
fn hostile_names_are_seen_for_what_they_are() {
    assert_eq!(harmless(HOSTILE), HOSTILE_SHOWN);
    assert_eq!(harmless("Žluťoučký кот, αβγ: 12 µs…"), "Žluťoučký кот, αβγ: 12 µs…");
    let text = plain(&crowd(HOSTILE), usize::MAX);
    assert!(text.contains(HOSTILE_SHOWN) && text.contains("RUNNING 345, the first 200 of them"), "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
}

#[test]
fn an_emulated_terminal_shows_the_screen_as_it_was_made() {
    let size = Size { columns: 80, rows: 24 };
    let crowd = crowd(HOSTILE);
    let lines = screen(&crowd, &View::default(), Some("lost"), size);
    let mut emulator = vt100::Parser::new(NonZero::new(24).unwrap(), NonZero::new(80).unwrap(), 0);
    for has_colours in [true, false] {
        let painted = terminal::painted(&lines, size, has_colours);
        assert!(!painted.contains("\x1b]"), "{painted:?}");
        emulator.process(painted.as_bytes());
        let seen: Vec<_> = emulator.screen().rows(0, 80).map(|row| row.trim_end().to_owned()).collect();
        assert_eq!(seen, rows(&lines));
    }
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let lines = screen(&snapshot(value()), &View::default(), Some("lost"), Size { columns: 80, rows: 24 });
    let painted = |has_colours| terminal::painted(&lines, Size { columns: 80, rows: 24 }, has_colours);
    for colour in ["\x1b[32m", "\x1b[33m", "\x1b[1;31m"] {
        assert!(painted(true).contains(colour), "{colour:?}");
        assert!(!painted(false).contains(colour), "{colour:?}");
    }
}

#[test]
fn the_tables_scroll_and_stop_at_their_ends() {
    let size = Size { columns: 80, rows: 24 };
    let crowd = crowd("acme");
    let mut view = View::default();
    let mut press = |way| {
        view.offset = scroll(&crowd, &view, None, way, size);
        rows(&screen(&crowd, &view, None, size))
    };
    let first = press(Scroll::LineBack);
    let head = first.iter().position(|line| line.starts_with("RUNNING")).unwrap();
    assert!(press(Scroll::Line)[head].starts_with("TENANT"));
    assert!(press(Scroll::Page)[head].contains("acme"));
    assert!(press(Scroll::NextPart)[head].starts_with("QUEUE"));
    assert!(press(Scroll::NextPart)[head].starts_with("TENANTS"));
    assert!(press(Scroll::NextPart)[head].starts_with("UPSTREAMS"));
    let end = press(Scroll::End);
    assert_eq!(press(Scroll::Page), end);
    assert!(!end[23].contains("below"), "{end:?}");
    assert_ne!(press(Scroll::PageBack), end);
    press(Scroll::End);
    assert_eq!(press(Scroll::NextPart), first);
    press(Scroll::End);
    assert_eq!(press(Scroll::Top), first);
}

#[test]
fn an_offset_behind_the_end_of_shorter_tables_shows_their_end() {
    let size = Size { columns: 80, rows: 12 };
    let view = View { offset: 500, ..View::default() };
    let lines = rows(&screen(&snapshot(value()), &view, None, size));
    assert!(lines[10].starts_with("10.0.0.9"), "{lines:?}");
    let up = scroll(&snapshot(value()), &view, None, Scroll::LineBack, size);
    let lines = rows(&screen(&snapshot(value()), &View { offset: up, ..view }, None, size));
    assert!(lines[10].starts_with("10.0.0.8"), "{lines:?}");
}

#[test]
fn keys_pause_help_and_quit() {
    let size = Size { columns: 80, rows: 24 };
    let known = |connections: u64| {
        let mut value = value();
        value["gateway"]["open_connections"] = json!(connections);
        Known { snapshot: snapshot(value), lost: None }
    };
    let mut top = Top { seen: known(1), view: View::default() };
    let text = |top: &Top| rows(&screen(&top.seen.snapshot, &top.view, top.seen.lost.as_deref(), size)).join("\n");
    assert!(top.press(Key::Pause, size, &known(1)).is_continue());
    top.follow(&Known { lost: Some("the connection is lost".to_owned()), ..known(2) });
    let paused = text(&top);
    assert!(paused.contains("1 connections") && paused.contains("PAUSED") && paused.contains("is lost"), "{paused}");
    assert!(top.press(Key::Pause, size, &known(3)).is_continue());
    assert!(text(&top).contains("3 connections") && !text(&top).contains("PAUSED"));
    assert!(top.press(Key::Help, size, &known(3)).is_continue());
    assert!(text(&top).contains("time to the first token"));
    assert!(top.press(Key::Escape, size, &known(3)).is_continue());
    assert!(text(&top).contains("RUNNING"));
    assert!(top.press(Key::Escape, size, &known(3)).is_break());
    assert!(top.press(Key::Help, size, &known(3)).is_continue());
    assert!(top.press(Key::Quit, size, &known(3)).is_break());
}

#[test]
fn times_and_counts_are_short() {
    for (seconds, expected) in [
        (-1.0, "0.0s"),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (3599.0, "59m59s"),
        (3600.0, "1h00m"),
        (86_399.0, "23h59m"),
        (1e6, "11d13h"),
    ] {
        assert_eq!(span(seconds), expected, "{seconds}");
    }
    for (number, expected) in [
        (0, "0"),
        (99_999, "99999"),
        (100_000, "100k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (99_949_000, "99.9M"),
        (99_950_000, "100M"),
        (2_000_000_000, "2.0G"),
    ] {
        assert_eq!(count(number), expected, "{number}");
    }
}
