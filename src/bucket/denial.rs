//! Repeats a 403 if the same kind of request has succeeded before, and cancels the requests of an
//! object that has failed.
//!
//! [`crate::pace::Lanes::doubts_denial`] decides which denials are doubted, and explains why. For
//! an upload that has stored a part in this run, a denial is always doubted: the upload may hold
//! terabytes.
//!
//! Parts of an object wait for their turn and for their next attempt. Once one of them has failed
//! permanently, sending the others would be pointless, so the waiting ones are canceled. Requests
//! in flight are left to finish: an abort that overtakes a part leaves that part behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Bucket;
use crate::awake::AwakeInstant;
use crate::pace::RetryPolicy;
use crate::s3::{Failure, FailureKind, Operation};

impl Bucket {
    /// Returns the same bucket for the requests of one upload, which can be canceled together.
    #[must_use]
    pub(crate) fn for_upload(&self) -> Self {
        Self {
            cancellation: self.halt.child_token(),
            has_parts: Arc::default(),
            ..self.clone()
        }
    }

    /// Returns the token that cancels the waiting requests of an upload.
    pub(crate) fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// Returns this bucket with denials accepted at once.
    pub(super) fn trusting_denials(&self) -> Self {
        Self {
            retry: RetryPolicy {
                doubt: Duration::ZERO,
                ..self.retry
            },
            ..self.clone()
        }
    }

    /// Notes the success of a request that may have copied bytes or stored a part.
    pub(super) fn note_success(&self, operation: Operation, bytes: u64, took: Duration) {
        if matches!(operation, Operation::CopyObject | Operation::UploadPartCopy) {
            self.pacer.copied(bytes, took);
        }
        if matches!(operation, Operation::UploadPart | Operation::UploadPartCopy) {
            self.has_parts.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for a limited time, after the first part of a run was denied, until another part is
    /// copied. Sends nothing.
    pub(super) async fn await_other_parts(&self, failure: &Failure) {
        let operation = failure.details().operation;
        let lanes = self.lanes(operation.class());
        let awaits_other_parts = || {
            *failure.kind() == FailureKind::Denied
                && self.contact.is_none()
                && failure.details().attempts == 1
                && !self.has_parts.load(Ordering::Relaxed)
                && lanes.awaits_other_parts(operation, self.pacer.elapsed())
        };
        let (began, longest) = (AwakeInstant::now(), self.retry.wait_for_other_parts());
        while awaits_other_parts() && began.elapsed() < longest {
            tokio::select! {
                () = sleep(longest / 20) => {}
                () = self.becomes_pointless(operation, "", 1) => return,
            }
        }
        if awaits_other_parts() && !longest.is_zero() {
            lanes.believe_denial(operation, self.retry.doubt, self.pacer.elapsed());
        }
    }

    /// Returns the time to wait before a failed request is sent again, or `None` to give up.
    /// `waited` is the time since its first failure.
    pub(super) fn wait(&self, failure: &Failure, waited: Duration) -> Option<Duration> {
        let (attempts, operation) = (failure.details().attempts, failure.details().operation);
        let is_denied = *failure.kind() == FailureKind::Denied;
        if !is_denied || self.contact.is_some() || self.retry.doubt.is_zero() {
            return self
                .retry
                .wait(failure.kind(), attempts, waited, fastrand::f64());
        }
        let (lanes, now) = (self.lanes(operation.class()), self.pacer.elapsed());
        // A request that has started to retry a 403 continues, even if another request has accepted
        // the denial meanwhile.
        let is_doubted = attempts > 1
            || self.has_parts.load(Ordering::Relaxed)
            || lanes.doubts_denial(operation, now);
        let wait =
            is_doubted.then(|| self.retry.wait_in_doubt(attempts, waited, fastrand::f64()))?;
        if wait.is_none() {
            lanes.believe_denial(operation, self.retry.doubt, now);
        }
        wait
    }
}
