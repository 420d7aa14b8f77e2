//! Whether the bodies that go to a bucket are signed.
//!
//! Where a checksum covers a body and nobody can change it on the way, a signature of it costs more
//! than the rest of the request and tells nobody anything. A bucket's policy may want it all the
//! same (`s3:x-amz-content-sha256`), and its refusal says no more than any other that access is
//! denied. So the first bodies that are denied are sent once more with a signature. Where that
//! helps, all are signed from then on; where it did not a few times, it is not tried again.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use super::FailureKind;

/// Bodies that are signed in vain before none is any more: keys may be denied for reasons of their
/// own.
const TRIALS: u32 = 3;

/// What is known of one bucket.
#[derive(Debug)]
pub(super) struct Bodies {
    unsigned_were_sent: AtomicBool,
    must_be_signed: AtomicBool,
    /// How many signatures may still be in vain. Held during a trial: what is denied meanwhile
    /// waits for its outcome.
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
    /// True once a signature has helped.
    pub(super) fn must_be_signed(&self) -> bool {
        self.must_be_signed.load(Ordering::Relaxed)
    }

    /// Notes that one goes without a signature.
    pub(super) fn sent_unsigned(&self) {
        self.unsigned_were_sent.store(true, Ordering::Relaxed);
    }

    /// Leave to send a body that was denied once more, signed; `None` where that is in vain.
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
