//! Puts the layers of the configuration on top of each other and says what is wrong and where.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::check::{Wrong, check};
use super::keys::{Key, leaves, nearest};
use super::{Config, DEFAULT_POLICY, Issuer, Policy};

/// The lowest layer, and the list of all keys that exist.
const DEFAULTS: &str = include_str!("../../config.default.toml");
/// What every environment variable of the gateway starts with.
const ENVIRONMENT_PREFIX: &str = "LLAMA_GATEWAY_";
/// Tables whose keys are free: surface labels, checked where they are used, and class names.
const FREE_TABLES: [&[&str]; 2] = [&["requests", "extra_fields"], &["queue", "classes"]];
/// Keys of one tenant; the default file names no tenant.
const TENANT_KEYS: [&str; 2] = ["policy", "key_policy"];
/// Tables within an issuer whose keys are free: values and names of claims.
const ISSUER_TABLES: [&str; 2] = ["tenants", "required_claims"];
/// Keys of one price table; the default file has none.
const PRICE_KEYS: [&str; 6] = ["model", "since", "prompt", "cached", "output", "slot_second"];

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

/// Where values that are not defaults come from.
#[derive(Default)]
struct Sources {
    /// The file's name and its text.
    file: Option<(String, String)>,
    /// Environment variables and flags, the stronger ones last.
    above: Vec<(Key, String)>,
}

impl Sources {
    /// Where the value of a key comes from, as far as that is known.
    fn of(&self, key: &Key) -> String {
        if let Some((_, name)) = self.above.iter().rev().find(|(set, _)| set == key) {
            return name.clone();
        }
        let line = self.file.as_ref().and_then(|(place, text)| Some(format!("{place}:{}", key.line_in(text)?)));
        line.unwrap_or_else(|| "configuration".to_owned())
    }

    fn wrong(&self, Wrong { key, what }: Wrong) -> ConfigError {
        ConfigError::new(self.of(&key), format!("`{key}`: {what}"))
    }
}

/// Reads the configuration: defaults, then `file`, then `environment`, then `overrides`.
///
/// # Errors
/// Unreadable or malformed file, unknown key (the nearest known one is named), wrong type, value out of bounds, a
/// name of something that is not configured.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Config, ConfigError> {
    let mut merged = parse("built-in defaults", DEFAULTS)?;
    let mut sources = Sources::default();
    if let Some(path) = file {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::new(&place, format!("cannot be read: {error}")))?;
        let table = parse(&place, &text)?;
        refuse_unknown(&table, &leaves(&merged, &FREE_TABLES), &place, &text)?;
        merge(&mut merged, table);
        sources.file = Some((place, text));
    }
    apply_environment(&mut merged, environment, &mut sources)?;
    // Before the others take from it: what is wrong there is to be blamed on it.
    let default = merged.get("policies").and_then(|policies| policies.get(DEFAULT_POLICY)).cloned();
    default.map(|default| read::<Policy>(default, &["policies", DEFAULT_POLICY], &sources)).transpose()?;
    complete_policies(&mut merged);
    apply_overrides(&mut merged, overrides, &mut sources);
    let config: Config = read(Value::Table(merged), &[], &sources)?;
    check(&config).map_err(|wrong| sources.wrong(wrong))?;
    Ok(config)
}

/// Reads what lies at the key `outer`.
fn read<T: DeserializeOwned>(value: Value, outer: &[&str], sources: &Sources) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_owned();
        let inner = path.iter().filter_map(|segment| match segment {
            serde_path_to_error::Segment::Map { key } => Some(key.as_str()),
            _ => None,
        });
        let key = Key::of(&outer.iter().copied().chain(inner).collect::<Vec<_>>());
        sources.wrong(Wrong { key, what: error.into_inner().message().to_owned() })
    })
}

fn parse(place: &str, text: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        ConfigError::new(format!("{place}:{line}"), error.message().to_owned())
    })
}

fn refuse_unknown(table: &Table, known: &[Key], place: &str, text: &str) -> Result<(), ConfigError> {
    for key in leaves(table, &FREE_TABLES) {
        let keys_of_name = named(&key, known);
        // A policy that is no table is known, but of the wrong type.
        let is_name = !keys_of_name.is_empty() && key.names().len() == 2;
        if is_name || known.contains(&key) || keys_of_name.contains(&key) {
            continue;
        }
        let candidates: Vec<_> = known.iter().chain(&keys_of_name).map(Key::to_string).collect();
        let hint = nearest(&key.to_string(), candidates.iter().map(String::as_str));
        let place = key.line_in(text).map_or_else(|| place.to_owned(), |line| format!("{place}:{line}"));
        return Err(ConfigError::new(place, format!("unknown key `{key}`\nhint: did you mean `{hint}`?")));
    }
    Ok(())
}

/// The keys of the policy, the tenant, the issuer or the price table that this key is about.
fn named(key: &Key, known: &[Key]) -> Vec<Key> {
    match key.names()[..] {
        ["policies", name, ..] => {
            let of_default = known.iter().filter_map(|known| match known.names()[..] {
                ["policies", DEFAULT_POLICY, key] => Some(Key::of(&["policies", name, key])),
                _ => None,
            });
            of_default.collect()
        }
        ["tenants", name, ..] => TENANT_KEYS.iter().map(|key| Key::of(&["tenants", name, key])).collect(),
        ["issuers", name, table, value] if ISSUER_TABLES.contains(&table) => {
            vec![Key::of(&["issuers", name, table, value])]
        }
        ["issuers", name, ..] => Issuer::KEYS.iter().map(|key| Key::of(&["issuers", name, key])).collect(),
        ["prices", name, ..] => PRICE_KEYS.iter().map(|key| Key::of(&["prices", name, key])).collect(),
        _ => Vec::new(),
    }
}

/// Policies take from `default` what they do not say, but for the class: where a key's policy names none, that of its
/// tenant is meant.
fn complete_policies(merged: &mut Table) {
    let Some(Value::Table(policies)) = merged.get_mut("policies") else { return };
    let Some(Value::Table(mut default)) = policies.get(DEFAULT_POLICY).cloned() else { return };
    default.remove("class");
    for policy in policies.iter_mut().filter_map(|(_, policy)| policy.as_table_mut()) {
        let said = std::mem::replace(policy, default.clone());
        merge(policy, said);
    }
}

fn apply_environment(
    merged: &mut Table,
    environment: impl Iterator<Item = (String, String)>,
    sources: &mut Sources,
) -> Result<(), ConfigError> {
    // Other policies, tenants, issuers and price tables have names that a variable could not spell.
    let has_variable = |key: &Key| match key.names()[..] {
        ["policies", name, ..] => name == DEFAULT_POLICY,
        ["tenants" | "issuers" | "prices", ..] => false,
        _ => true,
    };
    let keys = leaves(merged, &FREE_TABLES[..1]).into_iter().filter(has_variable);
    let known: Vec<_> = keys.map(|key| (key.variable(ENVIRONMENT_PREFIX), key)).collect();
    for (name, text) in environment {
        if !name.starts_with(ENVIRONMENT_PREFIX) || is_of_kubernetes(&name) {
            continue;
        }
        let Some((_, key)) = known.iter().find(|(variable, _)| *variable == name) else {
            let hint = nearest(&name, known.iter().map(|(variable, _)| variable.as_str()));
            return Err(ConfigError::new(
                "environment",
                format!("unknown variable `{name}`\nhint: did you mean `{hint}`?"),
            ));
        };
        let Some(slot) = key.value_in(merged) else {
            return Err(ConfigError::new(name, "cannot be set from the environment".to_owned()));
        };
        *slot = typed(&name, &text, slot)?;
        sources.above.push((key.clone(), name));
    }
    Ok(())
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
        Value::Float(_) => {
            text.parse().map(Value::Float).map_err(|_| ConfigError::new(name, format!("`{text}` is not a number")))
        }
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

fn apply_overrides(merged: &mut Table, overrides: &Overrides, sources: &mut Sources) {
    let mut set = |names: &[&str], flag: &str, value: Option<Value>| {
        let key = Key::of(names);
        if let (Some(value), Some(slot)) = (value, key.value_in(merged)) {
            *slot = value;
            sources.above.push((key, flag.to_owned()));
        }
    };
    let text = |text: &Option<String>| text.clone().map(Value::String);
    let urls = || Value::Array(overrides.upstream.iter().cloned().map(Value::String).collect());
    set(&["upstream", "urls"], "--upstream", (!overrides.upstream.is_empty()).then(urls));
    set(&["server", "listen"], "--listen", text(&overrides.listen));
    set(&["server", "admin_listen"], "--admin-listen", text(&overrides.admin_listen));
    let directory = overrides.data_dir.as_ref().map(|directory| Value::String(directory.display().to_string()));
    set(&["server", "data_dir"], "--data-dir", directory);
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            // A whole number where any is wanted: what the environment says may be another one.
            (Some(Value::Float(base)), Value::Integer(over)) => *base = over as f64,
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
