//! What a bucket keeps besides its current objects: versions, delete markers and archives.

use super::{Bucket, Repeat};
use crate::location::ObjectKey;
use crate::manifest::job::Restore;
use crate::s3::{Failure, ListedVersion, Operation, Page, Restored, VersionMarker, Versioning};

impl Bucket {
    /// Whether the bucket keeps versions.
    pub async fn versioning(&self) -> Result<Versioning, Failure> {
        self.read(Operation::GetBucketVersioning, None, || self.client.get_versioning(&self.name)).await
    }

    /// See [`Client::list_versions`](crate::s3::Client::list_versions).
    pub async fn list_versions(
        &self,
        prefix: &str,
        after: Option<&VersionMarker>,
    ) -> Result<Page<ListedVersion, VersionMarker>, Failure> {
        self.read(Operation::ListObjectVersions, None, || {
            self.client.list_versions(&self.name, prefix, after, None)
        })
        .await
    }

    /// Asks for an archived version to be made readable. Asking twice does no harm: S3 says that it is under way.
    pub async fn restore(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        restore: Restore,
        for_days: bool,
    ) -> Result<Restored, Failure> {
        self.call(Operation::RestoreObject, Some(key), 0, Repeat::Always, || {
            self.client.restore_object(&self.name, key, version, restore, for_days)
        })
        .await
        .map(|answer| answer.value)
    }
}
