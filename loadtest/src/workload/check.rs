//! What types alone cannot say about the values of a workload.

use std::path::Path;
use std::time::Duration;

use super::load::nearest;
use super::place::Place;
use super::{Arrival, Distribution, Length, Slo, Surface, Tenant, Workload};
use crate::verdict::Metric;

/// Runs are in memory, as histograms; nobody wants one that is longer.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// Rates beyond which no harness on one machine sends.
const MOST_A_SECOND: f64 = 1_000_000.0;
/// Connections have ports, and an address has 65,536 of them.
const MOST_USERS: u32 = 60_000;
/// Each tenant has measures of its own in memory.
const MOST_TENANTS: usize = 1_000;
/// Bytes of a name: it becomes a file's name and a label.
const LONGEST_NAME: usize = 64;
/// Tokens of one prompt or output; no model's context is larger.
pub(crate) const MOST_TOKENS: f64 = 1_000_000.0;
/// Turns of a session: each sends all turns before it once more.
pub(crate) const MOST_TURNS: f64 = 1_000.0;
/// Fields of a body that other keys decide.
const OWN_FIELDS: [(&str, &str); 18] = [
    ("model", "model"),
    ("messages", "prompt_tokens"),
    ("system", "prefix_tokens"),
    ("instructions", "prefix_tokens"),
    ("prompt", "prompt_tokens"),
    ("input", "prompt_tokens"),
    ("query", "prompt_tokens"),
    ("documents", "prompt_tokens"),
    ("stream", "streamed"),
    ("stream_options", "streamed"),
    ("max_tokens", "output_tokens"),
    ("max_completion_tokens", "output_tokens"),
    ("max_output_tokens", "output_tokens"),
    ("n_predict", "output_tokens"),
    ("n", "arrival"),
    ("ignore_eos", "fill_output"),
    ("tools", "tools"),
    ("tool_choice", "tools"),
];

/// A key whose value cannot be used, why, and what to do.
pub(super) struct Wrong {
    pub(super) place: Place,
    pub(super) what: String,
    pub(super) hint: String,
}

type Checked = Result<(), Wrong>;

/// That `holds`; else what is wrong at `place`.
fn demand(holds: bool, place: Place, what: impl Into<String>, hint: impl Into<String>) -> Checked {
    if holds { Ok(()) } else { Err(Wrong { place, what: what.into(), hint: hint.into() }) }
}

/// Finds the first value that cannot be used.
pub(super) fn check(workload: &Workload) -> Checked {
    let whole = Place::default();
    name(whole.key("name"), &workload.name)?;
    demand(!workload.model.is_empty(), whole.key("model"), "must not be empty", "llama-server takes any name")?;
    let duration = whole.key("duration");
    demand(!workload.duration.is_zero(), duration.clone(), "must be above 0", "for example duration = \"60s\"")?;
    demand(workload.duration <= LONGEST, duration, "must be at most 30 days", "`requests` also ends a run")?;
    let warm_up = "must be shorter than `duration`";
    demand(workload.warm_up < workload.duration, whole.key("warm_up"), warm_up, "what is left is what is measured")?;
    demand(workload.drain <= LONGEST, whole.key("drain"), "must be at most 30 days", "60s is the default")?;
    let in_flight = (1..=1_000_000).contains(&workload.max_in_flight);
    demand(in_flight, whole.key("max_in_flight"), "must be from 1 to 1000000", "10000 is the default")?;
    let lag = whole.key("max_dispatch_lag");
    demand(!workload.max_dispatch_lag.is_zero(), lag, "must be above 0", "10ms is the default")?;

    let tenants = whole.key("tenants");
    let some = "add a table such as [tenants.chat]";
    demand(!workload.tenants.is_empty(), tenants.clone(), "at least one tenant is needed", some)?;
    let few = workload.tenants.len() <= MOST_TENANTS;
    demand(few, tenants.clone(), format!("at most {MOST_TENANTS} tenants"), "tenants that are alike can be one")?;
    for (name, one) in &workload.tenants {
        tenant(&tenants.key(name), name, one)?;
    }
    fairness(&whole.key("fairness"), workload)?;
    check_slo(&whole.key("slo"), &workload.slo, workload)
}

fn name(place: Place, name: &str) -> Checked {
    let is_safe = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let is_long_enough = (1..=LONGEST_NAME).contains(&name.len()) && !name.starts_with('-');
    let what = format!("a name has 1 to {LONGEST_NAME} letters, digits, `_` and `-`, and begins with no `-`");
    demand(is_safe && is_long_enough, place, what, "it becomes the name of files and labels")
}

fn tenant(place: &Place, own_name: &str, tenant: &Tenant) -> Checked {
    name(place.clone(), own_name)?;
    demand(own_name != "all", place.clone(), "no tenant is called `all`", "reports call the sum of all tenants so")?;
    name(place.key("class"), &tenant.class)?;
    positive(place.key("weight"), tenant.weight, f64::MAX)?;
    let model = tenant.model.as_ref().is_none_or(|model| !model.is_empty());
    demand(model, place.key("model"), "must not be empty", "leave it out to ask for the workload's")?;
    let variable = tenant.key_variable.as_ref();
    let both = variable.is_none() || tenant.key_file.is_none();
    demand(both, place.key("key_file"), "`key_file` and `key_variable` exclude each other", "leave one out")?;
    // Who writes the key itself here must not find it in messages.
    let named = variable.is_none_or(|name| {
        name.starts_with(|first: char| first.is_ascii_uppercase())
            && name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
    });
    let what = "a variable's name has capital letters, digits and `_`";
    demand(named, place.key("key_variable"), what, "the key itself does not belong here")?;

    arrival(&place.key("arrival"), &tenant.arrival)?;
    count(&place.key("prompt_tokens"), &tenant.prompt_tokens, MOST_TOKENS)?;
    count(&place.key("output_tokens"), &tenant.output_tokens, MOST_TOKENS)?;
    count(&place.key("turns"), &tenant.turns, MOST_TURNS)?;
    length(&place.key("turn_pause"), &tenant.turn_pause)?;
    let prefix = f64::from(tenant.prefix_tokens) <= MOST_TOKENS;
    demand(prefix, place.key("prefix_tokens"), "must be at most 1000000", "no context is larger")?;
    demand(tenant.prefixes > 0, place.key("prefixes"), "must be at least 1", "`prefix_tokens = 0` means none")?;
    surface(place, tenant)?;

    share(place.key("streamed"), tenant.streamed)?;
    demand(!tenant.timeout.is_zero(), place.key("timeout"), "must be above 0", "the official clients have 600s")?;
    demand(tenant.retries <= 100, place.key("retries"), "must be at most 100", "the official clients have 2")?;
    leavers(place, tenant)?;
    for field in tenant.fields.keys() {
        let own = OWN_FIELDS.iter().find(|(name, _)| name == field);
        let hint = own.map_or("", |(_, key)| key);
        let what = "this field is decided by another key";
        demand(own.is_none(), place.key("fields").key(field), what, format!("see `{hint}`"))?;
    }
    Ok(())
}

/// What not every API has.
fn surface(place: &Place, tenant: &Tenant) -> Checked {
    let chats = matches!(tenant.surface, Surface::Chat | Surface::Responses | Surface::Messages);
    let hint = "the surfaces chat, responses and messages have it";
    demand(chats || !tenant.tools, place.key("tools"), "this surface has no tools", hint)?;
    demand(chats || tenant.prefix_tokens == 0, place.key("prefix_tokens"), "this surface has no system prompt", hint)?;
    let one_turn = tenant.turns == Length::Fixed(1.0);
    demand(chats || one_turn, place.key("turns"), "this surface has no conversations", hint)
}

fn leavers(place: &Place, tenant: &Tenant) -> Checked {
    let (leavers, place_of) = (&tenant.leavers, place.key("leavers"));
    share(place_of.key("share"), leavers.share)?;
    let is_known_when = leavers.share == 0.0 || leavers.after_seconds.is_some() || leavers.after_tokens.is_some();
    demand(is_known_when, place_of.clone(), "when do they leave?", "give `after_seconds` or `after_tokens`")?;
    for (key, after) in [("after_seconds", &leavers.after_seconds), ("after_tokens", &leavers.after_tokens)] {
        after.as_ref().map_or(Ok(()), |after| length(&place_of.key(key), after))?;
    }
    let (slow, place_of) = (&tenant.slow_readers, place.key("slow_readers"));
    share(place_of.key("share"), slow.share)?;
    let has_pause = slow.share == 0.0 || !slow.pause.is_zero();
    demand(has_pause, place_of.key("pause"), "must be above 0", "for example pause = \"200ms\"")
}

fn arrival(place: &Place, arrival: &Arrival) -> Checked {
    let rate = |key: &str, rate: f64| positive(place.key(key), rate, MOST_A_SECOND);
    let above_zero = |key: &str, time: Duration| demand(!time.is_zero(), place.key(key), "must be above 0", "\"10s\"");
    match arrival {
        Arrival::Closed { users, think_time } => {
            let few = (1..=MOST_USERS).contains(users);
            let what = format!("must be from 1 to {MOST_USERS}");
            demand(few, place.key("users"), what, "one machine has no more connections to one address")?;
            length(&place.key("think_time"), think_time)
        }
        Arrival::Constant { rate: value } | Arrival::Poisson { rate: value } => rate("rate", *value),
        Arrival::Gamma { rate: value, shape } => {
            rate("rate", *value)?;
            positive(place.key("shape"), *shape, MOST_A_SECOND)
        }
        Arrival::Bursts { rate: value, on, off } => {
            rate("rate", *value)?;
            above_zero("on", *on)?;
            above_zero("off", *off)
        }
        Arrival::Ramp { from, to } => {
            not_negative(place.key("from"), *from, MOST_A_SECOND)?;
            not_negative(place.key("to"), *to, MOST_A_SECOND)?;
            demand(from + to > 0.0, place.clone(), "nothing is ever sent", "one of `from` and `to` is above 0")
        }
        Arrival::Steps { rates, every } => {
            let place_of = place.key("rates");
            rates.iter().try_for_each(|rate| not_negative(place_of.clone(), *rate, MOST_A_SECOND))?;
            let some = rates.iter().any(|rate| *rate > 0.0);
            demand(some, place_of, "nothing is ever sent", "for example rates = [1, 2, 4]")?;
            above_zero("every", *every)
        }
        Arrival::Trace { file, speed, .. } => {
            positive(place.key("speed"), *speed, MOST_A_SECOND)?;
            is_file(place.key("file"), file)
        }
    }
}

/// A length that counts something: what is drawn below 1 is taken as 1, but nobody writes that down.
fn count(place: &Place, value: &Length, most: f64) -> Checked {
    if let Length::Fixed(number) = value {
        let is_count = (1.0..=most).contains(number) && number.fract() == 0.0;
        return demand(
            is_count,
            place.clone(),
            format!("must be a whole number from 1 to {most}"),
            "or a table with `kind`",
        );
    }
    length(place, value)
}

fn length(place: &Place, length: &Length) -> Checked {
    let distribution = match length {
        Length::Fixed(number) => return not_negative(place.clone(), *number, f64::MAX),
        Length::Drawn(distribution) => distribution,
    };
    let bounds = |min: f64, max: f64| {
        not_negative(place.key("min"), min, f64::MAX)?;
        not_negative(place.key("max"), max, f64::MAX)?;
        demand(min <= max, place.key("max"), "must not be below `min`", "raise `max` or lower `min`")
    };
    match distribution {
        Distribution::Uniform { min, max } => bounds(*min, *max),
        Distribution::Normal { mean, deviation, min, max } => {
            bounds(*min, max.unwrap_or(f64::MAX))?;
            not_negative(place.key("mean"), *mean, f64::MAX)?;
            not_negative(place.key("deviation"), *deviation, f64::MAX)
        }
        Distribution::Lognormal { median, sigma, min, max } => {
            bounds(*min, max.unwrap_or(f64::MAX))?;
            positive(place.key("median"), *median, f64::MAX)?;
            not_negative(place.key("sigma"), *sigma, 10.0)
        }
        Distribution::Empirical { values, weights, file } => empirical(place, values, weights, file.as_deref()),
    }
}

fn empirical(place: &Place, values: &[f64], weights: &[f64], file: Option<&Path>) -> Checked {
    let one_source = values.is_empty() == file.is_some();
    demand(one_source, place.clone(), "give either `values` or `file`", "for example values = [64, 512, 4096]")?;
    values.iter().try_for_each(|value| not_negative(place.key("values"), *value, f64::MAX))?;
    weights.iter().try_for_each(|weight| not_negative(place.key("weights"), *weight, f64::MAX))?;
    let place_of = place.key("weights");
    let as_many = weights.is_empty() || weights.len() == values.len();
    demand(as_many, place_of.clone(), "must be as many as `values`", "leave them out if all values are alike")?;
    let some = weights.is_empty() || weights.iter().any(|weight| *weight > 0.0);
    demand(some, place_of, "one of them must be above 0", "leave them out if all values are alike")?;
    file.map_or(Ok(()), |file| is_file(place.key("file"), file))
}

fn fairness(place: &Place, workload: &Workload) -> Checked {
    let fairness = &workload.fairness;
    share(place.key("cached_cost"), fairness.cached_cost)?;
    not_negative(place.key("output_cost"), fairness.output_cost, f64::MAX)?;
    let Some(victim) = &fairness.victim else { return Ok(()) };
    known_tenant(place.key("victim"), victim, workload)?;
    let others = workload.tenants.len() > 1;
    demand(others, place.key("victim"), "it is the only tenant", "a victim is compared with itself beside others")?;
    demand(!fairness.baseline.is_zero(), place.key("baseline"), "must be above 0", "20s is the default")
}

/// Finds the first objective that cannot be held.
pub(super) fn check_slo(place: &Place, slo: &Slo, workload: &Workload) -> Checked {
    let (run, place) = (&slo.run, place.key("run"));
    for (key, value) in [("attainment", run.attainment), ("error_rate", run.error_rate), ("jain_index", run.jain_index)]
    {
        value.map_or(Ok(()), |value| share(place.key(key), value))?;
    }
    if let Some(ratio) = run.victim_ratio {
        positive(place.key("victim_ratio"), ratio, f64::MAX)?;
        let has_victim = workload.fairness.victim.is_some();
        demand(has_victim, place.key("victim_ratio"), "there is no victim", "name a tenant in fairness.victim")?;
    }
    run.at_most.iter().try_for_each(|(name, bound)| at_most(place.key("at_most").key(name), name, bound, workload))
}

fn at_most(place: Place, name: &str, bound: &str, workload: &Workload) -> Checked {
    match &Metric::parse(name) {
        Err(error) => demand(false, place.clone(), error.to_string(), error.hint())?,
        Ok(Metric { tenant: Some(tenant), .. }) => known_tenant(place.clone(), tenant, workload)?,
        Ok(_) => {}
    }
    let is_time = humantime::parse_duration(bound).is_ok();
    demand(is_time, place, format!("\"{bound}\" is no time"), "a time with its unit, such as \"2s\" or \"80ms\"")
}

fn known_tenant(place: Place, name: &str, workload: &Workload) -> Checked {
    let nearest = nearest(name, workload.tenants.keys().map(String::as_str));
    let hint = format!("did you mean `{nearest}`?");
    demand(workload.tenants.contains_key(name), place, format!("there is no tenant `{name}`"), hint)
}

fn share(place: Place, value: f64) -> Checked {
    demand((0.0..=1.0).contains(&value), place, "must be from 0 to 1", "0.05 is 5 %")
}

fn positive(place: Place, value: f64, most: f64) -> Checked {
    demand(value > 0.0, place.clone(), "must be above 0", "leave it out for the default")?;
    not_negative(place, value, most)
}

fn not_negative(place: Place, value: f64, most: f64) -> Checked {
    demand(value >= 0.0, place.clone(), "must be 0 or more", "negative numbers make no sense here")?;
    let what = if value.is_finite() { format!("must be at most {most}") } else { "must be finite".to_owned() };
    demand(value <= most, place, what, "this is more than one machine can do")
}

fn is_file(place: Place, file: &Path) -> Checked {
    let what = format!("there is no file {}", file.display());
    demand(file.is_file(), place, what, "a relative path begins where the workload file is")
}
