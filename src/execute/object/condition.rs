//! Handles writes that the destination refuses because of their condition.
//!
//! `412`: the key is another's by now, which is a reason to leave it and no failure. `404` for an
//! `If-Match`: the object that was to be replaced was deleted, so the key is written as an absent
//! one. `409`: another write was under way. [`ObjectTask::refused`] decides for every conditional
//! write what follows from that. A `PutObject` is sent again. So is a Complete whose object was
//! deleted: the upload stays, and its parts need not be sent again. After a `409`, S3 wants the
//! whole upload again, so the object is planned again. So is a `CopyObject`, whose `412` may be
//! about the source too.

use super::ObjectTask;
use super::trouble::{Replan, Trouble};
use crate::endpoint::capabilities::ConditionalWrite;
use crate::manifest::job::When;
use crate::plan::condition::{Seen, demanded};
use crate::plan::decide::Skip;
use crate::s3::{Failure, FailureKind, OnWrites, WriteCondition, Written};

/// The reason why the destination refused a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusedWrite {
    /// Somebody else's object stands at the key.
    Taken(Skip),
    /// The object that was to be replaced is gone.
    Deleted,
    /// Another write was under way.
    Raced,
}

/// What follows from a refused write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterRefusal {
    /// The write is sent again, with the condition as it is now.
    WriteAgain,
    /// The object at the key stays, unless it is found to be ours.
    Leave(Skip),
}

/// The result of a conditional write.
#[derive(Debug)]
pub(super) enum Published {
    /// It made the object.
    Written(Written),
    /// Somebody else's object stands at the key, and stays.
    Left(Skip),
}

/// The note on a server that contradicts itself about a key.
pub(super) const CONDITION_HOLDS: &str = "although the condition of the write holds";

impl ObjectTask<'_> {
    /// Returns the condition of a write on its key. A history has none: from its second version on,
    /// its key exists, whatever `when` says.
    pub(super) fn condition(&self, write: ConditionalWrite) -> WriteCondition {
        if self.step.turn.is_some() {
            return WriteCondition::None;
        }
        let sides = &self.work.sides;
        // A change in place is about the object that was looked at, also with `when: always`.
        let when = if sides.is_in_place() {
            When::Changed
        } else {
            sides.transfer.when
        };
        demanded(when, &self.seen, write, sides.destination.capabilities())
    }

    /// Returns true if the job copies only what is missing, the write itself cannot see to it or is
    /// not believed, and the key is there by now.
    pub(super) async fn is_taken(&self, condition: &WriteCondition) -> Result<bool, Trouble> {
        let is_ours = matches!(self.seen, Seen::Object(_)) || self.step.turn.is_some();
        let sees_to_it = *condition != WriteCondition::None
            && self.destination().capabilities().believes_answers();
        if self.work.sides.transfer.when != When::Missing || sees_to_it || is_ours {
            return Ok(false);
        }
        match self.destination().head(&self.step.key, None).await {
            Ok(_) => Ok(true),
            Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Returns true if a condition that the server says has failed holds: nothing stands at the
    /// key, or the very object that the write names. HEAD tells, and the list where HEAD shows
    /// another one: the two are wrong together less often.
    async fn holds(&self, condition: &WriteCondition) -> Result<bool, Trouble> {
        let (destination, key) = (self.destination(), &self.step.key);
        match (destination.head(key, None).await, condition) {
            (Ok(found), WriteCondition::Matches(etag)) if found.etag != *etag => {
                let listed = destination.first(key.as_str(), None).await.ok().flatten();
                let listed = listed.filter(|listed| listed.key == key.as_str());
                Ok(listed.is_some_and(|listed| listed.etag.as_ref() == Some(etag)))
            }
            (Ok(_), condition) => Ok(matches!(condition, WriteCondition::Matches(_))),
            (Err(failure), _) if *failure.kind() == FailureKind::NotFound => Ok(true),
            // Whoever may not look has been told that it is there.
            (Err(failure), _) if *failure.kind() == FailureKind::Denied => Ok(false),
            (Err(failure), _) => Err(failure.into()),
        }
    }

    /// Explains the failure of a write with this condition; `None` if the condition is not the
    /// reason.
    pub(super) fn refusal(
        &self,
        condition: &WriteCondition,
        failure: &Failure,
    ) -> Option<RefusedWrite> {
        let skip = match self.work.sides.transfer.when {
            When::Missing => Skip::Present,
            When::Changed | When::Always => Skip::ChangedMeanwhile,
        };
        match (failure.kind(), condition) {
            (
                FailureKind::PreconditionFailed,
                WriteCondition::Absent | WriteCondition::Matches(_),
            ) => Some(RefusedWrite::Taken(skip)),
            (FailureKind::NotFound, WriteCondition::Matches(_)) => Some(RefusedWrite::Deleted),
            (FailureKind::Conflict, _) => Some(RefusedWrite::Raced),
            _ => None,
        }
    }

    /// Decides what follows from the failure of a write. `may_repeat` is false for the last
    /// attempt.
    ///
    /// # Errors
    /// The reason to plan the object again, or the failure if the condition is not its reason.
    pub(super) async fn refused(
        &mut self,
        write: ConditionalWrite,
        condition: &WriteCondition,
        failure: Failure,
        may_repeat: bool,
    ) -> Result<AfterRefusal, Trouble> {
        let refusal = self.refusal(condition, &failure);
        if refusal == Some(RefusedWrite::Deleted) {
            self.seen = Seen::Absent;
        }
        let is_in_place = self.work.sides.is_in_place();
        let replan = Replan::DestinationChanged;
        match (refusal, write) {
            (None, ConditionalWrite::Copy)
                if *failure.kind() == FailureKind::PreconditionFailed =>
            {
                Err(Replan::SourceRefused.into())
            }
            (Some(RefusedWrite::Deleted | RefusedWrite::Raced), ConditionalWrite::Put)
                if may_repeat =>
            {
                Ok(AfterRefusal::WriteAgain)
            }
            (Some(RefusedWrite::Deleted), ConditionalWrite::Complete)
                if may_repeat && !is_in_place =>
            {
                Ok(AfterRefusal::WriteAgain)
            }
            (None, _)
            | (Some(RefusedWrite::Deleted | RefusedWrite::Raced), ConditionalWrite::Put) => {
                Err(self.explained(condition, failure).into())
            }
            (Some(RefusedWrite::Deleted | RefusedWrite::Raced), _) => Err(replan.into()),
            // The caller looks at the object, which may be ours.
            (Some(RefusedWrite::Taken(skip)), ConditionalWrite::Put) => {
                Ok(AfterRefusal::Leave(skip))
            }
            // In place, the object is its own source, which is unchanged: whatever failed the
            // condition is over.
            (Some(RefusedWrite::Taken(_)), ConditionalWrite::Copy) if is_in_place => {
                Err(replan.into())
            }
            (Some(RefusedWrite::Taken(skip)), _) => match (self.holds(condition).await?, write) {
                (false, _) if is_in_place => Err(replan.into()),
                (false, _) => Ok(AfterRefusal::Leave(skip)),
                // The object was deleted, or the server refused because of the source and showed
                // something else by HEAD.
                (true, ConditionalWrite::Copy) => Err(replan.into()),
                (true, _) => Err(failure.noting(CONDITION_HOLDS).into()),
            },
        }
    }

    /// Adds what a write may lack when the destination refuses it because of its ACL, or because it
    /// has none.
    pub(super) fn explained_acl(&self, failure: Failure) -> Failure {
        let acl = self.work.sides.transfer.to.acl;
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

    /// Adds to the denial of a write the other permission that may be missing.
    pub(super) fn explained(&self, condition: &WriteCondition, failure: Failure) -> Failure {
        let failure = self.explained_acl(failure);
        let knows_conditions =
            self.work.sides.destination.capabilities().if_none_match != OnWrites::NONE;
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
