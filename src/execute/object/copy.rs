//! Runs one round of a server-side copy.
//!
//! HEAD of the source pins the version and `ETag` that every later request names. HEAD shows the
//! attributes to set, the checksum to compare with, and the size that selects the route, because
//! the listed size may be old. HEAD also shows which proof is possible: if the job demands a
//! stronger proof, the object fails before a byte is copied. Small objects need no HEAD if the list
//! shows enough ([`from_list`]).

mod found;
mod from_list;
mod in_parts;
mod in_place;

use super::ObjectTask;
use super::archive::ArchivedSource;
use super::attributes::TargetAttributes;
use super::condition::{RefusalCause, RefusalReaction};
use super::pinned::PinnedSource;
use super::published::PublishedObject;
use super::round_failure::RoundFailure;
use crate::bucket::Bucket;
use crate::bucket::parking::BULK_FROM;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::prove::{Expected, FromParts, ProofVerdict, judge_head};
use crate::execute::read;
use crate::execute::receipt::{Ending, Proof};
use crate::execute::replan::Replan;
use crate::manifest::job::Source;
use crate::pace::Slot;
use crate::pace::slots::SlotKind;
use crate::plan::asked::Asked;
use crate::plan::condition::DestinationState;
use crate::plan::decide::{Route, Skip};
use crate::s3::{
    ArchiveState, Failure, FailureKind, Head, Operation, SourcePin, WriteCondition, Written,
};

/// A round whose source is pinned.
pub(super) struct CopyRound<'t, 'w> {
    pub(super) task: &'t mut ObjectTask<'w>,
    pub(super) source: Box<PinnedSource<'w>>,
    pub(super) target: TargetAttributes<'w>,
}

impl<'w> ObjectTask<'w> {
    /// Runs a round: sends HEAD to the source, plans the copy, and either makes the copy or proves
    /// an existing one.
    pub(super) async fn copy_round(&mut self, bucket: &'w Bucket) -> Result<Ending, RoundFailure> {
        let (context, step) = (self.context, self.step);
        let slot = self.request_slot(self.wanted_slot()).await?;
        if let Some(etag) = self.listed_etag(bucket)
            && let Some(ending) = Box::pin(self.copy_as_listed(bucket, &etag)).await?
        {
            return Ok(ending);
        }
        let head = if self.draft.in_place {
            Box::pin(context.sides.look_in_place(&step.key)).await?
        } else {
            bucket
                .parking_heads()
                .head(&step.entry.key, step.entry.version.as_deref())
                .await?
        };
        // Boxed, because it is moved several times, and the future would reserve memory for each
        // move.
        let mut source = Box::new(self.pinned(bucket, head));
        self.verify_against_list(&source)?;
        if let Some(skipped) = self.excluded_since_listing(&source.head) {
            return Ok(skipped);
        }
        if self.draft.in_place
            && let Some(ending) = Box::pin(self.prepare_change(&source)).await?
        {
            return Ok(ending);
        }
        if source.head.archive != ArchiveState::Readable {
            return self
                .handle_archived(bucket, &ArchivedSource::shown_by_head(&source.head))
                .await;
        }
        self.note_shown(&source.pin.etag);
        let (route, slot) = self.route_after_head(&source, slot).await?;
        self.draft
            .pinned(&source.head, &route, source.pin.version.clone());
        let condition = self.condition(route.publishes_by());
        if self.maybe_ours.is_none() && self.is_taken(&condition).await? {
            return Ok(Ending::Skipped {
                reason: Skip::Present,
            });
        }
        let target =
            TargetAttributes::of_copy(context, &mut source, &route, &mut self.draft).await?;
        let maybe_ours = self.maybe_ours;
        let mut round = CopyRound {
            task: self,
            source,
            target,
        };
        if round.task.draft.in_place {
            round.target.refuse_second_request(&step.key)?;
        }
        round.ensure_provable()?;
        match (maybe_ours, route) {
            (Some(reason), _) => {
                drop(slot);
                Box::pin(round.prove_found(reason)).await
            }
            (None, Route::MultipartCopy(layout)) => {
                round.confirm_size().await?;
                Box::pin(round.in_parts(slot, layout)).await
            }
            (None, Route::Copy) => round.in_one_request(slot).await,
            (
                None,
                Route::Put | Route::MultipartUpload(_) | Route::Restore | Route::DeleteMarker,
            ) => {
                let (operation, place) = (Operation::CopyObject, round.task.place());
                let message = "an upload route for a copy";
                Err(Failure::new(FailureKind::Bug, operation, place, message).into())
            }
        }
    }

    /// Returns the kind of slot that the round starts with: a bulk slot if it may send a long copy
    /// in one request.
    fn wanted_slot(&self) -> SlotKind {
        let (size, parts) = (self.step.entry.size, self.step.route.parts());
        if parts == 0 && size > BULK_FROM {
            self.context.slots().bulk(size, size)
        } else {
            SlotKind::Small
        }
    }

    /// Returns the source with the version and `ETag` that every later request names.
    pub(super) fn pinned(&self, bucket: &'w Bucket, head: Head) -> PinnedSource<'w> {
        let entry = &self.step.entry;
        let customer_key = bucket.client().customer_key();
        let pin = SourcePin {
            bucket: bucket.name().clone(),
            key: entry.key.clone(),
            version: entry
                .version
                .clone()
                .or_else(|| self.version_to_read(&head)),
            etag: head.etag.clone(),
            customer_key: customer_key.filter(|_| head.customer_key).cloned(),
        };
        PinnedSource { bucket, head, pin }
    }

    /// Returns an error if HEAD contradicts the list, or shows a different object from the one at
    /// the time `as_of`.
    fn verify_against_list(&self, source: &PinnedSource<'_>) -> Result<(), Failure> {
        let entry = &self.step.entry;
        let PinnedSource { bucket, head, .. } = source;
        if let Some(failure) = self.context.sides.overwritten_since(entry, head) {
            return Err(failure);
        }
        let Some(message) = entry.contradicted_by(head, bucket.capabilities().content_etags) else {
            return Ok(());
        };
        let (operation, place) = (Operation::HeadObject, bucket.place(&entry.key));
        Err(Failure::new(
            FailureKind::ServerFault,
            operation,
            place,
            message,
        ))
    }

    /// Skips an object that was overwritten after it was listed, if the selection excludes the
    /// object that HEAD shows. Does not skip the object if an earlier round has already written it.
    fn excluded_since_listing(&mut self, head: &Head) -> Option<Ending> {
        let listed = &self.step.entry;
        let is_written = self.destination_state != self.step.destination_state
            && self.destination_state != DestinationState::Absent;
        if is_written || self.before_change.is_some() {
            return None;
        }
        let mut now = listed.clone();
        now.update_from_head(head.clone());
        let rule = self.context.sides.left_out_now(listed, &now)?;
        Some(self.draft.leave_out(&rule))
    }

    /// Accepts the object at the key as the copy if more than its size proves that it equals the
    /// source. Otherwise skips the object for the reason `otherwise`.
    async fn accept_if_proven(
        &mut self,
        source: &Bucket,
        head: &Head,
        asked: Option<Asked<'_>>,
        otherwise: Skip,
    ) -> Result<Ending, RoundFailure> {
        let found = self.destination().head(&self.step.key, None).await?;
        self.accept_found(found, source, head, asked, otherwise)
            .await
    }

    /// Does the same with HEAD of the object at the key.
    async fn accept_found(
        &mut self,
        found: Head,
        source: &Bucket,
        head: &Head,
        asked: Option<Asked<'_>>,
        otherwise: Skip,
    ) -> Result<Ending, RoundFailure> {
        let destination = self.destination();
        let expected = Expected::of(head, source.capabilities());
        let content_etags = destination.capabilities().content_etags;
        match judge_head(&expected, &found, &FromParts::default(), content_etags) {
            ProofVerdict::Proven(proof) if proof != Proof::Size => {
                let proof = self.require_strength(proof)?;
                let written = found.clone().written();
                self.compare_encryption(head, &written);
                if let Some(asked) = asked {
                    Box::pin(self.record_differences(&written, asked, &found)).await?;
                }
                Ok(Self::done(proof, written))
            }
            ProofVerdict::Proven(_) | ProofVerdict::Contradicted(_) | ProofVerdict::Unknown => {
                Ok(Ending::Skipped { reason: otherwise })
            }
        }
    }
}

impl CopyRound<'_, '_> {
    /// Fails the object before a byte is copied if the copy could not have the proof that the job
    /// demands.
    fn ensure_provable(&self) -> Result<(), Failure> {
        let (head, capabilities) = (&self.source.head, self.source.bucket.capabilities());
        let demands = self.task.context.sides.transfer.proof.demands_an_answer();
        let declared = self.target.to_send().checksum;
        if !demands || Expected::of(head, capabilities).is_comparable(declared) {
            return Ok(());
        }
        let why = match &head.checksum {
            None if capabilities.ignores_checksums => {
                "checksums of the source's server do not count (`checksums: false`)"
            }
            None => "the source has no checksum",
            Some(_) => {
                "the copy cannot have a checksum of the source's kind (`parts: {layout: source}` may keep it)"
            }
        };
        Err(self.task.unprovable(why))
    }

    /// Confirms the size by a read if HEAD is not trusted and no list has shown the size. Only
    /// copies in parts need this: after a copy in one request, HEAD of the copy shows the size.
    async fn confirm_size(&self) -> Result<(), RoundFailure> {
        let PinnedSource { bucket, head, pin } = &*self.source;
        let is_listed = !matches!(self.task.context.sides.transfer.from, Source::Object { .. });
        if is_listed || bucket.capabilities().believes_answers() {
            return Ok(());
        }
        let confirmed = Box::pin(read::confirm_size(bucket, pin, head.size)).await;
        confirmed.map_err(RoundFailure::from_pinned_read)
    }

    /// Returns the properties of the source that the copy is compared with.
    fn expected(&self) -> Expected {
        Expected::of(&self.source.head, self.source.bucket.capabilities())
    }

    /// Sets the attributes that no header can carry, if the object was written.
    async fn set_late_attributes(&mut self, ending: &Ending) -> Result<(), RoundFailure> {
        self.target
            .set_late_attributes(Some(&self.source), ending, self.task)
            .await
    }

    /// Copies the object with one `CopyObject`.
    async fn in_one_request(&mut self, slot: Slot) -> Result<Ending, RoundFailure> {
        let (step, in_place) = (self.task.step, self.task.draft.in_place);
        let condition = self.task.condition(ConditionalWrite::Copy);
        let answer = self
            .target
            .copy_object(&self.source, step, &condition, &mut self.task.draft)
            .await;
        let written = match answer {
            Ok(answer) => {
                self.task.draft.attempts += answer.attempts;
                answer.value
            }
            Err(failure) => {
                self.task.draft.attempts += failure.details().attempts;
                let ending = self.handle_failed_copy(&condition, failure).await?;
                drop(slot);
                self.set_late_attributes(&ending).await?;
                return Ok(ending);
            }
        };
        self.task.destination_state = DestinationState::Object(written.etag.clone());
        let pins = self.task.destination().capabilities().pins_copies();
        if !pins && !in_place && !self.is_unchanged().await? {
            return Err(Replan::SourceChanged.into());
        }
        self.task.compare_encryption(&self.source.head, &written);
        self.prove_and_finish(written, Some(slot)).await
    }

    /// Proves a copy that one request wrote, and sets the attributes that no header can carry.
    async fn prove_and_finish(
        &mut self,
        written: Written,
        slot: Option<Slot>,
    ) -> Result<Ending, RoundFailure> {
        let published = PublishedObject {
            written: &written,
            made: &FromParts::default(),
            parts: 0,
            compares: true,
            slot,
        };
        let proof = self.prove(self.expected(), published).await?;
        self.task.count_bytes(self.source.head.size);
        let ending = ObjectTask::done(proof, written);
        self.set_late_attributes(&ending).await?;
        Ok(ending)
    }

    /// Handles a failed `CopyObject`. A 412 or 404 may be about the source or the destination.
    async fn handle_failed_copy(
        &mut self,
        condition: &WriteCondition,
        failure: Failure,
    ) -> Result<Ending, RoundFailure> {
        let cause = self.task.classify_refusal(condition, &failure);
        if matches!(cause, Some(RefusalCause::Taken(_) | RefusalCause::Deleted))
            && !self.is_unchanged().await?
        {
            return Err(Replan::SourceChanged.into());
        }
        let write = ConditionalWrite::Copy;
        match self
            .task
            .react_to_refusal(write, condition, failure, false)
            .await?
        {
            // The object comes from another writer, or from an earlier attempt whose response was
            // lost, perhaps in an earlier round.
            RefusalReaction::Leave(skip) if self.task.draft.attempts > 1 => {
                self.accept_existing_copy(skip).await
            }
            RefusalReaction::Leave(reason) => Ok(Ending::Skipped { reason }),
            RefusalReaction::WriteAgain => Err(Replan::DestinationChanged.into()),
        }
    }

    /// Calls [`ObjectTask::accept_if_proven`] for this source, and also compares the attributes.
    async fn accept_existing_copy(&mut self, otherwise: Skip) -> Result<Ending, RoundFailure> {
        let (bucket, head) = (self.source.bucket, &self.source.head);
        let asked = Some(self.target.asked(head));
        self.task
            .accept_if_proven(bucket, head, asked, otherwise)
            .await
    }
}
