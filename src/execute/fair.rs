//! Shares the slots for small objects between prefixes.
//!
//! The ranges of keys take turns to start small objects. But a prefix that answers slowly keeps its
//! slots for long and would soon hold all of them: if one prefix answers after 30 seconds and the
//! others after 50 milliseconds, every slot ends up with the slow one. So the next object comes
//! from the prefix with the fewest open objects. This gives each prefix its share, and slots that
//! one prefix does not need go to the others.
//!
//! A prefix ends at the first slash after the common prefix of all keys: if all keys begin with
//! `data/`, the prefixes are `data/a/`, `data/b/`, and so on. The common prefix is learned from the
//! keys.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::location::ObjectKey;

/// The maximum number of groups of a transfer that are counted separately.
const MAX_GROUPS: usize = 64;
/// The segment of the group of all other prefixes. It differs from every real segment, which has
/// its only slash at its end.
const OTHERS: &str = "//";

/// The objects of a transfer whose keys have the same path segment after the common prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Group {
    transfer: u32,
    segment: String,
}

impl Group {
    pub(super) fn is_of(&self, transfer: u32) -> bool {
        self.transfer == transfer
    }
}

/// Counts open objects by group.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// The common prefix of all keys of a transfer, up to a slash.
    bases: BTreeMap<u32, String>,
    /// The groups of each transfer that are counted separately.
    known: BTreeMap<u32, HashSet<Group>>,
    open: HashMap<Group, u32>,
}

impl Shares {
    /// Learns the common prefix of a transfer from one of its keys. If the key makes the prefix
    /// shorter, merges all groups of the transfer into one and returns that group.
    pub(super) fn learn(&mut self, transfer: u32, key: &ObjectKey) -> Option<Group> {
        let key = key.as_str();
        let Some(base) = self.bases.get_mut(&transfer) else {
            self.bases.insert(transfer, up_to_slash(key).to_owned());
            return None;
        };
        if key.starts_with(&**base) {
            return None;
        }
        let before = base.clone();
        let common = base
            .bytes()
            .zip(key.bytes())
            .take_while(|(one, other)| one == other)
            .count();
        // A slash is one byte, so a prefix that ends with it ends at a character boundary.
        let kept = base.as_bytes()[..common]
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |at| at + 1);
        base.truncate(kept);
        let group = Group {
            transfer,
            segment: self.segment(transfer, &before).to_owned(),
        };
        let open = self
            .open
            .extract_if(|other, _| other.transfer == transfer)
            .map(|(_, open)| open)
            .sum();
        self.known.insert(transfer, HashSet::from([group.clone()]));
        self.open.insert(group.clone(), open);
        Some(group)
    }

    /// Returns the group of a key of a transfer. After [`MAX_GROUPS`] groups, all other prefixes of
    /// the transfer share one.
    pub(super) fn group(&mut self, transfer: u32, key: &ObjectKey) -> Group {
        let group = Group {
            transfer,
            segment: self.segment(transfer, key.as_str()).to_owned(),
        };
        let known = self.known.entry(transfer).or_default();
        if known.contains(&group) || group.segment.is_empty() {
            return group;
        }
        if known.len() >= MAX_GROUPS {
            return Group {
                transfer,
                segment: OTHERS.to_owned(),
            };
        }
        known.insert(group.clone());
        group
    }

    /// Forgets a transfer that is over. It has no open objects.
    pub(super) fn forget(&mut self, transfer: u32) {
        self.bases.remove(&transfer);
        self.known.remove(&transfer);
    }

    /// Returns the path segment of a key after the common prefix; empty for a key without one.
    fn segment<'k>(&self, transfer: u32, key: &'k str) -> &'k str {
        let base = self.bases.get(&transfer).map_or("", String::as_str);
        let rest = key.strip_prefix(base).unwrap_or(key);
        rest.find('/').map_or("", |at| &rest[..=at])
    }

    /// Returns the number of open objects of a group.
    pub(super) fn open_in(&self, group: &Group) -> u32 {
        self.open.get(group).copied().unwrap_or_default()
    }

    /// Counts an object as open.
    pub(super) fn opened(&mut self, group: &Group) {
        *self.open.entry(group.clone()).or_default() += 1;
    }

    /// Counts an object as closed.
    pub(super) fn closed(&mut self, group: &Group) {
        if let Some(open) = self.open.get_mut(group) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(group);
            }
        }
    }
}

fn up_to_slash(key: &str) -> &str {
    key.rfind('/').map_or("", |at| &key[..=at])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    #[test]
    fn groups_begin_where_keys_differ() {
        let mut shares = Shares::default();
        let segment = |shares: &mut Shares, text: &str| shares.group(1, &key(text)).segment;
        shares.learn(1, &key("data/2026/a/x"));
        assert_eq!(segment(&mut shares, "data/2026/a/x"), "");
        shares.opened(&Group {
            transfer: 1,
            segment: String::new(),
        });
        let merged = shares.learn(1, &key("data/2026/b/y")).unwrap();
        assert_eq!(
            (merged.segment.as_str(), shares.open_in(&merged)),
            ("a/", 1)
        );
        assert_eq!(segment(&mut shares, "data/2026/a/x"), "a/");
        assert_eq!(segment(&mut shares, "data/2026/b/deep/er"), "b/");
        shares.learn(1, &key("data/2025/ä"));
        assert_eq!(segment(&mut shares, "data/2026/a/x"), "2026/");
        shares.learn(2, &key("other"));
        assert_eq!(
            segment(&mut shares, "data/2025/z"),
            "2025/",
            "another transfer has keys of its own"
        );
        shares.learn(1, &key("täglich"));
        assert_eq!(
            (
                segment(&mut shares, "data/2025/z").as_str(),
                segment(&mut shares, "täglich").as_str()
            ),
            ("data/", "")
        );
    }

    #[test]
    fn each_transfer_has_groups_of_its_own() {
        let mut shares = Shares::default();
        let segment =
            |shares: &mut Shares, transfer, text: &str| shares.group(transfer, &key(text)).segment;
        for transfer in [1, 2] {
            shares.learn(transfer, &key("top"));
            for index in 0..MAX_GROUPS {
                let text = format!("{index}/x");
                assert_eq!(segment(&mut shares, transfer, &text), format!("{index}/"));
            }
            assert_eq!(segment(&mut shares, transfer, "more/x"), OTHERS);
        }
        shares.forget(1);
        shares.learn(1, &key("top"));
        assert_eq!(segment(&mut shares, 1, "more/x"), "more/");
        assert_eq!(segment(&mut shares, 2, "more/x"), OTHERS);
    }

    /// Opens objects of these groups one after another in `slots` slots, while those of group 0
    /// never end. Returns how many of each group are open.
    fn fill(groups: usize, slots: u32, ends: usize) -> Vec<u32> {
        let mut shares = Shares::default();
        let keys: Vec<_> = (0..groups)
            .map(|group| key(&format!("{group}/x")))
            .collect();
        for key in &keys {
            shares.learn(0, key);
        }
        let groups: Vec<_> = keys.iter().map(|key| shares.group(0, key)).collect();
        let open = |shares: &Shares| {
            groups
                .iter()
                .map(|group| shares.open_in(group))
                .sum::<u32>()
        };
        for round in 0..ends {
            while open(&shares) < slots {
                let next = groups
                    .iter()
                    .min_by_key(|group| shares.open_in(group))
                    .unwrap();
                shares.opened(next);
            }
            let fast = &groups[1 + round % (groups.len() - 1)];
            shares.closed(fast);
        }
        groups.iter().map(|group| shares.open_in(group)).collect()
    }

    proptest! {
        /// Checks that a group whose objects never end has at most its share, however many others
        /// have ended.
        #[test]
        fn a_slow_group_has_no_more_than_its_share(
            groups in 2..8usize, slots in 8..400u32, ends in 1..2000usize,
        ) {
            let open = fill(groups, slots, ends);
            let share = slots.div_ceil(u32::try_from(groups).unwrap());
            prop_assert!(open[0] <= share, "{open:?} of {slots}");
        }
    }
}
