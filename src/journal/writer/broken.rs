//! The behaviour of the writer once its journal is broken.
//!
//! A file that was cut is replaced, because the state that it stands for is in memory. When the
//! journal cannot be written any more, the run ends; its receipts still go to the report, so that
//! somebody knows what is done and what is not.

use super::{Message, WriterTask, receipts};
use crate::journal::error::JournalError;
use crate::journal::store::Store;

impl<S: Store> WriterTask<S> {
    /// Goes on writing receipts to the report while a run with a broken journal ends. Senders that
    /// wait for the journal get an error.
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

    /// Makes the journal durable. One that somebody cut is written anew, because the state that it
    /// stands for is in memory.
    pub(super) async fn sync_store(&mut self) -> Result<(), JournalError> {
        let cut = match self.store.sync().await {
            Err(error @ JournalError::Cut { .. }) => error,
            synced => return synced,
        };
        // The receipts since the last snapshot were in it.
        let Ok(report) = self.sync_ledger().await else {
            return Err(cut);
        };
        self.store
            .snapshot(self.start.next, report, &self.start.state)
            .await?;
        self.start.report = report;
        tracing::warn!("the journal was cut while the run was at work, and is written anew");
        self.store.sync().await
    }
}
