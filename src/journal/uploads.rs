//! Open uploads in a compact form, and their parts that can be reused.
//!
//! 48 uploads of 10,000 parts may be open at once, so a part takes only eight bytes: a mark of its
//! `ETag`. The mark is enough to recognize the part in the server's own list, which has everything
//! else. The list alone is not trusted, because it may show a part that another writer stored under
//! the same number.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use crc_fast::CrcAlgorithm;
use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::event::{PartLengths, SourceVersion, UploadPlace};
use crate::plan::loss::Loss;
use crate::s3::PartDone;

/// An upload that the server has, or may have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournaledUpload {
    /// The object that it is for.
    pub object: u64,
    /// Its place.
    pub place: UploadPlace,
    /// The server that the endpoint stood for; absent in old records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The time just before it was created.
    pub intended: Timestamp,
    /// Set if its object failed and the upload is kept for the next run.
    #[serde(default, skip_serializing_if = "Kept::is_not")]
    pub kept: Kept,
    /// The created upload. If `None`, the upload may exist, but its ID is not known.
    #[serde(rename = "begun", default, skip_serializing_if = "Option::is_none")]
    pub created: Option<UploadDetails>,
}

/// The run that the upload of a failed object is kept for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// The upload is kept for no run: its object has not failed, or the upload cannot be resumed.
    #[default]
    No,
    /// The object failed in this run.
    ForNextRun,
    /// The object failed in an earlier run. This run resumes the upload, or aborts it before it
    /// ends.
    ForThisRun,
}

impl Kept {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands over a reference"
    )]
    fn is_not(&self) -> bool {
        *self == Self::No
    }

    /// Returns the value after a new run has begun.
    pub(super) fn in_next_run(self) -> Self {
        if self == Self::No {
            Self::No
        } else {
            Self::ForThisRun
        }
    }
}

/// An upload whose ID is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UploadDetails {
    /// S3's upload ID.
    pub id: String,
    /// The source.
    pub source: SourceVersion,
    /// The lengths of its parts.
    pub parts: PartLengths,
    /// A digest of the attributes that the object must have.
    pub attributes: String,
    /// True if a KMS or customer key encrypts it, so that its `ETag` does not follow from its
    /// bytes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kms: bool,
    /// The attributes that the server refused when it was created.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
    /// True if it was adopted, without a record of the request that created it.
    #[serde(
        rename = "claimed",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub adopted: bool,
    /// The parts that S3 has confirmed.
    pub stored: PartMarks,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Set once `CompleteMultipartUpload` was about to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completing: Option<Completing>,
}

/// A `CompleteMultipartUpload` that was about to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completing {
    /// The `ETag` of the resulting object, if it follows from the parts.
    pub etag: Option<String>,
}

/// The parts that the server lists, compared with the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// The good parts, by number. They need not be sent again.
    pub kept: Vec<PartDone>,
    /// The number of parts on record that are not in the list.
    pub missing: u32,
    /// The number of listed parts that differ from the parts that were sent.
    pub different: u32,
}

impl UploadDetails {
    /// Compares the `listed` parts with the record. A listed part is good if it has the right size
    /// and, if it is on record, the recorded `ETag`. A part that is not on record was in flight
    /// when the session ended, and its request was pinned to the same source.
    #[must_use]
    pub fn reconcile(&self, listed: Vec<PartDone>) -> Reconciled {
        let mut outcome = Reconciled::default();
        let lengths: Vec<u64> = self.parts.iter().collect();
        let mut seen = 0;
        for part in listed {
            let index = part.number.checked_sub(1).map(|index| index as usize);
            let expected = index.and_then(|index| lengths.get(index));
            let recorded = self.stored.get(part.number);
            seen += u32::from(recorded.is_some());
            let is_ours = recorded.is_none_or(|mark| mark == mark_of(&part.etag));
            if expected == Some(&part.size) && is_ours && !part.etag.is_empty() {
                outcome.kept.push(part);
            } else {
                outcome.different += 1;
            }
        }
        outcome.missing = self.stored.count().saturating_sub(seen);
        outcome.kept.sort_unstable_by_key(|part| part.number);
        outcome.kept.dedup_by_key(|part| part.number);
        outcome
    }
}

/// The parts that S3 has confirmed, each with a mark of its `ETag`. A snapshot has the base64 of
/// eight bytes per part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartMarks {
    /// The marks by part number minus one; zero if there is no part.
    marks: Vec<u64>,
    count: u32,
}

/// The highest part number of S3. A journal with a higher one must not cost memory.
const MAX_NUMBER: u32 = 10_000;

impl PartMarks {
    /// Records a part. Returns true if the number is new.
    pub(super) fn insert(&mut self, number: u32, etag: &str) -> bool {
        let Some(index) = number.checked_sub(1).filter(|_| number <= MAX_NUMBER) else {
            return false;
        };
        let index = index as usize;
        if self.marks.len() <= index {
            self.marks.resize(index + 1, 0);
        }
        let is_new = self.marks[index] == 0;
        self.marks[index] = mark_of(etag);
        self.count += u32::from(is_new);
        is_new
    }

    fn get(&self, number: u32) -> Option<u64> {
        let index = number.checked_sub(1)? as usize;
        self.marks.get(index).copied().filter(|mark| *mark != 0)
    }

    /// Returns the number of parts.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }
}

/// Returns the mark of an `ETag`. It is never zero, which stands for no part.
fn mark_of(etag: &str) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, etag.as_bytes()).max(1)
}

impl Serialize for PartMarks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self
            .marks
            .iter()
            .flat_map(|mark| mark.to_le_bytes())
            .collect();
        serializer.serialize_str(&STANDARD_NO_PAD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for PartMarks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = STANDARD_NO_PAD.decode(&*text).map_err(D::Error::custom)?;
        let (marks, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || marks.len() > MAX_NUMBER as usize {
            return Err(D::Error::custom("the marks of parts are cut short"));
        }
        let marks: Vec<u64> = marks.iter().map(|mark| u64::from_le_bytes(*mark)).collect();
        let count = marks.iter().filter(|mark| **mark != 0).count();
        Ok(Self {
            marks,
            count: u32::try_from(count).unwrap_or(MAX_NUMBER),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(number: u32, size: u64, etag: &str) -> PartDone {
        PartDone {
            number,
            size,
            etag: etag.to_owned(),
            checksum: None,
        }
    }

    fn upload() -> UploadDetails {
        let mut stored = PartMarks::default();
        for (number, etag) in [(1, "a"), (2, "b"), (3, "c")] {
            assert!(stored.insert(number, etag));
        }
        UploadDetails {
            id: "u".into(),
            source: SourceVersion {
                size: 45,
                version: None,
                etag: None,
                modified: None,
            },
            parts: [10, 10, 10, 10, 5].into_iter().collect(),
            attributes: String::new(),
            kms: false,
            losses: Vec::new(),
            adopted: false,
            stored,
            stored_bytes: 30,
            completing: None,
        }
    }

    #[test]
    fn parts_are_kept_only_if_they_are_what_was_sent() {
        let listed = vec![
            part(1, 10, "a"),         // as recorded
            part(2, 10, "elsewhere"), // replaced by someone
            part(4, 10, "d"),         // under way when the record ended
            part(5, 4, "e"),          // of another size
            part(6, 10, "f"),         // beyond the object
            part(0, 10, "z"),
        ];
        let found = upload().reconcile(listed);
        let kept: Vec<_> = found.kept.iter().map(|part| part.number).collect();
        assert_eq!((kept, found.missing, found.different), (vec![1, 4], 1, 4));
    }

    #[test]
    fn a_part_that_was_sent_twice_counts_once() {
        let mut marks = PartMarks::default();
        assert!(marks.insert(7, "x") && !marks.insert(7, "y"));
        assert_eq!((marks.count(), marks.get(7)), (1, Some(mark_of("y"))));
        assert!(
            !marks.insert(0, "x") && !marks.insert(10_001, "x"),
            "S3 has no such numbers"
        );
    }

    #[test]
    fn ten_thousand_parts_take_little_room() {
        let mut marks = PartMarks::default();
        for number in 1..=10_000 {
            marks.insert(number, &format!("{number:032x}"));
        }
        assert!(serde_json::to_string(&marks).unwrap().len() < 110_000);
    }

    proptest! {
        #[test]
        fn marks_survive_the_snapshot(parts in prop::collection::btree_map(1..200u32, "[a-f0-9]{4}", 0..50)) {
            let mut marks = PartMarks::default();
            for (number, etag) in &parts {
                marks.insert(*number, etag);
            }
            let read: PartMarks = serde_json::from_str(&serde_json::to_string(&marks).unwrap()).unwrap();
            prop_assert_eq!(&read, &marks);
            prop_assert_eq!(read.count() as usize, parts.len());
        }
    }
}
