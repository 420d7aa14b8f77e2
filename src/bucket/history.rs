//! Reads versions, appends versions and delete markers, and requests restores.
//!
//! A copy into a bucket with versions must not simply be repeated: an attempt whose response was
//! lost may have created a version, and a repetition would create another one. So s3haul first
//! lists the key. If its newest version differs from the one before the copy ([`LatestVersion`]),
//! the attempt took effect and is not repeated.

use std::future::Future;
use std::time::Duration;

use tokio::time::sleep;

use super::{Answer, Bucket, Repeat};
use crate::awake::AwakeInstant;
use crate::location::ObjectKey;
use crate::manifest::job::Restore;
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{
    Attributes, Failure, FailureKind, Head, ListedVersion, Operation, Page, Restored, SourcePin,
    VersionMarker, Versioning, WriteCondition, Written,
};

/// The newest version of a key, or its newest delete marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LatestVersion {
    /// The key has no version and no delete marker.
    Nothing,
    /// The newest version has this ID.
    Version(String),
    /// The server did not return a version ID.
    Unknown,
}

/// The response of the bucket about its versioning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KnownVersioning {
    Is(Versioning),
    Refused,
    NoAnswer,
}

impl From<Option<String>> for LatestVersion {
    /// Converts the version in the response to a write.
    fn from(version: Option<String>) -> Self {
        version.map_or(Self::Unknown, Self::Version)
    }
}

impl Bucket {
    /// Returns the versioning state of the bucket.
    pub(crate) async fn versioning(&self) -> Result<Versioning, Failure> {
        self.read(Operation::GetBucketVersioning, None, || {
            self.client.get_versioning(&self.name)
        })
        .await
    }

    /// Removes the version `null` from the HEAD of an object in a bucket without versions. Some
    /// servers return `null` for such objects, but refuse it in requests.
    pub(super) async fn without_null(&self, head: Head) -> Head {
        match self.known_versioning().await {
            KnownVersioning::Is(Versioning::Never) => Head {
                version: None,
                ..head
            },
            // Amazon S3 returns `null` only in buckets with versions.
            KnownVersioning::Refused if self.client.url().is_some() => Head {
                version: None,
                ..head
            },
            _ => head,
        }
    }

    /// Refuses the response to a HEAD of a version if the bucket has no versions: the server has
    /// ignored the version ID and answered about the current object.
    pub(super) async fn check_is_version(
        &self,
        key: &ObjectKey,
        head: Head,
    ) -> Result<Head, Failure> {
        if self.known_versioning().await != KnownVersioning::Is(Versioning::Never) {
            return Ok(head);
        }
        let message = "the request named a version, but the bucket has none: the answer is about the current object";
        Err(Failure::new(
            FailureKind::ServerFault,
            Operation::HeadObject,
            self.place(key),
            message,
        ))
    }

    /// Returns the response to `GetBucketVersioning`. The request is sent until it is answered, and
    /// then never again.
    pub(super) async fn known_versioning(&self) -> KnownVersioning {
        let answer = self.versioning.get_or_try_init(|| async {
            match self.versioning().await {
                Ok(versioning) => Ok(Some(versioning)),
                // The next call sends the request again.
                Err(failure)
                    if failure.kind().may_pass_later()
                        || *failure.kind() == FailureKind::Stopped =>
                {
                    Err(failure)
                }
                Err(_) => Ok(None),
            }
        });
        match answer.await {
            Ok(Some(versioning)) => KnownVersioning::Is(*versioning),
            Ok(None) => KnownVersioning::Refused,
            Err(_) => KnownVersioning::NoAnswer,
        }
    }

    /// Lists versions, as [`Client::list_versions`](crate::s3::Client::list_versions) does.
    #[doc(hidden)]
    pub async fn list_versions(
        &self,
        prefix: &str,
        after: Option<&VersionMarker>,
    ) -> Result<Page<ListedVersion, VersionMarker>, Failure> {
        let at = after.map_or(prefix, |after| &*after.key);
        self.list_at(Operation::ListObjectVersions, at, || {
            self.client.list_versions(&self.name, prefix, after, None)
        })
        .await
    }

    /// Returns the newest version or delete marker of a key.
    pub(crate) async fn newest_version(
        &self,
        key: &ObjectKey,
    ) -> Result<Option<ListedVersion>, Failure> {
        // In an ordered list, the key itself comes before all keys that begin with it.
        let most = self.capabilities().ordered_lists.then_some(1);
        let order = Order::of_versions(self.capabilities().ordered_lists);
        let mut paging = Paging::new(
            Operation::ListObjectVersions,
            &self.name,
            key.as_str(),
            order,
        );
        let mut after = None;
        loop {
            let mut page = self
                .read(Operation::ListObjectVersions, Some(key), || {
                    self.client
                        .list_versions(&self.name, key.as_str(), after.as_ref(), most)
                })
                .await?;
            if paging.check(&mut page)? == PageVerdict::Again {
                continue;
            }
            // An empty page that is not the last one proves nothing about the key.
            let is_passed = most.is_some() && !page.items.is_empty();
            let newest = page
                .items
                .into_iter()
                .find(|version| version.key == key.as_str());
            if newest.is_some() || is_passed || page.next.is_none() {
                return Ok(newest);
            }
            after = page.next;
        }
    }

    /// Copies `source` (`size` bytes) exactly once, as the next version of `key` after `latest`.
    pub(crate) async fn append_copy(
        &self,
        source: &SourcePin,
        size: u64,
        key: &ObjectKey,
        attributes: &Attributes,
        latest: &LatestVersion,
    ) -> Result<Answer<Written>, Failure> {
        self.append(Operation::CopyObject, key, size, latest, || {
            self.client
                .copy_object(source, &self.name, key, attributes, &WriteCondition::None)
        })
        .await
    }

    /// Writes a delete marker exactly once, as the next version of `key` after `latest`. Existing
    /// versions stay.
    pub(crate) async fn append_marker(
        &self,
        key: &ObjectKey,
        latest: &LatestVersion,
    ) -> Result<Answer<Written>, Failure> {
        self.append(Operation::DeleteObject, key, 0, latest, || async {
            Ok(Written {
                version: self.client.put_delete_marker(&self.name, key).await?,
                ..Written::default()
            })
        })
        .await
    }

    /// Writes a version once. If the response is lost, counts any version that is newer than
    /// `latest` as the result, even another writer's. So the caller checks that version:
    /// `CopyRound::prove` compares a copy with its source, and `ObjectTask::write_marker` refuses a
    /// version that is not a delete marker.
    async fn append<F>(
        &self,
        operation: Operation,
        key: &ObjectKey,
        bytes: u64,
        latest: &LatestVersion,
        attempt: impl Fn() -> F,
    ) -> Result<Answer<Written>, Failure>
    where
        F: Future<Output = Result<Written, Failure>>,
    {
        let began = AwakeInstant::now();
        let mut attempts = 0;
        loop {
            let failure = match self
                .call(operation, Some(key), bytes, Repeat::UnlessUnknown, &attempt)
                .await
            {
                Ok(answer) => {
                    return Ok(Answer {
                        attempts: answer.attempts + attempts,
                        ..answer
                    });
                }
                Err(failure) => failure,
            };
            attempts += failure.details().attempts;
            let unknown = failure.kind().outcome_unknown() && *latest != LatestVersion::Unknown;
            let wait =
                match self
                    .retry
                    .wait(failure.kind(), attempts, began.elapsed(), fastrand::f64())
                {
                    Some(wait) if unknown => wait,
                    // The list below waits for the end of the outage.
                    None if unknown && self.writes.is_out() => Duration::ZERO,
                    _ => return Err(failure.after(attempts)),
                };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.becomes_pointless(operation, key.as_str(), attempts) => {
                    return Err(self.stopped(operation, Some(key)).after(attempts));
                }
            }
            let newest = self.newest_version(key).await?;
            if let Some(made) =
                newest.filter(|newest| *latest != LatestVersion::Version(newest.id.clone()))
            {
                // A delete marker has no ETag.
                let etag = match made.etag {
                    Some(etag) => etag,
                    None if made.is_marker => String::new(),
                    None => return Err(failure.after(attempts)),
                };
                let version = Some(made.id);
                let value = Written {
                    etag,
                    version,
                    was_found: true,
                    ..Written::default()
                };
                return Ok(Answer {
                    value,
                    attempts,
                    maybe_twice: false,
                });
            }
            tracing::debug!(%failure, "did not take effect, and will be sent again");
            self.pacer.retried();
        }
    }

    /// Requests the restore of an archived version, for the days of `restore` if `for_days` is
    /// true. Otherwise the restore has no end, as in `INTELLIGENT_TIERING`, where the object itself
    /// leaves the archive and no temporary copy is made. A second request is harmless: S3 answers
    /// that the restore is in progress.
    #[doc(hidden)]
    pub async fn restore(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        restore: Restore,
        for_days: bool,
    ) -> Result<Restored, Failure> {
        self.call(
            Operation::RestoreObject,
            Some(key),
            0,
            Repeat::AtOnce,
            || {
                self.client
                    .restore_object(&self.name, key, version, restore, for_days)
            },
        )
        .await
        .map(|answer| answer.value)
    }
}
