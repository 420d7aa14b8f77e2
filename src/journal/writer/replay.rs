//! Adds the receipts in a journal to the report again.

use std::io;

use futures::future::BoxFuture;

use super::Ledger;
use crate::journal::event::{JournalEvent, ReceiptLine};
use crate::journal::store::Visitor;

/// A report that receives the events since the last snapshot.
pub(super) struct ReportReplay {
    pub(super) ledger: Box<dyn Ledger>,
    /// The length to which the report was truncated.
    pub(super) rewound: io::Result<u64>,
}

impl Visitor for ReportReplay {
    fn event(&mut self, event: JournalEvent) {
        if matches!(event, JournalEvent::RunBegan(_)) && self.rewound.is_ok() {
            // The bytes before belong to the report of an earlier run.
            self.rewound = self.ledger.rewind(0);
        }
        for receipt in receipts(&event) {
            self.ledger.add(receipt.as_str());
        }
    }

    fn room(&mut self) -> BoxFuture<'static, ()> {
        self.ledger.room()
    }
}

/// Returns the receipts that an event carries.
pub(super) fn receipts(event: &JournalEvent) -> &[ReceiptLine] {
    match event {
        JournalEvent::ObjectEnded {
            receipt: Some(receipt),
            ..
        } => std::slice::from_ref(receipt),
        JournalEvent::KeysPassed(passed) => &passed.receipts,
        JournalEvent::ObjectEnded { receipt: None, .. }
        | JournalEvent::RunBegan(_)
        | JournalEvent::RunResumed
        | JournalEvent::JobChanged(_)
        | JournalEvent::RunStopped
        | JournalEvent::RunEnded
        | JournalEvent::RangeBegan { .. }
        | JournalEvent::RangeCut { .. }
        | JournalEvent::RangePlanned { .. }
        | JournalEvent::TransferEnded { .. }
        | JournalEvent::ObjectPlanned { .. }
        | JournalEvent::UploadIntended { .. }
        | JournalEvent::UploadBegan { .. }
        | JournalEvent::PartStored { .. }
        | JournalEvent::CompleteIntended { .. }
        | JournalEvent::UploadEnded { .. }
        | JournalEvent::UploadKept { .. }
        | JournalEvent::PaceLearned(_) => &[],
    }
}
