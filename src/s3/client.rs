//! A connection to one endpoint in one region.
//!
//! All clients of a process share one HTTP pool (`s3::pool`). The SDK's own retries are off, because each attempt must pass the
//! pacer and be counted; its stall guard is off too, because a long part copy is silent for longer than the guard's
//! five seconds; time limits grow with the bytes instead ([`crate::bucket`]).

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Credentials, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::config::{SharedCredentialsProvider, StalledStreamProtectionConfig};
use aws_types::service_config::ServiceConfigKey;

use super::access::AccessHeaders;
use super::direct::{Extra, Header, Learn, Way};
use super::identity::Identities;
use super::pool::{CONNECT_TIMEOUT, http_client};
use super::{Capabilities, CustomerKey, Trial};
use crate::location::BucketName;
use crate::manifest::job::{Access, Endpoint, Provider};

/// Fixed credentials, for the embedded sandbox and tests. Everyone else's come from the environment.
#[derive(Clone)]
pub struct StaticCredentials {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
}

impl std::fmt::Debug for StaticCredentials {
    /// Without the secret: what is printed ends up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticCredentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// How to reach an endpoint.
#[derive(Clone)]
pub struct Connect {
    /// The endpoint as the manifest describes it.
    pub endpoint: Endpoint,
    /// Overrides the endpoint's region, once the bucket's own is known.
    pub region: Option<String>,
    /// Fixed credentials instead of the ambient chain.
    pub credentials: Option<StaticCredentials>,
}

impl From<Endpoint> for Connect {
    fn from(endpoint: Endpoint) -> Self {
        Self { endpoint, region: None, credentials: None }
    }
}

/// Sends single requests to one endpoint in one region. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) sdk: aws_sdk_s3::Client,
    /// Goes with every request about an object.
    pub(super) customer_key: Option<CustomerKey>,
    shared: Arc<Shared>,
    headers: AccessHeaders,
    capabilities: Arc<Capabilities>,
    /// The bucket that it was made for, if it was, and the short way there once that is known.
    bucket: Option<BucketName>,
    way: Arc<OnceLock<Way>>,
    /// Whatever the way there says.
    pub(super) signs_bodies: bool,
}

#[derive(Debug)]
struct Shared {
    endpoint: String,
    url: Option<String>,
    region: String,
    region_was_given: bool,
    /// Amazon S3, also behind a `url` that says `provider: aws`.
    is_aws: bool,
    /// Without the headers of any bucket.
    plain: aws_sdk_s3::Client,
    identities: Identities,
}

impl Client {
    /// Prepares a client; nothing is sent yet (credentials are asked for with the first request).
    pub async fn connect(connect: Connect) -> Self {
        let Connect { mut endpoint, region, credentials } = connect;
        let base = ambient_config(&endpoint, region.as_deref(), credentials).await;
        // What the environment or the profile says decides whose server it is, and so what may be relied on.
        endpoint.url = endpoint.url.or_else(|| ambient_url(&base));
        let capabilities = Capabilities::of(&endpoint);
        let url = endpoint.url.clone().filter(|_| !endpoint.is_aws());
        let is_aws = url.is_none() || endpoint.provider == Provider::Aws;
        let region_was_given = endpoint.region.is_some();
        let identities = Identities::new((&endpoint).into());
        let mut config = aws_sdk_s3::config::Builder::from(&base)
            .identity_cache(identities.clone())
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            .use_arn_region(true);
        if let Some(url) = &endpoint.url {
            config = config.endpoint_url(url);
        }
        if url.is_some() {
            // The sessions of directory buckets are AWS's own; elsewhere a bucket may just be called so.
            config = config.disable_s3_express_session_auth(true);
        }
        if let Some(path_style) = endpoint.path_style.or(url.is_some().then_some(true)) {
            config = config.force_path_style(path_style);
        }
        if !capabilities.checksums {
            config = config
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        }
        let region = base.region().map_or_else(|| "us-east-1".to_owned(), ToString::to_string);
        let sdk = aws_sdk_s3::Client::from_conf(config.build());
        let plain = sdk.clone();
        let endpoint = endpoint.name;
        Self {
            sdk,
            shared: Arc::new(Shared { endpoint, url, region, region_was_given, is_aws, plain, identities }),
            headers: AccessHeaders::default(),
            capabilities: Arc::new(capabilities),
            customer_key: None,
            bucket: None,
            way: Arc::default(),
            signs_bodies: false,
        }
    }

    /// The same client for objects that this customer key (SSE-C) encrypts, or none.
    #[must_use]
    pub fn with_customer_key(&self, customer_key: Option<CustomerKey>) -> Self {
        Self { customer_key, ..self.clone() }
    }

    /// The customer key that goes with its requests.
    #[must_use]
    pub fn customer_key(&self) -> Option<&CustomerKey> {
        self.customer_key.as_ref()
    }

    /// The same connection for the requests to one bucket, which all carry what its `access` demands.
    #[must_use]
    pub fn to_bucket(&self, bucket: &BucketName, access: Access) -> Self {
        let capabilities = self.capabilities.in_bucket(bucket, self.shared.is_aws);
        let headers = AccessHeaders { own: access, source: self.headers.source.clone() };
        Self { capabilities: Arc::new(capabilities), ..self.with(headers, Some(bucket.clone())) }
    }

    /// The same connection for copies out of a bucket with this `access`.
    #[must_use]
    pub fn reading_from(&self, source: Access) -> Self {
        self.with(AccessHeaders { own: self.headers.own.clone(), source }, self.bucket.clone())
    }

    /// The same connection as if the endpoint could do this: for finding out whether it can.
    #[must_use]
    pub fn assuming(&self, capabilities: Capabilities) -> Self {
        Self { capabilities: Arc::new(capabilities), ..self.clone() }
    }

    fn with(&self, headers: AccessHeaders, bucket: Option<BucketName>) -> Self {
        let Self { shared, capabilities, customer_key, .. } = self.clone();
        let mut config = shared.plain.config().to_builder().interceptor(headers.clone());
        let way = Arc::default();
        if let Some(bucket) = &bucket {
            config = config.interceptor(Learn {
                bucket: bucket.to_string(),
                access: headers.clone(),
                identities: shared.identities.clone(),
                way: Arc::clone(&way),
            });
        }
        let sdk = aws_sdk_s3::Client::from_conf(config.build());
        Self { sdk, customer_key, shared, headers, capabilities, bucket, way, signs_bodies: false }
    }

    /// True once the bucket was found to want signatures of all bodies.
    #[must_use]
    pub fn signs_bodies(&self) -> bool {
        self.signs_bodies || self.way.get().is_some_and(|way| way.bodies.must_be_signed())
    }

    /// Leave to send a body that was denied once more by [`Client::signing_bodies`]; `None` where that would be in vain.
    pub async fn trial(&self) -> Option<Trial<'_>> {
        self.way.get()?.bodies.trial().await
    }

    /// The same connection with signatures of all bodies.
    #[must_use]
    pub fn signing_bodies(&self) -> Self {
        Self { signs_bodies: true, ..self.clone() }
    }

    /// The SDK's client, for a request that sends this header too.
    pub(super) fn sdk_with(&self, header: Header) -> Cow<'_, aws_sdk_s3::Client> {
        let Some((name, value)) = header else { return Cow::Borrowed(&self.sdk) };
        let config = self.sdk.config().to_builder().interceptor(Extra { name, value });
        Cow::Owned(aws_sdk_s3::Client::from_conf(config.build()))
    }

    /// The short way to `bucket`, once it is known.
    pub(super) fn way(&self, bucket: &BucketName) -> Option<&Way> {
        self.way.get().filter(|_| self.bucket.as_ref() == Some(bucket))
    }

    /// What the endpoint can do, and the bucket where one was named.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The terms of the bucket that the requests go to.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.headers.own
    }

    /// The endpoint's name in the manifest.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint
    }

    /// The endpoint's URL, when it is not AWS's own.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.shared.url.as_deref()
    }

    /// Which credentials requests are signed with now, for [`Client::forget_credentials`].
    #[must_use]
    pub fn credentials(&self) -> u64 {
        self.shared.identities.generation()
    }

    /// Asks for credentials anew with the next request, unless that was done since `credentials`.
    pub fn forget_credentials(&self, credentials: u64) {
        self.shared.identities.forget(credentials);
    }

    /// The provider that requests are waiting for to give credentials, if any is.
    #[must_use]
    pub fn awaited_credentials(&self) -> Option<String> {
        self.shared.identities.awaited()
    }

    /// The region that requests are signed for.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.shared.region
    }

    /// True when the manifest names the region, so that another one is a mistake to report and not to repair.
    #[must_use]
    pub fn region_was_given(&self) -> bool {
        self.shared.region_was_given
    }

    /// True for the same server in the same region: only then can one copy from the other's buckets by itself.
    #[must_use]
    pub fn same_server(&self, other: &Self) -> bool {
        self.shared.url == other.shared.url
    }
}

/// Region, credentials and `HTTP` pool, from the endpoint first and from the environment and profile otherwise.
async fn ambient_config(
    endpoint: &Endpoint,
    region: Option<&str>,
    credentials: Option<StaticCredentials>,
) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client())
        .retry_config(RetryConfig::standard());
    if let Some(profile) = &endpoint.profile {
        loader = loader.profile_name(profile);
    }
    match region.or(endpoint.region.as_deref()) {
        Some(region) => loader = loader.region(Region::new(region.to_owned())),
        None if endpoint.url.is_some() || credentials.is_some() => {
            loader = loader.region(Region::from_static("us-east-1"));
        }
        None => {}
    }
    if let Some(StaticCredentials { access_key, secret_key }) = credentials {
        loader = loader.credentials_provider(Credentials::new(access_key, secret_key, None, None, "s3haul"));
    }
    let mut config = loader.load().await;
    if config.region().is_none() {
        config = config.into_builder().region(Region::from_static("us-east-1")).build();
    }
    let Some(role) = &endpoint.assume_role else { return config };
    let mut provider = AssumeRoleProvider::builder(&role.arn)
        .session_name(role.session_name.as_deref().unwrap_or("s3haul"))
        .configure(&config);
    if let Some(id) = &role.external_id {
        provider = provider.external_id(id);
    }
    if let Some(duration) = role.duration {
        provider = provider.session_length(duration);
    }
    let provider = SharedCredentialsProvider::new(provider.build().await);
    config.into_builder().credentials_provider(provider).build()
}

/// The URL that `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or the profile give, in the SDK's own order.
fn ambient_url(base: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    let of_service = base.service_config().and_then(|config| config.load_config(key));
    of_service.or_else(|| base.endpoint_url().map(str::to_owned))
}
