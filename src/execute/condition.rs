//! Handles writes that the destination refuses because of their condition.
//!
//! `412`: the key is another's by now, which is a reason to leave it and no failure. `404` for an
//! `If-Match`: the object that was to be replaced was deleted, so the key is written as an absent
//! one. `409`: another write was under way; S3 wants the whole upload again.

use super::{Trouble, Work};
use crate::endpoint::capabilities::ConditionalWrite;
use crate::location::ObjectKey;
use crate::manifest::job::When;
use crate::plan::condition::{Seen, demanded};
use crate::plan::decide::Skip;
use crate::s3::{Failure, FailureKind, OnWrites, WriteCondition};

/// The reason why the destination refused a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Somebody else's object stands at the key; it stays.
    Taken(Skip),
    /// The object that was to be replaced is gone.
    Deleted,
    /// Another write was under way.
    Raced,
}

impl Work {
    /// Returns the condition of a write on its key.
    pub(super) fn condition(&self, seen: &Seen, write: ConditionalWrite) -> WriteCondition {
        // A change in place is about the object that was looked at, also with `when: always`.
        let when = if self.sides.is_in_place() {
            When::Changed
        } else {
            self.sides.transfer.when
        };
        demanded(when, seen, write, self.sides.destination.capabilities())
    }

    /// Returns true if the job copies only what is missing, the write itself cannot see to it or is
    /// not believed, and the key is there by now.
    pub(super) async fn is_taken(
        &self,
        key: &ObjectKey,
        seen: &Seen,
        condition: &WriteCondition,
    ) -> Result<bool, Trouble> {
        let is_ours = matches!(seen, Seen::Object(_));
        let sees_to_it = *condition != WriteCondition::None
            && self.sides.destination.capabilities().believes_answers();
        if self.sides.transfer.when != When::Missing || sees_to_it || is_ours {
            return Ok(false);
        }
        match self.sides.destination.head(key, None).await {
            Ok(_) => Ok(true),
            Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Returns true if a condition that the server says has failed holds: nothing stands at the
    /// key, or the very object that the write names. HEAD tells, and the list where HEAD shows
    /// another one: the two are wrong together less often.
    pub(super) async fn holds(
        &self,
        key: &ObjectKey,
        condition: &WriteCondition,
    ) -> Result<bool, Trouble> {
        let destination = &self.sides.destination;
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
    pub(super) fn refused(&self, condition: &WriteCondition, failure: &Failure) -> Option<Refused> {
        let skip = match self.sides.transfer.when {
            When::Missing => Skip::Present,
            When::Changed | When::Always => Skip::ChangedMeanwhile,
        };
        match (failure.kind(), condition) {
            (
                FailureKind::PreconditionFailed,
                WriteCondition::Absent | WriteCondition::Matches(_),
            ) => Some(Refused::Taken(skip)),
            (FailureKind::NotFound, WriteCondition::Matches(_)) => Some(Refused::Deleted),
            (FailureKind::Conflict, _) => Some(Refused::Raced),
            _ => None,
        }
    }

    /// Adds what a write may lack when the destination refuses it because of its ACL, or because it
    /// has none.
    pub(super) fn explained_acl(&self, failure: Failure) -> Failure {
        let acl = self.sides.transfer.to.acl;
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
            self.sides.destination.capabilities().if_none_match != OnWrites::NONE;
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

/// Converts the failure of a request that names the pinned object.
pub(super) fn moved(failure: Failure) -> Trouble {
    match failure.kind() {
        FailureKind::PreconditionFailed => Trouble::SourceChanged,
        _ => failure.into(),
    }
}
