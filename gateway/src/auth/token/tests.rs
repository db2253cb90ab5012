//! Tokens from a file of keys, in paused time: what an issuer over the network adds is in `tests/it/tokens.rs`.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::config::{Overrides, load};
use crate::error::Reason;
use crate::metrics::Metrics;
use signer::{Signer, hmac_token, key_set, public_secrets, unsigned_token};

#[path = "../../../tests/it/harness/signer.rs"]
mod signer;

const NOW: i64 = 1_767_225_600;
const EVERY: &str = "algorithms = [\"RS256\", \"RS384\", \"RS512\", \"PS256\", \"PS384\", \"PS512\", \"ES256\", \"ES384\", \"EdDSA\"]\n";
/// Longer than the pause between two looks at the file.
const A_LOOK: Duration = Duration::from_secs(6);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn claims() -> Value {
    json!({"iss": "https://idp", "aud": "llm", "sub": "ann", "iat": NOW, "exp": NOW + 300})
}

/// Tokens of one issuer, `idp`, whose keys are in a file.
struct World {
    directory: TempDir,
    tokens: Tokens,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl World {
    fn new(keys: &str) -> Self {
        Self::with(keys, EVERY)
    }

    fn with(keys: &str, lines: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("keys.json"), keys).unwrap();
        let (tokens, metrics) = Self::open(&directory, lines).unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tokens.start(&Clock::from_fn(|| at(0)), &tasks, &stop);
        Self { directory, tokens, metrics, stop, tasks }
    }

    fn open(directory: &TempDir, lines: &str) -> anyhow::Result<(Tokens, Arc<Metrics>)> {
        let keys = directory.path().join("keys.json");
        let text = format!(
            "[issuers.idp]\nissuer = \"https://idp\"\naudience = [\"llm\"]\njwks_file = {keys:?}\ntenant = \"acme\"\n{lines}"
        );
        let file = directory.path().join("gateway.toml");
        std::fs::write(&file, text).unwrap();
        let config = load(Some(&file), std::iter::empty(), &Overrides::default()).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        Ok((Tokens::open(&config.issuers, directory.path(), metrics.clone())?, metrics))
    }

    fn keys(&self) -> PathBuf {
        self.directory.path().join("keys.json")
    }

    /// Replaces the keys and waits until the file was looked at.
    async fn publish(&self, keys: &str) {
        std::fs::write(self.keys(), keys).unwrap();
        sleep(A_LOOK).await;
    }

    async fn ask(&self, token: &str, now: i64) -> Result<Arc<Caller>, Rejection> {
        self.tokens.authenticate(token.as_bytes(), at(now)).await
    }

    async fn refusal(&self, token: &str) -> Rejection {
        self.ask(token, 10).await.unwrap_err()
    }

    /// What the metrics call the reason for which a token is refused.
    async fn reason(&self, token: &str) -> String {
        let before = self.refused();
        self.refusal(token).await;
        let after = self.refused();
        let mut changed = after.iter().filter(|series| !before.contains(series));
        let (reason, _) = changed.next().unwrap();
        assert!(changed.next().is_none());
        reason.clone()
    }

    fn refused(&self) -> Vec<(String, u64)> {
        use prometheus::core::Collector;
        let families = self.metrics.tokens_refused_total.collect();
        let series = families.iter().flat_map(|family| family.get_metric());
        let reason = |labels: &[prometheus::proto::LabelPair]| labels[1].value().to_owned();
        series.map(|series| (reason(series.get_label()), series.get_counter().get_value() as u64)).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

#[tokio::test(start_paused = true)]
async fn every_public_key_algorithm_verifies_and_by_its_own_kind_of_key_only() {
    let (rsa, p256, p384, ed) = (Signer::rsa("r"), Signer::p256("e"), Signer::p384("f"), Signer::ed25519("d"));
    let world = World::new(&key_set(&[&rsa, &p256, &p384, &ed]));
    let signers: [(&Signer, &[&str]); 4] = [
        (&rsa, &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        (&p256, &["ES256"]),
        (&p384, &["ES384"]),
        (&ed, &["EdDSA"]),
    ];
    for (signer, algorithms) in signers {
        for algorithm in algorithms {
            let caller = world.ask(&signer.token(algorithm, &claims()), 10).await.unwrap();
            assert_eq!((&*caller.tenant, &*caller.key_id), ("acme", "idp/ann"), "{algorithm}");
        }
        // The same signature under another name.
        for algorithm in ["RS256", "ES256", "ES384", "EdDSA"] {
            if !algorithms.contains(&algorithm) {
                assert_eq!(world.reason(&signer.token(algorithm, &claims())).await, "wrong_key", "{algorithm}");
            }
        }
        let stranger = Signer::p256(&p256.kid);
        assert_eq!(world.reason(&stranger.token("ES256", &claims())).await, "signature");
    }
}

#[tokio::test(start_paused = true)]
async fn neither_none_nor_hmac_with_a_public_key_is_a_signature() {
    let rsa = Signer::rsa("r");
    let world = World::new(&key_set(&[&rsa]));
    for none in ["none", "None", "NONE", ""] {
        let header = json!({"alg": none, "kid": "r"});
        assert_eq!(world.reason(&unsigned_token(&header, &claims())).await, "malformed", "{none}");
    }
    assert_eq!(world.reason(&unsigned_token(&json!({"alg": "RS256", "kid": "r"}), &claims())).await, "signature");
    let pem = include_bytes!("../../../tests/fixtures/tokens/rsa.pem").to_vec();
    for secret in public_secrets(&rsa).into_iter().chain([pem]) {
        for algorithm in ["HS256", "HS384", "HS512"] {
            let token = hmac_token(&json!({"alg": algorithm, "kid": "r"}), &claims(), &secret);
            assert_eq!(world.reason(&token).await, "algorithm");
        }
        let token = hmac_token(&json!({"alg": "RS256", "kid": "r"}), &claims(), &secret);
        assert_eq!(world.reason(&token).await, "signature");
    }
}

#[tokio::test(start_paused = true)]
async fn a_symmetric_key_in_a_key_set_is_no_key() {
    let (rsa, secret) = (Signer::rsa("r"), json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"}));
    let world = World::new(&json!({"keys": [secret, rsa.jwk()]}).to_string());
    let token = hmac_token(&json!({"alg": "HS256", "kid": "s"}), &claims(), b"secret");
    assert_eq!(world.reason(&token).await, "algorithm");
    assert!(world.ask(&rsa.token("RS256", &claims()), 10).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_algorithm_that_is_not_listed_for_the_issuer_is_refused() {
    let (rsa, ed) = (Signer::rsa("r"), Signer::ed25519("d"));
    let world = World::with(&key_set(&[&rsa, &ed]), "");
    assert!(world.ask(&rsa.token("RS256", &claims()), 10).await.is_ok());
    for token in [rsa.token("RS512", &claims()), rsa.token("PS256", &claims()), ed.token("EdDSA", &claims())] {
        assert_eq!(world.reason(&token).await, "algorithm");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_used_for_what_it_is_published_for() {
    let rsa = Signer::rsa("r");
    let key = |field: &str, value: Value| {
        let mut key = rsa.jwk();
        key[field] = value;
        // Another one, so that the set is not without keys.
        json!({"keys": [key, Signer::p256("other").jwk()]}).to_string()
    };
    for (keys, expected) in [
        (key("alg", json!("RS256")), None),
        (key("key_ops", json!(["verify"])), None),
        (key("alg", json!("PS256")), Some("wrong_key")),
        (key("alg", json!("RSA-OAEP")), Some("unknown_key")),
        (key("alg", json!("HS256")), Some("unknown_key")),
        (key("use", json!("enc")), Some("unknown_key")),
        (key("key_ops", json!(["encrypt"])), Some("unknown_key")),
        (key("kty", json!("EC")), Some("unknown_key")),
        (key("n", json!("AQAB")), Some("unknown_key")),
        (key("n", json!("!")), Some("unknown_key")),
    ] {
        let world = World::new(&keys);
        let token = rsa.token("RS256", &claims());
        match expected {
            None => drop(world.ask(&token, 10).await.unwrap()),
            Some(expected) => assert_eq!(world.reason(&token).await, expected, "{keys}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_key_id_exactly_one_key_must_fit() {
    let (rsa, one, other) = (Signer::rsa("r"), Signer::p256("1"), Signer::p256("2"));
    let world = World::new(&key_set(&[&rsa, &one, &other]));
    let nameless = |algorithm: &str| json!({"alg": algorithm});
    assert!(world.ask(&rsa.token_with(&nameless("RS256"), &claims()), 10).await.is_ok());
    assert_eq!(world.reason(&one.token_with(&nameless("ES256"), &claims())).await, "wrong_key");
    assert_eq!(world.reason(&rsa.token_with(&nameless("ES384"), &claims())).await, "wrong_key");
    // Nor does an id that two keys have say which one is meant.
    let twice = World::new(&key_set(&[&Signer::p256("1"), &one]));
    assert_eq!(twice.reason(&one.token("ES256", &claims())).await, "wrong_key");
}

#[tokio::test(start_paused = true)]
async fn what_a_header_says_of_keys_is_not_believed() {
    let (known, attacker) = (Signer::p256("1"), Signer::p256("9"));
    let world = World::new(&key_set(&[&known]));
    for header in [
        json!({"alg": "ES256", "jwk": attacker.jwk()}),
        json!({"alg": "ES256", "kid": "1", "jwk": attacker.jwk()}),
        json!({"alg": "ES256", "kid": "1", "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/"}),
    ] {
        assert_eq!(world.reason(&attacker.token_with(&header, &claims())).await, "signature", "{header}");
    }
    let critical = json!({"alg": "ES256", "kid": "1", "crit": ["b64"], "b64": true});
    assert_eq!(world.reason(&known.token_with(&critical, &claims())).await, "malformed");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_a_token_is_refused() {
    let world = World::new(&key_set(&[&Signer::rsa("r")]));
    for text in ["..", "a.b.c", "e30.e30.e30", "eyJhbGciOiJSUzI1NiJ9.W10.AAAA", "\u{0}.\u{0}.\u{0}", &"a.".repeat(2)] {
        assert!(world.tokens.is_token(text.as_bytes()));
        assert_eq!(world.reason(text).await, "malformed", "{text:?}");
    }
    for text in ["sk-lgw-abc-def", "a.b", "a.b.c.d", ""] {
        assert!(!world.tokens.is_token(text.as_bytes()));
    }
    let other = Signer::rsa("r").token("RS256", &json!({"iss": "https://other", "aud": "llm"}));
    assert_eq!(world.reason(&other).await, "unknown_issuer");
}

#[tokio::test(start_paused = true)]
async fn refusals_are_told_apart_and_tell_nothing_of_the_token() {
    let key = Signer::p256("1");
    let world = World::new(&key_set(&[&key]));
    let of = |claim: &str, value: Value| {
        let mut claims = claims();
        claims[claim] = value;
        key.token("ES256", &claims)
    };
    for (token, message) in [
        (of("exp", json!(NOW - 60)), "The token has expired."),
        (of("nbf", json!(NOW + 60)), "The token is not valid yet."),
        (of("aud", json!("planted-marker")), "The token is for another audience."),
        (of("iss", json!("planted-marker")), "The token's issuer is not trusted here."),
        (of("exp", json!("planted-marker")), "The token does not say when it expires."),
        (of("sub", json!(["planted-marker"])), "The token cannot be read."),
        (of("sub", json!("")), "The token gives no access here."),
        (
            Signer::p256("planted-marker").token("ES256", &claims()),
            "The token is signed with a key that its issuer does not publish.",
        ),
        // Whoever cannot sign is not told what else is wrong.
        (
            Signer::p256("1").token("ES256", &json!({"iss": "https://idp", "exp": 1})),
            "The token's signature is not valid.",
        ),
    ] {
        let rejection = world.refusal(&token).await;
        assert_eq!((rejection.reason, &*rejection.message), (Reason::InvalidToken, message));
        let told = format!("{rejection:?}");
        assert!(!told.contains("planted-marker") && !told.contains(&token[..20]), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_verified_is_refused_from_its_expiry_on() {
    let key = Signer::p256("1");
    let world = World::new(&key_set(&[&key]));
    let token = key.token("ES256", &claims());
    for now in [0, 100, 329] {
        assert!(world.ask(&token, now).await.is_ok(), "{now}");
    }
    for now in [330, 400] {
        assert_eq!(world.ask(&token, now).await.unwrap_err().message, "The token has expired.", "{now}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_rotated_in_is_known_as_soon_as_a_token_names_it() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let world = World::new(&key_set(&[&old]));
    let (of_old, of_new) = (old.token("ES256", &claims()), new.token("ES256", &claims()));
    assert!(world.ask(&of_old, 10).await.is_ok());
    // Just fetched: the issuer has said that there is no such key.
    assert_eq!(world.reason(&of_new).await, "unknown_key");
    std::fs::write(world.keys(), key_set(&[&old, &new])).unwrap();
    sleep(Duration::from_secs(3)).await;
    let asked = tokio::time::Instant::now();
    assert!(world.ask(&of_new, 10).await.is_ok());
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert!(world.ask(&of_old, 10).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_a_withdrawn_or_replaced_key_has_signed_is_not_believed_any_more() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let world = World::new(&key_set(&[&old, &new]));
    let (of_old, of_new) = (old.token("ES256", &claims()), new.token("ES256", &claims()));
    assert!(world.ask(&of_old, 10).await.is_ok() && world.ask(&of_new, 10).await.is_ok());

    world.publish(&key_set(&[&new])).await;
    assert_eq!(world.reason(&of_old).await, "unknown_key");
    assert!(world.ask(&of_new, 10).await.is_ok());

    // Another key by the same name.
    world.publish(&key_set(&[&Signer::p256("new")])).await;
    assert_eq!(world.reason(&of_new).await, "signature");
    // And back.
    world.publish(&key_set(&[&new, &old])).await;
    assert!(world.ask(&of_old, 10).await.is_ok() && world.ask(&of_new, 10).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_read_any_more_are_believed_until_they_are_stale() {
    let (key, other) = (Signer::p256("1"), Signer::p256("2"));
    let world = World::with(&key_set(&[&key]), "max_stale = \"1h\"\n");
    let token = key.token("ES256", &claims());
    assert!(world.ask(&token, 10).await.is_ok());
    for garbage in ["", "{\"keys\": []}", "[1]", &"x".repeat(300 << 10)] {
        world.publish(garbage).await;
        assert!(world.ask(&token, 10).await.is_ok(), "{}", garbage.len());
        assert!(world.ask(&key.token("ES256", &claims()), 10).await.is_ok());
        // A key that is not known may be one that could not be read.
        sleep(Duration::from_secs(3)).await;
        let rejection = world.refusal(&other.token("ES256", &claims())).await;
        assert_eq!(rejection.reason, Reason::IssuerUnavailable);
        assert!(rejection.retry_after.is_some());
    }
    std::fs::remove_file(world.keys()).unwrap();
    sleep(Duration::from_secs(3500)).await;
    assert!(world.ask(&token, 10).await.is_ok());
    sleep(Duration::from_secs(200)).await;
    assert_eq!(world.refusal(&token).await.reason, Reason::IssuerUnavailable);
    world.publish(&key_set(&[&key])).await;
    assert!(world.ask(&token, 10).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn revoked_tokens_are_refused_at_once_and_new_ones_are_let_in() {
    let key = Signer::p256("1");
    let world = World::new(&key_set(&[&key]));
    let issued = |claim: Value, subject: &str| {
        let mut claims = claims();
        claims["iat"] = claim;
        claims["sub"] = json!(subject);
        key.token("ES256", &claims)
    };
    let (old, of_bob) = (issued(json!(NOW), "ann"), issued(json!(NOW), "bob"));
    assert!(world.ask(&old, 10).await.is_ok());
    revoke(world.directory.path(), "idp/ann", at(5)).unwrap();
    assert_eq!(world.refusal(&old).await.message, "The token has been revoked.");
    let mut dateless = claims();
    dateless.as_object_mut().unwrap().remove("iat");
    assert_eq!(world.reason(&key.token("ES256", &dateless)).await, "revoked");
    assert!(world.ask(&issued(json!(NOW + 6), "ann"), 10).await.is_ok());
    assert!(world.ask(&of_bob, 10).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_worked_with_is_found_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let open = |lines: &str| format!("{:#}", World::open(&directory, lines).err().unwrap());
    assert!(open("").starts_with("issuers.idp.jwks_file: cannot read"));
    std::fs::write(directory.path().join("keys.json"), "{\"keys\": [{\"kty\": \"oct\", \"k\": \"AA\"}]}").unwrap();
    assert!(open("").starts_with("issuers.idp.jwks_file: it has no key"));
    std::fs::write(directory.path().join("keys.json"), key_set(&[&Signer::p256("1")])).unwrap();
    assert_eq!(open("surfaces = [\"chats\"]\n"), "issuers.idp.surfaces: there is no surface `chats`");
}

#[test]
fn the_cache_is_bounded_and_keeps_what_is_shown_again() {
    let key = Arc::new(
        jwks::KeySet::parse(key_set(&[&Signer::p256("1")]).as_bytes(), &[jsonwebtoken::Algorithm::ES256], None)
            .unwrap(),
    );
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    let caller = Caller::new("acme", "idp/ann");
    let times = claims::Times { issued: None, until: at(0) };
    let verified = Arc::new(Verified { caller: Arc::new(caller), times, key: key.choose(&header).unwrap().clone() });
    let cache = Cache::default();
    let fingerprints = (0..30_000_u32).map(|number| fingerprint(&number.to_be_bytes()));
    let first = fingerprint(&0_u32.to_be_bytes());
    for fingerprint in fingerprints {
        cache.insert(fingerprint, verified.clone());
        assert!(cache.get(&first).is_some());
        assert!(cache.len() <= 10_000);
    }
    assert!(cache.get(&fingerprint(&1_u32.to_be_bytes())).is_none());
    cache.remove(&first);
    assert!(cache.get(&first).is_none());
}

#[test]
fn no_change_of_one_byte_leaves_a_valid_token() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let _in_runtime = runtime.enter();
    let (rsa, p256, ed) = (Signer::rsa("r"), Signer::p256("e"), Signer::ed25519("d"));
    let world = World::new(&key_set(&[&rsa, &p256, &ed]));
    let valid = [rsa.token("RS256", &claims()), p256.token("ES256", &claims()), ed.token("EdDSA", &claims())];
    for token in &valid {
        assert!(runtime.block_on(world.ask(token, 10)).is_ok());
    }
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let mutations = (0..valid.len(), any::<prop::sample::Index>(), any::<u8>());
    proptest!(config, |((which, place, byte) in mutations)| {
        let mut token = valid[which].clone().into_bytes();
        let place = place.index(token.len());
        prop_assume!(token[place] != byte);
        token[place] = byte;
        prop_assert!(runtime.block_on(world.tokens.authenticate(&token, at(10))).is_err());
    });
}
