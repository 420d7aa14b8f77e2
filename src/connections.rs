//! Turns the bucket names in a job into connected buckets.
//!
//! Before any work, s3haul checks once for each bucket in which Region it is and whether it can be
//! used. A wrong Region, a missing bucket, wrong credentials, or a wrong clock would make every
//! object fail; this check reports one error instead. If the manifest names no Region, s3haul uses
//! the bucket's own, because the SDK does not follow S3's redirects.

mod versioning;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::bucket::Bucket;
use crate::bucket::contact::Contact;
use crate::endpoint::{CredentialSource, Endpoint, NO_KEY_OVER_HTTP, ResolvedEndpoint};
use crate::location::BucketName;
use crate::manifest::job::{Access, Job, KeySource, Transfer};
use crate::manifest::tenant;
use crate::pace::Pacer;
use crate::s3::client::StaticCredentials;
use crate::s3::{Client, Connect, CustomerKey, Failure, FailureKind, Operation, Versioning};

/// The clients and buckets of a run.
#[derive(Debug)]
pub struct Connections {
    endpoints: BTreeMap<String, ResolvedEndpoint>,
    credentials: Option<StaticCredentials>,
    pacer: Arc<Pacer>,
    contact: Contact,
    halt: CancellationToken,
    clients: HashMap<(String, Option<String>), Client>,
    buckets: HashMap<(String, BucketName, Access), Bucket>,
    versioning: HashMap<(String, BucketName), Versioning>,
    /// The identities that were looked up, by endpoint.
    identities: BTreeMap<String, String>,
}

impl Connections {
    /// Creates the connections to the endpoints of `job` without sending a request. Fixed
    /// `credentials` replace the ambient ones for every endpoint.
    #[must_use]
    pub fn new(
        job: &Job,
        credentials: Option<StaticCredentials>,
        pacer: Arc<Pacer>,
        halt: CancellationToken,
    ) -> Self {
        let endpoints = job.endpoints.clone();
        Self {
            endpoints,
            credentials,
            contact: Contact::new(pacer.retry.patience),
            pacer,
            halt,
            clients: HashMap::new(),
            buckets: HashMap::new(),
            versioning: HashMap::new(),
            identities: BTreeMap::new(),
        }
    }

    /// Returns the pacer of all buckets.
    #[must_use]
    pub fn pacer(&self) -> &Arc<Pacer> {
        &self.pacer
    }

    /// Returns the source and destination of a transfer, with the customer keys of their objects.
    /// The source is `None` for local files.
    ///
    /// # Errors
    /// Fails if one of the buckets cannot be used at all, or if a customer key is missing.
    pub async fn of_transfer(
        &mut self,
        transfer: &Transfer,
    ) -> Result<(Option<Bucket>, Bucket), Failure> {
        let source = match transfer.from.s3() {
            Some((endpoint, location)) => {
                let (endpoint, bucket) = (endpoint.to_owned(), location.bucket.clone());
                refuse_multi_region(&bucket)?;
                let key = customer_key(transfer.customer_keys.source.as_ref())?;
                let access = &transfer.source_access;
                self.forbid_plaintext_key(&endpoint, key.as_ref())?;
                Some(
                    self.bucket_with_access(&endpoint, &bucket, access)
                        .await?
                        .with_customer_key(key),
                )
            }
            None => None,
        };
        let (to, access) = (&transfer.to, &transfer.destination_access);
        let destination = self
            .bucket_with_access(&to.endpoint, &to.location.bucket, access)
            .await?;
        if tracing::enabled!(tracing::Level::INFO) {
            for bucket in source.iter().chain([&destination]) {
                if !self.identities.contains_key(bucket.client().endpoint()) {
                    tracing::info!("{}", self.identity(bucket).await);
                }
            }
        }
        self.require_versions(transfer, source.as_ref(), &destination)
            .await?;
        let key = customer_key(transfer.customer_keys.destination.as_ref())?;
        self.forbid_plaintext_key(&to.endpoint, key.as_ref())?;
        let destination = destination
            .reading_from(transfer.source_access.clone())
            .with_customer_key(key);
        Ok((source, destination))
    }

    /// Returns the identity and location of the client at the bucket's endpoint. Looks them up once
    /// per endpoint.
    pub async fn identity(&mut self, bucket: &Bucket) -> String {
        let client = bucket.client();
        if let Some(known) = self.identities.get(client.endpoint()) {
            return known.clone();
        }
        let identity = client.who_and_where().await;
        self.identities
            .insert(client.endpoint().to_owned(), identity.clone());
        identity
    }

    /// Returns the source of the credentials for this endpoint, once a provider has returned some.
    #[must_use]
    pub fn credential_source(&self, endpoint: &str) -> Option<CredentialSource> {
        let mut clients = self
            .clients
            .iter()
            .filter(|((name, _), _)| name == endpoint);
        clients.find_map(|(_, client)| client.credential_source())
    }

    /// Returns the source of a transfer as copy requests read it: with the credentials of the
    /// destination's endpoint. Sends no request.
    ///
    /// # Errors
    /// Fails if no connection can be made with the endpoint's settings.
    pub async fn as_copies_read(
        &mut self,
        transfer: &Transfer,
        source: &Bucket,
    ) -> Result<Bucket, Failure> {
        if source.client().endpoint() == transfer.to.endpoint {
            return Ok(source.clone());
        }
        let region = Some(source.client().region().to_owned());
        let bucket = self
            .unchecked_bucket(&transfer.to.endpoint, source.name(), region)
            .await?;
        let key = source.client().customer_key().cloned();
        Ok(bucket
            .with_access(transfer.source_access.clone())
            .with_customer_key(key))
    }

    /// Returns the bucket, once it has answered.
    ///
    /// # Errors
    /// Fails if the bucket cannot be used at all.
    pub async fn bucket(&mut self, endpoint: &str, name: &BucketName) -> Result<Bucket, Failure> {
        self.bucket_with_access(endpoint, name, &Access::default())
            .await
    }

    /// Returns the bucket with its access settings, once it has answered.
    ///
    /// # Errors
    /// Fails if the bucket cannot be used at all.
    pub async fn bucket_with_access(
        &mut self,
        endpoint: &str,
        name: &BucketName,
        access: &Access,
    ) -> Result<Bucket, Failure> {
        let place = (endpoint.to_owned(), name.clone(), access.clone());
        if let Some(bucket) = self.buckets.get(&place) {
            return Ok(bucket.clone());
        }
        if let Some((message, remedy)) = self
            .endpoints
            .get(endpoint)
            .and_then(|at| tenant::mistake(name, at))
        {
            let message = format!("{message}; {remedy}");
            return Err(Failure::new(
                FailureKind::Invalid,
                Operation::HeadBucket,
                name.to_string(),
                message,
            ));
        }
        let mut bucket = self
            .unchecked_bucket(endpoint, name, None)
            .await?
            .with_access(access.clone());
        let given = bucket.client().region_was_given();
        let contact = bucket.first_contact(&self.contact);
        let region = self
            .contact
            .watch(&bucket, Box::pin(region_of(&contact)))
            .await?;
        let other =
            region.filter(|region| !region.is_empty() && region != bucket.client().region());
        if let Some(region) = other {
            if given {
                let message = format!(
                    "the bucket is in {region}, not in {}",
                    bucket.client().region()
                );
                let kind = FailureKind::WrongRegion(Some(region));
                return Err(Failure::new(
                    kind,
                    Operation::HeadBucket,
                    name.to_string(),
                    message,
                ));
            }
            bucket = self
                .unchecked_bucket(endpoint, name, Some(region))
                .await?
                .with_access(access.clone());
        }
        self.buckets.insert(place, bucket.clone());
        Ok(bucket)
    }

    /// Prevents a customer key from being sent unencrypted. S3 refuses such a request too, but only
    /// after it has received the key.
    fn forbid_plaintext_key(
        &self,
        endpoint: &str,
        key: Option<&CustomerKey>,
    ) -> Result<(), Failure> {
        match self.endpoints.get(endpoint) {
            Some(at) if key.is_some() && at.is_plaintext() => {
                let message = format!("{NO_KEY_OVER_HTTP}; write an https:// URL");
                Err(Failure::new(
                    FailureKind::Configuration,
                    Operation::HeadBucket,
                    at.describe(),
                    message,
                ))
            }
            _ => Ok(()),
        }
    }

    /// Returns the bucket without checking that it can be used. Reuses the client of its endpoint
    /// and Region.
    async fn unchecked_bucket(
        &mut self,
        endpoint: &str,
        name: &BucketName,
        region: Option<String>,
    ) -> Result<Bucket, Failure> {
        let place = (endpoint.to_owned(), region.clone());
        let client = if let Some(client) = self.clients.get(&place) {
            client.clone()
        } else {
            let other = self.clients.iter().find(|((name, _), _)| name == endpoint);
            let client = if let Some((_, other)) = other {
                other.in_region(region)?
            } else {
                let known = self.endpoints.get(endpoint).cloned();
                let endpoint = known.unwrap_or_else(|| Endpoint::default().into());
                let credentials = self.credentials.clone();
                Client::connect(Connect {
                    endpoint,
                    region,
                    credentials,
                })
                .await?
            };
            self.clients.insert(place, client.clone());
            client
        };
        Ok(Bucket::new(
            name.clone(),
            &client,
            Arc::clone(&self.pacer),
            self.halt.clone(),
        ))
    }
}

/// Refuses a Multi-Region Access Point as the source, because S3 does not copy from one.
fn refuse_multi_region(source: &BucketName) -> Result<(), Failure> {
    if !source.is_multi_region() {
        return Ok(());
    }
    let message = "S3 copies into a Multi-Region Access Point but not out of one; name the bucket, or an access point of \
                   one Region, as the source";
    Err(Failure::new(
        FailureKind::NotSent,
        Operation::CopyObject,
        source.to_string(),
        message,
    ))
}

/// Checks that a bucket can be used, and returns its Region if the server names one that can be
/// relied on.
async fn region_of(bucket: &Bucket) -> Result<Option<String>, Failure> {
    // S3-compatible servers return Region names without a meaning, but a redirect is reliable
    // everywhere.
    let trusted = bucket.client().url().is_none();
    let failure = match bucket.head_bucket().await {
        Ok(head) => {
            if !trusted && !head.speaks_s3 {
                refuse_web_page(bucket).await?;
            }
            return Ok(head.region.filter(|_| trusted));
        }
        Err(failure) => failure,
    };
    match failure.kind() {
        FailureKind::NoSuchBucket if !trusted && failure.details().request_id.is_none() => {
            refuse_web_page(bucket).await?;
            Err(failure)
        }
        FailureKind::WrongRegion(Some(region)) if !bucket.client().region_was_given() => {
            Ok(Some(region.clone()))
        }
        FailureKind::Invalid if is_redirect_elsewhere(&failure) => {
            let message = format!(
                "{} is not an S3 server: it answers with a redirect ({}), as the login page of a portal or a proxy does",
                bucket.server(),
                failure.details().code
            );
            let place = bucket.name().to_string();
            Err(Failure::new(
                FailureKind::Unreadable,
                Operation::HeadBucket,
                place,
                message,
            ))
        }
        // A refused HEAD has no error code, but a refused list has one. A denied list is no reason
        // to stop.
        FailureKind::Denied | FailureKind::Invalid => match bucket.list("", None, None).await {
            Ok(_) => Ok(None),
            Err(listed) if *listed.kind() == FailureKind::Denied => {
                refuse_foreign(bucket, &listed).await?;
                Ok(None)
            }
            Err(listed) => Err(listed),
        },
        _ => Err(failure),
    }
}

/// Refuses a server that does not speak S3, such as a web server or a captive portal. The response
/// to a HEAD has no body to check, so this sends a list.
async fn refuse_web_page(bucket: &Bucket) -> Result<(), Failure> {
    match bucket.first("", None).await {
        Err(listed) if is_no_answer_of_s3(&listed) => {
            let message = format!(
                "{} is not an S3 server: its answers are not those of S3",
                bucket.server()
            );
            let place = bucket.name().to_string();
            Err(Failure::new(
                FailureKind::Unreadable,
                Operation::ListObjects,
                place,
                message,
            ))
        }
        // Any other failure will occur in the run too, which handles it better than this check
        // could.
        _ => Ok(()),
    }
}

/// Returns true for a redirect that S3 does not send. S3 uses 301 and 307, and names the bucket's
/// Region.
fn is_redirect_elsewhere(failure: &Failure) -> bool {
    let details = failure.details();
    details.request_id.is_none() && ["HTTP 302", "HTTP 303", "HTTP 308"].contains(&&*details.code)
}

/// Returns true for a response that cannot be read, and for a refusal without an S3 error code.
fn is_no_answer_of_s3(listed: &Failure) -> bool {
    let details = listed.details();
    match listed.kind() {
        FailureKind::Unreadable => true,
        FailureKind::NoSuchBucket | FailureKind::NotFound => {
            details.request_id.is_none() && details.code.starts_with("HTTP ")
        }
        _ => false,
    }
}

/// Refuses a bucket that grants access only to requests without an expected owner: it belongs to
/// another account. Two denials prove nothing, because a policy may allow access to the objects but
/// not to their bucket.
async fn refuse_foreign(bucket: &Bucket, denied: &Failure) -> Result<(), Failure> {
    let access = bucket.client().access().clone();
    let Some(owner) = access.expected_owner.clone() else {
        return Ok(());
    };
    let anybodys = bucket.with_access(Access {
        expected_owner: None,
        ..access
    });
    if anybodys.head_bucket().await.is_err() && anybodys.list("", None, None).await.is_err() {
        return Ok(());
    }
    let message = format!("the bucket does not belong to the account {owner} (`expected_owner`)");
    Err(Failure::new(
        FailureKind::Denied,
        denied.details().operation,
        bucket.name().to_string(),
        message,
    ))
}

/// The maximum size of a file with a customer key. A key is 44 bytes long in base64, perhaps with a
/// line break.
const MAX_KEY_FILE: u64 = 256;

/// Reads a file with a customer key. Stops reading once the file is too large to be one.
fn read_key_file(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a FIFO would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_KEY_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_KEY_FILE {
        return Err(io::Error::other(format!(
            "more than {MAX_KEY_FILE} bytes, which no customer key has"
        )));
    }
    Ok(bytes)
}

/// Reads a customer key. No error message shows its text, even if it is not a valid key.
fn customer_key(from: Option<&KeySource>) -> Result<Option<CustomerKey>, Failure> {
    let Some(from) = from else { return Ok(None) };
    let refuse = |message: String| {
        Failure::new(
            FailureKind::Local,
            Operation::ReadFile,
            format!("customer key: {from}"),
            message,
        )
    };
    let bytes = match from {
        KeySource::Env(name) => match std::env::var_os(name) {
            Some(value) => value.into_encoded_bytes(),
            None => return Err(refuse("the variable is not set".to_owned())),
        },
        KeySource::File(path) => {
            read_key_file(path.as_path()).map_err(|error| refuse(error.to_string()))?
        }
    };
    CustomerKey::read(&bytes)
        .map(Some)
        .map_err(|error| refuse(error.to_string()))
}
