use serde_json::json;

use super::*;
use crate::config::{Config, Overrides, load};

const NOW: i64 = 1_767_225_600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

/// An issuer with a tenant of its own, and with these lines on top.
fn issuer(lines: &str) -> Issuer {
    let tenant = if lines.contains("tenant_claim") { "" } else { "tenant = \"acme\"\n" };
    let text = format!(
        "[issuers.idp]\nissuer = \"https://idp\"\naudience = [\"llm\", \"llm-2\"]\njwks_url = \"https://idp/keys\"\n{tenant}{lines}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let config: Config = load(Some(file.path()), std::iter::empty(), &Overrides::default()).unwrap();
    config.issuers["idp"].clone()
}

fn claims() -> Value {
    json!({"iss": "https://idp", "aud": "llm", "sub": "ann", "iat": NOW, "exp": NOW + 300})
}

/// The claims with those of `further`; null takes one away.
fn with(further: &Value) -> Value {
    let mut claims = claims();
    for (claim, value) in further.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(claim);
        } else {
            claims[claim] = value.clone();
        }
    }
    claims
}

fn checked(further: &Value, lines: &str, now: i64) -> Result<Times, Refusal> {
    check(&with(further), &issuer(lines), at(now))
}

fn mapped(further: &Value, lines: &str) -> Result<Caller, Refusal> {
    caller(&with(further), "idp", &issuer(lines))
}

fn what(refusal: Refusal) -> String {
    match refusal {
        Refusal::Claim { claim, what } => format!("{claim} {what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn issuer_and_audience_are_as_configured_to_the_letter() {
    for (further, expected) in [
        (json!({}), None),
        (json!({"aud": ["x", "llm-2"]}), None),
        (json!({"aud": "LLM"}), Some(Refusal::Audience)),
        (json!({"aud": ["x"]}), Some(Refusal::Audience)),
        (json!({"aud": []}), Some(Refusal::Audience)),
        (json!({"aud": {"llm": 1}}), Some(Refusal::Audience)),
        (json!({"aud": null}), Some(Refusal::Audience)),
        (json!({"iss": "https://idp/"}), Some(Refusal::UnknownIssuer)),
        (json!({"iss": ["https://idp"]}), Some(Refusal::UnknownIssuer)),
        (json!({"iss": null}), Some(Refusal::UnknownIssuer)),
    ] {
        assert_eq!(checked(&further, "", 10).err(), expected, "{further}");
    }
}

#[test]
fn a_token_is_valid_until_its_expiry_and_the_skew() {
    for (now, expected) in [(299, None), (329, None), (330, Some(Refusal::Expired)), (9999, Some(Refusal::Expired))] {
        assert_eq!(checked(&json!({}), "", now).err(), expected, "{now}");
    }
    let times = checked(&json!({}), "", 0).unwrap();
    assert_eq!(times, Times { issued: Some(at(0)), until: at(330) });
    assert_eq!(checked(&json!({}), "clock_skew = \"0s\"\n", 300), Err(Refusal::Expired));
}

#[test]
fn a_token_without_a_readable_expiry_is_refused() {
    for expiry in [json!(null), json!("soon"), json!("1767225900"), json!([1]), json!(1e300), json!(-1e300), json!({})]
    {
        assert_eq!(checked(&json!({"exp": expiry}), "", 0), Err(Refusal::NoExpiry), "{expiry}");
    }
    // A date may have a fraction.
    assert_eq!(checked(&json!({"exp": NOW as f64 + 0.5}), "", 0).unwrap().until.as_millisecond() % 1000, 500);
}

#[test]
fn a_token_from_the_future_is_refused_beyond_the_skew() {
    for claim in ["nbf", "iat"] {
        for (from, expected) in [(-5, None), (30, None), (31, Some(Refusal::NotYetValid))] {
            assert_eq!(checked(&json!({claim: NOW + from}), "", 0).err(), expected, "{claim} {from}");
        }
        assert_eq!(what(checked(&json!({claim: "now"}), "", 0).unwrap_err()), format!("{claim} is not a date"));
    }
    assert!(checked(&json!({"iat": null}), "", 0).is_ok());
}

#[test]
fn a_token_may_not_live_longer_than_configured() {
    let lines = "max_lifetime = \"5m\"\n";
    for (further, expected) in [
        (json!({}), None),
        (json!({"exp": NOW + 301}), Some(Refusal::Lifetime)),
        (json!({"iat": null}), Some(Refusal::Lifetime)),
    ] {
        assert_eq!(checked(&further, lines, 0).err(), expected, "{further}");
    }
}

#[test]
fn required_claims_must_have_one_of_their_values() {
    let lines = "required_claims = { azp = [\"cli\", \"web\"], \"/realm_access/roles\" = [\"llm-user\"], scope = [\"llm\"], \
                 verified = [\"true\"] }\n";
    let good =
        json!({"azp": "web", "realm_access": {"roles": ["x", "llm-user"]}, "scope": "openid llm", "verified": true});
    assert!(checked(&good, lines, 0).is_ok());
    for (claim, value) in [
        ("azp", json!("cli web")),
        ("azp", json!(7)),
        ("realm_access", json!({"roles": ["x"]})),
        ("realm_access", json!({"roles": {"llm-user": 1}})),
        ("scope", json!("llm-admin openid")),
        ("verified", json!(false)),
        ("verified", json!(null)),
    ] {
        let mut bad = good.clone();
        bad[claim] = value.clone();
        assert!(what(checked(&bad, lines, 0).unwrap_err()).contains(claim), "{claim} {value}");
    }
}

#[test]
fn the_key_id_is_issuer_and_subject_or_the_hash_of_a_subject_that_no_id_may_be() {
    assert_eq!(&*key_id("idp", "system:serviceaccount:team-a:bot"), "idp/system:serviceaccount:team-a:bot");
    assert_eq!(&*key_id("idp", "auth0|a.b_c@d"), "idp/auth0|a.b_c@d");
    // SHA-256 of "a b".
    assert_eq!(&*key_id("idp", "a b"), "idp/sha256:c8687a08aa5d6ed2044328fa6a697ab8");
    for subject in ["a/b", "ä", "a\n", &"a".repeat(129), "sha256:c8687a08aa5d6ed2044328fa6a697ab8"] {
        let key_id = key_id("idp", subject);
        let hashed = key_id.strip_prefix("idp/").unwrap();
        assert!(is_hashed(hashed) && hashed != subject, "{subject}: {key_id}");
    }
    assert!(!is_hashed("ann") && !is_hashed("sha256:AA") && !is_hashed("sha256:c8687a08aa5d6ed2044328fa6a697abX"));
}

#[test]
fn a_token_without_a_subject_is_refused() {
    for subject in [json!(null), json!(""), json!(7), json!(["ann"])] {
        assert!(mapped(&json!({"sub": subject}), "").is_err(), "{subject}");
    }
    let caller =
        mapped(&json!({"sub": null, "/client/id": 1, "client": {"id": "c1"}}), "subject_claim = \"/client/id\"\n");
    assert_eq!(&*caller.unwrap().key_id, "idp/c1");
}

#[test]
fn the_tenant_is_fixed_or_what_the_claim_says() {
    let claim = "tenant_claim = \"org\"\n";
    let map =
        "tenant_claim = \"org\"\ntenants = { \"/groups/a\" = \"acme\", \"/groups/a2\" = \"acme\", b = \"beta\" }\n";
    for (lines, org, expected) in [
        ("", json!("x"), Ok("acme")),
        (claim, json!("globex"), Ok("globex")),
        (claim, json!(["globex", "globex"]), Ok("globex")),
        (claim, json!(["globex", "acme"]), Err("org names several tenants")),
        (claim, json!([]), Err("org names no tenant")),
        (claim, json!(7), Err("org names no tenant")),
        (claim, json!(null), Err("org is missing")),
        (claim, json!("a/b"), Err("org is not a tenant's name")),
        (claim, json!(""), Err("org is not a tenant's name")),
        (map, json!("/groups/a"), Ok("acme")),
        (map, json!(["/groups/x", "/groups/a", "/groups/a2"]), Ok("acme")),
        (map, json!(["/groups/a", "b"]), Err("org names several tenants")),
        (map, json!("acme"), Err("org names no tenant")),
    ] {
        let tenant = mapped(&json!({"org": org}), lines).map(|caller| caller.tenant.to_string()).map_err(what);
        assert_eq!(tenant.as_deref().map_err(String::as_str), expected, "{lines} {org}");
    }
}

#[test]
fn what_a_caller_may_use_is_fixed_or_what_the_claims_say() {
    let caller = mapped(&json!({}), "policy = \"default\"\nmodels = [\"m\"]\nsurfaces = [\"chat\"]\n").unwrap();
    assert_eq!(caller.policy.as_deref(), Some("default"));
    assert_eq!((&*caller.scope.models, &*caller.scope.surfaces), (&["m".to_owned()][..], &[Surface::Chat][..]));

    let caller = mapped(&json!({}), "").unwrap();
    assert_eq!((caller.policy, caller.scope), (None, Arc::default()));

    let lines = "policy_claim = \"plan\"\nmodels_claim = \"models\"\nsurfaces_claim = \"scope\"\n";
    let good = json!({"plan": "gold", "models": ["a", "b"], "scope": "openid chat embeddings"});
    let caller = mapped(&good, lines).unwrap();
    assert_eq!(caller.policy.as_deref(), Some("gold"));
    assert_eq!(caller.scope.models, ["a", "b"]);
    assert_eq!(caller.scope.surfaces, [Surface::Chat, Surface::Embeddings]);

    // What is configured to be said by the token must be said: nothing would mean everything.
    for (claim, value) in [
        ("plan", json!(null)),
        ("plan", json!("a b")),
        ("plan", json!(7)),
        ("models", json!(null)),
        ("models", json!([])),
        ("models", json!(" ")),
        ("models", json!((0..65).map(|n| n.to_string()).collect::<Vec<_>>())),
        ("scope", json!(null)),
        ("scope", json!("openid")),
    ] {
        let mut bad = good.clone();
        bad[claim] = value.clone();
        assert!(what(mapped(&bad, lines).unwrap_err()).starts_with(claim), "{claim} {value}");
    }
}

#[test]
fn a_kubernetes_service_account_belongs_to_its_namespace() {
    let claims = json!({
        "kubernetes.io": {
            "namespace": "team-a",
            "pod": {"name": "bot-0", "uid": "9f5c"},
            "serviceaccount": {"name": "bot", "uid": "77aa"},
            "warnafter": NOW + 3607,
        },
        "aud": ["llm"],
        "nbf": NOW,
        "jti": "9d9a",
        "sub": "system:serviceaccount:team-a:bot",
    });
    let lines = "tenant_claim = \"/kubernetes.io/namespace\"\n";
    checked(&claims, lines, 0).unwrap();
    let caller = mapped(&claims, lines).unwrap();
    assert_eq!((&*caller.tenant, &*caller.key_id), ("team-a", "idp/system:serviceaccount:team-a:bot"));
}

#[test]
fn a_keycloak_token_belongs_to_its_group() {
    let claims = json!({
        "typ": "Bearer",
        "azp": "chat-ui",
        "aud": ["llm", "account"],
        "sub": "f3b0-11",
        "realm_access": {"roles": ["offline_access", "llm-user"]},
        "groups": ["/staff", "/research"],
        "scope": "openid profile",
    });
    let lines = "tenant_claim = \"groups\"\ntenants = { \"/research\" = \"research\", \"/sales\" = \"sales\" }\n\
                 required_claims = { azp = [\"chat-ui\"], \"/realm_access/roles\" = [\"llm-user\"] }\n";
    checked(&claims, lines, 0).unwrap();
    let caller = mapped(&claims, lines).unwrap();
    assert_eq!((&*caller.tenant, &*caller.key_id), ("research", "idp/f3b0-11"));
}
