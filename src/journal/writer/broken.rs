//! The behavior of the writer once its journal is broken.
//!
//! If a part of the journal was truncated or removed, the writer replaces the journal with a
//! snapshot of the state in memory. If the journal can no longer be written, the run ends. Its
//! receipts still go to the report, which then shows the finished objects.

use super::{Message, WriterTask, receipts};
use crate::journal::error::JournalError;
use crate::journal::store::Store;

impl<S: Store> WriterTask<S> {
    /// Writes receipts to the report while a run with a broken journal ends. Callers that wait for
    /// the journal get an error.
    pub(super) async fn serve_report(&mut self) {
        while !self.is_closing
            && let Some(message) = self.queue.recv().await
        {
            match message {
                Message::Event(event, _) => {
                    if let Some(ledger) = &mut self.start.ledger {
                        for receipt in receipts(&event) {
                            ledger.add(receipt.as_str());
                        }
                    }
                }
                Message::Left(receipt) => self.left.push(receipt),
                Message::Upload(upload, asked) => {
                    let _ = asked.send(self.start.state.uploads.get(&upload).cloned());
                }
                Message::Close(..) => self.is_closing = true,
            }
        }
        let mut written = self.sync_ledger().await.map(drop);
        if written.is_ok() {
            written = self.report_left().await;
        }
        if let Err(error) = written {
            tracing::warn!(%error, "the report lacks receipts");
        }
    }

    /// Makes the journal durable. If a file was truncated, replaces the journal with a snapshot of
    /// the state in memory.
    pub(super) async fn sync_store(&mut self) -> Result<(), JournalError> {
        let synced = self.store.sync().await;
        self.repair_if_cut(synced).await
    }

    /// Replaces the journal with a snapshot of the state in memory if a check found a part of it
    /// truncated or removed.
    pub(super) async fn repair_if_cut(
        &mut self,
        checked: Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let cut = match checked {
            Err(error @ JournalError::Cut { .. }) => error,
            checked => return checked,
        };
        // The file contained the receipts since the last snapshot, so the report must be durable
        // first.
        let Ok(report) = self.sync_ledger().await else {
            return Err(cut);
        };
        self.store
            .snapshot(self.start.next, report, &self.start.state)
            .await?;
        self.start.report = report;
        tracing::warn!(
            "a part of the journal was truncated or removed during the run; the session writes a snapshot"
        );
        self.store.sync().await
    }
}
