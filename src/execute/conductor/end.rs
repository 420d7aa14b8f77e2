//! Ends an object whose task is over: closes it, and counts and records its receipt.
//!
//! If the task panicked, the receipt is made from the record of the open object. Objects that still
//! wait when the run stops are recorded as stopped.

use tokio::task::Id;
use tokio::time::Instant;

use super::Conductor;
use crate::execute::receipt::{Draft, Ending, Receipt};
use crate::execute::running::Open;
use crate::execute::series::RefusedObject;
use crate::execute::waiting::Queued;
use crate::planner::Step;
use crate::s3::{Failure, FailureKind, Operation};

impl Conductor<'_> {
    pub(super) fn finish_task(
        &mut self,
        joined: Result<(Id, (Receipt, Box<Step>)), tokio::task::JoinError>,
    ) {
        let (id, receipt) = match joined {
            Ok((id, receipt)) => (id, Ok(receipt)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(open) = self.close(id) else { return };
        let transfer = open.transfer;
        match receipt {
            Ok((receipt, step)) => {
                let is_single = open.then.is_none();
                let receipt = self.stop_if_run_ends(receipt);
                let held = RefusedObject {
                    transfer,
                    step,
                    receipt,
                };
                let Some(RefusedObject { receipt, .. }) = self.end_or_hold(held, is_single) else {
                    return;
                };
                if let Some(then) = open.then {
                    self.end_or_suspect(transfer, open.object, receipt.clone(), true);
                    self.follow(transfer, then, &receipt);
                } else {
                    self.end_or_suspect(transfer, open.object, receipt, false);
                }
            }
            Err(error) => {
                let message = format!("a task of s3haul panicked: {error}");
                let failure = Failure::new(
                    FailureKind::Bug,
                    Operation::CopyObject,
                    &*open.destination,
                    message,
                );
                let draft = Draft::of_size(open.size);
                let ending = Ending::failed(&failure);
                if let Some(then) = open.then {
                    self.give_up(transfer, then, &ending);
                }
                self.end_of(
                    transfer,
                    open.object,
                    draft,
                    open.source,
                    open.destination,
                    ending,
                );
            }
        }
        self.count_over(transfer);
    }

    /// Counts one object of the transfer as over, and ends the transfer after its last object.
    pub(in crate::execute) fn count_over(&mut self, transfer: u32) {
        if let Some(running) = self.transfers.get_mut(&transfer) {
            running.left -= 1;
        }
        self.settle(transfer);
    }

    pub(super) fn close(&mut self, id: Id) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.shares.closed(&open.group);
        self.last_end = Instant::now();
        self.open_large -= usize::from(open.parts > 0);
        self.open_parts -= u64::from(open.parts);
        self.open_heavy -= u32::from(open.is_heavy());
        Some(open)
    }

    /// Records the objects that wait when the run stops as stopped.
    pub(super) fn give_up_waiting(&mut self) {
        for Queued {
            transfer, mut step, ..
        } in self.waiting.take()
        {
            let then = step.turn.take().and_then(|turn| turn.then);
            let Some(work) = self.work(transfer) else {
                continue;
            };
            let (source, destination) = work.location(&step);
            self.end_of(
                transfer,
                step.object,
                Draft::of(&step),
                source,
                destination,
                Ending::Stopped,
            );
            if let Some(then) = then {
                self.give_up(transfer, then, &Ending::Stopped);
            }
            self.count_over(transfer);
        }
    }

    pub(in crate::execute) fn end_of(
        &mut self,
        transfer: u32,
        object: Option<u64>,
        draft: Draft,
        source: String,
        destination: String,
        ending: Ending,
    ) {
        let Some(running) = self.transfers.get(&transfer) else {
            return;
        };
        let receipt = running.receipt(draft, source, destination, ending);
        self.end_with(transfer, object, &receipt);
    }

    pub(in crate::execute) fn end_with(
        &mut self,
        transfer: u32,
        object: Option<u64>,
        receipt: &Receipt,
    ) {
        self.count(receipt);
        // The next session tries the object that ended the run again, and those that failed after
        // it. A bad copy is recorded as failed, because the next session would take it for a good
        // one.
        let is_published =
            matches!(&receipt.ending, Ending::Failed { error } if error.is_published);
        let is_left_to_next =
            receipt.is_failure() && self.outcome.gave_up.is_some() && !is_published;
        self.tell(transfer, |record| {
            record.end(object, receipt, is_left_to_next);
        });
    }
}
