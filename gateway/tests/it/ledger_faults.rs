//! What becomes of requests and of their entries when the ledger's file, its disk or the clock fails.

use std::fs::{OpenOptions, Permissions, metadata, remove_file, rename, set_permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use gateway::clock::Clock;
use gateway::config::{Overrides, load};
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::client::{Answer, open, post};
use crate::harness::disk::Disk;
use crate::harness::gateway::Gateway;
use crate::harness::stub::{Step, Stub, held};
use crate::harness::{chat, chat_stream, eventually, eventually_true};

const CHAT: &str = "/v1/chat/completions";
const FILE: &str = "ledger.sqlite";

fn config(on_failure: &str) -> String {
    format!("[ledger]\non_failure = \"{on_failure}\"\nprogress_interval = \"100ms\"\n")
}

/// Whether the events are those of a stream that came to its end.
fn is_whole(answer: Answer) -> bool {
    answer.events().last().is_some_and(|event| event == "data: [DONE]")
}

/// A gateway whose ledger fails while a stream runs.
struct Outage {
    stub: Stub,
    gateway: Gateway,
    running: Answer,
}

impl Outage {
    fn begin(on_failure: &str, fault: impl FnOnce(&Gateway)) -> Self {
        let stub = Stub::start(4);
        let gateway = Gateway::with_config(&stub.url(), &config(on_failure));
        assert_eq!(gateway.post(CHAT, &chat(3)).status, 200);
        stub.plan_next(held());
        let running = gateway.stream_chat(&chat_stream(9));
        stub.wait_held(1);
        fault(&gateway);
        Self { stub, gateway, running }
    }

    /// New requests are refused, what runs goes on, and when the fault is mended nothing is missing.
    fn new_requests_are_refused(self, mend: impl FnOnce(&Gateway)) {
        let Self { stub, gateway, running } = self;
        let refused = gateway.post(CHAT, &chat(3));
        assert_eq!((refused.status, refused.code().as_str()), (503, "ledger_unavailable"));
        assert_eq!(gateway.ready_status(), 503);
        assert_eq!(gateway.metric("llama_gateway_ledger_healthy"), 0.0);
        assert_eq!(stub.count(), 2, "llama-server was not asked");
        let id = running.head.request_id();
        stub.release(1);
        assert!(is_whole(running), "a client is not to suffer for it");
        assert_eq!(gateway.metric("llama_gateway_ledger_unsettled_entries"), 2.0);

        mend(&gateway);
        gateway.wait_ready();
        assert_eq!(gateway.settled_row(&id)["completion_tokens"], 2);
        let row = gateway.settled_row(&refused.head.request_id());
        assert_eq!(row["ending"], "ledger_unavailable");
        assert_eq!((&row["dispatched"], &row["upstream"]), (&Value::Null, &Value::Null), "llama-server was not asked");
        assert_eq!(gateway.metric("llama_gateway_ledger_unrecorded_requests_total"), 0.0);
        all_is_well(&gateway, 3);
    }

    /// New requests are served, and when the fault is mended nothing is missing.
    fn new_requests_are_served(self, mend: impl FnOnce(&Gateway)) {
        let Self { stub, gateway, running } = self;
        let served = gateway.post(CHAT, &chat(3));
        assert_eq!(served.status, 200);
        stub.plan_next(held());
        let second = gateway.stream_chat(&chat_stream(9));
        stub.wait_held(3);
        assert_eq!(gateway.ready_status(), 200);
        assert_eq!(gateway.metric("llama_gateway_ledger_healthy"), 0.0);
        assert_eq!(gateway.metric("llama_gateway_ledger_unrecorded_requests_total"), 2.0);

        mend(&gateway);
        eventually_true("the ledger is written", || gateway.metric("llama_gateway_ledger_healthy") == 1.0);
        assert_eq!(gateway.settled_row(&served.head.request_id())["completion_tokens"], 3);
        let (first_id, second_id) = (running.head.request_id(), second.head.request_id());
        assert_eq!(gateway.row(&second_id)["ending"], "open");
        stub.release(1);
        stub.release(3);
        assert!(is_whole(running) && is_whole(second));
        for id in [first_id, second_id] {
            assert_eq!(gateway.settled_row(&id)["completion_tokens"], 2);
        }
        all_is_well(&gateway, 4);
    }
}

/// The gateway works, and its ledger has so many rows and agrees with itself.
fn all_is_well(gateway: &Gateway, rows: usize) {
    assert_eq!(gateway.usage_rows().len(), rows);
    gateway.command(&["usage", "check"]);
    assert_eq!(gateway.post(CHAT, &chat(3)).status, 200);
}

/// Fills the disk, and the rest of the log, which is there as well.
fn fill(disk: &Disk, gateway: &Gateway) {
    disk.fill();
    let length = || metadata(gateway.data().join("gateway.log")).unwrap().len();
    eventually_true("the log cannot be written any more", || {
        let before = length();
        assert_eq!(post(gateway.address, CHAT, Some("nobody"), &chat(3)).status, 401);
        length() == before
    });
}

#[test]
fn on_a_full_disk_streams_run_on_new_requests_are_refused_and_freed_space_is_enough() {
    Disk::with(
        "ledger_faults::on_a_full_disk_streams_run_on_new_requests_are_refused_and_freed_space_is_enough",
        |disk| Outage::begin("refuse", |gateway| fill(disk, gateway)).new_requests_are_refused(|_| disk.free()),
    );
}

#[test]
fn on_a_full_disk_requests_go_on_if_that_is_configured() {
    Disk::with("ledger_faults::on_a_full_disk_requests_go_on_if_that_is_configured", |disk| {
        Outage::begin("serve", |gateway| fill(disk, gateway)).new_requests_are_served(|_| disk.free());
    });
}

/// Keeps everybody else from writing, for as long as it lives.
fn lock(gateway: &Gateway) -> Connection {
    let other = Connection::open(gateway.data().join(FILE)).unwrap();
    eventually_true("the file can be locked", || other.execute_batch("BEGIN EXCLUSIVE").is_ok());
    other
}

#[test]
fn while_another_process_locks_the_file_new_requests_are_refused() {
    let mut other = None;
    let outage = Outage::begin("refuse", |gateway| other = Some(lock(gateway)));
    outage.new_requests_are_refused(|_| drop(other));
}

#[test]
fn while_another_process_locks_the_file_requests_go_on_if_that_is_configured() {
    let mut other = None;
    let outage = Outage::begin("serve", |gateway| other = Some(lock(gateway)));
    outage.new_requests_are_served(|_| drop(other));
}

#[test]
fn a_file_that_was_moved_away_is_noticed_and_used_again_when_it_is_back() {
    let moved = |from: &'static str, to: &'static str| {
        move |gateway: &Gateway| rename(gateway.data().join(from), gateway.data().join(to)).unwrap()
    };
    let outage = Outage::begin("refuse", moved(FILE, "aside"));
    assert_eq!(outage.gateway.post(CHAT, &chat(3)).status, 503);
    assert!(outage.gateway.log().contains("was deleted or replaced while it was in use"));
    let Outage { stub, gateway, running } = outage;
    stub.release(1);
    assert!(is_whole(running));
    moved("aside", FILE)(&gateway);
    gateway.wait_ready();
    all_is_well(&gateway, 3);
}

#[test]
fn after_a_file_was_deleted_a_restart_begins_a_new_one() {
    let mut outage = Outage::begin("refuse", |gateway| remove_file(gateway.data().join(FILE)).unwrap());
    assert_eq!(outage.gateway.post(CHAT, &chat(3)).status, 503);
    outage.gateway.restart();
    all_is_well(&outage.gateway, 0);
}

/// Starts a gateway that is not to come up; gives what it says.
fn refused_start(data: &Path) -> String {
    said(serve(Command::new(env!("CARGO_BIN_EXE_llama-gateway")), data))
}

fn serve(mut command: Command, data: &Path) -> Output {
    let addresses = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    command.arg("serve").args(addresses).arg("--data-dir").arg(data).output().unwrap()
}

fn said(output: Output) -> String {
    assert!(!output.status.success(), "it should not have come up");
    String::from_utf8(output.stderr).unwrap()
}

/// A data directory with a few entries, which nobody uses.
fn used() -> Gateway {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    (0..3).for_each(|_| assert_eq!(gateway.post(CHAT, &chat(3)).status, 200));
    gateway.term();
    gateway.wait_exit();
    gateway
}

fn overwrite(file: &Path, at: u64) {
    OpenOptions::new().write(true).open(file).unwrap().write_all_at(&[0xa5; 4096], at).unwrap();
}

#[test]
fn a_file_with_a_garbage_header_is_refused_with_advice_that_works() {
    let mut gateway = used();
    let file = gateway.data().join(FILE);
    overwrite(&file, 0);
    let said = refused_start(gateway.data());
    assert!(
        said.contains("ledger.sqlite is damaged or not a database") && said.contains("hint: move it aside"),
        "{said}"
    );
    rename(&file, gateway.data().join("damaged")).unwrap();
    gateway.restart();
    all_is_well(&gateway, 0);
}

#[test]
fn a_damaged_page_is_found_at_the_start_and_by_a_check() {
    let gateway = used();
    let file = gateway.data().join(FILE);
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'entries'";
    let page: u32 = Connection::open(&file).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    overwrite(&file, u64::from(page - 1) * 4096);
    let mut check = Command::new(env!("CARGO_BIN_EXE_llama-gateway"));
    let check = check.args(["usage", "check", "--data-dir"]).arg(gateway.data()).output().unwrap();
    let printed = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(!check.status.success() && printed.contains("WRONG the file is sound"), "{printed}");
    let said = refused_start(gateway.data());
    assert!(said.contains("damaged") && said.contains("docs/accounting.md"), "{said}");
}

#[test]
fn a_directory_or_file_that_may_not_be_written_is_refused_with_a_hint() {
    let refused = |data: &Path| {
        // Root may write everything, unless it has given its privileges away.
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-all", "--inh-caps", "-all", env!("CARGO_BIN_EXE_llama-gateway")]);
        said(serve(command, data))
    };
    let gateway = used();
    let mode = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let file = gateway.data().join(FILE);
    mode(&file, 0o400);
    let told = refused(gateway.data());
    assert!(told.contains("ledger.sqlite") && told.contains("writable for the user"), "{told}");
    mode(&file, 0o600);
    let empty = gateway.data().join("empty");
    std::fs::create_dir(&empty).unwrap();
    mode(&empty, 0o500);
    let told = refused(&empty.join("data"));
    assert!(told.contains("empty/data") && told.contains("writable for the user"), "{told}");
    assert_eq!(metadata(&empty).unwrap().permissions().mode() & 0o777, 0o500, "left as it was");
}

#[test]
fn a_read_only_disk_is_refused_with_a_hint() {
    Disk::with("ledger_faults::a_read_only_disk_is_refused_with_a_hint", |disk| {
        let gateway = used();
        disk.make_read_only();
        let told = refused_start(gateway.data());
        assert!(told.contains("Read-only file system") && told.contains("writable for the user"), "{told}");
    });
}

/// A day's last second.
const EVENING: i64 = 1_772_409_599_000;
const DAY_MS: i64 = 86_400_000;

#[test]
fn a_clock_that_is_set_during_a_request_changes_neither_its_times_nor_its_day() {
    let (stub, data) = (Stub::start(1), tempfile::tempdir().unwrap());
    // A clock that stands still, but for what the test sets it by: all durations come from the other one.
    let set = Arc::new(AtomicI64::new(0));
    let ahead = set.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millisecond(EVENING + ahead.load(SeqCst)).unwrap());
    let flags = Overrides {
        upstream: vec![stub.url()],
        listen: Some("127.0.0.1:0".to_owned()),
        admin_listen: Some("127.0.0.1:0".to_owned()),
        data_dir: Some(data.path().to_owned()),
    };
    let config = load(None, std::iter::empty(), &flags).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.spawn(gateway::serve::serve(config, clock));
    let announced = eventually("it listens", || {
        assert!(!server.is_finished(), "it ended");
        serde_json::from_slice::<Value>(&std::fs::read(data.path().join("serve.json")).ok()?).ok()
    });
    let address = announced["listen"].as_str().unwrap().parse().unwrap();
    let keys = Command::new(env!("CARGO_BIN_EXE_llama-gateway"))
        .args(["keys", "create", "--tenant", "acme", "--data-dir"])
        .arg(data.path())
        .output()
        .unwrap();
    let key = String::from_utf8(keys.stdout).unwrap();
    eventually_true("it is ready", || post(address, CHAT, Some(key.trim()), &chat(3)).status == 200);

    let begin = stub.count();
    for (n, set_to) in [(0, 30 * DAY_MS), (1, -30 * DAY_MS), (2, 0)] {
        stub.plan_next(vec![Step::Head, Step::Tokens(1), Step::Gate, Step::Tokens(1), Step::Finish, Step::End]);
        let mut answer = open(address, CHAT, Some(key.trim()), &chat_stream(9));
        answer.next_text();
        stub.wait_held(begin + n);
        set.store(set_to, SeqCst);
        stub.release(begin + n);
        assert!(is_whole(answer));
    }
    let ledger = Connection::open(data.path().join(FILE)).unwrap();
    let sql = "SELECT arrived_ms, dispatched_ms, first_token_ms, ended_ms, prefill_slot_ms + decode_slot_ms
        FROM entries WHERE completion_tokens = 2 ORDER BY request_id";
    let mut rows = ledger.prepare(sql).unwrap();
    let rows = rows.query_map([], |row| <(i64, i64, i64, i64, i64)>::try_from(row)).unwrap();
    let rows = rows.map(Result::unwrap).collect::<Vec<_>>();
    let arrived = rows.iter().map(|row| row.0 - EVENING).collect::<Vec<_>>();
    assert_eq!(arrived, [0, 30 * DAY_MS, -30 * DAY_MS], "each by the clock of its arrival");
    let longest = SignedDuration::from_mins(1).as_millis() as i64;
    for (arrived, dispatched, first_token, ended, slots) in rows {
        assert!(arrived <= dispatched && dispatched <= first_token && first_token <= ended, "in order");
        assert!(ended - arrived < longest && (slots - (ended - dispatched)).abs() <= 2, "as long as it took");
    }
    let days = "SELECT json_group_array(day) FROM (SELECT day FROM daily ORDER BY day)";
    let days: String = ledger.query_row(days, [], |row| row.get(0)).unwrap();
    let day = EVENING / DAY_MS;
    assert_eq!(serde_json::from_str::<Value>(&days).unwrap(), json!([day - 30, day, day + 30]));
    assert!(gateway::ledger::check::check(data.path()).unwrap().iter().all(|one| one.wrong.is_empty()));
    runtime.shutdown_background();
}
