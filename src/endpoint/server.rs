//! Which server an endpoint is, so that two endpoints can be told apart.

use std::fmt;

/// A server that speaks S3.
///
/// Two endpoints with equal servers hold the same buckets, and S3 copies between them by itself. A
/// server with two addresses counts as two: a copy that is refused can be repeated with one address,
/// a copy on the wrong server cannot be undone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    /// Amazon S3 in one of AWS's partitions (`aws`, `aws-cn`, `aws-us-gov`, …), whatever the Region
    /// and whatever host leads there: all Regions of a partition copy from each other.
    Amazon {
        /// The partition's name.
        partition: String,
    },
    /// Any other server, as `scheme://host:port` in lower case, without a default port.
    Other {
        /// The origin.
        origin: String,
    },
}

impl Server {
    /// The server at this URL, or Amazon S3 in the partition of this Region if there is no URL.
    #[must_use]
    pub fn of(url: Option<&str>, region: &str) -> Self {
        let Some(url) = url else { return Self::Amazon { partition: partition(region).to_owned() } };
        let origin = origin(url);
        let host = origin.split("://").nth(1).unwrap_or(&origin);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        match partition_of_host(host, partition(region)) {
            Some(partition) => Self::Amazon { partition: partition.to_owned() },
            None => Self::Other { origin },
        }
    }

    /// True for Amazon S3.
    #[must_use]
    pub const fn is_amazon(&self) -> bool {
        matches!(self, Self::Amazon { .. })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amazon { partition } if partition == "aws" => f.write_str("Amazon S3"),
            Self::Amazon { partition } => write!(f, "Amazon S3 in the partition {partition}"),
            Self::Other { origin } => f.write_str(origin),
        }
    }
}

/// Returns the partition of an AWS host, given the partition of the Region; `None` for other hosts.
fn partition_of_host(host: &str, of_region: &'static str) -> Option<&'static str> {
    // The last two are shared by `aws` and `aws-us-gov`, so the Region decides.
    let suffixes = [
        (".amazonaws.com.cn", "aws-cn"),
        (".api.amazonwebservices.com.cn", "aws-cn"),
        (".amazonaws.eu", "aws-eusc"),
        (".c2s.ic.gov", "aws-iso"),
        (".sc2s.sgov.gov", "aws-iso-b"),
        (".cloud.adc-e.uk", "aws-iso-e"),
        (".csp.hci.ic.gov", "aws-iso-f"),
        (".amazonaws.com", of_region),
        (".api.aws", of_region),
    ];
    let (suffix, partition) = suffixes.into_iter().find(|(suffix, _)| host.ends_with(suffix))?;
    // Servers of users on EC2 or behind ELB have such names as well.
    let labels = host.strip_suffix(suffix)?.split('.');
    if !labels.into_iter().any(|label| label.starts_with("s3") || label == "vpce") {
        return None;
    }
    Some(if host.contains("us-gov-") { "aws-us-gov" } else { partition })
}

/// The partition of a Region.
fn partition(region: &str) -> &'static str {
    match region.split('-').collect::<Vec<_>>().as_slice() {
        ["cn", ..] => "aws-cn",
        ["us", "gov", ..] => "aws-us-gov",
        ["eusc", ..] => "aws-eusc",
        [_, "iso", ..] => "aws-iso",
        [_, "isob", ..] => "aws-iso-b",
        [_, "isoe", ..] => "aws-iso-e",
        [_, "isof", ..] => "aws-iso-f",
        _ => "aws",
    }
}

/// Scheme, host, and port in lower case, without a path and without the scheme's default port.
fn origin(url: &str) -> String {
    let url = url.trim().to_ascii_lowercase();
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", &url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let default_port = if scheme == "http" { ":80" } else { ":443" };
    let host = host.strip_suffix(default_port).unwrap_or(host);
    format!("{scheme}://{host}")
}

/// Returns true if requests to this URL leave the machine unencrypted: `http`, and not to a loopback
/// address or `localhost`.
#[must_use]
pub fn is_plaintext(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    scheme.eq_ignore_ascii_case("http") && !is_loopback(host(rest))
}

/// Returns the host of an authority, without user, port, and brackets.
fn host(authority: &str) -> &str {
    let authority = authority.split(['/', '?', '#']).next().unwrap_or(authority);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Finds what keeps a URL from being scheme, host, and port: a message and a remedy.
pub(crate) fn url_mistake(url: &str) -> Option<(String, String)> {
    // Before anything that shows the URL.
    if url.contains('@') {
        let message = "secrets never stand in a URL: this one has a user".to_owned();
        return Some((message, "write https://host, and use a profile for the credentials".to_owned()));
    }
    let Some((scheme @ ("http" | "https"), rest)) = url.split_once("://") else {
        let host = url.rsplit("://").next().unwrap_or(url);
        return Some((format!("`{url}` is not a URL"), format!("write https://{host}")));
    };
    let (host, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if !matches!(behind, "" | "/") {
        let remedy = format!("write {scheme}://{host}; buckets and keys go into s3://bucket/key");
        return Some((format!("an endpoint has no path: `{behind}`"), remedy));
    }
    let (name, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
            (address, port.strip_prefix(':').or((!port.is_empty()).then_some("")))
        }
        _ => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let legal = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if name.is_empty() || !name.chars().all(legal) || !port_fits {
        let remedy = "write for instance https://s3.example.internal:9000".to_owned();
        return Some((format!("`{host}` is not a host with perhaps a port"), remedy));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_regions_of_amazon_are_one_server_per_partition() {
        let same =
            |a: (Option<&str>, &str), b: (Option<&str>, &str)| Server::of(a.0, a.1) == Server::of(b.0, b.1);
        let vpce = "https://bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com";
        assert!(same((None, "us-east-1"), (None, "eu-west-1")));
        assert!(same((None, "us-east-1"), (Some(vpce), "eu-west-1")));
        assert!(same((None, "cn-north-1"), (Some("https://s3.cn-north-1.amazonaws.com.cn"), "us-east-1")));
        assert!(!same((None, "us-east-1"), (None, "cn-north-1")));
        assert!(!same((None, "us-east-1"), (None, "us-gov-west-1")));
        assert!(!same((None, "us-east-1"), (Some("https://s3.us-gov-west-1.amazonaws.com"), "us-east-1")));
        assert!(!same((None, "us-east-1"), (Some("https://amazonaws.com.example"), "us-east-1")));
        let own = "http://ec2-1-2-3-4.compute-1.amazonaws.com:9000";
        assert!(!same((None, "us-east-1"), (Some(own), "us-east-1")));
    }

    #[test]
    fn only_tls_and_loopback_addresses_are_not_plaintext() {
        for url in [
            "https://b.s3.eu-west-1.amazonaws.com",
            "http://127.0.0.1:9000/b",
            "http://127.8.9.10",
            "http://localhost",
            "http://LOCALHOST:80",
            "http://[::1]:9000",
        ] {
            assert!(!is_plaintext(url), "{url}");
        }
        for url in [
            "http://10.0.0.1:9000",
            "HTTP://rgw.example",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com/",
            "http://localhost@rgw.example",
            "http://0.0.0.0:9000",
            "http://[2001:db8::1]",
        ] {
            assert!(is_plaintext(url), "{url}");
        }
    }

    #[test]
    fn spellings_of_one_address_are_one_server() {
        let of = |url| Server::of(Some(url), "us-east-1");
        assert_eq!(of("https://RGW.example:443/"), of("https://rgw.example"));
        assert_eq!(of("http://[::1]:80"), of("http://[::1]"));
        assert_ne!(of("http://rgw.example"), of("https://rgw.example"));
        assert_ne!(of("http://rgw.example:9000"), of("http://rgw.example:9001"));
    }
}
