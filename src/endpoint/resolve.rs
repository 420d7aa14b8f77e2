//! Combines what a user typed, the environment, and the shared configuration into one value.
//!
//! Every setting comes from the first of these that has it:
//!
//! 1. flags or the manifest (a command takes one or the other),
//! 2. the profile that the flags or the manifest name,
//! 3. environment variables,
//! 4. the profile that `AWS_PROFILE` names, or else `default`; only if step 2 named none,
//! 5. a default of ours.
//!
//! This is botocore's order, with two differences. botocore lets `AWS_REGION` and
//! `AWS_ENDPOINT_URL` beat a named profile, and only protects its credentials. Here a named profile
//! wins for everything that it says, because its keys are of no use at another server. And
//! `AWS_PROFILE` comes before `AWS_DEFAULT_PROFILE`, as in the SDKs.

use std::fmt;
use std::path::PathBuf;

use super::environment::{Environment, Profile};
use super::network::{Network, ProxyError, ProxySetting, ProxyUrl};
use super::no_proxy::NoProxy;
use super::server::{Server, is_plaintext, url_mistake};
use super::{AssumeRole, Endpoint, Provider};

/// The Region that requests are signed for if nobody names one. Amazon S3 answers with the bucket's
/// own; most other servers accept it.
const DEFAULT_REGION: &str = "us-east-1";

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Flags or the manifest.
    Stated,
    /// A profile of the shared configuration.
    Profile(String),
    /// An environment variable.
    Variable(&'static str),
    /// Nobody named one.
    Default,
}

/// One place that credentials may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and `AWS_SESSION_TOKEN`.
    Environment,
    /// A profile: keys, a role, SSO, `credential_process`, or `login_session`.
    Profile(String),
    /// `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN`, as EKS sets them for IAM roles for service
    /// accounts.
    WebIdentity,
    /// `AWS_CONTAINER_CREDENTIALS_…_URI`, as ECS and EKS Pod Identity set it.
    Container,
    /// The instance metadata service of EC2.
    InstanceMetadata,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The field of the endpoint in a manifest, if the mistake is what the manifest or a flag says
    /// and not the environment.
    pub field: Option<&'static str>,
    /// What is wrong, as a sentence without its full stop.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// An endpoint with every setting decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedEndpoint {
    /// The name that transfers use.
    pub name: String,
    /// The endpoint as it was typed.
    pub stated: Endpoint,
    /// Which server this is.
    pub server: Server,
    /// The URL to connect to; `None` for the public endpoint of Amazon S3 in the Region.
    pub url: Option<Setting<String>>,
    /// The Region that requests are signed for.
    pub region: Setting<String>,
    /// Path-style addressing (`true`), virtual-hosted (`false`), or the client's choice.
    pub path_style: Option<bool>,
    /// The provider; never [`Provider::Auto`].
    pub provider: Provider,
    /// The profile whose settings apply, if any.
    pub profile: Option<String>,
    /// Where credentials may come from, in order. The first that is set up decides.
    pub credentials: Vec<CredentialSource>,
    /// A role to assume with these credentials.
    pub assume_role: Option<AssumeRole>,
    /// The URL of the Security Token Service; `None` for the public endpoint in the Region.
    pub sts_url: Option<String>,
    /// Proxies and trusted certificates.
    pub network: Network,
    /// Whether to use AWS's FIPS endpoints, where no URL is given.
    pub use_fips: bool,
    /// Whether to use AWS's dual-stack endpoints, where no URL is given.
    pub use_dual_stack: bool,
    /// Settings that cannot be used. An endpoint with mistakes must not be connected to.
    pub mistakes: Vec<Mistake>,
}

impl Endpoint {
    /// Decides every setting. Settings that cannot be used end up in
    /// [`ResolvedEndpoint::mistakes`], so that a manifest can show all of them at once.
    #[must_use]
    pub fn resolve(self, environment: &Environment) -> ResolvedEndpoint {
        let mut layers = Layers::of(&self, environment);
        let url = layers.url(&self);
        let region = layers.pick(
            self.region.clone(),
            &|profile| profile.get("region"),
            &REGIONS,
            &text,
        );
        let region = region.unwrap_or(Setting {
            value: DEFAULT_REGION.to_owned(),
            origin: Origin::Default,
        });
        // It becomes a label of host names and a part of every signature.
        if !region
            .value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-')
        {
            let is_stated = region.origin == Origin::Stated;
            layers.mistakes.push(Mistake {
                field: is_stated.then_some("region"),
                message: format!("`{}` is not a Region ({})", region.value, region.origin),
                remedy: "use letters, digits, and hyphens, for instance eu-west-1".to_owned(),
            });
        }
        let server = Server::of(url.as_ref().map(|url| &*url.value), &region.value);
        let path_style = layers.pick(
            self.path_style,
            &|profile| {
                profile
                    .s3("addressing_style")
                    .filter(|style| !style.eq_ignore_ascii_case("auto"))
            },
            &[],
            &|style| match style.to_ascii_lowercase().as_str() {
                "path" => Ok(true),
                "virtual" => Ok(false),
                _ => Err(format!(
                    "`{style}` is not an addressing style; write path, virtual, or auto"
                )),
            },
        );
        // Look-alikes rarely have a DNS name per bucket, so botocore uses path-style for every URL.
        let path_style = path_style
            .map(|style| style.value)
            .or((!server.is_amazon() && url.is_some()).then_some(true));
        let provider = match self.provider {
            Provider::Auto if server.is_amazon() => Provider::Aws,
            Provider::Auto => Provider::Other,
            provider => provider,
        };
        let use_fips = layers.flag("use_fips_endpoint", "AWS_USE_FIPS_ENDPOINT");
        let use_dual_stack = layers.flag("use_dualstack_endpoint", "AWS_USE_DUALSTACK_ENDPOINT");
        let credentials = layers.credentials();
        let sts_url = layers.service_url("sts", &["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"]);
        let place = url
            .as_ref()
            .map_or_else(|| public_url(&region.value), |url| url.value.clone());
        let asks_elsewhere =
            self.assume_role.is_some() || layers.asks_credential_services(&credentials);
        let network = layers.network(&self, &place, asks_elsewhere);
        if let (Some(fips), Some(url)) = (&use_fips, &url)
            && fips.value
            && !(server.is_amazon() && url.value.contains("fips"))
        {
            layers.mistakes.push(Mistake {
                field: None,
                message: format!(
                    "{} asks for a FIPS endpoint, but {} is not one",
                    fips.origin, url.value
                ),
                remedy: "remove the URL, or turn FIPS off".to_owned(),
            });
        }
        let uses_sts = self.assume_role.is_some()
            || server.is_amazon()
            || credentials.iter().any(CredentialSource::may_assume_a_role);
        let sts_of_use = sts_url.as_ref().filter(|_| uses_sts);
        if let Some(Setting { value, origin }) = sts_of_use
            && !["http://", "https://"]
                .iter()
                .any(|scheme| value.starts_with(scheme))
            && !layers
                .mistakes
                .iter()
                .any(|mistake| mistake.message.contains(&**value))
        {
            let message = format!("{origin}: `{value}` is not a URL of STS");
            layers.mistakes.push(Mistake {
                field: None,
                message,
                remedy: format!("write https://{value}"),
            });
        }
        layers.forbid_plaintext(&self, url.as_ref(), sts_of_use, &network);
        let profile = layers.profile().map(|profile| profile.name().to_owned());
        ResolvedEndpoint {
            name: self.name.clone(),
            use_fips: use_fips.is_some_and(|fips| fips.value),
            use_dual_stack: use_dual_stack.is_some_and(|dual_stack| dual_stack.value),
            assume_role: self.assume_role.clone(),
            server,
            url,
            region,
            path_style,
            provider,
            profile,
            credentials,
            sts_url: sts_url.map(|url| url.value),
            network,
            mistakes: layers.mistakes,
            stated: self,
        }
    }
}

impl ResolvedEndpoint {
    /// True for Amazon S3, by whatever URL.
    #[must_use]
    pub fn is_aws(&self) -> bool {
        self.server.is_amazon()
    }

    /// True if both endpoints lead to the same buckets, so that S3 can copy between them by itself.
    #[must_use]
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.server == other.server
    }

    /// The URL to connect to; `None` for the public endpoint of Amazon S3.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.url.as_ref().map(|url| &*url.value)
    }

    /// Returns true if requests leave this machine unencrypted.
    #[must_use]
    pub fn is_plaintext(&self) -> bool {
        self.url()
            .is_some_and(|url| is_plaintext(url) || self.network.plain_proxy(url).is_some())
    }

    /// True if the flags or the manifest name the Region, so that another one is a mistake to
    /// report and not one to correct.
    #[must_use]
    pub fn region_is_stated(&self) -> bool {
        self.region.origin == Origin::Stated
    }

    /// The endpoint and its origin, for messages: `` `prod` (https://…, profile prod) ``.
    #[must_use]
    pub fn describe(&self) -> String {
        let place = match &self.url {
            Some(Setting {
                value,
                origin: Origin::Stated | Origin::Default,
            }) => value.clone(),
            Some(Setting { value, origin }) => format!("{value}, {origin}"),
            None => self.server.to_string(),
        };
        format!("`{}` ({place})", self.name)
    }
}

impl From<Endpoint> for ResolvedEndpoint {
    /// Resolves an endpoint as this process sees it.
    fn from(endpoint: Endpoint) -> Self {
        endpoint.resolve(&Environment::load())
    }
}

impl CredentialSource {
    /// Returns true if it may ask the Security Token Service for a role.
    fn may_assume_a_role(&self) -> bool {
        matches!(self, Self::Profile(_) | Self::WebIdentity)
    }
}

impl<T> Setting<T> {
    fn stated(value: T) -> Self {
        Self {
            value,
            origin: Origin::Stated,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stated => f.write_str("as stated"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::Variable(name) => f.write_str(name),
            Self::Default => f.write_str("by default"),
        }
    }
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("AWS_ACCESS_KEY_ID"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::WebIdentity => f.write_str("AWS_WEB_IDENTITY_TOKEN_FILE"),
            Self::Container => f.write_str("container credentials"),
            Self::InstanceMetadata => f.write_str("instance metadata"),
        }
    }
}

const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
const URLS: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

/// The places that settings come from, below what was stated.
struct Layers<'e> {
    environment: &'e Environment,
    /// The profile that the endpoint names. It beats the environment.
    named: Option<Profile<'e>>,
    /// The profile that the environment selects. It comes after the environment's variables.
    selected: Option<Profile<'e>>,
    profile_was_stated: bool,
    mistakes: Vec<Mistake>,
}

impl<'e> Layers<'e> {
    fn of(endpoint: &Endpoint, environment: &'e Environment) -> Self {
        let mut mistakes = Vec::new();
        if let Some(error) = environment.broken_files() {
            let remedy = "correct the file, or name another one with AWS_CONFIG_FILE".to_owned();
            let message = format!("the shared AWS configuration cannot be read: {error}");
            mistakes.push(Mistake {
                field: None,
                message,
                remedy,
            });
        }
        let mut find = |name: &str, who: &str| {
            let found = environment.profile(name);
            if found.is_none() && mistakes.is_empty() {
                let message = format!(
                    "{who}there is no profile `{name}` in {}",
                    environment.searched()
                );
                let names = environment.profile_names();
                let remedy = match names.len() {
                    0 => "name the file that has it with AWS_CONFIG_FILE".to_owned(),
                    1..=12 => format!("name one of these: {}", names.join(", ")),
                    count => format!("name one of the {count} profiles there"),
                };
                mistakes.push(Mistake {
                    field: Some("profile"),
                    message,
                    remedy,
                });
            }
            found
        };
        let named = endpoint
            .profile
            .as_deref()
            .filter(|_| !environment.is_isolated());
        let stated = named.map(str::trim).filter(|name| !name.is_empty());
        let (named, selected) = match (stated, environment.selected_profile()) {
            (Some(name), _) => (find(name, ""), None),
            (None, (name, Some(variable))) => {
                (None, find(name, &format!("{variable} is set, but ")))
            }
            (None, (name, None)) => (None, environment.profile(name)),
        };
        for name in environment.not_utf8() {
            let message = format!("the variable {name} is not UTF-8");
            mistakes.push(Mistake {
                field: None,
                message,
                remedy: "correct it, or unset it".to_owned(),
            });
        }
        let services = named
            .or(selected)
            .and_then(|profile| Some((profile, profile.get("services")?)));
        if let Some((profile, services)) =
            services.filter(|(_, name)| !environment.has_services(name))
        {
            let message = format!(
                "the profile `{}` names `services = {services}`, and there is no section [services {services}] in {}",
                profile.name(),
                environment.searched()
            );
            let remedy = "add the section, or remove the line".to_owned();
            mistakes.push(Mistake {
                field: stated.map(|_| "profile"),
                message,
                remedy,
            });
        }
        Self {
            environment,
            named,
            selected,
            profile_was_stated: stated.is_some(),
            mistakes,
        }
    }

    /// The profile whose settings apply.
    fn profile(&self) -> Option<Profile<'e>> {
        self.named.or(self.selected)
    }

    /// The first of the layers that has the setting, read by `read`.
    fn pick<T>(
        &mut self,
        stated: Option<T>,
        property: &dyn Fn(Profile<'e>) -> Option<&'e str>,
        variables: &[&'static str],
        read: &dyn Fn(&str) -> Result<T, String>,
    ) -> Option<Setting<T>> {
        if let Some(value) = stated {
            return Some(Setting::stated(value));
        }
        let of_profile = |profile: Profile<'e>| {
            Some((
                property(profile)?,
                Origin::Profile(profile.name().to_owned()),
            ))
        };
        let of_variable = |variable: &&'static str| {
            Some((
                self.environment.variable(variable)?,
                Origin::Variable(variable),
            ))
        };
        let (text, origin) = self
            .named
            .and_then(of_profile)
            .or_else(|| variables.iter().find_map(of_variable))
            .or_else(|| self.selected.and_then(of_profile))?;
        match read(text) {
            Ok(value) => Some(Setting { value, origin }),
            Err(message) => {
                let is_named = matches!(origin, Origin::Profile(_)) && self.profile_was_stated;
                let field = is_named.then_some("profile");
                let remedy = format!("correct it ({origin})");
                self.mistakes.push(Mistake {
                    field,
                    message,
                    remedy,
                });
                None
            }
        }
    }

    fn flag(&mut self, property: &'static str, variable: &'static str) -> Option<Setting<bool>> {
        let of_profile =
            |profile: Profile<'e>| profile.get(property).or_else(|| profile.s3(property));
        self.pick(
            None,
            &of_profile,
            &[variable],
            &|text| match text.to_ascii_lowercase().as_str() {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(format!("`{property}` is `{text}`; write true or false")),
            },
        )
    }

    fn ignores_urls(&mut self) -> bool {
        let ignores = self.flag(
            "ignore_configured_endpoint_urls",
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        );
        ignores.is_some_and(|ignores| ignores.value)
    }

    fn service_url(
        &mut self,
        service: &'static str,
        variables: &[&'static str],
    ) -> Option<Setting<String>> {
        if self.ignores_urls() {
            return None;
        }
        self.pick(
            None,
            &|profile| profile.service_url(service),
            variables,
            &text,
        )
    }

    fn url(&mut self, endpoint: &Endpoint) -> Option<Setting<String>> {
        let without_slash = |url: &str| url.trim().trim_end_matches('/').to_owned();
        if let Some(url) = &endpoint.url {
            return Some(Setting::stated(without_slash(url)));
        }
        let url = self.service_url("s3", &URLS)?;
        if let Some((message, remedy)) = url_mistake(&url.value) {
            let message = format!("{}: {message}", url.origin);
            let is_named = matches!(url.origin, Origin::Profile(_)) && self.profile_was_stated;
            self.mistakes.push(Mistake {
                field: is_named.then_some("profile"),
                message,
                remedy,
            });
            return None;
        }
        Some(Setting {
            value: without_slash(&url.value),
            origin: url.origin,
        })
    }

    /// Refuses URLs that would carry signed requests unencrypted beyond this machine.
    fn forbid_plaintext(
        &mut self,
        endpoint: &Endpoint,
        url: Option<&Setting<String>>,
        sts_url: Option<&Setting<String>>,
        network: &Network,
    ) {
        if endpoint.allow_http {
            return;
        }
        // One of them may be the other, and is then refused once.
        let sts_url = sts_url.filter(|sts| url.is_none_or(|url| url.value != sts.value));
        for (url, service) in url
            .map(|url| (url, ""))
            .into_iter()
            .chain(sts_url.map(|url| (url, "STS at ")))
        {
            let Setting { value, origin } = url;
            let proxy = network.plain_proxy(value);
            if url_mistake(value).is_some() || !(is_plaintext(value) || proxy.is_some()) {
                continue;
            }
            let field = match origin {
                Origin::Stated => Some("url"),
                Origin::Profile(_) if self.profile_was_stated => Some("profile"),
                _ => None,
            };
            let from = if *origin == Origin::Stated {
                String::new()
            } else {
                format!(" ({origin})")
            };
            let through =
                proxy.map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
            self.mistakes.push(Mistake {
                field,
                message: format!(
                    "{service}{value}{from} is plain HTTP{through}: credentials and data would be sent unencrypted"
                ),
                remedy: "write an https:// URL, or allow it with `allow_http: true` (--allow-http)".to_owned(),
            });
        }
    }

    /// True if credentials come from a service that is asked over TLS, wherever the endpoint is.
    fn asks_credential_services(&self, credentials: &[CredentialSource]) -> bool {
        const WAYS: [&str; 4] = ["role_arn", "sso_session", "sso_start_url", "login_session"];
        let asks = |source: &CredentialSource| match source {
            CredentialSource::WebIdentity => true,
            CredentialSource::Container => {
                let url = self
                    .environment
                    .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
                url.is_some_and(|url| url.starts_with("https://"))
            }
            CredentialSource::Profile(name) => {
                let profile = self.environment.profile(name);
                profile.is_some_and(|profile| WAYS.iter().any(|way| profile.get(way).is_some()))
            }
            CredentialSource::Environment | CredentialSource::InstanceMetadata => false,
        };
        credentials.iter().any(asks)
    }

    /// Decides how to reach the endpoint at the URL `place`, and credential services over TLS if
    /// `asks_elsewhere`. A setting of the environment that none of these connections uses is no
    /// mistake, whatever it says.
    fn network(&mut self, endpoint: &Endpoint, place: &str, asks_elsewhere: bool) -> Network {
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
                // A web server hands the header `Proxy` of its clients to CGI programs as
                // HTTP_PROXY.
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

    /// Proxies stand in variables only; the shared configuration has none.
    fn proxy(&mut self, variables: &[&'static str], is_used: bool) -> Option<Setting<ProxyUrl>> {
        let before = self.mistakes.len();
        let proxy = self.pick(None, &|_| None, variables, &|text| {
            text.parse().map_err(|error: ProxyError| error.to_string())
        });
        if !is_used {
            self.mistakes.truncate(before);
        }
        proxy
    }

    fn credentials(&mut self) -> Vec<CredentialSource> {
        if self.environment.is_isolated() {
            return Vec::new();
        }
        let set = |name: &str| self.environment.variable(name).is_some();
        let mut sources = Vec::new();
        let profile = self.profile().filter(Profile::has_credentials);
        let of_profile =
            profile.map(|profile| CredentialSource::Profile(profile.name().to_owned()));
        if self.profile_was_stated {
            if let Some(profile) = of_profile {
                // The profile's credentials or an error, never those of something else.
                return vec![profile];
            }
        } else {
            let key = set("AWS_ACCESS_KEY_ID");
            let secret = set("AWS_SECRET_ACCESS_KEY") || set("SECRET_ACCESS_KEY");
            match (key, secret) {
                (true, true) => sources.push(CredentialSource::Environment),
                (true, false) | (false, true) => {
                    let (has, lacks) = if key {
                        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
                    } else {
                        ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")
                    };
                    self.mistakes.push(Mistake {
                        field: None,
                        message: format!("{has} is set, but {lacks} is not"),
                        remedy: "set both, or neither".to_owned(),
                    });
                }
                (false, false) => {}
            }
            // botocore asks for a web identity after a profile's role and before a profile's keys.
            let has_role = profile.is_some_and(|profile| profile.get("role_arn").is_some());
            let is_web = set("AWS_WEB_IDENTITY_TOKEN_FILE") && set("AWS_ROLE_ARN");
            let web_identity = is_web.then_some(CredentialSource::WebIdentity);
            if has_role {
                sources.extend(of_profile.into_iter().chain(web_identity));
            } else {
                sources.extend(web_identity.into_iter().chain(of_profile));
            }
        }
        if set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
            || set("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        {
            sources.push(CredentialSource::Container);
        }
        let disabled = self.environment.variable("AWS_EC2_METADATA_DISABLED");
        if !disabled.is_some_and(|disabled| disabled.eq_ignore_ascii_case("true")) {
            sources.push(CredentialSource::InstanceMetadata);
        }
        sources
    }
}

/// The public endpoint of Amazon S3, as the SDK resolves it.
pub(crate) fn public_url(region: &str) -> String {
    let domain = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    format!("https://s3.{region}.{domain}")
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "it stands beside readers that can fail"
)]
fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
