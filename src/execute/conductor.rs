//! Starts transfers and objects, and counts and records their results.
//!
//! One [`Conductor`] owns the state of a run. Its loop waits for events of the planner and for
//! ended object tasks, writes the journal, and starts the next transfers and objects ([`begin`]).
//! [`end`] handles the end of an object.

mod begin;
mod end;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use futures::stream::{BoxStream, SelectAll, StreamExt};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::TransferContext;
use super::breaker::{Breaker, ConductorParts, Suspect};
use super::fair::Shares;
use super::monitor::{Event, Monitor};
use super::outcome::Outcome;
use super::receipt::{Ending, Receipt};
use super::record::Record;
use super::running::{Open, RunningTransfer};
use super::series::Series;
use super::waiting::{Queued, Waiting};
use crate::journal::state::RunTotals;
use crate::location::ObjectKey;
use crate::manifest::job::Job;
use crate::pace::Slots;
use crate::planner::{PlanEvent, Planned, Step, StepPermits};
use crate::s3::Failure;

/// The interval at which the conductor checks for stalled slots if no event arrives.
const STALL_CHECK: Duration = Duration::from_millis(250);

/// Owns the state of a run's objects.
pub(super) struct Conductor<'a> {
    pub(super) job: &'a Job,
    pub(super) stop: CancellationToken,
    slots: Slots,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) outcome: &'a mut Outcome,
    /// The sums over all sessions of the run.
    pub(super) totals: RunTotals,
    /// The numbers of failed and of ended objects when this session began.
    pub(super) before: (u64, u64),
    /// The transfers that have not started, with their positions in the job.
    coming: VecDeque<(u32, Arc<TransferContext>)>,
    pub(super) transfers: BTreeMap<u32, RunningTransfer>,
    /// The events of the transfers that are being planned. The last event of each transfer is
    /// `None`.
    events: SelectAll<BoxStream<'static, (u32, Option<PlanEvent>)>>,
    pub(super) waiting: Waiting,
    tasks: JoinSet<(Receipt, Box<Step>)>,
    /// The open objects, so that the receipt of a task that panics can name its object.
    pub(super) open: HashMap<Id, Open>,
    /// Open objects by prefix.
    shares: Shares,
    /// The time when the last object ended.
    last_end: Instant,
    /// True if slots are free although objects wait.
    has_demand: bool,
    /// The number of open multipart objects.
    open_large: usize,
    /// The parts of the open multipart objects.
    open_parts: u64,
    /// The number of open objects whose copy is one long request.
    open_heavy: u32,
    pub(super) breaker: Breaker,
    /// The failures that the breaker holds back.
    pub(super) suspects: Vec<Suspect>,
    /// True once the breaker has ended the session.
    pub(super) is_tripped: bool,
    /// The refusals in a row, which may pause the run.
    pub(super) series: Series,
    /// Canceled if the run gives up for a reason that may pass later. Requests in flight are then
    /// unlikely to succeed.
    pub(super) short_drain: CancellationToken,
    /// Canceled once the first bytes are copied.
    copied: CancellationToken,
}

impl<'a> Conductor<'a> {
    /// Creates a conductor for these transfers of the job, each with its position there.
    pub(super) fn new(
        job: &'a Job,
        coming: VecDeque<(u32, Arc<TransferContext>)>,
        ConductorParts {
            totals,
            slots,
            monitor,
            stop,
            short_drain,
            copied,
            copies,
            patience,
            probes,
        }: ConductorParts,
        outcome: &'a mut Outcome,
    ) -> Self {
        let has_succeeded = outcome.done_objects > 0;
        Self {
            job,
            stop,
            slots,
            monitor,
            before: (totals.failed_objects, totals.ended_objects()),
            totals,
            outcome,
            coming,
            transfers: BTreeMap::new(),
            events: SelectAll::new(),
            waiting: Waiting::default(),
            tasks: JoinSet::new(),
            open: HashMap::new(),
            shares: Shares::default(),
            last_end: Instant::now(),
            has_demand: false,
            open_large: 0,
            open_parts: 0,
            open_heavy: 0,
            breaker: Breaker::new(job.limits.max_failures, has_succeeded),
            suspects: Vec::new(),
            is_tripped: false,
            series: Series::new(job.limits.max_failures, copies, (patience, probes)),
            short_drain,
            copied,
        }
    }

    /// Runs until all work is done, or until the objects in progress have ended after a stop.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let mut stopping = false;
        loop {
            self.pause_or_settle();
            self.write().await;
            self.begin_transfers();
            self.begin();
            let waits = self.waiting.len() > 0 || self.series.is_paused();
            let pause_check = self.series.next_check();
            // If the open objects turn out to wait for a rate, more objects can be opened.
            let next_stall_check = Instant::now() + STALL_CHECK;
            let may_stall = !self.open.is_empty() && (waits || !self.coming.is_empty());
            let is_busy = waits || !self.tasks.is_empty() || self.planned().next().is_some();
            let copied = self.copied.clone();
            tokio::select! {
                Some((transfer, event)) = self.events.next() => self.handle_event(transfer, event),
                Some(joined) = self.tasks.join_next_with_id() => self.finish_task(joined),
                () = copied.cancelled(), if is_busy && !stopping && self.breaker.is_armed() => self.disarm_breaker(),
                () = sleep_until(next_stall_check), if may_stall => {}
                Some(()) = OptionFuture::from(pause_check.map(sleep_until)), if !stopping => self.check_pause(),
                () = stop.cancelled(), if is_busy && !stopping => {
                    stopping = true;
                    self.events = SelectAll::new();
                    self.give_up_waiting();
                }
                else => break,
            }
        }
        self.record_all_suspects();
        self.end_series();
        for running in self.transfers.values_mut() {
            running.record.flush_all();
            running.record.leave_unlisted();
        }
        self.write().await;
        self.outcome.set_totals(self.totals);
    }

    /// Writes the events of all transfers to the journal, and drops the transfers that are over.
    async fn write(&mut self) {
        for running in self.transfers.values_mut() {
            running.record.write().await;
        }
        for running in self.transfers.values().filter(|running| running.is_over()) {
            self.outcome.hints.extend(running.misses.hints());
        }
        let shares = &mut self.shares;
        self.transfers.retain(|transfer, running| {
            if running.is_over() {
                shares.forget(*transfer);
            }
            !running.is_over()
        });
    }

    /// Returns the transfers that are still being planned.
    pub(super) fn planned(&self) -> impl Iterator<Item = &RunningTransfer> {
        self.transfers
            .values()
            .filter(|running| !running.is_planned)
    }

    /// Handles an event of the planner; `None` is its last one.
    fn handle_event(&mut self, transfer: u32, event: Option<PlanEvent>) {
        // Keys that arrive after a stop are not recorded as passed, so that the next session finds
        // them again.
        if self.stop.is_cancelled() {
            return;
        }
        let Some(running) = self.transfers.get_mut(&transfer) else {
            return;
        };
        match event {
            Some(PlanEvent::Planned(range, batch, mut permits)) => {
                running.record.enter_range(range);
                for planned in batch {
                    self.handle_planned(transfer, planned, &mut permits);
                    if self.stop.is_cancelled() {
                        return;
                    }
                }
            }
            Some(PlanEvent::Cut(cut)) => running.record.cut(cut),
            Some(PlanEvent::Ended(range)) => running.record.planned(range),
            None => {
                running.is_planned = true;
                if !running.has_found {
                    self.outcome.empty.extend(running.empty());
                }
                if self.coming.is_empty() && self.planned().next().is_none() {
                    self.monitor.observe(&Event::PlanEnded);
                }
                self.settle(transfer);
            }
        }
    }

    /// Queues a planned object, or ends it if it needs no copy.
    pub(super) fn handle_planned(
        &mut self,
        transfer: u32,
        planned: Planned,
        permits: &mut Option<StepPermits>,
    ) {
        let Some(running) = self.transfers.get_mut(&transfer) else {
            return;
        };
        running.misses.observe(&running.context.sides, &planned);
        running.has_found |= !matches!(planned, Planned::Excluded(_) | Planned::Ignored(..));
        match planned {
            Planned::Step(step) => self.queue(transfer, step, permits.as_mut()),
            Planned::Skip(entry, key, reason) => self.skip(transfer, *entry, key, reason, permits),
            Planned::Archived(entry, key) => {
                let passed = entry.key.clone();
                self.fail_archived(transfer, None, *entry, key);
                self.pass(transfer, passed);
            }
            Planned::Excluded(key) => {
                running.excluded += 1;
                running.record.exclude(key);
                self.totals.excluded_objects += 1;
                self.monitor.observe(&Event::Excluded);
            }
            Planned::Ignored(place, why) => {
                running.record.ignore();
                self.totals.ignored += 1;
                self.monitor.observe(&Event::Ignored { place: &place, why });
            }
            Planned::Failed(key, place, failure) => {
                self.fail(transfer, None, place, &failure);
                if let Some(key) = key {
                    self.pass(transfer, key);
                }
            }
            Planned::Unlisted(place, failure) => {
                let receipt = running.failed(place, &failure);
                self.outcome.unlisted.observe(&failure);
                self.count(&receipt);
                self.with_record(transfer, |record| record.unlisted(&receipt));
            }
            Planned::Again(object, planned) => {
                self.handle_pending(transfer, object, *planned, permits);
            }
        }
    }

    /// Queues a step.
    pub(super) fn queue(
        &mut self,
        transfer: u32,
        mut step: Box<Step>,
        permits: Option<&mut StepPermits>,
    ) {
        let Some(running) = self.transfers.get_mut(&transfer) else {
            return;
        };
        running.context.announce(&step);
        let range = running.plan(&mut step);
        if let Some(group) = self.shares.learn(transfer, &step.entry.key) {
            // The common prefix got shorter, so all objects of the transfer are in one group now.
            let open = self.open.values_mut().map(|open| &mut open.group);
            let groups = open.chain(self.waiting.groups());
            groups
                .filter(|old| old.is_of(transfer))
                .for_each(|old| old.clone_from(&group));
        }
        let permits = permits.and_then(StepPermits::split);
        let group = self.shares.group(transfer, &step.entry.key);
        self.waiting.push(
            range,
            group,
            Queued {
                transfer,
                step,
                permits,
            },
        );
    }

    /// Queues the next version of a key before all other objects of its size class.
    pub(super) fn queue_next(&mut self, transfer: u32, mut step: Box<Step>) {
        let Some(running) = self.transfers.get_mut(&transfer) else {
            return;
        };
        running.plan(&mut step);
        self.waiting.push_first(Queued {
            transfer,
            step,
            permits: None,
        });
    }

    /// Ends a transfer if nothing is left to do.
    fn settle(&mut self, transfer: u32) {
        if self
            .transfers
            .get(&transfer)
            .is_some_and(RunningTransfer::is_over)
        {
            self.record_suspects_of(transfer);
        }
        if let Some(running) = self.transfers.get_mut(&transfer)
            && running.is_over()
        {
            running.record.end_transfer(!self.stop.is_cancelled());
        }
    }

    /// Calls `what` with the record of a transfer.
    pub(super) fn with_record(&mut self, transfer: u32, what: impl FnOnce(&mut Record)) {
        if let Some(running) = self.transfers.get_mut(&transfer) {
            what(&mut running.record);
        }
    }

    pub(super) fn context(&self, transfer: u32) -> Option<Arc<TransferContext>> {
        self.transfers
            .get(&transfer)
            .map(|running| Arc::clone(&running.context))
    }

    /// Ends an object that failed before it had a task.
    pub(super) fn fail(
        &mut self,
        transfer: u32,
        object: Option<u64>,
        place: String,
        failure: &Failure,
    ) {
        let Some(running) = self.transfers.get(&transfer) else {
            return;
        };
        let receipt = running.failed(place, failure);
        let receipt = self.stop_if_run_ends(receipt);
        // The next session finds an object without a number again.
        if object.is_some() || receipt.ending != Ending::Stopped {
            self.end_with(transfer, object, &receipt);
        }
    }

    /// Records that the object of a key failed before it had a number, so that the next session
    /// does not list the key again. Does nothing if the run has given up.
    pub(super) fn pass(&mut self, transfer: u32, key: ObjectKey) {
        if self.outcome.gave_up.is_none() {
            self.with_record(transfer, |record| record.pass(key));
        }
    }
}
