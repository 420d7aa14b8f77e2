//! Looks again at failures that may be about something else than the request that met them.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Bucket;
use crate::location::ObjectKey;
use crate::pace::outage::Outlasted;
use crate::s3::{Failure, FailureKind, Operation};
use crate::size::display_duration;

impl Bucket {
    /// The failure of a request that was not answered within `limit`: that of the server, unless it never got there because
    /// the provider of the credentials did not answer.
    pub(super) fn late(&self, limit: Duration, operation: Operation, key: Option<&ObjectKey>) -> Failure {
        let within = format!("no answer within {} s", limit.as_secs());
        let provider = self.contact.as_ref().and_then(|_| self.client.awaited_credentials());
        let (kind, message) = match provider {
            Some(provider) => (FailureKind::CredentialsUnavailable, format!("{provider}: {within}")),
            None => (FailureKind::TimedOut, within),
        };
        Failure::new(kind, operation, self.place_of(key), message)
    }

    /// A failure, with its reason where HEAD hid one that is about all requests: S3 answers HEAD with a bare 400 when the token has
    /// expired, as it does for an object that a customer key encrypts. A list has a body to say so.
    pub(super) async fn explained(&self, failure: Failure, key: Option<&ObjectKey>) -> Failure {
        if failure.details().operation != Operation::HeadObject || failure.details().code != "HTTP 400" {
            return failure;
        }
        let operation = Operation::ListObjects;
        let limit = self.retry.time_limit(operation, 0);
        let asked = async {
            let admitted = self.pacer.admit(&self.reads, "", 0, self.retry.patience).await.ok()?;
            let sent = Instant::now();
            let listed = timeout(limit, self.client.list_objects(&self.name, "", None, None)).await.ok()?;
            self.pacer.learn(admitted, listed.as_ref().err(), 0, sent.elapsed(), limit);
            listed.err().filter(Failure::ends_run)
        };
        let told = tokio::select! {
            told = asked => told,
            () = self.halt.cancelled() => Some(self.stopped(Operation::HeadObject, key)),
        };
        told.unwrap_or(failure)
    }

    /// Whether the endpoint answers nobody, before a request is given up for `failure`. A run with few requests in flight
    /// would fail object after object before so many had failed that it counts as an outage, and one object that the
    /// server chokes on is none: what every server answers, be it with a refusal, tells one from the other.
    pub(super) async fn is_silent(&self, failure: &Failure) -> bool {
        tokio::select! {
            is_silent = self.answers_nobody(failure) => is_silent,
            () = self.halt.cancelled() => false,
        }
    }

    async fn answers_nobody(&self, failure: &Failure) -> bool {
        let limit = self.retry.silence;
        let Ok(admitted) = self.pacer.admit(&self.reads, "", 0, self.retry.patience).await else {
            return true;
        };
        let sent = Instant::now();
        let answer = timeout(limit, self.client.head_bucket(&self.name)).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", limit.as_secs());
            Err(Failure::new(FailureKind::TimedOut, Operation::HeadBucket, self.name.to_string(), message))
        });
        self.pacer.learn(admitted, answer.as_ref().err(), 0, sent.elapsed(), limit);
        let is_silent = answer.is_err_and(|refused| refused.kind().speaks_of_an_outage());
        if is_silent {
            self.pacer.is_silent(&self.reads, &failure.details().message);
        }
        is_silent
    }

    pub(super) fn outlasted(
        &self,
        outlasted: &Outlasted,
        operation: Operation,
        key: Option<&ObjectKey>,
    ) -> Failure {
        let Outlasted { down_for, reason } = outlasted;
        let message =
            format!("{} has not answered for {}: {reason}", self.server(), display_duration(*down_for));
        Failure::new(FailureKind::Unreachable, operation, self.place_of(key), message)
    }
}
