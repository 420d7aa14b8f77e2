//! Ends an object whose task is over: closes it, and counts and records its receipt.
//!
//! Before that, [`series`](crate::execute::series) may hold back a refused object, and
//! [`breaker`](crate::execute::breaker) may hold back the record of a failure. [`Conductor::count`]
//! counts every ending; [`Conductor::end_with`] records the endings that are not held back.
//!
//! If the task panicked, the receipt is made from the record of the open object. Objects that still
//! wait when the run stops are recorded as stopped.

use tokio::task::Id;
use tokio::time::Instant;

use super::Conductor;
use crate::execute::breaker::Suspect;
use crate::execute::monitor::Event;
use crate::execute::object::archive::ArchivedSource;
use crate::execute::receipt::{Draft, Ending, Receipt};
use crate::execute::record::ended;
use crate::execute::running::Open;
use crate::execute::series::RefusedObject;
use crate::execute::waiting::Queued;
use crate::listing::Entry;
use crate::location::ObjectKey;
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
                let is_single = open.newer_versions.is_none();
                let receipt = self.stop_if_run_ends(receipt);
                let held = RefusedObject {
                    transfer,
                    step,
                    receipt,
                };
                let Some(RefusedObject { receipt, .. }) = self.end_or_hold(held, is_single) else {
                    return;
                };
                if let Some(newer) = open.newer_versions {
                    self.end_or_suspect(transfer, open.object, receipt.clone(), true);
                    self.follow(transfer, newer, &receipt);
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
                if let Some(newer) = open.newer_versions {
                    self.give_up(transfer, newer, &ending);
                }
                self.end_with_draft(
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

    /// Turns the failure of an object into a stop if the run has already given up and the failure
    /// is of a kind that ends the run but may pass later. If credentials are missing or expired,
    /// gives up the run first, because all requests that wait for credentials fail together.
    pub(in crate::execute) fn stop_if_run_ends(&mut self, receipt: Receipt) -> Receipt {
        let Ending::Failed { error } = &receipt.ending else {
            return receipt;
        };
        if !error.ends_run || !error.may_pass_later {
            return receipt;
        }
        let is_about_credentials = [
            FailureKind::CredentialsUnavailable,
            FailureKind::CredentialsEnded,
        ]
        .iter()
        .any(|kind| error.kind == kind.name());
        match (&self.outcome.gave_up, self.reason_to_give_up(error)) {
            (None, Some(gave_up)) if is_about_credentials => self.give_up_run(gave_up),
            (None, _) => return receipt,
            (Some(_), _) => {}
        }
        Receipt {
            ending: Ending::Stopped,
            ..receipt
        }
    }

    /// Records the end of an object, or holds its failure back while the breaker is armed. If
    /// `is_followed`, newer versions of the object wait for its result, so its failure cannot be
    /// held back.
    pub(in crate::execute) fn end_or_suspect(
        &mut self,
        transfer: u32,
        object: Option<u64>,
        receipt: Receipt,
        is_followed: bool,
    ) {
        self.breaker.observe(&receipt.ending);
        if !self.breaker.is_armed() {
            self.record_all_suspects();
        }
        let is_published =
            matches!(&receipt.ending, Ending::Failed { error } if error.is_published);
        if !self.breaker.is_armed() || !receipt.is_failure() || is_published || is_followed {
            return self.end_with(transfer, object, &receipt);
        }
        self.count(&receipt);
        self.suspects.push(Suspect {
            transfer,
            object,
            receipt,
        });
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

    /// Records all waiting objects as stopped.
    pub(super) fn give_up_waiting(&mut self) {
        for Queued {
            transfer, mut step, ..
        } in self.waiting.take()
        {
            let newer = step.history.take().and_then(|history| history.newer);
            let Some(context) = self.context(transfer) else {
                continue;
            };
            let (source, destination) = context.location(&step);
            self.end_with_draft(
                transfer,
                step.object,
                Draft::of(&step),
                source,
                destination,
                Ending::Stopped,
            );
            if let Some(newer) = newer {
                self.give_up(transfer, newer, &Ending::Stopped);
            }
            self.count_over(transfer);
        }
    }

    pub(in crate::execute) fn end_with_draft(
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
        // The next session retries the object that ended the run, and the objects that failed after
        // it. A bad copy is recorded as failed, because the next session would take it for a good
        // one.
        let is_published =
            matches!(&receipt.ending, Ending::Failed { error } if error.is_published);
        let is_left_to_next =
            receipt.is_failure() && self.outcome.gave_up.is_some() && !is_published;
        self.with_record(transfer, |record| {
            record.end(object, receipt, is_left_to_next);
        });
    }

    /// Counts a receipt, and ends the run if there is a reason to give up.
    pub(in crate::execute) fn count(&mut self, receipt: &Receipt) {
        self.outcome.note(receipt);
        if let Some(ended) = ended(receipt) {
            self.totals.end(&ended);
        }
        self.monitor.observe(&Event::ObjectEnded(receipt));
        if let Ending::Failed { error } = &receipt.ending
            && self.outcome.gave_up.is_none()
            && let Some(gave_up) = self.reason_to_give_up(error)
        {
            self.give_up_run(gave_up);
        }
    }

    /// Fails an object that the listing shows to be archived and that the job does not restore.
    pub(in crate::execute) fn fail_archived(
        &mut self,
        transfer: u32,
        object: Option<u64>,
        entry: Entry,
        key: ObjectKey,
    ) {
        let step = Step::without_work(entry, key);
        let Some(context) = self.context(transfer) else {
            return;
        };
        let (source, destination) = context.location(&step);
        let failure = ArchivedSource::listed(&step).failure(source.clone());
        let draft = Draft {
            route: None,
            ..Draft::of(&step)
        };
        let ending = Ending::failed(&failure);
        self.end_with_draft(transfer, object, draft, source, destination, ending);
    }
}
