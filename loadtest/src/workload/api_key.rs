//! Where a tenant's API key comes from: a file or the environment, never the workload file itself.

use std::path::PathBuf;

use super::Tenant;

/// The variable that holds the key of every tenant that has none of its own.
const SHARED_VARIABLE: &str = "LOADTEST_KEY";

/// Why there is no key. Keys themselves are in no message.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("tenants.{tenant}: the key file {path} cannot be read: {error}\nhint: it holds one key and nothing else")]
    Unreadable {
        /// Whose.
        tenant: String,
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// No variable is set.
    #[error("tenants.{tenant}: no API key\nhint: set {variables}, or `key_file` in the workload")]
    Missing {
        /// Whose.
        tenant: String,
        /// Those that were looked for.
        variables: String,
    },
    /// What was found cannot be sent in a header.
    #[error(
        "tenants.{tenant}: the API key from {from} is empty or has characters that no header can carry\n\
         hint: it must be one word of visible ASCII characters"
    )]
    Unusable {
        /// Whose.
        tenant: String,
        /// The file or the variable.
        from: String,
    },
}

impl Tenant {
    /// The API key: of `key_file`, else of the variable `key_variable`, else of `LOADTEST_KEY_` and the tenant's name
    /// in capitals with `_` for `-`, else of `LOADTEST_KEY`. `environment` looks a variable up.
    ///
    /// # Errors
    /// There is none, the file cannot be read, or what is found cannot be a key.
    pub fn key(&self, name: &str, environment: impl Fn(&str) -> Option<String>) -> Result<String, KeyError> {
        let tenant = || name.to_owned();
        let (from, key) = if let Some(path) = &self.key_file {
            let text = std::fs::read_to_string(path).map_err(|error| KeyError::Unreadable {
                tenant: tenant(),
                path: path.clone(),
                error,
            })?;
            (path.display().to_string(), text)
        } else {
            let variables = self.key_variable.clone().map_or_else(|| default_variables(name), |one| vec![one]);
            let found = variables.iter().find_map(|variable| Some((variable.clone(), environment(variable)?)));
            found.ok_or_else(|| KeyError::Missing { tenant: tenant(), variables: variables.join(" or ") })?
        };
        let key = key.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(KeyError::Unusable { tenant: tenant(), from });
        }
        Ok(key.to_owned())
    }
}

fn default_variables(tenant: &str) -> Vec<String> {
    let own = format!("{SHARED_VARIABLE}_{}", tenant.to_ascii_uppercase().replace('-', "_"));
    vec![own, SHARED_VARIABLE.to_owned()]
}
