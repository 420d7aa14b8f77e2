//! Names and counts the attributes that copies could not keep.
//!
//! A loss consists of the attribute, the kind of loss, and the reason, worded the same for every
//! object. So losses can be counted, and a million losses need one line in the summary.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::manifest::job::Attribute;

/// The maximum number of losses counted separately. All others are counted together.
const MAX_KINDS: usize = 64;

/// The kinds of losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// The source's value cannot be read, or s3haul does not know whether the source has the
    /// attribute.
    NotReadable,
    /// The attribute cannot be set on the copy.
    NotSet,
    /// The copy has a weaker value than the source.
    Weaker,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotReadable => "not readable",
            Self::NotSet => "not set",
            Self::Weaker => "weaker",
        })
    }
}

/// An attribute that a copy lacks, or that differs from its source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Loss {
    /// The attribute.
    pub attribute: Attribute,
    /// The kind of loss.
    #[serde(rename = "loss")]
    pub lost: Lost,
    /// The reason, without the object's name.
    pub reason: String,
}

impl Loss {
    /// Creates a loss.
    pub fn new(attribute: Attribute, lost: Lost, reason: impl Into<String>) -> Self {
        Self {
            attribute,
            lost,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.attribute, self.lost, self.reason)
    }
}

/// Counts the losses of many objects in bounded memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LossCounts {
    counts: BTreeMap<Loss, u64>,
    others: u64,
}

impl LossCounts {
    /// Counts a loss of one object.
    pub fn add(&mut self, loss: &Loss) {
        if let Some(count) = self.counts.get_mut(loss) {
            *count += 1;
        } else if self.counts.len() < MAX_KINDS {
            self.counts.insert(loss.clone(), 1);
        } else {
            self.others += 1;
        }
    }

    /// Adds the losses of other objects.
    pub fn merge(&mut self, other: &Self) {
        for (loss, objects) in other.iter() {
            if let Some(count) = self.counts.get_mut(loss) {
                *count += objects;
            } else if self.counts.len() < MAX_KINDS {
                self.counts.insert(loss.clone(), objects);
            } else {
                self.others += objects;
            }
        }
        self.others += other.others;
    }

    /// Returns each loss with the number of objects that have it.
    pub fn iter(&self) -> impl Iterator<Item = (&Loss, u64)> {
        self.counts.iter().map(|(loss, count)| (loss, *count))
    }

    /// Returns the number of losses that are not counted separately.
    #[must_use]
    pub fn others(&self) -> u64 {
        self.others
    }
}

/// A loss and its count, as JSON.
#[derive(Serialize, Deserialize)]
struct LossCount {
    #[serde(flatten)]
    loss: Loss,
    objects: u64,
}

impl Serialize for LossCounts {
    /// Writes a list of losses, each with its `objects`. Omits the number of other losses.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|(loss, objects)| LossCount {
            loss: loss.clone(),
            objects,
        }))
    }
}

/// Serializes [`LossCounts`] completely, for a journal: the list, and the number of other losses.
pub mod whole {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{LossCount, LossCounts};

    /// Writes the counts as a pair of the list and the number of other losses.
    ///
    /// # Errors
    /// Returns the serializer's error.
    pub fn serialize<S: Serializer>(counts: &LossCounts, serializer: S) -> Result<S::Ok, S::Error> {
        (counts, counts.others).serialize(serializer)
    }

    /// Reads the counts that [`serialize`] writes.
    ///
    /// # Errors
    /// Returns the deserializer's error.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LossCounts, D::Error> {
        let (listed, others) = <(Vec<LossCount>, u64)>::deserialize(deserializer)?;
        let counts = listed
            .into_iter()
            .map(|LossCount { loss, objects }| (loss, objects))
            .collect();
        Ok(LossCounts { counts, others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_losses_are_one_line_and_their_number_is_bounded() {
        let mut counts = LossCounts::default();
        let tags = Loss::new(
            Attribute::Tags,
            Lost::NotReadable,
            "s3:GetObjectTagging missing on lake",
        );
        for _ in 0..312 {
            counts.add(&tags);
        }
        assert_eq!(counts.iter().collect::<Vec<_>>(), [(&tags, 312)]);
        assert_eq!(
            tags.to_string(),
            "tags not readable: s3:GetObjectTagging missing on lake"
        );
        let json = serde_json::to_value(&counts).unwrap();
        let reason = "s3:GetObjectTagging missing on lake";
        let line = serde_json::json!({"attribute": "tags", "loss": "not-readable", "reason": reason, "objects": 312});
        assert_eq!(json, serde_json::json!([line]));
        for kind in 0..1000 {
            counts.add(&Loss::new(Attribute::Acl, Lost::NotSet, kind.to_string()));
        }
        assert_eq!((counts.iter().count(), counts.others()), (64, 1000 - 63));
        let text = {
            let mut text = Vec::new();
            whole::serialize(&counts, &mut serde_json::Serializer::new(&mut text)).unwrap();
            text
        };
        let read = whole::deserialize(&mut serde_json::Deserializer::from_slice(&text)).unwrap();
        assert_eq!(read, counts, "a journal forgets nothing");
        let mut sum = counts.clone();
        sum.merge(&counts);
        assert_eq!(sum.iter().next(), Some((&tags, 624)));
        let all = |counts: &LossCounts| {
            counts.others() + counts.iter().map(|(_, objects)| objects).sum::<u64>()
        };
        assert_eq!(all(&sum), 2 * all(&counts));
    }
}
