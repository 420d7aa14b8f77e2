//! Distinguishes refusals of a request from refusals of its credentials or of its time.
//!
//! A server that no longer accepts a session token, an access key, or the time of a signature
//! refuses every request. Objects must not fail because of that. So s3haul sends the request again
//! with newer credentials or a corrected clock and, if there are no newer credentials yet, waits as
//! long as `patience` allows. Fixed keys, such as those from the environment, cannot be renewed, so
//! they get only one repetition. The response to a HEAD hides the reason behind a bare 400 or 403,
//! and `SignatureDoesNotMatch` may concern the key of one object only. In both cases s3haul sends a
//! list request to learn the reason, unless the server has accepted the same credentials in a later
//! request.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Bucket;
use super::failures::PROBE_LIMIT;
use crate::awake::AwakeInstant;
use crate::location::ObjectKey;
use crate::s3::client::NotReady;
use crate::s3::{Failure, FailureKind, Operation};
use crate::size::display_duration;

/// The number of times that a request may be sent again because of the clock. The clock may be
/// corrected while a request is in flight.
const MAX_CLOCK_RETRIES: u32 = 3;
/// The number of times that a request may be sent again with credentials that cannot change.
const MAX_FIXED_KEY_RETRIES: u32 = 1;
/// The number of list requests that may be sent to find out the reason for a refusal, if they get
/// no response.
const MAX_LISTS: u32 = 3;
/// The time for which no more list requests are sent after [`MAX_LISTS`] of them got no response.
const UNANSWERED_KEPT: Duration = Duration::from_secs(5);

/// The number of refusals of a request so far.
#[derive(Debug, Default)]
pub(super) struct RefusalCounts {
    clocks: u32,
    /// The number of refusals because of the credentials.
    refusals: u32,
    /// The time of the first refusal because of the credentials.
    since: Option<AwakeInstant>,
}

/// The decision about a refused request.
pub(super) enum RefusalVerdict {
    /// The request failed.
    Stands(Failure),
    /// The request is sent again once credentials are available.
    Again,
}

impl Bucket {
    /// Waits for credentials that can sign a request. Returns the time waited.
    pub(super) async fn credentials(
        &self,
        operation: Operation,
        key: Option<&ObjectKey>,
    ) -> Result<Duration, Failure> {
        let began = AwakeInstant::now();
        let left = self.contact.as_ref().map(super::contact::Contact::left);
        let ready = tokio::select! {
            ready = self.client.ready(self.retry.patience, left) => ready,
            () = self.becomes_pointless(operation, "", 1) => {
                return Err(self.stopped(operation, key));
            }
        };
        match ready {
            Ok(()) => Ok(began.elapsed()),
            Err(NotReady::Refused(failure)) => Err(*failure),
            Err(NotReady::NoCredentials(message)) => Err(Failure::without_credentials(
                FailureKind::NoCredentials,
                operation,
                self.place_of(key),
                message,
            )),
            Err(NotReady::Unavailable(message)) => {
                Err(self.no_credentials(operation, key, &message))
            }
        }
    }

    /// Returns the failure of a request that waited for credentials until the patience was used up.
    fn no_credentials(
        &self,
        operation: Operation,
        key: Option<&ObjectKey>,
        message: &str,
    ) -> Failure {
        let waited = display_duration(self.retry.patience);
        let message = format!("{message} (waited {waited}, as `patience` says)");
        let kind = FailureKind::CredentialsUnavailable;
        Failure::without_credentials(kind, operation, self.place_of(key), message)
    }

    /// Decides whether a failed request is sent again because of the credentials or time that
    /// signed it.
    pub(super) async fn judge_refusal(
        &self,
        failure: Failure,
        key: Option<&ObjectKey>,
        counts: &mut RefusalCounts,
    ) -> RefusalVerdict {
        let answered = Instant::now();
        if *failure.kind() == FailureKind::CredentialsUnavailable {
            return RefusalVerdict::Again;
        }
        let Some(signed) = failure
            .details()
            .signed
            .filter(|_| failure.may_be_about_signature())
        else {
            return RefusalVerdict::Stands(failure);
        };
        if counts.clocks < MAX_CLOCK_RETRIES && self.correct_clock(&failure, counts) {
            counts.clocks += 1;
            return RefusalVerdict::Again;
        }
        // Newer credentials have replaced the set that signed the request.
        if signed.generation < self.client.credentials() {
            return RefusalVerdict::Again;
        }
        // An access key that was never accepted is wrong. An expired session may come from a
        // provider that lags behind.
        let is_unknown = *failure.kind() == FailureKind::Credentials && !failure.is_about_expiry();
        if is_unknown && !self.client.has_accepted_credentials() {
            return RefusalVerdict::Stands(failure);
        }
        let cause = if failure.is_about_credentials() {
            Some(failure.clone())
        } else if failure.hides_reason() {
            tokio::select! {
                cause = self.find_cause(signed.generation, answered) => cause,
                () = self.halt.cancelled() => {
                    return RefusalVerdict::Stands(self.stopped(failure.details().operation, key));
                }
            }
        } else {
            None
        };
        let Some(cause) = cause else {
            return if self.is_replaced(&failure, signed.generation).await {
                RefusalVerdict::Again
            } else {
                RefusalVerdict::Stands(failure)
            };
        };
        if *cause.kind() == FailureKind::ClockSkew {
            let is_over = counts.clocks >= MAX_CLOCK_RETRIES || !self.correct_clock(&cause, counts);
            counts.clocks += 1;
            return if is_over {
                RefusalVerdict::Stands(cause)
            } else {
                RefusalVerdict::Again
            };
        }
        self.without_valid_credentials(cause, key, counts)
    }

    /// Returns true if there are newer credentials than the set that signed a refused request. The
    /// server denies every request of a revoked session, as it does for a session without
    /// permissions, so the provider is asked for newer credentials.
    async fn is_replaced(&self, failure: &Failure, generation: u64) -> bool {
        if *failure.kind() != FailureKind::Denied {
            return generation < self.client.credentials();
        }
        tokio::select! {
            has_newer = self.client.has_newer_credentials(generation) => has_newer,
            () = self.halt.cancelled() => false,
        }
    }

    /// Corrects the clock after a refusal. Returns true if the request may succeed when it is sent
    /// again.
    fn correct_clock(&self, failure: &Failure, counts: &RefusalCounts) -> bool {
        let Some(signed) = failure.details().signed else {
            return false;
        };
        let server_blames_clock = *failure.kind() == FailureKind::ClockSkew;
        // The clock may have been set between the signature and the response.
        self.client.correct_clock(&signed, server_blames_clock)
            || (server_blames_clock && counts.clocks == 0)
    }

    fn without_valid_credentials(
        &self,
        cause: Failure,
        object_key: Option<&ObjectKey>,
        counts: &mut RefusalCounts,
    ) -> RefusalVerdict {
        counts.refusals += 1;
        let waited = counts.since.get_or_insert_with(AwakeInstant::now).elapsed();
        let is_over = match &self.contact {
            Some(contact) => contact.left().is_zero(),
            None => waited >= self.retry.patience,
        };
        if is_over {
            let message = format!(
                "the server refuses all credentials: {}",
                cause.details().message
            );
            return RefusalVerdict::Stands(self.no_credentials(
                cause.details().operation,
                object_key,
                &message,
            ));
        }
        let Some(signed) = cause.details().signed else {
            return RefusalVerdict::Stands(cause);
        };
        if self.client.has_fixed_credentials() {
            // A request for a bucket may be refused because the access key is wrong. Requests for
            // objects are sent only after the access key was accepted.
            let has_ended = self.client.has_accepted_credentials()
                && (cause.is_about_expiry() || object_key.is_some());
            return if counts.refusals <= MAX_FIXED_KEY_RETRIES {
                RefusalVerdict::Again
            } else if has_ended {
                let note = "keys in environment variables cannot be renewed";
                RefusalVerdict::Stands(cause.as_kind(FailureKind::CredentialsEnded).noting(note))
            } else {
                RefusalVerdict::Stands(cause)
            };
        }
        tracing::debug!(failure = %cause, "asking for new credentials");
        self.client.refused(signed.generation, &cause);
        RefusalVerdict::Again
    }

    /// Lists one key to find out whether the server refuses all requests with these credentials,
    /// and returns that refusal. Returns `None` if the server refuses only the original request,
    /// which was answered at `answered`, or if the list requests do not settle the question.
    async fn find_cause(&self, generation: u64, answered: Instant) -> Option<Failure> {
        // If several requests are refused at once, only one of them sends the list.
        let mut unanswered = self.client.inquiry().await;
        if unanswered.is_some_and(|ended| answered < ended + UNANSWERED_KEPT) {
            return None;
        }
        let operation = Operation::ListObjects;
        for attempt in 1..=MAX_LISTS {
            let limit = self.retry.time_limit(operation, 0).min(PROBE_LIMIT);
            let limit = match &self.contact {
                Some(contact) if contact.left().is_zero() => break,
                Some(contact) => contact.time_limit(limit),
                None => limit,
            };
            let newest = self.client.credentials();
            if newest != generation || self.client.is_proven_since(generation, answered) {
                return None;
            }
            let admitted = self
                .pacer
                .admit(&self.reads, "", 0, self.retry.patience)
                .await
                .ok()?;
            let asked = Instant::now();
            let request = self.client.list_one(&self.name, "", None, None);
            let listed = self.answered_within(limit, operation, request).await;
            let refused = listed.as_ref().err();
            if !self.is_not_up(refused) {
                self.pacer
                    .learn(admitted, operation, refused, 0, asked.elapsed(), limit);
            }
            let Some(refused) = refused else {
                self.client.accepted(newest, asked);
                return None;
            };
            if refused.is_about_credentials()
                || *refused.kind() == FailureKind::ClockSkew
                || refused.details().code == "SignatureDoesNotMatch"
            {
                return Some(refused.clone());
            }
            if !refused.kind().is_retryable() {
                // A server that denies a permission has accepted the credentials.
                self.client.accepted(newest, asked);
                return None;
            }
            let pause = self
                .retry
                .wait(refused.kind(), attempt, Duration::ZERO, fastrand::f64())
                .unwrap_or_default();
            let pause = self
                .contact
                .as_ref()
                .map_or(pause, |contact| contact.pause(pause));
            sleep(pause).await;
        }
        *unanswered = Some(Instant::now());
        None
    }
}
