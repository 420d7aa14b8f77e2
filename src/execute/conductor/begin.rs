//! Starts transfers in turn, and opens as many of their objects as the slots can serve.
//!
//! All transfers of a run share the slots. They start in the order of the job. A transfer starts
//! once all earlier ones are planned and few of their objects wait, so that the last objects of one
//! transfer leave no slots empty. It also starts if the earlier transfers do not keep the slots
//! busy. Some transfers must wait until another one has ended ([`must_wait`]). While the slots are
//! busy, only transfers of a single object are planned in parallel, because a listing takes memory.
//!
//! The largest objects are opened first, because they take longest; small ones fill the other
//! slots. A few more objects are open than there are slots, so that a slot that becomes free is
//! used at once. An object whose requests would wait in the queue is not opened, unless no other
//! object is open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{StreamExt, once, poll_fn};

use super::Conductor;
use crate::execute::again::Relisting;
use crate::execute::monitor::Event;
use crate::execute::object::ObjectTask;
use crate::execute::record::{self, Record};
use crate::execute::running::{Open, RunningTransfer};
use crate::execute::waiting::Queued;
use crate::execute::{LONG_QUEUE, TransferContext};
use crate::manifest::job::Source;
use crate::manifest::must_wait;
use crate::planner::{Misses, Planning};

/// The number of multipart objects that may be open at once, however many parts they have.
const OPEN_UPLOADS: usize = 48;
/// The maximum number of multipart objects that are open at once, if they have too few parts to
/// fill all slots.
const MAX_OPEN_UPLOADS: usize = 1024;
/// The maximum number of transfers of a single object that are planned at once.
const OBJECTS_AT_ONCE: usize = 32;

/// The maximum number of transfers that are planned at once while they do not keep the slots busy.
const PLANNED_AT_ONCE: usize = 4;

/// The time after which the next transfer starts too if no object has ended.
const STALLED: Duration = Duration::from_secs(2);

/// While slots are busy, the next transfer begins only if fewer objects than this wait.
const FEW: usize = 4096;

/// The maximum number of objects that are open beyond the number of slots, so that one is ready
/// when a slot becomes free. The usual number is a quarter of the slots: with more, slow objects
/// would fill all slots.
const AHEAD: u32 = 64;
/// The minimum number of objects that are open beyond the number of slots.
const FEW_AHEAD: u32 = 2;

impl Conductor<'_> {
    /// Starts the transfers whose turn it is.
    pub(super) fn begin_transfers(&mut self) {
        if self.stop.is_cancelled() {
            return;
        }
        while let Some((number, context)) = self.coming.front()
            && self.may_begin(context)
        {
            let (number, context) = (*number, Arc::clone(context));
            self.coming.pop_front();
            let (name, of) = (&context.sides.transfer.name, self.job.transfers.len());
            self.monitor.observe(&Event::TransferBegan {
                name,
                number: number as usize + 1,
                of,
            });
            let Planning { mut events, demand } = record::planning(&context, number);
            let received = poll_fn(move |cx| {
                events
                    .poll_recv(cx)
                    .map(|event| Some((number, Some(event?))))
            })
            .chain(once(async move { (number, None) }));
            self.events.push(received.boxed());
            let (record, misses) = (
                Record::new(&context, number),
                Misses::of(&context.sides.transfer),
            );
            // If this session sees only some of the keys, it cannot tell that the selection is
            // empty.
            let is_part = context.range.after.is_some() || context.range.until.is_some();
            let known = || context.resumed.ranges_of(number);
            let has_found = is_part || known().any(|(_, range)| range.passed.is_some());
            let (listed, is_planned, excluded, left) =
                (Relisting::of(&context, number), false, 0, 0);
            let running = RunningTransfer {
                context,
                record,
                listed,
                misses,
                demand,
                is_planned,
                has_found,
                excluded,
                left,
            };
            self.transfers.insert(number, running);
        }
    }

    /// Returns true if it is this transfer's turn.
    pub(super) fn may_begin(&self, context: &TransferContext) -> bool {
        let is_one = |context: &TransferContext| {
            matches!(context.sides.transfer.from, Source::Object { .. })
        };
        let (_, concurrency) = self.slots.in_flight();
        let is_stalled = self.is_stalled() && self.planned().count() < PLANNED_AT_ONCE;
        if !is_stalled && (!self.opens_more(concurrency) || self.waiting.len() >= FEW) {
            return false;
        }
        let mut planned = self.planned();
        let may_join = is_one(context) && self.planned().count() < OBJECTS_AT_ONCE;
        let waits_for = |other: &RunningTransfer| {
            must_wait(
                self.job,
                &context.sides.transfer,
                &other.context.sides.transfer,
            )
        };
        let has_turn = is_stalled || planned.all(|other| may_join && is_one(&other.context));
        has_turn && !self.transfers.values().any(waits_for)
    }

    /// Returns true while the started transfers do not keep the slots busy, because their objects
    /// wait for a rate or for responses.
    pub(super) fn is_stalled(&self) -> bool {
        self.has_demand || (!self.open.is_empty() && self.last_end.elapsed() >= STALLED)
    }

    /// Opens as many objects as the slots can serve, the largest first.
    pub(super) fn begin(&mut self) {
        self.trip();
        if self.stop.is_cancelled() || self.series.is_paused() {
            return;
        }
        let (_, concurrency) = self.slots.in_flight();
        while self.opens_more(concurrency)
            && self.breaker.may_open(self.open.len())
            && let Some(queued) = self.pop_large()
        {
            self.spawn(queued);
        }
        while self.open_heavy < concurrency + AHEAD
            && self.breaker.may_open(self.open.len())
            && let Some(queued) = self.pop_heavy()
        {
            self.spawn(queued);
        }
        // An object whose request is parked has given back its slot.
        let slots = self.slots.small_limit();
        let small = slots + self.slots.parked_small() + AHEAD.min((slots / 4).max(FEW_AHEAD));
        while self.open_small() < small as usize && self.breaker.may_open(self.open.len()) {
            // An object that would wait for a rate must not take a slot that others could use; one
            // object always proceeds.
            let is_idle = self.open_small() == 0;
            let (transfers, shares) = (&self.transfers, &self.shares);
            let is_free = |queued: &Queued| is_idle || is_free(transfers, queued);
            let Some(queued) = self
                .waiting
                .pop_small(is_free, |group| shares.open_in(group))
            else {
                break;
            };
            self.spawn(queued);
        }
        let has_demand = self.open_small() < small as usize;
        self.has_demand = has_demand && self.waiting.len() > 0;
        self.planned()
            .for_each(|running| running.demand.set(has_demand));
    }

    /// Takes the next multipart object whose requests would not wait in the queue; one object
    /// always proceeds.
    pub(super) fn pop_large(&mut self) -> Option<Queued> {
        let (transfers, is_idle) = (&self.transfers, self.open_large == 0);
        self.waiting
            .pop_large(|queued| is_idle || is_free(transfers, queued))
    }

    /// Takes the next object whose copy is one long request, by the same rule.
    pub(super) fn pop_heavy(&mut self) -> Option<Queued> {
        let (transfers, is_idle) = (&self.transfers, self.open_heavy == 0);
        self.waiting
            .pop_heavy(|queued| is_idle || is_free(transfers, queued))
    }

    pub(super) fn open_small(&self) -> usize {
        self.open.len() - self.open_large - self.open_heavy as usize
    }

    /// Returns true if one more multipart object should be opened.
    pub(super) fn opens_more(&self, concurrency: u32) -> bool {
        let opens = |large: usize, parts: u64| {
            let lacks_parts = parts < 2 * u64::from(concurrency);
            large < OPEN_UPLOADS || (lacks_parts && large < MAX_OPEN_UPLOADS)
        };
        if opens(self.open_large, self.open_parts) || self.open_large >= MAX_OPEN_UPLOADS {
            return self.open_large < MAX_OPEN_UPLOADS;
        }
        // Objects whose keys the destination refuses at the moment use no slots, so others may be
        // opened.
        let is_shut = |open: &&Open| {
            let running = self.transfers.get(&open.transfer);
            open.parts > 0 && running.is_some_and(|running| running.context.is_shut(&open.key))
        };
        let (large, parts) = self
            .open
            .values()
            .filter(is_shut)
            .fold((0, 0), |(large, parts), open| {
                (large + 1, parts + u64::from(open.parts))
            });
        large > 0
            && opens(
                self.open_large - large,
                self.open_parts.saturating_sub(parts),
            )
    }

    /// Starts the task of an object.
    pub(in crate::execute) fn spawn(&mut self, queued: Queued) {
        let Queued {
            transfer,
            mut step,
            permits,
        } = queued;
        drop(permits);
        let Some(running) = self.transfers.get(&transfer) else {
            return;
        };
        let context = Arc::clone(&running.context);
        let newer_versions = step
            .history
            .as_mut()
            .and_then(|history| history.newer.take());
        let (source, destination) = context.location(&step);
        let parts = step.route.parts();
        let group = self.shares.group(transfer, &step.entry.key);
        self.shares.opened(&group);
        let size = step.entry.size;
        let (object, key) = (step.object, step.key.clone());
        let open = Open {
            transfer,
            object,
            source,
            destination,
            key,
            size,
            parts,
            group,
            newer_versions,
        };
        let handle = self.tasks.spawn(async move {
            let receipt = ObjectTask::run(&context, &step).await;
            (receipt, step)
        });
        self.open_large += usize::from(parts > 0);
        self.open_parts += u64::from(parts);
        self.open_heavy += u32::from(open.is_heavy());
        self.open.insert(handle.id(), open);
    }
}

/// Returns true if the requests of an object would not have to wait long in the queue.
fn is_free(transfers: &BTreeMap<u32, RunningTransfer>, queued: &Queued) -> bool {
    transfers
        .get(&queued.transfer)
        .is_none_or(|running| running.context.queue_delay(&queued.step) < LONG_QUEUE)
}
