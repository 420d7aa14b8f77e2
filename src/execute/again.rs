//! Handles objects that an earlier session of the run planned or counted.
//!
//! A session that is killed loses the last second of its journal. If it had planned an object and
//! the destination has that object now, the session probably copied it. So the object is not
//! skipped like others that exist already. It is proven like any copy, and if nothing proves it,
//! its receipt says that an earlier session may have copied it. If the source was written since the
//! object was planned, the object is planned again.
//!
//! A list without order is read again from its beginning, so it also finds objects that earlier
//! sessions have counted. The same number of skipped objects is not counted again.

use std::collections::HashMap;

use super::TransferContext;
use super::conductor::Conductor;
use super::monitor::Event;
use super::receipt::{Draft, Ending, MAY_BE_OURS};
use crate::journal::event::PlannedObject;
use crate::listing::Entry;
use crate::location::{ObjectKey, S3Uri};
use crate::manifest::job::Versions;
use crate::plan::condition::DestinationState;
use crate::plan::decide::{Reason, Skip};
use crate::planner::{Planned, Step, StepPermits};
use crate::s3::{Failure, FailureKind, Operation};

/// The objects of earlier sessions in a transfer whose keys are listed again.
#[derive(Default)]
pub(super) struct Relisting {
    /// The number of objects that earlier sessions counted and that the new list has not found yet.
    known: u64,
    /// The objects that earlier sessions planned and did not finish, as they were listed then.
    under_way: HashMap<ObjectKey, PlannedObject>,
}

impl Relisting {
    pub(super) fn of(context: &TransferContext, transfer: u32) -> Self {
        if !context.orphans.lists_anew(transfer) {
            return Self::default();
        }
        let pending = context
            .resumed
            .ranges_of(transfer)
            .flat_map(|(_, range)| range.pending.values());
        Self {
            known: context.counted_before,
            under_way: pending
                .map(|planned| (planned.key.clone(), planned.clone()))
                .collect(),
        }
    }
}

impl TransferContext {
    /// Returns true if an object that is skipped for this reason can be compared with its source,
    /// to prove that this run copied it.
    pub(super) fn can_prove(&self, reason: Skip) -> bool {
        let Self { sides, .. } = self;
        matches!(reason, Skip::Equal { .. } | Skip::Present)
            && sides.source.is_some()
            && !sides.is_in_place()
            && sides.transfer.versions != Versions::All
    }

    /// Returns the kind of failure of the copy at `key` if the copy failed its proof in an earlier
    /// run and `reason` does not prove it now.
    fn distrusts(&self, transfer: u32, key: &ObjectKey, reason: Skip) -> Option<&str> {
        let Self { sides, resumed, .. } = self;
        let basis = match reason {
            Skip::Equal { equal_by, .. } => Some(equal_by),
            Skip::Present => None,
            Skip::AsSet | Skip::ChangedMeanwhile | Skip::Archived | Skip::NotSelected => {
                return None;
            }
        };
        // A list that is read again also finds the copies that failed in this run.
        let is_of_now = self.orphans.lists_anew(transfer);
        if resumed.unproven.is_empty() || is_of_now || sides.transfer.versions == Versions::All {
            return None;
        }
        let bucket = sides.transfer.to.location.bucket.clone();
        let key = key.clone();
        resumed
            .unproven
            .still_fails(&S3Uri { bucket, key }.to_string(), basis)
    }
}

impl Conductor<'_> {
    /// Ends an object that needs no copy. Queues it instead if its copy failed its proof in an
    /// earlier run, or if an earlier session of this run may have copied it.
    pub(super) fn skip(
        &mut self,
        transfer: u32,
        entry: Entry,
        key: ObjectKey,
        reason: Skip,
        permits: &mut Option<StepPermits>,
    ) {
        let Some(running) = self.transfers.get_mut(&transfer) else {
            return;
        };
        if let Some(kind) = running.context.distrusts(transfer, &key, reason) {
            let kind = kind.to_owned();
            return self.replace(transfer, None, (entry, key), (reason, &kind), permits);
        }
        // Usually no object was under way; this check then saves hashing the key.
        if !running.listed.under_way.is_empty()
            && running.context.can_prove(reason)
            && let Some(began) = running.listed.under_way.remove(&entry.key)
        {
            let began = began.into_entry(entry.relative_at);
            return self.queue_for_proof(transfer, None, began, key, reason, permits);
        }
        let receipt = running.skipped(&entry, &key, reason);
        let is_known = reason != Skip::Archived && running.listed.known > 0;
        if is_known {
            running.listed.known -= 1;
            running.record.skip_known(entry.key, &receipt);
            self.monitor.observe(&Event::ObjectEnded(&receipt));
        } else {
            running.record.skip(&entry, &receipt);
            self.count(&receipt);
        }
    }

    /// Plans another copy of an object whose copy failed its proof. If the job replaces nothing,
    /// the object fails again.
    fn replace(
        &mut self,
        transfer: u32,
        object: Option<u64>,
        (entry, key): (Entry, ObjectKey),
        (reason, kind): (Skip, &str),
        permits: &mut Option<StepPermits>,
    ) {
        let Some(running) = self.transfers.get(&transfer) else {
            return;
        };
        let sides = &running.context.sides;
        if reason != Skip::Present {
            return match (
                object,
                sides.step(entry, key, Reason::Unproven, DestinationState::Unknown),
            ) {
                (Some(object), planned) => self.handle_pending(transfer, object, planned, permits),
                (None, planned) => self.handle_planned(transfer, planned, permits),
            };
        }
        let passed = entry.key.clone();
        let message = format!(
            "the object is a copy that failed its proof in an earlier run ({kind}), and `when: missing` replaces nothing; \
             delete it, or copy it with `when: always`"
        );
        let failure = Failure::new(
            FailureKind::NotEqual,
            Operation::HeadObject,
            sides.destination.place(&key),
            message,
        );
        let step = Step::without_work(entry, key);
        let (source, destination) = running.context.location(&step);
        let ending = Ending::failed(&failure);
        let draft = Draft {
            route: None,
            reason: None,
            ..Draft::of(&step)
        };
        let receipt = running.receipt(draft, source, destination, ending);
        self.end_with(transfer, object, &receipt);
        if object.is_none() {
            self.pass(transfer, passed);
        }
    }

    /// Queues an object that an earlier session may have copied, so that a task proves it.
    fn queue_for_proof(
        &mut self,
        transfer: u32,
        object: Option<u64>,
        entry: Entry,
        key: ObjectKey,
        reason: Skip,
        permits: &mut Option<StepPermits>,
    ) {
        let step = Step {
            object,
            maybe_ours: Some(reason),
            ..Step::without_work(entry, key)
        };
        self.queue(transfer, Box::new(step), permits.as_mut());
    }

    /// Queues or ends an object that an earlier session planned.
    pub(super) fn handle_pending(
        &mut self,
        transfer: u32,
        object: u64,
        planned: Planned,
        permits: &mut Option<StepPermits>,
    ) {
        let Some(running) = self.transfers.get(&transfer) else {
            return;
        };
        let planned = match planned {
            Planned::Skip(entry, key, reason) => {
                if let Some(kind) = running.context.distrusts(transfer, &key, reason) {
                    let (kind, object) = (kind.to_owned(), Some(object));
                    return self.replace(transfer, object, (*entry, key), (reason, &kind), permits);
                }
                Planned::Skip(entry, key, reason)
            }
            planned => planned,
        };
        match planned {
            Planned::Step(mut step) => {
                step.object = Some(object);
                self.queue(transfer, step, permits.as_mut());
            }
            Planned::Skip(entry, key, reason) if running.context.can_prove(reason) => {
                self.queue_for_proof(transfer, Some(object), *entry, key, reason, permits);
            }
            Planned::Skip(entry, key, reason) => {
                let mut receipt = running.skipped(&entry, &key, reason);
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
            // This happens only if the job was changed between sessions.
            Planned::Excluded(_) | Planned::Ignored(..) | Planned::Again(..) => {
                let place = running.context.sides.transfer.to.location.to_string();
                let message = "an earlier session planned it, but the job now excludes it";
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
