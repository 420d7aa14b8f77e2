//! A library for multipart uploads: create an upload, send or copy parts in any order and in
//! parallel, list them, complete or abort the upload, and list the open uploads of a bucket.
//!
//! It offers the operations of boto's `MultiPartUpload` (2010), but safely.
//! [`MultipartUpload::complete`] takes the parts that the caller saw succeed, and never asks the
//! server which parts exist. If the outcome is unknown, it checks whether the upload is still open
//! and whether the object exists. [`MultipartUpload::cancel`] returns only when the server shows no
//! more parts.
//!
//! The documentation of the crate has an example.

mod abort;
mod complete;
mod elsewhere;
mod late;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::ready;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::abort::Stray;
pub(crate) use self::abort::{
    Aborted, abort_forgotten, abort_unknown, after_refusal, command, command_at,
    was_created_between,
};
use self::late::LateCreate;
use crate::awake::AwakeInstant;
use crate::bucket::{Answer, Bucket};
use crate::checksum;
use crate::location::ObjectKey;
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{
    Attributes, Checksum, ChecksumAlgorithm, ChecksumKind, CreatedUpload, Failure, FailureKind,
    OpenUpload, Operation, Page, PartDone, PartsPage, SourcePin,
};
use crate::size::display_duration;

/// The checksum that an upload declared when it was created, if any.
type Declared = Option<(ChecksumAlgorithm, ChecksumKind)>;

/// The largest accepted difference between our clock and that of the machine that created an
/// upload.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(5);

/// An upload that was created and is neither completed nor aborted.
#[derive(Clone, Debug)]
pub struct MultipartUpload {
    bucket: Bucket,
    key: ObjectKey,
    id: String,
    /// The declared checksum, known from the start or from the first list of parts. Shared by all
    /// clones.
    declared: Arc<OnceLock<Declared>>,
    /// True if a KMS or customer key is known to encrypt the object.
    kms: bool,
    /// A lower bound of the object's modification time, by the server's own clock.
    since: Option<Timestamp>,
    /// The uploads that earlier attempts to create it may have left open.
    strays: Vec<Stray>,
    /// The period in which the server refused attempts to create this upload. They may have taken
    /// effect.
    refused: Option<(Timestamp, Timestamp)>,
    /// The requests to create this upload that hung and were overtaken by another one.
    late: Vec<LateCreate>,
}

impl MultipartUpload {
    /// Creates an upload to `key`. Its attributes cannot be changed later.
    /// [`Tags::AsSource`](crate::s3::Tags::AsSource) gives no tags, because an upload has no
    /// source.
    ///
    /// # Errors
    /// Returns the failure of S3 after all retries, and [`FailureKind::ServerFault`] if the
    /// response names another key or bucket; that upload is aborted.
    pub async fn initiate(
        bucket: &Bucket,
        key: &ObjectKey,
        attributes: &Attributes,
    ) -> Result<Self, Failure> {
        let before = Timestamp::now();
        let answer = bucket.create_upload(key, attributes).await?;
        let mut upload = Self::created(bucket, key, attributes, answer, before).await?;
        let strays = upload.refused_twins(&BTreeSet::new()).await;
        upload.strays.extend(strays);
        upload.refused = None;
        Ok(upload)
    }

    /// Creates an upload for a caller that calls [`MultipartUpload::refused_twins`] and
    /// [`MultipartUpload::late_twins`] later, when the server is less busy. A request that hangs is
    /// sent once more.
    pub(crate) async fn create(
        bucket: &Bucket,
        key: &ObjectKey,
        attributes: &Attributes,
    ) -> Result<Self, Failure> {
        let (before, began) = (Timestamp::now(), Instant::now());
        let (answer, overtaken) = bucket.create_upload_soon(key, attributes).await?;
        let overtaken = overtaken.into_iter();
        let late: Vec<_> = overtaken
            .map(|create| LateCreate::of(create, bucket, key, (before, began)))
            .collect();
        match Self::created(bucket, key, attributes, answer, before).await {
            Ok(upload) => Ok(Self { late, ..upload }),
            Err(failure) => Err(late::note_strays(failure, late, bucket, key).await),
        }
    }

    async fn created(
        bucket: &Bucket,
        key: &ObjectKey,
        attributes: &Attributes,
        answer: Answer<CreatedUpload>,
        before: Timestamp,
    ) -> Result<Self, Failure> {
        let (bucket, key, created) = (bucket.for_upload(), key.clone(), answer.value);
        let declared = Arc::new(OnceLock::from(attributes.checksum));
        let mut upload = Self {
            bucket,
            key,
            id: created.id,
            declared,
            kms: created.kms,
            since: created.since,
            strays: Vec::new(),
            refused: None,
            late: Vec::new(),
        };
        if let Some(elsewhere) = &created.elsewhere {
            return Err(Box::pin(upload.abort_misplaced(elsewhere)).await);
        }
        if answer.maybe_twice {
            upload.abort_twins(before).await;
        } else if answer.attempts > 1 {
            upload.refused = Some((before, Timestamp::now()));
        }
        Ok(upload)
    }

    /// Aborts the uploads that other attempts of the caller since `began` may have created, and
    /// returns this upload.
    pub(crate) async fn without_twins(mut self, began: Timestamp) -> Self {
        self.abort_twins(began).await;
        self.refused = None;
        self
    }

    /// Notes that the server refused an attempt to create this upload since `began`. If that
    /// attempt took effect anyway, [`MultipartUpload::refused_twins`] finds its upload.
    pub(crate) fn after_refusal(mut self, began: Timestamp) -> Self {
        self.refused = Some((began, Timestamp::now()));
        self
    }

    /// Opens an upload that was created elsewhere, by its ID. The checksum that it declared is read
    /// from its list of parts when needed.
    #[must_use]
    pub fn open(bucket: &Bucket, key: &ObjectKey, id: impl Into<String>) -> Self {
        let (bucket, key, id) = (bucket.for_upload(), key.clone(), id.into());
        Self {
            bucket,
            key,
            id,
            declared: Arc::default(),
            kms: false,
            since: None,
            strays: Vec::new(),
            refused: None,
            late: Vec::new(),
        }
    }

    /// Adds facts about the creation of the upload: a time just before it, and whether a KMS or
    /// customer key encrypts the object.
    #[must_use]
    pub(crate) fn created_at(self, initiated: Timestamp, kms: bool) -> Self {
        let by_server = self.bucket.client().earliest(SystemTime::from(initiated));
        let since = by_server.and_then(|since| since.checked_sub(CLOCK_TOLERANCE).ok());
        Self { kms, since, ..self }
    }

    /// Returns the same upload for requests that clean up after the run and continue when it is
    /// halted.
    #[doc(hidden)]
    #[must_use]
    pub fn outliving_the_run(&self) -> Self {
        Self {
            bucket: self.bucket.for_cleanup(),
            ..self.clone()
        }
    }

    /// Returns the token that cancels the waiting requests of the upload.
    pub(crate) fn cancellation(&self) -> CancellationToken {
        self.bucket.cancellation().clone()
    }

    /// Returns the upload ID.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the checksum algorithm that the upload declared, if it is known here.
    #[must_use]
    pub fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.known().map(|(algorithm, _)| algorithm)
    }

    /// Returns true if S3's response to Create said that a KMS or customer key will encrypt the
    /// object. In that case, neither its `ETag` nor the `ETag`s of its parts can be computed from
    /// the bytes.
    #[must_use]
    pub(crate) fn is_kms(&self) -> bool {
        self.kms
    }

    fn known(&self) -> Declared {
        self.declared.get().copied().flatten()
    }

    /// Returns the checksum that the upload declared when it was created, here or elsewhere. Its
    /// parts and Complete must use the same checksum, or S3 refuses them.
    ///
    /// # Errors
    /// Returns the failure of `ListParts`, which is sent once for an upload that was created
    /// elsewhere.
    #[doc(hidden)]
    pub async fn declared(&self) -> Result<Option<(ChecksumAlgorithm, ChecksumKind)>, Failure> {
        if let Some(declared) = self.declared.get() {
            return Ok(*declared);
        }
        self.page(None).await?;
        Ok(self.known())
    }

    async fn page(&self, after: Option<&str>) -> Result<PartsPage, Failure> {
        let page = self.bucket.list_parts(&self.key, &self.id, after).await?;
        let _ = self.declared.set(page.checksum);
        Ok(page)
    }

    /// Returns the key of the object that the upload creates.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Reads `reader` to its end and sends the bytes as part `number` (1 to 10,000), which replaces
    /// an earlier part of this number. The part is held in memory, for its checksum and for
    /// retries.
    ///
    /// # Errors
    /// Returns [`FailureKind::Local`] if the reader fails, and otherwise the failure of S3.
    pub async fn upload_part(
        &self,
        number: u32,
        mut reader: impl AsyncRead + Unpin,
    ) -> Result<PartDone, Failure> {
        let mut body = Vec::new();
        reader.read_to_end(&mut body).await.map_err(|error| {
            let place = self.bucket.place(&self.key);
            Failure::new(
                FailureKind::Local,
                Operation::ReadFile,
                place,
                format!("part {number}: {error}"),
            )
        })?;
        let body = Bytes::from(body);
        let sum = match self.declared().await? {
            Some((algorithm, _)) => Some(self.checksum(algorithm, body.clone()).await?),
            None => None,
        };
        self.send_part(number, body, sum.as_ref())
            .await
            .map(|answer| answer.value.0)
    }

    /// Computes the checksum of a part outside the async threads: a part may have 5 GiB.
    async fn checksum(
        &self,
        algorithm: ChecksumAlgorithm,
        body: Bytes,
    ) -> Result<Checksum, Failure> {
        let computed = spawn_blocking(move || checksum::compute(algorithm, &body)).await;
        computed.map_err(|error| {
            let place = self.bucket.place(&self.key);
            let message = error.to_string();
            Failure::new(FailureKind::Bug, Operation::UploadPart, place, message)
        })
    }

    /// Sends a part that is in memory and has its checksum. Also returns true if the response has a
    /// checksum.
    pub(crate) async fn send_part(
        &self,
        number: u32,
        body: Bytes,
        sum: Option<&Checksum>,
    ) -> Result<Answer<(PartDone, bool)>, Failure> {
        self.bucket
            .send_part(&self.key, &self.id, number, body, sum)
            .await
    }

    /// Copies `range` (first and last byte, both included) of the source as part `number`, or the
    /// whole source without a range. `size` is the length of the part in bytes. S3 reads the source
    /// itself, pinned to its version and `ETag`.
    ///
    /// # Errors
    /// Returns [`FailureKind::PreconditionFailed`] if the source has another `ETag` by now.
    pub async fn copy_part(
        &self,
        number: u32,
        source: &SourcePin,
        range: Option<RangeInclusive<u64>>,
        size: u64,
    ) -> Result<PartDone, Failure> {
        let range = range.map(|range| (*range.start(), *range.end()));
        self.copy_part_with(number, source, range, size, false)
            .await
            .map(|answer| answer.value)
    }

    /// Copies a part like [`MultipartUpload::copy_part`]. If `twice` is true, a hanging request is
    /// sent once more. That is safe because both requests store the same part.
    pub(crate) async fn copy_part_with(
        &self,
        number: u32,
        source: &SourcePin,
        range: Option<(u64, u64)>,
        size: u64,
        twice: bool,
    ) -> Result<Answer<PartDone>, Failure> {
        let upload = (&self.key, self.id.as_str());
        self.bucket
            .copy_part(upload, number, source, (range, size), twice)
            .await
    }

    /// Returns the parts that S3 has, in ascending order of their numbers, over all pages. The
    /// stream ends with the first failure of a request, and with the first page that contradicts an
    /// earlier one.
    pub fn parts(&self) -> impl Stream<Item = Result<PartDone, Failure>> + Send + '_ {
        let paging = Paging::new(
            Operation::ListParts,
            self.bucket.name(),
            self.key.as_str(),
            Order::Short,
        );
        let pages = stream::try_unfold(
            (Some(None::<String>), paging),
            move |(marker, mut paging)| async move {
                let Some(after) = marker else { return Ok(None) };
                let PartsPage { items, next, .. } = self.page(after.as_deref()).await?;
                let mut page = Page { items, next };
                let next = match paging.check(&mut page)? {
                    PageVerdict::Next => page.next.map(Some),
                    PageVerdict::Again => Some(after),
                };
                Ok(Some((
                    stream::iter(page.items.into_iter().map(Ok)),
                    (next, paging),
                )))
            },
        );
        pages.try_flatten()
    }
}

/// The maximum number of open uploads that are searched for those to one key.
const MAX_LISTED: u64 = 100_000;

/// Returns the failure of an endless search for the uploads to a key.
fn endless(bucket: &Bucket, key: &ObjectKey, count: u64, time: Duration) -> Failure {
    let message = format!(
        "the list of open uploads whose keys begin with this one has not ended after {count} uploads and {}",
        display_duration(time)
    );
    Failure::new(
        FailureKind::TimedOut,
        Operation::ListMultipartUploads,
        bucket.place(key),
        message,
    )
}

/// Returns the open uploads to exactly this key.
pub(crate) fn uploads_to<'a>(
    bucket: &'a Bucket,
    key: &'a ObjectKey,
) -> impl Stream<Item = Result<OpenUpload, Failure>> + Send + 'a {
    let in_order = bucket.capabilities().ordered_lists;
    let listed = MultipartUpload::list(bucket, abort::prefix_of(bucket, key));
    // This key sorts before all other keys that begin with it.
    let listed =
        listed.try_take_while(move |open| ready(Ok(!in_order || open.key == key.as_str())));
    // The list of the other keys may be too long to wait for.
    let (began, patience, mut count) = (AwakeInstant::now(), bucket.patience(), 0);
    let listed = listed.map(move |open| {
        count += 1;
        if count > MAX_LISTED || began.elapsed() > patience {
            return Err(endless(bucket, key, count, began.elapsed()));
        }
        open
    });
    listed.try_filter(move |open| ready(open.key == key.as_str()))
}

impl MultipartUpload {
    /// Returns the open uploads of a bucket whose keys begin with `prefix`, by key and age, over
    /// all pages. The stream ends with the first failure of a request. Entries that a list must not
    /// contain are skipped, and the stream ends with one failure for each kind of skipped entry.
    pub fn list<'a>(
        bucket: &'a Bucket,
        prefix: &'a str,
    ) -> impl Stream<Item = Result<OpenUpload, Failure>> + Send + 'a {
        let paging = Paging::new(
            Operation::ListMultipartUploads,
            bucket.name(),
            prefix,
            Order::Short,
        );
        let pages = stream::try_unfold(
            (Some(None), paging),
            move |(marker, mut paging)| async move {
                let Some(after) = marker else { return Ok(None) };
                let mut page = bucket.list_uploads(prefix, Option::as_ref(&after)).await?;
                let next = match paging.check(&mut page)? {
                    PageVerdict::Next => page.next.map(Some),
                    PageVerdict::Again => Some(after),
                };
                let refused = if next.is_none() {
                    paging.take_refused()
                } else {
                    Vec::new()
                };
                let items = page
                    .items
                    .into_iter()
                    .map(Ok)
                    .chain(refused.into_iter().map(Err));
                Ok(Some((stream::iter(items), (next, paging))))
            },
        );
        pages.try_flatten()
    }
}
