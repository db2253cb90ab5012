//! Reads a workload: a file's path or a shipped one's name in, a checked `Workload` out.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::check::{Wrong, check, check_slo};
use super::place::Place;
use super::shipped::{SHIPPED, shipped_text};
use super::{Arrival, Distribution, Length, Slo, Tenant, Workload};

/// What is wrong with a workload, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}\nhint: {hint}")]
pub struct WorkloadError {
    place: String,
    what: String,
    hint: String,
}

/// Where a workload was read from, to say where a mistake is.
pub(super) enum Source<'a> {
    /// A file with its text.
    File { name: String, text: &'a str },
    /// Flags of the command line.
    Flags,
}

impl Source<'_> {
    /// The error for a mistake.
    pub(super) fn wrong(&self, Wrong { place, what, hint }: Wrong) -> WorkloadError {
        let what = if place.is_whole() { what } else { format!("`{place}`: {what}") };
        let place = match self {
            Self::File { name, text } => {
                place.line_in(text).map_or_else(|| name.clone(), |line| format!("{name}:{line}"))
            }
            Self::Flags => "command line".to_owned(),
        };
        WorkloadError { place, what, hint }
    }
}

/// Reads and checks a workload: a shipped one by its name, else a file by its path.
///
/// # Errors
/// There is none; the file cannot be read or is no TOML; a key is unknown (the nearest known one is named) or its value
/// cannot be used. Each says where, and what to do.
pub fn load(name_or_path: &str) -> Result<Workload, WorkloadError> {
    if let Some(text) = shipped_text(name_or_path) {
        return parse(&format!("shipped workload {name_or_path}"), text, Path::new(""));
    }
    let path = Path::new(name_or_path);
    let text = std::fs::read_to_string(path).map_err(|error| {
        let is_name = path.extension().is_none() && path.components().count() == 1;
        let names = SHIPPED.map(|(name, _)| name);
        let hint = if is_name {
            format!("shipped workloads are {}; did you mean `{}`?", names.join(", "), nearest(name_or_path, names))
        } else {
            "give the path of a TOML file (docs/workloads.md)".to_owned()
        };
        let what = format!("there is no shipped workload of this name, and no file that can be read: {error}");
        WorkloadError { place: name_or_path.to_owned(), what, hint }
    })?;
    parse(name_or_path, &text, path.parent().unwrap_or(Path::new("")))
}

/// Reads and checks objectives that are to be held in place of the workload's own.
///
/// # Errors
/// As those of `load`.
pub fn load_slo(path: &Path, workload: &Workload) -> Result<Slo, WorkloadError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| WorkloadError {
        place: name.clone(),
        what: format!("cannot be read: {error}"),
        hint: "give the path of a TOML file with `[request]` and `[run]` (docs/workloads.md)".to_owned(),
    })?;
    let source = Source::File { name, text: &text };
    let slo: Slo = read(&source, &text)?;
    check_slo(&Place::default(), &slo, workload).map_err(|wrong| source.wrong(wrong))?;
    Ok(slo)
}

/// Sets one objective beside those that the workload has: `key=value`, keys as in a file of objectives (`request.ttft`,
/// `run.error_rate`), or a measure (`ttft_scheduled.p95`) for `run.at_most`.
///
/// # Errors
/// There is no such key; the value cannot be used.
pub(super) fn set_objective(workload: &mut Workload, words: &str) -> Result<(), WorkloadError> {
    let wrong =
        |what: String, hint: &str| Source::Flags.wrong(Wrong { place: Place::default(), what, hint: hint.to_owned() });
    let Some((key, value)) = words.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
        let what = format!("`{words}` is no objective: it has no `=`");
        return Err(wrong(what, "for example run.error_rate=0.01 or ttft_scheduled.p95=2s"));
    };
    // Numbers and truth values are what they are in a file; times are texts there, whose quotes a shell would take.
    let number = value.parse::<f64>().map(Value::Float);
    let value = number.or(value.parse().map(Value::Boolean)).unwrap_or_else(|_| Value::String(value.to_owned()));
    let (table, key) = match key.split_once('.') {
        Some((table @ ("request" | "run"), key)) => (vec![table], key),
        _ => (vec!["run", "at_most"], key),
    };
    let mut slo = Table::try_from(&workload.slo).map_err(|error| wrong(error.to_string(), "this is no objective"))?;
    let mut inner = &mut slo;
    for name in table {
        let next = inner.entry(name).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = next else { return Err(wrong(format!("{name} is no table"), "name a key in it")) };
        inner = next;
    }
    inner.insert(key.to_owned(), value);
    workload.slo = take(&Source::Flags, slo)?;
    check_slo(&Place::default(), &workload.slo, workload).map_err(|wrong| Source::Flags.wrong(wrong))
}

/// Reads and checks a workload from its text; relative paths in it begin at `folder`.
pub(super) fn parse(name: &str, text: &str, folder: &Path) -> Result<Workload, WorkloadError> {
    let source = Source::File { name: name.to_owned(), text };
    let mut workload: Workload = read(&source, text)?;
    workload.tenants.values_mut().for_each(|tenant| resolve_paths(tenant, folder));
    check(&workload).map_err(|wrong| source.wrong(wrong))?;
    Ok(workload)
}

fn read<T: DeserializeOwned>(source: &Source<'_>, text: &str) -> Result<T, WorkloadError> {
    let table = text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let mut wrong = source.wrong(Wrong {
            place: Place::default(),
            what: error.message().to_owned(),
            hint: "this is no TOML: texts stand in quotes, tables in [brackets]".to_owned(),
        });
        wrong.place = format!("{}:{line}", wrong.place);
        wrong
    })?;
    take(source, table)
}

fn take<T: DeserializeOwned>(source: &Source<'_>, table: Table) -> Result<T, WorkloadError> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let names = error.path().iter().filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.as_str()),
            _ => None,
        });
        source.wrong(explain(Place::of(names), error.inner().message()))
    })
}

/// Says in the file's words what serde says in Rust's. The phrases are serde's own (`serde::de::Error`).
fn explain(place: Place, message: &str) -> Wrong {
    let quoted: Vec<_> = message.split('`').skip(1).step_by(2).collect();
    match quoted.split_first() {
        // The place ends in the key itself.
        Some((key, known)) if message.starts_with("unknown field") => Wrong {
            what: "unknown key".to_owned(),
            hint: format!("did you mean `{}`?", nearest(key, known.iter().copied())),
            place,
        },
        Some((word, known)) if message.starts_with("unknown variant") => Wrong {
            what: format!("`{word}` is none of {}", known.join(", ")),
            hint: format!("did you mean `{}`?", nearest(word, known.iter().copied())),
            place,
        },
        Some((key, _)) if message.starts_with("missing field") => Wrong {
            what: format!("`{key}` is missing"),
            hint: "docs/workloads.md lists the kinds and their keys".to_owned(),
            place,
        },
        _ => {
            let what = IN_PLAIN_WORDS
                .iter()
                .fold(message.trim_end().to_owned(), |what, (rust, plain)| what.replace(rust, plain));
            Wrong { what, hint: "docs/workloads.md says what each key takes".to_owned(), place }
        }
    }
}

/// What serde calls values that it expected or found.
const IN_PLAIN_WORDS: [(&str, &str); 9] = [
    ("u64", "a whole number"),
    ("u32", "a whole number"),
    ("usize", "a whole number"),
    ("f64", "a number"),
    ("floating point", "number"),
    ("string", "text"),
    ("struct Tenant", "a table"),
    ("a map", "a table"),
    ("a sequence", "a list"),
];

/// The one of `known` that is spelled most like `wanted`.
pub(super) fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> &'a str {
    known.into_iter().min_by_key(|candidate| strsim::levenshtein(wanted, candidate)).unwrap_or_default()
}

/// Makes the tenant's paths begin where the workload file is.
fn resolve_paths(tenant: &mut Tenant, folder: &Path) {
    let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
    if let Some(file) = &mut tenant.key_file {
        resolve(file);
    }
    if let Arrival::Trace { file, .. } = &mut tenant.arrival {
        resolve(file);
    }
    for (_, length) in tenant.lengths_mut() {
        if let Length::Drawn(Distribution::Empirical { file: Some(file), .. }) = length {
            resolve(file);
        }
    }
}
