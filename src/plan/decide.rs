//! Decides whether an object needs a copy, and by which route.
//!
//! Both decisions are pure. `when: changed` compares objects by the method that `compare` names.
//! `auto` starts with the cheapest comparison:
//!
//! 1. Objects of different sizes differ, in every mode.
//! 2. Objects are equal if their `ETag`s are equal and derive from the bytes.
//! 3. A source that is not older than the destination is copied. Equal times count as newer: S3's
//!    times have a resolution of one second, and a source may be rewritten in the same second in
//!    which it was copied.
//! 4. A destination that is *newer* counts as equal, unless the lists contradict that. `ETag`s
//!    alone cannot decide: a multipart copy with other part boundaries has another `ETag` for the
//!    same bytes, so a tool that compares only `ETag`s copies such objects every night. HEAD
//!    requests resolve two kinds of doubt ([`Doubt`]):
//!    - The `ETag`s differ, and both look like MD5 sums or both belong to multipart uploads with
//!      the same number of parts. Either the bytes differ, or a KMS or customer key encrypts one
//!      side (the `ETag` is then no MD5, and no list shows the encryption), or the part boundaries
//!      differ.
//!    - The modification time of a multipart object is the time at which its upload was *created*.
//!      So a source looks older than its copy if it was rewritten by an upload that was created
//!      before the copy and completed after it. For multipart sources, times therefore decide
//!      nothing if the copy is newer by less than the time that an upload of that size may take
//!      ([`longest_upload`]). If the copy is newer by more, times do decide; otherwise every run
//!      would send HEAD for every multipart object.
//!
//! The result records whether only times or sizes decided ([`Basis`]).

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::parts::{Capacity, Goal, LayoutError, PartLayout, UPLOAD_PART, layout};
use crate::checksum::{looks_like_md5, may_be_of_content, part_count};
use crate::manifest::job::{Compare, PartSize, Parts, When};
use crate::s3::{Capabilities, ChecksumKind, Head};

/// The listed properties of an object on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side<'a> {
    /// The size in bytes.
    pub size: u64,
    /// The `ETag`. Absent for files, and for `ETag`s that are not derived from the bytes.
    pub etag: Option<&'a str>,
    /// `Last-Modified`, or the file's modification time.
    pub modified: Option<Timestamp>,
    /// True for a local file, whose bytes can be hashed.
    pub is_file: bool,
}

/// The reasons to copy an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The destination has no such key.
    Missing,
    /// The sizes differ.
    SizeDiffers,
    /// The source is newer than the destination, and no `ETag`s prove that they are equal.
    Newer,
    /// Both sides were modified in the same second, so either may be newer, and no `ETag`s prove
    /// that they are equal.
    SameSecond,
    /// The source is an old version, and the destination has the same size but other bytes.
    Differs,
    /// Both `ETag`s derive from the bytes in the same way, and differ.
    EtagDiffers,
    /// The checksums of both sides differ.
    ChecksumDiffers,
    /// The bytes are equal, but the object does not have the attributes that the job sets.
    AttributesDiffer,
    /// The object only lacks tags that s3haul sets in a second request after a copy. s3haul sets
    /// only the tags, if that is safe.
    LacksTags,
    /// The object at the destination is a copy that failed its proof in an earlier run, and it
    /// still cannot be proven.
    Unproven,
    /// The job says `when: always`.
    Always,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Missing => "missing",
            Self::SizeDiffers => "size differs",
            Self::Newer => "newer",
            Self::SameSecond => "modified in the same second",
            Self::Differs => "differs",
            Self::EtagDiffers => "ETag differs",
            Self::ChecksumDiffers => "checksum differs",
            Self::AttributesDiffer => "attributes differ",
            Self::LacksTags => "lacks its tags",
            Self::Unproven => "failed its proof",
            Self::Always => "always",
        })
    }
}

/// The comparison that found two objects equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The checksums are equal, or the object is empty.
    Checksum,
    /// The `ETag`s are equal and derive from the bytes.
    Etag,
    /// Both are delete markers.
    DeleteMarker,
    /// The sizes are equal, and the destination is newer. The bytes were not compared.
    Time,
    /// The sizes are equal. The bytes were not compared.
    Size,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Checksum => "checksum",
            Self::Etag => "ETag",
            Self::DeleteMarker => "delete marker",
            Self::Time => "size and time only",
            Self::Size => "size only",
        })
    }
}

/// The state of the attributes that the job sets on an object that stays unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetAttributes {
    /// The object has these attributes, or the job sets none.
    #[default]
    Kept,
    /// The attributes were not compared.
    NotChecked,
    /// The object is in a storage class to which a lifecycle rule may have moved it.
    OtherStorageClass,
    /// The tags that s3haul sets or keeps were not compared, because they may not be read.
    TagsNotCompared,
}

impl SetAttributes {
    /// Returns true if there is nothing to report.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub fn are_kept(&self) -> bool {
        *self == Self::Kept
    }
}

/// The reasons to skip an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Skip {
    /// The destination has the key, and the job says `when: missing`.
    Present,
    /// The destination has an equal object.
    Equal {
        /// The comparison that found the objects equal.
        equal_by: Basis,
        /// The state of the attributes that the job sets.
        #[serde(skip_serializing_if = "SetAttributes::are_kept")]
        set_attributes: SetAttributes,
    },
    /// The transfer changes objects in place, and the object already has all attributes that the
    /// job sets.
    AsSet,
    /// Another writer wrote to the key after it was compared. The next run compares it again.
    ChangedMeanwhile,
    /// The object cannot be read before a restore, and the job says `archived: skip`.
    Archived,
    /// The object was rewritten after it was listed, and the selection now excludes it.
    NotSelected,
}

impl Skip {
    /// Returns the reason for objects that this comparison found equal.
    #[must_use]
    pub const fn equal(equal_by: Basis) -> Self {
        Self::Equal {
            equal_by,
            set_attributes: SetAttributes::Kept,
        }
    }
}

/// The decision about one source object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Copy the object.
    Copy(Reason),
    /// Skip the object.
    Skip(Skip),
    /// The lists cannot decide. Send HEAD for both objects ([`content`]).
    Ask(Doubt),
}

/// The reasons why lists cannot decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The destination is newer, but the source has the time at which its upload was created.
    Dated,
    /// The destination is newer, but the `ETag`s suggest that the bytes differ.
    Etags,
    /// The job requires a comparison of the bytes.
    Content,
}

/// Compares the two sides according to `when` and `compare`.
#[must_use]
pub fn decide(
    when: When,
    compare: Compare,
    source: Side<'_>,
    destination: Option<Side<'_>>,
) -> Decision {
    let Some(destination) = destination else {
        return Decision::Copy(Reason::Missing);
    };
    match when {
        When::Always => return Decision::Copy(Reason::Always),
        When::Missing => return Decision::Skip(Skip::Present),
        When::Changed => {}
    }
    if source.size != destination.size {
        return Decision::Copy(Reason::SizeDiffers);
    }
    let etags = Etags::of(source.etag, destination.etag);
    match compare {
        Compare::Size => Decision::Skip(Skip::equal(Basis::Size)),
        Compare::Time => by_time(source.modified, destination.modified),
        Compare::Checksum if source.size == 0 => Decision::Skip(Skip::equal(Basis::Checksum)),
        Compare::Checksum => Decision::Ask(Doubt::Content),
        Compare::Etag if source.is_file && destination.etag.is_some() => {
            Decision::Ask(Doubt::Content)
        }
        Compare::Auto | Compare::Etag if etags == Etags::Equal => {
            Decision::Skip(Skip::equal(Basis::Etag))
        }
        Compare::Etag if etags == Etags::Md5sDiffer => Decision::Copy(Reason::EtagDiffers),
        Compare::Auto | Compare::Etag => match by_time(source.modified, destination.modified) {
            Decision::Skip(_) if matches!(etags, Etags::Md5sDiffer | Etags::PartsDiffer) => {
                Decision::Ask(Doubt::Etags)
            }
            Decision::Skip(_)
                if compare == Compare::Auto && is_dated_early(source, destination) =>
            {
                Decision::Ask(Doubt::Dated)
            }
            decision => decision,
        },
    }
}

/// The result of comparing two `ETag`s that derive from the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Etags {
    Equal,
    /// The `ETag`s differ, and both may be MD5s of the bytes.
    Md5sDiffer,
    /// The `ETag`s differ, and both belong to uploads with the same number of parts.
    PartsDiffer,
    /// One `ETag` is absent, or they derive from the bytes in different ways.
    Incomparable,
}

impl Etags {
    fn of(source: Option<&str>, destination: Option<&str>) -> Self {
        let (Some(source), Some(destination)) = (source, destination) else {
            return Self::Incomparable;
        };
        if source == destination && may_be_of_content(source) {
            return Self::Equal;
        }
        match (part_count(source), part_count(destination)) {
            (None, None) if looks_like_md5(source) && looks_like_md5(destination) => {
                Self::Md5sDiffer
            }
            (Some(parts), Some(others)) if parts == others => Self::PartsDiffer,
            _ => Self::Incomparable,
        }
    }
}

/// Decides by modification times alone, for objects of equal size.
#[must_use]
pub fn by_time(source: Option<Timestamp>, destination: Option<Timestamp>) -> Decision {
    match (source, destination) {
        (Some(source), Some(destination)) if destination > source => {
            Decision::Skip(Skip::equal(Basis::Time))
        }
        (Some(source), Some(destination)) if destination.as_second() == source.as_second() => {
            Decision::Copy(Reason::SameSecond)
        }
        _ => Decision::Copy(Reason::Newer),
    }
}

/// Returns true if the source may have been completed after the copy was written, although its time
/// is earlier.
fn is_dated_early(source: Side<'_>, destination: Side<'_>) -> bool {
    let in_parts = source.etag.and_then(part_count).is_some();
    let times = source.modified.zip(destination.modified);
    in_parts
        && times.is_some_and(|(began, copied)| {
            copied.duration_since(began).unsigned_abs() <= longest_upload(source.size)
        })
}

/// Returns the longest time that an upload of `size` bytes is assumed to take: the time at 128
/// KiB/s (a slow line), plus 15 minutes of pauses; at most seven days, after which lifecycle rules
/// commonly abort uploads.
#[must_use]
pub fn longest_upload(size: u64) -> Duration {
    const SLOWEST: u64 = 128 << 10;
    let pause = Duration::from_mins(15);
    (pause + Duration::from_secs(size / SLOWEST)).min(Duration::from_hours(7 * 24))
}

/// The result of comparing the bytes of two objects by HEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes are equal.
    Equal(Basis),
    /// The bytes differ.
    Differs(Reason),
    /// The `ETag`s differ, and both belong to uploads with the same number of parts. If the parts
    /// have the same sizes, the bytes differ.
    SamePartCount,
    /// Nothing can be compared.
    Unknown,
}

/// Compares two objects by HEAD. `etags_tell` is true if both servers compute `ETag`s from the
/// bytes.
#[must_use]
pub fn content(source: &Head, destination: &Head, etags_tell: bool) -> Content {
    if source.size != destination.size {
        return Content::Differs(Reason::SizeDiffers);
    }
    if source.size == 0 {
        return Content::Equal(Basis::Checksum);
    }
    let md5s_differ = etags_tell
        && !source.kms
        && !destination.kms
        && Etags::of(Some(&source.etag), Some(&destination.etag)) == Etags::Md5sDiffer;
    if let (Some(source), Some(destination)) = (&source.checksum, &destination.checksum)
        && (source.algorithm, source.kind) == (destination.algorithm, destination.kind)
    {
        // Composite checksums of equal bytes differ if the parts differ.
        match (source.value == destination.value, source.kind) {
            (true, _) if source.algorithm.is_weak() && md5s_differ => {
                return Content::Differs(Reason::EtagDiffers);
            }
            (true, _) => return Content::Equal(Basis::Checksum),
            (false, ChecksumKind::FullObject) => return Content::Differs(Reason::ChecksumDiffers),
            (false, ChecksumKind::Composite | ChecksumKind::Unstated) => {}
        }
    }
    if !etags_tell || source.kms || destination.kms {
        return Content::Unknown;
    }
    match Etags::of(Some(&source.etag), Some(&destination.etag)) {
        Etags::Equal => Content::Equal(Basis::Etag),
        Etags::Md5sDiffer => Content::Differs(Reason::EtagDiffers),
        Etags::PartsDiffer => Content::SamePartCount,
        Etags::Incomparable => Content::Unknown,
    }
}

/// The kind of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// An object on the same server.
    Bucket,
    /// A local file, or standard input.
    Local,
}

/// The requests that copy an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// One `CopyObject`.
    Copy,
    /// `UploadPartCopy` for each part.
    MultipartCopy(PartLayout),
    /// One `PutObject`.
    Put,
    /// `UploadPart` for each part.
    MultipartUpload(PartLayout),
    /// One `RestoreObject` at the source, unless a restore is in progress. No copy yet.
    Restore,
    /// One `DeleteObject` without a version, which adds a delete marker in a bucket with
    /// versioning.
    DeleteMarker,
}

impl Route {
    /// Returns the name of the route in plans, receipts, and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::MultipartCopy(_) => "multipart-copy",
            Self::Put => "put",
            Self::MultipartUpload(_) => "multipart-upload",
            Self::Restore => "restore",
            Self::DeleteMarker => "delete-marker",
        }
    }

    /// Returns the number of parts of the upload; zero for single requests.
    #[must_use]
    pub const fn parts(&self) -> u32 {
        match self {
            Self::Copy | Self::Put | Self::Restore | Self::DeleteMarker => 0,
            Self::MultipartCopy(layout) | Self::MultipartUpload(layout) => layout.count,
        }
    }
}

/// Chooses the route by size alone. [`super::workaround`] adapts the route to the server.
///
/// # Errors
/// [`LayoutError::TooLarge`] for objects that the endpoint cannot hold or copy.
pub fn route(
    size: u64,
    source_kind: SourceKind,
    parts: &Parts,
    capabilities: &Capabilities,
    capacity: Capacity,
) -> Result<Route, LayoutError> {
    let single = size
        <= parts
            .threshold
            .0
            .min(capabilities.max_copy)
            .min(capabilities.parts.max_part);
    let goal = match (&parts.size, source_kind) {
        (PartSize::Exactly(size), _) => Goal::Exactly(size.0),
        (PartSize::Auto, SourceKind::Bucket) => Goal::Copy {
            aim: parts.goal,
            capacity,
        },
        (PartSize::Auto, SourceKind::Local) => Goal::Upload,
    };
    match source_kind {
        _ if size == 0 && source_kind == SourceKind::Local => Ok(Route::Put),
        SourceKind::Bucket if size == 0 || single => Ok(Route::Copy),
        SourceKind::Bucket if !capabilities.part_copy && size <= capabilities.max_copy => {
            Ok(Route::Copy)
        }
        SourceKind::Bucket if !capabilities.part_copy => Err(LayoutError::NoPartCopy {
            size,
            limit: capabilities.max_copy,
        }),
        SourceKind::Bucket => layout(size, &capabilities.parts, goal).map(Route::MultipartCopy),
        SourceKind::Local => {
            let layout = layout(size, &capabilities.parts, goal)?;
            let single = layout.count == 1 || size <= parts.threshold.0.min(UPLOAD_PART);
            Ok(if single {
                Route::Put
            } else {
                Route::MultipartUpload(layout)
            })
        }
    }
}

#[cfg(test)]
mod tests;
