//! Runs one multipart upload, in the same way for copies, files, and streams.
//!
//! An [`UploadSession`] resumes an upload of an earlier session ([`resume`]), adopts an upload that
//! no journal records ([`adopt`]), or creates a new upload. The session sends the parts that S3
//! does not hold yet ([`parts`]), completes the upload, and ends it ([`end`]).
//!
//! Only an upload session writes the events of an upload to the journal ([`record`]). It records an
//! upload before it sends the request that creates the upload, and records the upload's ID and
//! fingerprint before it sends the first part. So even if the process is killed, the next session
//! knows every upload that is still open.

pub(super) mod adopt;
mod digest;
mod end;
pub(super) mod local;
pub(in crate::execute) mod orphans;
pub(super) mod parts;
pub(in crate::execute) mod record;
pub(super) mod resume;
mod verify;

use std::sync::Arc;

use super::ObjectTask;
use super::attributes::TargetAttributes;
use super::condition::{RefusalReaction, WriteResult};
use super::pinned::PinnedSource;
use super::round_failure::RoundFailure;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::TransferContext;
use crate::execute::monitor::Event;
use crate::multipart::MultipartUpload;
use crate::pace::Slot;
use crate::plan::parts::PartLayout;
use crate::s3::{Attributes, Checksum, CompleteSpec, PartDone};
use record::{UploadFingerprint, UploadRecord};

/// The upload that an object needs.
#[derive(Debug)]
pub(super) struct UploadRequest {
    /// The fingerprint that an upload must have to be resumed.
    pub(super) fingerprint: UploadFingerprint,
    /// The layout that a new upload gets.
    pub(super) layout: PartLayout,
    /// The attributes that the object must have.
    pub(super) attributes: Attributes,
    /// The checksum of the source, if it is known.
    pub(super) checksum: Option<Checksum>,
    /// The reason not to adopt an open upload, if there is one: nothing would prove its bytes, or
    /// show its ACL.
    pub(super) adoption_obstacle: Option<&'static str>,
}

/// An upload in progress.
pub(super) struct UploadSession<'w> {
    context: &'w TransferContext,
    pub(super) upload: Arc<MultipartUpload>,
    record: UploadRecord,
    /// The record of a second upload. Exists if the request that created this upload was sent twice
    /// and the other request may still take effect.
    second_create: Option<UploadRecord>,
    /// The layout of its parts.
    pub(super) layout: PartLayout,
    /// The parts that S3 held when the upload was resumed or adopted.
    held: Arc<[PartDone]>,
    /// True if the upload was adopted. The request that created it is then unknown.
    pub(super) is_adopted: bool,
    /// Its number in the events of the monitor.
    id: u64,
    /// Parts that S3 has confirmed.
    pub(super) done: Vec<PartDone>,
    /// The number of requests that the confirmed parts took.
    attempts: u32,
    /// Bytes of the confirmed parts.
    pub(super) bytes: u64,
}

impl<'w> UploadSession<'w> {
    fn new(
        context: &'w TransferContext,
        upload: MultipartUpload,
        record: UploadRecord,
        layout: PartLayout,
    ) -> Self {
        Self {
            context,
            upload: Arc::new(upload),
            record,
            second_create: None,
            layout,
            held: Arc::default(),
            is_adopted: false,
            id: context.next_id(),
            done: Vec::new(),
            attempts: 0,
            bytes: 0,
        }
    }

    /// Adopts an open upload if the job allows it and one exists; otherwise creates an upload.
    /// Releases `slot` afterwards.
    pub(super) async fn adopt_or_create(
        task: &mut ObjectTask<'w>,
        target: &mut TargetAttributes<'w>,
        source: Option<&PinnedSource<'w>>,
        request: UploadRequest,
        slot: Option<Slot>,
    ) -> Result<Self, RoundFailure> {
        if let Some(session) = Self::adopt(task, &request).await? {
            return Ok(session);
        }
        let record = UploadRecord::record_create(task.context, task.step).await?;
        Self::create(task, target, source, request, record, slot).await
    }

    /// Creates an upload, and puts its ID and fingerprint on record.
    async fn create(
        task: &mut ObjectTask<'w>,
        target: &mut TargetAttributes<'w>,
        source: Option<&PinnedSource<'w>>,
        request: UploadRequest,
        record: UploadRecord,
        slot: Option<Slot>,
    ) -> Result<Self, RoundFailure> {
        let (context, key) = (task.context, &task.step.key);
        let created = target
            .create_with_fallback(source, key, &mut task.draft)
            .await;
        drop(slot);
        let upload = match created {
            Ok(upload) => upload,
            Err(failure) => {
                let notes = record.not_created(context, key, &failure).await;
                task.draft.notes.extend(notes);
                return Err(task.with_acl_hint(failure).into());
            }
        };
        let (strays, bucket) = (upload.strays().iter(), task.destination());
        let notes = strays.map(|stray| stray.describe(bucket, key));
        task.draft.notes.extend(notes);
        let second_create = if upload.has_late_twin() && record.is_kept() {
            // If the journal is broken, the next record fails too, and aborts this upload.
            UploadRecord::record_create(context, task.step).await.ok()
        } else {
            None
        };
        let fingerprint = request.fingerprint.with_losses(&task.draft);
        record
            .created(context, &upload, fingerprint, &request.layout)
            .await?;
        Ok(Self {
            second_create,
            ..Self::new(context, upload, record, request.layout)
        })
    }

    /// Creates the upload of a stream. The upload is not recorded, because no later session could
    /// resume it: the bytes cannot be read again.
    pub(super) async fn create_unrecorded(
        task: &mut ObjectTask<'w>,
        target: &mut TargetAttributes<'w>,
        request: UploadRequest,
    ) -> Result<Self, RoundFailure> {
        let record = UploadRecord::off_record();
        Self::create(task, target, None, request, record, None).await
    }

    /// Announces the upload to the monitor, with the bytes that S3 already holds.
    fn announce(&self) {
        self.context.monitor.observe(&Event::UploadBegan {
            id: self.id,
            key: self.upload.key().as_str(),
            bytes: self.layout.size,
            parts: self.layout.count,
        });
        if self.bytes > 0 {
            self.context.monitor.observe(&Event::BytesResumed {
                id: self.id,
                bytes: self.bytes,
            });
        }
    }

    /// Completes the upload from these parts. The object should then have this `ETag`. Sends
    /// Complete once more if the object to be replaced was deleted meanwhile, because the upload is
    /// then still open.
    pub(super) async fn complete(
        &self,
        parts: &[PartDone],
        etag: Option<String>,
        mut spec: CompleteSpec,
        task: &mut ObjectTask<'_>,
    ) -> Result<WriteResult, RoundFailure> {
        self.record.completing(self.context, etag).await?;
        let mut may_repeat = true;
        loop {
            let failure = match self.upload.complete(parts, &spec).await {
                Ok(written) => return Ok(WriteResult::Written(written)),
                Err(failure) => failure,
            };
            let write = ConditionalWrite::Complete;
            match task
                .react_to_refusal(write, &spec.condition, failure, may_repeat)
                .await?
            {
                RefusalReaction::Leave(skip) => return Ok(WriteResult::Left(skip)),
                RefusalReaction::WriteAgain => spec.condition = task.condition(write),
            }
            may_repeat = false;
        }
    }
}
