//! A transfer between its beginning and its end, and an object that is under way.

use std::sync::Arc;
use std::time::Duration;

use super::Work;
use super::again::Listed;
use super::fair::Group;
use super::receipt::{Draft, Ending, Receipt};
use super::record::Record;
use crate::bucket::parking::BULK_FROM;
use crate::listing::Entry;
use crate::location::ObjectKey;
use crate::plan::decide::Skip;
use crate::plan::empty::EmptySelection;
use crate::planner::{Following, Hunger, Misses, Step};
use crate::s3::Failure;

/// A transfer that has started and not ended.
pub(super) struct Running {
    pub(super) work: Arc<Work>,
    /// The record that goes to the journal.
    pub(super) record: Record,
    /// The keys that earlier sessions left.
    pub(super) listed: Listed,
    /// The keys that its patterns probably missed.
    pub(super) misses: Misses,
    pub(super) hunger: Hunger,
    /// Nothing more will be found.
    pub(super) is_planned: bool,
    /// The selection has matched something, or could not be looked at as a whole.
    pub(super) has_found: bool,
    pub(super) excluded: u64,
    /// Objects that wait or are under way.
    pub(super) left: usize,
}

impl Running {
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
        EmptySelection::of(&self.work.sides.transfer, self.excluded)
    }

    pub(super) fn skipped(&self, entry: Entry, key: ObjectKey, reason: Skip) -> Receipt {
        let step = Step::without_work(entry, key);
        let (source, destination) = self.work.location(&step);
        let draft = Draft {
            route: None,
            ..Draft::of(&step)
        };
        self.receipt(draft, source, destination, Ending::Skipped { reason })
    }

    pub(super) fn failed(&self, place: String, failure: &Failure) -> Receipt {
        let destination = self.work.sides.transfer.to.location.to_string();
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
        let transfer = self.work.sides.transfer.name.clone();
        draft.receipt(transfer, source, destination, Duration::ZERO, ending)
    }
}

/// An object under way.
pub(super) struct Open {
    pub(super) transfer: u32,
    /// Its number in the journal.
    pub(super) object: Option<u64>,
    pub(super) source: String,
    pub(super) destination: String,
    /// At the destination.
    pub(super) key: ObjectKey,
    pub(super) size: u64,
    /// Zero for what is done in one request.
    pub(super) parts: u32,
    pub(super) group: Group,
    /// The newer versions of its key.
    pub(super) then: Option<Box<Following>>,
}

impl Open {
    /// Returns true for a copy in one request that takes long.
    pub(super) fn is_heavy(&self) -> bool {
        self.parts == 0 && self.size > BULK_FROM
    }
}
