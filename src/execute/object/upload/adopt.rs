//! Adopts open uploads that no journal records, if the job says so (`--adopt`).
//!
//! If a journal is lost with its disk, its uploads stay open at the destination and cost money. A
//! user who knows that no other program writes these keys can let a run adopt them. S3 does not
//! show the source or the attributes of an open upload, so other checks replace the journal's
//! record ([`crate::plan::adopt`]):
//!
//! - The bytes are proven before they are published: by a checksum of the whole source, or part by
//!   part if the source is a file. Without such a proof the object is copied again.
//! - The attributes are compared after the object is published ([`verify`](super::verify)). If they
//!   differ, the object is copied again and replaces it.
//!
//! An upload that turns out to belong to another object is reported and left open, because another
//! program may have created it.

use std::future::ready;

use futures::TryStreamExt;

use super::record::UploadRecord;
use super::{UploadRequest, UploadSession};
use crate::execute::object::ObjectTask;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::replan::Replan;
use crate::manifest::job::PartSize;
use crate::multipart::{self, MultipartUpload};
use crate::plan::adopt::{ExpectedLayout, may_be_for, usable};
use crate::plan::parts::PartLayout;
use crate::s3::{Attributes, Failure, FailureKind, OpenUpload, PartDone};
use crate::size::{by_number, display_counted};

/// An open upload that can be adopted, its layout, and its parts.
type Candidate = (MultipartUpload, PartLayout, Vec<PartDone>);

impl<'w> UploadSession<'w> {
    /// Searches once per object for open uploads at its key, and adopts the upload with the most
    /// usable bytes.
    pub(super) async fn adopt(
        task: &mut ObjectTask<'w>,
        request: &UploadRequest,
    ) -> Result<Option<Self>, RoundFailure> {
        let (context, key) = (task.context, &task.step.key);
        // Several versions of a key may have open uploads, and nothing distinguishes them.
        if !context.adopts
            || task.step.history.is_some()
            || std::mem::replace(&mut task.draft.looked_for_uploads, true)
        {
            return Ok(None);
        }
        let listed = match unknown_uploads(task).await {
            Ok(listed) => listed,
            Err(failure)
                if matches!(
                    failure.kind(),
                    FailureKind::Denied | FailureKind::Unsupported | FailureKind::Invalid
                ) =>
            {
                let note = format!("open uploads cannot be listed: {failure}");
                task.draft.notes.push(note);
                return Ok(None);
            }
            Err(failure) => return Err(failure.into()),
        };
        let mut others = listed.len();
        let session = match (
            best(task, listed, request).await?,
            request.adoption_obstacle,
        ) {
            (Some(_), Some(adoption_obstacle)) => {
                let note = format!("no open upload at this key is adopted: {adoption_obstacle}");
                task.draft.notes.push(note);
                None
            }
            (Some((upload, layout, held)), None) => {
                others -= 1;
                task.draft.notes.push(format!(
                    "adopted the open upload {}: {} of {} parts were there",
                    upload.id(),
                    held.len(),
                    layout.count
                ));
                let record = UploadRecord::record_create(context, task.step).await?;
                let fingerprint = request.fingerprint.of_adopted();
                record
                    .created(context, &upload, fingerprint, &layout)
                    .await?;
                Some(Self {
                    held: held.into(),
                    is_adopted: true,
                    ..Self::new(context, upload, record, layout)
                })
            }
            (None, _) => None,
        };
        if others > 0 {
            let command = multipart::command(task.destination(), "list", key, None);
            task.draft.notes.push(format!(
                "{} at this key {} left alone; `{command}` shows {}",
                display_counted(others as u64, "open upload"),
                by_number(others as u64, "is", "are"),
                by_number(others as u64, "it", "them")
            ));
        }
        Ok(session)
    }

    /// Adds a note that the parts of this upload do not equal the source, so another program may
    /// have created the upload. Returns the reason to copy the object again.
    pub(in crate::execute::object) fn disown(&self, task: &mut ObjectTask<'_>) -> RoundFailure {
        let id = self.upload.id();
        let command = multipart::command(task.destination(), "abort", self.upload.key(), Some(id));
        task.draft.notes.push(format!(
            "the open upload {id} holds something else; it is left open, and the object is copied again \
             (`{command}` frees its parts)"
        ));
        Replan::ForeignUpload.into()
    }
}

/// Returns the reason not to adopt an upload with these attributes if they include an ACL.
pub(in crate::execute::object) fn unseen_acl(attributes: &Attributes) -> Option<&'static str> {
    let has_acl = attributes.acl.is_some() || !attributes.grants.is_empty();
    has_acl.then_some("its ACL cannot be read before it is completed")
}

/// Returns the uploads that are open at exactly the object's key and that the journal does not
/// record.
async fn unknown_uploads(task: &ObjectTask<'_>) -> Result<Vec<OpenUpload>, Failure> {
    let listed = multipart::uploads_to(task.destination(), &task.step.key);
    let orphans = &task.context.orphans;
    let unknown = listed.try_filter(|open| ready(!orphans.knows(&open.upload_id)));
    unknown.try_collect().await
}

/// Returns the upload that holds the most usable bytes. Adds a note for each upload whose parts
/// cannot be listed.
async fn best(
    task: &mut ObjectTask<'_>,
    listed: Vec<OpenUpload>,
    request: &UploadRequest,
) -> Result<Option<Candidate>, Failure> {
    let (sides, bucket) = (&task.context.sides, task.destination());
    let source = &request.fingerprint.source;
    // The automatic part size of a file depends on the file size alone.
    let is_automatic = sides.transfer.parts.size == PartSize::Auto && sides.source.is_some();
    let expected_layout = if is_automatic && !request.layout.is_replay() {
        ExpectedLayout::Automatically(request.layout.size, &bucket.capabilities().parts)
    } else {
        ExpectedLayout::Exactly(&request.layout)
    };
    // Ignore the time of a file: it comes from another clock, and the parts of a file are compared
    // one by one.
    let modified = source.modified.filter(|_| source.etag.is_some());
    let mut best: Option<Candidate> = None;
    for open in listed
        .into_iter()
        .filter(|open| may_be_for(open, modified, &request.attributes))
    {
        let upload = MultipartUpload::open(bucket, &task.step.key, open.upload_id);
        let upload = match open.initiated {
            Some(initiated) => upload.created_at(initiated, false),
            None => upload,
        };
        let parts = upload.parts().try_collect().await;
        let declared = if parts.is_ok() {
            upload.declared().await
        } else {
            Ok(None)
        };
        let (parts, declared) = match parts.and_then(|parts| Ok((parts, declared?))) {
            Ok(held) => held,
            Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => continue,
            Err(failure) if failure.is_passing() || failure.ends_run() => return Err(failure),
            // Copying the object again is always safe.
            Err(failure) => {
                let id = upload.id();
                task.draft.notes.push(format!(
                    "the parts of the open upload {id} cannot be listed: {failure}"
                ));
                continue;
            }
        };
        if let Some((layout, kept)) = usable(parts, declared, expected_layout, &request.attributes)
        {
            let held = |parts: &[PartDone]| parts.iter().map(|part| part.size).sum::<u64>();
            if best
                .as_ref()
                .is_none_or(|(_, _, most)| held(&kept) > held(most))
            {
                best = Some((upload, layout, kept));
            }
        }
    }
    Ok(best)
}
