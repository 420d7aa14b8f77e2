//! The network settings of an endpoint: its proxies and its trusted certificates.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;
use thiserror::Error;

use super::{NoProxy, Setting, SettingOrigin};

/// The reason why a text does not name a proxy. No message shows the text, because it may contain a
/// password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// The scheme is a SOCKS scheme.
    #[error("SOCKS proxies are not supported")]
    Socks,
    /// The scheme is neither `http` nor `https`.
    #[error("the proxy's URL begins with neither http:// nor https://")]
    Scheme,
    /// The user or password has characters that a URL cannot contain.
    #[error("the proxy's user or password has characters that must be percent-encoded")]
    User,
    /// The host is missing or malformed.
    #[error("the proxy has no valid host")]
    Host,
    /// The port is out of range.
    #[error("the proxy's port is not a number from 1 to 65535")]
    Port,
}

impl ProxyError {
    /// The remedy for an invalid proxy.
    pub const REMEDY: &str = "write http://host:port, or none to connect directly";
}

/// The URL of a proxy, with user and password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ProxyUrl(String);

/// A proxy as a user names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProxySetting {
    /// Connect without a proxy.
    None,
    /// Connect through this proxy.
    Url(ProxyUrl),
}

/// The proxies and trusted certificates of an endpoint.
///
/// The scheme of the request's URL selects one of two proxies; the scheme of the proxy's URL does
/// not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The proxy for `http://` URLs.
    pub http: Option<Setting<ProxyUrl>>,
    /// The proxy for `https://` URLs.
    pub https: Option<Setting<ProxyUrl>>,
    /// Hosts that are reached without a proxy.
    pub no_proxy: NoProxy,
    /// A file of PEM certificates. Connections trust these and no others.
    pub ca_bundle: Option<Setting<PathBuf>>,
    /// True if no connection to the endpoint, its proxy, or a credential service uses TLS.
    pub is_plain: bool,
}

impl Network {
    /// Returns the file of trusted certificates, unless it comes from the environment and no
    /// connection needs it.
    #[must_use]
    pub fn needed_ca_bundle(&self) -> Option<&Setting<PathBuf>> {
        self.ca_bundle
            .as_ref()
            .filter(|bundle| !self.is_plain || bundle.origin == SettingOrigin::Stated)
    }

    /// Returns the proxy for requests to this URL, if there is one.
    #[must_use]
    pub fn proxy_for(&self, url: &str) -> Option<&Setting<ProxyUrl>> {
        let is_plain = url.starts_with("http://");
        let proxy = if is_plain { &self.http } else { &self.https };
        proxy.as_ref().filter(|_| !self.no_proxy.covers_url(url))
    }

    /// Returns the proxy if it is on another machine and would see plain HTTP requests to this URL.
    #[must_use]
    pub fn remote_plaintext_proxy(&self, url: &str) -> Option<&ProxyUrl> {
        let proxy = &self
            .proxy_for(url)
            .filter(|_| url.starts_with("http://"))?
            .value;
        let authority = proxy.as_str().split_once("://")?.1;
        super::is_plaintext(&format!("http://{authority}")).then_some(proxy)
    }
}

impl ProxyUrl {
    /// Returns the whole URL, including the password. Not for messages.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProxyUrl {
    type Err = ProxyError;

    /// Reads `http(s)://[user:password@]host[:port]`. A URL without a scheme counts as `http://`,
    /// as with curl.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => {}
            "socks" | "socks4" | "socks4a" | "socks5" | "socks5h" => {
                return Err(ProxyError::Socks);
            }
            _ => return Err(ProxyError::Scheme),
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        // An `@` after the first slash means that the password contains a slash. Without this
        // check, the user name would be taken for the host.
        if rest[authority.len()..].contains('@') {
            return Err(ProxyError::User);
        }
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        if !user
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._~%!$&'()*+,;=:".contains(c))
        {
            return Err(ProxyError::User);
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if host.is_empty() || host.starts_with(':') || !host.chars().all(legal) {
            return Err(ProxyError::Host);
        }
        let port = host
            .rsplit_once(':')
            .filter(|(_, port)| !port.contains(']'))
            .map(|(_, port)| port);
        if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err(ProxyError::Port);
        }
        let scheme = scheme.to_ascii_lowercase();
        let url = format!("{scheme}://{authority}");
        if is_uri(&url) {
            Ok(Self(url))
        } else if is_uri(&format!("{scheme}://{host}")) {
            Err(ProxyError::User)
        } else {
            Err(ProxyError::Host)
        }
    }
}

/// Returns true if the HTTP client accepts this URL, which has stricter rules than curl.
fn is_uri(url: &str) -> bool {
    url.parse::<Uri>()
        .is_ok_and(|url| url.host().is_some_and(|host| !host.is_empty()))
}

impl fmt::Display for ProxyUrl {
    /// Shows the URL without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, authority) = self.0.split_once("://").unwrap_or(("http", &self.0));
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        write!(f, "{scheme}://{host}")
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ProxySetting {
    type Err = ProxyError;

    /// Reads a proxy's URL, or `none`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().eq_ignore_ascii_case("none") {
            Ok(Self::None)
        } else {
            text.parse().map(Self::Url)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_as_curl_reads_them() {
        let read = |text: &str| text.parse::<ProxyUrl>().map(|url| url.0);
        assert_eq!(
            read("proxy.corp:3128"),
            Ok("http://proxy.corp:3128".to_owned())
        );
        assert_eq!(
            read("HTTPS://u:p@proxy.corp/"),
            Ok("https://u:p@proxy.corp".to_owned())
        );
        assert_eq!(
            read("http://[::1]:3128"),
            Ok("http://[::1]:3128".to_owned())
        );
        for wrong in [
            "socks5://proxy:1080",
            "ftp://proxy",
            "http://",
            "http://:3128",
            "http://a b",
            "http://p:99999",
            "http://u:pa ss@p",
            "alice:hun://ter@p",
            "http://fd00::5:3128",
            "http://proxy:3128:80",
            "http://a]b",
            "http://[::1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for slash in [
            "http://user:12/34@proxy",
            "user:12?34@proxy:3128",
            "https://u:#p@proxy/",
            "http://u:1:2:3:4:5:6:7:8:9@proxy:3128",
        ] {
            assert_eq!(read(slash), Err(ProxyError::User), "{slash}");
        }
        assert_eq!("none".parse(), Ok(ProxySetting::None));
    }

    #[test]
    fn passwords_are_not_shown() {
        let url: ProxyUrl = "http://user:hunter2@proxy:3128".parse().unwrap();
        assert_eq!(
            (url.to_string(), format!("{url:?}")),
            ("http://proxy:3128".into(), "http://proxy:3128".into())
        );
        assert!(url.as_str().contains("hunter2"));
    }
}
