//! What types alone cannot say about the values of a configuration.

use std::path::PathBuf;
use std::time::Duration;

use super::keys::{Key, nearest};
use super::{Config, DEFAULT_POLICY, Policy, is_name, issuers, traces};

/// Bytes of a request head beyond which nothing sensible is configured; HTTP/2 takes no bound above 4 GiB.
const MOST_HEADER_BYTES: usize = 1 << 20;
/// Connections beyond which nothing sensible is configured.
const MOST_CONNECTIONS: usize = 1_000_000;
/// llama-server looks for clients who left only when nothing wakes it for a second.
const LEAST_INSPECT_INTERVAL: Duration = Duration::from_secs(2);
/// Looking at its counters more often tells nothing more.
const LEAST_AUDIT_INTERVAL: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(86_400);
/// A month: what was used of its quotas is known from the sums of its days when the gateway is started.
const LEAST_KEPT_DAYS: Duration = Duration::from_secs(31 * DAY.as_secs());
/// The longest time that can be configured: clocks end somewhere, and adding to them must not.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * DAY.as_secs());

/// A key whose value cannot be used, and why.
pub(super) struct Wrong {
    pub(super) key: Key,
    pub(super) what: String,
}

pub(super) fn wrong(key: &[&str], what: impl Into<String>) -> Result<(), Wrong> {
    Err(Wrong { key: Key::of(key), what: what.into() })
}

/// Finds the first value that cannot be used.
pub(super) fn check(config: &Config) -> Result<(), Wrong> {
    server(config)?;
    if config.upstream.urls.is_empty() {
        return wrong(&["upstream", "urls"], "at least one llama-server is needed");
    }
    if config.requests.max_output_tokens == 0 {
        return wrong(&["requests", "max_output_tokens"], "must be above 0");
    }
    durations(config)?;
    export(config)?;
    traces::check(config)?;
    retention(config)?;
    classes(config)?;
    policies(config)?;
    tenants(config)?;
    prices(config)?;
    config.issuers.iter().try_for_each(|(name, issuer)| issuers::check(config, name, issuer))
}

fn server(config: &Config) -> Result<(), Wrong> {
    let server = &config.server;
    if !(8192..=MOST_HEADER_BYTES).contains(&server.max_header_bytes) {
        return wrong(&["server", "max_header_bytes"], "must be from 8192 to 1048576");
    }
    if server.max_body_bytes == 0 {
        return wrong(&["server", "max_body_bytes"], "must be above 0");
    }
    if !(1..=MOST_CONNECTIONS).contains(&server.max_connections) {
        return wrong(&["server", "max_connections"], "must be from 1 to 1000000");
    }
    if server.listen == server.admin_listen && server.listen.port() != 0 {
        return wrong(&["server", "admin_listen"], "must not be that of `server.listen`");
    }
    if server.tls_certificate.as_os_str().is_empty() != server.tls_key.as_os_str().is_empty() {
        return wrong(&["server", "tls_certificate"], "`tls_certificate` and `tls_key` must be given together");
    }
    Ok(())
}

fn retention(config: &Config) -> Result<(), Wrong> {
    let ledger = &config.ledger;
    if !ledger.keep_entries.is_zero() && ledger.keep_entries < DAY {
        return wrong(&["ledger", "keep_entries"], "must be at least 1d, or 0s for ever");
    }
    if !ledger.keep_days.is_zero() && ledger.keep_days < LEAST_KEPT_DAYS {
        let what = "must be at least 31d, or 0s for ever: quotas of the month are made of these sums";
        return wrong(&["ledger", "keep_days"], what);
    }
    Ok(())
}

fn durations(config: &Config) -> Result<(), Wrong> {
    let (server, upstream, timeouts) = (&config.server, &config.upstream, &config.timeouts);
    let above_zero = [
        ("server", "header_timeout", server.header_timeout),
        ("server", "body_timeout", server.body_timeout),
        ("server", "slow_reader_timeout", server.slow_reader_timeout),
        ("upstream", "connect_timeout", upstream.connect_timeout),
        ("upstream", "probe_interval", upstream.probe_interval),
        ("upstream", "probe_timeout", upstream.probe_timeout),
        ("upstream", "wedged_after", upstream.wedged_after),
        ("upstream", "resolve_interval", upstream.resolve_interval),
        ("timeouts", "queue_update", timeouts.queue_update),
        ("timeouts", "first_token", timeouts.first_token),
        ("timeouts", "silence", timeouts.silence),
        ("timeouts", "total", timeouts.total),
        ("timeouts", "keep_alive", timeouts.keep_alive),
        ("ledger", "progress_interval", config.ledger.progress_interval),
        ("audit", "interval", config.audit.interval),
    ];
    if let Some((section, key, _)) = above_zero.iter().find(|(.., value)| value.is_zero()) {
        return wrong(&[section, key], "must be above zero");
    }
    if upstream.inspect_interval < LEAST_INSPECT_INTERVAL {
        return wrong(&["upstream", "inspect_interval"], "must be at least 2s");
    }
    if config.audit.interval < LEAST_AUDIT_INTERVAL {
        return wrong(&["audit", "interval"], "must be at least 5s");
    }
    let may_be_zero = [
        ("upstream", "inspect_interval", upstream.inspect_interval),
        ("server", "drain_grace", server.drain_grace),
        ("timeouts", "first_token_per_1000", timeouts.first_token_per_1000),
        ("timeouts", "early_open", timeouts.early_open),
    ];
    match above_zero.iter().chain(&may_be_zero).find(|(.., value)| *value > LONGEST) {
        Some((section, key, _)) => wrong(&[section, key], "must not be above 365 days"),
        None => Ok(()),
    }
}

fn export(config: &Config) -> Result<(), Wrong> {
    let export = &config.export;
    let (has_file, has_url) = (!export.file.as_os_str().is_empty(), !export.url.is_empty());
    if has_file && has_url {
        return wrong(&["export", "url"], "`file` and `url` cannot be given both");
    }
    if has_file && !export.file.is_absolute() {
        return wrong(&["export", "file"], "must be an absolute path");
    }
    receiver("export", &export.url, [("token_file", &export.token_file), ("ca_file", &export.ca_file)])?;
    if export.source.is_empty() || !export.source.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong(&["export", "source"], "must be a URI or a name: visible ASCII characters");
    }
    Ok(())
}

/// Checks the URL of a receiver, which may be empty, and the files that are of no use without it.
pub(super) fn receiver(section: &str, url: &str, files: [(&str, &PathBuf); 2]) -> Result<(), Wrong> {
    if url.is_empty() {
        let useless = files.iter().find(|(_, file)| !file.as_os_str().is_empty());
        return useless
            .map_or(Ok(()), |(key, _)| wrong(&[section, key], format!("is of no use without `{section}.url`")));
    }
    let parsed: Option<http::Uri> = url.parse().ok();
    let scheme = parsed.as_ref().and_then(http::Uri::scheme_str);
    if !matches!(scheme, Some("http" | "https")) {
        return wrong(&[section, "url"], "must begin with http:// or https://");
    }
    if parsed.and_then(|url| url.authority().map(|authority| authority.as_str().contains('@'))) == Some(true) {
        let what = format!("credentials do not belong into it\nhint: use `{section}.token_file`");
        return wrong(&[section, "url"], what);
    }
    Ok(())
}

pub(super) const NAMES: &str = "a name has 1 to 64 of the characters A-Z a-z 0-9 . _ -";

fn classes(config: &Config) -> Result<(), Wrong> {
    let queue = &config.queue;
    for (name, weight) in &queue.classes {
        let key = ["queue", "classes", name];
        if !is_name(name) {
            return wrong(&key, NAMES);
        }
        if *weight == 0 {
            return wrong(&key, "must be above 0");
        }
    }
    let key = ["queue", "strict_classes"];
    for (at, name) in queue.strict_classes.iter().enumerate() {
        if !queue.classes.contains_key(name) {
            return wrong(&key, no_such("class", name, queue.classes.keys()));
        }
        if queue.strict_classes[..at].contains(name) {
            return wrong(&key, format!("`{name}` stands there twice"));
        }
    }
    Ok(())
}

fn policies(config: &Config) -> Result<(), Wrong> {
    // What the default has, the others may have from it: it is to blame first.
    let default = config.policies.get_key_value(DEFAULT_POLICY);
    default.into_iter().chain(&config.policies).try_for_each(|(name, of)| policy(config, name, of))
}

fn policy(config: &Config, name: &str, policy: &Policy) -> Result<(), Wrong> {
    let key = |key| ["policies", name, key];
    if !is_name(name) {
        return wrong(&["policies", name], NAMES);
    }
    if let Some(class) = &policy.class
        && !config.queue.classes.contains_key(class)
    {
        return wrong(&key("class"), no_such("class", class, config.queue.classes.keys()));
    }
    if policy.weight == 0 {
        return wrong(&key("weight"), "must be above 0");
    }
    if policy.default_output_tokens == 0 {
        return wrong(&key("default_output_tokens"), "must be above 0");
    }
    if policy.max_queue_wait > LONGEST {
        return wrong(&key("max_queue_wait"), "must not be above 365 days");
    }
    Ok(())
}

fn tenants(config: &Config) -> Result<(), Wrong> {
    for (name, tenant) in &config.tenants {
        if !is_name(name) {
            return wrong(&["tenants", name], NAMES);
        }
        for (key, policy) in [("policy", Some(&tenant.policy)), ("key_policy", tenant.key_policy.as_ref())] {
            if let Some(policy) = policy.filter(|policy| !config.policies.contains_key(*policy)) {
                return wrong(&["tenants", name, key], no_such("policy", policy, config.policies.keys()));
            }
        }
    }
    Ok(())
}

fn prices(config: &Config) -> Result<(), Wrong> {
    let currency = &config.billing.currency;
    if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return wrong(&["billing", "currency"], "must be three capital letters, such as USD");
    }
    for (name, table) in &config.prices {
        if !is_name(name) {
            return wrong(&["prices", name], NAMES);
        }
        if table.model.is_empty() {
            return wrong(&["prices", name, "model"], "must not be empty");
        }
        let before = config.prices.iter().take_while(|(other, _)| *other != name);
        if let Some((other, _)) =
            before.into_iter().find(|(_, of)| (&of.model, of.since) == (&table.model, table.since))
        {
            let what = format!("`prices.{other}` has the same model from the same day on");
            return wrong(&["prices", name, "since"], what);
        }
    }
    Ok(())
}

/// Says that there is no such thing, and what there is.
pub(crate) fn no_such<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let nearest = nearest(name, known.map(String::as_str));
    format!("there is no {what} `{}`\nhint: did you mean `{nearest}`?", name.escape_debug())
}
