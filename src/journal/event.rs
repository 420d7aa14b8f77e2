//! The events of a journal, named in the past tense.
//!
//! An event records only what the next session cannot find out by itself: keys that need not be
//! listed again, uploads whose IDs nothing else knows, and the receipts of objects that have ended.
//! Objects and uploads have numbers that are unique in the journal. Without such a number, the
//! event of each part would repeat the upload ID, which has a hundred characters.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::fingerprint::Fingerprint;
use crate::listing::Entry;
use crate::location::{BucketName, ObjectKey};
use crate::pace::learned::Learned;
use crate::plan::decide::Reason;
use crate::plan::loss::Loss;
use crate::plan::unchanged::Unchanged;
use crate::s3::ArchiveState;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalEvent {
    /// A run began. The state of an earlier run is void, except for its open uploads and the copies
    /// that failed their proof.
    RunBegan(RunInfo),
    /// An unfinished run resumed.
    RunResumed,
    /// The run continues with a job that was changed.
    JobChanged(Fingerprint),
    /// The run was stopped in an orderly way.
    RunStopped,
    /// The run ended by itself; objects may have failed.
    RunEnded,
    /// A range of keys is being planned. Each transfer begins with one range: all of its keys, or
    /// the keys of a shard. If a list cannot be resumed, its transfer starts over with a new range,
    /// and everything recorded about its keys is void.
    RangeBegan {
        /// Its number.
        range: u32,
        /// The transfer that it belongs to, by position in the job.
        transfer: u32,
        /// True if keys come in the order of their bytes, so that a list can continue after any
        /// key.
        ordered: bool,
        /// The key after which it begins; `None` if it begins with the first key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<ObjectKey>,
        /// The last key that may be in it; `None` if it ends with the transfer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<ObjectKey>,
    },
    /// A range was split in two, which are planned in parallel.
    RangeCut {
        /// The number of the range that was split. It now ends at `at`.
        range: u32,
        /// The last key that may be in it. There need not be an object with this key.
        at: ObjectKey,
        /// The number of the new range, which has the keys after `at` up to the old end.
        new: u32,
    },
    /// Keys up to `to` that need no work: the destination has them, or the selection excludes them.
    /// One event covers hundreds of keys, so that a run with nothing to do writes little.
    KeysPassed(Passed),
    /// All keys of the range are known.
    RangePlanned {
        /// Its number.
        range: u32,
    },
    /// All objects of a transfer have ended.
    TransferEnded {
        /// By position in the job.
        transfer: u32,
    },
    /// An object is to be copied. In an ordered range, all keys before it are known.
    ObjectPlanned {
        /// Its range.
        range: u32,
        /// Its number.
        object: u64,
        /// The object as it was listed.
        entry: PlannedObject,
    },
    /// An object has ended.
    ObjectEnded {
        /// Its range.
        range: u32,
        /// Its number; `None` for an object that could not be planned.
        object: Option<u64>,
        /// The ending.
        ended: Ended,
        /// Its line in the report, if there is a report.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        receipt: Option<ReceiptLine>,
    },
    /// An upload is about to be created. Recorded before the request, because only a search can
    /// find the upload if the response is lost.
    UploadIntended {
        /// Its number.
        upload: u64,
        /// The object that it is for.
        object: u64,
        /// Its place.
        place: UploadPlace,
        /// The server that the endpoint stands for; absent in old records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<String>,
    },
    /// An upload was created. Recorded before its first part.
    UploadBegan {
        /// Its number.
        upload: u64,
        /// S3's upload ID.
        id: String,
        /// The source.
        source: SourceVersion,
        /// The lengths of its parts.
        parts: PartLengths,
        /// A digest of the attributes that the object must have.
        attributes: String,
        /// True if a KMS or customer key encrypts it, so that its `ETag` does not follow from its
        /// bytes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        kms: bool,
        /// The attributes that the server refused when the upload was created: a session that
        /// resumes it must report them too.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        losses: Vec<Loss>,
        /// True if it was adopted, without a record of the request that created it.
        #[serde(
            rename = "claimed",
            default,
            skip_serializing_if = "std::ops::Not::not"
        )]
        adopted: bool,
    },
    /// S3 holds a part.
    PartStored {
        /// The upload.
        upload: u64,
        /// 1 to 10,000.
        number: u32,
        /// Bytes.
        size: u64,
        /// Without quotes.
        etag: String,
    },
    /// The upload is about to be completed. Recorded before the request, so that the object can be
    /// recognized as its result if the response is lost and the upload no longer exists.
    CompleteIntended {
        /// The upload.
        upload: u64,
        /// The `ETag` that the object will have, if it follows from the parts.
        etag: Option<String>,
    },
    /// The server no longer has the upload: it was completed, aborted, or never created.
    UploadEnded {
        /// The upload.
        upload: u64,
    },
    /// The object failed, and its upload is kept for the next run, which resumes it.
    UploadKept {
        /// The upload.
        upload: u64,
    },
    /// The rates that the servers accept, as learned so far. Replaces the rates of earlier events.
    PaceLearned(Learned),
}

/// The identity of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The ID that distinguishes runs.
    pub run: String,
    /// The job's name.
    pub job: String,
    /// The names of its transfers, in order.
    pub transfers: Vec<String>,
    /// The settings of the job that decide which objects are copied, and with which result.
    pub fingerprint: Fingerprint,
    /// The version of s3haul that began it.
    pub tool: String,
    /// The reference time of the job's ages, such as `modified_after: 24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_from: Option<Timestamp>,
    /// The command that resumes it, quoted for a shell. Absent in old records, and if the command
    /// cannot be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// The fate of the old data of an object that was changed in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InPlace {
    /// The new object has replaced it.
    Replaced,
    /// It remains as an old version of the key.
    OldVersionLeft,
}

/// Keys that need no work, see [`JournalEvent::KeysPassed`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Passed {
    /// The range.
    pub range: u32,
    /// The last of the keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<ObjectKey>,
    /// Objects that the destination has.
    pub skipped_objects: u64,
    /// Their bytes.
    pub skipped_bytes: u64,
    /// The skipped objects by the comparison that found them equal.
    #[serde(skip_serializing_if = "Unchanged::is_empty")]
    pub unchanged: Unchanged,
    /// Objects that are left out because they are in an archive. Not part of `skipped_objects`.
    pub archived_objects: u64,
    /// Objects that the destination has, but that an earlier list of the run has counted already.
    #[serde(skip_serializing_if = "is_zero")]
    pub known_objects: u64,
    /// Objects that the selection excludes.
    pub excluded_objects: u64,
    /// Entries that are neither an object nor a regular file.
    pub ignored: u64,
    /// Some of the objects that the destination has, equal to the source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub equal: Vec<PlannedObject>,
    /// Their lines in the report, if there is a report.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<ReceiptLine>,
}

impl Passed {
    /// Returns the number of objects that have a line in the report.
    pub(super) const fn objects(&self) -> u64 {
        self.skipped_objects + self.archived_objects + self.known_objects
    }
}

/// Returns true for zero, which the JSON omits.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A planned object: enough to copy it without listing it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedObject {
    /// The source's key.
    pub key: ObjectKey,
    /// Bytes.
    pub size: u64,
    /// The `ETag`; absent for files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The version, if the entry has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The time of the last modification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
    /// The storage class; absent for STANDARD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

impl From<&Entry> for PlannedObject {
    fn from(entry: &Entry) -> Self {
        Self {
            key: entry.key.clone(),
            size: entry.size,
            etag: entry.etag.clone(),
            version: entry.version.clone(),
            modified: entry.modified,
            class: entry.storage_class.clone(),
        }
    }
}

impl PlannedObject {
    /// Returns the entry as it was listed. `relative_at` is the offset of the key's part after the
    /// transfer's prefix.
    #[must_use]
    pub fn into_entry(self, relative_at: usize) -> Entry {
        let Self {
            key,
            size,
            etag,
            version,
            modified,
            class: storage_class,
        } = self;
        // A restored copy may have expired since. The HEAD before the copy shows that.
        let archive = ArchiveState::Readable;
        Entry {
            key,
            relative_at,
            size,
            etag,
            version,
            modified,
            storage_class,
            archive,
        }
    }
}

/// The ending of an object. An object that a stop interrupted has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Copied or uploaded, and proven.
    Done {
        /// Its bytes.
        bytes: u64,
        /// Its parts.
        parts: u32,
        /// Its proof.
        proof: String,
        /// The reason why it was copied; absent in old records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
        /// The attributes that could not be kept.
        #[serde(
            default,
            skip_serializing_if = "Vec::is_empty",
            deserialize_with = "losses"
        )]
        losses: Vec<Loss>,
        /// Set if it was changed in place instead of copied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        in_place: Option<InPlace>,
        /// Its destination, if an earlier copy to it failed its proof.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        settles: Option<String>,
    },
    /// The destination has it, or the job skips it.
    Skipped {
        /// Its bytes.
        bytes: u64,
        /// True if it is skipped because it is in an archive.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        archived: bool,
        /// The comparison that found it equal.
        #[serde(default, skip_serializing_if = "Unchanged::is_empty")]
        unchanged: Unchanged,
    },
    /// It is being restored from an archive. A later run copies it.
    Restoring {
        /// Its bytes.
        bytes: u64,
    },
    /// It failed.
    Failed(FailedObject),
}

impl Ended {
    /// Returns the size of an object whose copy equals its source, and true if the copy was found
    /// rather than made. Returns `None` for all other objects.
    pub(super) fn is_there(&self) -> Option<(u64, bool)> {
        match self {
            Self::Done { bytes, .. } => Some((*bytes, false)),
            Self::Skipped {
                bytes, unchanged, ..
            } if !unchanged.by.is_empty() => Some((*bytes, true)),
            Self::Skipped { .. } | Self::Restoring { .. } | Self::Failed(_) => None,
        }
    }
}

/// Reads losses. Version 1 of the format recorded only true or false.
fn losses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Loss>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum RecordedLosses {
        Any(#[expect(dead_code, reason = "a count of none or some is all that it says")] bool),
        All(Vec<Loss>),
    }
    Ok(match RecordedLosses::deserialize(deserializer)? {
        RecordedLosses::Any(_) => Vec::new(),
        RecordedLosses::All(losses) => losses,
    })
}

/// An object that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedObject {
    /// The source: `s3://bucket/key`, or a path.
    pub source: String,
    /// The destination; empty in old records.
    #[serde(default)]
    pub destination: String,
    /// The request that failed; empty in old records.
    #[serde(default)]
    pub operation: String,
    /// The error code of S3; empty in old records.
    #[serde(default)]
    pub code: String,
    /// The kind of failure, in one word.
    pub kind: String,
    /// The message of the failure.
    pub message: String,
}

/// The place of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPlace {
    /// The endpoint's name in the job.
    pub endpoint: String,
    /// The bucket.
    pub bucket: BucketName,
    /// The key.
    pub key: ObjectKey,
}

impl std::fmt::Display for UploadPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// One version of a source. An upload is resumed only if its source is still this version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceVersion {
    /// Bytes.
    pub size: u64,
    /// `versionId`, where the bucket has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The `ETag`; absent for files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Last-Modified, or the file's modification time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
}

/// The lengths of an object's parts in order, run-length encoded: `[[799, 67108864], [1, 12]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartLengths(Vec<(u32, u64)>);

impl FromIterator<u64> for PartLengths {
    fn from_iter<I: IntoIterator<Item = u64>>(lengths: I) -> Self {
        let mut runs: Vec<(u32, u64)> = Vec::new();
        for length in lengths {
            match runs.last_mut() {
                Some((count, last)) if *last == length => *count += 1,
                _ => runs.push((1, length)),
            }
        }
        Self(runs)
    }
}

impl PartLengths {
    /// Returns each part's bytes, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0
            .iter()
            .flat_map(|(count, length)| std::iter::repeat_n(*length, *count as usize))
    }

    /// Returns the number of parts.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0
            .iter()
            .fold(0, |sum: u32, (count, _)| sum.saturating_add(*count))
    }

    /// Returns the bytes of all parts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, (count, length)| {
            sum.saturating_add(length.saturating_mul(u64::from(*count)))
        })
    }
}

/// One line of the report, as text. The journal stores it and does not parse it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReceiptLine(Box<RawValue>);

impl ReceiptLine {
    /// Serializes a value as a line of JSON.
    ///
    /// # Errors
    /// The value cannot be written as JSON.
    pub fn of(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// Returns the line, without its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for ReceiptLine {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lengths_come_out_as_they_went_in(lengths in prop::collection::vec(1..4u64, 0..40)) {
            let packed: PartLengths = lengths.iter().copied().collect();
            let read: PartLengths = serde_json::from_str(&serde_json::to_string(&packed).unwrap()).unwrap();
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), lengths.clone());
            prop_assert_eq!((read.count() as usize, read.bytes()), (lengths.len(), lengths.iter().sum::<u64>()));
        }
    }
}
