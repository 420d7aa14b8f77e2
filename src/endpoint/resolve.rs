//! Combines the typed settings, the environment, and the shared configuration into one value.
//!
//! Every setting comes from the first of these sources that has it:
//!
//! 1. flags or the manifest (a command takes one or the other),
//! 2. the profile that the flags or the manifest name,
//! 3. environment variables,
//! 4. the profile that `AWS_PROFILE` names, or else `default`, but only if step 2 named none,
//! 5. a default of s3haul.
//!
//! This is botocore's order, with two differences. In botocore, `AWS_REGION` and `AWS_ENDPOINT_URL`
//! take precedence over a named profile, except for its credentials. Here a named profile takes
//! precedence for every setting that it has, because its keys are useless at another server. And
//! `AWS_PROFILE` comes before `AWS_DEFAULT_PROFILE`, as in the SDKs.

mod layers;
mod reach;
mod sources;

use std::fmt;

use self::layers::Layers;
use super::environment::Environment;
use super::network::Network;
use super::server::{Server, is_plaintext};
use super::{AssumeRole, Endpoint, Provider};

/// A value and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// The origin of the setting.
    pub origin: SettingOrigin,
}

/// The origin of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingOrigin {
    /// Flags or the manifest.
    Stated,
    /// A profile of the shared configuration.
    Profile(String),
    /// An environment variable.
    Variable(&'static str),
    /// s3haul's default, because no other source sets a value.
    Default,
}

/// One possible source of credentials.
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
pub struct EndpointMistake {
    /// The field of the endpoint, if the mistake is in the manifest or in a flag. `None` if the
    /// mistake is in the environment.
    pub field: Option<&'static str>,
    /// The mistake, as a sentence without a period.
    pub message: String,
    /// The remedy.
    pub remedy: String,
}

/// An endpoint with every setting resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedEndpoint {
    /// The name that transfers use.
    pub name: String,
    /// The endpoint as the user typed it.
    pub stated: Endpoint,
    /// The server that the endpoint leads to.
    pub server: Server,
    /// The URL to connect to; `None` for the public endpoint of Amazon S3 in the Region.
    pub url: Option<Setting<String>>,
    /// The Region that requests are signed for.
    pub region: Setting<String>,
    /// True for path-style addressing, false for virtual-hosted, `None` for the client's choice.
    pub path_style: Option<bool>,
    /// The provider; never [`Provider::Auto`].
    pub provider: Provider,
    /// The profile whose settings apply, if there is one.
    pub profile: Option<String>,
    /// The possible sources of credentials, in order. The first configured source is used.
    pub credentials: Vec<CredentialSource>,
    /// A role to assume with these credentials.
    pub assume_role: Option<AssumeRole>,
    /// The URL of the Security Token Service; `None` for the public endpoint in the Region.
    pub sts_url: Option<String>,
    /// Proxies and trusted certificates.
    pub network: Network,
    /// True to use AWS's FIPS endpoints if no URL is given.
    pub use_fips: bool,
    /// True to use AWS's dual-stack endpoints if no URL is given.
    pub use_dual_stack: bool,
    /// Settings that cannot be used. s3haul must not connect to an endpoint with mistakes.
    pub mistakes: Vec<EndpointMistake>,
}

impl Endpoint {
    /// Resolves every setting. Collects settings that cannot be used in
    /// [`ResolvedEndpoint::mistakes`], so that the user sees all of them at once.
    #[must_use]
    pub fn resolve(self, environment: &Environment) -> ResolvedEndpoint {
        let mut layers = Layers::of(&self, environment);
        let url = layers.url(&self);
        let region = layers.region(&self);
        let server = Server::of(url.as_ref().map(|url| &*url.value), &region.value);
        // S3-compatible servers rarely have a DNS name per bucket, so path-style is the default for
        // every URL, as in botocore.
        let path_style = layers
            .path_style(&self)
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
        layers.check_fips(use_fips.as_ref(), url.as_ref(), &server);
        let uses_sts = self.assume_role.is_some()
            || server.is_amazon()
            || credentials.iter().any(CredentialSource::may_assume_a_role);
        let sts_of_use = sts_url.as_ref().filter(|_| uses_sts);
        layers.check_sts_url(sts_of_use);
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
    /// Returns true for Amazon S3, whatever the URL.
    #[must_use]
    pub fn is_aws(&self) -> bool {
        self.server.is_amazon()
    }

    /// Returns true if both endpoints lead to the same buckets, so that server-side copies between
    /// them are possible.
    #[must_use]
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.server == other.server
    }

    /// Returns the URL to connect to; `None` for the public endpoint of Amazon S3.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.url.as_ref().map(|url| &*url.value)
    }

    /// Returns true if requests leave this machine unencrypted.
    #[must_use]
    pub fn is_plaintext(&self) -> bool {
        self.url().is_some_and(|url| {
            is_plaintext(url) || self.network.remote_plaintext_proxy(url).is_some()
        })
    }

    /// Returns true if flags or the manifest name the Region. Then s3haul reports a bucket in
    /// another Region as an error instead of following it.
    #[must_use]
    pub fn region_is_stated(&self) -> bool {
        self.region.origin == SettingOrigin::Stated
    }

    /// Describes the endpoint and its origin for messages: `` `prod` (https://…, profile prod) ``.
    #[must_use]
    pub fn describe(&self) -> String {
        let place = match &self.url {
            Some(Setting {
                value,
                origin: SettingOrigin::Stated | SettingOrigin::Default,
            }) => value.clone(),
            Some(Setting { value, origin }) => format!("{value}, {origin}"),
            None => self.server.to_string(),
        };
        format!("`{}` ({place})", self.name)
    }
}

impl From<Endpoint> for ResolvedEndpoint {
    /// Resolves an endpoint in the environment of this process.
    fn from(endpoint: Endpoint) -> Self {
        endpoint.resolve(&Environment::load())
    }
}

impl CredentialSource {
    /// Returns true if the source may ask the Security Token Service for a role.
    fn may_assume_a_role(&self) -> bool {
        matches!(self, Self::Profile(_) | Self::WebIdentity)
    }
}

impl<T> Setting<T> {
    fn stated(value: T) -> Self {
        Self {
            value,
            origin: SettingOrigin::Stated,
        }
    }
}

impl fmt::Display for SettingOrigin {
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

/// Returns the public endpoint of Amazon S3, as the SDK resolves it.
pub(crate) fn public_url(region: &str) -> String {
    let domain = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    format!("https://s3.{region}.{domain}")
}

#[cfg(test)]
mod tests;
