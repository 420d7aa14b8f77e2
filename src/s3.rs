//! The S3 client of this crate: the few requests that a copy needs, in the crate's own types.
//!
//! [`client::Client`] sends exactly one request per call: no retries, no redirects, no hidden
//! checksums. The frequent requests take the fast path past most of the SDK (`fast_path`). Pacing
//! and retries belong to [`crate::bucket`], so that every attempt is admitted and counted in one
//! place. Nothing outside this module names a type of the SDK, and every error that S3, a proxy or
//! the network can produce becomes a [`failure::Failure`] in [`failure`].

mod access;
mod attributes;
mod blob;
mod bodies;
mod bounds;
pub mod capabilities;
mod causes;
pub mod client;
mod clock;
mod convert;
mod credential_chain;
mod credentials;
mod customer_key;
pub mod failure;
mod fast_path;
mod guard;
mod headers;
pub mod history;
mod identity;
mod ids;
mod list;
pub mod look;
mod octets;
mod operation;
mod page;
pub mod paging;
mod pool;
mod process;
pub mod progress;
mod question;
mod read;
mod renewal;
mod requests;
mod roots;
mod secrets;
pub(crate) mod served;
mod signature;
mod xml;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::location::{BucketName, ObjectKey};

pub use crate::manifest::job::{Access, CannedAcl, Encryption};
pub use blob::SmallObject;
pub use bodies::SignedRetry;
pub use capabilities::{Capabilities, OnWrites};
pub use client::{Client, Connect};
pub use customer_key::{CustomerKey, NoCustomerKey};
pub use failure::{Failure, FailureKind};
pub(crate) use guard::takes_panic;
pub use history::{ArchiveState, ListedVersion, Restored, VersionMarker, Versioning};
pub use ids::Elsewhere;
pub(crate) use ids::is_immutable_version;
pub(crate) use octets::bytes_of;
pub use operation::{Operation, RequestClass};
pub(crate) use process::end_credential_processes;
pub use read::Body;

/// The module of the SDK that logs the request IDs of responses.
pub(crate) const LOGS_REQUEST_IDS: &str = "aws_sdk_s3::operation";

/// The checksum algorithms that S3 stores and that a multipart upload may declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is S3's own name of the algorithm")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum ChecksumAlgorithm {
    Crc64Nvme,
    Crc32,
    Crc32c,
    Sha1,
    Sha256,
}

impl ChecksumAlgorithm {
    /// Returns true for CRCs. The CRC of an object can be computed from the CRCs of its parts, so a
    /// multipart upload may declare a CRC of the whole object. It cannot declare a SHA of the whole
    /// object.
    #[must_use]
    pub const fn combines(self) -> bool {
        matches!(self, Self::Crc64Nvme | Self::Crc32 | Self::Crc32c)
    }

    /// Returns true for 32-bit checksums. Objects with different bytes can have the same 32-bit
    /// checksum.
    #[must_use]
    pub const fn is_weak(self) -> bool {
        matches!(self, Self::Crc32 | Self::Crc32c)
    }
}

impl fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Crc64Nvme => "crc64nvme",
            Self::Crc32 => "crc32",
            Self::Crc32c => "crc32c",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        })
    }
}

/// The bytes that a stored checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChecksumKind {
    /// The checksum covers the bytes of the object: it is equal for equal bytes, however they were
    /// uploaded.
    FullObject,
    /// The checksum covers the checksums of the parts: it is equal only for equal bytes *and* equal
    /// part boundaries.
    Composite,
    /// The server does not state the kind. Equal values prove equal bytes, but different values
    /// prove nothing, and the value cannot be compared with a computed one.
    Unstated,
}

/// A checksum as S3 reports it: base64 of the big-endian bytes. Composite values omit the suffix
/// `-N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The algorithm.
    pub algorithm: ChecksumAlgorithm,
    /// The bytes that it covers.
    pub kind: ChecksumKind,
    /// Base64.
    pub value: String,
}

/// The headers that describe the content, as HEAD returns them and as a write sends them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the HTTP header of that name")]
pub struct ContentHeaders {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_disposition: Option<String>,
    pub cache_control: Option<String>,
    /// The raw text: S3 stores any text here, even if it is not a date.
    pub expires: Option<String>,
    pub website_redirect: Option<String>,
}

/// The tags that a write gives to the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tags {
    /// The tags of the source. `CopyObject` copies them itself. For a multipart upload, s3haul must
    /// read them first.
    #[default]
    AsSource,
    /// Exactly these tags, possibly none.
    Exactly(Vec<Tag>),
}

/// One object tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "a tag is a key and a value")]
pub struct Tag {
    pub key: String,
    pub value: String,
}

/// A retention: its mode, and the date until which the version must not be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `GOVERNANCE` or `COMPLIANCE`.
    pub mode: String,
    /// The end of the retention.
    pub until: Timestamp,
}

/// Object Lock of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// The retention; `None` if there is none or it is not visible to the caller.
    pub retention: Option<Retention>,
    /// The legal hold; `None` if it was never set or is not visible to the caller.
    pub legal_hold: Option<bool>,
}

/// One permission that an ACL gives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// The permission.
    pub permission: Permission,
    /// The grantee, as a grant header names it: `id="…"` (an account's canonical ID) or `uri="…"`
    /// (a group).
    pub grantee: String,
}

/// A permission that an ACL can grant on an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is S3's own name")]
pub enum Permission {
    FullControl,
    Read,
    ReadAcp,
    WriteAcp,
}

/// An entry of a list of annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnotationEntry {
    /// The name.
    pub name: String,
    /// The size of the text, in bytes.
    pub size: u64,
}

/// Everything about an object except its bytes. It is built once per object and used for
/// `CopyObject`, `PutObject`, and `CreateMultipartUpload` alike, so that every route keeps the same
/// attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Attributes {
    /// Content headers.
    pub headers: ContentHeaders,
    /// User metadata, names without `x-amz-meta-`, values verbatim.
    pub metadata: BTreeMap<String, String>,
    /// Tags.
    pub tags: Tags,
    /// Storage class; none means STANDARD.
    pub storage_class: Option<String>,
    /// The requested encryption.
    pub encryption: Option<Encryption>,
    /// The checksum that S3 must compute and keep; `None` leaves the choice to the server.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    /// Retention and legal hold.
    pub lock: Lock,
    /// Grants of the source's ACL; without them and `acl`, the object is private to its owner.
    pub grants: Vec<Grant>,
    /// The canned ACL, instead of `grants`.
    pub acl: Option<CannedAcl>,
    /// True if `CopyObject` copies the source's annotations too. Other requests write none.
    pub annotations: bool,
}

/// The response to a HEAD of an object.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Head {
    /// The size in bytes.
    pub size: u64,
    /// The `ETag`, without quotes.
    pub etag: String,
    /// The version ID, in a versioned bucket.
    pub version: Option<String>,
    /// Time of the last write. For a multipart object, the time at which its upload was created.
    pub modified: Option<Timestamp>,
    /// The storage class; `None` means STANDARD.
    pub storage_class: Option<String>,
    /// Content headers.
    pub headers: ContentHeaders,
    /// User metadata, verbatim.
    pub metadata: BTreeMap<String, String>,
    /// `None` when the object has no tags or the caller may not read them: S3 does not say which.
    pub tag_count: Option<u32>,
    /// The stored checksum, if the request asked for it and the caller may see it.
    pub checksum: Option<Checksum>,
    /// The number of user metadata entries that the server stores but cannot return as headers.
    pub missing_metadata: u32,
    /// The encryption of the object, if S3 states it and no customer key is used.
    pub encryption: Option<Encryption>,
    /// True when a customer key (SSE-C) encrypts the object.
    pub customer_key: bool,
    /// The Object Lock settings that the caller may see. S3 omits the others silently.
    pub lock: Lock,
    /// True when the object has an event hold, which no request of ours sets.
    pub event_hold: bool,
    /// True when the `ETag` cannot be an MD5 because a KMS or customer key encrypts the object.
    pub kms: bool,
    /// The archive state: the bytes of `GLACIER`, `DEEP_ARCHIVE`, and the archive tiers of
    /// `INTELLIGENT_TIERING` cannot be read until restored.
    pub archive: ArchiveState,
    /// The archive tier of an object in `INTELLIGENT_TIERING`, `ARCHIVE_ACCESS` or
    /// `DEEP_ARCHIVE_ACCESS`. Only HEAD returns it.
    pub archive_tier: Option<String>,
}

impl Head {
    /// Returns the object as the response to its write would have described it.
    #[must_use]
    pub fn written(self) -> Written {
        let Self {
            etag,
            version,
            checksum,
            encryption,
            ..
        } = self;
        Written {
            etag,
            version,
            checksum,
            encryption,
            was_found: true,
            since: None,
        }
    }
}

/// One version of a source object, named so that no other version can be read in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct SourcePin {
    /// The source's bucket.
    pub bucket: BucketName,
    /// The source's key.
    pub key: ObjectKey,
    /// The version ID, in a versioned bucket.
    pub version: Option<String>,
    /// The `ETag`. Every request that reads the source sends it as a condition, such as
    /// `x-amz-copy-source-if-match`.
    pub etag: String,
    /// The customer key (SSE-C) that reads the source.
    pub customer_key: Option<CustomerKey>,
}

impl SourcePin {
    /// Returns the pin of the version that `head` describes.
    #[must_use]
    pub fn new(bucket: &BucketName, key: &ObjectKey, head: &Head) -> Self {
        Self {
            bucket: bucket.clone(),
            key: key.clone(),
            version: head.version.clone(),
            etag: head.etag.clone(),
            customer_key: None,
        }
    }

    /// Returns true if the pin names a version that is never replaced. Without such a version, only
    /// the `ETag` identifies the object, and another object with the same bytes has the same
    /// `ETag`.
    #[must_use]
    pub(crate) fn is_immutable(&self) -> bool {
        self.version.as_deref().is_some_and(is_immutable_version)
    }
}

/// The response about an object that S3 has just written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Written {
    /// The `ETag`, without quotes.
    pub etag: String,
    /// The new version ID, in a versioned bucket.
    pub version: Option<String>,
    /// The checksum that S3 computed over the stored bytes.
    pub checksum: Option<Checksum>,
    /// The encryption, if the response states it and no customer key is used.
    pub encryption: Option<Encryption>,
    /// True if the response to the write was lost, and this object was found at the key afterwards.
    pub was_found: bool,
    /// A lower bound of the object's modification time, by the server's own clock.
    pub since: Option<Timestamp>,
}

/// The response to `UploadPartCopy` or `UploadPart`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartAnswer {
    /// The `ETag`, without quotes.
    pub etag: String,
    /// The checksum in base64, in the algorithm that the upload declared.
    pub checksum: Option<String>,
}

/// A part that S3 holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct PartDone {
    /// The part number, 1 to 10,000.
    pub number: u32,
    /// The size in bytes.
    pub size: u64,
    /// The `ETag`, without quotes.
    pub etag: String,
    /// The checksum in base64, in the algorithm that the upload declared.
    pub checksum: Option<String>,
}

/// An upload that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedUpload {
    /// The upload ID.
    pub id: String,
    /// True if a KMS or customer key will encrypt the object. In that case, neither its `ETag` nor
    /// the `ETag`s of its parts can be computed from the bytes.
    pub kms: bool,
    /// The location of the upload in the response, if it differs from the requested one.
    pub elsewhere: Option<Elsewhere>,
    /// A lower bound of the object's modification time, by the server's own clock.
    pub since: Option<Timestamp>,
}

/// One page of the parts that an upload has, and the checksum that it declared when it was created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartsPage {
    /// The parts, by ascending number.
    pub items: Vec<PartDone>,
    /// The start of the next page; `None` on the last one.
    pub next: Option<String>,
    /// The checksum that Create declared; without it, the upload cannot be completed as intended.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// One part of a finished multipart object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHead {
    /// The size of the part in bytes.
    pub size: u64,
    /// The number of parts of the object, if the server states it.
    pub count: Option<u32>,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// The key, decoded. It may be too long for an `ObjectKey`.
    pub key: Arc<str>,
    /// The size in bytes.
    pub size: u64,
    /// The `ETag`, without quotes.
    pub etag: Option<String>,
    /// The time of the last write.
    pub modified: Option<Timestamp>,
    /// The storage class; `None` means STANDARD.
    pub storage_class: Option<String>,
    /// The archive state. An object in an archive tier of `INTELLIGENT_TIERING` looks readable in a
    /// list.
    pub archive: ArchiveState,
}

/// The response to HEAD of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketHead {
    /// The Region of the bucket, if the server states it.
    pub region: Option<String>,
    /// True if the response has a header that only S3 servers send. Some S3 servers send none.
    pub speaks_s3: bool,
}

/// One page of a paged response.
#[derive(Clone, Debug)]
pub struct Page<T, M = String> {
    /// The entries of the page, in the server's order.
    pub items: Vec<T>,
    /// The start of the next page; `None` on the last one.
    pub next: Option<M>,
}

/// An unfinished multipart upload, as a bucket lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct OpenUpload {
    /// The key of the object that the upload would create.
    pub key: String,
    /// The upload ID.
    pub upload_id: String,
    /// The time at which the upload was created.
    pub initiated: Option<Timestamp>,
    /// The storage class that the upload was created with.
    pub storage_class: Option<String>,
}

/// The start of the next page of open uploads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadMarker {
    /// `key-marker`.
    pub key: String,
    /// `upload-id-marker`.
    pub upload_id: Option<String>,
}

/// The condition that a write puts on the destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WriteCondition {
    /// No condition: the write replaces any object at the key.
    #[default]
    None,
    /// `If-None-Match: *`: the write succeeds only if the key is absent. A key whose latest version
    /// is a delete marker counts as absent.
    Absent,
    /// `If-Match`: the write succeeds only if the key holds an object with this `ETag` (without
    /// quotes). On AWS this also requires `s3:GetObject` on the destination.
    Matches(String),
}

/// The fields of `CompleteMultipartUpload` other than the parts.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct CompleteSpec {
    /// `x-amz-mp-object-size`: S3 refuses to publish an object of another size.
    pub size: u64,
    /// The checksum that every part declares; needed for composite checksums.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    /// The checksum of the whole object, when it is known: S3 refuses to publish other bytes.
    pub full_checksum: Option<Checksum>,
    /// The condition that must hold at the destination.
    pub condition: WriteCondition,
}

impl CompleteSpec {
    /// Returns the fields for an object of `size` bytes that replaces any object at its key.
    #[must_use]
    pub fn of_size(size: u64) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }
}
