//! Objects that an earlier session of the run knew.
//!
//! A session that is killed takes with it what it had not written down, a second or so of it. An
//! object that it had planned and that is at the destination now was most likely copied by it. That
//! is proven like any copy, and if nothing proves it, the receipt says what the object may be.
//! Without that, such objects would count as found and left alone.
//!
//! A list without order is read again from its beginning. It finds everything once more that is
//! counted already; as many equal objects as those are not counted a second time.

use std::collections::HashSet;

use super::Work;
use super::conductor::Conductor;
use super::monitor::Event;
use super::receipt::MAY_BE_OURS;
use crate::listing::Entry;
use crate::location::ObjectKey;
use crate::manifest::job::Versions;
use crate::plan::decide::Skip;
use crate::planner::{Held, Planned, Step};
use crate::s3::{Failure, FailureKind, Operation};

/// The record of a transfer whose keys are listed again.
#[derive(Default)]
pub(super) struct Listed {
    /// Objects that are counted already and that the list has not found yet.
    known: u64,
    /// Keys that the last session had planned and not done.
    under_way: HashSet<ObjectKey>,
}

impl Listed {
    pub(super) fn of(work: &Work, transfer: u32) -> Self {
        if !work.inherited.lists_anew(transfer) {
            return Self::default();
        }
        let pending = work
            .resumed
            .ranges_of(transfer)
            .flat_map(|(_, range)| range.pending.values());
        Self {
            known: work.settled,
            under_way: pending.map(|entry| entry.key.clone()).collect(),
        }
    }
}

impl Work {
    /// Returns true if a copy that is there can be proven to be one of this run.
    pub(super) fn can_look(&self, reason: Skip) -> bool {
        let Self { sides, .. } = self;
        matches!(reason, Skip::Equal { .. } | Skip::Present)
            && sides.source.is_some()
            && !sides.is_in_place()
            && sides.transfer.versions != Versions::All
    }
}

impl Conductor<'_> {
    /// Takes an object that the destination has.
    pub(super) fn skip(
        &mut self,
        transfer: u32,
        entry: Entry,
        key: ObjectKey,
        reason: Skip,
        held: &mut Option<Held>,
    ) {
        let Some(running) = self.transfers.get_mut(&transfer) else {
            return;
        };
        if running.work.can_look(reason) && running.listed.under_way.remove(&entry.key) {
            return self.look(transfer, None, entry, key, reason, held);
        }
        let passed = entry.key.clone();
        let receipt = running.skipped(entry, key, reason);
        let is_known = reason != Skip::Archived && running.listed.known > 0;
        if is_known {
            running.listed.known -= 1;
            running.record.skip_known(passed, &receipt);
            self.monitor.observe(&Event::ObjectEnded(&receipt));
        } else {
            running.record.skip(passed, &receipt);
            self.count(&receipt);
        }
    }

    /// Has an object looked at that an earlier session may have copied.
    fn look(
        &mut self,
        transfer: u32,
        object: Option<u64>,
        entry: Entry,
        key: ObjectKey,
        reason: Skip,
        held: &mut Option<Held>,
    ) {
        let step = Step {
            object,
            found: Some(reason),
            ..Step::without_work(entry, key)
        };
        self.queue(transfer, Box::new(step), held.as_mut());
    }

    /// Queues, looks at, or ends an object that an earlier session planned.
    pub(super) fn take_again(
        &mut self,
        transfer: u32,
        object: u64,
        planned: Planned,
        held: &mut Option<Held>,
    ) {
        let Some(running) = self.transfers.get(&transfer) else {
            return;
        };
        match planned {
            Planned::Step(mut step) => {
                step.object = Some(object);
                self.queue(transfer, step, held.as_mut());
            }
            Planned::Skip(entry, key, reason) if running.work.can_look(reason) => {
                self.look(transfer, Some(object), *entry, key, reason, held);
            }
            Planned::Skip(entry, key, reason) => {
                let mut receipt = running.skipped(*entry, key, reason);
                if matches!(reason, Skip::Equal { .. } | Skip::Present) {
                    receipt.notes.push(MAY_BE_OURS.to_owned());
                }
                self.end_with(transfer, Some(object), &receipt);
            }
            Planned::Archived(entry, key) => {
                self.fail_archived(transfer, Some(object), *entry, key);
            }
            Planned::Failed(_, place, failure) | Planned::Unlisted(place, failure) => {
                self.fail(transfer, Some(object), place, &failure);
            }
            // Only a job that was changed meanwhile leaves out what it had planned.
            Planned::Excluded(_) | Planned::Ignored(..) | Planned::Again(..) => {
                let place = running.work.sides.transfer.to.location.to_string();
                let message = "the run had planned it, and the job as it is now leaves it out";
                let failure = Failure::new(
                    FailureKind::Invalid,
                    Operation::ListObjects,
                    &*place,
                    message,
                );
                self.fail(transfer, Some(object), place, &failure);
            }
        }
    }
}
