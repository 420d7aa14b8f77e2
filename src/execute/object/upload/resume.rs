//! Resumes an upload that an earlier session left open.
//!
//! An upload is resumed only if its record has the same source version, key, and attributes, and if
//! its recorded parts tile the object. `ListParts` shows which parts S3 holds. A part of the right
//! size is kept if it matches its record, or if it was in flight when the record ended; all other
//! parts are sent again. Any other upload is aborted and a new one is created, which is always safe
//! and only costs time.
//!
//! If the server no longer has the upload, it may have become the object: the session may have been
//! killed before the response to Complete arrived. s3haul then recognizes the object at the key by
//! the source's checksum, or by the `ETag` that it recorded before it sent Complete.
//!
//! An upload that was kept for the next run is found by bucket and key, because its object has
//! another number in that run.

use futures::TryStreamExt;

use super::orphans::OrphanUpload;
use super::record::lengths;
use super::{UploadRequest, UploadSession};
use crate::execute::TransferContext;
use crate::execute::object::ObjectTask;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::receipt::Draft;
use crate::journal::event::{PartLengths, UploadPlace};
use crate::journal::uploads::{Kept, UploadDetails};
use crate::location::ObjectKey;
use crate::manifest::job::Policy;
use crate::multipart::MultipartUpload;
use crate::plan::loss::{Loss, Lost};
use crate::plan::parts::{Boundaries, PartLayout};
use crate::planner::MadeBefore;
use crate::s3::{ChecksumKind, FailureKind, Head};

/// An upload of an earlier session that this session can use.
pub(in crate::execute::object) enum Resumed<'w> {
    /// The upload is open and has parts.
    Session(Box<UploadSession<'w>>),
    /// The upload has become the object. Holds the object's HEAD, and the `ETag` computed from the
    /// parts, if the `ETag` proves the object.
    Published(Box<Head>, Option<String>),
}

impl TransferContext {
    /// Returns the location of this transfer's uploads to `key`.
    pub(super) fn upload_place(&self, key: &ObjectKey) -> UploadPlace {
        let to = &self.sides.transfer.to;
        UploadPlace {
            endpoint: to.endpoint.clone(),
            bucket: to.location.bucket.clone(),
            key: key.clone(),
        }
    }

    /// Returns the recorded properties of uploads to this key whose Complete was sent but not
    /// confirmed.
    pub(crate) fn made_before(&self, key: &ObjectKey) -> MadeBefore {
        let place = self.upload_place(key);
        let open = self.resumed.uploads.values();
        let created = open.filter(|open| open.place == place && open.kept == Kept::No);
        let mut made = MadeBefore::default();
        for created in created.filter_map(|open| open.created.as_ref()) {
            if let Some(completing) = &created.completing {
                made.adopted |= created.adopted;
                let is_known = completing.etag.is_some() && !created.kms && !created.adopted;
                made.etag = completing.etag.clone().filter(|_| is_known).or(made.etag);
            }
        }
        made
    }
}

impl ObjectTask<'_> {
    /// Takes the uploads to the object's key that earlier sessions left open.
    pub(in crate::execute::object) fn take_orphans(&mut self) {
        let place = self.context.upload_place(&self.step.key);
        self.orphans = self.context.orphans.take(self.step.object, &place);
    }

    /// Aborts the object's remaining uploads, which this session does not resume.
    pub(in crate::execute::object) async fn abort_orphans(&mut self) {
        while let Some(orphan) = self.orphans.pop() {
            self.abort_orphan(&orphan).await;
        }
    }

    async fn abort_orphan(&mut self, orphan: &OrphanUpload) {
        let context = self.context;
        let notes = context
            .orphans
            .abort(
                orphan,
                &context.journal,
                &*context.monitor,
                self.destination(),
            )
            .await;
        // The receipt may be written hours later, and a kill before that would lose the only
        // mention of the upload.
        for note in &notes {
            tracing::warn!(key = %self.step.key, "{note}");
        }
        self.draft.notes.extend(notes);
    }
}

impl<'w> UploadSession<'w> {
    /// Resumes one of the object's uploads that earlier sessions left open, and aborts the others.
    pub(in crate::execute::object) async fn resume(
        task: &mut ObjectTask<'w>,
        request: &UploadRequest,
    ) -> Result<Option<Resumed<'w>>, RoundFailure> {
        while let Some(orphan) = task.orphans.pop() {
            let resumed = match assess(task, &orphan, request).await {
                Ok(resumed) => resumed,
                // The parts cannot be listed. Starting over is always safe.
                Err(RoundFailure::Failed(failure))
                    if !failure.kind().may_pass_later() && !failure.ends_run() =>
                {
                    tracing::warn!(key = %task.step.key, %failure, "an open upload cannot be resumed: creating a new one");
                    None
                }
                // The upload must still be resumed or aborted.
                Err(error) => {
                    task.orphans.push(orphan);
                    return Err(error);
                }
            };
            let Some(resumed) = resumed else {
                task.abort_orphan(&orphan).await;
                continue;
            };
            // The upload lacks the attributes that the server refused when the upload was created,
            // not the attributes that the server refuses now.
            if let Some(created) = &orphan.open.created {
                task.draft.losses.retain(|loss| loss.lost != Lost::NotSet);
                task.draft.losses.extend(created.losses.iter().cloned());
            }
            task.abort_orphans().await;
            let context = task.context;
            context.orphans.settle(&orphan, &*context.monitor);
            // If the upload became the object, it stays on record until the object has all
            // attributes.
            if matches!(resumed, Resumed::Published(..)) {
                task.orphans.push(orphan);
            }
            return Ok(Some(resumed));
        }
        Ok(None)
    }
}

/// Returns true for the loss of an attribute that the job now requires, unless this session has the
/// same loss.
fn is_demanded(context: &TransferContext, loss: &Loss, draft: &Draft) -> bool {
    context.sides.transfer.preserve.of(loss.attribute) == Policy::Require
        && !draft.losses.contains(loss)
}

/// Decides whether an upload can be resumed or has become the object. Returns `None` if neither is
/// true.
async fn assess<'w>(
    task: &mut ObjectTask<'w>,
    orphan: &OrphanUpload,
    request: &UploadRequest,
) -> Result<Option<Resumed<'w>>, RoundFailure> {
    let (context, key) = (task.context, &task.step.key);
    // An upload may lack an attribute only if the job does not require it.
    let is_demanded = |loss: &Loss| is_demanded(context, loss, &task.draft);
    let created = match &orphan.open.created {
        Some(created) if !created.losses.iter().any(is_demanded) => created,
        _ => return Ok(None),
    };
    let layout = tiling(&created.parts, &request.layout);
    let Some(layout) = layout.filter(|_| request.fingerprint.matches(created)) else {
        tracing::info!(%key, "an open upload has another source or other attributes: creating a new one");
        return Ok(None);
    };
    let upload = MultipartUpload::open(task.destination(), key, &*created.id);
    // An adopted upload is older than its record.
    let upload = if created.adopted {
        upload
    } else {
        upload.created_at(orphan.open.intended, created.kms)
    };
    let listed = match upload.parts().try_collect::<Vec<_>>().await {
        Ok(listed) => listed,
        Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => Vec::new(),
        Err(failure) => return Err(failure.into()),
    };
    let mut reconciled = created.reconcile(listed);
    // Complete must name the declared checksum of each part, and the proof needs it too.
    if upload.algorithm().is_some() {
        reconciled.kept.retain(|part| part.checksum.is_some());
    }
    let kept = reconciled.kept;
    // Some servers return an empty list for an upload that no longer exists.
    if kept.is_empty() {
        let Some((head, etag)) = find_published(task, created, request).await? else {
            return Ok(None);
        };
        let version = head.version.as_deref();
        if created.adopted
            && !task
                .has_attributes(&created.id, version, &request.attributes)
                .await?
        {
            return Ok(None);
        }
        return Ok(Some(Resumed::Published(Box::new(head), etag)));
    }
    tracing::info!(
        %key, kept = kept.len(), parts = layout.count, missing = reconciled.missing,
        different = reconciled.different, "resuming an open upload"
    );
    Ok(Some(Resumed::Session(Box::new(UploadSession {
        held: kept.into(),
        is_adopted: created.adopted,
        ..UploadSession::new(context, upload, orphan.record, layout)
    }))))
}

/// Returns the object at the key if it was made from this upload, whose Complete was sent but not
/// confirmed. Also returns the `ETag` if the `ETag` proves this.
async fn find_published(
    task: &ObjectTask<'_>,
    created: &UploadDetails,
    request: &UploadRequest,
) -> Result<Option<(Head, Option<String>)>, RoundFailure> {
    let Some(completing) = &created.completing else {
        return Ok(None);
    };
    let bucket = task.destination();
    let head = match bucket.head(&task.step.key, None).await {
        Ok(head) => head,
        Err(failure) if *failure.kind() == FailureKind::NotFound => return Ok(None),
        Err(failure) => return Err(failure.into()),
    };
    let by_checksum = request
        .checksum
        .as_ref()
        .zip(head.checksum.as_ref())
        .is_some_and(|(source, found)| source.kind == ChecksumKind::FullObject && source == found);
    let by_etag = bucket.capabilities().content_etags
        && !head.kms
        && completing.etag.as_ref() == Some(&head.etag);
    let is_ours = head.size == request.layout.size && (by_checksum || by_etag);
    let etag = completing.etag.clone().filter(|_| by_etag);
    Ok(is_ours.then_some((head, etag)))
}

/// Returns the recorded layout of an upload if it tiles the object. A new upload would get the
/// layout `now`. The two may differ, because automatic part sizes depend on the possible number of
/// requests in flight.
fn tiling(recorded: &PartLengths, now: &PartLayout) -> Option<PartLayout> {
    let is = |layout: &PartLayout| lengths(layout) == *recorded;
    if is(now) {
        return Some(now.clone());
    }
    let uniform = PartLayout::uniform(now.size, recorded.iter().next()?, recorded.count());
    (now.boundaries == Boundaries::Chosen && recorded.bytes() == now.size && is(&uniform))
        .then_some(uniform)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_layout_is_resumed_if_it_tiles_the_object() {
        let now = PartLayout::uniform(25, 10, 3);
        let recorded = |lengths: &[u64]| lengths.iter().copied().collect::<PartLengths>();
        assert_eq!(tiling(&recorded(&[10, 10, 5]), &now), Some(now.clone()));
        assert_eq!(
            tiling(&recorded(&[20, 5]), &now),
            Some(PartLayout::uniform(25, 20, 2))
        );
        for other in [&[10, 10][..], &[10, 5, 10], &[10, 10, 6], &[]] {
            assert_eq!(tiling(&recorded(other), &now), None, "{other:?}");
        }
        let replayed = PartLayout {
            boundaries: Boundaries::Replayed([10, 25].into()),
            ..PartLayout::uniform(25, 15, 2)
        };
        assert_eq!(
            tiling(&recorded(&[10, 15]), &replayed),
            Some(replayed.clone())
        );
        assert_eq!(
            tiling(&recorded(&[20, 5]), &replayed),
            None,
            "the source's boundaries are wanted"
        );
    }
}
