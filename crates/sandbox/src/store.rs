//! Buckets and the objects in them.
//!
//! Each bucket has one lock around a map ordered as S3 lists; nothing waits while it is held, and
//! what is expensive (hashing) happens before. An object is an immutable value behind an [`Arc`]: a
//! copy that has looked up its source goes on with that version whatever is written meanwhile, as
//! in S3.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use hyper::StatusCode;
use serde::Serialize;

use super::bucket::Bucket;
use super::checksum::{self, hex};
use super::condition::{WriteCondition, now};
use super::content::Content;
use super::multipart::UploadInfo;
use super::object::{
    Attributes, Encryption, ObjectInfo, ObjectSpec, RESTORE_ONGOING, Version, VersionInfo,
    restored_until, whole_seconds,
};
use super::operation::Operation;
use super::refusal::Refusal;

/// The account that owns buckets unless told otherwise.
pub const OWNER: &str = "111122223333";

/// The settings of a bucket.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one setting of a bucket"
)]
pub struct BucketOptions {
    /// Set if versioning is enabled.
    pub versioning: bool,
    /// The region it is in; `None` is the sandbox's own. Requests signed for another region get
    /// 301.
    pub region: Option<String>,
    /// The account that owns it; `None` is [`OWNER`].
    pub owner: Option<String>,
    /// Set if requests must carry `x-amz-request-payer`.
    pub requester_pays: bool,
    /// Set if a policy denies bodies that are not signed.
    pub signed_bodies: bool,
    /// Set if objects can be locked; turns versioning on.
    pub object_lock: bool,
    /// Mode and days of the retention of objects that are written without one; wants `object_lock`.
    pub retention: Option<(String, u32)>,
    /// Days after which open uploads are aborted, which Create and `ListParts` announce; the
    /// sandbox never does it.
    pub abort_after_days: Option<u32>,
    /// Encryption of objects that are written without a choice.
    pub encryption: Encryption,
    /// Set if ACLs count; they are disabled in new buckets.
    pub acls: bool,
    /// The canned ACL without which a policy denies all writes of objects.
    pub demanded_acl: Option<&'static str>,
}

/// The number and size of the objects in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BucketUsage {
    /// Its name.
    pub bucket: String,
    /// Keys whose current version is an object.
    pub objects: u64,
    /// Bytes of these current versions together.
    pub bytes: u64,
    /// Multipart uploads that are neither completed nor aborted.
    pub open_uploads: u64,
}

/// The buckets of one sandbox. A handle: clones share the same buckets.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    region: String,
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    denied: RwLock<Vec<Denied>>,
    sequence: AtomicU64,
    quirks: Quirks,
    /// Attributes of the object arranged last. Buckets of a million objects that are all alike
    /// share them.
    arranged: Mutex<Arc<Attributes>>,
}

#[derive(Debug)]
struct Denied {
    bucket: String,
    operation: Operation,
    key_prefix: String,
}

/// Deviations from S3 that compatible servers show. All off at first.
#[derive(Debug, Default)]
pub struct Quirks {
    /// `x-amz-copy-source-if-*` headers have no effect.
    pub ignore_source_conditions: AtomicBool,
    /// `If-None-Match` and `If-Match` have no effect on CopyObject.
    pub copies_overwrite: AtomicBool,
    /// Nor on `PutObject`.
    pub puts_overwrite: AtomicBool,
    /// Nor on `CompleteMultipartUpload`.
    pub completes_overwrite: AtomicBool,
    /// There is no `UploadPartCopy`.
    pub no_part_copy: AtomicBool,
    /// All parts but the last must have one size, and the last must not be larger.
    pub equal_parts: AtomicBool,
    /// Everything that has to do with tags is refused.
    pub no_tags: AtomicBool,
    /// CopyObject and `CreateMultipartUpload` make objects without tags, whatever they are told.
    pub copies_drop_tags: AtomicBool,
    /// `ETags` of objects and parts are random: they do not follow from the content.
    pub opaque_etags: AtomicBool,
    /// No additional checksums are computed, stored or shown.
    pub no_checksums: AtomicBool,
    /// In an unversioned bucket, a delete between Create and Complete wins although Complete
    /// reports success, because the object is dated at the initiation of its upload.
    pub deletes_win_over_uploads: AtomicBool,
    /// Bodies of uploads above 64 KiB are not kept: what is stored has their length and checksums
    /// and other bytes, and its `ETag` does not follow from theirs. Neither `Content-MD5` nor a
    /// signature that covers their SHA-256 is checked. For benchmarks of uploads.
    pub virtual_uploads: AtomicBool,
    /// Signatures are not checked, so that a proxy may change what was signed.
    pub unchecked_signatures: AtomicBool,
    /// A part that is stored after the abort of its upload brings the upload back, with that part,
    /// as S3 warns.
    pub late_parts_survive_aborts: AtomicBool,
}

impl Quirks {
    pub(super) fn on(switch: &AtomicBool) -> bool {
        switch.load(Ordering::Relaxed)
    }
}

impl Store {
    pub(super) fn new(region: String) -> Self {
        Self {
            inner: Arc::new(Inner {
                region,
                buckets: RwLock::default(),
                denied: RwLock::default(),
                sequence: AtomicU64::new(1),
                quirks: Quirks::default(),
                arranged: Mutex::default(),
            }),
        }
    }

    /// Creates a bucket, unless there is one of this name: then nothing changes.
    pub fn create_bucket(&self, name: &str, options: BucketOptions) {
        let _existed = !self.add_bucket(name, options);
    }

    /// Creates a bucket. Whether there was none of this name.
    pub(super) fn add_bucket(&self, name: &str, options: BucketOptions) -> bool {
        let mut buckets = write(&self.inner.buckets);
        if buckets.contains_key(name) {
            return false;
        }
        let bucket = Bucket::new(name, options, &self.inner.region);
        buckets.insert(name.to_owned(), Arc::new(bucket));
        true
    }

    /// Writes an object as if somebody else had, past all checks. Creates the bucket if there is
    /// none.
    pub fn put_object(
        &self,
        bucket: &str,
        key: &str,
        content: Content,
        spec: &ObjectSpec,
    ) -> ObjectInfo {
        self.create_bucket(bucket, BucketOptions::default());
        let mut object = spec.build(content, self.next_sequence(), now(), || self.unique());
        {
            let mut arranged = self
                .inner
                .arranged
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if **arranged != *object.attributes {
                *arranged = Arc::clone(&object.attributes);
            }
            object.attributes = Arc::clone(&arranged);
        }
        let Some(bucket) = self.find(bucket) else {
            return ObjectInfo::of(key, &object);
        };
        let mut state = bucket.write();
        object.version_id = state.insert(key, object.clone(), || self.unique());
        ObjectInfo::of(key, &object)
    }

    /// Copies the current objects whose keys begin with `from.1` as if somebody else had, past all
    /// checks, to keys that begin with `to.1` instead: `(bucket, prefix)`. They keep their `ETags`,
    /// attributes and times. Returns how many. Creates the bucket if there is none.
    #[must_use = "0 says that there is nothing with this prefix"]
    pub fn copy_prefix(&self, from: (&str, &str), to: (&str, &str)) -> usize {
        self.create_bucket(to.0, BucketOptions::default());
        let (Some(source), Some(destination)) = (self.find(from.0), self.find(to.0)) else {
            return 0;
        };
        let found: Vec<_> = {
            let state = source.read();
            let range = state
                .objects
                .range::<str, _>((Bound::Included(from.1), Bound::Unbounded));
            range
                .map_while(|(key, versions)| Some((key.strip_prefix(from.1)?, versions.first()?)))
                .filter_map(|(rest, version)| {
                    Some((format!("{}{rest}", to.1), Arc::clone(version.object()?)))
                })
                .collect()
        };
        let mut state = destination.write();
        let count = found.len();
        for (key, object) in found {
            state.insert_shared(&key, object, || self.unique());
        }
        count
    }

    /// Returns the usage of all buckets, by name.
    #[must_use]
    pub fn usage(&self) -> Vec<BucketUsage> {
        self.buckets()
            .iter()
            .map(|bucket| {
                let state = bucket.read();
                let current = state
                    .objects
                    .values()
                    .filter_map(|versions| versions.first()?.object());
                let (objects, bytes) =
                    current.fold((0, 0), |(objects, bytes): (u64, u64), object| {
                        (objects + 1, bytes.saturating_add(object.content.len()))
                    });
                let open_uploads = state.uploads.len() as u64;
                BucketUsage {
                    bucket: bucket.name.clone(),
                    objects,
                    bytes,
                    open_uploads,
                }
            })
            .collect()
    }

    /// Returns the current version of an object; `None` if there is none or it is deleted.
    #[must_use]
    pub fn object(&self, bucket: &str, key: &str) -> Option<ObjectInfo> {
        let bucket = self.find(bucket)?;
        let state = bucket.read();
        state.current(key).map(|object| ObjectInfo::of(key, object))
    }

    /// Returns all versions and delete markers of a key, newest first.
    #[must_use]
    pub fn versions(&self, bucket: &str, key: &str) -> Vec<VersionInfo> {
        let Some(bucket) = self.find(bucket) else {
            return Vec::new();
        };
        let state = bucket.read();
        let versions = state
            .objects
            .get(key)
            .map(Vec::as_slice)
            .unwrap_or_default();
        versions
            .iter()
            .map(|version| match version {
                Version::Object(object) => VersionInfo::Object(ObjectInfo::of(key, object)),
                Version::Marker(marker) => {
                    VersionInfo::DeleteMarker(marker.version_id.as_deref().map(str::to_owned))
                }
            })
            .collect()
    }

    /// Returns the keys that a listing of the bucket shows, in order.
    #[must_use]
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let Some(bucket) = self.find(bucket) else {
            return Vec::new();
        };
        let state = bucket.read();
        state
            .objects
            .keys()
            .filter(|key| state.current(key).is_some())
            .cloned()
            .collect()
    }

    /// Returns the uploads that are neither completed nor aborted, by key and initiation.
    #[must_use]
    pub fn open_uploads(&self, bucket: &str) -> Vec<UploadInfo> {
        let Some(bucket) = self.find(bucket) else {
            return Vec::new();
        };
        let state = bucket.read();
        state
            .uploads
            .iter()
            .map(|((key, _), upload)| UploadInfo::of(key, upload))
            .collect()
    }

    /// Aborts all uploads of a bucket as if somebody else had.
    pub fn abort_uploads(&self, bucket: &str) {
        for upload in self.open_uploads(bucket) {
            if let Some(bucket) = self.find(bucket) {
                let _ = bucket.abort(self, &upload.key, &upload.upload_id);
            }
        }
    }

    /// Deletes the current version of an object as if somebody else had: a marker in a versioned
    /// bucket.
    pub fn delete_object(&self, bucket: &str, key: &str) {
        if let Some(bucket) = self.find(bucket) {
            let _ = bucket.delete(self, key, None, &WriteCondition::None);
        }
    }

    /// Returns the same at this time, in a versioned bucket: the marker's time, that is, for its
    /// place is the newest one.
    pub fn delete_object_at(&self, bucket: &str, key: &str, time: SystemTime) {
        self.delete_object(bucket, key);
        let Some(bucket) = self.find(bucket) else {
            return;
        };
        if let Some(Version::Marker(marker)) = bucket
            .write()
            .objects
            .get_mut(key)
            .and_then(|versions| versions.first_mut())
        {
            Arc::make_mut(marker).last_modified = whole_seconds(time);
        }
    }

    /// Finishes all restores that are going on in a bucket: the objects can be read for a day.
    pub fn finish_restores(&self, bucket: &str) {
        let Some(bucket) = self.find(bucket) else {
            return;
        };
        let mut state = bucket.write();
        for version in state.objects.values_mut().flatten() {
            if let Version::Object(object) = version
                && object.attributes.restore.as_deref() == Some(RESTORE_ONGOING)
            {
                Arc::make_mut(&mut Arc::make_mut(object).attributes).restore =
                    Some(restored_until(1));
            }
        }
    }

    /// Answers `operation` on keys that start with `key_prefix` with 403 `AccessDenied` from now
    /// on. Reads of copy sources count as [`Operation::GetObject`]; without
    /// [`Operation::ListObjectsV2`] a missing key is 403, not 404.
    pub fn deny(&self, bucket: &str, operation: Operation, key_prefix: &str) {
        write(&self.inner.denied).push(Denied {
            bucket: bucket.to_owned(),
            operation,
            key_prefix: key_prefix.to_owned(),
        });
    }

    /// Takes back all [`Store::deny`].
    pub fn allow_all(&self) {
        write(&self.inner.denied).clear();
    }

    /// Deviations from S3 to switch on.
    #[must_use]
    pub fn quirks(&self) -> &Quirks {
        &self.inner.quirks
    }

    pub(super) fn is_denied(&self, bucket: &str, operation: Operation, key: &str) -> bool {
        read(&self.inner.denied).iter().any(|denied| {
            denied.operation == operation
                && denied.bucket == bucket
                && key.starts_with(&denied.key_prefix)
        })
    }

    pub(super) fn find(&self, bucket: &str) -> Option<Arc<Bucket>> {
        read(&self.inner.buckets).get(bucket).cloned()
    }

    pub(super) fn bucket(&self, bucket: &str) -> Result<Arc<Bucket>, Refusal> {
        self.find(bucket)
            .ok_or_else(|| Refusal::no_such_bucket(bucket))
    }

    pub(super) fn buckets(&self) -> Vec<Arc<Bucket>> {
        read(&self.inner.buckets).values().cloned().collect()
    }

    /// Removes a bucket that holds no versions.
    pub(super) fn remove_bucket(&self, name: &str) -> Result<(), Refusal> {
        let mut buckets = write(&self.inner.buckets);
        let bucket = buckets
            .get(name)
            .ok_or_else(|| Refusal::no_such_bucket(name))?;
        if !bucket.read().objects.is_empty() {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "BucketNotEmpty",
                "The bucket you tried to delete is not empty",
            )
            .with("BucketName", name));
        }
        buckets.remove(name);
        Ok(())
    }

    pub(super) fn region(&self) -> &str {
        &self.inner.region
    }

    /// Returns the next place in the order of writes.
    pub(super) fn next_sequence(&self) -> u64 {
        self.inner.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns 32 hexadecimal digits that were not given out before.
    pub(super) fn unique(&self) -> String {
        hex(&checksum::md5(&Content::bytes(
            self.next_sequence().to_le_bytes().to_vec(),
        )))
    }

    /// Returns true if `ETags` of objects with this encryption do not follow from the content.
    pub(super) fn hides_content(&self, encryption: &Encryption) -> bool {
        encryption.hides_content() || Quirks::on(&self.quirks().opaque_etags)
    }

    /// Returns the `ETag` of an object or a part written in one piece.
    pub(super) fn etag(&self, content: &Content, encryption: &Encryption) -> String {
        if self.hides_content(encryption) {
            self.unique()
        } else {
            checksum::etag(content)
        }
    }
}

/// Locks the state: a panic elsewhere leaves nothing half done under these locks, so a poisoned one is used
/// on.
pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
