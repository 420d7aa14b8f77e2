//! The task that writes a journal, and the handle that sends it events.
//!
//! Events arrive through a bounded queue. The task writes all events that have arrived since the
//! last write as one batch. If callers wait for any of them, it syncs once for the whole batch, so
//! one sync serves a hundred uploads. The task also folds the events, so a snapshot is simply its
//! state.
//!
//! The journal is the write-ahead log of the report. Receipts are part of events, and the task
//! passes them to the [`Ledger`] in order. It takes a snapshot only once the ledger is durable, and
//! records the ledger's length in it. After a crash, the next session truncates the report to that
//! length and appends the receipts since the snapshot again. A report that cannot be written
//! (because a disk is full) only delays snapshots: its receipts stay in the journal.

mod broken;
mod replay;

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::replay::{ReportReplay, receipts};
use super::error::JournalError;
use super::event::{JournalEvent, ReceiptLine};
use super::segment::push_record;
use super::state::RunState;
use super::store::Store;
use super::uploads::JournaledUpload;

/// The maximum number of events that wait for the writer. If it falls behind, senders wait too.
const QUEUE: usize = 8192;
/// The maximum number of events in one write.
const BATCH: usize = 4096;
/// The pause after a failed attempt to write the report: at least this time, and at least this
/// multiple of the attempt's duration, because each attempt reads all events since the last
/// snapshot again.
const REPORT_AGAIN: (Duration, u32) = (Duration::from_secs(5), 10);
/// The time after which events are made durable if no caller waits for them.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// The destination of receipts: the report.
pub trait Ledger: Send {
    /// Truncates the report to this length, which an earlier [`Ledger::sync`] returned. Later
    /// receipts are appended there. Returns the new length, which is less if the report was lost
    /// meanwhile, for instance with the disk of a pod.
    ///
    /// # Errors
    /// The report cannot be written.
    fn rewind(&mut self, length: u64) -> io::Result<u64>;

    /// Adds a line that says that receipts are missing, because earlier sessions wrote no report.
    fn add_gap(&mut self);

    /// Adds a receipt, which is a line of JSON without its end. The next [`Ledger::sync`] returns
    /// the error if it cannot be written.
    fn add(&mut self, receipt: &str);

    /// Makes all receipts durable, and returns the length of the report in bytes.
    ///
    /// # Errors
    /// Some receipts are not in the report.
    fn sync(&mut self) -> io::Result<u64>;

    /// Waits until the report has written enough of the added receipts that more fit into memory.
    /// After a rewind, receipts arrive as fast as the journal is read.
    fn room(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// The handle that sends events to the journal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    queue: mpsc::Sender<Message>,
    shared: Arc<WriterState>,
}

#[derive(Debug)]
struct WriterState {
    next_id: AtomicU64,
    keeps: bool,
    has_ledger: bool,
    /// The reason why the journal can no longer be written.
    error: OnceLock<JournalError>,
    /// Canceled once `error` is set, and when the writer ends.
    broken: CancellationToken,
}

#[derive(Debug)]
enum Message {
    /// An event, and the channel that is notified once it is durable.
    Event(JournalEvent, Option<oneshot::Sender<()>>),
    /// The receipt of an object that this session leaves to the next one.
    Left(ReceiptLine),
    /// Asks for the record of an open upload.
    Upload(u64, oneshot::Sender<Option<JournaledUpload>>),
    /// The last event, and the channel for the result.
    Close(JournalEvent, oneshot::Sender<Closed>),
}

/// The result of closing a journal.
#[derive(Clone, Debug)]
pub struct Closed {
    /// The final state.
    pub state: RunState,
    /// The reason why the report lacks receipts, if it does. The journal then still has them, and
    /// the run is not over: the next session adds them to the report.
    pub report: Result<(), String>,
}

impl Journal {
    /// Returns a new number for an object or an upload.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.shared.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns false if no journal is kept, so that unfinished objects start over in the next
    /// session.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.shared.keeps
    }

    /// Returns false if there is no report, so that no receipts are needed.
    #[must_use]
    pub fn has_ledger(&self) -> bool {
        self.shared.has_ledger
    }

    /// Sends an event to the writer, which makes it durable within about a second. Waits only if
    /// the queue is full.
    ///
    /// # Errors
    /// The journal can no longer be written.
    pub async fn append(&self, event: JournalEvent) -> Result<(), JournalError> {
        self.send(Message::Event(event, None)).await
    }

    /// Sends an event to the writer, and waits until it and all events before it are durable.
    ///
    /// # Errors
    /// The journal can no longer be written.
    pub async fn commit(&self, event: JournalEvent) -> Result<(), JournalError> {
        let (done, durable) = oneshot::channel();
        self.send(Message::Event(event, Some(done))).await?;
        match durable.await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failed().await),
        }
    }

    /// Reports an object that this session leaves to the next one. Such receipts are written last.
    /// The next session truncates the report before them, because it knows the objects from the
    /// events.
    ///
    /// # Errors
    /// The journal can no longer be written.
    pub async fn leave(&self, receipt: ReceiptLine) -> Result<(), JournalError> {
        self.send(Message::Left(receipt)).await
    }

    /// Returns the record of an open upload, which includes all events that were sent before this
    /// call.
    pub async fn open_upload(&self, upload: u64) -> Option<JournaledUpload> {
        let (asked, answer) = oneshot::channel();
        self.send(Message::Upload(upload, asked)).await.ok()?;
        answer.await.ok().flatten()
    }

    /// Ends the session with a last event, [`JournalEvent::RunStopped`] or
    /// [`JournalEvent::RunEnded`].
    ///
    /// # Errors
    /// The journal can no longer be written.
    pub async fn close(self, last: JournalEvent) -> Result<Closed, JournalError> {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(last, done)).await.is_ok()
            && let Ok(closed) = closed.await
        {
            return Ok(closed);
        }
        // The writer of a broken journal still writes receipts to the report.
        self.queue.closed().await;
        Err(self.failed().await)
    }

    /// Returns the token that is canceled when the journal can no longer be written: the run must
    /// end.
    #[must_use]
    pub fn broken(&self) -> &CancellationToken {
        &self.shared.broken
    }

    /// Returns the reason why the journal can no longer be written.
    #[must_use]
    pub fn error(&self) -> JournalError {
        self.shared
            .error
            .get()
            .cloned()
            .unwrap_or(JournalError::Closed)
    }

    async fn send(&self, message: Message) -> Result<(), JournalError> {
        match self.queue.send(message).await {
            // The writer may still add the receipt of this event to the report.
            Ok(()) if self.shared.broken.is_cancelled() => Err(self.error()),
            Ok(()) => Ok(()),
            Err(_) => Err(self.failed().await),
        }
    }

    /// Waits until the journal is broken or the writer has ended, and returns the reason.
    async fn failed(&self) -> JournalError {
        self.shared.broken.cancelled().await;
        self.error()
    }
}

/// The state and the ledger of the writer.
pub(super) struct Start {
    pub(super) state: RunState,
    /// The number of the next record.
    pub(super) next: u64,
    /// The length of the report at the last snapshot. The events since then contain the receipts
    /// that follow.
    pub(super) report: u64,
    pub(super) ledger: Option<Box<dyn Ledger>>,
}

/// The task that writes a journal.
pub(super) struct WriterTask<S> {
    store: S,
    start: Start,
    queue: mpsc::Receiver<Message>,
    shared: Arc<WriterState>,
    /// The time of the first write that is not durable yet.
    unsynced: Option<Instant>,
    last_write: Instant,
    /// The receipts of objects that this session leaves to the next one.
    left: Vec<ReceiptLine>,
    /// The time of the next attempt, after the report could not be written. No snapshot is taken
    /// before that time.
    report_rests: Option<Instant>,
    /// True once the last message has arrived.
    is_closing: bool,
}

impl<S: Store> WriterTask<S> {
    pub(super) fn new(store: S, start: Start) -> (Self, Journal) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(WriterState {
            next_id: AtomicU64::new(start.state.next_id),
            keeps: S::KEEPS,
            has_ledger: start.ledger.is_some(),
            error: OnceLock::new(),
            broken: CancellationToken::new(),
        });
        let journal = Journal {
            queue: sender,
            shared: Arc::clone(&shared),
        };
        let last_write = Instant::now();
        let (unsynced, left, report_rests) = (None, Vec::new(), None);
        (
            Self {
                store,
                start,
                queue,
                shared,
                unsynced,
                last_write,
                left,
                report_rests,
                is_closing: false,
            },
            journal,
        )
    }

    /// Brings the report up to date with the journal.
    pub(super) async fn recover(&mut self) -> Result<(), JournalError> {
        self.catch_up().await.map(|settled| {
            if let Err(error) = settled {
                tracing::warn!(%error, "the report lacks receipts, which stay in the journal for now");
            }
        })
    }

    /// Writes one event, and then a snapshot, which replaces everything before it.
    pub(super) async fn begin_with(&mut self, event: JournalEvent) -> Result<(), JournalError> {
        let mut lines = Vec::new();
        let first = self.start.next;
        self.record(&mut lines, &event);
        self.store.write(first, lines).await?;
        self.store.sync().await?;
        self.start.report = 0;
        self.store
            .snapshot(self.start.next, 0, &self.start.state)
            .await
    }

    pub(super) async fn run(mut self) {
        let mut is_ours = true;
        if let Err(error) = self.serve().await {
            tracing::debug!(%error, "the journal is broken");
            is_ours = !error.leaves_it_to_another();
            // Nothing else sets the error.
            let _ = self.shared.error.set(error);
            self.shared.broken.cancel();
            if is_ours {
                self.serve_report().await;
            }
        }
        if is_ours {
            self.store.release().await;
        }
        self.queue.close();
        self.shared.broken.cancel();
    }

    async fn serve(&mut self) -> Result<(), JournalError> {
        while let Some(batch) = self.gather().await? {
            let (mut lines, first) = (Vec::new(), self.start.next);
            let (mut waiting, mut close) = (Vec::new(), None);
            for message in batch {
                match message {
                    Message::Event(event, done) => {
                        self.record(&mut lines, &event);
                        waiting.extend(done);
                    }
                    Message::Left(receipt) => self.left.push(receipt),
                    Message::Upload(upload, asked) => {
                        let open = self.start.state.uploads.get(&upload).cloned();
                        // The caller may have been stopped meanwhile.
                        let _ = asked.send(open);
                    }
                    Message::Close(event, done) => {
                        self.is_closing = true;
                        close = close.or(Some((event, done)));
                    }
                }
            }
            if !lines.is_empty() {
                self.store.write(first, lines).await?;
                self.last_write = Instant::now();
                self.unsynced.get_or_insert(self.last_write);
            }
            if !waiting.is_empty() {
                self.sync().await?;
            }
            for done in waiting {
                // The caller may have been stopped meanwhile.
                let _ = done.send(());
            }
            if let Some((event, done)) = close {
                let closed = self.close(event).await?;
                let _ = done.send(closed);
                return Ok(());
            }
            self.look_after().await?;
            let rests = self
                .report_rests
                .is_some_and(|until| Instant::now() < until);
            if !rests && self.store.wants_snapshot() {
                self.snapshot().await?;
            }
        }
        self.sync().await
    }

    /// Syncs events that have waited long enough, and checks whether the journal is lost.
    /// [`Self::gather`] does the same, but not while messages keep arriving.
    async fn look_after(&mut self) -> Result<(), JournalError> {
        if let Some(error) = self.store.lost().now_or_never() {
            return Err(error);
        }
        if self
            .unsynced
            .is_some_and(|since| since.elapsed() >= SYNC_AFTER)
        {
            self.sync().await?;
        }
        Ok(())
    }

    /// Collects the messages to write next. Returns `None` if all senders were dropped.
    async fn gather(&mut self) -> Result<Option<Vec<Message>>, JournalError> {
        let first = loop {
            let unsynced = self.unsynced.map(|since| since + SYNC_AFTER);
            let is_due = async {
                match unsynced {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                message = self.queue.recv() => match message {
                    Some(message) => break message,
                    None => return Ok(None),
                },
                error = self.store.lost() => return Err(error),
                () = is_due => self.sync().await?,
            }
        };
        let is_urgent =
            |message: &Message| !matches!(message, Message::Event(_, None) | Message::Left(_));
        let (patient, hurry) = self.store.gather();
        let mut urgent = is_urgent(&first);
        let mut batch = vec![first];
        while batch.len() < BATCH {
            let until = self.last_write + if urgent { hurry } else { patient };
            let message = match self.queue.try_recv() {
                Ok(message) => message,
                Err(_) if until <= Instant::now() => break,
                Err(_) => tokio::select! {
                    message = self.queue.recv() => match message {
                        Some(message) => message,
                        None => break,
                    },
                    () = sleep_until(until) => break,
                },
            };
            urgent |= is_urgent(&message);
            batch.push(message);
        }
        Ok(Some(batch))
    }

    /// Folds an event, and adds its line and its receipts.
    fn record(&mut self, lines: &mut Vec<u8>, event: &JournalEvent) {
        // Whole milliseconds, as they are written, so that a replay results in exactly the same
        // state.
        let now = Timestamp::now();
        let at = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        push_record(lines, self.start.next, at, event);
        self.start.next += 1;
        self.start.state.apply(at, event);
        if let Some(ledger) = &mut self.start.ledger {
            for receipt in receipts(event) {
                ledger.add(receipt.as_str());
            }
        }
    }

    async fn sync(&mut self) -> Result<(), JournalError> {
        if self.unsynced.take().is_some() {
            self.sync_store().await?;
        }
        Ok(())
    }

    async fn snapshot(&mut self) -> Result<(), JournalError> {
        self.sync().await?;
        let began = Instant::now();
        let settled = self.settle().await?;
        self.report_rests = None;
        let report = match settled {
            Ok(length) => length,
            Err(error) => {
                let (least, times) = REPORT_AGAIN;
                self.report_rests = Some(Instant::now() + least.max(began.elapsed() * times));
                tracing::warn!(%error, "the report cannot be written; its receipts stay in the journal for now");
                return Ok(());
            }
        };
        self.store
            .snapshot(self.start.next, report, &self.start.state)
            .await?;
        self.start.report = report;
        Ok(())
    }

    async fn close(&mut self, last: JournalEvent) -> Result<Closed, JournalError> {
        let mut report = self.settle().await?.map(drop);
        // If receipts are missing, the run is not over, however its objects ended.
        let last = if report.is_err() && S::KEEPS {
            JournalEvent::RunStopped
        } else {
            last
        };
        let (mut lines, first) = (Vec::new(), self.start.next);
        self.record(&mut lines, &last);
        self.store.write(first, lines).await?;
        self.sync_store().await?;
        let checked = self.store.check_whole().await;
        self.repair_if_cut(checked).await?;
        if report.is_ok() {
            report = self.report_left().await;
        }
        self.store.release().await;
        Ok(Closed {
            state: self.start.state.clone(),
            report,
        })
    }

    /// Adds the receipts of objects that this session leaves to the next one.
    async fn report_left(&mut self) -> Result<(), String> {
        let left = std::mem::take(&mut self.left);
        if let Some(ledger) = self.start.ledger.as_mut().filter(|_| !left.is_empty()) {
            for receipt in &left {
                ledger.add(receipt.as_str());
            }
            self.sync_ledger().await?;
        }
        Ok(())
    }

    /// Makes the report durable with all receipts so far, and returns its length. Receipts that
    /// could not be written are read from the journal again.
    async fn settle(&mut self) -> Result<Result<u64, String>, JournalError> {
        match self.sync_ledger().await {
            Ok(length) => Ok(Ok(length)),
            Err(_) if S::KEEPS => self.catch_up().await,
            Err(error) => Ok(Err(error)),
        }
    }

    /// Returns the length in the last snapshot if the run has no report. Returns an error if the
    /// run began with a report: its code has panicked, and receipts are lost.
    fn without_ledger(&self) -> Result<u64, String> {
        if self.shared.has_ledger {
            return Err("it could no longer be written because of a bug in s3haul".to_owned());
        }
        Ok(self.start.report)
    }

    /// Makes the report durable and returns its length. Without a report, returns the length in the
    /// last snapshot.
    async fn sync_ledger(&mut self) -> Result<u64, String> {
        let Some(mut ledger) = self.start.ledger.take() else {
            return self.without_ledger();
        };
        let synced = spawn_blocking(move || {
            let synced = ledger.sync();
            (ledger, synced)
        });
        let (ledger, synced) = synced.await.map_err(|error| error.to_string())?;
        self.start.ledger = Some(ledger);
        synced.map_err(|error| error.to_string())
    }

    /// Truncates the report to its length at the last snapshot, adds the receipts since then, and
    /// returns its length. The outer error concerns the journal, the inner one the report.
    async fn catch_up(&mut self) -> Result<Result<u64, String>, JournalError> {
        let Some(mut ledger) = self.start.ledger.take() else {
            return Ok(self.without_ledger());
        };
        let rewound = ledger.rewind(self.start.report);
        if let Ok(length) = rewound
            && length < self.start.report
        {
            tracing::warn!(
                "the report is not what the session before left; receipts of that time are missing in it"
            );
        }
        let mut replay = ReportReplay { ledger, rewound };
        let read = self.store.tail(&mut replay).await;
        let ReportReplay {
            mut ledger,
            rewound,
        } = replay;
        if self.start.state.unreported > 0 {
            ledger.add_gap();
        }
        self.start.ledger = Some(ledger);
        read?;
        match rewound {
            // Lost receipts do not come back, so later calls rewind to the new length.
            Ok(length) => {
                self.start.report = length;
                Ok(self.sync_ledger().await)
            }
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
