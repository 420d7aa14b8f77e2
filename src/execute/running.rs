//! Holds the state of a transfer in progress, and of an object in progress.

use std::sync::Arc;
use std::time::Duration;

use super::TransferContext;
use super::again::Relisting;
use super::fair::Group;
use super::receipt::{Draft, Ending, Receipt};
use super::record::Record;
use crate::bucket::parking::BULK_FROM;
use crate::listing::Entry;
use crate::location::ObjectKey;
use crate::plan::decide::Skip;
use crate::plan::empty::EmptySelection;
use crate::planner::{Demand, Misses, Step, VersionChain};
use crate::s3::Failure;

/// A transfer that has started and not ended.
pub(super) struct RunningTransfer {
    pub(super) context: Arc<TransferContext>,
    /// The record that goes to the journal.
    pub(super) record: Record,
    /// The objects of earlier sessions, if the keys are listed again.
    pub(super) listed: Relisting,
    /// Counts keys that the patterns of the transfer probably should have matched.
    pub(super) misses: Misses,
    /// Tells the planner if the executor has free slots.
    pub(super) demand: Demand,
    /// True once all objects are found.
    pub(super) is_planned: bool,
    /// True if the selection has matched something, or if this session sees only some of the keys.
    pub(super) has_found: bool,
    /// The number of keys that the selection excluded.
    pub(super) excluded: u64,
    /// The number of objects that wait or are in progress.
    pub(super) left: usize,
}

impl RunningTransfer {
    /// Returns true if nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.is_planned && self.left == 0
    }

    /// Counts an object that will be copied. Returns the range in which it was found.
    pub(super) fn plan(&mut self, step: &mut Step) -> u32 {
        self.left += 1;
        self.record.plan(step)
    }

    pub(super) fn empty(&self) -> Option<EmptySelection> {
        EmptySelection::of(&self.context.sides.transfer, self.excluded)
    }

    pub(super) fn skipped(&self, entry: &Entry, key: &ObjectKey, reason: Skip) -> Receipt {
        let (source, destination) = self.context.location_of(entry, key);
        let rule = (reason == Skip::NotSelected)
            .then(|| self.context.sides.excluded_by(entry))
            .flatten();
        let draft = Draft {
            version: entry.version.clone(),
            notes: Vec::from_iter(rule.map(|rule| format!("now excluded: {rule}"))),
            ..Draft::of_size(entry.size)
        };
        self.receipt(draft, source, destination, Ending::Skipped { reason })
    }

    pub(super) fn failed(&self, place: String, failure: &Failure) -> Receipt {
        let destination = self.context.sides.transfer.to.location.to_string();
        let ending = Ending::failed(failure);
        self.receipt(Draft::of_size(0), place, destination, ending)
    }

    pub(super) fn receipt(
        &self,
        draft: Draft,
        source: String,
        destination: String,
        ending: Ending,
    ) -> Receipt {
        let transfer = self.context.sides.transfer.name.clone();
        draft.receipt(transfer, source, destination, Duration::ZERO, ending)
    }
}

/// An object in progress.
pub(super) struct Open {
    pub(super) transfer: u32,
    /// Its number in the journal.
    pub(super) object: Option<u64>,
    pub(super) source: String,
    pub(super) destination: String,
    /// Its key at the destination.
    pub(super) key: ObjectKey,
    pub(super) size: u64,
    /// The number of its parts; 0 if one request copies it.
    pub(super) parts: u32,
    /// The group of keys that it shares slots with.
    pub(super) group: Group,
    /// The newer versions of its key.
    pub(super) newer_versions: Option<Box<VersionChain>>,
}

impl Open {
    /// Returns true for a copy in one request that takes long.
    pub(super) fn is_heavy(&self) -> bool {
        self.parts == 0 && self.size > BULK_FROM
    }
}
