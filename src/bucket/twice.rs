//! Sends a request once more when its response is overdue, and takes the first good response.
//!
//! The first request stays in flight, because it may be lost or just slow. The second one waits for
//! a slot and for the user's limits, like every request. It uses another connection, because the
//! first request occupies its own. If the second one fails or is overdue too, another one is sent:
//! up to four in all, at most three in flight. [`crate::pace::latency`] decides when a request is
//! overdue and limits how many are sent twice.
//!
//! Reads may always be sent twice. A `CopyObject` may be sent twice if both requests leave one
//! version of the same object ([`Repeat::IfOneVersion`]): the server reads exactly the pinned
//! version of the source, and either a condition lets only one request write, or the bucket keeps
//! no versions. A `CreateMultipartUpload` may be sent twice, because the upload of the losing
//! request is awaited and aborted ([`super::creates`]). An `UploadPartCopy` may be sent twice if
//! both requests create the same part: the same range of a pinned version, on a server whose
//! `ETag`s follow from the bytes. The second request may still arrive after the object is
//! published, and then changes nothing. Requests that abort an upload, set tags or an annotation,
//! or start a restore may be sent twice, too. A second `CompleteMultipartUpload` is sent only after
//! a check that the upload is still open ([`crate::multipart`]).
//!
//! A server that serves few connections leaves whole waves of requests hanging
//! ([`crate::s3::served`]). Such requests are not sent twice. They are given up, and sent again
//! when a served connection is free.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Either, OptionFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::history::KnownVersioning;
use super::stopping::Purpose;
use super::{Bucket, Repeat};
use crate::location::ObjectKey;
use crate::pace::Admitted;
use crate::pace::latency::LEAST as LATENCY_MARGIN;
use crate::pace::slots::{Slot, SlotKind};
use crate::s3::progress::{Progress, within};
use crate::s3::{Failure, Operation, SourcePin, Versioning, WriteCondition};

/// The interval at which a request that cannot be sent twice yet is checked again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The maximum number of requests of one attempt that are in flight at once.
const MAX_CONCURRENT: usize = 3;
/// The maximum number of requests of one attempt.
const MAX_REQUESTS: usize = 4;
/// The least time that a request must hang before it is given up because its connection is not
/// served.
const UNSERVED_AFTER: Duration = Duration::from_secs(2);

/// One attempt, which may send its request several times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    pub(super) at: &'a str,
    pub(super) operation: Operation,
    pub(super) key: Option<&'a ObjectKey>,
    pub(super) bytes: u64,
    pub(super) repeat: Repeat,
    /// The longest silence before the attempt is given up.
    pub(super) silence: Duration,
    /// The longest total time of the attempt.
    pub(super) limit: Duration,
}

/// The end of an attempt without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    /// The time without a response.
    pub(super) lasted: Duration,
    /// The number of connections that the server serves, if this one is not among them.
    pub(super) served: Option<u32>,
}

/// The response to a request, or the silence in its place.
type Answered<T> = Result<Result<T, Failure>, Silence>;

/// The outcome of an attempt.
pub(super) struct Sent<'a, T> {
    pub(super) answer: Answered<T>,
    /// The permission of the request that `answer` belongs to.
    pub(super) admitted: Admitted<'a>,
    /// The time that this request took.
    pub(super) took: Duration,
    /// The number of requests that were sent.
    pub(super) requests: u32,
}

/// The permission to send another request.
struct RetryPermit<'a> {
    admitted: Admitted<'a>,
    slot: Slot,
}

/// A request of an attempt.
struct SentRequest<'a> {
    began: Instant,
    /// Taken once the request has ended.
    admitted: Option<Admitted<'a>>,
    /// Absent for the first request, whose caller holds the slot.
    slot: Option<Slot>,
}

/// The requests of one attempt, by their numbers.
struct Requests<'a>(Vec<SentRequest<'a>>);

impl<'a> Requests<'a> {
    /// Starts a request, and returns its number.
    fn begin(&mut self, RetryPermit { admitted, slot }: RetryPermit<'a>) -> usize {
        self.0.push(SentRequest {
            began: Instant::now(),
            admitted: Some(admitted),
            slot: Some(slot),
        });
        self.0.len() - 1
    }

    /// Returns the outcome of a request that has ended.
    fn end<T>(&mut self, number: usize, answer: Answered<T>) -> Option<Sent<'a, T>> {
        let requests = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let request = self.0.get_mut(number)?;
        request.slot = None;
        Some(Sent {
            answer,
            admitted: request.admitted.take()?,
            took: request.began.elapsed(),
            requests,
        })
    }

    /// Returns the time at which the newest request in flight was sent, if one more may be sent.
    fn newest(&self) -> Option<Instant> {
        let under_way = || self.0.iter().filter(|request| request.admitted.is_some());
        let has_room = under_way().count() < MAX_CONCURRENT && self.0.len() < MAX_REQUESTS;
        let newest = under_way().map(|request| request.began).max();
        newest.filter(|_| has_room)
    }

    /// Returns how long the first request was the only one.
    fn first_alone(&self) -> Duration {
        match self.0.as_slice() {
            [first, second, ..] => second.began.duration_since(first.began),
            _ => Duration::ZERO,
        }
    }
}

impl Bucket {
    /// Sends a request, and further copies of it while the requests in flight are overdue.
    pub(super) async fn once_or_more<'a, T, F>(
        &'a self,
        attempt: Attempt<'a>,
        admitted: Admitted<'a>,
        request: &impl Fn() -> F,
    ) -> Sent<'a, T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let one_request = |progress: &Arc<Progress>| {
            let request = self.caught(attempt.operation, attempt.key, request);
            let progress = Arc::clone(progress);
            let sent = within(progress, attempt.silence, attempt.limit, request);
            sent.map(|sent| {
                sent.map_err(|lasted| Silence {
                    lasted,
                    served: None,
                })
            })
        };
        let (began, progress) = (Instant::now(), Progress::begin());
        let mut first = pin!(one_request(&progress));
        let sent_once = |answer, admitted| Sent {
            answer,
            admitted,
            took: began.elapsed(),
            requests: 1,
        };
        // No request is overdue before this, so most requests end here without another allocation.
        if let Ok(answer) = timeout(LATENCY_MARGIN, &mut first).await {
            return sent_once(answer, admitted);
        }
        if !self.may_repeat_at_once(attempt.repeat) {
            let first = self.unless_unserved(attempt, progress, first);
            return sent_once(first.await, admitted);
        }
        let watch = |number: usize, progress, sent| async move {
            (number, self.unless_unserved(attempt, progress, sent).await)
        };
        let mut requests = Requests(vec![SentRequest {
            began,
            admitted: Some(admitted),
            slot: None,
        }]);
        let mut under_way = FuturesUnordered::new();
        under_way.push(Box::pin(watch(0, progress, Either::Left(first))));
        // The first refusal, and the time from which it counts.
        let mut refused: Option<(Sent<'a, T>, Instant)> = None;
        let mut not_before = began;
        loop {
            let newest = requests.newest().filter(|_| refused.is_none());
            let stands = refused.as_ref().map(|(_, stands)| sleep_until(*stands));
            // Boxed, because its type contains the type of a request.
            let permission = self.permit_repeat(attempt, newest, not_before).boxed();
            tokio::select! {
                biased;
                Some((number, answer)) = under_way.next() => {
                    let Some(sent) = requests.end(number, answer) else { continue };
                    if matches!(sent.answer, Ok(Ok(_))) {
                        return sent;
                    }
                    if under_way.is_empty() {
                        return refused.map_or(sent, |(refusal, _)| refusal);
                    }
                    if may_pass(&sent.answer) {
                        let _ = self.report_attempt(&attempt, sent);
                        not_before = Instant::now() + LOOK_AGAIN;
                    } else {
                        // Another request may have taken effect, so a refusal proves little yet.
                        let stands = Instant::now() + requests.first_alone();
                        refused.get_or_insert((sent, stands));
                    }
                }
                permission = permission => {
                    let (number, progress) = (requests.begin(permission), Progress::begin());
                    let sent = Either::Right(Box::pin(one_request(&progress)));
                    under_way.push(Box::pin(watch(number, progress, sent)));
                }
                Some(()) = OptionFuture::from(stands) => {
                    if let Some((refusal, _)) = refused.take() {
                        return refusal;
                    }
                }
            }
        }
    }

    /// Waits for the response to a request, or until it clearly hangs because the server does not
    /// serve its connection.
    async fn unless_unserved<T>(
        &self,
        attempt: Attempt<'_>,
        progress: Arc<Progress>,
        sent: impl Future<Output = Answered<T>>,
    ) -> Answered<T> {
        tokio::select! {
            biased;
            answer = sent => answer,
            silence = self.unserved(attempt, &progress).boxed() => Err(silence),
        }
    }

    /// Waits until a request is far overdue and many others hang too, on connections that have had
    /// no response so far.
    async fn unserved(&self, attempt: Attempt<'_>, progress: &Progress) -> Silence {
        let (operation, bytes) = (attempt.operation, attempt.bytes);
        let (lanes, began) = (self.lanes(operation.class()), progress.began());
        let mut hanging = None;
        // Giving up such a request would leave its outcome unknown. The first contact has its own
        // limits.
        if attempt.repeat == Repeat::UnlessUnknown || self.contact.is_some() {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK_AGAIN / 4).await;
            let lasted = began.elapsed();
            let overdue = lanes.surely_overdue_after(operation, bytes);
            let connection = overdue
                .filter(|overdue| lasted >= (*overdue).max(UNSERVED_AFTER))
                .and_then(|_| progress.unserved());
            let Some(connection) = connection else {
                hanging = None;
                continue;
            };
            if hanging.is_none() {
                // Requests that were sent at the same time make this check now too, so the next
                // check counts all of them.
                hanging = Some(connection.hang());
            } else if let Some(served) = connection.limit(began) {
                let served = Some(served);
                return Silence { lasted, served };
            }
        }
    }

    /// Returns true if a second request may be sent while the first is unanswered. Returns false
    /// for probes and for requests that record the run.
    fn may_repeat_at_once(&self, repeat: Repeat) -> bool {
        self.purpose != Purpose::Journal
            && !self.retry.persistence.is_zero()
            && matches!(repeat, Repeat::AtOnce | Repeat::IfOneVersion)
    }

    /// Waits until the `newest` request of an attempt is overdue and one more may be sent, but at
    /// least until `not_before`. Never returns if `newest` is `None`.
    async fn permit_repeat<'a>(
        &'a self,
        attempt: Attempt<'a>,
        newest: Option<Instant>,
        not_before: Instant,
    ) -> RetryPermit<'a> {
        let Attempt {
            at,
            operation,
            bytes,
            repeat,
            ..
        } = attempt;
        let Some(newest) = newest else {
            return std::future::pending().await;
        };
        sleep_until(not_before).await;
        let lanes = self.lanes(operation.class());
        loop {
            // Other responses arrive meanwhile and change the estimate.
            let overdue = newest + lanes.overdue_after(operation, bytes);
            let now = Instant::now();
            if now < overdue {
                sleep_until(overdue.min(now + LOOK_AGAIN)).await;
                continue;
            }
            let is_safe = repeat == Repeat::AtOnce || self.keeps_no_versions().await;
            let right = if is_safe && !lanes.is_shut(at) {
                lanes.repeat_right()
            } else {
                None
            };
            let Some(right) = right else {
                sleep(LOOK_AGAIN).await;
                continue;
            };
            // Others wait for the overdue request, so the next one goes ahead of the queue.
            let Ok(slot) = self.pacer.slots().request(SlotKind::Bulk(u64::MAX)).await else {
                return std::future::pending().await;
            };
            let admitted = self
                .pacer
                .admit_without_queue(lanes, at, bytes, self.retry.patience)
                .await;
            if let Ok(admitted) = admitted {
                right.used();
                self.note_repeat(operation, at);
                return RetryPermit { admitted, slot };
            }
        }
    }

    /// Waits for a slot for another copy of an overdue request that, as the caller has found, has
    /// had no effect. Returns `None` if no such request may be sent now.
    pub(crate) async fn slot_for_repeat(
        &self,
        operation: Operation,
        at: &ObjectKey,
    ) -> Option<Slot> {
        let lanes = self.lanes(operation.class());
        if lanes.is_shut(at.as_str()) {
            return None;
        }
        let right = lanes.repeat_right()?;
        let slots = self.pacer.slots();
        let slot = slots.request(SlotKind::Bulk(u64::MAX)).await.ok()?;
        right.used();
        self.note_repeat(operation, at.as_str());
        Some(slot)
    }

    fn note_repeat(&self, operation: Operation, at: &str) {
        tracing::info!(%operation, key = at, "no answer for long: sending the request once more");
        self.pacer.hedged();
    }

    /// Returns the way in which a `CopyObject` may be repeated.
    pub(super) fn repeat_of_copy(
        &self,
        source: &SourcePin,
        key: &ObjectKey,
        condition: &WriteCondition,
    ) -> Repeat {
        // A copy in place changes its own source.
        let is_in_place = source.bucket == self.name && source.key == *key;
        let capabilities = self.capabilities();
        if is_in_place || !capabilities.pins_copies() {
            Repeat::Always
        } else if *condition != WriteCondition::None && capabilities.believes_answers() {
            Repeat::AtOnce
        } else {
            Repeat::IfOneVersion
        }
    }

    /// Returns true if two writes of a key leave only one version. Boxed, because the type of its
    /// future contains a request.
    fn keeps_no_versions(&self) -> BoxFuture<'_, bool> {
        async {
            matches!(
                self.known_versioning().await,
                KnownVersioning::Is(Versioning::Never | Versioning::Suspended)
            )
        }
        .boxed()
    }
}

/// Returns true if a request got no response, or a response that may be different next time.
fn may_pass<T>(answer: &Answered<T>) -> bool {
    match answer {
        Ok(Ok(_)) => false,
        Ok(Err(failure)) => failure.kind().is_retryable(),
        Err(_) => true,
    }
}
