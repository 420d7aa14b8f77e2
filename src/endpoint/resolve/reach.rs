//! Decides how s3haul reaches servers: the proxies, the certificates, and the URLs that it may use.

use std::path::PathBuf;

use super::super::Endpoint;
use super::super::network::{Network, ProxyError, ProxySetting, ProxyUrl};
use super::super::no_proxy::NoProxy;
use super::super::server::{Server, is_plaintext, url_mistake, with_scheme};
use super::layers::Layers;
use super::{EndpointMistake, Setting, SettingOrigin};

impl Layers<'_> {
    /// Refuses the FIPS setting for a URL that is not a FIPS endpoint.
    pub(super) fn check_fips(
        &mut self,
        use_fips: Option<&Setting<bool>>,
        url: Option<&Setting<String>>,
        server: &Server,
    ) {
        if let (Some(fips), Some(url)) = (use_fips, url)
            && fips.value
            && !(server.is_amazon() && url.value.contains("fips"))
        {
            self.mistakes.push(EndpointMistake {
                field: None,
                message: format!(
                    "{} asks for a FIPS endpoint, but {} is not one",
                    fips.origin, url.value
                ),
                remedy: "remove the URL, or turn FIPS off".to_owned(),
            });
        }
    }

    /// Refuses a URL of the Security Token Service that has no scheme.
    pub(super) fn check_sts_url(&mut self, url: Option<&Setting<String>>) {
        let Some(Setting { value, origin }) = url else {
            return;
        };
        // One variable may set the URL of both S3 and STS, and its mistake is then known already.
        let is_known = self.refused_url.as_ref() == url;
        let has_scheme = ["http://", "https://"]
            .iter()
            .any(|scheme| value.starts_with(scheme));
        if !has_scheme && !is_known {
            self.mistakes.push(EndpointMistake {
                field: None,
                message: format!("{origin}: `{value}` is not a URL of STS"),
                remedy: format!("write {}", with_scheme(value)),
            });
        }
    }

    /// Refuses URLs that would carry signed requests unencrypted beyond this machine.
    pub(super) fn forbid_plaintext(
        &mut self,
        endpoint: &Endpoint,
        url: Option<&Setting<String>>,
        sts_url: Option<&Setting<String>>,
        network: &Network,
    ) {
        if endpoint.allow_http {
            return;
        }
        // One setting may be the URL of both services. Report it only once.
        let sts_url = sts_url.filter(|_| url != sts_url);
        for (url, service) in url
            .map(|url| (url, ""))
            .into_iter()
            .chain(sts_url.map(|url| (url, "STS at ")))
        {
            let Setting { value, origin } = url;
            let proxy = network.remote_plaintext_proxy(value);
            if url_mistake(value).is_some() || !(is_plaintext(value) || proxy.is_some()) {
                continue;
            }
            let field = match origin {
                SettingOrigin::Stated => Some("url"),
                SettingOrigin::Profile(_) if self.profile_was_stated => Some("profile"),
                _ => None,
            };
            let from = if *origin == SettingOrigin::Stated {
                String::new()
            } else {
                format!(" ({origin})")
            };
            let through =
                proxy.map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
            self.mistakes.push(EndpointMistake {
                field,
                message: format!(
                    "{service}{value}{from} is plain HTTP{through}: credentials and data would be sent unencrypted"
                ),
                remedy: "write an https:// URL, or allow it with `allow_http: true` (--allow-http)".to_owned(),
            });
        }
    }

    /// Resolves proxies and certificates for the endpoint at the URL `place` and, if
    /// `asks_elsewhere` is true, for credential services over TLS. Ignores invalid settings of the
    /// environment that none of these connections uses.
    pub(super) fn network(
        &mut self,
        endpoint: &Endpoint,
        place: &str,
        asks_elsewhere: bool,
    ) -> Network {
        let is_plain = place.starts_with("http://");
        let (http, https, no_proxy) = match &endpoint.proxy {
            Some(ProxySetting::None) => (None, None, NoProxy::of("")),
            Some(ProxySetting::Url(url)) => {
                let url = Setting::stated(url.clone());
                (Some(url.clone()), Some(url), NoProxy::of(""))
            }
            None => {
                let hosts = ["no_proxy", "NO_PROXY"]
                    .iter()
                    .find_map(|name| self.environment.variable(name));
                let no_proxy = NoProxy::of(hosts.unwrap_or_default());
                let uses_proxy = !no_proxy.covers_url(place);
                // In a CGI program, `HTTP_PROXY` contains the `Proxy` header that a client sent to
                // the web server.
                let is_cgi = self.environment.variable("REQUEST_METHOD").is_some();
                let names: &[_] = if is_cgi {
                    &["http_proxy"]
                } else {
                    &["http_proxy", "HTTP_PROXY"]
                };
                let all = ["all_proxy", "ALL_PROXY"];
                let http = self.proxy(&[names, &all].concat(), is_plain && uses_proxy);
                let is_used = (!is_plain && uses_proxy) || asks_elsewhere;
                let https = self.proxy(&[["https_proxy", "HTTPS_PROXY"], all].concat(), is_used);
                (http, https, no_proxy)
            }
        };
        let stated = endpoint
            .ca_bundle
            .as_ref()
            .map(|path| path.as_path().to_owned());
        let path = |text: &str| Ok(PathBuf::from(text));
        let variables = ["AWS_CA_BUNDLE", "SSL_CERT_FILE"];
        let ca_bundle = self.pick(
            stated,
            &|profile| profile.get("ca_bundle"),
            &variables,
            &path,
        );
        let proxy_has_tls = http
            .as_ref()
            .is_some_and(|proxy| proxy.value.as_str().starts_with("https://"));
        let is_plain = is_plain && !asks_elsewhere && !proxy_has_tls;
        Network {
            http,
            https,
            no_proxy,
            ca_bundle,
            is_plain,
        }
    }

    /// Reads a proxy from the first of these variables that is set. The shared configuration has no
    /// proxies. A value that cannot be used is a mistake only if `is_used` is true.
    pub(super) fn proxy(
        &mut self,
        variables: &[&'static str],
        is_used: bool,
    ) -> Option<Setting<ProxyUrl>> {
        let before = self.mistakes.len();
        let proxy = self.pick(None, &|_| None, variables, &|text| {
            text.parse().map_err(|error: ProxyError| error.to_string())
        });
        if !is_used {
            self.mistakes.truncate(before);
        }
        proxy
    }
}
