//! Sends the parts of one upload in parallel.
//!
//! A part begins only when there is a slot for it, so a 10,000-part object holds only as many
//! futures as it has requests in flight. After the first failed part no new ones begin, and those
//! that wait for their next attempt are cancelled; requests in flight may finish, because an abort
//! that overtakes a part leaves it behind.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::UploadSession;
use super::local::LocalParts;
use crate::bucket::Answer;
use crate::execute::Work;
use crate::execute::monitor::Event;
use crate::execute::object::file::OpenFile;
use crate::execute::object::stream::StreamParts;
use crate::execute::object::trouble::Trouble;
use crate::pace::Slot;
use crate::pace::slots::Want;
use crate::plan::parts::PartRange;
use crate::s3::{Failure, FailureKind, Operation, PartDone, SourcePin};

/// The interval at which a queue in which parts would wait long is checked again.
const CLOGGED: Duration = Duration::from_millis(50);

/// The place of the bytes of the parts.
pub(in crate::execute::object) enum PartSource<'a> {
    /// Ranges of an object, which S3 copies.
    CopyRange {
        pin: Arc<SourcePin>,
        /// Two requests may store the same part.
        twice: bool,
    },
    /// A file of this machine.
    File(OpenFile, LocalParts),
    /// A stream, whose parts are read one after the other.
    Stream(&'a mut StreamParts, LocalParts),
}

impl UploadSession<'_> {
    /// Sends all parts that S3 does not hold yet. Those that it has confirmed are in `done`, even
    /// on failure.
    pub(in crate::execute::object) async fn send_all(
        &mut self,
        source: PartSource<'_>,
    ) -> Result<(), Trouble> {
        match source {
            PartSource::CopyRange { pin, twice } => {
                // S3 has copied what it holds. Parts of a file are compared with it first.
                self.done = self.held.to_vec();
                self.bytes = self.done.iter().map(|part| part.size).sum();
                self.announce();
                let upload = Arc::clone(&self.upload);
                // A part that is the whole object is named without a range: tiny sources refuse
                // ranges.
                let has_range = self.layout.count > 1;
                self.send_layout(move |part| {
                    let (upload, pin) = (Arc::clone(&upload), Arc::clone(&pin));
                    let range = has_range.then(|| part.first_last());
                    async move {
                        upload
                            .copy_range(part.number, &pin, range, part.length, twice)
                            .await
                    }
                })
                .await
            }
            PartSource::File(file, sender) => {
                self.announce();
                self.send_layout(move |part| {
                    let (file, sender) = (file.clone(), sender.clone());
                    async move {
                        let sums = sender.sums;
                        let (body, sums, _permit) =
                            file.read_part(part, move |body| sums.of(body)).await?;
                        sender.send_summed(part.number, body, sums).await
                    }
                })
                .await
            }
            PartSource::Stream(parts, sender) => {
                self.announce();
                self.send_stream(parts, sender).await
            }
        }
    }

    /// Runs `send` for every part of the layout that S3 does not hold yet.
    async fn send_layout<F>(&mut self, send: impl Fn(PartRange) -> F) -> Result<(), Trouble>
    where
        F: Future<Output = Result<Answer<PartDone>, Failure>> + Send + 'static,
    {
        let (work, layout) = (self.work, self.layout.clone());
        let mut left = layout.size.saturating_sub(self.bytes);
        let held: BTreeSet<u32> = self.done.iter().map(|part| part.number).collect();
        let mut parts = layout
            .parts()
            .filter(|part| !held.contains(&part.number))
            .peekable();
        let mut place = None;
        let mut running = self.none_in_flight();
        loop {
            // If parts would wait in the queue, those that already wait are enough.
            let is_clogged = !running.is_empty() && work.is_clogged(self.upload.key());
            if place.is_none() && running.trouble.is_none() && parts.peek().is_some() && !is_clogged
            {
                let slots = work.slots();
                place = Some(slots.request(slots.bulk(left, layout.part_size)));
            }
            tokio::select! {
                Some(slot) = OptionFuture::from(place.as_mut()) => {
                    place = None;
                    match (slot, parts.next()) {
                        (Ok(slot), Some(part)) if running.trouble.is_none() => {
                            left -= part.length;
                            running.spawn(slot, send(part));
                        }
                        (Err(_), _) => running.fail(Trouble::Stopped),
                        _ => {}
                    }
                }
                Some(answer) = running.next(work) => self.take(answer, &mut running).await,
                // The queue gets shorter long before the first of many parts is answered.
                () = sleep(CLOGGED), if is_clogged => {}
                else => break,
            }
        }
        running.finish()
    }

    /// Sends the parts of a stream as they are read.
    async fn send_stream(
        &mut self,
        parts: &mut StreamParts,
        sender: LocalParts,
    ) -> Result<(), Trouble> {
        let work = self.work;
        let mut running = self.none_in_flight();
        loop {
            let next = parts.next(work).await;
            while let Some(joined) = running.tasks.try_join_next() {
                if let Some(answer) = running.sort(joined) {
                    self.take(answer, &mut running).await;
                }
            }
            let part = match next {
                Ok(Some(part)) if running.trouble.is_none() => part,
                Ok(_) => break,
                Err(trouble) => {
                    running.fail(trouble);
                    break;
                }
            };
            let Ok(slot) = work.slots().request(Want::Bulk(u64::MAX)).await else {
                running.fail(Trouble::Stopped);
                break;
            };
            let sender = sender.clone();
            running.spawn(slot, async move {
                let answer = sender.send(part.number, part.body).await;
                drop(part.permit);
                answer
            });
        }
        while let Some(answer) = running.next(work).await {
            self.take(answer, &mut running).await;
        }
        running.finish()
    }

    /// Counts a part that S3 has confirmed, and records it.
    async fn take(&mut self, answer: Answer<PartDone>, running: &mut PartsInFlight) {
        let (id, bytes) = (Some(self.id), answer.value.size);
        self.attempts += answer.attempts;
        self.bytes = self.bytes.saturating_add(bytes);
        let recorded = self.record.part(self.work, &answer.value).await;
        self.done.push(answer.value);
        self.work.monitor.observe(&Event::BytesCopied { id, bytes });
        if let Err(trouble) = recorded {
            running.fail(trouble);
        }
    }

    fn none_in_flight(&self) -> PartsInFlight {
        PartsInFlight {
            tasks: JoinSet::new(),
            over: self.upload.called_off(),
            trouble: None,
        }
    }
}

/// The part requests in flight, and the first trouble among them.
#[derive(Debug)]
struct PartsInFlight {
    tasks: JoinSet<Result<Answer<PartDone>, Failure>>,
    over: CancellationToken,
    trouble: Option<Trouble>,
}

impl PartsInFlight {
    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Sends a part, which keeps its slot until it is answered.
    fn spawn<F>(&mut self, slot: Slot, part: F)
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
    fn fail(&mut self, trouble: Trouble) {
        if !matches!(trouble, Trouble::Stopped) {
            self.over.cancel();
        }
        self.trouble.get_or_insert(trouble);
    }

    /// Waits for the next confirmed part. Returns `None` once no part is in flight.
    async fn next(&mut self, work: &Work) -> Option<Answer<PartDone>> {
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
    fn finish(self) -> Result<(), Trouble> {
        self.trouble.map_or(Ok(()), Err)
    }
}
