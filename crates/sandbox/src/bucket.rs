//! One bucket: its settings, the versions of its keys, and its open uploads.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use hyper::StatusCode;

use super::condition::{WriteCondition, now};
use super::content::Content;
use super::multipart::{Completed, Upload};
use super::object::{Encryption, Marker, Object, Version};
use super::refusal::Refusal;
use super::store::{BucketOptions, OWNER, Store, read, write};

/// The number of completed uploads per bucket whose answers are kept for a repeated Complete.
const COMPLETED_KEPT: usize = 10_000;

/// The versioning state of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versioning {
    Never,
    Enabled,
    Suspended,
}

/// One bucket.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent setting"
)]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) region: String,
    pub(super) owner: String,
    pub(super) created: SystemTime,
    /// Set if the name ends in `--x-s3`, see [`kind`](super::kind).
    pub(super) directory: bool,
    pub(super) requester_pays: bool,
    pub(super) signed_bodies: bool,
    pub(super) object_lock: bool,
    pub(super) retention: Option<(String, u32)>,
    pub(super) abort_after_days: Option<u32>,
    pub(super) encryption: Encryption,
    pub(super) acls: bool,
    pub(super) demanded_acl: Option<&'static str>,
    state: RwLock<State>,
}

/// The part of a bucket that its lock protects.
#[derive(Debug)]
pub(super) struct State {
    pub(super) versioning: Versioning,
    /// The versions of each key, newest first. No list is empty.
    pub(super) objects: BTreeMap<String, Vec<Version>>,
    /// The open uploads by key and by the sequence number of Create, which is the order in which S3
    /// lists them.
    pub(super) uploads: BTreeMap<(String, u64), Upload>,
    /// Aborted uploads that a late part can bring back, see [`Quirks`](super::store::Quirks).
    pub(super) aborted: HashMap<String, (String, Upload)>,
    completed: HashMap<String, Completed>,
    completed_order: VecDeque<String>,
}

/// The effect of a delete.
#[derive(Debug, Default)]
pub(super) struct Deleted {
    pub(super) marker: bool,
    pub(super) version_id: Option<String>,
}

impl Bucket {
    pub(super) fn new(name: &str, options: BucketOptions, region: &str) -> Self {
        let versioned = (options.versioning || options.object_lock) && !name.ends_with("--x-s3");
        Self {
            name: name.to_owned(),
            region: options.region.unwrap_or_else(|| region.to_owned()),
            owner: options.owner.unwrap_or_else(|| OWNER.to_owned()),
            created: now(),
            directory: name.ends_with("--x-s3"),
            requester_pays: options.requester_pays,
            signed_bodies: options.signed_bodies,
            object_lock: options.object_lock,
            retention: options.retention.filter(|_| options.object_lock),
            abort_after_days: options.abort_after_days,
            encryption: options.encryption,
            acls: options.acls,
            demanded_acl: options.demanded_acl,
            state: RwLock::new(State {
                versioning: if versioned {
                    Versioning::Enabled
                } else {
                    Versioning::Never
                },
                objects: BTreeMap::new(),
                uploads: BTreeMap::new(),
                aborted: HashMap::new(),
                completed: HashMap::new(),
                completed_order: VecDeque::new(),
            }),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        read(&self.state)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        write(&self.state)
    }

    /// Returns the `ETag` of a part, or of an object that is written in one piece.
    pub(super) fn etag(&self, store: &Store, content: &Content, encryption: &Encryption) -> String {
        if self.directory {
            store.unique()
        } else {
            store.etag(content, encryption)
        }
    }

    /// Returns the time at which the lifecycle rule aborts an upload that is created at
    /// `initiated`.
    pub(super) fn abort_date(&self, initiated: SystemTime) -> Option<SystemTime> {
        // The rule acts at the next midnight UTC.
        const DAY: u64 = 86_400;
        let since = initiated
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let days = since / DAY + 1 + u64::from(self.abort_after_days?);
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * DAY))
    }

    /// Writes an object if the condition holds. Returns the version id that S3 shows.
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

    /// Deletes the current version, or the named version permanently. In a versioned bucket,
    /// deleting the current version adds a delete marker.
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

    /// Changes the attributes of a version without creating a new one. Returns the version id that
    /// S3 shows.
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
        if let Some(slot) = state.objects.get_mut(key).and_then(|all| {
            all.iter_mut()
                .find(|version| version.sequence() == sequence)
        }) {
            *slot = Version::Object(Arc::new(changed));
        }
        Ok((outcome, shown))
    }
}

impl State {
    /// Returns the object that a read without a version id finds.
    pub(super) fn current(&self, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(key)?.first()?.object()
    }

    /// Returns the version that a read finds: the named one, or the current one.
    pub(super) fn resolve(
        &self,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<Arc<Object>, Refusal> {
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
        let found = versions
            .and_then(|versions| versions.iter().find(|version| version.shown_id() == wanted));
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

    /// Returns the version id to show: none in a bucket that never had versioning, and `null` for
    /// the null version.
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

    /// Stores an object that also belongs to another key. Without versioning, both keys share it,
    /// so a million copies cost little more than their keys. With versioning, a copy of it becomes
    /// the newest version of the key, whatever the age of the original.
    pub(super) fn insert_shared(&mut self, key: &str, object: Arc<Object>, store: &Store) {
        if object.version_id.is_none() && self.versioning == Versioning::Never {
            self.place(key, Version::Object(object));
        } else {
            let sequence = store.next_sequence();
            let object = Object {
                sequence,
                ..Object::clone(&object)
            };
            self.insert(key, object, || store.unique());
        }
    }

    /// Inserts a version at its position in the history of the key. A null version replaces the
    /// previous null version.
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

    /// Returns the open uploads of one key.
    pub(super) fn uploads_of(&self, key: &str) -> impl Iterator<Item = &Upload> {
        self.uploads
            .range((key.to_owned(), 0)..=(key.to_owned(), u64::MAX))
            .map(|(_, upload)| upload)
    }

    /// Returns the open uploads of one key, mutably.
    pub(super) fn uploads_of_mut<'a>(
        &'a mut self,
        key: &str,
    ) -> impl Iterator<Item = &'a mut Upload> {
        self.uploads
            .range_mut((key.to_owned(), 0)..=(key.to_owned(), u64::MAX))
            .map(|(_, upload)| upload)
    }

    pub(super) fn completed(&self, upload_id: &str) -> Option<&Completed> {
        self.completed.get(upload_id)
    }

    /// Keeps the answer to a Complete. If too many are kept, drops the oldest.
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
