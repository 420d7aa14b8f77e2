//! Turns a panic inside a request into the failure of that request.
//!
//! The SDK panics on some values that it cannot put into a request or take from a response. s3haul
//! checks the known ones (`s3::ids`, `s3::octets`). For all others, a panic becomes a failure that
//! names the request, which may have taken effect. The text of the panic may quote the server or
//! contain a secret, so the failure does not repeat it.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

use super::Bucket;
use crate::location::ObjectKey;
use crate::s3::{Failure, FailureKind, Operation};

impl Bucket {
    /// Makes one attempt.
    ///
    /// # Errors
    /// Returns the failure of the attempt, or [`FailureKind::Bug`] if it panics.
    pub(super) async fn caught<T, F>(
        &self,
        operation: Operation,
        key: Option<&ObjectKey>,
        attempt: &impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        // `attempt` is called inside, because it may panic before its first await.
        let outcome = AssertUnwindSafe(async { attempt().await })
            .catch_unwind()
            .await;
        outcome.unwrap_or_else(|_panic| {
            let place = key.map_or_else(|| self.name.to_string(), |key| self.place(key));
            let message = "s3haul panicked while it made this request or read its answer";
            Err(Failure::new(FailureKind::Bug, operation, place, message))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::Repeat;
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::s3::Connect;
    use crate::s3::client::StaticCredentials;

    #[tokio::test]
    async fn a_panic_fails_its_request_and_names_it() {
        let endpoint = Endpoint {
            url: Some("http://127.0.0.1:9".to_owned()),
            ..Endpoint::default()
        };
        let credentials = StaticCredentials {
            access_key: "id".to_owned(),
            secret_key: "secret".to_owned(),
        };
        let connect = Connect {
            endpoint: endpoint.into(),
            region: None,
            credentials: Some(credentials),
        };
        let bucket = Bucket::connect(connect, "lake".parse().unwrap())
            .await
            .unwrap();
        let key: ObjectKey = "a\u{1b}b".parse().unwrap();
        let attempts = AtomicU32::new(0);
        for panics_at_once in [true, false] {
            let attempt = || {
                attempts.fetch_add(1, Ordering::Relaxed);
                assert!(!panics_at_once, "<html>");
                async {
                    assert!(panics_at_once, "<html>");
                    Ok(())
                }
            };
            let create = Operation::CreateMultipartUpload;
            let failure = bucket
                .call(create, Some(&key), 0, Repeat::Always, attempt)
                .await
                .unwrap_err();
            assert_eq!(failure.kind(), &FailureKind::Bug);
            let text = failure.to_string();
            assert!(
                text.starts_with(r"CreateMultipartUpload lake/a\u{1b}b: bug: s3haul panicked"),
                "{text}"
            );
            assert!(
                text.ends_with("please report it") && !text.contains("html"),
                "{text}"
            );
            assert!(
                failure.may_have_taken_effect(),
                "an upload may have been created"
            );
        }
        assert_eq!(attempts.into_inner(), 2, "it would panic again");
    }
}
