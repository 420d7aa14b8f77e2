//! A bucket for the rest of the crate: S3's requests, paced, timed, and retried.
//!
//! One function sends every request, so that each attempt passes the pacer, has a time limit that
//! grows with its bytes, reports to the pacing controllers, and is retried by the same policy. One
//! kind of write is *not* repeated here, because repeating it could do harm: completing an upload.
//! [`crate::multipart`] resolves its outcome by checking the destination.

mod attributes;
mod blob;
mod body;
mod call;
mod caught;
pub mod contact;
mod creates;
mod denial;
mod failures;
mod hidden;
pub mod history;
mod judge;
mod list;
mod lost;
pub(crate) mod parking;
mod stopping;
mod twice;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::call::Repeat;
use self::contact::Contact;
pub(crate) use self::creates::Overtaken;
pub use self::hidden::HiddenEtags;
use self::parking::ParkableRequests;
use self::stopping::Purpose;
use crate::checksum::RunningCrc;
use crate::location::{BucketName, ObjectKey};
use crate::manifest::job::Limits;
use crate::pace::slots::{self, SlotKind};
use crate::pace::{Lanes, Pacer, RetryPolicy};
use crate::s3::{
    Access, Attributes, BucketHead, Capabilities, Checksum, ChecksumAlgorithm, Client,
    CompleteSpec, Connect, CreatedUpload, CustomerKey, Failure, FailureKind, Head, OpenUpload,
    Operation, Page, PartAnswer, PartDone, PartHead, PartsPage, RequestClass, SourcePin,
    UploadMarker, Versioning, WriteCondition, Written, is_immutable_version,
};

/// The name of the server of an endpoint without its own URL.
pub(crate) const AMAZON: &str = "Amazon S3";

/// The number of further HEADs of an object that the server is still writing, with pauses of
/// [`LOOK_AGAIN`].
const LOOKS_AGAIN: u32 = 10;
/// The pause before each further HEAD.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A bucket whose requests go through a pacer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    name: BucketName,
    client: Client,
    pacer: Arc<Pacer>,
    reads: Arc<Lanes>,
    writes: Arc<Lanes>,
    retry: RetryPolicy,
    /// Set until the first contact has shown that the bucket can be used.
    contact: Option<Contact>,
    halt: CancellationToken,
    /// Canceled with `halt`, or once the object that the requests belong to has failed. Requests
    /// that still wait are then not sent.
    cancellation: CancellationToken,
    /// Set once the upload that the requests belong to has stored a part.
    has_parts: Arc<AtomicBool>,
    /// Set once the bucket has accepted an object or an upload.
    has_written: Arc<AtomicBool>,
    /// The kind of request that gives its slot back while it waits.
    parkable: ParkableRequests,
    purpose: Purpose,
    /// Set if the requests concern objects of s3haul's own.
    has_records: bool,
    hidden: HiddenEtags,
    /// The response to `GetBucketVersioning`, which is sent once; `None` if the server refused it.
    versioning: Arc<OnceCell<Option<Versioning>>>,
    /// The time that the caller has already waited for the outcome.
    waited: Duration,
}

/// The outcome of a request, with the number of attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The response of the server.
    pub value: T,
    /// The number of attempts; 1 if the first one succeeded.
    pub attempts: u32,
    /// True if an earlier attempt may have taken effect too, because its response was lost.
    pub maybe_twice: bool,
}

impl<T> Answer<T> {
    /// Returns the same response with another value.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        Answer {
            value: change(self.value),
            attempts: self.attempts,
            maybe_twice: self.maybe_twice,
        }
    }
}

impl Bucket {
    /// Connects to a single bucket, for programs that use the library without a job. No limits
    /// apply except those of S3.
    ///
    /// # Errors
    /// Fails if the endpoint's settings cannot be used.
    pub async fn connect(connect: Connect, name: BucketName) -> Result<Self, Failure> {
        let pacer = Pacer::new(
            &Limits::default(),
            slots::default_ceiling(1),
            RetryPolicy::default(),
        );
        let client = Client::connect(connect).await?;
        Ok(Self::new(
            name,
            &client,
            Arc::new(pacer),
            CancellationToken::new(),
        ))
    }

    /// Creates a bucket that `client` reaches and `pacer` paces. Canceling `halt` ends waiting
    /// retries when the run must end.
    #[doc(hidden)]
    #[must_use]
    pub fn new(
        name: BucketName,
        client: &Client,
        pacer: Arc<Pacer>,
        halt: CancellationToken,
    ) -> Self {
        let client = client.to_bucket(&name, Access::default());
        let reads = pacer.lanes(client.endpoint(), name.as_str(), RequestClass::Read);
        let writes = pacer.lanes(client.endpoint(), name.as_str(), RequestClass::Write);
        let mut retry = pacer.retry;
        if client.url().is_some() {
            retry.doubt = retry.brief_doubt;
        }
        let hidden = HiddenEtags::default();
        Self {
            name,
            client,
            pacer,
            reads,
            writes,
            retry,
            contact: None,
            cancellation: halt.clone(),
            halt,
            has_parts: Arc::default(),
            has_written: Arc::default(),
            parkable: ParkableRequests::default(),
            purpose: Purpose::Object,
            has_records: false,
            hidden,
            versioning: Arc::default(),
            waited: Duration::ZERO,
        }
    }

    /// Returns the bucket's name.
    #[must_use]
    pub fn name(&self) -> &BucketName {
        &self.name
    }

    /// Returns the client that reaches the bucket.
    #[doc(hidden)]
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the counter of `ETag`s that a KMS or customer key hides.
    #[must_use]
    pub(crate) fn hidden_etags(&self) -> &HiddenEtags {
        &self.hidden
    }

    /// Returns the capabilities of the bucket.
    #[doc(hidden)]
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.client.capabilities()
    }

    /// Returns this bucket with these access settings for every request.
    #[must_use]
    pub(crate) fn with_access(&self, access: Access) -> Self {
        Self {
            client: self.client.to_bucket(&self.name, access),
            ..self.clone()
        }
    }

    /// Returns this bucket for copies whose sources are in a bucket with these access settings.
    #[doc(hidden)]
    #[must_use]
    pub fn reading_from(&self, source: Access) -> Self {
        Self {
            client: self.client.reading_from(source),
            ..self.clone()
        }
    }

    /// Returns this bucket with assumed capabilities, to test whether it has them.
    #[doc(hidden)]
    #[must_use]
    pub fn assuming(&self, capabilities: Capabilities) -> Self {
        Self {
            client: self.client.assuming(capabilities),
            ..self.clone()
        }
    }

    /// Returns the pacer that all requests of the bucket pass.
    #[doc(hidden)]
    #[must_use]
    pub fn pacer(&self) -> &Arc<Pacer> {
        &self.pacer
    }

    /// Returns this bucket for the requests that find out whether it can be used at all.
    #[doc(hidden)]
    #[must_use]
    pub fn first_contact(&self, contact: &Contact) -> Self {
        Self {
            retry: self.retry.first_contact(),
            contact: Some(contact.clone()),
            ..self.clone()
        }
    }

    /// Returns this bucket with little patience, for unusual requests to a server that is known to
    /// answer.
    #[doc(hidden)]
    #[must_use]
    pub fn for_probes(&self) -> Self {
        Self {
            retry: self.retry.for_probes(),
            ..self.clone()
        }
    }

    /// Returns this bucket for objects that this customer key (SSE-C) encrypts, or for objects
    /// without one.
    #[must_use]
    pub(crate) fn with_customer_key(&self, key: Option<CustomerKey>) -> Self {
        Self {
            client: self.client.with_customer_key(key),
            ..self.clone()
        }
    }

    /// Returns how long a request for `key` would wait in the queue now.
    #[must_use]
    pub(crate) fn queue_delay(&self, class: RequestClass, key: &ObjectKey) -> Duration {
        self.lanes(class)
            .queue_delay(key.as_str(), self.pacer.elapsed())
    }

    /// Returns true while the bucket refuses all requests for keys like this one.
    #[must_use]
    pub(crate) fn is_shut(&self, class: RequestClass, key: &ObjectKey) -> bool {
        self.lanes(class).is_shut(key.as_str())
    }

    fn lanes(&self, class: RequestClass) -> &Lanes {
        match class {
            RequestClass::Read => &self.reads,
            RequestClass::Write => &self.writes,
        }
    }

    /// Returns the endpoint's URL, or `Amazon S3` if it has none.
    #[doc(hidden)]
    #[must_use]
    pub fn server(&self) -> &str {
        self.client.url().unwrap_or(AMAZON)
    }

    /// Sends a request of the planner once it has a slot, so that planning and copying share one
    /// ceiling. No holder of a slot waits for the planner.
    ///
    /// # Errors
    /// Returns the request's failure, or [`FailureKind::Stopped`] if no slot is granted any more.
    pub(crate) async fn with_slot<T>(
        &self,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Ok(_slot) = self.pacer.slots().request(SlotKind::Small).await else {
            return Err(self.stopped(Operation::HeadObject, None));
        };
        request.await
    }

    /// Returns `bucket/key`, for messages.
    #[must_use]
    pub fn place(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.name)
    }

    /// Sends a HEAD of the bucket, as [`Client::head_bucket`] does.
    #[doc(hidden)]
    pub async fn head_bucket(&self) -> Result<BucketHead, Failure> {
        self.read(Operation::HeadBucket, None, || {
            self.client.head_bucket(&self.name)
        })
        .await
    }

    /// Sends a HEAD of an object, as [`Client::head_object`] does. With a customer key, it also
    /// finds objects that the key does not encrypt: S3 refuses a HEAD of those if a key is sent.
    pub async fn head(&self, key: &ObjectKey, version: Option<&str>) -> Result<Head, Failure> {
        let ask = async |client: &Client| {
            let head = || client.head_object(&self.name, key, version);
            self.read(Operation::HeadObject, Some(key), head).await
        };
        match ask(&self.client).await {
            Err(failure)
                if *failure.kind() == FailureKind::Invalid
                    && self.client.customer_key().is_some() =>
            {
                ask(&self.client.with_customer_key(None))
                    .await
                    .map_err(|_| failure)
            }
            Ok(head) if version.is_none() && head.version.as_deref() == Some("null") => {
                Ok(Box::pin(self.without_null(head)).await)
            }
            Ok(head) if head.version.is_none() && version.is_some_and(is_immutable_version) => {
                Box::pin(self.check_is_version(key, head)).await
            }
            answer => answer,
        }
    }

    /// Sends a HEAD of an object, and repeats it for a while until `is_whole` returns true: some
    /// servers show an object while they are still writing it.
    pub(crate) async fn head_written(
        &self,
        key: &ObjectKey,
        is_whole: impl Fn(&Head) -> bool,
    ) -> Result<Head, Failure> {
        let mut found = self.head(key, None).await?;
        for _ in 0..LOOKS_AGAIN {
            if is_whole(&found) {
                break;
            }
            sleep(LOOK_AGAIN).await;
            found = self.head(key, None).await?;
        }
        Ok(found)
    }

    /// Sends a HEAD of a part, as [`Client::head_part`] does.
    pub(crate) async fn head_part(
        &self,
        pin: &SourcePin,
        number: u32,
    ) -> Result<PartHead, Failure> {
        self.read(Operation::HeadObject, Some(&pin.key), || {
            self.client.head_part(pin, number)
        })
        .await
    }

    /// Reads `first..=last` of one version of `size` bytes and computes the checksum on the fly.
    /// The algorithm must be a CRC. A read that breaks off is repeated.
    pub(crate) async fn checksum_range(
        &self,
        pin: &SourcePin,
        (first, last): (u64, u64),
        size: u64,
        algorithm: ChecksumAlgorithm,
    ) -> Result<Checksum, Failure> {
        let length = last - first + 1;
        let answer = self.call(
            Operation::GetObject,
            Some(&pin.key),
            length,
            Repeat::Always,
            || async {
                let refused = |kind, message| {
                    Failure::new(kind, Operation::GetObject, self.place(&pin.key), message)
                };
                let mut sum = RunningCrc::new(algorithm).ok_or_else(|| {
                    refused(FailureKind::Bug, format!("{algorithm} does not combine"))
                })?;
                let mut body = self.client.get_object(pin, (first, last), size).await?;
                while let Some(bytes) = body.next().await? {
                    sum.update(&bytes);
                }
                if sum.bytes() != length {
                    let message = format!(
                        "{} bytes arrived of the {length} that were requested",
                        sum.bytes()
                    );
                    return Err(refused(FailureKind::Unreadable, message));
                }
                Ok(sum.finish())
            },
        );
        answer.await.map(|answer| answer.value)
    }

    /// Deletes an object, as [`Client::delete_object`] does. A missing object is not a failure.
    pub async fn delete_object(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        if_etag: Option<&str>,
    ) -> Result<(), Failure> {
        let answer = self
            .call(
                Operation::DeleteObject,
                Some(key),
                0,
                Repeat::Always,
                || self.client.delete_object(&self.name, key, version, if_etag),
            )
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Copies `source` of `size` bytes to `key` with one request. Repeating it is harmless, because
    /// the source is pinned.
    #[doc(hidden)]
    pub async fn copy_object(
        &self,
        source: &SourcePin,
        size: u64,
        key: &ObjectKey,
        attributes: &Attributes,
        condition: WriteCondition,
    ) -> Result<Answer<Written>, Failure> {
        let answer = self
            .call(
                Operation::CopyObject,
                Some(key),
                size,
                self.repeat_of_copy(source, key, &condition),
                || {
                    self.client
                        .copy_object(source, &self.name, key, attributes, &condition)
                },
            )
            .await;
        self.or_lost(answer, Some(source)).await
    }

    /// Creates a multipart upload. Each attempt that takes effect creates one.
    #[doc(hidden)]
    pub async fn create_upload(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
    ) -> Result<Answer<CreatedUpload>, Failure> {
        let answer = self
            .call(
                Operation::CreateMultipartUpload,
                Some(key),
                0,
                Repeat::Always,
                || self.client.create_upload(&self.name, key, attributes),
            )
            .await;
        self.or_lost(answer, None).await
    }

    /// Copies a range of the source, or all of it, as one part. A second copy with the same number
    /// replaces the part. If `twice` is true, a hanging request is sent once more: the caller knows
    /// that both requests store the same part.
    pub(crate) async fn copy_part(
        &self,
        (key, upload_id): (&ObjectKey, &str),
        number: u32,
        source: &SourcePin,
        (range, size): (Option<(u64, u64)>, u64),
        twice: bool,
    ) -> Result<Answer<PartDone>, Failure> {
        let repeat = if twice {
            Repeat::AtOnce
        } else {
            Repeat::Always
        };
        let answer = self
            .call(Operation::UploadPartCopy, Some(key), size, repeat, || {
                self.client
                    .copy_part(source, range, &self.name, key, upload_id, number)
            })
            .await;
        let answer = self.or_lost(answer, Some(source)).await?;
        let PartAnswer { etag, checksum } = answer.value;
        Ok(Answer {
            value: PartDone {
                number,
                size,
                etag,
                checksum,
            },
            attempts: answer.attempts,
            maybe_twice: answer.maybe_twice,
        })
    }

    /// Completes an upload. Does not repeat the request if its outcome is unknown, because the
    /// caller must check the destination first.
    pub(crate) async fn complete_upload(
        &self,
        key: &ObjectKey,
        upload_id: &str,
        parts: &[PartDone],
        spec: &CompleteSpec,
    ) -> Result<Written, Failure> {
        let answer = self
            .call(
                Operation::CompleteMultipartUpload,
                Some(key),
                0,
                Repeat::UnlessUnknown,
                || {
                    self.client
                        .complete_upload(&self.name, key, upload_id, parts, spec)
                },
            )
            .await;
        self.or_lost(answer, None).await.map(|answer| answer.value)
    }

    /// Aborts an upload. Returns false if the server says that it had no such upload, unless an
    /// earlier attempt may have aborted it.
    #[doc(hidden)]
    pub async fn abort_upload(&self, key: &ObjectKey, upload_id: &str) -> Result<bool, Failure> {
        let answer = self
            .call(
                Operation::AbortMultipartUpload,
                Some(key),
                0,
                Repeat::AtOnce,
                || self.client.abort_upload(&self.name, key, upload_id),
            )
            .await;
        match answer {
            Ok(_) => Ok(true),
            Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => {
                Ok(failure.details().attempts > 1)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Lists parts, as [`Client::list_parts`] does.
    #[doc(hidden)]
    pub async fn list_parts(
        &self,
        key: &ObjectKey,
        upload_id: &str,
        after: Option<&str>,
    ) -> Result<PartsPage, Failure> {
        self.read(Operation::ListParts, Some(key), || {
            self.client.list_parts(&self.name, key, upload_id, after)
        })
        .await
    }

    /// Lists open uploads, as [`Client::list_uploads`] does.
    #[doc(hidden)]
    pub async fn list_uploads(
        &self,
        prefix: &str,
        after: Option<&UploadMarker>,
    ) -> Result<Page<OpenUpload, UploadMarker>, Failure> {
        self.check_prefix(Operation::ListMultipartUploads, prefix)?;
        self.list_at(Operation::ListMultipartUploads, prefix, || {
            self.client.list_uploads(&self.name, prefix, after)
        })
        .await
    }
}
