//! The credential providers of an endpoint. These are the SDK's providers, in the order that the
//! endpoint resolution chose; s3haul runs only `credential_process` itself ([`super::process`]).
//!
//! The SDK's default chain reads the environment by itself. It would find an exported key although
//! the user named a profile, and would treat an empty variable as set. Here the chain holds exactly
//! the sources in [`ResolvedEndpoint::credentials`].

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

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
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider, SharedHttpClient};
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_async::time::SystemTimeSource;

use super::client::StaticCredentials;
use super::process::{self, CredentialProcess};
use crate::endpoint::{AssumeRole, CredentialSource, Environment, Login, ResolvedEndpoint};

/// The time limit of a provider, which may start a program.
pub(super) const ANSWER: Duration = Duration::from_mins(1);
/// The name under which the SDK finds the `credential_process` of a profile.
const PROCESS: &str = "s3haul-process";

/// The source of the credentials of an endpoint.
pub(super) enum CredentialProvider {
    /// This set of credentials.
    Fixed(Credentials),
    /// The providers of the machine.
    Ambient {
        settings: Box<ClientSettings>,
        history: Arc<ProviderHistory>,
    },
}

impl CredentialProvider {
    /// Returns the provider of the endpoint's credentials, or of `fixed` ones. Sends nothing yet.
    pub(super) fn new(settings: &ClientSettings, fixed: Option<StaticCredentials>) -> Self {
        match fixed {
            Some(StaticCredentials {
                access_key,
                secret_key,
            }) => Self::Fixed(Credentials::new(
                access_key, secret_key, None, None, "s3haul",
            )),
            None => Self::Ambient {
                settings: Box::new(settings.clone()),
                history: Arc::default(),
            },
        }
    }

    /// Returns credentials. Reads files and variables again.
    pub(super) async fn ask(&self) -> Result<Credentials, CredentialsError> {
        match self {
            Self::Fixed(credentials) => Ok(credentials.clone()),
            Self::Ambient { settings, history } => {
                let provider = settings.credentials(Arc::clone(history)).await;
                provider.provide_credentials().await
            }
        }
    }

    /// Returns true if the provider never returns another set.
    pub(super) fn is_fixed(&self) -> bool {
        match self {
            Self::Fixed(_) => true,
            Self::Ambient { settings, history } => {
                history.used.get() == Some(&CredentialSource::Environment)
                    && settings.endpoint.assume_role.is_none()
            }
        }
    }

    /// Returns the source of the credentials, once a provider has returned some.
    pub(super) fn used(&self) -> Option<&CredentialSource> {
        match self {
            Self::Fixed(_) => None,
            Self::Ambient { history, .. } => history.used.get(),
        }
    }

    /// Returns the source that is being asked or was asked last, or `None` if its credentials are
    /// used to assume a role.
    pub(super) fn last_asked(&self) -> Option<Link> {
        match self {
            Self::Fixed(_) => None,
            Self::Ambient { history, .. } => history.link().clone(),
        }
    }
}

/// Builds configurations of SDK clients that do not read the environment.
#[derive(Clone)]
pub(super) struct ClientSettings {
    pub(super) endpoint: ResolvedEndpoint,
    pub(super) region: Region,
    pub(super) http_client: SharedHttpClient,
    /// For credential services on the machine itself. A proxy must not see their tokens.
    pub(super) direct_client: SharedHttpClient,
}

impl ClientSettings {
    async fn credentials(&self, history: Arc<ProviderHistory>) -> SharedCredentialsProvider {
        let chain = SharedCredentialsProvider::new(self.chain(history));
        match &self.endpoint.assume_role {
            Some(role) => self.assume(role, chain).await,
            None => chain,
        }
    }

    /// Returns a configuration for requests to the Security Token Service.
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

    fn chain(&self, history: Arc<ProviderHistory>) -> Chain {
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
            let config = if is_local { &direct } else { &config };
            (
                Link::of(source, &environment),
                provider(source, config, &environment),
            )
        };
        // A run keeps the identity that it started with, or waits for it.
        let sources: &[_] = match history.used.get() {
            Some(used) => std::slice::from_ref(used),
            None => &self.endpoint.credentials,
        };
        Chain {
            links: sources.iter().map(link).collect(),
            has_role: self.endpoint.assume_role.is_some(),
            history,
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
    let text = |name| environment.variable(name).unwrap_or_default().to_owned();
    match source {
        CredentialSource::Environment => {
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
        CredentialSource::Profile(name) => of_profile(name, config, environment),
        CredentialSource::WebIdentity => {
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

/// Returns the provider of a profile.
fn of_profile(
    name: &str,
    config: &ProviderConfig,
    environment: &Environment,
) -> SharedCredentialsProvider {
    // The profile existed when the endpoint was resolved, but may have been removed since.
    if let Some(reason) = environment.broken_files() {
        let reason = format!("the shared AWS configuration cannot be read: {reason}");
        return SharedCredentialsProvider::new(ProfileGone(reason));
    }
    if environment.profile(name).is_none() {
        let searched = environment.searched();
        return SharedCredentialsProvider::new(ProfileGone(format!(
            "it is not in {searched} any more"
        )));
    }
    let mut files = EnvConfigFiles::builder();
    for (kind, text) in environment.contents() {
        files = files.with_contents(*kind, text);
    }
    let mut provider = ProfileFileCredentialsProvider::builder()
        .configure(config)
        .profile_name(name);
    if let Some(base) = environment.base_of(name)
        && let Login::Process(command) = base.login
    {
        let profile = base.profile;
        // Later settings of a profile replace earlier ones.
        let source = if base.is_its_own_source {
            format!(
                "[{profile}]\nsource_profile = {PROCESS}\n[{PROCESS}]\ncredential_source = {PROCESS}\n"
            )
        } else {
            format!("[{profile}]\ncredential_source = {PROCESS}\n")
        };
        files = files.with_contents(EnvConfigFileKind::Credentials, source);
        let process = CredentialProcess {
            profile,
            command,
            limit: ANSWER,
        };
        provider = provider.with_custom_provider(PROCESS, process);
    }
    SharedCredentialsProvider::new(provider.profile_files(files.build()).build())
}

/// The error for a profile that no longer exists or cannot be read, with the reason. A later
/// look-up may find the profile again.
#[derive(Clone, Debug)]
pub(super) struct ProfileGone(pub(super) String);

impl fmt::Display for ProfileGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ProfileGone {}

impl ProvideCredentials for ProfileGone {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::provider_error(self.clone())))
    }
}

/// The history of the sources that were asked.
#[derive(Debug, Default)]
pub(super) struct ProviderHistory {
    /// The source of the credentials, once a provider has returned some.
    used: OnceLock<CredentialSource>,
    /// See [`CredentialProvider::last_asked`].
    link: Mutex<Option<Link>>,
}

impl ProviderHistory {
    fn link(&self) -> std::sync::MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A source in the chain.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) source: CredentialSource,
    /// The name in messages, if the source alone does not identify it.
    pub(super) name: Option<String>,
}

impl Link {
    fn of(source: &CredentialSource, environment: &Environment) -> Self {
        let name = match source {
            CredentialSource::Profile(name) => Self::name_of(name, environment),
            _ => None,
        };
        Self {
            source: source.clone(),
            name,
        }
    }

    fn name_of(name: &str, environment: &Environment) -> Option<String> {
        let base = environment.base_of(name)?;
        let login = match base.login {
            Login::Process(_) => process::name(&base.profile),
            Login::Sso => format!("SSO login of profile `{}`", base.profile),
            Login::Session => format!("`aws login` of profile `{}`", base.profile),
            Login::Keys | Login::WebIdentity | Login::Source => return None,
        };
        // The login provides credentials with which a role is assumed.
        let has_role = base.is_its_own_source || base.profile != name;
        Some(if has_role {
            format!("profile `{name}` (with {login})")
        } else {
            login
        })
    }
}

/// Asks the providers in turn until one has credentials.
///
/// The SDK has such a chain, but does not report which provider gave the credentials or failed.
#[derive(Clone, Debug)]
struct Chain {
    links: Vec<(Link, SharedCredentialsProvider)>,
    /// True if a role is assumed with the credentials.
    has_role: bool,
    history: Arc<ProviderHistory>,
}

impl Chain {
    async fn ask(&self) -> Result<Credentials, CredentialsError> {
        let mut last = CredentialsError::not_loaded("no credentials are configured");
        for (link, provider) in &self.links {
            let source = &link.source;
            *self.history.link() = Some(link.clone());
            match provider.provide_credentials().await {
                Ok(credentials) => {
                    if let Some(field) = unsignable(&credentials) {
                        let error = Unsignable {
                            field,
                            source: source.clone(),
                        };
                        return Err(CredentialsError::invalid_configuration(error));
                    }
                    let _ = self.history.used.set(source.clone());
                    if self.has_role {
                        *self.history.link() = None;
                    }
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

/// The error for credentials that cannot sign a request. The SDK panics on some of them. The
/// message does not show the value.
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
            "{source}: the {field} contains characters that no header can contain, such as a line break"
        )
    }
}

impl Error for Unsignable {}

/// Returns the name of the first field that is not a valid header value.
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
