//! Stored objects, the description from which a test creates an object, and an object as tests see
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::checksum::{Algorithm, Checksum, ChecksumKind, etag, multipart_etag};
use super::content::Content;

/// The smallest part that is not the last one, in bytes: 5 MiB.
pub const SMALLEST_PART: u64 = 5 * 1024 * 1024;
/// The largest part, single PUT, and source of `CopyObject`, in bytes: 5 GiB.
pub const LARGEST_PIECE: u64 = 5 * 1024 * 1024 * 1024;
/// The largest part number.
pub const LAST_PART_NUMBER: i32 = 10_000;

/// The content type of an object that is written without one.
pub(super) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Encryption at rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// SSE-S3, the default of S3.
    #[default]
    Aes256,
    /// SSE-KMS or DSSE-KMS. `ETags` of these objects are not MD5 sums and differ for each write.
    Kms {
        /// The ARN of the key.
        key_id: String,
        /// Set if an S3 Bucket Key is used.
        bucket_key: bool,
        /// Set for two layers: `aws:kms:dsse`.
        dual_layer: bool,
    },
    /// SSE-C, with a key that each request must carry. `ETags` are not MD5 sums.
    Customer {
        /// The MD5 of the key in base64, as in the headers.
        key_md5: String,
    },
}

impl Encryption {
    /// Returns the value of `x-amz-server-side-encryption`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Aes256 => "AES256",
            Self::Kms {
                dual_layer: false, ..
            } => "aws:kms",
            Self::Kms {
                dual_layer: true, ..
            } => "aws:kms:dsse",
            Self::Customer { .. } => "SSE-C",
        }
    }

    /// Returns SSE-KMS with this key and without an S3 Bucket Key.
    pub fn kms(key_id: impl Into<String>) -> Self {
        Self::Kms {
            key_id: key_id.into(),
            bucket_key: false,
            dual_layer: false,
        }
    }

    pub(super) fn is_kms(&self) -> bool {
        matches!(self, Self::Kms { .. })
    }

    /// Returns true if `ETags` do not depend on the content alone.
    pub(super) fn hides_content(&self) -> bool {
        !matches!(self, Self::Aes256)
    }
}

/// The Object Lock settings of a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// `GOVERNANCE` or `COMPLIANCE`, and the end of the retention.
    pub retention: Option<(String, SystemTime)>,
    /// The legal hold, if it was ever set.
    pub legal_hold: Option<bool>,
}

impl Lock {
    /// Returns true if the version may not be deleted at this time.
    pub(super) fn is_held(&self, now: SystemTime) -> bool {
        self.legal_hold == Some(true)
            || self
                .retention
                .as_ref()
                .is_some_and(|(_, until)| *until > now)
    }
}

/// A permission in the ACL of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// `FULL_CONTROL`, `READ`, `READ_ACP` or `WRITE_ACP`.
    pub permission: String,
    /// The canonical id of an account, or the URI of a group.
    pub grantee: String,
}

/// The properties of an object other than its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `Content-Type`; S3 shows `binary/octet-stream` for `None`.
    pub content_type: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Expires` as written.
    pub expires: Option<String>,
    /// `x-amz-website-redirect-location`.
    pub website_redirect: Option<String>,
    /// User metadata. The names are without `x-amz-meta-`.
    pub metadata: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The storage class; `None` is `STANDARD`.
    pub storage_class: Option<String>,
    /// Encryption at rest.
    pub encryption: Encryption,
    /// Retention and legal hold.
    pub lock: Lock,
    /// The grants of the ACL. If empty, only the owner has access.
    pub grants: Vec<Grant>,
    /// The canned ACL that the write requested.
    pub canned_acl: Option<String>,
    /// Annotations by name.
    pub annotations: BTreeMap<String, String>,
    /// `x-amz-restore` of an archived object that is restored or being restored.
    pub restore: Option<String>,
    /// `x-amz-archive-status` of an `INTELLIGENT_TIERING` object in an archive tier.
    pub archive_status: Option<String>,
}

impl Attributes {
    /// Returns the storage class, `STANDARD` if none was given.
    #[must_use]
    pub fn class(&self) -> &str {
        self.storage_class.as_deref().unwrap_or("STANDARD")
    }

    /// Returns true if the bytes must be restored before they can be read.
    pub(super) fn is_archived(&self) -> bool {
        let archived =
            matches!(self.class(), "GLACIER" | "DEEP_ARCHIVE") || self.archive_status.is_some();
        let restored = self
            .restore
            .as_deref()
            .is_some_and(|r| r.contains("ongoing-request=\"false\""));
        archived && !restored
    }
}

/// `x-amz-restore` of an object that is being restored.
pub(super) const RESTORE_ONGOING: &str = "ongoing-request=\"true\"";

/// Returns the `x-amz-restore` of an object that can be read for this number of days.
pub(super) fn restored_until(days: i32) -> String {
    let seconds = u64::from(days.max(0).unsigned_abs()) * 86_400;
    let until = jiff::Timestamp::try_from(SystemTime::now() + Duration::from_secs(seconds))
        .unwrap_or_default();
    let date = until.strftime("%a, %d %b %Y %H:%M:%S GMT");
    format!("ongoing-request=\"false\", expiry-date=\"{date}\"")
}

/// Returns the time until which a restored object can be read.
pub(super) fn restore_expiry(restore: &str) -> Option<SystemTime> {
    let (_, date) = restore.split_once("expiry-date=\"")?;
    let date = jiff::fmt::rfc2822::parse(date.strip_suffix('"')?).ok()?;
    Some(date.timestamp().into())
}

/// A part of a multipart object, as `HeadObject` with a part number shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// The size in bytes.
    pub size: u64,
    /// The checksum of the part, for composite checksums.
    pub checksum: Option<String>,
}

/// A stored version of an object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) content: Content,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) checksum: Option<Checksum>,
    pub(super) attributes: Arc<Attributes>,
    /// `None` for an object written in one piece.
    pub(super) parts: Option<Arc<[PartInfo]>>,
    /// In whole seconds, as in S3.
    pub(super) last_modified: SystemTime,
    /// The position in the order of writes. For a multipart object, the position of its Create.
    pub(super) sequence: u64,
    /// `None` is the null version.
    pub(super) version_id: Option<Arc<str>>,
}

/// A delete marker.
#[derive(Clone, Debug)]
pub(super) struct Marker {
    pub(super) last_modified: SystemTime,
    pub(super) sequence: u64,
    pub(super) version_id: Option<Arc<str>>,
}

/// An entry in the history of a key.
#[derive(Clone, Debug)]
pub(super) enum Version {
    Object(Arc<Object>),
    Marker(Arc<Marker>),
}

impl Version {
    pub(super) fn sequence(&self) -> u64 {
        match self {
            Self::Object(object) => object.sequence,
            Self::Marker(marker) => marker.sequence,
        }
    }

    pub(super) fn version_id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Object(object) => object.version_id.as_ref(),
            Self::Marker(marker) => marker.version_id.as_ref(),
        }
    }

    /// Returns the version id as S3 writes it: `null` for the null version.
    pub(super) fn shown_id(&self) -> &str {
        self.version_id().map_or("null", |id| id)
    }

    pub(super) fn object(&self) -> Option<&Arc<Object>> {
        match self {
            Self::Object(object) => Some(object),
            Self::Marker(_) => None,
        }
    }
}

/// The description of an object for a test to create. Start from `ObjectSpec::default()`.
#[derive(Clone, Debug, Default)]
pub struct ObjectSpec {
    /// Headers, metadata, tags, storage class, encryption, and lock.
    pub attributes: Attributes,
    /// The algorithm and the kind of the checksum; `None` is the default of S3, a CRC64NVME of the
    /// full object.
    pub checksum: Option<(Algorithm, ChecksumKind)>,
    /// Set for an object without an additional checksum, like those written before December 2024.
    pub without_checksum: bool,
    /// The part sizes of an object that looks as if it was uploaded in parts (`ETag` `-N`).
    /// Remaining bytes become the last part.
    pub part_sizes: Option<Vec<u64>>,
    /// The time of the last write; `None` is now.
    pub last_modified: Option<SystemTime>,
}

impl ObjectSpec {
    /// Sets the `Content-Type`.
    #[must_use]
    pub fn content_type(mut self, value: impl Into<String>) -> Self {
        self.attributes.content_type = Some(value.into());
        self
    }

    /// Adds an entry of user metadata.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.metadata.insert(name.into(), value.into());
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.tags.insert(key.into(), value.into());
        self
    }

    /// Sets the storage class.
    #[must_use]
    pub fn storage_class(mut self, class: impl Into<String>) -> Self {
        self.attributes.storage_class = Some(class.into());
        self
    }

    /// Sets the encryption.
    #[must_use]
    pub fn encryption(mut self, encryption: Encryption) -> Self {
        self.attributes.encryption = encryption;
        self
    }

    /// Sets the lock.
    #[must_use]
    pub fn lock(mut self, lock: Lock) -> Self {
        self.attributes.lock = lock;
        self
    }

    /// Adds a grant.
    #[must_use]
    pub fn grant(mut self, permission: impl Into<String>, grantee: impl Into<String>) -> Self {
        self.attributes.grants.push(Grant {
            permission: permission.into(),
            grantee: grantee.into(),
        });
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.attributes.annotations.insert(name.into(), text.into());
        self
    }

    /// Sets the checksum.
    #[must_use]
    pub fn checksum(mut self, algorithm: Algorithm, kind: ChecksumKind) -> Self {
        self.checksum = Some((algorithm, kind));
        self
    }

    /// Removes the additional checksum.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        self.without_checksum = true;
        self
    }

    /// Makes the object look as if it was uploaded in parts of these sizes in bytes. Remaining
    /// bytes become the last part.
    #[must_use]
    pub fn part_sizes(mut self, sizes: impl Into<Vec<u64>>) -> Self {
        self.part_sizes = Some(sizes.into());
        self
    }

    /// Sets the time of the last write.
    #[must_use]
    pub fn last_modified(mut self, time: SystemTime) -> Self {
        self.last_modified = Some(time);
        self
    }

    /// Creates the object. `unique` generates `ETags` that are not MD5 sums.
    pub(super) fn build(
        &self,
        content: Content,
        sequence: u64,
        now: SystemTime,
        unique: impl Fn() -> String,
    ) -> Object {
        let hidden = self.attributes.encryption.hides_content();
        let parts = self.part_sizes.as_ref().map(|sizes| cut(&content, sizes));
        let (algorithm, kind) = self
            .checksum
            .unwrap_or((Algorithm::Crc64Nvme, ChecksumKind::FullObject));
        let composite = kind == ChecksumKind::Composite && parts.is_some();
        let infos: Option<Vec<PartInfo>> = parts.as_ref().map(|parts| {
            parts
                .iter()
                .map(|part| PartInfo {
                    size: part.len(),
                    checksum: composite.then(|| algorithm.of(part)),
                })
                .collect()
        });
        let checksum = match &infos {
            _ if self.without_checksum => None,
            Some(infos) if composite => algorithm
                .composite(infos.iter().filter_map(|part| part.checksum.as_deref()))
                .map(|value| Checksum {
                    algorithm,
                    kind,
                    value,
                    parts: infos.len(),
                }),
            _ => Some(Checksum::full(algorithm, &content)),
        };
        let etag = match &parts {
            None if hidden => unique(),
            None => etag(&content),
            Some(parts) => {
                let tags: Vec<_> = parts
                    .iter()
                    .map(|part| if hidden { unique() } else { etag(part) })
                    .collect();
                multipart_etag(tags.iter().map(String::as_str))
            }
        };
        Object {
            content,
            etag,
            checksum,
            attributes: Arc::new(self.attributes.clone()),
            parts: infos.map(Into::into),
            last_modified: whole_seconds(self.last_modified.unwrap_or(now)),
            sequence,
            version_id: None,
        }
    }
}

/// Cuts a content into pieces of the given sizes. Remaining bytes become the last piece.
fn cut(content: &Content, sizes: &[u64]) -> Vec<Content> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for size in sizes {
        if at < content.len() {
            pieces.push(content.slice(at..at.saturating_add(*size)));
            at = at.saturating_add(*size).min(content.len());
        }
    }
    if at < content.len() || pieces.is_empty() {
        pieces.push(content.slice(at..content.len()));
    }
    pieces
}

/// Rounds a time down to whole seconds, as S3 keeps modification times.
pub(super) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// A version of an object as tests see it.
#[derive(Clone, Debug)]
pub struct ObjectInfo {
    /// The key.
    pub key: String,
    /// The size in bytes.
    pub size: u64,
    /// The bytes.
    pub content: Content,
    /// The `ETag` without quotes.
    pub etag: String,
    /// The additional checksum.
    pub checksum: Option<Checksum>,
    /// Headers, metadata, tags, storage class, encryption, and lock.
    pub attributes: Arc<Attributes>,
    /// The parts in order; empty for an object that was written in one piece.
    pub parts: Vec<PartInfo>,
    /// The time of the last write in whole seconds. For multipart objects it is the time of Create.
    pub last_modified: SystemTime,
    /// The version id; `None` is the null version.
    pub version_id: Option<String>,
}

impl ObjectInfo {
    pub(super) fn of(key: &str, object: &Object) -> Self {
        Self {
            key: key.to_owned(),
            size: object.content.len(),
            content: object.content.clone(),
            etag: object.etag.clone(),
            checksum: object.checksum.clone(),
            attributes: Arc::clone(&object.attributes),
            parts: object.parts.as_deref().unwrap_or_default().to_vec(),
            last_modified: object.last_modified,
            version_id: object.version_id.as_deref().map(str::to_owned),
        }
    }
}

/// An entry in the history of a key as tests see it.
#[derive(Clone, Debug)]
pub enum VersionInfo {
    /// A stored version.
    Object(ObjectInfo),
    /// A delete marker and its version id (`None` is the null version).
    DeleteMarker(Option<String>),
}
