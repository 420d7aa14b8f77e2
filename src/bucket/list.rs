//! Lists the objects in a bucket, page by page or only the first one.

use std::future::Future;

use super::{Bucket, Repeat};
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{Failure, FailureKind, ListedObject, Operation, Page};

impl Bucket {
    /// Refuses, for a directory bucket, a prefix that does not end in a slash. The message is
    /// clearer than S3's.
    pub(super) fn check_prefix(&self, operation: Operation, prefix: &str) -> Result<(), Failure> {
        if !self.capabilities().directory || prefix.is_empty() || prefix.ends_with('/') {
            return Ok(());
        }
        let message = format!(
            "in a directory bucket a prefix must end in a slash: write `{prefix}/` instead of `{prefix}`"
        );
        Err(Failure::new(
            FailureKind::Invalid,
            operation,
            self.name.to_string(),
            message,
        ))
    }

    /// Lists objects, as [`Client::list_objects`](crate::s3::Client::list_objects) does.
    #[doc(hidden)]
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        token: Option<&str>,
    ) -> Result<Page<ListedObject>, Failure> {
        self.check_prefix(Operation::ListObjects, prefix)?;
        let list = || self.client.list_objects(&self.name, prefix, after, token);
        // A policy may allow one prefix and deny another. So a 403 for the first page is not
        // retried.
        let is_continuation = token.is_some() || after.is_some();
        let bucket = if is_continuation {
            self
        } else {
            &self.trusting_denials()
        };
        bucket
            .list_at(Operation::ListObjects, after.unwrap_or(prefix), list)
            .await
    }

    /// Returns the first object after `after` whose key begins with `prefix`. An empty page that is
    /// not the last one does not prove that there is no object.
    ///
    /// # Errors
    /// Fails for the same reasons as [`Client::list_one`](crate::s3::Client::list_one), and if the
    /// list does not end or contains keys that were not requested.
    #[doc(hidden)]
    pub async fn first(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Option<ListedObject>, Failure> {
        self.check_prefix(Operation::ListObjects, prefix)?;
        // A list of one key has no order.
        let mut paging = Paging::new(Operation::ListObjects, &self.name, prefix, Order::Unknown);
        let mut token = None;
        loop {
            let list = || {
                self.client
                    .list_one(&self.name, prefix, after, token.as_deref())
            };
            let mut page = self
                .list_at(Operation::ListObjects, after.unwrap_or(prefix), list)
                .await?;
            let turn = paging.check(&mut page)?;
            if let Some(failure) = paging.take_refused().into_iter().next() {
                return Err(failure);
            }
            if turn == PageVerdict::Again {
                continue;
            }
            let first = page.items.into_iter().next();
            if first.is_some() || page.next.is_none() {
                return Ok(first);
            }
            token = page.next;
        }
    }

    /// Sends a request for a list that starts at the key `at`.
    pub(super) async fn list_at<T, F>(
        &self,
        operation: Operation,
        at: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.call_at(at, operation, None, 0, Repeat::AtOnce, attempt)
            .await
            .map(|answer| answer.value)
    }
}
