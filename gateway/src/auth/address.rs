//! Where a request comes from.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

use super::Caller;
use crate::error::{Reason, Rejection};

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Refuses a caller whose key is not for requests from where this one comes from.
///
/// # Errors
/// The key is for some networks, and the client is in none of them or cannot be told.
pub fn check(caller: &Caller, peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Result<(), Rejection> {
    if caller.scope.networks.is_empty() {
        return Ok(());
    }
    let refused = |operator: String| {
        Err(Rejection::new(Reason::IpNotAuthorized, "The API key may not be used from this address.")
            .operator(operator))
    };
    match client(peer, headers, proxies) {
        Some(address) if caller.scope.allows_address(address) => Ok(()),
        Some(address) => refused(format!("the client's address is {address}")),
        None => refused(format!("the proxy {peer} sent an X-Forwarded-For that cannot be read")),
    }
}

/// The peer of the connection; if that is a trusted proxy, the rightmost address of `X-Forwarded-For` that is not one. What
/// stands left of it is the client's own claim. `None`: there is something else where an address must be.
fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Option<IpAddr> {
    let is_proxy = |address: &IpAddr| proxies.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
    let entries = lines.into_iter().rev().flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','));
    for entry in entries {
        if !is_proxy(&client) {
            return Some(client);
        }
        client = address(str::from_utf8(entry).ok()?.trim())?.to_canonical();
    }
    Some(client)
}

/// An address; some proxies write the port, too.
fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_of(peer: &str, lines: &[&str]) -> Option<String> {
        let proxies = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        client(peer.parse().unwrap(), &headers, &proxies).map(|address| address.to_string())
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        for (peer, lines, client) in [
            ("192.0.2.1", &[][..], "192.0.2.1"),
            ("::ffff:192.0.2.1", &[], "192.0.2.1"),
            // Who is no proxy may claim what it likes.
            ("192.0.2.1", &["10.0.0.1"], "192.0.2.1"),
            ("192.0.2.1", &["nonsense"], "192.0.2.1"),
            ("192.0.2.1", &["nö"], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            ("::ffff:10.0.0.1", &["192.0.2.1:1234"], "192.0.2.1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]:80"], "2001:db8::1"),
            // Through several proxies; what the client has put before that is not looked at.
            ("10.0.0.1", &["spoofed, 198.51.100.7,192.0.2.1 , 10.0.0.2"], "192.0.2.1"),
            ("10.0.0.1", &["198.51.100.7", "192.0.2.1", "10.0.0.2, 10.0.0.3"], "192.0.2.1"),
            // Nobody but proxies: the one that is farthest away.
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ] {
            assert_eq!(client_of(peer, lines).as_deref(), Some(client), "{peer} {lines:?}");
        }
    }

    #[test]
    fn what_a_proxy_says_and_nobody_can_read_tells_no_client() {
        for line in ["", "unknown", "192.0.2.1,", "192.0.2.1, _hidden", "192.0.2.300", "ö"] {
            assert_eq!(client_of("10.0.0.1", &[line]), None, "{line}");
        }
    }

    #[test]
    fn a_key_without_networks_is_not_held_up_by_a_bad_header() {
        let mut caller = Caller::new("acme", "k");
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(FORWARDED_FOR), "?".parse().unwrap())]);
        let proxies = ["10.0.0.0/8".parse().unwrap()];
        let peer = "10.0.0.1".parse().unwrap();
        assert!(check(&caller, peer, &headers, &proxies).is_ok());
        let scope = super::super::Scope::parse(&[], &[], &["0.0.0.0/0".to_owned()]).unwrap();
        caller.scope = std::sync::Arc::new(scope);
        let rejection = check(&caller, peer, &headers, &proxies).unwrap_err();
        assert_eq!(rejection.reason, Reason::IpNotAuthorized);
        assert!(!rejection.message.contains("10.0.0.1"), "{rejection}");
    }
}
