//! The official clients, as their users run them.

use std::process::Command;

use crate::harness::engine::{Engine, Options, shared, variable};
use crate::harness::gateway::Gateway;

/// Runs a client program against a server that can do everything, and one that cannot embed.
fn run(mut command: Command) {
    let engine = Engine::start(Options::tiny().slots(2).tools().args(&["--embeddings", "--pooling", "mean"]));
    let gateway = Gateway::start(&engine.url());
    let plain = Gateway::start(&shared().url());
    let output = command
        .env("BASE_URL", format!("http://{}", gateway.address))
        .env("API_KEY", &gateway.key)
        .env("PLAIN_BASE_URL", format!("http://{}", plain.address))
        .env("PLAIN_API_KEY", &plain.key)
        .output()
        .expect("the client cannot be started; hint: scripts/test installs it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    eprintln!("{text}");
}

fn python(script: &str) -> Command {
    let mut command = Command::new(variable("CLIENT_PYTHON"));
    command.arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR")));
    command
}

#[test]
fn the_openai_python_client_works() {
    run(python("openai_python.py"));
}

#[test]
fn the_anthropic_python_client_works() {
    run(python("anthropic_python.py"));
}

#[test]
fn the_openai_npm_client_works() {
    let mut command = Command::new("node");
    command.arg(format!("{}/tests/clients/openai_node.mjs", env!("CARGO_MANIFEST_DIR")));
    run(command);
}
