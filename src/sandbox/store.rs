//! Buckets and the objects in them.
//!
//! Each bucket has one lock around a map ordered as S3 lists; nothing waits while it is held, and what is expensive
//! (hashing) happens before. An object is an immutable value behind an [`Arc`]: a copy that has looked up its source
//! goes on with that version whatever is written meanwhile, as in S3.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use hyper::StatusCode;

use super::checksum::{self, hex};
use super::condition::{WriteCondition, now};
use super::content::Content;
use super::multipart::{Completed, Upload, UploadInfo};
use super::object::{
    Encryption, Marker, Object, ObjectInfo, ObjectSpec, RESTORE_ONGOING, Version, VersionInfo, restored_until,
};
use super::operation::Operation;
use super::refusal::Refusal;

/// The account that owns buckets unless told otherwise.
pub const OWNER: &str = "111122223333";

/// Completed uploads whose answer is remembered for a repeated Complete, per bucket.
const COMPLETED_KEPT: usize = 10_000;

/// How a bucket is set up.
#[derive(Clone, Debug, Default)]
pub struct BucketOptions {
    /// Whether versioning is enabled.
    pub versioning: bool,
    /// The region it is in; `None` is the sandbox's own. Requests signed for another region get 301.
    pub region: Option<String>,
    /// The account that owns it; `None` is [`OWNER`].
    pub owner: Option<String>,
    /// Whether requests must carry `x-amz-request-payer`.
    pub requester_pays: bool,
    /// Whether objects can be locked; turns versioning on.
    pub object_lock: bool,
    /// Mode and days of the retention of objects that are written without one; wants `object_lock`.
    pub retention: Option<(String, u32)>,
    /// Encryption of objects that are written without a choice.
    pub encryption: Encryption,
}

/// Versioning of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versioning {
    Never,
    Enabled,
    Suspended,
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
    /// `ETags` of objects and parts are random: they do not follow from the content.
    pub opaque_etags: AtomicBool,
    /// No additional checksums are computed, stored or shown.
    pub no_checksums: AtomicBool,
    /// In an unversioned bucket, a delete between Create and Complete wins although Complete reports success, because
    /// the object is dated at the initiation of its upload.
    pub deletes_win_over_uploads: AtomicBool,
}

impl Quirks {
    pub(super) fn on(switch: &AtomicBool) -> bool {
        switch.load(Ordering::Relaxed)
    }
}

/// One bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) region: String,
    pub(super) owner: String,
    pub(super) created: SystemTime,
    pub(super) requester_pays: bool,
    pub(super) object_lock: bool,
    pub(super) retention: Option<(String, u32)>,
    pub(super) encryption: Encryption,
    state: RwLock<State>,
}

/// What the lock of a bucket guards.
#[derive(Debug)]
pub(super) struct State {
    pub(super) versioning: Versioning,
    /// Versions of each key, newest first, never empty.
    pub(super) objects: BTreeMap<String, Vec<Version>>,
    /// Open uploads by key and sequence of their initiation: the order in which S3 lists them.
    pub(super) uploads: BTreeMap<(String, u64), Upload>,
    completed: HashMap<String, Completed>,
    completed_order: VecDeque<String>,
}

/// What a delete did.
#[derive(Debug, Default)]
pub(super) struct Deleted {
    pub(super) marker: bool,
    pub(super) version_id: Option<String>,
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
            }),
        }
    }

    /// Creates a bucket. Returns `false`, and changes nothing, if there is one of this name.
    pub fn create_bucket(&self, name: &str, options: BucketOptions) -> bool {
        let mut buckets = write(&self.inner.buckets);
        if buckets.contains_key(name) {
            return false;
        }
        let versioned = options.versioning || options.object_lock;
        let bucket = Bucket {
            name: name.to_owned(),
            region: options.region.unwrap_or_else(|| self.inner.region.clone()),
            owner: options.owner.unwrap_or_else(|| OWNER.to_owned()),
            created: now(),
            requester_pays: options.requester_pays,
            object_lock: options.object_lock,
            retention: options.retention.filter(|_| options.object_lock),
            encryption: options.encryption,
            state: RwLock::new(State {
                versioning: if versioned {
                    Versioning::Enabled
                } else {
                    Versioning::Never
                },
                objects: BTreeMap::new(),
                uploads: BTreeMap::new(),
                completed: HashMap::new(),
                completed_order: VecDeque::new(),
            }),
        };
        buckets.insert(name.to_owned(), Arc::new(bucket));
        true
    }

    /// Writes an object as if somebody else had, past all checks. Creates the bucket if there is none.
    pub fn put_object(&self, bucket: &str, key: &str, content: Content, spec: &ObjectSpec) -> ObjectInfo {
        self.create_bucket(bucket, BucketOptions::default());
        let mut object = spec.build(content, self.next_sequence(), now(), || self.unique());
        let Some(bucket) = self.find(bucket) else {
            return ObjectInfo::of(key, &object);
        };
        let mut state = bucket.write();
        object.version_id = state.insert(key, object.clone(), || self.unique());
        ObjectInfo::of(key, &object)
    }

    /// The current version of an object; `None` if there is none or it is deleted.
    #[must_use]
    pub fn object(&self, bucket: &str, key: &str) -> Option<ObjectInfo> {
        let bucket = self.find(bucket)?;
        let state = bucket.read();
        state.current(key).map(|object| ObjectInfo::of(key, object))
    }

    /// All versions and delete markers of a key, newest first.
    #[must_use]
    pub fn versions(&self, bucket: &str, key: &str) -> Vec<VersionInfo> {
        let Some(bucket) = self.find(bucket) else {
            return Vec::new();
        };
        let state = bucket.read();
        let versions = state.objects.get(key).map(Vec::as_slice).unwrap_or_default();
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

    /// The keys that a listing of the bucket shows, in order.
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

    /// Uploads that are neither completed nor aborted, by key and initiation.
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

    /// Deletes the current version of an object as if somebody else had: a marker in a versioned bucket.
    pub fn delete_object(&self, bucket: &str, key: &str) {
        if let Some(bucket) = self.find(bucket) {
            let _ = bucket.delete(self, key, None, &WriteCondition::None);
        }
    }

    /// Finishes all restores that are going on in a bucket: the objects can be read for a day.
    pub fn finish_restores(&self, bucket: &str) {
        let Some(bucket) = self.find(bucket) else { return };
        let mut state = bucket.write();
        for version in state.objects.values_mut().flatten() {
            if let Version::Object(object) = version
                && object.attributes.restore.as_deref() == Some(RESTORE_ONGOING)
            {
                Arc::make_mut(&mut Arc::make_mut(object).attributes).restore = Some(restored_until(1));
            }
        }
    }

    /// From now on `operation` on keys that start with `key_prefix` is answered 403 `AccessDenied`. Reads of copy
    /// sources count as [`Operation::GetObject`]; without [`Operation::ListObjectsV2`] a missing key is 403, not 404.
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
            denied.operation == operation && denied.bucket == bucket && key.starts_with(&denied.key_prefix)
        })
    }

    pub(super) fn find(&self, bucket: &str) -> Option<Arc<Bucket>> {
        read(&self.inner.buckets).get(bucket).cloned()
    }

    pub(super) fn bucket(&self, bucket: &str) -> Result<Arc<Bucket>, Refusal> {
        self.find(bucket).ok_or_else(|| Refusal::no_such_bucket(bucket))
    }

    pub(super) fn buckets(&self) -> Vec<Arc<Bucket>> {
        read(&self.inner.buckets).values().cloned().collect()
    }

    /// Removes a bucket that holds no versions.
    pub(super) fn remove_bucket(&self, name: &str) -> Result<(), Refusal> {
        let mut buckets = write(&self.inner.buckets);
        let bucket = buckets.get(name).ok_or_else(|| Refusal::no_such_bucket(name))?;
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

    /// The next place in the order of writes.
    pub(super) fn next_sequence(&self) -> u64 {
        self.inner.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// 32 hexadecimal digits that were not given out before.
    pub(super) fn unique(&self) -> String {
        hex(&checksum::md5(&Content::bytes(
            self.next_sequence().to_le_bytes().to_vec(),
        )))
    }

    /// Whether `ETags` of what is written with this encryption do not follow from the content.
    pub(super) fn hides_content(&self, encryption: &Encryption) -> bool {
        encryption.is_kms() || Quirks::on(&self.quirks().opaque_etags)
    }

    /// The `ETag` of an object or a part written in one piece.
    pub(super) fn etag(&self, content: &Content, encryption: &Encryption) -> String {
        if self.hides_content(encryption) {
            self.unique()
        } else {
            checksum::etag(content)
        }
    }
}

impl Bucket {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        read(&self.state)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        write(&self.state)
    }

    /// Writes an object if the condition holds. Returns its version id as S3 shows it.
    pub(super) fn put(
        &self,
        store: &Store,
        key: &str,
        object: Object,
        condition: &WriteCondition,
    ) -> Result<Option<String>, Refusal> {
        let mut state = self.write();
        condition.check(key, state.current(key).map(Arc::as_ref))?;
        let version_id = state.insert(key, object, || store.unique());
        Ok(state.shown_id(version_id.as_deref()))
    }

    /// Deletes the current version (by a marker, where there is versioning) or the named one for good.
    pub(super) fn delete(
        &self,
        store: &Store,
        key: &str,
        version_id: Option<&str>,
        condition: &WriteCondition,
    ) -> Result<Deleted, Refusal> {
        let mut state = self.write();
        if *condition != WriteCondition::None {
            condition.check(key, state.current(key).map(Arc::as_ref))?;
        }
        if let Some(version_id) = version_id {
            return state.delete_version(key, version_id);
        }
        for upload in state.uploads_of_mut(key) {
            upload.key_was_deleted = true;
        }
        let marker_id: Option<Arc<str>> = match state.versioning {
            Versioning::Never => {
                state.objects.remove(key);
                return Ok(Deleted::default());
            }
            Versioning::Enabled => Some(store.unique().into()),
            Versioning::Suspended => None,
        };
        let marker = Marker {
            last_modified: now(),
            sequence: store.next_sequence(),
            version_id: marker_id,
        };
        let shown = marker.version_id.as_deref().unwrap_or("null").to_owned();
        state.place(key, Version::Marker(Arc::new(marker)));
        Ok(Deleted {
            marker: true,
            version_id: Some(shown),
        })
    }

    /// Replaces the attributes of a version, which keeps its identity. Returns the version id as S3 shows it.
    pub(super) fn change<T>(
        &self,
        key: &str,
        version_id: Option<&str>,
        change: impl FnOnce(&mut Object) -> Result<T, Refusal>,
    ) -> Result<(T, Option<String>), Refusal> {
        let mut state = self.write();
        let found = state.resolve(key, version_id)?;
        let mut changed = (*found).clone();
        let outcome = change(&mut changed)?;
        let sequence = changed.sequence;
        let shown = state.shown_id(changed.version_id.as_deref());
        if let Some(slot) = state
            .objects
            .get_mut(key)
            .and_then(|all| all.iter_mut().find(|version| version.sequence() == sequence))
        {
            *slot = Version::Object(Arc::new(changed));
        }
        Ok((outcome, shown))
    }
}

impl State {
    /// The object that a plain read of the key finds.
    pub(super) fn current(&self, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(key)?.first()?.object()
    }

    /// The version that a read finds: the current one, or the named one.
    pub(super) fn resolve(&self, key: &str, version_id: Option<&str>) -> Result<Arc<Object>, Refusal> {
        let versions = self.objects.get(key);
        let Some(wanted) = version_id else {
            return match versions.and_then(|versions| versions.first()) {
                Some(Version::Object(object)) => Ok(Arc::clone(object)),
                Some(marker @ Version::Marker(_)) => Err(Refusal::no_such_key(key)
                    .header("x-amz-delete-marker", "true")
                    .header("x-amz-version-id", marker.shown_id())),
                None => Err(Refusal::no_such_key(key)),
            };
        };
        let found =
            versions.and_then(|versions| versions.iter().find(|version| version.shown_id() == wanted));
        match found {
            Some(Version::Object(object)) => Ok(Arc::clone(object)),
            Some(marker @ Version::Marker(_)) => Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "The specified method is not allowed against this resource.",
            )
            .header("x-amz-delete-marker", "true")
            .header("x-amz-version-id", marker.shown_id())),
            None => Err(Refusal::no_such_version(key, wanted)),
        }
    }

    /// Version ids are shown once a bucket has had versioning; the null version is `null`.
    pub(super) fn shown_id(&self, version_id: Option<&str>) -> Option<String> {
        match (version_id, self.versioning) {
            (Some(id), _) => Some(id.to_owned()),
            (None, Versioning::Never) => None,
            (None, _) => Some("null".to_owned()),
        }
    }

    /// Stores an object as a version of the key. Returns its version id.
    pub(super) fn insert(
        &mut self,
        key: &str,
        mut object: Object,
        unique: impl FnOnce() -> String,
    ) -> Option<Arc<str>> {
        object.version_id = match self.versioning {
            Versioning::Enabled => Some(unique().into()),
            Versioning::Never | Versioning::Suspended => None,
        };
        let version_id = object.version_id.clone();
        self.place(key, Version::Object(Arc::new(object)));
        version_id
    }

    /// Puts a version at its place in the key's history. A null version replaces the null version.
    fn place(&mut self, key: &str, version: Version) {
        let Some(history) = self.objects.get_mut(key) else {
            self.objects.insert(key.to_owned(), vec![version]);
            return;
        };
        if version.version_id().is_none() {
            history.retain(|other| other.version_id().is_some());
        }
        let newer = history
            .iter()
            .take_while(|other| other.sequence() > version.sequence())
            .count();
        history.insert(newer, version);
    }

    fn delete_version(&mut self, key: &str, version_id: &str) -> Result<Deleted, Refusal> {
        let mut deleted = Deleted {
            marker: false,
            version_id: Some(version_id.to_owned()),
        };
        let Some(history) = self.objects.get_mut(key) else {
            return Ok(deleted);
        };
        if let Some(at) = history
            .iter()
            .position(|version| version.shown_id() == version_id)
        {
            let held = history[at]
                .object()
                .is_some_and(|object| object.attributes.lock.is_held(SystemTime::now()));
            if held {
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "AccessDenied",
                    "Access Denied because object protected by object lock.",
                ));
            }
            deleted.marker = history[at].object().is_none();
            history.remove(at);
            if history.is_empty() {
                self.objects.remove(key);
            }
        }
        Ok(deleted)
    }

    /// The open uploads of one key.
    pub(super) fn uploads_of_mut<'a>(&'a mut self, key: &str) -> impl Iterator<Item = &'a mut Upload> {
        self.uploads
            .range_mut((key.to_owned(), 0)..=(key.to_owned(), u64::MAX))
            .map(|(_, upload)| upload)
    }

    pub(super) fn completed(&self, upload_id: &str) -> Option<&Completed> {
        self.completed.get(upload_id)
    }

    /// Remembers the answer of a Complete; the oldest is forgotten when there are too many.
    pub(super) fn remember(&mut self, upload_id: String, completed: Completed) {
        if self.completed_order.len() >= COMPLETED_KEPT
            && let Some(oldest) = self.completed_order.pop_front()
        {
            self.completed.remove(&oldest);
        }
        self.completed_order.push_back(upload_id.clone());
        self.completed.insert(upload_id, completed);
    }
}

/// A panic elsewhere leaves nothing half done under these locks, so a poisoned one is used on.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
