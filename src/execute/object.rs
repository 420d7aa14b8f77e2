//! Copying one object inside S3.
//!
//! HEAD first: it pins the version and `ETag` that every following request names, gives the attributes to set and the
//! checksum to compare with. The size from HEAD, not the one from the listing, chooses the route. When the source
//! turns out to have changed meanwhile, everything made so far is thrown away and the object is planned again, a few
//! times; a copy is of one version or it is not published. What can be proven is known from HEAD too: a job that demands
//! more is told before a byte is copied, and parts that do not make the source are told before they become an object.

use std::sync::Arc;

use super::monitor::Event;
use super::part::{self, Progress};
use super::prove::{Expected, Forecast, Made, Verdict, by_answer, by_look, forecast};
use super::receipt::{Ending, Proof};
use super::{Draft, Trouble, Work, layout, read};
use crate::bucket::Bucket;
use crate::manifest::job::{Prove, Verify, When};
use crate::multipart::MultipartUpload;
use crate::pace::Slot;
use crate::pace::slots::Want;
use crate::plan::attributes;
use crate::plan::decide::{Route, Skip};
use crate::plan::parts::PartLayout;
use crate::planner::Step;
use crate::s3::{
    Attributes, ChecksumAlgorithm, ChecksumKind, CompleteSpec, Failure, FailureKind, Head, Operation,
    SourcePin, Tags, WriteCondition, Written,
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
    let mut copy = Copy { work, source, step, ask_each: false };
    for _ in 0..ROUNDS {
        match copy.round(draft).await {
            Err(Trouble::SourceChanged) => {
                tracing::info!(key = %step.entry.key, "the source changed: planning it again");
            }
            Err(Trouble::OtherBoundaries) => {
                tracing::info!(key = %step.entry.key, "its parts are not uniform: asking for each");
                copy.ask_each = true;
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
    /// A guess of the source's part boundaries has failed.
    ask_each: bool,
}

impl Copy<'_> {
    async fn round(&self, draft: &mut Draft) -> Result<Ending, Trouble> {
        let Self { work, source, step, ask_each } = self;
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
        let pin = SourcePin {
            bucket: source.name().clone(),
            key: step.entry.key.clone(),
            version: step.entry.version.clone().or_else(|| head.version.clone()),
            etag: head.etag.clone(),
        };
        let place = (slot, *ask_each);
        let (route, slot) = layout::route(work, source, step, &head, &pin, place, draft).await?;
        draft.pinned(&head, &route, pin.version.clone());
        if work.is_taken(&step.key).await? {
            return Ok(Ending::Skipped { reason: Skip::Present });
        }
        let destination = &work.sides.destination;
        let attributes = attributes::of_copy(&head, &work.sides.transfer, destination.capabilities(), &route);
        let policy = work.sides.transfer.proof;
        let expected = Expected::of(&head, source.capabilities());
        if (policy.verify, policy.prove) == (Verify::RequireChecksum, Prove::Answers)
            && !expected.is_comparable(attributes.checksum)
        {
            let why = match &head.checksum {
                None => "the source has no checksum",
                Some(_) => {
                    "the source's checksum is none that the copy can have (`parts: {layout: source}` may keep it)"
                }
            };
            return Err(work.unprovable(&step.key, why).into());
        }
        match route {
            Route::MultipartCopy(layout) => {
                self.multipart(slot, &head, &pin, attributes, layout, draft).await
            }
            Route::Copy => self.single(slot, &head, &pin, &attributes, draft).await,
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

    async fn single(
        &self,
        place: Slot,
        head: &Head,
        pin: &SourcePin,
        attributes: &Attributes,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let destination = &self.work.sides.destination;
        let condition = condition(self.work);
        let answer = destination.copy_object(pin, head.size, &self.step.key, attributes, condition).await;
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
        drop(place);
        let expected = Expected::of(head, self.source.capabilities());
        let proof = self.prove(expected, head, pin, &written, &Made::default(), draft).await?;
        self.work.monitor.observe(&Event::BytesCopied { id: None, bytes: head.size });
        Ok(Ending::Done { proof, etag: written.etag, destination_version: written.version })
    }

    /// Takes what stands at the key for ours, if it is equal to the source beyond its size.
    async fn adopt(&self, head: &Head) -> Result<Ending, Trouble> {
        let destination = &self.work.sides.destination;
        let found = destination.head(&self.step.key, None).await?;
        let expected = Expected::of(head, self.source.capabilities());
        match by_look(&expected, &found, &Made::default(), destination.capabilities().content_etags) {
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
        mut attributes: Attributes,
        layout: PartLayout,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let Self { work, source, step, .. } = self;
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
        let outcome = self.parts_to_object(head, pin, &upload, layout, (id, &mut progress), draft).await;
        draft.attempts += progress.attempts;
        if !matches!(outcome, Ok(Ending::Done { .. })) {
            work.abandon(&upload, draft).await;
            work.monitor.observe(&Event::BytesVoided { bytes: progress.bytes });
        }
        work.monitor.observe(&Event::UploadEnded { id });
        outcome
    }

    async fn parts_to_object(
        &self,
        head: &Head,
        pin: &SourcePin,
        upload: &MultipartUpload,
        layout: PartLayout,
        (id, progress): (u64, &mut Progress),
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let Self { work, step, source, .. } = self;
        let destination = &work.sides.destination;
        let (shared, pinned) = (Arc::new(upload.clone()), Arc::new(pin.clone()));
        part::all(work, id, layout.clone(), progress, |part| {
            let (upload, pin) = (Arc::clone(&shared), Arc::clone(&pinned));
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
        progress.done.sort_unstable_by_key(|part| part.number);
        let declared = upload.declared().await?;
        let made = Made::of(&progress.done, declared);
        let mut expected = Expected::of(head, source.capabilities());
        if upload.is_kms() {
            expected.etag = None;
            if layout.is_replay() {
                layout::lose(draft, "a KMS or customer key makes an ETag of its own");
            }
        }
        self.read_source(&mut expected, head, pin, declared, &made).await?;
        match forecast(&expected, &made, &layout.boundaries, destination.capabilities().content_etags) {
            Forecast::Publish => {}
            Forecast::Unkept(why) => layout::lose(draft, &why),
            Forecast::OtherBoundaries => return Err(Trouble::OtherBoundaries),
            Forecast::Contradicted(what) => return Err(self.differs(head, pin, &what, None).await),
        }
        let place = work.place().await;
        if !destination.capabilities().copy_conditions && !self.is_unchanged(head, pin).await? {
            return Err(Trouble::SourceChanged);
        }
        if work.is_taken(&step.key).await? {
            return Ok(Ending::Skipped { reason: Skip::Present });
        }
        let spec = CompleteSpec {
            size: head.size,
            checksum: None,
            // S3 itself then refuses to publish anything that differs from what its parts' checksums make, which the
            // source's was compared with.
            full_checksum: made.checksum.clone().filter(|sum| sum.kind == ChecksumKind::FullObject),
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
                let what = "S3 refused to publish parts that do not make the source's checksum";
                return Err(self.differs(head, pin, what, None).await);
            }
            Err(failure) => return Err(failure.into()),
        };
        drop(place);
        let proof = self.prove(expected, head, pin, &written, &made, draft).await?;
        tracing::debug!(key = %step.key, %proof, "published");
        Ok(Ending::Done { proof, etag: written.etag, destination_version: written.version })
    }

    /// Sums the source by reading it, where the job allows that and no checksum of it can be compared with what the parts
    /// make. So an upload that went wrong is found out before it is published.
    async fn read_source(
        &self,
        expected: &mut Expected,
        head: &Head,
        pin: &SourcePin,
        declared: Option<(ChecksumAlgorithm, ChecksumKind)>,
        made: &Made,
    ) -> Result<(), Trouble> {
        let wanted = self.work.sides.transfer.proof.prove == Prove::Read;
        let Some(sum) = made.checksum.as_ref().filter(|sum| sum.kind == ChecksumKind::FullObject) else {
            return Ok(());
        };
        if wanted && !expected.is_comparable(declared) {
            expected.checksum = Some(self.sum(self.source, pin, head.size, sum.algorithm).await?);
            expected.read = true;
        }
        Ok(())
    }

    async fn sum(
        &self,
        bucket: &Bucket,
        pin: &SourcePin,
        size: u64,
        algorithm: ChecksumAlgorithm,
    ) -> Result<crate::s3::Checksum, Trouble> {
        read::sum(bucket, pin, size, algorithm).await.map_err(|failure| match failure.kind() {
            FailureKind::PreconditionFailed => Trouble::SourceChanged,
            _ => failure.into(),
        })
    }

    /// What the published object rests on. An object that is not equal, or less proven than the job demands, fails.
    async fn prove(
        &self,
        mut expected: Expected,
        head: &Head,
        pin: &SourcePin,
        written: &Written,
        made: &Made,
        draft: &mut Draft,
    ) -> Result<Proof, Trouble> {
        let Self { work, step, .. } = self;
        let destination = &work.sides.destination;
        let policy = work.sides.transfer.proof;
        let content_etags = destination.capabilities().content_etags;
        let mut verdict = by_answer(&expected, written, made, content_etags);
        let mut checksum = written.checksum.clone();
        // Complete has seen to the size where the server knows `x-amz-mp-object-size`.
        let size_is_seen = made.checksum.is_some() && destination.capabilities().checksums;
        if verdict == Verdict::Unknown && !(policy.verify == Verify::Size && size_is_seen) {
            let found = destination.head(&step.key, written.version.as_deref()).await?;
            verdict = by_look(&expected, &found, made, content_etags);
            checksum = found.checksum;
        }
        let weak = |verdict: &Verdict| match verdict {
            Verdict::Proven(proof) => !proof.is_checksum(),
            Verdict::Unknown => true,
            Verdict::Contradicted(_) => false,
        };
        if policy.prove == Prove::Read && weak(&verdict) {
            match self.compare_by_reading(&mut expected, head, pin, written, checksum).await {
                Ok(compared) => verdict = compared,
                // The copy is there and holds what was proven so far.
                Err(Trouble::Stopped) if policy.verify != Verify::RequireChecksum => {
                    draft.losses.push("proof: the run was stopped before the bytes were read".to_owned());
                }
                Err(trouble) => return Err(trouble),
            }
        }
        let proof = match verdict {
            Verdict::Proven(proof) => proof,
            Verdict::Contradicted(what) => return Err(self.differs(head, pin, &what, Some(written)).await),
            Verdict::Unknown => Proof::Size,
        };
        if policy.verify == Verify::RequireChecksum && !proof.is_checksum() {
            let why = format!("the copy is there, but no checksum proves it (only: {proof})");
            return Err(work.unprovable(&step.key, &why).into());
        }
        Ok(proof)
    }

    /// Reads what S3 has no comparable checksum of: the source, and the destination too if `stored` is none.
    async fn compare_by_reading(
        &self,
        expected: &mut Expected,
        head: &Head,
        pin: &SourcePin,
        written: &Written,
        stored: Option<crate::s3::Checksum>,
    ) -> Result<Verdict, Trouble> {
        let Self { work, source, step, .. } = self;
        let is_usable =
            |sum: &crate::s3::Checksum| sum.kind == ChecksumKind::FullObject && sum.algorithm.combines();
        let known = expected.checksum.clone().filter(is_usable);
        let stored = stored.filter(is_usable);
        let algorithm =
            stored.as_ref().or(known.as_ref()).map_or(ChecksumAlgorithm::Crc64Nvme, |sum| sum.algorithm);
        if known.is_none_or(|known| known.algorithm != algorithm) {
            expected.checksum = Some(self.sum(source, pin, head.size, algorithm).await?);
        }
        expected.read = true;
        let stored = if let Some(stored) = stored {
            stored
        } else {
            let destination = &work.sides.destination;
            let copy = SourcePin {
                bucket: destination.name().clone(),
                key: step.key.clone(),
                version: written.version.clone(),
                etag: written.etag.clone(),
            };
            self.sum(destination, &copy, head.size, algorithm).await?
        };
        Ok(super::prove::by_checksum(expected, Some(&stored)).unwrap_or(Verdict::Unknown))
    }

    /// What an unequal copy means: the source changed under a server that ignores conditions, or something is wrong.
    async fn differs(
        &self,
        head: &Head,
        pin: &SourcePin,
        what: &str,
        published: Option<&Written>,
    ) -> Trouble {
        let (work, key) = (self.work, &self.step.key);
        match self.is_unchanged(head, pin).await {
            Ok(false) => Trouble::SourceChanged,
            Ok(true) => match published {
                Some(written) => work.unequal(key, written, what).await.into(),
                None => work.not_equal(key, what).into(),
            },
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
