//! Decides whether requests to a bucket sign their bodies.
//!
//! If a checksum covers a body and TLS protects it, signing the body costs more than the rest of
//! the request and adds nothing. A bucket policy may still require it (`s3:x-amz-content-sha256`),
//! and its refusal is an ordinary `AccessDenied`. So s3haul sends the first denied bodies once
//! more, signed. If that helps, it signs all later bodies. After a few failures, it stops trying.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use super::FailureKind;

/// The number of trials that may fail before s3haul stops trying: a request may be denied for other
/// reasons.
const TRIALS: u32 = 3;

/// The state of one bucket.
#[derive(Debug)]
pub(super) struct Bodies {
    unsigned_were_sent: AtomicBool,
    must_be_signed: AtomicBool,
    /// The number of trials that may still fail. Locked during a trial, so that a request that is
    /// denied in the meantime waits for its outcome.
    trials: Mutex<u32>,
}

impl Default for Bodies {
    fn default() -> Self {
        let no = || AtomicBool::new(false);
        Self {
            unsigned_were_sent: no(),
            must_be_signed: no(),
            trials: Mutex::new(TRIALS),
        }
    }
}

impl Bodies {
    /// Returns true once a signature has helped.
    pub(super) fn must_be_signed(&self) -> bool {
        self.must_be_signed.load(Ordering::Relaxed)
    }

    /// Notes that a body is sent without a signature.
    pub(super) fn sent_unsigned(&self) {
        self.unsigned_were_sent.store(true, Ordering::Relaxed);
    }

    /// Grants a trial, which sends a denied body once more, signed. Returns `None` if that cannot
    /// help.
    pub(super) async fn signed_retry(&self) -> Option<SignedRetry<'_>> {
        if !self.unsigned_were_sent.load(Ordering::Relaxed) {
            return None;
        }
        let left = self.trials.lock().await;
        if self.must_be_signed() {
            return Some(SignedRetry {
                bodies: self,
                left: None,
            });
        }
        (*left > 0).then_some(SignedRetry {
            bodies: self,
            left: Some(left),
        })
    }
}

/// The trial of sending a denied body once more, signed.
#[derive(Debug)]
pub struct SignedRetry<'b> {
    bodies: &'b Bodies,
    /// The number of trials that may still fail; `None` if signatures are known to help.
    left: Option<MutexGuard<'b, u32>>,
}

impl SignedRetry<'_> {
    /// Learns from the response to the signed body.
    pub fn ended(self, failure: Option<&FailureKind>) {
        let Some(mut left) = self.left else { return };
        match failure {
            Some(FailureKind::Denied) => *left -= 1,
            // S3 checks permissions first, so these refusals show that the signature helped.
            None
            | Some(
                FailureKind::PreconditionFailed | FailureKind::Conflict | FailureKind::NoSuchUpload,
            ) => {
                self.bodies.must_be_signed.store(true, Ordering::Relaxed);
            }
            Some(_) => {}
        }
    }
}
