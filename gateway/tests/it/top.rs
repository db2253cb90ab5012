//! `llama-gateway top`: the real program on a real terminal, whose screen is read by an emulator.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use memchr::memmem;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;

use crate::harness::chaos::{Mode, Proxy};
use crate::harness::gateway::{ADMIN_KEY, Gateway};
use crate::harness::process::{mortal, signal, spawn};
use crate::harness::stub::{Stub, held};
use crate::harness::{chat_stream, eventually, eventually_true};

const BINARY: &str = env!("CARGO_BIN_EXE_llama-gateway");

/// A terminal on which `llama-gateway top` runs; it is killed on drop.
struct Terminal {
    child: Child,
    ours: File,
    /// Kept open: so the terminal outlives the program.
    theirs: OwnedFd,
    before: Termios,
    emulator: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    fn start(args: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let ours = openpt(flags).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        let before = tcgetattr(&theirs).unwrap();
        let emulator = vt100::Parser::new(NonZero::new(24).unwrap(), NonZero::new(80).unwrap(), 0);
        let emulator = Arc::new(Mutex::new(emulator));
        let mut command = mortal("setsid");
        command.args(["--ctty", BINARY, "top"]).args(args);
        for pass in [Command::stdin, Command::stdout, Command::stderr] {
            pass(&mut command, Stdio::from(theirs.try_clone().unwrap()));
        }
        let ours = File::from(ours);
        let output = ours.try_clone().unwrap();
        let shown = emulator.clone();
        std::thread::spawn(move || show(output, &shown));
        let terminal = Self { child: spawn(command), ours, theirs, before, emulator };
        terminal.resize(24, 80);
        terminal
    }

    fn watching(gateway: &Gateway) -> Self {
        Self::start(&["--data-dir", gateway.data().to_str().unwrap()])
    }

    fn resize(&self, rows: u16, columns: u16) {
        let (high, wide) = (NonZero::new(rows).unwrap(), NonZero::new(columns).unwrap());
        self.emulator.lock().unwrap().screen_mut().set_size(high, wide);
        tcsetwinsize(&self.ours, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    fn screen(&self) -> String {
        self.emulator.lock().unwrap().screen().contents()
    }

    fn wait(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_true(what, || {
                last = self.screen();
                condition(&last)
            });
        }));
        assert!(seen.is_ok(), "{what}:\n{last}");
        last
    }

    fn wait_text(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }

    /// Waits for the program's end and for a terminal that is as it was.
    fn wait_restored(&mut self) -> ExitStatus {
        let status = eventually("the program ends", || self.child.try_wait().unwrap());
        eventually_true("the screen is as it was", || {
            let emulator = self.emulator.lock().unwrap();
            !emulator.screen().alternate_screen() && !emulator.screen().hide_cursor()
        });
        let now = tcgetattr(&self.theirs).unwrap();
        assert_eq!(format!("{now:?}"), format!("{:?}", self.before));
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Gives what the program writes to the emulator: each screen as a whole, like a terminal that knows mode 2026.
fn show(mut output: File, emulator: &Mutex<vt100::Parser>) {
    let (mut pending, mut bytes) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = output.read(&mut bytes) {
        pending.extend_from_slice(&bytes[..length]);
        let whole: Vec<u8> = pending.drain(..whole(&pending)).collect();
        emulator.lock().unwrap().process(&whole);
    }
}

/// Bytes before a screen that has begun and not ended.
fn whole(bytes: &[u8]) -> usize {
    const BEGIN: &[u8] = b"\x1b[?2026h";
    let begun = memmem::rfind(bytes, BEGIN).filter(|begin| memmem::find(&bytes[*begin..], b"\x1b[?2026l").is_none());
    let begins = (1..BEGIN.len()).rev().find(|length| bytes.ends_with(&BEGIN[..*length]));
    begun.unwrap_or_else(|| bytes.len() - begins.unwrap_or(0))
}

/// The output of a program that is on no terminal.
fn run(args: &[&str]) -> Output {
    Command::new(BINARY).arg("top").args(args).stdin(Stdio::null()).output().unwrap()
}

fn data(gateway: &Gateway) -> &str {
    gateway.data().to_str().unwrap()
}

/// That part of the screen which begins with this title.
fn part<'s>(screen: &'s str, title: &str) -> &'s str {
    let from = screen.find(title).unwrap_or_else(|| panic!("no {title}: {screen}"));
    let part = &screen[from..];
    part.find("\n\n").map_or(part, |end| &part[..end])
}

#[test]
fn the_screen_follows_what_runs_and_who_waits() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    stub.plan_next(held());
    let running = gateway.stream_chat(&chat_stream(3));
    let waiting = gateway.send_chat(&chat_stream(3));
    gateway.wait_depth(1);

    let mut terminal = Terminal::watching(&gateway);
    let screen =
        terminal.wait("one runs, one waits", |screen| screen.contains("RUNNING 1") && screen.contains("QUEUE 1"));
    assert!(part(&screen, "RUNNING 1").contains("acme") && part(&screen, "RUNNING 1").contains("decode"), "{screen}");
    assert!(part(&screen, "QUEUE 1").contains("acme"), "{screen}");
    assert!(
        screen.contains("slots 1/1 busy") && screen.contains("1 waiting") && screen.contains(" ready "),
        "{screen}"
    );
    assert!(part(&screen, "UPSTREAMS").contains(&stub.address().to_string()), "{screen}");

    terminal.press("p");
    terminal.wait_text("PAUSED");
    stub.release(0);
    running.events();
    waiting.answer().unwrap().events();
    terminal.resize(12, 40);
    let screen = terminal.wait("the smaller screen is used", |screen| {
        let mut lines = screen.lines().map(str::trim_end);
        lines.any(|line| line == "TENANT  PHASE   OUTPUT  TOK/S   AGE")
            && lines.next_back().is_some_and(|foot| foot.contains("below"))
    });
    assert!(screen.contains("RUNNING 1"), "a pause is one: {screen}");
    terminal.press("p");
    terminal.wait("it goes on", |screen| screen.contains("RUNNING 0") && screen.contains("slots 0/1 busy"));

    terminal.press("\x1b[6~\x1b[6~\x1b[6~");
    terminal.wait_text("UPSTREAMS");
    terminal.press("\x1b[H");
    terminal.wait_text("RUNNING 0");
    terminal.resize(30, 100);
    terminal.press("?");
    terminal.wait_text("time to the first token");
    terminal.press("h");
    terminal.wait_text("UPSTREAMS");
    terminal.press("q");
    assert!(terminal.wait_restored().success());
    assert_eq!(terminal.screen().trim(), "");
}

#[test]
fn however_it_is_ended_the_terminal_is_as_it_was() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    for end in ["\x1b", "\x03", "TERM", "HUP", "INT"] {
        let mut terminal = Terminal::watching(&gateway);
        terminal.wait_text("RUNNING 0");
        if end.len() > 1 {
            signal(terminal.child.id(), end);
        } else {
            terminal.press(end);
        }
        assert!(terminal.wait_restored().success(), "{end:?}");
    }
}

#[test]
fn a_lost_gateway_is_found_again_where_it_announces_itself_and_a_refusal_ends_it() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("own.key");
    std::fs::write(&key_file, ADMIN_KEY).unwrap();
    let announce = |proxy: &Proxy| {
        let address = proxy.url().trim_start_matches("http://").to_owned();
        let announced = json!({"listen": address, "admin_listen": address, "pid": 1, "admin_key_file": key_file});
        std::fs::write(dir.path().join("new"), announced.to_string()).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("serve.json")).unwrap();
    };
    let (first, second) = (Proxy::start(gateway.admin), Proxy::start(gateway.admin));
    announce(&first);
    let mut terminal = Terminal::start(&["--data-dir", dir.path().to_str().unwrap()]);
    terminal.wait_text("RUNNING 0");
    first.set(Mode::Refuse);
    first.cut();
    let screen = terminal.wait_text("Trying again: ");
    assert!(screen.contains("UPSTREAMS"), "what was known stays: {screen}");
    second.set(Mode::OneByte);
    announce(&second);
    terminal.wait("it is there again", |screen| !screen.contains("Trying again") && screen.contains("RUNNING 0"));

    std::fs::write(&key_file, "not-the-admin-key-of-the-tests").unwrap();
    second.cut();
    assert_eq!(terminal.wait_restored().code(), Some(1));
    terminal.wait_text("refuses the key");
}

#[test]
fn one_snapshot_is_printed_where_there_is_no_terminal_or_it_is_asked_for() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    stub.plan_next(held());
    let running = gateway.stream_chat(&chat_stream(3));
    for further in [&[][..], &["--once"]] {
        let output = run(&[&["--data-dir", data(&gateway)], further].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{text}");
        assert!(text.contains("RUNNING 1") && text.contains("acme") && text.contains("decode"), "{text}");
        assert!(text.contains(&running.head.request_id()), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
    }
    let mut terminal = Terminal::start(&["--once", "--data-dir", data(&gateway)]);
    assert!(terminal.wait_restored().success());
    let screen = terminal.wait_text("UPSTREAMS");
    assert!(screen.contains("RUNNING 1"), "{screen}");
    stub.release(0);
    running.events();
}

#[test]
fn whoever_has_the_url_and_the_key_needs_no_data_directory() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let url = format!("http://{}/", gateway.admin);
    let key_file = gateway.data().join("admin.key");
    let output = run(&["--admin", &url, "--key-file", key_file.to_str().unwrap()]);
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("RUNNING 0"));
}

/// What a run that must fail says, on a terminal and without one.
fn failure(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.trim_end().lines().last().unwrap().starts_with("hint: "), "{text}");
    assert!(!text.contains("horse"), "a key is never repeated: {text}");

    let mut terminal = Terminal::start(args);
    assert_eq!(terminal.wait_restored().code(), Some(1));
    terminal.wait_text("hint: ");
    text
}

#[test]
fn what_is_wrong_from_the_beginning_is_told_with_a_hint() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let (admin, public) = (format!("http://{}", gateway.admin), format!("http://{}", gateway.address));
    let good = gateway.data().join("admin.key");
    let dir = tempfile::tempdir().unwrap();
    let (empty, wrong, missing) = (dir.path().join("empty"), dir.path().join("wrong"), dir.path().join("missing"));
    std::fs::write(&empty, "\n").unwrap();
    std::fs::write(&wrong, "a-horse-that-is-not-the-key").unwrap();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let with = |url: &str, key_file: &Path| failure(&["--admin", url, "--key-file", key_file.to_str().unwrap()]);
    for (text, expected) in [
        (with(&admin, &wrong), "refuses the key"),
        (with(&public, &good), "refuses the key"),
        (with(&admin, &empty), "does not hold an admin key"),
        (with(&admin, &missing), "cannot be read"),
        (with(&format!("http://{unused}"), &good), "no gateway answers"),
        (with(&stub.url(), &good), "has no live view"),
        (with("127.0.0.1:9090", &good), "is not the URL"),
        (failure(&["--admin", &admin]), "the admin key is not known"),
        (failure(&["--data-dir", dir.path().to_str().unwrap()]), "the admin key is not known"),
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    std::fs::write(dir.path().join("serve.json"), "{").unwrap();
    let output = run(&["--data-dir", dir.path().to_str().unwrap()]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("serve.json cannot be read"));

    std::fs::write(&good, "too short").unwrap();
    let text = with(&admin, &wrong);
    assert!(text.contains("the admin API of") && text.contains("is off") && text.contains("16 graphic"), "{text}");
}
