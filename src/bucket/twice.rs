//! Sends a request once more when its answer is overdue, and takes the first good answer.
//!
//! The first request stays under way: nobody knows if it was lost or is slow. The second one waits
//! for a place in flight and for the pacer, like every request, and goes over another connection,
//! since the first one holds its own. [`crate::pace::latency`] tells what is overdue and bounds how
//! many requests are sent twice.
//!
//! Reads may always be sent twice. A `CopyObject` may where both requests leave the same object
//! behind and one version of it ([`Repeat::IfOneVersion`]): the server reads exactly the pinned
//! version of the source, and either a condition lets only one of them write, or the bucket keeps
//! no versions. A `CreateMultipartUpload` may where the upload of the request that loses is awaited
//! and aborted ([`super::creates`]). An `UploadPartCopy` may where both requests leave the very same
//! part: the same range of a pinned version, on a server whose `ETag`s follow from the bytes. The
//! second request may still arrive when the object is published, and changes nothing then.
//!
//! A server that serves few connections lets whole waves of requests hang
//! ([`crate::s3::served`]). Those are not sent twice but given up, and sent again when there is a
//! connection that is served.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Either, select};
use tokio::time::{Instant, sleep, timeout};

use super::history::KnownVersioning;
use super::stopping::Purpose;
use super::{Bucket, Repeat};
use crate::location::ObjectKey;
use crate::pace::Admitted;
use crate::pace::latency::LEAST as LATENCY_MARGIN;
use crate::pace::slots::{Slot, Want};
use crate::s3::progress::{Progress, within};
use crate::s3::{Failure, FailureKind, Operation, SourcePin, Versioning, WriteCondition};

/// A request is looked at this often until enough is known of its kind.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A request hangs at least this long before it is given up because nobody serves its connection.
const UNSERVED_AFTER: Duration = Duration::from_secs(2);

/// One attempt of a request, which may take two requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    pub(super) at: &'a str,
    pub(super) operation: Operation,
    pub(super) key: Option<&'a ObjectKey>,
    pub(super) bytes: u64,
    pub(super) repeat: Repeat,
    /// The longest silence.
    pub(super) silence: Duration,
    /// The longest time in all.
    pub(super) limit: Duration,
}

/// An attempt without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    /// The time without an answer.
    pub(super) lasted: Duration,
    /// The server serves no more than so many connections, and this one is not among them.
    pub(super) served: Option<u32>,
}

/// The answer, or the time without one.
type Answered<T> = Result<Result<T, Failure>, Silence>;

/// The outcome of an attempt.
pub(super) struct Sent<'a, T> {
    pub(super) answer: Answered<T>,
    /// The permission of the request that it answers.
    pub(super) admitted: Admitted<'a>,
    /// The time that this request took.
    pub(super) took: Duration,
    /// The number of requests that were sent: one or two.
    pub(super) requests: u32,
}

/// The permission to send a second request.
struct Permission<'a> {
    admitted: Admitted<'a>,
    slot: Slot,
}

impl Bucket {
    /// Makes one attempt, and a second one beside it if the first is overdue.
    pub(super) async fn once_or_twice<'a, T, F>(
        &'a self,
        attempt: Attempt<'a>,
        admitted: Admitted<'a>,
        request: &impl Fn() -> F,
    ) -> Sent<'a, T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let send = |progress: &Arc<Progress>| {
            let request = self.caught(attempt.operation, attempt.key, request);
            let sent = within(
                Arc::clone(progress),
                attempt.silence,
                attempt.limit,
                request,
            );
            sent.map(|sent| {
                sent.map_err(|lasted| Silence {
                    lasted,
                    served: None,
                })
            })
        };
        let (began, progress) = (Instant::now(), Progress::begin());
        let mut first = pin!(send(&progress));
        let sent_once = |answer, admitted| Sent {
            answer,
            admitted,
            took: began.elapsed(),
            requests: 1,
        };
        // Nothing is overdue sooner, so most requests allocate nothing for what follows.
        if let Ok(answer) = timeout(LATENCY_MARGIN, &mut first).await {
            return sent_once(answer, admitted);
        }
        let mut first = pin!(self.unless_unserved(attempt, progress, &mut first));
        if !self.may_repeat_at_once(attempt.repeat) {
            return sent_once(first.await, admitted);
        }
        let permission = tokio::select! {
            biased;
            answer = &mut first => return sent_once(answer, admitted),
            // Without its type, which holds that of a request.
            permission = self.second_permission(attempt, began).boxed() => permission,
        };
        tracing::info!(operation = %attempt.operation, key = attempt.at, "no answer for long: sending the request once more");
        self.pacer.hedged();
        let second_began = Instant::now();
        let second = async {
            let progress = Progress::begin();
            let answer = send(&progress);
            self.unless_unserved(attempt, progress, answer).await
        };
        let second = Box::pin(second);
        let (answer, is_first, other) = match select(first, second).await {
            Either::Left((answer, second)) => (answer, true, Either::Left(second)),
            Either::Right((answer, first)) => (answer, false, Either::Right(first)),
        };
        let (answer, is_first) = if matches!(answer, Ok(Ok(_))) {
            (answer, is_first)
        } else {
            // The first request may have taken effect, so a refusal of the second says little. It
            // stands if the first is not answered for as long again.
            let patience = async {
                if was_refused(&answer) {
                    sleep(second_began.duration_since(began)).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                other = other => match other {
                    Ok(Ok(_)) => (other, !is_first),
                    _ if is_first => (answer, true),
                    _ => (other, true),
                },
                () = patience => (answer, is_first),
            }
        };
        let (admitted, since) = if is_first {
            (admitted, began)
        } else {
            (permission.admitted, second_began)
        };
        drop(permission.slot);
        Sent {
            answer,
            admitted,
            took: since.elapsed(),
            requests: 2,
        }
    }

    /// Waits for the answer to a request, or until it is known to hang because the server does not
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

    /// Waits until a request is overdue by far and many others hang like it, on connections without
    /// an answer.
    async fn unserved(&self, attempt: Attempt<'_>, progress: &Progress) -> Silence {
        let (operation, bytes) = (attempt.operation, attempt.bytes);
        let (lanes, began) = (self.lanes(operation.class()), progress.began());
        let mut hanging = None;
        // The outcome of such a request is not known, and the first contact has its own times.
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
                // Others that were sent together with this one look at the same time.
                hanging = Some(connection.hang());
            } else if let Some(served) = connection.limit(began) {
                let served = Some(served);
                return Silence { lasted, served };
            }
        }
    }

    /// Returns true if a request may be sent while its first attempt is unanswered. The first contact,
    /// probes, and what tidies up or records the run send each request once.
    fn may_repeat_at_once(&self, repeat: Repeat) -> bool {
        self.contact.is_none()
            && self.purpose == Purpose::Object
            && !self.retry.persistence.is_zero()
            && matches!(repeat, Repeat::AtOnce | Repeat::IfOneVersion)
    }

    /// Waits until an attempt that began at `began` is overdue and a second request may be sent.
    async fn second_permission<'a>(
        &'a self,
        attempt: Attempt<'a>,
        began: Instant,
    ) -> Permission<'a> {
        let Attempt {
            at,
            operation,
            bytes,
            repeat,
            ..
        } = attempt;
        let lanes = self.lanes(operation.class());
        loop {
            let overdue = lanes.overdue_after(operation, bytes);
            let left = overdue.map(|overdue| overdue.saturating_sub(began.elapsed()));
            match left {
                Some(left) if left.is_zero() => {}
                left => {
                    sleep(left.unwrap_or(LOOK_AGAIN)).await;
                    continue;
                }
            }
            let is_safe = repeat == Repeat::AtOnce || self.keeps_no_versions().await;
            if !is_safe || !lanes.may_repeat() {
                sleep(LOOK_AGAIN).await;
                continue;
            }
            // An object waits for its last part, so that goes first.
            let want = match operation {
                Operation::UploadPartCopy => Want::Bulk(u64::MAX),
                _ => Want::Small,
            };
            let Ok(slot) = self.pacer.slots().request(want).await else {
                std::future::pending().await
            };
            let admitted = self
                .pacer
                .admit(lanes, at, bytes, self.retry.patience)
                .await;
            if let Ok(admitted) = admitted {
                return Permission { admitted, slot };
            }
        }
    }

    /// Returns how a `CopyObject` may be repeated.
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

    /// Returns true if two writes of a key leave one object. Its type names no future, since a
    /// request is part of it.
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

/// Returns true if a request was refused because of what another one may have done.
fn was_refused<T>(answer: &Answered<T>) -> bool {
    matches!(
        answer,
        Ok(Err(failure)) if matches!(
            failure.kind(),
            FailureKind::PreconditionFailed | FailureKind::Conflict | FailureKind::NotFound
        )
    )
}
