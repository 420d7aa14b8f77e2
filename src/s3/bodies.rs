//! Decides whether the bodies that are sent to a bucket are signed.
//!
//! If a checksum covers a body and TLS protects it, signing the body costs more than the rest of
//! the request and adds nothing. A bucket's policy may demand it all the same
//! (`s3:x-amz-content-sha256`), and the refusal is an ordinary `AccessDenied`. So the first bodies
//! that are denied are sent once more with a signature. If that helps, all later bodies are signed;
//! after a few failures, it is not tried again.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use super::FailureKind;

/// The trials that may fail before no body is signed any more: keys may be denied for reasons of
/// their own.
const TRIALS: u32 = 3;

/// The state of one bucket.
#[derive(Debug)]
pub(super) struct Bodies {
    unsigned_were_sent: AtomicBool,
    must_be_signed: AtomicBool,
    /// The number of trials that may still fail. Locked during a trial: a request that is denied
    /// meanwhile waits for its outcome.
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

    /// Grants a trial: to send a denied body once more, signed. Returns `None` if that cannot help.
    pub(super) async fn trial(&self) -> Option<Trial<'_>> {
        if !self.unsigned_were_sent.load(Ordering::Relaxed) {
            return None;
        }
        let left = self.trials.lock().await;
        if self.must_be_signed() {
            return Some(Trial {
                bodies: self,
                left: None,
            });
        }
        (*left > 0).then_some(Trial {
            bodies: self,
            left: Some(left),
        })
    }
}

/// A body that is sent once more, signed.
#[derive(Debug)]
pub struct Trial<'b> {
    bodies: &'b Bodies,
    /// None where it is known to help.
    left: Option<MutexGuard<'b, u32>>,
}

impl Trial<'_> {
    /// Learns from the answer to the signed body.
    pub fn ended(self, failure: Option<&FailureKind>) {
        let Some(mut left) = self.left else { return };
        match failure {
            Some(FailureKind::Denied) => *left -= 1,
            // Rights are looked at before anything else.
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
