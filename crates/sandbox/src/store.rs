//! Buckets and the objects in them.
//!
//! Each bucket has one lock around a map in the order in which S3 lists keys. No code waits while
//! it holds the lock, and expensive work (hashing) is done before the lock is taken. An object is
//! an immutable value behind an [`Arc`]. A copy that has found its source keeps using that version
//! even if the key is overwritten, as in S3.

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

/// The account that owns buckets by default.
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
    /// The region of the bucket; `None` is the region of the sandbox. Requests signed for another
    /// region get 301.
    pub region: Option<String>,
    /// The account that owns the bucket; `None` is [`OWNER`].
    pub owner: Option<String>,
    /// Set if requests must have the header `x-amz-request-payer`.
    pub requester_pays: bool,
    /// Set if a policy denies unsigned bodies.
    pub signed_bodies: bool,
    /// Set if objects can be locked. This also enables versioning.
    pub object_lock: bool,
    /// The default retention, as mode and days. It needs `object_lock`.
    pub retention: Option<(String, u32)>,
    /// The number of days after which open uploads are aborted. Create and `ListParts` announce it,
    /// but the sandbox never aborts them.
    pub abort_after_days: Option<u32>,
    /// The default encryption of objects.
    pub encryption: Encryption,
    /// Set if ACLs are enabled. They are disabled in new buckets.
    pub acls: bool,
    /// The canned ACL that a policy requires for all writes of objects.
    pub demanded_acl: Option<&'static str>,
}

/// The number and size of the objects in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BucketUsage {
    /// The name of the bucket.
    pub bucket: String,
    /// The number of keys whose current version is an object.
    pub objects: u64,
    /// The total size of these versions in bytes.
    pub bytes: u64,
    /// The number of multipart uploads that are neither completed nor aborted.
    pub open_uploads: u64,
}

/// The buckets of a sandbox. Clones share the same buckets.
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
    /// The attributes of the object that a test created last. Buckets with a million objects that
    /// have the same attributes share them.
    arranged: Mutex<Arc<Attributes>>,
}

#[derive(Debug)]
struct Denied {
    bucket: String,
    operation: Operation,
    key_prefix: String,
}

/// Deviations from S3, as in S3-compatible servers. All are off by default.
#[derive(Debug, Default)]
pub struct Quirks {
    /// `x-amz-copy-source-if-*` headers have no effect.
    pub ignore_source_conditions: AtomicBool,
    /// `If-None-Match` and `If-Match` have no effect on `CopyObject`.
    pub copies_overwrite: AtomicBool,
    /// `If-None-Match` and `If-Match` have no effect on `PutObject`.
    pub puts_overwrite: AtomicBool,
    /// `If-None-Match` and `If-Match` have no effect on `CompleteMultipartUpload`.
    pub completes_overwrite: AtomicBool,
    /// The server does not support `UploadPartCopy`.
    pub no_part_copy: AtomicBool,
    /// All parts but the last must have the same size, and the last must not be larger.
    pub equal_parts: AtomicBool,
    /// The server refuses all requests that involve tags.
    pub no_tags: AtomicBool,
    /// `CopyObject` and `CreateMultipartUpload` create objects without tags, whatever the request
    /// says.
    pub copies_drop_tags: AtomicBool,
    /// The `ETags` of objects and parts are random and do not depend on the content.
    pub opaque_etags: AtomicBool,
    /// No additional checksums are computed, stored or shown.
    pub no_checksums: AtomicBool,
    /// In an unversioned bucket, a delete between Create and Complete wins although Complete
    /// reports success, because the object has the time of its Create.
    pub deletes_win_over_uploads: AtomicBool,
    /// The server does not keep the bodies of uploads above 64 KiB. The stored object has the
    /// length and the checksums of the body, but other bytes, and its `ETag` does not match them.
    /// `Content-MD5` and signatures that cover the SHA-256 of the body are not checked. Use it to
    /// benchmark uploads.
    pub virtual_uploads: AtomicBool,
    /// Signatures are not checked, so a proxy may change signed headers.
    pub unchecked_signatures: AtomicBool,
    /// A part that is stored after the abort of its upload brings the upload back with that part.
    /// S3 warns that this can happen.
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

    /// Creates a bucket. If it already exists, nothing changes.
    pub fn create_bucket(&self, name: &str, options: BucketOptions) {
        let _existed = !self.add_bucket(name, options);
    }

    /// Creates a bucket. Returns false if it already exists.
    pub(super) fn add_bucket(&self, name: &str, options: BucketOptions) -> bool {
        let mut buckets = write(&self.inner.buckets);
        if buckets.contains_key(name) {
            return false;
        }
        let bucket = Bucket::new(name, options, &self.inner.region);
        buckets.insert(name.to_owned(), Arc::new(bucket));
        true
    }

    /// Writes an object as another client would, but without any checks. Creates the bucket if
    /// necessary.
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

    /// Copies the current objects with the prefix `from.1` in the bucket `from.0` to the prefix
    /// `to.1` in the bucket `to.0`, as another client would, but without any checks. The copies
    /// keep `ETags`, attributes, and times. Returns the number of copied objects. Creates the
    /// destination bucket if necessary.
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
            state.insert_shared(&key, object, self);
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

    /// Returns the current version of an object, or `None` if it does not exist or is deleted.
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

    /// Returns the keys that a listing of the bucket contains, in order.
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

    /// Returns the uploads that are neither completed nor aborted, by key and creation.
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

    /// Aborts all uploads of a bucket as another client would.
    pub fn abort_uploads(&self, bucket: &str) {
        for upload in self.open_uploads(bucket) {
            if let Some(bucket) = self.find(bucket) {
                let _ = bucket.abort(self, &upload.key, &upload.upload_id);
            }
        }
    }

    /// Deletes the current version of an object as another client would. In a versioned bucket this
    /// adds a delete marker.
    pub fn delete_object(&self, bucket: &str, key: &str) {
        if let Some(bucket) = self.find(bucket) {
            let _ = bucket.delete(self, key, None, &WriteCondition::None);
        }
    }

    /// Deletes the current version of an object in a versioned bucket with a delete marker that has
    /// this time. The marker is still the newest version.
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

    /// Finishes all restores in progress in a bucket. The objects can then be read for a day.
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

    /// Denies `operation` on keys that start with `key_prefix` from now on, with 403
    /// `AccessDenied`. Reads of copy sources count as [`Operation::GetObject`]. If
    /// [`Operation::ListObjectsV2`] is denied, a missing key is 403 and not 404.
    pub fn deny(&self, bucket: &str, operation: Operation, key_prefix: &str) {
        write(&self.inner.denied).push(Denied {
            bucket: bucket.to_owned(),
            operation,
            key_prefix: key_prefix.to_owned(),
        });
    }

    /// Revokes all denials of [`Store::deny`].
    pub fn allow_all(&self) {
        write(&self.inner.denied).clear();
    }

    /// Returns the switches for deviations from S3.
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

    /// Removes a bucket that has no versions.
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

    /// Returns the next number in the order of writes.
    pub(super) fn next_sequence(&self) -> u64 {
        self.inner.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns 32 hexadecimal digits that were never returned before.
    pub(super) fn unique(&self) -> String {
        hex(&checksum::md5(&Content::bytes(
            self.next_sequence().to_le_bytes().to_vec(),
        )))
    }

    /// Returns true if the `ETags` of objects with this encryption do not depend on the content.
    pub(super) fn hides_content(&self, encryption: &Encryption) -> bool {
        encryption.hides_content() || Quirks::on(&self.quirks().opaque_etags)
    }

    /// Returns the `ETag` of a part, or of an object that is written in one piece.
    pub(super) fn etag(&self, content: &Content, encryption: &Encryption) -> String {
        if self.hides_content(encryption) {
            self.unique()
        } else {
            checksum::etag(content)
        }
    }
}

/// Locks the state. No panic leaves the state partly changed, so a poisoned lock is used anyway.
pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
