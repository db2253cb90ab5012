use crate::config::{Overrides, SignatureAlgorithm, load};

use super::*;

const PLAIN: &str = "[issuers.idp]\nissuer = \"https://idp\"\naudience = [\"llm\"]\njwks_url = \"https://idp/keys\"\n\
                     tenant = \"acme\"\n";

fn load_text(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, text).unwrap();
    load(Some(&path), std::iter::empty(), &Overrides::default())
        .map_err(|error| error.to_string().replace(&path.display().to_string(), "F"))
}

/// Of the plain issuer, with one line changed to another.
fn refused(from: &str, to: &str) -> String {
    assert!(PLAIN.contains(from));
    load_text(&PLAIN.replacen(from, to, 1)).unwrap_err()
}

#[test]
fn an_issuer_needs_four_keys_and_has_defaults_for_the_others() {
    let config = load_text(PLAIN).unwrap();
    let issuer = &config.issuers["idp"];
    assert_eq!(issuer.algorithms, [SignatureAlgorithm::RS256, SignatureAlgorithm::ES256]);
    assert_eq!((issuer.clock_skew.as_secs(), issuer.max_lifetime), (30, None));
    assert_eq!((issuer.refresh_interval.as_secs(), issuer.max_stale.as_secs()), (300, 86_400));
    assert_eq!(issuer.subject_claim, "sub");
    assert!(load_text("").unwrap().issuers.is_empty());
}

#[test]
fn every_key_of_an_issuer_is_known_by_its_name() {
    let text = PLAIN.replace("tenant = \"acme\"", "tenant_claim = \"/a/b\"")
        + "algorithms = [\"EdDSA\"]\nclock_skew = \"0s\"\nmax_lifetime = \"1h\"\nrefresh_interval = \"1m\"\n\
           max_stale = \"1d\"\nca_file = \"ca.pem\"\nbearer_token_file = \"token\"\nsubject_claim = \"/x\"\n\
           policy_claim = \"p\"\nmodels_claim = \"m\"\nsurfaces_claim = \"s\"\n\
           [issuers.idp.tenants]\n\"any value/of it\" = \"acme\"\n[issuers.idp.required_claims]\n\"/x/y\" = [\"1\"]\n";
    let config = load_text(&text).unwrap();
    assert_eq!(config.issuers["idp"].tenants["any value/of it"], "acme");
    assert_eq!(config.issuers["idp"].max_lifetime, Some(Duration::from_secs(3600)));
    let text = PLAIN.replace("jwks_url = \"https://idp/keys\"", "jwks_file = \"keys.json\"")
        + "policy = \"default\"\nmodels = [\"a\"]\nsurfaces = [\"chat\"]\n";
    assert!(load_text(&text).is_ok());
}

#[test]
fn an_unknown_key_of_an_issuer_is_refused_with_its_line_and_the_nearest_one() {
    let error = load_text(&format!("{PLAIN}audiences = [\"x\"]\n")).unwrap_err();
    assert_eq!(error, "F:6: unknown key `issuers.idp.audiences`\nhint: did you mean `issuers.idp.audience`?");
    let error = load_text("[issuers]\nidp = 1\n").unwrap_err();
    assert!(error.starts_with("F:2: `issuers.idp`: invalid type"), "{error}");
    let variable = ("LLAMA_GATEWAY_ISSUERS_IDP_TENANT".to_owned(), "x".to_owned());
    assert!(load(None, std::iter::once(variable), &Overrides::default()).is_err());
}

#[test]
fn values_of_an_issuer_that_cannot_work_are_refused_where_they_stand() {
    let (url, tenant) = ("jwks_url = \"https://idp/keys\"", "tenant = \"acme\"");
    for (from, to, expected) in [
        ("idp]", "\"a b\"]", "F:1: `issuers.\"a b\"`: a name"),
        ("\"https://idp\"", "\"\"", "F:2: `issuers.idp.issuer`"),
        ("[\"llm\"]", "[]", "F:3: `issuers.idp.audience`"),
        ("audience = [\"llm\"]\n", "", "F:1: `issuers.idp`: missing field `audience`"),
        (url, "", "F:1: `issuers.idp.jwks_url`: `jwks_url` or `jwks_file` is needed"),
        (url, "jwks_url = \"http://idp/keys\"", "F:4: `issuers.idp.jwks_url`: must be https"),
        (url, "jwks_url = \"file:///keys\"", "F:4: `issuers.idp.jwks_url`: must be https"),
        (url, "jwks_url = \"keys\"", "F:4: `issuers.idp.jwks_url`: is not a URL"),
        (url, "jwks_url = \"https://u:p@idp/\"", "F:4: `issuers.idp.jwks_url`: must hold no secret"),
        (url, "jwks_url = \"https://idp/\"\njwks_file = \"f\"", "F:5: `issuers.idp.jwks_file`"),
        (url, "jwks_file = \"f\"\nca_file = \"f\"", "F:4: `issuers.idp.jwks_file`: `ca_file`"),
        (tenant, "", "F:1: `issuers.idp.tenant`: `tenant` or `tenant_claim` is needed"),
        (tenant, "tenant = \"a/b\"", "F:5: `issuers.idp.tenant`"),
        (tenant, "tenant = \"a\"\ntenant_claim = \"b\"", "F:6: `issuers.idp.tenant_claim`"),
        (tenant, "tenant_claim = \"b\"\ntenants = { x = \"a b\" }", "F:6: `issuers.idp.tenants.x`"),
        (tenant, "tenant = \"a\"\nmodels = [\"a\"]\nmodels_claim = \"m\"", "F:7: `issuers.idp.models_claim`"),
        (tenant, "tenant = \"a\"\nrequired_claims = { x = [] }", "F:6: `issuers.idp.required_claims"),
        (tenant, "tenant = \"a\"\nmax_stale = \"0s\"", "F:6: `issuers.idp.max_stale`"),
        (tenant, "tenant = \"a\"\nclock_skew = \"2years\"", "F:6: `issuers.idp.clock_skew`"),
        (tenant, "tenant = \"a\"\npolicy = \"defalt\"", "F:6: `issuers.idp.policy`: there is no policy `defalt`"),
    ] {
        let error = refused(from, to);
        assert!(error.starts_with(expected), "{to}: {error}");
    }
    let twice = format!("{PLAIN}{}", PLAIN.replace("idp]", "other]"));
    assert!(load_text(&twice).unwrap_err().contains("has the same"));
}

#[test]
fn neither_hmac_nor_none_can_be_allowed() {
    for name in ["HS256", "none", "None", "rs256", ""] {
        let error = load_text(&format!("{PLAIN}algorithms = [\"RS256\", \"{name}\"]\n")).unwrap_err();
        assert!(error.starts_with("F:6: `issuers.idp.algorithms`: unknown variant"), "{error}");
    }
}

#[test]
fn keys_may_come_in_clear_text_from_this_machine_only() {
    for (host, allowed) in
        [("127.0.0.1:80", true), ("[::1]:80", true), ("localhost", true), ("10.0.0.1", false), ("localhost.x", false)]
    {
        let text = PLAIN.replace("https://idp/keys", &format!("http://{host}/keys"));
        assert_eq!(load_text(&text).is_ok(), allowed, "{host}");
    }
}

#[test]
fn the_examples_of_the_documentation_are_right() {
    let page = include_str!("../../../docs/tokens.md");
    let examples: Vec<_> = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 2);
    let config = load_text(&format!("{}[policies.one-of-many]\n", examples.concat())).unwrap();
    assert_eq!(config.issuers["cluster"].tenant_claim.as_deref(), Some("/kubernetes.io/namespace"));
    assert_eq!(config.issuers["staff"].required_claims.len(), 2);
}
