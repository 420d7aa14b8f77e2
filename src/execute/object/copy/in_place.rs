//! Changes an object in place.
//!
//! The change is a copy of the object onto itself. The copy is conditional on the `ETag` that HEAD
//! returned, so a server that checks it on the destination never overwrites another write. On other
//! servers, a short race remains. After a refusal, s3haul checks the object again, and changes it
//! only if it still needs the change: an attempt whose response was lost may have made the change.

use super::PinnedSource;
use crate::execute::object::ObjectTask;
use crate::execute::object::attributes::TargetAttributes;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::receipt::Ending;
use crate::execute::replan::Replan;
use crate::location::ObjectKey;
use crate::plan::condition::DestinationState;
use crate::plan::decide::Skip;
use crate::planner::Difference;
use crate::s3::{Failure, FailureKind, Head, Operation};

impl ObjectTask<'_> {
    /// Prepares a change of the object that HEAD shows. Returns an ending if the object no longer
    /// needs the change.
    pub(super) async fn prepare_change(
        &mut self,
        source: &PinnedSource<'_>,
    ) -> Result<Option<Ending>, RoundFailure> {
        let PinnedSource { bucket, head, .. } = source;
        self.destination_state = DestinationState::Object(head.etag.clone());
        let Some(before_change) = &self.before_change else {
            self.before_change = Some(head.clone());
            return Ok(None);
        };
        match self
            .context
            .sides
            .difference_in_place(&self.step.key, head)
            .await?
        {
            Difference::None => {}
            // HEAD cannot show the change, but the object is newer than before our attempt.
            Difference::Unknown
                if self.draft.attempts > 0 && before_change.modified < head.modified => {}
            Difference::Unknown | Difference::Found(_) => {
                self.before_change = Some(head.clone());
                return Ok(None);
            }
        }
        let before_change = before_change.clone();
        let version = before_change.version.clone();
        self.draft.pinned(&before_change, &self.step.route, version);
        if self.draft.attempts == 0 {
            return Ok(Some(Ending::Skipped {
                reason: Skip::AsSet,
            }));
        }
        Box::pin(self.accept_if_proven(bucket, &before_change, None, Skip::AsSet))
            .await
            .map(Some)
    }

    /// Confirms that the object at the key has the change. Its bytes do not show the change,
    /// because the old object has the same bytes.
    pub(super) async fn confirm_change(&self) -> Result<(), RoundFailure> {
        let (sides, key) = (&self.context.sides, &self.step.key);
        let found = sides.destination.head(key, None).await?;
        match sides.difference_in_place(key, &found).await? {
            Difference::Found(_) => Err(Replan::DestinationChanged.into()),
            Difference::None | Difference::Unknown => Ok(()),
        }
    }

    /// Returns the version that a copy names as its source. A change in place names none if the
    /// server cannot check a condition on the destination: the condition on the source then applies
    /// to the current version and protects it.
    pub(super) fn version_to_read(&self, head: &Head) -> Option<String> {
        let if_match = self.context.sides.destination.capabilities().if_match;
        let is_guarded = !self.context.sides.is_in_place() || (if_match.copy && if_match.complete);
        head.version.clone().filter(|_| is_guarded)
    }
}

impl TargetAttributes<'_> {
    /// Refuses a change in place that needs a second request to set all attributes of the object
    /// again: a run that is killed between the two requests would lose some of them.
    pub(super) fn refuse_second_request(&self, key: &ObjectKey) -> Result<(), Failure> {
        let Some(late) = self.late_attribute() else {
            return Ok(());
        };
        let message = format!(
            "an in-place change could lose its {late}: this server accepts them only once the object exists; \
             copy it to another key"
        );
        Err(Failure::new(
            FailureKind::NotKept,
            Operation::CopyObject,
            key.as_str(),
            message,
        ))
    }
}
