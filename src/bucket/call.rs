//! Sends every request of a bucket, and repeats it.
//!
//! Each attempt needs credentials and the pacer's permission, has a time limit, and reports to the
//! controllers. A request with a transient failure is sent again until the patience is used up. An
//! outage, missing credentials, and the first contact have their own clocks.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::judge::{RefusalCounts, RefusalVerdict};
use super::twice::{Attempt, Sent, Silence};
use super::{Answer, Bucket};
use crate::awake::AwakeInstant;
use crate::location::ObjectKey;
use crate::s3::{Failure, FailureKind, Operation};

/// States whether a request may be sent again while its outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Two requests have the effect of one, even if both are in flight at once.
    AtOnce,
    /// [`Repeat::AtOnce`] in a bucket that keeps no versions, [`Repeat::Always`] in others.
    IfOneVersion,
    /// Two requests have the effect of one, if one follows the other.
    Always,
    /// The request may be sent again only if it certainly had no effect.
    UnlessUnknown,
}

/// The attempts of one request so far.
///
/// Patience runs only while the server accepts nothing. Waiting at the user's own limits, or for a
/// turn at a throttled rate, does not use it up. Neither does an outage, which has one clock for
/// all requests.
#[derive(Debug, Default)]
struct AttemptState {
    /// The number of requests that were sent.
    attempts: u32,
    /// Set if a request other than the answered one may have taken effect.
    maybe_twice: bool,
    refusals: RefusalCounts,
    /// Set if the last request got no response although the server serves its connection.
    is_late: bool,
    /// The time that the caller waited before the first attempt.
    before: Duration,
    /// The time at which the silence of the first failed attempt began or, if it was answered, the
    /// time of the response.
    since: Option<AwakeInstant>,
    /// The part of the time since `since` that does not use up patience.
    held: Duration,
}

impl AttemptState {
    /// Returns the state of a request whose caller has already waited `before` for its outcome.
    fn after(before: Duration) -> Self {
        Self {
            is_late: !before.is_zero(),
            before,
            ..Self::default()
        }
    }

    /// Starts an attempt after `held` of waiting that does not use up patience.
    fn begin(&mut self, held: Duration) {
        self.attempts += 1;
        if self.since.is_some() {
            self.held += held;
        }
    }

    /// Notes the failure of the last attempt, which was sent at `sent` and may have ended in
    /// silence.
    fn failed(&mut self, failure: &Failure, silence: Option<Silence>, sent: AwakeInstant) {
        self.maybe_twice |= failure.kind().outcome_unknown();
        // The time that an unanswered attempt waited counts too.
        self.since.get_or_insert_with(|| {
            let silent_for = silence.map_or(Duration::ZERO, |silence| silence.lasted);
            AwakeInstant::now().earlier_by(silent_for.min(sent.elapsed()))
        });
    }

    /// Returns the time that this request and its caller have waited for the server.
    fn waited(&self) -> Duration {
        let waited = |since: AwakeInstant| since.elapsed().saturating_sub(self.held);
        self.before + self.since.map_or(Duration::ZERO, waited)
    }

    /// Returns how long the server has been silent, or zero if it answered the last time. A silent
    /// server gets no more time than the patience.
    fn silent(&self) -> Duration {
        if self.is_late {
            self.waited()
        } else {
            Duration::ZERO
        }
    }

    fn answered<T>(self, value: T) -> Answer<T> {
        Answer {
            value,
            attempts: self.attempts,
            maybe_twice: self.maybe_twice,
        }
    }
}

impl Bucket {
    /// Sends a request, and repeats it if that may help. This is not an `async fn`, because its
    /// future would wrap the future of [`Bucket::call_at`] inside the future of every object.
    pub(super) fn call<T, F>(
        &self,
        operation: Operation,
        key: Option<&ObjectKey>,
        bytes: u64,
        repeat: Repeat,
        attempt: impl Fn() -> F,
    ) -> impl Future<Output = Result<Answer<T>, Failure>>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let at = key.map_or("", ObjectKey::as_str);
        self.call_at(at, operation, key, bytes, repeat, attempt)
    }

    /// Sends a request about the keys around `at`, as [`Bucket::call`] does. S3 counts it against
    /// their partition.
    pub(super) async fn call_at<T, F>(
        &self,
        at: &str,
        operation: Operation,
        key: Option<&ObjectKey>,
        bytes: u64,
        repeat: Repeat,
        attempt: impl Fn() -> F,
    ) -> Result<Answer<T>, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let lanes = self.lanes(operation.class());
        let full_limit = self.retry.time_limit(operation, bytes);
        let mut state = AttemptState::after(self.waited);
        let mut parked = None;
        loop {
            // Waiting for credentials has its own clock and does not use up patience.
            let unsigned = self
                .credentials(operation, key)
                .await
                .map_err(|failure| failure.after(state.attempts.max(1)))?;
            let Some(admitted) = self
                .admitted(at, operation, bytes, state.attempts, parked.take())
                .await
            else {
                return Err(self.stopped(operation, key).after(state.attempts));
            };
            let mut admitted =
                admitted.map_err(|timeout| self.outage_timeout(&timeout, operation, key))?;
            state.begin(unsigned + admitted.pass.held + admitted.limited);
            admitted.pass.attempt = state.attempts;
            let silent = state.silent().max(admitted.pass.down_for);
            let limit = self.attempt_limit(operation, full_limit, silent);
            let (began, credentials) = (Instant::now(), self.client.credentials());
            let awake_since = AwakeInstant::at(began);
            let one = Attempt {
                at,
                operation,
                key,
                bytes,
                repeat,
                silence: limit,
                limit: full_limit.max(limit),
            };
            let sent = tokio::select! {
                sent = self.once_or_more(one, admitted, &attempt) => sent,
                () = self.halt.cancelled() => {
                    return Err(self.stopped(operation, key).after(state.attempts));
                }
            };
            state.attempts += sent.requests - 1;
            state.maybe_twice |= sent.requests > 1;
            let silence = sent.answer.as_ref().err().copied();
            let is_unserved = silence.is_some_and(|silence| silence.served.is_some());
            state.is_late = silence.is_some() && !is_unserved;
            let outcome = self.report_attempt(&one, sent);
            let failure = match outcome {
                Ok(value) => {
                    self.client.accepted(credentials, began);
                    return Ok(state.answered(value));
                }
                Err(failure) => {
                    match Box::pin(self.judge_refusal(failure, key, &mut state.refusals)).await {
                        RefusalVerdict::Stands(failure) => failure.after(state.attempts),
                        RefusalVerdict::Again => {
                            self.pacer.retried();
                            continue;
                        }
                    }
                }
            };
            let needs_a_look =
                failure.kind().outcome_unknown() || *failure.kind() == FailureKind::Corrupted;
            if repeat == Repeat::UnlessUnknown && needs_a_look {
                return Err(failure);
            }
            state.failed(&failure, silence, awake_since);
            let waited = match &self.contact {
                Some(contact) => contact.elapsed(),
                None => state.waited(),
            };
            // Boxed, because most requests never fail.
            let pause = self.pause_after(failure, waited, operation, key);
            let (failure, wait) = Box::pin(pause).await?;
            tracing::debug!(%failure, ?wait, "will be sent again");
            if let Some(contact) = &self.contact {
                contact.failed(&failure);
            }
            self.pacer.retried();
            parked = self.park_failed(&failure, bytes, is_unserved);
            let _pausing = (*failure.kind() == FailureKind::Throttled).then(|| lanes.pausing(at));
            tokio::select! {
                () = sleep(wait) => {}
                // Without the stop, the request would have been sent again, so the error names the
                // stop.
                () = self.becomes_pointless(operation, at, state.attempts) => {
                    return Err(self.stopped(operation, key).after(state.attempts));
                }
            }
        }
    }

    /// Reports the outcome of an attempt to the pacer, and returns it.
    pub(super) fn report_attempt<T>(
        &self,
        attempt: &Attempt<'_>,
        sent: Sent<'_, T>,
    ) -> Result<T, Failure> {
        let (operation, limit) = (attempt.operation, attempt.silence);
        let outcome = match sent.answer {
            Ok(outcome) => outcome,
            Err(Silence {
                lasted,
                served: Some(served),
            }) => {
                self.pacer.slots().reduce(served);
                drop(sent.admitted);
                return Err(self.unserved_connection(served, lasted, operation, attempt.key));
            }
            Err(_) => Err(self.late(limit, operation, attempt.key)),
        };
        let (failure, bytes) = (outcome.as_ref().err(), attempt.bytes);
        if !self.is_not_up(failure) {
            self.pacer
                .learn(sent.admitted, operation, failure, bytes, sent.took, limit);
        }
        if failure.is_none() {
            self.note_success(operation, bytes, sent.took);
        }
        outcome
    }

    /// Returns true if a failure shows only that the server is not up yet, which says nothing about
    /// the rate that it will accept later.
    pub(super) fn is_not_up(&self, failure: Option<&Failure>) -> bool {
        self.contact.is_some() && failure.is_some_and(|failure| failure.kind().may_pass_later())
    }

    /// Returns how long an attempt may be silent after the server has been silent for `spent`.
    fn attempt_limit(&self, operation: Operation, full: Duration, spent: Duration) -> Duration {
        if let Some(contact) = &self.contact {
            return contact.time_limit(full);
        }
        let left = self.retry.patience.saturating_sub(spent);
        self.retry.silence_limit(operation, full, left)
    }

    /// Decides how long to wait before the request is sent again.
    ///
    /// # Errors
    /// Returns the failure if it is permanent or the patience is used up.
    async fn pause_after(
        &self,
        failure: Failure,
        waited: Duration,
        operation: Operation,
        key: Option<&ObjectKey>,
    ) -> Result<(Failure, Duration), Failure> {
        // Otherwise the attempts would outlast the patience, because each may take some seconds.
        let is_over = self
            .contact
            .as_ref()
            .is_some_and(|contact| contact.left().is_zero());
        self.await_other_parts(&failure).await;
        let wait = self.wait(&failure, waited);
        let wait = match wait.filter(|_| !is_over) {
            Some(wait) => self
                .contact
                .as_ref()
                .map_or(wait, |contact| contact.pause(wait)),
            None if let Some(contact) = &self.contact => {
                return Err(contact.note_patience(self.with_network_hint(failure)));
            }
            // The whole endpoint is silent, so the request waits until the outage or its patience
            // ends.
            None if failure.kind().indicates_outage()
                && operation != Operation::HeadBucket
                && (self.lanes(operation.class()).is_out()
                    || self.is_silent(&failure, waited).await) =>
            {
                Duration::ZERO
            }
            // After a stop, nothing can show any more whether it was an outage.
            None if failure.kind().indicates_outage() && self.halt.is_cancelled() => {
                return Err(self
                    .stopped(operation, key)
                    .after(failure.details().attempts));
            }
            None => return Err(self.marked(self.unanswered(failure, waited))),
        };
        Ok((failure, wait))
    }

    /// Sends a request that changes nothing and has no body, and returns its response.
    pub(super) async fn read<T, F>(
        &self,
        operation: Operation,
        key: Option<&ObjectKey>,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.call(operation, key, 0, Repeat::AtOnce, attempt)
            .await
            .map(|answer| answer.value)
    }
}
