//! Identifies the server of an endpoint, so that s3haul can tell whether two endpoints lead to the
//! same server.

use std::fmt;

/// A server that speaks S3.
///
/// Two endpoints with equal servers lead to the same buckets, and server-side copies between them
/// are possible. A server with two addresses counts as two servers. This is the safe choice: if
/// s3haul refuses a copy, the user can use one address for both endpoints, but a copy on the wrong
/// server cannot be undone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    /// Amazon S3 in one of AWS's partitions (`aws`, `aws-cn`, `aws-us-gov`, …), for any Region and
    /// any host name: S3 copies between all Regions of a partition.
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
    /// Returns the server at this URL, or Amazon S3 in the partition of this Region if there is no
    /// URL.
    #[must_use]
    pub fn of(url: Option<&str>, region: &str) -> Self {
        let Some(url) = url else {
            return Self::Amazon {
                partition: partition(region).to_owned(),
            };
        };
        let origin = origin(url);
        let host = origin.split("://").nth(1).unwrap_or(&origin);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        match partition_of_host(host, partition(region)) {
            Some(partition) => Self::Amazon {
                partition: partition.to_owned(),
            },
            None => Self::Other { origin },
        }
    }

    /// Returns true for Amazon S3.
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
    // `aws` and `aws-us-gov` share the last two domains, so the Region decides between them.
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
    let (suffix, partition) = suffixes
        .into_iter()
        .find(|(suffix, _)| host.ends_with(suffix))?;
    if !names_s3(host.strip_suffix(suffix)?) {
        return None;
    }
    Some(if host.contains("us-gov-") {
        "aws-us-gov"
    } else {
        partition
    })
}

/// Returns true if the labels of an AWS host, without the domain, form an S3 endpoint:
/// `[bucket.]service[.dualstack][.region]` or `[bucket.]vpce-id.service.region.vpce`.
///
/// Servers that users run on EC2, behind ELB, or behind `PrivateLink` have host names in the same
/// domains, but other labels.
fn names_s3(labels: &str) -> bool {
    let mut labels: Vec<&str> = labels.split('.').collect();
    if labels.last() == Some(&"vpce") {
        labels.pop();
        if !labels
            .iter()
            .any(|label| label.starts_with("vpce-") && !label.starts_with("vpce-svc-"))
        {
            return false;
        }
    }
    labels.pop_if(|label| is_region(label));
    labels.pop_if(|label| *label == "dualstack");
    labels.last().is_some_and(|service| is_s3_service(service))
}

fn is_s3_service(label: &str) -> bool {
    const SERVICES: [&str; 14] = [
        "s3",
        "s3-fips",
        "s3-accelerate",
        "s3-accesspoint",
        "s3-accesspoint-fips",
        "s3-control",
        "s3-control-fips",
        "s3-external-1",
        "s3-global",
        "s3-object-lambda",
        "s3-object-lambda-fips",
        "s3-outposts",
        "s3-outposts-fips",
        "s3-website",
    ];
    // Directory buckets name their zone in this label; old endpoints and websites name the Region.
    let legacy = ["s3-fips-", "s3-website-", "s3-"]
        .iter()
        .find_map(|prefix| label.strip_prefix(prefix));
    SERVICES.contains(&label) || label.starts_with("s3express-") || legacy.is_some_and(is_region)
}

/// Returns true for names like `eu-west-1`, `us-gov-east-1`, and `eusc-de-east-1`.
fn is_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let [area @ .., number] = parts.as_slice() else {
        return false;
    };
    let is_word = |word: &&str| word.len() > 1 && word.bytes().all(|b| b.is_ascii_lowercase());
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number && area.len() > 1 && area[0].len() <= 4 && area.iter().all(is_word)
}

/// Returns the partition of a Region.
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

/// Returns scheme, host, and port in lower case, without a path and without the scheme's default
/// port.
fn origin(url: &str) -> String {
    let url = url.trim().to_ascii_lowercase();
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", &url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let default_port = if scheme == "http" { ":80" } else { ":443" };
    let host = host.strip_suffix(default_port).unwrap_or(host);
    format!("{scheme}://{host}")
}

/// Returns true if requests to this URL leave the machine unencrypted: the scheme is `http`, and
/// the host is neither a loopback address nor `localhost`.
#[must_use]
pub fn is_plaintext(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    scheme.eq_ignore_ascii_case("http") && !is_loopback(host(rest))
}

/// Returns the host of an authority, without user, port, and brackets.
fn host(authority: &str) -> &str {
    let authority = authority.split(['/', '?', '#']).next().unwrap_or(authority);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    match host.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Returns the URL of a host without a scheme, as a remedy shows it. Servers on this machine seldom
/// speak TLS.
pub(crate) fn with_scheme(authority: &str) -> String {
    if is_loopback(host(authority)) {
        format!("http://{authority}, or https://{authority} if the server speaks TLS")
    } else {
        format!("https://{authority}")
    }
}

/// Returns a message and a remedy if a URL is not just scheme, host, and port.
pub(crate) fn url_mistake(url: &str) -> Option<(String, String)> {
    // Check this first, because other messages show the URL.
    if url.contains('@') {
        let message = "secrets do not belong in a URL: this one has a user".to_owned();
        return Some((
            message,
            "write https://host, and use a profile for the credentials".to_owned(),
        ));
    }
    let Some((scheme @ ("http" | "https"), rest)) = url.split_once("://") else {
        let host = url.rsplit("://").next().unwrap_or(url);
        return Some((
            format!("`{url}` is not a URL"),
            format!("write {}", with_scheme(host)),
        ));
    };
    let (host, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if !matches!(behind, "" | "/") {
        let remedy = format!("write {scheme}://{host}; buckets and keys go into s3://bucket/key");
        return Some((format!("an endpoint has no path: `{behind}`"), remedy));
    }
    let (name, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (
            address,
            port.strip_prefix(':').or((!port.is_empty()).then_some("")),
        ),
        _ => host
            .split_once(':')
            .map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let legal = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if name.is_empty() || !name.chars().all(legal) || !port_fits {
        let remedy = "write for instance https://s3.example.internal:9000".to_owned();
        return Some((
            format!("`{host}` is not a host with perhaps a port"),
            remedy,
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_regions_of_amazon_are_one_server_per_partition() {
        let same = |a: (Option<&str>, &str), b: (Option<&str>, &str)| {
            Server::of(a.0, a.1) == Server::of(b.0, b.1)
        };
        let vpce = "https://bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com";
        assert!(same((None, "us-east-1"), (None, "eu-west-1")));
        assert!(same((None, "us-east-1"), (Some(vpce), "eu-west-1")));
        assert!(same(
            (None, "cn-north-1"),
            (Some("https://s3.cn-north-1.amazonaws.com.cn"), "us-east-1")
        ));
        assert!(!same((None, "us-east-1"), (None, "cn-north-1")));
        assert!(!same((None, "us-east-1"), (None, "us-gov-west-1")));
        assert!(!same(
            (None, "us-east-1"),
            (Some("https://s3.us-gov-west-1.amazonaws.com"), "us-east-1")
        ));
        assert!(!same(
            (None, "us-east-1"),
            (Some("https://amazonaws.com.example"), "us-east-1")
        ));
        let own = "http://ec2-1-2-3-4.compute-1.amazonaws.com:9000";
        assert!(!same((None, "us-east-1"), (Some(own), "us-east-1")));
    }

    #[test]
    fn servers_of_users_in_the_domains_of_aws_are_not_amazon() {
        let is_amazon =
            |host: &str| Server::of(Some(&format!("https://{host}")), "us-east-1").is_amazon();
        for host in [
            "s3.amazonaws.com",
            "s3.us-east-1.amazonaws.com",
            "my.bucket.s3.eu-west-1.amazonaws.com",
            "s3.dualstack.eu-west-1.amazonaws.com",
            "s3-fips.dualstack.us-gov-west-1.amazonaws.com",
            "s3-us-west-2.amazonaws.com",
            "s3-fips-us-gov-west-1.amazonaws.com",
            "s3-website.eu-central-1.amazonaws.com",
            "s3-website-us-east-1.amazonaws.com",
            "s3-external-1.amazonaws.com",
            "b.s3-accelerate.dualstack.amazonaws.com",
            "ap-111122223333.s3-accesspoint.eu-west-1.amazonaws.com",
            "alias.mrap.accesspoint.s3-global.amazonaws.com",
            "b--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com",
            "111122223333.s3-control.eu-west-1.amazonaws.com",
            "s3.cn-north-1.amazonaws.com.cn",
            "s3.eusc-de-east-1.amazonaws.eu",
            "s3.us-iso-east-1.c2s.ic.gov",
            "bucket.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com",
            "vpce-1a2b-3c4d-us-east-1a.s3.us-east-1.vpce.amazonaws.com",
            "accesspoint.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com",
        ] {
            assert!(is_amazon(host), "{host}");
        }
        for host in [
            "s3gw-0123.elb.us-east-1.amazonaws.com",
            "s3.elb.us-east-1.amazonaws.com",
            "s3-0123.us-east-1.elb.amazonaws.com",
            "internal-s3-0123.us-east-1.elb.amazonaws.com",
            "vpce-1.vpce-svc-2.us-east-1.vpce.amazonaws.com",
            "s3.vpce-svc-2.us-east-1.vpce.amazonaws.com",
            "s3.us-east-1.vpce.amazonaws.com",
            "ec2-1-2-3-4.eu-west-1.compute.amazonaws.com",
            "s3.execute-api.us-east-1.amazonaws.com",
            "s3gw.us-east-1.amazonaws.com",
            "s3tables.us-east-1.amazonaws.com",
            "us-east-1.amazonaws.com",
            "amazonaws.com",
        ] {
            assert!(!is_amazon(host), "{host}");
        }
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
