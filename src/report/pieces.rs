//! Writes a report to S3, piece by piece.
//!
//! ```text
//!  journal's writer ──► BucketReport ──queue──► PieceWriter ──► PUT If-None-Match: *
//!       Ledger            rewind, add             gathers          report-…/000007.jsonl
//! ```
//! The journal waits for S3 only when it syncs the report. A separate task gathers receipts, and
//! writes a piece once they are long or old enough ([`PieceLimits`]).
//!
//! A session begins with a piece without receipts. This piece shuts out an earlier session that is
//! still running: that session finds its next number taken, and stops writing the report. A failed
//! write may still have stored its piece. Then the next write finds its number taken by its own
//! session, uses the following number, and so discards the failed piece
//! ([`stored`](super::stored)).

use std::collections::BTreeSet;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crc_fast::{CrcAlgorithm, checksum_combine};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::ReportEnd;
use super::error::ReportError;
use super::frame::{Footer, GAP, ReportHeader};
use super::stored::{PieceHead, ReportBucket, ReportLength, RunDirectory, cut};
use crate::journal::{Ledger, host};
use crate::manifest::job::ReportPlace;
use crate::size::MIB;

/// The maximum number of attempts to find a free number. At first, other sessions may take numbers;
/// later, only pieces of this session whose responses were lost.
const ROUNDS: u32 = 8;

/// The limits at which gathered receipts are written. Each piece is a request that costs money.
#[derive(Clone, Copy, Debug)]
pub struct PieceLimits {
    /// The length in bytes at which a piece is written.
    pub bytes: u64,
    /// The longest time for which receipts gather.
    pub time: Duration,
    /// The maximum number of bytes that may wait for S3. During a run, receipts beyond this limit
    /// are dropped, and the journal adds them later. A replay of the journal waits until there is
    /// room.
    pub waiting: usize,
}

impl Default for PieceLimits {
    fn default() -> Self {
        Self {
            bytes: 4 * MIB,
            time: Duration::from_secs(15),
            waiting: 64 << 20,
        }
    }
}

/// A report in S3 that this session writes.
#[derive(Debug)]
pub struct BucketReport {
    queue: mpsc::UnboundedSender<PieceMessage>,
    shared: Arc<PieceShared>,
    directory: RunDirectory,
    /// The maximum number of bytes that may wait for S3.
    most_waiting: usize,
    /// The length of the report with its header only.
    header: u64,
    /// True if this session created the report, and has not rewound it or added a receipt yet. The
    /// report then contains nothing of an earlier session.
    is_new: bool,
    /// True after a rewind, while the journal adds receipts again.
    is_replaying: bool,
    /// True if receipts were dropped because too many waited.
    lags: bool,
}

/// The state that the writer of pieces shares with the report.
#[derive(Debug, Default)]
struct PieceShared {
    /// The pieces that count.
    kept: Mutex<Vec<PieceHead>>,
    /// The bytes in the queue.
    waiting: AtomicUsize,
    /// Notified when bytes leave the queue.
    taken: Notify,
}

impl PieceShared {
    /// Returns true if no more than this many bytes wait in the queue.
    fn has_room(&self, most: usize) -> bool {
        self.waiting.load(Ordering::Relaxed) <= most
    }

    /// Waits until there is room, or until the writer has ended and empties the queue no more.
    async fn room(&self, queue: &mpsc::UnboundedSender<PieceMessage>, most: usize) {
        while !queue.is_closed() && !self.has_room(most) {
            tokio::select! {
                // A notification that was sent before this wait also ends it.
                () = self.taken.notified() => {}
                () = queue.closed() => {}
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<PieceHead>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
enum PieceMessage {
    /// Adds a receipt.
    Receipt(String),
    /// Adds the line that says that receipts are missing.
    Gap,
    /// Truncates the report to this length.
    Rewind(u64),
    /// Makes the report durable.
    Sync(oneshot::Sender<Result<ReportLength, String>>),
    /// Adds the footer.
    Finish(Footer, oneshot::Sender<Result<(), Unfinished>>),
}

/// The reason why a report got no footer.
#[derive(Debug)]
enum Unfinished {
    /// Receipts could not be written.
    Receipts(String),
    /// The footer could not be written.
    Footer(String),
}

impl BucketReport {
    /// Creates the report of a run, or continues the report of an earlier session, and shuts out
    /// other sessions.
    ///
    /// # Errors
    /// [`ReportError::Store`], and [`ReportError::Unconditional`] if the endpoint cannot keep a
    /// second session out.
    pub async fn open(
        reports: &ReportBucket,
        origin: &ReportHeader,
        limits: PieceLimits,
    ) -> Result<Self, ReportError> {
        let directory = reports.of_run(&origin.run)?;
        directory.demand_conditions()?;
        let mut writer = PieceWriter {
            directory: directory.clone(),
            shared: Arc::default(),
            limits,
            run: origin.run.clone(),
            session: format!("{:016x}", fastrand::u64(..)),
            host: host(),
            next: 1,
            pending: Vec::new(),
            receipts: 0,
            since: None,
            error: None,
            is_shut_out: false,
        };
        let is_new = writer.begin(origin).await?;
        let shared = Arc::clone(&writer.shared);
        let header = shared.kept().first().map_or(0, |first| first.end.length);
        let (queue, messages) = mpsc::unbounded_channel();
        tokio::spawn(writer.serve(messages));
        Ok(Self {
            queue,
            shared,
            directory,
            most_waiting: limits.waiting,
            header,
            is_new,
            is_replaying: false,
            lags: false,
        })
    }

    /// Returns a handle that ends the report once the journal, which owns it, is closed.
    #[must_use]
    pub fn end(&self) -> ReportEnd {
        ReportEnd::Bucket(Box::new(BucketReportEnd {
            queue: self.queue.clone(),
            directory: self.directory.clone(),
        }))
    }

    fn send(&self, message: PieceMessage) {
        // If the writer has ended, the next sync fails.
        let _ = self.queue.send(message);
    }
}

impl Ledger for BucketReport {
    fn rewind(&mut self, length: u64) -> io::Result<u64> {
        let is_new = mem::take(&mut self.is_new);
        (self.is_replaying, self.lags) = (true, false);
        if length == 0 {
            self.send(PieceMessage::Rewind(self.header));
            return Ok(0);
        }
        let kept = self.shared.kept();
        let is_there = !is_new && kept.iter().any(|piece| piece.end.length == length);
        let last = kept.iter().rfind(|piece| !piece.footer);
        let end = last.map_or(self.header, |last| last.end.length);
        drop(kept);
        if is_there {
            self.send(PieceMessage::Rewind(length));
            return Ok(length);
        }
        // The pieces do not match the journal. A gap says so.
        self.send(PieceMessage::Rewind(end));
        self.send(PieceMessage::Gap);
        Ok(end + GAP.len() as u64)
    }

    fn add_gap(&mut self) {
        self.send(PieceMessage::Gap);
    }

    fn add(&mut self, receipt: &str) {
        self.is_new = false;
        if self.queue.is_closed() {
            // The writer has ended, so the next sync fails.
            return;
        }
        self.lags |= !self.is_replaying && !self.shared.has_room(self.most_waiting);
        if !self.lags {
            self.shared
                .waiting
                .fetch_add(receipt.len(), Ordering::Relaxed);
            self.send(PieceMessage::Receipt(receipt.to_owned()));
        }
    }

    fn sync(&mut self) -> io::Result<u64> {
        self.is_replaying = false;
        if self.lags {
            return Err(io::Error::other(
                "S3 did not take the receipts as fast as they came",
            ));
        }
        let (done, synced) = oneshot::channel();
        self.send(PieceMessage::Sync(done));
        let synced = synced.blocking_recv();
        let ended = |_| Err("the process is ending".to_owned());
        let end = synced.unwrap_or_else(ended).map_err(io::Error::other)?;
        // A report without receipts has length 0, because the next session may write a header of
        // another length.
        Ok(if end.length > self.header {
            end.length
        } else {
            0
        })
    }

    fn room(&self) -> BoxFuture<'static, ()> {
        let (shared, most) = (Arc::clone(&self.shared), self.most_waiting);
        let queue = self.queue.clone();
        async move { shared.room(&queue, most).await }.boxed()
    }
}

/// A handle that ends a report in S3.
#[derive(Debug)]
pub struct BucketReportEnd {
    queue: mpsc::UnboundedSender<PieceMessage>,
    directory: RunDirectory,
}

impl BucketReportEnd {
    pub(super) fn name(&self) -> String {
        self.directory.to_string()
    }

    pub(super) async fn finish(self, footer: &Footer) -> Result<(), ReportError> {
        let (done, finished) = oneshot::channel();
        // If the writer has ended, `finished` returns an error.
        let _ = self.queue.send(PieceMessage::Finish(footer.clone(), done));
        let ended = |_| Err(Unfinished::Footer("the process is ending".to_owned()));
        let finished = finished.await.unwrap_or_else(ended);
        let place = ReportPlace::Prefix(self.directory.uri());
        finished.map_err(|unfinished| match unfinished {
            Unfinished::Receipts(error) => ReportError::Unwritten { place, error },
            Unfinished::Footer(error) => ReportError::Footer { place, error },
        })
    }
}

/// The task that writes the pieces of a report.
struct PieceWriter {
    directory: RunDirectory,
    shared: Arc<PieceShared>,
    limits: PieceLimits,
    run: String,
    session: String,
    host: String,
    /// The number of the next piece.
    next: u64,
    /// The lines of the next piece.
    pending: Vec<u8>,
    /// The number of receipts among these lines.
    receipts: u64,
    /// The time when the first of these lines was added.
    since: Option<Instant>,
    /// The reason why receipts are missing since the last rewind.
    error: Option<String>,
    /// True once another session writes the report.
    is_shut_out: bool,
}

impl PieceWriter {
    /// Writes the first piece of this session. Returns true if the report is new, because no
    /// earlier piece counts.
    async fn begin(&mut self, origin: &ReportHeader) -> Result<bool, ReportError> {
        let mut rounds = 0;
        loop {
            let numbers = self.directory.numbers().await?;
            let kept = match self.directory.pieces(&numbers).await {
                Err(error @ ReportError::Damaged { .. }) => {
                    tracing::warn!(%error, "the report is started over");
                    Vec::new()
                }
                kept => kept?,
            };
            let is_new = kept.is_empty();
            self.next = last(&numbers) + 1;
            *self.shared.kept() = kept;
            let mut body = Vec::new();
            if is_new {
                serde_json::to_writer(&mut body, origin)
                    .map_err(|error| self.directory.damaged(error.to_string()))?;
                body.push(b'\n');
            }
            self.cut_footer();
            let head = self.head(&body, 0, false);
            match self.directory.create(&head, &body).await? {
                None => {
                    self.directory.try_condition(&head, &body).await?;
                    self.keep(head);
                    return Ok(is_new);
                }
                // An earlier session is still running, and its new piece must be read first.
                Some(_) if rounds < ROUNDS => rounds += 1,
                Some(other) => return Err(self.taken_over(other)),
            }
        }
    }

    /// Drops the footer of a session that was stopped.
    fn cut_footer(&self) {
        let mut kept = self.shared.kept();
        while kept.pop_if(|last| last.footer).is_some() {}
    }

    async fn serve(mut self, mut messages: mpsc::UnboundedReceiver<PieceMessage>) {
        loop {
            let due = self.since.map(|since| since + self.limits.time);
            let message = tokio::select! {
                message = messages.recv() => message,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.flush().await;
                    continue;
                }
            };
            let Some(message) = message else { return };
            self.take(message).await;
        }
    }

    async fn take(&mut self, message: PieceMessage) {
        match message {
            PieceMessage::Receipt(receipt) => {
                self.shared
                    .waiting
                    .fetch_sub(receipt.len(), Ordering::Relaxed);
                self.shared.taken.notify_one();
                self.add(&receipt);
                self.receipts += 1;
                if self.pending.len() as u64 >= self.limits.bytes {
                    self.flush().await;
                }
            }
            PieceMessage::Gap => self.add(GAP.trim_end()),
            PieceMessage::Rewind(length) => {
                self.clear();
                cut(&mut self.shared.kept(), length);
                if !self.is_shut_out {
                    self.error = None;
                }
            }
            PieceMessage::Sync(done) => {
                self.flush().await;
                let synced = self.error.clone().map_or(Ok(self.end()), Err);
                // The caller may have been stopped meanwhile.
                let _ = done.send(synced);
            }
            PieceMessage::Finish(footer, done) => {
                let _ = done.send(self.finish(footer).await);
            }
        }
    }

    /// Adds a line to the next piece. Drops lines after a failed write, until the journal rewinds
    /// the report and sends them again.
    fn add(&mut self, line: &str) {
        if self.error.is_none() {
            self.pending.extend_from_slice(line.as_bytes());
            self.pending.push(b'\n');
            self.since.get_or_insert_with(Instant::now);
        }
    }

    fn clear(&mut self) {
        (self.receipts, self.since) = (0, None);
        self.pending.clear();
    }

    /// Returns the length of the report so far.
    fn end(&self) -> ReportLength {
        let kept = self.shared.kept();
        kept.last().map(|last| last.end).unwrap_or_default()
    }

    /// Writes the gathered lines as a piece.
    async fn flush(&mut self) {
        if self.error.is_none() && !self.pending.is_empty() {
            let (body, receipts) = (mem::take(&mut self.pending), self.receipts);
            self.error = self.write(&body, receipts, false).await.err();
        }
        self.clear();
    }

    async fn finish(&mut self, footer: Footer) -> Result<(), Unfinished> {
        self.flush().await;
        if let Some(error) = &self.error {
            return Err(Unfinished::Receipts(error.clone()));
        }
        if let Some(piece) = self.removed_piece().await {
            return Err(Unfinished::Receipts(format!(
                "its piece {piece} was removed during the run"
            )));
        }
        let ReportLength { lines, sum, .. } = self.end();
        let footer = Footer {
            lines: Some(lines),
            checksum: Some(format!("{sum:016x}")),
            ..footer
        };
        let line = footer.line();
        let line = line.map_err(|error| Unfinished::Footer(error.to_string()))?;
        let written = self.write(&line, 0, true).await;
        written.map_err(Unfinished::Footer)
    }

    /// Returns the number of a piece that somebody has removed, if the list lacks it and S3
    /// confirms that. Ignores a list that fails, because S3 confirmed every piece when it was
    /// written.
    async fn removed_piece(&self) -> Option<u64> {
        let there = self.directory.numbers().await.ok()?;
        let numbers: Vec<_> = self.shared.kept().iter().map(|head| head.piece).collect();
        for piece in numbers.into_iter().filter(|piece| !there.contains(piece)) {
            if self.directory.is_gone(piece).await {
                return Some(piece);
            }
        }
        None
    }

    /// Writes a piece after the pieces that count.
    async fn write(&mut self, body: &[u8], receipts: u64, footer: bool) -> Result<(), String> {
        for _ in 0..ROUNDS {
            let head = self.head(body, receipts, footer);
            let created = self.directory.create(&head, body).await;
            match created.map_err(|error| error.to_string())? {
                None => {
                    self.keep(head);
                    return Ok(());
                }
                // An earlier piece of this session, whose response was lost.
                Some(other) if other.session == self.session => self.next += 1,
                Some(other) => {
                    self.is_shut_out = true;
                    return Err(self.taken_over(other).to_string());
                }
            }
        }
        Err("its numbers are taken".to_owned())
    }

    fn head(&self, body: &[u8], receipts: u64, footer: bool) -> PieceHead {
        let before = self.end();
        let length = body.len() as u64;
        let algorithm = CrcAlgorithm::Crc64Nvme;
        let own = crc_fast::checksum(algorithm, body);
        let end = ReportLength {
            length: before.length + length,
            lines: before.lines + receipts,
            sum: match (before.length, length) {
                (0, _) => own,
                (_, 0) => before.sum,
                _ => checksum_combine(algorithm, before.sum, own, length),
            },
        };
        PieceHead {
            piece: self.next,
            run: self.run.clone(),
            session: self.session.clone(),
            host: self.host.clone(),
            at: before.length,
            end,
            footer,
        }
    }

    fn keep(&mut self, head: PieceHead) {
        self.next = head.piece + 1;
        self.shared.kept().push(head);
    }

    fn taken_over(&self, other: PieceHead) -> ReportError {
        ReportError::TakenOver {
            place: self.directory.to_string(),
            host: other.host,
        }
    }
}

fn last(numbers: &BTreeSet<u64>) -> u64 {
    numbers.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    /// The code of the writer may panic while receipts are in its queue.
    #[tokio::test]
    async fn nobody_waits_for_a_writer_that_is_gone() {
        let (queue, messages) = mpsc::unbounded_channel();
        let shared = PieceShared::default();
        shared.waiting.store(2, Ordering::Relaxed);
        let mut room = pin!(shared.room(&queue, 1));
        assert!(room.as_mut().now_or_never().is_none());
        drop(messages);
        room.await;
        shared.room(&queue, 1).await;
    }
}
