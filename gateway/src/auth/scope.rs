//! What of the API a caller may use.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::surface::Surface;

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
}
