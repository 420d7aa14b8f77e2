//! The hosts that are reached without a proxy, as `NO_PROXY` lists them.
//!
//! curl, Go, and Python differ in the forms that they accept. This module accepts all forms: host
//! names, which include their subdomains, `.example.com` and `*.example.com`, addresses, networks
//! (`10.0.0.0/8`), a port after any name or address, and `*` for everything.

use std::net::IpAddr;

/// Hosts of credential services that run on the machine itself. No AWS tool sends their requests to
/// a proxy.
const METADATA: &str = "169.254.169.254,169.254.170.2,169.254.170.23,fd00:ec2::254,fd00:ec2::23";

/// Hosts that are reached without a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NoProxy(Vec<NoProxyEntry>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct NoProxyEntry {
    /// The hosts that the entry covers.
    hosts: Hosts,
    /// The port that the entry covers, or `None` for all ports.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Hosts {
    Every,
    /// A name in lower case, and all its subdomains.
    Domain(String),
    Network {
        address: IpAddr,
        bits: u8,
    },
}

impl NoProxy {
    /// Parses a list in the form of `NO_PROXY`, and adds the hosts that are never reached through a
    /// proxy.
    #[must_use]
    pub fn of(list: &str) -> Self {
        let entries = list.split(',').chain(METADATA.split(',')).map(str::trim);
        Self(
            entries
                .filter(|entry| !entry.is_empty())
                .map(NoProxyEntry::of)
                .collect(),
        )
    }

    /// Returns true if this port of the host is reached without a proxy.
    #[must_use]
    pub fn covers(&self, host: &str, port: u16) -> bool {
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .trim_end_matches('.')
            .to_ascii_lowercase();
        let address = host.parse().ok();
        self.0.iter().any(|entry| {
            entry.port.is_none_or(|only| only == port) && entry.hosts.has(&host, address)
        })
    }

    /// Returns true if the host and port of this `http` or `https` URL are reached without a proxy.
    #[must_use]
    pub fn covers_url(&self, url: &str) -> bool {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let (host, port) = with_port(authority);
        let default_port = if scheme.eq_ignore_ascii_case("https") {
            443
        } else {
            80
        };
        self.covers(host, port.unwrap_or(default_port))
    }
}

impl NoProxyEntry {
    fn of(text: &str) -> Self {
        if text == "*" {
            return Self {
                hosts: Hosts::Every,
                port: None,
            };
        }
        if let Some(network) = network(text) {
            return Self {
                hosts: network,
                port: None,
            };
        }
        let (host, port) = with_port(text);
        if let Some(network) = network(host.trim_start_matches('[').trim_end_matches(']')) {
            return Self {
                hosts: network,
                port,
            };
        }
        let name = host
            .strip_prefix('*')
            .filter(|rest| rest.starts_with('.'))
            .unwrap_or(host);
        let name = name
            .trim_start_matches('.')
            .trim_end_matches('.')
            .to_ascii_lowercase();
        Self {
            hosts: Hosts::Domain(name),
            port,
        }
    }
}

impl Hosts {
    /// Returns true if the host is among these hosts. `address` is the host as an IP address, if it
    /// is one.
    fn has(&self, host: &str, address: Option<IpAddr>) -> bool {
        match (self, address) {
            (Self::Every, _) => true,
            (Self::Domain(name), None) => host.strip_suffix(name.as_str()).is_some_and(|before| {
                !name.is_empty() && (before.is_empty() || before.ends_with('.'))
            }),
            (Self::Network { address: of, bits }, Some(address)) => first_bits(address, *bits)
                .is_some_and(|first| Some(first) == first_bits(*of, *bits)),
            (Self::Domain(_), Some(_)) | (Self::Network { .. }, None) => false,
        }
    }
}

/// Splits the port off `host:port` or `[address]:port`.
fn with_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

/// Parses an address, or a network such as `10.0.0.0/8`.
fn network(text: &str) -> Option<Hosts> {
    let (address, bits) = text
        .split_once('/')
        .map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) => bits.parse().ok().filter(|bits| *bits <= most)?,
        None => most,
    };
    Some(Hosts::Network { address, bits })
}

/// Returns the family of an address and its first bits, or `None` if it has fewer bits.
fn first_bits(address: IpAddr, bits: u8) -> Option<(bool, u128)> {
    let (is_v4, all, length) = match address {
        IpAddr::V4(address) => (true, u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (false, address.to_bits(), 128),
    };
    let cut = u32::from(length - bits.min(length));
    (bits <= length).then(|| (is_v4, all.checked_shr(cut).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("example.com", "http://example.com", true)]
    #[case("example.com", "https://Bucket.EXAMPLE.com:9000", true)]
    #[case("example.com", "https://notexample.com", false)]
    #[case("*.corp", "https://a.corp", true)]
    #[case(".corp", "https://corp", true)]
    #[case("rgw.corp:9000", "http://rgw.corp:9000/x", true)]
    #[case("rgw.corp:9000", "http://bucket.rgw.corp:9000", true)]
    #[case("rgw.corp:9000", "http://rgw.corp:9001", false)]
    #[case("rgw.corp:443", "https://rgw.corp", true)]
    #[case("rgw.corp:443", "http://rgw.corp", false)]
    #[case("127.0.0.1:9000", "http://127.0.0.1:9001", false)]
    #[case("127.0.0.1:9000", "http://127.0.0.1:9000", true)]
    #[case("[::1]:9000", "http://[::1]:9001", false)]
    #[case("[::1]:9000", "http://[::1]:9000", true)]
    #[case("::1", "http://[::1]:9000", true)]
    #[case("10.0.0.0/8", "http://10.200.3.4", true)]
    #[case("10.0.0.0/8", "http://11.0.0.1", false)]
    #[case("0.0.0.0/0", "http://11.0.0.1", true)]
    #[case("0.0.0.0/0", "http://[::1]", false)]
    #[case("x, *", "http://[::1]", true)]
    #[case("", "http://169.254.169.254", true)]
    #[case(",, ,", "http://a", false)]
    #[case(".", "http://a", false)]
    fn hosts_are_matched_as_curl_and_go_do(
        #[case] list: &str,
        #[case] url: &str,
        #[case] covered: bool,
    ) {
        assert_eq!(NoProxy::of(list).covers_url(url), covered);
    }
}
