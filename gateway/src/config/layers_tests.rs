use std::time::Duration;

use super::*;

fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(&path), environment, &Overrides::default())
        .map_err(|error| error.to_string().replace(&path.display().to_string(), "F"))
}

#[test]
fn the_defaults_alone_are_a_whole_configuration() {
    let config = load(None, std::iter::empty(), &Overrides::default()).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.upstream.urls, ["http://127.0.0.1:8001"]);
    assert_eq!(config.timeouts.early_open, Duration::from_millis(1500));
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let environment =
        [("LLAMA_GATEWAY_SERVER_LISTEN", "127.0.0.1:2"), ("LLAMA_GATEWAY_UPSTREAM_URLS", "http://a:1, http://b:2")];
    let config =
        load_text("[server]\nlisten = \"127.0.0.1:1\"\n[policies.default]\nslots = 7\n", &environment).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.policies["default"].slots, 7);
    assert_eq!(config.upstream.urls, ["http://a:1", "http://b:2"]);
    let overrides = Overrides { listen: Some("127.0.0.1:3".into()), ..Overrides::default() };
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    assert_eq!(load(None, environment, &overrides).unwrap().server.listen.to_string(), "127.0.0.1:3");
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
    let error = load_text("[server]\n\nlissten = \"127.0.0.1:1\"\n", &[]).unwrap_err();
    assert_eq!(error, "F:3: unknown key `server.lissten`\nhint: did you mean `server.listen`?");
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_known_one() {
    let error = load_text("", &[("LLAMA_GATEWAY_SERVER_LISTN", "x")]).unwrap_err();
    assert!(error.contains("did you mean `LLAMA_GATEWAY_SERVER_LISTEN`?"), "{error}");
}

#[test]
fn what_kubernetes_says_of_a_service_of_our_name_is_not_for_us() {
    let names = ["PORT", "PORT_8080_TCP", "PORT_8080_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP"];
    let names = names.map(|name| format!("LLAMA_GATEWAY_{name}"));
    let environment = names.each_ref().map(|name| (name.as_str(), "tcp://10.0.0.1:8080"));
    load_text("", &environment).unwrap();
    assert!(load_text("", &[("LLAMA_GATEWAY_SERVER_PORT", "1")]).is_err());
}

#[test]
fn a_wrong_value_is_refused_with_its_line_and_key() {
    let error = load_text("[timeouts]\nsilence = \"soon\"\n", &[]).unwrap_err();
    assert!(error.starts_with("F:2: `timeouts.silence`: `soon` is not a duration"), "{error}");
    let error = load_text("[queue]\nlocality_slack = \"many\"\n", &[]).unwrap_err();
    assert!(error.starts_with("F:2: `queue.locality_slack`: invalid type"), "{error}");
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    let error = load_text("[server]\nlisten = \n", &[]).unwrap_err();
    assert!(error.starts_with("F:2: "), "{error}");
}

#[test]
fn values_that_cannot_work_are_refused() {
    for text in [
        "[server]\nmax_header_bytes = 100\n",
        "[server]\ntls_key = \"k.pem\"\n",
        "[upstream]\nurls = []\n",
        "[timeouts]\nsilence = \"0s\"\n",
        "[timeouts]\ntotal = \"400000years\"\n",
        "[server]\nmax_header_bytes = 9999999999\n",
        "[server]\nmax_connections = 9223372036854775807\n",
        "[server]\nlisten = \"127.0.0.1:9090\"\n",
        "[ledger]\nkeep_entries = \"23h\"\n",
        "[ledger]\nkeep_days = \"30d\"\n",
    ] {
        assert!(load_text(text, &[]).is_err(), "{text}");
    }
    load_text("[ledger]\nkeep_entries = \"1d\"\nkeep_days = \"31d\"\n", &[]).unwrap();
}

#[test]
fn traces_that_cannot_work_are_refused_where_they_are_configured() {
    for (text, expected) in [
        ("[traces]\nurl = \"collector:4318\"\n", "F:2: `traces.url`: must begin with http:// or https://"),
        (
            "[traces]\nurl = \"https://me:secret@collector\"\n",
            "F:2: `traces.url`: credentials do not belong into it\nhint: use `traces.token_file`",
        ),
        ("[traces]\ntoken_file = \"t\"\n", "F:2: `traces.token_file`: is of no use without `traces.url`"),
        ("[traces]\nca_file = \"c\"\n", "F:2: `traces.ca_file`: is of no use without `traces.url`"),
        ("[traces]\nsample_ratio = 1.1\n", "F:2: `traces.sample_ratio`: must be from 0 to 1"),
        ("[traces]\nsample_ratio = nan\n", "F:2: `traces.sample_ratio`: must be from 0 to 1"),
        ("[traces]\nservice_name = \"\"\n", "F:2: `traces.service_name`: must be a name without control characters"),
    ] {
        assert_eq!(load_text(text, &[]).unwrap_err(), expected, "{text}");
    }
    let environment = [("LLAMA_GATEWAY_TRACES_SAMPLE_RATIO", "0.25"), ("LLAMA_GATEWAY_TRACES_FOLLOW_CLIENT", "false")];
    let traces = load_text("[traces]\nurl = \"http://c\"\nsample_ratio = 1\n", &environment).unwrap().traces;
    assert_eq!((traces.sample_ratio, traces.follow_client, traces.is_on()), (0.25, false, true));
    let wrong = load_text("", &[("LLAMA_GATEWAY_TRACES_SAMPLE_RATIO", "half")]).unwrap_err();
    assert_eq!(wrong, "LLAMA_GATEWAY_TRACES_SAMPLE_RATIO: `half` is not a number");
}

const GOLD: &str = "[policies.default]\nslots = 3\n[policies.gold]\nrequests_per_minute = 60\n";

#[test]
fn a_policy_has_from_the_default_one_what_it_does_not_say() {
    let environment = [("LLAMA_GATEWAY_POLICIES_DEFAULT_QUEUED_REQUESTS", "9")];
    let config = load_text(GOLD, &environment).unwrap();
    let (default, gold) = (&config.policies["default"], &config.policies["gold"]);
    // Said by the file, by the environment, by nobody, and by the policy itself.
    assert_eq!((default.slots, default.queued_requests, default.requests_per_minute), (3, 9, 0));
    assert_eq!((gold.slots, gold.queued_requests, gold.requests_per_minute), (3, 9, 60));
    assert_eq!((gold.weight, gold.max_queue_wait), (default.weight, default.max_queue_wait));
    assert_eq!((default.class.as_deref(), gold.class.as_deref()), (Some("standard"), None));
    // An empty one is like the default one.
    assert_eq!(load_text("[policies.plain]\n[tenants.acme]", &[]).unwrap().tenants["acme"].policy, "default");
}

#[test]
fn an_unknown_key_of_a_policy_or_a_tenant_is_refused_with_its_line_and_the_nearest_one_of_its_own() {
    for (text, expected) in [
        (
            "[policies.gold]\nslots = 1\nrequest_per_minute = 1\n",
            "F:3: unknown key `policies.gold.request_per_minute`\nhint: did you mean `policies.gold.requests_per_minute`?",
        ),
        (
            "[tenants.\"acme.eu\"]\npolcy = \"gold\"\n",
            "F:2: unknown key `tenants.\"acme.eu\".polcy`\nhint: did you mean `tenants.\"acme.eu\".policy`?",
        ),
        (
            "[policies.default]\nwaight = 1\n",
            "F:2: unknown key `policies.default.waight`\nhint: did you mean `policies.default.weight`?",
        ),
        ("[policies]\ngold = 3\n", "F:2: `policies.gold`: invalid type: integer `3`, expected struct Policy"),
    ] {
        assert_eq!(load_text(text, &[]).unwrap_err(), expected);
    }
}

#[test]
fn a_name_of_something_that_is_not_there_is_refused_with_its_line_and_the_nearest_one() {
    for (text, expected) in [
        (
            "[tenants]\nacme = { policy = \"gould\" }\n",
            "F:6: `tenants.acme.policy`: there is no policy `gould`\nhint: did you mean `gold`?",
        ),
        (
            "[tenants.acme]\n\nkey_policy = \"god\"\n",
            "F:7: `tenants.acme.key_policy`: there is no policy `god`\nhint: did you mean `gold`?",
        ),
        ("class = \"bach\"\n", "F:5: `policies.gold.class`: there is no class `bach`\nhint: did you mean `batch`?"),
        (
            "[queue]\nstrict_classes = [\"interactve\"]\n",
            "F:6: `queue.strict_classes`: there is no class `interactve`\nhint: did you mean `interactive`?",
        ),
    ] {
        assert_eq!(load_text(&format!("{GOLD}{text}"), &[]).unwrap_err(), expected);
    }
    load_text(&format!("{GOLD}class = \"mine\"\n[queue.classes]\nmine = 2\n"), &[]).unwrap();
}

#[test]
fn values_of_policies_and_classes_that_cannot_work_are_refused_where_they_stand() {
    for (text, place) in [
        ("[policies.gold]\n\nweight = 0\n", "F:3: `policies.gold.weight`"),
        ("[policies.default]\nweight = 0\n[policies.a]\nslots = 1\n", "F:2: `policies.default.weight`"),
        ("[policies.default]\nslots = -1\n[policies.a]\nweight = 1\n", "F:2: `policies.default.slots`"),
        ("[policies.default]\nmax_queue_wait = \"5\"\n[policies.a]\n", "F:2: `policies.default.max_queue_wait`"),
        ("[policies]\ndefault = 1\n[policies.a]\n", "F:2: `policies.default`"),
        ("[policies.gold]\nslots = -1\n", "F:2: `policies.gold.slots`"),
        ("[policies.gold]\nmax_queue_wait = \"400000years\"\n", "F:2: `policies.gold.max_queue_wait`"),
        ("[policies.gold]\ndefault_output_tokens = 0\n", "F:2: `policies.gold.default_output_tokens`"),
        ("[queue.classes]\nbatch = 0\n", "F:2: `queue.classes.batch`"),
        ("[queue.classes]\n\"a b\" = 1\n", "F:2: `queue.classes.\"a b\"`"),
        ("[queue]\nstrict_classes = [\"batch\", \"batch\"]\n", "F:2: `queue.strict_classes`"),
        ("[policies.\"a b\"]\nslots = 1\n", "F:1: `policies.\"a b\"`"),
        ("[tenants.\"a/b\"]\npolicy = \"default\"\n", "F:1: `tenants.\"a/b\"`"),
    ] {
        let error = load_text(text, &[]).unwrap_err();
        assert!(error.starts_with(place), "{text}: {error}");
    }
}

#[test]
fn the_environment_sets_the_default_policy_and_the_classes_but_no_other_names() {
    let variables = [("LLAMA_GATEWAY_QUEUE_CLASSES_BATCH", "7"), ("LLAMA_GATEWAY_QUEUE_CLASSES_MINE", "2")];
    let config = load_text("[queue.classes]\nmine = 1\n", &variables).unwrap();
    assert_eq!((config.queue.classes["batch"], config.queue.classes["mine"]), (7, 2));
    for name in ["POLICIES_GOLD_SLOTS", "TENANTS_ACME_POLICY", "QUEUE_CLASSES_OTHER", "QUEUE_CLASSES"] {
        let name = format!("LLAMA_GATEWAY_{name}");
        let text = format!("{GOLD}[tenants.acme]\npolicy = \"gold\"\n");
        let error = load_text(&text, &[(&name, "1")]).unwrap_err();
        assert!(error.starts_with("environment: unknown variable"), "{error}");
    }
}

#[test]
fn a_wrong_value_is_blamed_on_whoever_set_it_last() {
    let text = "[timeouts]\nsilence = \"5s\"\n[server]\nlisten = \"127.0.0.1:1\"\n";
    let error = load_text(text, &[("LLAMA_GATEWAY_TIMEOUTS_SILENCE", "soon")]).unwrap_err();
    assert!(error.starts_with("LLAMA_GATEWAY_TIMEOUTS_SILENCE: `timeouts.silence`: `soon`"), "{error}");
    let overrides = Overrides { listen: Some("here".to_owned()), ..Overrides::default() };
    let error = load(None, std::iter::empty(), &overrides).unwrap_err().to_string();
    assert!(error.starts_with("--listen: `server.listen`"), "{error}");
    // Refused although each of its values is one.
    let error = load_text("[server]\nmax_header_bytes = 100\n", &[]).unwrap_err();
    assert!(error.starts_with("F:2: `server.max_header_bytes`: must be from"), "{error}");
}
