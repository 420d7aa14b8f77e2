//! Decides after which 403 a request is repeated before the 403 is believed.
//!
//! Permissions on AWS are eventually consistent: for some seconds after a policy, a KMS key, or a
//! role was changed, some of S3's servers refuse what others allow. So a refused request is
//! repeated for a while if the same operation has succeeded on the bucket in this run. The first
//! parts of a run are in flight together, and a refusal arrives sooner than a copy is done. So a
//! refused part first waits for the result of another part.
//!
//! Other refusals are permanent, because a policy denies one prefix or one object. Repetitions
//! would cost the same time for each of thousands of objects. So if a request is still refused
//! after its repetitions, all refusals of its operation are believed at once for [`BELIEVED`] times
//! as long as the repetitions took. Only the parts of an upload that has stored parts already are
//! repeated even then.
//!
//! This applies if other requests to the bucket succeeded in the meantime. If everything is
//! refused, a refusal says nothing about its operation in particular. Then refusals are believed
//! only until the first request to the bucket succeeds.
//!
//! S3 answers HEAD and GET of a missing key with 403 if the principal may not list the bucket. So
//! such a refusal is believed at once if no list has succeeded: it may mean that there is no
//! object.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::answers::millis;
use crate::s3::Operation;

/// Refusals are believed for this many times as long as the last one was doubted.
const BELIEVED: u32 = 10;

/// Remembers which operations on a bucket have succeeded in this run, and which refusals lasted.
#[derive(Debug, Default)]
pub(super) struct BucketTrust {
    operations: [OperationTrust; Operation::COUNT],
    /// The time of the last success of any operation, in milliseconds since the run began.
    last_success: AtomicU64,
}

/// The record of one operation.
#[derive(Debug, Default)]
struct OperationTrust {
    succeeded: AtomicBool,
    /// The time up to which refusals are believed, in milliseconds since the run began.
    believed_until: AtomicU64,
    /// Refusals are no longer believed once any request succeeded after this time. [`u64::MAX`] if
    /// other requests succeeded around the last refusal.
    until_success_after: AtomicU64,
}

impl BucketTrust {
    /// Records at `now` that a request of this operation succeeded.
    pub(super) fn succeeded(&self, operation: Operation, now: Duration) {
        self.last_success.fetch_max(millis(now), Ordering::Relaxed);
        let trust = self.of(operation);
        if !trust.succeeded.load(Ordering::Relaxed) {
            trust.succeeded.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if a refusal of this operation at `now` is worth a repetition.
    pub(super) fn doubts(&self, operation: Operation, now: Duration) -> bool {
        let hides_absence = match operation {
            Operation::HeadObject
            | Operation::GetObject
            | Operation::GetObjectTagging
            | Operation::GetObjectAcl
            | Operation::GetObjectRetention
            | Operation::GetObjectLegalHold => true,
            Operation::HeadBucket
            | Operation::ListObjects
            | Operation::PutObjectTagging
            | Operation::ListObjectAnnotations
            | Operation::GetObjectAnnotation
            | Operation::PutObjectAnnotation
            | Operation::CopyObject
            | Operation::PutObject
            | Operation::DeleteObject
            | Operation::CreateMultipartUpload
            | Operation::UploadPart
            | Operation::UploadPartCopy
            | Operation::CompleteMultipartUpload
            | Operation::AbortMultipartUpload
            | Operation::ListParts
            | Operation::ListMultipartUploads
            | Operation::ListObjectVersions
            | Operation::GetBucketVersioning
            | Operation::RestoreObject
            | Operation::ReadFile => false,
        };
        self.has_succeeded(operation)
            && (!hides_absence || self.has_succeeded(Operation::ListObjects))
            && !self.believes(operation, now)
    }

    /// Returns true if a refused request is a part of an upload that this run created, and other
    /// parts may still succeed: none has, and refusals of parts are not believed at `now`.
    pub(super) fn awaits_other_parts(&self, operation: Operation, now: Duration) -> bool {
        matches!(operation, Operation::UploadPart | Operation::UploadPartCopy)
            && self.has_succeeded(Operation::CreateMultipartUpload)
            && !self.has_succeeded(operation)
            && !self.believes(operation, now)
    }

    fn believes(&self, operation: Operation, now: Duration) -> bool {
        let (trust, load) = (self.of(operation), |time: &AtomicU64| {
            time.load(Ordering::Relaxed)
        });
        load(&trust.believed_until) > millis(now)
            && load(&self.last_success) <= load(&trust.until_success_after)
    }

    /// Records at `now` that a request of this operation was still refused after its repetitions,
    /// which took `doubted`.
    pub(super) fn believe(&self, operation: Operation, doubted: Duration, now: Duration) {
        let trust = self.of(operation);
        let last_success = self.last_success.load(Ordering::Relaxed);
        // In the first half of the repetitions, requests that were in flight when the refusals
        // began may have succeeded.
        let stands_beside_successes = last_success > millis(now.saturating_sub(doubted / 2));
        let until_success_after = if stands_beside_successes {
            u64::MAX
        } else {
            last_success
        };
        trust
            .until_success_after
            .store(until_success_after, Ordering::Relaxed);
        let until = millis(now.saturating_add(doubted * BELIEVED));
        trust.believed_until.store(until, Ordering::Relaxed);
    }

    fn has_succeeded(&self, operation: Operation) -> bool {
        self.of(operation).succeeded.load(Ordering::Relaxed)
    }

    fn of(&self, operation: Operation) -> &OperationTrust {
        &self.operations[operation as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_refusal_is_doubted_where_the_same_kind_has_succeeded() {
        let trust = BucketTrust::default();
        assert!(
            !trust.doubts(Operation::CopyObject, SECOND),
            "nothing has succeeded yet"
        );
        trust.succeeded(Operation::CopyObject, SECOND);
        assert!(trust.doubts(Operation::CopyObject, SECOND));
        assert!(
            !trust.doubts(Operation::UploadPartCopy, SECOND),
            "another kind"
        );
    }

    #[test]
    fn a_part_is_doubted_once_one_was_copied() {
        let (trust, part) = (BucketTrust::default(), Operation::UploadPartCopy);
        trust.succeeded(Operation::CopyObject, SECOND);
        assert!(
            !trust.awaits_other_parts(part, SECOND),
            "no upload was created"
        );
        trust.succeeded(Operation::CreateMultipartUpload, SECOND);
        assert!(trust.awaits_other_parts(part, SECOND) && !trust.doubts(part, SECOND));
        trust.succeeded(part, SECOND);
        assert!(!trust.awaits_other_parts(part, SECOND) && trust.doubts(part, SECOND));
        assert!(!trust.doubts(Operation::UploadPart, SECOND), "another kind");
        trust.believe(Operation::UploadPart, SECOND, SECOND);
        assert!(!trust.awaits_other_parts(Operation::UploadPart, SECOND));
    }

    #[test]
    fn a_refusal_that_lasted_is_believed_for_a_while() {
        let trust = BucketTrust::default();
        trust.succeeded(Operation::CopyObject, SECOND);
        trust.believe(Operation::CopyObject, SECOND, SECOND);
        trust.succeeded(Operation::PutObject, SECOND * 9);
        assert!(!trust.doubts(Operation::CopyObject, SECOND * 10));
        assert!(trust.doubts(Operation::CopyObject, SECOND * 11));
    }

    #[test]
    fn a_refusal_while_all_is_refused_is_believed_until_something_succeeds() {
        let trust = BucketTrust::default();
        trust.succeeded(Operation::GetObjectTagging, SECOND);
        trust.succeeded(Operation::ListObjects, SECOND);
        trust.believe(Operation::GetObjectTagging, SECOND * 3, SECOND * 5);
        assert!(!trust.doubts(Operation::GetObjectTagging, SECOND * 6));
        trust.succeeded(Operation::HeadObject, SECOND * 7);
        assert!(trust.doubts(Operation::GetObjectTagging, SECOND * 8));
        // A refusal that lasted while other requests succeeded is believed.
        trust.succeeded(Operation::HeadObject, SECOND * 10);
        trust.believe(Operation::GetObjectTagging, SECOND * 3, SECOND * 11);
        trust.succeeded(Operation::HeadObject, SECOND * 12);
        assert!(!trust.doubts(Operation::GetObjectTagging, SECOND * 13));
    }

    #[test]
    fn a_head_that_may_hide_a_missing_key_is_believed() {
        let trust = BucketTrust::default();
        trust.succeeded(Operation::HeadObject, SECOND);
        assert!(!trust.doubts(Operation::HeadObject, SECOND));
        trust.succeeded(Operation::ListObjects, SECOND);
        assert!(trust.doubts(Operation::HeadObject, SECOND));
    }
}
