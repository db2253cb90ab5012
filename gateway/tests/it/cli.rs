//! The command line, as far as it is not shown by the other tests.

use std::process::{Command, Output};

use crate::harness::chat;
use crate::harness::gateway::Gateway;
use crate::harness::stub::Stub;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llama-gateway")).args(args).output().unwrap()
}

fn check(toml: &str) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), toml).unwrap();
    let output = run(&["check-config", file.path().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn check_config_says_what_is_wrong_and_where() {
    assert!(check("[server]\nlisten = \"0.0.0.0:80\"").0);
    assert!(check("").0);
    let (good, text) = check("[queue]\nordr = \"fair\"");
    assert!(!good && text.contains("queue.ordr") && text.contains("queue.order"), "{text}");
    for (toml, named) in [
        ("[timeouts]\nsilence = 5", "silence"),
        ("[timeouts]\nsilence = \"soon\"", "soon"),
        ("[server]\nlisten = \"nowhere\"", "listen"),
        ("[server\n", "1"),
        ("[upstream]\nurls = [\"ftp://x\"]", "ftp"),
        ("[log]\nlevel = \"gateway=loud\"", "log.level"),
        ("[server]\nlisten = \"127.0.0.1:9090\"", "admin_listen"),
        ("[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"x\"]", "`x` is not a network"),
        ("[policies.gold]\nslot = 1", "policies.gold.slots"),
        ("[policies.gold]\nclass = \"interactiv\"", "did you mean `interactive`?"),
        ("[tenants.acme]\npolicy = \"gold\"", ":2: `tenants.acme.policy`: there is no policy `gold`"),
        ("[queue]\nstrict_classes = [\"ops\"]", "there is no class `ops`"),
        ("[issuers.idp]\naudiense = [\"llm\"]", "did you mean `issuers.idp.audience`?"),
    ] {
        let (good, text) = check(toml);
        assert!(!good && text.contains(named), "{toml}: {text}");
    }
}

#[test]
fn the_default_configuration_is_a_good_one() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config.default.toml");
    let output = run(&["check-config", file]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_cannot_be_done_ends_with_a_message_and_a_status() {
    let missing = ["usage", "--data-dir", "/nonexistent/dir"];
    for args in [&missing[..], &["serve", "--config", "/nonexistent.toml"], &["keys", "create"], &["nonsense"]] {
        let output = run(args);
        assert!(!output.status.success(), "{args:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!error.is_empty() && !error.contains("panicked"), "{args:?}: {error}");
    }
}

#[test]
fn tokens_are_revoked_of_issuers_that_are_configured() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("gateway.toml");
    let issuer = "issuer = \"https://idp\"\naudience = [\"a\"]\njwks_url = \"https://idp/keys\"\ntenant = \"acme\"\n";
    std::fs::write(&config, format!("[issuers.idp]\n{issuer}")).unwrap();
    let (config, data) = (config.to_str().unwrap(), dir.path().join("data"));
    let revoke = |subject: &str, further: &[&str]| {
        let args = ["tokens", "revoke", subject, "--data-dir", data.to_str().unwrap()];
        let output = run(&[&args, further].concat());
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert!(revoke("idp/ann", &["--config", config]).0);
    for (subject, further, expected) in [
        ("ipd/ann", &["--config", config][..], "there is no issuer `ipd`\nhint: did you mean `idp`?"),
        ("idp/ann", &[], "there is no issuer\nhint: name the file in which they are with --config"),
        ("ann", &["--config", config], "not of the form ISSUER/SUBJECT"),
        ("idp/", &["--config", config], "not of the form ISSUER/SUBJECT"),
    ] {
        let (done, text) = revoke(subject, further);
        assert!(!done && text.contains(expected), "{text}");
    }
}

#[test]
fn usage_of_nothing_is_nothing() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    assert_eq!(gateway.usage_rows().len(), 0);
    assert_eq!(gateway.command(&["usage", "--json"]).trim(), "[]");
    assert!(gateway.command(&["keys", "list"]).contains("acme"));
}

#[test]
fn a_key_gets_a_policy_only_if_the_configuration_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("gateway.toml");
    std::fs::write(&config, "[policies.gold]\nslots = 1\n").unwrap();
    let data = dir.path().join("data");
    let create = |policy: &str, further: &[&str]| {
        let data = data.to_str().unwrap();
        let args = ["keys", "create", "--tenant", "acme", "--policy", policy, "--data-dir", data];
        run(&[&args, further].concat())
    };
    let with_config = ["--config", config.to_str().unwrap()];
    assert!(create("gold", &with_config).status.success());
    assert!(create("default", &[]).status.success());
    for (policy, further) in [("gould", &with_config[..]), ("gold", &[])] {
        let output = create(policy, further);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(&format!("there is no policy `{policy}`")), "{error}");
        assert!(error.contains("hint: did you mean"), "{error}");
    }
    let listed = run(&["keys", "list", "--data-dir", data.to_str().unwrap()]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().nth(1).unwrap().contains("acme    gold     valid"), "{listed}");
    assert_eq!(listed.lines().count(), 3, "{listed}");
}

#[test]
fn a_correction_is_added_beside_a_running_gateway_and_the_ledger_still_agrees_with_itself() {
    let stub = Stub::start(1);
    let gateway = Gateway::start(&stub.url());
    let reply = gateway.post("/v1/chat/completions", &chat(3));
    let id = reply.head.request_id();
    gateway.settled_row(&id);
    let printed = gateway.command(&["usage", "correct", &id, "--reason", "asked twice", "--completion", "1"]);
    assert!(printed.contains("revision 1") && printed.contains("now:    prompt 7, of these cached 2, completion 1"));
    let printed = gateway.command(&["usage", "correct", &id, "--reason", "a gift", "--void"]);
    assert!(printed.contains("revision 2") && printed.contains("completion 0, slot time 0 ms"), "{printed}");
    let checked = gateway.command(&["usage", "check"]);
    assert!(checked.lines().count() > 5 && checked.lines().all(|line| line.starts_with("ok ")), "{checked}");

    let data = gateway.data().to_str().unwrap();
    for (args, told) in [
        (&[&*id, "--reason", "again", "--void"][..], "says already"),
        (&["req_unknown", "--reason", "x", "--void"], "has no entry `req_unknown`"),
        (&[&*id, "--void"], "--reason"),
        (&[&*id, "--reason", "x", "--prompt", "-5"], "-5"),
    ] {
        let output = run(&[&["usage", "correct", "--data-dir", data], args].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(told), "{args:?}: {error}");
    }
    assert_eq!(gateway.post("/v1/chat/completions", &chat(3)).status, 200);
}
