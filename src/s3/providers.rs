//! Credentials of an endpoint: the SDK's own providers, in the order that the endpoint was resolved
//! to.
//!
//! The SDK's default chain reads the environment by itself, so it would find an exported key
//! although a profile was named, and would take an empty variable for a set one. Here the chain
//! holds what [`ResolvedEndpoint::credentials`] lists and nothing else.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider, SharedHttpClient};
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_async::time::SystemTimeSource;

use super::client::StaticCredentials;
use crate::endpoint::{AssumeRole, CredentialSource, Environment, ResolvedEndpoint};

/// The source of the credentials of an endpoint.
pub(super) enum Provider {
    /// This set.
    Fixed(Credentials),
    /// The providers of the machine.
    Ambient {
        foundation: Box<Foundation>,
        used: Used,
    },
}

impl Provider {
    /// Returns the provider of the endpoint's credentials, or of `fixed` ones; nothing is sent yet.
    pub(super) fn new(foundation: &Foundation, fixed: Option<StaticCredentials>) -> Self {
        match fixed {
            Some(StaticCredentials {
                access_key,
                secret_key,
            }) => Self::Fixed(Credentials::new(
                access_key, secret_key, None, None, "s3haul",
            )),
            None => Self::Ambient {
                foundation: Box::new(foundation.clone()),
                used: Used::default(),
            },
        }
    }

    /// Returns credentials. Files and variables are read again.
    pub(super) async fn ask(&self) -> Result<Credentials, CredentialsError> {
        match self {
            Self::Fixed(credentials) => Ok(credentials.clone()),
            Self::Ambient { foundation, used } => {
                let provider = foundation.credentials(Arc::clone(used)).await;
                provider.provide_credentials().await
            }
        }
    }

    /// True if it never gives another set.
    pub(super) fn is_fixed(&self) -> bool {
        match self {
            Self::Fixed(_) => true,
            Self::Ambient { foundation, used } => {
                used.get() == Some(&CredentialSource::Environment)
                    && foundation.endpoint.assume_role.is_none()
            }
        }
    }

    /// The source that gave the credentials, once one has.
    pub(super) fn used(&self) -> Option<&CredentialSource> {
        match self {
            Self::Fixed(_) => None,
            Self::Ambient { used, .. } => used.get(),
        }
    }
}

/// Builds configurations of SDK clients that do not read the environment.
#[derive(Clone)]
pub(super) struct Foundation {
    pub(super) endpoint: ResolvedEndpoint,
    pub(super) region: Region,
    pub(super) http_client: SharedHttpClient,
    /// For credential services on the machine itself. A proxy must not see their tokens.
    pub(super) direct_client: SharedHttpClient,
}

impl Foundation {
    async fn credentials(&self, used: Used) -> SharedCredentialsProvider {
        let chain = SharedCredentialsProvider::new(self.chain(used));
        match &self.endpoint.assume_role {
            Some(role) => self.assume(role, chain).await,
            None => chain,
        }
    }

    /// A configuration for requests to the Security Token Service.
    pub(super) fn sts_config(&self, credentials: SharedCredentialsProvider) -> SdkConfig {
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(self.http_client.clone())
            .retry_config(RetryConfig::standard())
            .time_source(SystemTimeSource::new())
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .region(self.region.clone())
            .use_fips(self.endpoint.use_fips && self.endpoint.sts_url.is_none())
            .use_dual_stack(self.endpoint.use_dual_stack && self.endpoint.sts_url.is_none())
            .credentials_provider(credentials);
        config.set_endpoint_url(self.endpoint.sts_url.clone());
        config.build()
    }

    fn chain(&self, used: Used) -> Chain {
        let config = ProviderConfig::without_region()
            .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
            .with_http_client(self.http_client.clone())
            .with_region(Some(self.region.clone()))
            .with_use_fips(Some(self.endpoint.use_fips))
            .with_use_dual_stack(Some(self.endpoint.use_dual_stack));
        let direct = config.clone().with_http_client(self.direct_client.clone());
        let environment = Environment::load();
        let link = |source: &CredentialSource| {
            let is_local = matches!(
                source,
                CredentialSource::Container | CredentialSource::InstanceMetadata
            );
            (
                source.clone(),
                provider(
                    source,
                    if is_local { &direct } else { &config },
                    &environment,
                ),
            )
        };
        Chain {
            links: self.endpoint.credentials.iter().map(link).collect(),
            used,
        }
    }

    async fn assume(
        &self,
        role: &AssumeRole,
        base: SharedCredentialsProvider,
    ) -> SharedCredentialsProvider {
        let mut provider = AssumeRoleProvider::builder(&role.arn)
            .session_name(role.session_name.as_deref().unwrap_or("s3haul"))
            .configure(&self.sts_config(base.clone()));
        if let Some(id) = &role.external_id {
            provider = provider.external_id(id);
        }
        if let Some(duration) = role.duration {
            provider = provider.session_length(duration);
        }
        SharedCredentialsProvider::new(provider.build_from_provider(base).await)
    }
}

fn provider(
    source: &CredentialSource,
    config: &ProviderConfig,
    environment: &Environment,
) -> SharedCredentialsProvider {
    match source {
        CredentialSource::Environment => {
            let text = |name| environment.variable(name).unwrap_or_default().to_owned();
            let secret = environment
                .variable("AWS_SECRET_ACCESS_KEY")
                .map_or_else(|| text("SECRET_ACCESS_KEY"), str::to_owned);
            let token = environment.variable("AWS_SESSION_TOKEN").map(str::to_owned);
            SharedCredentialsProvider::new(Credentials::new(
                text("AWS_ACCESS_KEY_ID"),
                secret,
                token,
                None,
                "environment",
            ))
        }
        CredentialSource::Profile(name) => {
            let mut files = EnvConfigFiles::builder();
            for (kind, path) in environment.config_files() {
                files = files.with_file(kind, path);
            }
            let provider = ProfileFileCredentialsProvider::builder()
                .configure(config)
                .profile_files(files.build())
                .profile_name(name);
            SharedCredentialsProvider::new(provider.build())
        }
        CredentialSource::WebIdentity => {
            let text = |name| environment.variable(name).unwrap_or_default().to_owned();
            let identity = StaticConfiguration {
                web_identity_token_file: text("AWS_WEB_IDENTITY_TOKEN_FILE").into(),
                role_arn: text("AWS_ROLE_ARN"),
                session_name: environment
                    .variable("AWS_ROLE_SESSION_NAME")
                    .unwrap_or("s3haul")
                    .to_owned(),
            };
            let provider = WebIdentityTokenCredentialsProvider::builder().configure(config);
            SharedCredentialsProvider::new(provider.static_configuration(identity).build())
        }
        CredentialSource::Container => SharedCredentialsProvider::new(
            EcsCredentialsProvider::builder().configure(config).build(),
        ),
        CredentialSource::InstanceMetadata => SharedCredentialsProvider::new(
            ImdsCredentialsProvider::builder().configure(config).build(),
        ),
    }
}

/// Asks one provider after the other until one is set up.
///
/// The SDK has such a chain, but does not tell which provider gave the credentials or failed.
#[derive(Clone, Debug)]
struct Chain {
    links: Vec<(CredentialSource, SharedCredentialsProvider)>,
    used: Used,
}

/// The source that gave the credentials, once one has.
pub(super) type Used = Arc<OnceLock<CredentialSource>>;

impl Chain {
    async fn ask(&self) -> Result<Credentials, CredentialsError> {
        let mut last = CredentialsError::not_loaded("no credentials are configured");
        for (source, provider) in &self.links {
            match provider.provide_credentials().await {
                Ok(credentials) => {
                    if let Some(field) = unsignable(&credentials) {
                        let error = Unsignable {
                            field,
                            source: source.clone(),
                        };
                        return Err(CredentialsError::invalid_configuration(error));
                    }
                    // Only the first answer is recorded; a renewal may come from another source.
                    let _ = self.used.set(source.clone());
                    return Ok(credentials);
                }
                Err(error @ CredentialsError::CredentialsNotLoaded(_)) => {
                    tracing::debug!(%source, "has no credentials: {error}");
                    last = error;
                }
                Err(error) => {
                    tracing::debug!(%source, "cannot give credentials: {error}");
                    return Err(error);
                }
            }
        }
        Err(last)
    }
}

/// Credentials that no request can be signed with. The SDK panics on some of them. The value is not
/// shown.
#[derive(Debug)]
pub(super) struct Unsignable {
    field: &'static str,
    source: CredentialSource,
}

impl fmt::Display for Unsignable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, source } = self;
        write!(
            f,
            "{source}: the {field} holds characters that no header can hold, such as a line break"
        )
    }
}

impl Error for Unsignable {}

/// Returns the field that the headers of a signed request cannot hold.
fn unsignable(credentials: &Credentials) -> Option<&'static str> {
    let is_odd = |text: &str| !text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_odd(credentials.access_key_id()) {
        Some("access key id")
    } else if credentials.session_token().is_some_and(is_odd) {
        Some("session token")
    } else {
        None
    }
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.ask())
    }
}
