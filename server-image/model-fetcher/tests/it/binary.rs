//! The real binary: killed, told to end, behind a proxy, with a private authority; its exit codes and what it prints.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::process::{Child, Command};
use tokio_rustls::TlsAcceptor;

use crate::hub::{Act, Hub};
use crate::world::{SHARD_1, SHARD_2, World, file, repository};

const MIB: u64 = 1 << 20;

fn command(world: &World, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-fetcher"));
    command.args(args).env_clear().envs(&world.env).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(world: &World, args: &[&str]) -> (Option<i32>, String) {
    said(command(world, args).output().await.unwrap())
}

fn said(output: Output) -> (Option<i32>, String) {
    let words = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(words).unwrap())
}

/// A file of 12 MiB, a server that is silent after 9 MiB, and a fetcher that has written 4 MiB at least.
async fn midway() -> (World, Child, PathBuf) {
    let world = World::with(vec![file("Tiny-Q8_0.gguf", 12 << 20, 7)]).await;
    world.hub.act([Act::Stall(9 * MIB)]);
    let child = command(&world, &["fetch"]).spawn().unwrap();
    let sha256 = world.hub.state.lock().unwrap().files[0].sha256();
    let partial = world.home().join(format!("Tiny-Q8_0.gguf.{}.partial", &sha256[..16]));
    let written = async {
        while fs::metadata(&partial).map_or(0, |metadata| metadata.len()) < 4 * MIB {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.unwrap();
    (world, child, partial)
}

async fn goes_on(world: &World, partial: &PathBuf) {
    let there = fs::metadata(partial).unwrap().len();
    assert!(there >= 4 * MIB && world.record().is_none());
    let (code, words) = run(world, &["fetch"]).await;
    assert_eq!(code, Some(0), "{words}");
    world.assert_whole(&["Tiny-Q8_0.gguf"]);
    assert_eq!(world.hub.ranges(), [None, Some(format!("bytes={there}-"))]);
}

fn send(child: &Child, signal: &str) {
    let id = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_written() {
    let (world, mut child, partial) = midway().await;
    child.kill().await.unwrap();
    goes_on(&world, &partial).await;
}

#[tokio::test]
async fn a_signal_ends_it_and_keeps_what_is_there() {
    for (signal, name, code) in [("-TERM", "SIGTERM", 143), ("-INT", "SIGINT", 130)] {
        let (world, child, partial) = midway().await;
        send(&child, signal);
        // The connection would be given up after a minute only.
        let output = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await.unwrap().unwrap();
        let (ended, words) = said(output);
        assert_eq!(ended, Some(code), "{words}");
        assert!(words.contains(&format!("model-fetcher: {name}: ended; what is loaded is kept")), "{words}");
        goes_on(&world, &partial).await;
    }
}

#[tokio::test]
async fn prune_waits_for_nobody_and_the_lock_dies_with_its_holder() {
    let (world, mut child, _) = midway().await;
    let (code, words) = run(&world, &["prune"]).await;
    assert_eq!(code, Some(7), "{words}");
    assert!(words.contains("another model-fetcher works on"), "{words}");
    child.kill().await.unwrap();
    let (code, words) = run(&world, &["prune"]).await;
    assert_eq!(code, Some(0), "{words}");
}

#[tokio::test]
async fn its_commands_do_what_they_say_and_nothing_shows_the_token() {
    let mut world = World::new().await;
    world.token("hf_secret");
    let cdn = Hub::start(repository()).await;
    world.hub.state.lock().unwrap().cdn = Some(cdn.url());
    cdn.act([Act::Cut(10)]);
    world.set("QUANT_TYPE", "Q4_0");
    let (code, mut all) = run(&world, &["fetch"]).await;
    assert_eq!(code, Some(0), "{all}");
    world.set("QUANT_TYPE", "Q8_0");
    for (args, code) in [
        (&["check"][..], 6),
        (&["fetch"], 0),
        (&["fetch"], 0),
        (&["check"], 0),
        (&["list"], 0),
        (&["prune"], 0),
        (&["prune"], 0),
    ] {
        let (ended, words) = run(&world, args).await;
        assert_eq!(ended, Some(code), "{args:?}: {words}");
        all.push_str(&words);
    }
    for told in [
        "fetching owner/Tiny-GGUF Q8_0 at c0ffee",
        "2 files, 0.00 GB, of which 0.00 GB are there",
        "complete: 2 files, ",
        "complete already: owner/Tiny-GGUF Q8_0 at c0ffee",
        "* complete      0.00 GB  c0ffeec0ffee  owner/Tiny-GGUF Q8_0\n",
        "  complete      0.00 GB  c0ffeec0ffee  owner/Tiny-GGUF Q4_0\n",
        "deleting owner/Tiny-GGUF Q4_0: ",
        "nothing to delete",
        "end of file before message length reached; again in ",
    ] {
        assert!(all.contains(told), "no {told:?} in\n{all}");
    }
    assert!(!all.contains("secret"), "{all}");
    world.assert_whole(&[SHARD_1, SHARD_2]);
}

#[tokio::test]
async fn nonsense_in_the_environment_is_refused_at_once() {
    let mut world = World::new().await;
    world.set("MODEL_REPO", "");
    let (code, words) = run(&world, &["fetch"]).await;
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("model-fetcher: MODEL_REPO: is not set; hint: "), "{words}");
    // A list needs no model.
    assert_eq!(run(&world, &["list"]).await.0, Some(0));
    world.set("MODELS_DIR", "/nowhere/models");
    assert_eq!(run(&world, &["list"]).await.0, Some(2));
}

#[tokio::test]
async fn a_proxy_is_used_and_left_out_where_it_must() {
    let mut world = World::new().await;
    // Nobody but the proxy knows this name.
    world.set("HF_ENDPOINT", "http://hub.invalid");
    let proxy = world.hub.url();
    world.set("HTTP_PROXY", &proxy);
    let (code, words) = run(&world, &["fetch"]).await;
    assert_eq!(code, Some(0), "{words}");
    world.assert_whole(&[SHARD_1, SHARD_2]);
    assert!(world.hub.requests().iter().all(|request| request.target.starts_with("http://hub.invalid/")));

    let mut world = World::new().await;
    world.set("HTTP_PROXY", "http://127.0.0.1:1");
    world.set("NO_PROXY", "localhost,127.0.0.1");
    let (code, words) = run(&world, &["fetch"]).await;
    assert_eq!(code, Some(0), "{words}");
}

/// What a server with the name `hub.invalid` needs, and the PEM text of the authority that vouches for it.
fn tls_of_own_authority() -> (TlsAcceptor, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["hub.invalid".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate.into()], key).unwrap();
    (TlsAcceptor::from(Arc::new(config)), authority.pem())
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_its_file_is_given_also_through_a_proxy() {
    let (tls, authority) = tls_of_own_authority();
    let mut world = World::new().await;
    let plain_proxy = std::mem::replace(&mut world.hub, Hub::start_with(repository(), Some(tls)).await);
    plain_proxy.state.lock().unwrap().tunnel = Some(world.hub.address);
    world.set("HF_ENDPOINT", "https://hub.invalid");
    world.set("HTTPS_PROXY", &plain_proxy.url());
    world.set("FETCH_ATTEMPTS", "1");
    let (code, words) = run(&world, &["fetch"]).await;
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains("UnknownIssuer") && words.contains("CA_FILE"), "{words}");

    let file = world.dir.path().join("ca.pem");
    fs::write(&file, authority).unwrap();
    world.set("CA_FILE", file.to_str().unwrap());
    let (code, words) = run(&world, &["fetch"]).await;
    assert_eq!(code, Some(0), "{words}");
    world.assert_whole(&[SHARD_1, SHARD_2]);
    assert!(plain_proxy.requests().iter().all(|request| request.target == "hub.invalid:443"));
}

#[tokio::test]
async fn what_it_makes_can_be_written_by_the_group() {
    let world = World::new().await;
    let (code, words) = run(&world, &["fetch"]).await;
    assert_eq!(code, Some(0), "{words}");
    let models = world.parameters().models_dir;
    let made = [models.join(".model-fetcher.lock"), world.home(), world.home().parent().unwrap().to_owned()];
    for path in made.into_iter().chain(world.names().iter().map(|name| world.home().join(name))) {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o062, 0o060, "{} has {mode:o}", path.display());
    }
}

#[tokio::test]
async fn the_password_of_a_proxy_is_not_shown() {
    let mut world = World::new().await;
    world.set("FETCH_ATTEMPTS", "1");
    world.set("HTTP_PROXY", "http://user:secret@127.0.0.1:1");
    let (code, words) = run(&world, &["fetch"]).await;
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains("Connection refused") && !words.contains("secret"), "{words}");
}
