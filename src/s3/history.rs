//! Requests about versions, delete markers, and restores.
//!
//! `ListObjectVersions` needs two additions: the SDK has no paginator for it, and loses the order
//! of versions and delete markers ([`order`]).

mod order;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types as sdk;
use jiff::Timestamp;

use super::convert::{decode, listed_archive, timestamp, unquote};
use super::ids::{IdKind, required_size};
use super::page::PageClaims;
use super::paging::follows_unless_last;
use super::requests::{failure, fault, place};
use super::{Client, Failure, FailureKind, Operation, Page};
use crate::location::{BucketName, ObjectKey};
use crate::manifest::job::{Restore, RestoreTier};

use order::{RawAnswer, in_order, newest_first};

/// The archive state of an object, which decides whether its bytes can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ArchiveState {
    /// The object is in no archive, or was restored.
    #[default]
    Readable,
    /// The object must be restored first.
    Archived,
    /// A restore was requested and is in progress.
    Restoring,
}

/// The versioning state of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    /// Versioning was never enabled.
    Never,
    /// Each write creates a version.
    Enabled,
    /// Versioning was enabled once; now writes replace the version `null`.
    Suspended,
}

/// The result of a request for a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The restore began, or was already in progress.
    Ongoing,
    /// The object can be read.
    Readable,
}

/// One line of a listing of versions: an object, or a delete marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedVersion {
    /// The key, decoded.
    pub key: String,
    /// The version ID; `null` for an object written while the bucket kept no versions.
    pub id: String,
    /// True for a delete marker: it has no bytes and hides older versions.
    pub is_marker: bool,
    /// True for the newest version of its key.
    pub is_latest: bool,
    /// The size in bytes; 0 for markers.
    pub size: u64,
    /// The `ETag`, without quotes; absent for markers.
    pub etag: Option<String>,
    /// The time of the write. For a multipart object, the time at which its upload was created.
    pub modified: Option<Timestamp>,
    /// The storage class; `None` means STANDARD.
    pub storage_class: Option<String>,
    /// The archive state in the listing.
    pub archive: ArchiveState,
}

/// The start of the next page of versions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VersionMarker {
    /// `key-marker`.
    pub key: String,
    /// `version-id-marker`.
    pub id: Option<String>,
}

impl Client {
    /// Returns the optional attributes to request in lists: `RestoreStatus`, which only Amazon S3
    /// supports.
    pub(super) fn asks_for_restores(
        &self,
        bucket: &BucketName,
    ) -> Option<Vec<sdk::OptionalObjectAttributes>> {
        let asks = self.capabilities().restore_status_in_lists && !bucket.is_directory_bucket();
        asks.then(|| vec![sdk::OptionalObjectAttributes::RestoreStatus])
    }

    pub(super) fn listed_archive(
        &self,
        storage_class: Option<&str>,
        status: Option<&sdk::RestoreStatus>,
    ) -> ArchiveState {
        if self.capabilities().restore_status_in_lists {
            listed_archive(storage_class, status)
        } else {
            ArchiveState::Readable
        }
    }

    /// Returns the versioning state of the bucket.
    pub async fn get_versioning(&self, bucket: &BucketName) -> Result<Versioning, Failure> {
        let answer = self
            .sdk
            .get_bucket_versioning()
            .bucket(bucket.as_str())
            .send()
            .await;
        let output = answer
            .map_err(|error| failure(Operation::GetBucketVersioning, bucket, None, &error))?;
        Ok(match output.status {
            Some(sdk::BucketVersioningStatus::Enabled) => Versioning::Enabled,
            Some(_) => Versioning::Suspended,
            None => Versioning::Never,
        })
    }

    /// Returns one page of versions and delete markers: keys in the order of their bytes, newest
    /// first within a key. A key's versions may continue on the next page.
    pub async fn list_versions(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<&VersionMarker>,
        most: Option<u32>,
    ) -> Result<Page<ListedVersion, VersionMarker>, Failure> {
        const OPERATION: Operation = Operation::ListObjectVersions;
        let seen = RawAnswer::default();
        let encode = self.capabilities().encoded_lists;
        let mut output = self
            .sdk
            .list_object_versions()
            .bucket(bucket.as_str())
            .set_prefix((!prefix.is_empty()).then(|| prefix.to_owned()))
            .set_key_marker(after.map(|marker| marker.key.clone()))
            .set_version_id_marker(after.and_then(|marker| marker.id.clone()))
            .set_max_keys(most.and_then(|most| most.try_into().ok()))
            .set_encoding_type(encode.then_some(sdk::EncodingType::Url))
            .set_optional_object_attributes(self.asks_for_restores(bucket))
            .customize()
            .interceptor(seen.clone())
            .send()
            .await
            .map_err(|error| failure(OPERATION, bucket, None, &error))?;
        let encoded = output.encoding_type == Some(sdk::EncodingType::Url);
        let faulty = |message| fault(OPERATION, bucket, None, message);
        let claims = PageClaims::of(output.prefix(), output.common_prefixes());
        let contradiction = claims.contradiction(prefix, output.versions().len());
        if let Some(message) =
            contradiction.or_else(|| self.of_another(bucket, output.name.as_deref()))
        {
            return Err(faulty(message));
        }
        let (versions, markers) = (output.versions.take(), output.delete_markers.take());
        let versions = self.listed_versions(versions, encoded).map_err(faulty)?;
        let markers = listed_markers(markers, encoded).map_err(faulty)?;
        let items = newest_first(in_order(versions, markers, &seen.order())).map_err(faulty)?;
        let last = items.last().map(|last| VersionMarker {
            key: last.key.clone(),
            id: Some(last.id.clone()),
        });
        let is_truncated = output.is_truncated;
        let next = next_marker(output, encoded)
            .and_then(|marker| follows_unless_last(is_truncated, marker, last, after))
            .map_err(faulty)?;
        Ok(Page { items, next })
    }

    /// Converts the objects of a page.
    fn listed_versions(
        &self,
        versions: Option<Vec<sdk::ObjectVersion>>,
        encoded: bool,
    ) -> Result<Vec<ListedVersion>, String> {
        let convert = |version: sdk::ObjectVersion| {
            let storage_class = version.storage_class.map(|class| class.as_str().to_owned());
            let key = decoded_key(version.key, encoded)?;
            let size = required_size(version.size, &format!("size of a version of `{key}`"))?;
            Ok(ListedVersion {
                key,
                size,
                id: version_id(version.version_id)?,
                is_marker: false,
                is_latest: version.is_latest.unwrap_or(false),
                etag: IdKind::Etag.optional(version.e_tag.map(unquote))?,
                modified: version.last_modified.and_then(timestamp),
                archive: self
                    .listed_archive(storage_class.as_deref(), version.restore_status.as_ref()),
                storage_class,
            })
        };
        versions.into_iter().flatten().map(convert).collect()
    }

    /// Puts a delete marker on top of the key's versions, which all remain, and returns its version
    /// ID, or `None` if a server other than Amazon S3 names none. The request names no version, so
    /// it cannot destroy one.
    pub async fn put_delete_marker(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<Option<String>, Failure> {
        let output = self
            .sdk
            .delete_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .send()
            .await
            .map_err(|error| failure(Operation::DeleteObject, bucket, Some(key), &error))?;
        let version = IdKind::Version.optional(output.version_id);
        let version = version
            .map_err(|message| fault(Operation::DeleteObject, bucket, Some(key), message))?;
        let is_marker = output.delete_marker == Some(true);
        match version {
            Some(id) if is_marker && id != "null" => Ok(Some(id)),
            None if is_marker && !self.capabilities().refuses_what_it_lacks() => Ok(None),
            _ => {
                let message = "the answer names no new delete marker: the bucket's versioning was changed in mid-run";
                let place = place(bucket, Some(key));
                Err(Failure::new(
                    FailureKind::NoVersions,
                    Operation::DeleteObject,
                    place,
                    message,
                ))
            }
        }
    }

    /// Requests a restore of an archived version. `days` is false for `INTELLIGENT_TIERING`, where
    /// the object itself moves to a higher tier and no temporary copy is made.
    pub async fn restore_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        restore: Restore,
        days: bool,
    ) -> Result<Restored, Failure> {
        let tier = match restore.tier {
            RestoreTier::Standard => sdk::Tier::Standard,
            RestoreTier::Bulk => sdk::Tier::Bulk,
            RestoreTier::Expedited => sdk::Tier::Expedited,
        };
        let place = || place(bucket, Some(key));
        let parameters = sdk::GlacierJobParameters::builder()
            .tier(tier)
            .build()
            .map_err(|error| {
                Failure::new(
                    FailureKind::Bug,
                    Operation::RestoreObject,
                    place(),
                    error.to_string(),
                )
            })?;
        let days = days.then(|| i32::try_from(restore.days).unwrap_or(i32::MAX));
        let seen = RawAnswer::default();
        let answer = self
            .sdk
            .restore_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .restore_request(
                sdk::RestoreRequest::builder()
                    .set_days(days)
                    .glacier_job_parameters(parameters)
                    .build(),
            )
            .customize()
            .interceptor(seen.clone())
            .send()
            .await;
        match answer {
            // 202 starts a restore, 200 extends a finished one.
            Ok(_) if seen.status() == 200 => Ok(Restored::Readable),
            Ok(_) => Ok(Restored::Ongoing),
            Err(error) => match error.code() {
                Some("RestoreAlreadyInProgress") => Ok(Restored::Ongoing),
                Some("ObjectAlreadyInActiveTierError") => Ok(Restored::Readable),
                _ => Err(failure(Operation::RestoreObject, bucket, Some(key), &error)),
            },
        }
    }
}

/// Converts the delete markers of a page.
fn listed_markers(
    markers: Option<Vec<sdk::DeleteMarkerEntry>>,
    encoded: bool,
) -> Result<Vec<ListedVersion>, String> {
    let convert = |marker: sdk::DeleteMarkerEntry| {
        Ok(ListedVersion {
            key: decoded_key(marker.key, encoded)?,
            id: version_id(marker.version_id)?,
            is_marker: true,
            is_latest: marker.is_latest.unwrap_or(false),
            size: 0,
            etag: None,
            modified: marker.last_modified.and_then(timestamp),
            storage_class: None,
            archive: ArchiveState::Readable,
        })
    };
    markers.into_iter().flatten().map(convert).collect()
}

/// Returns the marker of the next page, or `None` if the response names no key.
fn next_marker(
    output: ListObjectVersionsOutput,
    encoded: bool,
) -> Result<Option<VersionMarker>, String> {
    let key = IdKind::Token.optional(output.next_key_marker)?;
    let id = IdKind::Version.optional(output.next_version_id_marker)?;
    Ok(match key {
        Some(key) => Some(VersionMarker {
            key: decoded_key(Some(key), encoded)?,
            id,
        }),
        None => None,
    })
}

/// Decodes a key of a list of versions.
fn decoded_key(key: Option<String>, encoded: bool) -> Result<String, String> {
    let key = key.ok_or("the list contains a version without a key")?;
    decode(key, encoded).map_err(|key| format!("the list contains a key that is not UTF-8: {key}"))
}

/// Checks a version ID. Some servers return none for objects that were written before versioning
/// was enabled.
fn version_id(id: Option<String>) -> Result<String, String> {
    let id = IdKind::Version.optional(id)?;
    Ok(id.unwrap_or_else(|| "null".to_owned()))
}
