//! Decides which 403 is repeated before it is believed.
//!
//! Permissions on AWS are eventually consistent: for some seconds after a policy was changed, or a
//! key of KMS or a role touched, some of S3's servers refuse what the others allow. Where the same
//! operation has succeeded for the bucket in this run, a refusal is therefore repeated for a
//! while. The first parts of a run are under way together, and one is refused sooner than another
//! is copied: a refused part waits for that before it is believed, and is not sent meanwhile. Other refusals last, because a policy denies one prefix or one object. They would cost
//! each of thousands of objects that time. So after a refusal that outlasted its repetitions, all
//! refusals of its kind are believed for [`BELIEVED`] times as long; only an upload that has stored
//! parts already is worth the doubt even then.
//!
//! That holds for a refusal beside which other requests to the bucket succeeded. In an outage in
//! which everything is refused it says nothing about its kind, and is believed no longer than until
//! the first request to the bucket succeeds again.
//!
//! S3 answers HEAD and GET of a key that does not exist with 403 to those who may not list the
//! bucket. Where no list has succeeded, such a refusal may just say that nothing is there, and is
//! believed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::s3::Operation;

/// A refusal that lasted is believed for so many times as long as it was doubted.
const BELIEVED: u32 = 10;

/// Remembers which kinds of requests to a bucket have succeeded in this run, and which refusals
/// lasted.
#[derive(Debug, Default)]
pub(super) struct Trust {
    kinds: [OfKind; Operation::COUNT],
    /// The time at which a request of any kind succeeded last, in milliseconds since the run began.
    last_success: AtomicU64,
}

#[derive(Debug, Default)]
struct OfKind {
    succeeded: AtomicBool,
    /// In milliseconds since the run began.
    believed_until: AtomicU64,
    /// The belief ends with the first success after this time; [`u64::MAX`] for a refusal beside
    /// which other requests succeeded.
    until_success_after: AtomicU64,
}

impl Trust {
    /// Notes at `now` that a request of this kind succeeded.
    pub(super) fn succeeded(&self, operation: Operation, now: Duration) {
        self.last_success.fetch_max(millis(now), Ordering::Relaxed);
        let of_kind = self.of(operation);
        if !of_kind.succeeded.load(Ordering::Relaxed) {
            of_kind.succeeded.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if a refusal of this kind at `now` is worth a repetition.
    pub(super) fn doubts(&self, operation: Operation, now: Duration) -> bool {
        let hides_absence = matches!(
            operation,
            Operation::HeadObject
                | Operation::GetObject
                | Operation::GetObjectTagging
                | Operation::GetObjectAcl
                | Operation::GetObjectRetention
                | Operation::GetObjectLegalHold
        );
        self.has_succeeded(operation)
            && (!hides_absence || self.has_succeeded(Operation::ListObjects))
            && !self.believes(operation, now)
    }

    /// Returns true if a refusal of this kind at `now` is the first news of its kind, and others
    /// that were sent with it may succeed: it is a part, and its upload was created in this run.
    pub(super) fn expects_news(&self, operation: Operation, now: Duration) -> bool {
        matches!(operation, Operation::UploadPart | Operation::UploadPartCopy)
            && self.has_succeeded(Operation::CreateMultipartUpload)
            && !self.has_succeeded(operation)
            && !self.believes(operation, now)
    }

    fn believes(&self, operation: Operation, now: Duration) -> bool {
        let (of_kind, load) = (self.of(operation), |time: &AtomicU64| {
            time.load(Ordering::Relaxed)
        });
        load(&of_kind.believed_until) > millis(now)
            && load(&self.last_success) <= load(&of_kind.until_success_after)
    }

    /// Notes at `now` that a refusal of this kind outlasted its repetitions, which took `doubted`.
    pub(super) fn believe(&self, operation: Operation, doubted: Duration, now: Duration) {
        let of_kind = self.of(operation);
        let last_success = self.last_success.load(Ordering::Relaxed);
        // What was under way when the refusals began may have succeeded in the first half.
        let stands_beside_successes = last_success > millis(now.saturating_sub(doubted / 2));
        let until_success_after = if stands_beside_successes {
            u64::MAX
        } else {
            last_success
        };
        of_kind
            .until_success_after
            .store(until_success_after, Ordering::Relaxed);
        let until = millis(now.saturating_add(doubted * BELIEVED));
        of_kind.believed_until.store(until, Ordering::Relaxed);
    }

    fn has_succeeded(&self, operation: Operation) -> bool {
        self.of(operation).succeeded.load(Ordering::Relaxed)
    }

    fn of(&self, operation: Operation) -> &OfKind {
        &self.kinds[operation as usize]
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_refusal_is_doubted_where_the_same_kind_has_succeeded() {
        let trust = Trust::default();
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
        let (trust, part) = (Trust::default(), Operation::UploadPartCopy);
        trust.succeeded(Operation::CopyObject, SECOND);
        assert!(!trust.expects_news(part, SECOND), "no upload was created");
        trust.succeeded(Operation::CreateMultipartUpload, SECOND);
        assert!(trust.expects_news(part, SECOND) && !trust.doubts(part, SECOND));
        trust.succeeded(part, SECOND);
        assert!(!trust.expects_news(part, SECOND) && trust.doubts(part, SECOND));
        assert!(!trust.doubts(Operation::UploadPart, SECOND), "another kind");
        trust.believe(Operation::UploadPart, SECOND, SECOND);
        assert!(!trust.expects_news(Operation::UploadPart, SECOND));
    }

    #[test]
    fn a_refusal_that_lasted_is_believed_for_a_while() {
        let trust = Trust::default();
        trust.succeeded(Operation::CopyObject, SECOND);
        trust.believe(Operation::CopyObject, SECOND, SECOND);
        trust.succeeded(Operation::PutObject, SECOND * 9);
        assert!(!trust.doubts(Operation::CopyObject, SECOND * 10));
        assert!(trust.doubts(Operation::CopyObject, SECOND * 11));
    }

    #[test]
    fn a_refusal_while_all_is_refused_is_believed_until_something_succeeds() {
        let trust = Trust::default();
        trust.succeeded(Operation::GetObjectTagging, SECOND);
        trust.succeeded(Operation::ListObjects, SECOND);
        trust.believe(Operation::GetObjectTagging, SECOND * 3, SECOND * 5);
        assert!(!trust.doubts(Operation::GetObjectTagging, SECOND * 6));
        trust.succeeded(Operation::HeadObject, SECOND * 7);
        assert!(trust.doubts(Operation::GetObjectTagging, SECOND * 8));
        // One that stands beside that success is believed.
        trust.succeeded(Operation::HeadObject, SECOND * 10);
        trust.believe(Operation::GetObjectTagging, SECOND * 3, SECOND * 11);
        trust.succeeded(Operation::HeadObject, SECOND * 12);
        assert!(!trust.doubts(Operation::GetObjectTagging, SECOND * 13));
    }

    #[test]
    fn a_head_that_may_hide_a_missing_key_is_believed() {
        let trust = Trust::default();
        trust.succeeded(Operation::HeadObject, SECOND);
        assert!(!trust.doubts(Operation::HeadObject, SECOND));
        trust.succeeded(Operation::ListObjects, SECOND);
        assert!(trust.doubts(Operation::HeadObject, SECOND));
    }
}
