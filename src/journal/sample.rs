//! A random sample of the objects that a run has copied or found equal.
//!
//! The record of a run is wrong if its destination has lost the objects: the bucket was created
//! again, or another server has the same URL. Checking every object again would cost too much, but
//! a small sample shows whether many are missing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::PlannedObject;

/// The size of the sample. If a third of all objects is missing, a sample of 16 fails to show it
/// only once in 650 times.
const KEPT: usize = 16;

/// An object that the destination had when it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedObject {
    /// Its transfer, by position in the job.
    pub transfer: u32,
    /// True if it was found equal and not copied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub found: bool,
    /// The time at which it was recorded.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub at: Timestamp,
    /// Its bytes.
    pub bytes: u64,
    /// The source.
    pub entry: PlannedObject,
}

/// A sample in which each object on record is equally likely.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    seen: u64,
    kept: Vec<RecordedObject>,
}

impl Sample {
    /// Adds an object to the population of the sample. A replay draws the same sample.
    pub(super) fn take(&mut self, copied: RecordedObject) {
        self.take_for(copied, 1);
    }

    /// Adds an object that stands for this many objects.
    pub(super) fn take_for(&mut self, copied: RecordedObject, objects: u64) {
        let objects = objects.max(1);
        self.seen = self.seen.saturating_add(objects);
        if self.kept.len() < KEPT {
            return self.kept.push(copied);
        }
        let chance = fastrand::Rng::with_seed(self.seen).u64(..self.seen) / objects;
        if let Some(kept) = usize::try_from(chance)
            .ok()
            .and_then(|slot| self.kept.get_mut(slot))
        {
            *kept = copied;
        }
    }

    /// Returns the sampled objects.
    #[must_use]
    pub fn objects(&self) -> &[RecordedObject] {
        &self.kept
    }

    /// Returns true if no object was added yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.seen == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_objects_have_the_same_chance() {
        let mut sample = Sample::default();
        for number in 0..1600_u64 {
            let key = format!("{number:04}").parse().unwrap();
            let entry = PlannedObject {
                key,
                size: 1,
                etag: None,
                version: None,
                modified: None,
                class: None,
            };
            sample.take(RecordedObject {
                transfer: 0,
                found: false,
                at: Timestamp::UNIX_EPOCH,
                bytes: number,
                entry,
            });
        }
        let mut bytes: Vec<_> = sample.objects().iter().map(|copied| copied.bytes).collect();
        bytes.sort_unstable();
        assert_eq!(bytes.len(), KEPT);
        assert!(bytes[3] < 800 && bytes[12] >= 800, "{bytes:?}");
        let read: Sample = serde_json::from_str(&serde_json::to_string(&sample).unwrap()).unwrap();
        assert_eq!(read, sample);
    }
}
