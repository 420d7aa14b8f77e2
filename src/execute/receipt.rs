//! Defines the receipt: the record of one object after the run is done with it.
//!
//! A receipt is one line of `report.jsonl`. It names the exact version that was read, the version
//! that was written, the route, the number of requests, and the proof that both are equal.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use super::replan::Replan;
use crate::listing::filter::Excluded;
use crate::manifest::job::RestoreTier;
use crate::plan::attributes::RETENTION_ENDED;
use crate::plan::decide::{Reason, Route, Skip};
pub use crate::plan::loss::{Loss, Lost};
use crate::planner::Step;
use crate::s3::{
    Checksum, ChecksumAlgorithm, ChecksumKind, Failure, FailureKind, Head, is_immutable_version,
};
use crate::size::to_thousandths;

/// The proof that the destination equals the source, from strong to weak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Proof {
    /// The CRC64NVMEs over all bytes are equal. S3 computed them, or s3haul did while it read a
    /// file to upload.
    Crc64nvme,
    /// The same with CRC32C.
    Crc32c,
    /// The same with CRC32.
    Crc32,
    /// The same with SHA-1.
    Sha1,
    /// The same with SHA-256.
    Sha256,
    /// Checksums over all bytes are equal, and s3haul read an object to compute at least one of
    /// them.
    Read,
    /// The composite CRC32Cs, which are the CRC32Cs of the parts' CRC32Cs, are equal. So both sides
    /// have the same part boundaries.
    CompositeCrc32c,
    /// The same with CRC32.
    CompositeCrc32,
    /// The same with SHA-1.
    CompositeSha1,
    /// The same with SHA-256.
    CompositeSha256,
    /// The `ETag`s are equal, and both are derived from the bytes.
    Etag,
    /// The object's `ETag` follows from the `ETag`s of its parts: S3 published exactly the parts
    /// that it copied.
    PartEtags,
    /// The object's checksum follows from the checksums of its parts. Its `ETag` is not derived
    /// from the bytes.
    PartChecksums,
    /// The sizes are equal; the endpoint gives nothing better.
    Size,
    /// S3 confirmed that it wrote a delete marker, and named its version.
    DeleteMarker,
}

impl Proof {
    /// Returns the proof that an equal checksum of this kind gives.
    #[must_use]
    pub fn by(checksum: &Checksum) -> Self {
        match (checksum.kind, checksum.algorithm) {
            (ChecksumKind::FullObject | ChecksumKind::Unstated, algorithm) => algorithm.into(),
            (ChecksumKind::Composite, ChecksumAlgorithm::Crc32) => Self::CompositeCrc32,
            (ChecksumKind::Composite, ChecksumAlgorithm::Sha1) => Self::CompositeSha1,
            (ChecksumKind::Composite, ChecksumAlgorithm::Sha256) => Self::CompositeSha256,
            // S3 has no composite CRC64NVME.
            (ChecksumKind::Composite, ChecksumAlgorithm::Crc32c | ChecksumAlgorithm::Crc64Nvme) => {
                Self::CompositeCrc32c
            }
        }
    }

    /// Returns true if a checksum of all bytes was compared between source and destination, as
    /// `verify: require-checksum` demands. An `ETag` is no checksum, because S3 does not promise
    /// that it is the MD5 of the bytes. A delete marker has no bytes to compare.
    #[must_use]
    pub const fn is_checksum(self) -> bool {
        match self {
            Self::Crc64nvme
            | Self::Crc32c
            | Self::Crc32
            | Self::Sha1
            | Self::Sha256
            | Self::Read
            | Self::CompositeCrc32c
            | Self::CompositeCrc32
            | Self::CompositeSha1
            | Self::CompositeSha256
            | Self::DeleteMarker => true,
            Self::Etag | Self::PartEtags | Self::PartChecksums | Self::Size => false,
        }
    }
}

impl From<ChecksumAlgorithm> for Proof {
    fn from(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Crc64Nvme => Self::Crc64nvme,
            ChecksumAlgorithm::Crc32 => Self::Crc32,
            ChecksumAlgorithm::Crc32c => Self::Crc32c,
            ChecksumAlgorithm::Sha1 => Self::Sha1,
            ChecksumAlgorithm::Sha256 => Self::Sha256,
        }
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Crc64nvme => "crc64nvme",
            Self::Crc32c => "crc32c",
            Self::Crc32 => "crc32",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Read => "read",
            Self::CompositeCrc32c => "composite-crc32c",
            Self::CompositeCrc32 => "composite-crc32",
            Self::CompositeSha1 => "composite-sha1",
            Self::CompositeSha256 => "composite-sha256",
            Self::Etag => "etag",
            Self::PartEtags => "part-etags",
            Self::PartChecksums => "part-checksums",
            Self::Size => "size",
            Self::DeleteMarker => "delete-marker",
        })
    }
}

/// The ending of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Ending {
    /// Copied or uploaded, and proven.
    Done {
        /// The proof that it equals the source.
        proof: Proof,
        /// The destination's `ETag`; delete markers have none.
        #[serde(skip_serializing_if = "String::is_empty")]
        etag: String,
        /// The destination's new version.
        #[serde(skip_serializing_if = "Option::is_none")]
        destination_version: Option<String>,
    },
    /// Skipped.
    Skipped {
        /// The reason.
        #[serde(flatten)]
        reason: Skip,
    },
    /// In an archive, and being restored: a later run copies it.
    Restoring {
        /// The tier that this run requested; absent if the restore was already in progress.
        #[serde(skip_serializing_if = "Option::is_none")]
        requested: Option<RestoreTier>,
    },
    /// Not copied.
    Failed {
        /// The error.
        error: ErrorRecord,
    },
    /// The run was stopped before this object was done; nothing of it is visible at the
    /// destination.
    Stopped,
}

impl Ending {
    /// Returns the ending of an object that failed.
    pub(super) fn failed(failure: &Failure) -> Self {
        Self::Failed {
            error: failure.into(),
        }
    }
}

/// A [`Failure`] as a report shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct ErrorRecord {
    /// The kind of failure, in one word.
    pub kind: &'static str,
    /// The operation that failed.
    pub operation: String,
    /// S3's code.
    pub code: String,
    /// S3's message.
    pub message: String,
    /// `x-amz-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The remedy.
    pub remedy: String,
    /// True if all other objects would fail too, so that the run ends.
    #[serde(skip)]
    pub ends_run: bool,
    /// True if the same run may succeed later without a correction.
    #[serde(skip)]
    pub may_pass_later: bool,
    /// True if the copy is at the destination, but is not equal to its source or not proven.
    #[serde(skip)]
    pub is_published: bool,
}

impl ErrorRecord {
    /// Returns the code, the message, and the remedy, if there is one, as part of a sentence.
    pub(super) fn in_words(&self) -> String {
        let Self {
            code,
            message,
            remedy,
            ..
        } = self;
        if remedy.is_empty() {
            format!("{code}: {message}")
        } else {
            format!("{code}: {message}; {remedy}")
        }
    }
}

impl From<&Failure> for ErrorRecord {
    fn from(failure: &Failure) -> Self {
        let details = failure.details();
        Self {
            kind: details.kind.name(),
            operation: details.operation.to_string(),
            code: details.code.clone(),
            message: details.message.clone(),
            request_id: details.request_id.clone(),
            remedy: failure.remedy(),
            ends_run: failure.ends_run(),
            may_pass_later: details.kind.may_pass_later(),
            is_published: matches!(
                details.kind,
                FailureKind::NotEqual | FailureKind::Unprovable
            ),
        }
    }
}

/// One object's record.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Receipt {
    /// The transfer's name.
    pub transfer: String,
    /// `s3://bucket/key`, or a path.
    pub source: String,
    /// The version that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_version: Option<String>,
    /// The `ETag` of the source. Recorded for a copy that lost attributes, if no immutable version
    /// identifies its source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_etag: Option<String>,
    /// The time at which the source was written. Recorded like its `ETag`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_modified: Option<Timestamp>,
    /// `s3://bucket/key`.
    pub destination: String,
    /// The size in bytes.
    pub size: u64,
    /// `copy`, `multipart-copy`, `put`, `multipart-upload`, `restore` or `delete-marker`; absent if
    /// the object was skipped, or if only its tags were set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'static str>,
    /// The number of parts of the upload.
    pub parts: u32,
    /// The number of requests that wrote bytes, including retries.
    pub attempts: u32,
    /// The duration in seconds.
    pub seconds: f64,
    /// The time at which it ended.
    pub at: Timestamp,
    /// Its ending.
    #[serde(flatten)]
    pub ending: Ending,
    /// True for an object that was changed in place, and not copied anywhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_place: bool,
    /// The reason to copy it, if it was copied or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_reason: Option<Reason>,
    /// The reasons why the object was planned again, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replans: Vec<Replan>,
    /// The attributes that could not be kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
    /// Other notes in words, such as an upload that could not be aborted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Receipt {
    /// Returns true if the object was changed in place and the bucket keeps its old version. If
    /// only tags are set, S3 creates no new version, and the receipt has no route.
    #[must_use]
    pub fn leaves_old_version(&self) -> bool {
        let Ending::Done {
            destination_version: Some(version),
            ..
        } = &self.ending
        else {
            return false;
        };
        self.in_place && self.route.is_some() && is_immutable_version(version)
    }

    /// Returns true for objects that failed.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self.ending, Ending::Failed { .. })
    }
}

/// The note on a copy that an earlier session of the run made and did not record.
pub(super) const COPIED_BEFORE: &str =
    "copied by an earlier session of this run, and proven by this one";

/// The note on an object that an earlier session of this run may have copied, without a proof.
pub(super) const MAY_BE_OURS: &str =
    "an earlier session of this run may have copied it; nothing that is stored with it proves that";

/// The note on an earlier copy whose tags were set, and nothing else.
pub(super) const ONLY_TAGS: &str = "only its tags were set: the copy is that of the earlier run";

/// The beginning of the reason in a note on an attribute that was not compared.
pub(super) const NOT_COMPARED: &str = " not compared: ";

/// Returns true for a note that is not a warning but only says how the object was copied.
#[must_use]
pub fn is_usual(note: &str) -> bool {
    [COPIED_BEFORE, MAY_BE_OURS, ONLY_TAGS, RETENTION_ENDED].contains(&note)
}

/// The draft of a receipt.
pub(super) struct Draft {
    pub(super) size: u64,
    pub(super) version: Option<String>,
    /// The `ETag` of the source.
    pub(super) source_etag: Option<String>,
    /// The time at which the source was written.
    pub(super) source_modified: Option<Timestamp>,
    pub(super) route: Option<&'static str>,
    pub(super) parts: u32,
    pub(super) attempts: u32,
    pub(super) reason: Option<Reason>,
    pub(super) replans: Vec<Replan>,
    pub(super) losses: Vec<Loss>,
    pub(super) notes: Vec<String>,
    /// True once the task has searched for open uploads to adopt.
    pub(super) looked_for_uploads: bool,
    /// True if the object is changed in place.
    pub(super) in_place: bool,
}

impl Draft {
    pub(super) fn of(step: &Step) -> Self {
        let route = Some(step.route.name());
        let parts = step.route.parts();
        let version = step.entry.version.clone();
        Self {
            version,
            route,
            parts,
            source_etag: step.entry.etag.clone(),
            source_modified: step.entry.modified,
            reason: Some(step.reason),
            ..Self::of_size(step.entry.size)
        }
    }

    pub(super) fn of_size(size: u64) -> Self {
        Self {
            size,
            version: None,
            source_etag: None,
            source_modified: None,
            route: None,
            parts: 0,
            attempts: 0,
            reason: None,
            replans: Vec::new(),
            losses: Vec::new(),
            notes: Vec::new(),
            looked_for_uploads: false,
            in_place: false,
        }
    }

    /// Drops the losses and the notes about attributes that an earlier round recorded, because that
    /// round may have read another version of the source.
    pub(super) fn forget_attributes(&mut self) {
        self.losses.clear();
        let is_kept = |note: &String| note != RETENTION_ENDED && !note.contains(NOT_COMPARED);
        self.notes.retain(is_kept);
    }

    /// Adds a note that `rule` now excludes the object, and returns its ending.
    pub(super) fn leave_out(&mut self, rule: &Excluded) -> Ending {
        self.reason = None;
        self.notes.push(format!(
            "changed after it was listed, and now excluded: {rule}"
        ));
        Ending::Skipped {
            reason: Skip::NotSelected,
        }
    }

    /// Records the version of the source, its size, and the route.
    pub(super) fn pinned(&mut self, head: &Head, route: &Route, version: Option<String>) {
        self.set_size_and_route(head.size, route);
        self.version = version;
        self.source_etag = Some(head.etag.clone());
        // The head of an object that is copied as listed has no time.
        self.source_modified = head.modified.or(self.source_modified);
    }

    /// Records the size of the source, and the route.
    pub(super) fn set_size_and_route(&mut self, size: u64, route: &Route) {
        (self.size, self.parts) = (size, route.parts());
        self.route = Some(route.name());
    }

    pub(super) fn receipt(
        self,
        transfer: String,
        source: String,
        destination: String,
        took: Duration,
        ending: Ending,
    ) -> Receipt {
        let has_version = self.version.as_deref().is_some_and(is_immutable_version);
        let is_identified = has_version || self.losses.is_empty() || self.source_etag.is_none();
        Receipt {
            transfer,
            source,
            source_etag: self.source_etag.filter(|_| !is_identified),
            source_modified: self.source_modified.filter(|_| !is_identified),
            source_version: self.version,
            destination,
            size: self.size,
            route: self.route,
            parts: self.parts,
            attempts: self.attempts,
            seconds: seconds(took),
            at: Timestamp::now(),
            copy_reason: self
                .reason
                .filter(|_| matches!(ending, Ending::Done { .. } | Ending::Failed { .. })),
            ending,
            replans: self.replans,
            losses: self.losses,
            notes: self.notes,
            in_place: self.in_place,
        }
    }
}

/// Returns the seconds of a duration, rounded to milliseconds for reports.
#[must_use]
pub fn seconds(duration: Duration) -> f64 {
    to_thousandths(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_keeps_no_notes_about_the_attributes_of_another_version() {
        let mut draft = Draft::of_size(1);
        draft.notes = [
            RETENTION_ENDED,
            "tags not compared: x missing on b",
            "adopted",
        ]
        .map(str::to_owned)
        .into();
        draft.forget_attributes();
        assert_eq!(draft.notes, ["adopted"]);
    }
}
