//! Requests about what a bucket was and what it holds in archives: versions, delete markers,
//! restores.
//!
//! `ListObjectVersions` needs two repairs. The SDK has no paginator for it, and it sorts versions
//! and delete markers into two lists. Which of two entries of a key is the newer one can then not
//! be seen when both were written in one second, which is as fine as S3's times are; but the answer
//! itself has them in order. So the order of the elements is read from the answer's text and the
//! lists are put together by it; where a server writes the two kinds apart, by time.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata};
use aws_sdk_s3::types as sdk;
use jiff::Timestamp;

use super::convert::{decode, listed_archive, timestamp, unquote};
use super::ids::{Name, required_size};
use super::page::Told;
use super::paging::follows_unless_last;
use super::verbs::{failure, fault, place};
use super::{Client, Failure, FailureKind, Operation, Page};
use crate::location::{BucketName, ObjectKey};
use crate::manifest::job::{Restore, RestoreTier};

/// Whether the bytes of an object can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ArchiveState {
    /// They can: it is in no archive, or was restored.
    #[default]
    Readable,
    /// It must be restored first.
    Archived,
    /// A restore was asked for and is under way.
    Restoring,
}

/// Whether a bucket keeps versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    /// It never did.
    Never,
    /// Each write makes a version.
    Enabled,
    /// It did once; writes replace the version `null`.
    Suspended,
}

/// What became of the request for a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It began, or was under way already.
    Ongoing,
    /// The object can be read.
    Readable,
}

/// One line of a listing of versions: an object, or a delete marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedVersion {
    /// The key, decoded.
    pub key: String,
    /// `null` for what was written while the bucket kept no versions.
    pub id: String,
    /// A delete marker: it has no bytes and hides what is older.
    pub is_marker: bool,
    /// The newest of its key.
    pub is_latest: bool,
    /// Bytes; 0 for markers.
    pub size: u64,
    /// Without quotes; absent for markers.
    pub etag: Option<String>,
    /// Last-Modified: when it was written, and for multipart uploads when they were initiated.
    pub modified: Option<Timestamp>,
    /// Absent means STANDARD.
    pub storage_class: Option<String>,
    /// What the listing tells about it.
    pub archive: ArchiveState,
}

/// Where the next page of versions starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VersionMarker {
    /// `key-marker`.
    pub key: String,
    /// `version-id-marker`.
    pub id: Option<String>,
}

impl Client {
    /// What lists are asked for besides names; only Amazon's know the question.
    pub(super) fn asks_for_restores(
        &self,
        bucket: &BucketName,
    ) -> Option<Vec<sdk::OptionalObjectAttributes>> {
        let asks = self.capabilities().archive_lists && !bucket.is_directory_bucket();
        asks.then(|| vec![sdk::OptionalObjectAttributes::RestoreStatus])
    }

    pub(super) fn listed_archive(
        &self,
        storage_class: Option<&str>,
        status: Option<&sdk::RestoreStatus>,
    ) -> ArchiveState {
        if self.capabilities().archive_lists {
            listed_archive(storage_class, status)
        } else {
            ArchiveState::Readable
        }
    }

    /// Whether the bucket keeps versions.
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

    /// One page of versions and delete markers: keys in the order of their bytes, newest first
    /// within a key. A key's versions may go on on the next page.
    pub async fn list_versions(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<&VersionMarker>,
        most: Option<u32>,
    ) -> Result<Page<ListedVersion, VersionMarker>, Failure> {
        const OPERATION: Operation = Operation::ListObjectVersions;
        let seen = Seen::default();
        let encode = self.capabilities().encoded_lists;
        let output = self
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
        let told = Told::of(output.prefix(), output.common_prefixes());
        let contradiction = told.contradiction(prefix, output.versions().len());
        if let Some(message) =
            contradiction.or_else(|| self.of_another(bucket, output.name.as_deref()))
        {
            return Err(faulty(message));
        }
        let readable = |key: Option<String>| {
            let key = key.ok_or("the list holds a version without a key")?;
            decode(key, encoded)
                .map_err(|key| format!("the list holds a key that is not UTF-8: {key}"))
        };
        // Of objects from before versioning, some servers name no version.
        let version_id = |id| {
            Name::Version
                .optional(id)
                .map(|id| id.unwrap_or_else(|| "null".to_owned()))
        };
        let versions = output
            .versions
            .unwrap_or_default()
            .into_iter()
            .map(|version| {
                let storage_class = version.storage_class.map(|class| class.as_str().to_owned());
                let key = readable(version.key)?;
                let size = required_size(version.size, &format!("size of a version of `{key}`"))?;
                Ok(ListedVersion {
                    key,
                    size,
                    id: version_id(version.version_id)?,
                    is_marker: false,
                    is_latest: version.is_latest.unwrap_or(false),
                    etag: Name::Etag.optional(version.e_tag.map(unquote))?,
                    modified: version.last_modified.and_then(timestamp),
                    archive: self
                        .listed_archive(storage_class.as_deref(), version.restore_status.as_ref()),
                    storage_class,
                })
            });
        let markers = output
            .delete_markers
            .unwrap_or_default()
            .into_iter()
            .map(|marker| {
                Ok(ListedVersion {
                    key: readable(marker.key)?,
                    id: version_id(marker.version_id)?,
                    is_marker: true,
                    is_latest: marker.is_latest.unwrap_or(false),
                    size: 0,
                    etag: None,
                    modified: marker.last_modified.and_then(timestamp),
                    storage_class: None,
                    archive: ArchiveState::Readable,
                })
            });
        let versions = versions
            .collect::<Result<Vec<_>, String>>()
            .map_err(faulty)?;
        let markers = markers
            .collect::<Result<Vec<_>, String>>()
            .map_err(faulty)?;
        let items = newest_first(in_order(versions, markers, &seen.order())).map_err(faulty)?;
        let last = items.last().map(|last| VersionMarker {
            key: last.key.clone(),
            id: Some(last.id.clone()),
        });
        let key = Name::Token
            .optional(output.next_key_marker)
            .map_err(faulty)?;
        let id = Name::Version
            .optional(output.next_version_id_marker)
            .map_err(faulty)?;
        let marker = match key {
            Some(key) => Some(VersionMarker {
                key: readable(Some(key)).map_err(faulty)?,
                id,
            }),
            None => None,
        };
        let next = follows_unless_last(output.is_truncated, marker, last, after).map_err(faulty)?;
        Ok(Page { items, next })
    }

    /// Puts a delete marker on top of the key's versions, which stay; returns its version id. No
    /// version is named, so that nothing can be destroyed.
    pub async fn put_delete_marker(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<String, Failure> {
        let output = self
            .sdk
            .delete_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .send()
            .await
            .map_err(|error| failure(Operation::DeleteObject, bucket, Some(key), &error))?;
        let version = Name::Version.optional(output.version_id);
        let version = version
            .map_err(|message| fault(Operation::DeleteObject, bucket, Some(key), message))?;
        match version {
            Some(id) if output.delete_marker == Some(true) && id != "null" => Ok(id),
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

    /// Asks for the bytes of an archived version to be made readable. `days` are not given for
    /// `INTELLIGENT_TIERING`, where the object moves up for good.
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
        let seen = Seen::default();
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
            // 202 begins a restore, 200 prolongs one that is done.
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

/// Looks at an answer before the SDK's types lose something of it.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Glance>>);

#[derive(Debug, Default)]
struct Glance {
    status: u16,
    /// For each entry of a listing of versions, whether it is a delete marker.
    order: Vec<bool>,
}

impl Seen {
    fn order(&self) -> Vec<bool> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).order)
    }

    fn status(&self) -> u16 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).status
    }
}

impl Intercept for Seen {
    fn name(&self) -> &'static str {
        "Seen"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        let mut glance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        glance.status = answer.status().as_u16();
        glance.order = answer.body().bytes().map(order_of).unwrap_or_default();
        Ok(())
    }
}

/// The kinds of a document's entries, in order. What a key holds of `<` is escaped, so no name
/// looks like a tag.
fn order_of(document: &[u8]) -> Vec<bool> {
    let mut order = Vec::new();
    for (at, _) in document
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'<')
    {
        let tag = &document[at..];
        if tag.starts_with(b"<Version>") {
            order.push(false);
        } else if tag.starts_with(b"<DeleteMarker>") {
            order.push(true);
        }
    }
    order
}

/// One list of both, by the order of the document where that is the order of a history.
fn in_order(
    versions: Vec<ListedVersion>,
    markers: Vec<ListedVersion>,
    order: &[bool],
) -> Vec<ListedVersion> {
    let there = |kind: bool| order.iter().filter(|is_marker| **is_marker == kind).count();
    let (mut versions, mut markers) = (VecDeque::from(versions), VecDeque::from(markers));
    if there(false) != versions.len() || there(true) != markers.len() {
        return by_time(versions, markers);
    }
    let (kept_versions, kept_markers) = (versions.clone(), markers.clone());
    let merged: Vec<_> = order
        .iter()
        .filter_map(|is_marker| {
            if *is_marker {
                markers.pop_front()
            } else {
                versions.pop_front()
            }
        })
        .collect();
    let is_history = merged.windows(2).all(|pair| {
        let [one, next] = pair else { return true };
        one.key < next.key
            || (one.key == next.key && one.modified >= next.modified && !next.is_latest)
    });
    if is_history {
        merged
    } else {
        by_time(kept_versions, kept_markers)
    }
}

/// Merges by key, newest first. The latest one of its key is the newest, whatever its time: an
/// upload is dated at its beginning. Of two entries of one second it is the marker, because an
/// object is deleted after it was written.
fn by_time(
    mut versions: VecDeque<ListedVersion>,
    mut markers: VecDeque<ListedVersion>,
) -> Vec<ListedVersion> {
    let mut merged = Vec::with_capacity(versions.len() + markers.len());
    while let (Some(version), Some(marker)) = (versions.front(), markers.front()) {
        let rank = |entry: &ListedVersion| {
            (
                Reverse(entry.is_latest),
                Reverse(entry.modified),
                !entry.is_marker,
            )
        };
        let marker_first = marker
            .key
            .cmp(&version.key)
            .then_with(|| rank(marker).cmp(&rank(version)))
            .is_lt();
        merged.extend(if marker_first {
            markers.pop_front()
        } else {
            versions.pop_front()
        });
    }
    merged.extend(versions);
    merged.extend(markers);
    merged
}

/// Turns the versions of each key that are listed oldest first. Their times say nothing against a
/// list that begins with the latest, because uploads are dated at their beginning.
///
/// # Errors
/// The latest version of a key stands among the others, so that their order is unknown.
fn newest_first(mut list: Vec<ListedVersion>) -> Result<Vec<ListedVersion>, String> {
    for history in list.chunk_by_mut(|one, next| one.key == next.key) {
        let ascends = || {
            history
                .windows(2)
                .all(|pair| pair[0].modified <= pair[1].modified)
        };
        match history.iter().position(|entry| entry.is_latest) {
            None | Some(0) => {}
            Some(at) if at + 1 == history.len() && ascends() => history.reverse(),
            Some(at) => {
                let ListedVersion { key, id, .. } = &history[at];
                return Err(format!(
                    "the list calls the version `{id}` of `{key}` its latest, behind others"
                ));
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(key: &str, second: i64, is_marker: bool, is_latest: bool) -> ListedVersion {
        ListedVersion {
            key: key.to_owned(),
            id: format!("{key}-{second}-{is_marker}"),
            is_marker,
            is_latest,
            size: 0,
            etag: None,
            modified: Timestamp::from_second(second).ok(),
            storage_class: None,
            archive: ArchiveState::Readable,
        }
    }

    fn split(history: &[ListedVersion]) -> (Vec<ListedVersion>, Vec<ListedVersion>) {
        history.iter().cloned().partition(|entry| !entry.is_marker)
    }

    #[test]
    fn entries_of_one_second_stand_as_in_the_document() {
        let history = [
            entry("a", 7, false, true),
            entry("a", 7, true, false),
            entry("a", 7, false, false),
            entry("b", 3, true, true),
        ];
        let document =
            b"<R><Version><Key>a</Key></Version><DeleteMarker/><DeleteMarker><Key>&lt;Version></Key>\
            </DeleteMarker><Version></Version><DeleteMarker></DeleteMarker></R>";
        let order = order_of(document);
        assert_eq!(order, [false, true, false, true]);
        let (versions, markers) = split(&history);
        assert_eq!(in_order(versions, markers, &order), history);
    }

    #[test]
    fn versions_that_are_listed_oldest_first_are_turned() {
        let oldest_first = [
            entry("a", 1, false, false),
            entry("a", 2, true, false),
            entry("a", 2, false, true),
            entry("b", 9, false, true),
            entry("b", 3, false, false),
        ];
        let [a1, a2, a3, b1, b2] = oldest_first.clone();
        assert_eq!(
            newest_first(oldest_first.into()).unwrap(),
            [a3, a2, a1, b1, b2]
        );
        // An upload is dated at its beginning.
        let early = [entry("a", 1, false, true), entry("a", 2, false, false)];
        assert_eq!(newest_first(early.clone().into()).unwrap(), early);
        for bad in [
            [
                entry("a", 1, false, false),
                entry("a", 2, false, true),
                entry("a", 3, false, false),
            ],
            [
                entry("a", 2, false, false),
                entry("a", 1, false, false),
                entry("a", 1, false, true),
            ],
        ] {
            let why = newest_first(bad.into()).unwrap_err();
            assert!(why.contains("of `a` its latest, behind others"), "{why}");
        }
    }

    #[test]
    fn the_latest_is_the_newest_whatever_its_time() {
        let upload = entry("a", 1, false, true);
        let marker = entry("a", 5, true, false);
        let merged = by_time(vec![upload.clone()].into(), vec![marker.clone()].into());
        assert_eq!(merged, [upload, marker]);
    }

    #[test]
    fn a_document_that_writes_the_kinds_apart_is_merged_by_time() {
        let history = [
            entry("a", 9, true, true),
            entry("a", 8, false, false),
            entry("b", 10, false, true),
        ];
        let (versions, markers) = split(&history);
        for order in [&[false, false, true][..], &[true, false, false], &[]] {
            assert_eq!(
                in_order(versions.clone(), markers.clone(), order),
                history,
                "{order:?}"
            );
        }
        let same_second = [entry("a", 9, true, false), entry("a", 9, false, false)];
        let (versions, markers) = split(&same_second);
        assert_eq!(by_time(versions.into(), markers.into()), same_second);
    }

    proptest! {
        #[test]
        fn no_entry_is_lost_and_times_never_ascend(
            mut times in proptest::collection::vec((0..3_usize, 0..50_i64, any::<bool>()), 0..40),
        ) {
            times.sort_by_key(|(key, second, marker)| (*key, Reverse(*second), *marker));
            times.dedup_by_key(|(key, second, _)| (*key, *second));
            let history: Vec<_> = times
                .iter()
                .map(|(key, second, marker)| entry(["a", "b", "c"][*key], *second, *marker, false))
                .collect();
            let (versions, markers) = split(&history);
            let order: Vec<_> = history.iter().map(|entry| entry.is_marker).collect();
            prop_assert_eq!(&in_order(versions.clone(), markers.clone(), &order), &history);
            prop_assert_eq!(&in_order(versions, markers, &[]), &history);
        }
    }
}
