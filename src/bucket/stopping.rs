//! Ends the requests of a bucket when the run stops.
//!
//! A request in flight may finish before `halt` is cancelled. A request that only waits for its
//! next attempt would be sent into a run that is over, so the stop ends it at once.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Bucket;
use crate::location::ObjectKey;
use crate::pace::Lanes;
use crate::s3::{Failure, Operation};

/// The purpose of a bucket's requests, which decides what a stop means to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Copying an object, or planning.
    Object,
    /// Cleaning up after an object. These requests are sent after the stop too, as long as the
    /// server answers.
    CleanUp,
    /// Writing the journal, which continues to the end.
    Journal,
}

impl Bucket {
    /// Returns this bucket for requests that clean up after the run and do not end with it.
    #[must_use]
    pub fn tidying_up(&self) -> Self {
        Self {
            purpose: Purpose::CleanUp,
            ..self.halted_by(CancellationToken::new())
        }
    }

    /// Returns this bucket for requests that record the end of the run and do not end with it.
    #[must_use]
    pub fn outliving_the_run(&self) -> Self {
        Self {
            purpose: Purpose::Journal,
            ..self.halted_by(CancellationToken::new())
        }
    }

    /// Returns the same bucket, whose requests end with `halt`.
    #[must_use]
    pub fn halted_by(&self, halt: CancellationToken) -> Self {
        Self {
            called_off: halt.clone(),
            halt,
            ..self.clone()
        }
    }

    /// Waits before another attempt of a request that its caller repeats.
    ///
    /// # Errors
    /// [`FailureKind::Stopped`](crate::s3::FailureKind::Stopped) when the run stops meanwhile.
    pub(crate) async fn pause(
        &self,
        time: Duration,
        operation: Operation,
        key: &ObjectKey,
    ) -> Result<(), Failure> {
        tokio::select! {
            () = sleep(time) => Ok(()),
            () = self.waits_in_vain(self.lanes(operation.class()), operation, 1) => {
                Err(self.stopped(operation, Some(key)))
            }
        }
    }

    /// Waits until a request that has made `attempts` attempts, and is not in flight, must not be
    /// sent again.
    pub(super) async fn waits_in_vain(&self, lanes: &Lanes, operation: Operation, attempts: u32) {
        let stopped = async {
            self.pacer.stopping().cancelled().await;
            let is_part = matches!(operation, Operation::UploadPart | Operation::UploadPartCopy);
            let is_over = match self.purpose {
                Purpose::Journal => false,
                Purpose::CleanUp => lanes.is_out(),
                // An object that has begun still needs the first attempt of any request except a
                // part.
                Purpose::Object => attempts > 0 || is_part || lanes.is_out(),
            };
            if !is_over {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.called_off.cancelled() => {}
            () = stopped => {}
        }
    }
}
