//! Copying one object inside S3.
//!
//! HEAD first: it pins the version and `ETag` that every following request names, gives the attributes to set and the
//! checksum to compare with. The size from HEAD, not the one from the listing, chooses the route. When the source
//! turns out to have changed meanwhile, everything made so far is thrown away and the object is planned again, a few
//! times; a copy is of one version or it is not published.

use std::sync::Arc;

use super::attributes::{Wanted, compare_encryption};
use super::monitor::Event;
use super::part::{self, Progress};
use super::prove::{Expected, Verdict, by_answer, by_look};
use super::receipt::{Ending, Proof};
use super::{Draft, Trouble, Work};
use crate::bucket::Bucket;
use crate::manifest::job::When;
use crate::multipart::MultipartUpload;
use crate::pace::Slot;
use crate::pace::slots::Want;
use crate::plan::decide::{Route, Skip};
use crate::plan::parts::PartLayout;
use crate::planner::Step;
use crate::s3::{
    CompleteSpec, Failure, FailureKind, Head, Operation, PartDone, SourcePin, WriteCondition, Written,
};

/// How often an object whose source keeps changing is planned again.
const ROUNDS: u32 = 4;
/// A single copy of more than this takes long enough to count as bulk.
const BULK_FROM: u64 = 16 << 20;

/// Copies the object of `step`; what it came to is in `draft` and the ending.
pub(super) async fn copy(
    work: &Work,
    source: &Bucket,
    step: &Step,
    draft: &mut Draft,
) -> Result<Ending, Trouble> {
    for _ in 0..ROUNDS {
        match (Copy { work, source, step }).round(draft).await {
            Err(Trouble::SourceChanged) => {
                tracing::info!(key = %step.entry.key, "the source changed: planning it again");
            }
            other => return other,
        }
    }
    let message = format!("the source changed {ROUNDS} times while it was copied");
    let place = source.place(&step.entry.key);
    Err(Trouble::Failed(Failure::new(FailureKind::SourceChanged, Operation::HeadObject, place, message)))
}

/// One object on its way.
pub(super) struct Copy<'a> {
    pub(super) work: &'a Work,
    pub(super) source: &'a Bucket,
    pub(super) step: &'a Step,
}

impl Copy<'_> {
    async fn round(&self, draft: &mut Draft) -> Result<Ending, Trouble> {
        let Self { work, source, step } = self;
        let is_bulk = step.route.parts() == 0 && step.entry.size > BULK_FROM;
        let want = if is_bulk { Want::Bulk(step.entry.size) } else { Want::Small };
        let slot = work.slots().request(want).await.map_err(|_| Trouble::Stopped)?;
        if let Some(etag) = self.needs_no_look()
            && let Some(ending) = Box::pin(self.by_listing(etag, draft)).await?
        {
            return Ok(ending);
        }
        let mut head = source.head(&step.entry.key, step.entry.version.as_deref()).await?;
        if head.archived {
            let class = head.storage_class.as_deref().unwrap_or("an archive tier");
            let message = format!("the object is in {class} and not restored");
            let place = source.place(&step.entry.key);
            return Err(Failure::new(FailureKind::Archived, Operation::HeadObject, place, message).into());
        }
        let route = work.sides.route(head.size, &step.key)?;
        let pin = SourcePin {
            bucket: source.name().clone(),
            key: step.entry.key.clone(),
            version: step.entry.version.clone().or_else(|| head.version.clone()),
            etag: head.etag.clone(),
            customer_key: source.client().customer_key().filter(|_| head.customer_key).cloned(),
        };
        draft.pinned(&head, &route, pin.version.clone());
        if work.is_taken(&step.key).await? {
            return Ok(Ending::Skipped { reason: Skip::Present });
        }
        let destination = &work.sides.destination;
        let mut wanted = Wanted::of_copy(work, source, &mut head, &pin, &route, draft).await?;
        let ending = match route {
            Route::MultipartCopy(layout) => {
                self.multipart(slot, &head, &pin, &mut wanted, layout, draft).await
            }
            Route::Copy => self.single(&head, &pin, &mut wanted, draft).await,
            Route::Put | Route::MultipartUpload(_) => {
                let place = destination.place(&step.key);
                Err(Failure::new(
                    FailureKind::Bug,
                    Operation::CopyObject,
                    place,
                    "an upload route for a copy",
                )
                .into())
            }
        }?;
        wanted.finish(Some((*source, &pin)), &step.key, &ending, draft).await?;
        Ok(ending)
    }

    async fn single(
        &self,
        head: &Head,
        pin: &SourcePin,
        wanted: &mut Wanted<'_>,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let destination = &self.work.sides.destination;
        let condition = condition(self.work);
        let answer = wanted.copy_object(self.source, pin, head.size, &self.step.key, condition, draft).await;
        let written = match answer {
            Ok(answer) => {
                draft.attempts += answer.attempts;
                answer.value
            }
            Err(failure) if *failure.kind() == FailureKind::PreconditionFailed => {
                draft.attempts += failure.details().attempts;
                if condition == WriteCondition::None || !self.is_unchanged(head, pin).await? {
                    return Err(Trouble::SourceChanged);
                }
                // The key is taken: by someone else, or by an earlier attempt of ours whose answer was lost.
                let ours = failure.details().attempts > 1;
                return if ours {
                    self.adopt(head).await
                } else {
                    Ok(Ending::Skipped { reason: Skip::Present })
                };
            }
            Err(failure) if *failure.kind() == FailureKind::Conflict => return Err(Trouble::SourceChanged),
            Err(failure) => return Err(failure.into()),
        };
        if !destination.capabilities().copy_conditions && !self.is_unchanged(head, pin).await? {
            return Err(Trouble::SourceChanged);
        }
        compare_encryption(self.work, head, &written, draft);
        let proof = self.prove(head, pin, &written, &[]).await?;
        self.work.monitor.observe(&Event::BytesCopied { id: None, bytes: head.size });
        Ok(Ending::Done { proof, etag: written.etag, destination_version: written.version })
    }

    /// Takes what stands at the key for ours, if it is equal to the source beyond its size.
    async fn adopt(&self, head: &Head) -> Result<Ending, Trouble> {
        let destination = &self.work.sides.destination;
        let found = destination.head(&self.step.key, None).await?;
        let expected = Expected::of(head, destination.capabilities());
        match by_look(&expected, &found, &[], destination.capabilities().content_etags) {
            Verdict::Proven(proof) if proof != Proof::Size => {
                Ok(Ending::Done { proof, etag: found.etag, destination_version: found.version })
            }
            _ => Ok(Ending::Skipped { reason: Skip::Present }),
        }
    }

    async fn multipart(
        &self,
        place: Slot,
        head: &Head,
        pin: &SourcePin,
        wanted: &mut Wanted<'_>,
        layout: PartLayout,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let Self { work, source, step } = self;
        let upload = wanted.initiate(source, pin, &step.key, draft).await?;
        drop(place);
        let id = work.next_id();
        work.monitor.observe(&Event::UploadBegan {
            id,
            key: step.key.as_str(),
            bytes: layout.size,
            parts: layout.count,
        });
        let mut progress = Progress::default();
        let outcome = self.parts_to_object(head, pin, &upload, layout, id, &mut progress, draft).await;
        draft.attempts += progress.attempts;
        if !matches!(outcome, Ok(Ending::Done { .. })) {
            work.abandon(&upload, draft).await;
            work.monitor.observe(&Event::BytesVoided { bytes: progress.bytes });
        }
        work.monitor.observe(&Event::UploadEnded { id });
        outcome
    }

    #[expect(clippy::too_many_arguments, reason = "one upload and all that it is to become")]
    async fn parts_to_object(
        &self,
        head: &Head,
        pin: &SourcePin,
        upload: &MultipartUpload,
        layout: PartLayout,
        id: u64,
        progress: &mut Progress,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let Self { work, step, .. } = self;
        let destination = &work.sides.destination;
        let (shared, pin) = (Arc::new(upload.clone()), Arc::new(pin.clone()));
        part::all(work, id, layout, progress, |part| {
            let (upload, pin) = (Arc::clone(&shared), Arc::clone(&pin));
            // A part that is the whole object is named without a range: tiny sources refuse ranges.
            let range = (layout.count > 1).then(|| part.first_last());
            async move { upload.copy_range(part.number, &pin, range, part.length).await }
        })
        .await
        .map_err(|trouble| match trouble {
            Trouble::Failed(failure) if *failure.kind() == FailureKind::PreconditionFailed => {
                Trouble::SourceChanged
            }
            other => other,
        })?;
        let _place = work.place().await;
        if !destination.capabilities().copy_conditions && !self.is_unchanged(head, &pin).await? {
            return Err(Trouble::SourceChanged);
        }
        if work.is_taken(&step.key).await? {
            return Ok(Ending::Skipped { reason: Skip::Present });
        }
        let expected = Expected::of(head, destination.capabilities());
        let spec = CompleteSpec {
            size: head.size,
            checksum: None,
            // S3 itself then refuses to publish anything that differs from the source. Only the algorithm that the upload
            // declared may be named: a SHA-256 of a source in one piece has no counterpart in parts.
            full_checksum: expected.checksum.clone().filter(|sum| Some(sum.algorithm) == upload.algorithm()),
            condition: condition(work),
        };
        let written = match upload.complete(&progress.done, &spec).await {
            Ok(written) => written,
            Err(failure) if *failure.kind() == FailureKind::PreconditionFailed => {
                return Ok(Ending::Skipped { reason: Skip::Present });
            }
            // 409: the upload is void for its condition, and all parts must be sent again.
            Err(failure) if *failure.kind() == FailureKind::Conflict => return Err(Trouble::SourceChanged),
            Err(failure) if *failure.kind() == FailureKind::Corrupted => {
                return Err(self
                    .differs(head, &pin, "S3 refused to publish parts that do not make the source's checksum")
                    .await);
            }
            Err(failure) => return Err(failure.into()),
        };
        compare_encryption(work, head, &written, draft);
        progress.done.sort_unstable_by_key(|part| part.number);
        let proof = self.prove(head, &pin, &written, &progress.done).await?;
        tracing::debug!(key = %step.key, %proof, "published");
        Ok(Ending::Done { proof, etag: written.etag, destination_version: written.version })
    }

    pub(super) async fn prove(
        &self,
        head: &Head,
        pin: &SourcePin,
        written: &Written,
        parts: &[PartDone],
    ) -> Result<Proof, Trouble> {
        let destination = &self.work.sides.destination;
        let content_etags = destination.capabilities().content_etags;
        let expected = Expected::of(head, self.source.capabilities());
        let mut verdict = by_answer(&expected, written, parts, content_etags);
        if verdict == Verdict::Unknown {
            let found = destination.head(&self.step.key, written.version.as_deref()).await?;
            verdict = by_look(&expected, &found, parts, content_etags);
        }
        match verdict {
            Verdict::Proven(proof) => Ok(proof),
            Verdict::Contradicted(what) => Err(self.differs(head, pin, &what).await),
            Verdict::Unknown => Ok(Proof::Size),
        }
    }

    /// What an unequal copy means: the source changed under a server that ignores conditions, or something is wrong.
    async fn differs(&self, head: &Head, pin: &SourcePin, what: &str) -> Trouble {
        match self.is_unchanged(head, pin).await {
            Ok(false) => Trouble::SourceChanged,
            Ok(true) => {
                let place = self.work.sides.destination.place(&self.step.key);
                Failure::new(FailureKind::NotEqual, Operation::HeadObject, place, what).into()
            }
            Err(trouble) => trouble,
        }
    }

    /// Looks at the source again.
    async fn is_unchanged(&self, head: &Head, pin: &SourcePin) -> Result<bool, Trouble> {
        match self.source.head(&pin.key, self.step.entry.version.as_deref()).await {
            Ok(now) => Ok(now.etag == head.etag
                && now.size == head.size
                && now.version == head.version
                && now.modified == head.modified),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// What `when` demands of the moment of writing, so that an object that appeared meanwhile is not overwritten.
pub(super) fn condition(work: &Work) -> WriteCondition {
    let closes_the_race = work.sides.destination.capabilities().conditional_writes;
    match work.sides.transfer.when {
        When::Missing if closes_the_race => WriteCondition::Absent,
        _ => WriteCondition::None,
    }
}
