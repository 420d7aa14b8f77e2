//! The scratch prefix: sends each request of a probe, and records everything that the request may
//! have created.
//!
//! After a stop or its time limit, the probe sends no more requests. It waits for the responses to
//! requests in flight, because otherwise one of them could take effect after the clean-up.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::finding::{ProbeAnswer, request_of};
use crate::bucket::{Answer, Bucket};
use crate::endpoint::capabilities::ConditionalWrite;
use crate::location::ObjectKey;
use crate::multipart::MultipartUpload;
use crate::printable::cut;
use crate::s3::{
    Attributes, CannedAcl, Capabilities, Checksum, CompleteSpec, Failure, FailureKind, Head,
    Operation, PartDone, SourcePin, Tags, WriteCondition, Written,
};

/// The longest reason that is reported, in bytes.
const LONGEST_REASON: usize = 240;

/// If a request got no response for this long, it may take effect after its repetition.
const LATE: Duration = Duration::from_secs(1);

/// A key that the server did not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotStored {
    /// The key.
    pub key: String,
    /// The server's answer.
    pub reason: String,
}

/// An object or upload that the probe created, or may have created.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProbeWrite {
    pub(super) key: ObjectKey,
    /// The version ID or the upload ID.
    pub(super) id: Option<String>,
}

/// An object or upload that may exist although no response confirmed it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UnconfirmedWrite {
    pub(super) key: ObjectKey,
    pub(super) is_upload: bool,
    /// True if the request may take effect after the lists were read.
    pub(super) is_late: bool,
}

/// The scratch prefix, and what was created below it.
pub(super) struct Scratch {
    pub(super) bucket: Bucket,
    pub(super) prefix: String,
    /// The canned ACL of everything that the probe writes.
    pub(super) acl: Option<CannedAcl>,
    pub(super) objects: Vec<ProbeWrite>,
    pub(super) uploads: Vec<ProbeWrite>,
    /// Uploads whose Complete succeeded.
    pub(super) completed: Vec<ProbeWrite>,
    pub(super) doubts: Vec<UnconfirmedWrite>,
    pub(super) not_stored: Vec<NotStored>,
    /// The contradiction in the server's date of an upload.
    pub(super) false_date: Option<String>,
    /// The time when the last lock of a scratch object expires.
    pub(super) locked_until: Option<Instant>,
    pub(super) stop: CancellationToken,
    pub(super) deadline: Instant,
}

impl Scratch {
    pub(super) fn new(
        bucket: Bucket,
        prefix: &str,
        acl: Option<CannedAcl>,
        stop: &CancellationToken,
        limit: Duration,
    ) -> Self {
        Self {
            bucket,
            prefix: prefix.to_owned(),
            acl,
            objects: Vec::new(),
            uploads: Vec::new(),
            completed: Vec::new(),
            doubts: Vec::new(),
            not_stored: Vec::new(),
            false_date: None,
            locked_until: None,
            stop: stop.clone(),
            deadline: Instant::now() + limit,
        }
    }

    /// Refuses a request after a stop or after the time limit.
    fn may_send(&self, operation: Operation) -> Result<(), Failure> {
        let why = if self.stop.is_cancelled() {
            "the probe was stopped"
        } else if Instant::now() > self.deadline {
            "the probe took too long"
        } else {
            return Ok(());
        };
        Err(Failure::new(
            FailureKind::Stopped,
            operation,
            self.prefix.clone(),
            why,
        ))
    }

    /// Changes the capabilities that later requests assume.
    pub(super) fn assume(&mut self, change: impl FnOnce(&mut Capabilities)) {
        let mut capabilities = self.bucket.capabilities().clone();
        change(&mut capabilities);
        self.bucket = self.bucket.assuming(capabilities);
    }

    /// Returns a key below the prefix.
    pub(super) fn key(&self, name: &str) -> Result<ObjectKey, Failure> {
        ObjectKey::new(&format!("{}{name}", self.prefix)).map_err(|error| {
            Failure::new(
                FailureKind::Invalid,
                Operation::PutObject,
                self.prefix.as_str(),
                error.to_string(),
            )
        })
    }

    /// Records a write that was sent at `began`, even if its outcome is unknown.
    fn note(&mut self, key: &ObjectKey, began: Instant, answer: &Result<Answer<Written>, Failure>) {
        let id = match answer {
            Ok(Answer {
                value, maybe_twice, ..
            }) => {
                // The write may have been sent twice, and the first request may still be in flight.
                if *maybe_twice && began.elapsed() > LATE {
                    self.doubt(key, false, true);
                }
                value.version.clone()
            }
            Err(failure) if may_have_happened(failure) => {
                self.doubt(key, false, may_come_late(failure));
                None
            }
            Err(_) => return,
        };
        let made = ProbeWrite {
            key: key.clone(),
            id,
        };
        if !self.objects.contains(&made) {
            self.objects.push(made);
        }
    }

    fn doubt(&mut self, key: &ObjectKey, is_upload: bool, is_late: bool) {
        self.doubts.push(UnconfirmedWrite {
            key: key.clone(),
            is_upload,
            is_late,
        });
    }

    fn with_acl(&self, attributes: &Attributes) -> Attributes {
        Attributes {
            acl: self.acl,
            ..attributes.clone()
        }
    }

    pub(super) async fn put(
        &mut self,
        name: &str,
        body: impl Into<Bytes>,
        attributes: &Attributes,
        checksum: Option<&Checksum>,
        condition: WriteCondition,
    ) -> Result<Written, Failure> {
        self.may_send(Operation::PutObject)?;
        let key = self.key(name)?;
        let attributes = self.with_acl(attributes);
        let began = Instant::now();
        let answer = self
            .bucket
            .put_object(&key, body.into(), &attributes, checksum, condition)
            .await;
        self.note(&key, began, &answer);
        answer.map(|answer| answer.value)
    }

    /// Writes a few bytes to a key. Records the key if the server does not accept it.
    pub(super) async fn put_plain(
        &mut self,
        name: &str,
        body: &'static [u8],
    ) -> Result<Written, Failure> {
        let answer = self
            .put(name, body, &plain(), None, WriteCondition::None)
            .await;
        if let Err(failure) = &answer
            && *failure.kind() != FailureKind::Stopped
        {
            let key = format!("{}{name}", self.prefix);
            self.not_stored.push(NotStored {
                key,
                reason: reason(failure),
            });
        }
        answer
    }

    pub(super) async fn copy(
        &mut self,
        source: &SourcePin,
        name: &str,
        attributes: &Attributes,
        condition: WriteCondition,
    ) -> Result<Written, Failure> {
        self.may_send(Operation::CopyObject)?;
        let key = self.key(name)?;
        let attributes = self.with_acl(attributes);
        let began = Instant::now();
        let answer = self
            .bucket
            .copy_object(source, 0, &key, &attributes, condition)
            .await;
        self.note(&key, began, &answer);
        answer.map(|answer| answer.value)
    }

    pub(super) async fn create_upload(
        &mut self,
        name: &str,
        attributes: &Attributes,
    ) -> Result<MultipartUpload, Failure> {
        self.may_send(Operation::CreateMultipartUpload)?;
        let attributes = self.with_acl(attributes);
        let key = self.key(name)?;
        let upload = match MultipartUpload::initiate(&self.bucket, &key, &attributes).await {
            Ok(upload) => upload,
            Err(failure) => {
                if may_have_happened(&failure) {
                    self.doubt(&key, true, may_come_late(&failure));
                }
                return Err(failure);
            }
        };
        let made = |id: &str| ProbeWrite {
            key: upload.key().clone(),
            id: Some(id.to_owned()),
        };
        self.uploads.push(made(upload.id()));
        self.uploads.extend(
            upload
                .strays()
                .iter()
                .filter_map(|stray| stray.id.as_deref())
                .map(made),
        );
        Ok(upload)
    }

    /// Creates an upload with one part.
    pub(super) async fn create_upload_with_part(
        &mut self,
        name: &str,
        body: &'static [u8],
        attributes: &Attributes,
    ) -> Result<(MultipartUpload, PartDone), Failure> {
        let upload = self.create_upload(name, attributes).await?;
        self.may_send(Operation::UploadPart)?;
        let part = upload.upload_part(1, body).await?;
        Ok((upload, part))
    }

    /// Copies a range of the source, or all of it, as a part.
    pub(super) async fn copy_part(
        &self,
        upload: &MultipartUpload,
        number: u32,
        source: &SourcePin,
        range: Option<(u64, u64)>,
        size: u64,
    ) -> Result<PartDone, Failure> {
        self.may_send(Operation::UploadPartCopy)?;
        upload
            .copy_part_with(number, source, range, size, false)
            .await
            .map(|answer| answer.value)
    }

    pub(super) async fn complete(
        &mut self,
        upload: &MultipartUpload,
        parts: &[PartDone],
        spec: &CompleteSpec,
    ) -> Result<Written, Failure> {
        self.may_send(Operation::CompleteMultipartUpload)?;
        let began = Instant::now();
        let answer = upload.complete(parts, spec).await;
        let answer = answer.map(|value| Answer {
            value,
            attempts: 1,
            maybe_twice: false,
        });
        self.note(upload.key(), began, &answer);
        if answer.is_ok() {
            let is_this_upload = |made: &mut ProbeWrite| made.id.as_deref() == Some(upload.id());
            self.completed
                .extend(self.uploads.extract_if(.., is_this_upload));
        }
        answer.map(|answer| answer.value)
    }

    /// Creates an object from one part.
    pub(super) async fn complete_one(
        &mut self,
        name: &str,
        attributes: &Attributes,
        condition: WriteCondition,
    ) -> Result<Written, Failure> {
        let (upload, part) = self
            .create_upload_with_part(name, b"part", attributes)
            .await?;
        let spec = CompleteSpec {
            size: part.size,
            condition,
            ..CompleteSpec::default()
        };
        self.complete(&upload, &[part], &spec).await
    }

    /// Creates an object with the request `by`. Only copies use `source`.
    pub(super) async fn write(
        &mut self,
        by: ConditionalWrite,
        name: &str,
        source: &SourcePin,
        attributes: &Attributes,
        condition: WriteCondition,
    ) -> Result<Written, Failure> {
        match by {
            ConditionalWrite::Put => {
                self.put(name, &b"written"[..], attributes, None, condition)
                    .await
            }
            ConditionalWrite::Copy => self.copy(source, name, attributes, condition).await,
            ConditionalWrite::Complete => self.complete_one(name, attributes, condition).await,
        }
    }

    /// Sends a HEAD for the object at the key.
    pub(super) async fn head(&self, name: &str) -> Result<Head, Failure> {
        self.may_send(Operation::HeadObject)?;
        self.bucket.head(&self.key(name)?, None).await
    }

    /// Checks that a successful write created an object of this size.
    pub(super) async fn effect(&self, name: &str, by: ConditionalWrite, size: u64) -> ProbeAnswer {
        match self.head(name).await {
            Ok(head) if head.size == size => ProbeAnswer::kept(),
            Ok(head) => ProbeAnswer::ignored(format!(
                "it made an object of {} bytes from {size}",
                head.size
            )),
            Err(failure) if *failure.kind() == FailureKind::NotFound => {
                ProbeAnswer::ignored(format!(
                    "{} was answered with success and made no object",
                    request_of(by)
                ))
            }
            Err(failure) => ProbeAnswer::unknown(reason(&failure)),
        }
    }

    /// Returns the bucket for one more request of this kind, unless the probe has ended.
    pub(super) fn bucket_for(&self, operation: Operation) -> Result<&Bucket, Failure> {
        self.may_send(operation)?;
        Ok(&self.bucket)
    }
}

/// Returns no attributes, for an object with nothing but bytes.
pub(super) fn plain() -> Attributes {
    Attributes {
        tags: Tags::AsSource,
        ..Attributes::default()
    }
}

fn may_have_happened(failure: &Failure) -> bool {
    failure.kind().outcome_unknown()
        || (*failure.kind() == FailureKind::Stopped && failure.details().attempts > 0)
}

/// Returns true if the request may still take effect, because the server did not respond in time.
fn may_come_late(failure: &Failure) -> bool {
    matches!(
        failure.kind(),
        FailureKind::TimedOut | FailureKind::Silent | FailureKind::Stopped
    )
}

/// Returns true if the server refuses this request permanently.
pub(super) fn is_refusal(failure: &Failure) -> bool {
    matches!(
        failure.kind(),
        FailureKind::Unsupported
            | FailureKind::Invalid
            | FailureKind::Corrupted
            | FailureKind::NotFound
    )
}

/// Converts the failure of a request into an answer.
pub(super) fn answer_from(failure: &Failure) -> ProbeAnswer {
    if is_refusal(failure) {
        ProbeAnswer::refused(reason(failure))
    } else {
        ProbeAnswer::unknown(reason(failure))
    }
}

/// Describes a failure in one line.
pub(super) fn reason(failure: &Failure) -> String {
    let details = failure.details();
    if details.code.is_empty() || *failure.kind() == FailureKind::Stopped {
        return cut(details.message.clone(), LONGEST_REASON);
    }
    let text = format!(
        "{}: {}: {}",
        details.operation, details.code, details.message
    );
    cut(
        text.trim_end_matches([' ', '.', ':']).to_owned(),
        LONGEST_REASON,
    )
}
