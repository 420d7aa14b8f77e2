//! Counts the objects that stay unchanged, by the comparison that found them equal, and by the
//! state of the attributes that the job sets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::decide::{Basis, SetAttributes, Skip};

/// Counts of equal objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unchanged {
    /// Equal objects by the comparison that found them equal.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by: BTreeMap<Basis, u64>,
    /// Equal objects that were not checked for the attributes that the job sets.
    #[serde(skip_serializing_if = "is_zero")]
    pub attributes_not_checked: u64,
    /// Equal objects in a storage class other than the one that the job sets, to which a lifecycle
    /// rule may have moved them.
    #[serde(skip_serializing_if = "is_zero")]
    pub other_storage_class: u64,
    /// Equal objects whose tags were not compared, because they may not be read.
    #[serde(skip_serializing_if = "is_zero")]
    pub tags_not_compared: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Unchanged {
    /// Returns the counts for one skipped object.
    #[must_use]
    pub fn one(skip: Skip) -> Self {
        let mut counts = Self::default();
        counts.add(skip);
        counts
    }

    /// Counts an object.
    pub fn add(&mut self, skip: Skip) {
        let Skip::Equal {
            equal_by,
            set_attributes,
        } = skip
        else {
            return;
        };
        *self.by.entry(equal_by).or_default() += 1;
        match set_attributes {
            SetAttributes::Kept => {}
            SetAttributes::NotChecked => self.attributes_not_checked += 1,
            SetAttributes::OtherStorageClass => self.other_storage_class += 1,
            SetAttributes::TagsNotCompared => self.tags_not_compared += 1,
        }
    }

    /// Adds the counts of other objects.
    pub fn merge(&mut self, other: &Self) {
        for (basis, count) in &other.by {
            let counted = self.by.entry(*basis).or_default();
            *counted = counted.saturating_add(*count);
        }
        self.attributes_not_checked = self
            .attributes_not_checked
            .saturating_add(other.attributes_not_checked);
        self.other_storage_class = self
            .other_storage_class
            .saturating_add(other.other_storage_class);
        self.tags_not_compared = self
            .tags_not_compared
            .saturating_add(other.tags_not_compared);
    }

    /// Subtracts the counts of objects that the planner lists again.
    pub fn take_back(&mut self, void: &Self) {
        for (basis, void) in &void.by {
            if let Some(count) = self.by.get_mut(basis) {
                *count = count.saturating_sub(*void);
            }
        }
        self.by.retain(|_, count| *count > 0);
        self.attributes_not_checked = self
            .attributes_not_checked
            .saturating_sub(void.attributes_not_checked);
        self.other_storage_class = self
            .other_storage_class
            .saturating_sub(void.other_storage_class);
        self.tags_not_compared = self
            .tags_not_compared
            .saturating_sub(void.tags_not_compared);
    }

    /// Returns true if nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_objects_are_counted_and_json_keeps_the_counts() {
        let mut counts = Unchanged::one(Skip::equal(Basis::Etag));
        counts.add(Skip::Present);
        counts.add(Skip::Equal {
            equal_by: Basis::Time,
            set_attributes: SetAttributes::NotChecked,
        });
        counts.merge(&Unchanged::one(Skip::equal(Basis::Time)));
        assert_eq!(counts.by, [(Basis::Etag, 1), (Basis::Time, 2)].into());
        let json = serde_json::to_string(&counts).unwrap();
        assert_eq!(
            json,
            r#"{"by":{"etag":1,"time":2},"attributes_not_checked":1}"#
        );
        assert_eq!(serde_json::from_str::<Unchanged>(&json).unwrap(), counts);
        assert!(Unchanged::one(Skip::Archived).is_empty());
    }
}
