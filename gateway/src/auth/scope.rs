//! What of the API a caller may use.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::network;
use crate::surface::Surface;

/// Entries of a list at most: each is compared with every request.
pub(super) const MOST_ENTRIES: usize = 64;
const MAX_MODEL_CHARS: usize = 256;

/// An entry of a scope that cannot be used: which list has it, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ScopeError {
    /// `models`, `surfaces` or `networks`.
    pub list: &'static str,
    /// What is wrong.
    pub what: String,
}

/// What of the API a caller may use, and from where. An empty list restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Names of models, as they are accounted.
    pub models: Vec<String>,
    /// API surfaces.
    pub surfaces: Vec<Surface>,
    /// Networks that requests may come from.
    pub networks: Vec<IpNet>,
}

impl Scope {
    /// Reads the three lists.
    ///
    /// # Errors
    /// An entry cannot be used, or a list is too long.
    pub fn parse(models: &[String], surfaces: &[String], networks: &[String]) -> Result<Self, ScopeError> {
        Ok(Self {
            models: entries("models", models, model)?,
            surfaces: entries("surfaces", surfaces, surface)?,
            networks: entries("networks", networks, network)?,
        })
    }

    /// The surfaces, as [`parse`](Self::parse) reads them.
    pub fn surface_names(&self) -> Vec<String> {
        self.surfaces.iter().map(|surface| surface.label().to_owned()).collect()
    }

    /// The networks, as [`parse`](Self::parse) reads them.
    pub fn network_names(&self) -> Vec<String> {
        self.networks.iter().map(IpNet::to_string).collect()
    }

    /// Whether a model of this name may be asked.
    pub fn allows_model(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|allowed| allowed == model)
    }

    /// Whether this surface may be used.
    pub fn allows_surface(&self, surface: Surface) -> bool {
        self.surfaces.is_empty() || self.surfaces.contains(&surface)
    }

    /// Whether requests may come from this address. IPv4 addresses may be written as IPv6 ones.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(&address))
    }
}

fn model(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().count() > MAX_MODEL_CHARS || text.contains(char::is_control) {
        return Err(format!("`{}` is not the name of a model", text.escape_debug()));
    }
    Ok(text.to_owned())
}

fn surface(text: &str) -> Result<Surface, String> {
    Surface::ALL.into_iter().find(|surface| surface.label() == text).ok_or_else(|| {
        let known = Surface::ALL.map(Surface::label).join(", ");
        format!("`{}` is not a surface\nhint: surfaces are {known}", text.escape_debug())
    })
}

fn entries<T>(
    list: &'static str,
    texts: &[String],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, ScopeError> {
    if texts.len() > MOST_ENTRIES {
        return Err(ScopeError { list, what: format!("there are more than {MOST_ENTRIES} {list}") });
    }
    texts.iter().map(|text| read(text).map_err(|what| ScopeError { list, what })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_scope_restricts_nothing() {
        let scope = Scope::default();
        assert!(scope.allows_model("any") && scope.allows_surface(Surface::Chat));
        assert!(scope.allows_address("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn what_is_not_listed_is_not_allowed() {
        let scope = Scope {
            models: vec!["kimi-k2".to_owned()],
            surfaces: vec![Surface::Embeddings],
            networks: vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        };
        assert!(scope.allows_model("kimi-k2") && !scope.allows_model("kimi"));
        assert!(scope.allows_surface(Surface::Embeddings) && !scope.allows_surface(Surface::Chat));
        for (address, allowed) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("10.2.0.1", false), ("2001:db8::7", true), ("::1", false)]
        {
            assert_eq!(scope.allows_address(address.parse().unwrap()), allowed, "{address}");
        }
    }

    #[test]
    fn lists_are_read_and_written_alike_and_what_is_wrong_is_named() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let networks = texts(&["10.1.2.3/16", "192.0.2.7", "::ffff:192.0.2.8", "2001:db8::/32"]);
        let scope = Scope::parse(&texts(&["kimi-k2"]), &texts(&["chat", "embeddings"]), &networks).unwrap();
        assert_eq!(scope.surface_names(), ["chat", "embeddings"]);
        assert_eq!(scope.network_names(), ["10.1.0.0/16", "192.0.2.7/32", "192.0.2.8/32", "2001:db8::/32"]);
        assert_eq!(Scope::parse(&scope.models, &scope.surface_names(), &scope.network_names()), Ok(scope));
        for (models, surfaces, networks, list) in [
            (&[""][..], &[][..], &[][..], "models"),
            (&["a\nb"], &[], &[], "models"),
            (&["m"; 65], &[], &[], "models"),
            (&[], &["chats"], &[], "surfaces"),
            (&[], &[], &["10.0.0.0/33"], "networks"),
            (&[], &[], &["example.com"], "networks"),
        ] {
            let error = Scope::parse(&texts(models), &texts(surfaces), &texts(networks)).unwrap_err();
            assert_eq!(error.list, list, "{error}");
        }
    }
}
