//! Puts the layers of the configuration on top of each other and says what is wrong and where.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::Config;

/// The lowest layer, and the list of all keys that exist.
const DEFAULTS: &str = include_str!("../../config.default.toml");
/// What every environment variable of the gateway starts with.
const ENVIRONMENT_PREFIX: &str = "LLAMA_GATEWAY_";
/// Tables whose keys are free: surface labels and class names, checked where they are used.
const FREE_TABLES: [&str; 2] = ["requests.extra_fields", "queue.classes"];
/// Keys of one tenant; the default file names no tenant.
const TENANT_KEYS: [&str; 2] = ["policy", "key_policy"];

/// Bytes of a request head beyond which nothing sensible is configured; HTTP/2 takes no bound above 4 GiB.
const MOST_HEADER_BYTES: usize = 1 << 20;
/// Connections beyond which nothing sensible is configured.
const MOST_CONNECTIONS: usize = 1_000_000;
/// llama-server looks for clients who left only when nothing wakes it for a second.
const LEAST_INSPECT_INTERVAL: Duration = Duration::from_secs(2);
/// The longest time that can be configured: clocks end somewhere, and adding to them must not.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// What is wrong with the configuration, and where.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ConfigError {
    place: String,
    what: String,
}

impl ConfigError {
    /// An error at a place: a file with its line, an environment variable, a key.
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

/// What the command line sets: the highest layer.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--upstream`, as often as given.
    pub upstream: Vec<String>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--admin-listen`
    pub admin_listen: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
}

/// Reads the configuration: defaults, then `file`, then `environment`, then `overrides`.
///
/// # Errors
/// Unreadable or malformed file, unknown key (the nearest known one is named), wrong type, value out of bounds.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Config, ConfigError> {
    let mut merged = parse("built-in defaults", DEFAULTS)?;
    let known = leaves(&merged);
    let mut source = None;
    if let Some(path) = file {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::new(&place, format!("cannot be read: {error}")))?;
        let table = parse(&place, &text)?;
        refuse_unknown(&table, &known, &place, &text)?;
        merge(&mut merged, table);
        source = Some((place, text));
    }
    apply_environment(&mut merged, environment, &known)?;
    complete_policies(&mut merged);
    apply_overrides(&mut merged, overrides);
    let config: Config = serde_path_to_error::deserialize(merged).map_err(|error| {
        let key = error.path().to_string();
        let place = match &source {
            Some((place, text)) => line_of(text, &key).map(|line| format!("{place}:{line}")),
            None => None,
        };
        let what = error.into_inner().message().to_owned();
        ConfigError::new(place.unwrap_or_else(|| "configuration".into()), format!("`{key}`: {what}"))
    })?;
    check(&config)?;
    Ok(config)
}

fn parse(place: &str, text: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        ConfigError::new(format!("{place}:{line}"), error.message().to_owned())
    })
}

/// Dotted paths of all keys that hold a value.
fn leaves(table: &Table) -> Vec<String> {
    let mut paths = Vec::new();
    collect_leaves(table, "", &mut paths);
    paths
}

fn collect_leaves(table: &Table, prefix: &str, paths: &mut Vec<String>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) if !FREE_TABLES.contains(&path.as_str()) => collect_leaves(inner, &path, paths),
            _ => paths.push(path),
        }
    }
}

fn refuse_unknown(table: &Table, known: &[String], place: &str, text: &str) -> Result<(), ConfigError> {
    for path in leaves(table) {
        if known.contains(&path) || is_named(&path, known) {
            continue;
        }
        let line = line_of(text, &path).unwrap_or(1);
        let hint = nearest(&path, known);
        return Err(ConfigError::new(
            format!("{place}:{line}"),
            format!("unknown key `{path}`\nhint: did you mean `{hint}`?"),
        ));
    }
    Ok(())
}

/// Whether this is a key of a policy or a tenant that the file names.
fn is_named(path: &str, known: &[String]) -> bool {
    match path.split('.').collect::<Vec<_>>()[..] {
        ["policies", _, key] => known.iter().any(|path| path.strip_prefix("policies.default.") == Some(key)),
        ["tenants", _, key] => TENANT_KEYS.contains(&key),
        // An empty table: a tenant with the default policy, a policy like the default one.
        ["policies" | "tenants", _] => true,
        _ => false,
    }
}

/// Policies take from `default` what they do not say.
fn complete_policies(merged: &mut Table) {
    let Some(Value::Table(policies)) = merged.get_mut("policies") else { return };
    let Some(Value::Table(default)) = policies.get(super::DEFAULT_POLICY).cloned() else { return };
    for policy in policies.iter_mut().filter_map(|(_, policy)| policy.as_table_mut()) {
        let said = std::mem::replace(policy, default.clone());
        merge(policy, said);
    }
}

fn apply_environment(
    merged: &mut Table,
    environment: impl Iterator<Item = (String, String)>,
    known: &[String],
) -> Result<(), ConfigError> {
    let names: Vec<String> = known.iter().map(|path| variable_of(path)).collect();
    for (name, text) in environment {
        if !name.starts_with(ENVIRONMENT_PREFIX) {
            continue;
        }
        if is_of_kubernetes(&name) {
            continue;
        }
        let Some(path) = names.iter().position(|known| *known == name).map(|at| &known[at]) else {
            let hint = nearest(&name, &names);
            return Err(ConfigError::new(
                "environment",
                format!("unknown variable `{name}`\nhint: did you mean `{hint}`?"),
            ));
        };
        let Some(slot) = at(merged, path) else {
            return Err(ConfigError::new(name, "cannot be set from the environment".to_owned()));
        };
        *slot = typed(&name, &text, slot)?;
    }
    Ok(())
}

fn at<'t>(table: &'t mut Table, path: &str) -> Option<&'t mut Value> {
    let (section, rest) = path.split_once('.')?;
    let section = table.get_mut(section)?;
    rest.split('.').try_fold(section, |value, key| value.get_mut(key))
}

/// Kubernetes tells each pod of the services around it. Where the gateway's own is called `llama-gateway`, those
/// variables begin like ours: `LLAMA_GATEWAY_SERVICE_HOST`, `LLAMA_GATEWAY_PORT_8080_TCP_ADDR`.
fn is_of_kubernetes(name: &str) -> bool {
    name.strip_prefix(ENVIRONMENT_PREFIX).is_some_and(|rest| {
        rest == "PORT"
            || rest.starts_with("PORT_")
            || rest.starts_with("SERVICE_HOST")
            || rest.starts_with("SERVICE_PORT")
    })
}

/// Reads `text` as the type that the default has.
fn typed(name: &str, text: &str, like: &Value) -> Result<Value, ConfigError> {
    match like {
        Value::Integer(_) => text
            .parse()
            .map(Value::Integer)
            .map_err(|_| ConfigError::new(name, format!("`{text}` is not a whole number"))),
        Value::Boolean(_) => text
            .parse()
            .map(Value::Boolean)
            .map_err(|_| ConfigError::new(name, format!("`{text}` is neither true nor false"))),
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        Value::String(_) => Ok(Value::String(text.to_owned())),
        _ => Err(ConfigError::new(name, "cannot be set from the environment".to_owned())),
    }
}

fn apply_overrides(merged: &mut Table, overrides: &Overrides) {
    let mut set = |section: &str, key: &str, value: Value| {
        if let Some(slot) = merged.get_mut(section).and_then(|table| table.get_mut(key)) {
            *slot = value;
        }
    };
    if !overrides.upstream.is_empty() {
        set("upstream", "urls", Value::Array(overrides.upstream.iter().cloned().map(Value::String).collect()));
    }
    if let Some(listen) = &overrides.listen {
        set("server", "listen", Value::String(listen.clone()));
    }
    if let Some(listen) = &overrides.admin_listen {
        set("server", "admin_listen", Value::String(listen.clone()));
    }
    if let Some(directory) = &overrides.data_dir {
        set("server", "data_dir", Value::String(directory.display().to_string()));
    }
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// What types alone cannot say.
fn check(config: &Config) -> Result<(), ConfigError> {
    let wrong = |key: &str, what: &str| Err(ConfigError::new(format!("`{key}`"), what.to_owned()));
    let server = &config.server;
    if !(8192..=MOST_HEADER_BYTES).contains(&server.max_header_bytes) {
        return wrong("server.max_header_bytes", "must be from 8192 to 1048576");
    }
    if server.max_body_bytes == 0 {
        return wrong("server.max_body_bytes", "must be above 0");
    }
    if !(1..=MOST_CONNECTIONS).contains(&server.max_connections) {
        return wrong("server.max_connections", "must be from 1 to 1000000");
    }
    if server.listen == server.admin_listen && server.listen.port() != 0 {
        return wrong("server.admin_listen", "must not be that of `server.listen`");
    }
    if server.tls_certificate.as_os_str().is_empty() != server.tls_key.as_os_str().is_empty() {
        return wrong("server.tls_certificate", "`tls_certificate` and `tls_key` must be given together");
    }
    if config.upstream.urls.is_empty() {
        return wrong("upstream.urls", "at least one llama-server is needed");
    }
    if config.requests.max_output_tokens == 0 {
        return wrong("requests.max_output_tokens", "must be above 0");
    }
    let durations = [
        ("server.header_timeout", server.header_timeout),
        ("server.body_timeout", server.body_timeout),
        ("server.slow_reader_timeout", server.slow_reader_timeout),
        ("upstream.connect_timeout", config.upstream.connect_timeout),
        ("upstream.probe_interval", config.upstream.probe_interval),
        ("upstream.probe_timeout", config.upstream.probe_timeout),
        ("upstream.wedged_after", config.upstream.wedged_after),
        ("upstream.resolve_interval", config.upstream.resolve_interval),
        ("timeouts.queue_update", config.timeouts.queue_update),
        ("timeouts.first_token", config.timeouts.first_token),
        ("timeouts.silence", config.timeouts.silence),
        ("timeouts.total", config.timeouts.total),
        ("timeouts.keep_alive", config.timeouts.keep_alive),
        ("ledger.progress_interval", config.ledger.progress_interval),
    ];
    if let Some((key, _)) = durations.iter().find(|(_, value)| value.is_zero()) {
        return wrong(key, "must be above zero");
    }
    if config.upstream.inspect_interval < LEAST_INSPECT_INTERVAL {
        return wrong("upstream.inspect_interval", "must be at least 2s");
    }
    let waits = config.policies.values().map(|policy| ("policies.*.max_queue_wait", policy.max_queue_wait));
    let may_be_zero = [
        ("upstream.inspect_interval", config.upstream.inspect_interval),
        ("server.drain_grace", server.drain_grace),
        ("timeouts.first_token_per_1000", config.timeouts.first_token_per_1000),
        ("timeouts.early_open", config.timeouts.early_open),
    ];
    match durations.into_iter().chain(may_be_zero).chain(waits).find(|(_, value)| *value > LONGEST) {
        Some((key, _)) => wrong(key, "must not be above 365 days"),
        None => Ok(()),
    }
}

fn variable_of(path: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", path.replace('.', "_").to_uppercase())
}

/// The line, from 1, on which the file sets the dotted key `path`.
fn line_of(text: &str, path: &str) -> Option<usize> {
    let (section, key) = path.rsplit_once('.')?;
    let mut current = "";
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            current = header.trim();
        } else if let Some((name, _)) = line.split_once('=') {
            let name = name.trim();
            if (current == section && name == key) || (current.is_empty() && name == path) {
                return Some(number + 1);
            }
        }
    }
    None
}

fn nearest<'a>(wanted: &str, known: &'a [String]) -> &'a str {
    known.iter().min_by_key(|candidate| distance(wanted, candidate)).map_or("", String::as_str)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
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
        let names =
            ["PORT", "PORT_8080_TCP", "PORT_8080_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP"];
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
        ] {
            assert!(load_text(text, &[]).is_err(), "{text}");
        }
    }
}
