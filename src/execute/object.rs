//! Copying one object inside S3.
//!
//! HEAD first: it pins the version and `ETag` that every following request names, gives the attributes to set and the
//! checksum to compare with. The size from HEAD, not the one from the listing, chooses the route. When the source
//! turns out to have changed meanwhile, everything made so far is thrown away and the object is planned again, a few
//! times; a copy is of one version or it is not published.

use std::sync::Arc;

use super::condition::Refused;
use super::monitor::Event;
use super::part::{self, Progress};
use super::prove::{Expected, Verdict, by_answer, by_look};
use super::receipt::{Ending, Proof};
use super::{Draft, Trouble, Work};
use crate::bucket::Bucket;
use crate::manifest::capabilities::ConditionalWrite;
use crate::manifest::job::Keep;
use crate::multipart::MultipartUpload;
use crate::pace::Slot;
use crate::pace::slots::Want;
use crate::plan::attributes;
use crate::plan::condition::Seen;
use crate::plan::decide::{Route, Skip};
use crate::plan::parts::PartLayout;
use crate::planner::Step;
use crate::s3::{
    Attributes, CompleteSpec, Failure, FailureKind, Head, Operation, PartDone, SourcePin, Tags,
    WriteCondition, Written,
};

/// How often an object whose source keeps changing is planned again.
const ROUNDS: u32 = 4;
/// What is on record where the server's copies have no tags.
const TAGS_LOST: &str = "tags: the server gives none to copies (`tag_headers`)";
/// A single copy of more than this takes long enough to count as bulk.
const BULK_FROM: u64 = 16 << 20;

/// Copies the object of `step`; what it came to is in `draft` and the ending.
pub(super) async fn copy(
    work: &Work,
    source: &Bucket,
    step: &Step,
    draft: &mut Draft,
) -> Result<Ending, Trouble> {
    // What stands at the destination's key, as far as we know: what the plan saw, then what a round of ours wrote.
    let mut seen = step.seen.clone();
    for _ in 0..ROUNDS {
        match (Copy { work, source, step }).round(draft, &mut seen).await {
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

struct Copy<'a> {
    work: &'a Work,
    source: &'a Bucket,
    step: &'a Step,
}

impl Copy<'_> {
    async fn round(&self, draft: &mut Draft, seen: &mut Seen) -> Result<Ending, Trouble> {
        let Self { work, source, step } = self;
        let is_bulk = step.route.parts() == 0 && step.entry.size > BULK_FROM;
        let want = if is_bulk { Want::Bulk(step.entry.size) } else { Want::Small };
        let slot = work.slots().request(want).await.map_err(|_| Trouble::Stopped)?;
        let head = source.head(&step.entry.key, step.entry.version.as_deref()).await?;
        if head.archived {
            let class = head.storage_class.as_deref().unwrap_or("an archive tier");
            let message = format!("the object is in {class} and not restored");
            let place = source.place(&step.entry.key);
            return Err(Failure::new(FailureKind::Archived, Operation::HeadObject, place, message).into());
        }
        let route = work.sides.route(head.size, &step.entry.key, &step.key)?;
        let pin = SourcePin {
            bucket: source.name().clone(),
            key: step.entry.key.clone(),
            version: step.entry.version.clone().or_else(|| head.version.clone()),
            etag: head.etag.clone(),
        };
        draft.pinned(&head, &route, pin.version.clone());
        if work.is_taken(&step.key, seen, &work.condition(seen, route.publishes_by())).await? {
            return Ok(Ending::Skipped { reason: Skip::Present });
        }
        let destination = &work.sides.destination;
        self.note_lost_tags(&head, draft);
        let attributes = attributes::of_copy(&head, &work.sides.transfer, destination.capabilities(), &route);
        match route {
            Route::MultipartCopy(layout) => {
                self.multipart(slot, &head, &pin, attributes, layout, draft, seen).await
            }
            Route::Copy => self.single(&head, &pin, &attributes, draft, seen).await,
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
        }
    }

    /// Where copies make objects without tags, the source's are lost; that goes on record.
    fn note_lost_tags(&self, head: &Head, draft: &mut Draft) {
        let sides = &self.work.sides;
        let kept = sides.transfer.preserve.tags == Keep::Keep;
        let tagged = head.tag_count.is_some_and(|count| count > 0);
        // A round that is begun again must not tell it twice.
        let told = draft.losses.iter().any(|loss| loss == TAGS_LOST);
        if kept && tagged && !sides.destination.capabilities().tag_headers && !told {
            draft.losses.push(TAGS_LOST.to_owned());
        }
    }

    async fn single(
        &self,
        head: &Head,
        pin: &SourcePin,
        attributes: &Attributes,
        draft: &mut Draft,
        seen: &mut Seen,
    ) -> Result<Ending, Trouble> {
        let destination = &self.work.sides.destination;
        let condition = self.work.condition(seen, ConditionalWrite::Copy);
        let copied = destination.copy_object(pin, head.size, &self.step.key, attributes, condition.clone());
        let written = match copied.await {
            Ok(answer) => {
                draft.attempts += answer.attempts;
                answer.value
            }
            Err(failure) => {
                draft.attempts += failure.details().attempts;
                return self.refused(head, pin, &condition, failure, seen).await;
            }
        };
        *seen = Seen::Object(written.etag.clone());
        if !destination.capabilities().copy_conditions && !self.is_unchanged(head, pin).await? {
            return Err(Trouble::SourceChanged);
        }
        let proof = self.prove(head, pin, &written, &[]).await?;
        self.work.monitor.observe(&Event::BytesCopied { id: None, bytes: head.size });
        Ok(Ending::Done { proof, etag: written.etag, destination_version: written.version })
    }

    /// What a `CopyObject` that failed comes to. Its 412 and 404 may be about the source or about the destination.
    async fn refused(
        &self,
        head: &Head,
        pin: &SourcePin,
        condition: &WriteCondition,
        failure: Failure,
        seen: &mut Seen,
    ) -> Result<Ending, Trouble> {
        match self.work.refused(condition, &failure) {
            None if *failure.kind() == FailureKind::PreconditionFailed => Err(Trouble::SourceChanged),
            None => Err(self.work.explained(condition, failure).into()),
            Some(Refused::Raced) => Err(Trouble::SourceChanged),
            Some(_) if !self.is_unchanged(head, pin).await? => Err(Trouble::SourceChanged),
            Some(Refused::Deleted) => {
                *seen = Seen::Absent;
                Err(Trouble::SourceChanged)
            }
            // Taken by someone else, or by an earlier attempt of ours whose answer was lost.
            Some(Refused::Taken(skip)) if failure.details().attempts > 1 => self.adopt(head, skip).await,
            Some(Refused::Taken(skip)) => Ok(Ending::Skipped { reason: skip }),
        }
    }

    /// Takes what stands at the key for ours, if it is equal to the source beyond its size.
    async fn adopt(&self, head: &Head, otherwise: Skip) -> Result<Ending, Trouble> {
        let destination = &self.work.sides.destination;
        let found = destination.head(&self.step.key, None).await?;
        let expected = Expected::of(head, destination.capabilities());
        match by_look(&expected, &found, &[], destination.capabilities().content_etags) {
            Verdict::Proven(proof) if proof != Proof::Size => {
                Ok(Ending::Done { proof, etag: found.etag, destination_version: found.version })
            }
            _ => Ok(Ending::Skipped { reason: otherwise }),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a round has found out so far")]
    async fn multipart(
        &self,
        place: Slot,
        head: &Head,
        pin: &SourcePin,
        mut attributes: Attributes,
        layout: PartLayout,
        draft: &mut Draft,
        seen: &mut Seen,
    ) -> Result<Ending, Trouble> {
        let Self { work, source, step } = self;
        if attributes.tags == Tags::AsSource {
            attributes.tags =
                Tags::Exactly(match source.tags(&step.entry.key, pin.version.as_deref()).await {
                    Ok(tags) => tags,
                    Err(failure) if *failure.kind() == FailureKind::Denied => {
                        draft.losses.push(format!("tags: {}", failure.details().message));
                        Vec::new()
                    }
                    Err(failure) => return Err(failure.into()),
                });
        }
        let upload = MultipartUpload::initiate(&work.sides.destination, &step.key, &attributes).await?;
        drop(place);
        let id = work.next_id();
        work.monitor.observe(&Event::UploadBegan {
            id,
            key: step.key.as_str(),
            bytes: layout.size,
            parts: layout.count,
        });
        let mut progress = Progress::default();
        let outcome = self.parts_to_object(head, pin, &upload, layout, id, &mut progress, seen).await;
        draft.attempts += progress.attempts;
        if !matches!(outcome, Ok(Ending::Done { .. })) {
            work.abandon(&upload, draft).await;
            work.monitor.observe(&Event::BytesVoided { bytes: progress.bytes });
        }
        work.monitor.observe(&Event::UploadEnded { id });
        outcome
    }

    #[expect(clippy::too_many_arguments, reason = "what a round has found out so far")]
    async fn parts_to_object(
        &self,
        head: &Head,
        pin: &SourcePin,
        upload: &MultipartUpload,
        layout: PartLayout,
        id: u64,
        progress: &mut Progress,
        seen: &mut Seen,
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
        if !destination.capabilities().part_conditions && !self.is_unchanged(head, &pin).await? {
            return Err(Trouble::SourceChanged);
        }
        let condition = work.condition(seen, ConditionalWrite::Complete);
        if work.is_taken(&step.key, seen, &condition).await? {
            return Ok(Ending::Skipped { reason: Skip::Present });
        }
        let expected = Expected::of(head, destination.capabilities());
        let mut spec = CompleteSpec {
            size: head.size,
            checksum: None,
            // S3 itself then refuses to publish anything that differs from the source. Only the algorithm that the upload
            // declared may be named: a SHA-256 of a source in one piece has no counterpart in parts.
            full_checksum: expected.checksum.clone().filter(|sum| Some(sum.algorithm) == upload.algorithm()),
            condition,
        };
        let mut completed = upload.complete(&progress.done, &spec).await;
        if let Err(failure) = &completed
            && work.refused(&spec.condition, failure) == Some(Refused::Deleted)
        {
            // The upload stays, so its parts need not be copied again.
            *seen = Seen::Absent;
            spec.condition = work.condition(seen, ConditionalWrite::Complete);
            completed = upload.complete(&progress.done, &spec).await;
        }
        let written = match completed {
            Ok(written) => written,
            Err(failure) => match work.refused(&spec.condition, &failure) {
                Some(Refused::Taken(skip)) => return Ok(Ending::Skipped { reason: skip }),
                // 409: the upload is void for its condition, and all parts must be sent again.
                Some(Refused::Raced | Refused::Deleted) => return Err(Trouble::SourceChanged),
                None if *failure.kind() == FailureKind::Corrupted => {
                    return Err(self
                        .differs(
                            head,
                            &pin,
                            "S3 refused to publish parts that do not make the source's checksum",
                        )
                        .await);
                }
                None => return Err(work.explained(&spec.condition, failure).into()),
            },
        };
        *seen = Seen::Object(written.etag.clone());
        progress.done.sort_unstable_by_key(|part| part.number);
        let proof = self.prove(head, &pin, &written, &progress.done).await?;
        tracing::debug!(key = %step.key, %proof, "published");
        Ok(Ending::Done { proof, etag: written.etag, destination_version: written.version })
    }

    async fn prove(
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
