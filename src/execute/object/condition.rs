//! Handles conditional writes that the destination refuses.
//!
//! [`ObjectTask::react_to_refusal`] decides for every conditional write:
//!
//! | response | meaning | `PutObject` | `CopyObject` | Complete |
//! |---|---|---|---|---|
//! | 412 | another writer's object is at the key | skip it | skip it | skip it |
//! | 404 to `If-Match` | the object was deleted | send again | plan again | send again |
//! | 409 | another write in progress | send again | plan again | check the key; skip or plan again |
//!
//! After a 404 the upload stays open, so Complete alone is sent again. After a 409, S3 requires a
//! new upload. s3haul checks the key before it copies the parts again, in case another writer's
//! object is there. A `CopyObject` is planned again because the response may be about its source. A
//! change in place is never skipped or sent again: s3haul checks the object, and changes it only if
//! it still needs the change. If the condition turns out to hold after a 412, the server
//! contradicts itself: a `CopyObject` is planned again, and other writes fail. A `PutObject` is
//! first sent again if its key no longer has an object, because the other object may have been
//! deleted. If HEAD is denied, the 412 is the only evidence, and the object is skipped.

use super::ObjectTask;
use super::round_failure::RoundFailure;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::replan::Replan;
use crate::manifest::job::When;
use crate::plan::condition::{DestinationState, write_condition};
use crate::plan::decide::Skip;
use crate::s3::{Failure, FailureKind, OnWrites, WriteCondition, Written};

/// The reason why the destination refused a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalCause {
    /// Another writer's object is at the key.
    Taken(Skip),
    /// The object to be replaced was deleted.
    Deleted,
    /// Another write was in progress.
    Raced,
}

/// The object at a key after a conditional write to it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FoundAtKey {
    /// The key has no object.
    Nothing,
    /// The key has the object that the condition names.
    Expected,
    /// The key has another object.
    Another,
    /// The permission to send HEAD is missing.
    Hidden,
}

/// The reaction to a refused write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalReaction {
    /// Send the write again, with the condition that fits the current state.
    WriteAgain,
    /// Keep the object at the key and skip the write, unless the object turns out to be a copy of
    /// this run.
    Leave(Skip),
}

/// The result of a conditional write.
#[derive(Debug)]
pub(super) enum WriteResult {
    /// The write created the object.
    Written(Written),
    /// Another writer's object is at the key and was not replaced.
    Left(Skip),
}

/// The note on a server that contradicts itself about a key.
pub(super) const CONDITION_HOLDS: &str = "although the condition of the write holds";

impl ObjectTask<'_> {
    /// Returns the condition that a write sets for its key. The writes of a version history have
    /// none: from the second version on, the key exists regardless of `when`.
    pub(super) fn condition(&self, write: ConditionalWrite) -> WriteCondition {
        if self.step.history.is_some() {
            return WriteCondition::None;
        }
        let sides = &self.context.sides;
        // A change in place must replace exactly the object that HEAD showed, even with
        // `when: always`.
        let when = if sides.is_in_place() {
            When::Changed
        } else {
            sides.transfer.when
        };
        write_condition(
            when,
            &self.destination_state,
            write,
            sides.destination.capabilities(),
        )
    }

    /// Returns true if the job copies only missing objects and the key exists now. Sends HEAD only
    /// if the condition of the write does not reliably protect the key.
    pub(super) async fn is_taken(&self, condition: &WriteCondition) -> Result<bool, RoundFailure> {
        let is_ours = matches!(self.destination_state, DestinationState::Object(_))
            || self.step.history.is_some();
        let is_ensured = *condition != WriteCondition::None
            && self.destination().capabilities().believes_answers();
        if self.context.sides.transfer.when != When::Missing || is_ensured || is_ours {
            return Ok(false);
        }
        match self.destination().head(&self.step.key, None).await {
            Ok(_) => Ok(true),
            Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Checks the key after the server refused a write with this condition. If HEAD shows an object
    /// other than the expected one, a list decides, because HEAD and list are rarely both wrong.
    async fn inspect_key(&self, condition: &WriteCondition) -> Result<FoundAtKey, RoundFailure> {
        let (destination, key) = (self.destination(), &self.step.key);
        let expected = match condition {
            WriteCondition::Matches(etag) => Some(etag),
            WriteCondition::Absent | WriteCondition::None => None,
        };
        match destination.head(key, None).await {
            Ok(found) if expected == Some(&found.etag) => Ok(FoundAtKey::Expected),
            Ok(_) if expected.is_some() => {
                let listed = destination.first(key.as_str(), None).await.ok().flatten();
                let listed = listed.filter(|listed| *listed.key == *key.as_str());
                let is_expected = listed.is_some_and(|listed| listed.etag.as_ref() == expected);
                Ok(if is_expected {
                    FoundAtKey::Expected
                } else {
                    FoundAtKey::Another
                })
            }
            Ok(_) => Ok(FoundAtKey::Another),
            Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(FoundAtKey::Nothing),
            Err(failure) if *failure.kind() == FailureKind::Denied => Ok(FoundAtKey::Hidden),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Returns why a write with this condition was refused, or `None` if the failure is not about
    /// the condition.
    pub(super) fn classify_refusal(
        &self,
        condition: &WriteCondition,
        failure: &Failure,
    ) -> Option<RefusalCause> {
        match (failure.kind(), condition) {
            (
                FailureKind::PreconditionFailed,
                WriteCondition::Absent | WriteCondition::Matches(_),
            ) => Some(RefusalCause::Taken(self.skip_of_taken())),
            (FailureKind::NotFound, WriteCondition::Matches(_)) => Some(RefusalCause::Deleted),
            // S3 can return a conflict for a write without a condition too.
            (FailureKind::Conflict, _) => Some(RefusalCause::Raced),
            _ => None,
        }
    }

    /// Decides how to continue after the failure of a write. `may_repeat` is false after the last
    /// attempt.
    ///
    /// # Errors
    /// Returns the reason to plan the object again, or the failure if it is not about the
    /// condition.
    pub(super) async fn react_to_refusal(
        &mut self,
        write: ConditionalWrite,
        condition: &WriteCondition,
        failure: Failure,
        may_repeat: bool,
    ) -> Result<RefusalReaction, RoundFailure> {
        let is_in_place = self.context.sides.is_in_place();
        let cause = self.classify_refusal(condition, &failure);
        if cause == Some(RefusalCause::Deleted) {
            self.destination_state = DestinationState::Absent;
        }
        let repeats = match write {
            ConditionalWrite::Put => true,
            ConditionalWrite::Complete => cause == Some(RefusalCause::Deleted) && !is_in_place,
            ConditionalWrite::Copy => false,
        };
        match cause {
            None if write == ConditionalWrite::Copy
                && *failure.kind() == FailureKind::PreconditionFailed =>
            {
                Err(Replan::SourceRefused.into())
            }
            None => Err(self.with_write_hint(condition, failure).into()),
            Some(RefusalCause::Taken(skip)) => {
                self.react_to_taken_key(write, condition, failure, skip)
                    .await
            }
            Some(RefusalCause::Deleted | RefusalCause::Raced) if may_repeat && repeats => {
                Ok(RefusalReaction::WriteAgain)
            }
            Some(cause) => match write {
                ConditionalWrite::Put => Err(self.with_write_hint(condition, failure).into()),
                ConditionalWrite::Complete if cause == RefusalCause::Raced && !is_in_place => {
                    self.after_race(condition, failure).await
                }
                ConditionalWrite::Complete | ConditionalWrite::Copy => {
                    Err(Replan::DestinationChanged.after(failure))
                }
            },
        }
    }

    /// Decides how to continue if another writer's object is at the key.
    async fn react_to_taken_key(
        &self,
        write: ConditionalWrite,
        condition: &WriteCondition,
        failure: Failure,
        skip: Skip,
    ) -> Result<RefusalReaction, RoundFailure> {
        let is_in_place = self.context.sides.is_in_place();
        match write {
            // The caller checks the object, which may be a copy of this run.
            ConditionalWrite::Put => return Ok(RefusalReaction::Leave(skip)),
            // In place, the object is its own source. The caller has found it unchanged, so the
            // cause of the refusal has passed.
            ConditionalWrite::Copy if is_in_place => {
                return Err(Replan::DestinationChanged.after(failure));
            }
            ConditionalWrite::Copy | ConditionalWrite::Complete => {}
        }
        // Without the permission to send HEAD, the refusal is the only evidence.
        let holds = match self.inspect_key(condition).await? {
            FoundAtKey::Nothing | FoundAtKey::Expected => true,
            FoundAtKey::Another | FoundAtKey::Hidden => false,
        };
        match (holds, write) {
            (false, _) if is_in_place => Err(Replan::DestinationChanged.after(failure)),
            (false, _) => Ok(RefusalReaction::Leave(skip)),
            // The other object was deleted, or the refusal was about the source.
            (true, ConditionalWrite::Copy) => Err(Replan::DestinationChanged.after(failure)),
            (true, _) => Err(failure.noting(CONDITION_HOLDS).into()),
        }
    }

    /// Decides how to continue if another write was in progress at Complete, so that S3 requires a
    /// new upload. Checks the key before all parts are copied again: if it holds another writer's
    /// object by now, the server would refuse the next Complete too.
    async fn after_race(
        &mut self,
        condition: &WriteCondition,
        failure: Failure,
    ) -> Result<RefusalReaction, RoundFailure> {
        let again = Replan::DestinationChanged.after(failure);
        if *condition == WriteCondition::None {
            return Err(again);
        }
        match self.inspect_key(condition).await? {
            FoundAtKey::Another => Ok(RefusalReaction::Leave(self.skip_of_taken())),
            FoundAtKey::Nothing => {
                self.destination_state = DestinationState::Absent;
                Err(again)
            }
            FoundAtKey::Expected | FoundAtKey::Hidden => Err(again),
        }
    }

    /// Returns the reason to skip the object if another writer's object is at the key.
    fn skip_of_taken(&self) -> Skip {
        match self.context.sides.transfer.when {
            When::Missing => Skip::Present,
            When::Changed | When::Always => Skip::ChangedMeanwhile,
        }
    }

    /// Adds a hint to a refusal that may be about the ACL of the write, or about a missing ACL.
    pub(super) fn with_acl_hint(&self, failure: Failure) -> Failure {
        let acl = self.context.sides.transfer.to.acl;
        match (failure.kind(), acl) {
            _ if failure.details().code == "AccessControlListNotSupported" => failure.noting(
                "the bucket has ACLs disabled (Object Ownership: bucket owner enforced); remove the ACL, or use \
                 bucket-owner-full-control, which it accepts",
            ),
            (FailureKind::Denied, Some(_)) => {
                failure.noting("a write with an ACL needs s3:PutObjectAcl on the destination too")
            }
            (FailureKind::Denied, None) => failure.noting(
                "s3haul cannot see the reason; if the bucket's policy demands an ACL, set `to.acl: \
                 bucket-owner-full-control` (--acl)",
            ),
            _ => failure,
        }
    }

    /// Adds a hint to a refused write, about its ACL or about another permission that may be
    /// missing.
    pub(super) fn with_write_hint(&self, condition: &WriteCondition, failure: Failure) -> Failure {
        let failure = self.with_acl_hint(failure);
        let knows_conditions =
            self.context.sides.destination.capabilities().if_none_match != OnWrites::NONE;
        match (failure.kind(), condition) {
            (FailureKind::Denied, WriteCondition::None) if knows_conditions => failure.noting(
                "if the bucket's policy demands conditional writes, use `when: missing`, or `when: changed` where the \
                 destination may be listed",
            ),
            (FailureKind::Denied, WriteCondition::Matches(_)) => failure.noting(
                "replacing an object that was compared needs s3:GetObject on the destination too",
            ),
            _ => failure,
        }
    }
}
