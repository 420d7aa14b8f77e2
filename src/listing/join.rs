//! Finds the counterpart of a key by reading the destination's listing alongside the source's.
//!
//! Both listings arrive in the byte order of their keys, so one pass over each is enough, and only
//! the current entry is kept. This works only if the key map keeps the order
//! ([`KeyMap::preserves_order`](crate::manifest::keys::KeyMap::preserves_order)). If a server lists
//! in another order, for instance directory by directory, an entry that was not found may exist
//! nevertheless.

use super::{Entry, Listing, ListingItem};
use crate::s3::Failure;

/// The destination's side of a comparison.
#[derive(Debug)]
pub struct Counterparts {
    listing: Listing,
    current: Option<Entry>,
    ended: bool,
    refused: Vec<(String, Failure)>,
}

impl Counterparts {
    /// Creates a search in this listing.
    #[must_use]
    pub fn of(listing: Listing) -> Self {
        Self {
            listing,
            current: None,
            ended: false,
            refused: Vec::new(),
        }
    }

    /// Returns the entry with exactly this key. `None` means that the key does not exist, provided
    /// that the listing is in order and that keys are requested in that order.
    ///
    /// # Errors
    /// The failure of the destination's listing. Nothing is known about this key and later keys.
    pub async fn find(&mut self, key: &str) -> Result<Option<&Entry>, Failure> {
        while !self.ended
            && self
                .current
                .as_ref()
                .is_none_or(|current| current.key.as_str() < key)
        {
            match self.listing.next().await {
                Some(ListingItem::Entry(entry)) => self.current = Some(entry),
                Some(ListingItem::Ignored(..) | ListingItem::Unread(..)) => {}
                Some(ListingItem::Refused(place, failure)) => self.refused.push((place, failure)),
                Some(ListingItem::Failed(_, failure)) => return Err(failure),
                None => (self.current, self.ended) = (None, true),
            }
        }
        Ok(self
            .current
            .as_ref()
            .filter(|current| current.key.as_str() == key))
    }

    /// Takes the failures so far about ignored entries, which the server should not have listed.
    pub fn take_refused(&mut self) -> Vec<(String, Failure)> {
        std::mem::take(&mut self.refused)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::location::ObjectKey;

    fn entry(key: &str) -> ListingItem {
        ListingItem::Entry(Entry {
            key: ObjectKey::new(key).unwrap(),
            relative_at: 0,
            size: key.len() as u64,
            etag: None,
            version: None,
            modified: None,
            storage_class: None,
            archive: crate::s3::ArchiveState::Readable,
        })
    }

    proptest! {
        #[test]
        fn finds_what_a_set_would_find(
            there in proptest::collection::btree_set("[ab/é]{0,4}", 0..40),
            asked in proptest::collection::btree_set("[ab/é]{0,4}", 0..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let found: BTreeSet<String> = runtime.block_on(async {
                let mut counterparts = Counterparts::of(Listing::of(there.iter().map(|key| entry(key)).collect()));
                let mut found = BTreeSet::new();
                for key in &asked {
                    if let Some(entry) = counterparts.find(key).await.unwrap() {
                        found.insert(entry.key.to_string());
                    }
                }
                found
            });
            prop_assert_eq!(found, there.intersection(&asked).cloned().collect::<BTreeSet<_>>());
        }
    }
}
