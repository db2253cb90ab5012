//! Whether two reports are of the same thing.

use serde_json::Value;

use crate::report::Report;

/// What differs beside the measures.
#[derive(Default)]
pub(super) struct Likeness {
    /// What makes the measures incomparable.
    pub(super) forbidding: Vec<String>,
    /// What the reader should know.
    pub(super) notes: Vec<String>,
}

/// Keys of the workload that are allowed to differ, and are told: how long it was run, with what luck, which model, and
/// what the run was held to. `/tenants/*/...` is one of any tenant.
const ALLOWED: [&str; 15] = [
    "/name",
    "/question",
    "/seed",
    "/model",
    "/duration",
    "/requests",
    "/warm_up",
    "/drain",
    "/max_in_flight",
    "/max_dispatch_lag",
    "/slo/run",
    "/fairness",
    "/tenants/*/model",
    "/tenants/*/key_file",
    "/tenants/*/key_variable",
];

/// Differences between the heads of two reports: A, B.
pub(super) fn of(a: &Report, b: &Report) -> Likeness {
    let mut likeness = Likeness::default();
    let json = |report: &Report| serde_json::to_value(&report.workload).unwrap_or_default();
    let mut differences = Vec::new();
    differ("", &json(a), &json(b), &mut differences);
    for (place, a, b) in differences {
        let told = format!("workload{}: {a} in A, {b} in B", place.replace('/', "."));
        let list = if is_allowed(&place) { &mut likeness.notes } else { &mut likeness.forbidding };
        list.push(told);
    }
    let mut note = |what: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
        let (a, b) = (format!("{a:?}"), format!("{b:?}"));
        if a != b {
            likeness.notes.push(format!("{what}: {a} in A, {b} in B"));
        }
    };
    note("harness", &a.harness, &b.harness);
    note("target", &a.target.url, &b.target.url);
    note("llama-server's build", &a.target.build, &b.target.build);
    note("slots", &a.target.slots, &b.target.slots);
    note("prompts sized by the tokenizer", &a.target.exact_prompts, &b.target.exact_prompts);
    likeness
}

fn is_allowed(place: &str) -> bool {
    let place = match place.strip_prefix("/tenants/").and_then(|rest| rest.split_once('/')) {
        Some((_, key)) => format!("/tenants/*/{key}"),
        None => place.to_owned(),
    };
    ALLOWED
        .iter()
        .any(|allowed| place.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Collects where two values differ: the place, and what is there in A and in B.
fn differ(place: &str, a: &Value, b: &Value, found: &mut Vec<(String, String, String)>) {
    match (a, b) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let (a, b) = (one.get(key).unwrap_or(&Value::Null), other.get(key).unwrap_or(&Value::Null));
                differ(&format!("{place}/{key}"), a, b, found);
            }
        }
        _ if a == b => {}
        _ => found.push((place.to_owned(), short(a), short(b))),
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Object(_) | Value::Array(_) => "another".to_owned(),
        other => other.to_string(),
    }
}
