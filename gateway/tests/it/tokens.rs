//! Tokens of an issuer: a real one that rotates its keys, fails, hangs and lies, before a real gateway.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::client::{Reply, get_as, post};
use crate::harness::engine::shared;
use crate::harness::gateway::Gateway;
use crate::harness::issuer::{Answers, IssuerServer, claims, pause_between_fetches, seconds};
use crate::harness::signer::{Signer, hmac_token, public_secrets, unsigned_token};
use crate::harness::stub::Stub;
use crate::harness::{chat, chat_stream, eventually, eventually_true, with};

const PATH: &str = "/v1/chat/completions";
const ACME: &str = "tenant = \"acme\"\nrefresh_interval = \"1h\"";

fn ask(gateway: &Gateway, token: &str) -> Reply {
    post(gateway.address, PATH, Some(token), &chat(2))
}

fn status(gateway: &Gateway, token: &str) -> u16 {
    ask(gateway, token).status
}

/// A gateway before a stub that trusts the issuer.
fn gateway_of(issuer: &IssuerServer, lines: &str) -> (Stub, Gateway) {
    let stub = Stub::start(4);
    let gateway = Gateway::with_config(&stub.url(), &issuer.config(lines));
    (stub, gateway)
}

fn fetched(gateway: &Gateway, outcome: &str) -> f64 {
    let series = format!("llama_gateway_token_key_fetches_total{{issuer=\"idp\",outcome=\"{outcome}\"}}");
    gateway.metrics().get(&series).copied().unwrap_or_default()
}

#[test]
fn what_a_kubernetes_pod_asks_is_accounted_to_its_namespace() {
    let key = Signer::rsa("k8s");
    let issuer = IssuerServer::start_tls(&[&key]);
    let (ca, own_token) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    std::fs::write(ca.path(), &issuer.authority).unwrap();
    std::fs::write(own_token.path(), "first\n").unwrap();
    let lines = format!(
        "tenant_claim = \"/kubernetes.io/namespace\"\nca_file = {:?}\nbearer_token_file = {:?}\nrefresh_interval = \"2s\"",
        ca.path(),
        own_token.path()
    );
    let gateway = Gateway::with_config(&shared().url(), &issuer.config(&lines));
    let token = key.token(
        "RS256",
        &claims(json!({
            "aud": ["llm"],
            "sub": "system:serviceaccount:team-a:bot",
            "kubernetes.io": {"namespace": "team-a", "serviceaccount": {"name": "bot", "uid": "77aa"}},
        })),
    );
    let reply = ask(&gateway, &token);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let row = gateway.settled_row(&reply.head.request_id());
    assert_eq!((&row["tenant"], &row["key_id"]), (&json!("team-a"), &json!("idp/system:serviceaccount:team-a:bot")));
    assert!(row["completion_tokens"].as_u64().unwrap() > 0);
    let stream = post(gateway.address, PATH, Some(&token), &chat_stream(4));
    assert_eq!(gateway.settled_row(&stream.head.request_id())["tenant"], "team-a");
    assert_eq!(get_as(gateway.address, "/v1/models", Some(&token)).unwrap().status, 200);

    // The file with the gateway's own token is replaced while it runs, as Kubernetes does.
    assert!(issuer.heads()[0].contains("authorization: Bearer first\r\n"));
    std::fs::write(own_token.path(), "second").unwrap();
    eventually_true("the new token is shown", || issuer.heads().iter().any(|head| head.contains("Bearer second\r\n")));
    let log = gateway.log();
    assert!(!log.contains(&token) && !log.contains("Bearer") && !log.contains("second"), "a token in the log");
}

#[test]
fn a_keycloak_token_is_accounted_to_the_tenant_of_its_group() {
    let key = Signer::p256("kc");
    let issuer = IssuerServer::start(&[&key]);
    let lines = "tenant_claim = \"groups\"\ntenants = { \"/research\" = \"research\" }\nmodels = []\n\
                 required_claims = { azp = [\"chat-ui\"], \"/realm_access/roles\" = [\"llm-user\"] }";
    let gateway = Gateway::with_config(&shared().url(), &issuer.config(lines));
    let of = |further: Value| {
        let keycloak = json!({"typ": "Bearer", "azp": "chat-ui", "sub": "f3b0 11", "aud": ["llm", "account"],
                              "realm_access": {"roles": ["llm-user"]}, "groups": ["/staff", "/research"]});
        key.token("ES256", &claims(with(keycloak, further)))
    };
    let reply = ask(&gateway, &of(json!({})));
    let row = gateway.settled_row(&reply.head.request_id());
    assert_eq!(row["tenant"], "research");
    let key_id = row["key_id"].as_str().unwrap();
    assert!(key_id.starts_with("idp/sha256:") && key_id.len() == "idp/sha256:".len() + 32, "{key_id}");
    for further in [json!({"groups": ["/staff"]}), json!({"azp": "other"}), json!({"realm_access": {"roles": []}})] {
        let reply = ask(&gateway, &of(further));
        assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_api_key"));
        assert_eq!(reply.json()["error"]["message"], "The token gives no access here.");
    }
    let log = gateway.log();
    assert!(log.contains("claim `groups` names no tenant") && log.contains("claim `azp` has none"), "{log}");
}

#[test]
fn a_refused_token_is_answered_in_the_shape_of_the_surface_and_is_shown_nowhere() {
    let key = Signer::rsa("1");
    let issuer = IssuerServer::start(&[&key]);
    let (stub, gateway) = gateway_of(&issuer, ACME);
    let now = seconds();
    let stranger = Signer::p256("1");
    let none = json!({"alg": "none", "kid": "1"});
    let hmac = json!({"alg": "HS256", "kid": "1"});
    let mut bad = vec![
        (key.token("RS256", &claims(json!({"exp": now - 31}))), "The token has expired."),
        (key.token("RS256", &claims(json!({"nbf": now + 300}))), "The token is not valid yet."),
        (key.token("RS256", &claims(json!({"aud": "other"}))), "The token is for another audience."),
        (key.token("RS256", &claims(json!({"iss": "https://evil"}))), "The token's issuer is not trusted here."),
        (key.token("RS256", &claims(json!({"exp": null}))), "The token does not say when it expires."),
        (key.token("PS256", &claims(json!({}))), "The token's signature is not valid."),
        (stranger.token("ES256", &claims(json!({}))), "The token's signature is not valid."),
        (unsigned_token(&none, &claims(json!({}))), "The token cannot be read."),
        ("planted.marker.token".to_owned(), "The token cannot be read."),
    ];
    let forged = |secret: Vec<u8>| hmac_token(&hmac, &claims(json!({})), &secret);
    bad.extend(public_secrets(&key).into_iter().map(|secret| (forged(secret), "The token's signature is not valid.")));
    for (token, message) in &bad {
        let reply = ask(&gateway, token);
        assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_api_key"), "{message}");
        assert_eq!(reply.json()["error"]["message"], *message);
        assert_eq!(reply.head.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
        assert_eq!(reply.head.header("x-should-retry"), Some("false"));
        assert!(!reply.text().contains(token));
        let reply = post(gateway.address, "/v1/messages", Some(token), &chat(2));
        assert_eq!((reply.status, &reply.json()["error"]["type"]), (401, &json!("authentication_error")));
    }
    assert_eq!(stub.count(), 0);
    assert_eq!(gateway.usage_rows().len(), 0);
    let (log, metrics) = (gateway.log(), gateway.metrics());
    assert!(bad.iter().all(|(token, _)| !log.contains(token)), "a token in the log");
    assert_eq!(metrics["llama_gateway_tokens_refused_total{issuer=\"idp\",reason=\"expired\"}"], 2.0);
    assert_eq!(metrics["llama_gateway_tokens_refused_total{issuer=\"\",reason=\"unknown_issuer\"}"], 2.0);
    // API keys go on beside tokens, and are told apart.
    assert_eq!(gateway.post(PATH, &chat(2)).status, 200);
    assert_eq!(ask(&gateway, "sk-lgw-wrong").json()["error"]["message"], "Incorrect API key.");
}

#[test]
fn a_key_that_is_rotated_in_is_fetched_when_the_first_token_names_it() {
    let (old, new) = (Signer::p384("old"), Signer::ed25519("new"));
    let issuer = IssuerServer::start(&[&old]);
    let (_stub, gateway) = gateway_of(&issuer, &format!("{ACME}\nalgorithms = [\"ES384\", \"EdDSA\"]"));
    let (of_old, of_new) = (old.token("ES384", &claims(json!({}))), new.token("EdDSA", &claims(json!({}))));
    assert_eq!(status(&gateway, &of_old), 200);
    issuer.publish(&[&old, &new]);
    pause_between_fetches();
    assert_eq!(issuer.fetches(), 1);
    assert_eq!((status(&gateway, &of_new), status(&gateway, &of_old)), (200, 200));
    assert_eq!(issuer.fetches(), 2);
}

#[test]
fn a_token_dies_with_its_key() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let issuer = IssuerServer::start(&[&old, &new]);
    let (_stub, gateway) = gateway_of(&issuer, "tenant = \"acme\"\nrefresh_interval = \"2s\"");
    let (of_old, of_new) = (old.token("ES256", &claims(json!({}))), new.token("ES256", &claims(json!({}))));
    assert_eq!((status(&gateway, &of_old), status(&gateway, &of_new)), (200, 200));
    issuer.publish(&[&new]);
    eventually_true("what the old key signed is refused", || status(&gateway, &of_old) == 401);
    assert_eq!(status(&gateway, &of_new), 200);
    let message = ask(&gateway, &of_old).json()["error"]["message"].clone();
    assert_eq!(message, "The token is signed with a key that its issuer does not publish.");
}

#[test]
fn an_outage_of_the_issuer_is_survived_on_the_keys_that_are_known() {
    let (key, unknown) = (Signer::p256("1"), Signer::p256("2"));
    let issuer = IssuerServer::start(&[&key]);
    let (_stub, gateway) = gateway_of(&issuer, "tenant = \"acme\"\nrefresh_interval = \"2s\"");
    let known = key.token("ES256", &claims(json!({})));
    assert_eq!(status(&gateway, &known), 200);
    let long = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(300 << 10));
    for (answers, outcome) in [
        (Answers::Refuse, "unreachable"),
        (Answers::Status(302, "Location: /elsewhere\r\n"), "status"),
        (Answers::Text("{\"keys\": []}".to_owned()), "malformed"),
        (Answers::Text(long), "too_long"),
    ] {
        let before = fetched(&gateway, outcome);
        issuer.set(answers);
        eventually_true("the fetch fails", || fetched(&gateway, outcome) > before);
        // A token that was seen before, one that was not, and one of a key that cannot be fetched.
        assert_eq!(status(&gateway, &known), 200, "{outcome}");
        let fresh = key.token("ES256", &claims(json!({"sub": format!("{outcome}-{before}")})));
        assert_eq!(status(&gateway, &fresh), 200, "{outcome}");
        let reply = ask(&gateway, &unknown.token("ES256", &claims(json!({}))));
        assert_eq!((reply.status, reply.code().as_str()), (503, "issuer_unavailable"), "{outcome}");
        assert!(reply.head.header("retry-after").is_some());
        // The next failure is not to wait for the end of a long pause.
        issuer.publish(&[&key]);
        let well = fetched(&gateway, "ok");
        eventually_true("the issuer is back", || {
            status(&gateway, &unknown.token("ES256", &claims(json!({}))));
            fetched(&gateway, "ok") > well
        });
    }
    // Each outage is told once, with its cause, and so is its end.
    let log = gateway.log();
    assert!(log.contains("status 302") && log.contains("it has no key") && log.contains("connection"), "{log}");
    assert_eq!(log.matches("keys of the issuer cannot be fetched").count(), 4, "{log}");
    assert_eq!(log.matches("keys of the issuer fetched").count(), 5, "{log}");
    let age =
        seconds() as f64 - gateway.metrics()["llama_gateway_token_keys_fetched_timestamp_seconds{issuer=\"idp\"}"];
    assert!((-1.0..60.0).contains(&age), "{age}");
}

#[test]
fn a_gateway_starts_without_its_issuer_and_takes_tokens_once_it_is_there() {
    let key = Signer::p256("1");
    let issuer = IssuerServer::start(&[&key]);
    issuer.set(Answers::Refuse);
    let (_stub, gateway) = gateway_of(&issuer, ACME);
    let token = key.token("ES256", &claims(json!({})));
    let reply = ask(&gateway, &token);
    assert_eq!((reply.status, reply.code().as_str()), (503, "issuer_unavailable"));
    assert_eq!(reply.json()["error"]["message"], "The token cannot be checked at the moment.");
    assert!(reply.head.header("retry-after").is_some());
    assert_eq!(gateway.post(PATH, &chat(2)).status, 200, "API keys do not need the issuer");
    issuer.publish(&[&key]);
    eventually_true("the keys are there", || status(&gateway, &token) == 200);
}

#[test]
fn a_flood_of_unknown_keys_does_not_become_a_flood_of_fetches() {
    let key = Signer::p256("1");
    let issuer = IssuerServer::start(&[&key]);
    let (_stub, gateway) = gateway_of(&issuer, ACME);
    let valid = key.token("ES256", &claims(json!({})));
    assert_eq!(status(&gateway, &valid), 200);
    let (before, start) = (issuer.fetches(), Instant::now());
    let statuses = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let gateway = &gateway;
                scope.spawn(move || {
                    let mut statuses = Vec::new();
                    while start.elapsed() < Duration::from_secs(5) {
                        let stranger = Signer::p256(&format!("{client}-{}", statuses.len()));
                        statuses.push(status(gateway, &stranger.token("ES256", &claims(json!({})))));
                    }
                    statuses
                })
            })
            .collect();
        assert_eq!(status(&gateway, &valid), 200);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(statuses.len() > 100 && statuses.iter().all(|status| *status == 401), "{statuses:?}");
    let (fetches, most) = (issuer.fetches() - before, start.elapsed().as_secs() / 2 + 1);
    assert!((1..=most as usize).contains(&fetches), "{fetches} fetches for {} tokens", statuses.len());
}

#[test]
fn an_issuer_that_hangs_holds_up_nobody_whose_key_is_known() {
    let (key, unknown) = (Signer::p256("1"), Signer::p256("2"));
    let issuer = IssuerServer::start(&[&key]);
    let (_stub, gateway) = gateway_of(&issuer, ACME);
    let valid = key.token("ES256", &claims(json!({})));
    assert_eq!(status(&gateway, &valid), 200);
    pause_between_fetches();
    issuer.set(Answers::Hang);
    let (before, start) = (issuer.fetches(), Instant::now());
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (status(&gateway, &unknown.token("ES256", &claims(json!({})))), start.elapsed())))
            .collect();
        eventually_true("the issuer is asked", || issuer.fetches() > before);
        assert_eq!(status(&gateway, &valid), 200);
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()), "nobody has waited yet");
        for waiter in waiters {
            let (status, took) = waiter.join().unwrap();
            assert_eq!(status, 503);
            assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");
        }
        assert_eq!(issuer.fetches(), before + 1, "they share one fetch");
    });
    eventually_true("the fetch is given up", || fetched(&gateway, "timeout") == 1.0);
    issuer.publish(&[&key, &unknown]);
    eventually_true("the issuer is back", || status(&gateway, &unknown.token("ES256", &claims(json!({})))) == 200);
}

#[test]
fn tokens_that_another_process_revokes_are_refused_from_the_next_request_on() {
    let key = Signer::p256("1");
    let issuer = IssuerServer::start(&[&key]);
    let lines = format!("{ACME}\nclock_skew = \"1s\"");
    let (_stub, mut gateway) = gateway_of(&issuer, &lines);
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), issuer.config(&lines)).unwrap();
    let config = config.path().to_str().unwrap().to_owned();
    let token = |subject: &str, issued: i64| key.token("ES256", &claims(json!({"sub": subject, "iat": issued})));
    let (ann, odd) = (token("ann", seconds() - 10), token("a b", seconds() - 10));
    assert_eq!((status(&gateway, &ann), status(&gateway, &odd)), (200, 200));
    let printed = gateway.command(&["tokens", "revoke", "idp/ann", "--config", &config]);
    assert!(printed.contains("idp/ann") && printed.contains("revoked"), "{printed}");
    let reply = ask(&gateway, &ann);
    assert_eq!((reply.status, &reply.json()["error"]["message"]), (401, &json!("The token has been revoked.")));
    // Another subject's, and one that is issued later, by more than the clocks may differ.
    assert_eq!(status(&gateway, &odd), 200);
    eventually_true("a later token is let in", || status(&gateway, &token("ann", seconds())) == 200);
    // By the id that the ledger shows, too.
    let rows = gateway.usage_rows();
    let id = rows.iter().find_map(|row| row["key_id"].as_str().filter(|id| id.starts_with("idp/sha256:")));
    gateway.command(&["tokens", "revoke", id.unwrap(), "--config", &config]);
    assert_eq!(status(&gateway, &odd), 401);
    gateway.restart();
    eventually("the keys are there", || (status(&gateway, &ann) == 401).then_some(()));
    assert_eq!(ask(&gateway, &ann).json()["error"]["message"], "The token has been revoked.");
}

#[test]
fn the_policy_of_an_issuer_limits_each_of_its_callers() {
    let key = Signer::p256("1");
    let issuer = IssuerServer::start(&[&key]);
    let lines = format!("{ACME}\npolicy = \"one\"\n[policies.one]\nrequests_per_minute = 1\n");
    let (_stub, gateway) = gateway_of(&issuer, &lines);
    let token = |subject: &str| key.token("ES256", &claims(json!({"sub": subject})));
    assert_eq!((status(&gateway, &token("ann")), status(&gateway, &token("ann"))), (200, 429));
    assert_eq!(status(&gateway, &token("bob")), 200);
}

#[test]
fn a_token_is_for_the_surfaces_that_its_claim_names() {
    let key = Signer::p256("1");
    let issuer = IssuerServer::start(&[&key]);
    let (_stub, gateway) = gateway_of(&issuer, &format!("{ACME}\nsurfaces_claim = \"scope\""));
    let of = |scope: &str| ask(&gateway, &key.token("ES256", &claims(json!({"scope": scope}))));
    assert_eq!(of("openid chat").status, 200);
    let refused = of("openid embeddings");
    assert_eq!((refused.status, refused.code().as_str()), (403, "endpoint_not_allowed"));
    // A claim that names none does not mean all.
    assert_eq!(of("openid").status, 401);
}
