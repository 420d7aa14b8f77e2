//! Writes the delete markers of a version history.

use super::ObjectTask;
use super::round_failure::RoundFailure;
use crate::bucket::history::LatestVersion;
use crate::execute::receipt::{Ending, Proof};
use crate::pace::slots::SlotKind;
use crate::s3::{Failure, FailureKind, ListedVersion, Operation, Written};

impl ObjectTask<'_> {
    /// Writes a delete marker where the source has one. The marker hides the older versions and
    /// destroys none.
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
        // If the response was lost, this value describes the newest version of the key.
        let mut made = answer.value;
        if !made.etag.is_empty() {
            let message = "another writer's version is where the delete marker should be";
            let (kind, operation) = (FailureKind::NotEqual, Operation::DeleteObject);
            return Err(Failure::new(kind, operation, self.place(), message).into());
        }
        if !destination.capabilities().refuses_what_it_lacks() {
            let newest = Box::pin(destination.newest_version(&step.key)).await?;
            match newest {
                Some(newest) if is_made(&newest, &made, &latest) => made.version = Some(newest.id),
                Some(newest) => return Err(self.not_equal(&not_newest(&newest)).into()),
                None => {
                    let what = "the server answered that it wrote a delete marker, but lists no \
                                version of the key";
                    return Err(self.not_equal(what).into());
                }
            }
        }
        Ok(Ending::Done {
            proof: Proof::DeleteMarker,
            etag: made.etag,
            destination_version: made.version,
        })
    }
}

/// Returns true if the newest version of a key is the delete marker that was just written. If the
/// response names no version, the marker must not be the version that was the latest before the
/// write.
fn is_made(newest: &ListedVersion, made: &Written, latest: &LatestVersion) -> bool {
    newest.is_marker
        && match &made.version {
            Some(id) => newest.id == *id,
            None => *latest != LatestVersion::Version(newest.id.clone()),
        }
}

/// Describes the version found in place of the delete marker.
fn not_newest(newest: &ListedVersion) -> String {
    let what = if newest.is_marker {
        "another delete marker"
    } else {
        "an object"
    };
    format!(
        "the server answered that it wrote a delete marker, but the newest version of the key is {what} ({}): another \
         writer wrote it in the same moment, or the delete marker was not written",
        newest.id
    )
}
