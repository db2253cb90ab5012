//! The parameters, from the environment: a pod gets them from its ConfigMap. An empty value is none.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::fault::Fault;
use crate::retry::Patience;

/// Which model it is: it says where its files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// `owner/name`, checked.
    pub repo: String,
    /// Such as `UD-TQ1_0`, checked.
    pub quant: String,
}

/// What to fetch, where to, and how.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// Which model.
    pub model: Model,
    /// Branch, tag or commit.
    pub revision: String,
    /// Where the volume is mounted.
    pub models_dir: PathBuf,
    /// Hugging Face or a mirror of it.
    pub endpoint: Url,
    /// Where a token is, if there is one.
    pub token_file: PathBuf,
    /// Further root certificates.
    pub ca_file: Option<PathBuf>,
    /// Files that are loaded at the same time.
    pub connections: usize,
    /// No network: the volume was filled by others.
    pub offline: bool,
    /// Other models may be deleted when the new one does not fit.
    pub prune: bool,
    /// Bytes of the volume that stay free.
    pub keep_free: u64,
    /// When a silent connection is given up, and how often.
    pub patience: Patience,
}

impl Model {
    /// The directory of the repository below the volume.
    pub fn repo_dir(&self) -> String {
        self.repo.replace('/', "--")
    }

    fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, Fault> {
        const REPO: &str = "set MODEL_REPO=owner/name, as in the address of the model on huggingface.co";
        const QUANT: &str = "set QUANT_TYPE to one of the repository, such as UD-TQ1_0 or mxfp4";
        let bad = |name, hint| move |problem: &str| Fault::Parameter { name, problem: problem.to_owned(), hint };
        let repo = value(get, "MODEL_REPO").ok_or_else(|| bad("MODEL_REPO", REPO)("is not set"))?;
        let well_formed = repo.split_once('/').is_some_and(|(owner, name)| is_plain(owner) && is_plain(name));
        // The directory's name is the repository's with `--` for `/`: it must not stand in either part.
        if !well_formed || repo.contains("--") {
            return Err(bad("MODEL_REPO", REPO)(&format!("{repo:?} is not a repository")));
        }
        let quant = value(get, "QUANT_TYPE").ok_or_else(|| bad("QUANT_TYPE", QUANT)("is not set"))?;
        if !is_plain(&quant) {
            return Err(bad("QUANT_TYPE", QUANT)(&format!("{quant:?} is not a quantisation")));
        }
        Ok(Self { repo, quant })
    }
}

impl Parameters {
    /// Reads all of them with `get`, which is the environment.
    ///
    /// # Errors
    /// When one is missing or makes no sense.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, Fault> {
        let text = |name, default: &str| value(get, name).unwrap_or_else(|| default.to_owned());
        let endpoint = text("HF_ENDPOINT", "https://huggingface.co");
        let endpoint = Url::parse(&endpoint).ok().filter(is_endpoint);
        let endpoint = endpoint.ok_or_else(|| Fault::Parameter {
            name: "HF_ENDPOINT",
            // Not the value: it may hold a password.
            problem: "is not an address, or has a user or a query in it".to_owned(),
            hint: "set the mirror's address, such as https://mirror.example.com, or leave it unset for Hugging Face; \
                   what it wants to know of the user goes into HF_TOKEN_FILE",
        })?;
        Ok(Self {
            model: Model::read(get)?,
            revision: text("MODEL_REVISION", "main"),
            models_dir: models_dir(get),
            endpoint,
            token_file: text("HF_TOKEN_FILE", "/run/secrets/huggingface/HF_TOKEN").into(),
            ca_file: value(get, "CA_FILE").map(PathBuf::from),
            connections: usize::try_from(number(get, "FETCH_CONNECTIONS", 4, 1..=64)?).unwrap_or(1),
            offline: switch(get, "FETCH_OFFLINE")?,
            prune: switch(get, "FETCH_PRUNE")?,
            keep_free: number(get, "KEEP_FREE_GIB", 2, 0..=1 << 30)? << 30,
            patience: Patience {
                stall: Duration::from_secs(number(get, "FETCH_STALL_SECONDS", 60, 1..=3600)?),
                attempts: u32::try_from(number(get, "FETCH_ATTEMPTS", 10, 1..=1000)?).unwrap_or(1),
                ..Patience::default()
            },
        })
    }
}

/// The volume alone, for what is done without a model.
pub fn models_dir(get: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    value(get, "MODELS_DIR").unwrap_or_else(|| "/models".to_owned()).into()
}

/// The model alone, if one is named.
pub fn configured_model(get: &dyn Fn(&str) -> Option<String>) -> Option<Model> {
    Model::read(get).ok()
}

/// Addresses are made from it and shown: a password must not be in it.
fn is_endpoint(url: &Url) -> bool {
    let plain = url.query().is_none() && url.fragment().is_none();
    matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none() && plain
}

/// The longest name. File systems allow 255 bytes, and a partial file's name is longer.
const LONGEST_NAME: usize = 200;

/// A name that is no path and hides nothing: it becomes part of one.
pub fn is_plain(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
}

fn value(get: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn number(
    get: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, Fault> {
    let Some(text) = value(get, name) else { return Ok(default) };
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| Fault::Parameter {
        name,
        problem: format!("{text:?} is not a whole number from {} to {}", range.start(), range.end()),
        hint: "leave it unset for the default",
    })
}

fn switch(get: &dyn Fn(&str) -> Option<String>, name: &'static str) -> Result<bool, Fault> {
    match value(get, name).as_deref() {
        None | Some("0" | "false") => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(other) => Err(Fault::Parameter {
            name,
            problem: format!("{other:?} is neither 1 nor 0"),
            hint: "set 1 or leave it unset",
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Parameters, Fault> {
        let mut map = HashMap::from([("MODEL_REPO", "ggml-org/gpt-oss-20b-GGUF"), ("QUANT_TYPE", "mxfp4")]);
        map.extend(pairs.iter().copied());
        Parameters::read(&|name| map.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn what_is_not_set_or_empty_has_its_default() {
        let parameters = read(&[("MODEL_REVISION", " "), ("FETCH_CONNECTIONS", ""), ("CA_FILE", "")]).unwrap();
        assert_eq!(parameters.model.repo_dir(), "ggml-org--gpt-oss-20b-GGUF");
        assert_eq!(parameters.revision, "main");
        assert_eq!(parameters.models_dir, PathBuf::from("/models"));
        assert_eq!(parameters.endpoint.as_str(), "https://huggingface.co/");
        assert_eq!(parameters.token_file, PathBuf::from("/run/secrets/huggingface/HF_TOKEN"));
        assert_eq!((parameters.ca_file, parameters.connections), (None, 4));
        assert_eq!((parameters.offline, parameters.prune, parameters.keep_free), (false, false, 2 << 30));
        assert_eq!((parameters.patience.stall, parameters.patience.attempts), (Duration::from_secs(60), 10));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (name, text) in [
            ("MODEL_REPO", ""),
            ("MODEL_REPO", "name"),
            ("MODEL_REPO", "a/b/c"),
            ("MODEL_REPO", "../b"),
            ("MODEL_REPO", "a/.."),
            ("MODEL_REPO", "a--b/c"),
            ("QUANT_TYPE", ""),
            ("QUANT_TYPE", "../x"),
            ("QUANT_TYPE", "a b"),
            ("HF_ENDPOINT", "huggingface.co"),
            ("HF_ENDPOINT", "ftp://mirror"),
            ("FETCH_CONNECTIONS", "0"),
            ("FETCH_CONNECTIONS", "four"),
            ("FETCH_OFFLINE", "yes"),
            ("FETCH_PRUNE", "2"),
            ("KEEP_FREE_GIB", "-1"),
            ("FETCH_STALL_SECONDS", "0"),
            ("FETCH_ATTEMPTS", "0"),
        ] {
            let fault = read(&[(name, text)]).unwrap_err();
            assert_eq!(fault.exit_code(), 2, "{name}={text}");
            let told = fault.to_string();
            assert!(told.starts_with(&format!("{name}: ")) && told.contains("; hint: "), "{told}");
        }
    }

    #[test]
    fn an_address_with_a_password_is_refused_and_not_repeated() {
        for address in ["https://user:secret@mirror", "https://:secret@mirror", "https://mirror/?key=secret"] {
            let told = read(&[("HF_ENDPOINT", address)]).unwrap_err().to_string();
            assert!(told.starts_with("HF_ENDPOINT: ") && !told.contains("secret"), "{told}");
        }
    }
}
