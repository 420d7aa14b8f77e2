//! A connection to one endpoint in one region.
//!
//! All clients of a process share one HTTP pool (`s3::pool`). The SDK's own retries are off,
//! because each attempt must pass the pacer and be counted. Its stalled-stream protection is off,
//! because a long part copy is silent for more than five seconds. Instead, [`crate::bucket`] sets
//! time limits that grow with the number of bytes.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    ProvideCredentials as _, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::access::AccessHeaders;
use super::clock::{Clock, Signed, Witness};
use super::credential_chain::{ClientSettings, CredentialProvider};
use super::fast_path::{Extra, FastPath, Header, LearnFastPath};
use super::identity::Identities;
pub use super::identity::NotReady;
use super::pool::{CONNECT_TIMEOUT, http_client};
use super::roots::AnyRoot;
use super::{Capabilities, CustomerKey, SignedRetry};
use super::{Failure, FailureKind, Operation};
use crate::endpoint::{
    CredentialSource, Endpoint, Network, Provider, ResolvedEndpoint, SettingOrigin, public_url,
};
use crate::location::BucketName;
use crate::manifest::job::Access;

/// Fixed credentials, for the embedded sandbox and tests. Others come from the environment.
#[derive(Clone)]
pub struct StaticCredentials {
    /// Access key ID.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
}

impl std::fmt::Debug for StaticCredentials {
    /// Omits the secret, because printed values end up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticCredentials")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// The settings of a connection to an endpoint.
#[derive(Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Connect {
    /// The endpoint, with every setting resolved.
    pub endpoint: ResolvedEndpoint,
    /// The Region of the bucket, once it is known, which overrides the endpoint's Region.
    pub region: Option<String>,
    /// Fixed credentials instead of the ambient chain.
    pub credentials: Option<StaticCredentials>,
}

impl From<ResolvedEndpoint> for Connect {
    fn from(endpoint: ResolvedEndpoint) -> Self {
        Self {
            endpoint,
            region: None,
            credentials: None,
        }
    }
}

impl From<Endpoint> for Connect {
    /// Resolves the endpoint in the environment of this process.
    fn from(endpoint: Endpoint) -> Self {
        ResolvedEndpoint::from(endpoint).into()
    }
}

/// The time limit of `sts:GetCallerIdentity`, which only a message needs.
const IDENTITY_PATIENCE: Duration = Duration::from_secs(5);
/// The time limit of the credential provider for that message, which may start a program.
const PROVIDER_PATIENCE: Duration = Duration::from_secs(15);

/// Sends single requests to one endpoint in one region. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) sdk: aws_sdk_s3::Client,
    /// The customer key that goes with every request about an object.
    pub(super) customer_key: Option<CustomerKey>,
    shared: Arc<ClientState>,
    headers: AccessHeaders,
    capabilities: Arc<Capabilities>,
    /// The bucket that the client was made for, if any.
    bucket: Option<BucketName>,
    /// The fast path to the bucket, once it is known.
    fast_path: Arc<OnceLock<FastPath>>,
    /// True if all bodies are signed, whatever the fast path has learned.
    pub(super) signs_bodies: bool,
}

#[derive(Debug)]
struct ClientState {
    endpoint: ResolvedEndpoint,
    region: String,
    /// True for Amazon S3, even behind another host's URL if the manifest says `provider: aws`.
    is_aws: bool,
    /// The SDK client without the headers of any bucket.
    plain: aws_sdk_s3::Client,
    identities: Identities,
    /// Held by the request that finds out whether the credentials are refused.
    inquiry: Mutex<Option<Instant>>,
    /// The configuration for requests to the Security Token Service.
    sts: SdkConfig,
}

impl Client {
    /// Creates a client. Sends nothing: the first request asks for credentials.
    ///
    /// # Errors
    /// Returns [`FailureKind::Configuration`] if no connection can be made with the endpoint's
    /// settings.
    #[expect(
        clippy::unused_async,
        reason = "creating a connection may have to wait one day"
    )]
    pub async fn connect(connect: Connect) -> Result<Self, Failure> {
        Self::of(connect, None)
    }

    /// Creates a client for another region of the endpoint. Both share their credentials and their
    /// clock.
    ///
    /// # Errors
    /// Fails for the same reasons as [`Client::connect`].
    pub fn in_region(&self, region: Option<String>) -> Result<Self, Failure> {
        let connect = Connect {
            endpoint: self.shared.endpoint.clone(),
            region,
            credentials: None,
        };
        Self::of(connect, Some(self.shared.identities.clone()))
    }

    fn of(connect: Connect, identities: Option<Identities>) -> Result<Self, Failure> {
        let Connect {
            endpoint,
            region,
            credentials,
        } = connect;
        let refuse = |message: String| {
            Failure::new(
                FailureKind::Configuration,
                Operation::HeadBucket,
                endpoint.describe(),
                message,
            )
        };
        if let Some(mistake) = endpoint.mistakes.first() {
            return Err(refuse(format!("{}; {}", mistake.message, mistake.remedy)));
        }
        let client_of =
            |network: &Network| http_client(network).map_err(|error| refuse(error.to_string()));
        let http_client = client_of(&endpoint.network)?;
        let direct_client = client_of(&Network {
            http: None,
            https: None,
            ..endpoint.network.clone()
        })?;
        let region = region.unwrap_or_else(|| endpoint.region.value.clone());
        let settings = ClientSettings {
            endpoint: endpoint.clone(),
            region: Region::new(region.clone()),
            http_client: http_client.clone(),
            direct_client,
        };
        let identities = identities.unwrap_or_else(|| {
            let provider = CredentialProvider::new(&settings, credentials);
            Identities::new(provider, (&endpoint).into(), Clock::default())
        });
        let capabilities = Capabilities::of(&endpoint);
        let is_aws = endpoint.is_aws() || endpoint.provider == Provider::Aws;
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http_client)
            .region(Region::new(region.clone()))
            .credentials_provider(identities.clone())
            .identity_cache(identities.clone())
            .time_source(identities.clock().clone())
            // `Clock` corrects the time of the SDK and of the fast path. The SDK's own correction
            // would trust every response of any proxy.
            .disable_clock_skew_correction(true)
            .interceptor(Witness(identities.clock().clone()))
            .interceptor(AnyRoot)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .build(),
            )
            .use_fips(endpoint.use_fips && endpoint.url.is_none())
            .use_dual_stack(endpoint.use_dual_stack && endpoint.url.is_none())
            .use_arn_region(true);
        if let Some(url) = endpoint.url() {
            config = config.endpoint_url(url);
        }
        if !endpoint.is_aws() {
            // Only AWS has sessions for directory buckets. Elsewhere a bucket may have such a name
            // by chance.
            config = config.disable_s3_express_session_auth(true);
        }
        if let Some(path_style) = endpoint.path_style {
            config = config.force_path_style(path_style);
        }
        if !capabilities.checksums {
            config = config
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        }
        let sts = settings.sts_config(SharedCredentialsProvider::new(identities.clone()));
        let sdk = aws_sdk_s3::Client::from_conf(config.build());
        let plain = sdk.clone();
        Ok(Self {
            sdk,
            shared: Arc::new(ClientState {
                endpoint,
                region,
                is_aws,
                plain,
                identities,
                inquiry: Mutex::default(),
                sts,
            }),
            headers: AccessHeaders::default(),
            capabilities: Arc::new(capabilities),
            customer_key: None,
            bucket: None,
            fast_path: Arc::default(),
            signs_bodies: false,
        })
    }

    /// Returns a client for objects that this customer key (SSE-C) encrypts, or for objects without
    /// one.
    #[must_use]
    pub fn with_customer_key(&self, customer_key: Option<CustomerKey>) -> Self {
        Self {
            customer_key,
            ..self.clone()
        }
    }

    /// Returns the customer key that the requests carry.
    #[must_use]
    pub fn customer_key(&self) -> Option<&CustomerKey> {
        self.customer_key.as_ref()
    }

    /// Returns a client for one bucket, whose requests all carry the headers that `access` demands.
    #[must_use]
    pub fn to_bucket(&self, bucket: &BucketName, access: Access) -> Self {
        let capabilities = self.capabilities.in_bucket(bucket, self.shared.is_aws);
        let headers = AccessHeaders {
            own: access,
            source: self.headers.source.clone(),
        };
        Self {
            capabilities: Arc::new(capabilities),
            ..self.with(headers, Some(bucket.clone()))
        }
    }

    /// Returns a client for copies out of a bucket with this `access`.
    #[must_use]
    pub fn reading_from(&self, source: Access) -> Self {
        self.with(
            AccessHeaders {
                own: self.headers.own.clone(),
                source,
            },
            self.bucket.clone(),
        )
    }

    /// Returns a client that assumes these capabilities, to test whether the endpoint has them.
    #[must_use]
    pub fn assuming(&self, capabilities: Capabilities) -> Self {
        Self {
            capabilities: Arc::new(capabilities),
            ..self.clone()
        }
    }

    fn with(&self, headers: AccessHeaders, bucket: Option<BucketName>) -> Self {
        let Self {
            shared,
            capabilities,
            customer_key,
            ..
        } = self.clone();
        let mut config = shared
            .plain
            .config()
            .to_builder()
            .interceptor(headers.clone());
        let fast_path = Arc::default();
        if let Some(bucket) = &bucket {
            config = config.interceptor(LearnFastPath {
                bucket: bucket.to_string(),
                access: headers.clone(),
                identities: shared.identities.clone(),
                fast_path: Arc::clone(&fast_path),
            });
        }
        let sdk = aws_sdk_s3::Client::from_conf(config.build());
        Self {
            sdk,
            customer_key,
            shared,
            headers,
            capabilities,
            bucket,
            fast_path,
            signs_bodies: false,
        }
    }

    /// Returns true once the bucket has proved to require signed bodies.
    #[must_use]
    pub fn signs_bodies(&self) -> bool {
        self.signs_bodies
            || self
                .fast_path
                .get()
                .is_some_and(|path| path.bodies.must_be_signed())
    }

    /// Grants a trial, which sends a denied body once more by [`Client::signing_bodies`]. Returns
    /// `None` if that cannot help.
    pub async fn signed_retry(&self) -> Option<SignedRetry<'_>> {
        self.fast_path.get()?.bodies.signed_retry().await
    }

    /// Returns a client that signs all bodies.
    #[must_use]
    pub fn signing_bodies(&self) -> Self {
        Self {
            signs_bodies: true,
            ..self.clone()
        }
    }

    /// Returns an SDK client that adds this header to its requests.
    pub(super) fn sdk_with(&self, header: Header) -> Cow<'_, aws_sdk_s3::Client> {
        let Some((name, value)) = header else {
            return Cow::Borrowed(&self.sdk);
        };
        let config = self
            .sdk
            .config()
            .to_builder()
            .interceptor(Extra { name, value });
        Cow::Owned(aws_sdk_s3::Client::from_conf(config.build()))
    }

    /// Returns the fast path to `bucket`, once it is known.
    pub(super) fn fast_path(&self, bucket: &BucketName) -> Option<&FastPath> {
        self.fast_path
            .get()
            .filter(|_| self.bucket.as_ref() == Some(bucket))
    }

    /// Returns the capabilities of the endpoint, or of the bucket if one was named.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Returns the access settings of the bucket that the requests go to.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.headers.own
    }

    /// Returns the endpoint's name in the manifest.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint.name
    }

    /// Returns the endpoint's URL, when it is not AWS's own.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.shared
            .endpoint
            .url()
            .filter(|_| !self.shared.endpoint.is_aws())
    }

    /// Returns the flags with which a command reaches the same server with the same credentials, as
    /// far as flags exist for them. The environment applies to that command too, except that the
    /// flags always name the server.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let stated = self.shared.endpoint.stated.clone();
        Endpoint {
            url: self.url().map(str::to_owned).or(stated.url),
            ..stated
        }
        .flags()
    }

    /// Returns the proxy for requests to this endpoint, and the origin of that setting.
    #[must_use]
    pub fn proxy(&self) -> Option<String> {
        let proxy = self.shared.endpoint.network.proxy_for(&self.place())?;
        Some(format!("{} ({})", proxy.value, proxy.origin))
    }

    /// Returns the file whose certificate authorities are trusted instead of this machine's, and
    /// the origin of that setting.
    #[must_use]
    pub fn ca_bundle(&self) -> Option<String> {
        let bundle = self.shared.endpoint.network.needed_ca_bundle()?;
        Some(match bundle.origin {
            SettingOrigin::Stated => bundle.value.display().to_string(),
            _ => format!("{} ({})", bundle.value.display(), bundle.origin),
        })
    }

    /// Returns the URL of the endpoint.
    fn place(&self) -> String {
        self.shared
            .endpoint
            .url()
            .map_or_else(|| public_url(&self.shared.region), str::to_owned)
    }

    /// Describes this client: its identity, Region, and URL. On AWS it asks the Security Token
    /// Service. Elsewhere, or if that service does not answer, it names the last four characters of
    /// the access key and the source of the key.
    pub async fn who_and_where(&self) -> String {
        let endpoint = &self.shared.endpoint;
        let place = format!("{}, {}", self.shared.region, self.place());
        let proxy = self
            .proxy()
            .map(|proxy| format!(", proxy {proxy}"))
            .unwrap_or_default();
        format!("{}: {}, {place}{proxy}", endpoint.name, self.who().await)
    }

    /// Returns the source of the credentials, once a provider has returned any.
    #[must_use]
    pub fn credential_source(&self) -> Option<CredentialSource> {
        self.shared.identities.source().cloned()
    }

    /// Returns the clock of the endpoint.
    pub(super) fn clock(&self) -> &Clock {
        self.shared.identities.clock()
    }

    async fn who(&self) -> String {
        let endpoint = &self.shared.endpoint;
        let Some(provider) = self.shared.sts.credentials_provider() else {
            return "nobody".to_owned();
        };
        let credentials =
            match tokio::time::timeout(PROVIDER_PATIENCE, provider.provide_credentials()).await {
                Ok(Ok(credentials)) => credentials,
                Ok(Err(error)) => {
                    return format!("no credentials ({})", super::causes::plain(&error));
                }
                Err(_) => return "no credentials (their provider did not answer)".to_owned(),
            };
        let key = credentials.access_key_id();
        let last = key
            .char_indices()
            .rev()
            .nth(3)
            .map_or(key, |(at, _)| &key[at..]);
        let source = self
            .shared
            .identities
            .source()
            .map_or_else(|| "fixed".to_owned(), ToString::to_string);
        let origin = match &endpoint.assume_role {
            Some(role) => format!("{}, assumed with {source}", role.arn),
            None => source,
        };
        if !endpoint.is_aws() {
            return format!("access key …{last} ({origin})");
        }
        let request = aws_sdk_sts::Client::new(&self.shared.sts)
            .get_caller_identity()
            .send();
        match tokio::time::timeout(IDENTITY_PATIENCE, request).await {
            Ok(Ok(answer)) if answer.arn().is_some() => {
                format!("{} ({origin})", answer.arn().unwrap_or_default())
            }
            _ => format!("access key …{last} ({origin}; sts:GetCallerIdentity did not answer)"),
        }
    }

    /// Returns the number of the set of credentials that signs requests now, counted from 1.
    #[must_use]
    pub fn credentials(&self) -> u64 {
        self.shared.identities.generation()
    }

    /// Waits for credentials that the server has not refused.
    ///
    /// # Errors
    /// Fails if no credentials can be expected, or if the server has refused the only ones. Also
    /// fails once this request has waited for `left`, the rest of another time limit, or without
    /// `left`, once requests have waited for `patience`.
    pub async fn ready(&self, patience: Duration, left: Option<Duration>) -> Result<(), NotReady> {
        self.shared.identities.ready(patience, left).await
    }

    /// Returns true if the credentials never change, like those in environment variables.
    pub(crate) fn has_fixed_credentials(&self) -> bool {
        self.shared.identities.is_fixed()
    }

    /// Returns true if the provider has credentials newer than this set, which signed a denied
    /// request.
    pub(crate) async fn has_newer_credentials(&self, credentials: u64) -> bool {
        self.shared.identities.has_newer(credentials).await
    }

    /// Returns true once the server has accepted credentials of this endpoint.
    pub(crate) fn has_accepted_credentials(&self) -> bool {
        self.shared.identities.is_accepted()
    }

    /// Records that the server refused this set of credentials.
    pub(crate) fn refused(&self, credentials: u64, failure: &Failure) {
        self.shared.identities.refused(credentials, failure);
    }

    /// Records that the server accepted this set of credentials in a request sent at `sent`.
    pub(crate) fn accepted(&self, credentials: u64, sent: Instant) {
        self.shared.identities.accepted(credentials, sent);
    }

    /// Returns true if the server has accepted this set in a request sent after `sent`.
    pub(crate) fn is_proven_since(&self, credentials: u64, sent: Instant) -> bool {
        self.shared.identities.is_proven_since(credentials, sent)
    }

    /// Corrects the clock after a refusal. Returns true if the request was signed with a wrong
    /// time. `server_blames_clock` is true if the server named the time as the reason.
    pub(crate) fn correct_clock(&self, signed: &Signed, server_blames_clock: bool) -> bool {
        self.shared
            .identities
            .clock()
            .learn(signed, server_blames_clock)
    }

    /// Waits for the lock that lets only one request at a time find out whether the credentials of
    /// this endpoint are refused. The lock holds the time at which the last such inquiry ended
    /// without a response.
    pub(crate) async fn inquiry(&self) -> MutexGuard<'_, Option<Instant>> {
        self.shared.inquiry.lock().await
    }

    /// Returns the credential provider that requests wait for, and the reason, if any request
    /// waits.
    #[must_use]
    pub fn awaited_credentials(&self) -> Option<String> {
        self.shared.identities.awaited()
    }

    /// Returns the region that requests are signed for.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.shared.region
    }

    /// Returns true if the manifest names the Region. Then a bucket in another Region is an error
    /// to report, not to correct.
    #[must_use]
    pub fn region_was_given(&self) -> bool {
        self.shared.endpoint.region_is_stated()
    }

    /// Returns true if both clients reach the same server, so that it can copy between their
    /// buckets.
    #[must_use]
    pub fn same_server(&self, other: &Self) -> bool {
        self.shared.endpoint.is_same_server(&other.shared.endpoint)
    }
}
