//! Writes the delete markers of a history.

use super::ObjectTask;
use super::round_failure::RoundFailure;
use crate::bucket::history::LatestVersion;
use crate::execute::receipt::{Ending, Proof};
use crate::pace::slots::SlotKind;
use crate::s3::{Failure, FailureKind, Operation};

impl ObjectTask<'_> {
    /// Writes a delete marker where the source has one. It hides the older versions and destroys
    /// none.
    pub(super) async fn write_marker(&mut self) -> Result<Ending, RoundFailure> {
        let step = self.step;
        let _slot = self.request_slot(SlotKind::Small).await?;
        let latest = step
            .history
            .as_ref()
            .map_or(LatestVersion::Unknown, |history| history.latest.clone());
        let destination = self.destination();
        let answer = destination.append_marker(&step.key, &latest).await?;
        self.draft.attempts += answer.attempts;
        // If the answer was lost, this is the newest version of the key.
        let made = answer.value;
        if !made.etag.is_empty() {
            let message = "another writer's version is where the delete marker should be";
            let (kind, operation) = (FailureKind::NotEqual, Operation::DeleteObject);
            return Err(Failure::new(kind, operation, self.place(), message).into());
        }
        if !destination.capabilities().refuses_what_it_lacks() {
            let newest = Box::pin(destination.newest_version(&step.key)).await?;
            let is_there =
                newest.is_some_and(|newest| newest.is_marker && Some(newest.id) == made.version);
            if !is_there {
                let what = "the server answered that it wrote a delete marker, but lists none";
                return Err(self.not_equal(what).into());
            }
        }
        Ok(Ending::Done {
            proof: Proof::DeleteMarker,
            etag: made.etag,
            destination_version: made.version,
        })
    }
}
