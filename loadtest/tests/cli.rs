//! The binary as it is called: what it says, and its exit codes, where no server is needed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::process::{Command, Output};

use tokio::net::TcpSocket;

fn loadtest(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest")).args(args).output().unwrap()
}

/// Asserts the exit code and gives all that was printed.
fn exited(args: &[&str], code: i32) -> String {
    let output = loadtest(args);
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8(words).unwrap();
    assert_eq!(output.status.code(), Some(code), "{words}");
    words
}

#[test]
fn the_shipped_workloads_are_listed_with_their_questions_and_printed() {
    let list = exited(&["workloads"], 0);
    for name in ["smoke", "chat", "rag-long-prompts", "agents-multi-turn", "flood-and-trickle", "overload", "soak"] {
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(name));
        assert!(line.is_some_and(|line| line.ends_with('?')), "{name} in {list}");
    }
    assert!(exited(&["workloads", "chat"], 0).contains("[tenants."));
    assert!(exited(&["workloads", "caht"], 2).contains("hint:"));
}

#[test]
fn nobody_at_the_address_is_told_and_leaves_no_results() {
    // It has the port, so that nobody else can, and does not listen.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let target = format!("http://{}", socket.local_addr().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let said = exited(&["run", "smoke", "--no-key", "--target", &target, "--out", out.to_str().unwrap()], 2);
    assert!(said.contains("cannot be reached") && said.contains("hint:"), "{said}");
    assert!(!out.exists());
}

#[test]
fn results_that_are_there_are_left_alone_and_what_cannot_be_written_is_told_before_it_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.json");
    std::fs::write(&file, "hours of work").unwrap();
    let gateway = env!("CARGO_BIN_EXE_loadtest");
    let beside = |out: &std::path::Path| {
        let said = ["beside", "--users", "1", "--gateway", gateway, "--out", out.to_str().unwrap()];
        exited(&said, 2)
    };
    let said = beside(directory.path());
    assert!(said.contains("is not empty") && said.contains("hint:"), "{said}");
    assert!(beside(&file).contains("cannot make the directory of the results"));
    let new = directory.path().join("new");
    let said = beside(&new);
    assert!(!said.contains("directory of the results") && !new.exists(), "nothing came of it, nothing is left: {said}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "hours of work");
}

#[test]
fn a_bad_workload_is_told_with_the_nearest_known_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.toml");
    std::fs::write(&file, "[tenants.chat]\nprompt_token = 5\n").unwrap();
    let said = exited(&["run", file.to_str().unwrap(), "--no-key"], 2);
    assert!(said.contains("tenants.chat.prompt_token") && said.contains("did you mean `prompt_tokens`"), "{said}");
}

#[test]
fn what_is_no_report_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.json");
    std::fs::write(&file, r#"{"format": 1, "harness": "0.1.0"}"#).unwrap();
    let file = file.to_str().unwrap();
    for args in [vec!["show", file], vec!["compare", file, file]] {
        let said = exited(&args, 2);
        assert!(said.contains("is no report of this program"), "{said}");
    }
}
