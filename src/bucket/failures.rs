//! Builds the failures of a bucket's requests, and finds out whether a failure concerns one request
//! or the whole server.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Bucket;
use super::contact::server_and_proxy;
use crate::location::ObjectKey;
use crate::pace::outage::OutageTimeout;
use crate::s3::{Failure, FailureKind, Operation};
use crate::size::display_duration;

/// The time limit of a request that only investigates a failure.
pub(super) const PROBE_LIMIT: Duration = Duration::from_secs(10);

impl Bucket {
    pub(super) fn stopped(&self, operation: Operation, key: Option<&ObjectKey>) -> Failure {
        self.failure(FailureKind::Stopped, operation, key, "the run was stopped")
    }

    fn failure(
        &self,
        kind: FailureKind,
        operation: Operation,
        key: Option<&ObjectKey>,
        message: impl Into<String>,
    ) -> Failure {
        Failure::new(kind, operation, self.place_of(key), message)
    }

    pub(super) fn place_of(&self, key: Option<&ObjectKey>) -> String {
        key.map_or_else(|| self.name.to_string(), |key| self.place(key))
    }

    /// Returns the failure of a request that was not answered within `limit`. If the request was
    /// never sent because credentials were missing, it names their provider.
    pub(super) fn late(
        &self,
        limit: Duration,
        operation: Operation,
        key: Option<&ObjectKey>,
    ) -> Failure {
        let provider = self
            .contact
            .as_ref()
            .and_then(|_| self.client.awaited_credentials());
        match provider {
            Some(provider) => {
                let kind = FailureKind::CredentialsUnavailable;
                self.failure(kind, operation, key, provider)
            }
            None => self.timed_out(limit, operation, key),
        }
    }

    fn timed_out(&self, limit: Duration, operation: Operation, key: Option<&ObjectKey>) -> Failure {
        let message = format!("no answer within {} s", limit.as_secs());
        self.failure(FailureKind::TimedOut, operation, key, message)
    }

    /// Returns the failure of a request that was given up because the server does not serve its
    /// connection.
    pub(super) fn unserved_connection(
        &self,
        served: u32,
        lasted: Duration,
        operation: Operation,
        key: Option<&ObjectKey>,
    ) -> Failure {
        let message = format!(
            "no answer within {} s on a new connection, while the server answers on {served} others",
            lasted.as_secs()
        );
        self.failure(FailureKind::TimedOut, operation, key, message)
    }

    /// Adds a note about the part of the network that may be at fault: a proxy that does not
    /// answer, or a CA bundle without the issuer of the certificate.
    pub(super) fn with_network_hint(&self, failure: Failure) -> Failure {
        match failure.kind() {
            FailureKind::Certificate(None) if let Some(bundle) = self.client.ca_bundle() => {
                let message = format!(
                    "the CA bundle {bundle} does not contain the issuer of the server's certificate, or contains an old \
                     certificate of it"
                );
                let (operation, place) =
                    (failure.details().operation, failure.details().place.clone());
                Failure::new(
                    FailureKind::Certificate(Some(bundle)),
                    operation,
                    place,
                    message,
                )
            }
            FailureKind::Unreachable | FailureKind::TimedOut | FailureKind::Silent
                if let Some(proxy) = self.client.proxy() =>
            {
                failure.noting(&format!("through the proxy {proxy}"))
            }
            _ => failure,
        }
    }

    /// Marks the failure of a request about one of s3haul's own objects.
    pub(super) fn marked(&self, failure: Failure) -> Failure {
        if self.has_records {
            failure.about_record()
        } else {
            failure
        }
    }

    /// Returns this bucket for s3haul's own objects: journals, reports, and the state of a run in
    /// shards. If the server denies a request, the failure names the missing permission.
    #[must_use]
    pub(crate) fn for_records(&self) -> Self {
        Self {
            has_records: true,
            ..self.clone()
        }
    }

    /// Sends one HEAD of the bucket, and declares an outage if this request gets no answer either.
    /// Call it before giving up a request because of `failure`. With few requests in flight,
    /// objects would otherwise fail one by one before enough failures count as an outage. A server
    /// that has trouble with only one object still answers, even if with a refusal.
    pub(super) async fn is_silent(&self, failure: &Failure, waited: Duration) -> bool {
        tokio::select! {
            is_silent = self.probe_silence(failure, waited) => is_silent,
            () = self.halt.cancelled() => false,
        }
    }

    async fn probe_silence(&self, failure: &Failure, waited: Duration) -> bool {
        let limit = self.retry.silence.min(PROBE_LIMIT);
        let Ok(admitted) = self
            .pacer
            .admit(&self.reads, "", 0, self.retry.patience)
            .await
        else {
            return true;
        };
        let sent = Instant::now();
        let request = self.client.head_bucket(&self.name);
        let answer = self
            .answered_within(limit, Operation::HeadBucket, request)
            .await;
        self.pacer.learn(
            admitted,
            Operation::HeadBucket,
            answer.as_ref().err(),
            0,
            sent.elapsed(),
            limit,
        );
        let is_silent = answer.is_err_and(|failure| failure.kind().indicates_outage());
        if is_silent {
            self.pacer
                .is_silent(&self.reads, waited, &failure.details().message);
        }
        is_silent
    }

    /// Returns the answer to a request that investigates a failure, or a failure if no answer
    /// arrives within `limit`.
    pub(super) async fn answered_within<T>(
        &self,
        limit: Duration,
        operation: Operation,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        timeout(limit, request)
            .await
            .unwrap_or_else(|_| Err(self.timed_out(limit, operation, None)))
    }

    /// Returns this bucket for a request whose caller has already waited `waited` for the outcome.
    /// The patience includes that time.
    #[must_use]
    pub(crate) fn after_waiting(&self, waited: Duration) -> Self {
        Self {
            waited,
            ..self.clone()
        }
    }

    /// Returns the patience: the longest total time to wait for an answer, over all attempts.
    #[doc(hidden)]
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.retry.patience
    }

    /// Returns the time that may be spent to find out whether a write took effect.
    #[doc(hidden)]
    #[must_use]
    pub fn persistence(&self) -> Duration {
        self.retry.persistence
    }

    /// Returns the failure of a request that was given up after `waited`. It becomes
    /// [`FailureKind::Silent`], which concerns the whole run, if no request of this operation was
    /// answered in that time.
    pub(crate) fn unanswered(&self, failure: Failure, waited: Duration) -> Failure {
        let operation = failure.details().operation;
        let since = self.pacer.elapsed().saturating_sub(waited);
        let others_answered = self
            .lanes(operation.class())
            .answered_after(operation, since);
        if *failure.kind() != FailureKind::TimedOut || others_answered || waited.is_zero() {
            return self.with_network_hint(failure);
        }
        let waited = display_duration(waited);
        self.with_network_hint(failure)
            .as_kind(FailureKind::Silent)
            .noting(&format!(
                "no {operation} was answered for {waited}, see `patience`"
            ))
    }

    pub(super) fn outage_timeout(
        &self,
        timeout: &OutageTimeout,
        operation: Operation,
        key: Option<&ObjectKey>,
    ) -> Failure {
        let OutageTimeout { down_for, reason } = timeout;
        let message = format!(
            "{} has not answered for {}: {reason}",
            server_and_proxy(self),
            display_duration(*down_for)
        );
        self.failure(FailureKind::Unreachable, operation, key, message)
    }
}
