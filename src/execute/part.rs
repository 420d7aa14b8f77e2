//! Sends the parts of one object in parallel.
//!
//! A part begins only when there is a slot for it, so a 10,000-part object holds only as many
//! futures as it has requests in flight. After the first failed part no new ones begin, and those
//! that wait for their next attempt are cancelled; requests in flight may finish, because an abort
//! that overtakes a part leaves it behind.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use futures::future::OptionFuture;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::adopt::Begun;
use super::{Trouble, Work};
use crate::bucket::Answer;
use crate::location::ObjectKey;
use crate::pace::Slot;
use crate::plan::parts::{PartLayout, PartRange};
use crate::s3::{Failure, FailureKind, Operation, PartDone};

use super::monitor::Event;
use super::tracked::Tracked;

/// The interval at which a queue in which parts would wait long is checked again.
const CLOGGED: Duration = Duration::from_millis(50);

/// The progress of an upload.
#[derive(Debug)]
pub(super) struct Progress {
    tracked: Tracked,
    /// Cancelled to end the requests of the upload that wait.
    over: CancellationToken,
    /// The key of the object at the destination.
    key: ObjectKey,
    /// Parts that S3 has confirmed.
    pub(super) done: Vec<PartDone>,
    /// Attempts that the confirmed parts took.
    pub(super) attempts: u32,
    /// Bytes of the confirmed parts.
    pub(super) bytes: u64,
}

impl Progress {
    /// Returns the progress of an upload of which S3 already holds `kept`.
    pub(super) fn of(begun: &Begun, kept: Vec<PartDone>) -> Self {
        let bytes = kept.iter().map(|part| part.size).sum();
        let (over, key) = (begun.upload.called_off(), begun.upload.key().clone());
        Self {
            tracked: begun.tracked,
            over,
            key,
            done: kept,
            attempts: 0,
            bytes,
        }
    }

    /// Returns a set of part requests, with none in flight yet.
    pub(super) fn begin(&self) -> Running {
        Running {
            tasks: JoinSet::new(),
            over: self.over.clone(),
            trouble: None,
        }
    }

    async fn take(
        &mut self,
        work: &Work,
        id: u64,
        answer: Answer<PartDone>,
    ) -> Result<(), Trouble> {
        let bytes = answer.value.size;
        self.attempts += answer.attempts;
        self.bytes = self.bytes.saturating_add(bytes);
        let recorded = self.tracked.part(work, &answer.value).await;
        self.done.push(answer.value);
        work.monitor.observe(&Event::BytesCopied {
            id: Some(id),
            bytes,
        });
        recorded
    }
}

/// Runs `start` for every part of the layout that S3 does not hold yet. Confirmed parts are in
/// `progress` even on failure.
pub(super) async fn all<F>(
    work: &Work,
    id: u64,
    layout: PartLayout,
    progress: &mut Progress,
    start: impl Fn(PartRange) -> F,
) -> Result<(), Trouble>
where
    F: Future<Output = Result<Answer<PartDone>, Failure>> + Send + 'static,
{
    let mut left = layout.size.saturating_sub(progress.bytes);
    let held: BTreeSet<u32> = progress.done.iter().map(|part| part.number).collect();
    let mut parts = layout
        .parts()
        .filter(|part| !held.contains(&part.number))
        .peekable();
    let mut place = None;
    let mut running = progress.begin();
    loop {
        // If parts would wait in the queue, those that already wait are enough.
        let is_clogged = !running.is_empty() && work.is_clogged(&progress.key);
        if place.is_none() && running.trouble.is_none() && parts.peek().is_some() && !is_clogged {
            place = Some(
                work.slots()
                    .request(work.slots().bulk(left, layout.part_size)),
            );
        }
        tokio::select! {
            Some(slot) = OptionFuture::from(place.as_mut()) => {
                place = None;
                match (slot, parts.next()) {
                    (Ok(slot), Some(part)) if running.trouble.is_none() => {
                        left -= part.length;
                        running.spawn(slot, start(part));
                    }
                    (Err(_), _) => running.fail(Trouble::Stopped),
                    _ => {}
                }
            }
            Some(answer) = running.next(work) => {
                if let Err(trouble) = progress.take(work, id, answer).await {
                    running.fail(trouble);
                }
            }
            // The queue gets shorter long before the first of many parts is answered.
            () = sleep(CLOGGED), if is_clogged => {}
            else => break,
        }
    }
    running.finish()
}

/// The part requests in flight, and the first trouble among them.
#[derive(Debug)]
pub(super) struct Running {
    tasks: JoinSet<Result<Answer<PartDone>, Failure>>,
    over: CancellationToken,
    pub(super) trouble: Option<Trouble>,
}

impl Running {
    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Sends a part, which keeps its slot until it is answered.
    pub(super) fn spawn<F>(&mut self, slot: Slot, part: F)
    where
        F: Future<Output = Result<Answer<PartDone>, Failure>> + Send + 'static,
    {
        self.tasks.spawn(async move {
            let answer = part.await;
            drop(slot);
            answer
        });
    }

    /// Records trouble; the first one counts. Parts that wait for their turn or their next attempt
    /// are no longer sent, unless the run only stops: then they are treated like all other
    /// requests.
    pub(super) fn fail(&mut self, trouble: Trouble) {
        if !matches!(trouble, Trouble::Stopped) {
            self.over.cancel();
        }
        self.trouble.get_or_insert(trouble);
    }

    /// Waits for the next confirmed part. Returns `None` once no part is in flight.
    pub(super) async fn next(&mut self, work: &Work) -> Option<Answer<PartDone>> {
        loop {
            let joined = tokio::select! {
                joined = self.tasks.join_next() => joined?,
                // Requests in flight may no longer finish.
                () = work.halt.cancelled(), if !self.tasks.is_empty() => {
                    self.fail(Trouble::Stopped);
                    self.tasks.abort_all();
                    self.tasks.join_next().await?
                }
            };
            if let Some(answer) = self.sort(joined) {
                return Some(answer);
            }
        }
    }

    /// Takes the answers that have already arrived, without waiting.
    pub(super) async fn collect(&mut self, work: &Work, id: u64, progress: &mut Progress) {
        while let Some(joined) = self.tasks.try_join_next() {
            if let Some(answer) = self.sort(joined)
                && let Err(trouble) = progress.take(work, id, answer).await
            {
                self.fail(trouble);
            }
        }
    }

    fn sort(
        &mut self,
        joined: Result<Result<Answer<PartDone>, Failure>, JoinError>,
    ) -> Option<Answer<PartDone>> {
        match joined {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(failure)) => self.fail(failure.into()),
            Err(error) if error.is_cancelled() => self.fail(Trouble::Stopped),
            Err(error) => {
                let message = format!("a part's task panicked: {error}");
                self.fail(
                    Failure::new(FailureKind::Bug, Operation::UploadPart, "", message).into(),
                );
            }
        }
        None
    }

    /// Returns the outcome, once no part is in flight.
    pub(super) fn finish(self) -> Result<(), Trouble> {
        self.trouble.map_or(Ok(()), Err)
    }
}

/// Waits for all parts in flight, and counts them in `progress`.
pub(super) async fn drain(running: &mut Running, work: &Work, id: u64, progress: &mut Progress) {
    while let Some(answer) = running.next(work).await {
        if let Err(trouble) = progress.take(work, id, answer).await {
            running.fail(trouble);
        }
    }
}
