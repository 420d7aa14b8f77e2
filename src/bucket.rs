//! A bucket as the rest of the crate uses it: S3's verbs, paced, timed and retried.
//!
//! One place sends every request, so that each attempt passes the pacer, has a time limit that
//! grows with its bytes, teaches the controllers and is retried by the same policy. What is *not*
//! repeated here is a write whose repetition could do harm: completing an upload, which
//! [`crate::multipart`] resolves by looking.

mod blob;
mod body;
mod caught;
pub mod contact;
mod denial;
mod describe;
mod doubt;
mod hidden;
pub mod history;
mod judge;
mod list;
pub(crate) mod parking;
mod stopping;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::contact::Contact;
pub use self::hidden::HiddenEtags;
use self::judge::{Doubts, Verdict};
use self::parking::Parks;
use self::stopping::Purpose;
use crate::checksum::Running;
use crate::location::{BucketName, ObjectKey};
use crate::manifest::job::Limits;
use crate::pace::slots::{self, Want};
use crate::pace::{Lanes, Pacer, RetryPolicy};
use crate::s3::progress::within;
use crate::s3::{
    Access, Attributes, Begun, BucketHead, Capabilities, Checksum, ChecksumAlgorithm, Class,
    Client, CompleteSpec, Connect, CustomerKey, Failure, FailureKind, Head, OpenUpload, Operation,
    Page, PartDone, PartHead, PartsPage, SourcePin, UploadMarker, Versioning, WriteCondition,
    Written,
};

/// The server of an endpoint without a URL of its own.
pub(crate) const AMAZON: &str = "Amazon S3";

/// A bucket behind a pacer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    name: BucketName,
    client: Client,
    pacer: Arc<Pacer>,
    reads: Arc<Lanes>,
    writes: Arc<Lanes>,
    retry: RetryPolicy,
    /// Set while it is not known whether the bucket can be used.
    contact: Option<Contact>,
    halt: CancellationToken,
    /// Cancelled with `halt`, or once the object that the requests are for has failed: then what
    /// waits is not sent.
    over: CancellationToken,
    /// Set once the upload that the requests are for has stored a part.
    has_parts: Arc<AtomicBool>,
    /// Requests that leave their places while they wait.
    parks: Parks,
    purpose: Purpose,
    hidden: HiddenEtags,
    /// True if the bucket has or had versions. Asked for once, by what needs to know it.
    versioned: Arc<OnceCell<Option<Versioning>>>,
    /// The time that the caller has already waited for the outcome.
    waited: Duration,
}

/// Whether a request may be sent again when its outcome is not known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// It has the same effect twice.
    Always,
    /// Only when it surely did not happen.
    UnlessUnknown,
}

/// The outcome of a request, and how often it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// What the server said.
    pub value: T,
    /// 1 when the first attempt went through.
    pub attempts: u32,
    /// True when an earlier attempt may have taken effect too, because its answer was lost.
    pub maybe_twice: bool,
}

impl Bucket {
    /// Connects to a bucket on its own, for programs that use the library without a job: no limits
    /// but those that S3 sets.
    ///
    /// # Errors
    /// The endpoint's settings cannot be used.
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

    /// A bucket reached by `client` and paced by `pacer`. `halt` ends waiting retries when the run
    /// must end.
    #[must_use]
    pub fn new(
        name: BucketName,
        client: &Client,
        pacer: Arc<Pacer>,
        halt: CancellationToken,
    ) -> Self {
        let client = client.to_bucket(&name, Access::default());
        let reads = pacer.lanes(client.endpoint(), name.as_str(), Class::Read);
        let writes = pacer.lanes(client.endpoint(), name.as_str(), Class::Write);
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
            over: halt.clone(),
            halt,
            has_parts: Arc::default(),
            parks: Parks::default(),
            purpose: Purpose::Object,
            hidden,
            versioned: Arc::default(),
            waited: Duration::ZERO,
        }
    }

    /// The bucket's name.
    #[must_use]
    pub fn name(&self) -> &BucketName {
        &self.name
    }

    /// The client that reaches it.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What was learned about `ETag`s that a KMS or customer key hides.
    #[must_use]
    pub fn hidden_etags(&self) -> &HiddenEtags {
        &self.hidden
    }

    /// What the bucket's endpoint can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.client.capabilities()
    }

    /// The same bucket on these terms, with every request.
    #[must_use]
    pub fn on_terms(&self, access: Access) -> Self {
        Self {
            client: self.client.to_bucket(&self.name, access),
            ..self.clone()
        }
    }

    /// The same bucket for copies whose sources are in a bucket on these terms.
    #[must_use]
    pub fn reading_from(&self, source: Access) -> Self {
        Self {
            client: self.client.reading_from(source),
            ..self.clone()
        }
    }

    /// The same bucket as if it could do this: for finding out whether it can.
    #[must_use]
    pub fn assuming(&self, capabilities: Capabilities) -> Self {
        Self {
            client: self.client.assuming(capabilities),
            ..self.clone()
        }
    }

    /// The pacer that all its requests pass.
    #[must_use]
    pub fn pacer(&self) -> &Arc<Pacer> {
        &self.pacer
    }

    /// The same bucket for the requests that find out whether it can be used at all.
    #[must_use]
    pub fn first_contact(&self, contact: &Contact) -> Self {
        Self {
            retry: self.retry.first_contact(),
            contact: Some(contact.clone()),
            ..self.clone()
        }
    }

    /// The same bucket with little patience, for odd requests to a server that is known to answer.
    #[must_use]
    pub fn for_probes(&self) -> Self {
        Self {
            retry: self.retry.for_probes(),
            ..self.clone()
        }
    }

    /// The same bucket, for objects that this customer key (SSE-C) encrypts, or none.
    #[must_use]
    pub fn with_customer_key(&self, key: Option<CustomerKey>) -> Self {
        Self {
            client: self.client.with_customer_key(key),
            ..self.clone()
        }
    }

    /// How long a request for `key` would stand in line at the moment.
    #[must_use]
    pub fn line(&self, class: Class, key: &ObjectKey) -> Duration {
        self.lanes(class).line(key.as_str(), self.pacer.elapsed())
    }

    /// Returns true while the bucket refuses everything that is sent for keys like this one.
    #[must_use]
    pub fn is_shut(&self, class: Class, key: &ObjectKey) -> bool {
        self.lanes(class).is_shut(key.as_str())
    }

    fn lanes(&self, class: Class) -> &Lanes {
        match class {
            Class::Read => &self.reads,
            Class::Write => &self.writes,
        }
    }

    /// Where it is: the endpoint's URL, if it has one of its own.
    #[must_use]
    pub fn server(&self) -> &str {
        self.client.url().unwrap_or(AMAZON)
    }

    /// Sends a request of the plan in a place like those of the copies, so that a ceiling holds for
    /// all of them together. Nobody who has a place waits for the plan.
    ///
    /// # Errors
    /// What the request comes to, or [`FailureKind::Stopped`] when there are no more places.
    pub async fn in_place<T>(
        &self,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Ok(_place) = self.pacer.slots().request(Want::Small).await else {
            return Err(self.stopped(Operation::HeadObject, None));
        };
        request.await
    }

    /// `bucket/key`, for messages.
    #[must_use]
    pub fn place(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.name)
    }

    /// Not itself a future around another one: those of all requests end up inside that of an
    /// object.
    fn call<T, F>(
        &self,
        operation: Operation,
        key: Option<&ObjectKey>,
        bytes: u64,
        repeat: Repeat,
        attempt: impl Fn() -> F,
    ) -> impl Future<Output = Result<Answer<T>, Failure>>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let at = key.map_or("", ObjectKey::as_str);
        self.call_at(at, operation, key, bytes, repeat, attempt)
    }

    /// [`Bucket::call`] for a request that is about the keys around `at`, which S3 counts against
    /// their partition.
    async fn call_at<T, F>(
        &self,
        at: &str,
        operation: Operation,
        key: Option<&ObjectKey>,
        bytes: u64,
        repeat: Repeat,
        attempt: impl Fn() -> F,
    ) -> Result<Answer<T>, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let lanes = self.lanes(operation.class());
        let full_limit = self.retry.time_limit(operation, bytes);
        // Patience is for the server: time at the user's own limits does not use it up, nor does an
        // outage, which has its own clock for all requests together.
        let (mut since, mut held) = (None::<Instant>, Duration::ZERO);
        let (mut attempts, mut maybe_twice, mut doubts) = (0, false, Doubts::default());
        let mut is_late = !self.waited.is_zero();
        let mut parked = None;
        loop {
            // Nor does the time without credentials, which has a clock of its own too.
            let unsigned = self
                .credentials(operation, key)
                .await
                .map_err(|failure| failure.after(attempts.max(1)))?;
            let Some(admitted) = self
                .admitted(at, operation, bytes, attempts, parked.take())
                .await
            else {
                return Err(self.stopped(operation, key).after(attempts));
            };
            let mut admitted =
                admitted.map_err(|outlasted| self.outlasted(&outlasted, operation, key))?;
            if since.is_some() {
                held += unsigned + admitted.pass.held + admitted.limited;
            }
            attempts += 1;
            admitted.pass.attempt = attempts;
            let limit = if let Some(contact) = &self.contact {
                contact.time_limit(full_limit)
            } else {
                // A server that answers is given time to; one that does not has no more than the
                // patience.
                let spent = if is_late {
                    self.spent(since, held)
                } else {
                    Duration::ZERO
                };
                let left = self
                    .retry
                    .patience
                    .saturating_sub(spent.max(admitted.pass.down_for));
                self.retry.silence_limit(operation, full_limit, left)
            };
            let (sent, credentials) = (Instant::now(), self.client.credentials());
            let answer = tokio::select! {
                answer = within(limit, full_limit.max(limit), self.caught(operation, key, &attempt)) => answer,
                () = self.halt.cancelled() => return Err(self.stopped(operation, key).after(attempts)),
            };
            let took = sent.elapsed();
            let silent_for = answer.as_ref().err().copied();
            is_late = silent_for.is_some();
            let outcome = answer.unwrap_or_else(|_| Err(self.late(limit, operation, key)));
            match outcome.as_ref().err() {
                // A server that is not up yet says nothing about the pace that it can bear later.
                Some(failure) if self.contact.is_some() && failure.kind().may_pass_later() => {
                    drop(admitted)
                }
                failure => self
                    .pacer
                    .learn(admitted, operation, failure, bytes, took, limit),
            }
            let failure = match outcome {
                Ok(value) => {
                    self.note_success(operation, bytes, took);
                    self.client.accepted(credentials, sent);
                    return Ok(Answer {
                        value,
                        attempts,
                        maybe_twice,
                    });
                }
                Err(failure) => match Box::pin(self.judged(failure, key, &mut doubts)).await {
                    Verdict::Stands(failure) => failure.after(attempts),
                    Verdict::Again => {
                        self.pacer.retried();
                        continue;
                    }
                },
            };
            let needs_a_look =
                failure.kind().outcome_unknown() || *failure.kind() == FailureKind::Corrupted;
            if repeat == Repeat::UnlessUnknown && needs_a_look {
                return Err(failure);
            }
            maybe_twice |= failure.kind().outcome_unknown();
            // An attempt that got no answer was waiting too.
            since.get_or_insert_with(|| {
                let now = Instant::now();
                now.checked_sub(silent_for.unwrap_or_default())
                    .unwrap_or(now)
            });
            let waited = match &self.contact {
                Some(contact) => contact.elapsed(),
                None => self.spent(since, held),
            };
            // Attempts that take long would otherwise outlast the patience: each may take some
            // seconds.
            let is_over = self
                .contact
                .as_ref()
                .is_some_and(|contact| contact.left().is_zero());
            let wait = self.wait(&failure, waited);
            let wait = match wait.filter(|_| !is_over) {
                Some(wait) => self
                    .contact
                    .as_ref()
                    .map_or(wait, |contact| contact.pause(wait)),
                None if let Some(contact) = &self.contact => {
                    return Err(contact.given_up(self.in_its_network(failure)));
                }
                // The endpoint as a whole does not answer: that ends when the outage does, or its
                // patience.
                None if failure.kind().speaks_of_an_outage()
                    && operation != Operation::HeadBucket
                    && (lanes.is_out() || Box::pin(self.is_silent(&failure, waited)).await) =>
                {
                    Duration::ZERO
                }
                // Whether it was an outage will not be known.
                None if failure.kind().speaks_of_an_outage() && self.halt.is_cancelled() => {
                    return Err(self.stopped(operation, key).after(attempts));
                }
                None => return Err(self.unanswered(failure, waited)),
            };
            tracing::debug!(%failure, ?wait, "will be sent again");
            if let Some(contact) = &self.contact {
                contact.failed(&failure);
            }
            self.pacer.retried();
            parked = self.park_throttled(&failure, bytes);
            let _late = (*failure.kind() == FailureKind::Throttled).then(|| lanes.late(at));
            tokio::select! {
                () = sleep(wait) => {}
                // It would have been sent again: the stop ends it, not what the server said.
                () = self.waits_in_vain(lanes, operation, attempts) => return Err(self.stopped(operation, key).after(attempts)),
            }
        }
    }

    async fn read<T, F>(
        &self,
        operation: Operation,
        key: Option<&ObjectKey>,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.call(operation, key, 0, Repeat::Always, attempt)
            .await
            .map(|answer| answer.value)
    }

    /// See [`Client::head_bucket`].
    pub async fn head_bucket(&self) -> Result<BucketHead, Failure> {
        self.read(Operation::HeadBucket, None, || {
            self.client.head_bucket(&self.name)
        })
        .await
    }

    /// See [`Client::head_object`]. With a customer key, objects that it does not encrypt are found
    /// too: S3 refuses to describe those when a key is named.
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
            Ok(head)
                if head.version.is_none() && version.is_some_and(|version| version != "null") =>
            {
                Box::pin(self.of_version(key, head)).await
            }
            answer => answer,
        }
    }

    /// See [`Client::head_part`].
    pub async fn head_part(&self, pin: &SourcePin, number: u32) -> Result<PartHead, Failure> {
        self.read(Operation::HeadObject, Some(&pin.key), || {
            self.client.head_part(pin, number)
        })
        .await
    }

    /// Reads `first..=last` of one version of `size` bytes and sums the bytes as they come: none is
    /// kept, and one that breaks off is read again. The checksum is one that combines.
    pub async fn sum_range(
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
                let mut sum = Running::new(algorithm).ok_or_else(|| {
                    refused(FailureKind::Bug, format!("{algorithm} does not combine"))
                })?;
                let mut body = self.client.get_object(pin, (first, last), size).await?;
                while let Some(bytes) = body.next().await? {
                    sum.update(&bytes);
                }
                if sum.bytes() != length {
                    let message = format!(
                        "{} bytes arrived of the {length} that were asked for",
                        sum.bytes()
                    );
                    return Err(refused(FailureKind::Unreadable, message));
                }
                Ok(sum.finish())
            },
        );
        answer.await.map(|answer| answer.value)
    }

    /// See [`Client::delete_object`]. What is gone already is no failure.
    pub async fn delete_object(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        only: Option<&str>,
    ) -> Result<(), Failure> {
        let answer = self
            .call(
                Operation::DeleteObject,
                Some(key),
                0,
                Repeat::Always,
                || self.client.delete_object(&self.name, key, version, only),
            )
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Copies `source` of `size` bytes to `key` in one request. Repeating it is harmless: the
    /// source is pinned.
    pub async fn copy_object(
        &self,
        source: &SourcePin,
        size: u64,
        key: &ObjectKey,
        attributes: &Attributes,
        condition: WriteCondition,
    ) -> Result<Answer<Written>, Failure> {
        self.call(
            Operation::CopyObject,
            Some(key),
            size,
            Repeat::Always,
            || {
                self.client
                    .copy_object(source, &self.name, key, attributes, &condition)
            },
        )
        .await
    }

    /// Begins a multipart upload. Each attempt that took effect begins one.
    pub async fn create_upload(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
    ) -> Result<Answer<Begun>, Failure> {
        self.call(
            Operation::CreateMultipartUpload,
            Some(key),
            0,
            Repeat::Always,
            || self.client.create_upload(&self.name, key, attributes),
        )
        .await
    }

    /// Copies a range (or all) of the source as one part; the same number again replaces it.
    pub async fn copy_part(
        &self,
        source: &SourcePin,
        range: Option<(u64, u64)>,
        size: u64,
        key: &ObjectKey,
        upload_id: &str,
        number: u32,
    ) -> Result<Answer<PartDone>, Failure> {
        let answer = self
            .call(
                Operation::UploadPartCopy,
                Some(key),
                size,
                Repeat::Always,
                || {
                    self.client
                        .copy_part(source, range, &self.name, key, upload_id, number)
                },
            )
            .await?;
        let (etag, checksum) = answer.value;
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

    /// Publishes an upload. Not repeated when the outcome is unknown: the caller must look first.
    pub async fn complete_upload(
        &self,
        key: &ObjectKey,
        upload_id: &str,
        parts: &[PartDone],
        spec: &CompleteSpec,
    ) -> Result<Written, Failure> {
        self.call(
            Operation::CompleteMultipartUpload,
            Some(key),
            0,
            Repeat::UnlessUnknown,
            || {
                self.client
                    .complete_upload(&self.name, key, upload_id, parts, spec)
            },
        )
        .await
        .map(|answer| answer.value)
    }

    /// Ends an upload. Returns false if the server says that it had no such upload, unless an
    /// earlier attempt may have ended it.
    pub async fn abort_upload(&self, key: &ObjectKey, upload_id: &str) -> Result<bool, Failure> {
        let answer = self
            .call(
                Operation::AbortMultipartUpload,
                Some(key),
                0,
                Repeat::Always,
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

    /// See [`Client::list_parts`].
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

    /// See [`Client::list_uploads`].
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
