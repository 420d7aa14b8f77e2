//! Distinguishes a bucket that was deleted from one that never existed.
//!
//! If a bucket that has accepted writes of this run no longer exists, it was deleted with all of
//! its contents. Even if somebody creates it again at once, so that the next write succeeds, the
//! objects copied before are lost.

use std::sync::atomic::Ordering;

use super::{Answer, Bucket};
use crate::s3::{Failure, FailureKind, SourcePin};

impl Bucket {
    /// Notes a successful write. If the bucket has accepted writes before, turns a `NoSuchBucket`
    /// into [`FailureKind::BucketLost`]. For a copy, first checks that the refusal is not about the
    /// source's bucket.
    pub(super) async fn or_lost<T>(
        &self,
        answer: Result<Answer<T>, Failure>,
        source: Option<&SourcePin>,
    ) -> Result<Answer<T>, Failure> {
        let failure = match answer {
            Ok(answer) => {
                self.has_written.store(true, Ordering::Relaxed);
                return Ok(answer);
            }
            Err(failure) => failure,
        };
        let had_written = self.has_written.load(Ordering::Relaxed);
        if *failure.kind() != FailureKind::NoSuchBucket || !had_written {
            return Err(failure);
        }
        let is_about_source = match source {
            Some(pin) => Box::pin(self.lacks_source(pin)).await,
            None => false,
        };
        if is_about_source {
            return Err(failure);
        }
        Err(failure.as_kind(FailureKind::BucketLost).noting(
            "the bucket accepted writes of this run but no longer exists, or was created again: what was copied \
             before may be gone",
        ))
    }

    /// Returns true if the bucket of a copy's source does not exist.
    async fn lacks_source(&self, pin: &SourcePin) -> bool {
        let source = Self {
            name: pin.bucket.clone(),
            ..self.for_probes()
        };
        let looked = source.head_bucket().await;
        looked.is_err_and(|failure| *failure.kind() == FailureKind::NoSuchBucket)
    }
}
