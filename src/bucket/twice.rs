//! Sends a request once more when its answer is overdue, and takes the first good answer.
//!
//! The first request stays under way, since it may be lost or just slow. The second one waits for a
//! place in flight and for the pacer, like every request, and uses another connection, because the
//! first one holds its own. [`crate::pace::latency`] decides when a request is overdue and limits
//! how many are sent twice.
//!
//! Reads may always be sent twice. A `CopyObject` may be if both requests leave one version of the
//! same object ([`Repeat::IfOneVersion`]): the server reads exactly the pinned version of the
//! source, and either a condition lets only one request write, or the bucket keeps no versions. A
//! `CreateMultipartUpload` may be, since the losing request's upload is awaited and aborted
//! ([`super::creates`]). An `UploadPartCopy` may be if both requests create the same part: the same
//! range of a pinned version, on a server whose `ETag`s follow from the bytes. The second request
//! may still arrive after the object is published, and then changes nothing.
//!
//! A server that serves few connections leaves whole waves of requests hanging
//! ([`crate::s3::served`]). Those are not sent twice. They are given up, and sent again when a
//! served connection is free.

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

/// The time between two looks at a request that cannot be sent twice yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The least time that a request hangs before it is given up because its connection is not served.
const UNSERVED_AFTER: Duration = Duration::from_secs(2);

/// One attempt, which may send its request twice.
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

/// An attempt without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    /// The time without an answer.
    pub(super) lasted: Duration,
    /// The number of connections that the server serves, if this one is not among them.
    pub(super) served: Option<u32>,
}

/// The answer, or the silence in its place.
type Answered<T> = Result<Result<T, Failure>, Silence>;

/// The outcome of an attempt.
pub(super) struct Sent<'a, T> {
    pub(super) answer: Answered<T>,
    /// The permission of the request that `answer` belongs to.
    pub(super) admitted: Admitted<'a>,
    /// The time that the same request took.
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
    /// Sends a request, and a second one beside it if the first is overdue.
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
        // No request is overdue before this, so most requests allocate nothing for the rest.
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
            // Boxed, since its type contains the type of a request.
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
            // The other request may have taken effect, so a refusal says little. It stands if the
            // other one stays unanswered for as long as the first one was alone.
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

    /// Waits until a request is far overdue and many others hang like it, on connections that never
    /// had an answer.
    async fn unserved(&self, attempt: Attempt<'_>, progress: &Progress) -> Silence {
        let (operation, bytes) = (attempt.operation, attempt.bytes);
        let (lanes, began) = (self.lanes(operation.class()), progress.began());
        let mut hanging = None;
        // Giving up such a request leaves its outcome unknown; first contact has its own limits.
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
                // Requests sent with this one look now too: the next look counts all of them.
                hanging = Some(connection.hang());
            } else if let Some(served) = connection.limit(began) {
                let served = Some(served);
                return Silence { lasted, served };
            }
        }
    }

    /// Returns true if a second request may be sent while the first is unanswered: never at the
    /// first contact, for probes, or for requests that tidy up or record the run.
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
            // An object waits for its last part, so an overdue part goes first.
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

    /// Returns true if two writes of a key leave only one version. Boxed, since the type of its
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
