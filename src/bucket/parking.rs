//! Gives back the slot of a request that waits for its turn.
//!
//! A request of an object holds a slot, and keeps it from one attempt to the next. While the
//! request waits after a refusal or in a long queue, the slot is idle. Under a prefix where every
//! request is refused, such requests would hold all slots of the run within a minute. So a waiting
//! request gives its slot back, and takes the next free one when its turn comes.
//!
//! A request may give its slot back only if no holder of a slot waits for it. Otherwise both could
//! wait for each other. Requests whose response all objects wait for, and requests that hold upload
//! memory, are awaited by slot holders. So only copies, and the HEAD with which an object starts,
//! give their slots back.

use std::time::Duration;

use super::Bucket;
use crate::pace::Admitted;
use crate::pace::outage::OutageTimeout;
use crate::pace::slots::Parked;
use crate::s3::{Failure, FailureKind, Operation};

/// A request that would wait in the queue longer than this gives its slot back.
const LONG_QUEUE: Duration = Duration::from_millis(200);
/// A `CopyObject` of more bytes than this takes a slot of bulk work.
pub(crate) const BULK_FROM: u64 = 16 << 20;

impl Bucket {
    /// Returns this bucket for objects whose copies give their slots back while they wait.
    #[must_use]
    pub(crate) fn parking_copies(&self) -> Self {
        Self {
            parkable: ParkableRequests::Copies,
            ..self.clone()
        }
    }

    /// Returns this bucket for a HEAD that gives its slot back while it waits.
    #[must_use]
    pub(crate) fn parking_heads(&self) -> Self {
        Self {
            parkable: ParkableRequests::Heads,
            ..self.clone()
        }
    }

    /// Waits until a request about the keys near `at` may be sent and, if it was parked, has its
    /// slot back. Returns `None` if the request was canceled in the meantime.
    pub(super) async fn admitted<'a>(
        &'a self,
        at: &'a str,
        operation: Operation,
        bytes: u64,
        attempts: u32,
        parked: Option<Parked>,
    ) -> Option<Result<Admitted<'a>, OutageTimeout>> {
        let parked = parked.or_else(|| self.park_if_queue_is_long(at, operation, bytes));
        let lanes = self.lanes(operation.class());
        let wait = async {
            let patience = self.retry.patience;
            let admitted = if self.goes_ahead() {
                self.pacer
                    .admit_without_queue(lanes, at, bytes, patience)
                    .await
            } else {
                self.pacer.admit(lanes, at, bytes, patience).await
            };
            if let Some(parked) = parked {
                parked.back().await;
            }
            admitted
        };
        tokio::select! {
            biased;
            // Cancellation is checked first, because a canceled request must not be sent even if
            // it is its turn.
            () = self.cancellation.cancelled() => None,
            admitted = wait => Some(admitted),
            () = self.becomes_pointless(operation, at, attempts) => None,
        }
    }

    /// Gives back the slot of a request about the keys near `at` if it would wait long in the
    /// queue.
    fn park_if_queue_is_long(&self, at: &str, operation: Operation, bytes: u64) -> Option<Parked> {
        if !self.may_park(operation) {
            return None;
        }
        let delay = self
            .lanes(operation.class())
            .queue_delay(at, self.pacer.elapsed());
        if delay < LONG_QUEUE {
            None
        } else {
            self.park(operation, bytes)
        }
    }

    /// Gives back the slot of a request that was throttled, or whose connection is not served,
    /// until it is sent again.
    pub(super) fn park_failed(
        &self,
        failure: &Failure,
        bytes: u64,
        is_unserved: bool,
    ) -> Option<Parked> {
        let operation = failure.details().operation;
        let is_throttled = *failure.kind() == FailureKind::Throttled;
        if (is_throttled || is_unserved) && self.may_park(operation) {
            self.park(operation, bytes)
        } else {
            None
        }
    }

    fn park(&self, operation: Operation, bytes: u64) -> Option<Parked> {
        let is_bulk = operation == Operation::UploadPartCopy
            || (operation == Operation::CopyObject && bytes > BULK_FROM);
        self.pacer.slots().park(is_bulk)
    }

    fn may_park(&self, operation: Operation) -> bool {
        match self.parkable {
            ParkableRequests::Nothing => false,
            ParkableRequests::Copies => {
                matches!(operation, Operation::CopyObject | Operation::UploadPartCopy)
            }
            ParkableRequests::Heads => operation == Operation::HeadObject,
        }
    }
}

/// The kind of request that gives its slot back while it waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ParkableRequests {
    #[default]
    Nothing,
    Copies,
    Heads,
}
