//! Copies an object without HEAD: if the job keeps only the content, the listed size and `ETag` are
//! enough.
//!
//! The `ETag` pins the source. If it is the MD5 of the bytes, it also proves the copy. If the
//! server refuses the copy, or the copy has another `ETag` (because of a KMS key), a HEAD of the
//! source follows.

use super::CopyRound;
use crate::bucket::Bucket;
use crate::checksum::looks_like_md5;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::object::ObjectTask;
use crate::execute::object::attributes::TargetAttributes;
use crate::execute::object::condition::RefusalCause;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::receipt::Ending;
use crate::execute::replan::Replan;
use crate::manifest::job::{Prove, Verify};
use crate::plan::attributes::Reads;
use crate::plan::condition::DestinationState;
use crate::plan::decide::Route;
use crate::s3::{FailureKind, Head};

impl<'w> ObjectTask<'w> {
    /// Returns the listed `ETag` if the list shows all that the copy needs.
    pub(super) fn listed_etag(&self, source: &Bucket) -> Option<String> {
        let entry = &self.step.entry;
        let reads = Reads::of(
            &self.context.sides.transfer,
            source.capabilities(),
            &self.step.route,
        );
        let archived = matches!(
            entry.storage_class.as_deref(),
            Some("GLACIER" | "DEEP_ARCHIVE")
        );
        // HEAD is needed if the job demands a checksum, because an ETag is not one. It is also
        // needed if the job reads bytes to prove a copy, because a checksum in HEAD usually makes
        // the read unnecessary.
        let proof = self.context.sides.transfer.proof;
        let needs_checksum = proof.verify == Verify::RequireChecksum || proof.prove == Prove::Read;
        let is_plain_copy = self.step.route == Route::Copy
            && self.step.history.is_none()
            && self.maybe_ours.is_none()
            && !self.draft.in_place
            && self.destination().capabilities().believes_answers();
        let list_suffices = is_plain_copy && !reads.head && !archived && !needs_checksum;
        entry
            .etag
            .clone()
            .filter(|etag| list_suffices && looks_like_md5(etag))
    }

    /// Copies the object with this listed `ETag`. Returns `None` if the copy needs HEAD after all.
    pub(super) async fn copy_as_listed(
        &mut self,
        bucket: &'w Bucket,
        etag: &str,
    ) -> Result<Option<Ending>, RoundFailure> {
        let (context, step) = (self.context, self.step);
        let condition = self.condition(ConditionalWrite::Copy);
        if self.is_taken(&condition).await? {
            return Ok(None);
        }
        let listed = Head {
            size: step.entry.size,
            etag: etag.to_owned(),
            ..Head::default()
        };
        let mut source = Box::new(self.pinned(bucket, listed));
        let version = source.pin.version.clone();
        self.draft.pinned(&source.head, &step.route, version);
        let target =
            TargetAttributes::of_copy(context, &mut source, &step.route, &mut self.draft).await?;
        let mut round = CopyRound {
            task: self,
            source,
            target,
        };
        let answer = round
            .target
            .copy_object(&round.source, step, &condition, &mut round.task.draft)
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) if *failure.kind() == FailureKind::Stopped || failure.ends_run() => {
                return Err(failure.into());
            }
            Err(failure) => {
                round.task.draft.attempts += failure.details().attempts;
                // The object comes from another writer, or from an earlier attempt whose response
                // was lost.
                let cause = round.task.classify_refusal(&condition, &failure);
                let Some(RefusalCause::Taken(skip)) =
                    cause.filter(|_| round.task.draft.attempts > 1)
                else {
                    return Ok(None);
                };
                return match round.read_source_head(etag).await {
                    Ok(()) => {
                        let ending = round.accept_existing_copy(skip).await?;
                        round.set_late_attributes(&ending).await?;
                        Ok(Some(ending))
                    }
                    Err(RoundFailure::Replan(..)) => Ok(None),
                    Err(error) => Err(error),
                };
            }
        };
        round.task.draft.attempts += answer.attempts;
        let written = answer.value;
        round.task.destination_state = DestinationState::Object(written.etag.clone());
        if written.etag != etag {
            round.read_source_head(etag).await?;
        }
        round.prove_and_finish(written, None).await.map(Some)
    }
}

impl CopyRound<'_, '_> {
    /// Replaces the listed properties of the source with the properties from HEAD, which must show
    /// the same `ETag`.
    async fn read_source_head(&mut self, etag: &str) -> Result<(), RoundFailure> {
        let entry = &self.task.step.entry;
        let (bucket, version) = (self.source.bucket, entry.version.as_deref());
        self.source.head = bucket.head(&entry.key, version).await?;
        if self.source.head.etag == etag {
            return Ok(());
        }
        Err(Replan::SourceChanged.into())
    }
}
