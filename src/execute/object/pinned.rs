//! Pins the version of the source that a round copies, as HEAD shows it.

use super::round_failure::RoundFailure;
use crate::bucket::Bucket;
use crate::execute::replan::Replan;
use crate::s3::{FailureKind, Head, SourcePin};

/// The version of the source that a round copies.
#[derive(Debug)]
pub(super) struct PinnedSource<'w> {
    pub(super) bucket: &'w Bucket,
    pub(super) head: Head,
    /// The version and `ETag` that every request names.
    pub(super) pin: SourcePin,
}

impl PinnedSource<'_> {
    /// Returns the size of one part; `None` if the server does not show it.
    pub(super) async fn part_size(
        &self,
        number: u32,
        count: u32,
    ) -> Result<Option<u64>, RoundFailure> {
        match self.bucket.head_part(&self.pin, number).await {
            Ok(part) => Ok(Some(part.size).filter(|_| part.count.is_none_or(|told| told == count))),
            Err(failure) => match failure.kind() {
                FailureKind::PreconditionFailed => Err(Replan::SourceChanged.into()),
                FailureKind::Invalid | FailureKind::Unsupported => Ok(None),
                _ => Err(failure.into()),
            },
        }
    }
}
