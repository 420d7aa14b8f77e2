//! Sends the parts of one upload in parallel.
//!
//! A part starts only when it has a slot, so an object of 10,000 parts has only as many futures as
//! requests in flight. After the first failed part, no new parts start, and parts that wait for a
//! retry are canceled. Requests in flight may finish: an abort that overtakes them would leave
//! their parts behind.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::UploadSession;
use super::local::PartSender;
use crate::bucket::Answer;
use crate::execute::TransferContext;
use crate::execute::monitor::Event;
use crate::execute::object::local_file::OpenFile;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::object::stream_parts::StreamParts;
use crate::multipart::MultipartUpload;
use crate::pace::Slot;
use crate::pace::slots::SlotKind;
use crate::plan::parts::PartRange;
use crate::s3::{Failure, FailureKind, Operation, PartDone, SourcePin};

/// The interval at which a long queue is checked again.
const CLOG_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The source of the bytes of the parts.
pub(in crate::execute::object) enum PartSource<'a> {
    /// Ranges of an object that S3 copies.
    CopyRange {
        pin: Arc<SourcePin>,
        /// True if a part may be requested twice at once: both requests store the same part.
        may_send_twice: bool,
    },
    /// A local file.
    File(OpenFile, PartSender),
    /// A stream, whose parts are read one after another.
    Stream(&'a mut StreamParts, PartSender),
}

impl UploadSession<'_> {
    /// Sends all parts that S3 does not hold yet. Puts the confirmed parts into `done`, even if
    /// others fail.
    pub(in crate::execute::object) async fn send_all(
        &mut self,
        source: PartSource<'_>,
    ) -> Result<(), RoundFailure> {
        match source {
            PartSource::CopyRange {
                pin,
                may_send_twice,
            } => {
                // The held parts are copies of this source, so count them now. Held parts of a file
                // count only after a comparison with the file.
                self.done = self.held.to_vec();
                self.bytes = self.done.iter().map(|part| part.size).sum();
                self.announce();
                let upload = Arc::clone(&self.upload);
                // A part that is the whole object is copied without a range, because S3 refuses
                // ranges of tiny sources.
                let has_range = self.layout.count > 1;
                self.send_layout(move |part| {
                    let (upload, pin) = (Arc::clone(&upload), Arc::clone(&pin));
                    let range = has_range.then(|| part.first_last());
                    async move {
                        upload
                            .copy_part_with(part.number, &pin, range, part.length, may_send_twice)
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
                        let method = sender.method;
                        let (body, checksum, _permit) = file
                            .read_part(part, move |body| method.compute(body))
                            .await?;
                        sender.send_with_checksum(part.number, body, checksum).await
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
    async fn send_layout<F>(&mut self, send: impl Fn(PartRange) -> F) -> Result<(), RoundFailure>
    where
        F: Future<Output = Result<Answer<PartDone>, Failure>> + Send + 'static,
    {
        let (context, layout) = (self.context, self.layout.clone());
        let mut left = layout.size.saturating_sub(self.bytes);
        let held: BTreeSet<u32> = self.done.iter().map(|part| part.number).collect();
        let mut parts = layout
            .parts()
            .filter(|part| !held.contains(&part.number))
            .peekable();
        let mut next_slot = None;
        let mut running = PartsInFlight::of(&self.upload);
        loop {
            // If more parts would only wait in the queue, the parts in flight are enough.
            let is_clogged = !running.is_empty() && context.is_clogged(self.upload.key());
            let may_start = running.error.is_none() && parts.peek().is_some() && !is_clogged;
            if may_start && next_slot.is_none() {
                let slots = context.slots();
                next_slot = Some(slots.request(slots.bulk(left, layout.part_size)));
            }
            tokio::select! {
                Some(slot) = OptionFuture::from(next_slot.as_mut()) => {
                    next_slot = None;
                    match (slot, parts.next()) {
                        (Ok(slot), Some(part)) if running.error.is_none() => {
                            left -= part.length;
                            running.spawn(slot, send(part));
                        }
                        (Err(_), _) => running.fail(RoundFailure::Stopped),
                        _ => {}
                    }
                }
                Some(answer) = running.next(context) => self.record_part(answer, &mut running).await,
                // The queue may get shorter long before a part is confirmed.
                () = sleep(CLOG_CHECK_INTERVAL), if is_clogged => {}
                else => break,
            }
        }
        running.finish()
    }

    /// Sends the parts of a stream as they are read.
    async fn send_stream(
        &mut self,
        parts: &mut StreamParts,
        sender: PartSender,
    ) -> Result<(), RoundFailure> {
        let context = self.context;
        let mut running = PartsInFlight::of(&self.upload);
        loop {
            let mut next = pin!(parts.next(context));
            // The writer of the stream may be slow, so a failed part must not wait for its bytes.
            let next = loop {
                if running.error.is_some() {
                    break Ok(None);
                }
                tokio::select! {
                    next = &mut next => break next,
                    answer = running.one(context), if !running.is_empty() => {
                        if let Some(answer) = answer {
                            self.record_part(answer, &mut running).await;
                        }
                    }
                }
            };
            let part = match next {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => {
                    running.fail(error);
                    break;
                }
            };
            let Ok(slot) = context.slots().request(SlotKind::Bulk(u64::MAX)).await else {
                running.fail(RoundFailure::Stopped);
                break;
            };
            let sender = sender.clone();
            running.spawn(slot, async move {
                let answer = sender.send(part.number, part.body).await;
                drop(part.permit);
                answer
            });
        }
        while let Some(answer) = running.next(context).await {
            self.record_part(answer, &mut running).await;
        }
        running.finish()
    }

    /// Counts a part that S3 has confirmed, and records it.
    async fn record_part(&mut self, answer: Answer<PartDone>, running: &mut PartsInFlight) {
        let (id, bytes) = (Some(self.id), answer.value.size);
        self.attempts += answer.attempts;
        self.bytes = self.bytes.saturating_add(bytes);
        let recorded = self.record.part(self.context, &answer.value).await;
        self.done.push(answer.value);
        self.context
            .monitor
            .observe(&Event::BytesCopied { id, bytes });
        if let Err(error) = recorded {
            running.fail(error);
        }
    }
}

/// The part requests in flight.
#[derive(Debug)]
struct PartsInFlight {
    tasks: JoinSet<Result<Answer<PartDone>, Failure>>,
    /// Cancels the requests that wait in the queue or for a retry.
    cancellation: CancellationToken,
    /// The first error; no part starts after it.
    error: Option<RoundFailure>,
}

impl PartsInFlight {
    /// Returns an empty set of requests of this upload.
    fn of(upload: &MultipartUpload) -> Self {
        Self {
            tasks: JoinSet::new(),
            cancellation: upload.cancellation(),
            error: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Starts a part, which keeps its slot until its request ends.
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

    /// Records the first error. Cancels the waiting requests, unless the run stops: a stop ends
    /// them anyway.
    fn fail(&mut self, error: RoundFailure) {
        if !matches!(error, RoundFailure::Stopped) {
            self.cancellation.cancel();
        }
        self.error.get_or_insert(error);
    }

    /// Waits for the next confirmed part. Returns `None` once no part is in flight.
    async fn next(&mut self, context: &TransferContext) -> Option<Answer<PartDone>> {
        while !self.is_empty() {
            if let Some(answer) = self.one(context).await {
                return Some(answer);
            }
        }
        None
    }

    /// Waits until one part ends. Returns `None` if the part failed, or if no part is in flight.
    async fn one(&mut self, context: &TransferContext) -> Option<Answer<PartDone>> {
        let joined = tokio::select! {
            joined = self.tasks.join_next() => joined?,
            // The drain time is over, so requests in flight may no longer finish.
            () = context.halt.cancelled(), if !self.tasks.is_empty() => {
                self.fail(RoundFailure::Stopped);
                self.tasks.abort_all();
                self.tasks.join_next().await?
            }
        };
        self.answer_of(joined)
    }

    /// Returns the result of a request that succeeded, or records the error and returns `None`.
    fn answer_of(
        &mut self,
        joined: Result<Result<Answer<PartDone>, Failure>, JoinError>,
    ) -> Option<Answer<PartDone>> {
        match joined {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(failure)) => self.fail(failure.into()),
            Err(error) if error.is_cancelled() => self.fail(RoundFailure::Stopped),
            Err(error) => {
                let message = format!("a part's task panicked: {error}");
                self.fail(
                    Failure::new(FailureKind::Bug, Operation::UploadPart, "", message).into(),
                );
            }
        }
        None
    }

    /// Returns the outcome once no part is in flight.
    fn finish(self) -> Result<(), RoundFailure> {
        self.error.map_or(Ok(()), Err)
    }
}
