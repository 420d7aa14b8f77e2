//! Ends the requests of a bucket when the run stops.
//!
//! A request in flight may finish before `halt` is canceled. A request that only waits for its
//! next attempt would be sent after the run is over, so the stop ends it at once. The stop also
//! ends a first attempt that serves no purpose any more, or whose turn would not come soon.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Bucket;
use crate::location::ObjectKey;
use crate::s3::{Failure, Operation};

/// The interval at which waiting requests are checked after the run has stopped.
const LOOK: Duration = Duration::from_millis(100);
/// After a stop, a request that starts something waits no longer than this for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The purpose of a bucket's requests, which determines the effect of a stop on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Copying an object, or planning.
    Object,
    /// Cleaning up after an object. These requests are sent after the stop too, while the server
    /// answers.
    CleanUp,
    /// Recording the run, or ending an upload. The stop does not end these requests.
    Journal,
}

impl Bucket {
    /// Returns this bucket for requests that clean up after the run and do not end with it.
    #[must_use]
    pub(crate) fn for_cleanup(&self) -> Self {
        Self {
            purpose: Purpose::CleanUp,
            ..self.halted_by(CancellationToken::new())
        }
    }

    /// Returns this bucket for requests that record the run or end an upload, and that do not end
    /// with the run.
    #[doc(hidden)]
    #[must_use]
    pub fn outliving_the_run(&self) -> Self {
        Self {
            purpose: Purpose::Journal,
            ..self.halted_by(CancellationToken::new())
        }
    }

    /// Returns this bucket with requests that end with `halt`.
    #[must_use]
    pub(crate) fn halted_by(&self, halt: CancellationToken) -> Self {
        Self {
            cancellation: halt.clone(),
            halt,
            ..self.clone()
        }
    }

    /// Waits before another attempt of a request that its caller repeats.
    ///
    /// # Errors
    /// [`FailureKind::Stopped`](crate::s3::FailureKind::Stopped) if the run stops meanwhile.
    pub(crate) async fn pause(
        &self,
        time: Duration,
        operation: Operation,
        key: &ObjectKey,
    ) -> Result<(), Failure> {
        tokio::select! {
            () = sleep(time) => Ok(()),
            () = self.becomes_pointless(operation, key.as_str(), 1) => {
                Err(self.stopped(operation, Some(key)))
            }
        }
    }

    /// Waits until a request must not be sent again. The request concerns the keys around `at`, has
    /// made `attempts` attempts, and is not in flight.
    pub(super) async fn becomes_pointless(&self, operation: Operation, at: &str, attempts: u32) {
        let stopped = async {
            self.pacer.stopping().cancelled().await;
            while !self.is_pointless(operation, at, attempts) {
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = self.cancellation.cancelled() => {}
            () = stopped => {}
        }
    }

    /// Returns true if the run has stopped and a request is no longer worth waiting for.
    fn is_pointless(&self, operation: Operation, at: &str, attempts: u32) -> bool {
        let lanes = self.lanes(operation.class());
        match self.purpose {
            Purpose::Journal => return false,
            Purpose::CleanUp => return lanes.is_out(),
            Purpose::Object => {}
        }
        if attempts > 0 || lanes.is_out() || lanes.is_shut(at) {
            return true;
        }
        let longest_wait = match operation {
            // After a stop, no part is sent any more.
            Operation::CreateMultipartUpload
            | Operation::UploadPart
            | Operation::UploadPartCopy => return true,
            Operation::HeadObject | Operation::CopyObject | Operation::PutObject => LONGEST_WAIT,
            // An object that was started may need this request to be completed.
            Operation::HeadBucket
            | Operation::ListObjects
            | Operation::GetObject
            | Operation::GetObjectTagging
            | Operation::PutObjectTagging
            | Operation::GetObjectAcl
            | Operation::GetObjectRetention
            | Operation::GetObjectLegalHold
            | Operation::ListObjectAnnotations
            | Operation::GetObjectAnnotation
            | Operation::PutObjectAnnotation
            | Operation::DeleteObject
            | Operation::CompleteMultipartUpload
            | Operation::AbortMultipartUpload
            | Operation::ListParts
            | Operation::ListMultipartUploads
            | Operation::ListObjectVersions
            | Operation::GetBucketVersioning
            | Operation::RestoreObject
            | Operation::ReadFile => self.retry.drain.saturating_sub(self.retry.cleanup_time()),
        };
        lanes.queue_delay(at, self.pacer.elapsed()) > longest_wait
    }

    /// Returns true if a request goes ahead of all others: the run has stopped, and the few
    /// requests that clean up must not queue behind requests that will never be sent.
    pub(super) fn goes_ahead(&self) -> bool {
        self.purpose == Purpose::CleanUp && self.pacer.stopping().is_cancelled()
    }
}
