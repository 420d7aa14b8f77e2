//! Handles archived objects: they fail, are skipped, or are restored, as the job says.
//!
//! The listing shows most archived objects, so the restore is the only request that they need. Only
//! HEAD shows the archive tiers of `INTELLIGENT_TIERING`. A restored copy may expire during the
//! run; then only the refusal of the copy shows the archive. A restore takes hours, so a run never
//! waits for one: it requests the restore once and records it in the receipt, and a later run
//! copies the object.

use super::ObjectTask;
use super::round_failure::RoundFailure;
use crate::bucket::Bucket;
use crate::execute::receipt::Ending;
use crate::execute::replan::Replan;
use crate::manifest::job::Archived;
use crate::plan::archive::{self, Request};
use crate::plan::decide::Skip;
use crate::planner::Step;
use crate::s3::{ArchiveState, Failure, FailureKind, Head, Operation, Restored};

/// The state of an archived object, and the request that showed it.
#[derive(Clone, Debug)]
pub(in crate::execute) struct ArchivedSource<'a> {
    state: ArchiveState,
    storage_class: Option<&'a str>,
    archive_tier: Option<&'a str>,
    shown_by: Operation,
}

impl<'a> ArchivedSource<'a> {
    /// Reads the state from the listing.
    pub(in crate::execute) fn listed(step: &'a Step) -> Self {
        let storage_class = step.entry.storage_class.as_deref();
        Self {
            state: step.entry.archive,
            storage_class,
            archive_tier: None,
            shown_by: Operation::ListObjects,
        }
    }

    /// Reads the state from HEAD.
    pub(super) fn shown_by_head(head: &'a Head) -> Self {
        Self {
            state: head.archive,
            storage_class: head.storage_class.as_deref(),
            archive_tier: head.archive_tier.as_deref(),
            shown_by: Operation::HeadObject,
        }
    }

    /// Reads the state from the refusal of a copy, which outweighs HEAD.
    pub(super) fn refused(step: &'a Step, failure: &Failure) -> Self {
        Self {
            state: ArchiveState::Archived,
            shown_by: failure.details().operation,
            ..Self::listed(step)
        }
    }

    /// Returns the failure of an object that is not copied because it is archived.
    pub(in crate::execute) fn failure(&self, place: String) -> Failure {
        let class = self
            .archive_tier
            .or(self.storage_class)
            .unwrap_or("an archive");
        let message = match self.state {
            ArchiveState::Restoring => format!("the object is in {class}, and being restored"),
            ArchiveState::Readable => {
                "an older version of the key is in an archive and not restored".to_owned()
            }
            ArchiveState::Archived => format!("the object is in {class} and not restored"),
        };
        Failure::new(FailureKind::Archived, self.shown_by, place, message)
    }
}

impl ObjectTask<'_> {
    /// Fails, skips, or restores an archived object, as the job says. Returns [`Replan::Restored`]
    /// if the object can be read now.
    pub(super) async fn handle_archived(
        &self,
        source: &Bucket,
        archived: &ArchivedSource<'_>,
    ) -> Result<Ending, RoundFailure> {
        let (context, step) = (self.context, self.step);
        let key = &step.entry.key;
        match (context.sides.transfer.archived, archived.state) {
            (Archived::Fail, _) => Err(archived.failure(source.place(key)).into()),
            (Archived::Skip, _) => Ok(Ending::Skipped {
                reason: Skip::Archived,
            }),
            (Archived::Restore, ArchiveState::Restoring) => {
                Ok(Ending::Restoring { requested: None })
            }
            (Archived::Restore, _) => {
                let Request { restore, for_days } = archive::request(
                    context.sides.transfer.restore,
                    archived.storage_class,
                    archived.archive_tier,
                );
                match source
                    .restore(key, step.entry.version.as_deref(), restore, for_days)
                    .await?
                {
                    Restored::Ongoing => Ok(Ending::Restoring {
                        requested: Some(restore.tier),
                    }),
                    Restored::Readable => Err(Replan::Restored.into()),
                }
            }
        }
    }
}

/// Returns true if S3 refused a copy because the bytes are in an archive: the restored copy has
/// expired, or HEAD did not show the archive.
pub(super) fn is_refusal_of_archived(failure: &Failure) -> bool {
    let by_copy = matches!(
        failure.details().operation,
        Operation::CopyObject | Operation::UploadPartCopy
    );
    *failure.kind() == FailureKind::Archived && by_copy
}
